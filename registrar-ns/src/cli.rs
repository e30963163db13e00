//! The daemon `dialtone registrar-ns`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use dialtone_daemon::bind::BindError;
use dialtone_daemon::{Context, DaemonArgs, DataDir, Error, admin as http, bind};
use dialtone_transport::multicast::Announcer;
use dialtone_transport::{Endpoint, EndpointConfig, Protocol};
use nix::sys::resource::{Resource, getrlimit};
use tracing::Instrument;

use crate::admin::{AdminState, routes};
use crate::core::Registrar;
use crate::driver::{Group, View};
use crate::{Settings, announce, driver};

/// File descriptors for everything but ASAP connections: sockets, files, the admin interface.
const SPARE_DESCRIPTORS: u64 = 64;

/// A registrar of the name service: keeps the pools, watches their elements, shares all with its peers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: Args) -> ExitCode {
    dialtone_daemon::run("registrar-ns", &args.daemon, serve)
}

async fn serve(settings: Settings, context: Context) -> Result<(), Error> {
    let _data_dir =
        settings.data_dir.as_deref().map(|path| DataDir::open(path, "data_dir")).transpose()?;
    let udp = SocketAddr::new(settings.address, settings.port);
    let tcp =
        (settings.tcp_port != 0).then(|| SocketAddr::new(settings.address, settings.tcp_port));
    let admin = bind::tcp(settings.admin_addr(), "admin").await?;
    // The endpoint does not say which of its sockets failed; each is tried by itself first.
    match &settings.tls {
        None => drop(bind::udp(udp, "port").await?),
        Some(tls) => {
            drop(bind::tcp(tls.asap(settings.address), "tls.port").await?);
            drop(bind::tcp(tls.enrp(settings.address), "tls.enrp_port").await?);
        }
    }
    if let Some(tcp) = tcp {
        drop(bind::tcp(tcp, "tcp_port").await?);
    }
    let mut config = settings.endpoint_config().map_err(|error| Error::Usage(error.to_string()))?;
    fit_descriptors(&mut config);
    let (endpoint, events) = Endpoint::bind(config)
        .await
        .map_err(|source| BindError::new(udp, "UDP", "port", source))?;
    let asap = endpoint.tls_addr(Protocol::Asap).unwrap_or(endpoint.local_addr());
    let enrp = endpoint.tls_addr(Protocol::Enrp).unwrap_or(endpoint.local_addr());
    let mut addresses = vec![
        ("asap", asap.to_string()),
        ("enrp", enrp.to_string()),
        ("admin", bind::local_addr(&admin)?.to_string()),
    ];
    addresses.extend(endpoint.tcp_addr().map(|addr| ("asap-tcp", addr.to_string())));

    let bind =
        |group, key| move |source| Error::from(BindError::new(group, "UDP multicast", key, source));
    let announcer = settings.announce_group().map(|group| {
        let announcer = Announcer::bind(group, settings.address, driver::HOPS);
        announcer.map_err(bind(group, "announce"))
    });
    let announcer = announcer.transpose()?;
    let group = settings
        .discover_group()
        .map(|group| Group::join(group, settings.address).map_err(bind(group, "discover")));
    let group = group.transpose()?;

    let mut rng = fastrand::Rng::new();
    let id = settings.identifier(&mut rng);
    let started = now();
    let core = Registrar::new(started, settings.core_config(), id, rng);
    let (viewed, view) = View::new(&core, started);
    let mut snapshots = view.snapshots.clone();
    let state = AdminState { name: settings.name.clone(), address: enrp, view };
    let span = tracing::info_span!("registrar", name = settings.name, %id);
    let shutdown = context.shutdown.clone();
    let driver =
        tokio::spawn(driver::run(core, endpoint, events, group, viewed, shutdown).instrument(span));
    let http = tokio::spawn(http::serve(admin, routes(state), context.clone()));

    let announcer = announcer.map(|announcer| {
        let (snapshots, shutdown) = (snapshots.clone(), context.shutdown.clone());
        // In secure mode all that is announced is TLS.
        let (sctp, tcp) =
            if settings.tls.is_some() { (None, Some(asap)) } else { (Some(asap), tcp) };
        tokio::spawn(announce::run(announcer, sctp, tcp, snapshots, shutdown))
    });

    if snapshots.wait_for(|snapshot| snapshot.in_service).await.is_ok() {
        context.ready.in_service(&settings.name, addresses)?;
    }
    let ended = driver.await.map_err(Error::other);
    context.ready.out_of_service();
    let asked = context.shutdown.is_cancelled();
    context.shutdown.cancel();
    http.await.map_err(Error::other)?;
    if let Some(announcer) = announcer {
        announcer.await.map_err(Error::other)?;
    }
    match ended {
        Ok(()) if !asked => Err(Error::Unavailable("the transport endpoint ended".to_owned())),
        other => other,
    }
}

/// Connections beyond the number are refused one by one; without descriptors nobody could be told anything.
fn fit_descriptors(config: &mut EndpointConfig) {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let room = usize::try_from(soft.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(usize::MAX);
    if room < config.max_connections {
        tracing::warn!(
            "the limit of {soft} file descriptors leaves room for {room} TCP connections, not {}: raise it \
             (LimitNOFILE= of systemd, ulimit -n), or lower limits.connections",
            config.max_connections
        );
        config.max_connections = room;
    }
}

#[expect(clippy::disallowed_methods, reason = "the core is told when it starts")]
fn now() -> Instant {
    Instant::now()
}
