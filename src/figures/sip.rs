//! `dialtone figures sip`: CPU time of each process for registrations and calls, and when nothing happens; memory per
//! contact.

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::value_parser;
use dialtone_bench::{
    load::{CallPlan, Load, LoadConfig, Report, summarise},
    phone::Transport,
};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{
    Conditions, Error, median, print,
    usage::{cpu_seconds, memory},
};
use crate::{
    faults::calls,
    launcher::{Launcher, Layout, clock},
};

/// Phones that register and are called, and phones that call.
const CALLEES: usize = 1000;
const CALLERS: usize = 200;

/// CPU time per REGISTER and per call of each process, and memory per contact
///
/// Two registrars, gateways and proxies and the location database run as processes in a loopback slice of their own.
/// Phones with a socket each register at gateway 1 and are called through gateway 2: INVITE, 180, 200, ACK, 1 s of
/// talk, BYE. Figures are medians over the runs. Memory is measured before the load, while contacts of further users are
/// added.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// REGISTERs per second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=100_000))]
    register_rate: u32,
    /// Calls per second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(1..=10_000))]
    call_rate: u32,
    /// Seconds of each: nothing, registrations, calls
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u32).range(1..=3600))]
    duration: u32,
    /// How often registrations and calls are measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Users that are added to see what memory they need
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=15_000))]
    contacts: u32,
    /// UDP, or TCP without a listening port
    #[arg(long, value_enum, default_value = "udp")]
    transport: Transport,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Per second.
    pub register_rate: u32,
    /// Per second.
    pub call_rate: u32,
    /// Of idleness, of registrations and of calls, each.
    pub duration: Duration,
    pub runs: u32,
    pub contacts: u32,
    pub transport: Transport,
}

/// One process's costs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub process: String,
    /// Share of a core while nothing happens, in percent.
    pub idle_percent: f64,
    /// CPU seconds per 1,000 REGISTERs.
    pub per_1000_registers: f64,
    /// CPU seconds per 1,000 calls.
    pub per_1000_calls: f64,
    /// Bytes of memory per contact; `None` for those who keep none.
    pub bytes_per_contact: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    pub rows: Vec<Row>,
    /// REGISTERs and calls of all runs, and those that failed or were sent again: figures of a system that loses
    /// something are worth little.
    pub registers: usize,
    pub registers_failed: usize,
    pub calls: usize,
    pub calls_failed: usize,
    pub retransmissions: u32,
}

impl Figures {
    /// A figure of all processes together.
    pub fn total(&self, figure: impl Fn(&Row) -> f64) -> f64 {
        self.rows.iter().map(figure).sum()
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        register_rate: args.register_rate,
        call_rate: args.call_rate,
        duration: Duration::from_secs(args.duration.into()),
        runs: args.runs,
        contacts: args.contacts,
        transport: args.transport,
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, plan, |line| eprintln!("{line}")));
    print(measured, args.json, |figures| table(&plan, figures))
}

