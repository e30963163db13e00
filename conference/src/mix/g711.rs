//! ITU-T G.711. A-law looks at the upper 12 bits of a sample, µ-law at the upper 14.
//!
//! A code is a number with a sign, an exponent and four bits of the fraction: so the bits of a float are nearly the code,
//! and the compiler makes vectors of that. Samples are looked up.

/// Bits of a float below the four of the fraction that codes have, and its exponent for one.
const BELOW: u32 = 19;
const ONE: i32 = 127;

/// One law: samples to codes, codes to samples.
#[derive(Clone, Copy)]
pub(super) enum Law {
    A,
    Mu,
}

impl Law {
    pub(super) fn encode(self, samples: &[i16], units: &mut [u8]) {
        let each = samples.iter().zip(units);
        match self {
            Self::A => each.for_each(|(sample, unit)| *unit = a_code(*sample)),
            Self::Mu => each.for_each(|(sample, unit)| *unit = mu_code(*sample)),
        }
    }

    pub(super) fn decode(self, units: &[u8], samples: &mut [i16]) -> usize {
        let values = match self {
            Self::A => &A_VALUES,
            Self::Mu => &MU_VALUES,
        };
        for (unit, sample) in units.iter().zip(&mut *samples) {
            *sample = values[usize::from(*unit)];
        }
        units.len().min(samples.len())
    }
}

/// Table 1 of the recommendation: 16 steps in each segment, as wide as the segment's first value is large; the two lowest
/// segments have the same steps. Even bits are inverted.
#[inline]
fn a_code(sample: i16) -> u8 {
    let magnitude = (sample ^ (sample >> 15)) >> 4;
    let bits = f32::from(magnitude).to_bits() as i32;
    // What is below the second segment is no float of the first.
    let above = (bits >> BELOW) - ((ONE + 3) << 4);
    let code = if magnitude < 16 { i32::from(magnitude) } else { above };
    let positive = !(sample >> 15) & 0x80;
    (code as i16 | positive) as u8 ^ 0x55
}

/// Table 2: each segment has steps twice as wide as the one before, the first one begins 33 below zero. All bits are
/// inverted.
#[inline]
fn mu_code(sample: i16) -> u8 {
    let magnitude = (sample ^ (sample >> 15)) >> 2;
    let biased = (magnitude + 33).min(0x1fff);
    let bits = f32::from(biased).to_bits() as i32;
    let code = (bits >> BELOW) - ((ONE + 5) << 4);
    let negative = (sample >> 15) & 0x80;
    !(code as i16 | negative) as u8
}

/// The middle of each code's step.
static A_VALUES: [i16; 256] = values(Law::A);
static MU_VALUES: [i16; 256] = values(Law::Mu);

const fn values(law: Law) -> [i16; 256] {
    let mut values = [0; 256];
    let mut unit = 0;
    while unit < 256 {
        let code = match law {
            Law::A => unit ^ 0x55,
            Law::Mu => !unit & 0xff,
        };
        let (segment, step) = (code >> 4 & 7, (code & 15) as i16);
        let middle = match (law, segment) {
            (Law::A, 0) => (2 * step + 1) << 3,
            (Law::A, _) => (2 * step + 33) << (segment + 2),
            (Law::Mu, _) => (((2 * step + 33) << segment) - 33) << 2,
        };
        let is_positive = (code & 0x80 != 0) == matches!(law, Law::A);
        values[unit] = if is_positive { middle } else { -middle };
        unit += 1;
    }
    values
}
