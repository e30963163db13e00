//! `dialtone figures media`: what our media relay costs beside rtpengine in user space: CPU time and latency of packets,
//! memory and descriptors of calls, CPU time of setting calls up.
//!
//! One engine sends and verifies every packet of both, in turn, and directly to itself for comparison. It has a core of
//! its own if there is more than one; the relays have the others. On the loopback interface the sender of a packet does
//! the work of delivering it: so a relay's time includes what it costs to hand a packet to the phone, and the engine's
//! what it costs to hand one to the relay.

mod control;
mod relay;
mod table;

use std::{path::Path, process::ExitCode, thread::sleep, time::Duration};

use clap::value_parser;
use dialtone_bench::media::{End, Media, MediaConfig, StreamReport};
use serde::Serialize;

use super::{
    Conditions, Error, print,
    usage::{
        descriptors, pin, resident, run_seconds, softirq_thread_seconds, thread_seconds,
        udp_buffers,
    },
};
use crate::launcher::{Launcher, Layout, clock, wait_for};

pub use relay::Kind;
pub use table::table;

use control::{Call, Control};
use relay::Relay;

/// Packets a second of a call: 50 each way.
const CALL_RATE: u32 = 100;

/// What a measurement may lose before it is worth nothing.
pub(super) const MAX_LOSS: f64 = 0.001;

/// How long packets move before they are counted.
const WARM_UP: Duration = Duration::from_millis(1500);

/// How long what was sent may take to arrive at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Calls that are set up at once while that is measured.
const GROUP: usize = 500;

/// Between two packets' due times: 100,000 a second come in twenties.
const TICK: Duration = Duration::from_micros(200);

/// Our media relay beside rtpengine: CPU per packet and per call set up, latency, memory
///
/// Calls are set up over NG; streams of G.711 run through the relay both ways, 100 packets a second a call, and every
/// packet is verified: sequence, source, audio. Relays are measured in turn, each started anew for every round, and in
/// the same round packets go directly, which says what latency is not the relay's. Without rtpengine (Debian:
/// rtpengine-daemon) only ours is measured. Figures are medians over the rounds; they are worth nothing when more than
/// 0.1 % of the packets were lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Packets per second, one rate after the other; the highest first, whose calls are weighed
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "100000,50000", value_parser = value_parser!(u32).range(100..=1_000_000))]
    rates: Vec<u32>,
    /// Seconds of each
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u32).range(1..=3600))]
    duration: u32,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Calls that are set up to see what that costs
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    setups: u32,
    /// Threads of a relay that move packets [default: as many as it has cores]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Packets per second; calls of the first are weighed.
    pub rates: Vec<u32>,
    /// Of each of them.
    pub duration: Duration,
    /// How long packets move before they are counted.
    pub warm_up: Duration,
    pub rounds: u32,
    pub setups: u32,
    /// Of a relay; `None`: as many as it has cores.
    pub threads: Option<u32>,
}

/// Packets at one rate, through a relay or directly.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// `None`: directly.
    pub relay: Option<Kind>,
    pub round: u32,
    /// Packets per second that were to be sent.
    pub rate: u32,
    pub sent: u64,
    pub received: u64,
    /// Out of order, twice, from elsewhere, altered or with a wrong tone: what must not happen.
    pub wrong: u64,
    /// Packets that this machine's phones did not take or send for want of room.
    pub dropped_here: u64,
    /// CPU seconds (user and system) of the relay.
    pub cpu_seconds: f64,
    /// Microseconds from sending to arrival.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Share of a core that the engine needed, and by how many microseconds it was late at most.
    pub engine_share: f64,
    pub engine_late_us: f64,
    /// Share of a core that the kernel's own threads needed to deliver packets.
    pub softirq_share: f64,
}

impl Run {
    /// Of a relay.
    pub fn packets_per_core_second(&self) -> f64 {
        self.received as f64 / self.cpu_seconds.max(f64::MIN_POSITIVE)
    }

