//! The PE checksum of a registrar's own elements (RFC 5353, section 3.6.2; RFC 1071).

use crate::Handle;
use dialtone_wire::PeId;

/// An incremental Internet checksum over pool handles and PE identifiers.
///
/// The sums are kept unfolded and subtraction is true subtraction: one's-complement subtraction of the last element
/// would leave 0xffff, that is checksum 0x0000 instead of 0xffff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Of the first bytes of all 16-bit words, and of the second bytes: the same words in either byte order.
    high: u64,
    low: u64,
}

impl Checksum {
    /// Adds an element.
    pub fn add(&mut self, handle: &Handle, pe_id: PeId) {
        let block = block(handle, pe_id);
        self.high += block.high;
        self.low += block.low;
    }

    /// Takes an element away that was added before.
    pub fn subtract(&mut self, handle: &Handle, pe_id: PeId) {
        let block = block(handle, pe_id);
        self.high -= block.high;
        self.low -= block.low;
    }

    /// How others do it, which is wrong.
    pub(crate) fn subtract_folded(&mut self, handle: &Handle, pe_id: PeId) {
        let block = block(handle, pe_id);
        let sum = (!self.value()).wrapping_sub(!block.value());
        *self = Self { high: u64::from(sum >> 8), low: u64::from(sum & 0xff) };
    }

    /// What stands in ENRP_PRESENCE; 0xffff when there is no element.
    pub const fn value(self) -> u16 {
        !fold((self.high << 8) + self.low)
    }

    /// The same by rsplib: it adds words in the byte order of its machine, which are little-endian ones, and loses what
    /// its 32 bits cannot hold. Other than [`Self::value`] from some ten thousand elements on.
    pub const fn wrapped(self) -> u16 {
        (!fold(((self.low << 8) + self.high) & 0xffff_ffff)).swap_bytes()
    }

    /// Whether two checksums as sent mean the same: implementations that subtract folded sums send the other zero.
    pub const fn same(a: u16, b: u16) -> bool {
        a == b || matches!((a, b), (0x0000, 0xffff) | (0xffff, 0x0000))
    }
}

const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An element's block: the handle padded to a multiple of 4, then the identifier.
fn block(handle: &Handle, pe_id: PeId) -> Checksum {
    let [a, b, c, d] = pe_id.0.to_be_bytes().map(u64::from);
    let mut block = Checksum { high: a + c, low: b + d };
    for pair in handle.as_bytes().chunks(2) {
        block.high += u64::from(pair[0]);
        block.low += u64::from(*pair.get(1).unwrap_or(&0));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(elements: &[(&str, u32)]) -> u16 {
        let mut checksum = Checksum::default();
        for (handle, pe_id) in elements {
            checksum.add(&handle.parse().unwrap(), PeId(*pe_id));
        }
        checksum.value()
    }

    #[test]
    fn matches_the_worked_examples() {
        assert_eq!(of(&[]), 0xffff);
        assert_eq!(of(&[("EchoPool", 0x1234_5678)]), 0x29a5);
        assert_eq!(of(&[("sip", 0x0a0b_0c0d)]), 0x067e);
        assert_eq!(of(&[("sip", 0xfedc_ba98)]), 0x6320);
        assert_eq!(of(&[("sip", 0x0a0b_0c0d), ("sip", 0xfedc_ba98)]), 0x699e);
        let all = [("EchoPool", 0x1234_5678), ("sip", 0x0a0b_0c0d), ("sip", 0xfedc_ba98)];
        assert_eq!(of(&all), 0x9343);
    }

    #[test]
    fn the_last_element_leaves_nothing() {
        let mut checksum = Checksum::default();
        let handle = "sip".parse().unwrap();
        checksum.add(&handle, PeId(0x0a0b_0c0d));
        checksum.subtract(&handle, PeId(0x0a0b_0c0d));
        assert_eq!(checksum.value(), 0xffff, "folded subtraction would give 0x0000");
        assert!(Checksum::same(0x0000, 0xffff) && !Checksum::same(0x0000, 0x0001));
    }

    /// Words of 0xffff in either byte order: 32,768 elements of four words fill 32 bits, and the next one wraps.
    #[test]
    fn the_sum_of_rsplib_loses_what_32_bits_cannot_hold() {
        let handle: Handle = "\u{7f}\u{7f}\u{7f}\u{7f}".parse().unwrap();
        let mut checksum = Checksum::default();
        let mut naive = 0_u32;
        let mut wraps = 0;
        for n in 0..60_000_u32 {
            let pe_id = PeId(0xf0f0_0000 | n);
            checksum.add(&handle, pe_id);
            let [a, b, c, d] = pe_id.0.to_be_bytes();
            for word in [[0x7f, 0x7f], [0x7f, 0x7f], [a, b], [c, d]] {
                let (sum, wrapped) = naive.overflowing_add(u16::from_le_bytes(word).into());
                naive = sum;
                wraps += u32::from(wrapped);
            }
            let mut folded = naive;
            while folded > 0xffff {
                folded = (folded & 0xffff) + (folded >> 16);
            }
            let raw = !(folded as u16);
            assert_eq!(checksum.wrapped().to_be_bytes(), raw.to_le_bytes(), "{n}");
            assert_eq!(checksum.wrapped() == checksum.value(), wraps == 0, "{n}");
        }
        assert_ne!(wraps, 0);
        for n in 0..60_000 {
            checksum.subtract(&handle, PeId(0xf0f0_0000 | n));
        }
        assert_eq!((checksum.value(), checksum.wrapped()), (0xffff, 0xffff));
    }
}
