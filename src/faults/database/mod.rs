//! `dialtone faults database`: a system on three Galera nodes under calls and registrations; nodes are killed, frozen and
//! cut off, and phones say what they noticed.
//!
//! The phones live on a runtime of the calling thread; a second thread inflicts a fault meanwhile. After each one all
//! bindings that were acknowledged are looked for: in the database, and in the copies of both proxies.

mod link;
mod probe;
mod row;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::value_parser;
use dialtone_bench::{
    load::{CallPlan, Load, LoadConfig},
    phone::Transport,
};
use nix::sys::signal::kill;
use tokio::runtime::Runtime;

pub use super::calls::Error;
use super::{
    service::{self, registrar},
    table::conduct,
};
use crate::launcher::{Launcher, Layout, Location, Signal, clock, wait_for};

pub use row::{Row, table};

use row::Seen;

const REGISTRARS: u8 = 2;
const GATEWAYS: u8 = 2;
const PROXIES: u8 = 2;
const NODES: u8 = 3;

/// How much later than usual a call may be answered.
const CALL_LATE: Duration = Duration::from_millis(250);
/// How late a REGISTER may be answered: so long a cluster takes to go on without one of its nodes.
const REGISTER_LATE: Duration = Duration::from_millis(2500);

/// So long a node is away: a cluster goes on without it by then, and so what its return costs is not added to that.
const AWAY: Duration = Duration::from_secs(6);
/// So long all nodes are: longer than any REGISTER waits.
const ALL_AWAY: Duration = Duration::from_secs(15);
/// A fault comes at a random moment within this time.
const PAUSE_MS: u64 = 1000;
/// Whoever has been in the pool for so long is there to stay.
const STAYS: Duration = Duration::from_secs(3);
/// How long everything may take to be as it was.
const SETTLE: Duration = Duration::from_secs(90);

/// Callers; each may have several calls.
const CALLERS: usize = 200;
/// Users who register for the first time while a fault lasts, and how many of them a second.
const FRESH: usize = 60;
const FRESH_RATE: f64 = 10.0;
/// Registrations a second before the calls and when they are read back.
const REGISTER_RATE: f64 = 500.0;
/// A proxy's counters are as old as this at most.
const COUNTED: Duration = Duration::from_millis(1500);

