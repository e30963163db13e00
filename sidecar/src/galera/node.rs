//! One node: with what it is started, and when it has to be started anew.
//!
//! It joins the members of its pool, or those that it remembers when there are none. It begins a cluster by order only:
//! `--bootstrap`, the file `bootstrap` in its data folder (`dialtone galera-recover` writes it), or, after a full stop
//! and if `--resume` allows that, by what [`super::standstill`] finds.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dialtone_daemon::Error;
use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, PoolElement, Registration};
use dialtone_pool_user::{Freshness, PoolUser, View};
use dialtone_wire::{PeId, Transport};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    LOOK, REGISTRAR, addresses,
    disk::{Component, DataFolder, Position},
    group_address, notices,
    peers::Peers,
    standstill::{Notice, successor},
    waiting_pool,
};
use crate::child::Server;

/// The file that orders a node to begin a cluster; it is gone when the order was carried out or refused.
pub const ORDER_FILE: &str = "bootstrap";

/// What an order file says when it is to be followed although others may know more.
pub const FORCE: &str = "force";

/// How long a pool may name members that have just died before an order to bootstrap is refused for them.
const MEMBERS_FADE: Duration = Duration::from_secs(5);

/// How long a node is out of service before it tells the others.
const OUT: Duration = Duration::from_secs(1);

/// How long a node that joins looks whether others do, and how long it waits for them at most.
pub(super) const TURN: Duration = Duration::from_millis(300);
pub(super) const TURN_MAX: Duration = Duration::from_secs(6);

/// How long a server may look for a cluster that it knows the members of. Galera sometimes does not let a node in that
/// was in touch with another one that died.
const STUCK: Duration = Duration::from_secs(5);

/// How long nothing must change before a node goes on without order: Galera itself does when all of them are back.
const SETTLED: Duration = Duration::from_secs(2);

/// How long the others may take to show that they go on without this node.
const CERTAIN: Duration = Duration::from_secs(2);

/// How a node is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// MariaDB's data folder.
    pub data: PathBuf,
    /// The sidecar's own folder.
    pub keep: PathBuf,
    /// The server, without what this module adds.
    pub command: Vec<OsString>,
    pub pool: Handle,
    pub pe_id: PeId,
    /// Where users reach the server.
    pub address: SocketAddr,
    /// The port of the group communication, the same for all nodes.
    pub group_port: u16,
    /// An order from the command line.
    pub bootstrap: bool,
    pub force: bool,
    pub resume: bool,
}

/// How far the running server came, as its check last read it.
pub type Reached = Arc<Mutex<Option<Position>>>;

/// The server has to be started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To join, or because there is an order.
    Restart(&'static str),
    /// This node goes on from the component that it and the majority stand at.
    Resume(Component),
}

/// An explicit order to begin a cluster.
#[derive(Clone, Copy, Debug)]
struct Order {
    force: bool,
    from_file: bool,
}

/// With what the server is started.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Bootstrap,
    Join(Vec<SocketAddr>),
}

/// A node's state between starts.
#[derive(Debug)]
pub struct Node {
    config: Config,
    folder: DataFolder,
    peers: Peers,
    order: Option<Order>,
    elements: PoolElement,
    members: watch::Receiver<Arc<View>>,
    waiting: watch::Receiver<Arc<View>>,
    waiting_pool: Handle,
    reached: Reached,
    /// From the disk, at the last start.
    position: Option<Position>,
    /// Whom the server was told of at its last start.
    told: Vec<SocketAddr>,
    /// It has been in service since its last start.
    served: bool,
    /// The last component when the server was started; another one since then means that it found a cluster.
    began_at: Option<Component>,
    /// What the others are told. Each change registers the same element anew; all that was registered ends together.
    notice: Option<(Notice, Vec<Registration>)>,
    withdrawn: Option<JoinHandle<bool>>,
    looked: Option<Instant>,
    out_since: Option<Instant>,
    successor_since: Option<Instant>,
    alone_since: Option<Instant>,
}

