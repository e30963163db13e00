//! Floods and lies on real sockets, while peers that mean well go on.

#[allow(dead_code, reason = "each test has use for a part of it")]
mod support;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dialtone_transport::{EndpointConfig, Link, NetCommand, NetEvent, Remote};
use socket2::{Domain, Socket, Type};
use support::{LIMIT, Peer, now};
use tokio::time::timeout;

/// How long the reader of a flood may take.
const BOUND: Duration = Duration::from_secs(5);
/// What docs/transport.md shows, three times, since machines differ and are busy: how long somebody new waits who has to
/// send again, and what a packet costs.
const NEW: Duration = Duration::from_millis(3 * 300);
const EACH_US: f64 = 3.0 * 9.4;
/// The same of memory at its peak: less than 100 bytes for each packet of a flood.
const GROWTH_KB: u64 = 3 * 6 * 1024;

fn local(net: u8, host: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 201, net, host), 0))
}

fn sctp(addr: SocketAddr) -> Remote {
    Remote { link: Link::Sctp, addr, sctp_port: 3863 }
}

/// A packet of one chunk between the ports of ASAP.
fn packet(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = [3863u16.to_be_bytes(); 2].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 0]);
    bytes.extend((4 + value.len() as u16).to_be_bytes());
    bytes.extend(value);
    let sum = crc32c::crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The most that was resident since the peak was last forgotten.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What is resident now is the peak.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Processor time of the threads that run SCTP.
fn cpu() -> Duration {
    let ticks = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        let fields = rest.split(' ').skip(11).take(2);
        name.ends_with("(sctp").then(|| fields.filter_map(|f| f.parse::<u64>().ok()).sum::<u64>())
    };
    let ticks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(ticks).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

/// As many packets as are read: INITs of 500 addresses, COOKIE ECHOs that nobody baked, and packets out of the blue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_on_real_sockets() {
    const PACKETS: u64 = 200_000;
    /// What waits in the socket at most: if more came than is read, the kernel would drop packets of all alike.
    const WAITING: u64 = 512;
    let mut registrar = Peer::bind(EndpointConfig::registrar(local(30, 1), None)).await;
    let mut element = Peer::bind(EndpointConfig::element(local(30, 2))).await;
    let addr = registrar.endpoint.local_addr();
    let one = element.dial(sctp(addr));
    assert!(matches!(element.next().await, NetEvent::Up { .. }));
    assert!(matches!(registrar.next().await, NetEvent::Up { .. }));
    // The registrar answers whoever asks.
    let Peer { endpoint, mut events, .. } = registrar;
    let endpoint = Arc::new(endpoint);
    let serving = tokio::spawn({
        let endpoint = Arc::clone(&endpoint);
        async move {
            let mut downs = 0;
            while let Some(event) = events.recv().await {
                match event {
                    NetEvent::Message { assoc, payload } => {
                        endpoint.execute(NetCommand::Send { assoc, payload });
                    }
                    NetEvent::Down { .. } => downs += 1,
                    _ => (),
                }
                if downs == 2 {
                    return;
                }
            }
        }
    });

    forget_peak();
    let (before, spent) = (peak_kb(), cpu());
    let over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let flood = std::thread::spawn({
        let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
        let endpoint = Arc::clone(&endpoint);
        move || {
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..500 {
                let ip = Ipv4Addr::new(127, 202, random.u8(..16), random.u8(1..255));
                let socket = UdpSocket::bind((ip, 0)).unwrap();
                socket.set_nonblocking(true).unwrap();
                for _ in 0..PACKETS / 500 {
                    let waiting = now();
                    while sent.load(Ordering::Relaxed) > endpoint.counters().packets_in + WAITING {
                        assert!(waiting.elapsed() < BOUND, "nothing is read");
                        std::thread::yield_now();
                    }
                    let mut value = [0; 96];
                    random.fill(&mut value);
                    let bytes = match random.u32(..4) {
                        0 | 1 => packet(
                            0,
                            1,
                            &[&value[..4], &[0, 1, 0, 0, 0, 16, 0, 16], &value[..4]].concat(),
                        ),
                        2 => packet(random.u32(1..), 10, &value),
                        _ => packet(random.u32(1..), 0, &value),
                    };
                    sent.fetch_add(
                        u64::from(socket.send_to(&bytes, addr).is_ok()),
                        Ordering::Relaxed,
                    );
                }
            }
            over.store(true, Ordering::Relaxed);
        }
    });

    // Meanwhile: questions and answers, and somebody new.
    let mut rounds = Vec::new();
    let mut guest = Peer::bind(EndpointConfig::element(local(30, 3))).await;
    let begun = now();
    guest.dial(sctp(addr));
    let mut came = None;
    while !over.load(Ordering::Relaxed) || came.is_none() {
        let asked = now();
        element.send(one, &[7; 60]);
        let event = element.next().await;
        assert!(matches!(event, NetEvent::Message { .. }), "{event:?} {:?}", endpoint.counters());
        rounds.push(asked.elapsed());
        match guest.events.try_recv() {
            Ok(NetEvent::Up { .. }) => came = Some(begun.elapsed()),
            Ok(NetEvent::Down { .. }) => drop(guest.dial(sctp(addr))),
            _ => (),
        }
    }
    flood.join().unwrap();
    let spent = (cpu() - spent).as_secs_f64() * 1e6 / PACKETS as f64;
    let peak = peak_kb();
    rounds.sort_unstable();
    let (median, most) = (rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    let counters = endpoint.counters();
    println!(
        "table: {PACKETS} packets, {spent:.2} µs each; {} round trips, median {median:.1?}, longest {most:.1?}; \
         somebody new was in after {:.1?}; memory grew by {} kB",
        rounds.len(),
        came.unwrap(),
        peak.saturating_sub(before),
    );
    assert!(came.unwrap() < NEW, "somebody new was in after {came:?}");
    assert!(spent < EACH_US, "{spent:.2} µs each");
    assert!(peak < before + GROWTH_KB, "{before} kB before, {peak} at most");
    assert_eq!((counters.ups, counters.downs, counters.faults), (2, 0, 0));
    assert!(counters.bad_cookie > 1_000 && counters.out_of_the_blue > 1_000, "{counters:?}");
    drop((element, guest));
    timeout(LIMIT, serving).await.expect("they are gone").unwrap();
}

