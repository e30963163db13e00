//! `dialtone pool-element`.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use dialtone_asap_client::{Registrar, parse_registrar};
use dialtone_daemon::{ProcessArgs, run_process};
use dialtone_pool_user::cli::TlsArgs;
use dialtone_transport::model::Link;
use dialtone_wire::Policy;

use crate::{
    child,
    options::{
        CheckKind, Service, parse_check_interval, parse_duration, parse_grace, parse_policy,
    },
    run::serve,
};

/// Put a server that knows no RSerPool into a pool
///
/// The server is registered while its check succeeds and taken out of the pool as soon
/// as the check fails. If a COMMAND is given, it is started, and ended when the pool
/// element ends: by SIGTERM after it was taken out of the pool; by SIGKILL if it has not
/// ended after --stop-grace, or if the pool element itself is killed. When the command
/// ends by itself, the pool element ends with its exit code.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Examples:
  dialtone pool-element --pool sip-proxy --transport tcp:192.0.2.10:5060 --registrar 192.0.2.1 --check sip
  dialtone pool-element --pool location-db --transport sqlite:/var/lib/dialtone/location.db --registrar 192.0.2.1
  dialtone pool-element --pool echo --transport udp:127.0.0.1:7 --registrar 127.0.0.1 --check tcp -- ./echo-server
  dialtone pool-element --pool media-relay --transport udp:192.0.2.31:2223 --registrar 192.0.2.1 --check ng --capacity 500
  dialtone pool-element --pool location-db --transport tcp:192.0.2.21:3306 --registrar 192.0.2.1 --check galera:/etc/dialtone/client.cnf \\
      --galera /var/lib/mysql --data-dir /var/lib/dialtone/location-db --resume -- mariadbd --user=mysql")]
pub struct Args {
    /// Pool handle
    #[arg(long, value_name = "HANDLE", required_unless_present = "keeper")]
    pub pool: Option<String>,
    /// Where the server is reached: tcp:HOST:PORT, udp:HOST:PORT or sqlite:PATH (made if it does not exist)
    #[arg(long, value_name = "TRANSPORT", required_unless_present = "keeper")]
    pub transport: Option<Service>,
    /// Registrar: ADDRESS or ADDRESS:PORT, PORT being that of SCTP over UDP, 9899 by default; or multicast, or
    /// multicast:GROUP:PORT, to find those that announce themselves; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = parse_sctp_registrar, required_unless_present = "keeper")]
    pub registrar: Vec<Registrar>,
    /// Member selection policy: rr, wrr:WEIGHT, rand, wrand:WEIGHT, prio:PRIORITY, lu:LOAD (such as 30%), rlu:LOAD,
    /// lud:LOAD:DEGRADATION or plu:LOAD:DEGRADATION
    #[arg(long, value_name = "POLICY", default_value = "rr", value_parser = parse_policy)]
    pub policy: Policy<'static>,
    /// How health is found out: tcp (accepts connections), sip (answers OPTIONS),
    /// ng (a media relay answers ping; ng:HOST:PORT if it does so elsewhere), sqlite:PATH (answers a query), mysql:FILE (MariaDB answers a query) or
    /// galera:FILE (the MariaDB node has a quorum and everything); FILE is a client
    /// file in my.cnf form, mode 0600 [default: tcp for a tcp transport, the file
    /// itself for a sqlite transport]
    #[arg(long, value_name = "CHECK", verbatim_doc_comment)]
    pub check: Option<CheckKind>,
    /// Calls that the server can carry, with --check ng: the pool's policy is lu, and the
    /// load, which is its calls as a fraction of this, is reported once a second
    #[arg(
        long,
        value_name = "CALLS",
        verbatim_doc_comment,
        requires = "check",
        conflicts_with = "policy",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub capacity: Option<u32>,
    /// Pause from check to check, 20ms to 400ms
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_check_interval)]
    pub check_interval: Duration,
    /// How long the command may take to end after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_grace)]
    pub stop_grace: Duration,
    /// Life of the registration without renewal
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_lifetime)]
    pub lifetime: Duration,
    /// Folder that keeps the element's identifier, so that it is the same after a restart
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Pool element identifier, such as 0x1234abcd [default: kept in --data-dir, or random]
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub pe_id: Option<u32>,
    /// Local address of the association with the registrar [default: the server's, or the one that routing chooses]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Name in the ready file [default: the pool handle]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Serve /healthz, /readyz, /metrics and /version by HTTP at this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// The command is a MariaDB node with Galera, and this its data folder. The node
    /// joins the members of the pool: --wsrep-cluster-address and, after a crash,
    /// --wsrep-start-position are added to the command. Without members it joins those
    /// that it remembers; without these it waits. Needs --data-dir
    #[arg(
        long,
        value_name = "FOLDER",
        verbatim_doc_comment,
        requires_all = ["data_dir", "command"]
    )]
    pub galera: Option<PathBuf>,
    /// Port of the group communication of all nodes
    #[arg(long, value_name = "PORT", default_value_t = 4567, requires = "galera")]
    pub galera_port: u16,
    /// Begin a cluster from this node, once; refused if the pool has members, or if
    /// another node may know more. To be given to exactly one node, by hand
    #[arg(long, verbatim_doc_comment, requires = "galera")]
    pub bootstrap: bool,
    /// Begin the cluster although another node may know more: what this one lacks is lost
    #[arg(long, requires = "bootstrap")]
    pub force: bool,
    /// After a full stop, go on without being told when a majority of the nodes that
    /// were the cluster at its end is there, from the one of them that came farthest
    #[arg(long, verbatim_doc_comment, requires = "galera")]
    pub resume: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Used by the pool element itself, between it and the command
    #[arg(long, hide = true, requires = "command")]
    pub keeper: bool,
    /// The server and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

pub(crate) fn parse_sctp_registrar(text: &str) -> Result<Registrar, String> {
    match parse_registrar(text) {
        Ok(Registrar::At(remote)) if remote.link != Link::Sctp => {
            Err("elements speak SCTP with their registrar; use ADDRESS[:PORT]".to_owned())
        }
        Ok(registrar) => Ok(registrar),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_secs(86_400)).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("{text} is out of range; use 2s to 86400s"))
    }
}

fn parse_id(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) => Err("an element identifier is never 0".to_owned()),
        Ok(id) => Ok(id),
        Err(_) => Err("use 1 to 4294967295, or 0x1 to 0xffffffff".to_owned()),
    }
}

/// Runs until SIGTERM, SIGINT or the end of the command.
pub fn run(args: Args) -> ExitCode {
    if args.keeper {
        return child::keep(&args.command);
    }
    let mut process = args.process.clone();
    process.grace = args.stop_grace + Duration::from_secs(10);
    let code = Arc::new(AtomicU8::new(0));
    let ended =
        run_process("pool-element", &process, |context| serve(args, context, Arc::clone(&code)));
    match code.load(Ordering::Relaxed) {
        0 => ended,
        code => ExitCode::from(code),
    }
}
