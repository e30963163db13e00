//! What strangers and ill-meaning peers send, and what it costs: nothing is kept, and those who mean well notice nothing.

use std::collections::BTreeMap;

use nix::time::{ClockId, clock_gettime};

use super::tests::{Net, addr, connect, cookie_echo, down, reseal};
use super::*;

const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;

fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// A packet from port 3863 to port 3863 with these chunks: kind, flags, value.
fn forge(tag: u32, chunks: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut bytes = [3863u16.to_be_bytes(); 2].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    for (kind, flags, value) in chunks {
        bytes.extend([*kind, *flags]);
        bytes.extend((4 + value.len() as u16).to_be_bytes());
        bytes.extend(*value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    reseal(&mut bytes);
    bytes
}

/// Fixed part of INIT and INIT ACK: tag, window, streams, first TSN.
fn init(tag: u32) -> [u8; 16] {
    let mut value = [0; 16];
    value[..4].copy_from_slice(&tag.to_be_bytes());
    value[4..8].copy_from_slice(&100_000u32.to_be_bytes());
    value[8..12].copy_from_slice(&[0, 16, 0, 16]);
    value[12..].copy_from_slice(&7u32.to_be_bytes());
    value
}

/// The cookie that dcsctp would make and believe, without our seal.
fn bare_cookie(peer_tag: u32, my_tag: u32) -> Vec<u8> {
    let mut cookie = b"dcSCTP00".to_vec();
    cookie.extend(peer_tag.to_be_bytes());
    cookie.extend(my_tag.to_be_bytes());
    cookie.resize(48, 0);
    cookie[44..].copy_from_slice(&[0, 16, 0, 16]);
    cookie
}

fn data(tsn: u32, stream: u16, payload: &[u8]) -> Vec<u8> {
    let mut value = tsn.to_be_bytes().to_vec();
    value.extend(stream.to_be_bytes());
    value.extend([0, 0, 0, 0, 0, 11]);
    value.extend(payload);
    value
}

fn sack(cumulative: u32, window: u32, gaps: &[(u16, u16)], duplicates: &[u32]) -> Vec<u8> {
    let mut value = [cumulative.to_be_bytes(), window.to_be_bytes()].concat();
    value.extend((gaps.len() as u16).to_be_bytes());
    value.extend((duplicates.len() as u16).to_be_bytes());
    for (from, to) in gaps {
        value.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
    }
    value.extend(duplicates.iter().flat_map(|tsn| tsn.to_be_bytes()));
    value
}

/// Somewhere in the world.
fn anywhere(random: &mut fastrand::Rng) -> SocketAddr {
    let port = random.u16(1..);
    if random.bool() {
        SocketAddr::from(([random.u8(1..224), random.u8(..), random.u8(..), random.u8(..)], port))
    } else {
        let mut ip = [0; 16];
        random.fill(&mut ip);
        ip[0] = 0x20;
        SocketAddr::from((ip, port))
    }
}

/// Everything that grows with what others do.
fn state(stack: &Stack) -> [usize; 9] {
    [
        stack.assocs.len(),
        stack.by_key.len(),
        stack.by_tag.len(),
        stack.timers.len(),
        stack.responders.len(),
        stack.dirty.len(),
        stack.spent[0].len() + stack.spent[1].len(),
        stack.sites.len(),
        stack.events.len(),
    ]
}

/// Elements that the registrar knows, and that restart during the flood.
const KNOWN: std::ops::RangeInclusive<u8> = 3..=5;
/// Elements that it does not know, and that dial until they are in.
const NEW: std::ops::RangeInclusive<u8> = 6..=9;
const STEP: u64 = 10;

/// What those wait for whom no flood delays: less than this.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A flood on a registrar, while an element goes on talking to it and others come, of whom nobody may wait for longer
/// than `longest`. Prints a row: what a packet costs and how long those who came had to wait. Returns how many answers
/// strangers got.
fn flood(
    name: &str,
    packets: u64,
    per_second: u64,
    longest: Duration,
    mut each: impl FnMut(&mut Net) -> (SocketAddr, Vec<u8>),
) -> usize {
    let mut net = Net::new(*NEW.end());
    let (one, two) = net.pair();
    for host in KNOWN {
        net.command(host, connect(1, 2));
    }
    net.settle();
    net.take(2);
    let steps = packets / STEP;
    let (mut spent, mut answers) = (Duration::ZERO, 0);
    let mut came = BTreeMap::new();
    let mut dialled = BTreeMap::new();
    for n in 0..steps {
        let batch: Vec<_> = (0..STEP).map(|_| each(&mut net)).collect();
        let now = net.now;
        let stack = net.stack(2);
        let begun = cpu();
        for (from, bytes) in &batch {
            stack.handle_datagram(now, *from, bytes);
        }
        spent += cpu() - begun;
        let sent = stack.transmits.len();
        stack.transmits.retain(|(to, _)| (1..=9).any(|host| addr(host) == *to));
        answers += sent - stack.transmits.len();

        if n % (steps / 100) == 0 {
            net.send(1, one, b"ask");
            let heard = net
                .take(2)
                .into_iter()
                .any(|event| matches!(event, NetEvent::Message { assoc, .. } if assoc == two));
            assert!(heard, "{name}: an element is not heard");
        }
        if n % (steps / 8) == steps / 16
            && let Some(host) = KNOWN.chain(NEW).find(|host| !dialled.contains_key(host))
        {
            if KNOWN.contains(&host) {
                net.boot(host);
                net.take(host);
            }
            net.command(host, connect(1, 2));
            dialled.insert(host, (now, 1));
        }
        net.run(Duration::from_nanos(STEP * 1_000_000_000 / per_second));
        for (host, (began, dials)) in &mut dialled {
            for event in net.take(*host) {
                match event {
                    NetEvent::Up { .. } => assert!(came.insert(*host, net.now - *began).is_none()),
                    NetEvent::Down { .. } if NEW.contains(host) => {
                        *dials += 1;
                        net.command(*host, connect(*dials, 2));
                    }
                    event => panic!("{name}: {event:?}"),
                }
            }
        }
    }
    let slowest = |hosts: std::ops::RangeInclusive<u8>| {
        let waited: Vec<_> = hosts.map(|host| came.get(&host).copied()).collect();
        assert!(waited.iter().all(Option::is_some), "{name}: some are not in: {came:?}");
        waited.into_iter().flatten().max().unwrap()
    };
    let (known, new) = (slowest(KNOWN), slowest(NEW));
    assert!(known < AT_ONCE, "{name}: a known peer waited {known:?}");
    assert!(new <= longest, "{name}: somebody new waited {new:?}");
    let counters = net.counters(2);
    assert_eq!((counters.faults, counters.moves, counters.restarts), (0, 0, 3), "{name}");

    // Nothing but the associations is there, and their ends leave nothing.
    net.take(2);
    let all = 1 + KNOWN.len() + NEW.len();
    assert_eq!(state(net.stack(2))[..4], [all; 4], "{name}: something is left");
    let now = net.now;
    net.stack(2).end_all(now, false);
    net.settle();
    net.take(2);
    // Tags of what has ended are remembered for as long as cookies live.
    for seconds in [10, 20] {
        net.stack(2).age_spent(now + Duration::from_secs(seconds));
    }
    let responders = net.stack(2).responders.len();
    assert!(responders <= 2);
    assert_eq!(state(net.stack(2)).iter().sum::<usize>(), responders, "{name}: something is left");
    let each = spent.as_secs_f64() * 1e6 / packets as f64;
    println!(
        "table: | {name} | {packets} | {per_second} | {each:.2} | {answers} | {known:.0?} | {new:.0?} |"
    );
    answers
}

#[test]
fn a_million_spoofed_inits() {
    let mut random = fastrand::Rng::with_seed(1);
    // Somebody new competes with them. What he sends again when INIT ACK does not come gets through.
    let again = Duration::from_millis(300);
    let answers = flood("INIT, any source", 1_000_000, 100_000, again, |_| {
        let bytes = forge(0, &[(packet::INIT, 0, &init(random.u32(1..)))]);
        (anywhere(&mut random), bytes)
    });
    assert!((200_000..=220_000).contains(&answers), "{answers}");
}

/// One address that did not ask would get the answers: it gets 1,000 a second.
#[test]
fn spoofed_inits_of_one_victim() {
    let mut random = fastrand::Rng::with_seed(2);
    let answers = flood("INIT, one source", 300_000, 100_000, AT_ONCE, |_| {
        let victim = SocketAddr::from(([192, 0, 2, 1], random.u16(1..)));
        (victim, forge(0, &[(packet::INIT, 0, &init(random.u32(1..)))]))
    });
    assert!(answers <= 4_000, "{answers}");
}

#[test]
fn a_million_forged_cookies() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut genuine = None;
    let answers = flood("COOKIE ECHO, forged", 1_000_000, 100_000, AT_ONCE, |net| {
        // Half of them are what an attacker got for himself, for another address or with other contents.
        let genuine = genuine.get_or_insert_with(|| {
            let now = net.now;
            let init = forge(0, &[(packet::INIT, 0, &init(77))]);
            net.stack(2).handle_datagram(now, addr(200), &init);
            let (_, ack) = net.stack(2).transmits.pop_back().unwrap();
            let ack = InitAck::find(&ack).unwrap();
            (ack.my_tag, ack.cookie.to_vec())
        });
        let (mut tag, mut cookie) = genuine.clone();
        let mut from = anywhere(&mut random);
        match random.u32(..4) {
            0 => (),
            1 => {
                from = addr(200);
                let at = random.usize(..cookie.len());
                cookie[at] ^= 1 << random.u32(..8);
            }
            2 => {
                tag = random.u32(1..);
                cookie = bare_cookie(random.u32(1..), tag);
                cookie.resize(96, 0);
            }
            _ => {
                from = addr(1);
                random.fill(&mut cookie);
            }
        }
        (from, forge(tag, &[(packet::COOKIE_ECHO, 0, &cookie)]))
    });
    assert!(answers == 0, "{answers}");
}

#[test]
fn packets_out_of_the_blue() {
    let mut random = fastrand::Rng::with_seed(4);
    let answers = flood("out of the blue", 300_000, 100_000, AT_ONCE, |_| {
        let kind = [packet::DATA, SACK, HEARTBEAT, packet::SHUTDOWN_ACK, 0xfe][random.usize(..5)];
        (anywhere(&mut random), forge(random.u32(1..), &[(kind, 0, &[0; 20])]))
    });
    assert!(answers <= 4_000, "{answers}");
}

/// From the address of an element that has an association, with tags that are not its own.
#[test]
fn wrong_tags_in_the_name_of_a_peer() {
    let mut random = fastrand::Rng::with_seed(5);
    let answers = flood("wrong tag, a peer's address", 300_000, 100_000, AT_ONCE, |_| {
        let kind = random.u8(..);
        let kind = if [packet::INIT, packet::COOKIE_ECHO].contains(&kind) { 0 } else { kind };
        let flags = random.u8(..4);
        (addr(1), forge(random.u32(1..), &[(kind, flags, &[0; 20])]))
    });
    assert!(answers == 0, "{answers}");
}

#[test]
fn bytes_that_are_no_packets() {
    let mut random = fastrand::Rng::with_seed(6);
    let answers = flood("no SCTP at all", 300_000, 100_000, AT_ONCE, |_| {
        let mut bytes = vec![0; random.usize(..1_473)];
        random.fill(&mut bytes);
        (anywhere(&mut random), bytes)
    });
    assert!(answers == 0, "{answers}");
}

/// Who cannot see our packets cannot take over a dial, although dcsctp would let anybody whose packet has a SHUTDOWN
/// ACK in it.
#[test]
fn handshake_by_somebody_else() {
    let mut ack = init(5).to_vec();
    ack.extend([0, 7, 0, 52]);
    ack.extend(bare_cookie(6, 5));
    let cookie = bare_cookie(5, 6);
    let shut: (u8, u8, &[u8]) = (packet::SHUTDOWN_ACK, 0, &[]);
    let forgeries: [&[(u8, u8, &[u8])]; 7] = [
        &[shut, (packet::COOKIE_ECHO, 0, &cookie)],
        &[(packet::COOKIE_ECHO, 0, &cookie), shut],
        &[shut, (packet::INIT_ACK, 0, &ack)],
        &[(packet::INIT_ACK, 0, &ack), shut],
        &[(packet::COOKIE_ACK, 0, &[]), shut],
        &[shut, (packet::DATA, 3, &data(1, 0, b"trust me"))],
        &[(packet::ABORT, 0, &[]), shut],
    ];
    let mut net = Net::new(2);
    net.command(1, connect(1, 2));
    let sent = std::mem::take(&mut net.stack(1).transmits);
    let now = net.now;
    let try_all = |net: &mut Net| {
        for chunks in forgeries {
            for tag in [0, 1, 6] {
                net.stack(1).handle_datagram(now, addr(2), &forge(tag, chunks));
            }
        }
        let stack = net.stack(1);
        let id = AssocId::dialled(1);
        assert_eq!(stack.assocs[&id].socket.state(), SocketState::Connecting);
        assert!(stack.events.is_empty());
        // They are told that there is nothing to shut down, and no more.
        for (_, bytes) in std::mem::take(&mut stack.transmits) {
            assert_eq!((bytes[12], bytes[13]), (packet::SHUTDOWN_COMPLETE, packet::TAG_REFLECTED));
        }
    };
    try_all(&mut net);
    // Now the COOKIE ECHO is under way.
    net.stack(2).handle_datagram(now, addr(1), &sent[0].1);
    let (_, ack) = net.stack(2).transmits.pop_front().unwrap();
    net.stack(1).handle_datagram(now, addr(2), &ack);
    let (_, echo) = net.stack(1).transmits.pop_front().unwrap();
    try_all(&mut net);
    net.stack(2).handle_datagram(now, addr(1), &echo);
    assert!(matches!(net.take(1)[..], [NetEvent::Up { .. }]));
    net.send(2, AssocId::accepted(0), b"genuine");
    assert!(matches!(net.take(1)[..], [NetEvent::Message { .. }]));
}

/// The T bit makes the tag that of the other direction: neither replaces the other (RFC 9260 8.5.1 B, C).
#[test]
fn aborts_with_a_wrong_tag() {
    for kind in [packet::ABORT, packet::SHUTDOWN_COMPLETE] {
        let mut net = Net::new(2);
        let (_, two) = net.pair();
        let Assoc { my_tag, peer_tag, .. } = net.stack(2).assocs[&two];
        let now = net.now;
        let reflected = packet::TAG_REFLECTED;
        for (tag, flags) in [(my_tag ^ 1, 0), (peer_tag, 0), (my_tag, reflected), (0, reflected)] {
            net.stack(2).handle_datagram(now, addr(1), &forge(tag, &[(kind, flags, &[])]));
        }
        assert_eq!(net.take(2), [], "{kind}");
        assert_eq!(net.counters(2).wrong_tag, 4);
        // From another address the right tag is worth nothing.
        net.stack(2).handle_datagram(now, addr(66), &forge(my_tag, &[(kind, 0, &[])]));
        assert_eq!(net.take(2), []);
        net.stack(2).handle_datagram(now, addr(1), &forge(peer_tag, &[(kind, reflected, &[])]));
        // SHUTDOWN COMPLETE means something only where SHUTDOWN ACK was sent.
        let expected = [down(two, DownCause::Aborted)];
        assert_eq!(net.take(2), expected[..usize::from(kind == packet::ABORT)]);
    }
}

/// Even from a peer, with the right tag (RFC 9260 6.10 and 3.3.11).
#[test]
fn chunks_in_the_wrong_company() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    let Assoc { my_tag, peer_tag, .. } = net.stack(2).assocs[&two];
    let (init, cookie) = (init(9), bare_cookie(peer_tag, my_tag ^ 1));
    let heartbeat: (u8, u8, &[u8]) = (HEARTBEAT, 0, &[0, 1, 0, 4]);
    let bad: [[(u8, u8, &[u8]); 2]; 6] = [
        [heartbeat, (packet::INIT, 0, &init)],
        [heartbeat, (packet::INIT_ACK, 0, &init)],
        [(packet::INIT_ACK, 0, &init), heartbeat],
        [heartbeat, (packet::COOKIE_ECHO, 0, &cookie)],
        [heartbeat, (packet::SHUTDOWN_COMPLETE, 0, &[])],
        [(packet::SHUTDOWN_COMPLETE, 0, &[]), heartbeat],
    ];
    let now = net.now;
    for chunks in &bad {
        net.stack(2).handle_datagram(now, addr(1), &forge(my_tag, chunks));
    }
    assert_eq!(net.counters(2).malformed, bad.len() as u64);
    assert!(net.stack(2).transmits.is_empty());
    net.send(1, one, b"undisturbed");
    assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
}

