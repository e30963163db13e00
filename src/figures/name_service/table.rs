//! The figures as lines for people, with what is promised.

use std::fmt::Write as _;

use super::{Figures, KeptAlive, Many, Row, load::Waits, rates::OUTSTANDING};

/// Of a core, for keep-alives.
const CORES: f64 = 1.0 / 3.0;
/// Seconds for taking over.
const SECONDS: f64 = 30.0;

/// The figures as lines for people.
pub fn table(figures: &Figures) -> String {
    let mut text = format!("{}\n", figures.conditions);
    if !figures.rows.is_empty() {
        let _ = writeln!(
            text,
            "\none registrar, one connection, {OUTSTANDING} pools of 3 elements; registrations are of new elements\n\n\
             {:<16}{:<6}{:>12}{:>12}{:>12}{:>24}",
            "", "link", "outstanding", "per second", "at least", "registrar CPU us each"
        );
    }
    for Row { what, link, outstanding, per_second, cpu_us, target } in &figures.rows {
        let target = target.map_or(String::new(), |target| format!("{target:.0}"));
        let _ = writeln!(
            text,
            "{what:<16}{link:<6}{outstanding:>12}{per_second:>12.0}{target:>12}{cpu_us:>24.1}"
        );
    }
    if let Some(kept) = &figures.kept_alive {
        let KeptAlive { elements, associations, per_second, cores, cpu_us, removed } = kept;
        let _ = writeln!(
            text,
            "\n{elements} elements on {associations} associations kept alive at a period of 1 s: {cores:.3} cores \
             (at most {CORES:.3})\n  {per_second:.0} keep-alives/s, {cpu_us:.1} us each; {removed} elements given up"
        );
    }
    if let Some(many) = &figures.many {
        let Many { elements, associations, registrations_per_second, cpu_us, .. } = many;
        let Waits { median_ms, p99_ms } = many.first;
        let _ = writeln!(
            text,
            "\n{elements} elements on {associations} associations without keep-alives, one registration under way on each: \
             {registrations_per_second:.0} registrations/s, {cpu_us:.1} us each\n  \
             wait of the first {}: {median_ms:.2} ms in the median, {p99_ms:.2} ms p99",
            many.compared
        );
        let Waits { median_ms, p99_ms } = many.last;
        let _ = writeln!(
            text,
            "  wait of the last {}: {median_ms:.2} ms in the median, {p99_ms:.2} ms p99; the longest of all {:.0} ms\n  \
             {:.0} bytes of memory an element",
            many.compared, many.longest_ms, many.bytes_per_element
        );
        let taken = &many.taken_over;
        let _ = writeln!(
            text,
            "\na registrar that starts has them all after {:.1} s (at most {SECONDS:.0})\n  \
             CPU {:.1} s, its mentor's {:.1} s; {:.0} bytes of memory an element; {} elements in {} pools resolved there",
            taken.seconds,
            taken.cpu_seconds,
            taken.mentor_cpu_seconds,
            taken.bytes_per_element,
            taken.answered,
            taken.resolved
        );
    }
    text
}
