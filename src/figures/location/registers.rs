//! REGISTERs through one gateway and two proxies at given rates.

use std::{fmt::Write as _, path::Path};

use dialtone_bench::{
    load::{Load, LoadConfig, Report, summarise},
    phone::Transport,
};
use serde::Serialize;

use super::{
    super::{Error, usage::cpu_seconds},
    Kind, Plan,
};
use crate::{
    faults::{calls, database},
    launcher::{Launcher, clock},
};

/// Each phone registers every so many seconds: often, but no phone sends while its last request is on its way.
const EVERY: u32 = 2;

/// One rate.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Per second.
    pub rate: u32,
    pub registers: usize,
    pub failed: usize,
    /// Sent again by phones, which do so after 500 ms.
    pub retransmissions: u32,
    /// Milliseconds from REGISTER to its answer.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub worst_ms: f64,
    /// CPU seconds of all servers per 1,000 REGISTERs, and of the phones.
    pub per_1000: f64,
    pub phones_per_1000: f64,
    /// The longest time for which the phones were not run: in the times above.
    pub still_ms: f64,
    /// How many REGISTERs per second really left.
    pub achieved: f64,
}

pub(super) fn measure(
    binary: &Path,
    plan: &Plan,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Row>, Error> {
    let mut launcher = Launcher::for_test(binary, plan.store.layout(2))?;
    progress(&format!("starting two of everything in {}", launcher.slice()));
    let started = match plan.store {
        Kind::Galera => database::start(&mut launcher),
        Kind::Sqlite => calls::start(&mut launcher),
    };
    started.map_err(|error| Error::Service(error.to_string()))?;
    // Also what runs below a sidecar.
    let pids: Vec<u32> =
        launcher.processes().iter_mut().map(|process| process.worker().0).collect();
    let cpu = || -> Result<(f64, f64), Error> {
        let mut servers = 0.0;
        for pid in &pids {
            servers += cpu_seconds(*pid)?;
        }
        Ok((servers, cpu_seconds(std::process::id())?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let gateway = launcher.layout().edge(1, launcher.slice().host(21));
    let mut rows = Vec::new();
    for &rate in &plan.register_rates {
        progress(&format!("{rate} REGISTER/s for {} s", plan.duration.as_secs()));
        let config = LoadConfig {
            domain: launcher.layout().domain.clone(),
            source: launcher.slice().host(200),
            transport: Transport::Udp,
            callee_gateway: gateway,
            caller_gateway: gateway,
            callees: (rate * EVERY) as usize,
            callers: 0,
            prefix: format!("r{rate}-"),
            expires: 3600,
            seed: 1,
            password: None,
        };
        let load = runtime.block_on(async {
            let load = Load::open(config).await?;
            load.register(f64::from(rate.min(1000)), None).await;
            std::io::Result::Ok(load)
        })?;
        let ((servers, phones), from) = (cpu()?, clock());
        let sent = runtime.block_on(load.register(f64::from(rate), Some(plan.duration)));
        let (servers_after, phones_after) = cpu()?;
        let mut registers = load.board().registers();
        registers.retain(|register| register.started >= from);
        let Report { registers, registers_failed, register_ms, retransmissions, .. } =
            summarise(&[], &registers);
        let per_1000 = |seconds: f64| 1000.0 * seconds / registers.max(1) as f64;
        rows.push(Row {
            rate,
            registers,
            failed: registers_failed,
            retransmissions,
            p50_ms: register_ms.p50,
            p99_ms: register_ms.p99,
            worst_ms: register_ms.max,
            per_1000: per_1000(servers_after - servers),
            phones_per_1000: per_1000(phones_after - phones),
            still_ms: load.board().longest_still(from).as_secs_f64() * 1e3,
            achieved: registers as f64 / sent.as_secs_f64(),
        });
    }
    Ok(rows)
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\nREGISTERs through a gateway and two proxies; times in ms, CPU seconds per 1,000\n\
         {:>8}{:>10}{:>10}{:>8}{:>12}{:>8}{:>8}{:>8}{:>10}{:>10}{:>16}\n",
        "per s",
        "sent",
        "sent/s",
        "failed",
        "sent again",
        "p50",
        "p99",
        "worst",
        "servers",
        "phones",
        "phones not run",
    );
    for row in rows {
        let Row { rate, registers, failed, retransmissions, p50_ms, p99_ms, worst_ms, .. } = row;
        let _ = writeln!(
            text,
            "{rate:>8}{registers:>10}{:>10.0}{failed:>8}{retransmissions:>12}{p50_ms:>8.1}{p99_ms:>8.1}{worst_ms:>8.1}{:>10.3}{:>10.3}{:>16.1}",
            row.achieved, row.per_1000, row.phones_per_1000, row.still_ms,
        );
    }
    text
}
