//! What a gateway is told and what it says: settings, inputs, outputs, counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dialtone_handlespace::{Element, Handle};
use dialtone_pool_user::View;
use dialtone_sip::transaction::Timers;
use dialtone_sip_pool::hops::{self, Cause, ConnId, Member};
use dialtone_sip_pool::keys::Keys;
use dialtone_sip_pool::token::EdgeTransport;
use dialtone_wire::{PeId, Policy, ServerId, Transport};

/// The pools that a gateway uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// `sip-gateway`: the other gateways (and this one).
    Gateway,
    /// `sip-proxy`.
    Proxy,
}

impl Pool {
    /// The pool handle.
    #[must_use]
    pub fn handle(self) -> Handle {
        let handle = match self {
            Self::Gateway => "sip-gateway",
            Self::Proxy => "sip-proxy",
        };
        // Neither empty nor too long, which is all that handles are checked for.
        handle.parse().expect("a constant handle")
    }
}

/// How the proxy for a request is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// By rendezvous hashing of the Call-ID: requests of one call meet at one proxy while the pool stays the same.
    CallId,
    /// By rendezvous hashing of the URI in From.
    From,
    /// By the pool's policy.
    #[default]
    Policy,
    /// By rendezvous hashing of the Request-URI.
    RequestUri,
    /// By rendezvous hashing of the URI in To.
    To,
    /// By rendezvous hashing of the user part of the URI in To.
    User,
}

/// A listener for phones. Its number is its place in [`Settings::listeners`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// UDP or TCP.
    pub transport: EdgeTransport,
    /// The address that phones use; stands in Via, Record-Route and Path.
    pub advertised: SocketAddr,
}

/// Bounds of what a gateway remembers and takes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Deliveries towards phones, including those answered in the last 32 s.
    pub deliveries: usize,
    /// Dialog records.
    pub dialogs: usize,
    /// Requests of phones that wait for an answer.
    pub legs: usize,
    /// Longest message in bytes.
    pub message: usize,
    /// Phones whose UDP pinhole is kept open.
    pub pinholes: usize,
    /// Messages per second from one IP address of phones; 0 for no bound.
    pub per_source: u32,
    /// Server transactions at which new requests of phones are refused; each lives for 32 s after its answer.
    pub transactions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            deliveries: 200_000,
            dialogs: 100_000,
            legs: 50_000,
            message: 65_535,
            pinholes: 200_000,
            per_source: 20_000,
            transactions: 200_000,
        }
    }
}

/// All that a gateway must be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its element identifier in `sip-gateway`.
    pub element: u32,
    /// Its listeners for phones.
    pub listeners: Vec<Listener>,
    /// Address of its core listener, for Via.
    pub core: SocketAddr,
    /// How proxies are chosen.
    pub choice: Choice,
    /// How long a request waits for a proxy when none can be used: 2 s.
    pub wait: Duration,
    /// How often UDP pinholes are refreshed: 25 s.
    pub keep_alive: Duration,
    /// Bounds.
    pub bounds: Bounds,
    /// Transaction timers.
    pub timers: Timers,
    /// Times of core hops.
    pub hops: hops::Settings,
}

