//! Server transactions (RFC 3261 section 17.2, RFC 6026 section 8.7).

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::transaction::Timers;
use crate::transaction::client::{earlier, next_after};

/// What a server transaction wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAction {
    /// Send these bytes to where the request came from.
    Send(Bytes),
    /// Pass the ACK that was just handled up: it acknowledges a 2xx (RFC 6026).
    DeliverAck,
    /// The final response was never acknowledged (timer H).
    Timeout,
    /// The transaction is over and can be dropped. Always the last action.
    Terminated,
}

/// Actions under way, one bit each, polled in this order.
mod todo {
    pub(super) const SEND: u8 = 1;
    pub(super) const DELIVER_ACK: u8 = 2;
    pub(super) const TIMEOUT: u8 = 4;
    pub(super) const TERMINATED: u8 = 8;
}

/// RFC 3261 figure 7 with figure 5 of RFC 6026.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InviteState {
    Proceeding,
    /// 300-699 was sent, no ACK yet.
    Completed,
    /// The ACK for 300-699 came.
    Confirmed,
    /// 2xx was sent; more of them may be.
    Accepted,
    Terminated,
}

/// An INVITE as a server: Proceeding, Completed or Accepted, Confirmed, Terminated.
#[derive(Clone, Debug)]
pub struct ServerInvite {
    /// The latest response; empty before the first.
    response: Bytes,
    state: InviteState,
    reliable: bool,
    todo: u8,
    timers: Timers,
    /// Timer G.
    retransmit: Option<Instant>,
    interval: Duration,
    /// Timers H, I, L.
    end: Option<Instant>,
}

impl ServerInvite {
    /// Begins the transaction with the first request, which the caller passes up.
    pub fn new(reliable: bool, timers: Timers) -> Self {
        Self {
            response: Bytes::new(),
            state: InviteState::Proceeding,
            reliable,
            todo: 0,
            timers,
            retransmit: None,
            interval: timers.t1,
            end: None,
        }
    }

    /// The same INVITE once more.
    pub fn handle_request(&mut self) {
        match self.state {
            InviteState::Proceeding | InviteState::Completed if !self.response.is_empty() => {
                self.todo |= todo::SEND
            }
            // RFC 6026 section 8.7: "any retransmission of the INVITE ... MUST be absorbed" in Accepted: the 2xx is
            // retransmitted by the user agent.
            InviteState::Proceeding
            | InviteState::Completed
            | InviteState::Accepted
            | InviteState::Confirmed
            | InviteState::Terminated => {}
        }
    }

    /// An ACK that matches this transaction.
    pub fn handle_ack(&mut self, now: Instant) {
        match self.state {
            InviteState::Completed => {
                self.retransmit = None;
                // Timer I is zero over reliable transports.
                if self.reliable {
                    self.terminate();
                } else {
                    self.state = InviteState::Confirmed;
                    self.end = Some(now + self.timers.t4);
                }
            }
            InviteState::Accepted => self.todo |= todo::DELIVER_ACK,
            InviteState::Proceeding | InviteState::Confirmed | InviteState::Terminated => {}
        }
    }

    /// A response from above. One that the state forbids (after a final one) is dropped; returns whether it
    /// was accepted.
    pub fn respond(&mut self, now: Instant, code: u16, response: Bytes) -> bool {
        match (self.state, code) {
            (InviteState::Proceeding, 100..=199) => {}
            (InviteState::Proceeding, 200..=299) => {
                self.state = InviteState::Accepted;
                self.end = Some(now + self.timers.timeout());
            }
            (InviteState::Proceeding, _) => {
                self.state = InviteState::Completed;
                self.retransmit = (!self.reliable).then(|| now + self.timers.t1);
                self.end = Some(now + self.timers.timeout());
            }
            // RFC 6026: a user agent's retransmissions, and a proxy's 2xx of other branches, pass through.
            (InviteState::Accepted, 200..=299) => {}
            (
                InviteState::Completed
                | InviteState::Confirmed
                | InviteState::Accepted
                | InviteState::Terminated,
                _,
            ) => return false,
        }
        self.response = response;
        self.todo |= todo::SEND;
        true
    }

