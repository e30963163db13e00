//! `dialtone galera-arbitrator`: garbd, the voter without data, as a supervised process that finds the nodes in the pool.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use dialtone_asap_client::{Agent, AgentConfig, Registrar};
use dialtone_daemon::{Context, DataDir, Error, ProcessArgs, run_process};
use dialtone_handlespace::Handle;
use dialtone_pool_user::cli::TlsArgs;
use dialtone_pool_user::{Freshness, Users, UsersConfig, View};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    GROUP_PORT, LOOK, REGISTRAR, addresses, group_address,
    node::{TURN, TURN_MAX},
    peers::Peers,
    waiting_pool,
};
use crate::{
    child::Server,
    cli::parse_sctp_registrar,
    run::{no_address, routed_to},
};

/// Pause before garbd is started again; doubles while it ends soon after its start.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Who ran for so long was not started in vain.
const RAN: Duration = Duration::from_secs(30);

/// How long garbd runs before it counts as running.
const SETTLED: Duration = Duration::from_secs(1);

/// How long garbd may take to leave its group.
const STOP: Duration = Duration::from_secs(3);

/// How long the end may wait for the association with the registrar to end.
const LEAVE: Duration = Duration::from_secs(1);

/// The voter without data that two MariaDB nodes need
///
/// Runs garbd (Debian's package galera-arbitrator-4) and starts it again when it ends.
/// It joins the nodes in the pool; without any it joins those that it remembers. One for
/// each pair of nodes, on a third machine; three nodes need none.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Registrar: ADDRESS or ADDRESS:PORT, PORT being that of SCTP over UDP, 9899 by default; or multicast, or
    /// multicast:GROUP:PORT, to find those that announce themselves; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = parse_sctp_registrar, required = true)]
    pub registrar: Vec<Registrar>,
    /// Pool of the database nodes
    #[arg(long, value_name = "HANDLE", default_value = "location-db")]
    pub pool: Handle,
    /// Name of the cluster, wsrep_cluster_name of the nodes
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Folder that keeps the nodes seen last
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Own address in the group [default: the one from which the first registrar is reached]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Port of the group communication of all nodes
    #[arg(long, value_name = "PORT", default_value_t = GROUP_PORT)]
    pub galera_port: u16,
    /// An option of the group, as in wsrep_provider_options, the same as the nodes'; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub option: Vec<String>,
    /// The program
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/garbd")]
    pub garbd: PathBuf,
    /// Name in the ready file
    #[arg(long, value_name = "NAME", default_value = "galera-arbitrator")]
    pub name: String,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: Args) -> ExitCode {
    let process = args.process.clone();
    run_process("galera-arbitrator", &process, |context| serve(args, context))
}

async fn serve(args: Args, context: Context) -> Result<(), Error> {
    if !args.garbd.exists() {
        return Err(Error::Unavailable(format!(
            "{} is not there; install Debian's package galera-arbitrator-4",
            args.garbd.display()
        )));
    }
    let data_dir = DataDir::open(&args.data_dir, "--data-dir")?;
    let registrar = args.registrar.iter().find_map(|registrar| registrar.remote());
    let local = match (args.address, registrar) {
        (Some(address), _) => address,
        (None, Some(registrar)) => routed_to(registrar.addr)?,
        (None, None) => return Err(no_address()),
    };
    let secured =
        AgentConfig::telephony(local, args.registrar.clone()).secured(args.tls.config().as_ref());
    let agent = Agent::start(
        secured.map_err(|error| Error::Usage(error.to_string()))?,
        Users::new(UsersConfig::telephony()),
    )
    .await
    .map_err(|error| Error::Unavailable(error.to_string()))?;
    let user = agent.handle();
    let waiting = waiting_pool(&args.pool)
        .ok_or_else(|| Error::Usage(format!("--pool {}: too long", args.pool)))?;
    let mut arbitrator = Arbitrator {
        members: user.watch(&args.pool).map_err(Error::other)?,
        waiting: user.watch(&waiting).map_err(Error::other)?,
        peers: Peers::load(data_dir.path()).map_err(Error::other)?,
        local,
        args,
        context: context.clone(),
    };
    let ended = arbitrator.run().await;
    context.ready.out_of_service();
    let _ = timeout(LEAVE, agent.stop()).await;
    ended
}

