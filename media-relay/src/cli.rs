//! The daemon `dialtone media-relay`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;
use std::time::Duration;

use dialtone_daemon::{CancellationToken, Context, DaemonArgs, DataDir, Error, admin, bind};
use dialtone_handlespace::Handle;
use dialtone_pool_element::daemon::{Server, least_used, start_agent};
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, pe_id};
use socket2::SockRef;
use tokio::sync::watch;
use tracing::Instrument;

use crate::POOL;
use crate::audit::AuditLog;
use crate::config::{Config, Interface};
use crate::core::Relay;
use crate::driver::{self, Parts};
use crate::plane::Plane;
use crate::record::{Formats, Recorder};
use crate::sockets::SocketPool;

/// Room for requests that come while others are worked at.
const CONTROL_BUFFER: usize = 4 << 20;
/// What the process may take beyond the time that calls have to end.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time that a configuration may give calls to end.
const LONGEST_DRAIN: Duration = Duration::from_secs(86_400);

/// A media relay: forwards the media of calls, as proxies tell it by rtpengine's protocol NG
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: Args) -> ExitCode {
    let mut daemon = args.daemon;
    // The configuration says how long calls may go on.
    daemon.process.grace = LONGEST_DRAIN + GRACE;
    dialtone_daemon::run("media-relay", &daemon, serve)
}

async fn serve(config: Config, context: Context) -> Result<(), Error> {
    let data_dir = DataDir::open(&config.data_dir, "data_dir")?;
    let pool: Handle = POOL.parse().map_err(Error::other)?;
    let pe_id = pe_id::load_or_create(data_dir.path(), &pool).map_err(Error::other)?;
    let http = bind::tcp(config.admin_addr(), "admin").await?;
    let socket = bind::udp(config.control, "control").await?;
    // What goes beyond the system's limit is cut by the kernel.
    let _ = SockRef::from(&socket).set_recv_buffer_size(CONTROL_BUFFER);
    let control = socket.local_addr().map_err(Error::other)?;
    for (index, interface) in config.interface.iter().enumerate() {
        try_addresses(index, interface).await?;
    }
    let recorder = open_recorder(&config)?;
    let mut addresses = vec![
        ("ng", control.to_string()),
        ("media", media_address(&config)),
        ("admin", bind::local_addr(&http)?.to_string()),
    ];
    let http = tokio::spawn(admin::serve(http, axum::Router::new(), context.clone()));

    let plane_config = config.plane();
    let (plane, events) = Plane::start(&plane_config).map_err(Error::other)?;
    let roles = Elements::new(ElementsConfig::telephony());
    let address = config.control.ip();
    let agent = start_agent(&config.registrars, address, config.tls.as_ref(), roles).await?;
    addresses.extend(agent.as_ref().map(|agent| ("asap", agent.local_addr().to_string())));

    let epoch = driver::epoch();
    let locals = config.interface.iter().flat_map(Interface::addresses);
    let sockets = SocketPool::new(locals, &config.ports(), &mut fastrand::Rng::new());
    let settings = config.settings(epoch);
    let (load, loads) = watch::channel(0.0);
    let parts = Parts {
        silence: settings.media_timeout,
        relay: Relay::new(epoch.0, settings, sockets),
        socket,
        plane,
        events,
        workers: plane_config.workers,
        recorder,
        load,
    };
    let drain = CancellationToken::new();
    let span = tracing::info_span!("relay", name = config.name);
    let limit = Duration::from_secs(config.timeouts.drain);
    let task = tokio::spawn(driver::run(parts, drain.clone(), limit).instrument(span));
    let element = agent.as_ref().map(|agent| {
        let element = ElementConfig::udp(pool, pe_id, control).with_policy(least_used(0.0));
        (agent.handle(), element)
    });
    let name = &config.name;
    let server =
        Server { context: &context, name, addresses, element, load: Some(loads), task, drain };
    let served = server.run(std::future::ready(())).await;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    context.shutdown.cancel();
    http.await.map_err(Error::other)?;
    served
}

/// Where the first interface has media: address, first and last port.
fn media_address(config: &Config) -> String {
    let ip = config.interface.iter().flat_map(Interface::addresses).next();
    let ip = ip.map_or(String::new(), |ip| ip.to_string());
    format!("{ip}:{}-{}", config.ports.first, config.ports.last)
}

/// An address that is not this machine's would show with the first call only.
async fn try_addresses(index: usize, interface: &Interface) -> Result<(), Error> {
    for ip in interface.addresses() {
        let key = format!("interface[{index}].{}", if ip.is_ipv4() { "ipv4" } else { "ipv6" });
        bind::udp((ip, 0).into(), &key).await?;
    }
    Ok(())
}

fn open_recorder(config: &Config) -> Result<Option<(Recorder, Formats, AuditLog)>, Error> {
    let Some((recorder, formats, audit_log)) = config.recorder() else { return Ok(None) };
    let cannot = |what: &std::path::Path, key: &str, error: std::io::Error| {
        Error::Usage(format!("{} (key recording.{key}): {error}", what.display()))
    };
    let folder = recorder.folder.clone();
    // For nobody but the owner to read.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|e| cannot(&folder, "folder", e))?;
    let audit = AuditLog::open(&audit_log).map_err(|e| cannot(&audit_log, "audit_log", e))?;
    let recorder = Recorder::start(recorder).map_err(|e| cannot(&folder, "folder", e))?;
    Ok(Some((recorder, formats, audit)))
}
