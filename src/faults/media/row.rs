//! What phones saw and heard of faults of one kind, and how that is shown.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use dialtone_bench::{
    board::Call,
    load::summarise,
    media::{CallMedia, MediaReport, Running, StreamReport},
};
use serde::Serialize;

use super::{
    super::table::{TOLERANCE, Verdict, columns},
    EVEN_WITHIN,
};
use crate::launcher::Launcher;

/// So many calls elsewhere that were harmed are named.
const NAMED: usize = 10;

/// Packets on their way when a relay is hit were sent this much earlier.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// People take this for lost audio, even if every packet comes in the end.
const SILENCE: Duration = Duration::from_secs(1);

/// A fault of one relay.
#[derive(Clone, Debug)]
pub(super) struct Blow {
    pub(super) relay: u8,
    /// From when until when its calls may lose audio, those aside that it had at a moment in between.
    pub(super) from: Instant,
    pub(super) until: Instant,
    /// The relay came back without its calls.
    pub(super) new: bool,
    pub(super) what: String,
    /// How long after its return calls were spread evenly; `None`: never.
    pub(super) even: Option<Duration>,
}

impl Blow {
    /// What happened when.
    pub(super) fn moments(&self) -> [(Instant, String); 2] {
        [(self.from, self.what.clone()), (self.until, format!("{} was back", self.what))]
    }

    /// Whether a call that ran then, on this relay, may have lost audio.
    fn excuses(&self, relay: u8, started: Instant, stopped: Option<Instant>) -> bool {
        relay == self.relay
            && started < self.until
            && stopped.is_none_or(|stopped| stopped + ON_THE_WAY > self.from)
    }
}

/// The relays, and where their media ports are.
#[derive(Debug)]
pub(super) struct Relays(Vec<(u8, SocketAddr, u16)>);

impl Relays {
    /// By the launcher's configurations.
    pub(super) fn of(launcher: &Launcher, count: u8) -> Self {
        let ports = |n| {
            let (address, ports) = launcher.media_ports(n);
            (n, SocketAddr::new(address, *ports.start()), *ports.end())
        };
        Self((1..=count).map(ports).collect())
    }

    /// Whose port this is.
    fn owner(&self, address: SocketAddr) -> Option<u8> {
        let owns = |(_, first, last): &&(u8, SocketAddr, u16)| {
            address.ip() == first.ip() && (first.port()..=*last).contains(&address.port())
        };
        self.0.iter().find(owns).map(|(n, ..)| *n)
    }

    /// How many of the running calls each relay has, without those that it has lost.
    pub(super) fn shares(&self, running: &[Running], lost: &[&Blow]) -> Vec<usize> {
        let mut shares = vec![0; self.0.len()];
        for call in running {
            let Some(relay) = self.owner(call.remotes[0]) else { continue };
            if !lost.iter().any(|blow| blow.excuses(relay, call.started, None)) {
                shares[usize::from(relay) - 1] += 1;
            }
        }
        shares
    }

    /// Which calls were harmed, and whether they had to be.
    pub(super) fn judge(&self, calls: &[CallMedia], blows: &[Blow]) -> Heard {
        let mut heard = Heard::default();
        let mut elsewhere = Vec::new();
        for call in calls {
            let owners = call.remotes.map(|remote| self.owner(remote?));
            let whole = call.reports.iter().flatten().all(StreamReport::is_perfect)
                && call.reports.is_some();
            let excused = owners.iter().flatten().any(|relay| {
                blows.iter().any(|blow| blow.excuses(*relay, call.started, call.stopped))
            });
            // A relay that was hit between offer and answer leaves one side without an address.
            let astray = match owners {
                [Some(caller), Some(callee)] => caller != callee,
                _ => !excused,
            };
            if astray {
                heard.astray += 1;
                heard.line(call, &format!("is not on one relay: {:?}", call.remotes));
            }
            if excused {
                heard.hit += 1;
                // What waits in the sockets of a frozen relay may all come, later: silence all the same.
                let mut reports = call.reports.iter().flatten();
                let fell_silent = reports.any(|report| report.longest_gap >= SILENCE);
                heard.hit_silent += usize::from(!whole || fell_silent);
            } else {
                if !whole {
                    heard.harmed += 1;
                    heard.line(call, &format!("on relay {:?}: {:?}", owners[0], call.reports));
                }
                elsewhere.push(call.clone());
            }
        }
        heard.elsewhere = MediaReport::of(&elsewhere);
        heard
    }
}

