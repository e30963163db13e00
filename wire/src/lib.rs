//! ASAP and ENRP messages (RFC 5352, 5353) with their parameters (RFC 5354) and policies (RFC 5356): bytes in,
//! bytes out.
//!
//! [`asap::Message::decode`] and [`enrp::Message::decode`] borrow from the received bytes; [`asap::Message::encode`]
//! and [`enrp::Message::encode`] check every length. Numbers are newtypes with known constants, so unknown values
//! survive. What the network sends never panics: it decodes, or it is a [`DecodeError`].
//!
//! # Unknown types (RFC 5354, sections 3 and 4)
//! The two top bits of an unknown type say what happens. What is to be reported comes back as [`Cause`]s: in
//! [`Decoded::unrecognized`] when the message is processed, in [`DecodeError::cause`] when it is discarded.
//! [`asap::error_reply`] and [`enrp::error_reply`] make the ERROR message. An ERROR never yields anything to report.
//!
//! # Padding (G5)
//! The RFC leaves the padding after the last nested parameter out of the enclosing length; rsplib counts it.
//! Receivers take both, senders follow the RFC unless [`Compat::Rsplib`] is asked for.

pub mod asap;
mod cause;
mod codec;
mod element;
pub mod enrp;
mod error;
mod frame;
pub mod fuzz;
mod number;
mod policy;
mod transport;

pub use cause::{Cause, OperationError};
pub use codec::{Compat, Decoded};
pub use element::{PoolElement, PoolHandle, ServerInformation};
pub use error::{DecodeError, EncodeError, FrameError};
pub use frame::{Framer, MAX_FRAME};
pub use number::{
    AsapType, CauseCode, EnrpType, ParameterType, PeId, PolicyType, ServerId, TransportUse,
    UpdateAction,
};
pub use policy::Policy;
pub use transport::{Addrs, SctpTransport, Transport};

/// SCTP payload protocol identifier of ASAP (RFC 5352, section 8.3).
pub const ASAP_PPID: u32 = 11;
/// SCTP payload protocol identifier of ENRP (RFC 5353, section 5.4).
pub const ENRP_PPID: u32 = 12;
/// SCTP and TCP port of ASAP (RFC 5352, section 8.2).
pub const ASAP_PORT: u16 = 3863;
/// SCTP port of ENRP (RFC 5353, section 5.3).
pub const ENRP_PORT: u16 = 9901;
