//! What peers make this endpoint hold, and which of them is dropped when it is too much.
//!
//! dcsctp bounds the payload of each association, but not what surrounds it: a byte that came as a chunk of its own
//! costs a hundred times as much, and ten thousand peers may each fill what one may.

use std::time::Instant;

use dcsctp::api::DcSctpSocket as _;
use dcsctp::api::handover::HandoverReadiness;

use super::{STREAMS, Stack};
use crate::counters::add;
use crate::model::{AssocId, DownCause};
use crate::packet::{self, Packet};

/// A chunk with less payload costs more by what surrounds it.
const TINY: usize = 256;
/// What a tiny chunk costs while it waits for others.
const TINY_COST: usize = 256;
/// Tiny chunks that may wait: many times what one round trip of short messages leaves behind a lost packet.
const MOST_TINY: usize = 1 << 14;
/// Something that arrived waits for what has not.
const INCOMPLETE: HandoverReadiness = HandoverReadiness(
    HandoverReadiness::DATA_TRACKER_TSN_BLOCKS_PENDING.0
        | HandoverReadiness::STREAM_HAS_UNASSEMBLED_CHUNKS.0
        | HandoverReadiness::STREAM_RESET_DEFERRED.0,
);

/// What one association holds.
pub(super) struct Hoard {
    tiny: usize,
    /// Payload that arrived since nothing was incomplete.
    payload: usize,
    /// What is weighed of both.
    incoming: usize,
    /// What is to be sent, or was sent and not acknowledged.
    outgoing: usize,
    /// When that was last seen to become less.
    drained: Instant,
}

impl Hoard {
    pub(super) fn new(now: Instant) -> Self {
        Self { tiny: 0, payload: 0, incoming: 0, outgoing: 0, drained: now }
    }
}

/// Sums over all associations.
#[derive(Default)]
pub(super) struct Hoards {
    pub(super) incoming: usize,
    pub(super) outgoing: usize,
}

impl Stack {
    /// Looks at what a packet brings before dcsctp does. `false`: it breaks what was agreed on.
    pub(super) fn stow(&mut self, id: AssocId, packet: &Packet<'_>) -> bool {
        let Some(assoc) = self.assocs.get_mut(&id) else { return true };
        for chunk in packet.chunks().filter(|chunk| chunk.kind == packet::DATA) {
            // RFC 9260 6.5: a stream that was not offered. dcsctp would open it.
            if packet::u16_at(chunk.value, 4).is_some_and(|stream| stream >= STREAMS) {
                return false;
            }
            let payload = chunk.value.len().saturating_sub(packet::DATA_FIXED);
            assoc.hoard.tiny += usize::from(payload < TINY);
            assoc.hoard.payload += payload;
        }
        true
    }

    /// After something has happened on an association: whether it, or the largest of all, holds too much.
    pub(super) fn weigh(&mut self, now: Instant, id: AssocId) {
        let window = self.config.receive_window;
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        let hoard = &mut assoc.hoard;
        if hoard.payload > 0 && !assoc.socket.get_handover_readiness().contains(INCOMPLETE) {
            (hoard.tiny, hoard.payload) = (0, 0);
        }
        let incoming = hoard.tiny * TINY_COST + hoard.payload.min(window);
        let unacknowledged =
            assoc.socket.get_metrics().map_or(0, |metrics| metrics.unack_data_count);
        let outgoing = unacknowledged * self.config.mtu;
        if outgoing == 0 || outgoing < hoard.outgoing {
            hoard.drained = now;
        }
        self.hoards.incoming = self.hoards.incoming + incoming - hoard.incoming;
        self.hoards.outgoing = self.hoards.outgoing + outgoing - hoard.outgoing;
        (hoard.incoming, hoard.outgoing) = (incoming, outgoing);

        // Users of sessions may take their time.
        let stalled = !id.is_session() && now >= hoard.drained + self.config.timers.stalled;
        if hoard.tiny > MOST_TINY {
            self.drop_hoarder(now, id);
        } else if stalled {
            self.drop_slow(now, id);
        } else if self.hoards.incoming > self.config.max_held {
            let most = self.assocs.iter().max_by_key(|(_, assoc)| assoc.hoard.incoming);
            if let Some(id) = most.map(|(id, _)| *id) {
                self.drop_hoarder(now, id);
            }
        } else if self.hoards.outgoing > self.config.max_held {
            let most = self.assocs.iter().max_by_key(|(_, assoc)| assoc.hoard.outgoing);
            if let Some(id) = most.map(|(id, _)| *id) {
                self.drop_slow(now, id);
            }
        }
    }

    /// It sends what cannot be put together.
    fn drop_hoarder(&mut self, now: Instant, id: AssocId) {
        add(&self.counters.hoarders);
        self.abort(now, id);
    }

    /// It does not take what it is sent.
    pub(super) fn drop_slow(&mut self, now: Instant, id: AssocId) {
        add(&self.counters.slow_peers);
        if let Some(assoc) = self.assocs.get_mut(&id) {
            assoc.verdict = Some(DownCause::TimedOut);
        }
        self.operate(now, id, |socket| socket.close());
    }

    pub(super) fn unburden(&mut self, hoard: &Hoard) {
        self.hoards.incoming -= hoard.incoming;
        self.hoards.outgoing -= hoard.outgoing;
    }

    /// The sums are right and within bounds.
    pub(super) fn check_hoards(&self) {
        let hoards = self.assocs.values().map(|assoc| &assoc.hoard);
        let sums = hoards.fold((0, 0), |(incoming, outgoing), hoard| {
            (incoming + hoard.incoming, outgoing + hoard.outgoing)
        });
        assert_eq!(sums, (self.hoards.incoming, self.hoards.outgoing));
        assert!(sums.0.max(sums.1) <= self.config.max_held);
    }
}
