//! A room: everybody hears the sum of the others.

use std::collections::VecDeque;

use crate::mix::codec::Codec;
use crate::mix::dtmf::{Lock, Opened, Wish};
use crate::mix::inbound::{Played, Received};
use crate::mix::level::{self, Gain};
use crate::mix::member::{Frame, Member, MemberSettings, MemberStats};
use crate::mix::resample::{Down, Up};
use crate::mix::rtcp::{self, Item};
use crate::mix::rtp::{HEADER, Packet};
use crate::mix::tones::{self, Note, Player};
use crate::mix::{NARROW, TICKS_PER_SECOND, UNITS, WIDE};

/// What is quieter than this (see [`level::energy`]; about -60 dB) is left out of the sum.
const AUDIBLE: u32 = 16;
/// Ticks for which somebody is still in the sum after the last audible frame: the end of a word is quiet.
const HANGOVER: u8 = 10;
/// Notes of comings and goings that may wait before no more are added: half a second of them.
const CHIMES: usize = 4;
/// Between reports to a member: 5 s (RFC 3550 section 6.2).
const REPORT_EVERY: u32 = 5 * TICKS_PER_SECOND;

/// How a room behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// Digits that must be typed to come in.
    pub pin: Option<Box<str>>,
    /// Ticks that there are for it.
    pub pin_ticks: u32,
    /// Whether the room makes sounds of its own: of coming and going, and of being alone.
    pub tones: bool,
    /// Ticks without a packet after which a member is reported lost.
    pub timeout_ticks: u32,
    /// Of RTCP.
    pub cname: Box<str>,
    /// Whether [`Sink::mixed`] is wanted.
    pub records: bool,
}

impl Default for RoomSettings {
    fn default() -> Self {
        Self {
            pin: None,
            pin_ticks: 30 * TICKS_PER_SECOND,
            tones: true,
            timeout_ticks: 30 * TICKS_PER_SECOND,
            cname: "conference".into(),
            records: false,
        }
    }
}

/// What everybody says at a tick, by seats. It is lent to one room after another: so it stays close to the processor.
pub type Frames = Vec<[i16; WIDE]>;

/// Takes what a room sends; members are named by their tokens.
pub trait Sink {
    fn rtp(&mut self, token: usize, packet: &[u8]);
    fn rtcp(&mut self, token: usize, packet: &[u8]);
    /// The whole sum at 16 kHz, if the room records.
    fn mixed(&mut self, frame: &[i16; WIDE]) {
        let _ = frame;
    }
}

/// What happened in a room; members are named by their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomEvent {
    /// Is in the room now.
    Entered {
        token: usize,
    },
    /// Nothing has come for too long; told once.
    Lost {
        token: usize,
    },
    Muted {
        token: usize,
        muted: bool,
    },
    /// Did not know the number.
    Refused {
        token: usize,
    },
}

/// Names a member of one room; used again after it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(usize);

/// See the module documentation.
#[derive(Debug)]
pub struct Room {
    settings: RoomSettings,
    seats: Vec<Option<Box<Member>>>,
    free: Vec<usize>,
    /// Sounds for everybody.
    player: Player,
    up: Up,
    down: Down,
    gain: Gain,
    events: VecDeque<RoomEvent>,
    report: Vec<u8>,
}

impl Room {
    pub fn new(settings: RoomSettings) -> Self {
        Self {
            settings,
            seats: Vec::new(),
            free: Vec::new(),
            player: Player::new(),
            up: Up::default(),
            down: Down::default(),
            gain: Gain::default(),
            events: VecDeque::new(),
            report: Vec::new(),
        }
    }

    /// Somebody comes. `token` is the caller's name for it in outputs and events.
    pub fn join(&mut self, token: usize, settings: &MemberSettings) -> Seat {
        let lock = self.settings.pin.as_deref().map(Lock::new);
        let lock = lock.map(|lock| (lock, self.settings.pin_ticks));
        let index = self.free.pop().unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        let mut member = Box::new(Member::new(token, settings, lock));
        // Reports of many who come at once are spread.
        member.report_in = 1 + (index as u32 * 7) % REPORT_EVERY;
        let is_inside = member.is_inside();
        self.seats[index] = Some(member);
        if is_inside {
            self.entered(token);
        }
        Seat(index)
    }

