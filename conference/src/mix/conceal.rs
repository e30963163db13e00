//! Sound for what was lost: the last pitch period goes on and fades (the idea of ITU-T G.711 appendix I).

use crate::mix::{NARROW, WIDE};

/// Samples remembered, at 8 kHz: 40 ms.
const HISTORY: usize = 2 * NARROW;
/// After so long without loss of level the sound fades, per sample at 8 kHz, to nothing within about 100 ms.
const FULL_MS: usize = 10;
const FADE: f32 = 0.996;
/// What is quieter than this is silence.
const NOTHING: i32 = 16;

/// Remembers what was heard, and goes on with it.
#[derive(Debug)]
pub struct Concealer {
    /// A ring: only what is new is written, so that little memory is touched at each frame.
    history: Box<[i16]>,
    /// Where the oldest sample is.
    oldest: usize,
    /// 1 for 8 kHz, 2 for 16 kHz.
    rate: usize,
    /// Samples made up since the last real one.
    made_up: usize,
    lag: usize,
}

impl Concealer {
    pub fn new(wide: bool) -> Self {
        let rate = if wide { 2 } else { 1 };
        Self { history: vec![0; HISTORY * rate].into(), oldest: 0, rate, made_up: 0, lag: 1 }
    }

    /// Real samples; the first of them are blended with what was made up before.
    pub fn heard(&mut self, samples: &mut [i16]) {
        if self.made_up > 0 {
            let mut continued = [0; 80];
            let blend = (40 * self.rate).min(samples.len());
            self.extend(&mut continued[..blend]);
            for (index, (sample, old)) in samples.iter_mut().zip(&continued[..blend]).enumerate() {
                let (new, old) = (i32::from(*sample), i32::from(*old));
                let part = index as i32 + 1;
                // Between two samples, so it fits.
                *sample = (old + (new - old) * part / (blend as i32 + 1)) as i16;
            }
            self.made_up = 0;
        }
        self.remember(samples);
    }

    /// Makes samples up. Returns false when there is nothing left to go on with, and all are silent.
    pub fn lost(&mut self, samples: &mut [i16]) -> bool {
        if self.made_up == 0 {
            self.lag = self.pitch();
        }
        if self.made_up > 100 * 8 * self.rate {
            samples.fill(0);
            return false;
        }
        self.extend(samples);
        self.made_up += samples.len();
        self.remember(samples);
        samples.iter().any(|sample| i32::from(*sample).abs() > NOTHING)
    }

    /// Forgets everything, as before a new stream.
    pub fn reset(&mut self) {
        self.history.fill(0);
        self.made_up = 0;
    }

    /// Each sample is the one a pitch period before it, and fainter.
    fn extend(&self, samples: &mut [i16]) {
        let fade = match (self.made_up >= FULL_MS * 8 * self.rate, self.rate) {
            (false, _) => 1.0,
            (true, 1) => FADE,
            (true, _) => FADE.sqrt(),
        };
        // One factor for each sample of a period: the period before was faded by the samples between.
        let fade = fade.powi(self.lag as i32);
        let mut period = self.latest(self.lag);
        for index in 0..samples.len() {
            let before = match index.checked_sub(self.lag) {
                Some(earlier) => samples[earlier],
                // There are as many of them as the lag.
                None => period.next().unwrap_or(0),
            };
            samples[index] = (f32::from(before) * fade) as i16;
        }
    }

    fn remember(&mut self, samples: &[i16]) {
        let length = self.history.len();
        let samples = &samples[samples.len().saturating_sub(length)..];
        let (first, rest) = samples.split_at(samples.len().min(length - self.oldest));
        self.history[self.oldest..][..first.len()].copy_from_slice(first);
        self.history[..rest.len()].copy_from_slice(rest);
        self.oldest = (self.oldest + samples.len()) % length;
    }

    /// The last so many samples, the newest last.
    fn latest(&self, count: usize) -> impl Iterator<Item = i16> {
        let (newer, older) = self.history.split_at(self.oldest);
        older.iter().chain(newer).copied().skip(self.history.len() - count)
    }

    /// The distance, from 2.5 to 15 ms, at which what was heard is most like itself.
    fn pitch(&self) -> usize {
        const SHIFT: u32 = 4;
        let window = 160 * self.rate;
        let longest = 120 * self.rate;
        // 12 bits each: a sum of 320 products fits.
        let mut small = [0_i16; 2 * WIDE];
        let recent = &mut small[..window + longest];
        for (small, sample) in recent.iter_mut().zip(self.latest(window + longest)) {
            *small = sample >> SHIFT;
        }
        let now = &recent[longest..];
        let mut best = (0.0, 20 * self.rate);
        for lag in 20 * self.rate..=longest {
            let then = &recent[longest - lag..][..window];
            let (mut alike, mut energy) = (0_i32, 0_i32);
            for (now, then) in now.iter().zip(then) {
                alike += i32::from(*now) * i32::from(*then);
                energy += i32::from(*then) * i32::from(*then);
            }
            if alike > 0 && energy > 0 {
                let score = (alike as f32) * (alike as f32) / energy as f32;
                if score > best.0 {
                    best = (score, lag);
                }
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::testing::{level, tone};

    #[test]
    fn a_lost_frame_of_a_tone_is_made_up() {
        for (wide, rate, frame) in [(false, 8e3, NARROW), (true, 16e3, WIDE)] {
            for frequency in [300.0, 440.0, 1000.0, 2200.0] {
                let mut concealer = Concealer::new(wide);
                let mut sound = tone(frequency, rate, 8000.0, 20 * frame);
                for (index, frame) in sound.chunks_mut(frame).enumerate() {
                    if index == 10 {
                        assert!(concealer.lost(frame));
                    } else {
                        concealer.heard(frame);
                    }
                }
                let made_up = level(&sound[10 * frame..11 * frame], frequency, rate);
                assert!((4500.0..8800.0).contains(&made_up), "{frequency} of {rate}: {made_up}");
                // Blending must leave no click: no step steeper than the tone's own and a half.
                let steepest = 8000.0 * 2.0 * std::f32::consts::PI * frequency / rate * 1.5;
                let steps = sound.windows(2).map(|pair| f32::from(pair[1]) - f32::from(pair[0]));
                let steps = steps.skip(9 * frame).take(4 * frame).map(f32::abs).fold(0.0, f32::max);
                assert!(steps < steepest.max(3000.0), "{frequency} of {rate}: {steps}");
            }
        }
    }

    #[test]
    fn long_loss_fades_to_silence() {
        let mut concealer = Concealer::new(false);
        for frame in tone(440.0, 8e3, 8000.0, 10 * NARROW).chunks_mut(NARROW) {
            concealer.heard(frame);
        }
        let peaks: Vec<i16> = (0..10)
            .map(|_| {
                let mut frame = [0; NARROW];
                concealer.lost(&mut frame);
                frame.iter().map(|sample| sample.saturating_abs()).max().unwrap_or(0)
            })
            .collect();
        assert!(peaks[0] > 4000 && peaks[2] < peaks[0] && peaks[9] == 0, "{peaks:?}");
        assert!(!concealer.lost(&mut [0; NARROW]));
    }

    #[test]
    fn silence_and_full_scale_are_no_trouble() {
        for value in [0, i16::MAX, i16::MIN] {
            let mut concealer = Concealer::new(true);
            for _ in 0..3 {
                concealer.heard(&mut [value; WIDE]);
            }
            let mut frame = [0; WIDE];
            assert_eq!(concealer.lost(&mut frame), value != 0);
            assert!(frame.iter().all(|sample| sample.signum() == value.signum()));
        }
    }
}
