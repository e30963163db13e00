//! Tones: written as WAV, and found again in what a phone has recorded.

use std::{f64::consts::TAU, fs, path::Path};

/// Samples per second.
const RATE: usize = 8_000;

/// The shortest stretch that is looked at: a quarter of a second, which tells 4 Hz apart.
const WINDOW: usize = RATE / 4;

/// Bytes before the samples in the files that are written and read here.
const HEADER: usize = 44;

/// A minute of a tone at half of the full scale, 16 bits, one channel.
pub(crate) fn write(path: &Path, hertz: u32) {
    let samples = (0..60 * RATE).map(|n| {
        let phase = TAU * f64::from(hertz) * n as f64 / RATE as f64;
        (phase.sin() * f64::from(i16::MAX) / 2.0) as i16
    });
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut wav = Vec::with_capacity(HEADER + data.len());
    let (length, rate) = (data.len() as u32, RATE as u32);
    wav.extend(b"RIFF");
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    for word in [1_u16, 1] {
        wav.extend(word.to_le_bytes());
    }
    wav.extend(rate.to_le_bytes());
    wav.extend((2 * rate).to_le_bytes());
    for word in [2_u16, 16] {
        wav.extend(word.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend(length.to_le_bytes());
    wav.extend(data);
    fs::write(path, wav).unwrap();
}

/// The samples of a recording that may still be written.
pub(crate) fn read(path: &Path) -> Vec<i16> {
    let wav = fs::read(path).unwrap_or_default();
    let start = match wav.windows(4).position(|window| window == b"data") {
        Some(data) => {
            let field = |at: usize| u16::from_le_bytes([wav[at], wav[at + 1]]);
            assert_eq!((field(20), field(22), field(24), field(34)), (1, 1, RATE as u16, 16));
            data + 8
        }
        // Some write the header when all is over.
        None => HEADER.min(wav.len()),
    };
    wav[start..].as_chunks::<2>().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

/// A sample of G.711 μ-law: three bits of exponent, four of mantissa, all inverted.
pub(crate) fn from_mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 0x84) << ((byte >> 4) & 0x07);
    if byte & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

/// How many quarters of a second these samples fill.
pub(crate) fn quarters(samples: &[i16]) -> usize {
    samples.len() / WINDOW
}

/// A quarter of a second at a time: the strongest frequency in hertz, and its share of the energy.
pub(crate) fn strongest(samples: &[i16]) -> Vec<(u32, f64)> {
    let samples: Vec<f64> = samples.iter().map(|sample| f64::from(*sample)).collect();
    samples.chunks_exact(WINDOW).map(strongest_in).collect()
}

fn strongest_in(window: &[f64]) -> (u32, f64) {
    let energy: f64 = window.iter().map(|sample| sample * sample).sum();
    let share = |hertz: u32| 2.0 * power(window, hertz) / (window.len() as f64 * energy.max(1.0));
    let found = (100..2_000).step_by(4).map(|hertz| (hertz, share(hertz)));
    found.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

/// Goertzel's algorithm.
pub(crate) fn power(window: &[f64], hertz: u32) -> f64 {
    let factor = 2.0 * (TAU * f64::from(hertz) / RATE as f64).cos();
    let (last, before) = window
        .iter()
        .fold((0.0, 0.0), |(last, before), sample| (sample + factor * last - before, last));
    last * last + before * before - factor * last * before
}