    fn entered(&mut self, token: usize) {
        self.chime(tones::JOINED);
        self.events.push_back(RoomEvent::Entered { token });
    }

    /// Everybody hears that somebody has come or gone. Of many at once only the first ones are told.
    fn chime(&mut self, notes: [Note; 2]) {
        if self.settings.tones && self.player.waiting() < CHIMES {
            self.player.add(notes);
        }
    }

    /// Somebody goes; says goodbye by RTCP.
    pub fn leave(&mut self, seat: Seat, ntp: u64, sink: &mut impl Sink) {
        let Some(mut member) = self.seats.get_mut(seat.0).and_then(Option::take) else { return };
        self.free.push(seat.0);
        if member.is_inside() {
            self.chime(tones::LEFT);
        }
        self.send_report(&mut member, ntp, true, sink);
    }

    /// The session of a member changed.
    pub fn change(&mut self, seat: Seat, settings: &MemberSettings) {
        if let Some(member) = self.member(seat) {
            member.change(settings);
        }
    }

    fn member(&mut self, seat: Seat) -> Option<&mut Member> {
        self.seats.get_mut(seat.0)?.as_deref_mut()
    }

    /// A datagram from a member's RTP address, that arrived at this time counted in units of 125 µs. `None`: it is no
    /// RTP, or nobody is there.
    pub fn handle_rtp(&mut self, seat: Seat, datagram: &[u8], arrival: u32) -> Option<Received> {
        let packet = Packet::parse(datagram)?;
        let member = self.member(seat)?;
        let received = member.inbound.handle(&packet, arrival);
        match received {
            Received::WrongPayload => {}
            Received::Event | Received::Sound => member.silent_for = 0,
            Received::Key(key) => {
                member.silent_for = 0;
                self.pressed(seat, key);
            }
        }
        Some(received)
    }

    /// What a member has sent and nobody has heard yet is left out: it came from somebody else.
    pub fn forget_sound(&mut self, seat: Seat) {
        if let Some(member) = self.member(seat) {
            member.inbound.forget();
        }
    }

    fn pressed(&mut self, seat: Seat, key: u8) {
        let count = self.seats.iter().flatten().filter(|member| member.is_inside()).count();
        let Some(member) = self.member(seat) else { return };
        let token = member.token;
        if let Some((lock, _)) = &mut member.lock {
            match lock.handle(key) {
                Opened::NotYet => {}
                Opened::Yes => {
                    member.lock = None;
                    member.player.stop();
                    self.entered(token);
                }
                Opened::Wrong => {
                    member.player.stop();
                    member.player.add(tones::WRONG);
                }
                Opened::Never => self.events.push_back(RoomEvent::Refused { token }),
            }
            return;
        }
        match member.wishes.handle(key) {
            Some(Wish::Count) => {
                member.player.stop();
                member.player.add(tones::number(count));
            }
            Some(Wish::ToggleMute) => {
                member.muted = !member.muted;
                member.player.stop();
                member.player.add(if member.muted { tones::MUTED } else { tones::UNMUTED });
                let now = member.muted;
                // Who plays with the keys is told about once.
                match self.events.back_mut() {
                    Some(RoomEvent::Muted { token: last, muted }) if *last == token => *muted = now,
                    _ => self.events.push_back(RoomEvent::Muted { token, muted: now }),
                }
            }
            None => {}
        }
    }

    /// A datagram from a member's RTCP address, at this NTP time. `false`: it is no RTCP.
    pub fn handle_rtcp(&mut self, seat: Seat, datagram: &[u8], ntp: u64) -> bool {
        let Some(items) = rtcp::parse(datagram) else { return false };
        let Some(member) = self.member(seat) else { return true };
        for item in items {
            // A stream that ended falls silent; that the member is gone is said by SIP, or by its silence.
            let Item::Report(report) = item else { continue };
            // Phones that are muted may send nothing else.
            member.silent_for = 0;
            if let Some(sender) = report.sender {
                member.last_report = Some(((sender.ntp >> 16) as u32, ntp));
            }
            report.blocks().for_each(|block| member.reported(&block, ntp));
        }
        true
    }

