//! G.711 and G.722 as they stand in RTP.
//!
//! Both take one byte for 125 µs, and both count time in these (RFC 3551 section 4.5.2: G.722 has an RTP clock of
//! 8,000 Hz although it samples at 16,000). So everything up to the decoder counts in *units* of one byte.

use audio_codec::g722::{G722Decoder, G722Encoder};
use audio_codec::{Decoder as _, Encoder as _};

use crate::mix::g711::Law;
use crate::mix::{NARROW, UNITS, WIDE};

/// How sound is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    G722,
    Pcma,
    Pcmu,
}

impl Codec {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::G722, Self::Pcma, Self::Pcmu];

    /// Its name in SDP.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G722 => "G722",
            Self::Pcma => "PCMA",
            Self::Pcmu => "PCMU",
        }
    }

    /// The codec with this name in SDP, whatever its case.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// Its static payload type (RFC 3551 table 4).
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::G722 => 9,
            Self::Pcma => 8,
            Self::Pcmu => 0,
        }
    }

    /// Samples in a frame of 20 ms.
    pub const fn samples(self) -> usize {
        match self {
            Self::G722 => WIDE,
            Self::Pcma | Self::Pcmu => NARROW,
        }
    }

    /// Whether its samples are those of a wide frame.
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::G722)
    }
}

/// Bytes to samples.
pub struct Decoder(DecoderKind);

enum DecoderKind {
    G722(Box<G722Decoder>),
    Pcma,
    Pcmu,
}

impl Decoder {
    pub fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::G722 => DecoderKind::G722(Box::new(G722Decoder::new())),
            Codec::Pcma => DecoderKind::Pcma,
            Codec::Pcmu => DecoderKind::Pcmu,
        })
    }

    /// Decodes into the beginning of `samples` and returns how many there are: one for each unit, or two.
    pub fn decode(&mut self, units: &[u8], samples: &mut [i16]) -> usize {
        match &mut self.0 {
            // It fails only when there is no room.
            DecoderKind::G722(decoder) => decoder.decode_into(units, samples).unwrap_or(0),
            DecoderKind::Pcma => Law::A.decode(units, samples),
            DecoderKind::Pcmu => Law::Mu.decode(units, samples),
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            DecoderKind::G722(_) => "Decoder(G722)",
            DecoderKind::Pcma => "Decoder(PCMA)",
            DecoderKind::Pcmu => "Decoder(PCMU)",
        })
    }
}

/// Samples to bytes.
pub struct Encoder(EncoderKind);

enum EncoderKind {
    G722(Box<G722Encoder>),
    Pcma,
    Pcmu,
}

