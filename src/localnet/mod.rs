//! `dialtone localnet`: the whole system on this machine, each part a process of its own.
//!
//! One thread starts, watches and stops the processes; one asks the registrars for their pools; one hears signals.

mod table;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use clap::value_parser;
use dialtone_daemon::{
    CancellationToken, DataDir, Error, bind::BindError, data_dir::write_atomically, exit,
    parent::die_with_parent, signals::shutdown_token,
};
use dialtone_location::cli::{StoreAddress, StoreArgs};
use table::Screen;
use watch::{Seen, State, Watch};

use crate::{
    launcher::{self, Ended, Launcher, Layout, Life, Location, Pools, Role, Slice, clock},
    user::starter::{self, Starter},
};

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often registrars are asked.
const ASK: Duration = Duration::from_millis(200);

/// How long all may take to be in service.
const START: Duration = Duration::from_secs(30);

/// The same with database nodes, which copy everything from each other at first.
const START_DATABASES: Duration = Duration::from_secs(120);

/// Pause before a dead process is started again; doubles while it dies soon after its start.
const RESTART: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(10);

/// Run the whole system on this machine: registrars, gateways, proxies, media relays, conferences, database
///
/// Starts each as a process of its own, waits until all are in service, shows a table
/// and keeps it true until Ctrl-C, which stops everything in order. Kill what you like
/// meanwhile. Bindings of phones are kept in the data folder and survive a restart of
/// localnet. Nothing but loopback addresses is used, unless --sip-address says otherwise.
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Loopback slice for everything but the phones' side, 127.X.Y.0 [default: the first free one from 127.64.0.0]
    #[arg(long, value_name = "ADDRESS", value_parser = |text: &str| Slice::parse(text).map_err(|error| error.to_string()))]
    pub base_address: Option<Ipv4Addr>,
    /// SIP port of the first gateway, UDP and TCP; gateway N has it plus 10(N-1)
    #[arg(long, value_name = "PORT", default_value_t = 5060, value_parser = value_parser!(u16).range(1..))]
    pub base_port: u16,
    /// SIP address of the gateways; name one of this machine's own to serve phones on a LAN
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub sip_address: IpAddr,
    /// Folder for bindings, keys, configurations and logs
    #[arg(long, value_name = "FOLDER", default_value = "dialtone-data")]
    pub data_dir: PathBuf,
    /// Domain of the users; localhost and the gateways' address are served too
    #[arg(long, value_name = "DOMAIN", default_value = "dialtone.test", value_parser = parse_domain)]
    pub domain: String,
    /// Number of registrars, 1 to 19
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=19))]
    pub registrars: u8,
    /// Number of gateways, 1 to 19
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=19))]
    pub gateways: u8,
    /// Number of proxies, 1 to 19
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=19))]
    pub proxies: u8,
    /// Number of media relays, 0 to 19; 0: phones send media to each other
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(0..=19))]
    pub relays: u8,
    /// Number of conference servers, 0 to 10; 0: nobody answers calls to conf-NAME
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(0..=10))]
    pub conferences: u8,
    /// Users need a password to register and to call; some are made. Old phones (baresip 1.0) give up when
    /// they see SHA-256: for those, --auth=MD5
    #[arg(long, value_name = "ALGORITHMS", num_args = 0..=1, require_equals = true, default_missing_value = "SHA-256,MD5", value_parser = Auth::parse)]
    pub auth: Option<Auth>,
    /// Where bindings are kept: in a file, or in MariaDB nodes with Galera, from Debian's packages
    #[arg(long, value_name = "KIND", value_enum, default_value_t = LocationKind::Sqlite)]
    pub location: LocationKind,
    /// Number of database nodes with --location galera, 1 to 5; two get an arbitrator
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u8).range(1..=5))]
    pub databases: u8,
    /// Start again what died
    #[arg(long)]
    pub restart: bool,
    /// The name service in secure mode: TLS between registrars, elements and users, with certificates made on the fly
    #[arg(long)]
    pub secure: bool,
    /// Write this JSON file when everything is in service: domain, and each process's name, role, pid and addresses
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// End at once when the process that started this one ends (PID: only if that is the parent)
    #[arg(long, value_name = "PID", num_args = 0..=1, require_equals = true, default_missing_value = "0", hide = true)]
    pub die_with_parent: Option<u32>,
}

