//! How calls end: ports, recordings and counters are settled, and a summary is left.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::call::{Call, Leg, Pair};
use super::{
    Answer, Asked, CallKey, For, Output, Owner, PortPool, Recording, Refusal, Relay, Waiting, mos,
};
use crate::plane::{EndStats, PairId, PairStats, Side};

/// Why a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By request.
    Deleted,
    /// The relay stops.
    Drained,
    /// No packet for too long.
    Silent,
    SilentOnHold,
    /// Its offer was not answered in time.
    Unanswered,
}

/// What a call was like.
#[derive(Clone, Debug)]
pub struct Summary {
    pub call_id: Box<[u8]>,
    pub reason: Reason,
    pub duration: Duration,
    /// RTP and RTCP, or whatever it was.
    pub packets: u64,
    pub bytes: u64,
    /// Two for each pair, of offerer and answerer.
    pub ends: Vec<EndSummary>,
}

/// What came from one end of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EndSummary {
    pub side: Side,
    /// Position of the media description.
    pub media: usize,
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub jitter: Option<Duration>,
    pub round_trip: Option<Duration>,
    /// Estimated mean opinion score of what the other party heard.
    pub mos: Option<f64>,
    /// Dropped, since it came from elsewhere.
    pub strangers: u64,
}

/// For the log.
impl fmt::Display for EndSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, media, packets, lost, jitter, round_trip, mos, strangers, .. } = self;
        let side = match side {
            Side::Offerer => "offerer",
            Side::Answerer => "answerer",
        };
        write!(f, "{side}[{media}] {packets} packets")?;
        if *lost > 0 {
            write!(f, " {lost} lost")?;
        }
        if *strangers > 0 {
            write!(f, " {strangers} of strangers")?;
        }
        for (name, time) in [("jitter", jitter), ("round trip", round_trip)] {
            if let Some(time) = time {
                write!(f, " {name} {:.1} ms", time.as_secs_f64() * 1_000.0)?;
            }
        }
        if let Some(mos) = mos {
            write!(f, " MOS {mos:.1}")?;
        }
        Ok(())
    }
}

impl Reason {
    /// For logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Drained => "drained",
            Self::Silent => "silent",
            Self::SilentOnHold => "silent-on-hold",
            Self::Unanswered => "unanswered",
        }
    }
}

impl<P: PortPool> Relay<P> {
    /// Ends a call.
    pub(super) fn end(&mut self, key: CallKey, reason: Reason, asked: Option<&Asked>) -> Answer {
        self.set_deadline(key, None);
        self.stop_recording(key, None);
        let Some(call) = self.calls.remove(&key) else { return Err(Refusal::Later) };
        self.by_id.remove(&call.id);
        let counter = match reason {
            Reason::Deleted => &mut self.stats.deleted,
            Reason::Drained => &mut self.stats.drained,
            Reason::Silent => &mut self.stats.silent,
            Reason::SilentOnHold => &mut self.stats.silent_on_hold,
            Reason::Unanswered => &mut self.stats.unanswered,
        };
        *counter += 1;
        self.close(call, reason, asked)
    }

    /// Closes all pairs of a call, or of the part of one that has ended; whoever has asked gets an answer when they
    /// are closed.
    pub(super) fn close(&mut self, call: Call, reason: Reason, asked: Option<&Asked>) -> Answer {
        self.last_tag += 1;
        let tag = self.last_tag;
        let pairs: Vec<PairId> = call.pairs().map(|pair| pair.id).collect();
        for pair in &pairs {
            self.pairs.insert(*pair, Owner::Ended(tag));
            self.outputs.push_back(Output::Close { pair: *pair });
        }
        let reply = asked.map(|asked| Asked { key: asked.key, cookie: asked.cookie.clone() });
        let waiting = Waiting {
            outstanding: pairs.len(),
            stats: Vec::with_capacity(pairs.len()),
            what: For::Deletion { call: Box::new(call), reason, reply },
        };
        if pairs.is_empty() {
            self.resolve_deletion(None, waiting);
        } else {
            self.waiting.insert(tag, waiting);
        }
        Err(Refusal::Later)
    }

    /// Closes a pair while its call goes on.
    pub(super) fn close_one(&mut self, key: CallKey, pair: &Pair) {
        let ports = [0, 1].map(|side| (pair.ends[side].address, pair.ends[side].port));
        self.pairs.insert(pair.id, Owner::Loose { call: key, ports });
        self.outputs.push_back(Output::Close { pair: pair.id });
    }

    /// The sockets of a pair are closed.
    pub(super) fn closed(&mut self, now: Instant, pair: PairId, stats: Option<Box<PairStats>>) {
        match self.pairs.remove(&pair) {
            Some(Owner::Ended(tag)) => {
                let Some(waiting) = self.waiting.get_mut(&tag) else { return };
                if let For::Deletion { call, .. } = &waiting.what {
                    for end in call.pairs().filter(|one| one.id == pair).flat_map(|one| &one.ends) {
                        self.ports.give_back(now, end.address, end.port);
                    }
                }
                waiting.stats.extend(stats.map(|stats| (pair, stats)));
                waiting.outstanding -= 1;
                if waiting.outstanding == 0
                    && let Some(waiting) = self.waiting.remove(&tag)
                {
                    self.resolve_deletion(Some(now), waiting);
                }
            }
            Some(Owner::Loose { call, ports }) => {
                for (address, port) in ports {
                    self.ports.give_back(now, address, port);
                }
                if let (Some(call), Some(stats)) = (self.calls.get_mut(&call), stats) {
                    for end in &stats.ends {
                        call.past.packets += end.packets;
                        call.past.bytes += end.bytes;
                        call.past.rtcp_packets += end.rtcp_packets;
                        call.past.rtcp_bytes += end.rtcp_bytes;
                    }
                }
            }
            owner @ Some(Owner::Call(_)) => {
                // Nobody has asked for it.
                tracing::error!(?pair, "a pair was closed by itself");
                self.pairs.extend(owner.map(|owner| (pair, owner)));
            }
            None => {}
        }
    }

