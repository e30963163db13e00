//! What one participant sends: packets in, frames of samples out.

use crate::mix::codec::{Codec, Decoder};
use crate::mix::conceal::Concealer;
use crate::mix::dtmf::KeyDecoder;
use crate::mix::jitter::{JitterBuffer, Put, Taken};
use crate::mix::rtcp::Block;
use crate::mix::rtp::Packet;
use crate::mix::{UNITS, WIDE};

/// What a packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// An event that is no new key.
    Event,
    Key(u8),
    Sound,
    /// A payload type that was not agreed upon.
    WrongPayload,
}

/// What a frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Played {
    MadeUp,
    Silence,
    Sound,
}

/// What has come, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    pub packets: u64,
    /// Of payload.
    pub octets: u64,
    pub duplicates: u64,
    /// Came after their turn.
    pub late: u64,
    /// Frames that had to be made up.
    pub made_up: u64,
    pub wrong_payload: u64,
    /// Times that the sender began anew with another source identifier, or somewhere else.
    pub restarts: u64,
}

/// RFC 3550 section 6.4.1 and appendix A: what reports say about a source.
#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    /// Sequence numbers with their cycles.
    first: u32,
    highest: u32,
    received: u32,
    /// At the last report.
    expected_before: u32,
    received_before: u32,
    transit: u32,
    /// Times 16.
    jitter: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Inbound {
    /// Payload types that may come; all codecs of the same width.
    codecs: Box<[(u8, Codec)]>,
    events: Option<u8>,
    /// The payload type and the codec that came last.
    payload_type: u8,
    codec: Codec,
    decoder: Decoder,
    buffer: JitterBuffer,
    concealer: Concealer,
    keys: KeyDecoder,
    source: Option<Source>,
    /// What has come, and how.
    pub reception: Reception,
}

impl Inbound {
    /// `codecs` with their payload types, the expected one first; those of another width than it are left out.
    pub fn new(codecs: &[(u8, Codec)], events: Option<u8>) -> Self {
        let (payload_type, codec) = codecs.first().copied().unwrap_or((u8::MAX, Codec::Pcmu));
        let alike = codecs.iter().filter(|(_, other)| other.is_wide() == codec.is_wide());
        Self {
            codecs: alike.copied().collect(),
            events,
            payload_type,
            codec,
            decoder: Decoder::new(codec),
            buffer: JitterBuffer::default(),
            concealer: Concealer::new(codec.is_wide()),
            keys: KeyDecoder::new(),
            source: None,
            reception: Reception::default(),
        }
    }

    /// The codec that came last.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// A packet that arrived at this time, counted in units.
    pub fn handle(&mut self, packet: &Packet<'_>, arrival: u32) -> Received {
        let is_event = self.events == Some(packet.payload_type);
        let codec = if packet.payload_type == self.payload_type {
            Some(self.codec)
        } else {
            let known = self.codecs.iter().find(|(number, _)| *number == packet.payload_type);
            known.map(|(_, codec)| *codec)
        };
        if codec.is_none() && !is_event {
            self.reception.wrong_payload += 1;
            return Received::WrongPayload;
        }
        self.reception.packets += 1;
        self.reception.octets += packet.payload.len() as u64;
        self.follow(packet, arrival);
        if is_event {
            return match self.keys.handle(packet.timestamp, packet.payload) {
                Some(key) => Received::Key(key),
                None => Received::Event,
            };
        }
        self.payload_type = packet.payload_type;
        if let Some(codec) = codec.filter(|codec| *codec != self.codec) {
            self.codec = codec;
            self.begin_anew();
        }
        match self.buffer.put(packet.timestamp, packet.payload) {
            Put::Astray | Put::Began | Put::Stored => {}
            Put::Duplicate => self.reception.duplicates += 1,
            Put::Late => self.reception.late += 1,
        }
        Received::Sound
    }

    /// What has come so far was somebody else's.
    pub fn forget(&mut self) {
        self.begin_anew();
        self.concealer.reset();
        self.source = None;
    }

    fn begin_anew(&mut self) {
        self.buffer = JitterBuffer::default();
        self.decoder = Decoder::new(self.codec);
        self.keys.reset();
    }

