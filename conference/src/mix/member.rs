//! One participant of a room.

use crate::mix::UNITS;
use crate::mix::codec::{Codec, Encoder};
use crate::mix::dtmf::{Lock, Wishes};
use crate::mix::inbound::{Inbound, Reception};
use crate::mix::rtcp::{Block, SenderInfo};
use crate::mix::rtp::{HEADER, Packet};
use crate::mix::tones::Player;

/// What was agreed upon with a participant. The random beginnings are the caller's (RFC 3550 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSettings {
    /// Payload types with their codecs; we send the first.
    pub codecs: Vec<(u8, Codec)>,
    /// The payload type of telephone events.
    pub events: Option<u8>,
    /// Whether the member wants to hear anything; not while it is on hold.
    pub hears: bool,
    /// Whether what the member sends is for others; not while it is on hold.
    pub speaks: bool,
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
}

/// A packet of one frame.
pub(crate) type Frame = [u8; HEADER + UNITS];

/// What we send to a member.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) codec: Codec,
    payload_type: u8,
    pub(crate) encoder: Encoder,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    pub(crate) packets: u64,
    /// Whether the last frame was sent.
    continues: bool,
}

impl Outbound {
    fn new(settings: &MemberSettings) -> Self {
        let (payload_type, codec) = settings.codecs.first().copied().unwrap_or((0, Codec::Pcmu));
        Self {
            codec,
            payload_type,
            encoder: Encoder::new(codec),
            ssrc: settings.ssrc,
            sequence: settings.sequence,
            timestamp: settings.timestamp,
            packets: 0,
            continues: false,
        }
    }

    /// Writes the next header in front of a payload.
    pub(crate) fn stamp(&mut self, packet: &mut Frame) {
        let header = Packet {
            marker: !self.continues,
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            payload: &[],
        };
        packet[..HEADER].copy_from_slice(&header.header());
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(UNITS as u32);
        self.packets += 1;
        self.continues = true;
    }

    /// A frame passes in which nothing is sent.
    pub(crate) fn pass(&mut self) {
        self.timestamp = self.timestamp.wrapping_add(UNITS as u32);
        self.continues = false;
    }

    pub(crate) const fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// What a sender report says at this NTP time; `None` if nothing was sent yet.
    pub(crate) fn info(&self, ntp: u64) -> Option<SenderInfo> {
        (self.packets > 0).then(|| SenderInfo {
            ntp,
            timestamp: self.timestamp,
            packets: self.packets as u32,
            octets: (self.packets * UNITS as u64) as u32,
        })
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Member {
    /// The caller's name for it.
    pub(crate) token: usize,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) hears: bool,
    pub(crate) speaks: bool,
    pub(crate) muted: bool,
    /// Must be opened before the member is in the room; with the ticks that are left for it.
    pub(crate) lock: Option<(Lock, u32)>,
    pub(crate) wishes: Wishes,
    /// Sounds for this member alone.
    pub(crate) player: Player,
    /// Whether it is in the sum.
    pub(crate) is_heard: bool,
    /// Ticks for which the member still counts as speaking.
    pub(crate) hangover: u8,
    /// Ticks since the last packet.
    pub(crate) silent_for: u32,
    /// Ticks until the next report.
    pub(crate) report_in: u32,
    /// The middle of the last sender report's time, and when it came by our clock.
    pub(crate) last_report: Option<(u32, u64)>,
    pub(crate) remote: Remote,
}

/// What the other side has reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remote {
    /// In 65,536ths of a second.
    pub(crate) round_trip: Option<u32>,
    pub(crate) fraction_lost: u8,
    pub(crate) reports: u64,
}

impl Member {
    pub(crate) fn new(token: usize, settings: &MemberSettings, lock: Option<(Lock, u32)>) -> Self {
        Self {
            token,
            inbound: Inbound::new(&settings.codecs, settings.events),
            outbound: Outbound::new(settings),
            hears: settings.hears,
            speaks: settings.speaks,
            muted: false,
            lock,
            wishes: Wishes::default(),
            player: Player::new(),
            is_heard: false,
            hangover: 0,
            silent_for: 0,
            report_in: 0,
            last_report: None,
            remote: Remote::default(),
        }
    }

    pub(crate) const fn is_inside(&self) -> bool {
        self.lock.is_none()
    }

    /// The session changed. What the streams have counted goes on.
    pub(crate) fn change(&mut self, settings: &MemberSettings) {
        let reception = self.inbound.reception;
        self.inbound = Inbound::new(&settings.codecs, settings.events);
        self.inbound.reception = reception;
        let changed = Outbound::new(settings);
        if changed.codec != self.outbound.codec {
            self.outbound.encoder = changed.encoder;
        }
        (self.outbound.codec, self.outbound.payload_type) = (changed.codec, changed.payload_type);
        (self.hears, self.speaks, self.silent_for) = (settings.hears, settings.speaks, 0);
    }

    /// The block of a report at this NTP time.
    pub(crate) fn report(&mut self, ntp: u64) -> Option<Block> {
        let mut block = self.inbound.report()?;
        if let Some((middle, at)) = self.last_report {
            block.last_report = middle;
            block.delay = (ntp.wrapping_sub(at) >> 16) as u32;
        }
        Some(block)
    }

    /// Takes what the other side says about our stream.
    pub(crate) fn reported(&mut self, block: &Block, ntp: u64) {
        if block.ssrc != self.outbound.ssrc() {
            return;
        }
        self.remote.reports += 1;
        self.remote.fraction_lost = block.fraction_lost;
        if block.last_report != 0 {
            // RFC 3550 section 6.4.1: A - LSR - DLSR, believed below a minute.
            let now = (ntp >> 16) as u32;
            let round_trip = now.wrapping_sub(block.last_report).wrapping_sub(block.delay);
            self.remote.round_trip = Some(round_trip).filter(|time| *time < 60 << 16);
        }
    }

    pub(crate) fn stats(&self) -> MemberStats {
        MemberStats {
            token: self.token,
            is_inside: self.is_inside(),
            muted: self.muted,
            speaking: self.hangover > 0,
            codec: self.outbound.codec,
            reception: self.inbound.reception,
            lost: self.inbound.lost(),
            jitter_ms: self.inbound.jitter_ms(),
            delay_ms: self.inbound.delay_ms(),
            sent: self.outbound.packets,
            round_trip_ms: self
                .remote
                .round_trip
                .map(|time| ((u64::from(time) * 1000) >> 16) as u32),
            remote_lost: f32::from(self.remote.fraction_lost) / 256.0,
        }
    }
}

/// How a member fares.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStats {
    /// The caller's name for it.
    pub token: usize,
    /// Not while a number is wanted from it.
    pub is_inside: bool,
    pub muted: bool,
    pub speaking: bool,
    pub codec: Codec,
    pub reception: Reception,
    /// Packets that never came.
    pub lost: u64,
    pub jitter_ms: u32,
    /// How long packets wait here.
    pub delay_ms: u32,
    /// Packets.
    pub sent: u64,
    /// From the other side's reports.
    pub round_trip_ms: Option<u32>,
    /// Of what we sent, lately, as the other side reports.
    pub remote_lost: f32,
}
