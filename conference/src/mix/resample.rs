//! Between 8 kHz and 16 kHz, for sums of many participants: a room with both kinds converts each sum once.
//!
//! A half-band filter of 31 taps: within 0.1 dB to 3.4 kHz, 39 dB down from 4.6 kHz on. Every second tap but the middle
//! one is zero.

/// The taps at distance 1, 3, … 15 from the middle one, which is a half: a sinc under a Kaiser window of β 3.5, for a gain
/// of one.
const SIDE: [f32; 8] =
    [0.318_11, -0.101_233, 0.055_263, -0.034_092, 0.021_587, -0.013_39, 0.007_822, -0.004_067];

/// Taps before the middle one.
const REACH: usize = 15;

/// 8 kHz to 16 kHz.
#[derive(Clone, Debug, Default)]
pub struct Up {
    /// The last 15 samples.
    before: [f32; REACH],
}

/// 16 kHz to 8 kHz.
#[derive(Clone, Debug)]
pub struct Down {
    /// The last 30 samples.
    before: [f32; 2 * REACH],
}

impl Default for Down {
    fn default() -> Self {
        Self { before: [0.0; 2 * REACH] }
    }
}

impl Up {
    /// Adds 160 samples to `out` as 320, a millisecond late.
    pub fn add(&mut self, input: &[i32; 160], out: &mut [i32; 320]) {
        let mut line = [0.0_f32; REACH + 160];
        line[..REACH].copy_from_slice(&self.before);
        for (slot, sample) in line[REACH..].iter_mut().zip(input) {
            *slot = *sample as f32;
        }
        for (index, pair) in out.chunks_exact_mut(2).enumerate() {
            let around: &[f32] = &line[index..index + 16];
            // The sample itself, then one between it and the next.
            pair[0] += around[7] as i32;
            let mut between = 0.0;
            for (distance, tap) in SIDE.iter().enumerate() {
                between += (around[7 - distance] + around[8 + distance]) * tap;
            }
            pair[1] += (2.0 * between) as i32;
        }
        self.before.copy_from_slice(&line[160..]);
    }
}

impl Down {
    /// Adds 320 samples to `out` as 160, a millisecond late.
    pub fn add(&mut self, input: &[i32; 320], out: &mut [i32; 160]) {
        let mut line = [0.0_f32; 2 * REACH + 320];
        line[..2 * REACH].copy_from_slice(&self.before);
        for (slot, sample) in line[2 * REACH..].iter_mut().zip(input) {
            *slot = *sample as f32;
        }
        for (index, sample) in out.iter_mut().enumerate() {
            let around = &line[2 * index..2 * index + 2 * REACH + 1];
            let mut sum = 0.5 * around[REACH];
            for (number, tap) in SIDE.iter().enumerate() {
                let distance = 2 * number + 1;
                sum += (around[REACH - distance] + around[REACH + distance]) * tap;
            }
            *sample += sum as i32;
        }
        self.before.copy_from_slice(&line[320..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::testing::{level, tone};

    fn narrow(samples: &[i16]) -> [i32; 160] {
        std::array::from_fn(|index| i32::from(samples[index]))
    }

    fn wide(samples: &[i16]) -> [i32; 320] {
        std::array::from_fn(|index| i32::from(samples[index]))
    }

    fn up(frequency: f32) -> Vec<i16> {
        let mut filter = Up::default();
        let sound = tone(frequency, 8e3, 10_000.0, 20 * 160);
        let frames = sound.chunks(160).flat_map(|frame| {
            let mut out = [0; 320];
            filter.add(&narrow(frame), &mut out);
            out.map(|sample| sample as i16)
        });
        frames.skip(320).collect()
    }

    fn down(frequency: f32) -> Vec<i16> {
        let mut filter = Down::default();
        let sound = tone(frequency, 16e3, 10_000.0, 20 * 320);
        let frames = sound.chunks(320).flat_map(|frame| {
            let mut out = [0; 160];
            filter.add(&wide(frame), &mut out);
            out.map(|sample| sample as i16)
        });
        frames.skip(160).collect()
    }

    #[test]
    fn speech_passes_and_images_do_not() {
        for frequency in [200.0, 1000.0, 2000.0, 3000.0, 3400.0] {
            let there = up(frequency);
            let amplitude = level(&there, frequency, 16e3);
            assert!((9_000.0..10_600.0).contains(&amplitude), "up, {frequency}: {amplitude}");
            let image = level(&there, 8e3 - frequency, 16e3);
            assert!(image < 900.0, "image of {frequency}: {image}");
            let amplitude = level(&down(frequency), frequency, 8e3);
            assert!((9_000.0..10_600.0).contains(&amplitude), "down, {frequency}: {amplitude}");
        }
        for frequency in [4800.0, 6000.0, 7500.0] {
            let alias = level(&down(frequency), 8e3 - frequency, 8e3);
            assert!(alias < 300.0, "alias of {frequency}: {alias}");
        }
    }
}