/// What was heard in the calls of a row.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// On the relay that suffered, and those of them that lost audio.
    hit: usize,
    hit_silent: usize,
    /// Calls elsewhere that did not hear everything as it was sent.
    harmed: usize,
    /// Whose audio does not go through one relay.
    astray: usize,
    elsewhere: MediaReport,
    /// Names some of the latter.
    pub(super) lines: Vec<String>,
}

impl Heard {
    fn line(&mut self, call: &CallMedia, what: &str) {
        if self.lines.len() < NAMED {
            self.lines.push(format!("  call {} {what}", call.call_id));
        }
    }
}

/// A fault, or none, and what was seen and heard under it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub fault: &'static str,
    /// How often it was inflicted.
    pub count: usize,
    pub calls: usize,
    pub calls_failed: usize,
    /// Latest answer to an INVITE, ringing time left out. Milliseconds.
    pub worst_ms: f64,
    /// 99.9th percentile of the same without faults.
    pub undisturbed_ms: f64,
    /// By how much the worst may exceed the undisturbed.
    pub bound_ms: f64,
    pub rang_twice: usize,
    pub byes_failed: usize,
    pub retransmissions: u32,
    /// Calls on a relay when it was hit, and those of them that lost audio.
    pub hit: usize,
    pub hit_silent: usize,
    /// All other calls, those of them that did not hear everything as it was sent, and the packets they lost.
    pub elsewhere: usize,
    pub elsewhere_harmed: usize,
    pub elsewhere_packets: u64,
    pub elsewhere_lost: u64,
    /// Calls whose audio does not go through one relay.
    pub astray: usize,
    /// Seconds until calls were spread evenly again after the relay's return, the longest; infinite if they never were.
    pub even_s: f64,
    pub even_bound_s: f64,
    /// For how long the phones were not run at most: not counted in the times above.
    pub still_ms: f64,
    /// What failed, with the number of calls each.
    pub failures: Vec<(String, usize)>,
    pub held: bool,
    /// Other work on the machine does not explain it.
    pub broken: bool,
}

impl Row {
    pub(super) fn new(
        fault: &'static str,
        blows: &[Blow],
        calls: &[Call],
        heard: &Heard,
        undisturbed_ms: Option<f64>,
        bound: Duration,
        still: Duration,
    ) -> Self {
        let seen = summarise(calls, &[]);
        let even = blows.iter().map(|blow| blow.even.map_or(f64::INFINITY, |e| e.as_secs_f64()));
        let mut row = Self {
            fault,
            count: blows.len(),
            calls: seen.calls,
            calls_failed: seen.calls_failed,
            worst_ms: seen.answer_ms.max,
            undisturbed_ms: undisturbed_ms.unwrap_or(seen.answer_ms.p999),
            bound_ms: bound.as_secs_f64() * 1e3,
            rang_twice: seen.rang_twice,
            byes_failed: seen.byes_failed,
            retransmissions: seen.retransmissions,
            hit: heard.hit,
            hit_silent: heard.hit_silent,
            elsewhere: heard.elsewhere.calls,
            elsewhere_harmed: heard.harmed,
            elsewhere_packets: heard.elsewhere.sent,
            elsewhere_lost: heard.elsewhere.lost + heard.elsewhere.unheard,
            astray: heard.astray,
            even_s: even.fold(0.0, f64::max),
            even_bound_s: EVEN_WITHIN.as_secs_f64(),
            still_ms: still.as_secs_f64() * 1e3,
            failures: seen.failures,
            held: false,
            broken: false,
        };
        let counts = [
            row.calls_failed,
            row.rang_twice,
            row.byes_failed,
            row.retransmissions as usize,
            row.elsewhere_harmed,
            row.astray,
        ];
        // Without audio nothing is shown.
        let clean = counts.iter().all(|count| *count == 0) && row.elsewhere_packets > 0;
        let within = |times: f64| {
            row.beyond_ms() <= row.bound_ms * times && row.even_s <= row.even_bound_s * times
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
            "count",
            "calls",
            "failed",
            "worst answer",
            "beyond p99.9",
            "bound",
            "rang twice",
            "BYE failed",
            "sent again",
            "on the relay",
            "lost audio",
            "elsewhere",
            "harmed",
            "packets",
            "lost",
            "astray",
            "even again",
            "phones not run",
            "held",
        ]
        .map(String::from),
    ];
    let mut failures = String::new();
    for row in rows {
        let ms = |value: f64| format!("{value:.0} ms");
        let even = if row.count == 0 { "-".to_owned() } else { format!("{:.1} s", row.even_s) };
        cells.push([
            row.fault.to_owned(),
            row.count.to_string(),
            row.calls.to_string(),
            row.calls_failed.to_string(),
            ms(row.worst_ms),
            ms(row.beyond_ms()),
            ms(row.bound_ms),
            row.rang_twice.to_string(),
            row.byes_failed.to_string(),
            row.retransmissions.to_string(),
            row.hit.to_string(),
            row.hit_silent.to_string(),
            row.elsewhere.to_string(),
            row.elsewhere_harmed.to_string(),
            row.elsewhere_packets.to_string(),
            row.elsewhere_lost.to_string(),
            row.astray.to_string(),
            even,
            ms(row.still_ms),
            row.word(),
        ]);
        for (failure, count) in &row.failures {
            let _ = writeln!(failures, "{}: {count} x {failure}", row.fault);
        }
    }
    columns(&cells, 1) + &failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn relays() -> Relays {
        let relay = |n: u8| {
            (n, SocketAddr::from(([127, 0, 0, 1], 1000 * u16::from(n))), 1000 * u16::from(n) + 999)
        };
        Relays((1..=3).map(relay).collect())
    }

