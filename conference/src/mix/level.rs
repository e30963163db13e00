//! Sums and levels of samples: the loops over every frame, written so that the compiler makes vectors of them.

use crate::mix::{NARROW, WIDE};

/// Above this a sample is bent, so that what is too loud is flattened instead of cut.
const KNEE: i32 = 24_576;
/// How far above the knee samples are told apart.
const SPAN: i32 = 16_384;
/// A sum above the span is turned down to this.
const LOUDEST: f32 = 36_000.0;

/// Adds a frame to a sum.
pub fn add(sum: &mut [i32], frame: &[i16]) {
    for (sum, sample) in sum.iter_mut().zip(frame) {
        *sum += i32::from(*sample);
    }
}

/// Adds every second sample of a frame to a sum.
pub fn add_half(sum: &mut [i32; NARROW], frame: &[i16; WIDE]) {
    for (sum, pair) in sum.iter_mut().zip(frame.chunks_exact(2)) {
        *sum += i32::from(pair[0]);
    }
}

/// The mean square of a frame, each sample divided by 8.
pub fn energy(frame: &[i16]) -> u32 {
    let mut sum = 0_i32;
    for sample in frame {
        // Divided by 16, so that a sum of 320 squares fits.
        let small = i32::from(*sample >> 4);
        sum += small * small;
    }
    (sum.unsigned_abs() / (frame.len() as u32).max(1)) << 2
}

/// The largest distance from zero.
pub fn peak(sum: &[i32]) -> i32 {
    sum.iter().fold(0, |peak, sample| peak.max(sample.abs()))
}

/// The largest distance from zero of a frame.
pub fn loudest(frame: &[i16]) -> i32 {
    let (least, most) =
        frame.iter().fold((0, 0), |(least, most): (i16, i16), x| (least.min(*x), most.max(*x)));
    i32::from(most).max(-i32::from(least))
}

/// How much a room is turned down, so that many who speak at once are not flattened: at once when it gets too loud,
/// back again within about a second.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    before: f32,
    now: f32,
}

impl Default for Gain {
    fn default() -> Self {
        Self { before: 1.0, now: 1.0 }
    }
}

impl Gain {
    /// For a frame with this peak.
    pub fn follow(&mut self, peak: i32) {
        self.before = self.now;
        let wanted = if peak <= KNEE + SPAN { 1.0 } else { LOUDEST / peak as f32 };
        if wanted <= self.now {
            self.now = wanted;
        } else {
            self.now += (wanted - self.now) * 0.05;
            if self.now > 0.999 {
                self.now = 1.0;
            }
        }
    }

    /// Whether nothing is turned down.
    pub fn is_one(&self) -> bool {
        self.before >= 1.0 && self.now >= 1.0
    }

    /// Turns a sum down.
    pub fn apply(&self, sum: &mut [i32]) {
        if self.is_one() {
            return;
        }
        let step = (self.now - self.before) / sum.len() as f32;
        for (index, sample) in sum.iter_mut().enumerate() {
            *sample = (*sample as f32 * (self.before + step * (index + 1) as f32)) as i32;
        }
    }
}

/// Whether a sum with this peak has nothing to bend.
pub const fn is_straight(peak: i32) -> bool {
    peak <= KNEE
}

/// Makes samples of a sum; what is above the knee is bent, what is far above is flat.
pub fn flatten(sum: &[i32], out: &mut [i16]) {
    for (sample, out) in sum.iter().zip(out) {
        let magnitude = sample.abs();
        let over = (magnitude - KNEE).clamp(0, SPAN);
        let bent = magnitude.min(KNEE) + over - (over * over) / (2 * SPAN);
        let bent = bent.min(32_767);
        *out = (if *sample < 0 { -bent } else { bent }) as i16;
    }
}

/// Takes what is one's own out of a sum.
pub fn without(sum: &mut [i32], own: &[i16]) {
    for (sum, own) in sum.iter_mut().zip(own) {
        *sum -= i32::from(*own);
    }
}

/// Makes samples of what is left of a sum without `own`, where nothing is to be bent.
pub fn straight(sum: &[i32], own: &[i16], out: &mut [i16]) {
    for ((sum, own), out) in sum.iter().zip(own).zip(out) {
        *out = (sum - i32::from(*own)) as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::testing::{level, tone};

    #[test]
    fn what_fits_stays_and_what_does_not_is_bent() {
        let flat = |value| {
            let mut out = [0];
            flatten(&[value], &mut out);
            out[0]
        };
        for value in [0, 1, -1, 24_576, -24_576] {
            assert_eq!(i32::from(flat(value)), value);
        }
        assert_eq!((flat(1 << 24), flat(-(1 << 24))), (32_767, -32_767));
        for (value, own) in [(24_576, -1), (-24_576, 30_000), (0, i16::MIN)] {
            let (mut rest, mut out) = ([value], [0]);
            without(&mut rest, &[own]);
            straight(&[value], &[own], &mut out);
            // So it is where nothing is to be bent.
            let is_straight = is_straight(value.abs() + loudest(&[own]));
            assert!(!is_straight || out[0] == flat(rest[0]), "{value} {own}");
        }
        assert!(is_straight(24_576) && !is_straight(24_577));
        let mut before = 0;
        for value in (0..50_000).step_by(7) {
            let now = flat(value);
            assert!(now >= before && i32::from(now) <= value.max(1), "{value}: {now}");
            assert_eq!(flat(-value), -now);
            before = now;
        }
    }

    #[test]
    fn energies() {
        assert_eq!(energy(&[0; 160]), 0);
        assert!(energy(&[i16::MIN; 320]) > 15_000_000);
        let quiet = energy(&tone(440.0, 8e3, 200.0, 160));
        assert!((150..450).contains(&quiet), "{quiet}");
        assert_eq!(energy(&[]), 0);
        assert_eq!([loudest(&[]), loudest(&[5, -7]), loudest(&[i16::MIN])], [0, 7, 32_768]);
    }

    /// Ten full tones at once: turned down, not flattened, so that no other tones come into being.
    #[test]
    fn a_loud_sum_keeps_its_tones() {
        let tones: Vec<f32> = (0..10).map(|index| 300.0 + 250.0 * index as f32).collect();
        let sounds: Vec<Vec<i16>> =
            tones.iter().map(|frequency| tone(*frequency, 8e3, 20_000.0, 100 * 160)).collect();
        let mut gain = Gain::default();
        let mut heard = Vec::new();
        for frame in 0..100 {
            let mut sum = [0; 160];
            for sound in &sounds {
                add(&mut sum, &sound[frame * 160..][..160]);
            }
            gain.follow(peak(&sum));
            gain.apply(&mut sum);
            let mut out = [0; 160];
            flatten(&sum, &mut out);
            heard.extend_from_slice(&out);
        }
        let settled = &heard[8000..];
        let levels: Vec<f32> = tones.iter().map(|tone| level(settled, *tone, 8e3)).collect();
        let least = levels.iter().copied().fold(f32::MAX, f32::min);
        let strangers =
            [425.0, 675.0, 1425.0, 3200.0].map(|stranger| level(settled, stranger, 8e3));
        let most = strangers.into_iter().fold(0.0, f32::max);
        assert!(least > 1500.0 && most < least / 10.0, "{levels:?} {strangers:?}");
    }
}
