//! The database nodes: MariaDB with Galera from Debian's packages, each below a sidecar, all in the launcher's folder.
//!
//! Node n stands at 127.X.Y.(80+n) with MariaDB's standard ports; the arbitrator, if there is one, at 127.X.Y.80.
//! Settings are small: see `docs/database.md` for what a production server has otherwise.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use dialtone_location::mysql::ClientFile;
use dialtone_sidecar::galera::{
    disk::{DataFolder, Position},
    node::{FORCE, ORDER_FILE},
};
use nix::unistd::{User, getuid};

use super::{
    Error, Launcher, Location,
    daemons::{ADMIN_PORT, Sidecar, Started, registrars, sidecar, tls_options},
    spawner,
};

/// The name that nodes and arbitrator know their cluster by.
const CLUSTER: &str = "dialtone";

/// The host number before that of the first node.
const NODES: u8 = 80;

/// MariaDB's port.
const PORT: u16 = 3306;

/// What has to be installed: the file that proves it and Debian's package.
const PROGRAMS: [(&str, &str); 5] = [
    ("/usr/sbin/mariadbd", "mariadb-server"),
    ("/usr/bin/wsrep_sst_rsync", "mariadb-server"),
    (PROVIDER, "galera-4"),
    ("/usr/bin/rsync", "rsync"),
    ("/usr/bin/garbd", "galera-arbitrator-4"),
];
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// Timers of the group: a dead node is suspected after 1 s, and who is left says so three times a second until all have
/// heard it: once a second is the default, and cost a second or two more. The others stay long, since shortening them
/// splits the cluster.
const TIMERS: &str = "evs.keepalive_period=PT0.2S;evs.inactive_check_period=PT0.2S;evs.suspect_timeout=PT1S;\
    evs.join_retrans_period=PT0.3S;evs.inactive_timeout=PT10S;evs.install_timeout=PT5S";

/// A database node, 1 to 5.
#[derive(Clone, Copy)]
struct Node<'a> {
    launcher: &'a Launcher,
    n: u8,
}