/// Kill, freeze and cut off database nodes under calls and registrations; measure what phones notice
///
/// Two registrars, gateways and proxies and three MariaDB nodes with Galera (Debian's packages) run as processes in a
/// loopback slice of their own. Phones register at gateway 1 in turn and are called through gateway 2. Each node suffers
/// each fault in turn, among them the one that is written to; it is in the pool again before the next fault. After each
/// of them all acknowledged bindings must be in the database and found by both proxies. Last, all nodes are killed, and
/// two of them started again. To cut off a node takes a network of one's own (root, or user namespaces); without it cuts
/// are left out. Exit code 1 when a call or a REGISTER fails, a binding is lost or not found, or an answer is later than
/// three times its bound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each node is killed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(0..=1000))]
    kills: u32,
    /// How often each node is frozen for 6 s
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(0..=1000))]
    freezes: u32,
    /// How often each node is cut off for 6 s
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(0..=1000))]
    cuts: u32,
    /// How often all nodes are killed at once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(0..=1000))]
    blackouts: u32,
    /// Calls per second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// REGISTERs per second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(1..=10_000))]
    register_rate: u32,
    /// Phones that register and are called
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=20_000))]
    phones: u32,
    /// Seconds without faults before them
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u32).range(1..=3600))]
    undisturbed: u32,
    /// Seed of when faults come, and of the calls [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often each of `nodes` is killed.
    pub kills: u32,
    /// The same with SIGSTOP.
    pub freezes: u32,
    /// The same with its link cut. Only in a network of the process's own.
    pub cuts: u32,
    /// How many nodes suffer, the one that is written to first.
    pub nodes: u8,
    /// How often all nodes are killed.
    pub blackouts: u32,
    /// Calls per second.
    pub rate: u32,
    /// REGISTERs per second.
    pub register_rate: u32,
    pub phones: u32,
    /// How long calls go undisturbed first.
    pub undisturbed: Duration,
    pub seed: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    let mut cuts = args.cuts;
    if cuts > 0
        && let Some(why) = link::enter()
    {
        eprintln!("skipped: links cannot be cut: {why}");
        cuts = 0;
    }
    let plan = Plan {
        kills: args.kills,
        freezes: args.freezes,
        cuts,
        nodes: NODES,
        blackouts: args.blackouts,
        rate: args.rate,
        register_rate: args.register_rate,
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
    let mut rows = vec![lab.undisturbed()?];
    let undisturbed = rows[0].undisturbed_ms;
    for (fault, count) in
        [(Fault::Kill, plan.kills), (Fault::Freeze, plan.freezes), (Fault::Cut, plan.cuts)]
    {
        let (mut preferred, mut other) = (Seen::default(), Seen::default());
        for round in 1..=count {
            for place in 0..plan.nodes {
                // By identifier: everybody writes to the first one.
                let node = lab.node(place)?;
                let seen = if place == 0 { &mut preferred } else { &mut other };
                lab.round(fault, node, format!("{round}/{count}"), seen)?;
            }
        }
        for (node, seen) in [("written to", preferred), ("another", other)] {
            if seen.count > 0 {
                let bounds = (CALL_LATE, Some(REGISTER_LATE));
                rows.push(Row::new(fault.name(), node, seen, Some(undisturbed), bounds));
            }
        }
    }
    let mut all = Seen::default();
    for round in 1..=plan.blackouts {
        lab.round(Fault::KillAll, 0, format!("{round}/{}", plan.blackouts), &mut all)?;
    }
    if all.count > 0 {
        let bounds = (CALL_LATE, None);
        rows.push(Row::new(Fault::KillAll.name(), "all", all, Some(undisturbed), bounds));
    }
    if rows.iter().any(|row| row.broken) {
        let folder = lab.launcher.keep_folder().display().to_string();
        (lab.progress)(&format!("a bound is broken; logs are in {folder}"));
    }
    Ok(rows)
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Freeze,
    Kill,
    KillAll,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut off",
            Self::Freeze => "frozen",
            Self::Kill | Self::KillAll => "killed",
        }
    }
}

/// The processes and the phones.
struct Lab<P> {
    runtime: Runtime,
    load: Load,
    calls: CallPlan,
    launcher: Launcher,
    rng: fastrand::Rng,
    plan: Plan,
    /// Names of the users that registered during former rounds, and so must be found.
    users: Vec<String>,
    rounds: u32,
    progress: P,
}

impl<P: FnMut(&str) + Send> Lab<P> {
    fn start(binary: &Path, plan: Plan, mut progress: P) -> Result<Self, Error> {
        let location = Location::Galera { nodes: NODES };
        let layout = Layout { registrars: REGISTRARS, location, ..Layout::default() };
        let mut launcher = Launcher::for_test(binary, layout)?;
        progress(&format!(
            "seed {}: starting {REGISTRARS} registrars, {NODES} database nodes, {PROXIES} proxies and {GATEWAYS} gateways in {}",
            plan.seed,
            launcher.slice()
        ));
        start(&mut launcher)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        progress(&format!("registering {} phones", plan.phones));
        let config = phones(&launcher, "u", plan.phones as usize, CALLERS, plan.seed);
        let load = runtime.block_on(async {
            let load = Load::open(config).await?;
            load.register(REGISTER_RATE, None).await;
            std::io::Result::Ok(load)
        })?;
        let calls = CallPlan {
            rate: plan.rate.into(),
            duration: plan.undisturbed,
            holds: vec![Duration::from_millis(100), Duration::from_secs(2)],
            ring_share: 0.5,
            ring: Duration::from_secs(1),
            reregister: plan.register_rate.into(),
        };
        let rng = fastrand::Rng::with_seed(plan.seed);
        let users = (0..plan.phones).map(|n| format!("u{n}")).collect();
        Ok(Self { runtime, load, calls, launcher, rng, plan, users, rounds: 0, progress })
    }