#[test]
fn cookies_sent_again() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    let now = net.now;
    net.stack(2).handle_datagram(now, addr(1), &echo);
    let [NetEvent::Up { assoc: two, .. }] = net.take(2)[..] else { panic!("not up") };
    net.take(1);
    // RFC 9260 5.2.4 D: the same again, a thousand times.
    for _ in 0..1_000 {
        net.stack(2).handle_datagram(now, addr(1), &echo);
        let (_, ack) = net.stack(2).transmits.pop_front().unwrap();
        assert_eq!(ack[12], packet::COOKIE_ACK);
    }
    net.send(1, AssocId::dialled(1), b"still here");
    assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
    // The peer restarts: the predecessor's cookie is not its own (5.2.4 C), nor after the end of both.
    net.boot(1);
    net.now += Duration::from_millis(10);
    net.command(1, connect(2, 2));
    let events = net.take(2);
    let [ref old, NetEvent::Up { assoc: new, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(*old, down(two, DownCause::Aborted));
    let now = net.now;
    net.stack(2).handle_datagram(now, addr(1), &echo);
    net.command(2, NetCommand::Abort { assoc: new });
    net.take(2);
    net.stack(2).handle_datagram(now, addr(1), &echo);
    let (_, answer) = net.stack(2).transmits.pop_front().unwrap();
    assert_eq!(answer[12], packet::ABORT);
    assert_eq!(net.take(2), []);
    assert!(net.stack(2).is_empty());
}

/// A peer that acknowledges what was never sent, takes back what it had acknowledged, or says it all again.
#[test]
fn nonsense_in_acknowledgements() {
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..200 {
        let mut net = Net::new(3);
        let (_, two) = net.pair();
        net.command(3, connect(1, 2));
        let [NetEvent::Up { assoc: other, .. }] = net.take(2)[..] else { panic!("not up") };
        let tag = net.stack(2).assocs[&two].my_tag;
        net.send(2, two, &[7; 60_000]);
        let first = net.stack(2).transmits.iter().find(|(_, bytes)| bytes[12] == packet::DATA);
        let first = packet::u32_at(&first.unwrap().1, 16).unwrap();
        let mut largest = 0;
        for _ in 0..200 {
            let cumulative = match random.u32(..4) {
                0 => random.u32(..),
                1 => first.wrapping_sub(1),
                _ => first.wrapping_add(random.u32(..60)).wrapping_sub(5),
            };
            let gap = |random: &mut fastrand::Rng| match random.u32(..3) {
                0 => (random.u16(..), random.u16(..)),
                _ => (random.u16(..50), random.u16(..50)),
            };
            let gaps: Vec<_> = (0..random.usize(..20)).map(|_| gap(&mut random)).collect();
            let duplicates: Vec<_> = (0..random.usize(..30)).map(|_| random.u32(..)).collect();
            let window = [0, 1, 100_000, u32::MAX][random.usize(..4)];
            let value = sack(cumulative, window, &gaps, &duplicates);
            let now = net.now;
            net.stack(2).handle_datagram(now, addr(1), &forge(tag, &[(SACK, 0, &value)]));
            largest = largest.max(net.stack(2).transmits.len());
            net.stack(2).transmits.clear();
            net.run(Duration::from_millis(random.u64(..30)));
        }
        assert!(largest < 100, "round {round}: {largest} packets at once");
        net.send(2, other, b"undisturbed");
        let events = net.take(3);
        assert!(events.iter().any(|event| matches!(event, NetEvent::Message { .. })), "{events:?}");
        net.run(Duration::from_secs(30));
        let events = net.take(2);
        assert!(events.iter().all(|event| matches!(event, NetEvent::Down { .. })), "{events:?}");
        assert_eq!(net.counters(2).faults, 0);
    }
}

/// Each chunk that has to be reported costs a packet: one that carries thousands is not SCTP of good faith.
#[test]
fn floods_of_unknown_chunks() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    let tag = net.stack(2).assocs[&two].my_tag;
    let now = net.now;
    for (kind, answers) in [(0xfe, 15), (HEARTBEAT, 15), (0xbf, 0), (0x3f, 0)] {
        let few = vec![(kind, 0, &[][..]); 15];
        net.stack(2).handle_datagram(now, addr(1), &forge(tag, &few));
        assert_eq!(net.stack(2).transmits.drain(..).count(), answers, "{kind:#x}");
        let many = vec![(kind, 0, &[][..]); 16_000];
        net.stack(2).handle_datagram(now, addr(1), &forge(tag, &many));
        assert_eq!(net.stack(2).transmits.len(), 0, "{kind:#x}");
    }
    assert_eq!(net.counters(2).malformed, 4);
    net.send(1, one, b"undisturbed");
    assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
}

