//! `dialtone figures conference`: what a participant costs a conference server: CPU time and memory.
//!
//! The server is the daemon; phones are played by one thread of this process. Each calls its room over SIP, sends a
//! packet of G.711 every 20 ms from a real socket, and hears what the server mixes for it. In each room ten speak, each
//! with a tone of its own; whether everybody hears the others' tones and not its own is looked at in the last second of
//! each run. The thread has a core of its own if there is more than one; the server has the others. On the loopback
//! interface the sender of a packet does the work of delivering it: so the server's time includes what it costs to hand
//! a packet to the phone, and the thread's what it costs to hand one to the server.

mod caller;
mod mixing;
mod phones;
mod table;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    str::FromStr,
    thread::sleep,
    time::Duration,
};

use clap::value_parser;
use dialtone_conference::mix::Codec;
use serde::Serialize;

use super::{
    Conditions, Error, print,
    usage::{pin, resident, run_seconds, softirq_thread_seconds, udp_buffers},
};
use crate::launcher::{Launcher, Layout, Signal, pools};
use caller::Caller;
use phones::{Heard, Phones};

pub use mixing::Mixing;
pub use table::table;

/// How long packets move before they are counted: what the server plays at first, and makes of its buffers, is over.
const SETTLE: Duration = Duration::from_secs(3);

/// Participants that a server under test takes, more than anybody asks for.
const PARTICIPANTS: u32 = 15_000;

/// Where the phones are, in the slice.
const PHONES_HOST: u8 = 200;

/// What of the packets may be missing before a measurement is worth nothing.
pub(super) const MAX_LOSS: f64 = 0.001;

/// What a participant costs a conference server: CPU time and memory, every mix verified
///
/// Participants call the server over SIP, each room's up to ten speakers send tones in G.711, and everybody's mix is
/// verified: all others' tones, not its own. Each size is measured with a server of its own. Figures are medians over
/// the rounds; they are worth nothing when a mix was wrong or more than 0.1 % of the packets were missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Participants, or participants x participants of a room (10 without it)
    #[arg(
        long,
        value_name = "N[xROOM],…",
        value_delimiter = ',',
        default_value = "500,1000,2000,3000,500x500"
    )]
    sizes: Vec<Size>,
    /// Seconds of each
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u32).range(1..=3600))]
    duration: u32,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Threads that mix [default: as many as the server has cores]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// So many participants in rooms of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    pub participants: u32,
    pub room: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (participants, room) = text.split_once('x').unwrap_or((text, "10"));
        match (participants.parse(), room.parse()) {
            (Ok(participants @ 1..=10_000), Ok(room @ 1..=500)) => Ok(Self { participants, room }),
            _ => Err("use 1 to 10000, or for example 500x500 for one room of 500".to_owned()),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { participants, room } = self;
        write!(f, "{participants} in rooms of {room}")
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub sizes: Vec<Size>,
    /// Of each of them.
    pub duration: Duration,
    pub rounds: u32,
    /// That mix; `None`: as many as the server has cores.
    pub threads: Option<u32>,
    /// That are mixed without sockets.
    pub frames: u32,
}

/// One size, once.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub round: u32,
    pub size: Size,
    pub seconds: f64,
    /// Packets that phones have sent, and those that have come to them.
    pub sent: u64,
    pub heard: u64,
    /// Participants that did not hear exactly the others in the last second.
    pub wrong: u32,
    /// CPU seconds (user and system) of the server.
    pub cpu_seconds: f64,
    /// Beats of 5 ms that its threads were late for, and those that they left out.
    pub late: u64,
    pub left_out: u64,
    /// For each participant: resident memory, and the buffers of its sockets (`None` without `ss`).
    pub resident_bytes: f64,
    pub buffer_bytes: Option<f64>,
    /// Share of a core that the phones' thread needed, and by how many microseconds it was late at most.
    pub phones_share: f64,
    pub phones_late_us: f64,
    /// Share of a core that the kernel's own threads needed to deliver packets.
    pub softirq_share: f64,
}

impl Run {
    /// CPU milliseconds for a second of one participant. What was not mixed does not count as done.
    pub fn cpu_ms(&self) -> f64 {
        let participant_seconds = self.heard as f64 / PACKETS;
        1e3 * self.cpu_seconds / participant_seconds.max(f64::MIN_POSITIVE)
    }

    pub fn per_core(&self) -> f64 {
        1e3 / self.cpu_ms().max(f64::MIN_POSITIVE)
    }

    /// Share of the packets that phones should have heard and did not.
    pub fn loss(&self) -> f64 {
        let due = f64::from(self.size.participants) * self.seconds * PACKETS;
        (1.0 - self.heard as f64 / due).max(0.0)
    }

    pub fn is_valid(&self) -> bool {
        self.wrong == 0 && self.loss() <= MAX_LOSS
    }
}