/// The algorithms of digest authentication, the best first.
#[derive(Clone, Debug)]
pub struct Auth(Vec<String>);

impl Auth {
    fn parse(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(str::to_uppercase).collect();
        match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["SHA-256", "MD5"] | ["MD5", "SHA-256"] | ["SHA-256"] | ["MD5"] => Ok(Self(names)),
            _ => Err("use SHA-256,MD5 or one of them".to_owned()),
        }
    }
}

/// As `--location` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LocationKind {
    Galera,
    Sqlite,
}

impl Args {
    fn location(&self) -> Location {
        match self.location {
            LocationKind::Galera => Location::Galera { nodes: self.databases },
            LocationKind::Sqlite => Location::Sqlite,
        }
    }
}

fn parse_domain(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if text.is_empty()
        || text.len() > 253
        || !text.chars().all(plain)
        || text.starts_with(['-', '.'])
    {
        return Err(format!("{text:?} is no domain name; use letters, digits, hyphens and dots"));
    }
    Ok(text.to_ascii_lowercase())
}

/// Runs until SIGINT or SIGTERM.
pub fn run(args: Args) -> ExitCode {
    if let Some(parent) = args.die_with_parent
        && !die_with_parent((parent != 0).then_some(parent))
    {
        return ExitCode::from(exit::UNAVAILABLE);
    }
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// Why localnet gave up.
struct Failure {
    text: String,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { text: error.to_string(), code: error.exit_code() }
    }
}

impl From<launcher::Error> for Failure {
    fn from(error: launcher::Error) -> Self {
        let code = match &error {
            launcher::Error::Certificates(_)
            | launcher::Error::File { .. }
            | launcher::Error::Keys(_) => exit::CANT_CREATE,
            launcher::Error::Ended { ended: Ended::Code(code), .. } => {
                u8::try_from(*code).unwrap_or(exit::UNAVAILABLE)
            }
            _ => exit::UNAVAILABLE,
        };
        Self { text: error.to_string(), code }
    }
}

fn serve(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.ready_file {
        let _ = fs::remove_file(path);
    }
    check_edges(args)?;
    let shutdown = hear_signals()?;
    // Held until the end: a second localnet on the same folder is refused.
    let folder = DataDir::open(&args.data_dir, "--data-dir").map_err(Error::from)?;
    let slice = match args.base_address {
        Some(base) => Slice::claim(base),
        None => Slice::first_free(),
    };
    let layout = Layout {
        auth: args.auth.clone().map(|auth| auth.0),
        conferences: args.conferences,
        domain: args.domain.clone(),
        edge_address: args.sip_address,
        edge_port: Some(args.base_port),
        location: args.location(),
        registrars: args.registrars,
        relays: args.relays,
        secure: args.secure,
        ..Layout::default()
    };
    // The running program, whatever happens to its file meanwhile.
    let launcher = Launcher::new(
        "/proc/self/exe",
        folder.path(),
        slice.map_err(launcher::Error::from)?,
        layout,
    )?;
    let mut localnet = Localnet {
        args,
        launcher,
        watch: Watch::default(),
        views: Views::default(),
        asked: BTreeSet::new(),
    };
    let ended = localnet.run(&shutdown);
    if let Some(path) = &args.ready_file {
        let _ = fs::remove_file(path);
    }
    if ended.is_ok() {
        println!("stopping");
        let killed = localnet.launcher.stop_all();
        match killed.as_slice() {
            [] => println!("everything has stopped in order"),
            names => println!("everything has stopped; had to be killed: {}", names.join(", ")),
        }
    }
    ended
}

