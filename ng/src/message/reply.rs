//! Replies: what a relay answers.

use crate::{
    MAX_DATAGRAM,
    bencode::{self, Dict, DictEncoder, Encoder, Value},
    message::TooLong,
};

/// One reply, with everything that stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub outcome: Outcome<'a>,
    pub dict: Dict<'a>,
}

/// The key `result`, with the text that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    Ok,
    Pong,
    /// With `error-reason`, empty if there is none.
    Error(&'a [u8]),
    /// The relay takes no new call; with `message`. Only who says that it supports it is told so, all others get an
    /// error.
    LoadLimit(&'a [u8]),
    /// A result that is not known here.
    Other(&'a [u8]),
}

/// Why a body is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    #[error("not in bencode: {0}")]
    Bencode(#[from] bencode::DecodeError),
    #[error("not a dictionary")]
    NotADict,
    #[error("no result in it")]
    NoResult,
}

impl<'a> Reply<'a> {
    /// Reads the body of a datagram.
    pub fn decode(body: &'a [u8]) -> Result<Self, ReplyError> {
        let Value::Dict(dict) = Value::decode(body)? else { return Err(ReplyError::NotADict) };
        let result = dict.bytes("result").ok_or(ReplyError::NoResult)?;
        let text = |key: &str| dict.bytes(key).unwrap_or_default();
        let outcome = match result {
            b"ok" => Outcome::Ok,
            b"pong" => Outcome::Pong,
            b"error" => Outcome::Error(text("error-reason")),
            b"load limit" => Outcome::LoadLimit(text("message")),
            other => Outcome::Other(other),
        };
        Ok(Self { outcome, dict })
    }

    /// The SDP to send on, of `offer` and `answer`.
    pub fn sdp(&self) -> Option<&'a [u8]> {
        self.dict.bytes("sdp")
    }

    /// What went wrong although the result is `ok`.
    pub fn warning(&self) -> Option<&'a [u8]> {
        self.dict.bytes("warning")
    }

    /// The calls that `list` answers.
    pub fn calls(&self) -> impl Iterator<Item = &'a [u8]> {
        self.dict.list("calls").unwrap_or_default().iter().filter_map(Value::as_bytes)
    }
}

/// Writes one reply: first what it says, then its result.
#[derive(Debug)]
pub struct ReplyEncoder {
    encoder: Encoder,
}

impl ReplyEncoder {
    pub fn new(cookie: &[u8]) -> Self {
        Self::with_capacity(cookie, 64)
    }

    /// As [`Self::new`], with room for about `length` bytes beyond the cookie.
    pub fn with_capacity(cookie: &[u8], length: usize) -> Self {
        let mut datagram = Vec::with_capacity(cookie.len() + length);
        datagram.extend_from_slice(cookie);
        datagram.extend_from_slice(b" d");
        Self { encoder: Encoder::new(datagram) }
    }

    /// An error and nothing else.
    pub fn error(cookie: &[u8], reason: &str) -> Vec<u8> {
        let mut reply = Self::with_capacity(cookie, reason.len() + 64);
        reply.write_outcome(Outcome::Error(reason.as_bytes()));
        reply.into_datagram()
    }

    /// The entries of the reply.
    pub const fn dict(&mut self) -> DictEncoder<'_> {
        DictEncoder::new(&mut self.encoder)
    }

    /// The datagram, unless it is too long to be one.
    pub fn finish(mut self, outcome: Outcome<'_>) -> Result<Vec<u8>, TooLong> {
        self.write_outcome(outcome);
        let datagram = self.into_datagram();
        if datagram.len() > MAX_DATAGRAM {
            return Err(TooLong { length: datagram.len() });
        }
        Ok(datagram)
    }

    fn write_outcome(&mut self, outcome: Outcome<'_>) {
        let mut dict = self.dict();
        match outcome {
            Outcome::Ok => dict.bytes("result", "ok"),
            Outcome::Pong => dict.bytes("result", "pong"),
            Outcome::Error(reason) => {
                dict.bytes("result", "error");
                dict.bytes("error-reason", reason);
            }
            Outcome::LoadLimit(message) => {
                dict.bytes("result", "load limit");
                dict.bytes("message", message);
            }
            Outcome::Other(other) => dict.bytes("result", other),
        }
    }

    fn into_datagram(self) -> Vec<u8> {
        let mut datagram = self.encoder.into_bytes();
        datagram.push(b'e');
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Datagram;

    fn body(datagram: &[u8]) -> &[u8] {
        Datagram::split(datagram).unwrap().body
    }

    #[test]
    fn an_answer_with_sdp() {
        let mut encoder = ReplyEncoder::new(b"12_3");
        encoder.dict().bytes("sdp", "v=0\r\n");
        let datagram = encoder.finish(Outcome::Ok).unwrap();
        assert_eq!(datagram, b"12_3 d3:sdp5:v=0\r\n6:result2:oke");
        let reply = Reply::decode(body(&datagram)).unwrap();
        assert_eq!((reply.outcome, reply.sdp()), (Outcome::Ok, Some(&b"v=0\r\n"[..])));
        assert_eq!(reply.warning(), None);
    }

    #[test]
    fn errors_warnings_and_limits() {
        let datagram = ReplyEncoder::error(b"1", "Unknown call-id");
        assert_eq!(datagram, b"1 d6:result5:error12:error-reason15:Unknown call-ide");
        let reply = Reply::decode(body(&datagram)).unwrap();
        assert_eq!(reply.outcome, Outcome::Error(b"Unknown call-id"));

        let encoder = ReplyEncoder::new(b"1");
        let limit = Outcome::LoadLimit(b"Load limit exceeded");
        let datagram = encoder.finish(limit).unwrap();
        assert_eq!(Reply::decode(body(&datagram)).unwrap().outcome, limit);

        let reply = Reply::decode(b"d7:warning4:oops6:result2:oke").unwrap();
        assert_eq!((reply.outcome, reply.warning()), (Outcome::Ok, Some(&b"oops"[..])));
        let reply = Reply::decode(b"d6:result5:maybee").unwrap();
        assert_eq!(reply.outcome, Outcome::Other(b"maybe"));
    }

    #[test]
    fn what_is_no_reply() {
        assert_eq!(Reply::decode(b"le"), Err(ReplyError::NotADict));
        assert_eq!(Reply::decode(b"de"), Err(ReplyError::NoResult));
        assert!(matches!(Reply::decode(b""), Err(ReplyError::Bencode(_))));
    }

    #[test]
    fn calls_are_listed() {
        let reply = Reply::decode(b"d5:callsl1:ai1e2:bce6:result2:oke").unwrap();
        assert_eq!(reply.calls().collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
    }

    #[test]
    fn what_fits_no_datagram_is_not_made() {
        let mut encoder = ReplyEncoder::new(b"1");
        encoder.dict().bytes("sdp", vec![b'x'; MAX_DATAGRAM]);
        let error = encoder.finish(Outcome::Ok).unwrap_err();
        assert!(error.length > MAX_DATAGRAM);
    }
}
