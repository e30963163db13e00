//! Phones behind a NAT that forgets after 30 s are called after three minutes of silence.

#[path = "support/baresip.rs"]
#[expect(dead_code, reason = "nobody speaks")]
mod baresip;
#[path = "support/home.rs"]
mod home;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/servers.rs"]
mod servers;
#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;
#[path = "support/tone.rs"]
#[expect(dead_code, reason = "nobody speaks")]
mod tone;

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use baresip::{Account, Baresip};
use home::{Home, receive};
use netns::{Host, SERVERS, missing};
use sip::{Phone, call, hang_up};

/// How long nobody says anything.
const IDLE: Duration = Duration::from_secs(180);

/// How often the NAT's table is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// When the NAT forgets.
const FORGETS: u64 = 30;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const ABROAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);

#[test]
fn who_was_silent_for_three_minutes_is_called() {
    netns::within("who_was_silent_for_three_minutes_is_called", |network| {
        let Some(home) = Home::new(network, "home", OUTSIDE, HOME) else { return };
        home.count("from-inside", "iifname inside");
        if let Err(error) = home.router.enter(forget_soon) {
            return missing("conntrack", &format!("cannot be used here: {error}"));
        }
        let abroad = network.host("abroad", ABROAD);
        let mut launcher = servers::start(0);
        three_minutes(&home, &abroad);
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

/// Bob and Carol register and are called three minutes later; what the NAT does to others is looked at meanwhile.
fn three_minutes(home: &Home, abroad: &Host) {
    let (nat, inside) = (&home.router, &home.inside);
    let gateway = SocketAddr::from((SERVERS, 5060));
    let socket = |address| UdpSocket::bind((address, 0)).unwrap();
    let mut alice = Phone::new("alice", socket(SERVERS), gateway);
    let mut bob = Phone::new("bob", inside.enter(|| socket(HOME)), gateway);
    alice.register();
    bob.register();
    let folder = env::temp_dir().join("carol");
    let account =
        Account { user: "carol", password: "none", gateway, transport: "udp", tone: None };
    let carol = baresip::is_installed().then(|| Baresip::start(&folder, inside, &account));
    let phones: Vec<u16> =
        [Some(bob.local.port()), carol.as_ref().map(|_| 5060)].into_iter().flatten().collect();

    // Somebody who is not registered shows what this NAT does.
    let (control, friend, mapped) = home.assert_port_restricted(abroad);

    let sent = home.counted("from-inside");
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
    assert_eq!(home.counted("from-inside"), sent, "somebody was not silent");
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

/// Makes the NAT that this runs in forget as soon as many do.
fn forget_soon() -> io::Result<()> {
    for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        fs::write(format!("/proc/sys/net/netfilter/{key}"), FORGETS.to_string())?;
    }
    fs::read_to_string("/proc/thread-self/net/nf_conntrack").map(drop)
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

#[expect(clippy::disallowed_methods, reason = "NATs live in real time")]
fn clock() -> Instant {
    Instant::now()
}