/// A peer that takes nothing, but says that it lives: dcsctp believes every HEARTBEAT ACK, however often it comes.
#[test]
fn peer_that_never_reads() {
    const HEARTBEAT_ACK: u8 = 5;
    let mut net = Net::new(3);
    let (_, two) = net.pair();
    net.command(3, connect(1, 2));
    let [NetEvent::Up { assoc: other, .. }] = net.take(2)[..] else { panic!("not up") };
    net.path = Box::new(|hop| hop.to != addr(1) || hop.bytes[12] != packet::DATA);
    net.run(Duration::from_millis(1_500));
    net.send(2, two, &[7; 60_000]);
    let begun = net.now;
    let mut end = None;
    while end.is_none() && net.now < begun + Duration::from_secs(20) {
        let alive = net
            .wire
            .iter()
            .rfind(|(from, _, bytes)| *from == addr(1) && bytes[12] == HEARTBEAT_ACK);
        let (now, alive) = (net.now, alive.unwrap().2.clone());
        net.stack(2).handle_datagram(now, addr(1), &alive);
        net.send(2, other, b"undisturbed");
        net.run(Duration::from_millis(100));
        let heard = net.take(3);
        assert!(heard.iter().any(|event| matches!(event, NetEvent::Message { .. })));
        end = net.take(2).pop();
    }
    assert_eq!(end, Some(down(two, DownCause::TimedOut)));
    assert_eq!(net.counters(2).slow_peers, 1);
    let waited = (net.now - begun).as_secs();
    assert!((9..12).contains(&waited), "after {waited} s");
}

