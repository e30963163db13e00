//! Starts daemons as child processes on one machine: localnet and the multi-process tests stand on it.
//!
//! Each daemon gets a generated TOML file, an address in a loopback slice, a log and a ready file, all in one folder.
//! Children die with the launcher, even when it is killed; dropping it kills them, and prints their logs if a test is
//! failing.

mod daemons;
mod exclusive;
mod galera;
pub(crate) mod pools;
mod process;
mod slice;
mod spawner;
mod tls;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

pub use daemons::{Layout, Location, Sidecar};
pub use exclusive::Exclusive;
pub use nix::{sys::signal::Signal, unistd::Pid};
pub use pools::{Element, Pools, Status};
pub use process::{Ended, Life, Process, Role};
pub use slice::{Slice, SliceError};
pub use tls::TlsFiles;

/// How long a daemon may take to be in service.
const READY: Duration = Duration::from_secs(20);

/// The same for a database node, which may have to copy everything from another one.
const DATABASE_READY: Duration = Duration::from_secs(60);

/// How long a daemon may take to stop in order.
const STOP: Duration = Duration::from_secs(5);

/// The same for a database node.
const DATABASE_STOP: Duration = Duration::from_secs(25);

/// The same for a conference server, which hangs everybody up and gives phones five seconds to say that they know.
const CONFERENCE_STOP: Duration = Duration::from_secs(8);

/// The launcher could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot make certificates: {0}")]
    Certificates(String),
    #[error("{name} ended before it was in service ({ended}):\n{log}")]
    Ended { name: String, ended: Ended, log: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Keys(String),
    #[error("{name} was not in service within {} s:\n{log}", limit.as_secs())]
    NotReady { name: String, limit: Duration, log: String },
    #[error("--location galera needs Debian's packages {packages}: apt-get install {packages}")]
    Package { packages: String },
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error("cannot start {name}: {source}")]
    Start { name: String, source: io::Error },
    #[error("there is no process {name}")]
    Unknown { name: String },
}

/// Child processes, by name, and what they share.
#[derive(Debug)]
pub struct Launcher {
    binary: PathBuf,
    folder: PathBuf,
    /// Removed at the end.
    temporary: bool,
    slice: Slice,
    layout: Layout,
    /// In the order of their start.
    processes: Vec<Process>,
}

impl Launcher {
    /// For tests: a free slice, a temporary folder, `binary` from `CARGO_BIN_EXE_dialtone`.
    pub fn for_test(binary: impl Into<PathBuf>, layout: Layout) -> Result<Self, Error> {
        let slice = Slice::any_free()?;
        let name = format!("dialtone-{}-{}", std::process::id(), slice.host(0));
        let mut launcher = Self::new(binary, &std::env::temp_dir().join(name), slice, layout)?;
        launcher.temporary = true;
        Ok(launcher)
    }

    /// Starts nothing yet. `folder` keeps configurations, logs and data.
    pub fn new(
        binary: impl Into<PathBuf>,
        folder: &Path,
        slice: Slice,
        layout: Layout,
    ) -> Result<Self, Error> {
        let file = |path: &Path, source| Error::File { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|source| file(folder, source))?;
        let folder = folder.canonicalize().map_err(|source| file(folder, source))?;
        for path in [folder.join("run"), folder.join("location")] {
            fs::create_dir_all(&path).map_err(|source| file(&path, source))?;
        }
        dialtone_sip_pool::keys::Keys::load_or_create(&folder.join("keys"))
            .map_err(|error| Error::Keys(error.to_string()))?;
        Ok(Self {
            binary: binary.into(),
            folder,
            temporary: false,
            slice,
            layout,
            processes: Vec::new(),
        })
    }

    /// The registrar number `n`, from 1. In service when this returns.
    pub fn start_registrar(&mut self, n: u8) -> Result<&mut Process, Error> {
        let name = self.spawn_registrar(n)?;
        self.wait_ready(&name)
    }

