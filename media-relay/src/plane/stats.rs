//! What is known of the packets of one end: counters, and reception statistics as RFC 3550 appendix A computes them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::Rtp;
use super::rtcp::Block;

/// A snapshot of a pair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PairStats {
    pub opened: Instant,
    /// Of offerer, answerer.
    pub ends: [EndStats; 2],
}

/// A snapshot of one end. "Received" means from that end, by the relay.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct EndStats {
    /// Where RTP to this end is sent.
    pub peer: Option<SocketAddr>,
    /// Whether that address was latched, not only signalled.
    pub latched: bool,
    /// Where RTCP to this end is sent.
    pub rtcp_peer: Option<SocketAddr>,
    /// Media packets received and accepted, and their bytes with RTP header.
    pub packets: u64,
    pub bytes: u64,
    /// RTCP packets received and accepted.
    pub rtcp_packets: u64,
    pub rtcp_bytes: u64,
    /// Packets sent to this end, RTCP included.
    pub sent: u64,
    pub sent_bytes: u64,
    /// Expected by sequence numbers and not received.
    pub lost: u64,
    /// Received after one with a higher sequence number.
    pub out_of_order: u64,
    /// Received before.
    pub duplicates: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1, appendix A.8), if the payload's clock is known.
    pub jitter: Option<Duration>,
    /// The present SSRC, and how often it changed.
    pub ssrc: Option<u32>,
    pub ssrc_changes: u32,
    /// The last payload type.
    pub payload_type: Option<u8>,
    /// What this end says about what it receives through the relay.
    pub far: Option<FarEnd>,
    /// Round trip between relay and this end, from RTCP (RFC 3550 section 6.4.1).
    pub round_trip: Option<Duration>,
    /// When the last packet was accepted.
    pub last_packet: Option<Instant>,
    /// Dropped: not from this end's address.
    pub strangers: u64,
    /// Dropped: neither RTP nor RTCP.
    pub unexpected: u64,
    /// Dropped: beyond the rate limit.
    pub over_rate: u64,
    /// Accepted, but not forwarded: the other side has no address, or is not to get it.
    pub unwanted: u64,
    /// Packets to this end that the operating system refused to send.
    pub send_errors: u64,
}

/// From the last report block of an end about the stream that it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FarEnd {
    /// Loss since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since it began to receive; negative with duplicates.
    pub lost: i32,
    pub jitter: Option<Duration>,
}

/// A forward jump of sequence numbers up to here is loss (RFC 3550 appendix A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A step back up to here is reordering.
const MAX_MISORDER: u16 = 100;
/// A change of transit time that counts no more than this, in units of the clock: keeps the sum far from overflow.
const MAX_CHANGE: u32 = 1 << 24;

/// The moment at which a batch of packets is handled, in the forms that are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    pub(crate) now: Instant,
    /// Since the plane was started.
    pub(crate) micros: u64,
}

impl Tick {
    pub(crate) fn new(start: Instant, now: Instant) -> Self {
        Self { now, micros: now.saturating_duration_since(start).as_micros() as u64 }
    }
}

/// Reception of one stream: RFC 3550 appendices A.1, A.3 and A.8, with duplicates recognised.
#[derive(Debug, Default)]
pub(crate) struct Reception {
    started: bool,
    ssrc: u32,
    ssrc_changes: u32,
    /// Highest sequence number, extended by how often it wrapped around; the first one lies in the second round, so
    /// that something can have come before it.
    highest: u64,
    base: u64,
    received: u64,
    /// Bit n: `highest` - n was received.
    window: u128,
    /// The sequence number that would confirm a jump.
    jump: Option<u16>,
    /// Another SSRC that was seen once, and the sequence number that would confirm it.
    candidate: Option<(u32, u16)>,
    /// Lost before the last restart.
    lost_before: u64,
    out_of_order: u64,
    duplicates: u64,
    payload_type: u8,
    clock: u32,
    /// Arrival less timestamp, and timestamp, of the last packet; in units of the clock.
    transit: Option<(u32, u32)>,
    /// Scaled by 16.
    jitter: u32,
}

impl Reception {
    /// Takes note of a packet. `clock` is asked for the clock rate of a payload type that was not the last one.
    pub(crate) fn receive(&mut self, tick: Tick, rtp: Rtp, clock: impl FnOnce(u8) -> Option<u32>) {
        if !self.started {
            self.started = true;
            self.begin(rtp.ssrc, rtp.sequence);
            self.set_payload(rtp.payload_type, clock);
        } else if rtp.ssrc != self.ssrc {
            // One packet of another source may be noise; two in sequence with none of the present one between are not.
            if self.candidate != Some((rtp.ssrc, rtp.sequence)) {
                self.candidate = Some((rtp.ssrc, rtp.sequence.wrapping_add(1)));
                return;
            }
            self.restart(rtp.ssrc, rtp.sequence);
            self.ssrc_changes += 1;
            self.set_payload(rtp.payload_type, clock);
        } else {
            self.candidate = None;
            if !self.sequence(rtp.sequence) {
                return;
            }
            if rtp.payload_type != self.payload_type {
                self.set_payload(rtp.payload_type, clock);
            }
        }
        self.measure_jitter(tick, rtp.timestamp);
    }

