//! One pair: decides what becomes of each packet, and counts. Without IO.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::end::{Channel, End, EndSettings, Reopen};
use super::packet::{Class, Port, classify};
use super::rtcp::{self, Fact};
use super::stats::{EndStats, PairStats, Reception, Reports, Tick};
use super::{Kind, Side};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Leaves by that port of the other side.
    Forward {
        by: Channel,
        to: SocketAddr,
    },
    /// Accepted, and goes nowhere.
    Unwanted,
    Stranger,
    Unexpected,
    OverRate,
}

#[derive(Debug)]
pub(crate) struct Pair {
    kind: Kind,
    silence: Duration,
    opened: Instant,
    /// Since when silence is measured if no packet came later.
    since: Instant,
    /// Silence was said, and nothing came since.
    silent: bool,
    halves: [Half; 2],
}

/// One end with what is counted about it.
#[derive(Debug)]
struct Half {
    end: End,
    packets: u64,
    bytes: u64,
    rtcp_packets: u64,
    rtcp_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    strangers: u64,
    unexpected: u64,
    over_rate: u64,
    unwanted: u64,
    send_errors: u64,
    last_packet: Option<Instant>,
    /// The second that `in_second` counts.
    second: u64,
    in_second: u32,
    reception: Reception,
    reports: Reports,
}

impl Half {
    fn new(settings: EndSettings) -> Self {
        Self {
            end: End::new(settings),
            packets: 0,
            bytes: 0,
            rtcp_packets: 0,
            rtcp_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            strangers: 0,
            unexpected: 0,
            over_rate: 0,
            unwanted: 0,
            send_errors: 0,
            last_packet: None,
            second: 0,
            in_second: 0,
            reception: Reception::default(),
            reports: Reports::default(),
        }
    }

    fn within_rate(&mut self, tick: Tick, limit: u32) -> bool {
        let second = tick.micros >> 20;
        if self.second != second {
            self.second = second;
            self.in_second = 0;
        }
        self.in_second += 1;
        self.in_second <= limit
    }
}

impl Pair {
    pub(crate) fn new(
        now: Instant,
        kind: Kind,
        settings: [EndSettings; 2],
        silence: Duration,
    ) -> Self {
        Self {
            kind,
            silence,
            opened: now,
            since: now,
            silent: false,
            halves: settings.map(Half::new),
        }
    }

    pub(crate) fn change(
        &mut self,
        now: Instant,
        side: Side,
        settings: EndSettings,
        reopen: Reopen,
    ) {
        self.since = now;
        self.silent = false;
        self.halves[side as usize].end.change(now, settings, reopen);
    }

    pub(crate) const fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// A packet has arrived at a port of that side.
    pub(crate) fn receive(
        &mut self,
        tick: Tick,
        limit: u32,
        side: Side,
        port: Channel,
        source: SocketAddr,
        bytes: &[u8],
    ) -> Verdict {
        let [offerer, answerer] = &mut self.halves;
        let (from, to) = match side {
            Side::Offerer => (offerer, answerer),
            Side::Answerer => (answerer, offerer),
        };
        let class = match (self.kind, port) {
            (Kind::Opaque, _) => Class::Other,
            (_, Channel::Rtcp) => classify(Port::Rtcp, bytes),
            (_, Channel::Rtp) if from.end.settings.mux => classify(Port::Shared, bytes),
            (_, Channel::Rtp) => classify(Port::Rtp, bytes),
        };
        if self.kind == Kind::Rtp && class == Class::Other {
            from.unexpected += 1;
            return Verdict::Unexpected;
        }
        if !from.end.accept(tick.now, port, source) {
            from.strangers += 1;
            return Verdict::Stranger;
        }
        if !from.within_rate(tick, limit) {
            from.over_rate += 1;
            return Verdict::OverRate;
        }
        from.last_packet = Some(tick.now);
        self.silent = false;
        let length = bytes.len() as u64;
        let channel = match class {
            Class::Rtcp => {
                from.rtcp_packets += 1;
                from.rtcp_bytes += length;
                if self.kind == Kind::Rtp {
                    rtcp::read(bytes, |fact| match fact {
                        Fact::Sent { at } => to.reports.sent(tick, at),
                        Fact::Block(block) => {
                            if to.reception.ssrc() == Some(block.ssrc) {
                                from.reports.received(tick, block);
                            }
                        }
                    });
                }
                Channel::Rtcp
            }
            Class::Rtp(rtp) => {
                from.packets += 1;
                from.bytes += length;
                let settings = &from.end.settings;
                from.reception.receive(tick, rtp, |payload_type| settings.clock(payload_type));
                Channel::Rtp
            }
            Class::Other => {
                from.packets += 1;
                from.bytes += length;
                port
            }
        };
        let wanted = from.end.settings.forward || channel == Channel::Rtcp;
        match to.end.target(channel) {
            (by, Some(to)) if wanted => Verdict::Forward { by, to },
            _ => {
                from.unwanted += 1;
                Verdict::Unwanted
            }
        }
    }

    /// What came of forwarding to that side.
    pub(crate) fn sent(&mut self, side: Side, bytes: Option<usize>) {
        let half = &mut self.halves[side as usize];
        match bytes {
            Some(bytes) => {
                half.sent += 1;
                half.sent_bytes += bytes as u64;
            }
            None => half.send_errors += 1,
        }
    }

    /// Whether the pair has fallen silent since this was asked last.
    pub(crate) fn falls_silent(&mut self, now: Instant) -> bool {
        let last =
            self.halves.iter().filter_map(|half| half.last_packet).fold(self.since, Instant::max);
        let silent = now.saturating_duration_since(last) >= self.silence;
        silent && !std::mem::replace(&mut self.silent, true)
    }

    pub(crate) fn stats(&self) -> PairStats {
        let end = |half: &Half, other: &Half| {
            let mut stats = EndStats {
                peer: half.end.target(Channel::Rtp).1,
                latched: half.end.latched(),
                rtcp_peer: half.end.target(Channel::Rtcp).1,
                packets: half.packets,
                bytes: half.bytes,
                rtcp_packets: half.rtcp_packets,
                rtcp_bytes: half.rtcp_bytes,
                sent: half.sent,
                sent_bytes: half.sent_bytes,
                last_packet: half.last_packet,
                strangers: half.strangers,
                unexpected: half.unexpected,
                over_rate: half.over_rate,
                unwanted: half.unwanted,
                send_errors: half.send_errors,
                ..EndStats::default()
            };
            half.reception.fill(&mut stats);
            half.reports.fill(&other.reception, &mut stats);
            stats
        };
        let [offerer, answerer] = &self.halves;
        PairStats { opened: self.opened, ends: [end(offerer, answerer), end(answerer, offerer)] }
    }
}