/// Refuses addresses that gateways could not listen at, naming the option that chose them.
fn check_edges(args: &Args) -> Result<(), Error> {
    if args.sip_address.is_unspecified() || args.sip_address.is_multicast() {
        let text = format!(
            "--sip-address {}: name the one address that phones shall use",
            args.sip_address
        );
        return Err(Error::Usage(text));
    }
    for n in 0..u16::from(args.gateways) {
        let Some(port) = args.base_port.checked_add(10 * n) else {
            let last = u16::MAX - 10 * (u16::from(args.gateways) - 1);
            let text = format!(
                "--base-port {}: too high for {} gateways; use 1 to {last}",
                args.base_port, args.gateways
            );
            return Err(Error::Usage(text));
        };
        let address = SocketAddr::new(args.sip_address, port);
        let key = if n == 0 {
            "--sip-address and --base-port"
        } else {
            "--base-port plus 10 for each further gateway"
        };
        UdpSocket::bind(address).map_err(|source| BindError::new(address, "UDP", key, source))?;
        TcpListener::bind(address).map_err(|source| BindError::new(address, "TCP", key, source))?;
    }
    Ok(())
}

/// A token that SIGINT and SIGTERM cancel. The second one ends this process at once, and its children with it.
fn hear_signals() -> Result<CancellationToken, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::other)?;
    let token = runtime.block_on(async { shutdown_token() }).map_err(Error::other)?;
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(token)
}

/// What each registrar that answers says, by its name.
type Views = Arc<Mutex<BTreeMap<String, Pools>>>;

struct Localnet<'a> {
    args: &'a Args,
    launcher: Launcher,
    watch: Watch,
    views: Views,
    /// Registrars that a thread is asking.
    asked: BTreeSet<String>,
}

