//! Many transactions: matches messages to them, one ordered map of deadlines for all.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::transaction::Timers;
use crate::{BuildError, Message, ParseError, Via};

/// Where messages come from and go to: a UDP address, a connection, whatever the user's transports call it.
pub trait Destination: Copy + Ord + Debug {
    /// Whether it delivers once and in order, so that nothing is retransmitted.
    fn is_reliable(&self) -> bool;

    /// Where answers to a request go that came from here with this topmost Via. For UDP, the Via may ask for another
    /// port ([`Via::reply_addr`]).
    fn reply_to(self, via: &Via<'_>) -> Self {
        let _ = via;
        self
    }

    /// When the layer answers 100 to a request by itself: after this time without an answer from above. Default:
    /// 200 ms for INVITE (RFC 3261 section 17.2.1), never for others.
    fn trying_after(&self, invite: bool) -> Option<Duration> {
        invite.then_some(Duration::from_millis(200))
    }
}

/// Names a client transaction of one layer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Names a server transaction of one layer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u64);

/// What the layer wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<D> {
    /// Send these bytes.
    Send { to: D, bytes: Bytes },
    /// A new request, to be answered by [`Layer::respond`]. Never ACK. For CANCEL, `cancels` is the INVITE's
    /// transaction, if it is there.
    Request { id: ServerId, request: Message, source: D, cancels: Option<ServerId> },
    /// An ACK for a 2xx, or for no transaction known here; `invite` if that transaction is still there (RFC 6026).
    Ack { request: Message, source: D, invite: Option<ServerId> },
    /// A response for a client transaction.
    Response { id: ClientId, response: Message },
    /// A response that belongs to no transaction.
    StrayResponse { response: Message, source: D },
    /// No final response came in time, or the transport failed ([`Layer::handle_transport_error`]).
    ClientTimeout { id: ClientId },
    /// The final response to an INVITE was never acknowledged.
    ServerTimeout { id: ServerId },
    /// The transaction is gone; its id means nothing any more.
    ClientTerminated { id: ClientId },
    /// The transaction is gone; its id means nothing any more.
    ServerTerminated { id: ServerId },
}

/// Counters of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Client transactions alive.
    pub clients: usize,
    /// Server transactions alive.
    pub servers: usize,
    /// Messages dropped because a transaction could not be told.
    pub unmatched: u64,
}

/// Transactions of one SIP element. Client and server transactions are not tied to each other.
#[derive(Debug)]
pub struct Layer<D> {
    timers: Timers,
    outputs: VecDeque<Output<D>>,
}

impl<D: Destination> Layer<D> {
    pub fn new(timers: Timers) -> Self {
        Self { timers, outputs: VecDeque::new() }
    }

    /// A message that came; it should have passed [`Message::check`].
    ///
    /// # Errors
    /// [`ParseError`] when Via or CSeq does not tell a transaction; it is dropped and counted.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
        source: D,
    ) -> Result<(), ParseError> {
        let _ = (now, message, source, self.timers);
        Ok(())
    }

    /// Sends a request in a client transaction of its own; its topmost Via must have a fresh branch (for CANCEL: the
    /// INVITE's). An ACK for a 2xx is no transaction: send it directly.
    ///
    /// # Errors
    /// [`ParseError`] when the request has no branch or CSeq, or a transaction with this branch exists.
    pub fn send_request(
        &mut self,
        now: Instant,
        request: &Message,
        to: D,
    ) -> Result<ClientId, ParseError> {
        let _ = (now, request, to);
        Ok(ClientId(0))
    }

    /// Sends the CANCEL of an INVITE in a transaction of its own. RFC 3261 section 9.1: only after a provisional
    /// response; `None` when none came yet, the INVITE is over, or the id is unknown.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn cancel(
        &mut self,
        now: Instant,
        invite: ClientId,
    ) -> Result<Option<ClientId>, BuildError> {
        let _ = (now, invite);
        Ok(None)
    }

    /// Answers a request. Returns whether the transaction was there and accepted it.
    pub fn respond(&mut self, now: Instant, id: ServerId, code: u16, response: Bytes) -> bool {
        let _ = (now, id, code, response);
        false
    }

    /// Forgets a client transaction without further output.
    pub fn forget_client(&mut self, id: ClientId) {
        let _ = id;
    }

    /// A connection is gone: client transactions towards it end with [`Output::ClientTimeout`], server transactions
    /// from it terminate.
    pub fn handle_transport_error(&mut self, now: Instant, to: D) {
        let _ = (now, to);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    pub fn poll(&mut self) -> Option<Output<D>> {
        self.outputs.pop_front()
    }

    pub fn stats(&self) -> LayerStats {
        LayerStats::default()
    }
}
