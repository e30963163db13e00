//! What came of it: rows, what is wrong with them, and the table.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{Plan, Seen, attack::Sent, good};

/// One kind of bad input to one port.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub process: String,
    pub port: String,
    pub kind: &'static str,
    /// Packets, messages, or connections where one is what is wrong.
    pub sent: u64,
    pub answered: u64,
    /// By how much the process's counters of what it dropped, refused or closed rose.
    pub counted: u64,
    /// The share that must be answered or counted.
    pub noticed: f64,
    /// Of the process, in kB, after a tenth and after all.
    pub resident_kb: Vec<u64>,
}

impl Row {
    /// `port` begins with the name of the process.
    pub(super) fn slow(port: &str, total: Sent, sizes: &[BTreeMap<String, u64>]) -> Self {
        let (process, port) = port.split_once(": ").unwrap_or_default();
        Self {
            process: process.to_owned(),
            port: port.to_owned(),
            kind: "a byte now and then",
            sent: total.sent,
            answered: total.answered,
            counted: 0,
            noticed: 0.0,
            resident_kb: sizes.iter().map(|sizes| sizes[process]).collect(),
        }
    }
}

/// Everything that was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub seed: u64,
    pub sent: u64,
    /// Packets per second of the two phases, waiting for counters included.
    pub rates: Vec<f64>,
    pub rows: Vec<Row>,
    /// What phones and the pool user saw meanwhile.
    pub good: good::Seen,
    /// The longest time that the machine did not run an idle thread, in milliseconds.
    pub held_up_ms: u64,
    /// What should not be, for people.
    pub wrong: Vec<String>,
    /// What should not be either, while the machine did not run everybody: real time is not what decides then.
    pub excused: Vec<String>,
}

/// Whoever does not run for so many milliseconds is taken for dead by the others, rightly.
const HELD_UP: u64 = 200;

/// After so long, everybody must have closed a slow connection.
const PATIENCE: Duration = Duration::from_secs(25);

impl Outcome {
    pub(super) fn new(
        plan: Plan,
        rows: Vec<Row>,
        good: good::Seen,
        sizes: &[BTreeMap<String, u64>],
        seen: Seen,
        rates: Vec<f64>,
        elapsed: Duration,
    ) -> Self {
        let Seen { mut wrong, absent: mut noticed, held_up_ms } = seen;
        for Row { process, port, kind, sent, answered, counted, noticed: share, .. } in &rows {
            if ((answered + counted) as f64) < *sent as f64 * share {
                wrong.push(format!(
                    "{process}, {port}, {kind}: of {sent} only {answered} answered and {counted} counted"
                ));
            }
            if *kind == "a byte now and then" && *answered == 0 && elapsed > PATIENCE {
                wrong.push(format!("{process}, {port}: slow connections stay open"));
            }
        }
        if let [first, .., last] = sizes {
            for (process, before) in first {
                let after = last.get(process).copied().unwrap_or_default();
                if after as f64 > *before as f64 * (1.0 + plan.growth) {
                    let percent = (after as f64 / *before as f64 - 1.0) * 100.0;
                    wrong.push(format!(
                        "{process}: resident memory grew from {before} to {after} kB, {percent:.1} %"
                    ));
                }
            }
        }
        let phones = &good.phones;
        for (what, count) in [
            ("REGISTERs failed", phones.registers_failed),
            ("calls failed", phones.calls_failed),
            ("phones rang twice", phones.rang_twice),
            ("BYEs failed", phones.byes_failed),
            ("bindings were lost", phones.bindings_lost),
            ("phones lost their socket", phones.phones_lost),
            ("resolutions failed", good.resolutions_failed as usize),
        ] {
            if count > 0 {
                noticed.push(format!("{count} {what}"));
            }
        }
        let mut excused = Vec::new();
        if held_up_ms > HELD_UP {
            excused = noticed;
        } else {
            wrong.extend(noticed);
        }
        let sent = rows.iter().map(|row| row.sent).sum();
        Self { seed: plan.seed, sent, rates, rows, good, held_up_ms, wrong, excused }
    }
}

/// The rows in columns; what phones saw and what is wrong stand below.
pub fn table(outcome: &Outcome) -> String {
    let mut cells = vec![
        ["process", "port", "kind", "sent", "answered", "counted", "RSS at 1/10", "RSS at the end"]
            .map(String::from),
    ];
    for row in &outcome.rows {
        let size = |n: usize| {
            row.resident_kb
                .get(n)
                .map_or_else(String::new, |kb| format!("{:.1} MB", *kb as f64 / 1024.0))
        };
        cells.push([
            row.process.clone(),
            row.port.clone(),
            row.kind.to_owned(),
            row.sent.to_string(),
            row.answered.to_string(),
            row.counted.to_string(),
            size(0),
            size(1),
        ]);
    }
    let mut text = String::new();
    let widths: Vec<usize> =
        (0..8).map(|n| cells.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    for row in &cells {
        for (n, cell) in row.iter().enumerate() {
            let width = widths[n];
            let _ = if n < 3 {
                write!(text, "{cell:width$}  ")
            } else {
                write!(text, "{cell:>width$}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let rates: Vec<String> = outcome.rates.iter().map(|rate| format!("{rate:.0}/s")).collect();
    let good = &outcome.good;
    let _ = writeln!(
        text,
        "\nseed {}, {} sent at {}\n{} resolutions meanwhile, {} failed, slowest {} ms",
        outcome.seed,
        outcome.sent,
        rates.join(" and "),
        good.resolutions,
        good.resolutions_failed,
        good.slowest_resolution_ms,
    );
    text += &good.phones.table();
    for excused in &outcome.excused {
        let _ = writeln!(
            text,
            "while the machine ran nobody for up to {} ms: {excused}",
            outcome.held_up_ms
        );
    }
    for wrong in &outcome.wrong {
        let _ = writeln!(text, "WRONG: {wrong}");
    }
    text
}
