//! The association model: what protocol cores see of the network, whatever carries it.
//!
//! Cores (registrar, ASAP client) consume [`NetEvent`]s and produce [`NetCommand`]s; drivers connect them to an
//! [`crate::Endpoint`], simulations connect them to a virtual network. An association (SCTP) or connection (TCP)
//! delivers whole messages, reliably and in order, while it is up; `Down` ends it, whatever was still under way.

use std::net::SocketAddr;
use std::sync::Arc;

/// Names one association or connection within a process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssocId(u64);

impl AssocId {
    const DIALLED: u64 = 1 << 63;
    const SESSION: u64 = 1 << 62;

    /// The n-th association that a core dials; cores count for themselves.
    pub const fn dialled(n: u64) -> Self {
        Self(n | Self::DIALLED)
    }

    /// The n-th association that an endpoint accepted.
    pub const fn accepted(n: u64) -> Self {
        Self(n & !(Self::DIALLED | Self::SESSION))
    }

    /// The n-th association with an element that a pool user dials.
    pub const fn session(n: u64) -> Self {
        Self(n | Self::DIALLED | Self::SESSION)
    }

    /// The n-th association of all that an endpoint accepted, one with a pool user.
    pub const fn accepted_session(n: u64) -> Self {
        Self(n & !Self::DIALLED | Self::SESSION)
    }

    /// It joins a user and an element, and belongs to [`crate::session`].
    pub const fn is_session(self) -> bool {
        self.0 & Self::SESSION != 0
    }

    /// This side dialled.
    pub const fn is_dialled(self) -> bool {
        self.0 & Self::DIALLED != 0
    }
}

/// Which protocol an association speaks. SCTP marks every message with the payload protocol identifier as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 5352: SCTP port 3863, TCP port 3863, PPID 11.
    Asap,
    /// RFC 5353: SCTP port 9901, PPID 12.
    Enrp,
}

/// What carries an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// SCTP over UDP (RFC 6951).
    Sctp,
    /// TCP, cut into messages by Message Length rounded up to 4 (G3). In secure mode there is TLS between.
    Tcp,
}

/// The far end of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Remote {
    pub link: Link,
    /// SCTP: address and UDP encapsulation port as observed; TCP: address and port.
    pub addr: SocketAddr,
    /// SCTP port; 0 for TCP.
    pub sctp_port: u16,
}

/// Who the peer has proven to be: the DNS names and URIs of its certificate (RFC 5280 subjectAltName).
///
/// Clones share the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity(Arc<[String]>);

impl Identity {
    /// By its names, the first of which is the one that stands for the peer.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The name that stands for the peer: the first DNS name, or without any the first URI.
    pub fn name(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// Why an association ended or never came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DownCause {
    /// The peer's ABORT or RST: the peer's host lives, this association does not.
    Aborted,
    /// Orderly SHUTDOWN or FIN by the peer.
    Closed,
    /// Ended by this side.
    Local,
    /// The peer answers no more: retransmissions ran out, or it does not drain its buffer.
    TimedOut,
    /// ICMP says that nobody listens there; the returned packet carried our verification tag.
    Unreachable,
}

/// What happened on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// An association is ready, dialled or accepted. `peer` is who the other side has proven to be; `None`: it has
    /// proven nothing, and anybody may read and change what it sends.
    Up { assoc: AssocId, protocol: Protocol, remote: Remote, peer: Option<Identity> },
    /// One whole message, as the peer framed it.
    Message { assoc: AssocId, payload: Vec<u8> },
    /// Validated evidence that the peer's process may be gone (ICMP port unreachable with our tag); the association
    /// is still up. Worth an immediate probe.
    Suspect { assoc: AssocId },
    /// The peer's UDP port moved (NAT rebinding), validated by its tag. A new address is a new association: the peer
    /// gets ABORT and dials again.
    Moved { assoc: AssocId, remote: Remote },
    /// The association ended, or the dial failed. The last event with this id.
    Down { assoc: AssocId, cause: DownCause },
}

/// What a core wants from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetCommand {
    /// Dial; answered by `Up` or `Down` with the same id.
    Connect { assoc: AssocId, protocol: Protocol, remote: Remote },
    /// Send one message; silently lost when the association is not up.
    Send { assoc: AssocId, payload: Vec<u8> },
    /// End at once, telling the peer (ABORT, RST); answered by `Down` with [`DownCause::Local`].
    Abort { assoc: AssocId },
    /// End in order, after what was sent has arrived; answered by `Down`.
    Shutdown { assoc: AssocId },
}
