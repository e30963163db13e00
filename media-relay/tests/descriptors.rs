//! Descriptors and ports after many calls. A program of its own, since it counts the descriptors of the process.

mod common;

use std::time::Duration;

use common::now;
use dialtone_media_relay::plane::{
    Command, EndSettings, Event, Kind, PairId, Plane, PlaneConfig, Ports, PortsConfig,
};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_thousand_calls_leave_nothing_behind() {
    let config = PlaneConfig { workers: 2, ..PlaneConfig::default() };
    let (plane, mut events) = Plane::start(&config).unwrap();
    let ports = PortsConfig {
        range: 40_000..=40_199,
        quarantine: Duration::ZERO,
        ..PortsConfig::default()
    };
    let mut ports = Ports::new("127.93.11.1".parse().unwrap(), ports, &mut fastrand::Rng::new());
    let before = descriptors();
    let (mut taken, mut peak) = (std::collections::HashMap::new(), 0);
    // Forty at a time, all closed before the next ones.
    for round in 0..25 {
        for n in 0..40 {
            let pair = PairId(round * 40 + n);
            let sockets = [(); 2].map(|()| ports.open(now(), true).unwrap());
            taken.insert(pair, sockets.each_ref().map(|sockets| sockets.port));
            let settings = [EndSettings::default(), EndSettings::default()];
            let silence = Duration::from_secs(60);
            plane.execute(Command::Open { pair, kind: Kind::Rtp, sockets, settings, silence });
        }
        peak = peak.max(descriptors());
        for n in 0..40 {
            plane.execute(Command::Close { pair: PairId(round * 40 + n) });
        }
        for _ in 0..40 {
            match events.blocking_recv() {
                Some(Event::Closed { pair, stats: Some(_) }) => {
                    for port in taken.remove(&pair).unwrap() {
                        ports.give_back(now(), port);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(descriptors(), before);
    assert_eq!(peak, before + 160);
    assert_eq!(ports.available(now()), 100);
    drop(plane);
    assert!(events.blocking_recv().is_none());
    assert!(descriptors() < before);
}
