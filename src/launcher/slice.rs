//! Loopback slices: 127.X.Y.0/24 for one localnet or test, so that ports can stay standard and nobody collides.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
};

/// The host and port that stand for the whole slice: whoever holds them owns it.
const LOCK_HOST: u8 = 254;
const LOCK_PORT: u16 = 9899;

/// Slices that are given out by number: 127.64.0.0/24 to 127.127.255.0/24. Lower ones are left to those who choose.
const FIRST: u16 = 64 << 8;
const COUNT: u16 = 64 << 8;

/// A slice cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    #[error("no loopback slice is free: all of 127.64.0.0 to 127.127.255.0 are in use")]
    Exhausted,
    #[error(
        "{slice}/24 is in use: another localnet or test runs there; leave the choice to dialtone or name another"
    )]
    InUse { slice: Ipv4Addr },
    #[error("{text:?} is no loopback slice; use 127.X.Y.0, X from 1 to 255 and Y from 0 to 255")]
    Syntax { text: String },
}

/// A claimed slice; free for others when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Slice {
    base: Ipv4Addr,
    _lock: (UdpSocket, TcpListener),
}

impl Slice {
    /// Reads `127.X.Y.0`.
    pub fn parse(text: &str) -> Result<Ipv4Addr, SliceError> {
        match text.parse::<Ipv4Addr>().map(|base| (base, base.octets())) {
            // 127.0.0.0/24 has everybody's localhost in it.
            Ok((base, [127, 1..=255, _, 0])) => Ok(base),
            _ => Err(SliceError::Syntax { text: text.to_owned() }),
        }
    }

    /// Claims the slice that begins at `base`.
    pub fn claim(base: Ipv4Addr) -> Result<Self, SliceError> {
        Self::try_claim(base).ok_or(SliceError::InUse { slice: base })
    }

    /// Claims the first free slice, so that one localnet after the other has the same addresses.
    pub fn first_free() -> Result<Self, SliceError> {
        (0..COUNT).find_map(|n| Self::try_claim(numbered(n))).ok_or(SliceError::Exhausted)
    }

    /// Claims any free slice, so that tests that follow each other closely do not meet each other's remains.
    pub fn any_free() -> Result<Self, SliceError> {
        let start = fastrand::u16(..COUNT);
        (0..COUNT)
            .find_map(|n| Self::try_claim(numbered((start + n) % COUNT)))
            .ok_or(SliceError::Exhausted)
    }

    fn try_claim(base: Ipv4Addr) -> Option<Self> {
        let at = (with_host(base, LOCK_HOST), LOCK_PORT);
        Some(Self { base, _lock: (UdpSocket::bind(at).ok()?, TcpListener::bind(at).ok()?) })
    }

    /// 127.X.Y.`host`.
    pub fn host(&self, host: u8) -> IpAddr {
        with_host(self.base, host).into()
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.base)
    }
}

fn numbered(n: u16) -> Ipv4Addr {
    let [x, y] = (FIRST + n).to_be_bytes();
    Ipv4Addr::new(127, x, y, 0)
}

fn with_host(base: Ipv4Addr, host: u8) -> Ipv4Addr {
    let [a, b, c, _] = base.octets();
    Ipv4Addr::new(a, b, c, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_claimed_once() {
        let slice = Slice::any_free().unwrap();
        assert!(slice.host(1).is_loopback());
        assert!(matches!(Slice::claim(slice.base), Err(SliceError::InUse { .. })));
        let base = slice.base;
        assert_ne!(Slice::any_free().unwrap().base, base);
        drop(slice);
        Slice::claim(base).unwrap();
    }

    #[test]
    fn only_slices_are_slices() {
        assert_eq!(Slice::parse("127.1.2.0").unwrap(), Ipv4Addr::new(127, 1, 2, 0));
        for wrong in ["127.0.0.0", "127.1.2.3", "10.0.0.0", "127.1.2.0/24", ""] {
            assert!(Slice::parse(wrong).is_err(), "{wrong}");
        }
    }
}
