//! Stacks against each other over a virtual network with virtual time.

use std::collections::BTreeMap;

use super::*;

pub(super) fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([127, 201, 0, host], 9899))
}

pub(super) fn remote_of(host: u8, sctp_port: u16) -> Remote {
    Remote { link: Link::Sctp, addr: addr(host), sctp_port }
}

pub(super) fn connect(n: u64, host: u8) -> NetCommand {
    NetCommand::Connect {
        assoc: AssocId::dialled(n),
        protocol: Protocol::Asap,
        remote: remote_of(host, 3863),
    }
}

/// A packet on its way.
pub(super) struct Hop {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Net {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) stacks: BTreeMap<SocketAddr, Stack>,
    pub(super) events: BTreeMap<SocketAddr, Vec<NetEvent>>,
    /// Source addresses that appear as another one.
    pub(super) nat: BTreeMap<SocketAddr, SocketAddr>,
    /// Packets that were sent: from, to, bytes.
    pub(super) wire: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    pub(super) cut: bool,
    /// What the path does to a packet; `false` loses it.
    pub(super) path: Box<dyn FnMut(&mut Hop) -> bool>,
}

impl Net {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    pub(super) fn new(hosts: u8) -> Self {
        let now = Instant::now();
        let mut net = Self {
            start: now,
            now,
            stacks: BTreeMap::new(),
            events: BTreeMap::new(),
            nat: BTreeMap::new(),
            wire: Vec::new(),
            cut: false,
            path: Box::new(|_| true),
        };
        for host in 1..=hosts {
            net.boot(host);
        }
        net
    }

    pub(super) fn boot(&mut self, host: u8) {
        let config = EndpointConfig::registrar(addr(host), None);
        let stack = Stack::new(config, self.now, Arc::default(), Arc::default()).unwrap();
        self.stacks.insert(addr(host), stack);
    }

    pub(super) fn stack(&mut self, host: u8) -> &mut Stack {
        self.stacks.get_mut(&addr(host)).unwrap()
    }

    pub(super) fn command(&mut self, host: u8, command: NetCommand) {
        let now = self.now;
        self.stack(host).handle_command(now, command);
        self.stack(host).flush(now);
    }

    pub(super) fn send(&mut self, host: u8, assoc: AssocId, payload: &[u8]) {
        self.command(host, NetCommand::Send { assoc, payload: payload.to_vec() });
    }