/// All together may not make us hold more than is allowed; who holds most goes first.
#[test]
fn many_peers_that_never_read() {
    let mut net = Net::new(9);
    net.stack(2).config.max_held = 1 << 20;
    let mut all = BTreeMap::new();
    for host in [1, 3, 4, 5, 6, 7, 8, 9] {
        net.command(host, connect(1, 2));
        let [NetEvent::Up { assoc, .. }] = net.take(2)[..] else { panic!("not up") };
        all.insert(host, assoc);
    }
    net.path =
        Box::new(|hop| hop.to == addr(9) || hop.to == addr(2) || hop.bytes[12] != packet::DATA);
    let mut gone = Vec::new();
    for n in 0..200u8 {
        for (host, assoc) in &all {
            // Host 8 gets most.
            let size = if *host == 8 { 10_000 } else { 3_000 };
            net.send(2, *assoc, &vec![n; size]);
        }
        net.settle();
        assert!(net.stack(2).hoards.outgoing <= 1 << 20);
        gone.extend(net.take(2));
    }
    assert_eq!(gone[0], down(all[&8], DownCause::TimedOut));
    assert!(
        gone.iter().all(|event| matches!(event, NetEvent::Down { assoc, .. } if *assoc != all[&9]))
    );
    assert_eq!(net.counters(2).slow_peers as usize, gone.len());
    let arrived =
        net.take(9).iter().filter(|event| matches!(event, NetEvent::Message { .. })).count();
    assert_eq!(arrived, 200, "who reads gets everything");
}