/// Packets a second, either way.
const PACKETS: f64 = 50.0;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    /// Threads that mix, and the cores that the server had; all if there is only one.
    pub threads: u32,
    pub cores: Vec<usize>,
    pub runs: Vec<Run>,
    /// Without sockets.
    pub mixing: Vec<Mixing>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        sizes: args.sizes.clone(),
        duration: Duration::from_secs(args.duration.into()),
        rounds: args.rounds,
        threads: args.threads,
        frames: 500,
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, &plan, |line| eprintln!("{line}")));
    print(measured, args.json, |figures| table(&plan, figures))
}

/// Measures `plan`, the server being a process of `binary`; says what it is doing.
///
/// # Errors
/// When the server does not start, or refuses a call.
pub fn measure(
    binary: &Path,
    plan: &Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let (cores, own_core) = conditions.shared_out();
    let threads = plan.threads.unwrap_or(cores.len() as u32);
    let layout = Layout {
        registrars: 1,
        conference_participants: Some(PARTICIPANTS),
        conference_workers: Some(threads),
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(binary, layout)?;
    launcher.start_registrar(1)?;
    let address = launcher.slice().host(PHONES_HOST);
    let mut runs = Vec::new();
    for round in 1..=plan.rounds {
        for size in &plan.sizes {
            let server = Server::start(&mut launcher)?;
            if own_core.is_some() {
                pin(server.pid, &cores)?;
            }
            let run = Run { round, ..server.measure(*size, address, own_core, plan.duration)? };
            progress(&format!("round {round}/{}: {run}", plan.rounds));
            runs.push(run);
            launcher.kill(&server.name, Signal::SIGKILL)?;
        }
    }
    let mixing =
        [Codec::Pcmu, Codec::G722].map(|codec| mixing::measure(codec, plan.frames)).to_vec();
    Ok(Figures { conditions: conditions.end(), threads, cores, runs, mixing })
}

/// The server of one run.
struct Server {
    name: String,
    pid: u32,
    core: SocketAddr,
    admin: SocketAddr,
    /// Where its media is.
    media: IpAddr,
}

impl Server {
    fn start(launcher: &mut Launcher) -> Result<Self, Error> {
        let name = launcher.start_conference(1)?.name().to_owned();
        let pid = launcher.process(&name)?.pid();
        let addresses = launcher.addresses(&name)?;
        let at = |key: &str| {
            addresses.get(key).and_then(|address| address.parse().ok()).ok_or(Error::NoAnswer)
        };
        let (core, admin) = (at("sip-core")?, at("admin")?);
        Ok(Self { name, pid, core, admin, media: launcher.conference_ports(1).0 })
    }

    fn measure(
        &self,
        size: Size,
        address: IpAddr,
        own_core: Option<usize>,
        duration: Duration,
    ) -> Result<Run, Error> {
        let before = (resident(self.pid)?, udp_buffers(self.media));
        let rooms = phones::sockets(address, size)?;
        let mut caller = Caller::connect(self.core)?;
        let lines = caller.call(&rooms, size)?;
        let phones = Phones::start(rooms, &lines, size, own_core)?;
        sleep(SETTLE);
        let participants = f64::from(size.participants);
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / participants;
        let resident_bytes = each(resident(self.pid)?, before.0);
        let buffers = udp_buffers(self.media).zip(before.1);
        let beats = self.beats()?;
        let Heard { at, sent, packets, share_seconds, .. } = phones.heard()?;
        let (cpu, softirq) = (run_seconds(self.pid)?, softirq_thread_seconds());
        sleep(duration);
        let cpu_seconds = run_seconds(self.pid)? - cpu;
        let softirq_seconds = softirq_thread_seconds() - softirq;
        let heard = phones.heard()?;
        let later = self.beats()?;
        let wrong = phones.stop();
        let seconds = (heard.at - at).as_secs_f64();
        Ok(Run {
            round: 0,
            size,
            seconds,
            sent: heard.sent - sent,
            heard: heard.packets - packets,
            wrong,
            cpu_seconds,
            late: later.0.saturating_sub(beats.0),
            left_out: later.1.saturating_sub(beats.1),
            resident_bytes,
            buffer_bytes: buffers.map(|(after, before)| each(after, before)),
            phones_share: (heard.share_seconds - share_seconds) / seconds,
            phones_late_us: heard.late.as_secs_f64() * 1e6,
            softirq_share: softirq_seconds / seconds,
        })
    }

    /// Beats that were late, and those left out.
    fn beats(&self) -> Result<(u64, u64), Error> {
        let text = pools::get(self.admin, "/metrics")?;
        let text = String::from_utf8_lossy(&text);
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).ok_or(Error::NoAnswer)
        };
        let late = of("dialtone_conference_late_beats_total ")?;
        Ok((late, of("dialtone_conference_left_out_beats_total ")?))
    }
}
