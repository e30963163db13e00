//! Associations for ASAP and ENRP behind one [`Endpoint`]: SCTP over UDP (RFC 6951) and ASAP over TCP, or, in secure
//! mode, both protocols over TLS and nothing else.
//!
//! Protocol cores speak [`NetEvent`] and [`NetCommand`] and nothing else; an [`Endpoint`] carries them to real
//! sockets. SCTP itself is dcsctp. Around it stand the parts that a server on an open port needs: demultiplexing of
//! many associations on one UDP port, a handshake without state until the peer has proven its address (RFC 9260
//! 5.1.3), answers to packets out of the blue (RFC 9260 8.4), NAT rebinding, and ICMP as evidence of a dead peer.
//!
//! Associations of pool users with pool elements ([`session`]) share the UDP port, with events and commands of their own.
//!
//! | owner | runs on | owns |
//! |---|---|---|
//! | SCTP stack | one thread of its own per endpoint (dcsctp sockets are `!Send`) | the UDP socket, all associations |
//! | TCP and TLS listeners | one tokio task each | the listening socket |
//! | TLS handshake | one tokio task each, bounded in number and time | its stream |
//! | connection | one tokio task each | its stream, its bounded write queue |
//! | certificates | one tokio task, in secure mode | looks whether the files have changed |

mod bare;
mod bucket;
mod config;
mod cookie;
mod counters;
mod endpoint;
mod entropy;
pub mod model;
pub mod multicast;
mod packet;
pub mod session;
mod stack;
mod stream;
mod tcp;
mod thread;
pub mod tls;
mod udp;

#[doc(hidden)]
pub use bare::BareStack;
pub use config::{EndpointConfig, SctpTimers, Secure};
pub use counters::Counters;
pub use endpoint::Endpoint;
pub use model::{AssocId, DownCause, Identity, Link, NetCommand, NetEvent, Protocol, Remote};
pub use session::{SessionCommand, SessionEvent, SessionLimits, SessionSocket};
#[doc(hidden)]
pub use stack::fuzz;

/// UDP port of SCTP encapsulation (RFC 6951).
pub const ENCAPSULATION_PORT: u16 = 9899;
/// SCTP and TCP port of ASAP (RFC 5352 8.2).
pub const ASAP_PORT: u16 = 3863;
/// SCTP port of ENRP (RFC 5353 5.3).
pub const ENRP_PORT: u16 = 9901;
/// TCP port of ASAP over TLS (RFC 5352 8.2).
pub const ASAP_TLS_PORT: u16 = 3864;
/// TCP port of ENRP over TLS: the number that RFC 5353 5.3 has for SCTP.
pub const ENRP_TLS_PORT: u16 = 9902;
