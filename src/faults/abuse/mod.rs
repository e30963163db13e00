//! `dialtone faults abuse`: a system with two of everything under calls, resolutions and bad input to every port.
//!
//! | thread | does |
//! |---|---|
//! | flood, one for each process | one attack after the other, and what was counted meanwhile |
//! | slow | connections that send a byte now and then |
//! | good | phones that register and call, a pool user that resolves |
//! | idle | notices when the machine runs nobody for a while, which explains what others notice then |
//! | the caller's | looks whether everybody stays in service |
//!
//! Resident memory is measured after a tenth of the packets and after all of them.

mod attack;
mod good;
mod material;
mod media;
mod report;
mod room;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use attack::{Attack, Budget, Sent, Slow};
use clap::value_parser;
use dialtone_daemon::exit;
use fastrand::Rng;
pub use good::Good;
pub use report::{Outcome, Row, table};

use crate::launcher::{self, Launcher, Layout, Life, Role, clock, pools, wait_for};

const REGISTRARS: u8 = 2;
const GATEWAYS: u8 = 2;
const PROXIES: u8 = 2;
const RELAYS: u8 = 2;
const CONFERENCES: u8 = 2;

/// How long everybody may take to be in all pools.
const SETTLE: Duration = Duration::from_secs(30);

/// How long a daemon may take to publish what it has counted.
const PUBLISHED: Duration = Duration::from_millis(2500);

/// How long the idle thread sleeps at a time.
const IDLE: Duration = Duration::from_millis(20);

/// Between two bytes of a slow connection.
const SLOW: Duration = Duration::from_millis(250);

/// Send bad input to every port, under calls and resolutions; measure what is answered, counted and remembered
///
/// Two registrars, gateways, proxies, media relays and conference servers and the location database run as processes in a
/// loopback slice of their own.
/// Every port gets random, truncated, bit-flipped, oversized, forged and slow input, as fast as it reads, while phones
/// register and call and a pool user resolves. Exit code 1 when a process ends or leaves its pool, when a call, a
/// REGISTER or a resolution fails, when bad input is neither answered nor counted, or when a process has more than 5 %
/// more resident memory after all packets than after a tenth of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Packets, messages and connections
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = value_parser!(u64).range(10_000..=1_000_000_000))]
    packets: u64,
    /// Seed of what is sent [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Program whose daemons are started [default: this one]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub packets: u64,
    pub seed: u64,
    /// The nine tenths after the first measurement are sent in so many rounds over all attacks.
    pub rounds: u32,
    /// Quiet time before memory is measured: transactions of broken requests that were sound enough live for 32 s.
    pub quiet: Duration,
    /// How long each of the two phases may take; what is not sent by then stays unsent.
    pub limit: Duration,
    /// By which share resident memory may grow from the first measurement to the second.
    pub growth: f64,
    /// Calls per second meanwhile.
    pub calls: u32,
    /// Phones that are called.
    pub phones: u32,
}

