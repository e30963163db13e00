//! Client transactions (RFC 3261 section 17.1, RFC 6026 section 8.4).

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::transaction::Timers;
use crate::{Message, ParseError, ack_for};

/// What a client transaction wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Send these bytes where the request went.
    Send(Bytes),
    /// Pass the response that was just handled up.
    Deliver,
    /// No final response came in time (timers B, F), or sending failed: as if 408 or 503 had come.
    Timeout,
    /// The transaction is over and can be dropped. Always the last action.
    Terminated,
}

/// Actions under way, one bit each, polled in this order.
mod todo {
    pub(super) const SEND: u8 = 1;
    pub(super) const DELIVER: u8 = 2;
    pub(super) const TIMEOUT: u8 = 4;
    pub(super) const TERMINATED: u8 = 8;
}

/// RFC 3261 figure 5 with figure 7 of RFC 6026.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InviteState {
    Calling,
    Proceeding,
    /// 300-699 came and is acknowledged.
    Completed,
    /// 2xx came; further ones are passed up.
    Accepted,
    Terminated,
}

/// An INVITE as a client: Calling, Proceeding, Completed or Accepted, Terminated.
#[derive(Clone, Debug)]
pub struct ClientInvite {
    request: Bytes,
    /// Empty until a final response other than 2xx came.
    ack: Bytes,
    state: InviteState,
    reliable: bool,
    todo: u8,
    timers: Timers,
    /// Timer A.
    retransmit: Option<Instant>,
    interval: Duration,
    /// Timers B, D, M.
    end: Option<Instant>,
}

impl ClientInvite {
    /// Begins the transaction; the first action is to send the request.
    pub fn new(now: Instant, request: Bytes, reliable: bool, timers: Timers) -> Self {
        Self {
            request,
            ack: Bytes::new(),
            state: InviteState::Calling,
            reliable,
            todo: todo::SEND,
            retransmit: (!reliable).then(|| now + timers.t1),
            interval: timers.t1,
            end: Some(now + timers.timeout()),
            timers,
        }
    }

    /// A response that matches this transaction.
    ///
    /// # Errors
    /// [`ParseError`] when it is no response or cannot be acknowledged; nothing changed.
    pub fn handle_response(&mut self, now: Instant, response: &Message) -> Result<(), ParseError> {
        let code = response.status().ok_or(ParseError::StartLine)?;
        match (self.state, code) {
            (InviteState::Calling | InviteState::Proceeding, 100..=199) => {
                self.state = InviteState::Proceeding;
                // Without timers: how long an INVITE may ring is decided above (timer C of proxies).
                (self.retransmit, self.end) = (None, None);
                self.todo |= todo::DELIVER;
            }
            (InviteState::Calling | InviteState::Proceeding, 200..=299) => {
                self.state = InviteState::Accepted;
                (self.retransmit, self.end) = (None, Some(now + self.timers.timeout()));
                self.todo |= todo::DELIVER;
            }
            (InviteState::Calling | InviteState::Proceeding, _) => {
                let invite =
                    Message::parse(self.request.clone()).map_err(|partial| partial.error)?;
                self.ack = ack_for(&invite, response)
                    .map_err(|_| ParseError::Missing(crate::HeaderName::To))?;
                self.retransmit = None;
                self.todo |= todo::SEND | todo::DELIVER;
                // Timer D is zero over reliable transports.
                if self.reliable {
                    self.terminate();
                } else {
                    self.state = InviteState::Completed;
                    self.end = Some(now + self.timers.d);
                }
            }
            // "Any retransmissions of the final response that are received while in the Completed state MUST cause
            // the ACK to be re-passed to the transport layer for retransmission, but the newly received response
            // MUST NOT be passed up."
            (InviteState::Completed, 300..=699) => self.todo |= todo::SEND,
            // RFC 6026 section 8.4: every 2xx is passed up, everything else is dropped.
            (InviteState::Accepted, 200..=299) => self.todo |= todo::DELIVER,
            (InviteState::Completed | InviteState::Accepted | InviteState::Terminated, _) => {}
        }
        Ok(())
    }