    /// Keeps what reports say.
    fn follow(&mut self, packet: &Packet<'_>, arrival: u32) {
        let transit = arrival.wrapping_sub(packet.timestamp);
        let sequence = u32::from(packet.sequence);
        let began = self.source.is_some();
        if let Some(source) = self.source.as_mut().filter(|source| source.ssrc == packet.ssrc) {
            let ahead = packet.sequence.wrapping_sub(source.highest as u16);
            if ahead < 3000 {
                source.highest = source.highest.wrapping_add(u32::from(ahead));
            }
            if !(3000..=u16::MAX - 100).contains(&ahead) {
                source.received = source.received.wrapping_add(1);
                let difference = (transit.wrapping_sub(source.transit) as i32).unsigned_abs();
                source.transit = transit;
                // Appendix A.8. A jump of the timestamp is no jitter.
                if difference < 80_000 {
                    source.jitter += difference;
                    source.jitter -= (source.jitter.saturating_sub(difference) + 8) >> 4;
                }
                return;
            }
        }
        if began {
            self.reception.restarts += 1;
        }
        if self.source.is_some_and(|source| source.ssrc != packet.ssrc) {
            self.begin_anew();
        }
        self.source = Some(Source {
            ssrc: packet.ssrc,
            first: sequence,
            highest: sequence,
            received: 1,
            expected_before: 0,
            received_before: 0,
            transit,
            jitter: 0,
        });
    }

    /// The next 20 ms, [`Codec::samples`] of them at the beginning of `out`.
    pub fn play(&mut self, out: &mut [i16; WIDE]) -> Played {
        let samples = self.codec.samples();
        let skips = self.buffer.skips();
        let mut played = self.next(&mut out[..samples]);
        if skips {
            // The frame after this one takes its place, blended over 5 ms.
            let mut next = [0; WIDE];
            let after = self.next(&mut next[..samples]);
            let blend = samples / 4;
            for (index, new) in next[..samples].iter().enumerate() {
                let (old, new) = (i32::from(out[index]), i32::from(*new));
                let part = (index + 1).min(blend) as i32;
                // Between two samples, so it fits.
                out[index] = (old + (new - old) * part / blend as i32) as i16;
            }
            if played == Played::Silence {
                played = after;
            }
        }
        if played == Played::MadeUp {
            self.reception.made_up += 1;
        }
        played
    }

    fn next(&mut self, out: &mut [i16]) -> Played {
        let mut units = [0; UNITS];
        let found = match self.buffer.take(&mut units) {
            Taken::Frame(found) => found,
            Taken::Silence => 0..0,
            Taken::Wait => return self.make_up(out),
        };
        if found.is_empty() {
            if self.buffer.position().is_none_or(|position| self.keys.covers(position)) {
                self.concealer.reset();
                out.fill(0);
                return Played::Silence;
            }
            return self.make_up(out);
        }
        let width = out.len() / UNITS;
        let (before, rest) = out.split_at_mut(found.start * width);
        let (there, after) = rest.split_at_mut(found.len() * width);
        if !before.is_empty() {
            self.concealer.lost(before);
        }
        self.decoder.decode(&units[found], there);
        self.concealer.heard(there);
        if !after.is_empty() {
            self.concealer.lost(after);
        }
        Played::Sound
    }

    fn make_up(&mut self, out: &mut [i16]) -> Played {
        if self.concealer.lost(out) { Played::MadeUp } else { Played::Silence }
    }

    /// What to report about the source now, but for the times; the next report counts from here.
    pub fn report(&mut self) -> Option<Block> {
        let source = self.source.as_mut()?;
        let expected = source.highest.wrapping_sub(source.first).wrapping_add(1);
        let expected_now = expected.wrapping_sub(source.expected_before);
        let received_now = source.received.wrapping_sub(source.received_before);
        (source.expected_before, source.received_before) = (expected, source.received);
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (u64::from(lost_now) * 256).checked_div(expected_now.into()).unwrap_or(0);
        Some(Block {
            ssrc: source.ssrc,
            fraction_lost: fraction.min(255) as u8,
            lost: expected.wrapping_sub(source.received) as i32,
            highest: source.highest,
            jitter: source.jitter >> 4,
            ..Block::default()
        })
    }

    /// Packets of this source that never came.
    pub fn lost(&self) -> u64 {
        self.source.map_or(0, |source| {
            let expected = source.highest.wrapping_sub(source.first).wrapping_add(1);
            expected.saturating_sub(source.received).into()
        })
    }

    /// Interarrival jitter in ms.
    pub fn jitter_ms(&self) -> u32 {
        self.source.map_or(0, |source| source.jitter / 16 / 8)
    }

