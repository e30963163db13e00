//! `dialtone faults media`: a system with three relays under calls with audio; relays are killed and frozen, and phones
//! say what they noticed and heard.
//!
//! The phones live on a runtime of the calling thread, their audio on a thread of its own; another thread inflicts
//! faults on the processes meanwhile. Which relay a call uses is seen by the addresses that its phones were told.

mod row;

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::value_parser;
use dialtone_bench::{
    load::{CallPlan, Load, LoadConfig},
    media::{Calls, MediaConfig},
    phone::Transport,
};
use tokio::runtime::Runtime;

pub use super::calls::Error;
use super::{
    explain::explain,
    service::is_complete,
    table::{Verdict, conduct},
};
use crate::launcher::{Launcher, Layout, Signal, clock, wait_for};

pub use row::{Row, table};

use row::{Blow, Relays};

const REGISTRARS: u8 = 2;
const GATEWAYS: u8 = 2;
const PROXIES: u8 = 2;
const RELAYS: u8 = 3;

/// How much later than usual a call may be answered.
const LATE_KILLED: Duration = Duration::from_millis(250);
const LATE_FROZEN: Duration = Duration::from_millis(500);

/// So long a relay is frozen, and up to so long a killed one is away.
const FROZEN: Duration = Duration::from_secs(3);
const AWAY_MS: u64 = 3000;

/// What waited in a frozen relay's sockets is forwarded late: packets of its calls may be wrong for so long after.
const THAW: Duration = Duration::from_secs(1);

/// Calls count from their answer. Those answered within this time after a killed relay came back may have been offered to
/// the one before it.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// How soon calls are to be spread evenly again over the relays once all are there.
const EVEN_WITHIN: Duration = Duration::from_secs(10);

/// Even: no relay has less than this part of its share of the running calls.
const EVEN: f64 = 0.5;

/// How long everything may take to be as it was.
const SETTLE: Duration = Duration::from_secs(30);

/// A fault comes at a random moment within this time after everything is as it was.
const PAUSE_MS: u64 = 1000;

/// Seconds that calls last once they were answered: five on average.
const HOLDS: [u64; 2] = [2, 8];

/// Callers; each may have several calls.
const CALLERS: usize = 100;

/// Registrations a second before the calls.
const REGISTER_RATE: f64 = 200.0;

/// Kill and freeze media relays under calls with audio; measure what phones notice and hear
///
/// Two registrars, gateways and proxies, the location database and three relays run as processes in a loopback slice of
/// their own. Calls last 2 or 8 s, half of them ring for 0.5 s before; all have real audio, a tone both ways, and every
/// packet is verified. After each fault the relay returns, and the next one waits until calls are spread evenly again
/// (no relay with less than half of its share of the running calls). Calls on the relay that suffers lose audio; those
/// elsewhere must not lose a packet. Exit code 1 when a call fails, does not end cleanly or rings twice, something is
/// sent again, a call elsewhere loses a packet, or a time is longer than three times its bound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Relays killed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(0..=10_000))]
    kills: u32,
    /// Relays frozen for 3 s
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(0..=10_000))]
    freezes: u32,
    /// New calls per second; five times as many run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Phones that are called
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = value_parser!(u32).range(1..=20_000))]
    phones: u32,
    /// Seconds without faults before them
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u32).range(1..=3600))]
    undisturbed: u32,
    /// Seed of who suffers and when, and of the calls [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kills: u32,
    pub freezes: u32,
    /// New calls per second.
    pub rate: u32,
    /// Phones that are called.
    pub phones: u32,
    /// How long calls go undisturbed first.
    pub undisturbed: Duration,
    /// Of who suffers and when, and of the calls.
    pub seed: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        kills: args.kills,
        freezes: args.freezes,
        rate: args.rate,
        phones: args.phones,
        undisturbed: Duration::from_secs(args.undisturbed.into()),
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    conduct(args.json, table, |binary, progress| measure(binary, plan, progress))
}

/// Inflicts every fault on processes of `binary`, under calls. `progress` receives a line at a time.
///
/// # Errors
/// When a process cannot be started, the phones have no sockets, or somebody is not in service again after a fault.
pub fn measure(
    binary: &Path,
    plan: Plan,
    progress: impl FnMut(&str) + Send,
) -> Result<Vec<Row>, Error> {
    let mut lab = Lab::start(binary, plan, progress)?;
    let mut rows = vec![lab.undisturbed()];
    let undisturbed = rows[0].undisturbed_ms;
    for (fault, count) in [(Fault::Kill, plan.kills), (Fault::Freeze, plan.freezes)] {
        if count > 0 {
            rows.push(lab.under(fault, count, undisturbed)?);
        }
    }
    if rows.iter().any(Row::broken) {
        let folder = lab.launcher.keep_folder().display().to_string();
        (lab.progress)(&format!("a bound is broken; logs are in {folder}"));
    }
    Ok(rows)
}