    /// The gateway number `n`, from 1. In service when this returns.
    pub fn start_gateway(&mut self, n: u8) -> Result<&mut Process, Error> {
        let name = self.spawn_gateway(n)?;
        self.wait_ready(&name)
    }

    /// The proxy number `n`, from 1. In service when this returns.
    pub fn start_proxy(&mut self, n: u8) -> Result<&mut Process, Error> {
        let name = self.spawn_proxy(n)?;
        self.wait_ready(&name)
    }

    /// The media relay number `n`, from 1. In service when this returns.
    pub fn start_media_relay(&mut self, n: u8) -> Result<&mut Process, Error> {
        let name = self.spawn_media_relay(n)?;
        self.wait_ready(&name)
    }

    /// The conference server number `n`, from 1. In service when this returns.
    pub fn start_conference(&mut self, n: u8) -> Result<&mut Process, Error> {
        let name = self.spawn_conference(n)?;
        self.wait_ready(&name)
    }

    /// A sidecar of a test's own. In service when this returns.
    pub fn start_sidecar(&mut self, sidecar: &Sidecar) -> Result<&mut Process, Error> {
        let name = self.spawn_sidecar(sidecar)?;
        self.wait_ready(&name)
    }

    /// The sidecar of the location database, which is made if need be. In service when this returns.
    pub fn start_location_db(&mut self) -> Result<&mut Process, Error> {
        let name = self.spawn_location_db()?;
        self.wait_ready(&name)
    }

    /// As [`Self::start_registrar`], without waiting; returns the name.
    pub fn spawn_registrar(&mut self, n: u8) -> Result<String, Error> {
        let (name, arguments) = daemons::registrar(self, n)?;
        self.spawn(name, Role::RegistrarNs, arguments)
    }

    /// As [`Self::start_gateway`], without waiting; returns the name.
    pub fn spawn_gateway(&mut self, n: u8) -> Result<String, Error> {
        let (name, arguments) = daemons::gateway(self, n)?;
        self.spawn(name, Role::SipGateway, arguments)
    }

    /// As [`Self::start_proxy`], without waiting; returns the name.
    pub fn spawn_proxy(&mut self, n: u8) -> Result<String, Error> {
        let (name, arguments) = daemons::proxy(self, n)?;
        self.spawn(name, Role::SipProxy, arguments)
    }

    /// As [`Self::start_media_relay`], without waiting; returns the name.
    pub fn spawn_media_relay(&mut self, n: u8) -> Result<String, Error> {
        let (name, arguments) = daemons::media_relay(self, n)?;
        self.spawn(name, Role::MediaRelay, arguments)
    }

    /// As [`Self::start_conference`], without waiting; returns the name.
    pub fn spawn_conference(&mut self, n: u8) -> Result<String, Error> {
        let (name, arguments) = daemons::conference(self, n)?;
        self.spawn(name, Role::Conference, arguments)
    }

    /// Where relay `n`, from 1, has its media, and the ports that no other relay has there.
    pub fn media_ports(&self, n: u8) -> (IpAddr, RangeInclusive<u16>) {
        daemons::media_ports(self, n)
    }

    /// Where conference server `n`, from 1, has its media, and the ports that no other server has there.
    pub fn conference_ports(&self, n: u8) -> (IpAddr, RangeInclusive<u16>) {
        daemons::conference_ports(self, n)
    }

    /// As [`Self::start_sidecar`], without waiting; returns the name.
    pub fn spawn_sidecar(&mut self, sidecar: &Sidecar) -> Result<String, Error> {
        let (name, arguments) = daemons::sidecar(self, sidecar)?;
        self.spawn(name, Role::Sidecar, arguments)
    }

    /// As [`Self::start_location_db`], without waiting; returns the name.
    pub fn spawn_location_db(&mut self) -> Result<String, Error> {
        let (name, arguments) = daemons::location_db(self)?;
        self.spawn(name, Role::LocationDb, arguments)
    }