/// A byte that is a chunk of its own costs a hundred times as much: some wait for their like, thousands do not.
#[test]
fn message_that_never_ends() {
    // Fragments of one byte, none of them the last; or whole messages behind a gap that is never filled.
    for (flags, gap) in [(0, 0), (3, 1)] {
        let mut net = Net::new(2);
        let (_, two) = net.pair();
        let tag = net.stack(2).assocs[&two].my_tag;
        let sent = net.wire.iter().find(|(_, _, bytes)| bytes[12] == packet::INIT);
        let first = packet::u32_at(&sent.unwrap().2, 28).unwrap().wrapping_add(gap);
        net.path = Box::new(|_| false);
        let mut sent = 0;
        while net.stack(2).assocs.contains_key(&two) {
            assert!(sent < 20_000, "{sent} chunks wait");
            let begin = if sent == 0 { 2 } else { 0 };
            let value = data(first.wrapping_add(sent), 0, b"x");
            let now = net.now;
            net.stack(2).handle_datagram(
                now,
                addr(1),
                &forge(tag, &[(packet::DATA, flags | begin, &value)]),
            );
            net.stack(2).transmits.clear();
            sent += 1;
        }
        assert!(sent > 10_000, "{sent} chunks may well wait");
        assert_eq!(net.counters(2).hoarders, 1);
        assert_eq!(net.take(2).pop(), Some(down(two, DownCause::Local)));
    }
}