    /// Carries packets until nobody has anything to send.
    pub(super) fn settle(&mut self) {
        loop {
            let mut packets = Vec::new();
            for (from, stack) in &mut self.stacks {
                for (to, bytes) in stack.transmits.drain(..) {
                    packets.push((*from, to, bytes));
                }
                self.events.entry(*from).or_default().extend(stack.events.drain(..));
            }
            if packets.is_empty() {
                return;
            }
            for (from, to, bytes) in packets {
                let mut hop = Hop { from, to, bytes };
                if !(self.path)(&mut hop) {
                    continue;
                }
                let Hop { from, to, bytes } = hop;
                self.wire.push((from, to, bytes.clone()));
                let from = self.nat.get(&from).copied().unwrap_or(from);
                let inside =
                    self.nat.iter().find(|(_, outside)| **outside == to).map(|(inside, _)| *inside);
                if let Some(stack) = self.stacks.get_mut(&inside.unwrap_or(to))
                    && !self.cut
                {
                    stack.handle_datagram(self.now, from, &bytes);
                }
            }
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.stacks.values().filter_map(Stack::next_deadline).min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = next.max(self.now),
                None => break,
            }
            for stack in self.stacks.values_mut() {
                stack.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    pub(super) fn take(&mut self, host: u8) -> Vec<NetEvent> {
        self.settle();
        self.events.remove(&addr(host)).unwrap_or_default()
    }

    /// Associates 1 with 2; the identifiers on both sides.
    pub(super) fn pair(&mut self) -> (AssocId, AssocId) {
        self.command(1, connect(1, 2));
        let [NetEvent::Up { assoc: one, .. }] = self.take(1)[..] else { panic!("1 is not up") };
        let [NetEvent::Up { assoc: two, protocol, remote, .. }] = self.take(2)[..] else {
            panic!("2 is not up")
        };
        assert_eq!(
            (one, protocol, remote),
            (AssocId::dialled(1), Protocol::Asap, remote_of(1, 3863))
        );
        (one, two)
    }

    pub(super) fn counters(&mut self, host: u8) -> crate::Counters {
        self.stack(host).counters.snapshot()
    }
}

pub(super) fn down(assoc: AssocId, cause: DownCause) -> NetEvent {
    NetEvent::Down { assoc, cause }
}

pub(super) fn reseal(bytes: &mut [u8]) {
    let mut clear = bytes.to_vec();
    clear[8..12].fill(0);
    bytes[8..12].copy_from_slice(&crc32c::crc32c(&clear).to_le_bytes());
}

#[test]
fn messages_of_all_sizes_arrive_in_order_both_ways() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    for size in [1, 2, 3, 4, 100, 1_371, 1_372, 1_373, 1_400, 9_000, 60_000, 65_536] {
        for (from, id, to, peer) in [(1, one, 2, two), (2, two, 1, one)] {
            let payloads = [vec![from; size], vec![0xab; 8]];
            for payload in &payloads {
                net.send(from, id, payload);
            }
            net.run(Duration::from_millis(500));
            let arrived = net.take(to);
            let expected = payloads.map(|payload| NetEvent::Message { assoc: peer, payload });
            assert_eq!(arrived, expected, "size {size}");
        }
    }
}

#[test]
fn init_leaves_nothing_behind() {
    let mut net = Net::new(2);
    net.command(1, connect(1, 2));
    let (_, init) = net.stack(1).transmits.pop_front().unwrap();
    let now = net.now;
    for _ in 0..100 {
        net.stack(2).handle_datagram(now, addr(1), &init);
    }
    let stack = net.stack(2);
    assert_eq!(stack.transmits.len(), 100);
    assert!(
        stack.is_empty()
            && stack.timers.is_empty()
            && stack.by_key.is_empty()
            && stack.by_tag.is_empty()
    );
    assert_eq!(stack.responders.len(), 1);
}

/// A COOKIE ECHO of host 1 that host 2 has not seen.
pub(super) fn cookie_echo(net: &mut Net) -> Vec<u8> {
    net.command(1, connect(1, 2));
    let now = net.now;
    let (_, init) = net.stack(1).transmits.pop_front().unwrap();
    net.stack(2).handle_datagram(now, addr(1), &init);
    let (_, ack) = net.stack(2).transmits.pop_front().unwrap();
    net.stack(1).handle_datagram(now, addr(2), &ack);
    net.stack(1).transmits.pop_front().unwrap().1
}

#[test]
fn cookie_with_any_bit_flipped_is_refused() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    let now = net.now;
    // Chunk header at 12, cookie behind it; then the tag of the packet.
    let bits = (16 * 8..echo.len() * 8).chain(4 * 8..8 * 8);
    let count = bits.clone().count() as u64;
    for bit in bits {
        let mut forged = echo.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        reseal(&mut forged);
        net.stack(2).handle_datagram(now, addr(1), &forged);
    }
    // Another address, another SCTP port.
    net.stack(2).handle_datagram(now, addr(3), &echo);
    let mut elsewhere = echo.clone();
    elsewhere[0] ^= 1;
    reseal(&mut elsewhere);
    net.stack(2).handle_datagram(now, addr(1), &elsewhere);
    assert_eq!(net.counters(2).bad_cookie, count + 2);
    assert!(net.stack(2).is_empty() && net.stack(2).transmits.is_empty());
    // The genuine one still works, and twice makes one association.
    net.stack(2).handle_datagram(now, addr(1), &echo);
    net.stack(2).handle_datagram(now, addr(1), &echo);
    assert_eq!(net.stack(2).assocs.len(), 1);
    assert!(matches!(net.take(2)[..], [NetEvent::Up { .. }]));
}

