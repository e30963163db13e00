//! One end of a pair: whom it listens to, and where its media is sent. Decides without IO.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How it is found out where media to an end is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Latch {
    /// To the signalled address only.
    Never,
    /// To where the first packet came from.
    Once,
}

/// Whose packets are forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Anybody's.
    Any,
    /// Those of the latched address, or with [`Latch::Never`] of the signalled one.
    Strict,
}

/// What a change of settings does to latching.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reopen {
    /// Another party stands there now: the next packet latches.
    Fully,
    /// The same party has described this end anew. If it named another address or hint, the next packet latches. If
    /// not, another source latches only when the present one has been silent for [`SOFT`]: a refresh must not give
    /// strangers a chance.
    IfMoved,
    /// This change does not come from a new description of that end.
    No,
}

/// How long the present source may be silent after a refresh before another one takes its place.
pub const SOFT: Duration = Duration::from_millis(200);

/// What signalling says about an end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndSettings {
    /// Where it wants RTP; `None` if unknown, or on hold by 0.0.0.0.
    pub rtp: Option<SocketAddr>,
    /// Where it wants RTCP: `a=rtcp`, else the port above RTP. Unused with `mux`.
    pub rtcp: Option<SocketAddr>,
    /// The host that the signalling came from, if it may well send the media: preferred over strangers in latching.
    pub hint: Option<IpAddr>,
    /// RTP and RTCP share the RTP port of this end (RFC 5761).
    pub mux: bool,
    pub latch: Latch,
    pub source: Source,
    /// Whether media from this end goes to the other one. RTCP always does.
    pub forward: bool,
    /// Clock rates in Hz of dynamic payload types; those of RFC 3551 are known.
    pub clocks: Vec<(u8, u32)>,
}

impl Default for EndSettings {
    fn default() -> Self {
        Self {
            rtp: None,
            rtcp: None,
            hint: None,
            mux: false,
            latch: Latch::Once,
            source: Source::Strict,
            forward: true,
            clocks: Vec::new(),
        }
    }
}

impl EndSettings {
    fn place(&self, channel: Channel) -> Option<SocketAddr> {
        match channel {
            Channel::Rtcp if !self.mux => self.rtcp,
            Channel::Rtp | Channel::Rtcp => self.rtp,
        }
    }

    /// The clock rate of a payload type, if it is known.
    pub(crate) fn clock(&self, payload_type: u8) -> Option<u32> {
        match payload_type {
            0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => Some(8_000),
            6 => Some(16_000),
            10 | 11 => Some(44_100),
            14 | 25 | 26 | 28 | 31..=34 => Some(90_000),
            16 => Some(11_025),
            17 => Some(22_050),
            _ => {
                self.clocks.iter().find(|(known, _)| *known == payload_type).map(|(_, rate)| *rate)
            }
        }
    }
}

/// One of the two ports of an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    Rtp = 0,
    Rtcp = 1,
}

/// Where packets of one channel come from.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    latched: Option<SocketAddr>,
    /// How likely `latched` is by what signalling said.
    rank: Rank,
    /// Since when another source may latch if this one is silent.
    soft: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    #[default]
    Stranger,
    Host,
    Exact,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) settings: EndSettings,
    places: [Place; 2],
}

impl End {
    pub(crate) fn new(settings: EndSettings) -> Self {
        Self { settings, places: Default::default() }
    }

    pub(crate) fn change(&mut self, now: Instant, settings: EndSettings, reopen: Reopen) {
        let old = std::mem::replace(&mut self.settings, settings);
        for channel in [Channel::Rtp, Channel::Rtcp] {
            let moved = old.hint != self.settings.hint
                || old.place(channel) != self.settings.place(channel);
            let place = &mut self.places[channel as usize];
            match reopen {
                Reopen::Fully => *place = Place::default(),
                Reopen::IfMoved if moved => *place = Place::default(),
                Reopen::IfMoved => place.soft = Some(now),
                Reopen::No => {}
            }
        }
    }

    /// Where packets of that channel are sent to, and by which of the end's ports.
    pub(crate) fn target(&self, channel: Channel) -> (Channel, Option<SocketAddr>) {
        let by = if self.settings.mux { Channel::Rtp } else { channel };
        let signalled = self.settings.place(by);
        let peer = match self.settings.latch {
            Latch::Never => signalled,
            Latch::Once => self.places[by as usize].latched.or(signalled),
        };
        (by, peer)
    }

    pub(crate) fn latched(&self) -> bool {
        self.settings.latch == Latch::Once && self.places[0].latched.is_some()
    }

    /// Whether a packet that arrived at that port is this end's, and not a stranger's. May latch.
    pub(crate) fn accept(&mut self, now: Instant, port: Channel, source: SocketAddr) -> bool {
        let place = &mut self.places[port as usize];
        if place.latched == Some(source) && self.settings.latch == Latch::Once {
            place.soft = None;
            return true;
        }
        self.consider(now, port, source) || self.settings.source == Source::Any
    }

    fn consider(&mut self, now: Instant, port: Channel, source: SocketAddr) -> bool {
        let signalled = self.settings.place(port);
        if self.settings.latch == Latch::Never {
            return signalled == Some(source);
        }
        // RTCP is likely to come from where RTP comes from.
        let media = match port {
            Channel::Rtp => None,
            Channel::Rtcp => self.places[0].latched.map(|it| it.ip()),
        };
        let likely = [signalled.map(|it| it.ip()), self.settings.hint, media];
        let rank = if same(signalled, source) {
            Rank::Exact
        } else if likely.contains(&Some(source.ip())) {
            Rank::Host
        } else {
            Rank::Stranger
        };
        let place = &mut self.places[port as usize];
        let latches = place.latched.is_none()
            || rank > place.rank
            || place.soft.is_some_and(|since| now.duration_since(since) >= SOFT);
        if latches {
            *place = Place { latched: Some(source), rank, soft: None };
        }
        latches
    }
}

/// Whether a source is the signalled address, which never names an IPv6 scope.
fn same(signalled: Option<SocketAddr>, source: SocketAddr) -> bool {
    signalled.is_some_and(|it| it.ip() == source.ip() && it.port() == source.port())
}
