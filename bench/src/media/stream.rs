//! One direction of a call: what it sends, and what of that is received where and when. No IO; whoever owns the stream
//! says when packets left and arrived.
//!
//! Both ends are in one hand, so nothing is guessed from gaps: each packet sent is remembered until it has come or the
//! window has passed it.

use std::time::Duration;

use serde::Serialize;

use super::{
    rtp::{Header, PCMU},
    tone::{Ear, SAMPLES, Tone},
};

/// Packets that are remembered: 5 s, longer than anybody is frozen.
const WINDOW: usize = 256;

/// Between two packets.
pub const PACKET_TIME: Duration = Duration::from_millis(20);

/// What became of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    pub sent: u64,
    /// Each packet once.
    pub received: u64,
    /// Of those sent after the first that was received.
    pub lost: u64,
    /// Those sent before the first that was received; all, if none was.
    pub unheard: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// From another address than was signalled, or at another socket.
    pub wrong_source: u64,
    /// With another payload than was sent.
    pub altered: u64,
    /// Seconds of received audio, the last one not full, without the tone that was sent.
    pub wrong_tone: u64,
    /// The longest time without audio, without what the sender itself was late.
    pub longest_gap: Duration,
    pub slowest: Duration,
}

impl StreamReport {
    /// Every packet came, once, in order, from the right place, with the right audio.
    pub fn is_perfect(&self) -> bool {
        let Self { sent, received, lost, unheard, duplicated, reordered, .. } = self;
        let Self { wrong_source, altered, wrong_tone, .. } = self;
        sent == received
            && [lost, unheard, duplicated, reordered, wrong_source, altered, wrong_tone]
                .iter()
                .all(|count| **count == 0)
    }
}

/// What a stream says of a packet that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// For the first time, so many nanoseconds after it was sent.
    Counted {
        latency: u64,
    },
    /// It was sent before the count began.
    Earlier,
    Duplicate,
    /// Its sequence number was never sent, or too long ago.
    Unknown,
}

/// A stream; times are nanoseconds of any one clock, never 0.
#[derive(Debug)]
pub(super) struct Stream {
    ssrc: u32,
    first_sequence: u16,
    first_timestamp: u32,
    /// Packets sent; the next one's number.
    next: u64,
    /// When each of the last packets was sent; 0 if it has been received or was never sent.
    open: [u64; WINDOW],
    /// Number of the first packet that counts.
    from: u64,
    /// Number of the first that was received of those that count.
    first: Option<u64>,
    /// The highest that was received of those that count: its number, when it was sent, when it came.
    highest: Option<(u64, u64, u64)>,
    ear: Ear,
    report: StreamReport,
}

impl Stream {
    pub(super) fn new(ssrc: u32, rng: &mut fastrand::Rng) -> Self {
        Self {
            ssrc,
            first_sequence: rng.u16(..),
            first_timestamp: rng.u32(..),
            next: 0,
            open: [0; WINDOW],
            from: 0,
            first: None,
            highest: None,
            ear: Ear::default(),
            report: StreamReport::default(),
        }
    }

    /// The header of the next packet, which leaves `now`; its number is for [`Self::refused`].
    pub(super) fn send(&mut self, now: u64) -> (u64, Header) {
        let number = self.next;
        self.next += 1;
        let slot = &mut self.open[number as usize % WINDOW];
        let passed = std::mem::replace(slot, now) != 0;
        if passed {
            self.miss(number - WINDOW as u64);
        }
        self.report.sent += 1;
        let header = Header {
            marker: number == 0,
            payload_type: PCMU,
            sequence: self.first_sequence.wrapping_add(number as u16),
            timestamp: self.timestamp(number),
            ssrc: self.ssrc,
        };
        (number, header)
    }

    fn timestamp(&self, number: u64) -> u32 {
        self.first_timestamp.wrapping_add((number as u32).wrapping_mul(SAMPLES as u32))
    }

    /// The system refused to send the packet: it counts as lost.
    pub(super) fn refused(&mut self, number: u64) {
        self.open[number as usize % WINDOW] = 0;
        self.miss(number);
    }

