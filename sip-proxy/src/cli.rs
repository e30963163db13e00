//! The daemon `dialtone sip-proxy`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dialtone_asap_client::Agent;
use dialtone_daemon::bind::BindError;
use dialtone_daemon::{CancellationToken, Context, DaemonArgs, DataDir, Error, admin, bind};
use dialtone_handlespace::Handle;
use dialtone_location::WriterId;
use dialtone_pool_element::daemon::{Server, start_agent};
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, pe_id};
use dialtone_pool_user::{PoolUser, Users, UsersConfig};
use dialtone_sip::transport::{TcpConfig, TcpTransport, UdpConfig, UdpTransport};
use dialtone_sip_pool::keys::Keys;
use dialtone_wire::PeId;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::POOL;
use crate::config::{Config, WhenFull};
use crate::core::{Names, Proxy, Settings};
use crate::database;
use crate::driver::{self, Network, Pool, Pools};
use crate::intake::intake;

/// Messages that wait for the driver.
const QUEUE: usize = 4096;

/// A SIP registrar and proxy: keeps where phones are, and brings calls to them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: Args) -> ExitCode {
    dialtone_daemon::run("sip-proxy", &args.daemon, serve)
}

async fn serve(config: Config, context: Context) -> Result<(), Error> {
    let data_dir = DataDir::open(&config.data_dir, "data_dir")?;
    let keys =
        Keys::load_or_create(&config.key_file).map_err(|error| Error::Usage(error.to_string()))?;
    let proxies = handle(POOL)?;
    let pe_id = pe_id::load_or_create(data_dir.path(), &proxies).map_err(Error::other)?;
    let http = bind::tcp(config.admin_addr(), "admin").await?;
    let (network, mut addresses) = open_network(&config)?;
    addresses.push(("admin", bind::local_addr(&http)?.to_string()));
    let http = tokio::spawn(admin::serve(http, axum::Router::new(), context.clone()));

    let roles = (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony()));
    let agent = start_agent(&config.registrars, config.address, config.tls.as_ref(), roles).await?;
    addresses.extend(agent.as_ref().map(|agent| ("asap", agent.local_addr().to_string())));
    let pools = agent.as_ref().map(Agent::handle);

    let (sink, store_events) = intake();
    let user = pools.as_ref().map(|(_, user)| user);
    let store = tokio::select! {
        store = database::open(&config, &data_dir, user, WriterId(pe_id.0), sink) => store?,
        () = context.shutdown.cancelled() => {
            // Asked to stop before there was a database.
            http.await.map_err(Error::other)?;
            return Ok(());
        }
    };

    let watch = |pool: &str, user: &PoolUser| -> Result<Pool, Error> {
        let handle = handle(pool)?;
        let view = user.watch(&handle).map_err(Error::other)?;
        Ok(Pool { user: user.clone(), handle, view })
    };
    let relays = config.media.pool.as_deref();
    let conferences = config.conference.pool.as_deref();
    let used = Pools {
        gateways: user.map(|user| watch("sip-gateway", user)).transpose()?,
        relays: relays.zip(user).map(|(pool, user)| watch(pool, user)).transpose()?,
        conferences: conferences.zip(user).map(|(pool, user)| watch(pool, user)).transpose()?,
    };
    let core_address = network.core_address;
    let proxy = new_proxy(&config, &network, keys, pe_id);
    let (serving, mut is_serving) = watch::channel(false);
    let drain = CancellationToken::new();
    let span = tracing::info_span!("proxy", name = config.name);
    let driver =
        driver::run(proxy, network, store.clone(), store_events, used, serving, drain.clone());
    let task = tokio::spawn(driver.instrument(span));
    let element =
        pools.map(|(element, _)| (element, ElementConfig::tcp(proxies, pe_id, core_address)));
    let name = &config.name;
    let server = Server { context: &context, name, addresses, element, load: None, task, drain };
    let served = server
        .run(async {
            // Both end with the driver.
            let _ = is_serving.wait_for(|serving| *serving).await;
        })
        .await;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    tokio::task::spawn_blocking(move || drop(store)).await.map_err(Error::other)?;
    context.shutdown.cancel();
    http.await.map_err(Error::other)?;
    served
}

fn handle(pool: &str) -> Result<Handle, Error> {
    pool.parse().map_err(Error::other)
}

type Addresses = Vec<(&'static str, String)>;

fn open_network(config: &Config) -> Result<(Network, Addresses), Error> {
    let (core_sender, core_events) = mpsc::channel(QUEUE);
    let (edge_sender, edge_events) = mpsc::channel(QUEUE);
    let core =
        TcpTransport::new(TcpConfig { max_queued: 16 << 20, ..TcpConfig::default() }, core_sender);
    let listen = |tcp: &TcpTransport, addr: SocketAddr, key: &str| {
        tcp.listen(addr, 0).map_err(|source| BindError::new(addr, "TCP", key, source))
    };
    let core_listener = core
        .reserve(config.core, 0)
        .map_err(|source| BindError::new(config.core, "TCP", "core", source))?;
    let core_address = core_listener.address();
    let mut addresses = vec![("sip-core", core_address.to_string())];
    let mut edge_udp = None;
    if let Some(addr) = config.edge.udp {
        let udp = UdpTransport::bind(addr, 0, UdpConfig::default(), edge_sender.clone())
            .map_err(|source| BindError::new(addr, "UDP", "edge.udp", source))?;
        addresses.push(("sip-udp", udp.local_addr().to_string()));
        edge_udp = Some(udp);
    }
    let edge_tcp = TcpTransport::new(TcpConfig::default(), edge_sender);
    let mut edge_tcp_address = None;
    if let Some(addr) = config.edge.tcp {
        let addr = *edge_tcp_address.insert(listen(&edge_tcp, addr, "edge.tcp")?);
        addresses.push(("sip-tcp", addr.to_string()));
    }
    let network = Network {
        core,
        core_events,
        core_address,
        core_listener,
        edge_udp,
        edge_tcp,
        edge_tcp_address,
        edge_events,
    };
    Ok((network, addresses))
}

fn new_proxy(config: &Config, network: &Network, keys: Keys, pe_id: PeId) -> Proxy {
    let (now, wall) = clocks();
    let edge_udp = network.edge_udp.as_ref().map(UdpTransport::local_addr);
    let edge_tcp = network.edge_tcp_address;
    let registration = config.registration;
    let settings = Settings {
        element: pe_id.0,
        edge_udp,
        edge_tcp,
        record_route: config.edge.record_route,
        min_expires: registration.min_expires,
        max_expires: registration.max_expires,
        default_expires: registration.default_expires,
        max_bindings: registration.max_contacts,
        evict_oldest: registration.when_full == WhenFull::EvictOldest,
        store_timeout: Duration::from_millis(registration.store_timeout_ms),
        auth: config.auth.settings(&config.domains),
        media: config.media.settings(),
        conference: config.conference.settings(),
        ..Settings::new(network.core_address, (now, wall))
    };
    let own: Vec<SocketAddr> =
        [Some(network.core_address), edge_udp, edge_tcp].into_iter().flatten().collect();
    Proxy::new(now, settings, Names::new(&config.domains, &own), keys, fastrand::Rng::new())
}

#[expect(clippy::disallowed_methods, reason = "the core is told what time it is when it starts")]
fn clocks() -> (Instant, u64) {
    (Instant::now(), driver::wall_clock())
}
