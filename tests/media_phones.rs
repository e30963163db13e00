//! Phones that can reach nothing but servers hear each other through a media relay, which has come after the proxies.

#[path = "support/baresip.rs"]
mod baresip;
#[path = "support/capture.rs"]
mod capture;
#[path = "support/home.rs"]
mod home;
#[path = "support/linphone.rs"]
mod linphone;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/rtp.rs"]
#[expect(dead_code, reason = "phones have media of their own")]
mod rtp;
#[path = "support/rtpengine.rs"]
#[expect(dead_code, reason = "rtpengine itself is a matter of others")]
mod rtpengine;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/sip.rs"]
#[expect(dead_code, reason = "its calls carry no media")]
mod sip;
#[path = "support/talk.rs"]
mod talk;
#[path = "support/tone.rs"]
mod tone;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use baresip::Baresip;
use capture::Capture;
use dialtone::launcher::{Launcher, Layout, Signal, wait_for};
use dialtone_ng::{
    message::{Command, Reply, Request},
    report::Workload,
};
use home::Home;
use linphone::Linphone;
use netns::{Network, SERVERS};
use rtpengine::NgUser;
use sip::{Dialog, Phone, Sip, hang_up};
use talk::{LIMIT, await_tone, with_tone};

/// How long it may take until a relay that has started is used. Here and below, without what processes spend waiting for
/// a processor.
const NEW_RELAY: Duration = Duration::from_secs(1);

/// How long a call may take that finds its relay dead.
const DEAD_RELAY: Duration = Duration::from_millis(250);

/// The same for a frozen relay.
const FROZEN_RELAY: Duration = Duration::from_millis(500);

/// A second of audio.
const SECOND: usize = 50;