/// What is done to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGSTOP, and SIGCONT after 3 s.
    Freeze,
    /// SIGKILL, and started again after a while.
    Kill,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Freeze => "relay frozen",
            Self::Kill => "relay killed",
        }
    }

    fn bound(self) -> Duration {
        match self {
            Self::Freeze => LATE_FROZEN,
            Self::Kill => LATE_KILLED,
        }
    }
}

/// The processes and the phones.
struct Lab<P> {
    runtime: Runtime,
    load: Load,
    /// The audio of the phones.
    media: Arc<Calls>,
    calls: CallPlan,
    launcher: Launcher,
    relays: Relays,
    rng: fastrand::Rng,
    plan: Plan,
    progress: P,
}

impl<P: FnMut(&str) + Send> Lab<P> {
    fn start(binary: &Path, plan: Plan, mut progress: P) -> Result<Self, Error> {
        let layout = Layout { registrars: REGISTRARS, relays: RELAYS, ..Layout::default() };
        let mut launcher = Launcher::for_test(binary, layout)?;
        progress(&format!(
            "seed {}: starting {REGISTRARS} registrars, {GATEWAYS} gateways, {PROXIES} proxies, {RELAYS} relays and the location database in {}",
            plan.seed,
            launcher.slice()
        ));
        start(&mut launcher)?;
        let relays = Relays::of(&launcher, RELAYS);
        let edge = |n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n));
        let config = LoadConfig {
            domain: launcher.layout().domain.clone(),
            source: launcher.slice().host(200),
            transport: Transport::Udp,
            callee_gateway: edge(1),
            caller_gateway: edge(2),
            callees: plan.phones as usize,
            callers: CALLERS,
            prefix: "u".to_owned(),
            expires: 3600,
            seed: plan.seed,
            password: None,
        };
        let media = MediaConfig::new(config.source);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        progress(&format!("registering {} phones", plan.phones));
        let load = runtime.block_on(async {
            let load = Load::open_with_media(config, &media).await?;
            load.register(REGISTER_RATE, None).await;
            std::io::Result::Ok(load)
        })?;
        let calls = CallPlan {
            rate: plan.rate.into(),
            duration: plan.undisturbed,
            holds: HOLDS.map(Duration::from_secs).to_vec(),
            ring_share: 0.5,
            ring: Duration::from_millis(500),
            reregister: 0.0,
        };
        let rng = fastrand::Rng::with_seed(plan.seed);
        let media = load
            .media()
            .cloned()
            .ok_or_else(|| std::io::Error::other("phones that were opened with audio have none"))?;
        Ok(Self { runtime, load, media, calls, launcher, relays, rng, plan, progress })
    }

    fn undisturbed(&mut self) -> Row {
        let Plan { rate, undisturbed, .. } = self.plan;
        (self.progress)(&format!(
            "undisturbed: {} s, {rate} new calls/s with audio",
            undisturbed.as_secs()
        ));
        let from = clock();
        let until = from + undisturbed;
        self.runtime.block_on(async {
            self.load.call_while(&self.calls, || clock() < until).await;
            self.load.settle().await;
        });
        self.row("none", from, &[], None, LATE_KILLED)
    }

    fn under(&mut self, fault: Fault, count: u32, undisturbed_ms: f64) -> Result<Row, Error> {
        let from = clock();
        let Self { runtime, load, media, calls, launcher, relays, rng, progress, .. } = self;
        let inflicted = std::thread::scope(|scope| {
            let lab = Inflicting { launcher, media, relays, rng, progress };
            let inflicting = scope.spawn(|| lab.inflict(fault, count));
            runtime.block_on(async {
                load.call_while(calls, || !inflicting.is_finished()).await;
                load.settle().await;
            });
            inflicting.join()
        });
        let blows = inflicted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let row = self.row(fault.name(), from, &blows, Some(undisturbed_ms), fault.bound());
        let late = Duration::from_secs_f64((row.undisturbed_ms + row.bound_ms) / 1e3);
        let moments: Vec<_> = blows.iter().flat_map(Blow::moments).collect();
        explain(&self.load.board().calls(), from, late, &moments, &mut self.progress);
        Ok(row)
    }

    /// What the phones saw and heard since `from`.
    fn row(
        &mut self,
        fault: &'static str,
        from: Instant,
        blows: &[Blow],
        undisturbed_ms: Option<f64>,
        bound: Duration,
    ) -> Row {
        let mut calls = self.load.board().calls();
        calls.retain(|call| call.started >= from);
        let mut media = self.media.calls();
        media.retain(|call| call.started >= from);
        let still = self.load.board().longest_still(from);
        let heard = self.relays.judge(&media, blows);
        for line in &heard.lines {
            (self.progress)(line);
        }
        Row::new(fault, blows, &calls, &heard, undisturbed_ms, bound, still)
    }
}

