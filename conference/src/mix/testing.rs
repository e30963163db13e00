//! Tones, and what is left of them.

/// A sine.
pub(crate) fn tone(frequency: f32, rate: f32, amplitude: f32, samples: usize) -> Vec<i16> {
    let step = 2.0 * std::f64::consts::PI * f64::from(frequency) / f64::from(rate);
    let sample = |index: usize| (f64::from(amplitude) * (step * index as f64).sin()) as i16;
    (0..samples).map(sample).collect()
}

/// The amplitude of a frequency (Goertzel), Hann-windowed so that other tones leak less.
pub(crate) fn level(samples: &[i16], frequency: f32, rate: f32) -> f32 {
    let omega = 2.0 * std::f64::consts::PI * f64::from(frequency) / f64::from(rate);
    let factor = 2.0 * omega.cos();
    let turn = 2.0 * std::f64::consts::PI / samples.len() as f64;
    let (mut one, mut two) = (0.0, 0.0);
    for (index, sample) in samples.iter().enumerate() {
        let window = 1.0 - (turn * index as f64).cos();
        let zero = f64::from(*sample) * window + factor * one - two;
        (one, two) = (zero, one);
    }
    let power = one * one + two * two - factor * one * two;
    (2.0 * power.max(0.0).sqrt() / samples.len() as f64) as f32
}