    fn undisturbed(&mut self) -> Result<Row, Error> {
        self.check_probe()?;
        let Plan { rate, register_rate, undisturbed, .. } = self.plan;
        (self.progress)(&format!(
            "undisturbed: {} s, {rate} calls/s, {register_rate} REGISTER/s",
            undisturbed.as_secs()
        ));
        let from = clock();
        let until = from + undisturbed;
        self.runtime.block_on(async {
            self.load.call_while(&self.calls, || clock() < until).await;
            self.load.settle().await;
        });
        let mut seen = Seen::default();
        self.look(from, None, &mut seen)?;
        Ok(Row::new("none", "-", seen, None, (CALL_LATE, Some(REGISTER_LATE))))
    }

    /// The number of the node at this place in the order of identifiers.
    fn node(&mut self, place: u8) -> Result<u8, Error> {
        let order = wait_for(SETTLE, || {
            let pools = self.launcher.pools(&registrar(1))?;
            let mut nodes = pools.elements("location-db").to_vec();
            nodes.sort_by(|left, right| left.id.cmp(&right.id));
            let address = nodes.get(usize::from(place))?.address.clone();
            (1..=NODES).find(|n| self.launcher.database_address(*n).to_string() == address)
        });
        order.ok_or_else(|| self.unsettled())
    }

    fn unsettled(&mut self) -> Error {
        Error::Unsettled { folder: self.launcher.keep_folder().to_owned() }
    }

    /// One fault of one node, under calls; everything is as it was afterwards.
    fn round(
        &mut self,
        fault: Fault,
        node: u8,
        round: String,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        self.rounds += 1;
        let place = if node == 0 { "all nodes".to_owned() } else { format!("node {node}") };
        let from = clock();
        let fresh = phones(
            &self.launcher,
            &format!("n{}-", self.rounds),
            if fault == Fault::KillAll { 0 } else { FRESH },
            0,
            self.plan.seed,
        );
        let prefix = fresh.prefix.clone();
        let fresh = self.runtime.block_on(Load::open(fresh))?;
        let Self { runtime, load, calls, launcher, rng, .. } = self;
        let pause = Duration::from_millis(rng.u64(..PAUSE_MS));
        let inflicted = std::thread::scope(|scope| {
            let inflicting = scope.spawn(|| {
                sleep(pause);
                inflict(launcher, fault, node)
            });
            runtime.block_on(async {
                tokio::join!(
                    load.call_while(calls, || !inflicting.is_finished()),
                    fresh.register(FRESH_RATE, None),
                );
                load.settle().await;
            });
            inflicting.join()
        });
        let inflicted = inflicted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        seen.count += 1;
        seen.back.push(inflicted.back);
        seen.incremental += inflicted.incremental;
        seen.complete += inflicted.complete;
        let asked = fresh.board().registers().len();
        self.users.extend((0..asked).map(|n| format!("{prefix}{n}")));
        let before = (seen.lost, seen.not_found, seen.registers.len());
        self.look(from, Some(&fresh), seen)?;
        let worst = seen.registers[before.2..].iter().map(|register| register.answer).max();
        let failed = seen.registers[before.2..].iter().filter(|register| register.status != 200);
        (self.progress)(&format!(
            "{} {round}: {place}: back after {:.1} s ({} by IST, {} by SST), worst REGISTER {} ms, {} not answered 200, {} bindings lost, {} not found",
            fault.name(),
            inflicted.back.as_secs_f64(),
            inflicted.incremental,
            inflicted.complete,
            worst.unwrap_or_default().as_millis(),
            failed.count(),
            seen.lost - before.0,
            seen.not_found - before.1,
        ));
        Ok(())
    }