impl Encoder {
    pub fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::G722 => EncoderKind::G722(Box::new(G722Encoder::new())),
            Codec::Pcma => EncoderKind::Pcma,
            Codec::Pcmu => EncoderKind::Pcmu,
        })
    }

    /// Encodes one frame of [`Codec::samples`].
    pub fn encode(&mut self, frame: &[i16], units: &mut [u8; UNITS]) {
        match &mut self.0 {
            EncoderKind::G722(encoder) => _ = encoder.encode_into(frame, units),
            EncoderKind::Pcma => Law::A.encode(frame, units),
            EncoderKind::Pcmu => Law::Mu.encode(frame, units),
        }
    }

    /// Whether a frame is encoded alike whatever came before, so that many listeners can share it.
    pub const fn is_stateless(&self) -> bool {
        !matches!(self.0, EncoderKind::G722(_))
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            EncoderKind::G722(_) => "Encoder(G722)",
            EncoderKind::Pcma => "Encoder(PCMA)",
            EncoderKind::Pcmu => "Encoder(PCMU)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::testing::{level, tone};

    /// What ITU-T G.711 says, from the segments of table 1 (A-law) and 2 (µ-law): the value of a code.
    fn value_of(codec: Codec, code: u8) -> i32 {
        match codec {
            // Even bits are inverted, the sign bit says positive; 13 bits, here times 8.
            Codec::Pcma => {
                let code = code ^ 0x55;
                let (segment, step) = (i32::from(code >> 4 & 7), i32::from(code & 15));
                let magnitude = match segment {
                    0 => 2 * step + 1,
                    _ => (2 * step + 33) << (segment - 1),
                };
                8 * if code & 0x80 != 0 { magnitude } else { -magnitude }
            }
            // All bits are inverted; 14 bits, here times 4.
            _ => {
                let code = !code;
                let (segment, step) = (i32::from(code >> 4 & 7), i32::from(code & 15));
                let magnitude = ((2 * step + 33) << segment) - 33;
                4 * if code & 0x80 != 0 { -magnitude } else { magnitude }
            }
        }
    }

    #[test]
    fn every_code_of_g711_has_the_value_of_the_recommendation() {
        for codec in [Codec::Pcma, Codec::Pcmu] {
            let mut decoder = Decoder::new(codec);
            for code in 0..=255 {
                let mut sample = [0];
                assert_eq!(decoder.decode(&[code], &mut sample), 1);
                assert_eq!(i32::from(sample[0]), value_of(codec, code), "{codec:?} {code:#04x}");
            }
        }
    }

    /// Decision values are the borders of steps: nothing is further from its value than half a step of its segment.
    #[test]
    fn every_sample_gets_the_code_of_its_step() {
        for codec in [Codec::Pcma, Codec::Pcmu] {
            let mut encoder = Encoder::new(codec);
            let mut code_of = |sample| {
                let mut units = [0; UNITS];
                encoder.encode(&[sample], &mut units);
                units[0]
            };
            for code in 0..=255 {
                // µ-law has two zeros.
                let back = code_of(value_of(codec, code) as i16);
                assert!(
                    back == code || (codec, code) == (Codec::Pcmu, 0x7f),
                    "{codec:?} {code:#x}"
                );
            }
            let mut before = i32::MIN;
            for sample in i16::MIN..=i16::MAX {
                let code = code_of(sample);
                let value = value_of(codec, code);
                // The last bit of a negative number, and the two that µ-law leaves out, decide nothing.
                let half = match (codec, code) {
                    (Codec::Pcma, code) => (8 << (((code ^ 0x55) >> 4 & 7).max(1) - 1)) + 1,
                    (_, code) => (4 << (!code >> 4 & 7)) + 3,
                };
                let clips = i32::from(sample).abs() > value.abs() && value.abs() > 32_000;
                let error = (value - i32::from(sample)).abs();
                assert!(error <= half || clips, "{codec:?} {sample}: off by {error}");
                assert!(value >= before);
                before = value;
            }
        }
    }

    #[test]
    fn known_codes() {
        let mut units = [0; UNITS];
        // The best known of all: digital silence, full scale.
        Encoder::new(Codec::Pcmu).encode(&[0, 32_767, -32_768], &mut units);
        assert_eq!(units[..3], [0xff, 0x80, 0x00]);
        Encoder::new(Codec::Pcma).encode(&[0, 32_767, -32_768], &mut units);
        assert_eq!(units[..3], [0xd5, 0xaa, 0x2a]);
        // ITU-T G.711 tables 5 and 6: these eight codes are a tone of 1 kHz at 0 dBm0.
        for (codec, codes) in [
            (Codec::Pcma, [0x34, 0x21, 0x21, 0x34, 0xb4, 0xa1, 0xa1, 0xb4]),
            (Codec::Pcmu, [0x1e, 0x0b, 0x0b, 0x1e, 0x9e, 0x8b, 0x8b, 0x9e]),
        ] {
            let units: Vec<u8> = codes.iter().copied().cycle().take(UNITS).collect();
            let mut frame = [0; NARROW];
            Decoder::new(codec).decode(&units, &mut frame);
            let amplitude = level(&frame, 1000.0, 8000.0);
            // 3.14 dB (A-law) and 3.17 dB (µ-law) below full scale.
            assert!((22_300.0..23_200.0).contains(&amplitude), "{codec:?}: {amplitude}");
        }
    }

    #[test]
    fn tones_survive_each_codec() {
        for (codec, rate) in [(Codec::Pcma, 8e3), (Codec::Pcmu, 8e3), (Codec::G722, 16e3)] {
            for frequency in [300.0, 1000.0, 3000.0, 6500.0] {
                if frequency > rate * 0.45 {
                    continue;
                }
                let (mut encoder, mut decoder) = (Encoder::new(codec), Decoder::new(codec));
                let sound = tone(frequency, rate, 8000.0, 25 * codec.samples());
                let mut heard = Vec::new();
                for frame in sound.chunks(codec.samples()) {
                    let (mut units, mut samples) = ([0; UNITS], [0; WIDE]);
                    encoder.encode(frame, &mut units);
                    let count = decoder.decode(&units, &mut samples);
                    assert_eq!(count, codec.samples());
                    heard.extend_from_slice(&samples[..count]);
                }
                let settled = &heard[5 * codec.samples()..];
                let amplitude = level(settled, frequency, rate);
                assert!(
                    (7000.0..9000.0).contains(&amplitude),
                    "{codec:?} {frequency}: {amplitude}"
                );
            }
        }
    }

    /// Some decoders of G.722 wrap around at full scale.
    #[test]
    fn g722_at_full_scale_does_not_wrap() {
        let (mut encoder, mut decoder) = (Encoder::new(Codec::G722), Decoder::new(Codec::G722));
        let sound = tone(1000.0, 16e3, 32_767.0, 50 * WIDE);
        let mut heard = Vec::new();
        for frame in sound.chunks(WIDE) {
            let (mut units, mut samples) = ([0; UNITS], [0; WIDE]);
            encoder.encode(frame, &mut units);
            decoder.decode(&units, &mut samples);
            heard.extend_from_slice(&samples);
        }
        let jump = heard.windows(2).map(|pair| (i32::from(pair[0]) - i32::from(pair[1])).abs());
        // The steepest step of this tone is 12,540.
        assert!(jump.max().unwrap_or(0) < 20_000);
    }

    #[test]
    fn g722_takes_any_bytes() {
        let mut rng = fastrand::Rng::with_seed(722);
        let mut decoder = Decoder::new(Codec::G722);
        for _ in 0..2000 {
            let units: [u8; UNITS] = std::array::from_fn(|_| rng.u8(..));
            assert_eq!(decoder.decode(&units, &mut [0; WIDE]), WIDE);
        }
    }
}