impl Node<'_> {
    fn name(self) -> String {
        format!("location-db-{}", self.n)
    }

    fn host(self) -> IpAddr {
        self.launcher.slice.host(NODES + self.n)
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(self.host(), PORT)
    }

    /// The sidecar's folder.
    fn keep(self) -> PathBuf {
        self.launcher.folder.join(self.name())
    }

    fn data(self) -> PathBuf {
        self.keep().join("mysql")
    }

    fn options(self) -> PathBuf {
        self.launcher.folder.join("run").join(format!("{}.cnf", self.name()))
    }

    fn log(self) -> PathBuf {
        self.launcher.folder.join("run").join(format!("{}.mariadb.log", self.name()))
    }

    fn has_data(self) -> bool {
        self.data().join("ibdata1").exists()
    }

    fn write_options(self) -> Result<(), Error> {
        let host = self.host();
        let mut text = format!(
            "# {}: written by the launcher; changes are overwritten.\n[mysqld]\n",
            self.name()
        );
        let group = format!(
            "base_host={host};gmcast.listen_addr=tcp://{host}:4567;ist.recv_addr={host}:4568;ist.recv_bind={host}:4568;\
             gcache.size=64M;gcache.page_size=16M;pc.wait_prim_timeout=PT24H;{TIMERS}"
        );
        for (key, value) in [
            ("basedir", "/usr"),
            ("datadir", &text_of(&self.data())),
            // Of its own: a server that starts removes what looks like temporary tables of a former one.
            ("tmpdir", &text_of(&self.keep())),
            // Beside the data: the path of a socket must be short.
            ("socket", "mysql.sock"),
            ("pid-file", "mysql.pid"),
            ("port", &PORT.to_string()),
            ("bind-address", &host.to_string()),
            ("log-error", &text_of(&self.log())),
            ("server-id", &self.n.to_string()),
            ("character-set-server", "utf8mb4"),
            ("binlog-format", "ROW"),
            ("default-storage-engine", "InnoDB"),
            ("innodb-autoinc-lock-mode", "2"),
            // To the disk once a second: what is acknowledged is at the other nodes.
            ("innodb-flush-log-at-trx-commit", "2"),
            // Taken from the system as it fills; one that is smaller than the data costs three times the CPU time.
            ("innodb-buffer-pool-size", "1G"),
            ("innodb-log-file-size", "128M"),
            ("innodb-stats-persistent", "0"),
            ("key-buffer-size", "1M"),
            ("aria-pagecache-buffer-size", "1M"),
            ("max-connections", "200"),
            ("performance-schema", "OFF"),
            ("query-cache-size", "0"),
            ("query-cache-type", "0"),
            ("wsrep-on", "ON"),
            ("wsrep-provider", PROVIDER),
            ("wsrep-cluster-name", CLUSTER),
            ("wsrep-node-name", &self.name()),
            ("wsrep-node-address", &host.to_string()),
            ("wsrep-node-incoming-address", &self.address().to_string()),
            ("wsrep-sst-method", "rsync"),
            ("wsrep-sst-receive-address", &host.to_string()),
            ("wsrep-slave-threads", "4"),
            ("wsrep-provider-options", &format!("\"{group}\"")),
        ] {
            let _ = writeln!(text, "{key}={value}");
        }
        text.push_str("skip-name-resolve\n");
        if let Some(user) = root() {
            let _ = writeln!(text, "user={user}");
        }
        fs::write(self.options(), text).map_err(at(&self.options()))
    }

    fn server(self) -> [OsString; 2] {
        let mut options = OsString::from("--defaults-file=");
        options.push(self.options());
        ["/usr/sbin/mariadbd".into(), options]
    }

    /// System tables, the database and its user: what the first node of a new cluster starts from.
    fn install(self, client: &ClientFile) -> Result<(), Error> {
        let user =
            User::from_uid(getuid()).ok().flatten().map_or("root".to_owned(), |user| user.name);
        let mut command = Command::new("/usr/bin/mariadb-install-db");
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data().display()))
            .arg("--auth-root-authentication-method=socket")
            .arg(format!("--auth-root-socket-user={user}"))
            .args(["--skip-test-db", "--skip-name-resolve"])
            .env("TMPDIR", self.keep())
            .args(root().map(|user| format!("--user={user}")));
        self.run("mariadb-install-db", command, "")?;
        let mut command = Command::new("/usr/sbin/mariadbd");
        command.args(&self.server()[1..]).args(["--wsrep-on=OFF", "--bootstrap"]);
        let ClientFile { user, password, database } = client;
        // One statement a line; the password has hexadecimal digits only.
        let statements = format!(
            "FLUSH PRIVILEGES;\nCREATE DATABASE `{database}` CHARACTER SET utf8mb4;\n\
             CREATE USER `{user}`@`%` IDENTIFIED BY '{password}';\nGRANT ALL ON `{database}`.* TO `{user}`@`%`;\n"
        );
        self.run("mariadbd --bootstrap", command, &statements)
    }

    /// How far the data came: said by the folder, or by the server after a crash.
    fn position(self) -> Result<Option<Position>, Error> {
        let Some(saved) = DataFolder::new(self.data()).saved() else { return Ok(None) };
        if saved.position.is_some() || saved.cluster.is_none() {
            return Ok(saved.position);
        }
        let log = self.keep().join("recovered.log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new("/usr/sbin/mariadbd");
        command
            .args(&self.server()[1..])
            .args(["--wsrep-recover", "--wsrep-cluster-address=gcomm://"])
            .arg(format!("--log-error={}", log.display()));
        self.run("mariadbd --wsrep-recover", command, "")?;
        let text = fs::read(&log).map_err(at(&log))?;
        let text = String::from_utf8_lossy(&text);
        let position = text.lines().rev().find_map(|line| line.split_once("Recovered position:"));
        Ok(position.and_then(|(_, position)| position.parse().ok()))
    }

    /// Runs a program to its end; its output is in the folder `run`.
    fn run(self, what: &str, mut command: Command, input: &str) -> Result<(), Error> {
        let failed = |source| Error::Start { name: what.to_owned(), source };
        let log = self.launcher.folder.join("run").join(format!("{}.install.log", self.name()));
        let output = File::options().create(true).append(true).open(&log).map_err(at(&log))?;
        command.stdin(Stdio::piped()).stdout(output.try_clone().map_err(failed)?).stderr(output);
        let mut child = spawner::spawn(command).map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let said = lines[lines.len().saturating_sub(20)..].join("\n");
        Err(failed(io::Error::other(format!("{status}; {}:\n{said}", log.display()))))
    }

    fn order(self, text: &str) -> Result<(), Error> {
        let path = self.keep().join(ORDER_FILE);
        fs::write(&path, text).map_err(at(&path))
    }
}

/// The file with user and password of the database, for proxies and tools.
pub(super) fn credentials(launcher: &Launcher) -> PathBuf {
    launcher.folder.join("location").join("client.cnf")
}

/// How many nodes the layout has.
pub(super) fn nodes(launcher: &Launcher) -> u8 {
    match launcher.layout.location {
        Location::Galera { nodes } => nodes,
        Location::Sqlite => 0,
    }
}