impl Node {
    pub fn new(
        config: Config,
        elements: PoolElement,
        user: &PoolUser,
        reached: Reached,
    ) -> Result<Self, Error> {
        let waiting_pool = waiting_pool(&config.pool)
            .ok_or_else(|| Error::Usage(format!("--pool {}: too long", config.pool)))?;
        let peers = Peers::load(&config.keep).map_err(|error| in_folder(&config, error))?;
        Ok(Self {
            folder: DataFolder::new(config.data.clone()),
            peers,
            order: config.bootstrap.then_some(Order { force: config.force, from_file: false }),
            elements,
            members: user.watch(&config.pool).map_err(Error::other)?,
            waiting: user.watch(&waiting_pool).map_err(Error::other)?,
            waiting_pool,
            reached,
            position: None,
            told: Vec::new(),
            served: false,
            began_at: None,
            notice: None,
            withdrawn: None,
            looked: None,
            out_since: None,
            successor_since: None,
            alone_since: None,
            config,
        })
    }

    /// Whether the server has been in service since its last start; if not, it waits for others and has nothing to
    /// bring to an end.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// Starts the server; waits as long as there is nobody to join and no order. Cancel safe: what was started is
    /// killed.
    pub async fn start(&mut self, resume: Option<&Component>) -> Result<Server, Error> {
        (self.served, self.successor_since, self.alone_since) = (false, None, None);
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.position = self.recover().await?;
        let resumes = match resume {
            Some(component) => self.still_stands(component).await,
            None => false,
        };
        let plan = if resumes { Plan::Bootstrap } else { self.plan().await? };
        if self.position.is_none() {
            // It may have waited for long, and somebody may have put data there.
            self.position = self.recover().await?;
        }
        let mut command = self.config.command.clone();
        match &plan {
            Plan::Bootstrap => {
                tracing::warn!(position = %shown(&self.position), "beginning a cluster from this node");
                self.folder.allow_bootstrap().map_err(|error| in_data(&self.config, error))?;
                self.told.clear();
                command.push("--wsrep-cluster-address=gcomm://".into());
                command.push("--wsrep-new-cluster".into());
            }
            Plan::Join(known) => {
                let address = group_address(known, self.config.group_port);
                tracing::info!(%address, position = %shown(&self.position), "joining");
                self.told.clone_from(known);
                command.push(format!("--wsrep-cluster-address={address}").into());
            }
        }
        if let Some(position) = &self.position {
            command.push(format!("--wsrep-start-position={position}").into());
        }
        self.end_order();
        (self.began_at, self.out_since) = (self.folder.component(), None);
        start(&command)
    }