    /// 20 ms have passed. What is in `frames` before does not matter.
    pub fn tick(&mut self, ntp: u64, frames: &mut Frames, sink: &mut impl Sink) {
        if frames.len() < self.seats.len() {
            frames.resize(self.seats.len(), [0; WIDE]);
        }
        let (mut narrow, mut wide) = ([0; NARROW], [0; WIDE]);
        let Present { inside, narrow_ears, wide_ears } = self.play(frames, &mut narrow, &mut wide);
        let sum = wide;
        if narrow_ears && (wide_ears || self.settings.records) {
            self.up.add(&narrow, &mut wide);
        }
        if narrow_ears && wide_ears {
            self.down.add(&sum, &mut narrow);
        }
        if !self.player.is_idle() {
            let mut tone = [0; WIDE];
            if self.player.play(&mut tone) {
                level::add(&mut wide, &tone);
                level::add_half(&mut narrow, &tone);
            }
        }
        let (narrow, wide) = (Sum::new(narrow), Sum::new(wide));
        let peak = if narrow_ears { narrow.peak } else { 0 };
        self.gain.follow(if wide_ears { peak.max(wide.peak) } else { peak });
        if self.settings.records {
            sink.mixed(&wide.compose(&self.gain, None, None));
        }
        self.send(inside, frames, &narrow, &wide, sink);
        self.report(ntp, sink);
    }