    /// A call on these relays from `from` to `until` seconds after `base`, which lost so many packets.
    fn call(base: Instant, remotes: [u16; 2], from: u32, until: u32, lost: u64) -> CallMedia {
        let report = StreamReport { sent: 100, received: 100 - lost, lost, ..Default::default() };
        CallMedia {
            call_id: format!("{remotes:?} {from}-{until}"),
            started: base + from * SECOND,
            stopped: Some(base + until * SECOND),
            remotes: remotes
                .map(|port| (port > 0).then_some(SocketAddr::from(([127, 0, 0, 1], port)))),
            reports: Some([report; 2]),
        }
    }

    /// Relay 2 is killed after 10 s and back after 13 s.
    fn blow(base: Instant) -> Blow {
        Blow {
            relay: 2,
            from: base + 10 * SECOND,
            until: base + 13 * SECOND,
            new: true,
            what: "media-relay-2".to_owned(),
            even: Some(SECOND),
        }
    }

    fn row(calls: &[CallMedia], blow: Blow) -> Row {
        let heard = relays().judge(calls, std::slice::from_ref(&blow));
        let ms = Duration::from_millis(250);
        Row::new("relay killed", &[blow], &[], &heard, Some(1.0), ms, Duration::ZERO)
    }

    #[test]
    fn only_the_dead_relay_excuses() {
        let base = clock();
        let calls = [
            // Perfect, elsewhere and before.
            call(base, [1000, 1999], 0, 20, 0),
            call(base, [2000, 2002], 0, 9, 0),
            // On it: before, meanwhile (set up at the last moment), both.
            call(base, [2000, 2002], 5, 12, 50),
            call(base, [2000, 0], 10, 15, 100),
            call(base, [2000, 2002], 5, 20, 50),
        ];
        let seen = row(&calls, blow(base));
        assert!(seen.held && !seen.broken, "{seen:?}");
        assert_eq!((seen.hit, seen.hit_silent, seen.elsewhere), (3, 3, 2));
        for wrong in [
            // Elsewhere, on it before, on it afterwards, on two relays, on none, nobody told where to send.
            call(base, [3000, 3002], 5, 20, 1),
            call(base, [2000, 2002], 5, 9, 1),
            call(base, [2000, 2002], 14, 20, 1),
            call(base, [2000, 3002], 5, 20, 0),
            call(base, [5000, 5002], 5, 20, 0),
            call(base, [3000, 0], 5, 20, 0),
            CallMedia { reports: None, ..call(base, [3000, 3002], 5, 20, 0) },
        ] {
            let calls = [&calls[..], std::slice::from_ref(&wrong)].concat();
            let seen = row(&calls, blow(base));
            assert!(!seen.held && seen.broken, "{wrong:?}");
        }
        assert!(row(&calls[2..], blow(base)).broken, "nothing was heard elsewhere");
        let never = Blow { even: None, ..blow(base) };
        assert!(row(&calls, never).broken);
        let late = Blow { even: Some(11 * SECOND), ..blow(base) };
        let seen = row(&calls, late);
        assert!(!seen.held && !seen.broken);
        assert!(table(&[seen]).contains("11.0 s"));
    }

    #[test]
    fn calls_of_a_dead_relay_are_no_load() {
        let base = clock();
        let running = |ports: [u16; 2], from: u32| Running {
            remotes: ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
            started: base + from * SECOND,
        };
        let running = [
            running([1000, 1002], 0),
            running([2000, 2002], 0),
            running([2004, 2006], 14),
            running([3000, 3002], 14),
            running([9000, 9002], 14),
        ];
        assert_eq!(relays().shares(&running, &[]), [1, 2, 1]);
        assert_eq!(relays().shares(&running, &[&blow(base)]), [1, 1, 1]);
    }
}
