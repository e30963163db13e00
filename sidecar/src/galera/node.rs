//! One node: with what it is started, and when it has to be started anew.
//!
//! It joins the members of its pool, or those that it remembers when there are none. It begins a cluster by order only:
//! `--bootstrap`, the file `bootstrap` in its data folder (`dialtone galera-recover` writes it), or, after a full stop
//! and if `--resume` allows that, by what [`super::standstill`] finds and [`super::vote`] allows.

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
use dialtone_pool_element::PoolElement;
use dialtone_pool_user::{Freshness, PoolUser, View};
use dialtone_wire::PeId;
use tokio::{sync::watch, time::sleep};

use super::{
    LOOK, REGISTRAR, addresses,
    beginnings::{Beginning, Beginnings},
    begun, begun_pool,
    board::Board,
    disk::{Component, DataFolder, Position},
    group_address, notices,
    peers::Peers,
    standstill::{Notice, successor},
    vote::{BallotBox, Outcome, Vote, choice, elected},
    waiting_pool,
};
use crate::child::Server;

/// The file that orders a node to begin a cluster; it is gone when the order was carried out or refused.
pub const ORDER_FILE: &str = "bootstrap";

/// What an order file says when it is to be followed although others may know more.
pub const FORCE: &str = "force";

/// How long a pool may name members that have just died before an order to bootstrap is refused for them.
const MEMBERS_FADE: Duration = Duration::from_secs(5);

/// How long an empty pool has to stay so before a node that knows of others begins a cluster by order: after the start
/// of a registrar it is empty until the others have noticed.
const EMPTY: Duration = Duration::from_secs(2);

/// How long a registrar may take to note where a cluster is begun.
const HEARD: Duration = Duration::from_secs(2);

/// How long a node is out of service before it tells the others.
const OUT: Duration = Duration::from_secs(1);

/// How long a node that joins looks whether others do, and how long it waits for them at most.
pub(super) const TURN: Duration = Duration::from_millis(300);
pub(super) const TURN_MAX: Duration = Duration::from_secs(6);

/// How long a server may look for a cluster that it knows the members of. Galera sometimes does not let a node in that
/// was in touch with another one that died.
const STUCK: Duration = Duration::from_secs(5);

/// The same when another node goes on from the component of both.
const MERGED: Duration = Duration::from_secs(3);

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

/// What the check of the running server last read.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub position: Option<Position>,
    /// It is in a primary component: that lives, though it may not serve, as when everything is copied to another node.
    pub primary: bool,
}

/// The same for the check, which writes it, and the node.
pub type Reached = Arc<Mutex<Reach>>;

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
    vote: BallotBox,
    beginnings: Beginnings,
    members: watch::Receiver<Arc<View>>,
    waiting: watch::Receiver<Arc<View>>,
    begun: watch::Receiver<Arc<View>>,
    reached: Reached,
    /// From the disk, at the last start.
    position: Option<Position>,
    /// Whom the server was told of at its last start.
    told: Vec<SocketAddr>,
    /// It has been in service since its last start.
    served: bool,
    /// The last component when the server was started; another one since then means that it found a cluster.
    began_at: Option<Component>,
    /// Where this node tells how far it came, and where its cluster was begun.
    notice: Board,
    history: Board,
    looked: Option<Instant>,
    out_since: Option<Instant>,
    /// Since when this node would note the same one.
    successor_since: Option<(PeId, Instant)>,
    elected_since: Option<Instant>,
    /// The server was started to begin a cluster.
    begins: bool,
    alone_since: Option<Instant>,
}

