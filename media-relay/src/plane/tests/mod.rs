//! What the data path decides, without sockets.

mod latching;
mod pairs;
mod ports;
mod reception;
mod reports;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::Rtp;
use super::stats::Tick;
use super::{Command, Plane, PlaneConfig};

#[expect(clippy::disallowed_methods, reason = "some moment must be the first")]
fn start() -> Instant {
    Instant::now()
}

fn at(start: Instant, millis: u64) -> Tick {
    Tick::new(start, start + Duration::from_millis(millis))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An RTP packet with 20 ms of G.711.
fn rtp_bytes(rtp: Rtp) -> Vec<u8> {
    let mut bytes = vec![0x80, rtp.payload_type];
    bytes.extend(rtp.sequence.to_be_bytes());
    bytes.extend(rtp.timestamp.to_be_bytes());
    bytes.extend(rtp.ssrc.to_be_bytes());
    bytes.resize(172, 0xff);
    bytes
}

#[test]
fn a_worker_that_dies_is_noticed() {
    let config = PlaneConfig { workers: 2, ..PlaneConfig::default() };
    let (plane, _events) = Plane::start(&config).unwrap();
    assert!(plane.is_whole());
    plane.execute(Command::Panic);
    let end = start() + Duration::from_secs(20);
    while plane.is_whole() {
        assert!(start() < end, "nobody noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
}
