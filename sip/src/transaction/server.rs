//! Server transactions (RFC 3261 section 17.2, RFC 6026 section 8.7).

use std::time::Instant;

use bytes::Bytes;

use crate::transaction::Timers;

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

/// An INVITE as a server: Proceeding, Completed or Accepted, Confirmed, Terminated.
#[derive(Clone, Debug)]
pub struct ServerInvite {
    reliable: bool,
    timers: Timers,
}

/// Any other request as a server: Trying, Proceeding, Completed, Terminated.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    reliable: bool,
    timers: Timers,
}

macro_rules! server {
    ($name:ident) => {
        impl $name {
            /// Begins the transaction with the first request, which the caller passes up.
            pub fn new(reliable: bool, timers: Timers) -> Self {
                Self { reliable, timers }
            }

            /// The same request once more.
            pub fn handle_request(&mut self, now: Instant) {
                let _ = (now, self.reliable, self.timers);
            }

            /// A response from above. One that the state forbids (after a final one) is dropped; returns whether it
            /// was accepted.
            pub fn respond(&mut self, now: Instant, code: u16, response: Bytes) -> bool {
                let _ = (now, code, response);
                true
            }

            /// The response could not be sent.
            pub fn handle_transport_error(&mut self) {}

            pub fn handle_timeout(&mut self, now: Instant) {
                let _ = now;
            }

            pub fn next_deadline(&self) -> Option<Instant> {
                None
            }

            /// The next action; drain after every input.
            pub fn poll(&mut self) -> Option<ServerAction> {
                None
            }

            /// Whether a final response was sent.
            pub fn is_completed(&self) -> bool {
                false
            }
        }
    };
}
server!(ServerInvite);
server!(ServerRequest);

impl ServerInvite {
    /// An ACK that matches this transaction.
    pub fn handle_ack(&mut self, now: Instant) {
        let _ = now;
    }
}
