//! Cookies: what an element wants the next one to know, kept by the user (RFC 5352 section 3.8).
//!
//! A cookie is `format u8 | key id u8 | expires u64 | handle length u16 | handle | state | MAC`, big-endian, where
//! `expires` is in seconds since 1970 and the MAC, a truncated HMAC-SHA256, covers everything before it. The user
//! cannot read it into something else, prolong it or take it to another pool. It can hand in an older one that has not
//! expired: what must not be undone does not belong into a cookie alone.

use std::marker::PhantomData;
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_keys::{FORMAT, Keys, MAC_LEN, Purpose};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state;

/// Largest encoded state in bytes.
pub const MAX_STATE: usize = 32_768;
const HEAD: usize = 12;
/// What a cookie may be without its MAC: a message has room for 64 KiB.
const MAX_COOKIE: usize = 65_000;

/// Why a state is no cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    #[error("the state does not fit a cookie: {got} bytes")]
    TooLarge { got: usize },
    #[error("the state cannot be encoded")]
    Encoding,
}

/// Why a cookie was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too short, too long or of an unknown format.
    #[error("the cookie is malformed")]
    Malformed,
    /// Unknown key or wrong MAC.
    #[error("the cookie's signature is wrong")]
    Forged,
    #[error("the cookie has expired")]
    Expired,
    #[error("the cookie is for another pool")]
    ForeignPool,
    /// Genuine, but not a state of this type: it was made by another version of the service.
    #[error("the cookie holds another state")]
    Undecodable,
    /// Not the first message on its control channel.
    #[error("the cookie came too late")]
    Late,
}

/// Makes and opens the cookies of one pool, with states of type `S`. All elements of the pool need the same key file.
pub struct Cookies<S> {
    keys: Keys,
    handle: Handle,
    life: Duration,
    state: PhantomData<fn() -> S>,
}

impl<S> Cookies<S> {
    /// `life`: how long after it was made a cookie is good.
    pub fn new(keys: Keys, handle: Handle, life: Duration) -> Self {
        Self { keys, handle, life, state: PhantomData }
    }

    /// The pool.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl<S: Serialize> Cookies<S> {
    /// Signs a state. `unix`: seconds since 1970.
    ///
    /// # Errors
    /// When the state is too large or its type cannot be encoded.
    pub fn seal(&self, unix: u64, state: &S) -> Result<Vec<u8>, SealError> {
        let state = state::encode(state).ok_or(SealError::Encoding)?;
        if state.len() > MAX_STATE {
            return Err(SealError::TooLarge { got: state.len() });
        }
        let handle = self.handle.as_bytes();
        let length = u16::try_from(handle.len()).unwrap_or(u16::MAX);
        let mut cookie = Vec::with_capacity(HEAD + handle.len() + state.len() + MAC_LEN);
        // The id of the key is part of what is signed: the newest key signs.
        cookie.extend_from_slice(&[FORMAT, self.keys.newest()]);
        cookie.extend_from_slice(&unix.saturating_add(self.life.as_secs()).to_be_bytes());
        cookie.extend_from_slice(&length.to_be_bytes());
        cookie.extend_from_slice(handle);
        cookie.extend_from_slice(&state);
        if cookie.len() > MAX_COOKIE {
            return Err(SealError::TooLarge { got: cookie.len() });
        }
        let (_, mac) = self.keys.mac(Purpose::SessionCookie, &cookie);
        cookie.extend_from_slice(&mac);
        Ok(cookie)
    }
}

