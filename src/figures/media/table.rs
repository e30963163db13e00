//! The figures as lines for people, with what is promised.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{super::median, Figures, Kind, MAX_LOSS, Plan, Run, Weight};

/// Packets per core-second, as a multiple of rtpengine's.
const PACKETS: f64 = 1.5;
/// Memory of a call, as a part of rtpengine's.
const MEMORY: f64 = 0.25;
/// CPU time of setting a call up, likewise.
const SET_UP: f64 = 0.5;

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { rate, p50_us, p99_us, received, sent, .. } = self;
        let relay = self.relay.map_or("directly", Kind::name);
        write!(f, "{relay}, {rate} packets/s: ")?;
        if self.relay.is_some() {
            write!(f, "{:.0} packets per core-second, ", self.packets_per_core_second())?;
        }
        write!(
            f,
            "{p50_us:.0} µs p50, {p99_us:.0} µs p99, lost {} of {sent}, {} wrong; engine {:.0} % of a core, late by {:.0} µs",
            sent.saturating_sub(*received),
            self.wrong,
            100.0 * self.engine_share,
            self.engine_late_us,
        )
    }
}

impl Display for Weight {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} calls: {:.1} kB resident, {:.1} kB in buffers, {:.1} descriptors a call; {:.3} ms CPU a set-up",
            self.relay.name(),
            self.calls,
            self.resident_bytes / 1e3,
            self.buffer_bytes.unwrap_or(f64::NAN) / 1e3,
            self.descriptors,
            self.setup_cpu_ms,
        )
    }
}

/// What ours must be, as a multiple of theirs.
#[derive(Clone, Copy)]
enum Promise {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Promise {
    fn said(self, ratio: f64) -> String {
        let (what, held) = match self {
            Self::AtLeast(bound) => (format!("at least {bound}"), ratio >= bound),
            Self::AtMost(bound) => (format!("at most {bound}"), ratio <= bound),
            Self::None => return String::new(),
        };
        format!("{what}: {}", if held { "held" } else { "MISSED" })
    }
}

/// The figures as lines for people.
pub fn table(plan: &Plan, figures: &Figures) -> String {
    let mut text = format!("{}\n", figures.conditions);
    let theirs = figures.rtpengine.as_deref();
    let _ = writeln!(
        text,
        "{} rounds of {} s a rate; {} threads a relay on cores {:?}, the engine on another; rtpengine {}",
        plan.rounds,
        plan.duration.as_secs_f64(),
        figures.threads,
        figures.relay_cores,
        theirs.unwrap_or("is not installed: install Debian's rtpengine-daemon to compare"),
    );
    let _ =
        writeln!(text, "\n{:<36}{:>12}{:>12}{:>8}", "medians", "dialtone", "rtpengine", "ratio");
    let mut line = |name: &str, ours: f64, theirs: Option<f64>, digits: usize, promise: Promise| {
        let _ = write!(text, "{name:<36}{ours:>12.digits$}");
        if let Some(theirs) = theirs {
            let ratio = if theirs == 0.0 { f64::NAN } else { ours / theirs };
            let said = promise.said(ratio);
            let ratio = if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.2}") };
            let _ = write!(text, "{theirs:>12.digits$}{ratio:>8}  {said}");
        }
        let end = text.trim_end().len();
        text.truncate(end);
        text.push('\n');
    };
    let kinds = (Kind::Dialtone, theirs.map(|_| Kind::Rtpengine));
    for rate in &plan.rates {
        let runs = |kind: Option<Kind>| {
            figures.runs.iter().filter(move |run| run.rate == *rate && run.relay == kind)
        };
        let mut both = |name: &str, figure: &dyn Fn(&Run) -> f64, digits, promise| {
            let of = |kind| median(runs(Some(kind)).map(figure));
            line(
                &format!("{rate} packets/s: {name}"),
                of(kinds.0),
                kinds.1.map(of),
                digits,
                promise,
            );
        };
        both("per core-second", &Run::packets_per_core_second, 0, Promise::AtLeast(PACKETS));
        for (name, last) in [("added µs p50", false), ("added µs p99", true)] {
            let figure = |run: &Run| if last { run.p99_us } else { run.p50_us };
            // Against the same round's direct way.
            let direct = |round| runs(None).find(|run| run.round == round).map_or(0.0, figure);
            let added = |run: &Run| figure(run) - direct(run.round);
            both(name, &added, 1, Promise::AtMost(1.0));
        }
        both("lost per million", &|run| 1e6 * run.loss(), 0, Promise::None);
    }
    let mut weigh = |name: &str, figure: &dyn Fn(&Weight) -> f64, digits, promise| {
        let of =
            |kind| median(figures.weights.iter().filter(|weight| weight.relay == kind).map(figure));
        line(name, of(kinds.0), kinds.1.map(of), digits, promise);
    };
    let buffers = |weight: &Weight| weight.buffer_bytes.unwrap_or(f64::NAN) / 1e3;
    let memory = |weight: &Weight| {
        weight.resident_bytes / 1e3 + weight.buffer_bytes.map_or(0.0, |_| buffers(weight))
    };
    weigh("kB a call, resident and buffers", &memory, 2, Promise::AtMost(MEMORY));
    weigh("  of these in socket buffers", &buffers, 2, Promise::None);
    weigh("descriptors a call", &|weight| weight.descriptors, 2, Promise::None);
    weigh("MB resident without calls", &|weight| weight.empty_bytes as f64 / 1e6, 1, Promise::None);
    weigh("ms CPU an offer and answer", &|weight| weight.setup_cpu_ms, 3, Promise::AtMost(SET_UP));

    let calls = figures.weights.first().map_or(0, |weight| weight.calls);
    let most = |figure: fn(&Run) -> f64| figures.runs.iter().map(figure).fold(0.0, f64::max);
    let _ = writeln!(
        text,
        "\nmemory over {calls} calls with packets, set-ups over {} calls; every packet verified: {}\n\
         the engine needed up to {:.0} % of a core and was late by up to {:.0} µs; directly: {}\n\
         CPU time is a relay's user and system time, with the delivery of what it sends; the kernel's own threads had up to {:.1} % of a core",
        plan.setups,
        verdict(figures),
        100.0 * most(|run| run.engine_share),
        most(|run| run.engine_late_us),
        directly(plan, figures),
        100.0 * most(|run| run.softirq_share),
    );
    text
}

fn verdict(figures: &Figures) -> String {
    let wrong: u64 = figures.runs.iter().map(|run| run.wrong).sum();
    let sent: u64 = figures.runs.iter().map(|run| run.sent).sum();
    let dropped: u64 = figures.runs.iter().map(|run| run.dropped_here).sum();
    let worst = figures.runs.iter().map(Run::loss).fold(0.0, f64::max);
    let word = if figures.is_valid() { "valid" } else { "NOT VALID" };
    format!(
        "{word}, of {sent} packets {wrong} were wrong; {:.4} % lost at worst (at most {:.1} %), {dropped} for want of room here",
        100.0 * worst,
        100.0 * MAX_LOSS,
    )
}

fn directly(plan: &Plan, figures: &Figures) -> String {
    let of = |rate: &u32| {
        let runs = || figures.runs.iter().filter(|run| run.relay.is_none() && run.rate == *rate);
        format!(
            "{:.1} µs p50 and {:.1} µs p99 at {rate}/s",
            median(runs().map(|run| run.p50_us)),
            median(runs().map(|run| run.p99_us)),
        )
    };
    plan.rates.iter().map(of).collect::<Vec<_>>().join(", ")
}
