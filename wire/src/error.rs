//! Errors of this crate. None of them leaves anything changed.

use crate::{AsapType, Cause, EnrpType, ParameterType};

/// Why received bytes are not a message that can be processed; the message is to be discarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A length field or a fixed layout needs more bytes than there are.
    #[error("{what}: needs {needed} bytes, has {got}")]
    Short { what: &'static str, needed: usize, got: usize },
    /// A length field smaller than its own header.
    #[error("{what}: length {length} is smaller than the header")]
    BadLength { what: &'static str, length: usize },
    /// More bytes than the layout has room for.
    #[error("{what}: {extra} bytes too many")]
    Trailing { what: &'static str, extra: usize },
    /// A parameter that must be there is not.
    #[error("{what}: {parameter} is missing")]
    Missing { what: &'static str, parameter: ParameterType },
    /// A known parameter in the wrong place, or one too many.
    #[error("{what}: unexpected {parameter}")]
    Unexpected { what: &'static str, parameter: ParameterType },
    /// An unknown parameter whose action bits discard the message (RFC 5354, section 4).
    #[error("unknown parameter {parameter}")]
    UnknownParameter { parameter: ParameterType, report: Option<Box<Cause<'static>>> },
    /// An unknown ASAP message type (RFC 5354, section 3).
    #[error("unknown ASAP message {message}")]
    UnknownAsap { message: AsapType, report: Option<Box<Cause<'static>>> },
    /// An unknown ENRP message type (RFC 5354, section 3).
    #[error("unknown ENRP message {message}")]
    UnknownEnrp { message: EnrpType, report: Option<Box<Cause<'static>>> },
}

impl DecodeError {
    /// What the action bits ask to report to the sender, if anything.
    pub fn cause(&self) -> Option<&Cause<'static>> {
        match self {
            Self::UnknownParameter { report, .. }
            | Self::UnknownAsap { report, .. }
            | Self::UnknownEnrp { report, .. } => report.as_deref(),
            _ => None,
        }
    }

    /// An ERROR is never answered by an ERROR (G36).
    pub(crate) fn unreported(mut self) -> Self {
        match &mut self {
            Self::UnknownParameter { report, .. }
            | Self::UnknownAsap { report, .. }
            | Self::UnknownEnrp { report, .. } => *report = None,
            _ => {}
        }
        self
    }
}

/// Why a message cannot be put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A 16-bit length field cannot hold the length.
    #[error("{what}: {length} bytes do not fit a 16-bit length")]
    TooLong { what: &'static str, length: usize },
    /// The layout demands at least one.
    #[error("{what} is empty")]
    Empty { what: &'static str },
    /// rsplib rejects the message without it.
    #[error("rsplib requires {what}")]
    RsplibRequires { what: &'static str },
}

/// Why a byte stream cannot be cut into messages; the connection is beyond repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Message Length is smaller than the message header.
    #[error("message length {0} is smaller than the header")]
    BadLength(u16),
}