#[test]
fn phones_behind_nats_hear_each_other() {
    netns::within("phones_behind_nats_hear_each_other", |network| {
        if !baresip::is_installed() {
            return;
        }
        let Some(homes) = homes(network) else { return };
        let abroad = network.host("abroad", Ipv4Addr::new(10, 77, 0, 9));
        for home in &homes {
            home.assert_port_restricted(&abroad);
        }
        let [alice, bob] = [&homes[0].inside, &homes[1].inside];
        let heard = [Capture::start(alice), Capture::start(bob)];
        let mut launcher = servers::start(1);
        let gateways = [5060, 5070].map(|port| (SERVERS, port).into());
        let mut probe = Probe::new(&mut launcher, SERVERS.into(), gateways);

        let mut a = with_tone(alice, "udp", 5060, 440, Baresip::start);
        let b = with_tone(bob, "udp", 5070, 880, Baresip::start);
        nobody_is_heard(&mut a, &b, &homes, &heard);

        let relay = launcher.start_media_relay(1).unwrap().name().to_owned();
        probe.await_relay();
        call(&mut launcher, &mut a, &b, &heard);
        drop((a, b));
        let mut a = with_tone(alice, "tcp", 5060, 440, Baresip::start);
        let b = with_tone(bob, "tcp", 5070, 880, Baresip::start);
        call(&mut launcher, &mut a, &b, &heard);

        launcher.kill(&relay, Signal::SIGKILL).unwrap();
        let (used, took) = probe.call();
        assert_eq!(used, None, "a dead relay");
        assert!(took.running <= DEAD_RELAY, "{took:?}");
        nobody_is_heard(&mut a, &b, &homes, &heard);
        drop((a, b));
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

#[test]
fn phones_of_different_make_hear_each_other() {
    netns::within("phones_of_different_make_hear_each_other", |network| {
        if !baresip::is_installed() || !linphone::is_installed() {
            return;
        }
        let Some(homes) = homes(network) else { return };
        let [alice, bob] = [&homes[0].inside, &homes[1].inside];
        let heard = [Capture::start(alice), Capture::start(bob)];
        let mut launcher = servers::start(1);
        let gateways = [5060, 5070].map(|port| (SERVERS, port).into());
        let mut probe = Probe::new(&mut launcher, SERVERS.into(), gateways);
        let mut a = with_tone(alice, "udp", 5060, 440, Linphone::start);
        let b = with_tone(bob, "udp", 5070, 880, Baresip::start);
        launcher.start_media_relay(1).unwrap();
        probe.await_relay();
        a.command("call sip:bob@dialtone.test");
        b.await_event("CALL_ESTABLISHED");
        a.await_word("Media streams established");
        await_tone("linphonec", || a.heard(), 880);
        await_tone("baresip", || b.heard(), 440);
        assert_only_relay(&launcher, &heard);
        a.command("terminate");
        b.await_event("CALL_CLOSED");
        a.await_word("ended (No error)");
        assert_no_calls(&mut launcher);
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

#[test]
fn a_relay_takes_calls_as_soon_as_it_is_there_and_none_when_it_is_dead() {
    let layout = Layout { registrars: 1, relays: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names =
        [launcher.spawn_location_db(), launcher.spawn_gateway(1), launcher.spawn_gateway(2)];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    for name in [launcher.spawn_proxy(1), launcher.spawn_proxy(2)] {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    let gateways = [1, 2].map(|n| launcher.layout().edge(n, launcher.slice().host(20 + n)));
    let address = launcher.slice().host(200);
    let mut probe = Probe::new(&mut launcher, address, gateways);
    assert_eq!(probe.call().0, None, "there is no relay");

    let relay = launcher.start_media_relay(1).unwrap().name().to_owned();
    probe.await_relay();
    let (ip, ports) = launcher.media_ports(1);
    for (signal, what, limit) in
        [(Signal::SIGKILL, "dead", DEAD_RELAY), (Signal::SIGSTOP, "frozen", FROZEN_RELAY)]
    {
        // One proxy may know of it before the other one does.
        let mut in_a_row = 0;
        let all = wait_for(LIMIT, || {
            let used = probe.call().0;
            assert!(used.is_none_or(|used| used.ip() == ip && ports.contains(&used.port())));
            in_a_row = if used.is_some() { in_a_row + 1 } else { 0 };
            (in_a_row == 20).then_some(())
        });
        assert!(all.is_some(), "not all calls take the relay");
        launcher.kill(&relay, signal).unwrap();
        let calls: Vec<_> = (0..20).map(|_| probe.call()).collect();
        assert!(calls.iter().all(|(used, _)| used.is_none()), "a {what} relay: {calls:?}");
        let worst = calls.iter().map(|(_, took)| took.whole).max().unwrap();
        println!("table: with a {what} relay a call takes {} ms at most", worst.as_millis());
        assert!(calls.iter().all(|(_, took)| took.running <= limit), "{calls:?}");
        launcher.restart(&relay).unwrap();
        probe.await_relay();
    }
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}

/// Alice's and Bob's. Their routers count what is sent to the other one's private address.
fn homes(network: &Network) -> Option<[Home; 2]> {
    let home = |name: &str, n: u8| {
        let (outside, inside) = (Ipv4Addr::new(10, 77, 0, 1 + n), Ipv4Addr::new(10, n, 0, 2));
        let home = Home::new(network, name, outside, inside)?;
        home.count("lost", "iifname inside ip daddr 10.0.0.0/14 udp dport != 5060");
        Some(home)
    };
    Some([home("alice", 1)?, home("bob", 2)?])
}

/// A calls B without a relay: both send, to where nobody gets it.
fn nobody_is_heard(a: &mut Baresip, b: &Baresip, homes: &[Home; 2], heard: &[Capture; 2]) {
    let lost = homes.each_ref().map(|home| home.counted("lost"));
    a.command("dial", "sip:bob@dialtone.test");
    for phone in [&*a, b] {
        phone.await_event("CALL_ESTABLISHED");
    }
    for (home, before) in homes.iter().zip(lost) {
        let sent =
            wait_for(LIMIT, || (home.counted("lost") - before >= 2 * SECOND as u64).then_some(()));
        assert!(sent.is_some(), "{} sends nothing to the other one", home.inside.name);
    }
    assert_eq!(heard.each_ref().map(Capture::count), [0, 0], "NATs let in anything");
    assert!(a.heard().is_empty() && b.heard().is_empty());
    finish(a, b, heard);
}

/// A calls B, they hear each other, and do so again after B was put on hold.
fn call(launcher: &mut Launcher, a: &mut Baresip, b: &Baresip, heard: &[Capture; 2]) {
    a.command("dial", "sip:bob@dialtone.test");
    for phone in [&*a, b] {
        phone.await_event("CALL_ESTABLISHED");
    }
    await_tone("alice", || a.heard(), 880);
    await_tone("bob", || b.heard(), 440);
    assert_only_relay(launcher, heard);

    a.command("hold", "");
    let quiet = wait_for(LIMIT, || {
        heard.iter().for_each(Capture::forget);
        std::thread::sleep(Duration::from_millis(200));
        heard.iter().all(|capture| capture.count() == 0).then_some(())
    });
    assert!(quiet.is_some(), "they speak while one is on hold");
    a.command("resume", "");
    for ((name, hertz), capture) in [("alice", 880), ("bob", 440)].into_iter().zip(heard) {
        await_tone(&format!("{name} after hold"), || capture.samples(), hertz);
    }
    assert_only_relay(launcher, heard);
    finish(a, b, heard);
    assert_no_calls(launcher);
}

fn finish(a: &mut Baresip, b: &Baresip, heard: &[Capture; 2]) {
    a.command("hangup", "");
    for phone in [&*a, b] {
        phone.await_event("CALL_CLOSED");
        phone.forget();
    }
    heard.iter().for_each(Capture::forget);
}

/// Whatever audio has reached the phones came from ports of the relay, the same ones all the time.
fn assert_only_relay(launcher: &Launcher, heard: &[Capture; 2]) {
    let (ip, ports) = launcher.media_ports(1);
    for capture in heard {
        let sources = Vec::from_iter(capture.sources());
        let is_relay = |source: &SocketAddr| source.ip() == ip && ports.contains(&source.port());
        assert!(sources.len() == 1 && sources.iter().all(is_relay), "{sources:?}");
    }
}

/// The relay has nothing left of what there was.
fn assert_no_calls(launcher: &mut Launcher) {
    let ng = launcher.addresses("media-relay-1").unwrap()["ng"].parse().unwrap();
    let user = NgUser::new(ng);
    let gone = wait_for(LIMIT, || {
        let body = user.ask(&Request::new(Command::Statistics));
        let workload = Workload::read(&Reply::decode(&body).unwrap().dict).unwrap();
        (workload.sessions == 0).then_some(())
    });
    assert!(gone.is_some(), "calls that have ended are kept");
}

/// Two phones that call each other to see which way calls take just now.
struct Probe {
    caller: Phone,
    callee: Phone,
    /// Who has to run for that, this process too.
    processes: Vec<u32>,
}

impl Probe {
    fn new(launcher: &mut Launcher, address: IpAddr, gateways: [SocketAddr; 2]) -> Self {
        let mut processes = vec![std::process::id()];
        processes.extend(launcher.processes().iter().map(|process| process.pid()));
        let phone = |user: &str, gateway| {
            let mut phone = Phone::new(user, UdpSocket::bind((address, 0)).unwrap(), gateway);
            phone.register();
            phone
        };
        Self { caller: phone("carol", gateways[0]), callee: phone("dave", gateways[1]), processes }
    }

    /// Makes a call: where the callee is to send its audio, if that is a relay, and how long it took until it was answered.
    fn call(&mut self) -> (Option<SocketAddr>, Took) {
        let before = self.waits();
        let Self { caller, callee, .. } = self;
        let describe = |phone: &Phone, port: u16| {
            let address = phone.local.ip();
            let sdp = format!(
                "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
                 m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
            );
            let headers = format!("{}Content-Type: application/sdp\r\n", phone.contact());
            (SocketAddr::new(address, port), headers, sdp)
        };
        let (own, headers, sdp) = describe(caller, 9_000);
        let invite = caller.request("INVITE", "sip:dave@dialtone.test", &headers, &sdp);
        let is_ours = |message: &Sip| invite.contains(message.value("Call-ID"));
        let started = clock();
        caller.send(&invite);
        let delivered =
            callee.expect("an INVITE", |message| message.is("INVITE") && is_ours(message));
        let (theirs, headers, sdp) = describe(callee, 9_002);
        callee.answer(&delivered, "200 OK", &headers, &sdp);
        let answer =
            caller.expect("an answer", |message| message.status() == 200 && is_ours(message));
        let took = self.since(started, &before);
        let Self { caller, callee, .. } = self;
        let dialog = Dialog::new(&answer);
        let ack = dialog.request(caller, "ACK", &dialog.routes);
        caller.send(&ack);
        callee.expect("an ACK", |message| message.is("ACK") && is_ours(message));
        hang_up(caller, callee, &dialog);
        let relayed = [(rtp::audio(delivered.body()), own), (rtp::audio(answer.body()), theirs)]
            .map(|(told, own)| (told != own).then_some(told));
        assert_eq!(relayed[0].is_some(), relayed[1].is_some(), "half of a call: {relayed:?}");
        (relayed[0], took)
    }

    /// Calls until a relay is used, which has just come.
    fn await_relay(&mut self) {
        let (started, before) = (clock(), self.waits());
        let used = wait_for(LIMIT, || self.call().0);
        let took = self.since(started, &before);
        println!("table: a relay takes calls {} ms after its start", took.whole.as_millis());
        assert!(used.is_some() && took.running <= NEW_RELAY, "{took:?}");
    }

    /// How long each thread of each process has waited for a processor in its life.
    fn waits(&self) -> Vec<BTreeMap<PathBuf, u64>> {
        let of_thread = |task: fs::DirEntry| {
            let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some((task.path(), times.split(' ').nth(1)?.parse().ok()?))
        };
        let of_process = |pid: &u32| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            tasks.filter_map(of_thread).collect()
        };
        self.processes.iter().map(of_process).collect()
    }

    /// What has passed since `started`, with and without what was spent waiting for a processor since then, process after
    /// process; of the threads of one, that counts which has waited for the longest time.
    fn since(&self, started: Instant, before: &[BTreeMap<PathBuf, u64>]) -> Took {
        let whole = started.elapsed();
        let waits = before.iter().zip(self.waits()).map(|(before, after)| {
            let longer =
                after.iter().filter_map(|(task, wait)| wait.checked_sub(*before.get(task)?));
            longer.max().unwrap_or(0)
        });
        Took { whole, running: whole.saturating_sub(Duration::from_nanos(waits.sum())) }
    }
}

/// How long something took, and how long without what was spent waiting for a processor.
#[derive(Clone, Copy, Debug)]
struct Took {
    whole: Duration,
    running: Duration,
}

#[expect(clippy::disallowed_methods, reason = "phones live in real time")]
fn clock() -> Instant {
    Instant::now()
}