    /// With the own server out of the way: whether nothing has changed. Galera may have gone on by itself in the moment
    /// before; then the others say so, or are in the pool, before long.
    async fn still_stands(&mut self, component: &Component) -> bool {
        let began = clock();
        while clock().duration_since(began) < CERTAIN {
            self.tell();
            let stands = self.folder.component().as_ref() == Some(component)
                && self.others().is_empty()
                && successor(&notices(&self.waiting.borrow())) == Some(self.config.pe_id);
            if !stands {
                tracing::warn!("the cluster goes on by itself: joining it");
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Whom to join, or that a cluster shall begin here.
    async fn plan(&mut self) -> Result<Plan, Error> {
        let began = clock();
        let mut joining = None;
        let mut said = String::new();
        loop {
            let waited = clock().duration_since(began);
            let unknown = self.members.borrow().freshness == Freshness::Unknown;
            let living = self.others();
            let order = self.order.or_else(|| self.order_file());
            let text = match order {
                Some(_) if unknown => {
                    "waiting for a registrar: whether the cluster lives must be known before one is begun".to_owned()
                }
                Some(order) => match self.objection(order, &living) {
                    None => return Ok(Plan::Bootstrap),
                    Some(_) if !living.is_empty() && waited < MEMBERS_FADE => String::new(),
                    Some(objection) if order.from_file => {
                        self.end_order();
                        tracing::error!("{objection}");
                        continue;
                    }
                    Some(objection) => return Err(Error::Unavailable(objection)),
                },
                None => {
                    self.tell();
                    let known = self.known(&living);
                    if unknown && waited < REGISTRAR {
                        String::new()
                    } else if known.is_empty() {
                        format!(
                            "waiting: the pool {} is empty and no other node was ever seen. A cluster is never begun without order: \
                             start exactly one node with --bootstrap",
                            self.config.pool
                        )
                    } else {
                        let began = *joining.get_or_insert_with(clock);
                        if living.is_empty() || self.has_turn(clock().duration_since(began)) {
                            return Ok(Plan::Join(known));
                        }
                        String::new()
                    }
                }
            };
            if !text.is_empty() && text != said {
                tracing::warn!("{text}");
                said = text;
            }
            tokio::select! {
                changed = self.members.changed() => changed.map_err(Error::other)?,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Whom to join: members, nodes with data that wait like this one, and who was seen before.
    fn known(&self, living: &[SocketAddr]) -> Vec<SocketAddr> {
        let waiting = notices(&self.waiting.borrow());
        let waiting = waiting.values().filter(|notice| notice.position.is_some());
        let all = living.iter().copied().chain(waiting.map(|notice| notice.address));
        let mut known = Vec::new();
        for address in all.chain(self.peers.known().iter().copied()) {
            if address != self.config.address && !known.contains(&address) {
                known.push(address);
            }
        }
        known
    }

    /// Nodes that join at the same time suspect each other of being dead: the smallest identifier goes first.
    fn has_turn(&self, waited: Duration) -> bool {
        let first = notices(&self.waiting.borrow()).into_keys().next();
        let is_first = first.is_none_or(|first| first >= self.config.pe_id);
        waited >= TURN_MAX || (waited >= TURN && is_first)
    }

    /// Why an order to begin a cluster is not followed.
    fn objection(&self, order: Order, living: &[SocketAddr]) -> Option<String> {
        if let [first, ..] = living {
            return Some(format!(
                "not begun: the cluster lives, the pool {} has {} ({first}). Start this node without --bootstrap, and it joins",
                self.config.pool,
                if living.len() == 1 {
                    "a member".to_owned()
                } else {
                    format!("{} members", living.len())
                },
            ));
        }
        let safe = self.folder.saved().is_none_or(|saved| saved.safe_to_bootstrap);
        (!safe && !order.force).then(|| {
            format!(
                "not begun: {} says that this node did not leave its cluster last, so another one may know more. \
                 `dialtone galera-recover` tells which; begin there, or with --force here",
                self.folder.path().join("grastate.dat").display()
            )
        })
    }

    fn order_file(&self) -> Option<Order> {
        let text = fs::read_to_string(self.config.keep.join(ORDER_FILE)).ok()?;
        Some(Order { force: text.trim() == FORCE, from_file: true })
    }

    /// An order holds once.
    fn end_order(&mut self) {
        self.order = None;
        match fs::remove_file(self.config.keep.join(ORDER_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "cannot remove the file that orders to begin a cluster");
            }
            _ => {}
        }
    }

    /// How far the data came. After a crash only the server itself can tell.
    async fn recover(&self) -> Result<Option<Position>, Error> {
        let Some(saved) = self.folder.saved() else { return Ok(None) };
        if saved.position.is_some() || saved.cluster.is_none() {
            return Ok(saved.position);
        }
        let log = self.config.keep.join("recovered.log");
        let _ = fs::remove_file(&log);
        let mut command = self.config.command.clone();
        command.push("--wsrep-recover".into());
        command.push("--wsrep-cluster-address=gcomm://".into());
        command.push(format!("--log-error={}", log.display()).into());
        let code = start(&command)?.exited().await;
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let found = said.lines().rev().find_map(|line| line.split_once("Recovered position:"));
        match found {
            // A position outside of any cluster: everything has to be copied.
            Some((_, position)) => Ok(position.parse().ok()),
            None => Err(Error::Unavailable(format!(
                "the server does not tell how far its data came (exit code {code}); see {}",
                log.display()
            ))),
        }
    }

    /// To be called often. Remembers the others, tells them where this node stands while it is not in service, and
    /// finds out whether its server has to be started anew.
    pub fn look(&mut self, now: Instant, in_service: bool) -> Option<Action> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return None;
        }
        self.looked = Some(now);
        let living = self.others();
        let known = self.known(&living);
        if let Err(error) = self.peers.see(&known) {
            tracing::warn!(%error, "cannot remember the members of the pool");
        }
        let order = self.order_file();
        if in_service {
            (self.served, self.out_since, self.successor_since) = (true, None, None);
            self.alone_since = None;
            self.withdraw();
            if order.is_some() {
                self.end_order();
                tracing::error!("not begun: this node is in service");
            }
            return None;
        }
        let out_since = *self.out_since.get_or_insert(now);
        if now.duration_since(out_since) >= OUT {
            self.tell();
        }
        if order.is_some() {
            return Some(Action::Restart("there is an order to begin a cluster"));
        }
        if !living.is_empty() {
            self.successor_since = None;
            // Found no cluster since it was started, although there is one.
            let alone = !self.served && self.folder.component() == self.began_at;
            let since = *self.alone_since.get_or_insert(now);
            if !alone {
                self.alone_since = None;
                return None;
            }
            let strangers = !living.iter().any(|address| self.told.contains(address));
            let limit = if strangers { OUT } else { STUCK };
            return (now.duration_since(since) >= limit)
                .then_some(Action::Restart("the server does not find those who are in the pool"));
        }
        self.alone_since = None;
        let mine = self.config.resume
            && matches!(self.members.borrow().freshness, Freshness::Fresh | Freshness::Absent)
            && successor(&notices(&self.waiting.borrow())) == Some(self.config.pe_id);
        if !mine {
            self.successor_since = None;
            return None;
        }
        let since = *self.successor_since.get_or_insert(now);
        let (notice, _) = self.notice.as_ref()?;
        (now.duration_since(since) >= SETTLED)
            .then(|| notice.component.clone().map(Action::Resume))
            .flatten()
    }

    /// Keeps what the others are told true.
    fn tell(&mut self) {
        if self.withdrawn.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.withdrawn = None;
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let notice = Notice {
            address: self.config.address,
            position: reached.or_else(|| self.position.clone()),
            component: self.folder.component(),
        };
        if self.notice.as_ref().is_some_and(|(told, _)| *told == notice) {
            return;
        }
        let transport = Transport::Opaque(notice.encode().into_bytes().into());
        let element = ElementConfig::new(self.waiting_pool.clone(), self.config.pe_id, transport);
        // Busy now, not for ever: there is a next look.
        if let Ok(registration) = self.elements.register(element) {
            let (told, registrations) =
                self.notice.get_or_insert_with(|| (notice.clone(), Vec::new()));
            *told = notice;
            registrations.push(registration);
        }
    }

    fn withdraw(&mut self) {
        if let Some((_, mut registrations)) = self.notice.take()
            && let Some(last) = registrations.pop()
        {
            self.withdrawn = Some(tokio::spawn(async move {
                let confirmed = last.deregister().await;
                drop(registrations);
                confirmed
            }));
        }
    }

    /// The other members of the pool.
    fn others(&self) -> Vec<SocketAddr> {
        addresses(&self.members.borrow(), Some(self.config.pe_id))
            .into_iter()
            .filter(|address| *address != self.config.address)
            .collect()
    }
}

fn start(command: &[OsString]) -> Result<Server, Error> {
    Server::start(command)
        .map_err(|error| Error::Unavailable(format!("cannot start the command: {error}")))
}

fn shown(position: &Option<Position>) -> String {
    position.as_ref().map_or("none".to_owned(), Position::to_string)
}

fn in_folder(config: &Config, error: io::Error) -> Error {
    Error::Unavailable(format!("{}: {error}", config.keep.display()))
}

fn in_data(config: &Config, error: io::Error) -> Error {
    Error::Unavailable(format!("{}: {error}", config.data.display()))
}

#[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
fn clock() -> Instant {
    Instant::now()
}
