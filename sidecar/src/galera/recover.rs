//! `dialtone galera-recover`: what the nodes that wait say, which of them came farthest, and the order to begin there.

use std::{fs, path::PathBuf, process::ExitCode};

use dialtone_asap_client::{Agent, AgentConfig, Registrar};
use dialtone_daemon::Error;
use dialtone_handlespace::Handle;
use dialtone_pool_user::cli::TlsArgs;
use dialtone_pool_user::{PoolUser, ResolveError, Users, UsersConfig, View};

use super::{
    addresses,
    node::{FORCE, ORDER_FILE},
    notices,
    standstill::{most_advanced, successor},
    waiting_pool,
};
use crate::{cli::parse_sctp_registrar, run::routed_to};

/// Bring a stopped Galera cluster back
///
/// With --registrar: asks which nodes wait, how far each came, and says where to begin.
/// With --data-dir, on the machine of that node: orders the node to begin the cluster;
/// its pool element carries that out within a second, once, unless the cluster lives.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Registrar: ADDRESS or ADDRESS:PORT, PORT being that of SCTP over UDP, 9899 by default; or multicast, or
    /// multicast:GROUP:PORT, to find those that announce themselves; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = parse_sctp_registrar, env = "DIALTONE_REGISTRARS", value_delimiter = ',', required_unless_present = "data_dir")]
    pub registrar: Vec<Registrar>,
    /// Pool of the database nodes
    #[arg(long, value_name = "HANDLE", default_value = "location-db")]
    pub pool: Handle,
    /// The pool element's --data-dir: order its node to begin the cluster
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Even if other nodes may know more, which is then lost. After a crash of all nodes Galera knows of none which is
    /// the last, so this is needed then
    #[arg(long, requires = "data_dir")]
    pub force: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let result = match &args.data_dir {
        Some(folder) => order(folder.join(ORDER_FILE), args.force),
        None => ask(&args),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn order(file: PathBuf, force: bool) -> Result<String, Error> {
    fs::write(&file, if force { FORCE } else { "" })
        .map_err(|error| Error::Unavailable(format!("{}: {error}", file.display())))?;
    Ok("ordered; the log of the pool element says whether the node begins, or why not".to_owned())
}

fn ask(args: &Args) -> Result<String, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::other)?;
    runtime.block_on(async {
        let registrar = args.registrar.iter().find_map(|registrar| registrar.remote());
        let Some(registrar) = registrar else {
            return Err(Error::Usage("--registrar ADDRESS is needed".to_owned()));
        };
        let config = AgentConfig::telephony(routed_to(registrar.addr)?, args.registrar.clone())
            .secured(args.tls.config().as_ref())
            .map_err(|error| Error::Usage(error.to_string()))?;
        let agent = Agent::start(config, Users::new(UsersConfig::telephony()))
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        let user = agent.handle();
        let waiting = waiting_pool(&args.pool)
            .ok_or_else(|| Error::Usage(format!("--pool {}: too long", args.pool)))?;
        let members = resolve(&user, &args.pool).await?;
        let waiting = resolve(&user, &waiting).await?;
        Ok(report(&members, &waiting))
    })
}

async fn resolve(user: &PoolUser, pool: &Handle) -> Result<View, Error> {
    match user.resolve(pool).await {
        Ok(view) => Ok((*view).clone()),
        Err(ResolveError::UnknownPool) => Ok(View::unknown(pool.clone())),
        Err(error) => Err(Error::Unavailable(error.to_string())),
    }
}

fn report(members: &View, waiting: &View) -> String {
    let notices = notices(waiting);
    let mut text = String::new();
    for (id, notice) in &notices {
        let position = notice.position.as_ref().map_or("no data".to_owned(), ToString::to_string);
        let component =
            notice.component.as_ref().map_or("ended in order".to_owned(), |component| {
                let vote = notice.vote.map(|vote| format!(", for {:#010x}", vote.0));
                let (id, count) = (&component.id, component.members.len());
                format!("last component {id} of {count}{}", vote.unwrap_or_default())
            });
        text += &format!("{:#010x}  {}  {position}  {component}\n", id.0, notice.address);
    }
    let living = addresses(members, None);
    if !living.is_empty() {
        let living: Vec<String> = living.iter().map(ToString::to_string).collect();
        return text + &format!("in service: {}. Whoever waits joins by itself.", living.join(" "));
    }
    match (most_advanced(&notices), successor(&notices)) {
        _ if notices.is_empty() => {
            text + "no node is there, neither in service nor waiting: start them"
        }
        (Some(best), successor) => {
            let address =
                notices.get(&best).map(|notice| notice.address.to_string()).unwrap_or_default();
            let majority = if successor.is_some() {
                "A majority of the last cluster is here: nothing is lost, and nodes with --resume go on by themselves."
            } else {
                "No majority of the last cluster is here: a node that is missing may know more. Start it if you can; what only it knows is lost otherwise."
            };
            text + &format!(
                "{majority}\nBegin at {address}, which came farthest: there, dialtone galera-recover --data-dir FOLDER --force"
            )
        }
        (None, _) => {
            text + "no node can be named: none has data, or they are of different clusters"
        }
    }
}
