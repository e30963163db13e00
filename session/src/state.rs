//! Application state as bytes: the one place that knows bincode.
//!
//! bincode 2.0.1 is pinned: its maintenance has ended, and its format stands between elements of different builds. It
//! reads only what a MAC has vouched for.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cookie::MAX_STATE;

fn format() -> Configuration<LittleEndian, Fixint, Limit<MAX_STATE>> {
    standard().with_fixed_int_encoding().with_limit::<MAX_STATE>()
}

/// `None`: the type cannot be encoded (maps of unknown length, for example).
pub(crate) fn encode<S: Serialize>(state: &S) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(state, format()).ok()
}

/// `None`: the bytes are not exactly one value of that type.
pub(crate) fn decode<S: DeserializeOwned>(bytes: &[u8]) -> Option<S> {
    let (state, length) = bincode::serde::decode_from_slice(bytes, format()).ok()?;
    (length == bytes.len()).then_some(state)
}