impl Localnet<'_> {
    fn run(&mut self, shutdown: &CancellationToken) -> Result<(), Failure> {
        let Args { registrars, gateways, proxies, relays, conferences, .. } = *self.args;
        let location = self.args.location();
        let database = match location {
            Location::Galera { nodes: 1 } => "a database node".to_owned(),
            Location::Galera { nodes } => format!("{nodes} database nodes"),
            Location::Sqlite => "the location database".to_owned(),
        };
        println!(
            "starting {registrars} registrars, {gateways} gateways, {proxies} proxies, {relays} media relays, \
             {conferences} conference servers and {database}"
        );
        for n in 1..=registrars {
            self.launcher.spawn_registrar(n)?;
        }
        match location {
            Location::Galera { .. } => drop(self.launcher.spawn_databases()?),
            Location::Sqlite => drop(self.launcher.spawn_location_db()?),
        }
        // Before there are proxies, so that none serves anybody who is not known to it yet.
        let asks = self.args.auth.is_some();
        if asks && !self.await_service(shutdown)? {
            return Ok(());
        }
        let users = if asks { Some(self.users()?) } else { None };
        for n in 1..=relays {
            self.launcher.spawn_media_relay(n)?;
        }
        for n in 1..=conferences {
            self.launcher.spawn_conference(n)?;
        }
        for n in 1..=proxies {
            self.launcher.spawn_proxy(n)?;
        }
        for n in 1..=gateways {
            self.launcher.spawn_gateway(n)?;
        }
        if !self.await_service(shutdown)? {
            return Ok(());
        }
        self.write_ready_file()?;
        self.introduce(users.as_deref());
        self.introduce_tools()?;
        self.watch.settle();
        let mut screen = Screen::new(self.watch.rows().len());
        screen.show(self.watch.rows(), Vec::new());
        if !screen.is_in_place() {
            table::how_to_break(self.watch.rows()).iter().for_each(|line| println!("{line}"));
        }
        let mut restarts = Restarts::default();
        while !shutdown.is_cancelled() {
            sleep(LOOK);
            let events = self.look();
            screen.show(self.watch.rows(), events);
            if self.args.restart && self.restart_the_dead(&mut restarts)? {
                self.write_ready_file()?;
            }
        }
        Ok(())
    }

    /// Where bindings and users are.
    fn store(&self) -> StoreArgs {
        match self.args.location() {
            Location::Galera { nodes } => {
                let address = |n| self.launcher.database_address(n).to_string();
                let store = StoreAddress::Mysql((1..=nodes).map(address).collect());
                StoreArgs { store, credentials: Some(self.launcher.database_credentials()) }
            }
            Location::Sqlite => {
                let path = self.launcher.folder().join("location/location.db");
                StoreArgs { store: StoreAddress::Sqlite(path), credentials: None }
            }
        }
    }

    /// The users, made if there are none yet.
    fn users(&self) -> Result<Vec<Starter>, Failure> {
        let store = self.store();
        let users =
            starter::users(&store, &self.args.domain, &self.launcher.folder().join("users"));
        users.map_err(|error| Error::Unavailable(error.to_string()).into())
    }

    /// Waits until everything is in service; `false` if asked to stop instead.
    fn await_service(&mut self, shutdown: &CancellationToken) -> Result<bool, Failure> {
        let limit = match self.args.location {
            LocationKind::Galera => START_DATABASES,
            LocationKind::Sqlite => START,
        };
        let deadline = clock() + limit;
        while !shutdown.is_cancelled() {
            self.look();
            if self.watch.all_in_service() && self.registrars_agree() {
                return Ok(true);
            }
            let dead = self.watch.rows().iter().find(|row| matches!(row.state, State::Dead(_)));
            if let Some(name) = dead.map(|row| row.seen.name.clone()) {
                // Its last words say why, unless it had been in service for a moment.
                let log = self.launcher.wait_ready(&name)?.log_path().display().to_string();
                let text =
                    format!("{name} died before everything was in service; its log is {log}");
                return Err(Error::Unavailable(text).into());
            }
            if clock() >= deadline {
                let missing = self.watch.missing();
                let logs = self.launcher.folder().join("run");
                let text = format!(
                    "not in service within {} s: {missing}; see the logs in {}",
                    limit.as_secs(),
                    logs.display()
                );
                return Err(Error::Unavailable(text).into());
            }
            sleep(LOOK);
        }
        Ok(false)
    }

    /// Whether all registrars know the same elements.
    fn registrars_agree(&self) -> bool {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pools = views.values().map(|view| &view.pools);
        let first = pools.next();
        first.is_some_and(|first| pools.all(|other| other == first))
    }

    /// Looks at all processes and at what registrars said last.
    fn look(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        for process in self.launcher.processes() {
            let (pid, life) = process.worker();
            seen.push(Seen {
                name: process.name().to_owned(),
                role: process.role(),
                pid,
                life,
                ready: process.is_ready(),
                addresses: process.addresses(),
            });
        }
        self.ask_registrars(&seen);
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.watch.update(clock(), seen, &views)
    }

    /// Keeps one asking thread per registrar that has told where its admin server is.
    fn ask_registrars(&mut self, seen: &[Seen]) {
        for process in seen.iter().filter(|process| process.role == Role::RegistrarNs) {
            if let Some(address) = process.addresses.get("admin")
                && self.asked.insert(process.name.clone())
            {
                let (name, address, views) =
                    (process.name.clone(), address.clone(), Arc::clone(&self.views));
                std::thread::spawn(move || ask(&name, &address, &views));
            }
        }
    }

    fn restart_the_dead(&mut self, restarts: &mut Restarts) -> Result<bool, Failure> {
        let now = clock();
        let mut restarted = false;
        for row in self.watch.rows() {
            if matches!(row.seen.life, Life::Ended(_)) && restarts.is_due(&row.seen.name, now) {
                self.launcher.respawn(&row.seen.name)?;
                restarted = true;
            }
        }
        Ok(restarted)
    }

    /// Says where phones go, once: this does not change.
    fn introduce(&mut self, users: Option<&[Starter]>) {
        let Args { domain, gateways, sip_address, base_port, .. } = self.args;
        let edge = |n: u8| SocketAddr::new(*sip_address, base_port + 10 * u16::from(n));
        let second = edge(gateways - 1);
        println!();
        println!(
            "Point a SIP phone here: outbound proxy {} (UDP or TCP), domain {domain}, {}.",
            edge(0),
            if users.is_some() { "one of the users below" } else { "any user, no password" }
        );
        println!(
            "Another one: outbound proxy {second}. Then call one from the other: sip:USER@{domain}."
        );
        if self.args.conferences > 0 {
            println!(
                "Conference: whoever calls sip:conf-NAME@{domain} hears all others who call the same NAME, whatever it is."
            );
        }
        for (user, password) in users.unwrap_or_default() {
            let password = password.as_deref().unwrap_or("(changed since it was made)");
            println!("  user {user:<9} password {password}");
        }
        if users.is_some() {
            let program = std::env::args_os().next().unwrap_or_default();
            let store = match self.store() {
                StoreArgs { store: StoreAddress::Sqlite(path), .. } => {
                    format!("sqlite:{}", path.display())
                }
                StoreArgs { store: StoreAddress::Mysql(nodes), credentials } => {
                    let credentials = credentials.unwrap_or_default();
                    format!("mysql:{} --credentials {}", nodes.join(","), credentials.display())
                }
            };
            println!(
                "More users: {} user add NAME --store {store} --realm {domain}",
                Path::new(&program).display(),
            );
        }
        println!(
            "Break something meanwhile; Ctrl-C stops everything. Logs: {}",
            self.launcher.folder().join("run").display()
        );
        println!();
    }

    /// In secure mode tools need a certificate.
    fn introduce_tools(&self) -> Result<(), Failure> {
        if self.args.secure {
            let options = self.launcher.certificate("tools")?.options().join(" ");
            let registrar = self.launcher.slice().host(1);
            println!("Secure mode: tools say who they are, as in");
            println!("  dialtone pool-user watch sip-proxy --registrar {registrar} {options}");
            println!();
        }
        Ok(())
    }

    fn write_ready_file(&mut self) -> Result<(), Failure> {
        let Some(path) = &self.args.ready_file else { return Ok(()) };
        let processes: Vec<_> = self
            .launcher
            .processes()
            .iter_mut()
            .map(|process| {
                serde_json::json!({
                    "name": process.name(),
                    "role": process.role().name(),
                    "pid": process.worker().0,
                    "addresses": process.addresses(),
                })
            })
            .collect();
        let content = serde_json::json!({ "domain": self.args.domain, "processes": processes });
        write_json(path, &content).map_err(|source| Failure {
            text: format!("cannot write {} (--ready-file): {source}", path.display()),
            code: exit::CANT_CREATE,
        })
    }
}

