//! Cuts a byte stream into messages and keep-alives (RFC 3261 sections 7.5, 18.3; RFC 5626 section 3.5.1).

use bytes::{Buf, Bytes, BytesMut};

use crate::HeaderName;
use crate::syntax::{decimal, trim};

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message; [`crate::Message::parse`] reads it. The bytes are a buffer of their own.
    Message(Bytes),
    /// CRLF CRLF: to be answered by CRLF.
    Ping,
    /// CRLF: the answer to our ping.
    Pong,
}

/// The stream cannot be cut any further: the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Larger than the limit; with the head as far as it is there, so that it can be answered (513).
    #[error("message longer than {limit} bytes")]
    TooLong { limit: usize, head: Bytes },
    /// Content-Length is malformed, or there are several that differ; with the head, so that it can be answered.
    #[error("malformed content-length")]
    ContentLength { head: Bytes },
}

/// The bytes of one stream, on their way to be cut. Bounded by its limit plus what is pushed at a time, as long as
/// frames are taken after each push.
#[derive(Debug)]
pub struct StreamFramer {
    buf: BytesMut,
    /// How far the search for the end of the head has come.
    searched: usize,
    /// Length of the whole message at the front, once its head is there.
    length: Option<usize>,
    limit: usize,
    pings: bool,
    failed: bool,
}

impl StreamFramer {
    /// For the side that accepted the connection: double CRLF is a ping.
    pub fn accepting(limit: usize) -> Self {
        Self { buf: BytesMut::new(), searched: 0, length: None, limit, pings: true, failed: false }
    }

    /// For the side that dialled: it sends the pings (RFC 5626), so every CRLF between messages is a pong.
    pub fn dialled(limit: usize) -> Self {
        Self { pings: false, ..Self::accepting(limit) }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The buffer to read into directly.
    pub const fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Whether part of a message is waiting for more. Line ends alone are no message.
    pub fn is_partial(&self) -> bool {
        self.buf.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// The next message or keep-alive; `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`]; afterwards always `Ok(None)`, and what comes in is dropped.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.failed {
            self.buf.clear();
            return Ok(None);
        }
        if self.length.is_none() {
            if let Some(keep_alive) = self.keep_alive() {
                return Ok(Some(keep_alive));
            }
            match self.measure() {
                Ok(length) => self.length = length,
                Err(error) => {
                    self.failed = true;
                    self.buf = BytesMut::new();
                    return Err(error);
                }
            }
        }
        match self.length {
            Some(length) if self.buf.len() >= length => {
                // A buffer of its own: messages may be kept for long, and must not pin what was read with them.
                let message = Bytes::copy_from_slice(&self.buf[..length]);
                self.buf.advance(length);
                (self.length, self.searched) = (None, 0);
                Ok(Some(Frame::Message(message)))
            }
            _ => Ok(None),
        }
    }

    /// Line ends before a start line: RFC 3261 section 7.5 ignores them, RFC 5626 section 3.5.1 gives them a meaning.
    /// Lone LFs are ignored. Works the same however the stream is torn.
    fn keep_alive(&mut self) -> Option<Frame> {
        loop {
            match (&self.buf[..], self.pings) {
                ([b'\r', b'\n', b'\r', b'\n', ..], true) => {
                    self.buf.advance(4);
                    return Some(Frame::Ping);
                }
                ([b'\r', b'\n', ..], false) => {
                    self.buf.advance(2);
                    return Some(Frame::Pong);
                }
                ([b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'], true) | ([b'\r'], false) => {
                    return None;
                }
                ([b'\r', b'\n', ..], true) => self.buf.advance(2),
                ([b'\r' | b'\n', ..], _) => self.buf.advance(1),
                _ => return None,
            }
        }
    }

    /// The length of the message at the front; `None` until its head is whole.
    fn measure(&mut self) -> Result<Option<usize>, FrameError> {
        let limit = self.limit;
        let too_long = |buf: &[u8], head: usize| {
            Err(FrameError::TooLong {
                limit,
                head: Bytes::copy_from_slice(&buf[..head.min(buf.len()).min(limit)]),
            })
        };
        if matches!(self.buf.first(), None | Some(b'\r' | b'\n')) {
            return Ok(None);
        }
        let Some(head) = self.head_end() else {
            return if self.buf.len() > limit { too_long(&self.buf, limit) } else { Ok(None) };
        };
        match content_length(&self.buf[..head]) {
            Some(body) if head + body <= limit => Ok(Some(head + body)),
            Some(_) => too_long(&self.buf, head),
            None => {
                Err(FrameError::ContentLength { head: Bytes::copy_from_slice(&self.buf[..head]) })
            }
        }
    }

    /// Where the body begins: after the first empty line.
    fn head_end(&mut self) -> Option<usize> {
        let bytes = &self.buf[..];
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let after = self.searched + found + 1;
            match &bytes[after..] {
                [b'\n', ..] => return Some(after + 1),
                [b'\r', b'\n', ..] => return Some(after + 2),
                // Not enough yet to tell; look at this line end again.
                [] | [b'\r'] => {
                    self.searched = after - 1;
                    return None;
                }
                _ => self.searched = after,
            }
        }
        self.searched = bytes.len();
        None
    }
}

/// The value of Content-Length in a head; 0 when there is none (RFC 3261 section 20.14 demands it on streams, but a
/// peer that leaves it out sends no body); `None` when malformed or contradictory.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found: Option<usize> = None;
    let mut at = memchr::memchr(b'\n', head)? + 1;
    while at < head.len() {
        let mut end = at;
        loop {
            end += memchr::memchr(b'\n', &head[end..])? + 1;
            if !matches!(head.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let line = &head[at..end];
        at = end;
        if !matches!(line[0], b'C' | b'c' | b'L' | b'l') {
            continue;
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if HeaderName::find(line[..colon].trim_ascii_end()) != HeaderName::ContentLength {
            continue;
        }
        let value = std::str::from_utf8(&line[colon + 1..]).ok()?;
        let value =
            usize::try_from(decimal(trim(value))?).ok().filter(|value| *value <= usize::MAX / 2)?;
        if found.is_some_and(|found| found != value) {
            return None;
        }
        found = Some(value);
    }
    Some(found.unwrap_or(0))
}
