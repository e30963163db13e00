//! What can be wrong with a message, and which answer that deserves.

use crate::{HeaderName, Message};

/// Why bytes are not a proper SIP message, or a part of one not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing, or nothing but line ends.
    #[error("empty message")]
    Empty,
    #[error("malformed start line")]
    StartLine,
    /// Another protocol version than SIP/2.0 (RFC 3261 section 7.1): 505.
    #[error("version is not SIP/2.0")]
    Version,
    #[error("header section does not end")]
    Unterminated,
    #[error("malformed header line")]
    HeaderLine,
    #[error("more than {limit} header lines")]
    TooManyHeaders { limit: usize },
    /// The message is longer than allowed: 513 (RFC 3261 section 21.5.14).
    #[error("message longer than {limit} bytes")]
    TooLong { limit: usize },
    /// Fewer body bytes than Content-Length says (RFC 3261 section 18.3).
    #[error("body shorter than content-length")]
    ShortBody,
    #[error("missing header {0}")]
    Missing(HeaderName),
    #[error("header {0} occurs more than once")]
    Repeated(HeaderName),
    #[error("malformed header {0}")]
    Header(HeaderName),
    #[error("malformed uri")]
    Uri,
    /// Not UTF-8 where text must be read.
    #[error("not utf-8")]
    Utf8,
    /// CSeq names another method than the request line (RFC 3261 section 8.1.1.5).
    #[error("method in cseq differs from request line")]
    MethodMismatch,
}

impl ParseError {
    /// Status code and reason phrase of the answer to a request with this fault.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Version => (505, "Version Not Supported"),
            Self::TooLong { .. } => (513, "Message Too Large"),
            Self::StartLine => (400, "Malformed Request-Line"),
            Self::Missing(HeaderName::CallId) => (400, "Missing Call-ID"),
            Self::Missing(HeaderName::CSeq) => (400, "Missing CSeq"),
            Self::Missing(HeaderName::From) => (400, "Missing From"),
            Self::Missing(HeaderName::To) => (400, "Missing To"),
            Self::Missing(HeaderName::Via) => (400, "Missing Via"),
            Self::MethodMismatch => (400, "Method Differs From CSeq"),
            Self::ShortBody => (400, "Body Shorter Than Content-Length"),
            _ => (400, "Bad Request"),
        }
    }
}

/// What could be read of a broken message, so that a broken request still gets an answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Partial {
    /// The first fault found.
    pub error: ParseError,
    /// The message as far as it goes; `None` when not even a start line could be told. Whether it has what an answer
    /// needs is decided by [`crate::ResponseBuilder::build`].
    pub message: Option<Box<Message>>,
}

/// A message cannot be built from what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The message that it derives from lacks this header, or it cannot be read.
    #[error("source message lacks {0}")]
    Missing(HeaderName),
    #[error("source message is not a request")]
    NotRequest,
}