    /// Share of the packets that did not come.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

/// What calls of a relay weigh, and what it costs to set them up.
#[derive(Clone, Debug, Serialize)]
pub struct Weight {
    pub relay: Kind,
    pub round: u32,
    pub calls: u32,
    /// Of memory for each call, while its packets move.
    pub resident_bytes: f64,
    /// The same of the buffers of its sockets; `None` if that cannot be said without `ss`.
    pub buffer_bytes: Option<f64>,
    pub descriptors: f64,
    /// Of a relay without calls.
    pub empty_bytes: u64,
    /// Calls that were set up to see what that costs.
    pub setups: u32,
    /// CPU milliseconds of the relay for an offer and an answer.
    pub setup_cpu_ms: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    /// `None` if it is not installed.
    pub rtpengine: Option<String>,
    /// Threads of each relay, and the cores that they had; all if there is only one.
    pub threads: u32,
    pub relay_cores: Vec<usize>,
    pub runs: Vec<Run>,
    pub weights: Vec<Weight>,
}

impl Figures {
    /// Nothing was wrong, and no more lost than may be.
    pub fn is_valid(&self) -> bool {
        self.runs.iter().all(|run| run.wrong == 0 && run.loss() <= MAX_LOSS)
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        rates: args.rates.clone(),
        duration: Duration::from_secs(args.duration.into()),
        warm_up: WARM_UP,
        rounds: args.rounds,
        setups: args.setups,
        threads: args.threads,
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, &plan, |line| eprintln!("{line}")));
    print(measured, args.json, |figures| table(&plan, figures))
}

/// Measures `plan`, our relay being a process of `binary`; says what it is doing.
///
/// # Errors
/// When a relay does not start, refuses calls or does not answer.
pub fn measure(
    binary: &Path,
    plan: &Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let rtpengine = relay::rtpengine_version();
    let (relay_cores, own_core) = conditions.shared_out();
    let threads = plan.threads.unwrap_or(relay_cores.len() as u32);
    let layout = Layout { registrars: 1, relay_workers: Some(threads), ..Layout::default() };
    let mut launcher = Launcher::for_test(binary, layout)?;
    launcher.start_registrar(1)?;
    let config = MediaConfig {
        ports: 8,
        tick: TICK,
        core: own_core,
        ..MediaConfig::new(launcher.slice().host(200))
    };
    let media = Media::start(&config)?;
    let mut kinds = vec![Kind::Dialtone];
    match &rtpengine {
        Some(version) => {
            progress(&format!("our relay and rtpengine {version} in {}", launcher.slice()));
            kinds.push(Kind::Rtpengine);
        }
        None => progress("rtpengine is not installed (Debian: rtpengine-daemon): ours alone"),
    }
    let (mut runs, mut weights) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        for rate in &plan.rates {
            let direct = direct(&media, *rate, plan)?;
            let run = Run { round, ..direct };
            progress(&format!("round {round}/{}: {run}", plan.rounds));
            runs.push(run);
        }
        // Nobody always comes first.
        kinds.reverse();
        for kind in &kinds {
            let relay = Relay::start(*kind, &mut launcher, threads)?;
            let mut control = Control::connect(config.address, relay.ng)?;
            if own_core.is_some() {
                pin(relay.pid, &relay_cores)?;
            }
            let lab = Lab { kind: *kind, round, plan, media: &media, relay };
            let weight = lab.measure(&mut control, &mut |run: Run| {
                progress(&format!("round {round}/{}: {run}", plan.rounds));
                runs.push(run);
            })?;
            progress(&format!("round {round}/{}: {weight}", plan.rounds));
            weights.push(weight);
        }
    }
    Ok(Figures { conditions: conditions.end(), rtpengine, threads, relay_cores, runs, weights })
}

/// One relay in one round.
struct Lab<'l> {
    kind: Kind,
    round: u32,
    plan: &'l Plan,
    media: &'l Media,
    relay: Relay<'l>,
}

