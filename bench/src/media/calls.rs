//! What the two phones of a call know of its audio, brought together by Call-ID.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{End, Media, MediaConfig, StreamReport};
use crate::stats::{Series, Summary};

/// How long the reports of ended calls may take.
const SETTLE: Duration = Duration::from_secs(2);

/// The audio of one call that was answered.
#[derive(Clone, Debug)]
pub struct CallMedia {
    pub call_id: String,
    /// When the caller had the answer, and when it hung up.
    pub started: Instant,
    pub stopped: Option<Instant>,
    /// Where the caller and the callee were told to send; `None` for who was not told.
    pub remotes: [Option<SocketAddr>; 2],
    /// From the caller to the callee, and back; `None` until it has ended, or if somebody did not know where to send.
    pub reports: Option<[StreamReport; 2]>,
}

impl CallMedia {
    /// The directions in which anything was heard.
    fn heard(&self) -> usize {
        self.reports.iter().flatten().filter(|report| report.received > 0).count()
    }
}

/// A call whose audio runs.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Where the caller and the callee send to.
    pub remotes: [SocketAddr; 2],
    pub started: Instant,
}

/// The audio of a run, summed up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MediaReport {
    /// Calls that were answered and have ended.
    pub calls: usize,
    /// Those in which nothing was heard, and those in which only one side heard something.
    pub without_media: usize,
    pub one_way: usize,
    /// Packets.
    pub sent: u64,
    pub received: u64,
    /// Those sent after the first one of their direction was received, and those before.
    pub lost: u64,
    pub unheard: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub wrong_source: u64,
    pub altered: u64,
    /// Seconds of audio without the tone that was sent.
    pub wrong_tone: u64,
    /// Packets that nobody here sent.
    pub strangers: u64,
    /// Packets that came after their call's end.
    pub after_the_end: u64,
    /// Packets that were not sent or not taken for want of room here.
    pub dropped_here: u64,
    /// Milliseconds from sending to arrival.
    pub latency_ms: Summary,
    /// Milliseconds without audio in a call, the longest of each.
    pub gap_ms: Summary,
    /// By how much a packet was sent too late at most, milliseconds.
    pub late_ms: f64,
}

impl MediaReport {
    /// Sums calls up; what is no single call's stays 0.
    pub fn of(calls: &[CallMedia]) -> Self {
        let mut report = Self::default();
        let mut gaps = Series::default();
        for call in calls.iter().filter(|call| call.stopped.is_some()) {
            report.calls += 1;
            match call.heard() {
                0 => report.without_media += 1,
                1 => report.one_way += 1,
                _ => {}
            }
            for stream in call.reports.iter().flatten() {
                report.sent += stream.sent;
                report.received += stream.received;
                report.lost += stream.lost;
                report.unheard += stream.unheard;
                report.duplicated += stream.duplicated;
                report.reordered += stream.reordered;
                report.wrong_source += stream.wrong_source;
                report.altered += stream.altered;
                report.wrong_tone += stream.wrong_tone;
            }
            if let Some(streams) = &call.reports {
                gaps.push(streams.iter().map(|s| s.longest_gap).max().unwrap_or_default());
            }
        }
        report.gap_ms = gaps.summary();
        report
    }

    /// Every packet of every call came, once, in order, from the right place, with the right audio.
    pub fn is_clean(&self) -> bool {
        let Self { without_media, one_way, lost, unheard, duplicated, reordered, .. } = self;
        let Self { wrong_source, altered, wrong_tone, strangers, .. } = self;
        (*without_media, *one_way) == (0, 0)
            && [lost, unheard, duplicated, reordered, wrong_source, altered, wrong_tone, strangers]
                .iter()
                .all(|count| **count == 0)
    }

    /// The report as lines for people.
    pub fn table(&self) -> String {
        let line = |name: &str, s: &Summary| {
            format!(
                "{name:<22}{:>9}{:>10.3}{:>10.3}{:>10.3}{:>10.3}\n",
                s.count, s.p50, s.p99, s.p999, s.max
            )
        };
        let mut text = line("RTP latency", &self.latency_ms);
        text += &line("longest gap of a call", &self.gap_ms);
        text += &format!(
            "calls with audio {}, without {}, one-way {}\n",
            self.calls - self.without_media - self.one_way,
            self.without_media,
            self.one_way
        );
        text += &format!(
            "packets sent {}, received {}, lost {}, before the first one heard {}, twice {}, out of order {}, wrong source {}, \
             altered {}, strangers {}, after the end {}; seconds with a wrong tone {}\n",
            self.sent,
            self.received,
            self.lost,
            self.unheard,
            self.duplicated,
            self.reordered,
            self.wrong_source,
            self.altered,
            self.strangers,
            self.after_the_end,
            self.wrong_tone,
        );
        if self.dropped_here > 0 {
            text += &format!("packets dropped by this machine's phones {}\n", self.dropped_here);
        }
        text
    }
}

