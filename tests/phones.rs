//! Two real phones on different gateways call each other, over UDP and over TCP, and hear each other.

#[path = "support/baresip.rs"]
mod baresip;
#[path = "support/linphone.rs"]
mod linphone;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/tone.rs"]
mod tone;

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use baresip::{Account, Baresip};
use dialtone::launcher::{Launcher, Layout, wait_for};
use linphone::Linphone;
use netns::{Host, SERVERS};

/// How long the sound may take to arrive.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn two_phones_hear_each_other() {
    netns::within("two_phones_hear_each_other", |network| {
        if !baresip::is_installed() {
            return;
        }
        let mut launcher = start();
        let alice = network.host("alice", Ipv4Addr::new(10, 77, 0, 11));
        let bob = network.host("bob", Ipv4Addr::new(10, 77, 0, 12));
        for transport in ["udp", "tcp"] {
            call(&alice, &bob, transport);
        }
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

#[test]
fn phones_of_different_make_hear_each_other() {
    netns::within("phones_of_different_make_hear_each_other", |network| {
        if !baresip::is_installed() || !linphone::is_installed() {
            return;
        }
        let mut launcher = start();
        let bob = network.host("bob", Ipv4Addr::new(10, 77, 0, 12));
        let carol = network.host("carol", Ipv4Addr::new(10, 77, 0, 13));
        let bob = with_tone(&bob, "udp", 5070, 880, Baresip::start);
        let mut carol = with_tone(&carol, "udp", 5060, 440, Linphone::start);
        carol.command("call sip:bob@dialtone.test");
        bob.await_event("CALL_ESTABLISHED");
        carol.await_word("Media streams established");
        await_tone("linphonec", || Some(carol.heard()), 880);
        await_tone("baresip", || heard(&bob), 440);
        carol.command("terminate");
        bob.await_event("CALL_CLOSED");
        carol.await_word("ended (No error)");
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

/// Two gateways, at ports 5060 and 5070.
fn start() -> Launcher {
    let layout = Layout {
        edge_address: SERVERS.into(),
        edge_port: Some(5060),
        registrars: 1,
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_proxy(1),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    launcher
}

/// Starts a phone that plays this tone; the user is called as its host.
fn with_tone<P>(
    host: &Host,
    transport: &str,
    port: u16,
    hertz: u32,
    start: impl FnOnce(&Path, &Host, &Account<'_>) -> P,
) -> P {
    let folder = env::temp_dir().join(transport).join(&host.name);
    fs::create_dir_all(&folder).unwrap();
    let tone = folder.join("tone.wav");
    tone::write(&tone, hertz);
    let gateway = SocketAddr::from((SERVERS, port));
    let account = Account { user: &host.name, gateway, transport, tone: Some(&tone) };
    let phone = start(&folder, host, &account);
    assert_eq!(connections(host, port), usize::from(transport == "tcp"), "{transport}");
    phone
}

fn call(alice: &Host, bob: &Host, transport: &str) {
    let mut a = with_tone(alice, transport, 5060, 440, Baresip::start);
    let b = with_tone(bob, transport, 5070, 880, Baresip::start);
    a.command("dial", "sip:bob@dialtone.test");
    for (listener, phone, hertz) in [("alice", &a, 880), ("bob", &b, 440)] {
        phone.await_event("CALL_ESTABLISHED");
        await_tone(&format!("{listener} over {transport}"), || heard(phone), hertz);
    }
    a.command("hangup", "");
    for phone in [a, b] {
        phone.await_event("CALL_CLOSED");
    }
}

/// Waits until two seconds of this tone, and of no other one, were heard. A busy machine leaves gaps between them.
fn await_tone(listener: &str, recording: impl Fn() -> Option<PathBuf>, hertz: u32) {
    let tones = |recording: &Path| {
        let heard = tone::strongest(recording).into_iter();
        heard.filter(|(_, share)| *share > 0.8).map(|(hertz, _)| hertz).collect::<Vec<u32>>()
    };
    let right = |found: &&u32| found.abs_diff(hertz) <= 8;
    let mut looked_at = 7;
    let enough = wait_for(LIMIT, || {
        let recording = recording()?;
        if tone::quarters(&recording) <= looked_at {
            return None;
        }
        looked_at = tone::quarters(&recording);
        (tones(&recording).iter().filter(right).count() >= 8).then_some(())
    });
    let tones = recording().map(|recording| tones(&recording)).unwrap_or_default();
    println!(
        "table: {listener} heard {} to {} Hz for {} s; {hertz} Hz were played",
        tones.iter().min().unwrap_or(&0),
        tones.iter().max().unwrap_or(&0),
        tones.len() as f64 / 4.0
    );
    assert!(
        enough.is_some() && tones.iter().all(|found| right(&found)),
        "{listener} does not hear {hertz} Hz"
    );
}

/// What a phone has recorded in its only call, once there is something.
fn heard(phone: &Baresip) -> Option<PathBuf> {
    let files = fs::read_dir(phone.folder.join("heard")).unwrap().flatten();
    files.map(|file| file.path()).find(|path| path.to_string_lossy().ends_with("-dec.wav"))
}

/// TCP connections that stand from a host to a port of the servers.
fn connections(host: &Host, port: u16) -> usize {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    // The kernel prints addresses as they lie in memory.
    let to = format!("{:08X}:{port:04X}", u32::from_ne_bytes(SERVERS.octets()));
    table
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[2] == to && fields[3] == "01"
        })
        .count()
}