    fn begin(&mut self, ssrc: u32, sequence: u16) {
        self.ssrc = ssrc;
        self.base = 0x1_0000 + u64::from(sequence);
        self.highest = self.base;
        self.received = 1;
        self.window = 1;
        self.jump = None;
        self.candidate = None;
        self.transit = None;
    }

    /// A new sequence that began one packet ago.
    fn restart(&mut self, ssrc: u32, sequence: u16) {
        self.lost_before += self.lost_now();
        self.begin(ssrc, sequence.wrapping_sub(1));
        self.highest += 1;
        self.received = 2;
        self.window = 0b11;
    }

    /// Whether the packet goes on where the stream is, instead of coming late or jumping.
    fn sequence(&mut self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        let behind = ahead.wrapping_neg();
        if ahead == 0 {
            self.duplicates += 1;
            false
        } else if ahead < MAX_DROPOUT {
            self.highest += u64::from(ahead);
            self.window = self.window.checked_shl(ahead.into()).unwrap_or(0) | 1;
            self.received += 1;
            self.jump = None;
            true
        } else if behind <= MAX_MISORDER {
            let bit = 1 << behind;
            if self.window & bit != 0 {
                self.duplicates += 1;
                return false;
            }
            self.window |= bit;
            self.out_of_order += 1;
            self.received += 1;
            self.base = self.base.min(self.highest - u64::from(behind));
            false
        } else if self.jump == Some(sequence) {
            self.restart(self.ssrc, sequence);
            true
        } else {
            self.jump = Some(sequence.wrapping_add(1));
            false
        }
    }

    fn lost_now(&self) -> u64 {
        (self.highest - self.base + u64::from(self.started)).saturating_sub(self.received)
    }

    fn set_payload(&mut self, payload_type: u8, clock: impl FnOnce(u8) -> Option<u32>) {
        self.payload_type = payload_type;
        let clock = clock(payload_type).unwrap_or(0);
        if clock != self.clock {
            self.clock = clock;
            self.transit = None;
            self.jitter = 0;
        }
    }

    fn measure_jitter(&mut self, tick: Tick, timestamp: u32) {
        if self.clock == 0 {
            return;
        }
        // Both wrap around, and only differences count.
        // In two parts, since a description may name any clock.
        let (seconds, micros, clock) =
            (tick.micros / 1_000_000, tick.micros % 1_000_000, u64::from(self.clock));
        let arrival = seconds * clock + micros * clock / 1_000_000;
        let transit = (arrival as u32).wrapping_sub(timestamp);
        match self.transit.replace((transit, timestamp)) {
            // Packets of one video frame, and of one telephone event, share a timestamp.
            Some(last) if last.1 == timestamp => self.transit = Some(last),
            Some((last, _)) => {
                let change = (transit.wrapping_sub(last) as i32).unsigned_abs().min(MAX_CHANGE);
                self.jitter = self.jitter + change - ((self.jitter + 8) >> 4);
            }
            None => {}
        }
    }

    pub(crate) fn ssrc(&self) -> Option<u32> {
        self.started.then_some(self.ssrc)
    }

    /// A time in units of the stream's clock, if that is known.
    fn duration(&self, units: u32) -> Option<Duration> {
        (self.clock != 0)
            .then(|| Duration::from_micros(u64::from(units) * 1_000_000 / u64::from(self.clock)))
    }

    pub(crate) fn fill(&self, stats: &mut EndStats) {
        stats.lost = self.lost_before + self.lost_now();
        stats.out_of_order = self.out_of_order;
        stats.duplicates = self.duplicates;
        stats.ssrc = self.ssrc();
        stats.ssrc_changes = self.ssrc_changes;
        stats.payload_type = self.started.then_some(self.payload_type);
        stats.jitter = self.duration(self.jitter >> 4);
    }
}

/// What RTCP of both ends says about the way between relay and one of them.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// The last two sender reports that went to this end, and when: (middle of NTP timestamp, microseconds).
    sent: [(u32, u64); 2],
    far: Option<Block>,
    round_trip: Option<Duration>,
}

impl Reports {
    /// A sender report goes to this end.
    pub(crate) fn sent(&mut self, tick: Tick, at: u32) {
        self.sent = [(at, tick.micros), self.sent[0]];
    }

    /// This end reports how it receives the stream that it is sent.
    pub(crate) fn received(&mut self, tick: Tick, block: Block) {
        self.far = Some(block);
        let sent = self.sent.iter().find(|(at, _)| *at != 0 && *at == block.last_report);
        if let Some((_, when)) = sent {
            let delay = (u64::from(block.delay) * 1_000_000) >> 16;
            // A delay longer than all the time that has passed is a wrong clock over there.
            if let Some(micros) = (tick.micros - when).checked_sub(delay) {
                self.round_trip = Some(Duration::from_micros(micros));
            }
        }
    }

    /// `stream` is what this end is sent.
    pub(crate) fn fill(&self, stream: &Reception, stats: &mut EndStats) {
        stats.round_trip = self.round_trip;
        stats.far = self.far.map(|block| FarEnd {
            fraction_lost: block.fraction_lost,
            lost: block.lost,
            jitter: stream.duration(block.jitter),
        });
    }
}
