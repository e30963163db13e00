//! rtpengine's control protocol NG: bencode, messages, and a client without IO.
//!
//! A datagram is a cookie, a space and one dictionary in bencode. [`message::Request`] and [`message::Reply`] read it
//! and borrow from the received bytes; [`message::Request::encode`] and [`message::ReplyEncoder`] write it.
//! [`report`] holds what `query` and `statistics` answer. [`client::Client`] asks relays: it sends again, gives up
//! in time, and hands every answer to the one who asked.
//!
//! Where rtpengine's documentation and its behaviour differ, its behaviour (10.5) is followed; where its parser is lax
//! (a dictionary without an end, numbers with signs and leading zeros, bytes behind the end), this one is strict. JSON,
//! which rtpengine reads as well, is not spoken.

pub mod bencode;
pub mod client;
pub mod fuzz;
pub mod message;
pub mod report;

/// The port that rtpengine listens at unless it is told another one.
pub const NG_PORT: u16 = 2223;
/// Largest payload of a UDP datagram over IPv4: no message is longer.
pub const MAX_DATAGRAM: usize = 65_507;
