//! A hundred elements are killed under their users, and no count is lost.
//!
//! Elements are processes of their own, the example. Registrar and users live in the test. Elements hesitate between
//! cookie and answer, so that many die just there.

#[path = "../examples/counter.rs"]
#[allow(dead_code, reason = "the example is a program of its own as well")]
mod counter;

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dialtone_asap_client::Agent;
use dialtone_daemon::CancellationToken;
use dialtone_keys::Keys;
use dialtone_pool_user::Users;
use dialtone_session::{Client, UserConfig};
use dialtone_wire::PeId;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::{LIMIT, NameService, Net, example, members, now};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const ELEMENTS: u32 = 4;
const USERS: u32 = 6;
const KILLS: u32 = 100;
const KILLS_OVER_IPV6: u32 = 20;
const FREEZES: u32 = 5;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The element processes; they die with this.
struct Servers {
    program: PathBuf,
    net: Net,
    registrar: String,
    keys: PathBuf,
    running: BTreeMap<PeId, Child>,
}

impl Servers {
    fn start(&mut self, pe_id: PeId) {
        let address = self.net.address(10 + pe_id.0 as u8).to_string();
        let (number, keys) = (pe_id.0.to_string(), self.keys.to_str().unwrap());
        // Also when the test itself is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .args(["element", &self.registrar, &address, &number, keys, &number])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running.insert(pe_id, child);
    }

