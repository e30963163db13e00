//! ITU-T G.711 by table. A-law looks at the upper 12 bits of a sample, µ-law at the upper 14.

/// One law: samples to codes, codes to samples.
pub(super) struct Law<const N: usize> {
    /// By the upper bits of the sample, from the lowest on.
    codes: [u8; N],
    values: [i16; 256],
    /// Bits of a sample that are not looked at.
    shift: u32,
}

impl<const N: usize> Law<N> {
    pub(super) fn encode(&self, samples: &[i16], units: &mut [u8]) {
        for (sample, unit) in samples.iter().zip(units) {
            // The upper bits are N numbers around zero, so the mask does nothing but spare the check.
            let index = ((*sample >> self.shift) as usize).wrapping_add(N / 2) & (N - 1);
            *unit = self.codes[index];
        }
    }

    pub(super) fn decode(&self, units: &[u8], samples: &mut [i16]) -> usize {
        for (unit, sample) in units.iter().zip(&mut *samples) {
            *sample = self.values[usize::from(*unit)];
        }
        units.len().min(samples.len())
    }
}

pub(super) static A_LAW: Law<4096> = a_law();
pub(super) static MU_LAW: Law<16_384> = mu_law();

/// Table 1 of the recommendation: 16 steps in each segment, as wide as the segment's first value is large; the two lowest
/// segments have the same steps. Even bits are inverted.
const fn a_law() -> Law<4096> {
    let mut law = Law { codes: [0; 4096], values: [0; 256], shift: 4 };
    let mut upper = 0_usize;
    while upper < 2048 {
        // Segment and step of a magnitude of eleven bits.
        let segment = if upper < 32 { upper / 16 } else { upper.ilog2() as usize - 3 };
        let step = if segment == 0 { upper } else { upper >> (segment - 1) } % 16;
        let code = (segment << 4 | step) as u8;
        law.codes[2048 + upper] = (0x80 | code) ^ 0x55;
        law.codes[2047 - upper] = code ^ 0x55;
        // The middle of the step.
        let middle = match segment {
            0 => (2 * step + 1) << 3,
            _ => (2 * step + 33) << (segment + 2),
        };
        law.values[((0x80 | code) ^ 0x55) as usize] = middle as i16;
        law.values[(code ^ 0x55) as usize] = -(middle as i16);
        upper += 1;
    }
    law
}

/// Table 2: each segment has steps twice as wide as the one before, the first one begins 33 below zero. All bits are
/// inverted.
const fn mu_law() -> Law<16_384> {
    let mut law = Law { codes: [0; 16_384], values: [0; 256], shift: 2 };
    let mut upper = 0_usize;
    while upper < 8192 {
        let biased = if upper + 33 > 0x1fff { 0x1fff } else { upper + 33 };
        let segment = biased.ilog2() as usize - 5;
        let step = (biased >> (segment + 1)) % 16;
        let code = (segment << 4 | step) as u8;
        law.codes[8192 + upper] = !code;
        law.codes[8191 - upper] = !(0x80 | code);
        let middle = (((2 * step + 33) << segment) - 33) << 2;
        law.values[!code as usize] = middle as i16;
        law.values[!(0x80 | code) as usize] = -(middle as i16);
        upper += 1;
    }
    law
}
