//! Port pairs, on loopback addresses of this test's own.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::start;
use crate::plane::{OpenError, Ports, PortsConfig};

/// Three pairs: 40000, 40002, 40004; the odd first port and the even last one have no partner.
fn ports(address: &str) -> Ports {
    let config = PortsConfig { range: 39_999..=40_006, ..PortsConfig::default() };
    Ports::new(address.parse().unwrap(), config, &mut fastrand::Rng::with_seed(1))
}

#[test]
fn pairs_until_exhausted_and_again_after_quarantine() {
    let mut ports = ports("127.93.1.1");
    let (now, quarantine) = (start(), PortsConfig::default().quarantine);
    assert_eq!((ports.pairs(), ports.available(now)), (3, 3));
    let mut open: Vec<_> = (0..3).map(|_| ports.open(now, true).unwrap()).collect();
    let numbers: HashSet<u16> = open.iter().map(|sockets| sockets.port).collect();
    assert_eq!(numbers, HashSet::from([40_000, 40_002, 40_004]));
    for sockets in &open {
        assert_eq!(sockets.rtp.local_addr().unwrap().port(), sockets.port);
        let rtcp = sockets.rtcp.as_ref().unwrap();
        assert_eq!(rtcp.local_addr().unwrap().port(), sockets.port + 1);
    }
    assert!(matches!(ports.open(now, true), Err(OpenError::Exhausted { pairs: 3, .. })));

    let given = open.remove(0).port;
    ports.give_back(now, given);
    let early = now + quarantine - Duration::from_millis(1);
    assert!(matches!(ports.open(early, true), Err(OpenError::Exhausted { .. })));
    let sockets = ports.open(now + quarantine, false).unwrap();
    assert_eq!((sockets.port, sockets.rtcp.is_none()), (given, true));
    let rtcp = ports.open_rtcp(given).unwrap();
    assert_eq!(rtcp.local_addr().unwrap().port(), given + 1);
}

#[test]
fn what_rests_is_nobodys_unless_nothing_else_is_left() {
    let mut ports = ports("127.93.1.4");
    let (now, quarantine) = (start(), PortsConfig::default().quarantine);
    assert_eq!(ports.use_share(now), 0.0);
    let taken = [(); 2].map(|()| ports.open(now, false).unwrap().port);
    ports.give_back(now, taken[0]);
    assert_eq!(ports.use_share(now), 1.0 / 3.0);
    ports.open(now, false).unwrap();
    assert_eq!(ports.use_share(now), 1.0);
    assert_eq!(ports.use_share(now + quarantine), 2.0 / 3.0);
}

#[test]
fn ports_of_others_are_put_aside() {
    let mut ports = ports("127.93.1.2");
    let now = start();
    let address: IpAddr = ports.address();
    let other = UdpSocket::bind(SocketAddr::new(address, 40_003)).unwrap();
    let open: Vec<u16> =
        std::iter::from_fn(|| ports.open(now, true).ok()).map(|sockets| sockets.port).collect();
    assert_eq!(open.iter().copied().collect::<HashSet<_>>(), HashSet::from([40_000, 40_004]));
    drop(other);
    let later = now + PortsConfig::default().quarantine;
    assert_eq!(ports.open(later, true).unwrap().port, 40_002);
}

#[test]
fn what_the_system_refuses_takes_nothing() {
    // TEST-NET-1 is no address of this machine.
    let mut ports = ports("192.0.2.1");
    let now = start();
    assert!(matches!(ports.open(now, true), Err(OpenError::Io { .. })));
    assert_eq!(ports.available(now), 3);
}

#[test]
fn the_order_is_not_that_of_numbers() {
    let config = PortsConfig { range: 40_000..=40_199, ..PortsConfig::default() };
    let mut ports =
        Ports::new("127.93.1.3".parse().unwrap(), config, &mut fastrand::Rng::with_seed(7));
    let taken: Vec<u16> = (0..20).map(|_| ports.open(start(), false).unwrap().port).collect();
    assert!(!taken.is_sorted());
}
