//! `dialtone pool-user`: what is in a pool, asked over ASAP or read from a registrar's admin interface.
//!
//! Exit codes: 0 found, 1 unknown pool handle, 64 wrong usage, 69 no registrar reachable, 70 anything else.

mod admin;
mod conferences;
mod show;
mod time;
mod tls;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dialtone_asap_client::{Agent, AgentConfig, Registrar, parse_registrar, source_towards};
use dialtone_daemon::exit;
use dialtone_handlespace::Handle;
use dialtone_transport::model::Link;
use dialtone_transport::multicast::asap_group;

pub use tls::TlsArgs;

use crate::config::UsersConfig;
use crate::core::Users;
use crate::error::ResolveError;
use crate::pool_user::PoolUser;
use crate::view::{Freshness, View};

/// Exit code of a resolution of a handle that no registrar knows.
const UNKNOWN_POOL: u8 = 1;

/// Look into pools.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask a registrar once who is in a pool
    Resolve {
        /// The pool's name, for example sip-proxy
        handle: Handle,
        /// Show the order in which this key prefers the elements (rendezvous hashing)
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        asap: Asap,
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Print every change of a pool, a line each, until interrupted
    Watch {
        /// The pool's name, for example sip-proxy
        handle: Handle,
        #[command(flatten)]
        asap: Asap,
        /// Stop after so many lines
        #[arg(long)]
        count: Option<u64>,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// List the conferences that go on: rooms, where they are mixed, who is in them
    ///
    /// Asks a registrar's admin interface for the servers, and each server's own for its rooms. Servers that are not
    /// Dialtone's, or that keep their admin interface elsewhere, are listed as such.
    Conferences {
        #[command(flatten)]
        ask: conferences::Ask,
    },
    /// List the pools that a registrar knows, from its admin interface
    Pools {
        #[command(flatten)]
        admin: admin::Admin,
    },
    /// List the peers that a registrar knows, from its admin interface
    Peers {
        #[command(flatten)]
        admin: admin::Admin,
    },
}

/// How to reach registrars over ASAP.
#[derive(Debug, clap::Args)]
struct Asap {
    /// A registrar: [sctp:|tcp:]ADDRESS[:PORT], or multicast[:GROUP:PORT] to find those that announce themselves; may be
    /// repeated
    #[arg(
        long = "registrar",
        value_name = "ADDR",
        env = "DIALTONE_REGISTRARS",
        value_delimiter = ',',
        default_value = "127.0.0.1"
    )]
    registrars: Vec<String>,
    /// Use TCP instead of SCTP over UDP
    #[arg(long)]
    tcp: bool,
    /// Own address; by default the one from which the first registrar, or the multicast group, is reached. Multicast is
    /// heard there
    #[arg(long, value_name = "ADDR")]
    bind: Option<IpAddr>,
    /// How long to look for a registrar that answers, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    // Whoever wants to see more than answers, and what is in their way, asks for it.
    dialtone_daemon::logging::init("warn");
    let outcome = match args.command {
        Command::Resolve { handle, key, asap, json } => with_user(&asap, async |user| {
            resolve(&user, &asap, &handle, key.as_deref(), json).await
        }),
        Command::Watch { handle, asap, count, json } => with_user(&asap, async |user| {
            tokio::select! {
                end = watch(&user, &handle, count, json) => end,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        }),
        Command::Conferences { ask } => ask.print(),
        Command::Pools { admin } => admin.pools(),
        Command::Peers { admin } => admin.peers(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("{}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Why the command ends without success: exit code and what to say.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<io::Error> for Failure {
    /// Output that nobody reads ends the command silently, as a reader like `head` expects.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(0, ""),
            _ => Self::new(exit::SOFTWARE, error.to_string()),
        }
    }
}

fn with_user(
    asap: &Asap,
    command: impl AsyncFnOnce(PoolUser) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let registrars = asap.registrars()?;
    let bind = match (asap.bind, registrars.iter().find_map(|registrar| registrar.remote())) {
        (Some(ip), _) => ip,
        (None, Some(first)) => source_towards(first.addr)?,
        (None, None) if registrars.is_empty() => {
            return Err(Failure::new(exit::CONFIG, "no registrar given"));
        }
        // Multicast is heard where packets to its group would leave.
        (None, None) => group_of(&registrars)
            .and_then(|group| source_towards(group).ok())
            .filter(|source| !source.is_loopback())
            .ok_or_else(|| {
                let why = "no route says where multicast is heard: --registrar multicast needs --bind, an address of the \
                           interface to listen on";
                Failure::new(exit::CONFIG, why)
            })?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let limit = Duration::from_secs(asap.timeout);
        let users = Users::new(UsersConfig { resolve_limit: limit, ..UsersConfig::telephony() });
        let mut config = AgentConfig::telephony(bind, registrars);
        config.client.announced_link = if asap.tcp { Link::Tcp } else { Link::Sctp };
        let config = config
            .secured(asap.tls.config().as_ref())
            .map_err(|error| Failure::new(exit::CONFIG, error.to_string()))?;
        let agent = Agent::start(config, users)
            .await
            .map_err(|error| Failure::new(exit::SOFTWARE, error.to_string()))?;
        let outcome = command(agent.handle()).await;
        agent.stop().await;
        outcome
    })
}

