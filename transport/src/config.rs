//! What an endpoint binds, and its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::session::SessionLimits;
use crate::tls::Tls;
use crate::{ASAP_PORT, ENRP_PORT};

/// How an [`crate::Endpoint`] is set up. Start from [`EndpointConfig::element`] or [`EndpointConfig::registrar`].
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// UDP address that carries SCTP. Port 0 takes any free one. Name an address, not the wildcard: answers leave
    /// from it.
    pub udp: SocketAddr,
    /// SCTP port of ASAP, from which associations are dialled and on which they are accepted. `None`: nothing is
    /// accepted, dialling uses a port of the moment.
    pub asap_port: Option<u16>,
    /// The same for ENRP; registrars only.
    pub enrp_port: Option<u16>,
    /// Where ASAP over TCP is accepted; registrars only. TCP can be dialled without it.
    pub tcp: Option<SocketAddr>,
    /// Associations of users with elements; `None`: there are none.
    pub sessions: Option<SessionLimits>,
    pub timers: SctpTimers,
    /// SCTP associations at a time, whoever dialled. Beyond it INITs are answered with ABORT (out of resource).
    pub max_associations: usize,
    /// How many of them may be with one IPv4 address or one IPv6 network of 64 bits: who has an address to prove
    /// shall not be able to take all. Peers behind one NAT share it.
    pub max_associations_per_address: usize,
    /// TCP connections at a time, whoever dialled.
    pub max_connections: usize,
    /// INITs answered per second; the rest is dropped, peers send them again.
    pub max_handshakes_per_second: u32,
    /// INITs answered per second to one address (IPv6: network of 64 bits), which may be that of a victim.
    pub max_handshakes_per_address: u32,
    /// Answers per second to packets that belong to no association.
    pub max_out_of_the_blue_per_second: u32,
    /// Bytes that wait for one peer at most. A peer that drains more slowly loses its association
    /// ([`crate::DownCause::TimedOut`]).
    pub send_buffer: usize,
    /// The same for another registrar, which is told of every element of one host that ends: 100 bytes for each, at once.
    pub enrp_send_buffer: usize,
    /// Bytes that all SCTP peers together may make this endpoint hold, for each direction. Beyond it the one that
    /// holds most loses its association.
    pub max_held: usize,
    /// SCTP receive window in bytes; also bounds the largest message that arrives.
    pub receive_window: usize,
    /// Commands that wait for the SCTP thread at most. A command beyond it ends its association.
    pub command_queue: usize,
    /// Events that wait for the consumer at most; beyond it the endpoint stops reading.
    pub event_queue: usize,
    /// Largest SCTP packet in bytes, without UDP and IP headers. Paths are not probed: what every path carries (IPv6
    /// demands 1,280 bytes of it) needs no probing, and no ICMP message can make it smaller.
    pub mtu: usize,
    /// Secure mode: everything is dialled by TLS, and there is no SCTP; `udp` is not bound then, only its address is
    /// dialled from. What `tcp` accepts has proven nothing.
    pub secure: Option<Secure>,
}

/// Secure mode of an endpoint.
#[derive(Clone, Debug)]
pub struct Secure {
    pub tls: Arc<Tls>,
    /// Where ASAP over TLS is accepted; registrars only.
    pub asap: Option<SocketAddr>,
    /// Where ENRP over TLS is accepted, from registrars only.
    pub enrp: Option<SocketAddr>,
    /// Handshakes of accepted connections at a time; the oldest makes room.
    pub max_handshakes: usize,
    /// Handshakes begun per second; connections beyond are reset.
    pub max_handshakes_per_second: u32,
    /// The same from one address (IPv6: network of 64 bits), which can so take no more than its share of all.
    pub max_handshakes_per_address: u32,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl Secure {
    /// A pool element or pool user: dials only.
    pub fn element(tls: Arc<Tls>) -> Self {
        Self {
            tls,
            asap: None,
            enrp: None,
            max_handshakes: 256,
            max_handshakes_per_second: 500,
            max_handshakes_per_address: 100,
            handshake_timeout: Duration::from_secs(3),
        }
    }

    /// A registrar.
    pub fn registrar(tls: Arc<Tls>, asap: SocketAddr, enrp: SocketAddr) -> Self {
        Self { asap: Some(asap), enrp: Some(enrp), ..Self::element(tls) }
    }
}

/// Failure timers of SCTP. RFC 9260 section 16 suggests a minute; telephony cannot wait for that.
#[derive(Clone, Debug)]
pub struct SctpTimers {
    /// Between heartbeats on an idle association.
    pub heartbeat: Duration,
    pub rto_initial: Duration,
    /// More than the 150 ms by which the thread may be late before it holds the timers back.
    pub rto_min: Duration,
    pub rto_max: Duration,
    /// Unanswered retransmissions or heartbeats in a row until a peer is dead.
    pub max_retransmissions: u32,
    /// First wait for INIT ACK and COOKIE ACK; doubles with every retransmission.
    pub init_timeout: Duration,
    pub max_init_retransmissions: u32,
    /// How long a cookie is good (RFC 9260 Valid.Cookie.Life).
    pub cookie_life: Duration,
    /// A peer that acknowledges nothing of what waits for it for so long is dropped, even if it lives.
    pub stalled: Duration,
    /// An orderly end that takes longer becomes an abort.
    pub shutdown: Duration,
}

impl EndpointConfig {
    /// A pool element or pool user: dials, and accepts ASAP so that a registrar which took over can reach it.
    pub fn element(udp: SocketAddr) -> Self {
        Self {
            udp,
            asap_port: Some(ASAP_PORT),
            enrp_port: None,
            tcp: None,
            sessions: None,
            timers: SctpTimers::default(),
            max_associations: 64,
            max_associations_per_address: 2_500,
            max_connections: 16,
            max_handshakes_per_second: 100,
            max_handshakes_per_address: 100,
            max_out_of_the_blue_per_second: 100,
            send_buffer: 1 << 20,
            enrp_send_buffer: 1 << 20,
            max_held: 64 << 20,
            receive_window: 1 << 18,
            command_queue: 4096,
            event_queue: 4096,
            mtu: 1200,
            secure: None,
        }
    }

    /// A registrar: ASAP and ENRP on the well-known SCTP ports, ASAP over TCP on `tcp`.
    pub fn registrar(udp: SocketAddr, tcp: Option<SocketAddr>) -> Self {
        Self {
            enrp_port: Some(ENRP_PORT),
            tcp,
            max_associations: 10_000,
            max_connections: 10_000,
            max_handshakes_per_second: 20_000,
            max_handshakes_per_address: 1_000,
            max_out_of_the_blue_per_second: 1_000,
            enrp_send_buffer: 8 << 20,
            command_queue: 65_536,
            event_queue: 16_384,
            max_held: 256 << 20,
            ..Self::element(udp)
        }
    }
}

impl Default for SctpTimers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            rto_initial: Duration::from_millis(300),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(1),
            max_retransmissions: 3,
            init_timeout: Duration::from_millis(300),
            max_init_retransmissions: 2,
            cookie_life: Duration::from_secs(10),
            stalled: Duration::from_secs(10),
            shutdown: Duration::from_secs(3),
        }
    }
}