impl<S: DeserializeOwned> Cookies<S> {
    /// The state in a cookie that an element of this pool made. Nothing of it is looked at before its MAC was found to
    /// be right.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn open(&self, unix: u64, cookie: &[u8]) -> Result<S, Refusal> {
        let Some((content, mac)) = cookie.split_last_chunk::<MAC_LEN>() else {
            return Err(Refusal::Malformed);
        };
        let (Some((head, rest)), true) =
            (content.split_first_chunk::<HEAD>(), content.len() <= MAX_COOKIE)
        else {
            return Err(Refusal::Malformed);
        };
        let [format, key, fields @ ..] = head;
        if *format != FORMAT {
            return Err(Refusal::Malformed);
        }
        if !self.keys.check(Purpose::SessionCookie, *key, content, mac) {
            return Err(Refusal::Forged);
        }
        let [e0, e1, e2, e3, e4, e5, e6, e7, l0, l1] = *fields;
        let expires = u64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let (handle, state) = rest.split_at_checked(length).ok_or(Refusal::Malformed)?;
        if unix >= expires {
            return Err(Refusal::Expired);
        }
        if handle != self.handle.as_bytes() {
            return Err(Refusal::ForeignPool);
        }
        state::decode(state).ok_or(Refusal::Undecodable)
    }
}

impl<S> Clone for Cookies<S> {
    fn clone(&self) -> Self {
        Self::new(self.keys.clone(), self.handle.clone(), self.life)
    }
}

impl<S> std::fmt::Debug for Cookies<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").field("handle", &self.handle).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use dialtone_keys::Generation;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Call {
        line: u32,
        name: String,
    }

    fn generation(id: u8) -> Generation {
        Generation { id, secret: [id; 32] }
    }

    fn cookies<S>(pool: &str, newest: u8, previous: Option<u8>) -> Cookies<S> {
        let previous = previous.map(generation);
        let keys = Keys::new(&generation(newest), previous.as_ref());
        Cookies::new(keys, pool.parse().unwrap(), Duration::from_secs(60))
    }

    fn call() -> Call {
        Call { line: 7, name: "alice".into() }
    }

    /// Proves A-134.
    #[test]
    fn only_what_an_element_of_the_pool_signed_lately_is_opened() {
        let pool = cookies::<Call>("echo", 1, None);
        let cookie = pool.seal(1_000, &call()).unwrap();
        assert_eq!(pool.open(1_000, &cookie), Ok(call()));
        assert_eq!(pool.open(1_059, &cookie), Ok(call()));
        assert_eq!(pool.open(1_060, &cookie), Err(Refusal::Expired));
        let foreign = cookies::<Call>("echo2", 1, None);
        assert_eq!(foreign.open(1_000, &cookie), Err(Refusal::ForeignPool));
        assert_eq!(cookies::<Call>("echo", 2, None).open(1_000, &cookie), Err(Refusal::Forged));
        assert_eq!(cookies::<Call>("echo", 2, Some(1)).open(1_000, &cookie), Ok(call()));
        let other = cookies::<u16>("echo", 1, None);
        assert_eq!(other.open(1_000, &cookie), Err(Refusal::Undecodable));
    }

    #[test]
    fn no_changed_or_cut_cookie_is_opened() {
        let pool = cookies::<Call>("echo", 1, None);
        let cookie = pool.seal(1_000, &call()).unwrap();
        for length in 0..cookie.len() {
            let refusal = pool.open(1_000, &cookie[..length]).unwrap_err();
            assert!(matches!(refusal, Refusal::Malformed | Refusal::Forged), "{length}");
        }
        for at in 0..cookie.len() {
            for bit in 0..8 {
                let mut changed = cookie.clone();
                changed[at] ^= 1 << bit;
                let refusal = pool.open(1_000, &changed).unwrap_err();
                assert!(matches!(refusal, Refusal::Malformed | Refusal::Forged), "{at} {bit}");
            }
        }
        let long = vec![FORMAT; 200_000];
        assert_eq!(pool.open(1_000, &long), Err(Refusal::Malformed));
    }

    #[test]
    fn a_state_has_a_limit() {
        let pool = cookies::<Vec<u8>>("echo", 1, None);
        let largest = vec![7; MAX_STATE - 8];
        let cookie = pool.seal(0, &largest).unwrap();
        assert_eq!(pool.open(0, &cookie), Ok(largest));
        let error = pool.seal(0, &vec![7; MAX_STATE]).unwrap_err();
        assert_eq!(error, SealError::TooLarge { got: MAX_STATE + 8 });
    }
}