    /// A packet with this stream's SSRC came; `wrong_source`: not from where, or not to where, it was to come.
    pub(super) fn receive(
        &mut self,
        header: &Header,
        payload: &[u8],
        tone: &Tone,
        wrong_source: bool,
        at: u64,
    ) -> Received {
        let offset = header.sequence.wrapping_sub(self.first_sequence);
        // The highest number not above the last one sent that has this sequence number.
        let behind = (self.next as u16).wrapping_sub(1).wrapping_sub(offset);
        let number = (self.next.checked_sub(1)).and_then(|last| last.checked_sub(behind.into()));
        let Some(number) = number.filter(|_| usize::from(behind) < WINDOW) else {
            return Received::Unknown;
        };
        let counts = number >= self.from;
        if counts {
            self.report.wrong_source += u64::from(wrong_source);
        }
        let sent = std::mem::take(&mut self.open[number as usize % WINDOW]);
        if sent == 0 {
            self.report.duplicated += u64::from(counts);
            return Received::Duplicate;
        }
        if !counts {
            return Received::Earlier;
        }
        self.report.received += 1;
        let (same, verdict) = self.ear.hear(payload, tone);
        let expected = header.payload_type == PCMU && header.timestamp == self.timestamp(number);
        self.report.altered += u64::from(!same || !expected);
        self.report.wrong_tone += u64::from(verdict == Some(false));
        let latency = at.saturating_sub(sent);
        self.report.slowest = self.report.slowest.max(Duration::from_nanos(latency));
        self.first.get_or_insert(number);
        match self.highest {
            Some((highest, ..)) if number < highest => self.report.reordered += 1,
            Some((highest, highest_sent, highest_at)) => {
                let nominal = (number - highest) * PACKET_TIME.as_nanos() as u64;
                let late = sent.saturating_sub(highest_sent).saturating_sub(nominal);
                self.gap(at.saturating_sub(highest_at).saturating_sub(late));
                self.highest = Some((number, sent, at));
            }
            None => {
                self.gap((number - self.from) * PACKET_TIME.as_nanos() as u64);
                self.highest = Some((number, sent, at));
            }
        }
        Received::Counted { latency }
    }

    /// Counts anew with the next packet that is sent.
    pub(super) fn reset(&mut self) {
        self.from = self.next;
        (self.first, self.highest) = (None, None);
        self.ear = Ear::default();
        self.report = StreamReport::default();
    }

    /// What became of everything; what has not come by now is lost.
    pub(super) fn finish(&mut self) -> StreamReport {
        for number in self.next.saturating_sub(WINDOW as u64)..self.next {
            if std::mem::take(&mut self.open[number as usize % WINDOW]) != 0 {
                self.miss(number);
            }
        }
        let silent =
            self.highest.map_or(self.next - self.from, |(number, ..)| self.next - 1 - number);
        if silent > 0 {
            self.gap((silent + 1) * PACKET_TIME.as_nanos() as u64);
        }
        self.report.wrong_tone += u64::from(self.ear.finish() == Some(false));
        self.report
    }

    fn miss(&mut self, number: u64) {
        if number < self.from {
            return;
        }
        match self.first {
            Some(first) if number > first => self.report.lost += 1,
            _ => self.report.unheard += 1,
        }
    }

