//! The state cookie's seal: what makes the handshake stateless and forgery useless (RFC 9260 5.1.3).
//!
//! dcsctp's cookie has neither age nor MAC. A suffix of 48 bytes adds both: time of making (8, nanoseconds since the
//! process began), peer's tag (4), own tag (4), HMAC-SHA256 over addresses, ports, these and the
//! cookie.
//! The key is random and lives as long as the process, so cookies of a predecessor are refused.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ring::hmac;

use crate::entropy::Entropy;
use crate::packet::u32_at;

pub(crate) const SUFFIX: usize = CLEAR + 32;
const CLEAR: usize = 16;
/// Length of dcsctp's own part. Nothing else is worth a look: who forges pays more than who refuses.
pub(crate) const INNER: usize = 48;

/// Where a handshake packet came from and where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) peer: SocketAddr,
    pub(crate) peer_port: u16,
    pub(crate) local_port: u16,
}

#[derive(Debug)]
pub(crate) struct Baker {
    key: hmac::Key,
    epoch: Instant,
    life: Duration,
}

/// A cookie whose seal was right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    pub(crate) made: Instant,
    pub(crate) peer_tag: u32,
    pub(crate) my_tag: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CookieError {
    Forged,
    Stale { peer_tag: u32, by: Duration },
}

impl Baker {
    pub(crate) fn new(
        entropy: &mut Entropy,
        epoch: Instant,
        life: Duration,
    ) -> Result<Self, ring::error::Unspecified> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &entropy.bytes::<32>()?);
        Ok(Self { key, epoch, life })
    }

    pub(crate) fn suffix(
        &self,
        now: Instant,
        key: &Key,
        cookie: &[u8],
        peer_tag: u32,
        my_tag: u32,
    ) -> [u8; SUFFIX] {
        let mut suffix = [0; SUFFIX];
        let age = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        suffix[..8].copy_from_slice(&age.to_be_bytes());
        suffix[8..12].copy_from_slice(&peer_tag.to_be_bytes());
        suffix[12..CLEAR].copy_from_slice(&my_tag.to_be_bytes());
        let mac = hmac::sign(&self.key, &covered(key, cookie, &suffix[..CLEAR]));
        suffix[CLEAR..].copy_from_slice(mac.as_ref());
        suffix
    }

    pub(crate) fn open(
        &self,
        now: Instant,
        key: &Key,
        cookie: &[u8],
    ) -> Result<Cookie, CookieError> {
        if cookie.len() != INNER + SUFFIX {
            return Err(CookieError::Forged);
        }
        let (body, suffix) = cookie.split_at(INNER);
        let (clear, mac) = suffix.split_at(CLEAR);
        hmac::verify(&self.key, &covered(key, body, clear), mac)
            .map_err(|_| CookieError::Forged)?;
        let (Some(age), Some(peer_tag), Some(my_tag)) = (
            clear.first_chunk().map(|age| u64::from_be_bytes(*age)),
            u32_at(clear, 8),
            u32_at(clear, 12),
        ) else {
            return Err(CookieError::Forged);
        };
        let made = self.epoch + Duration::from_nanos(age);
        let old = now.saturating_duration_since(made);
        if old > self.life {
            return Err(CookieError::Stale { peer_tag, by: old - self.life });
        }
        Ok(Cookie { made, peer_tag, my_tag })
    }
}

fn covered(key: &Key, cookie: &[u8], clear: &[u8]) -> Vec<u8> {
    let ip = match key.peer.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = Vec::with_capacity(16 + 3 * 2 + CLEAR + INNER);
    bytes.extend(ip.octets());
    bytes.extend(key.peer.port().to_be_bytes());
    bytes.extend(key.peer_port.to_be_bytes());
    bytes.extend(key.local_port.to_be_bytes());
    bytes.extend(clear);
    bytes.extend(cookie);
    bytes
}
