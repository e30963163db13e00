//! Drivers for UDP and TCP (tokio). They move bytes and parse nothing beyond stream framing.
//!
//! Everything received from all sockets of a process goes into one bounded channel of [`TransportEvent`]s.

mod tcp;
mod udp;

use std::net::SocketAddr;

use bytes::Bytes;

pub use tcp::{Reserved, SendError, TcpConfig, TcpCounters, TcpTransport};
pub use udp::{UdpConfig, UdpTransport};

use crate::FrameError;

/// Names one connection within a process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Where a message came from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// The number that the local socket was given at [`UdpTransport::bind`], and the peer.
    Udp {
        socket: u16,
        peer: SocketAddr,
    },
    Tcp(ConnId),
}

/// What happened on a transport.
#[derive(Clone, Debug)]
pub enum TransportEvent {
    /// A datagram or a framed message.
    Message { flow: Flow, bytes: Bytes },
    /// A connection was accepted by the listener of this number, or came up after [`TcpTransport::connect`].
    Connected { conn: ConnId, peer: SocketAddr, local: SocketAddr, listener: Option<u16> },
    /// CRLF CRLF came and was answered; over UDP also a STUN binding
    /// request, answered, or other line ends, not answered.
    Ping { flow: Flow },
    /// CRLF came.
    Pong { flow: Flow },
    /// The connection ended or could not be dialled. The last event with this id.
    Closed { conn: ConnId, cause: CloseCause },
    /// A datagram to this peer came back: its port or host is unreachable, says an ICMP message, with as much of the
    /// datagram as it carries. Whoever knows the addresses can make one up: believe it only for what is in the datagram
    /// and nobody else can know.
    Returned { flow: Flow, bytes: Bytes },
}

/// Why a connection ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CloseCause {
    /// The peer closed in order.
    Peer,
    /// We closed.
    Local,
    /// Reset, unreachable, refused, timed out.
    Io(std::io::ErrorKind),
    /// Its bytes are no SIP, or too many.
    Frame(FrameError),
    /// A message was begun and not finished in time.
    Slow,
    /// The peer takes too little of what is sent: the queue is full.
    Congested,
    /// Idle for too long.
    Idle,
}

impl crate::transaction::Destination for Flow {
    fn is_reliable(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn source_addr(&self) -> Option<SocketAddr> {
        match *self {
            Self::Udp { peer, .. } => Some(peer),
            Self::Tcp(_) => None,
        }
    }

    fn reply_to(self, via: &crate::Via<'_>) -> Self {
        match self {
            Self::Udp { socket, peer } => Self::Udp { socket, peer: via.reply_addr(peer) },
            Self::Tcp(_) => self,
        }
    }
}