    fn resolve_deletion(&mut self, now: Option<Instant>, waiting: Waiting) {
        let For::Deletion { call, reason, reply } = waiting.what else { return };
        if let Some(Asked { key, cookie }) = reply {
            let bytes = self.describe(&call, None, &waiting.stats, &cookie);
            self.reply(key, bytes);
        }
        let summary = summary(&call, reason, now.unwrap_or(call.last_signal), &waiting.stats);
        for pair in summary.ends.chunks(2) {
            match pair.iter().filter(|end| end.packets > 0).count() {
                0 => self.stats.empty_streams += 1,
                1 => self.stats.one_way_streams += 1,
                _ => {}
            }
        }
        self.outputs.push_back(Output::Ended(Box::new(summary)));
    }

    pub(super) fn start_recording(&mut self, key: CallKey, by: SocketAddr, name: Option<&[u8]>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.recorded_for.is_some() {
            return;
        }
        call.recorded_for = Some(by);
        let recording = recording(key, call, Some(by), name);
        self.outputs.push_back(Output::StartRecording(recording));
        for leg in &call.legs {
            for (media, pair) in leg.numbered_pairs() {
                let (pair, kind) = (pair.id, pair.kind);
                self.outputs.push_back(Output::RecordPair { call: key, pair, kind, media });
            }
        }
    }

    /// What [`Output::StartRecording`] wanted has not begun: the next request for it is a new attempt.
    pub fn recording_failed(&mut self, key: CallKey) {
        self.stats.recordings_failed += 1;
        if let Some(call) = self.calls.get_mut(&key) {
            call.recorded_for = None;
        }
    }

    pub(super) fn stop_recording(&mut self, key: CallKey, by: Option<SocketAddr>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.recorded_for.take().is_some() {
            let pairs = call.pairs().map(|pair| pair.id).collect();
            let recording = recording(key, call, by, None);
            self.outputs.push_back(Output::StopRecording { recording, pairs });
        }
    }
}

impl Leg {
    fn numbered_pairs(&self) -> impl Iterator<Item = (usize, &Pair)> {
        let medias = self.medias.iter().enumerate();
        medias.filter_map(|(index, media)| Some((index, media.pair.as_ref()?)))
    }
}

fn recording(key: CallKey, call: &Call, by: Option<SocketAddr>, name: Option<&[u8]>) -> Recording {
    let parties = call.legs.iter().flat_map(Leg::parties);
    Recording {
        call: key,
        call_id: call.id.clone(),
        tags: parties.map(|(_, party)| party.tag.clone()).collect(),
        by,
        name: name.map(Into::into),
    }
}

fn summary(
    call: &Call,
    reason: Reason,
    now: Instant,
    stats: &[(PairId, Box<PairStats>)],
) -> Summary {
    let mut summary = Summary {
        call_id: call.id.clone(),
        reason,
        duration: now.saturating_duration_since(call.created),
        packets: call.past.packets + call.past.rtcp_packets,
        bytes: call.past.bytes + call.past.rtcp_bytes,
        ends: Vec::new(),
    };
    for (media, pair) in call.legs.iter().flat_map(Leg::numbered_pairs) {
        let Some((_, stats)) = stats.iter().find(|(id, _)| *id == pair.id) else { continue };
        for side in [Side::Offerer, Side::Answerer] {
            let (end, other) = (&stats.ends[side as usize], &stats.ends[side.other() as usize]);
            summary.packets += end.packets + end.rtcp_packets;
            summary.bytes += end.bytes + end.rtcp_bytes;
            summary.ends.push(EndSummary {
                side,
                media,
                packets: end.packets,
                bytes: end.bytes,
                lost: end.lost,
                jitter: end.jitter,
                round_trip: end.round_trip,
                mos: opinion(end, other),
                strangers: end.strangers,
            });
        }
    }
    summary
}

/// What the party at `other` hears of the one at `end`, estimated; `None` without RTP.
pub(super) fn opinion(end: &EndStats, other: &EndStats) -> Option<f64> {
    let ssrc = end.ssrc.filter(|_| end.packets > 0);
    ssrc.map(|_| mos(loss(end, other), worst_jitter(end, other), round_trip(end, other)))
}

/// The share of packets that did not arrive at the listener: what is missing at the relay, and what the listener says
/// is missing behind it.
pub(super) fn loss(end: &EndStats, other: &EndStats) -> f64 {
    let expected = end.packets + end.lost;
    let before = if expected == 0 { 0.0 } else { end.lost as f64 / expected as f64 };
    let after = other.far.map_or(0.0, |far| {
        // The listener counts from the beginning, as the relay does; loss before the relay is among it, if gaps in the
        // sequence are what it counts.
        let sent = (end.packets + end.lost).max(1) as f64;
        f64::from(far.lost.max(0)) / sent
    });
    before.max(after)
}

pub(super) fn worst_jitter(end: &EndStats, other: &EndStats) -> Duration {
    let far = other.far.and_then(|far| far.jitter);
    end.jitter.unwrap_or_default().max(far.unwrap_or_default())
}

/// From party to party, as far as it is known.
pub(super) fn round_trip(end: &EndStats, other: &EndStats) -> Duration {
    end.round_trip.unwrap_or_default() + other.round_trip.unwrap_or_default()
}