#[test]
fn old_cookie_is_refused_with_an_error() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    let now = net.now + Duration::from_secs(11);
    net.stack(2).handle_datagram(now, addr(1), &echo);
    assert!(net.stack(2).is_empty());
    assert_eq!(net.counters(2).stale_cookie, 1);
    let (_, error) = net.stack(2).transmits.pop_front().unwrap();
    // ERROR, cause 3 (stale cookie), a second late.
    assert_eq!(error[12..], [9, 0, 0, 12, 0, 3, 0, 8, 0, 0x0f, 0x42, 0x40]);
}

#[test]
fn cookie_of_a_predecessor_is_refused() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    net.boot(2);
    let now = net.now;
    net.stack(2).handle_datagram(now, addr(1), &echo);
    assert!(net.stack(2).is_empty());
    assert_eq!(net.counters(2).bad_cookie, 1);
}

#[test]
fn out_of_the_blue() {
    let mut net = Net::new(1);
    let now = net.now;
    let mut respond = |kind, flags, tag| {
        let bytes = packet::answer(3863, 9901, tag, kind, flags, &[]);
        net.stack(1).handle_datagram(now, addr(9), &bytes);
        net.stack(1).transmits.pop_front().map(|(_, bytes)| {
            let answer = Packet::parse(&bytes).unwrap();
            assert_eq!((answer.source_port, answer.destination_port), (9901, 3863));
            (bytes[12], bytes[13], answer.tag)
        })
    };
    const SACK: u8 = 3;
    assert_eq!(respond(SACK, 0, 7), Some((packet::ABORT, 1, 7)));
    assert_eq!(respond(packet::SHUTDOWN_ACK, 0, 7), Some((packet::SHUTDOWN_COMPLETE, 1, 7)));
    for kind in [packet::ABORT, packet::SHUTDOWN_COMPLETE, packet::COOKIE_ACK, packet::ERROR] {
        assert_eq!(respond(kind, 0, 7), None);
    }
    let answered = (0..5_000).filter(|_| respond(SACK, 0, 7).is_some()).count();
    assert_eq!(answered, 998);
}

#[test]
fn peer_that_restarted_is_told_apart() {
    let mut net = Net::new(2);
    let (_, two) = net.pair();
    net.boot(1);
    net.now += Duration::from_millis(100);
    net.command(1, connect(2, 2));
    let events = net.take(2);
    let [ref first, NetEvent::Up { assoc, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(*first, down(two, DownCause::Aborted));
    assert!(matches!(net.take(1)[..], [NetEvent::Up { .. }]));
    net.send(2, assoc, b"hallo");
    net.run(Duration::from_secs(8));
    assert!(matches!(net.take(1)[..], [NetEvent::Message { .. }]));
    assert_eq!(net.take(2), []);
    assert_eq!(net.counters(2).restarts, 1);
}

#[test]
fn peer_that_lost_its_state_says_so() {
    let mut net = Net::new(2);
    let (_, two) = net.pair();
    net.boot(1);
    net.send(2, two, b"hallo");
    assert_eq!(net.take(2), [down(two, DownCause::Aborted)]);
}

#[test]
fn both_dial_at_once() {
    let mut net = Net::new(2);
    net.command(1, connect(1, 2));
    net.command(2, connect(1, 1));
    net.run(Duration::from_secs(5));
    for host in [1, 2] {
        let events = net.take(host);
        assert!(
            matches!(events[..], [NetEvent::Up { assoc, .. }] if assoc == AssocId::dialled(1)),
            "{events:?}"
        );
        assert_eq!(net.stack(host).assocs.len(), 1);
    }
    net.send(1, AssocId::dialled(1), b"hallo");
    assert!(matches!(net.take(2)[..], [NetEvent::Message { .. }]));
}

#[test]
fn dial_that_is_overtaken_by_the_peers() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    net.command(2, connect(7, 1));
    let now = net.now;
    net.stack(2).handle_datagram(now, addr(1), &echo);
    net.run(Duration::from_secs(5));
    for (host, n) in [(1, 1), (2, 7)] {
        let events = net.take(host);
        assert!(
            matches!(events[..], [NetEvent::Up { assoc, .. }] if assoc == AssocId::dialled(n)),
            "{events:?}"
        );
        assert_eq!(net.stack(host).assocs.len(), 1);
    }
}

#[test]
fn second_dial_to_the_same_peer_uses_another_port() {
    let mut net = Net::new(2);
    net.pair();
    net.command(1, connect(2, 2));
    let [NetEvent::Up { remote, .. }] = net.take(2)[..] else { panic!("not up") };
    assert!(EPHEMERAL.contains(&remote.sctp_port));
    assert_eq!(net.stack(1).assocs.len(), 2);
}

#[test]
fn nat_that_rebinds_is_followed() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    let outside = SocketAddr::new(addr(1).ip(), 1234);
    net.nat.insert(addr(1), outside);
    net.send(1, one, b"ping");
    let moved = Remote { addr: outside, ..remote_of(1, 3863) };
    let message = |assoc, payload: &[u8]| NetEvent::Message { assoc, payload: payload.to_vec() };
    assert_eq!(net.take(2), [NetEvent::Moved { assoc: two, remote: moved }, message(two, b"ping")]);
    net.send(2, two, b"pong");
    assert_eq!(net.take(1), [message(one, b"pong")]);
    // A wrong tag or another address moves nothing.
    let now = net.now;
    let tag = net.stack(2).assocs[&two].my_tag;
    for (from, tag) in [(SocketAddr::new(addr(1).ip(), 4321), tag ^ 1), (addr(66), tag)] {
        let forged = packet::answer(3863, 3863, tag, 3, 0, &[]);
        net.stack(2).handle_datagram(now, from, &forged);
    }
    assert_eq!(net.take(2), []);
    assert_eq!(net.counters(2).out_of_the_blue, 2);
}

