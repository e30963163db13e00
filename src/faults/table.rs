//! What was measured, as a table for people and as JSON for scripts: what all these commands have in common.

use std::{
    fmt::{Display, Write as _},
    io,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use dialtone_daemon::exit;
use serde::Serialize;

/// Other work on the machine may stretch a bound by this much before the command calls it broken: real time is not
/// what decides about a protocol, simulated time is.
pub const TOLERANCE: u32 = 3;

/// A row that says whether its bounds held.
pub trait Verdict {
    /// They held every time.
    fn held(&self) -> bool;

    /// Other work on the machine does not explain what was measured.
    fn broken(&self) -> bool;

    /// What stands in the last column.
    fn word(&self) -> String {
        let word = match (self.held(), self.broken()) {
            (true, _) => "yes",
            (_, false) => "no",
            (_, true) => "BROKEN",
        };
        word.to_owned()
    }
}

/// Measures with processes of this program, which tells a line at a time what it does, and prints the rows; exit code 1
/// when one is broken.
pub(super) fn conduct<R, E>(
    json: bool,
    table: impl FnOnce(&[R]) -> String,
    measure: impl FnOnce(&Path, fn(&str)) -> Result<Vec<R>, E>,
) -> ExitCode
where
    R: Serialize + Verdict,
    E: Display + From<io::Error>,
{
    let binary = std::env::current_exe().map_err(E::from);
    match binary.and_then(|binary| measure(&binary, |line| eprintln!("{line}"))) {
        Ok(rows) => {
            match serde_json::to_string_pretty(&rows) {
                Ok(text) if json => println!("{text}"),
                _ => print!("{}", table(&rows)),
            }
            ExitCode::from(u8::from(rows.iter().any(R::broken)))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// Cells in columns: the first `names` and the last one to the left, numbers to the right.
pub(super) fn columns<const N: usize>(cells: &[[String; N]], names: usize) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in cells {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = match column {
                _ if column == N - 1 => writeln!(text, "{gap}{cell}"),
                _ if column < names => write!(text, "{gap}{cell:width$}"),
                _ => write!(text, "{gap}{cell:>width$}"),
            };
        }
    }
    text
}

/// One fault, inflicted several times.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub fault: String,
    pub effect: Effect,
}

/// What a fault may do at most, and what it did each time.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// So many may be concerned, and so many were.
    Count { bound: u32, samples: Vec<u32> },
    /// So long it may take, and so long it took.
    Time { bound: Duration, samples: Vec<Duration> },
}

#[derive(Serialize)]
struct RowJson<'r> {
    fault: &'r str,
    rounds: usize,
    unit: &'static str,
    bound: f64,
    worst: f64,
    median: f64,
    held: bool,
    broken: bool,
    samples: Vec<f64>,
}

impl Row {
    /// The bound held every time.
    pub fn held(&self) -> bool {
        self.within(1)
    }

    /// Other work on the machine does not explain it: something is beyond [`TOLERANCE`] times its bound.
    pub fn broken(&self) -> bool {
        !self.within(TOLERANCE)
    }

    fn within(&self, times: u32) -> bool {
        match &self.effect {
            Effect::Count { bound, samples } => {
                samples.iter().all(|count| *count <= *bound * times)
            }
            Effect::Time { bound, samples } => samples.iter().all(|time| *time <= *bound * times),
        }
    }

    fn numbers(&self) -> (&'static str, f64, Vec<f64>) {
        let (unit, bound, mut samples): (_, _, Vec<f64>) = match &self.effect {
            Effect::Count { bound, samples } => {
                ("", f64::from(*bound), samples.iter().map(|count| f64::from(*count)).collect())
            }
            Effect::Time { bound, samples } => {
                (" s", bound.as_secs_f64(), samples.iter().map(Duration::as_secs_f64).collect())
            }
        };
        samples.sort_by(f64::total_cmp);
        (unit, bound, samples)
    }
}

/// The rows in columns: fault, rounds, bound, worst, median, held.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![["fault", "rounds", "bound", "worst", "median", "held"].map(String::from)];
    for row in rows {
        let (unit, bound, samples) = row.numbers();
        let show = |value: Option<&f64>| match value {
            Some(value) if unit.is_empty() => format!("{value}"),
            Some(value) => format!("{value:.2}{unit}"),
            None => "-".to_owned(),
        };
        let verdict = match (row.held(), row.broken()) {
            (true, _) => "yes".to_owned(),
            (_, false) => "no".to_owned(),
            (_, true) if bound == 0.0 => "BROKEN".to_owned(),
            (_, true) => format!("BROKEN, more than {TOLERANCE} times"),
        };
        cells.push([
            row.fault.clone(),
            samples.len().to_string(),
            show(Some(&bound)),
            show(samples.last()),
            show(samples.get(samples.len() / 2)),
            verdict,
        ]);
    }
    columns(&cells, 1)
}

/// The rows as one JSON array; times in seconds.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<RowJson<'_>> = rows
        .iter()
        .map(|row| {
            let (unit, bound, samples) = row.numbers();
            RowJson {
                fault: &row.fault,
                rounds: samples.len(),
                unit: if unit.is_empty() { "count" } else { "seconds" },
                bound,
                worst: samples.last().copied().unwrap_or_default(),
                median: samples.get(samples.len() / 2).copied().unwrap_or_default(),
                held: row.held(),
                broken: row.broken(),
                samples,
            }
        })
        .collect();
    serde_json::to_string_pretty(&rows).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_whether_they_held() {
        let s = Duration::from_secs_f64;
        let time = |samples: &[f64]| Row {
            fault: "kill".to_owned(),
            effect: Effect::Time {
                bound: s(1.0),
                samples: samples.iter().map(|t| s(*t)).collect(),
            },
        };
        let count =
            |n| Row { fault: "lost".into(), effect: Effect::Count { bound: 0, samples: vec![n] } };
        assert!(time(&[0.5, 1.0]).held());
        assert!(!time(&[0.5, 1.5]).held() && !time(&[0.5, 1.5]).broken());
        assert!(time(&[3.5]).broken());
        assert!(count(0).held() && count(1).broken());
        assert_eq!(
            table(&[time(&[2.5, 0.25, 0.5]), count(0)]),
            "fault  rounds   bound   worst  median  held\n\
             kill        3  1.00 s  2.50 s  0.50 s  no\n\
             lost        1       0       0       0  yes\n"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&[time(&[2.5, 0.25])])).unwrap();
        assert_eq!(json[0]["worst"], 2.5);
        assert_eq!(json[0]["held"], false);
    }
}
