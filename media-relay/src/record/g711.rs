//! G.711 to linear samples (ITU-T G.711, as in the tables of G.191).

pub(super) fn from_mu_law(code: u8) -> i16 {
    let code = !code;
    let (segment, step) = (code >> 4 & 7, i16::from(code & 0xf));
    let magnitude = (((step << 3) + 0x84) << segment) - 0x84;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

pub(super) fn from_a_law(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (segment, step) = (code >> 4 & 7, i16::from(code & 0xf));
    let magnitude = match segment {
        0 => (step << 4) + 8,
        _ => ((step << 4) + 0x108) << (segment - 1),
    };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Extremes, both zeros, and a value of a middle segment, from the recommendation's tables.
        for (code, sample) in
            [(0x00, -32_124), (0x80, 32_124), (0xff, 0), (0x7f, 0), (0x8f, 16_764), (0xef, 132)]
        {
            assert_eq!(from_mu_law(code), sample, "{code:#04x}");
        }
        for (code, sample) in
            [(0xd5, 8), (0x55, -8), (0xaa, 32_256), (0x2a, -32_256), (0x80, 5_504), (0xc5, 264)]
        {
            assert_eq!(from_a_law(code), sample, "{code:#04x}");
        }
    }

    #[test]
    fn loudness_grows_with_the_code() {
        for code in 1..=127u8 {
            assert!(from_mu_law(code) >= from_mu_law(code - 1));
            assert!(from_a_law((code) ^ 0xd5) > from_a_law((code - 1) ^ 0xd5));
        }
    }
}