/// An ICMP message about a UDP datagram that began with `returned`.
fn icmp(
    kind: u8,
    code: u8,
    rest: u32,
    from: SocketAddrV4,
    to: SocketAddrV4,
    returned: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest.to_be_bytes());
    // The IPv4 and UDP headers of what it claims to return.
    bytes.extend([0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend([0, 108, 0, 0]);
    bytes.extend(returned);
    let sum = bytes.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Anybody can send ICMP. Only who has seen our packets knows the tag, and what he says is looked into, not believed.
#[tokio::test]
async fn icmp_that_lies() {
    let liar = match Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4)) {
        Ok(liar) => liar,
        Err(why) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "raw sockets: {why}");
            println!("skipped: raw sockets are not allowed here");
            return;
        }
    };
    let mut registrar = Peer::bind(EndpointConfig::registrar(local(31, 1), None)).await;
    let mut element = Peer::bind(EndpointConfig::element(local(31, 2))).await;
    let SocketAddr::V4(us) = registrar.endpoint.local_addr() else { panic!("IPv6") };
    // The element is behind a NAT, which sees what passes.
    let nat = Arc::new(tokio::net::UdpSocket::bind(local(31, 3)).await.unwrap());
    let SocketAddr::V4(outside) = nat.local_addr().unwrap() else { panic!("IPv6") };
    let (tell, seen) = tokio::sync::watch::channel(Vec::new());
    let relay = tokio::spawn({
        let (nat, inside) = (Arc::clone(&nat), element.endpoint.local_addr());
        async move {
            let mut bytes = vec![0; 65_536];
            while let Ok((length, from)) = nat.recv_from(&mut bytes).await {
                let back = from == SocketAddr::V4(us);
                let to = if back { inside } else { SocketAddr::V4(us) };
                if back {
                    tell.send_replace(bytes[..length].to_vec());
                }
                let _ = nat.send_to(&bytes[..length], to).await;
            }
        }
    });
    let one = element.dial(sctp(SocketAddr::V4(outside)));
    assert!(matches!(element.next().await, NetEvent::Up { .. }));
    let NetEvent::Up { assoc: two, .. } = registrar.next().await else { panic!("not up") };
    // The registrar's next packet has the element's tag for sure.
    registrar.send(two, b"hallo");
    assert!(matches!(element.next().await, NetEvent::Message { .. }));
    let genuine = seen.borrow().clone();

    let to = SocketAddr::V4(SocketAddrV4::new(*us.ip(), 0)).into();
    let lie = |kind, code, rest, returned: &[u8]| {
        liar.send_to(&icmp(kind, code, rest, us, outside, returned), &to).unwrap();
    };
    // Wrong tags, too short, an INIT that was never sent; nothing comes of thousands of them.
    let mut wrong = genuine[..40.min(genuine.len())].to_vec();
    for n in 0..3_000u32 {
        wrong[4..8].copy_from_slice(&n.to_be_bytes());
        lie(3, 3, 0, &wrong);
        if n % 100 == 0 {
            element.send(one, b"ask");
            assert!(matches!(registrar.next().await, NetEvent::Message { .. }));
            registrar.send(two, b"answer");
            assert!(matches!(element.next().await, NetEvent::Message { .. }));
        }
    }
    lie(3, 3, 0, &genuine[..6]);
    let init = packet(0, 1, &[0; 16]);
    lie(3, 3, 0, &init);
    let counters = registrar.endpoint.counters();
    assert_eq!((counters.icmp_matched, counters.downs), (0, 0), "{counters:?}");
    assert!(counters.icmp_unmatched > 1_000, "{counters:?}");
    assert_eq!(counters.send_failures, 0);

    // The right tag: other codes say nothing about the process, least of all that packets have to be smaller.
    for (kind, code, rest) in [(3, 4, 68), (3, 1, 0), (3, 0, 0), (11, 0, 0), (3, 13, 0)] {
        lie(kind, code, rest, &genuine);
    }
    let payload = vec![7; 60_000];
    registrar.send(two, &payload);
    assert_eq!(element.next().await, NetEvent::Message { assoc: one, payload });
    let whole = seen.borrow().len();
    assert!(registrar.events.try_recv().is_err());
    registrar.send(two, &[7; 5_000]);
    assert!(matches!(element.next().await, NetEvent::Message { .. }));
    assert!(seen.borrow().len() <= 1_200 && whole <= 1_200);

    // Port unreachable with the right tag: worth a probe, and the association goes on.
    lie(3, 3, 0, &genuine);
    assert_eq!(registrar.next().await, NetEvent::Suspect { assoc: two });
    element.send(one, b"still here");
    assert!(matches!(registrar.next().await, NetEvent::Message { .. }));
    assert_eq!(registrar.endpoint.counters().downs, 0);
    relay.abort();
}
