//! Associations between pool users and pool elements, on the same SCTP endpoint as those with registrars.
//!
//! RFC 5352 section 3.8: what has the payload protocol identifier of ASAP is the control channel, everything else is
//! the user's data. RFC 5352 section 6.1: an element's user transport may be the endpoint that it registers from; it
//! has an SCTP port of its own here, by which the two kinds of association are told apart.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dialtone_wire::{SctpTransport, Transport, TransportUse};
use tokio::sync::mpsc;

use crate::model::{AssocId, DownCause, Link, NetEvent, Remote};
use crate::thread::{Command, Control};

/// How many sessions an endpoint carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// SCTP port on which users are accepted; not that of ASAP or ENRP. `None`: sessions can be dialled only.
    pub port: Option<u16>,
    /// Session associations at a time, whoever dialled; beside those with registrars.
    pub max_associations: usize,
    /// Events that wait for the consumer at most; beyond it messages stay in the receive windows of their
    /// associations, and their senders have to wait.
    pub event_queue: usize,
}

impl SessionLimits {
    /// A pool user: dials only.
    pub const fn user() -> Self {
        Self { port: None, max_associations: 256, event_queue: 256 }
    }

    /// A pool element that serves on this SCTP port.
    pub const fn element(port: u16) -> Self {
        Self { port: Some(port), max_associations: 4096, event_queue: 256 }
    }
}

/// The largest message of the data channel, in bytes.
pub const MAX_PAYLOAD: usize = crate::stack::MAX_MESSAGE;

/// What happened to a session's association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The association is ready, dialled or accepted.
    Up { assoc: AssocId, remote: Remote },
    /// A message of the control channel: ASAP.
    Control { assoc: AssocId, payload: Vec<u8> },
    /// A message of the data channel.
    Data { assoc: AssocId, ppid: u32, payload: Vec<u8> },
    /// The peer's SCTP has the message that was sent with this number. Its application may not have read it.
    Delivered { assoc: AssocId, number: u64 },
    /// As [`NetEvent::Suspect`].
    Suspect { assoc: AssocId },
    /// As [`NetEvent::Down`].
    Down { assoc: AssocId, cause: DownCause },
}

impl SessionEvent {
    pub fn assoc(&self) -> AssocId {
        match self {
            Self::Up { assoc, .. }
            | Self::Control { assoc, .. }
            | Self::Data { assoc, .. }
            | Self::Delivered { assoc, .. }
            | Self::Suspect { assoc }
            | Self::Down { assoc, .. } => *assoc,
        }
    }
}

/// What a session wants from its association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    /// Dial; answered by `Up` or `Down` with the same id, which is one of [`AssocId::session`].
    Connect {
        assoc: AssocId,
        remote: Remote,
    },
    /// Send an ASAP message on the control channel.
    Control {
        assoc: AssocId,
        payload: Vec<u8>,
    },
    /// Send user data. With ASAP's payload protocol identifier it is dropped.
    Data {
        assoc: AssocId,
        ppid: u32,
        payload: Vec<u8>,
        unordered: bool,
        /// Not 0; answered by [`SessionEvent::Delivered`].
        number: Option<u64>,
    },
    /// Deliver no more messages until `Release`: they stay in the receive window, and the peer has to wait. Those that
    /// are on their way to the consumer still arrive.
    Hold {
        assoc: AssocId,
    },
    Release {
        assoc: AssocId,
    },
    /// As [`crate::NetCommand::Abort`].
    Abort {
        assoc: AssocId,
    },
    /// As [`crate::NetCommand::Shutdown`].
    Shutdown {
        assoc: AssocId,
    },
}

impl SessionCommand {
    pub(crate) fn assoc(&self) -> AssocId {
        match self {
            Self::Connect { assoc, .. }
            | Self::Control { assoc, .. }
            | Self::Data { assoc, .. }
            | Self::Hold { assoc }
            | Self::Release { assoc }
            | Self::Abort { assoc }
            | Self::Shutdown { assoc } => *assoc,
        }
    }
}

/// What becomes of an event when its association is a session; messages are told apart before.
pub(crate) fn event(event: NetEvent) -> Option<SessionEvent> {
    match event {
        NetEvent::Up { assoc, remote, .. } => Some(SessionEvent::Up { assoc, remote }),
        NetEvent::Message { assoc, payload } => Some(SessionEvent::Control { assoc, payload }),
        NetEvent::Suspect { assoc } => Some(SessionEvent::Suspect { assoc }),
        NetEvent::Moved { .. } => None,
        NetEvent::Down { assoc, cause } => Some(SessionEvent::Down { assoc, cause }),
    }
}

/// The sessions of an [`crate::Endpoint`]: events in, commands out.
#[derive(Debug)]
pub struct SessionSocket {
    pub(crate) events: mpsc::Receiver<SessionEvent>,
    pub(crate) control: Arc<Control>,
    pub(crate) local: SocketAddr,
    pub(crate) port: Option<u16>,
}

impl SessionSocket {
    /// The next event; `None` when the endpoint has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<SessionEvent> {
        self.events.recv().await
    }

    /// Hands a command over; never blocks. A command that finds its queue full ends its association instead.
    pub fn execute(&self, command: SessionCommand) {
        self.control.execute(Command::Session(command));
    }

    /// The UDP address that carries the sessions.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What an element registers as its user transport: data and control on this endpoint. `None` when no sessions
    /// are accepted.
    ///
    /// RFC 5352 section 6.1: the address is one that the endpoint is bound to.
    pub fn transport(&self) -> Option<Transport<'static>> {
        let addrs = self.local.ip().into();
        let use_ = TransportUse::DATA_PLUS_CONTROL;
        self.port.map(|port| Transport::Sctp(SctpTransport { port, use_, addrs }))
    }
}

/// The far end of a session: an SCTP port at an address, encapsulated to a UDP port.
pub fn session_remote(ip: IpAddr, sctp_port: u16, encaps_port: u16) -> Remote {
    Remote { link: Link::Sctp, addr: SocketAddr::new(ip, encaps_port), sctp_port }
}