    /// How long packets wait here, in ms.
    pub fn delay_ms(&self) -> u32 {
        self.buffer.delay_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::codec::Encoder;
    use crate::mix::testing::{level, tone};

    fn packet(index: u32, payload: &[u8]) -> Packet<'_> {
        Packet {
            marker: false,
            payload_type: 0,
            sequence: (65_500 + index) as u16,
            timestamp: index * 160,
            ssrc: 1,
            payload,
        }
    }

    #[test]
    fn reports_count_losses_over_the_wrap() {
        let mut inbound = Inbound::new(&[(0, Codec::Pcmu)], Some(101));
        for index in (0..100).filter(|index| index % 10 != 3) {
            assert_eq!(
                inbound.handle(&packet(index, &[0xff; 160]), index * 160 + 7),
                Received::Sound
            );
        }
        let block = inbound.report().expect("a source");
        assert_eq!((block.lost, block.fraction_lost, block.jitter), (10, 25, 0));
        assert_eq!(block.highest, 65_500 + 99);
        let again = inbound.report().expect("a source");
        assert_eq!((again.lost, again.fraction_lost), (10, 0));
        // Every second one 4 ms later than the others.
        for index in 100..300 {
            inbound.handle(&packet(index, &[0xff; 160]), index * 160 + 32 * (index % 2));
        }
        assert!((3..=4).contains(&inbound.jitter_ms()), "{}", inbound.jitter_ms());
        assert_eq!(
            inbound.handle(&Packet { payload_type: 18, ..packet(300, &[0]) }, 0),
            Received::WrongPayload
        );
        assert_eq!(inbound.reception.wrong_payload, 1);
    }

    #[test]
    fn another_source_begins_anew() {
        let mut inbound =
            Inbound::new(&[(0, Codec::Pcmu), (9, Codec::G722), (8, Codec::Pcma)], None);
        inbound.handle(&packet(0, &[0xff; 160]), 0);
        inbound.handle(&Packet { ssrc: 2, sequence: 9, timestamp: 77, ..packet(0, &[0; 160]) }, 0);
        assert_eq!(inbound.reception.restarts, 1);
        assert_eq!(inbound.report().map(|block| (block.ssrc, block.lost)), Some((2, 0)));
        assert_eq!(inbound.codecs.len(), 2, "G.722 is wide");
        inbound.handle(&Packet { payload_type: 8, ssrc: 2, ..packet(0, &[0; 160]) }, 0);
        assert_eq!(inbound.codec(), Codec::Pcma);
    }

    /// A tone is played without a gap while the buffer skips frames and packets are lost.
    #[test]
    fn a_tone_comes_out() {
        let sound = tone(500.0, 8e3, 8000.0, 400 * 160);
        let mut encoder = Encoder::new(Codec::Pcma);
        let mut inbound = Inbound::new(&[(0, Codec::Pcma)], None);
        let mut heard = Vec::new();
        for (index, frame) in sound.chunks(160).enumerate() {
            let mut units = [0; UNITS];
            encoder.encode(frame, &mut units);
            if index % 20 != 7 {
                inbound.handle(&packet(index as u32, &units), index as u32 * 160);
            }
            let mut out = [0; WIDE];
            let played = inbound.play(&mut out);
            assert!(index < 2 || played != Played::Silence, "{index}");
            heard.extend_from_slice(&out[..160]);
        }
        assert_eq!(inbound.lost(), 20);
        assert!((19..=21).contains(&inbound.reception.made_up), "{:?}", inbound.reception);
        for chunk in heard[800..].chunks_exact(1600) {
            assert!(level(chunk, 500.0, 8e3) > 6500.0, "{}", level(chunk, 500.0, 8e3));
        }
    }

    #[test]
    fn keys_leave_no_made_up_sound() {
        let mut inbound = Inbound::new(&[(0, Codec::Pcmu)], Some(101));
        let mut out = [0; WIDE];
        let units = [0x80; 160];
        for index in 0..20 {
            inbound.handle(&packet(index, &units), index * 160);
            inbound.play(&mut out);
        }
        for index in 20..30_u32 {
            let [d0, d1] = ((index - 19) as u16 * 160).to_be_bytes();
            let event = [6, 10, d0, d1];
            let event = Packet {
                payload_type: 101,
                timestamp: 3200,
                sequence: (65_500 + index) as u16,
                ..packet(0, &event)
            };
            let expected = if index == 20 { Received::Key(b'6') } else { Received::Event };
            assert_eq!(inbound.handle(&event, index * 160), expected);
            let played = inbound.play(&mut out);
            assert!(index < 22 || played == Played::Silence, "{index}: {played:?}");
        }
        assert_eq!(inbound.lost(), 0);
    }
}
