//! `dialtone faults calls`: a system with two of everything under calls; proxies are killed and frozen, registrars
//! killed, and phones say what they noticed.
//!
//! The phones live on a runtime of the calling thread; a second thread inflicts faults on the processes meanwhile.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::value_parser;
use dialtone_bench::{
    load::{CallPlan, Load, LoadConfig, summarise},
    phone::Transport,
};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{
    explain::explain,
    service::{is_complete, registrar},
    table::{TOLERANCE, Verdict, columns, conduct},
};
use crate::launcher::{self, Launcher, Layout, Signal, clock, wait_for};

const REGISTRARS: u8 = 2;
const GATEWAYS: u8 = 2;
const PROXIES: u8 = 2;

/// How much later than usual a call may be answered.
const LATE_KILLED: Duration = Duration::from_millis(250);
const LATE_FROZEN: Duration = Duration::from_millis(500);

/// So long a proxy is frozen.
const FROZEN: Duration = Duration::from_secs(3);

/// How long everything may take to be as it was, after a fault.
const SETTLE: Duration = Duration::from_secs(30);

/// A fault comes at a random moment within this time after everything is as it was.
const PAUSE_MS: u64 = 1000;

/// A killed registrar is away for up to so long: with and without takeover.
const AWAY_MS: u64 = 6000;

/// Callers; each may have several calls.
const CALLERS: usize = 200;

/// Registrations a second before the calls and when they are read back.
const REGISTER_RATE: f64 = 400.0;

/// Kill and freeze proxies, kill registrars, under calls; measure what phones notice
///
/// Two registrars, gateways and proxies and the location database run as processes in a loopback slice of their own.
/// Phones with a socket each register at gateway 1 and are called through gateway 2; half of them ring for 1 s; calls
/// last 0.1 or 2 s. Some phones register again meanwhile. Each fault is over, and everything in service again, before
/// the next one. Exit code 1 when a call fails, a phone rings twice, a BYE or a REGISTER fails, an acknowledged
/// registration is lost, something is sent again, or an answer is later than three times its bound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Proxies killed
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = value_parser!(u32).range(0..=10_000))]
    kills: u32,
    /// Proxies frozen for 3 s
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(0..=10_000))]
    freezes: u32,
    /// Registrars killed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(0..=10_000))]
    registrar_kills: u32,
    /// Calls per second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Phones that are called
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=20_000))]
    phones: u32,
    /// UDP, or TCP without a listening port
    #[arg(long, value_enum, default_value = "udp")]
    transport: Transport,
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
    pub registrar_kills: u32,
    /// Calls per second.
    pub rate: u32,
    /// Phones that are called.
    pub phones: u32,
    pub transport: Transport,
    /// How long calls go undisturbed first.
    pub undisturbed: Duration,
    /// Of who suffers and when, and of the calls.
    pub seed: u64,
}

/// The measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error("cannot play the phones: {0}")]
    Phones(#[from] io::Error),
    #[error("not everybody is in service within {} s; logs are in {}", SETTLE.as_secs(), folder.display())]
    Unsettled { folder: PathBuf },
}

/// A fault, or none, and what the phones saw under it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub fault: &'static str,
    /// How often it was inflicted.
    pub count: u32,
    pub calls: usize,
    pub calls_failed: usize,
    pub registers: usize,
    pub registers_failed: usize,
    /// Latest answer to an INVITE, ringing time left out. Milliseconds, as all times here.
    pub worst_ms: f64,
    /// 99.9th percentile of the same without faults.
    pub undisturbed_ms: f64,
    /// By how much the worst may exceed the undisturbed.
    pub bound_ms: f64,
    pub rang_twice: usize,
    pub byes_failed: usize,
    pub bindings_lost: usize,
    pub phones_lost: usize,
    pub retransmissions: u32,
    /// For how long the phones were not run at most: not counted in the times above.
    pub still_ms: f64,
    /// What failed, with the number of calls each.
    pub failures: Vec<(String, usize)>,
    pub held: bool,
    /// Other work on the machine does not explain it.
    pub broken: bool,
}

impl Row {
    /// By how much the worst exceeds the undisturbed.
    pub fn beyond_ms(&self) -> f64 {
        (self.worst_ms - self.undisturbed_ms).max(0.0)
    }

    fn judged(mut self) -> Self {
        let counts = [
            self.calls_failed,
            self.registers_failed,
            self.rang_twice,
            self.byes_failed,
            self.bindings_lost,
            self.phones_lost,
            self.retransmissions as usize,
        ];
        let clean = counts.iter().all(|count| *count == 0);
        self.held = clean && self.beyond_ms() <= self.bound_ms;
        self.broken = !clean || self.beyond_ms() > self.bound_ms * f64::from(TOLERANCE);
        self
    }
}