/// Asks one registrar again and again, as long as localnet lives.
fn ask(name: &str, address: &str, views: &Views) {
    loop {
        let answer = launcher::pools::fetch(address);
        let mut views = views.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(pools) => views.insert(name.to_owned(), pools),
            None => views.remove(name),
        };
        drop(views);
        sleep(ASK);
    }
}

/// When the dead may be started again, by name.
#[derive(Debug, Default)]
struct Restarts(BTreeMap<String, Restart>);

#[derive(Debug, Default)]
struct Restart {
    /// The last one.
    at: Option<Instant>,
    due: Option<Instant>,
    pause: Duration,
}

impl Restarts {
    /// To be asked again and again while a process is dead; `true` once, when its pause is over.
    fn is_due(&mut self, name: &str, now: Instant) -> bool {
        let restart = self.0.entry(name.to_owned()).or_default();
        match restart.due {
            None => {
                let soon = restart.at.is_some_and(|at| now.duration_since(at) < RESTART_MAX);
                restart.pause = if soon { (restart.pause * 2).min(RESTART_MAX) } else { RESTART };
                restart.due = Some(now + restart.pause);
                false
            }
            Some(due) if due <= now => {
                (restart.at, restart.due) = (Some(now), None);
                true
            }
            Some(_) => false,
        }
    }
}

fn write_json(path: &Path, content: &serde_json::Value) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(content).map_err(std::io::Error::other)?;
    write_atomically(path, &text, 0o644)
}
