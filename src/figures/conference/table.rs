//! The figures as lines for people, with what is promised.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{super::median, Figures, MAX_LOSS, Plan, Run, Size};

/// Participants a core, in rooms of ten.
const PROMISED: f64 = 3000.0;

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.3} ms CPU a participant-second, {:.0} participants a core; {:.2} % of packets not heard, {} wrong mixes; \
             {} beats late, {} left out; phones {:.0} % of a core, late by {:.0} µs",
            self.size,
            self.cpu_ms(),
            self.per_core(),
            100.0 * self.loss(),
            self.wrong,
            self.late,
            self.left_out,
            100.0 * self.phones_share,
            self.phones_late_us,
        )
    }
}

/// The figures as lines for people.
pub fn table(plan: &Plan, figures: &Figures) -> String {
    let mut text = format!("{}\n", figures.conditions);
    let _ = writeln!(
        text,
        "{} rounds of {} s a size, medians; G.711, real sockets; {} mixing threads on cores {:?}, the phones on another\n",
        plan.rounds,
        plan.duration.as_secs_f64(),
        figures.threads,
        figures.cores,
    );
    let _ = writeln!(
        text,
        "{:<22}{:>10}{:>14}{:>13}{:>13}{:>10}{:>8}  late, left-out beats",
        "participants", "CPU s/s", "ms CPU each/s", "a core", "kB each", "heard %", "wrong",
    );
    let runs = |size: Size| figures.runs.iter().filter(move |run| run.size == size);
    let of = |size: Size, figure: &dyn Fn(&Run) -> f64| median(runs(size).map(figure));
    for size in &plan.sizes {
        let memory = |run: &Run| (run.resident_bytes + run.buffer_bytes.unwrap_or_default()) / 1e3;
        let _ = writeln!(
            text,
            "{:<22}{:>10.3}{:>14.3}{:>13.0}{:>13.1}{:>10.2}{:>8}  {:.0}, {:.0}",
            size.to_string(),
            of(*size, &|run| run.cpu_seconds / run.seconds),
            of(*size, &Run::cpu_ms),
            of(*size, &Run::per_core),
            of(*size, &memory),
            100.0 * (1.0 - of(*size, &Run::loss)),
            runs(*size).map(|run| run.wrong).sum::<u32>(),
            of(*size, &|run| run.late as f64),
            of(*size, &|run| run.left_out as f64),
        );
    }
    if let Some(largest) = largest(figures) {
        let per_core = of(largest, &Run::per_core);
        let held = if per_core >= PROMISED { "held" } else { "MISSED" };
        let _ = writeln!(
            text,
            "\n{per_core:.0} participants a core, measured with {largest}; promised at least {PROMISED:.0}: {held}"
        );
    }
    let most = |figure: fn(&Run) -> f64| figures.runs.iter().map(figure).fold(0.0, f64::max);
    let wrong: u32 = figures.runs.iter().map(|run| run.wrong).sum();
    let _ = writeln!(
        text,
        "each mix verified by its tones: {}, {wrong} wrong; at most {:.3} % of the packets not heard (at most {:.1} %)\n\
         CPU time is the server's user and system time, with the delivery of what it sends; the kernel's own threads had up to {:.1} % of a core\n\
         memory is resident memory and {}; the phones needed up to {:.0} % of a core and were late by up to {:.0} µs",
        if figures.runs.iter().all(Run::is_valid) { "valid" } else { "NOT VALID" },
        100.0 * most(Run::loss),
        100.0 * MAX_LOSS,
        100.0 * most(|run| run.softirq_share),
        match figures.runs.iter().all(|run| run.buffer_bytes.is_some()) {
            true => "what waits in socket buffers",
            false => "no socket buffers (ss of iproute2 is missing)",
        },
        100.0 * most(|run| run.phones_share),
        most(|run| run.phones_late_us),
    );
    for mixing in &figures.mixing {
        let super::Mixing { codec, taken_ns, mixed_ns } = mixing;
        let _ = writeln!(
            text,
            "without sockets, rooms of ten who all speak {codec}: {taken_ns:.0} ns to take a packet, {mixed_ns:.0} ns to \
             decode, mix and encode a frame"
        );
    }
    text
}

/// The most participants in rooms of ten whose mixes were all right.
fn largest(figures: &Figures) -> Option<Size> {
    let right = figures.runs.iter().filter(|run| run.size.room == 10 && run.is_valid());
    right.map(|run| run.size).max_by_key(|size| size.participants)
}