    /// A proxy that finds everybody would find users who do not exist.
    fn check_probe(&self) -> Result<(), Error> {
        for n in 1..=PROXIES {
            let Way { own, core, admin, domain } = self.way(n);
            let before = probe::lookups(admin)?;
            let missing = probe::missing(own, core, &domain, &["nobody".to_owned()])?;
            sleep(COUNTED);
            if missing.len() != 1 || probe::lookups(admin)? == before {
                let problem = format!("sip-proxy-{n} does not say whom it does not find");
                return Err(std::io::Error::other(problem).into());
            }
        }
        Ok(())
    }

    fn way(&self, n: u8) -> Way {
        let slice = self.launcher.slice();
        let host = slice.host(40 + n);
        Way {
            own: slice.host(201),
            core: SocketAddr::new(host, 5060),
            admin: SocketAddr::new(host, 9090),
            domain: self.launcher.layout().domain.clone(),
        }
    }

    /// Notes what the phones saw since `from`, and looks for every binding in the database and at both proxies.
    fn look(&mut self, from: Instant, fresh: Option<&Load>, seen: &mut Seen) -> Result<(), Error> {
        let boards = [Some(self.load.board()), fresh.map(Load::board)];
        for board in boards.into_iter().flatten() {
            seen.calls.extend(board.calls().into_iter().filter(|call| call.started >= from));
            let registers = board.registers().into_iter();
            seen.registers.extend(registers.filter(|r| r.started >= from && !r.fetch));
        }
        seen.still = seen.still.max(self.load.board().longest_still(from));
        self.runtime.block_on(self.load.verify(REGISTER_RATE));
        seen.lost += self.load.bindings_lost();
        seen.phones_lost = self.load.report().phones_lost;

        // Users whose phones are gone, or who never were acknowledged, cannot answer.
        let users: Vec<String> = match fresh {
            Some(_) => self.users.clone(),
            None => self.users.iter().take(self.plan.phones as usize).cloned().collect(),
        };
        for n in 1..=PROXIES {
            let Way { own, core, admin, domain } = self.way(n);
            let probing = std::thread::scope(|scope| {
                let probing = scope.spawn(|| {
                    let before = probe::lookups(admin)?;
                    let missing = probe::missing(own, core, &domain, &users)?;
                    sleep(COUNTED);
                    std::io::Result::Ok((missing, probe::lookups(admin)?.saturating_sub(before)))
                });
                // Phones answer only while they are run.
                self.runtime.block_on(async {
                    while !probing.is_finished() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                probing.join()
            });
            let (missing, lookups) =
                probing.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            if !missing.is_empty() {
                let some: Vec<&str> = missing.iter().take(5).map(String::as_str).collect();
                (self.progress)(&format!(
                    "  sip-proxy-{n} does not find {}: {} …",
                    missing.len(),
                    some.join(", ")
                ));
            }
            seen.not_found += missing.len();
            // Who is not found was looked for in the database, too.
            seen.not_in_copy += lookups.saturating_sub(missing.len() as u64);
        }
        // The phones of this round end with it.
        self.users.truncate(self.plan.phones as usize);
        Ok(())
    }
}

/// How a proxy is asked.
struct Way {
    own: IpAddr,
    core: SocketAddr,
    admin: SocketAddr,
    domain: String,
}

fn phones(
    launcher: &Launcher,
    prefix: &str,
    callees: usize,
    callers: usize,
    seed: u64,
) -> LoadConfig {
    let edge = |n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n));
    LoadConfig {
        domain: launcher.layout().domain.clone(),
        source: launcher.slice().host(200),
        transport: Transport::Udp,
        callee_gateway: edge(1),
        caller_gateway: edge(2),
        callees,
        callers,
        prefix: prefix.to_owned(),
        expires: 3600,
        seed,
        password: None,
    }
}

/// Starts two registrars, gateways and proxies and three database nodes; all are in service when this returns.
///
/// # Errors
/// When somebody does not come into service.
pub fn start(launcher: &mut Launcher) -> Result<(), Error> {
    let mut names = Vec::new();
    for n in 1..=REGISTRARS {
        names.push(launcher.spawn_registrar(n)?);
    }
    launcher.start_databases()?;
    for n in 1..=PROXIES {
        names.push(launcher.spawn_proxy(n)?);
    }
    for n in 1..=GATEWAYS {
        names.push(launcher.spawn_gateway(n)?);
    }
    for name in names {
        launcher.wait_ready(&name)?;
    }
    await_service(launcher, NODES)
}