impl Asap {
    fn registrars(&self) -> Result<Vec<Registrar>, Failure> {
        let named = self.registrars.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let registrars = named.map(|text| {
            let schemed = ["tcp:", "sctp:", "multicast"].iter().any(|it| text.starts_with(it));
            let text = if self.tcp && !schemed { format!("tcp:{text}") } else { text.to_owned() };
            parse_registrar(&text).map_err(|error| Failure::new(exit::CONFIG, error.to_string()))
        });
        registrars.collect()
    }
}

/// The multicast group that is to be listened to, if that is in IPv4: those of IPv6 do not say on which interface.
fn group_of(registrars: &[Registrar]) -> Option<SocketAddr> {
    let group = registrars.iter().find_map(|registrar| match registrar {
        Registrar::Multicast(group) => {
            Some(group.unwrap_or(asap_group(Ipv4Addr::UNSPECIFIED.into())))
        }
        Registrar::At(_) => None,
    });
    group.filter(SocketAddr::is_ipv4)
}

async fn resolve(
    user: &PoolUser,
    asap: &Asap,
    handle: &Handle,
    key: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let view = user.resolve(handle).await.map_err(|error| {
        let (code, asked) = match error {
            ResolveError::UnknownPool => (UNKNOWN_POOL, String::new()),
            ResolveError::NoRegistrar => (
                exit::UNAVAILABLE,
                format!(" within {} s (asked: {})", asap.timeout, asap.registrars.join(", ")),
            ),
            _ => (exit::SOFTWARE, String::new()),
        };
        Failure::new(code, format!("{handle}: {error}{asked}"))
    })?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", show::json(&view, key))?;
    } else {
        out.write_all(show::table(&view, key).as_bytes())?;
    }
    Ok(())
}

async fn watch(
    user: &PoolUser,
    handle: &Handle,
    count: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let stopped = || Failure::new(exit::SOFTWARE, "the ASAP agent has stopped");
    let mut views = user.watch(handle).map_err(|_| stopped())?;
    let mut shown: Option<Arc<View>> = None;
    let mut lines = 0;
    loop {
        let view = views.borrow_and_update().clone();
        // The registrar's order moves with every answer; that is no news.
        if view.freshness != Freshness::Unknown
            && shown.as_ref().is_none_or(|shown| show::differ(shown, &view))
        {
            let line = match json {
                true => show::json_line(&view, &time::now()).to_string(),
                false => show::line(shown.as_deref(), &view, &time::now()),
            };
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
            shown = Some(view);
            lines += 1;
            if count.is_some_and(|count| lines >= count) {
                return Ok(());
            }
        }
        views.changed().await.map_err(|_| stopped())?;
    }
}

/// Columns padded to their widest cell, two spaces apart.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The identifiers of both collections, each once, in order.
fn union<T: Ord>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> BTreeSet<T> {
    a.chain(b).collect()
}
