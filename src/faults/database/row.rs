//! What phones saw of the faults of one kind, and how that is shown.

use std::{fmt::Write as _, time::Duration};

use dialtone_bench::{
    board::{Call, Register},
    load::summarise,
};
use serde::Serialize;

use super::super::table::{TOLERANCE, Verdict, columns};

/// How long a REGISTER may wait that is refused in the end: a stall of the cluster, after which there might have been
/// somebody. Those that come later are refused at once.
const REFUSED_WITHIN: Duration = Duration::from_secs(4);

/// A fault, or none, and what was seen under it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub fault: &'static str,
    /// Whom it befell.
    pub node: &'static str,
    /// How often it was inflicted.
    pub count: u32,
    pub calls: usize,
    pub calls_failed: usize,
    /// Latest answer to an INVITE, ringing time left out. Milliseconds, as all times here but those in seconds.
    pub worst_ms: f64,
    /// 99.9th percentile of the same without faults.
    pub undisturbed_ms: f64,
    /// By how much the worst may exceed the undisturbed.
    pub bound_ms: f64,
    pub rang_twice: usize,
    pub byes_failed: usize,
    /// Requests of calls that were sent again.
    pub retransmissions: u32,
    pub registers: usize,
    pub registers_failed: usize,
    /// Answered 503 with Retry-After: only right when all nodes are gone.
    pub registers_refused: usize,
    /// When these were refused.
    pub refused_median_ms: f64,
    pub refused_worst_ms: f64,
    pub register_worst_ms: f64,
    pub register_bound_ms: f64,
    /// Acknowledged bindings that the database does not have as they were acknowledged.
    pub lost: usize,
    /// Acknowledged bindings that one of the proxies does not find, and those that it had to ask the database for.
    pub not_found: usize,
    pub not_in_copy: u64,
    pub phones_lost: usize,
    /// Until the node was in the pool again, or all was well again: the longest time, seconds.
    pub back_s: f64,
    /// Rejoined with what they had missed, and with a copy of everything.
    pub incremental: u32,
    pub complete: u32,
    pub still_ms: f64,
    /// What failed, with the number of each.
    pub failures: Vec<(String, usize)>,
    pub held: bool,
    /// Other work on the machine does not explain it.
    pub broken: bool,
}

/// What was seen in the rounds of one row.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) count: u32,
    pub(super) calls: Vec<Call>,
    pub(super) registers: Vec<Register>,
    pub(super) lost: usize,
    pub(super) not_found: usize,
    pub(super) not_in_copy: u64,
    pub(super) phones_lost: usize,
    pub(super) back: Vec<Duration>,
    pub(super) incremental: u32,
    pub(super) complete: u32,
    pub(super) still: Duration,
}

impl Row {
    pub(super) fn new(
        fault: &'static str,
        node: &'static str,
        seen: Seen,
        undisturbed_ms: Option<f64>,
        bounds: (Duration, Option<Duration>),
    ) -> Self {
        let refusal = |register: &Register| register.status == 503 && register.retry_after;
        // Without a bound for REGISTERs, there is nobody to take them.
        let may_refuse = bounds.1.is_none();
        let (refused, registers): (Vec<_>, Vec<_>) =
            seen.registers.into_iter().partition(|register| may_refuse && refusal(register));
        let calls = summarise(&seen.calls, &[]);
        let report = summarise(&[], &registers);
        let mut waits: Vec<Duration> = refused.iter().map(|register| register.answer).collect();
        waits.sort_unstable();
        let failures = calls.failures.iter().chain(&report.failures).cloned().collect();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mut row = Self {
            fault,
            node,
            count: seen.count,
            calls: calls.calls,
            calls_failed: calls.calls_failed,
            worst_ms: calls.answer_ms.max,
            undisturbed_ms: undisturbed_ms.unwrap_or(calls.answer_ms.p999),
            bound_ms: ms(bounds.0),
            rang_twice: calls.rang_twice,
            byes_failed: calls.byes_failed,
            retransmissions: calls.retransmissions,
            registers: registers.len() + refused.len(),
            registers_failed: report.registers_failed,
            registers_refused: refused.len(),
            refused_median_ms: waits.get(waits.len() / 2).copied().map_or(0.0, ms),
            refused_worst_ms: waits.last().copied().map_or(0.0, ms),
            register_worst_ms: report.register_ms.max,
            register_bound_ms: bounds.1.map_or(f64::INFINITY, ms),
            lost: seen.lost,
            not_found: seen.not_found,
            not_in_copy: seen.not_in_copy,
            phones_lost: seen.phones_lost,
            back_s: seen.back.iter().max().map_or(0.0, Duration::as_secs_f64),
            incremental: seen.incremental,
            complete: seen.complete,
            still_ms: ms(seen.still),
            failures,
            held: false,
            broken: false,
        };
        let counts = [
            row.calls_failed,
            row.rang_twice,
            row.byes_failed,
            row.retransmissions as usize,
            row.registers_failed,
            row.lost,
            row.not_found,
            row.phones_lost,
        ];
        let clean = counts.iter().all(|count| *count == 0) && row.not_in_copy == 0;
        let within = |times: f64| {
            row.beyond_ms() <= row.bound_ms * times
                && row.register_worst_ms <= row.register_bound_ms * times
                && row.refused_worst_ms <= ms(REFUSED_WITHIN) * times
        };
        (row.held, row.broken) = (clean && within(1.0), !clean || !within(f64::from(TOLERANCE)));
        row
    }

    /// By how much the worst exceeds the undisturbed.
    pub fn beyond_ms(&self) -> f64 {
        (self.worst_ms - self.undisturbed_ms).max(0.0)
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

/// The rows in columns; what failed stands below.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        [
            "fault",
            "node",
            "count",
            "calls",
            "failed",
            "worst answer",
            "beyond p99.9",
            "bound",
            "sent again",
            "REGISTERs",
            "failed",
            "503",
            "median",
            "latest",
            "worst",
            "bound",
            "lost",
            "not found",
            "not in copy",
            "back after",
            "IST",
            "SST",
            "held",
        ]
        .map(String::from),
    ];
    let mut failures = String::new();
    for row in rows {
        let shown = |value: f64| {
            if value.is_finite() { format!("{value:.0} ms") } else { "-".to_owned() }
        };
        cells.push([
            row.fault.to_owned(),
            row.node.to_owned(),
            row.count.to_string(),
            row.calls.to_string(),
            row.calls_failed.to_string(),
            shown(row.worst_ms),
            shown(row.beyond_ms()),
            shown(row.bound_ms),
            row.retransmissions.to_string(),
            row.registers.to_string(),
            row.registers_failed.to_string(),
            row.registers_refused.to_string(),
            shown(row.refused_median_ms),
            shown(row.refused_worst_ms),
            shown(row.register_worst_ms),
            shown(row.register_bound_ms),
            row.lost.to_string(),
            row.not_found.to_string(),
            row.not_in_copy.to_string(),
            format!("{:.1} s", row.back_s),
            row.incremental.to_string(),
            row.complete.to_string(),
            row.word(),
        ]);
        for (failure, count) in &row.failures {
            let _ = writeln!(failures, "{}, {}: {count} x {failure}", row.fault, row.node);
        }
    }
    columns(&cells, 2) + &failures
}