    /// Plays what everybody has sent into the sums.
    fn play(
        &mut self,
        frames: &mut Frames,
        narrow: &mut [i32; NARROW],
        wide: &mut [i32; WIDE],
    ) -> Present {
        let mut present = Present { inside: 0, narrow_ears: false, wide_ears: false };
        for (seat, frame) in self.seats.iter_mut().zip(frames) {
            let Some(member) = seat else { continue };
            member.silent_for += 1;
            if member.silent_for == self.settings.timeout_ticks && member.speaks {
                self.events.push_back(RoomEvent::Lost { token: member.token });
            }
            if let Some((_, left)) = &mut member.lock {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    *left = u32::MAX;
                    self.events.push_back(RoomEvent::Refused { token: member.token });
                } else if self.settings.tones && member.player.is_idle() {
                    member.player.add(tones::ASK);
                }
            } else {
                present.inside += 1;
                present.wide_ears |= member.outbound.codec.is_wide();
                present.narrow_ears |= !member.outbound.codec.is_wide();
            }
            let played = member.inbound.play(frame);
            let samples = member.inbound.codec().samples();
            let frame = &frame[..samples];
            if played == Played::Silence || member.muted || !member.speaks || !member.is_inside() {
                member.hangover = 0;
            } else if level::energy(frame) >= AUDIBLE {
                member.hangover = HANGOVER;
            } else {
                member.hangover = member.hangover.saturating_sub(1);
            }
            member.is_heard = member.hangover > 0;
            if member.is_heard {
                level::add(if samples == WIDE { &mut wide[..] } else { &mut narrow[..] }, frame);
            }
        }
        present
    }

    /// Sends everybody what it is to hear.
    fn send(
        &mut self,
        inside: usize,
        frames: &Frames,
        narrow: &Sum<NARROW>,
        wide: &Sum<WIDE>,
        sink: &mut impl Sink,
    ) {
        let mut packet: Frame = [0; HEADER + UNITS];
        let mut payload = [0; UNITS];
        let (no_narrow, no_wide) = (Sum::new([0; NARROW]), Sum::new([0; WIDE]));
        // What those hear who say nothing, and are told nothing of their own, encoded once.
        let mut shared: [Option<[u8; UNITS]>; Codec::ALL.len()] = [None; Codec::ALL.len()];
        for (seat, frame) in self.seats.iter_mut().zip(frames) {
            let Some(member) = seat else { continue };
            if !member.hears {
                member.outbound.pass();
                continue;
            }
            let is_inside = member.is_inside();
            if is_inside && self.settings.tones {
                if inside == 1 && member.player.is_idle() {
                    member.player.add(tones::ALONE);
                } else if inside > 1 && member.player.plays(&tones::ALONE) {
                    member.player.stop();
                }
            }
            let tone = if member.player.is_idle() { None } else { member.player.sound() };
            let (own, tone) = (member.is_heard.then_some(&frame[..]), tone.as_ref());
            let is_plain = is_inside && tone.is_none() && own.is_none();
            let codec = member.outbound.codec;
            match &shared[codec as usize] {
                Some(ready) if is_plain => payload = *ready,
                _ => {
                    let encoder = &mut member.outbound.encoder;
                    if codec.is_wide() {
                        let sum = if is_inside { wide } else { &no_wide };
                        encoder.encode(&sum.compose(&self.gain, own, tone), &mut payload);
                    } else {
                        let sum = if is_inside { narrow } else { &no_narrow };
                        encoder.encode(&sum.compose(&self.gain, own, tone), &mut payload);
                    }
                    if is_plain && encoder.is_stateless() {
                        shared[codec as usize] = Some(payload);
                    }
                }
            }
            packet[HEADER..].copy_from_slice(&payload);
            member.outbound.stamp(&mut packet);
            sink.rtp(member.token, &packet);
        }
    }

    fn report(&mut self, ntp: u64, sink: &mut impl Sink) {
        for index in 0..self.seats.len() {
            let Some(member) = &mut self.seats[index] else { continue };
            member.report_in = member.report_in.saturating_sub(1);
            if member.report_in == 0 {
                member.report_in = REPORT_EVERY;
                if let Some(mut member) = self.seats[index].take() {
                    self.send_report(&mut member, ntp, false, sink);
                    self.seats[index] = Some(member);
                }
            }
        }
    }

    fn send_report(&mut self, member: &mut Member, ntp: u64, goodbye: bool, sink: &mut impl Sink) {
        let sender = member.outbound.info(ntp);
        let block = member.report(ntp);
        let ssrc = member.outbound.ssrc();
        let cname = &self.settings.cname;
        rtcp::write(&mut self.report, ssrc, sender.as_ref(), block.as_ref(), cname, goodbye);
        sink.rtcp(member.token, &self.report);
    }

    /// What has happened; drain after each tick and each packet.
    pub fn poll(&mut self) -> Option<RoomEvent> {
        self.events.pop_front()
    }

    /// Members, those included that are not in yet.
    pub fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How everybody fares.
    pub fn stats(&self) -> impl Iterator<Item = MemberStats> {
        self.seats.iter().flatten().map(|member| member.stats())
    }
}

/// Who is in a room.
struct Present {
    inside: usize,
    /// Whether anybody listens at 8 kHz, at 16 kHz.
    narrow_ears: bool,
    wide_ears: bool,
}

/// What is heard of everybody together, at one rate.
struct Sum<const N: usize> {
    samples: [i32; N],
    peak: i32,
}

impl<const N: usize> Sum<N> {
    fn new(samples: [i32; N]) -> Self {
        Self { samples, peak: level::peak(&samples) }
    }

    /// Without what is one's own, and with a tone for oneself.
    fn compose(&self, gain: &Gain, own: Option<&[i16]>, tone: Option<&[i16; WIDE]>) -> [i16; N] {
        let mut out = [0; N];
        let own = own.unwrap_or(&[0; N]);
        if tone.is_none() && gain.is_one() && level::is_straight(self.peak + level::loudest(own)) {
            level::straight(&self.samples, own, &mut out);
            return out;
        }
        let mut rest = self.samples;
        level::without(&mut rest, own);
        gain.apply(&mut rest);
        if let Some(tone) = tone {
            for (index, sample) in rest.iter_mut().enumerate() {
                *sample += i32::from(tone[index * WIDE / N]);
            }
        }
        level::flatten(&rest, &mut out);
        out
    }
}