/// Two elements behind one NAT, whose ports change places.
#[test]
fn peers_that_swap_their_ports() {
    let mut net = Net::new(3);
    let ports = [1001, 1002].map(|port| SocketAddr::new(addr(50).ip(), port));
    let mut ids = [AssocId::accepted(0); 2];
    for (n, host) in [1, 3].into_iter().enumerate() {
        net.nat.insert(addr(host), ports[n]);
        net.command(host, connect(1, 2));
        let [NetEvent::Up { assoc, remote, .. }] = net.take(2)[..] else { panic!("not up") };
        assert_eq!(remote.addr, ports[n]);
        ids[n] = assoc;
    }
    net.nat = BTreeMap::from([(addr(1), ports[1]), (addr(3), ports[0])]);
    for (n, host) in [1, 3, 1].into_iter().enumerate() {
        net.send(host, AssocId::dialled(1), &[host]);
        let message = NetEvent::Message { assoc: ids[n % 2], payload: vec![host] };
        assert_eq!(net.take(2).pop(), Some(message));
    }
    for (id, host) in [(ids[0], 1), (ids[1], 3)] {
        net.send(2, id, &[host]);
        let message = NetEvent::Message { assoc: AssocId::dialled(1), payload: vec![host] };
        assert_eq!(net.take(host).pop(), Some(message));
    }
    assert_eq!(net.counters(2).moves, 2);
}

#[test]
fn data_that_overtakes_the_cookie_ack_waits() {
    let mut net = Net::new(2);
    let echo = cookie_echo(&mut net);
    let now = net.now;
    net.stack(2).handle_datagram(now, addr(1), &echo);
    let (_, ack) = net.stack(2).transmits.pop_front().unwrap();
    let [NetEvent::Up { assoc, .. }] = net.take(2)[..] else { panic!("not up") };
    net.send(2, assoc, b"early");
    assert_eq!(net.take(1), []);
    net.stack(1).handle_datagram(now, addr(2), &ack);
    let events = net.take(1);
    assert!(matches!(events[..], [NetEvent::Up { .. }, NetEvent::Message { .. }]), "{events:?}");
}