impl Verdict for Row {
    fn held(&self) -> bool {
        self.held
    }

    fn broken(&self) -> bool {
        self.broken
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        kills: args.kills,
        freezes: args.freezes,
        registrar_kills: args.registrar_kills,
        rate: args.rate,
        phones: args.phones,
        transport: args.transport,
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
    for (fault, count) in [
        (Fault::KillProxy, plan.kills),
        (Fault::FreezeProxy, plan.freezes),
        (Fault::KillRegistrar, plan.registrar_kills),
    ] {
        if count > 0 {
            rows.push(lab.under(fault, count, undisturbed)?);
        }
    }
    if rows.iter().any(|row| row.broken) {
        let folder = lab.launcher.keep_folder().display().to_string();
        (lab.progress)(&format!("a bound is broken; logs are in {folder}"));
    }
    Ok(rows)
}

/// What is done to a part of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGSTOP, and SIGCONT after 3 s.
    FreezeProxy,
    /// SIGKILL, and started again.
    KillProxy,
    /// SIGKILL, and started again after a while.
    KillRegistrar,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::FreezeProxy => "proxy frozen",
            Self::KillProxy => "proxy killed",
            Self::KillRegistrar => "registrar killed",
        }
    }

    fn bound(self) -> Duration {
        match self {
            Self::FreezeProxy => LATE_FROZEN,
            Self::KillProxy | Self::KillRegistrar => LATE_KILLED,
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
    undisturbed: Duration,
    progress: P,
}

impl<P: FnMut(&str) + Send> Lab<P> {
    fn start(binary: &Path, plan: Plan, mut progress: P) -> Result<Self, Error> {
        let layout = Layout { registrars: REGISTRARS, ..Layout::default() };
        let mut launcher = Launcher::for_test(binary, layout)?;
        progress(&format!(
            "seed {}: starting {REGISTRARS} registrars, {GATEWAYS} gateways, {PROXIES} proxies and the location database in {}",
            plan.seed,
            launcher.slice()
        ));
        start(&mut launcher)?;
        let edge = |n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n));
        let config = LoadConfig {
            domain: launcher.layout().domain.clone(),
            source: launcher.slice().host(200),
            transport: plan.transport,
            callee_gateway: edge(1),
            caller_gateway: edge(2),
            callees: plan.phones as usize,
            callers: CALLERS,
            prefix: "u".to_owned(),
            expires: 3600,
            seed: plan.seed,
            password: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        progress(&format!("registering {} phones over {:?}", plan.phones, plan.transport));
        let load = runtime.block_on(async {
            let load = Load::open(config).await?;
            load.register(REGISTER_RATE, None).await;
            io::Result::Ok(load)
        })?;
        let calls = CallPlan {
            rate: plan.rate.into(),
            duration: plan.undisturbed,
            holds: vec![Duration::from_millis(100), Duration::from_secs(2)],
            ring_share: 0.5,
            ring: Duration::from_secs(1),
            reregister: 10.0,
        };
        let rng = fastrand::Rng::with_seed(plan.seed);
        let undisturbed = plan.undisturbed;
        Ok(Self { runtime, load, calls, launcher, rng, undisturbed, progress })
    }

    fn undisturbed(&mut self) -> Result<Row, Error> {
        let rate = self.calls.rate;
        (self.progress)(&format!("undisturbed: {} s, {rate} calls/s", self.undisturbed.as_secs()));
        let from = clock();
        let until = from + self.undisturbed;
        self.runtime.block_on(async {
            self.load.call_while(&self.calls, || clock() < until).await;
            self.load.settle().await;
        });
        Ok(self.row("none", 0, from, None, LATE_KILLED))
    }

    fn under(&mut self, fault: Fault, count: u32, undisturbed_ms: f64) -> Result<Row, Error> {
        let from = clock();
        let Self { runtime, load, calls, launcher, rng, progress, .. } = self;
        let inflicted = std::thread::scope(|scope| {
            let inflicting = scope.spawn(|| inflict(launcher, rng, fault, count, progress));
            runtime.block_on(async {
                load.call_while(calls, || !inflicting.is_finished()).await;
                load.settle().await;
            });
            inflicting.join()
        });
        let moments = inflicted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let row = self.row(fault.name(), count, from, Some(undisturbed_ms), fault.bound());
        let late = Duration::from_secs_f64((row.undisturbed_ms + row.bound_ms) / 1e3);
        explain(&self.load.board().calls(), from, late, &moments, &mut self.progress);
        Ok(row)
    }

    /// What the phones saw since `from`.
    fn row(
        &mut self,
        fault: &'static str,
        count: u32,
        from: Instant,
        undisturbed_ms: Option<f64>,
        bound: Duration,
    ) -> Row {
        self.runtime.block_on(self.load.verify(REGISTER_RATE));
        let mut calls = self.load.board().calls();
        calls.retain(|call| call.started >= from);
        let mut registers = self.load.board().registers();
        registers.retain(|register| register.started >= from);
        let seen = summarise(&calls, &registers);
        Row {
            fault,
            count,
            calls: seen.calls,
            calls_failed: seen.calls_failed,
            registers: seen.registers,
            registers_failed: seen.registers_failed,
            worst_ms: seen.answer_ms.max,
            undisturbed_ms: undisturbed_ms.unwrap_or(seen.answer_ms.p999),
            bound_ms: bound.as_secs_f64() * 1e3,
            rang_twice: seen.rang_twice,
            byes_failed: seen.byes_failed,
            bindings_lost: self.load.bindings_lost(),
            phones_lost: self.load.report().phones_lost,
            retransmissions: seen.retransmissions,
            still_ms: self.load.board().longest_still(from).as_secs_f64() * 1e3,
            failures: seen.failures,
            held: false,
            broken: false,
        }
        .judged()
    }
}