/// Whether every registrar knows every element and so many database nodes.
fn is_complete(launcher: &mut Launcher, nodes: u8) -> bool {
    let pools = [("sip-proxy", PROXIES), ("sip-gateway", GATEWAYS), ("location-db", nodes)];
    service::is_complete(launcher, REGISTRARS, &pools)
}

/// Waits until that is so.
fn await_service(launcher: &mut Launcher, nodes: u8) -> Result<(), Error> {
    let complete = wait_for(SETTLE, || is_complete(launcher, nodes).then_some(()));
    complete.ok_or_else(|| Error::Unsettled { folder: launcher.keep_folder().to_owned() })
}

/// What became of a fault.
struct Inflicted {
    /// From the moment when the node might go on until all were in the pool.
    back: Duration,
    incremental: u32,
    complete: u32,
}

/// Inflicts a fault and undoes it; everything is in service again afterwards.
fn inflict(launcher: &mut Launcher, fault: Fault, node: u8) -> Result<Inflicted, Error> {
    let nodes: Vec<u8> = if fault == Fault::KillAll { (1..=NODES).collect() } else { vec![node] };
    let written = |launcher: &Launcher, n| {
        fs::metadata(launcher.database_log(n)).map_or(0, |log| log.len() as usize)
    };
    let before: Vec<usize> = nodes.iter().map(|n| written(launcher, *n)).collect();
    let name = |n: u8| format!("location-db-{n}");
    let (from, until) = match fault {
        Fault::Cut => {
            link::cut(launcher.database_address(node))?;
            sleep(AWAY);
            let from = clock();
            link::mend()?;
            (from, await_return(launcher)?)
        }
        Fault::Freeze => {
            signal(launcher, node, Signal::SIGSTOP);
            sleep(AWAY);
            let from = clock();
            signal(launcher, node, Signal::SIGCONT);
            (from, await_return(launcher)?)
        }
        Fault::Kill => {
            signal(launcher, node, Signal::SIGKILL);
            sleep(AWAY);
            let from = clock();
            launcher.restart(&name(node))?;
            (from, await_return(launcher)?)
        }
        Fault::KillAll => {
            nodes.iter().for_each(|n| signal(launcher, *n, Signal::SIGKILL));
            sleep(ALL_AWAY);
            let from = clock();
            launcher.respawn(&name(1))?;
            launcher.respawn(&name(2))?;
            await_service(launcher, 2)?;
            let until = clock();
            launcher.restart(&name(3))?;
            await_return(launcher)?;
            (from, until)
        }
    };
    let back = until.saturating_duration_since(from);
    // Under calls for a while yet.
    sleep(Duration::from_millis(PAUSE_MS));
    let (mut incremental, mut complete) = (0, 0);
    for (n, before) in nodes.iter().zip(before) {
        let log = fs::read(launcher.database_log(*n)).unwrap_or_default();
        let log = String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned();
        if log.contains("rsync SST completed") {
            complete += 1;
        } else if log.contains("IST received") {
            incremental += 1;
        }
    }
    Ok(Inflicted { back, incremental, complete })
}

/// A node that goes on takes itself for a part of the cluster for a moment, is in the pool again, and out once more: waits
/// until it is there to stay. Since when it has been.
fn await_return(launcher: &mut Launcher) -> Result<Instant, Error> {
    loop {
        await_service(launcher, NODES)?;
        let since = clock();
        let left = wait_for(STAYS, || (!is_complete(launcher, NODES)).then_some(()));
        if left.is_none() {
            return Ok(since);
        }
    }
}

/// To MariaDB itself; whoever is gone needs none.
fn signal(launcher: &mut Launcher, n: u8, signal: Signal) {
    if let Some(pid) = launcher.database_pid(n) {
        let _ = kill(pid, signal);
    }
}
