//! What is known of a call. Most have one leg, with one media description, between two parties.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::plane::{EndSettings, Kind, Latch, PairId, Side, Source};

/// Bounds of one call, which strangers could make larger and larger.
pub(super) const MAX_LEGS: usize = 16;
pub(super) const MAX_TAGS: usize = 16;

/// A call, by its Call-ID.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: Box<[u8]>,
    pub(super) created: Instant,
    pub(super) last_signal: Instant,
    /// When something has to be done about it, if nothing happens before.
    pub(super) deadline: Option<(Instant, Due)>,
    pub(super) legs: Vec<Leg>,
    /// Whether it is recorded, and who wanted it.
    pub(super) recorded_for: Option<SocketAddr>,
    /// Of pairs that were closed while the call went on.
    pub(super) past: Past,
}

/// Why a call has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The offer has not been answered.
    Unanswered,
    /// It was deleted, with a delay.
    Deleted,
    /// Nothing may be heard any more: it was silent on hold, has no streams, or lost those that were heard.
    Quiet,
}

/// Packets of pairs that are closed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) rtcp_packets: u64,
    pub(super) rtcp_bytes: u64,
}

/// The media between a party that offered first and those that answered: several, if a proxy has forked the call. They
/// share the ports, and the one that answered last has them.
#[derive(Debug)]
pub(super) struct Leg {
    /// The branch that the first offer was for, if it was for one.
    pub(super) branch: Option<Box<[u8]>>,
    /// Who offered first.
    pub(super) offerer: Party,
    /// Who answered; the last one is the one that has the ports.
    pub(super) answerers: Vec<Party>,
    pub(super) answered: bool,
    pub(super) medias: Vec<Media>,
}

/// A party of a leg.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) tag: Box<[u8]>,
    pub(super) label: Option<Box<[u8]>>,
    pub(super) created: Instant,
}

/// What one `m=` line is about.
#[derive(Debug)]
pub(super) struct Media {
    /// `audio`, and `RTP/AVP`, as described last.
    pub(super) kind: Cow<'static, [u8]>,
    pub(super) proto: Cow<'static, [u8]>,
    /// `None`: rejected, or not of the kind that is relayed.
    pub(super) pair: Option<Pair>,
    /// The offer that is not answered yet has turned it off, or made something else of it.
    pub(super) offered: Offered,
}

/// What the last offer made of a media description that has a pair. It happens when the offer is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// Goes on.
    As(Kind),
    /// Port 0.
    Off,
}

/// A pair of ends, in the plane.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) id: PairId,
    pub(super) kind: Kind,
    /// Of offerer, answerer.
    pub(super) ends: [End; 2],
    /// Clock rates of the payload types that the last descriptions named.
    pub(super) clocks: Box<[(u8, u32)]>,
    /// It fell silent, and nothing is known of packets since.
    pub(super) silent: bool,
}

/// One end of a pair.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// Index of the interface.
    pub(super) interface: u8,
    /// Local address and even port.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whether the odd port is open.
    pub(super) rtcp_open: bool,
    /// Where it wants RTP and RTCP.
    pub(super) rtp: Option<SocketAddr>,
    pub(super) rtcp: Option<SocketAddr>,
    /// Where its signalling came from.
    pub(super) hint: Option<IpAddr>,
    /// Whether it wants to receive media.
    pub(super) receives: bool,
    pub(super) withdrawn: Withdrawn,
    pub(super) asymmetric: bool,
    pub(super) strict: bool,
    pub(super) mux: Mux,
}

/// What the last offer of an end takes away. It goes with the answer: one that is refused leaves the call as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Withdrawn {
    /// It does not want to receive any more.
    pub(super) media: bool,
    /// There is no address any more, as in RFC 2543's hold.
    pub(super) rtp: bool,
    pub(super) rtcp: bool,
}

/// RTP and RTCP on one port, towards one end (RFC 5761).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mux {
    /// Said to it, or by it.
    pub(super) on: bool,
    /// It was offered: any of several parties may accept it.
    pub(super) offered: bool,
    /// What its answer says does not change what the other end is told.
    pub(super) decided: bool,
    /// Nothing but it: there is no second port to fall back to.
    pub(super) settled: bool,
}

/// Identifiers of a party, as a request names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tags<'a> {
    pub(super) from: &'a [u8],
    pub(super) to: Option<&'a [u8]>,
    pub(super) branch: Option<&'a [u8]>,
}

impl Call {
    pub(super) fn new(id: &[u8], now: Instant) -> Self {
        Self {
            id: id.into(),
            created: now,
            last_signal: now,
            deadline: None,
            // Most have one: growing would make room for four.
            legs: Vec::with_capacity(1),
            recorded_for: None,
            past: Past::default(),
        }
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.legs.iter().flat_map(Leg::pairs)
    }