impl Node {
    pub fn new(
        config: Config,
        elements: PoolElement,
        user: &PoolUser,
        reached: Reached,
    ) -> Result<Self, Error> {
        let too_long = || Error::Usage(format!("--pool {}: too long", config.pool));
        let waiting_pool = waiting_pool(&config.pool).ok_or_else(too_long)?;
        let begun_pool = begun_pool(&config.pool).ok_or_else(too_long)?;
        let peers = Peers::load(&config.keep).map_err(|error| in_folder(&config, error))?;
        let vote = BallotBox::load(&config.keep).map_err(|error| in_folder(&config, error))?;
        let beginnings =
            Beginnings::load(&config.keep).map_err(|error| in_folder(&config, error))?;
        Ok(Self {
            folder: DataFolder::new(config.data.clone()),
            peers,
            order: config.bootstrap.then_some(Order { force: config.force, from_file: false }),
            vote,
            beginnings,
            members: user.watch(&config.pool).map_err(Error::other)?,
            waiting: user.watch(&waiting_pool).map_err(Error::other)?,
            begun: user.watch(&begun_pool).map_err(Error::other)?,
            notice: Board::new(elements.clone(), waiting_pool, config.pe_id),
            history: Board::new(elements, begun_pool, config.pe_id),
            reached,
            position: None,
            told: Vec::new(),
            served: false,
            began_at: None,
            looked: None,
            out_since: None,
            successor_since: None,
            elected_since: None,
            begins: false,
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
        (self.elected_since, self.begins) = (None, false);
        self.settle();
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Reach::default();
        self.position = self.recover().await?;
        let resumes = match resume {
            Some(component) => self.still_stands(component).await,
            None => false,
        };
        let plan = if resumes { Plan::Bootstrap } else { self.plan().await? };
        if !resumes && matches!(plan, Plan::Bootstrap) {
            // Whoever gave the order has decided.
            self.vote.put(None).map_err(|error| in_folder(&self.config, error))?;
        }
        if self.position.is_none() {
            // It may have waited for long, and somebody may have put data there.
            self.position = self.recover().await?;
        }
        let mut command = self.config.command.clone();
        match &plan {
            Plan::Bootstrap => {
                tracing::warn!(position = %shown(&self.position), "beginning a cluster from this node");
                self.note_beginning(resumes).await?;
                self.begins = true;
                self.folder.allow_bootstrap().map_err(|error| in_data(&self.config, error))?;
                self.told.clear();
                command.push("--wsrep-cluster-address=gcomm://".into());
                command.push("--wsrep-new-cluster".into());
            }
            Plan::Join(known) => {
                self.history.withdraw();
                self.check_history()?;
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
            let stands = self.component().as_ref() == Some(component) && self.is_elected();
            if !stands {
                tracing::warn!("the cluster goes on by itself: joining it");
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Before a cluster is begun from what is here: nobody else begins from there, and who joins knows of it.
    async fn note_beginning(&mut self, resumes: bool) -> Result<(), Error> {
        let failed = |error| in_folder(&self.config, error);
        if resumes && let Some(vote) = self.vote.vote().cloned() {
            self.vote.put(Some(Vote { begun: true, ..vote })).map_err(failed)?;
        }
        if let Some(position) = self.position.clone() {
            let beginning = Beginning { position, id: fastrand::u64(..) };
            self.beginnings.learn(&[beginning]).map_err(failed)?;
        }
        if let Some(text) = self.beginnings.encode() {
            self.history.tell(text);
            if !self.history.is_heard(HEARD).await {
                tracing::warn!("no registrar has noted where the cluster is begun");
            }
        }
        Ok(())
    }

    /// Where a cluster was begun that this node's data, as it is on the disk, goes past.
    fn has_missed(&self) -> Option<Beginning> {
        let told = begun(&self.begun.borrow(), self.config.pe_id);
        self.beginnings.missed(self.position.as_ref()?, &told).cloned()
    }

    /// Before a cluster is joined: a node that has what the cluster went on without takes everything from the others,
    /// who serve: nothing is removed for one that may never do.
    fn check_history(&mut self) -> Result<(), Error> {
        // A cluster that it began itself, which nobody came to, while others serve.
        let has_begun = self.vote.vote().is_some_and(|vote| vote.begun);
        let is_left = has_begun && !self.others().is_empty();
        let told = begun(&self.begun.borrow(), self.config.pe_id);
        let missed = self.has_missed();
        if missed.is_some() && self.others().is_empty() {
            return Err(Error::Unavailable(
                "a cluster is begun without the last transactions of this node, and does not serve yet".to_owned(),
            ));
        }
        if missed.is_some() || is_left {
            match missed {
                Some(missed) => tracing::warn!(
                    position = %shown(&self.position),
                    begun = %missed,
                    "the cluster went on without the last transactions of this node: they are given up, and everything is copied"
                ),
                None => tracing::warn!(
                    position = %shown(&self.position),
                    "others serve, who did not come to the cluster that was begun here: everything is copied"
                ),
            }
            self.folder.forget().map_err(|error| in_data(&self.config, error))?;
            self.position = None;
        }
        if is_left {
            self.vote.put(None).map_err(|error| in_folder(&self.config, error))?;
        }
        self.beginnings.learn(&told).map_err(|error| in_folder(&self.config, error))
    }

    /// Whom to join, or that a cluster shall begin here.
    async fn plan(&mut self) -> Result<Plan, Error> {
        let began = clock();
        let mut joining = None;
        let mut said = String::new();
        loop {
            let waited = clock().duration_since(began);
            let unknown = [&self.members, &self.begun]
                .iter()
                .any(|view| view.borrow().freshness == Freshness::Unknown);
            let living = self.others();
            let order = self.order.or_else(|| self.order_file());
            let text = match order {
                Some(_) if unknown => {
                    "waiting for a registrar: whether the cluster lives must be known before one is begun".to_owned()
                }
                Some(order) => match self.objection(order, &living) {
                    None if waited < EMPTY && !self.peers.known().is_empty() => String::new(),
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
                    } else if living.is_empty() && self.has_missed().is_some() {
                        "waiting: a cluster is begun without the last transactions of this node. They are given up when it serves, \
                         not before; `dialtone galera-recover --data-dir FOLDER --force` begins here instead"
                            .to_owned()
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
        let saved = self.folder.saved();
        if saved.is_none()
            && !order.force
            && let [first, ..] = self.peers.known()
        {
            return Some(format!(
                "not begun: there is no data here, but other nodes were seen before ({first}), which may have some. \
                 Start them, and this node without --bootstrap; for a new cluster without their data, begin with --force"
            ));
        }
        let safe = saved.is_none_or(|saved| saved.safe_to_bootstrap);
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
        self.settle();
        let order = self.order_file();
        if in_service {
            (self.served, self.out_since, self.successor_since) = (true, None, None);
            (self.alone_since, self.begins) = (None, false);
            self.notice.withdraw();
            let told = begun(&self.begun.borrow(), self.config.pe_id);
            if let Err(error) = self.beginnings.learn(&told) {
                tracing::warn!(%error, "cannot note where the cluster was begun");
            }
            if let Some(text) = self.beginnings.encode() {
                self.history.tell(text);
            }
            if order.is_some() {
                self.end_order();
                tracing::error!("not begun: this node is in service");
            }
            return None;
        }
        if self.is_past_beginning() {
            return Some(Action::Restart("the cluster went on without what this node has"));
        }
        let out_since = *self.out_since.get_or_insert(now);
        if now.duration_since(out_since) >= OUT {
            self.tell();
        }
        if order.is_some() {
            return Some(Action::Restart("there is an order to begin a cluster"));
        }
        let successor = self.begun_successor().filter(|_| living.is_empty());
        if !living.is_empty() || successor.is_some() {
            self.successor_since = None;
            // Found no cluster since it was started, although there is one.
            let found = self.folder.component();
            let alone = self.has_begun()
                || (successor.is_some() && found == self.component())
                || (!self.served && found == self.began_at);
            let since = *self.alone_since.get_or_insert(now);
            if !alone {
                self.alone_since = None;
                return None;
            }
            let mut there = living.iter().chain(&successor);
            let strangers = !there.any(|address| self.told.contains(address));
            let limit = match successor {
                _ if strangers && !self.has_begun() => OUT,
                Some(_) => MERGED,
                None => STUCK,
            };
            return (now.duration_since(since) >= limit)
                .then_some(Action::Restart("the server does not find those who are there"));
        }
        self.alone_since = None;
        if self.is_primary() {
            (self.successor_since, self.elected_since) = (None, None);
            return None;
        }
        self.choose(now);
        let mine = self.config.resume && self.is_elected();
        if !mine || self.begins {
            self.elected_since = None;
            return None;
        }
        let since = *self.elected_since.get_or_insert(now);
        (now.duration_since(since) >= LOOK).then(|| self.component().map(Action::Resume)).flatten()
    }

    /// Notes whom this node lets go on, when nothing has changed for a while.
    fn choose(&mut self, now: Instant) {
        let Some(component) = self.component().filter(|_| self.is_answered()) else {
            self.successor_since = None;
            return;
        };
        let all = notices(&self.waiting.borrow());
        let noted = self.vote.vote().filter(|vote| vote.component == component);
        let Some(candidate) = choice(self.config.pe_id, &component, noted, &all) else {
            self.successor_since = None;
            return;
        };
        if noted.is_some_and(|vote| vote.candidate == candidate) {
            return;
        }
        let (for_whom, since) = *self.successor_since.get_or_insert((candidate, now));
        if for_whom != candidate {
            self.successor_since = Some((candidate, now));
        } else if now.duration_since(since) >= SETTLED {
            tracing::info!(candidate = %format_args!("{:#010x}", candidate.0), component = component.id, "may go on from the last component");
            self.note_vote(Some(Vote { component, candidate, begun: false }));
            self.tell();
        }
    }

    /// Whether this node may go on from its component now.
    fn is_elected(&self) -> bool {
        let all = notices(&self.waiting.borrow());
        let me = Some(self.config.pe_id);
        let noted = self.vote.vote().map(|vote| vote.candidate);
        self.is_answered()
            && self.others().is_empty()
            && noted == me
            && elected(&all) == me
            && (self.has_begun() || successor(&all) == me)
    }

    /// Whether what the pools say is what a registrar says now.
    fn is_answered(&self) -> bool {
        matches!(self.members.borrow().freshness, Freshness::Fresh | Freshness::Absent)
    }

    /// It went on from its component, and a majority of that has not come yet.
    fn has_begun(&self) -> bool {
        self.vote.vote().is_some_and(|vote| vote.begun)
    }

    /// Whether the node may not serve yet: it noted who goes on from its component, and is not together with a majority
    /// of that.
    pub fn is_bound(&self) -> bool {
        self.vote.vote().is_some_and(|vote| {
            let found = self.folder.component();
            // Galera itself sees to it that a component in which the node has been all the time has a majority.
            found.as_ref() != Some(&vote.component) && vote.outcome(found.as_ref()) == Outcome::Open
        })
    }

    /// Forgets a vote after which nothing more can come.
    fn settle(&mut self) {
        let Some(vote) = self.vote.vote() else { return };
        if vote.outcome(self.folder.component().as_ref()) == Outcome::Settled {
            self.note_vote(None);
        }
    }

    /// Where the one stands that goes on from this node's component, once it has begun.
    fn begun_successor(&self) -> Option<SocketAddr> {
        let candidate = self.vote.vote()?.candidate;
        let begun = self.begun.borrow().members.iter().any(|member| member.pe_id == candidate);
        let all = notices(&self.waiting.borrow());
        let notice = all.get(&candidate).filter(|_| begun && candidate != self.config.pe_id);
        notice.map(|notice| notice.address)
    }

    /// The component at which the node stands. What was begun from it does not count until a majority has come.
    fn component(&self) -> Option<Component> {
        let found = self.folder.component();
        let Some(vote) = self.vote.vote() else { return found };
        let ended_in_order = || self.folder.saved().is_some_and(|saved| saved.position.is_some());
        match (&found, vote.outcome(found.as_ref())) {
            (Some(_), Outcome::Open) => Some(vote.component.clone()),
            (None, Outcome::Open) if vote.begun && !ended_in_order() => {
                Some(vote.component.clone())
            }
            _ => found,
        }
    }

    fn note_vote(&mut self, vote: Option<Vote>) {
        if let Err(error) = self.vote.put(vote) {
            tracing::error!(%error, "cannot note who may go on from the last component");
        }
    }

    fn reached(&self) -> Option<Position> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).position.clone()
    }

    fn is_primary(&self) -> bool {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).primary
    }

    /// Whether the cluster that others began lacks something of what is here. If it does not, this node may join it, and
    /// is then past its beginning.
    fn is_past_beginning(&mut self) -> bool {
        let Some(position) = self.reached().or_else(|| self.position.clone()) else { return false };
        let told = begun(&self.begun.borrow(), self.config.pe_id);
        let is_past = self.beginnings.missed(&position, &told).is_some();
        if !is_past && let Err(error) = self.beginnings.learn(&told) {
            tracing::warn!(%error, "cannot note where the cluster was begun");
        }
        is_past && !self.begins
    }

    /// Keeps what the others are told true.
    fn tell(&mut self) {
        let component = self.component();
        let vote = self.vote.vote().filter(|vote| Some(&vote.component) == component.as_ref());
        let notice = Notice {
            address: self.config.address,
            position: self.reached().or_else(|| self.position.clone()),
            vote: vote.map(|vote| vote.candidate),
            component,
        };
        self.notice.tell(notice.encode());
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