    /// The database nodes of a layout with [`Location::Galera`], and the arbitrator beside two. In service when this
    /// returns.
    pub fn start_databases(&mut self) -> Result<(), Error> {
        for name in self.spawn_databases()? {
            self.wait_ready(&name)?;
        }
        Ok(())
    }

    /// As [`Self::start_databases`], without waiting; returns the names. To be called once: single nodes are started
    /// again by [`Self::restart`], and so rejoin.
    pub fn spawn_databases(&mut self) -> Result<Vec<String>, Error> {
        galera::prepare(self)?;
        let mut names = Vec::new();
        for n in 1..=galera::nodes(self) {
            let (name, arguments) = galera::node(self, n)?;
            names.push(self.spawn(name, Role::LocationDb, arguments)?);
        }
        if galera::nodes(self) == 2 {
            let (name, arguments) = galera::arbitrator(self)?;
            names.push(self.spawn(name, Role::GaleraArbitrator, arguments)?);
        }
        Ok(names)
    }

    /// Where database node `n`, from 1, serves.
    pub fn database_address(&self, n: u8) -> SocketAddr {
        galera::address(self, n)
    }

    /// The log of MariaDB itself of database node `n`, from 1.
    pub fn database_log(&self, n: u8) -> PathBuf {
        galera::log_path(self, n)
    }

    /// User and password of the database nodes, in a file in my.cnf form.
    pub fn database_credentials(&self) -> PathBuf {
        galera::credentials(self)
    }

    /// The process of MariaDB below a node's sidecar: what is to be killed or frozen; `None` if it does not run.
    pub fn database_pid(&mut self, n: u8) -> Option<Pid> {
        self.process(&format!("location-db-{n}")).ok()?.server()
    }

    /// A certificate for somebody who is not started here, such as a tool; with [`Layout::secure`] only.
    pub fn certificate(&self, name: &str) -> Result<TlsFiles, Error> {
        tls::issue(&self.folder, name, None)
    }

    fn spawn(
        &mut self,
        name: String,
        role: Role,
        arguments: Vec<std::ffi::OsString>,
    ) -> Result<String, Error> {
        self.processes.retain(|process| process.name != name);
        let process =
            Process::start(&self.binary, &self.folder.join("run"), name.clone(), role, arguments)?;
        self.processes.push(process);
        Ok(name)
    }

    /// Waits until a process is in service.
    pub fn wait_ready(&mut self, name: &str) -> Result<&mut Process, Error> {
        let process = self.process(name)?;
        process.wait_ready(if process.role == Role::LocationDb {
            DATABASE_READY
        } else {
            READY
        })?;
        Ok(process)
    }

    /// Sends a signal to a process that was started; nothing happens if it has ended.
    pub fn kill(&mut self, name: &str, signal: Signal) -> Result<(), Error> {
        self.process(name)?.signal(signal);
        Ok(())
    }

    /// Sends a signal to a process and to everything that it started. Whoever is stopped is stopped before what it
    /// started, and goes on after it, so that nobody sees the other one stopped.
    pub fn kill_tree(&mut self, name: &str, signal: Signal) -> Result<(), Error> {
        let process = self.process(name)?;
        let mut below = process.descendants();
        if signal == Signal::SIGCONT {
            below.reverse();
            signal_all(&below, signal);
            process.signal(signal);
        } else {
            process.signal(signal);
            signal_all(&below, signal);
        }
        Ok(())
    }

    /// Starts a process again as it was; kills it before if it still runs. In service when this returns.
    pub fn restart(&mut self, name: &str) -> Result<&mut Process, Error> {
        self.respawn(name)?;
        self.wait_ready(name)
    }

    /// As [`Self::restart`], without waiting.
    pub fn respawn(&mut self, name: &str) -> Result<(), Error> {
        let binary = self.binary.clone();
        self.process(name)?.restart(&binary)
    }

    /// Asks one process to end, and kills it if it does not. `true` if it ended by itself.
    pub fn stop(&mut self, name: &str) -> Result<bool, Error> {
        let process = self.process(name)?;
        let limit = grace(process.role);
        Ok(process.stop(limit))
    }

