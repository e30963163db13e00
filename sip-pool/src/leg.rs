//! Leg ids: the identity of a request over all its attempts.
//!
//! The gateway that takes a request from a phone mints 64 random bits and keeps them while it sends the request again
//! through other proxies. They travel in the branch of its Via, `z9hG4bK<leg>.<attempt>.<key id and MAC>`, all in
//! hexadecimal because branches may be compared without regard to case.

use std::fmt::{self, Write as _};

use crate::keys::{Keys, MAC_LEN, Purpose};

/// RFC 3261 section 8.1.1.7: what every branch of an RFC 3261 client starts with.
pub const MAGIC_COOKIE: &str = "z9hG4bK";

const HEX: &[u8; 16] = b"0123456789abcdef";

/// 64 bits that stay the same over all attempts to send one request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u64);

impl fmt::Debug for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LegId({:016x})", self.0)
    }
}

impl LegId {
    /// A fresh leg id.
    pub fn mint(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u64(..))
    }

    /// The Via branch of attempt number `attempt`.
    #[must_use]
    pub fn branch(self, keys: &Keys, attempt: u32) -> String {
        let (id, mac) = keys.mac(Purpose::Leg, &content(self, attempt));
        let mut branch = String::with_capacity(64);
        // Writing to a string cannot fail.
        let _ = write!(branch, "{MAGIC_COOKIE}{:016x}.{attempt:x}.{id:02x}", self.0);
        for byte in mac {
            for digit in [byte >> 4, byte & 15] {
                branch.push(char::from(HEX[usize::from(digit)]));
            }
        }
        branch
    }

    /// The leg id and attempt in a branch that [`LegId::branch`] made with one of `keys`.
    #[must_use]
    pub fn from_branch(keys: &Keys, branch: &[u8]) -> Option<(Self, u32)> {
        let rest = branch.get(MAGIC_COOKIE.len()..)?;
        if !branch[..MAGIC_COOKIE.len()].eq_ignore_ascii_case(MAGIC_COOKIE.as_bytes())
            || rest.len() > 64
        {
            return None;
        }
        let mut parts = std::str::from_utf8(rest).ok()?.split('.');
        let (leg, attempt, tail) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || leg.len() != 16 || tail.len() != 2 + 2 * MAC_LEN {
            return None;
        }
        // Signs are no hexadecimal digits, although the standard library takes them.
        if [leg, attempt, tail]
            .iter()
            .any(|part| !part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return None;
        }
        let (leg, attempt) =
            (Self(u64::from_str_radix(leg, 16).ok()?), u32::from_str_radix(attempt, 16).ok()?);
        let mut bytes = [0; 1 + MAC_LEN];
        for (byte, digits) in bytes.iter_mut().zip(tail.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        keys.check(Purpose::Leg, bytes[0], &content(leg, attempt), &bytes[1..])
            .then_some((leg, attempt))
    }

    /// The leg id nearest to us in a Via stack whose branches are given from the top.
    pub fn in_stack<'a>(
        keys: &Keys,
        branches: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<(Self, u32)> {
        branches.into_iter().find_map(|branch| Self::from_branch(keys, branch))
    }
}

fn content(leg: LegId, attempt: u32) -> [u8; 12] {
    let mut content = [0; 12];
    content[..8].copy_from_slice(&leg.0.to_be_bytes());
    content[8..].copy_from_slice(&attempt.to_be_bytes());
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Generation;

    #[test]
    fn the_leg_is_found_in_a_stack_and_no_changed_branch_is_taken_for_one() {
        let keys = Keys::new(&Generation { id: 1, secret: [1; 32] }, None);
        let leg = LegId(0x0123_4567_89ab_cdef);
        let branch = leg.branch(&keys, 2);
        let stack = [b"z9hG4bKproxy".as_slice(), branch.as_bytes(), b"z9hG4bKphone"];
        assert_eq!(LegId::in_stack(&keys, stack), Some((leg, 2)));
        let upper = branch.to_ascii_uppercase();
        assert_eq!(LegId::from_branch(&keys, upper.as_bytes()), Some((leg, 2)));
        for bit in 0..branch.len() * 8 {
            let mut changed = branch.clone().into_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            // A change of case is no change of the branch.
            if !changed.eq_ignore_ascii_case(branch.as_bytes()) {
                assert_eq!(LegId::from_branch(&keys, &changed), None, "bit {bit}");
            }
        }
    }
}