impl Lab<'_> {
    fn measure(&self, control: &mut Control, done: &mut dyn FnMut(Run)) -> Result<Weight, Error> {
        let Self { kind, round, plan, media, relay } = self;
        let (pid, address) = (relay.pid, relay.media);
        let before = (resident(pid)?, udp_buffers(address), descriptors(pid)?);
        let mut weight: Option<Result<Weight, Error>> = None;
        for rate in &plan.rates {
            let calls = control.set_up(media, (*rate / CALL_RATE).max(1) as usize)?;
            let each =
                |after: u64, before: u64| after.saturating_sub(before) as f64 / calls.len() as f64;
            let ends: Vec<[End; 2]> = calls.iter().map(|call| call.ends).collect();
            let weigh = || {
                let buffers = udp_buffers(address).zip(before.1);
                Ok(Weight {
                    relay: *kind,
                    round: *round,
                    calls: calls.len() as u32,
                    resident_bytes: each(resident(pid)?, before.0),
                    buffer_bytes: buffers.map(|(after, before)| each(after, before)),
                    descriptors: each(descriptors(pid)?, before.2),
                    empty_bytes: before.0,
                    setups: plan.setups,
                    setup_cpu_ms: 0.0,
                })
            };
            let flow = Flow::start(media, &ends, plan.warm_up, || {
                if weight.is_none() {
                    weight = Some(weigh());
                }
            });
            let cpu = run_seconds(pid)?;
            sleep(plan.duration);
            let cpu_seconds = run_seconds(pid)? - cpu;
            let run = flow.stop(*rate)?;
            done(Run { relay: Some(*kind), round: *round, cpu_seconds, ..run });
            control.delete(&calls)?;
        }
        let mut weight = weight.ok_or(Error::NoAnswer)??;
        weight.setup_cpu_ms = self.set_up(control)?;
        Ok(weight)
    }

    /// CPU milliseconds for an offer and an answer.
    fn set_up(&self, control: &mut Control) -> Result<f64, Error> {
        let (mut seconds, mut left) = (0.0, self.plan.setups as usize);
        while left > 0 {
            let count = left.min(GROUP);
            left -= count;
            let before = run_seconds(self.relay.pid)?;
            let calls: Vec<Call> = control.set_up(self.media, count)?;
            seconds += run_seconds(self.relay.pid)? - before;
            control.delete(&calls)?;
        }
        Ok(1e3 * seconds / f64::from(self.plan.setups))
    }
}

/// Packets that move, and are counted since they have been warm.
struct Flow<'m> {
    media: &'m Media,
    calls: Vec<u64>,
    since: std::time::Instant,
    engine: f64,
    softirq: f64,
    dropped: u64,
}

impl<'m> Flow<'m> {
    /// `warm` is called while packets move that are not counted yet.
    fn start(media: &'m Media, ends: &[[End; 2]], warm_up: Duration, warm: impl FnOnce()) -> Self {
        let calls = ends.iter().map(|ends| media.connect(*ends)).collect();
        sleep(warm_up * 2 / 3);
        warm();
        sleep(warm_up / 3);
        media.take_finished();
        media.reset();
        Self {
            media,
            calls,
            since: clock(),
            engine: thread_seconds(media.tid()).unwrap_or_default(),
            softirq: softirq_thread_seconds(),
            dropped: media.dropped_here(),
        }
    }

    fn stop(self, rate: u32) -> Result<Run, Error> {
        let Self { media, calls, since, engine, softirq, dropped } = self;
        let seconds = clock().saturating_duration_since(since).as_secs_f64();
        let engine_share = (thread_seconds(media.tid())? - engine) / seconds;
        let softirq_share = (softirq_thread_seconds() - softirq) / seconds;
        calls.iter().for_each(|call| media.stop(*call));
        let mut reports = Vec::with_capacity(calls.len());
        let complete = wait_for(DRAIN, || {
            reports.extend(media.take_finished());
            (reports.len() >= calls.len()).then_some(())
        });
        complete.ok_or_else(|| Error::Service("the engine has stopped".to_owned()))?;
        let totals = media.totals();
        let streams = || reports.iter().flat_map(|(_, both)| both);
        let sum = |count: fn(&StreamReport) -> u64| streams().map(count).sum::<u64>();
        let micros = |share| totals.latency.percentile(share).as_secs_f64() * 1e6;
        Ok(Run {
            relay: None,
            round: 0,
            rate,
            sent: sum(|stream| stream.sent),
            received: sum(|stream| stream.received),
            wrong: totals.strangers
                + sum(|stream| {
                    let StreamReport { duplicated, reordered, wrong_source, .. } = stream;
                    duplicated + reordered + wrong_source + stream.altered + stream.wrong_tone
                }),
            dropped_here: totals.refused + media.dropped_here() - dropped,
            cpu_seconds: 0.0,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            engine_share,
            engine_late_us: totals.late.as_secs_f64() * 1e6,
            softirq_share,
        })
    }
}

/// The engine's packets to itself.
fn direct(media: &Media, rate: u32, plan: &Plan) -> Result<Run, Error> {
    let ends: Vec<[End; 2]> = (0..(rate / CALL_RATE).max(1))
        .map(|_| {
            let [(a, to_a), (b, to_b)] = [media.port(), media.port()];
            [End { port: a, remote: to_b }, End { port: b, remote: to_a }]
        })
        .collect();
    let flow = Flow::start(media, &ends, plan.warm_up, || {});
    sleep(plan.duration / 2);
    flow.stop(rate)
}