/// Starts everything; all are in service when this returns.
fn start(launcher: &mut Launcher) -> Result<(), Error> {
    let mut names = Vec::new();
    for n in 1..=REGISTRARS {
        names.push(launcher.spawn_registrar(n)?);
    }
    names.push(launcher.spawn_location_db()?);
    for n in 1..=RELAYS {
        names.push(launcher.spawn_media_relay(n)?);
    }
    for n in 1..=PROXIES {
        names.push(launcher.spawn_proxy(n)?);
    }
    for n in 1..=GATEWAYS {
        names.push(launcher.spawn_gateway(n)?);
    }
    for name in names {
        launcher.wait_ready(&name)?;
    }
    await_service(launcher)
}

/// Waits until every registrar knows every element.
fn await_service(launcher: &mut Launcher) -> Result<(), Error> {
    let pools = [
        ("sip-proxy", PROXIES),
        ("sip-gateway", GATEWAYS),
        ("media-relay", RELAYS),
        ("location-db", 1),
    ];
    let complete = wait_for(SETTLE, || is_complete(launcher, REGISTRARS, &pools).then_some(()));
    complete.ok_or_else(|| Error::Unsettled { folder: launcher.keep_folder().to_owned() })
}

/// What is needed to inflict faults while the phones call.
struct Inflicting<'l, P> {
    launcher: &'l mut Launcher,
    media: &'l Calls,
    relays: &'l Relays,
    rng: &'l mut fastrand::Rng,
    progress: &'l mut P,
}

impl<P: FnMut(&str)> Inflicting<'_, P> {
    /// Inflicts a fault `count` times, at random moments, on a random relay; it is over, and calls are spread evenly
    /// again, before the next one.
    fn inflict(self, fault: Fault, count: u32) -> Result<Vec<Blow>, Error> {
        // Calls run before the first one.
        self.await_even(&[], clock());
        let mut blows: Vec<Blow> = Vec::new();
        for n in 1..=count {
            sleep(Duration::from_millis(self.rng.u64(..PAUSE_MS)));
            let relay = self.rng.u8(1..=RELAYS);
            let name = format!("media-relay-{relay}");
            let from = clock();
            let (until, new) = match fault {
                Fault::Freeze => {
                    self.launcher.kill(&name, Signal::SIGSTOP)?;
                    sleep(FROZEN);
                    self.launcher.kill(&name, Signal::SIGCONT)?;
                    (clock() + THAW, false)
                }
                Fault::Kill => {
                    self.launcher.kill(&name, Signal::SIGKILL)?;
                    sleep(Duration::from_millis(self.rng.u64(..AWAY_MS)));
                    self.launcher.restart(&name)?;
                    (clock() + UNDER_WAY, true)
                }
            };
            let returned = clock();
            await_service(self.launcher)?;
            let mut blow = Blow { relay, from, until, new, what: name, even: None };
            // Calls that a dead relay had are no load of the one that has taken its place.
            let lost: Vec<&Blow> = blows.iter().chain([&blow]).filter(|blow| blow.new).collect();
            let even = self.await_even(&lost, returned);
            blow.even = even;
            (self.progress)(&format!(
                "{} {n}/{count}: {}, even again {}",
                fault.name(),
                blow.what,
                even.map_or("never".to_owned(), |even| format!(
                    "after {:.1} s",
                    even.as_secs_f64()
                )),
            ));
            blows.push(blow);
        }
        // The last fault has its consequences under calls, too.
        sleep(Duration::from_millis(PAUSE_MS));
        Ok(blows)
    }

    /// How long after `since` calls were spread evenly; `None` if they were not for a long time.
    fn await_even(&self, lost: &[&Blow], since: Instant) -> Option<Duration> {
        wait_for(EVEN_WITHIN * 3, || {
            let shares = self.relays.shares(&self.media.running(), lost);
            let all: usize = shares.iter().sum();
            let least = EVEN * all as f64 / shares.len() as f64;
            // One call each is no spread.
            let even = all >= 4 * shares.len() && shares.iter().all(|n| *n as f64 >= least);
            even.then(|| clock().saturating_duration_since(since))
        })
    }
}
