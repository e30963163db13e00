//! What stands in a datagram: a cookie, a space, and a dictionary that is a request or a reply.
//!
//! ```
//! use dialtone_ng::message::{Command, Datagram, Outcome, Reply, ReplyEncoder, Request};
//!
//! // The example of rtpengine's documentation.
//! let request = Request::new(Command::Ping).encode(b"5323_1");
//! assert_eq!(request, b"5323_1 d7:command4:pinge");
//!
//! let datagram = Datagram::split(&request).unwrap();
//! assert_eq!(Request::decode(datagram.body).unwrap().command, Command::Ping);
//! let reply = ReplyEncoder::new(datagram.cookie).finish(Outcome::Pong).unwrap();
//! assert_eq!(reply, b"5323_1 d6:result4:ponge");
//!
//! let datagram = Datagram::split(&reply).unwrap();
//! assert_eq!(datagram.cookie, b"5323_1");
//! assert_eq!(Reply::decode(datagram.body).unwrap().outcome, Outcome::Pong);
//! ```

mod reply;
mod request;

pub use reply::{Outcome, Reply, ReplyEncoder, ReplyError};
pub use request::{AddressFamily, Flags, Ice, Ignored, Replace, Request, RequestError, RtcpMux};

use crate::MAX_DATAGRAM;

/// Longest cookie that is taken; rtpengine sets no limit, clients use 20 to 40 bytes.
pub const MAX_COOKIE: usize = 255;

/// A datagram at its first space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub cookie: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// `None` if no cookie can be told: then there is nothing to answer to.
    pub fn split(datagram: &'a [u8]) -> Option<Self> {
        let space = datagram.iter().take(MAX_COOKIE + 1).position(|byte| *byte == b' ')?;
        let cookie = &datagram[..space];
        (!cookie.is_empty()).then(|| Self { cookie, body: &datagram[space + 1..] })
    }
}

/// The key `command`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command<'a> {
    Ping,
    Offer,
    Answer,
    Delete,
    Query,
    List,
    Statistics,
    StartRecording,
    StopRecording,
    /// Anything else, as it was written.
    Other(&'a [u8]),
}

impl<'a> Command<'a> {
    /// Letters and spaces as they are: commands have no other spelling.
    pub const fn from_bytes(bytes: &'a [u8]) -> Self {
        match bytes {
            b"ping" => Self::Ping,
            b"offer" => Self::Offer,
            b"answer" => Self::Answer,
            b"delete" => Self::Delete,
            b"query" => Self::Query,
            b"list" => Self::List,
            b"statistics" => Self::Statistics,
            b"start recording" => Self::StartRecording,
            b"stop recording" => Self::StopRecording,
            other => Self::Other(other),
        }
    }

    pub const fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Ping => b"ping",
            Self::Offer => b"offer",
            Self::Answer => b"answer",
            Self::Delete => b"delete",
            Self::Query => b"query",
            Self::List => b"list",
            Self::Statistics => b"statistics",
            Self::StartRecording => b"start recording",
            Self::StopRecording => b"stop recording",
            Self::Other(other) => other,
        }
    }
}

/// A message that no datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes do not fit a datagram of {MAX_DATAGRAM}")]
pub struct TooLong {
    pub length: usize,
}
