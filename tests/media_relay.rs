//! The media relay as a process: what it does with too much, with nonsense, with strangers, and when it is stopped.

#[path = "support/rtp.rs"]
#[expect(dead_code, reason = "reports are a matter of others")]
mod rtp;
#[path = "support/rtpengine.rs"]
#[expect(dead_code, reason = "rtpengine itself is a matter of others")]
mod rtpengine;

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command as Program, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dialtone::launcher::{Launcher, Layout, Slice, wait_for};
use dialtone_ng::{
    message::{AddressFamily, Command, Outcome, Reply, Request},
    report::{CallReport, Workload},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rtp::Media;
use rtpengine::NgUser;

const LIMIT: Duration = Duration::from_secs(10);

/// A relay with a configuration of a test's own, on an address of its own.
struct Relay {
    process: Child,
    folder: PathBuf,
    address: IpAddr,
    user: NgUser,
    _slice: Slice,
}

impl Relay {
    /// `more` is TOML behind the first interface.
    fn start(more: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let slice = Slice::any_free().unwrap();
        let address = slice.host(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dialtone-relay-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let toml = format!(
            "data_dir = {:?}\ncontrol = \"{address}:2223\"\nworkers = 1\n\
             [[interface]]\nname = \"default\"\nipv4 = \"{address}\"\n{}",
            folder.join("data"),
            more.replace("FOLDER", folder.to_str().unwrap()),
        );
        fs::write(folder.join("relay.toml"), toml).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = Program::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["media-relay", "--config"])
            .arg(folder.join("relay.toml"))
            .arg("--ready-file")
            .arg(folder.join("ready.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let user = NgUser::new(SocketAddr::new(address, dialtone_ng::NG_PORT));
        let mut relay = Self { process, folder, address, user, _slice: slice };
        let ready = wait_for(LIMIT, || {
            assert!(relay.process.try_wait().unwrap().is_none(), "ended:\n{}", relay.log());
            relay.folder.join("ready.json").exists().then_some(())
        });
        assert!(ready.is_some(), "not in service:\n{}", relay.log());
        relay
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// What it was asked for, or why not.
    fn try_ask(&self, request: &Request<'_>) -> Result<Vec<u8>, String> {
        let body = self.user.ask(request);
        let reply = Reply::decode(&body).unwrap();
        match reply.outcome {
            Outcome::Ok | Outcome::Pong => Ok(body),
            Outcome::Error(reason) | Outcome::LoadLimit(reason) => {
                Err(String::from_utf8_lossy(reason).into_owned())
            }
            Outcome::Other(other) => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn ask(&self, request: &Request<'_>) -> Vec<u8> {
        self.try_ask(request).unwrap_or_else(|error| panic!("{error}:\n{}", self.log()))
    }

    /// Where the other party is told to send its media.
    #[track_caller]
    fn told(&self, request: &Request<'_>) -> SocketAddr {
        rtp::audio(Reply::decode(&self.ask(request)).unwrap().sdp().unwrap())
    }

    fn sessions(&self) -> u64 {
        let body = self.ask(&Request::new(Command::Statistics));
        Workload::read(&Reply::decode(&body).unwrap().dict).unwrap().sessions
    }

    fn total(&self, name: &str) -> i64 {
        let body = self.ask(&Request::new(Command::Statistics));
        let reply = Reply::decode(&body).unwrap();
        let statistics = reply.dict.dict("statistics").unwrap();
        statistics.dict("totalstatistics").unwrap().integer(name).unwrap()
    }

    fn query(&self) -> Vec<u8> {
        self.ask(&of(Command::Query))
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Resident memory in kilobytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    fn ended(&mut self) -> Option<i32> {
        let ended = wait_for(LIMIT, || self.process.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("still runs:\n{}", self.log())).code()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- relay at {} ---\n{}", self.address, self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn of(command: Command<'static>) -> Request<'static> {
    Request { call_id: Some(b"call"), ..Request::new(command) }
}

fn offer(sdp: &str) -> Request<'_> {
    Request { from_tag: Some(b"a"), sdp: Some(sdp.as_bytes()), ..of(Command::Offer) }
}

fn answer(sdp: &str) -> Request<'_> {
    Request { to_tag: Some(b"b"), command: Command::Answer, ..offer(sdp) }
}

/// A call with media at both ends: the phones, and where each is told to send to.
fn call(relay: &Relay) -> (Media, Media, [SocketAddr; 2]) {
    let (mut alice, mut bob) = (Media::new(relay.address), Media::new(relay.address));
    let for_bob = relay.told(&offer(&alice.sdp("")));
    let for_alice = relay.told(&answer(&bob.sdp("")));
    (alice, bob, [for_alice, for_bob])
}

/// Packets get through in both directions.
#[track_caller]
fn talk(alice: &mut Media, bob: &mut Media, [for_alice, for_bob]: [SocketAddr; 2]) {
    let packets = alice.send(for_alice, 5);
    bob.expect(&packets, for_bob);
    let packets = bob.send(for_bob, 5);
    alice.expect(&packets, for_alice);
}

#[test]
fn media_follows_the_descriptions_and_strangers_are_not_heard() {
    let relay = Relay::start("");
    let (mut alice, mut bob, told) = call(&relay);
    talk(&mut alice, &mut bob, told);
    // Somebody guesses a port: no word of his gets through, nor does he hear anything.
    let mut mallory = Media::new(relay.address);
    mallory.send(told[1], 20);
    talk(&mut alice, &mut bob, told);
    alice.expect_nothing();
    mallory.expect_nothing();
    let body = relay.query();
    let report = CallReport::read(&Reply::decode(&body).unwrap().dict).unwrap();
    assert_eq!((report.rtp.packets, report.rtp.errors), (20, 20), "{report:#?}");
    // Bob moves to another address with a re-INVITE.
    let mut elsewhere = Media::new(relay.address);
    let sdp = elsewhere.sdp("");
    let moved = Request { from_tag: Some(b"b"), to_tag: Some(b"a"), ..offer(&sdp) };
    assert_eq!(relay.told(&moved), told[0], "ports stay");
    let sdp = alice.sdp("");
    let accepted = Request { from_tag: Some(b"b"), to_tag: Some(b"a"), ..answer(&sdp) };
    assert_eq!(relay.told(&accepted), told[1]);
    talk(&mut alice, &mut elsewhere, told);
    bob.expect_nothing();
    relay.ask(&of(Command::Delete));
    assert_eq!(relay.sessions(), 0);
}

#[test]
fn ipv4_talks_to_ipv6() {
    let relay = Relay::start("ipv6 = \"::1\"\n");
    let (mut alice, mut bob) = (Media::new(relay.address), Media::new("::1".parse().unwrap()));
    let sdp = alice.sdp("");
    let for_bob = relay.told(&Request { address_family: Some(AddressFamily::V6), ..offer(&sdp) });
    let for_alice = relay.told(&answer(&bob.sdp("")));
    assert!(for_bob.is_ipv6() && for_alice.is_ipv4(), "{for_bob} {for_alice}");
    talk(&mut alice, &mut bob, [for_alice, for_bob]);
}

#[test]
fn thousand_offers_without_an_answer_leave_nothing() {
    let relay = Relay::start("[timeouts]\noffer = 2\n[limits]\nsessions = 1000\n");
    let before = relay.descriptors();
    let mut alice = Media::new(relay.address);
    let sdp = alice.sdp("");
    for n in 0..1_000 {
        let id = format!("call-{n}");
        relay.ask(&Request { call_id: Some(id.as_bytes()), ..offer(&sdp) });
    }
    let gone = wait_for(LIMIT, || (relay.sessions() == 0).then_some(()));
    assert!(gone.is_some(), "{} offers are kept", relay.sessions());
    let closed = wait_for(LIMIT, || (relay.descriptors() <= before).then_some(()));
    assert!(closed.is_some(), "{} descriptors, {before} before", relay.descriptors());
    assert_eq!(relay.total("offertimeoutsessions"), 1_000);
    // And it takes calls.
    let (mut alice, mut bob, told) = call(&relay);
    talk(&mut alice, &mut bob, told);
}

#[test]
fn ports_that_run_out_are_refused_and_come_back() {
    let relay = Relay::start(
        "[ports]\nfirst = 40000\nlast = 40007\nquarantine = 1\n[limits]\nsessions = 2\n",
    );
    let sdp = Media::new(relay.address).sdp("");
    let call = |id: &'static str| Request { call_id: Some(id.as_bytes()), ..offer(&sdp) };
    relay.ask(&call("1"));
    relay.ask(&call("2"));
    assert_eq!(relay.try_ask(&call("3")).unwrap_err(), "Parallel session limit reached");
    // A second stream finds no port, and costs the first one nothing.
    let two = sdp.clone() + "m=video 9000 RTP/AVP 96\r\n";
    let more = Request { call_id: Some(b"1"), ..offer(&two) };
    assert_eq!(relay.try_ask(&more).unwrap_err(), "Ran out of ports");
    assert_eq!(relay.sessions(), 2);
    relay.ask(&Request { call_id: Some(b"2"), ..of(Command::Delete) });
    // They rest for a while.
    assert_eq!(relay.try_ask(&call("3")).unwrap_err(), "Ran out of ports");
    let taken = wait_for(LIMIT, || relay.try_ask(&call("3")).ok());
    assert!(taken.is_some());
}

#[test]
fn nonsense_is_answered_or_ignored_and_costs_nothing() {
    let relay = Relay::start("");
    let (mut alice, mut bob, told) = call(&relay);
    let memory = relay.memory();
    let socket = UdpSocket::bind((relay.address, 0)).unwrap();
    let ng = SocketAddr::new(relay.address, dialtone_ng::NG_PORT);
    let mut rng = fastrand::Rng::with_seed(7);
    // As large as datagrams can be; of it, one in five is meant to be understood.
    let largest = dialtone_ng::MAX_DATAGRAM;
    for n in 0..500_u32 {
        let mut datagram = match n % 5 {
            0 => format!("{n} d7:command5:offer3:sdp65000:v=0\r\n").into_bytes(),
            1 => format!("{n} d{}", "1:ad".repeat(10_000)).into_bytes(),
            2 => format!("{n} l{}", "i1e".repeat(20_000)).into_bytes(),
            3 => vec![b'x'; largest],
            _ => format!("{n} d7:command4:ping{}", "1:a1:b".repeat(1_000)).into_bytes(),
        };
        datagram.resize(if n % 2 == 0 { largest } else { datagram.len() }, b'e');
        for _ in 0..5 {
            let at = rng.usize(..datagram.len());
            datagram[at] = rng.u8(..);
        }
        socket.send_to(&datagram, ng).unwrap();
        if n % 50 == 0 {
            relay.ask(&Request::new(Command::Ping));
        }
    }
    for n in 0..200 {
        let id = format!("unknown-{n}");
        let request = Request { call_id: Some(id.as_bytes()), ..answer("v=0\r\n") };
        assert_eq!(relay.try_ask(&request).unwrap_err(), "Unknown call-id");
    }
    talk(&mut alice, &mut bob, told);
    assert_eq!(relay.sessions(), 1);
    let grown = relay.memory().saturating_sub(memory);
    assert!(grown < 16_384, "{grown} kB more");
}

#[test]
fn a_call_without_media_ends() {
    let relay = Relay::start("[timeouts]\nmedia = 1\nhold = 60\n");
    let (mut alice, mut bob, told) = call(&relay);
    talk(&mut alice, &mut bob, told);
    assert_eq!(relay.sessions(), 1);
    let gone = wait_for(LIMIT, || (relay.sessions() == 0).then_some(()));
    assert!(gone.is_some());
    assert_eq!(relay.total("timeoutsessions"), 1);
    assert!(relay.log().contains("reason=\"silent\""), "{}", relay.log());
}

#[test]
fn a_relay_that_is_stopped_lets_its_calls_end() {
    let mut relay = Relay::start("[timeouts]\ndrain = 60\n");
    let (mut alice, mut bob, told) = call(&relay);
    relay.signal(Signal::SIGTERM);
    let sdp = alice.sdp("");
    let new = Request { call_id: Some(b"new"), supports_load_limit: true, ..offer(&sdp) };
    let refused = wait_for(LIMIT, || match relay.try_ask(&new) {
        Ok(_) => {
            relay.ask(&Request { call_id: Some(b"new"), ..of(Command::Delete) });
            None
        }
        Err(reason) => Some(reason),
    });
    assert_eq!(refused.as_deref(), Some("Relay is being stopped"));
    talk(&mut alice, &mut bob, told);
    relay.ask(&of(Command::Delete));
    assert_eq!(relay.ended(), Some(0), "{}", relay.log());
    // One that gives its calls a second only.
    let mut relay = Relay::start("[timeouts]\ndrain = 1\n");
    let _call = call(&relay);
    relay.signal(Signal::SIGTERM);
    assert_eq!(relay.ended(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("reason=\"drained\""), "{}", relay.log());
}

#[test]
fn a_recording_is_made_on_demand_and_audited() {
    let folder = std::env::temp_dir().join(format!("dialtone-recorded-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let relay = Relay::start(&format!("[recording]\nfolder = {folder:?}\n"));
    let files = || {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let (mut alice, mut bob, told) = call(&relay);
    talk(&mut alice, &mut bob, told);
    assert_eq!(files(), ["audit.log"], "nobody has asked");
    relay.ask(&of(Command::StartRecording));
    talk(&mut alice, &mut bob, told);
    relay.ask(&of(Command::StopRecording));
    talk(&mut alice, &mut bob, told);
    let done = wait_for(LIMIT, || {
        let names = files();
        let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
        (ends(".pcap") && ends(".wav")).then_some(names)
    });
    let names = done.unwrap_or_else(|| panic!("{:?}", files()));
    let pcap = names.iter().find(|name| name.ends_with(".pcap")).unwrap();
    assert!(pcap.starts_with("call"), "{names:?}");
    // 24 bytes, and 16 for each packet, and IP and UDP around RTP.
    let wanted = 24 + 10 * (16 + 28 + 172);
    let whole = wait_for(LIMIT, || {
        (fs::metadata(folder.join(pcap)).unwrap().len() == wanted).then_some(())
    });
    assert!(whole.is_some(), "{} bytes", fs::metadata(folder.join(pcap)).unwrap().len());
    let audit = fs::read_to_string(folder.join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{audit}");
    for (line, event) in lines.iter().zip(["start", "stop"]) {
        assert_eq!((&line["event"], &line["call_id"]), (&event.into(), &"call".into()));
        assert_eq!(line["tags"], serde_json::json!(["a", "b"]));
        assert!(line["by"].as_str().unwrap().starts_with(&relay.address.to_string()), "{line}");
    }
    drop(relay);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_pool_knows_how_much_each_relay_has_to_do() {
    let layout = Layout { registrars: 1, relays: 2, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    for n in 1..=2 {
        launcher.start_media_relay(n).unwrap();
    }
    let ng: Vec<String> = (1..=2)
        .map(|n| launcher.addresses(&format!("media-relay-{n}")).unwrap()["ng"].clone())
        .collect();
    let loads = |launcher: &mut Launcher| {
        let loads = launcher.loads("registrar-ns-1", "media-relay").unwrap_or_default();
        ng.iter().map(|address| loads.get(address).copied()).collect::<Vec<_>>()
    };
    let both = wait_for(LIMIT, || (loads(&mut launcher) == [Some(0), Some(0)]).then_some(()));
    assert!(both.is_some(), "{:?}", loads(&mut launcher));
    let user = NgUser::new(ng[0].parse().unwrap());
    let (ip, _) = launcher.media_ports(1);
    let sdp = Media::new(ip).sdp("");
    for n in 0..100 {
        let id = format!("call-{n}");
        user.ask(&Request { call_id: Some(id.as_bytes()), ..offer(&sdp) });
    }
    // 100 of the 10,000 calls that its ports are enough for.
    let wanted = u32::MAX / 100;
    let told = wait_for(LIMIT, || match loads(&mut launcher)[..] {
        [Some(load), Some(0)] if load.abs_diff(wanted) < wanted / 10 => Some(()),
        _ => None,
    });
    assert!(told.is_some(), "{:?}, not {wanted}", loads(&mut launcher));
    // One that is stopped is out of the pool first.
    launcher.kill("media-relay-1", Signal::SIGTERM).unwrap();
    let gone =
        wait_for(LIMIT, || matches!(loads(&mut launcher)[..], [None, Some(_)]).then_some(()));
    assert!(gone.is_some(), "{:?}", loads(&mut launcher));
}