    /// Where a process listens, by purpose.
    pub fn addresses(&mut self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.process(name)?.addresses())
    }

    /// Everything a process wrote.
    pub fn log(&mut self, name: &str) -> Result<String, Error> {
        Ok(self.process(name)?.log())
    }

    /// The process of that name.
    pub fn process(&mut self, name: &str) -> Result<&mut Process, Error> {
        self.processes
            .iter_mut()
            .find(|process| process.name == name)
            .ok_or_else(|| Error::Unknown { name: name.to_owned() })
    }

    /// All processes, in the order of their start.
    pub fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    /// What a registrar knows, from its admin JSON; `None` if it does not answer.
    pub fn pools(&mut self, registrar: &str) -> Option<Pools> {
        let address = self.process(registrar).ok()?.addresses().remove("admin")?;
        pools::fetch(&address)
    }

    /// The loads that the elements of a pool report, by address; `None` if the registrar does not answer.
    pub fn loads(&mut self, registrar: &str, pool: &str) -> Option<BTreeMap<String, u32>> {
        let address = self.process(registrar).ok()?.addresses().remove("admin")?;
        pools::fetch_loads(&address, pool)
    }

    /// What a registrar says of itself, from its admin JSON; `None` if it does not answer.
    pub fn status(&mut self, registrar: &str) -> Option<Status> {
        let address = self.process(registrar).ok()?.addresses().remove("admin")?;
        pools::fetch_status(&address)
    }

    /// The slice that the processes live in.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// The folder of configurations, logs and data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder to whoever wants to read the logs.
    pub fn keep_folder(&mut self) -> &Path {
        self.temporary = false;
        &self.folder
    }

    /// What the configurations say.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Stops everything in order: conference servers, gateways, proxies and relays, databases, registrars. Returns who
    /// had to be killed.
    pub fn stop_all(&mut self) -> Vec<String> {
        let mut killed = Vec::new();
        for roles in [
            // First, so that participants hear of it.
            &[Role::Conference][..],
            &[Role::SipGateway],
            // Before the nodes: the last of them must be alone to know that it is the last.
            &[Role::SipProxy, Role::MediaRelay, Role::Sidecar, Role::GaleraArbitrator],
            &[Role::LocationDb],
            &[Role::RegistrarNs],
        ] {
            if roles == [Role::LocationDb] {
                // One after the other: the last one knows everything, and knows that it does.
                for process in
                    self.processes.iter_mut().rev().filter(|p| p.role == Role::LocationDb)
                {
                    if !process.stop(DATABASE_STOP) {
                        killed.push(process.name.clone());
                    }
                }
                continue;
            }
            let chosen = || move |process: &&mut Process| roles.contains(&process.role);
            for process in self.processes.iter_mut().filter(chosen()) {
                process.signal(Signal::SIGTERM);
                process.signal(Signal::SIGCONT);
            }
            for process in self.processes.iter_mut().filter(chosen()) {
                if !process.wait_ended(grace(process.role)) {
                    killed.push(process.name.clone());
                    process.kill();
                }
            }
        }
        killed
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill();
            if std::thread::panicking() {
                eprintln!("--- {} (pid {}) ---\n{}", process.name, process.pid(), process.log());
            }
        }
        if self.temporary {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// How long a process may take to stop in order.
fn grace(role: Role) -> Duration {
    match role {
        Role::Conference => CONFERENCE_STOP,
        Role::LocationDb => DATABASE_STOP,
        _ => STOP,
    }
}

fn signal_all(pids: &[Pid], signal: Signal) {
    for pid in pids {
        // Whoever has ended meanwhile needs no signal any more.
        let _ = nix::sys::signal::kill(*pid, signal);
    }
}

/// Waits until `condition` gives something; `None` when `limit` is over.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock() + limit;
    loop {
        match condition() {
            Some(found) => return Some(found),
            None if clock() >= deadline => return None,
            None => sleep(Duration::from_millis(10)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "processes live in real time")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}