#[test]
fn streams_that_were_not_offered() {
    let mut net = Net::new(2);
    let (_, two) = net.pair();
    let tag = net.stack(2).assocs[&two].my_tag;
    let sent = net.wire.iter().find(|(_, _, bytes)| bytes[12] == packet::INIT);
    let first = packet::u32_at(&sent.unwrap().2, 28).unwrap();
    let now = net.now;
    let message = |tsn, stream| forge(tag, &[(packet::DATA, 3, &data(tsn, stream, b"hallo"))]);
    net.stack(2).handle_datagram(now, addr(1), &message(first, 15));
    assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
    net.stack(2).handle_datagram(now, addr(1), &message(first.wrapping_add(1), 16));
    assert_eq!(net.take(2), [down(two, DownCause::Local)]);
    assert_eq!(net.counters(2).violations, 1);
}

/// What stands behind a COOKIE ECHO is looked at like everything else, however often the cookie comes.
#[test]
fn data_behind_a_cookie() {
    for repeated in [false, true] {
        let mut net = Net::new(2);
        let mut echo = cookie_echo(&mut net);
        let now = net.now;
        if repeated {
            net.stack(2).handle_datagram(now, addr(1), &echo);
            assert!(matches!(net.take(2)[..], [NetEvent::Up { .. }]));
        }
        let value = data(7, STREAMS, b"hallo");
        echo.extend([packet::DATA, 3]);
        echo.extend((4 + value.len() as u16).to_be_bytes());
        echo.extend(value);
        echo.resize(echo.len().next_multiple_of(4), 0);
        reseal(&mut echo);
        net.stack(2).handle_datagram(now, addr(1), &echo);
        assert_eq!(net.counters(2).violations, 1, "{repeated}");
        assert!(net.stack(2).is_empty());
    }
}