/// The measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error("not everybody is in all pools; logs are in {}", folder.display())]
    Unsettled { folder: PathBuf },
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        packets: args.packets,
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
        rounds: 9,
        quiet: Duration::from_secs(40),
        limit: Duration::from_secs(7200),
        growth: 0.05,
        calls: 20,
        phones: 100,
    };
    let program = args.program.clone().map_or_else(std::env::current_exe, Ok);
    let measured = program
        .map_err(Error::from)
        .and_then(|program| measure(&program, plan, |line| eprintln!("{line}")));
    match measured {
        Ok(outcome) => {
            match serde_json::to_string_pretty(&outcome) {
                Ok(json) if args.json => println!("{json}"),
                _ => print!("{}", table(&outcome)),
            }
            ExitCode::from(u8::from(!outcome.wrong.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// Sends bad input to processes of `binary`. `progress` receives a line at a time.
///
/// # Errors
/// When a process cannot be started, or sockets cannot be had.
pub fn measure(
    binary: &Path,
    plan: Plan,
    mut progress: impl FnMut(&str),
) -> Result<Outcome, Error> {
    let layout = Layout {
        registrars: REGISTRARS,
        relays: RELAYS,
        conferences: CONFERENCES,
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(binary, layout)?;
    progress(&format!("seed {}: starting everything in {}", plan.seed, launcher.slice()));
    start(&mut launcher)?;
    if wait_for(SETTLE, || everybody_in(&mut launcher)?.is_empty().then_some(())).is_none() {
        return Err(Error::Unsettled { folder: launcher.keep_folder().to_owned() });
    }
    let pids: BTreeMap<String, u32> = launcher
        .processes()
        .iter()
        .map(|process| (process.name().to_owned(), process.pid()))
        .collect();
    let mut targets = targets(&mut launcher, plan.seed)?;
    let mut slow: Vec<Slow> = targets.iter_mut().flat_map(|target| target.slow.drain(..)).collect();
    let good = Good::start(&launcher, plan)?;
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = clock();
    let held_up = AtomicU64::new(0);
    let mut seen = Seen::default();
    let mut sizes = Vec::new();
    let mut phases = Vec::new();
    std::thread::scope(|scope| {
        let slowly = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                slow.iter_mut().for_each(Slow::step);
                sleep(SLOW);
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let slept = clock();
                sleep(IDLE);
                let late = (clock() - slept).saturating_sub(IDLE).as_millis() as u64;
                held_up.fetch_max(late, Ordering::Relaxed);
            }
        });
        for (name, share, rounds) in [
            ("first tenth", plan.packets / 10, 1),
            ("the rest", plan.packets / 10 * 9, plan.rounds),
        ] {
            let began = clock();
            let until = began + plan.limit;
            let before = sent.load(Ordering::Relaxed);
            std::thread::scope(|scope| {
                let sent = &sent;
                let floods: Vec<_> = targets
                    .iter_mut()
                    .map(|target| scope.spawn(move || target.flood(share, rounds, until, sent)))
                    .collect();
                let mut told = began;
                while floods.iter().any(|flood| !flood.is_finished()) {
                    sleep(Duration::from_millis(500));
                    look(&mut launcher, &pids, &mut seen);
                    if clock() >= told + Duration::from_secs(10) {
                        told = clock();
                        let done = sent.load(Ordering::Relaxed) - before;
                        let rate = done as f64 / (told - began).as_secs_f64();
                        progress(&format!("{name}: {done} of {share} sent, {rate:.0}/s"));
                    }
                }
            });
            let done = sent.load(Ordering::Relaxed) - before;
            phases.push(done as f64 / (clock() - began).as_secs_f64());
            progress(&format!(
                "{name}: {done} sent in {:.0} s; quiet for {} s, then memory is measured",
                (clock() - began).as_secs_f64(),
                plan.quiet.as_secs()
            ));
            sleep(plan.quiet);
            look(&mut launcher, &pids, &mut seen);
            sizes.push(pids.iter().map(|(name, pid)| (name.clone(), resident(*pid))).collect());
        }
        over.store(true, Ordering::Relaxed);
        slowly.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let good = good.stop();
    let in_pools = wait_for(SETTLE, || everybody_in(&mut launcher)?.is_empty().then_some(()));
    if in_pools.is_none() {
        seen.wrong.push("not everybody is in all pools at the end".to_owned());
    }
    seen.held_up_ms = held_up.into_inner();
    let mut rows: Vec<Row> = targets.iter().flat_map(|target| target.rows(&sizes)).collect();
    rows.extend(slow.iter().map(|slow| Row::slow(&slow.port, slow.total, &sizes)));
    let elapsed = clock() - started;
    let outcome = Outcome::new(plan, rows, good, &sizes, seen, phases, elapsed);
    if !(outcome.wrong.is_empty() && outcome.excused.is_empty()) {
        let folder = launcher.keep_folder().display().to_string();
        progress(&format!("something went wrong; logs are in {folder}"));
    }
    Ok(outcome)
}

fn start(launcher: &mut Launcher) -> Result<(), Error> {
    let mut names = Vec::new();
    for n in 1..=REGISTRARS {
        names.push(launcher.spawn_registrar(n)?);
    }
    names.push(launcher.spawn_location_db()?);
    for n in 1..=RELAYS {
        names.push(launcher.spawn_media_relay(n)?);
    }
    for n in 1..=CONFERENCES {
        names.push(launcher.spawn_conference(n)?);
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
    Ok(())
}

/// Which pools are not as large as they should be; `None` if a registrar does not answer.
fn everybody_in(launcher: &mut Launcher) -> Option<Vec<String>> {
    let mut missing = Vec::new();
    for n in 1..=REGISTRARS {
        let registrar = format!("registrar-ns-{n}");
        let pools = launcher.pools(&registrar)?;
        for (pool, size) in [
            ("sip-proxy", PROXIES),
            ("sip-gateway", GATEWAYS),
            ("sip-edge-udp", GATEWAYS),
            ("location-db", 1),
            ("media-relay", RELAYS),
            ("conference", CONFERENCES),
        ] {
            let found = pools.elements(pool).len();
            if found != usize::from(size) {
                missing.push(format!("{registrar} knows {found} of {size} elements of {pool}"));
            }
        }
    }
    Some(missing)
}

/// What was seen of the processes while they were abused.
#[derive(Debug, Default)]
struct Seen {
    wrong: Vec<String>,
    /// Who was not in its pool for a while.
    absent: Vec<String>,
    /// The longest time that the machine did not run an idle thread, in milliseconds.
    held_up_ms: u64,
}

/// Everybody runs and is in its pool.
fn look(launcher: &mut Launcher, pids: &BTreeMap<String, u32>, seen: &mut Seen) {
    let absent = everybody_in(launcher).unwrap_or_default();
    seen.absent.extend(absent);
    for process in launcher.processes() {
        match process.life() {
            Life::Running if pids.get(process.name()) == Some(&process.pid()) => {}
            life => seen.wrong.push(format!("{}: {life:?}", process.name())),
        }
    }
    for list in [&mut seen.absent, &mut seen.wrong] {
        list.sort_unstable();
        list.dedup();
    }
}

/// Resident memory in kB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A process and what is sent to it.
struct Target {
    name: String,
    admin: SocketAddr,
    /// Its part of all packets, in hundredths.
    share: u64,
    attacks: Vec<(Attack, Sent, u64)>,
    slow: Vec<Slow>,
    rng: Rng,
}

fn targets(launcher: &mut Launcher, seed: u64) -> Result<Vec<Target>, Error> {
    let names: Vec<(String, Role)> = launcher
        .processes()
        .iter()
        .map(|process| (process.name().to_owned(), process.role()))
        .collect();
    let mut rng = Rng::with_seed(seed);
    let mut targets = Vec::new();
    for (name, role) in names {
        let addresses = launcher.addresses(&name)?;
        let slice = launcher.slice();
        let source = |host: u8| -> IpAddr { slice.host(host) };
        let at = |key: &str| -> io::Result<SocketAddr> {
            let text = addresses.get(key).map(String::as_str).unwrap_or_default();
            text.parse()
                .map_err(|_| io::Error::other(format!("{name} has no address {key}: {text:?}")))
        };
        let admin = at("admin")?;
        let mut attacks = attack::http(admin, 1);
        let mut slow = vec![Slow::new(
            format!("{name}: TCP {admin} (HTTP)"),
            admin,
            b"GET / HTTP/1.1\r\nX: y".to_vec(),
        )];
        let mut sip = |to: SocketAddr| {
            let text = b"OPTIONS sip:a SIP/2.0\r\nX: y".to_vec();
            slow.push(Slow::new(format!("{name}: TCP {to} (SIP)"), to, text));
        };
        let share = match role {
            Role::RegistrarNs => {
                let to = SocketAddr::new(admin.ip(), dialtone_transport::ENCAPSULATION_PORT);
                attacks.extend(attack::sctp(to, &source, 20)?);
                attacks.extend(attack::associations(to, &source, 2));
                let to = SocketAddr::new(admin.ip(), dialtone_transport::ASAP_PORT);
                attacks.extend(attack::asap_tcp(to, 2));
                let text = [&[5, 0, 0xff, 0xff][..], &[0; 16][..]].concat();
                slow.push(Slow::new(format!("{name}: TCP {to} (ASAP)"), to, text));
                12
            }
            Role::SipGateway => {
                attacks.extend(attack::sip_udp(at("sip-udp")?, &source, 20)?);
                attacks.extend(attack::sctp(at("asap")?, &source, 5)?);
                attacks.extend(attack::sip_tcp(at("sip-tcp")?, true, 3));
                attacks.extend(attack::sip_tcp(at("sip-core")?, false, 2));
                sip(at("sip-tcp")?);
                sip(at("sip-core")?);
                14
            }
            Role::Conference => {
                attacks.extend(attack::sctp(at("asap")?, &source, 5)?);
                // Who knows no pools takes tokens for what stands in any route.
                let tcp = attack::sip_tcp(at("sip-core")?, false, 3).into_iter();
                attacks.extend(tcp.filter(|attack| attack.kind != "made-up tokens"));
                attacks.extend(room::media(at("sip-core")?, &source, 10)?);
                sip(at("sip-core")?);
                6
            }
            Role::SipProxy => {
                attacks.extend(attack::sctp(at("asap")?, &source, 10)?);
                attacks.extend(attack::sip_tcp(at("sip-core")?, false, 3));
                sip(at("sip-core")?);
                7
            }
            Role::MediaRelay => {
                attacks.extend(attack::sctp(at("asap")?, &source, 5)?);
                attacks.extend(media::control(at("ng")?, &source, 20)?);
                attacks.extend(media::media(at("ng")?, &source, 20)?);
                7
            }
            Role::GaleraArbitrator | Role::LocationDb | Role::Sidecar => {
                attacks.extend(attack::sctp(at("asap")?, &source, 10)?);
                8
            }
        };
        let attacks = attacks.into_iter().map(|attack| (attack, Sent::default(), 0)).collect();
        targets.push(Target { name, admin, share, attacks, slow, rng: rng.fork() });
    }
    Ok(targets)
}

impl Target {
    /// All attacks, one after the other, `rounds` times.
    fn flood(&mut self, packets: u64, rounds: u32, until: Instant, progress: &AtomicU64) {
        let shares = shares(&self.attacks, packets * self.share / 100 / u64::from(rounds));
        let mut before = self.counted().unwrap_or(0);
        for _ in 0..rounds {
            for ((attack, total, noted), packets) in self.attacks.iter_mut().zip(&shares) {
                if clock() >= until {
                    return;
                }
                let sent = (attack.run)(&mut self.rng, Budget { packets: *packets, until });
                progress.fetch_add(sent.sent, Ordering::Relaxed);
                *total += sent;
                // Counters are published now and then: at least once more, until all is told.
                let wanted = (sent.sent as f64 * attack.noticed) as u64;
                let deadline = clock() + PUBLISHED;
                loop {
                    sleep(Duration::from_millis(if wanted == 0 { 50 } else { 100 }));
                    let now = counted(self.admin).unwrap_or(before);
                    if now.saturating_sub(before) >= wanted
                        || wanted == 0
                        || clock() >= deadline
                        || (sent.answered >= sent.sent && clock() + PUBLISHED / 2 >= deadline)
                    {
                        *noted += now.saturating_sub(before);
                        before = now;
                        break;
                    }
                }
            }
        }
    }

    fn counted(&self) -> Option<u64> {
        counted(self.admin)
    }

    fn rows(&self, sizes: &[BTreeMap<String, u64>]) -> Vec<Row> {
        let row = |(attack, sent, counted): &(Attack, Sent, u64)| Row {
            process: self.name.clone(),
            port: attack.port.clone(),
            kind: attack.kind,
            sent: sent.sent,
            answered: sent.answered,
            counted: *counted,
            noticed: attack.noticed,
            resident_kb: sizes.iter().map(|sizes| sizes[&self.name]).collect(),
        };
        self.attacks.iter().map(row).collect()
    }
}

/// `packets` by weight; what some may not take goes to the others.
fn shares(attacks: &[(Attack, Sent, u64)], packets: u64) -> Vec<u64> {
    let mut shares: Vec<Option<u64>> = vec![None; attacks.len()];
    loop {
        let taken: u64 = shares.iter().flatten().sum();
        let open = || attacks.iter().zip(&shares).filter(|(_, share)| share.is_none());
        let weights: u64 = open().map(|((attack, ..), _)| attack.weight).sum();
        let rest = packets.saturating_sub(taken);
        let share = |weight: u64| (rest * weight / weights.max(1)).max(1);
        let full: Vec<usize> = (0..attacks.len())
            .filter(|n| shares[*n].is_none() && attacks[*n].0.most < share(attacks[*n].0.weight))
            .collect();
        if full.is_empty() {
            return attacks
                .iter()
                .zip(&shares)
                .map(|((attack, ..), fixed)| fixed.unwrap_or_else(|| share(attack.weight)))
                .collect();
        }
        full.into_iter().for_each(|n| shares[n] = Some(attacks[n].0.most));
    }
}

/// What stands for something dropped, refused or ended for what it sent.
const COUNTERS: [&str; 45] = [
    "dialtone_asap_messages_dropped_total",
    "dialtone_conference_closed_connections_total{why=\"bad-frames\"}",
    "dialtone_conference_closed_connections_total{why=\"congested\"}",
    "dialtone_conference_closed_connections_total{why=\"refused\"}",
    "dialtone_conference_closed_connections_total{why=\"unfinished\"}",
    "dialtone_conference_dropped_messages_total",
    "dialtone_conference_dropped_packets_total{why=\"invalid\"}",
    "dialtone_conference_dropped_packets_total{why=\"stranger\"}",
    "dialtone_conference_refused_total",
    "dialtone_gateway_requests_total{what=\"broken\"}",
    "dialtone_gateway_requests_total{what=\"dropped\"}",
    "dialtone_gateway_requests_total{what=\"flow-gone\"}",
    "dialtone_gateway_requests_total{what=\"over-bounds\"}",
    "dialtone_gateway_requests_total{what=\"refused\"}",
    "dialtone_gateway_requests_total{what=\"stray\"}",
    "dialtone_media_relay_dropped_packets_total{why=\"over-rate\"}",
    "dialtone_media_relay_dropped_packets_total{why=\"stranger\"}",
    "dialtone_media_relay_dropped_packets_total{why=\"unexpected\"}",
    "dialtone_media_relay_errors_total",
    "dialtone_media_relay_garbage_total",
    "dialtone_registrar_messages_dropped_total",
    "dialtone_sip_proxy_dropped_total",
    "dialtone_sip_proxy_refused_total",
    "dialtone_sip_transport_total{listener=\"core\",what=\"bad-frames\"}",
    "dialtone_sip_transport_total{listener=\"core\",what=\"congested\"}",
    "dialtone_sip_transport_total{listener=\"core\",what=\"refused\"}",
    "dialtone_sip_transport_total{listener=\"core\",what=\"unfinished\"}",
    "dialtone_sip_transport_total{listener=\"edge\",what=\"bad-frames\"}",
    "dialtone_sip_transport_total{listener=\"edge\",what=\"congested\"}",
    "dialtone_sip_transport_total{listener=\"edge\",what=\"refused\"}",
    "dialtone_sip_transport_total{listener=\"edge\",what=\"unfinished\"}",
    "dialtone_transport_total{what=\"associations_refused\"}",
    "dialtone_transport_total{what=\"bad_checksum\"}",
    "dialtone_transport_total{what=\"bad_cookie\"}",
    "dialtone_transport_total{what=\"bad_frames\"}",
    "dialtone_transport_total{what=\"handshakes_dropped\"}",
    "dialtone_transport_total{what=\"hoarders\"}",
    "dialtone_transport_total{what=\"malformed\"}",
    "dialtone_transport_total{what=\"out_of_the_blue\"}",
    "dialtone_transport_total{what=\"slow_peers\"}",
    "dialtone_transport_total{what=\"stale_cookie\"}",
    "dialtone_transport_total{what=\"unfinished\"}",
    "dialtone_transport_total{what=\"violations\"}",
    "dialtone_transport_total{what=\"wrong_ppid\"}",
    "dialtone_transport_total{what=\"wrong_tag\"}",
];

/// The sum of all [`COUNTERS`] of a process.
fn counted(admin: SocketAddr) -> Option<u64> {
    let text = pools::get(admin, "/metrics").ok()?;
    let text = String::from_utf8_lossy(&text);
    let values = text.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        COUNTERS.contains(&name).then(|| value.parse::<u64>().ok())?
    });
    Some(values.sum())
}
