//! A registrar in this process, and agents that find it.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod example;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use dialtone_asap_client::{Agent, AgentConfig, parse_registrar};
use dialtone_daemon::CancellationToken;
use dialtone_handlespace::Handle;
use dialtone_pool_element::{Elements, ElementsConfig};
use dialtone_pool_user::{PoolUser, Users, UsersConfig};
use dialtone_registrar_ns::core::{Config, Registrar};
use dialtone_registrar_ns::driver::{self, View};
use dialtone_transport::{Endpoint, EndpointConfig, SessionLimits};
use dialtone_wire::ServerId;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The addresses of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Net {
    /// 127.203.n.0/24.
    V4(u8),
    /// There is one loopback address: everybody is there, at a port of its own.
    V6,
}

impl Net {
    pub(crate) fn address(self, host: u8) -> IpAddr {
        match self {
            Self::V4(net) => IpAddr::from([127, 203, net, host]),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// A registrar, and where those are that use it.
pub(crate) struct NameService {
    pub(crate) net: Net,
    /// As agents are told.
    pub(crate) registrar: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl NameService {
    pub(crate) async fn start(net: u8) -> Self {
        Self::start_in(Net::V4(net)).await
    }

    /// `None` where there is no IPv6.
    pub(crate) async fn over_ipv6() -> Option<Self> {
        if let Err(error) = UdpSocket::bind((Net::V6.address(1), 0)) {
            println!("skipped: no IPv6 here: {error}");
            return None;
        }
        Some(Self::start_in(Net::V6).await)
    }

    async fn start_in(net: Net) -> Self {
        let ip = net.address(1);
        let config = EndpointConfig::registrar(SocketAddr::new(ip, 0), None);
        let (endpoint, events) = Endpoint::bind(config).await.unwrap();
        let registrar = format!("sctp:{}", endpoint.local_addr());
        let core = Registrar::new(now(), Config::new(ip), ServerId(1), fastrand::Rng::with_seed(1));
        let (viewed, _) = View::new(&core, now());
        let shutdown = CancellationToken::new();
        let run = driver::run(core, endpoint, events, None, viewed, shutdown.clone());
        Self { net, registrar, shutdown, task: tokio::spawn(run) }
    }

    fn config(&self, host: u8, sessions: SessionLimits) -> AgentConfig {
        let registrar = parse_registrar(&self.registrar).unwrap();
        let mut config = AgentConfig::telephony(self.net.address(host), vec![registrar]);
        config.endpoint.sessions = Some(sessions);
        config
    }

    pub(crate) async fn user(&self, host: u8) -> Agent<Users> {
        let users = Users::new(UsersConfig::telephony());
        Agent::start(self.config(host, SessionLimits::user()), users).await.unwrap()
    }

    pub(crate) async fn element(&self, host: u8) -> Agent<(Elements, Users)> {
        let roles =
            (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony()));
        Agent::start(self.config(host, SessionLimits::element(5)), roles).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// Waits until the pool has this many members.
pub(crate) async fn members(pools: &PoolUser, pool: &Handle, count: u32) {
    let mut view = pools.watch(pool).unwrap();
    let there = view.wait_for(|view| view.order.len() == count as usize);
    assert!(timeout(LIMIT, there).await.is_ok(), "the pool does not get {count} members");
}