/// An address that can be proven is no right to all there is.
#[test]
fn one_address_does_not_take_everything() {
    let mut net = Net::new(3);
    net.stack(2).config.max_associations_per_address = 5;
    for n in 1..=5 {
        net.command(1, connect(n, 2));
        assert!(matches!(net.take(1)[..], [NetEvent::Up { .. }]));
    }
    net.command(1, connect(6, 2));
    assert_eq!(net.take(1), [down(AssocId::dialled(6), DownCause::Aborted)]);
    net.command(3, connect(1, 2));
    assert!(matches!(net.take(3)[..], [NetEvent::Up { .. }]));
    // A place that becomes free can be taken again.
    net.command(1, NetCommand::Abort { assoc: AssocId::dialled(2) });
    net.take(1);
    net.command(1, connect(7, 2));
    assert!(matches!(net.take(1)[..], [NetEvent::Up { .. }]));
}

/// Nothing of ours is larger than what IPv6 demands of every path: 1,280 bytes with the headers of IP and UDP.
#[test]
fn path_that_drops_large_datagrams() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    net.path = Box::new(|hop| hop.bytes.len() + 40 + 8 <= 1_280);
    for (from, id, to, peer) in [(1, one, 2, two), (2, two, 1, one)] {
        let payload = vec![from; 60_000];
        net.send(from, id, &payload);
        net.run(Duration::from_millis(500));
        assert_eq!(net.take(to), [NetEvent::Message { assoc: peer, payload }]);
    }
    // One that does not carry even that: what fits goes on, what does not ends the association in bounded time.
    net.path = Box::new(|hop| hop.bytes.len() + 40 + 8 <= 600);
    for _ in 0..50 {
        net.send(1, one, &[1; 400]);
        net.run(Duration::from_millis(100));
        assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
    }
    net.send(1, one, &[1; 5_000]);
    net.run(Duration::from_millis(3_500));
    assert_eq!(net.take(1), [down(one, DownCause::TimedOut)]);
}

