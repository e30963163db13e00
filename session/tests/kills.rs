//! A hundred elements are killed under their users, and no count is lost.
//!
//! Elements are processes of their own: this program again, told by its environment to be one. Registrar and users live
//! in the test. Elements hesitate between cookie and answer, so that many die just there.

#[path = "../examples/counter.rs"]
#[allow(dead_code, reason = "the example is a program of its own as well")]
mod counter;

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dialtone_daemon::CancellationToken;
use dialtone_handlespace::Handle;
use dialtone_keys::Keys;
use dialtone_session::{Client, UserConfig};
use dialtone_wire::PeId;
use support::{LIMIT, NameService, members, now};
use tokio::time::timeout;

const ELEMENT: &str = "DIALTONE_TEST_COUNTER";
const ELEMENTS: u32 = 4;
const USERS: u32 = 6;
const KILLS: u32 = 100;

/// Not a test: the process that is killed.
#[test]
#[ignore = "started by the test below"]
fn element_process() {
    let Ok(settings) = std::env::var(ELEMENT) else { return };
    let settings: Vec<&str> = settings.split(' ').collect();
    let [registrar, address, pe_id, keys] = settings[..] else { panic!("{settings:?}") };
    let pe_id = PeId(pe_id.parse().unwrap());
    let hesitate = Duration::from_millis(u64::from(pe_id.0));
    let element =
        counter::element(registrar, address.parse().unwrap(), pe_id, Path::new(keys), hesitate);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(element).unwrap();
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The element processes; they die with this.
struct Servers {
    registrar: String,
    keys: PathBuf,
    running: BTreeMap<PeId, Child>,
}

impl Servers {
    fn start(&mut self, pe_id: PeId) {
        let address = IpAddr::from([127, 203, 1, 10 + pe_id.0 as u8]);
        let keys = self.keys.display();
        let settings = format!("{} {address} {} {keys}", self.registrar, pe_id.0);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["element_process", "--exact", "--ignored", "--nocapture"])
            .env(ELEMENT, settings)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running.insert(pe_id, child);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_count_is_lost_over_a_hundred_kills() {
    let folder = std::env::temp_dir().join(format!("dialtone-kills-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    let keys = folder.0.join("keys");
    Keys::create(&keys).unwrap();

    let names = NameService::start(1).await;
    let pool: Handle = counter::POOL.parse().unwrap();
    let mut servers =
        Servers { registrar: names.registrar.clone(), keys, running: BTreeMap::new() };
    for n in 1..=ELEMENTS {
        servers.start(PeId(n));
    }
    let mut agent = names.user(2).await;
    let socket = agent.take_sessions().unwrap();
    let client = Client::start(socket, agent.handle(), UserConfig::default()).unwrap();
    members(&agent.handle(), &pool, ELEMENTS).await;

    let (ledger, stop) = (Arc::<Ledger>::default(), CancellationToken::new());
    let users: Vec<_> = (0..USERS)
        .map(|n| tokio::spawn(user(n, client.clone(), Arc::clone(&ledger), stop.clone())))
        .collect();
    let mut random = fastrand::Rng::with_seed(1);
    let begun = now();
    for kill in 0..KILLS {
        members(&agent.handle(), &pool, ELEMENTS).await;
        // Some requests later, at a moment that has nothing to do with them.
        let wanted = ledger.answered.load(Ordering::SeqCst) + u64::from(USERS);
        let deadline = now() + LIMIT;
        // Every kill hits a session: the one before has moved.
        while ledger.answered.load(Ordering::SeqCst) < wanted
            || ledger.moves.load(Ordering::SeqCst) < USERS + kill
        {
            assert!(now() < deadline, "nothing is answered after kill {kill}");
            assert!(!users.iter().any(|user| user.is_finished()), "a user has failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.u64(..10_000))).await;
        let victim = ledger.at.lock().unwrap()[&random.u32(..USERS)];
        servers.kill(victim);
        servers.start(victim);
    }
    let took = begun.elapsed();
    stop.cancel();
    let mut counted = 0;
    for user in users {
        counted += user.await.unwrap();
    }
    let (answered, moves) =
        (ledger.answered.load(Ordering::SeqCst), ledger.moves.load(Ordering::SeqCst));
    let repeated = ledger.repeated.load(Ordering::SeqCst);
    println!(
        "{KILLS} kills in {:.1} s: {counted} requests, {} fail-overs, {repeated} answered from the cookie",
        took.as_secs_f64(),
        moves - USERS,
    );
    assert_eq!(counted, answered);
    assert!(moves - USERS >= KILLS, "every kill hit a session");
    assert!(repeated > 0, "no element died between cookie and answer");
    let counters = client.counters().user;
    assert_eq!(counters.failovers, u64::from(moves - USERS));

    drop(servers);
    agent.stop().await;
    names.stop().await;
}