    fn gap(&mut self, nanoseconds: u64) {
        let gap = Duration::from_nanos(nanoseconds);
        self.report.longest_gap = self.report.longest_gap.max(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = PACKET_TIME.as_nanos() as u64;
    const DELAY: u64 = 1_000_000;

    /// Sends packets; each is received or not, as often and as late (in packet times) as the script says.
    fn play(count: u64, script: impl Fn(u64) -> Vec<u64>) -> (Stream, Vec<Received>) {
        let tone = &Tone::all()[0];
        let mut stream = Stream::new(7, &mut fastrand::Rng::with_seed(1));
        // Wraps around within the first packets.
        stream.first_sequence = 0xfff0;
        stream.first_timestamp = u32::MAX - 100;
        let mut arrivals = Vec::new();
        let mut seen = Vec::new();
        for n in 0..count + 50 {
            let now = (n + 1) * TICK;
            if n < count {
                let (number, header) = stream.send(now);
                assert_eq!((number, header.sequence), (n, 0xfff0u16.wrapping_add(n as u16)));
                arrivals.extend(script(n).into_iter().map(|late| (n + late, header)));
            }
            for (_, header) in arrivals.extract_if(.., |(due, _)| *due == n) {
                seen.push(stream.receive(&header, tone.payload(), tone, false, now + DELAY));
            }
        }
        (stream, seen)
    }

    #[test]
    fn a_perfect_stream() {
        let (mut stream, seen) = play(70_000, |_| vec![0]);
        let report = stream.finish();
        assert!(report.is_perfect(), "{report:?}");
        assert_eq!((report.sent, report.longest_gap), (70_000, PACKET_TIME));
        assert_eq!(report.slowest, Duration::from_nanos(DELAY));
        assert!(seen.iter().all(|seen| *seen == Received::Counted { latency: DELAY }));
    }

    #[test]
    fn what_went_wrong_is_counted() {
        // 0 and 1 are never heard, 10 is lost, 20 comes twice, 30 after 31, 40 to 44 are lost, the last two too.
        let (mut stream, seen) = play(1000, |n| match n {
            0 | 1 | 10 | 40..45 | 998 | 999 => vec![],
            20 => vec![0, 3],
            30 => vec![1],
            _ => vec![0],
        });
        let report = stream.finish();
        let expected = StreamReport {
            sent: 1000,
            received: 990,
            lost: 8,
            unheard: 2,
            duplicated: 1,
            // It arrived in the same moment, before 31.
            reordered: 0,
            longest_gap: PACKET_TIME * 6,
            slowest: Duration::from_nanos(TICK + DELAY),
            ..StreamReport::default()
        };
        assert_eq!(report, expected);
        assert_eq!(seen.iter().filter(|seen| **seen == Received::Duplicate).count(), 1);
    }

    #[test]
    fn order_and_silence_are_noticed() {
        let (mut stream, _) = play(100, |n| if n == 30 { vec![5] } else { vec![0] });
        let report = stream.finish();
        assert_eq!((report.reordered, report.lost, report.received), (1, 0, 100));
        let (mut stream, _) = play(600, |n| if n < 300 { vec![0] } else { vec![] });
        let report = stream.finish();
        assert_eq!((report.lost, report.unheard), (300, 0));
        assert_eq!(report.longest_gap, PACKET_TIME * 301);
        let (mut stream, _) = play(600, |_| vec![]);
        let report = stream.finish();
        assert_eq!((report.received, report.lost, report.unheard), (0, 0, 600));
        assert!(report.longest_gap >= PACKET_TIME * 600);
    }

    #[test]
    fn a_late_sender_is_no_gap() {
        let tone = &Tone::all()[0];
        let mut stream = Stream::new(7, &mut fastrand::Rng::with_seed(1));
        for now in [TICK, 2 * TICK, 12 * TICK, 13 * TICK] {
            let (_, header) = stream.send(now);
            stream.receive(&header, tone.payload(), tone, false, now + DELAY);
        }
        assert_eq!(stream.finish().longest_gap, PACKET_TIME);
    }

    #[test]
    fn counting_begins_anew() {
        let (tone, other) = (&Tone::all()[0], &Tone::all()[1]);
        let mut stream = Stream::new(7, &mut fastrand::Rng::with_seed(1));
        let (_, early) = stream.send(TICK);
        stream.send(2 * TICK);
        stream.reset();
        assert_eq!(
            stream.receive(&early, tone.payload(), tone, false, 3 * TICK),
            Received::Earlier
        );
        let (_, counted) = stream.send(3 * TICK);
        stream.receive(&counted, other.payload(), tone, true, 3 * TICK + 1);
        let stranger = Header { sequence: counted.sequence.wrapping_add(1), ..counted };
        assert_eq!(
            stream.receive(&stranger, tone.payload(), tone, false, 4 * TICK),
            Received::Unknown
        );
        let report = stream.finish();
        assert_eq!((report.sent, report.received, report.lost, report.unheard), (1, 1, 0, 0));
        assert_eq!((report.wrong_source, report.altered, report.wrong_tone), (1, 1, 1));
        assert!(!report.is_perfect());
    }
}