    pub(super) fn pairs_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.legs.iter_mut().flat_map(|leg| &mut leg.medias).filter_map(|media| media.pair.as_mut())
    }

    pub(super) fn is_answered(&self) -> bool {
        self.legs.iter().any(|leg| leg.answered)
    }

    /// Nobody is to get media.
    pub(super) fn is_held(&self) -> bool {
        !self.pairs().any(|pair| pair.ends.iter().all(|end| end.receives))
    }

    /// The leg that an offer is about, and which side of it has made the offer; `None`: a new one.
    pub(super) fn leg_of_offer(&self, tags: Tags<'_>) -> Option<(usize, Side)> {
        let legs = || self.legs.iter().enumerate().rev();
        if let Some(to) = tags.to {
            // Inside a dialog.
            let known = |side: Side| {
                legs().find(|(_, leg)| leg.is(side, tags.from) && leg.is(side.other(), to))
            };
            for side in [Side::Offerer, Side::Answerer] {
                if let Some((index, _)) = known(side) {
                    return Some((index, side));
                }
            }
            // With somebody who has not answered with a description before.
            return legs()
                .find(|(_, leg)| leg.is(Side::Offerer, tags.from))
                .map(|(index, _)| (index, Side::Offerer))
                .or_else(|| {
                    legs()
                        .find(|(_, leg)| leg.is(Side::Offerer, to))
                        .map(|(index, _)| (index, Side::Answerer))
                });
        }
        let own = || legs().filter(|(_, leg)| leg.is(Side::Offerer, tags.from));
        let found = match tags.branch {
            Some(branch) => own()
                .find(|(_, leg)| leg.branch.as_deref() == Some(branch))
                .or_else(|| own().find(|(_, leg)| leg.branch.is_none() && !leg.answered)),
            None => own().next(),
        };
        found.map(|(index, _)| (index, Side::Offerer))
    }

    /// The leg that an answer is about, and which side of it has answered.
    pub(super) fn leg_of_answer(
        &self,
        from: &[u8],
        to: &[u8],
        tags: Tags<'_>,
    ) -> Option<(usize, Side)> {
        let legs = || self.legs.iter().enumerate().rev();
        for side in [Side::Offerer, Side::Answerer] {
            let found = legs().find(|(_, leg)| leg.is(side, from) && leg.is(side.other(), to));
            if let Some((index, _)) = found {
                return Some((index, side.other()));
            }
        }
        // The first answer of somebody.
        let own = || legs().filter(|(_, leg)| leg.is(Side::Offerer, from));
        let by_branch =
            own().find(|(_, leg)| tags.branch.is_some() && leg.branch.as_deref() == tags.branch);
        by_branch
            .or_else(|| own().find(|(_, leg)| leg.answerers.is_empty()))
            .or_else(|| own().next())
            .map(|(index, _)| (index, Side::Answerer))
    }

    /// The legs that a deletion is about; `None`: none of them.
    pub(super) fn legs_to_delete(
        &self,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        branch: Option<&[u8]>,
    ) -> Deletion {
        let Some(from) = from else { return Deletion::All };
        let indices = |wanted: &dyn Fn(&Leg) -> bool| -> Vec<usize> {
            let found = self.legs.iter().enumerate().filter(|(_, leg)| wanted(leg));
            found.map(|(index, _)| index).collect()
        };
        let by_branch = || indices(&|leg| branch.is_some() && leg.branch.as_deref() == branch);
        let Some(to) = to else {
            let mut found = by_branch();
            if found.is_empty() {
                found = indices(&|leg| leg.has(from));
            }
            return Deletion::of(found);
        };
        // Either may have hung up.
        for (index, leg) in self.legs.iter().enumerate() {
            for (party, other) in [(to, from), (from, to)] {
                if leg.is(Side::Answerer, party) && leg.is(Side::Offerer, other) {
                    // One that has lost the ports to another leaves alone.
                    return if leg.has_ports(party) {
                        Deletion::of(vec![index])
                    } else {
                        Deletion::Party(index, party.into())
                    };
                }
            }
        }
        let mut found = indices(&|leg| leg.is(Side::Offerer, from) && leg.answerers.is_empty());
        if found.is_empty() {
            found = by_branch();
        }
        Deletion::of(found)
    }
}

/// What a deletion is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    All,
    Legs(Vec<usize>),
    Nothing,
    /// One of several parties that have answered.
    Party(usize, Box<[u8]>),
}

