//! The daemon `dialtone sip-gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use dialtone_asap_client::{Agent, AgentConfig, parse_registrar};
use dialtone_daemon::{Context, DaemonArgs, DataDir, Error, admin, bind};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, Registration, pe_id};
use dialtone_pool_user::{Users, UsersConfig};
use dialtone_sip::transport::TcpConfig;
use dialtone_sip_pool::keys::Keys;
use dialtone_sip_pool::token::EdgeTransport;
use dialtone_wire::PeId;
use tokio::sync::watch;
use tracing::Instrument;

use crate::config::Config;
use crate::core::{Gateway, Listener, Pool, Settings};
use crate::driver::{self, Sockets, Sources, Status, Verdict};
use crate::metrics;

/// How long requests may go on after the gateway has left its pools.
const DRAIN: Duration = Duration::from_secs(4);

/// How often the key file is looked at.
const KEYS: Duration = Duration::from_secs(5);

/// A gateway: phones talk to it in plain SIP, it finds proxies and other gateways in their pools
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: Args) -> ExitCode {
    dialtone_daemon::run("sip-gateway", &args.daemon, serve)
}

async fn serve(config: Config, context: Context) -> Result<(), Error> {
    metrics::describe();
    let data_dir = DataDir::open(&config.data_dir, "data_dir")?;
    let keys =
        Keys::load_or_create(&config.key_file).map_err(|error| Error::Usage(error.to_string()))?;
    let admin_listener = bind::tcp(config.admin(), "admin").await?;
    let phones = TcpConfig {
        max_message: config.limits.message,
        max_accepted: config.limits.connections,
        idle_timeout: Some(Duration::from_secs(config.limits.idle_s)),
        ..TcpConfig::default()
    };
    let sockets = Sockets::bind(config.core, config.edge, phones)?;
    let (core, edge) = (sockets.core_address, sockets.edge_address);
    let mut advertised = config.advertised.unwrap_or(edge);
    if advertised.port() == 0 {
        advertised.set_port(edge.port());
    }
    let handle = |name: &str| name.parse::<Handle>().map_err(Error::other);
    let pools = [Pool::Gateway.handle(), handle("sip-edge-udp")?, handle("sip-edge-tcp")?];
    let mut elements = Vec::new();
    for pool in &pools {
        elements.push(pe_id::load_or_create(data_dir.path(), pool).map_err(Error::other)?);
    }

    let registrars =
        config.registrars.iter().map(|text| parse_registrar(text)).collect::<Result<Vec<_>, _>>();
    let registrars = registrars.map_err(Error::other)?;
    let roles = (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony()));
    let secured = AgentConfig::telephony(core.ip(), registrars).secured(config.tls.as_ref());
    let secured = secured.map_err(|error| Error::Usage(error.to_string()))?;
    let agent = Agent::start(secured, roles).await.map_err(Error::other)?;
    let (pool_element, pool_user) = agent.handle();

    let mut settings = Settings::new(elements[0].0, listeners(advertised), core);
    settings.choice = config.choice;
    settings.wait = config.wait();
    settings.keep_alive = config.keep_alive();
    settings.bounds = config.limits.bounds();
    let gateway = Gateway::new(settings, keys.clone(), fastrand::Rng::new());
    let (new_keys, keys) = watch::channel(keys);
    let key_watch = tokio::spawn(watch_keys(config.key_file.clone(), new_keys));
    let sources = Sources {
        proxies: pool_user.watch(&Pool::Proxy.handle()).map_err(Error::other)?,
        gateways: pool_user.watch(&Pool::Gateway.handle()).map_err(Error::other)?,
        keys,
    };
    let (status_sender, mut status) = watch::channel(Status::default());
    let (stop, stopped) = driver::stop();
    let report = move |pool: Pool, element: u32, verdict: Verdict| match verdict {
        Verdict::Answers => pool_user.trust(&pool.handle(), PeId(element)),
        Verdict::Unreachable => pool_user.report_unreachable(&pool.handle(), PeId(element)),
    };
    let span = tracing::info_span!("gateway", name = config.name);
    let mut task = tokio::spawn(
        driver::run(gateway, sockets, sources, report, status_sender, stopped).instrument(span),
    );
    let publish = tokio::spawn(publish(status.clone()));
    let routes = routes(&config.name, status.clone());
    let addresses = [
        ("sip-udp", advertised.to_string()),
        ("sip-tcp", advertised.to_string()),
        ("sip-core", core.to_string()),
        ("asap", agent.local_addr().to_string()),
        ("admin", bind::local_addr(&admin_listener)?.to_string()),
    ];
    let http = tokio::spawn(admin::serve(admin_listener, routes, context.clone()));

    let mut registrations: Vec<Registration> = Vec::new();
    for (pool, element) in pools.into_iter().zip(elements) {
        let element = match pool.as_bytes() {
            b"sip-gateway" => ElementConfig::tcp(pool, element, core),
            b"sip-edge-udp" => ElementConfig::udp(pool, element, advertised),
            _ => ElementConfig::tcp(pool, element, advertised),
        };
        registrations.push(pool_element.register(element).map_err(Error::other)?);
    }
    let in_service = async {
        for registration in &mut registrations {
            registration.registered().await?;
        }
        Ok::<(), dialtone_pool_element::RegisterError>(())
    };
    let mut failed = None;
    tokio::select! {
        registered = in_service => match registered {
            Ok(()) => context.ready.in_service(&config.name, addresses)?,
            Err(error) => failed = Some(Error::Unavailable(format!("not taken into the pools: {error}"))),
        },
        () = context.shutdown.cancelled() => {}
        _ = &mut task => failed = Some(Error::Unavailable("the gateway's task ended".to_owned())),
    }
    if failed.is_none() {
        tokio::select! {
            () = context.shutdown.cancelled() => {}
            _ = &mut task => failed = Some(Error::Unavailable("the gateway's task ended".to_owned())),
        }
    }

    // De-register first, then drain: nobody chooses us any more, and what runs is finished.
    context.ready.out_of_service();
    let leaving: Vec<_> = registrations
        .into_iter()
        .map(|registration| tokio::spawn(registration.deregister()))
        .collect();
    for left in leaving {
        if !left.await.unwrap_or(false) {
            tracing::warn!("no registrar confirmed that this gateway left a pool");
        }
    }
    let drained =
        tokio::time::timeout(DRAIN, status.wait_for(|status| status.unfinished == 0)).await.is_ok();
    if drained {
        tracing::info!("all requests are finished");
    } else {
        tracing::warn!(unfinished = status.borrow().unfinished, "requests are abandoned");
    }
    stop.now();
    if !task.is_finished() {
        task.await.map_err(Error::other)?;
    }
    publish.abort();
    key_watch.abort();
    agent.stop().await;
    context.shutdown.cancel();
    http.await.map_err(Error::other)?;
    failed.map_or(Ok(()), Err)
}