/// Measures `plan` with processes of `binary`; says what it is doing.
///
/// # Errors
/// When the system does not come into service or a process ends.
pub fn measure(
    binary: &Path,
    plan: Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let mut launcher = Launcher::for_test(binary, Layout::default())?;
    progress(&format!("starting two of everything in {}", launcher.slice()));
    calls::start(&mut launcher).map_err(|error| Error::Service(error.to_string()))?;
    let names: Vec<(String, u32)> =
        launcher.processes().iter().map(|p| (p.name().to_owned(), p.pid())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lab = Lab { plan, launcher, names, runtime };
    let (load, bytes) = lab.contacts(&mut progress)?;
    progress(&format!("nothing for {} s", plan.duration.as_secs()));
    let before = lab.cpu()?;
    sleep(plan.duration);
    let idle: Vec<f64> =
        lab.since(&before)?.iter().map(|s| 100.0 * s / plan.duration.as_secs_f64()).collect();
    let mut load = load;
    let mut registers = Vec::new();
    let mut calls = Vec::new();
    for n in 1..=plan.runs {
        let Plan { register_rate, call_rate, duration, runs, .. } = plan;
        progress(&format!(
            "run {n} of {runs}: {register_rate} REGISTER/s, then {call_rate} calls/s, {} s each",
            duration.as_secs()
        ));
        registers.push(lab.registers(&load)?);
        calls.push(lab.calls(&mut load)?);
    }
    let seen = lab.runtime.block_on(async { load.report() });
    let of = |runs: &[Vec<f64>], process: usize| median(runs.iter().map(|run| run[process]));
    let rows = lab.names.iter().enumerate().map(|(n, (process, _))| Row {
        process: process.clone(),
        idle_percent: idle[n],
        per_1000_registers: of(&registers, n),
        per_1000_calls: of(&calls, n),
        bytes_per_contact: bytes[n],
    });
    let rows = rows.collect();
    let Report { registers, registers_failed, calls, calls_failed, retransmissions, .. } = seen;
    Ok(Figures {
        conditions: conditions.end(),
        rows,
        registers,
        registers_failed,
        calls,
        calls_failed,
        retransmissions,
    })
}

/// The processes and what plays the phones.
struct Lab {
    plan: Plan,
    launcher: Launcher,
    /// Names and numbers of the processes, in the order of their start.
    names: Vec<(String, u32)>,
    runtime: Runtime,
}

impl Lab {
    /// Opens and registers the phones of the calls, then further users; says how many bytes each process needs for one
    /// of the latter.
    fn contacts(&self, progress: &mut impl FnMut(&str)) -> Result<(Load, Vec<Option<f64>>), Error> {
        let contacts = self.plan.contacts as usize;
        progress(&format!("registering {CALLEES} phones, then {contacts} more"));
        let load = self.registered("u", CALLEES, CALLERS)?;
        let before = self.memory()?;
        let more = self.registered("m", contacts, 0)?;
        let after = self.memory()?;
        drop(more);
        let bytes = self.names.iter().zip(before.iter().zip(&after));
        let bytes = bytes.map(|((name, _), (before, after))| {
            let keeps = name.starts_with("sip-proxy") || name == "sip-gateway-1";
            keeps.then(|| after.saturating_sub(*before) as f64 / contacts as f64)
        });
        Ok((load, bytes.collect()))
    }

    fn registered(&self, prefix: &str, callees: usize, callers: usize) -> Result<Load, Error> {
        let slice = self.launcher.slice();
        let layout = self.launcher.layout();
        let config = LoadConfig {
            domain: layout.domain.clone(),
            source: slice.host(200),
            transport: self.plan.transport,
            callee_gateway: layout.edge(1, slice.host(21)),
            caller_gateway: layout.edge(2, slice.host(22)),
            callees,
            callers,
            prefix: prefix.to_owned(),
            expires: 3600,
            seed: 1,
            password: None,
        };
        let rate = f64::from(self.plan.register_rate);
        Ok(self.runtime.block_on(async {
            let load = Load::open(config).await?;
            load.register(rate, None).await;
            std::io::Result::Ok(load)
        })?)
    }

    /// CPU seconds of each process per 1,000 REGISTERs.
    fn registers(&self, load: &Load) -> Result<Vec<f64>, Error> {
        let rate = f64::from(self.plan.register_rate);
        let (before, from) = (self.cpu()?, clock());
        self.runtime.block_on(load.register(rate, Some(self.plan.duration)));
        let used = self.since(&before)?;
        let registers = summarise(&[], &started(load.board().registers(), from, |r| r.started));
        Ok(per_1000(used, registers.registers))
    }

    /// CPU seconds of each process per 1,000 calls.
    fn calls(&self, load: &mut Load) -> Result<Vec<f64>, Error> {
        let plan = CallPlan {
            rate: self.plan.call_rate.into(),
            duration: self.plan.duration,
            holds: vec![Duration::from_secs(1)],
            ring_share: 0.0,
            ring: Duration::ZERO,
            reregister: 0.0,
        };
        let (before, from) = (self.cpu()?, clock());
        self.runtime.block_on(async {
            load.call(&plan).await;
            load.settle().await;
        });
        let used = self.since(&before)?;
        Ok(per_1000(used, started(load.board().calls(), from, |call| call.started).len()))
    }

    fn cpu(&self) -> Result<Vec<f64>, Error> {
        Ok(self.names.iter().map(|(_, pid)| cpu_seconds(*pid)).collect::<Result<_, _>>()?)
    }

    fn since(&self, before: &[f64]) -> Result<Vec<f64>, Error> {
        let used = self.cpu()?.into_iter().zip(before).map(|(now, before)| now - before);
        Ok(used.collect())
    }

    fn memory(&self) -> Result<Vec<u64>, Error> {
        Ok(self.names.iter().map(|(_, pid)| memory(*pid)).collect::<Result<_, _>>()?)
    }
}

fn started<T>(mut all: Vec<T>, from: Instant, at: impl Fn(&T) -> Instant) -> Vec<T> {
    all.retain(|one| at(one) >= from);
    all
}

fn per_1000(seconds: Vec<f64>, count: usize) -> Vec<f64> {
    seconds.into_iter().map(|seconds| 1000.0 * seconds / count.max(1) as f64).collect()
}

fn table(plan: &Plan, figures: &Figures) -> String {
    let mut text = format!("{}\n", figures.conditions);
    let Plan { register_rate, call_rate, transport, runs, .. } = plan;
    let _ = writeln!(
        text,
        "{register_rate} REGISTER/s, {call_rate} calls/s, {transport:?}, {runs} runs; CPU seconds (user and system) per 1,000\n"
    );
    let _ = writeln!(
        text,
        "{:<16}{:>10}{:>12}{:>12}{:>18}",
        "process", "idle", "REGISTERs", "calls", "bytes a contact"
    );
    let mut line = |name: &str, idle: f64, registers: f64, calls: f64, bytes: Option<f64>| {
        let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"));
        let _ = writeln!(text, "{name:<16}{idle:>9.2}%{registers:>12.3}{calls:>12.3}{bytes:>18}");
    };
    for row in &figures.rows {
        let Row { process, idle_percent, per_1000_registers, per_1000_calls, bytes_per_contact } =
            row;
        line(process, *idle_percent, *per_1000_registers, *per_1000_calls, *bytes_per_contact);
    }
    line(
        "all",
        figures.total(|row| row.idle_percent),
        figures.total(|row| row.per_1000_registers),
        figures.total(|row| row.per_1000_calls),
        Some(figures.total(|row| row.bytes_per_contact.unwrap_or_default())),
    );
    let Figures { registers, registers_failed, calls, calls_failed, retransmissions, .. } = figures;
    let _ = writeln!(
        text,
        "\n{registers} REGISTERs, {registers_failed} failed; {calls} calls, {calls_failed} failed; {retransmissions} sent again"
    );
    text
}