#[test]
fn icmp_counts_only_with_the_right_tag() {
    let mut net = Net::new(2);
    let (one, _) = net.pair();
    net.send(1, one, b"hallo");
    let (_, mut sent) = net.stack(1).transmits.back().cloned().unwrap();
    let now = net.now;
    net.stack(1).handle_unreachable(now, addr(2), true, &sent);
    net.stack(1).handle_unreachable(now, addr(2), true, &sent);
    net.stack(1).handle_unreachable(now, addr(2), false, &sent);
    sent[4] ^= 1;
    net.stack(1).handle_unreachable(now, addr(2), true, &sent);
    assert_eq!(net.take(1), [NetEvent::Suspect { assoc: one }]);
    assert_eq!((net.counters(1).icmp_matched, net.counters(1).icmp_unmatched), (3, 1));

    net.command(1, connect(5, 9));
    let (_, init) = net.stack(1).transmits.back().cloned().unwrap();
    net.stack(1).handle_unreachable(now, addr(9), true, &init[..20]);
    assert_eq!(net.take(1), [down(AssocId::dialled(5), DownCause::Unreachable)]);
}

#[test]
fn silent_peer_is_given_up() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    net.run(Duration::from_secs(30));
    assert_eq!((net.take(1), net.take(2)), (vec![], vec![]));
    net.cut = true;
    net.send(1, one, b"hallo");
    net.run(Duration::from_millis(3_500));
    assert_eq!(net.take(1), [down(one, DownCause::TimedOut)]);
    net.run(Duration::from_millis(2_000));
    assert_eq!(net.take(2), [down(two, DownCause::TimedOut)]);
    net.command(1, connect(3, 2));
    net.run(Duration::from_millis(2_500));
    assert_eq!(net.take(1), [down(AssocId::dialled(3), DownCause::TimedOut)]);
    assert!(net.stack(1).is_empty() && net.stack(1).timers.is_empty());
    assert!(net.stack(1).by_key.is_empty() && net.stack(1).by_tag.is_empty());
    assert!(net.now > net.start);
}

#[test]
fn shutdown_waits_for_what_was_sent() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    for n in 0..8 {
        net.send(1, one, &[n; 60_000]);
    }
    net.command(1, NetCommand::Shutdown { assoc: one });
    net.send(1, one, b"too late");
    // All that is under way is acknowledged at once, while most is still queued.
    let now = net.now;
    for (_, bytes) in std::mem::take(&mut net.stack(1).transmits) {
        net.stack(2).handle_datagram(now, addr(1), &bytes);
    }
    let (_, ack) = std::mem::take(&mut net.stack(2).transmits).pop_back().unwrap();
    net.stack(1).handle_datagram(now, addr(2), &ack);
    net.run(Duration::from_secs(2));
    let events = net.take(2);
    assert_eq!(events.len(), 9, "all messages, then the end");
    assert_eq!(events[8], down(two, DownCause::Closed));
    assert_eq!(net.take(1), [down(one, DownCause::Local)]);
}

/// The peer's SHUTDOWN acknowledges what its SACK, still delayed, would have: nothing has to be sent again.
#[test]
fn shutdown_acknowledges() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    // The first is acknowledged at once.
    net.send(2, two, b"the first");
    net.settle();
    net.send(2, two, b"the last");
    net.settle();
    let sent = net.wire.len();
    net.command(1, NetCommand::Shutdown { assoc: one });
    net.settle();
    assert_eq!(net.take(2), [down(two, DownCause::Closed)]);
    let events = net.take(1);
    assert!(
        matches!(
            events[..],
            [NetEvent::Message { .. }, NetEvent::Message { .. }, NetEvent::Down { .. }]
        ),
        "{events:?}"
    );
    assert_eq!(net.wire.len() - sent, 3, "SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE");
}

#[test]
fn abort_reaches_the_peer() {
    let mut net = Net::new(2);
    let (one, two) = net.pair();
    net.command(2, NetCommand::Abort { assoc: two });
    assert_eq!(net.take(2), [down(two, DownCause::Local)]);
    assert_eq!(net.take(1), [down(one, DownCause::Aborted)]);
}

#[test]
fn nobody_listens_on_the_sctp_port() {
    let mut net = Net::new(2);
    let remote = remote_of(2, 4711);
    net.command(
        1,
        NetCommand::Connect { assoc: AssocId::dialled(1), protocol: Protocol::Asap, remote },
    );
    assert_eq!(net.take(1), [down(AssocId::dialled(1), DownCause::Aborted)]);
}

