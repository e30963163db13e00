//! Phones behind a NAT that forgets after 30 s are called after three minutes of silence.

#[path = "support/baresip.rs"]
mod baresip;
#[path = "support/netns.rs"]
mod netns;
#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;

use std::{
    collections::BTreeMap,
    env, fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use baresip::{Account, Baresip};
use dialtone::launcher::{Launcher, Layout};
use netns::{Host, Network, SERVERS, missing, run};
use sip::{Phone, call, hang_up};

/// How long nobody says anything.
const IDLE: Duration = Duration::from_secs(180);

/// How often the NAT's table is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// When the NAT forgets.
const FORGETS: u64 = 30;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);

#[test]
fn who_was_silent_for_three_minutes_is_called() {
    netns::within("who_was_silent_for_three_minutes_is_called", |network| {
        let Some((nat, home)) = nat(network) else { return };
        let layout = Layout {
            edge_address: SERVERS.into(),
            edge_port: Some(5060),
            registrars: 1,
            ..Layout::default()
        };
        let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
        launcher.start_registrar(1).unwrap();
        let names =
            [launcher.spawn_location_db(), launcher.spawn_proxy(1), launcher.spawn_gateway(1)];
        for name in names {
            launcher.wait_ready(&name.unwrap()).unwrap();
        }
        three_minutes(&nat, &home);
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

/// Bob and Carol register and are called three minutes later; what the NAT does to others is looked at meanwhile.
fn three_minutes(nat: &Host, home: &Host) {
    let gateway = SocketAddr::from((SERVERS, 5060));
    let socket = |address| UdpSocket::bind((address, 0)).unwrap();
    let mut alice = Phone::new("alice", socket(SERVERS), gateway);
    let mut bob = Phone::new("bob", home.enter(|| socket(HOME)), gateway);
    alice.register();
    bob.register();
    let folder = env::temp_dir().join("carol");
    let account =
        Account { user: "carol", password: "none", gateway, transport: "udp", tone: None };
    let carol = baresip::is_installed().then(|| Baresip::start(&folder, home, &account));
    let phones: Vec<u16> =
        [Some(bob.local.port()), carol.as_ref().map(|_| 5060)].into_iter().flatten().collect();

    // Somebody who is not registered shows what this NAT does.
    let friend = socket(SERVERS);
    let stranger = socket(SERVERS);
    let control = home.enter(|| socket(HOME));
    control.send_to(b"hello", friend.local_addr().unwrap()).unwrap();
    let (_, mapped) = receive(&friend).expect("the NAT lets nothing out");
    assert_eq!(mapped.ip(), OUTSIDE, "no address is translated");
    friend.send_to(b"answer", mapped).unwrap();
    assert!(receive(&control).is_some(), "the NAT lets no answer in");
    stranger.send_to(b"open?", mapped).unwrap();
    assert!(receive(&control).is_none(), "the NAT lets anybody in");

    let sent = sent_from_inside(nat);
    let silent_since = clock();
    let mut was_forgotten = None;
    let mut lowest = FORGETS;
    while silent_since.elapsed() < IDLE {
        sleep(LOOK);
        let table = mappings(nat);
        for port in &phones {
            let left = *table
                .get(port)
                .unwrap_or_else(|| panic!("no mapping for port {port} in {table:?}"));
            assert!(left <= FORGETS, "{table:?}");
            lowest = lowest.min(left);
        }
        if was_forgotten.is_none() && !table.contains_key(&control.local_addr().unwrap().port()) {
            was_forgotten = Some(silent_since.elapsed());
            friend.send_to(b"still there?", mapped).unwrap();
            assert!(receive(&control).is_none(), "the NAT forgets nothing");
        }
    }
    let was_forgotten = was_forgotten.expect("the NAT has forgotten nobody");
    assert_eq!(sent_from_inside(nat), sent, "somebody was not silent");
    println!(
        "table: NAT with {FORGETS} s: who is not registered is forgotten after {} s; mappings of {} phones \
         were never nearer than {lowest} s to their end in {} s of silence",
        was_forgotten.as_secs(),
        phones.len(),
        silent_since.elapsed().as_secs(),
    );

    let (dialog, _) = call(&mut alice, &mut bob, "", "");
    hang_up(&mut alice, &mut bob, &dialog);
    assert!(bob.keep_alives >= 6, "{} keep-alives", bob.keep_alives);
    if let Some(carol) = carol {
        let address = SERVERS;
        let body = format!(
            "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
             m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        );
        let headers = format!("{}Content-Type: application/sdp\r\n", alice.contact());
        let invite = alice.request("INVITE", "sip:carol@dialtone.test", &headers, &body);
        let answer = alice.ask(&invite);
        assert_eq!(answer.status(), 200, "{}", answer.start());
        let dialog = sip::Dialog::new(&answer);
        let ack = dialog.request(&mut alice, "ACK", &dialog.routes);
        alice.send(&ack);
        carol.await_event("CALL_ESTABLISHED");
        let bye = dialog.request(&mut alice, "BYE", &dialog.routes);
        assert_eq!(alice.ask(&bye).status(), 200);
        carol.await_event("CALL_CLOSED");
    }
}

/// A home behind a NAT that translates address and port, lets in only answers, and forgets after 30 s.
fn nat(network: &Network) -> Option<(Host, Host)> {
    let nat = network.host("nat", OUTSIDE);
    run("ip netns add home");
    run("ip link add inside netns nat type veth peer name eth0 netns home");
    run(&format!("ip -n nat address add {INSIDE}/24 dev inside"));
    run("ip -n nat link set inside up");
    run(&format!("ip -n home address add {HOME}/24 dev eth0"));
    run("ip -n home link set lo up");
    run("ip -n home link set eth0 up");
    run(&format!("ip -n home route add default via {INSIDE}"));
    let rules = "table ip nat {
        counter from-inside { }
        chain out {
            type nat hook postrouting priority srcnat;
            oifname eth0 masquerade;
        }
        chain count {
            type filter hook forward priority filter;
            iifname inside counter name from-inside;
        }
    }";
    match nat.command("nft").arg(rules).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            missing("nftables", &format!("refuses: {}", String::from_utf8_lossy(&output.stderr)));
            return None;
        }
        Err(_) => {
            missing("nftables", "not installed");
            return None;
        }
    }
    let set = |key: &str, value: String| fs::write(format!("/proc/sys/net/{key}"), value);
    let prepared = nat.enter(|| {
        set("netfilter/nf_conntrack_udp_timeout", FORGETS.to_string())?;
        set("netfilter/nf_conntrack_udp_timeout_stream", FORGETS.to_string())?;
        set("ipv4/ip_forward", "1".to_owned())?;
        fs::read_to_string("/proc/thread-self/net/nf_conntrack")
    });
    if let Err(error) = prepared {
        missing("conntrack", &format!("cannot be used here: {error}"));
        return None;
    }
    Some((nat, Host { name: "home".to_owned(), address: HOME }))
}

/// The NAT's mappings: seconds left, by port inside.
fn mappings(nat: &Host) -> BTreeMap<u16, u64> {
    let table = nat.enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
    let from = format!("src={HOME}");
    table
        .lines()
        .filter_map(|line| {
            // ipv4 2 udp 17 29 src=... dst=... sport=... dport=... src=...
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.iter().find_map(|word| word.strip_prefix("sport="))?;
            (words[2] == "udp" && words.contains(&&*from))
                .then(|| (port.parse().unwrap(), words[4].parse().unwrap()))
        })
        .collect()
}

/// Packets that anybody inside has sent so far.
fn sent_from_inside(nat: &Host) -> u64 {
    let output = nat.command("nft").args(["list", "counter", "ip", "nat", "from-inside"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let rest = text.split_once("packets ").unwrap_or_else(|| panic!("{text}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// What comes within a second.
fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 100];
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

#[expect(clippy::disallowed_methods, reason = "NATs live in real time")]
fn clock() -> Instant {
    Instant::now()
}
