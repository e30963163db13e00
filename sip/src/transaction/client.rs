//! Client transactions (RFC 3261 section 17.1, RFC 6026 section 8.4).

use std::time::Instant;

use bytes::Bytes;

use crate::transaction::Timers;
use crate::{Message, ParseError};

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

/// An INVITE as a client: Calling, Proceeding, Completed or Accepted, Terminated.
#[derive(Clone, Debug)]
pub struct ClientInvite {
    request: Bytes,
    reliable: bool,
    timers: Timers,
}

/// Any other request as a client: Trying, Proceeding, Completed, Terminated. Not for ACK.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    request: Bytes,
    reliable: bool,
    timers: Timers,
}

macro_rules! client {
    ($name:ident) => {
        impl $name {
            /// Begins the transaction; the first action is to send the request.
            pub fn new(now: Instant, request: Bytes, reliable: bool, timers: Timers) -> Self {
                let _ = now;
                Self { request, reliable, timers }
            }

            /// A response that matches this transaction.
            ///
            /// # Errors
            /// [`ParseError`] when it is no response or cannot be acknowledged; nothing changed.
            pub fn handle_response(
                &mut self,
                now: Instant,
                response: &Message,
            ) -> Result<(), ParseError> {
                let _ = (now, response, self.reliable, self.timers);
                Ok(())
            }

            /// The transport could not send, or the connection is gone.
            pub fn handle_transport_error(&mut self) {}

            pub fn handle_timeout(&mut self, now: Instant) {
                let _ = now;
            }

            pub fn next_deadline(&self) -> Option<Instant> {
                None
            }

            /// The next action; drain after every input.
            pub fn poll(&mut self) -> Option<ClientAction> {
                None
            }

            /// Whether a final response has come.
            pub fn is_completed(&self) -> bool {
                false
            }

            /// The request as sent.
            pub const fn request(&self) -> &Bytes {
                &self.request
            }
        }
    };
}
client!(ClientInvite);
client!(ClientRequest);
