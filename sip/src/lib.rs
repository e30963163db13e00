//! SIP: messages, transactions, transports. Knows nothing of pools.
//!
//! - A [`Message`] is one received buffer and a table of header offsets; values are parsed when asked for and borrow
//!   from it. What this library does not understand passes through untouched.
//! - An [`Edit`] is a list of splices over a message, applied once at [`Edit::finish`].
//! - [`ResponseBuilder`], [`RequestBuilder`], [`ack_for`], [`cancel_for`] make messages.
//! - [`digest`] has the challenges, answers and hashes of digest authentication.
//! - [`sdp`] finds and replaces what a media relay must in session descriptions.
//! - [`StreamFramer`] cuts a byte stream into messages and keep-alives.
//! - [`transaction`] has the state machines of RFC 3261 section 17 without IO, and a layer that holds many of them.
//!   `handle_*(now, …)` changes state, `poll()` is drained after each input, `next_deadline()` says when to call
//!   `handle_timeout(now)`.
//! - [`transport`] drives UDP sockets and TCP connections, keep-alives included.

mod address;
mod build;
mod check;
pub mod digest;
mod edit;
mod error;
mod framer;
pub mod fuzz;
mod header;
mod message;
mod method;
mod params;
mod resolve;
mod scan;
pub mod sdp;
mod splice;
mod stun;
mod syntax;
pub mod transaction;
pub mod transport;
mod uri;
mod via;

pub use address::{CSeq, Contact, NameAddr};
pub use build::{RequestBuilder, ResponseBuilder, ack_for, cancel_for, reason_phrase};
pub use edit::Edit;
pub use error::{BuildError, ParseError, Partial};
pub use framer::{Frame, FrameError, StreamFramer};
pub use header::HeaderName;
pub use message::{Header, Limits, Message, Value};
pub use method::Method;
pub use params::{Param, Params, unquote};
pub use resolve::{NumericResolver, ResolveError, Resolver, Target, TransportKind};
pub use stun::stun_response;
pub use uri::{Host, SipUri, Uri, host_port, unescape};
pub use via::{BRANCH_COOKIE, Via};