/// The fuzz targets, on bytes that are not quite random: pieces of packets that were sent, some of them damaged.
#[test]
fn fuzz_targets_on_pieces_of_packets() {
    let mut random = fastrand::Rng::with_seed(9);
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    net.send(1, one, &[7; 3_000]);
    net.send(2, two, b"answer");
    net.run(Duration::from_secs(2));
    net.command(1, NetCommand::Shutdown { assoc: one });
    net.settle();
    let recorded: Vec<_> = net.wire.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    for _ in 0..2_000 {
        let damaged = |random: &mut fastrand::Rng| {
            let mut bytes = recorded[random.usize(..recorded.len())].clone();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes
        };
        fuzz::packet(&damaged(&mut random));
        let bytes = damaged(&mut random);
        fuzz::cookie(&bytes[bytes.len().min(32)..]);
        let mut schedule = Vec::new();
        for _ in 0..random.usize(1..30) {
            let what = random.u8(..);
            let skip = if (2..=5).contains(&(what & 0x0f)) { 12 } else { 0 };
            let piece = damaged(&mut random);
            let piece = &piece[skip..piece.len().min(skip + random.usize(..256))];
            schedule.extend([what, piece.len() as u8]);
            schedule.extend(piece);
        }
        fuzz::demultiplexer(&schedule);
    }
}