impl Settings {
    /// Defaults for everything but the addresses.
    #[must_use]
    pub fn new(element: u32, listeners: Vec<Listener>, core: SocketAddr) -> Self {
        Self {
            element,
            listeners,
            core,
            choice: Choice::default(),
            wait: Duration::from_secs(2),
            keep_alive: Duration::from_secs(25),
            bounds: Bounds::default(),
            timers: Timers::default(),
            hops: hops::Settings::default(),
        }
    }
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer opened a connection to the core listener; the id has [`hops::ACCEPTED`] set.
    CoreAccepted {
        /// The connection.
        conn: ConnId,
    },
    /// Something other than a message came over a core connection: a pong, a part of a message.
    CoreActivity {
        /// The connection.
        conn: ConnId,
    },
    /// A core connection ended or could not be made.
    CoreClosed {
        /// The connection.
        conn: ConnId,
    },
    /// A core connection asked for by [`Output::CoreDial`] was made.
    CoreConnected {
        /// The connection.
        conn: ConnId,
    },
    /// A message came over a core connection.
    CoreMessage {
        /// The connection.
        conn: ConnId,
        /// The message as cut out of the stream.
        bytes: Bytes,
    },
    /// A datagram came from a phone.
    Datagram {
        /// Number of the listener.
        listener: u8,
        /// Where it came from.
        remote: SocketAddr,
        /// Its content.
        bytes: Bytes,
    },
    /// A datagram to a phone came back: its port or host is unreachable. Not to be believed without proof.
    DatagramReturned {
        /// Number of the listener.
        listener: u8,
        /// Where it was sent.
        remote: SocketAddr,
        /// How it began.
        bytes: Bytes,
    },
    /// A phone's connection ended.
    EdgeClosed {
        /// The connection.
        conn: u64,
    },
    /// A message came over a phone's connection.
    EdgeMessage {
        /// The connection.
        conn: u64,
        /// The message as cut out of the stream.
        bytes: Bytes,
    },
    /// A phone opened a connection.
    EdgeOpened {
        /// A number not used before in this process.
        conn: u64,
        /// Number of the listener.
        listener: u8,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// The process stood still for so long that others have given it up: what waits in accepted core connections is stale.
    Frozen,
    /// New keys were loaded.
    NewKeys {
        /// The keys.
        keys: Keys,
    },
    /// Time has passed.
    Timeout,
    /// What a pool consists of; see [`pool_view`] for tests.
    View {
        /// The pool.
        pool: Pool,
        /// Its view.
        view: Arc<View>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close a core connection.
    CoreClose {
        /// The connection.
        conn: ConnId,
    },
    /// Open a core connection; answered by [`Input::CoreConnected`] or [`Input::CoreClosed`].
    CoreDial {
        /// Its id.
        conn: ConnId,
        /// Where to.
        address: SocketAddr,
    },
    /// Write to a core connection.
    CoreWrite {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Send a datagram to a phone.
    Datagram {
        /// Number of the listener to send from.
        listener: u8,
        /// Where to.
        remote: SocketAddr,
        /// Its content.
        bytes: Bytes,
    },
    /// Write to a phone's connection.
    EdgeWrite {
        /// The connection.
        conn: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// An element has failed: report it to the registrar.
    ReportUnreachable {
        /// The pool.
        pool: Pool,
        /// The element.
        element: u32,
        /// Why.
        cause: Cause,
    },
    /// An element answers (again).
    Trust {
        /// The pool.
        pool: Pool,
        /// The element.
        element: u32,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages from phones that were no SIP; answered with 400 where possible.
    pub broken: u64,
    /// Requests from phones sent towards the core.
    pub forwarded: u64,
    /// Requests delivered to phones.
    pub delivered: u64,
    /// Requests sent again because a core hop failed.
    pub failed_over: u64,
    /// Repeated requests attached to a running delivery or answered from memory.
    pub reattached: u64,
    /// Deliveries cancelled because nobody waited any more.
    pub orphaned: u64,
    /// Requests refused for a token with a wrong MAC or a made-up route set.
    pub refused: u64,
    /// Requests answered 430 because the phone's flow is gone.
    pub flow_gone: u64,
    /// Of these, because the request came back: nobody listens at the phone's address.
    pub unreachable: u64,
    /// Requests answered 503 because no proxy could be used.
    pub no_proxy: u64,
    /// Messages dropped or refused because a bound was reached.
    pub over_bounds: u64,
    /// Messages dropped because they belong to nothing.
    pub stray: u64,
    /// Pinholes refreshed.
    pub refreshed: u64,
}

/// Sizes at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gauges {
    /// Client transactions of the layer.
    pub clients: usize,
    /// Remembered deliveries.
    pub deliveries: usize,
    /// Dialog records.
    pub dialogs: usize,
    /// Connections of phones.
    pub edge_connections: usize,
    /// Requests of phones in the core.
    pub legs: usize,
    /// Phones whose pinhole is kept open.
    pub pinholes: usize,
    /// Server transactions of the layer.
    pub servers: usize,
}

/// A complete view of round robin elements that are reached by TCP, as tests and simulations need them.
#[must_use]
pub fn pool_view(pool: Pool, version: u64, members: &[Member]) -> Arc<View> {
    let mut list: Vec<dialtone_pool_user::Member> = members
        .iter()
        .map(|member| {
            dialtone_pool_user::Member::from(Element {
                pe_id: PeId(member.element),
                home: ServerId(1),
                life: 30,
                encaps_port: None,
                transport: Transport::Tcp {
                    port: member.address.port(),
                    addr: member.address.ip(),
                },
                policy: Policy::RoundRobin,
                asap_transport: None,
            })
        })
        .collect();
    list.sort_by_key(|member| member.pe_id);
    let order = list.iter().map(|member| member.pe_id).collect();
    Arc::new(View {
        version,
        members: list.into(),
        order,
        complete: true,
        freshness: dialtone_pool_user::Freshness::Fresh,
        ..View::unknown(pool.handle())
    })
}