    fn signal(&self, pe_id: PeId, signal: Signal) {
        let pid = Pid::from_raw(self.running[&pe_id].id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn kill(&mut self, pe_id: PeId) {
        let mut child = self.running.remove(&pe_id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where each user is, and what has happened to all.
#[derive(Default)]
struct Ledger {
    at: Mutex<BTreeMap<u32, PeId>>,
    answered: AtomicU64,
    repeated: AtomicU64,
    moves: AtomicU32,
}

async fn user(n: u32, client: Client, ledger: Arc<Ledger>, stop: CancellationToken) -> u64 {
    let mut session = client.open(&counter::POOL.parse().unwrap()).await.unwrap();
    let mut request = 0;
    while !stop.is_cancelled() {
        request += 1;
        let moved = |element| {
            ledger.at.lock().unwrap().insert(n, element);
            ledger.moves.fetch_add(1, Ordering::SeqCst);
        };
        let counted = timeout(LIMIT, counter::count(&mut session, request, moved));
        let answer = counted.await.expect("no answer").expect("a request failed");
        assert_eq!(answer.count, request, "user {n}: lost, or counted twice");
        ledger.answered.fetch_add(1, Ordering::SeqCst);
        ledger.repeated.fetch_add(u64::from(answer.repeated), Ordering::SeqCst);
    }
    request
}

/// Elements, users that count, and what they need.
struct Arena {
    names: NameService,
    servers: Servers,
    agent: Agent<Users>,
    client: Client,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    users: Vec<JoinHandle<u64>>,
    _folder: Folder,
}

impl Arena {
    async fn start(names: NameService) -> Self {
        let (net, process) = (names.net, std::process::id());
        let folder =
            std::env::temp_dir().join(format!("dialtone-kills-{process}-{}", net.address(1)));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = Folder(folder);
        let keys = folder.0.join("keys");
        Keys::create(&keys).unwrap();

        let registrar = names.registrar.clone();
        let running = BTreeMap::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/counter.rs");
        let program = example::counter(&source);
        let mut servers = Servers { program, net, registrar, keys, running };
        for n in 1..=ELEMENTS {
            servers.start(PeId(n));
        }
        let mut agent = names.user(2).await;
        let socket = agent.take_sessions().unwrap();
        let client = Client::start(socket, agent.handle(), UserConfig::default()).unwrap();
        members(&agent.handle(), &counter::POOL.parse().unwrap(), ELEMENTS).await;

        let (ledger, stop) = (Arc::<Ledger>::default(), CancellationToken::new());
        let users = (0..USERS)
            .map(|n| tokio::spawn(user(n, client.clone(), Arc::clone(&ledger), stop.clone())))
            .collect();
        Self { names, servers, agent, client, ledger, stop, users, _folder: folder }
    }

    /// Until every fault so far has made a session fail over, and some more requests were answered since.
    async fn settle(&self, faults: u32) {
        members(&self.agent.handle(), &counter::POOL.parse().unwrap(), ELEMENTS).await;
        let wanted = self.ledger.answered.load(Ordering::SeqCst) + u64::from(USERS);
        let deadline = now() + LIMIT;
        while self.ledger.answered.load(Ordering::SeqCst) < wanted
            || self.ledger.moves.load(Ordering::SeqCst) < USERS + faults
        {
            assert!(now() < deadline, "nothing is answered after fault {faults}");
            assert!(!self.users.iter().any(JoinHandle::is_finished), "a user has failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// An element that serves somebody.
    fn victim(&self, random: &mut fastrand::Rng) -> PeId {
        self.ledger.at.lock().unwrap()[&random.u32(..USERS)]
    }

    /// Until no user is at this element any more; how long that took.
    async fn left(&self, victim: PeId) -> Duration {
        let begun = now();
        while self.ledger.at.lock().unwrap().values().any(|at| *at == victim) {
            assert!(begun.elapsed() < LIMIT, "the element is not left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Has the users finish, and checks what they were told; requests, fail-overs, requests answered from the cookie.
    async fn end(self, faults: u32) -> (u64, u32, u64) {
        self.stop.cancel();
        let mut counted = 0;
        for user in self.users {
            counted += user.await.unwrap();
        }
        let failovers = self.ledger.moves.load(Ordering::SeqCst) - USERS;
        assert_eq!(counted, self.ledger.answered.load(Ordering::SeqCst));
        assert!(failovers >= faults, "{failovers} fail-overs by {faults} faults");
        assert_eq!(self.client.counters().user.failovers, u64::from(failovers));
        drop(self.servers);
        self.agent.stop().await;
        self.names.stop().await;
        (counted, failovers, self.ledger.repeated.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_count_is_lost_over_a_hundred_kills() {
    let mut arena = Arena::start(NameService::start(1).await).await;
    let mut random = fastrand::Rng::with_seed(1);
    let begun = now();
    for kill in 0..KILLS {
        arena.settle(kill).await;
        // At a moment that has nothing to do with the requests.
        tokio::time::sleep(Duration::from_micros(random.u64(..10_000))).await;
        let victim = arena.victim(&mut random);
        arena.servers.kill(victim);
        arena.servers.start(victim);
    }
    arena.settle(KILLS).await;
    let took = begun.elapsed().as_secs_f64();
    let (requests, failovers, repeated) = arena.end(KILLS).await;
    println!(
        "{KILLS} kills in {took:.1} s: {requests} requests, {failovers} fail-overs, {repeated} answered from the cookie"
    );
    assert!(repeated > 0, "no element died between cookie and answer");
}

/// Nobody starts a killed element again before it is left: only ICMP says that it is gone, and over IPv6 by messages of
/// its own. Without them it takes 4.3 s, until SCTP gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_count_is_lost_over_ipv6() {
    let Some(names) = NameService::over_ipv6().await else { return };
    let mut arena = Arena::start(names).await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS_OVER_IPV6 {
        arena.settle(kill).await;
        let victim = arena.victim(&mut random);
        arena.servers.kill(victim);
        slowest = slowest.max(arena.left(victim).await);
        arena.servers.start(victim);
    }
    arena.settle(KILLS_OVER_IPV6).await;
    let (requests, failovers, _) = arena.end(KILLS_OVER_IPV6).await;
    println!(
        "{KILLS_OVER_IPV6} kills: {requests} requests, {failovers} fail-overs, the slowest {slowest:.1?}"
    );
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}

/// A frozen element sends no sign of its end, and comes back with what it had under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_element_is_left_and_does_no_harm_when_it_goes_on() {
    let arena = Arena::start(NameService::start(7).await).await;
    let mut random = fastrand::Rng::with_seed(2);
    let mut slowest = Duration::ZERO;
    for freeze in 0..FREEZES {
        arena.settle(freeze).await;
        let victim = arena.victim(&mut random);
        arena.servers.signal(victim, Signal::SIGSTOP);
        slowest = slowest.max(arena.left(victim).await);
        arena.servers.signal(victim, Signal::SIGCONT);
    }
    arena.settle(FREEZES).await;
    let (requests, failovers, _) = arena.end(FREEZES).await;
    println!(
        "{FREEZES} freezes: {requests} requests, {failovers} fail-overs, the slowest {slowest:.1?}"
    );
    assert!(slowest < Duration::from_secs(6), "{slowest:?}");
}