#[test]
fn full_house_refuses_and_recovers() {
    let mut net = Net::new(3);
    net.stack(2).config.max_associations = 1;
    let (one, _) = net.pair();
    net.command(3, connect(1, 2));
    assert_eq!(net.take(3), [down(AssocId::dialled(1), DownCause::Aborted)]);
    net.command(1, NetCommand::Abort { assoc: one });
    net.settle();
    net.command(3, connect(2, 2));
    assert!(matches!(net.take(3)[..], [NetEvent::Up { .. }]));
}

#[test]
fn peer_that_does_not_drain_is_dropped() {
    let mut net = Net::new(2);
    let (one, _) = net.pair();
    net.cut = true;
    for _ in 0..20 {
        net.send(1, one, &[0; 65_536]);
    }
    assert_eq!(net.take(1), [down(one, DownCause::TimedOut)]);
    assert_eq!(net.counters(1).slow_peers, 1);
}

#[test]
fn enrp_has_its_own_port_and_identifier() {
    let mut net = Net::new(2);
    let connect = NetCommand::Connect {
        assoc: AssocId::dialled(1),
        protocol: Protocol::Enrp,
        remote: remote_of(2, 9901),
    };
    net.command(1, connect);
    let [NetEvent::Up { protocol: Protocol::Enrp, remote, .. }] = net.take(2)[..] else {
        panic!("not up")
    };
    assert_eq!(remote.sctp_port, 9901);
    net.send(1, AssocId::dialled(1), b"presence");
    let (_, data) = net.stack(1).transmits.back().unwrap();
    assert_eq!(data[24..28], [0, 0, 0, 12]);
    // An ASAP association dialled to the ENRP port: its messages are not believed.
    net.settle();
    let connect = NetCommand::Connect {
        assoc: AssocId::dialled(2),
        protocol: Protocol::Asap,
        remote: remote_of(2, 9901),
    };
    net.command(1, connect);
    net.take(2);
    net.send(1, AssocId::dialled(2), b"what?");
    assert_eq!(net.take(2), []);
    assert_eq!(net.counters(2).wrong_ppid, 1);
}

/// Whatever arrives, nothing panics, and packets without our tag do no harm.
#[test]
fn mangled_packets() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let mut net = Net::new(2);
        let (one, two) = net.pair();
        for n in 0..20u8 {
            net.send(1, one, &vec![n; 1 + 197 * usize::from(n)]);
            net.send(2, two, &[n; 9]);
            net.run(Duration::from_millis(100));
        }
        net.command(1, connect(2, 2));
        net.command(1, NetCommand::Shutdown { assoc: AssocId::dialled(2) });
        net.run(Duration::from_millis(100));
        let recorded = net.wire.clone();
        net.command(1, connect(3, 2));
        net.command(2, connect(4, 1));
        for step in 0..1_000 {
            let (from, to, mut bytes) = recorded[random.usize(..recorded.len())].clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] =
                    if random.bool() { random.u8(..) } else { bytes[at] ^ (1 << random.u32(..8)) };
            }
            if random.u32(..8) == 0 {
                bytes.truncate(random.usize(..bytes.len()));
            }
            let id = if to == addr(1) { one } else { two };
            let Assoc { my_tag, peer_tag, .. } = net.stacks[&to].assocs[&id];
            let tagged = [Some(my_tag), Some(peer_tag)].contains(&packet::u32_at(&bytes, 4));
            if bytes.len() >= 12 {
                reseal(&mut bytes);
            }
            let now = net.now;
            let stack = net.stacks.get_mut(&to).unwrap();
            stack.handle_datagram(now, from, &bytes);
            let alive = stack.assocs.contains_key(&id);
            assert!(alive || tagged, "{bytes:02x?}");
            if !alive {
                break;
            }
            if step % 50 == 0 {
                net.run(Duration::from_millis(5));
                if [(1, one), (2, two)]
                    .iter()
                    .any(|(host, id)| !net.stack(*host).assocs.contains_key(id))
                {
                    break;
                }
            }
        }
        assert_eq!(net.counters(1).faults + net.counters(2).faults, 0);
    }
}
