//! A MariaDB server of a test's own: in a temporary folder, on a free port, gone with the test.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dialtone_location::mysql::{ClientFile, Config, MysqlStore, Node, check};
use dialtone_location::{LocationStore, Sink, StoreEvent, WriterId};
use tokio::sync::watch;

use super::{Backend, Folder};

/// The server's folder, its address, and its process while that runs.
pub(crate) struct Server {
    folder: Folder,
    pub(crate) address: SocketAddr,
    process: Option<Child>,
}

/// A database of a server.
#[derive(Clone)]
pub(crate) struct Mariadb {
    pub(crate) nodes: watch::Sender<Vec<Node>>,
    pub(crate) client: ClientFile,
    /// What a write may take before it is answered with a failure.
    pub(crate) patience: Duration,
    /// How long there may be no server before nothing waits for one.
    pub(crate) stall: Duration,
}

impl Server {
    /// `None` if MariaDB is not installed, which only a developer's machine may lack.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let installed = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !installed("mariadbd") || !installed("mariadb-install-db") {
            assert!(std::env::var_os("CI").is_none(), "mariadb-server is needed in CI");
            println!("skipped: mariadb-server not installed");
            return None;
        }
        let folder = Folder::new(name);
        let data = folder.0.join("data");
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(as_user())
            .arg(format!("--datadir={}", data.display()))
            // A server that starts removes what it takes for temporary tables of a former one, other servers' too.
            .env("TMPDIR", &folder.0)
            .output()
            .expect("mariadb-install-db");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        // Not a statement more: each has to stand in one line.
        let users = "CREATE USER IF NOT EXISTS 'dialtone'@'%' IDENTIFIED BY 'it''s \"secret\"';\n\
                     GRANT ALL ON *.* TO 'dialtone'@'%';\n";
        std::fs::write(folder.0.join("users.sql"), users).expect("write");
        let address = free_address();
        let mut server = Self { folder, address, process: None };
        server.run();
        Some(server)
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn run(&mut self) {
        let folder = &self.folder.0;
        let log = std::fs::File::create(folder.join("log")).expect("log");
        let path = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let child = Command::new("mariadbd")
            .arg("--no-defaults")
            .args(as_user())
            .args([path("datadir", "data"), path("socket", "socket"), path("pid-file", "pid")])
            .args([path("init-file", "users.sql"), format!("--port={}", self.address.port())])
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=1"])
            .args(["--performance-schema=OFF", "--innodb-log-file-size=64M"])
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("mariadbd");
        self.process = Some(child);
        let client = self.client("dialtone");
        let deadline = now() + Duration::from_secs(30);
        let ask = || run(check(self.address, &client, Duration::from_secs(1)));
        while let Err(error) = ask() {
            let log = || std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default();
            assert!(now() < deadline, "{error}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a power failure would, as far as a process can tell.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    pub(crate) fn client(&self, database: &str) -> ClientFile {
        ClientFile {
            user: "dialtone".into(),
            password: "it's \"secret\"".into(),
            database: database.into(),
        }
    }

    pub(crate) fn database(&self, name: &str) -> Mariadb {
        let (nodes, _) = watch::channel(vec![Node { id: 1, address: self.address }]);
        let (patience, stall) = (Duration::from_secs(15), Duration::from_secs(60));
        Mariadb { nodes, client: self.client(name), patience, stall }
    }

    /// Runs statements as an administrator.
    pub(crate) fn execute(&self, sql: &str) {
        let socket = format!("--socket={}", self.folder.0.join("socket").display());
        let arguments = ["--no-defaults", &socket, "-uroot", "-e", sql];
        let output = Command::new("mariadb").args(arguments).output().expect("mariadb");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Mariadb {
    pub(crate) fn config(&self, writer: WriterId) -> Config {
        Config {
            pace: Duration::ZERO,
            poll: Duration::from_millis(2),
            batch: 250,
            patience: self.patience,
            stall: self.stall,
            open_within: Some(Duration::from_secs(30)),
            ..Config::new(self.nodes.subscribe(), self.client.clone(), writer)
        }
    }

    pub(crate) fn store(&self, writer: WriterId, sink: impl Sink) -> MysqlStore {
        run(MysqlStore::open(self.config(writer), sink)).expect("open")
    }
}

impl Backend for Mariadb {
    fn open(
        &self,
        writer: WriterId,
        sink: Box<dyn Fn(Vec<StoreEvent>) + Send + Sync>,
    ) -> Box<dyn LocationStore> {
        Box::new(self.store(writer, sink))
    }
}

/// Runs something to its end.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(future)
}

/// Not one that the system gives to connections: the server may be away for a moment, and wants it back.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 16;
    (0..1_000)
        .map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find_map(|port| TcpListener::bind(("127.0.0.1", port as u16)).ok()?.local_addr().ok())
        .expect("a free port")
}

/// Servers refuse to run as root unless that is said.
fn as_user() -> Option<&'static str> {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    is_root.then_some("--user=root")
}

#[expect(clippy::disallowed_methods, reason = "tests wait for real servers")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