    /// The response could not be sent. RFC 6026 section 8.8: the transaction goes on in Proceeding, so that further
    /// responses may be tried; elsewhere it ends.
    pub fn handle_transport_error(&mut self) {
        match self.state {
            InviteState::Proceeding | InviteState::Terminated => {}
            InviteState::Completed | InviteState::Accepted | InviteState::Confirmed => {
                self.todo &= !todo::SEND;
                self.terminate();
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            if self.state == InviteState::Completed {
                self.todo |= todo::TIMEOUT;
            }
            self.terminate();
        } else if let Some(at) = self.retransmit.filter(|at| *at <= now) {
            self.todo |= todo::SEND;
            self.interval = (self.interval * 2).min(self.timers.t2);
            self.retransmit = Some(next_after(at, self.interval, now));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        earlier(self.retransmit, self.end)
    }

    /// The next action; drain after every input.
    pub fn poll(&mut self) -> Option<ServerAction> {
        poll(&mut self.todo, &self.response)
    }

    /// Whether a final response was sent.
    pub const fn is_completed(&self) -> bool {
        !matches!(self.state, InviteState::Proceeding)
    }

    fn terminate(&mut self) {
        self.state = InviteState::Terminated;
        (self.retransmit, self.end) = (None, None);
        self.todo |= todo::TERMINATED;
    }
}

/// RFC 3261 figure 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    /// Trying and Proceeding differ only in whether there is a response to send again.
    Proceeding,
    Completed,
    Terminated,
}

/// Any other request as a server: Trying, Proceeding, Completed, Terminated.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    /// The latest response; empty before the first.
    response: Bytes,
    state: RequestState,
    reliable: bool,
    todo: u8,
    timers: Timers,
    /// Timer J.
    end: Option<Instant>,
}

impl ServerRequest {
    /// Begins the transaction with the first request, which the caller passes up.
    pub fn new(reliable: bool, timers: Timers) -> Self {
        Self {
            response: Bytes::new(),
            state: RequestState::Proceeding,
            reliable,
            todo: 0,
            timers,
            end: None,
        }
    }

    /// The same request once more.
    pub fn handle_request(&mut self) {
        if !self.response.is_empty() && self.state != RequestState::Terminated {
            self.todo |= todo::SEND;
        }
    }

    /// A response from above. One that the state forbids (after a final one) is dropped; returns whether it
    /// was accepted.
    pub fn respond(&mut self, now: Instant, code: u16, response: Bytes) -> bool {
        if self.state != RequestState::Proceeding {
            return false;
        }
        self.response = response;
        self.todo |= todo::SEND;
        if code >= 200 {
            // Timer J is zero over reliable transports.
            if self.reliable {
                self.terminate();
            } else {
                self.state = RequestState::Completed;
                self.end = Some(now + self.timers.timeout());
            }
        }
        true
    }

    /// The response could not be sent.
    pub fn handle_transport_error(&mut self) {
        if self.state == RequestState::Completed {
            self.todo &= !todo::SEND;
            self.terminate();
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            self.terminate();
        }
    }

    pub const fn next_deadline(&self) -> Option<Instant> {
        self.end
    }

    /// The next action; drain after every input.
    pub fn poll(&mut self) -> Option<ServerAction> {
        poll(&mut self.todo, &self.response)
    }

    /// Whether a final response was sent.
    pub const fn is_completed(&self) -> bool {
        !matches!(self.state, RequestState::Proceeding)
    }

    fn terminate(&mut self) {
        self.state = RequestState::Terminated;
        self.end = None;
        self.todo |= todo::TERMINATED;
    }
}

fn poll(todo: &mut u8, bytes: &Bytes) -> Option<ServerAction> {
    let next = 1 << todo.trailing_zeros().min(7);
    let action = match next {
        todo::SEND => ServerAction::Send(bytes.clone()),
        todo::DELIVER_ACK => ServerAction::DeliverAck,
        todo::TIMEOUT => ServerAction::Timeout,
        todo::TERMINATED => ServerAction::Terminated,
        _ => return None,
    };
    *todo &= !next;
    Some(action)
}