    /// The transport could not send, or the connection is gone.
    pub fn handle_transport_error(&mut self) {
        match self.state {
            InviteState::Calling | InviteState::Proceeding => {
                self.todo = (self.todo & !todo::SEND) | todo::TIMEOUT;
                self.terminate();
            }
            InviteState::Completed | InviteState::Accepted => {
                self.todo &= !todo::SEND;
                self.terminate();
            }
            InviteState::Terminated => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            if self.state == InviteState::Calling {
                self.todo |= todo::TIMEOUT;
            }
            self.terminate();
        } else if let Some(at) = self.retransmit.filter(|at| *at <= now) {
            self.todo |= todo::SEND;
            self.interval *= 2;
            self.retransmit = Some(next_after(at, self.interval, now));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        earlier(self.retransmit, self.end)
    }

    /// The next action; drain after every input.
    pub fn poll(&mut self) -> Option<ClientAction> {
        let bytes = if self.ack.is_empty() { &self.request } else { &self.ack };
        poll(&mut self.todo, bytes)
    }

    /// Whether a final response has come, or the transaction is over.
    pub const fn is_completed(&self) -> bool {
        matches!(
            self.state,
            InviteState::Completed | InviteState::Accepted | InviteState::Terminated
        )
    }

    /// Whether no response has come yet.
    pub const fn is_unheard(&self) -> bool {
        matches!(self.state, InviteState::Calling)
    }

    /// Whether a CANCEL may be sent: a provisional response has come, no final one (RFC 3261 section 9.1).
    pub const fn is_cancellable(&self) -> bool {
        matches!(self.state, InviteState::Proceeding)
    }

    /// The request as sent.
    pub const fn request(&self) -> &Bytes {
        &self.request
    }

    fn terminate(&mut self) {
        self.state = InviteState::Terminated;
        (self.retransmit, self.end) = (None, None);
        self.todo |= todo::TERMINATED;
    }
}

/// RFC 3261 figure 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// Any other request as a client: Trying, Proceeding, Completed, Terminated. Not for ACK.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    request: Bytes,
    state: RequestState,
    reliable: bool,
    todo: u8,
    timers: Timers,
    /// Timer E.
    retransmit: Option<Instant>,
    interval: Duration,
    /// Timers F, K.
    end: Option<Instant>,
}

impl ClientRequest {
    /// Begins the transaction; the first action is to send the request.
    pub fn new(now: Instant, request: Bytes, reliable: bool, timers: Timers) -> Self {
        Self {
            request,
            state: RequestState::Trying,
            reliable,
            todo: todo::SEND,
            retransmit: (!reliable).then(|| now + timers.t1),
            interval: timers.t1,
            end: Some(now + timers.timeout()),
            timers,
        }
    }

    /// A response that matches this transaction.
    ///
    /// # Errors
    /// [`ParseError`] when it is no response; nothing changed.
    pub fn handle_response(&mut self, now: Instant, response: &Message) -> Result<(), ParseError> {
        let code = response.status().ok_or(ParseError::StartLine)?;
        match (self.state, code) {
            (RequestState::Trying | RequestState::Proceeding, 100..=199) => {
                // "If Timer E fires while in the Proceeding state, the request MUST be passed to the transport layer
                // for retransmission, and Timer E MUST be reset with a value of T2 seconds."
                self.state = RequestState::Proceeding;
                self.todo |= todo::DELIVER;
            }
            (RequestState::Trying | RequestState::Proceeding, _) => {
                self.todo |= todo::DELIVER;
                self.retransmit = None;
                // Timer K is zero over reliable transports.
                if self.reliable {
                    self.terminate();
                } else {
                    self.state = RequestState::Completed;
                    self.end = Some(now + self.timers.t4);
                }
            }
            (RequestState::Completed | RequestState::Terminated, _) => {}
        }
        Ok(())
    }

    /// The transport could not send, or the connection is gone.
    pub fn handle_transport_error(&mut self) {
        match self.state {
            RequestState::Trying | RequestState::Proceeding => {
                self.todo = (self.todo & !todo::SEND) | todo::TIMEOUT;
                self.terminate();
            }
            RequestState::Completed => self.terminate(),
            RequestState::Terminated => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            if matches!(self.state, RequestState::Trying | RequestState::Proceeding) {
                self.todo |= todo::TIMEOUT;
            }
            self.terminate();
        } else if let Some(at) = self.retransmit.filter(|at| *at <= now) {
            self.todo |= todo::SEND;
            self.interval = match self.state {
                RequestState::Trying => (self.interval * 2).min(self.timers.t2),
                RequestState::Proceeding | RequestState::Completed | RequestState::Terminated => {
                    self.timers.t2
                }
            };
            self.retransmit = Some(next_after(at, self.interval, now));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        earlier(self.retransmit, self.end)
    }

    /// The next action; drain after every input.
    pub fn poll(&mut self) -> Option<ClientAction> {
        poll(&mut self.todo, &self.request)
    }

    /// Whether no response has come yet.
    pub const fn is_unheard(&self) -> bool {
        matches!(self.state, RequestState::Trying)
    }

    /// Whether a final response has come, or the transaction is over.
    pub const fn is_completed(&self) -> bool {
        matches!(self.state, RequestState::Completed | RequestState::Terminated)
    }

    /// The request as sent.
    pub const fn request(&self) -> &Bytes {
        &self.request
    }

    fn terminate(&mut self) {
        self.state = RequestState::Terminated;
        (self.retransmit, self.end) = (None, None);
        self.todo |= todo::TERMINATED;
    }
}

fn poll(todo: &mut u8, bytes: &Bytes) -> Option<ClientAction> {
    let next = 1 << todo.trailing_zeros().min(7);
    let action = match next {
        todo::SEND => ClientAction::Send(bytes.clone()),
        todo::DELIVER => ClientAction::Deliver,
        todo::TIMEOUT => ClientAction::Timeout,
        todo::TERMINATED => ClientAction::Terminated,
        _ => return None,
    };
    *todo &= !next;
    Some(action)
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The next firing of a timer. A caller that was late (frozen, overloaded) gets no burst of retransmissions.
pub(super) fn next_after(fired: Instant, interval: Duration, now: Instant) -> Instant {
    let next = fired + interval;
    if next <= now { now + interval } else { next }
}