impl Deletion {
    fn of(legs: Vec<usize>) -> Self {
        if legs.is_empty() { Self::Nothing } else { Self::Legs(legs) }
    }
}

impl Leg {
    pub(super) fn new(offerer: Party, branch: Option<&[u8]>) -> Self {
        Self {
            branch: branch.map(Into::into),
            offerer,
            answerers: Vec::new(),
            answered: false,
            medias: Vec::new(),
        }
    }

    pub(super) fn is(&self, side: Side, tag: &[u8]) -> bool {
        match side {
            Side::Offerer => *self.offerer.tag == *tag,
            Side::Answerer => self.answerers.iter().any(|party| *party.tag == *tag),
        }
    }

    pub(super) fn has(&self, tag: &[u8]) -> bool {
        self.is(Side::Offerer, tag) || self.is(Side::Answerer, tag)
    }

    fn has_ports(&self, answerer: &[u8]) -> bool {
        self.answerers.last().is_some_and(|party| *party.tag == *answerer)
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.medias.iter().filter_map(|media| media.pair.as_ref())
    }

    pub(super) fn parties(&self) -> impl Iterator<Item = (Side, &Party)> {
        let answerers = self.answerers.iter().map(|party| (Side::Answerer, party));
        std::iter::once((Side::Offerer, &self.offerer)).chain(answerers)
    }

    /// Notes who takes part on a side. `true` if somebody else has the ports now.
    pub(super) fn note(
        &mut self,
        now: Instant,
        side: Side,
        tag: &[u8],
        label: Option<&[u8]>,
    ) -> bool {
        let mut changed = false;
        let party = match side {
            Side::Offerer => &mut self.offerer,
            Side::Answerer => {
                match self.answerers.iter().position(|party| *party.tag == *tag) {
                    Some(index) => {
                        changed = index + 1 < self.answerers.len();
                        let party = self.answerers.remove(index);
                        self.answerers.push(party);
                    }
                    None => {
                        changed = !self.answerers.is_empty();
                        if self.answerers.len() == MAX_TAGS {
                            self.answerers.remove(0);
                        }
                        if self.answerers.is_empty() {
                            self.answerers.reserve_exact(1);
                        }
                        self.answerers.push(Party::new(now, tag));
                    }
                }
                let last = self.answerers.len() - 1;
                &mut self.answerers[last]
            }
        };
        if let Some(label) = label {
            party.label = Some(label.into());
        }
        changed
    }
}

impl Party {
    pub(super) fn new(now: Instant, tag: &[u8]) -> Self {
        Self { tag: tag.into(), label: None, created: now }
    }
}

impl Media {
    pub(super) const fn absent() -> Self {
        Self {
            kind: Cow::Borrowed(b""),
            proto: Cow::Borrowed(b""),
            pair: None,
            offered: Offered::Off,
        }
    }
}

impl End {
    /// What its offer takes away goes: it is accepted.
    pub(super) fn withdraw(&mut self) {
        let Withdrawn { media, rtp, rtcp } = std::mem::take(&mut self.withdrawn);
        self.receives &= !media;
        self.rtp = self.rtp.filter(|_| !rtp);
        self.rtcp = self.rtcp.filter(|_| !rtcp);
    }
}

impl Pair {
    /// What the plane is to know of one end.
    pub(super) fn settings(&self, side: Side, always_strict: bool) -> EndSettings {
        let end = &self.ends[side as usize];
        let other = &self.ends[side.other() as usize];
        let strict = end.strict || (always_strict && !end.asymmetric);
        EndSettings {
            rtp: end.rtp,
            rtcp: end.rtcp,
            hint: end.hint,
            mux: end.mux.on && end.mux.settled,
            latch: if end.asymmetric { Latch::Never } else { Latch::Once },
            source: if strict { Source::Strict } else { Source::Any },
            forward: other.receives,
            clocks: self.clocks.to_vec(),
        }
    }
}

/// A copy that costs nothing for the names that nearly all descriptions use.
pub(super) fn interned(name: &[u8]) -> Cow<'static, [u8]> {
    const KNOWN: [&[u8]; 14] = [
        b"RTP/AVP",
        b"RTP/AVPF",
        b"RTP/SAVP",
        b"RTP/SAVPF",
        b"UDP/BFCP",
        b"UDP/TLS/RTP/SAVP",
        b"UDP/TLS/RTP/SAVPF",
        b"application",
        b"audio",
        b"image",
        b"message",
        b"text",
        b"udptl",
        b"video",
    ];
    match KNOWN.binary_search(&name) {
        Ok(index) => Cow::Borrowed(KNOWN[index]),
        Err(_) => Cow::Owned(name[..name.len().min(32)].to_vec()),
    }
}
