//! The daemon `dialtone conference`.

use std::process::ExitCode;

use dialtone_daemon::bind::BindError;
use dialtone_daemon::{CancellationToken, Context, DaemonArgs, DataDir, Error, bind};
use dialtone_handlespace::Handle;
use dialtone_pool_element::daemon::{Server, least_used, start_agent};
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, pe_id};
use dialtone_sip::transport::{TcpConfig, TcpTransport, UdpConfig, UdpTransport};
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::config::Config;
use crate::core::Focus;
use crate::driver::{self, Parts};
use crate::media::Media;
use crate::{POOL, admin};

/// Messages that wait for the driver.
const QUEUE: usize = 4096;

/// A conference server: mixes the sound of all who call the same name
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: Args) -> ExitCode {
    dialtone_daemon::run("conference", &args.daemon, serve)
}

async fn serve(config: Config, context: Context) -> Result<(), Error> {
    let data_dir = DataDir::open(&config.data_dir, "data_dir")?;
    let pool: Handle = POOL.parse().map_err(Error::other)?;
    let pe_id = pe_id::load_or_create(data_dir.path(), &pool).map_err(Error::other)?;
    let http = bind::tcp(config.admin_addr(), "admin").await?;
    let media_config = config.media();
    // An address that is not this machine's would show with the first call only.
    drop(bind::udp((media_config.address, 0).into(), "media.address").await?);

    let (sender, transport_events) = mpsc::channel(QUEUE);
    let udp = match config.udp {
        Some(addr) => Some(
            UdpTransport::bind(addr, 0, UdpConfig::default(), sender.clone())
                .map_err(|source| BindError::new(addr, "UDP", "udp", source))?,
        ),
        None => None,
    };
    let tcp = TcpTransport::new(TcpConfig { max_queued: 16 << 20, ..TcpConfig::default() }, sender);
    let core = tcp
        .listen(config.core, 0)
        .map_err(|source| BindError::new(config.core, "TCP", "core", source))?;
    let udp_address = udp.as_ref().map(UdpTransport::local_addr);
    let (first, last) = (media_config.ports.start(), media_config.ports.end());
    let mut addresses = vec![
        ("sip-core", core.to_string()),
        ("media", format!("{}:{first}-{last}", media_config.address)),
        ("admin", bind::local_addr(&http)?.to_string()),
    ];
    addresses.extend(udp_address.map(|address| ("sip-udp", address.to_string())));

    let (question, questions) = mpsc::channel(16);
    let routes = admin::routes(question);
    let http = tokio::spawn(dialtone_daemon::admin::serve(http, routes, context.clone()));
    let roles = Elements::new(ElementsConfig::telephony());
    let agent =
        start_agent(&config.registrars, config.core.ip(), config.tls.as_ref(), roles).await?;
    addresses.extend(agent.as_ref().map(|agent| ("asap", agent.local_addr().to_string())));

    let (media_sender, media_events) = mpsc::channel(QUEUE);
    let media = Media::start(&media_config, &media_sender)
        .map_err(|error| Error::Unavailable(format!("media threads: {error}")))?;
    let (load, loads) = watch::channel(0.0);
    let parts = Parts {
        focus: Focus::new(config.settings(core, udp_address), fastrand::Rng::new()),
        tcp,
        address: core.ip(),
        udp,
        transport_events,
        media,
        media_events,
        questions,
        load,
    };
    let drain = CancellationToken::new();
    let span = tracing::info_span!("conference", name = config.name);
    let task = tokio::spawn(driver::run(parts, drain.clone()).instrument(span));
    let element = agent.as_ref().map(|agent| {
        let element = ElementConfig::tcp(pool, pe_id, core).with_policy(least_used(0.0));
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
