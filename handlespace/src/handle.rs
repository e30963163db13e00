//! Owned pool handles.

use dialtone_wire::PoolHandle;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a pool: 1 to 65531 opaque bytes. Cheap to clone; ordered as bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Handle(Arc<[u8]>);

/// Why bytes are not a pool handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    #[error("a pool handle has at least one byte")]
    Empty,
    #[error("a pool handle of {0} bytes does not fit its parameter")]
    TooLong(usize),
}

impl Handle {
    /// RFC 5354, section 3.9: what a 16-bit length leaves.
    pub const MAX_LEN: usize = 0xffff - 4;

    /// A handle of these bytes.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, HandleError> {
        match bytes.as_ref() {
            [] => Err(HandleError::Empty),
            long if long.len() > Self::MAX_LEN => Err(HandleError::TooLong(long.len())),
            bytes => Ok(Self(Arc::from(bytes))),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As it stands in messages.
    pub fn to_wire(&self) -> PoolHandle<'_> {
        PoolHandle(&self.0)
    }
}

/// Clones of one handle are equal without a look at their bytes: whoever keeps many of them spares the cache much.
impl Ord for Handle {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Handle {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<PoolHandle<'_>> for Handle {
    type Error = HandleError;

    fn try_from(handle: PoolHandle<'_>) -> Result<Self, HandleError> {
        Self::new(handle.0)
    }
}

impl FromStr for Handle {
    type Err = HandleError;

    fn from_str(handle: &str) -> Result<Self, HandleError> {
        Self::new(handle)
    }
}

/// Maps keyed by handle are searched with the bytes of a received message.
impl Borrow<[u8]> for Handle {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Printable UTF-8 as such, anything else as hexadecimal digits behind `0x`.
impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.contains(char::is_control) => f.pad(text),
            _ => {
                f.write_str("0x")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}