/// Makes configurations and data, and decides which node begins: the only one that knows everything, since all nodes
/// have their data in this folder and none of them runs.
pub(super) fn prepare(launcher: &Launcher) -> Result<(), Error> {
    let count = nodes(launcher);
    let needed = if count == 2 { &PROGRAMS[..] } else { &PROGRAMS[..4] };
    let mut missing: Vec<&str> = needed
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        return Err(Error::Package { packages: missing.join(" ") });
    }
    let client = client_file(&credentials(launcher))?;
    let nodes: Vec<Node<'_>> = (1..=count).map(|n| Node { launcher, n }).collect();
    for node in &nodes {
        fs::create_dir_all(node.data()).map_err(at(&node.data()))?;
        node.write_options()?;
    }
    if root().is_some() {
        let path = rsync_as_root(launcher);
        // rsync's daemon gives root's rights up unless it is told not to, and could then not write the node's files.
        let text = "rsync() { case \" $* \" in *' --daemon '*) exec /usr/bin/rsync \"$@\" -M uid=0 -M gid=0 ;; \
                    *) command rsync \"$@\" ;; esac; }\n";
        fs::write(&path, text).map_err(at(&path))?;
    }
    let Some(first) = nodes.first() else { return Ok(()) };
    if !nodes.iter().any(|node| node.has_data()) {
        first.install(&client)?;
        return first.order("");
    }
    let safe = |node: &&Node<'_>| {
        DataFolder::new(node.data()).saved().is_some_and(|saved| saved.safe_to_bootstrap)
    };
    if let Some(last) = nodes.iter().find(safe) {
        return last.order("");
    }
    let mut best: Option<(Node<'_>, Position)> = None;
    for &node in &nodes {
        if let Some(position) = node.position()?
            // Numbers of different clusters say nothing of each other.
            && best.as_ref().is_none_or(|(_, other)| {
                other.cluster == position.cluster && other.seqno < position.seqno
            })
        {
            best = Some((node, position));
        }
    }
    match best {
        Some((node, _)) => node.order(FORCE),
        None => first.order(FORCE),
    }
}

pub(super) fn node(launcher: &Launcher, n: u8) -> Started {
    let node = Node { launcher, n };
    let mut command: Vec<OsString> = Vec::new();
    if root().is_some() {
        let mut variable = OsString::from("BASH_ENV=");
        variable.push(rsync_as_root(launcher));
        command.extend(["/usr/bin/env".into(), variable]);
    }
    command.extend(node.server());
    sidecar(
        launcher,
        &Sidecar {
            name: node.name(),
            pool: "location-db".to_owned(),
            transport: format!("tcp:{}", node.address()),
            options: vec![
                format!("--check=galera:{}", credentials(launcher).display()),
                format!("--galera={}", node.data().display()),
                "--resume".to_owned(),
                "--stop-grace=20s".to_owned(),
                format!("--admin={}", SocketAddr::new(node.host(), ADMIN_PORT)),
            ],
            command,
        },
    )
}

/// The voter that two nodes need.
pub(super) fn arbitrator(launcher: &Launcher) -> Started {
    let name = "galera-arbitrator".to_owned();
    let mut arguments = vec![
        name.clone(),
        format!("--cluster={CLUSTER}"),
        format!("--address={}", launcher.slice.host(NODES)),
        format!("--data-dir={}", launcher.folder.join(&name).display()),
    ];
    arguments.extend(registrars(launcher).map(|registrar| format!("--registrar={registrar}")));
    arguments.extend(TIMERS.split(';').map(|option| format!("--option={option}")));
    arguments.extend(tls_options(launcher, &name)?);
    Ok((name, arguments.into_iter().map(OsString::from).collect()))
}

/// Where MariaDB's own log of a node is.
pub(super) fn log_path(launcher: &Launcher, n: u8) -> PathBuf {
    Node { launcher, n }.log()
}

/// Where a node serves.
pub(super) fn address(launcher: &Launcher, n: u8) -> SocketAddr {
    Node { launcher, n }.address()
}

fn client_file(path: &Path) -> Result<ClientFile, Error> {
    if !path.exists() {
        let mut random = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .map_err(at(Path::new("/dev/urandom")))?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let client = ClientFile {
            user: "dialtone".into(),
            password: password.into(),
            database: "dialtone".into(),
        };
        dialtone_daemon::data_dir::write_atomically(path, client.to_text().as_bytes(), 0o600)
            .map_err(at(path))?;
    }
    ClientFile::read(path).map_err(|error| Error::Keys(error.to_string()))
}

fn rsync_as_root(launcher: &Launcher) -> PathBuf {
    launcher.folder.join("run").join("rsync-as-root.sh")
}

/// Whom MariaDB has to be told to run as: it refuses to be root without being told so.
fn root() -> Option<&'static str> {
    getuid().is_root().then_some("root")
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path: path.clone(), source }
}