struct Arbitrator {
    args: Args,
    context: Context,
    local: IpAddr,
    members: watch::Receiver<Arc<View>>,
    waiting: watch::Receiver<Arc<View>>,
    peers: Peers,
}

impl Arbitrator {
    async fn run(&mut self) -> Result<(), Error> {
        let shutdown = self.context.shutdown.clone();
        let mut pause = PAUSE;
        loop {
            let told = tokio::select! {
                told = self.whom_to_join() => told?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let address = group_address(&told, self.args.galera_port);
            tracing::info!(%address, "joining");
            let mut garbd = Server::start(&self.command(&address))
                .map_err(|error| Error::Unavailable(format!("cannot start garbd: {error}")))?;
            let started = clock();
            let reason = tokio::select! {
                code = garbd.exited() => format!("garbd ended with code {code}"),
                reason = self.watch(&told) => reason?,
                () = shutdown.cancelled() => {
                    garbd.stop(STOP).await;
                    return Ok(());
                }
            };
            garbd.stop(STOP).await;
            self.context.ready.out_of_service();
            let in_vain = clock().duration_since(started) < RAN;
            pause = if in_vain { (pause * 2).min(PAUSE_MAX) } else { PAUSE };
            tracing::warn!(reason, pause_ms = pause.as_millis() as u64, "starting it again");
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn command(&self, address: &str) -> Vec<OsString> {
        let listen = match self.local {
            IpAddr::V4(ip) => format!("tcp://{ip}:{}", self.args.galera_port),
            IpAddr::V6(ip) => format!("tcp://[{ip}]:{}", self.args.galera_port),
        };
        let mut options = vec![format!("gmcast.listen_addr={listen}")];
        options.extend(self.args.option.iter().cloned());
        vec![
            self.args.garbd.clone().into(),
            "--group".into(),
            self.args.cluster.clone().into(),
            "--address".into(),
            address.into(),
            // Where it notes its last component, as nodes do in their data folders.
            "--workdir".into(),
            self.args.data_dir.clone().into(),
            "--options".into(),
            options.join(";").into(),
        ]
    }

    /// The members of the pool and those that are remembered, as soon as there are any.
    async fn whom_to_join(&mut self) -> Result<Vec<SocketAddr>, Error> {
        let began = clock();
        let mut said = false;
        loop {
            let unknown = self.members.borrow().freshness == Freshness::Unknown;
            let living = self.remember();
            let waited = clock().duration_since(began);
            let asked = !unknown || waited >= REGISTRAR;
            // Whoever joins at the same time as a node disturbs it.
            let disturbs = !living.is_empty() && !self.waiting.borrow().members.is_empty();
            let has_turn = waited >= TURN_MAX || (waited >= TURN && !disturbs);
            if asked && has_turn && !self.peers.known().is_empty() {
                return Ok(self.peers.known().to_vec());
            }
            if asked && !said {
                said = true;
                tracing::info!(pool = %self.args.pool, "waiting for database nodes in the pool");
            }
            tokio::select! {
                changed = self.members.changed() => changed.map_err(Error::other)?,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// While garbd runs: remembers the nodes; returns why it has to join anew.
    async fn watch(&mut self, told: &[SocketAddr]) -> Result<String, Error> {
        let started = clock();
        let mut is_ready = false;
        loop {
            let living = self.remember();
            let ran = clock().duration_since(started);
            if !is_ready && ran >= SETTLED {
                is_ready = true;
                let address = SocketAddr::new(self.local, self.args.galera_port);
                self.context
                    .ready
                    .in_service(&self.args.name, [("galera", address.to_string())])?;
            }
            if ran >= SETTLED
                && !living.is_empty()
                && !living.iter().any(|node| told.contains(node))
            {
                return Ok("it does not know those who are in the pool now".to_owned());
            }
            tokio::select! {
                changed = self.members.changed() => changed.map_err(Error::other)?,
                () = sleep(LOOK) => {}
            }
        }
    }

    fn remember(&mut self) -> Vec<SocketAddr> {
        let living = addresses(&self.members.borrow_and_update(), None);
        if let Err(error) = self.peers.see(&living) {
            tracing::warn!(%error, "cannot remember the members of the pool");
        }
        living
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
fn clock() -> Instant {
    Instant::now()
}
