//! Cuts ASAP over TCP into messages (G3): Message Length rounded up to 4, there is no other framing.

use crate::FrameError;

/// No message is longer on the wire, header and padding included; reading buffers need not be larger.
pub const MAX_FRAME: usize = 65538;

/// Collects what a connection delivers and hands out whole messages.
///
/// Drain [`Self::next_message`] after each [`Self::push`]: then no more than one message and one push are kept.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// How much of the buffer was handed out.
    start: usize,
}

impl Framer {
    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message with its padding; `None` until more arrives.
    ///
    /// # Errors
    /// When the stream cannot be cut any further; the connection is to be closed.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let pending = &self.buffer[self.start..];
        let &[_, _, high, low, ..] = pending else {
            return Ok(None);
        };
        let length = u16::from_be_bytes([high, low]);
        if length < 4 {
            return Err(FrameError::BadLength(length));
        }
        let frame = usize::from(length).next_multiple_of(4);
        if pending.len() < frame {
            return Ok(None);
        }
        let start = self.start;
        self.start += frame;
        Ok(Some(&self.buffer[start..self.start]))
    }

    /// Bytes that were received but not handed out.
    pub const fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}
