//! The PE checksum of a registrar's own elements (RFC 5353, section 3.6.2; RFC 1071).

use crate::Handle;
use dialtone_wire::PeId;

/// An incremental Internet checksum over pool handles and PE identifiers.
///
/// The sum is kept unfolded and subtraction is true subtraction: one's-complement subtraction of the last element
/// would leave 0xffff, that is checksum 0x0000 instead of 0xffff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    sum: u64,
}

impl Checksum {
    /// Adds an element.
    pub fn add(&mut self, handle: &Handle, pe_id: PeId) {
        self.sum += words(handle, pe_id);
    }

    /// Takes an element away that was added before.
    pub fn subtract(&mut self, handle: &Handle, pe_id: PeId) {
        self.sum -= words(handle, pe_id);
    }

    /// How others do it, which is wrong.
    pub(crate) fn subtract_folded(&mut self, handle: &Handle, pe_id: PeId) {
        let words = Self { sum: words(handle, pe_id) };
        self.sum = u64::from((!self.value()).wrapping_sub(!words.value()));
    }

    /// What stands in ENRP_PRESENCE; 0xffff when there is no element.
    pub const fn value(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Whether two checksums as sent mean the same: implementations that subtract folded sums send the other zero.
    pub const fn same(a: u16, b: u16) -> bool {
        a == b || matches!((a, b), (0x0000, 0xffff) | (0xffff, 0x0000))
    }
}

/// The sum of an element's block: the handle padded to a multiple of 4, then the identifier.
fn words(handle: &Handle, pe_id: PeId) -> u64 {
    let pairs = handle.as_bytes().chunks(2);
    let handle: u64 =
        pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
    handle + u64::from(pe_id.0 >> 16) + u64::from(pe_id.0 & 0xffff)
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
}
