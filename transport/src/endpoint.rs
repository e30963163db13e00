//! The handle that drivers hold.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::EndpointConfig;
use crate::counters::{Counters, Live};
use crate::model::{NetCommand, NetEvent, Protocol};

/// One UDP port with its SCTP associations, and ASAP over TCP beside it.
///
/// Dropping it aborts what is up; [`Endpoint::close`] can end it in order.
#[derive(Debug)]
pub struct Endpoint {
    udp: SocketAddr,
    tcp: Option<SocketAddr>,
    asap_port: Option<u16>,
    enrp_port: Option<u16>,
    counters: Arc<Live>,
}

impl Endpoint {
    /// Binds the sockets and starts the SCTP thread. Events come from the receiver until the endpoint is closed.
    ///
    /// # Errors
    /// A socket could not be bound, or the thread could not be started.
    pub async fn bind(config: EndpointConfig) -> io::Result<(Self, mpsc::Receiver<NetEvent>)> {
        let _ = config;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Hands a command over; never blocks. A command that finds its queue full ends its association instead
    /// ([`crate::DownCause::Local`]), since a gap in a reliable stream would be worse.
    pub fn execute(&self, command: NetCommand) {
        let _ = command;
    }

    /// The UDP address that carries SCTP, with the port that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.udp
    }

    /// The address on which ASAP over TCP is accepted.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// The SCTP port of a protocol: to be told to registrars in ASAP transports.
    pub fn sctp_port(&self, protocol: Protocol) -> Option<u16> {
        match protocol {
            Protocol::Asap => self.asap_port,
            Protocol::Enrp => self.enrp_port,
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters.snapshot()
    }

    /// Ends everything: in order (bounded by [`crate::SctpTimers::shutdown`]) or by aborts. `Down` events still
    /// arrive, then the receiver ends.
    pub async fn close(self, graceful: bool) {
        let _ = graceful;
    }

    /// Disappears without a word to any peer, as a killed process does. For tests of failure detection.
    pub fn vanish(self) {}
}