#[derive(Debug, Default)]
struct State {
    /// Calls that were not answered yet: the caller's port, the callee's end.
    open: HashMap<String, (usize, Option<Callee>)>,
    calls: Vec<CallMedia>,
    /// Calls that run: where in `calls` they stand, and the engine's number.
    running: HashMap<String, (usize, Option<u64>)>,
    /// Where calls stand whose reports are not there yet, by the engine's number.
    numbers: HashMap<u64, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Callee {
    port: usize,
    remote: Option<SocketAddr>,
}

/// The audio of all calls of a run.
#[derive(Debug)]
pub struct Calls {
    media: Media,
    state: Mutex<State>,
}

impl Calls {
    /// Opens ports and starts what sends.
    pub fn start(config: &MediaConfig) -> io::Result<Self> {
        Ok(Self { media: Media::start(config)?, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two writes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller is about to call: what it offers.
    pub fn offer(&self, call_id: &str) -> SocketAddr {
        let (port, address) = self.media.port();
        self.state().open.insert(call_id.to_owned(), (port, None));
        address
    }

    /// A callee was offered to send to `remote`: what it answers; `None` for calls of others.
    pub fn offered(&self, call_id: &str, remote: Option<SocketAddr>) -> Option<SocketAddr> {
        let mut state = self.state();
        let (_, callee) = state.open.get_mut(call_id)?;
        let (port, address) = self.media.port();
        *callee = Some(Callee { port, remote });
        Some(address)
    }

    /// The caller was answered to send to `remote`: audio runs from now on.
    pub fn answered(&self, call_id: &str, remote: Option<SocketAddr>, now: Instant) {
        let mut state = self.state();
        // Of another tool, or an answer that was repeated.
        let Some((port, callee)) = state.open.remove(call_id) else { return };
        let place = state.calls.len();
        let called = callee.and_then(|callee| callee.remote);
        let mut number = None;
        if let (Some(remote), Some(called), Some(callee)) = (remote, called, callee) {
            let ends = [End { port, remote }, End { port: callee.port, remote: called }];
            number = Some(self.media.connect(ends));
            state.numbers.extend(number.map(|number| (number, place)));
        }
        state.running.insert(call_id.to_owned(), (place, number));
        state.calls.push(CallMedia {
            call_id: call_id.to_owned(),
            started: now,
            stopped: None,
            remotes: [remote, called],
            reports: None,
        });
    }

    /// The caller is about to hang up; false if there was no answer.
    pub fn stop(&self, call_id: &str, now: Instant) -> bool {
        let mut state = self.state();
        let Some((place, number)) = state.running.remove(call_id) else { return false };
        state.calls[place].stopped = Some(now);
        if let Some(number) = number {
            self.media.stop(number);
        }
        true
    }

    /// The call will not be answered.
    pub fn forget(&self, call_id: &str) {
        self.state().open.remove(call_id);
    }

    /// Calls whose audio runs.
    pub fn running(&self) -> Vec<Running> {
        let state = self.state();
        let running = state.running.values().filter_map(|(place, _)| {
            let call = &state.calls[*place];
            let [Some(caller), Some(callee)] = call.remotes else { return None };
            Some(Running { remotes: [caller, callee], started: call.started })
        });
        running.collect()
    }

    /// All calls so far that were answered; those that have hung up have their reports.
    pub fn calls(&self) -> Vec<CallMedia> {
        let deadline = now() + SETTLE;
        loop {
            let mut state = self.state();
            for (number, reports) in self.media.take_finished() {
                if let Some(place) = state.numbers.remove(&number) {
                    state.calls[place].reports = Some(reports);
                }
            }
            let ended = |place: &usize| state.calls[*place].stopped.is_some();
            if !state.numbers.values().any(ended) || now() >= deadline {
                return state.calls.clone();
            }
            drop(state);
            sleep(Duration::from_millis(5));
        }
    }

    /// Everything so far, summed up.
    pub fn report(&self) -> MediaReport {
        let calls = self.calls();
        let totals = self.media.totals();
        MediaReport {
            strangers: totals.strangers,
            after_the_end: totals.after_the_end,
            dropped_here: totals.refused + self.media.dropped_here(),
            latency_ms: totals.latency.summary(),
            late_ms: totals.late.as_secs_f64() * 1e3,
            ..MediaReport::of(&calls)
        }
    }

    /// What sends and listens.
    pub fn media(&self) -> &Media {
        &self.media
    }
}

#[expect(clippy::disallowed_methods, reason = "phones live in real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn calls() -> Calls {
        Calls::start(&MediaConfig::new(IpAddr::from([127, 0, 0, 1]))).unwrap()
    }

    /// A call whose phones send to each other, or where they are told.
    fn call(calls: &Calls, id: &str, remotes: [Option<SocketAddr>; 2]) {
        let offered = calls.offer(id);
        let answered = calls.offered(id, remotes[1].or(Some(offered)));
        calls.answered(id, remotes[0].or(answered), now());
    }

    fn wait_until(calls: &Calls, sent: Duration) {
        let deadline = calls.running().iter().map(|call| call.started).max().unwrap() + sent;
        while now() < deadline {
            sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn calls_are_heard_both_ways() {
        let calls = calls();
        for n in 0..50 {
            call(&calls, &format!("call-{n}"), [None, None]);
        }
        assert_eq!(calls.running().len(), 50);
        wait_until(&calls, Duration::from_millis(500));
        for n in 0..50 {
            assert!(calls.stop(&format!("call-{n}"), now()));
            assert!(!calls.stop(&format!("call-{n}"), now()));
        }
        let report = calls.report();
        assert!(report.is_clean() && report.calls == 50, "{report:?}");
        assert!(report.received > 50 * 2 * 10, "{report:?}");
        assert_eq!(report.latency_ms.count as u64, report.received);
        assert!(report.table().contains("calls with audio 50, without 0, one-way 0\n"));
        assert!(calls.running().is_empty());
    }

    #[test]
    fn what_is_missing_is_seen() {
        let calls = calls();
        // Nobody reads there.
        let nowhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nowhere = Some(nowhere.local_addr().unwrap());
        call(&calls, "one-way", [nowhere, None]);
        call(&calls, "without", [nowhere, nowhere]);
        // The callee was told no address.
        calls.offer("unanswered");
        calls.offered("unanswered", None);
        calls.answered("unanswered", nowhere, now());
        calls.offer("failed");
        calls.forget("failed");
        assert!(!calls.stop("failed", now()));
        assert_eq!(calls.offered("somebody else's", nowhere), None);
        wait_until(&calls, Duration::from_millis(300));
        for id in ["one-way", "without", "unanswered"] {
            assert!(calls.stop(id, now()));
        }
        let report = calls.report();
        assert_eq!((report.calls, report.without_media, report.one_way), (3, 2, 1), "{report:?}");
        // What the one-way call's callee sent came from its port, not from where the caller sends to.
        assert_eq!(report.wrong_source, report.received, "{report:?}");
        assert!(report.received > 0 && !report.is_clean(), "{report:?}");
    }

    #[test]
    fn a_mix_up_is_seen() {
        let calls = calls();
        let [a, b, c, d] = [(); 4].map(|()| calls.media.port());
        let end = |(port, _): (usize, _), (_, remote)| End { port, remote };
        // Two calls whose audio goes to the wrong phones.
        calls.media.connect([end(a, d), end(b, c)]);
        calls.media.connect([end(c, b), end(d, a)]);
        let deadline = now() + Duration::from_millis(200);
        while now() < deadline {
            sleep(Duration::from_millis(1));
        }
        calls.media.stop(0);
        calls.media.stop(1);
        let mut finished = Vec::new();
        while finished.len() < 2 && now() < deadline + SETTLE {
            finished.extend(calls.media.take_finished());
            sleep(Duration::from_millis(1));
        }
        assert_eq!(finished.len(), 2);
        for report in finished.iter().flat_map(|(_, reports)| reports) {
            assert!(report.received > 3 && report.wrong_source == report.received, "{report:?}");
        }
    }
}
