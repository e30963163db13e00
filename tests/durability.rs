//! kill -9 of a stand-alone proxy while phones register, over and over: every registration that was acknowledged is
//! there afterwards.
//!
//! Larger by environment: `DIALTONE_DURABILITY_KILLS` (20).

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::Duration,
};

use dialtone::launcher::{Exclusive, Slice, wait_for};
use dialtone_bench::{
    load::{Load, LoadConfig},
    phone::Transport,
};

/// REGISTERs per second.
const RATE: f64 = 400.0;

/// The longest time between two kills.
const APART_MS: u64 = 800;

/// A proxy that phones reach without a gateway; killed when dropped.
struct Proxy {
    folder: PathBuf,
    process: Child,
}

impl Proxy {
    fn start(folder: &Path, address: IpAddr, edge: SocketAddr) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "data_dir = {:?}\nkey_file = {:?}\nlocation_db = {:?}\naddress = \"{address}\"\ncore = \"{address}:5060\"\n\
             domains = [\"dialtone.test\"]\n[edge]\nudp = \"{edge}\"\n",
            file("data"),
            file("keys"),
            file("location.db"),
        );
        fs::write(folder.join("proxy.toml"), config).unwrap();
        Self { process: Self::launch(folder), folder: folder.to_owned() }
    }

    fn launch(folder: &Path) -> Child {
        let ready = folder.join("ready.json");
        let _ = fs::remove_file(&ready);
        let log =
            fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["sip-proxy", "--die-with-parent", "--config"])
            .arg(folder.join("proxy.toml"))
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let in_service = wait_for(Duration::from_secs(20), || {
            assert_eq!(process.try_wait().unwrap(), None, "it runs");
            ready.exists().then_some(())
        });
        assert!(in_service.is_some());
        process
    }

    fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::launch(&self.folder);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn acknowledged_registrations_survive_kills() {
    let _turn = Exclusive::wait().unwrap();
    let kills = std::env::var("DIALTONE_DURABILITY_KILLS");
    let kills: u32 = kills.ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let slice = Slice::any_free().unwrap();
    let folder = std::env::temp_dir().join(format!("dialtone-durability-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let edge = SocketAddr::new(slice.host(41), 5062);
    let mut proxy = Proxy::start(&folder, slice.host(41), edge);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Each phone registers once: what is read back is not what an earlier registration left.
    let phones = |n: u32| LoadConfig {
        domain: "dialtone.test".to_owned(),
        source: slice.host(200),
        transport: Transport::Udp,
        callee_gateway: edge,
        caller_gateway: edge,
        callees: RATE as usize / 2,
        callers: 0,
        prefix: format!("round{n}-"),
        expires: 3600,
        seed: 1,
    };
    let killing = AtomicBool::new(true);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut rounds = std::thread::scope(|scope| {
        let registering = scope.spawn(|| {
            let mut rounds = Vec::new();
            runtime.block_on(async {
                while killing.load(Ordering::Relaxed) {
                    let load = Load::open(phones(rounds.len() as u32)).await.unwrap();
                    load.register(RATE, None).await;
                    rounds.push(load);
                }
            });
            rounds
        });
        // On this thread: a process goes with the thread that has started it.
        for n in 1..=kills {
            sleep(Duration::from_millis(rng.u64(..APART_MS)));
            println!("kill {n} of {kills}");
            proxy.kill_and_restart();
        }
        killing.store(false, Ordering::Relaxed);
        registering.join().unwrap()
    });
    let (mut registered, mut lost, mut sent_again) = (0, 0, 0);
    for load in &mut rounds {
        runtime.block_on(load.verify(2.0 * RATE));
        let report = load.report();
        registered += report.registers / 2;
        lost += report.bindings_lost;
        sent_again += report.retransmissions;
        // Phones send again until somebody answers.
        assert_eq!(report.failures, []);
    }
    println!(
        "{kills} kills, {registered} phones registered, {sent_again} requests sent again, {lost} lost"
    );
    assert!(registered > 100 * kills as usize / 2, "there was load: {registered}");
    assert_eq!(lost, 0);
}