fn listeners(advertised: SocketAddr) -> Vec<Listener> {
    // In the order of `driver::UDP` and `driver::TCP`.
    vec![
        Listener { transport: EdgeTransport::Udp, advertised },
        Listener { transport: EdgeTransport::Tcp, advertised },
    ]
}

fn routes(name: &str, status: watch::Receiver<Status>) -> Router {
    let name = name.to_owned();
    let body = move || {
        let status = *status.borrow();
        let body = serde_json::json!({ "name": name, "status": status });
        async move { Json(body) }
    };
    Router::new().route("/gateway", get(body))
}

async fn publish(mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let now = *status.borrow_and_update();
        metrics::publish(&now);
    }
}

/// Reads the key file again when it has changed. A file that cannot be read leaves the keys as they are.
async fn watch_keys(path: PathBuf, keys: watch::Sender<Keys>) {
    let mut seen = modified(&path).await;
    loop {
        tokio::time::sleep(KEYS).await;
        let now = modified(&path).await;
        if now == seen {
            continue;
        }
        match Keys::load(&path) {
            Ok(new) => {
                tracing::info!(path = %path.display(), "keys loaded again");
                keys.send_replace(new);
                seen = now;
            }
            Err(error) => tracing::warn!(%error, "keys not loaded again"),
        }
    }
}

async fn modified(path: &std::path::Path) -> Option<std::time::SystemTime> {
    tokio::fs::metadata(path).await.ok()?.modified().ok()
}