/// Starts two registrars, gateways and proxies and the location database; all are in service when this returns.
///
/// # Errors
/// When somebody does not come into service.
pub fn start(launcher: &mut Launcher) -> Result<(), Error> {
    let mut names = Vec::new();
    for n in 1..=REGISTRARS {
        names.push(launcher.spawn_registrar(n)?);
    }
    names.push(launcher.spawn_location_db()?);
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
    let pools = [("sip-proxy", PROXIES), ("sip-gateway", GATEWAYS), ("location-db", 1)];
    let complete = wait_for(SETTLE, || is_complete(launcher, REGISTRARS, &pools).then_some(()));
    complete.ok_or_else(|| Error::Unsettled { folder: launcher.keep_folder().to_owned() })
}

/// Inflicts a fault `count` times, at random moments, on a random part of what [`start`] started; it is over, and
/// everything in service again, before the next one. Says when, and on whom.
///
/// # Errors
/// When somebody is not in service again afterwards.
pub fn inflict(
    launcher: &mut Launcher,
    rng: &mut fastrand::Rng,
    fault: Fault,
    count: u32,
    mut progress: impl FnMut(&str),
) -> Result<Vec<(Instant, String)>, Error> {
    let mut moments = Vec::new();
    for n in 1..=count {
        sleep(Duration::from_millis(rng.u64(..PAUSE_MS)));
        let name = match fault {
            Fault::FreezeProxy | Fault::KillProxy => format!("sip-proxy-{}", rng.u8(1..=PROXIES)),
            Fault::KillRegistrar => registrar(rng.u8(1..=REGISTRARS)),
        };
        progress(&format!("{} {n}/{count}: {name}", fault.name()));
        moments.push((clock(), format!("{} {n} ({name})", fault.name())));
        match fault {
            Fault::FreezeProxy => {
                launcher.kill(&name, Signal::SIGSTOP)?;
                sleep(FROZEN);
                launcher.kill(&name, Signal::SIGCONT)?;
                moments.push((clock(), format!("{name} went on")));
            }
            Fault::KillProxy => {
                launcher.kill(&name, Signal::SIGKILL)?;
                launcher.restart(&name)?;
            }
            Fault::KillRegistrar => {
                launcher.kill(&name, Signal::SIGKILL)?;
                sleep(Duration::from_millis(rng.u64(..AWAY_MS)));
                launcher.restart(&name)?;
            }
        }
        await_service(launcher)?;
    }
    // The last fault has its consequences under calls, too.
    sleep(Duration::from_millis(PAUSE_MS));
    Ok(moments)
}

/// The rows in columns; what failed stands below.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        [
            "fault",
            "count",
            "calls",
            "failed",
            "worst answer",
            "undisturbed p99.9",
            "beyond",
            "bound",
            "rang twice",
            "BYE failed",
            "REGISTER failed",
            "bindings lost",
            "retransmissions",
            "phones not run",
            "held",
        ]
        .map(String::from),
    ];
    let mut failures = String::new();
    for row in rows {
        let shown = |value: f64| format!("{value:.1} ms");
        cells.push([
            row.fault.to_owned(),
            row.count.to_string(),
            row.calls.to_string(),
            row.calls_failed.to_string(),
            shown(row.worst_ms),
            shown(row.undisturbed_ms),
            shown(row.beyond_ms()),
            shown(row.bound_ms),
            row.rang_twice.to_string(),
            row.byes_failed.to_string(),
            format!("{} of {}", row.registers_failed, row.registers),
            row.bindings_lost.to_string(),
            row.retransmissions.to_string(),
            shown(row.still_ms),
            row.word(),
        ]);
        for (failure, count) in &row.failures {
            let _ = writeln!(failures, "{}: {count} x {failure}", row.fault);
        }
    }
    columns(&cells, 1) + &failures
}
