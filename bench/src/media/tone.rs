//! Tones in G.711 µ-law: what streams send, and how it is known again.

use std::f64::consts::TAU;

/// Samples of a packet of 20 ms.
pub(super) const SAMPLES: usize = 160;

/// Samples of a second.
const RATE: f64 = 8000.0;

/// Blocks of a second.
const SECOND: u32 = 50;

/// Share of the power that must be at the tone's frequency.
const PURE: f64 = 0.7;

/// Mean power of a sample below which there is silence: a tone at a thousandth of full scale.
const SILENCE: f64 = 512.0;

const AMPLITUDE: f64 = 8000.0;

/// A tone whose period fits into a packet, so that all packets of a stream have the same payload.
#[derive(Clone, Debug)]
pub(super) struct Tone {
    hertz: u16,
    payload: [u8; SAMPLES],
    block: Block,
}

impl Tone {
    /// Tones that differ: 400 Hz and upwards in steps of 50 Hz.
    pub(super) fn all() -> Vec<Self> {
        (0..16).map(|n| Self::new(400 + 50 * n)).collect()
    }

    /// `hertz` must be a multiple of 50.
    fn new(hertz: u16) -> Self {
        debug_assert_eq!(hertz % 50, 0);
        let angle = TAU * f64::from(hertz) / RATE;
        let sample = |n: usize| (AMPLITUDE * (angle * n as f64).sin()).round() as i16;
        let payload = std::array::from_fn(|n| encode(sample(n)));
        Self { hertz, payload, block: Block::of(&payload, hertz) }
    }

    pub(super) fn payload(&self) -> &[u8; SAMPLES] {
        &self.payload
    }
}

/// What a piece of audio has of one frequency: a sum that can be continued as long as each piece has whole periods.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    real: f64,
    imaginary: f64,
    energy: f64,
    samples: u32,
}

impl Block {
    /// Goertzel's filter.
    fn of(payload: &[u8], hertz: u16) -> Self {
        let angle = TAU * f64::from(hertz) / RATE;
        let (sine, cosine) = angle.sin_cos();
        let (mut last, mut before, mut energy) = (0.0, 0.0, 0.0);
        for byte in payload {
            let sample = f64::from(decode(*byte));
            energy += sample * sample;
            (last, before) = (sample + 2.0 * cosine * last - before, last);
        }
        Self {
            real: last * cosine - before,
            imaginary: last * sine,
            energy,
            samples: payload.len() as u32,
        }
    }

    fn add(&mut self, other: &Self) {
        self.real += other.real;
        self.imaginary += other.imaginary;
        self.energy += other.energy;
        self.samples += other.samples;
    }

    fn is_tone(&self) -> bool {
        let samples = f64::from(self.samples);
        let at_frequency = self.real * self.real + self.imaginary * self.imaginary;
        // A pure tone has all its energy there: energy times half the number of samples.
        self.energy > SILENCE * samples && at_frequency >= PURE * self.energy * samples / 2.0
    }
}

/// Listens to one stream and says once a second whether it heard the tone.
#[derive(Clone, Debug, Default)]
pub(super) struct Ear {
    heard: Block,
    blocks: u32,
}

impl Ear {
    /// Takes a packet's payload; the verdict when a second is complete, and whether the payload is as it was sent.
    pub(super) fn hear(&mut self, payload: &[u8], tone: &Tone) -> (bool, Option<bool>) {
        let same = payload == tone.payload;
        if same {
            self.heard.add(&tone.block);
        } else {
            self.heard.add(&Block::of(payload, tone.hertz));
        }
        self.blocks += 1;
        (same, (self.blocks == SECOND).then(|| self.verdict()))
    }

    /// The verdict on what was heard since the last one; `None` if that was nothing.
    pub(super) fn finish(&mut self) -> Option<bool> {
        (self.blocks > 0).then(|| self.verdict())
    }

    fn verdict(&mut self) -> bool {
        self.blocks = 0;
        std::mem::take(&mut self.heard).is_tone()
    }
}

const BIAS: i32 = 0x84;

/// ITU-T G.711 µ-law.
fn encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs().min(32_635) + BIAS) as u32;
    let exponent = 31 - magnitude.leading_zeros() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    !(sign | ((exponent as u8) << 4) | mantissa as u8)
}

fn decode(byte: u8) -> i16 {
    let byte = !byte;
    let exponent = (byte >> 4) & 7;
    let magnitude = (((i32::from(byte & 0x0f) << 3) + BIAS) << exponent) - BIAS;
    (if byte & 0x80 == 0 { magnitude } else { -magnitude }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companding_is_as_the_tables_say() {
        // G.711 tables 2a and 2b: end points of the segments.
        for (sample, byte) in [(0, 0xff), (32_635, 0x80), (-32_635, 0x00), (8031, 0xa0), (-1, 0x7f)]
        {
            assert_eq!(encode(sample), byte, "{sample}");
        }
        for byte in 0..=255u8 {
            // Minus zero is encoded as zero.
            assert_eq!(encode(decode(byte)), if byte == 0x7f { 0xff } else { byte });
        }
    }

    fn verdict(payloads: impl Fn(u32) -> [u8; SAMPLES], tone: &Tone) -> (u32, bool) {
        let mut ear = Ear::default();
        let mut altered = 0;
        for n in 0..SECOND {
            let (same, verdict) = ear.hear(&payloads(n), tone);
            altered += u32::from(!same);
            match verdict {
                Some(verdict) => return (altered, verdict),
                None => assert!(n < SECOND - 1),
            }
        }
        unreachable!("a second is complete")
    }

    #[test]
    fn an_ear_knows_its_tone() {
        let tones = Tone::all();
        for (n, tone) in tones.iter().enumerate() {
            assert_eq!(verdict(|_| tone.payload, tone), (0, true), "{} Hz", tone.hertz);
            let other = &tones[(n + 1) % tones.len()];
            assert_eq!(verdict(|_| other.payload, tone), (SECOND, false), "{} Hz", tone.hertz);
            // Through another codec: the least significant bit is lost, the tone is not.
            let coarse = tone.payload.map(|byte| byte ^ 1);
            assert_eq!(verdict(|_| coarse, tone), (SECOND, true));
        }
        assert_eq!(verdict(|_| [0xff; SAMPLES], &tones[0]), (SECOND, false), "silence");
        // Two calls mixed up: most of a second is another tone.
        let mixed = |n| if n % 3 == 0 { tones[0].payload } else { tones[1].payload };
        assert!(!verdict(mixed, &tones[0]).1);
    }

    #[test]
    fn a_piece_of_a_second_has_a_verdict_too() {
        let tone = &Tone::all()[3];
        let mut ear = Ear::default();
        assert_eq!(ear.finish(), None);
        ear.hear(&tone.payload, tone);
        assert_eq!(ear.finish(), Some(true));
        assert_eq!(ear.finish(), None);
    }
}
