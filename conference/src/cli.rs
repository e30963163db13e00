//! The daemon `dialtone conference`.

use std::process::ExitCode;

use dialtone_asap_client::{Agent, AgentConfig, parse_registrar};
use dialtone_daemon::bind::BindError;
use dialtone_daemon::{CancellationToken, Context, DaemonArgs, DataDir, Error, bind};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, Registration, pe_id};
use dialtone_sip::transport::{TcpConfig, TcpTransport, UdpConfig, UdpTransport};
use dialtone_wire::Policy;
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
    let agent = start_agent(&config).await?;
    addresses.extend(agent.as_ref().map(|agent| ("asap", agent.local_addr().to_string())));

    let (media_sender, media_events) = mpsc::channel(QUEUE);
    let media = Media::start(&media_config, &media_sender)
        .map_err(|error| Error::Unavailable(format!("media threads: {error}")))?;
    let (load, mut load_changes) = watch::channel(0.0);
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
    let mut driver = tokio::spawn(driver::run(parts, drain.clone()).instrument(span));

    let mut registration: Option<Registration> = None;
    let mut ended = None;
    let in_service = async {
        if let Some(agent) = &agent {
            let element = ElementConfig::tcp(pool, pe_id, core).with_policy(policy(0.0));
            let mut element = agent.handle().register(element).map_err(Error::other)?;
            let registered = element.registered().await;
            registration = Some(element);
            registered.map_err(Error::other)?;
        }
        context.ready.in_service(&config.name, addresses).map_err(Error::from)
    };
    tokio::select! {
        result = in_service => result?,
        () = context.shutdown.cancelled() => {}
        result = &mut driver => ended = Some(result),
    }
    while ended.is_none() {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            result = &mut driver => ended = Some(result),
            Ok(()) = load_changes.changed() => {
                let load = *load_changes.borrow_and_update();
                if let Some(registration) = &registration {
                    registration.update_policy(policy(load)).map_err(Error::other)?;
                }
            }
        }
    }
    // Out of the pool first, then everybody is hung up.
    context.ready.out_of_service();
    if let Some(registration) = registration {
        registration.deregister().await;
    }
    drain.cancel();
    let asked = ended.is_none();
    match ended {
        Some(result) => result,
        None => driver.await,
    }
    .map_err(Error::other)?;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    context.shutdown.cancel();
    http.await.map_err(Error::other)?;
    if asked {
        Ok(())
    } else {
        Err(Error::Unavailable("a part of the server ended by itself".to_owned()))
    }
}

/// Least used (RFC 5356 section 5.1), with a load from 0 to 1.
fn policy(load: f64) -> Policy<'static> {
    Policy::LeastUsed { load: (load * f64::from(u32::MAX)) as u32 }
}

type ServerAgent = Agent<Elements>;

async fn start_agent(config: &Config) -> Result<Option<ServerAgent>, Error> {
    if config.registrars.is_empty() {
        return Ok(None);
    }
    let registrars =
        config.registrars.iter().map(|text| parse_registrar(text)).collect::<Result<Vec<_>, _>>();
    let registrars = registrars.map_err(Error::other)?;
    let roles = Elements::new(ElementsConfig::telephony());
    let secured = AgentConfig::telephony(config.core.ip(), registrars).secured(config.tls.as_ref());
    let secured = secured.map_err(|error| Error::Usage(error.to_string()))?;
    let agent = Agent::start(secured, roles).await;
    agent.map(Some).map_err(|error| Error::Unavailable(error.to_string()))
}
