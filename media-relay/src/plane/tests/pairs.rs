//! What becomes of packets between two ends.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{address, at, rtp_bytes, start};
use crate::plane::end::Channel;
use crate::plane::packet::{Rtp, rtp_payload};
use crate::plane::pair::{Pair, Verdict};
use crate::plane::{EndSettings, Kind, Latch, PairStats, Reopen, Side, Source};

const SILENCE: Duration = Duration::from_secs(60);
const LIMIT: u32 = 100;

const A: &str = "192.0.2.1:4000";
const A_RTCP: &str = "192.0.2.1:4001";
const B: &str = "[2001:db8::2]:5000";
const B_RTCP: &str = "[2001:db8::2]:5001";

fn settings() -> [EndSettings; 2] {
    [(A, A_RTCP), (B, B_RTCP)].map(|(rtp, rtcp)| EndSettings {
        rtp: Some(address(rtp)),
        rtcp: Some(address(rtcp)),
        ..EndSettings::default()
    })
}

struct Bed {
    start: Instant,
    millis: u64,
    pair: Pair,
}

impl Bed {
    fn new(kind: Kind, settings: [EndSettings; 2]) -> Self {
        let start = start();
        Self { start, millis: 0, pair: Pair::new(start, kind, settings, SILENCE) }
    }

    fn receive(&mut self, side: Side, port: Channel, source: &str, bytes: &[u8]) -> Verdict {
        let tick = at(self.start, self.millis);
        self.pair.receive(tick, LIMIT, side, port, address(source), bytes)
    }

    fn stats(&self) -> PairStats {
        self.pair.stats()
    }
}

fn rtp(sequence: u16) -> Vec<u8> {
    rtp_bytes(Rtp { payload_type: 0, sequence, timestamp: 0, ssrc: 1 })
}

/// A receiver report without blocks.
const RTCP: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 1];
const STUN: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn to(by: Channel, peer: &str) -> Verdict {
    Verdict::Forward { by, to: address(peer) }
}

use Channel::{Rtcp as ByRtcp, Rtp as ByRtp};
use Side::{Answerer, Offerer};

#[test]
fn both_ways_and_between_families() {
    let mut bed = Bed::new(Kind::Rtp, settings());
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(1)), to(ByRtp, B));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(1)), to(ByRtp, A));
    assert_eq!(bed.receive(Offerer, ByRtcp, A_RTCP, &RTCP), to(ByRtcp, B_RTCP));
    assert_eq!(bed.receive(Answerer, ByRtcp, B_RTCP, &RTCP), to(ByRtcp, A_RTCP));
    bed.pair.sent(Answerer, Some(172));
    bed.pair.sent(Answerer, None);
    let [offerer, answerer] = bed.stats().ends;
    assert_eq!((offerer.packets, offerer.bytes, offerer.rtcp_packets), (1, 172, 1));
    assert_eq!((answerer.sent, answerer.sent_bytes, answerer.send_errors), (1, 172, 1));
    assert_eq!((offerer.peer, offerer.latched), (Some(address(A)), true));
    assert_eq!(answerer.rtcp_peer, Some(address(B_RTCP)));
}

#[test]
fn one_side_shares_its_port() {
    let mut both = settings();
    both[1].mux = true;
    let mut bed = Bed::new(Kind::Rtp, both);
    assert_eq!(bed.receive(Offerer, ByRtcp, A_RTCP, &RTCP), to(ByRtp, B));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &RTCP), to(ByRtcp, A_RTCP));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(1)), to(ByRtp, A));
}

#[test]
fn rtcp_that_shares_a_port_unasked_is_found() {
    let mut bed = Bed::new(Kind::Rtp, settings());
    assert_eq!(bed.receive(Offerer, ByRtp, A, &RTCP), to(ByRtcp, B_RTCP));
}

#[test]
fn kinds() {
    for (kind, by, bytes, expected) in [
        (Kind::Rtp, ByRtp, &STUN[..], Verdict::Unexpected),
        (Kind::Rtp, ByRtcp, &rtp(1)[..], Verdict::Unexpected),
        (Kind::Rtp, ByRtp, &[], Verdict::Unexpected),
        (Kind::Srtp, ByRtp, &STUN[..], to(ByRtp, B)),
        (Kind::Srtp, ByRtp, &rtp(1)[..], to(ByRtp, B)),
        (Kind::Srtp, ByRtcp, &RTCP[..], to(ByRtcp, B_RTCP)),
        (Kind::Opaque, ByRtp, &STUN[..], to(ByRtp, B)),
        (Kind::Opaque, ByRtp, &RTCP[..], to(ByRtp, B)),
        (Kind::Opaque, ByRtp, &[], to(ByRtp, B)),
    ] {
        let mut bed = Bed::new(kind, settings());
        let source = if by == ByRtp { A } else { A_RTCP };
        assert_eq!(bed.receive(Offerer, by, source, bytes), expected, "{kind:?} {by:?} {bytes:?}");
        let unexpected = bed.stats().ends[0].unexpected;
        assert_eq!(unexpected, u64::from(expected == Verdict::Unexpected));
    }
}

#[test]
fn noise_does_not_latch() {
    let mut both = settings();
    both[0].rtp = None;
    let mut bed = Bed::new(Kind::Rtp, both);
    assert_eq!(bed.receive(Offerer, ByRtp, "198.51.100.66:666", &STUN), Verdict::Unexpected);
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(1)), Verdict::Unwanted);
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(1)), to(ByRtp, B));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(2)), to(ByRtp, A));
    assert_eq!(bed.stats().ends[1].unwanted, 1);
}

#[test]
fn hold_stops_media_and_not_rtcp() {
    let mut both = settings();
    both[0].forward = false;
    let mut bed = Bed::new(Kind::Rtp, both.clone());
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(1)), Verdict::Unwanted);
    assert_eq!(bed.receive(Offerer, ByRtcp, A_RTCP, &RTCP), to(ByRtcp, B_RTCP));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(1)), to(ByRtp, A));
    both[0].forward = true;
    bed.pair.change(bed.start, Offerer, both[0].clone(), Reopen::IfMoved);
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(2)), to(ByRtp, B));
    let [offerer, _] = bed.stats().ends;
    assert_eq!((offerer.unwanted, offerer.packets), (1, 2));
}

#[test]
fn a_flood_of_strangers_is_counted_and_touches_nothing() {
    let mut bed = Bed::new(Kind::Rtp, settings());
    bed.receive(Offerer, ByRtp, A, &rtp(1));
    for n in 0..10_000u16 {
        let stranger = format!("198.51.100.66:{}", 1_000 + n);
        assert_eq!(bed.receive(Offerer, ByRtp, &stranger, &rtp(n)), Verdict::Stranger);
    }
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(2)), to(ByRtp, B));
    let [offerer, _] = bed.stats().ends;
    assert_eq!((offerer.strangers, offerer.packets, offerer.lost), (10_000, 2, 0));
    assert_eq!(offerer.peer, Some(address(A)));
}

#[test]
fn the_right_source_has_a_rate_limit() {
    let mut bed = Bed::new(Kind::Rtp, settings());
    let verdicts: Vec<_> = (0..150).map(|n| bed.receive(Offerer, ByRtp, A, &rtp(n))).collect();
    assert!(verdicts[..100].iter().all(|verdict| *verdict == to(ByRtp, B)));
    assert!(verdicts[100..].iter().all(|verdict| *verdict == Verdict::OverRate));
    assert_eq!(bed.stats().ends[0].over_rate, 50);
    bed.millis = 1_100;
    assert_eq!(bed.receive(Offerer, ByRtp, A, &rtp(150)), to(ByRtp, B));
}

#[test]
fn asymmetric() {
    let mut both = settings();
    both[0].latch = Latch::Never;
    both[0].source = Source::Any;
    let mut bed = Bed::new(Kind::Rtp, both);
    assert_eq!(bed.receive(Offerer, ByRtp, "192.0.2.1:9999", &rtp(1)), to(ByRtp, B));
    assert_eq!(bed.receive(Answerer, ByRtp, B, &rtp(1)), to(ByRtp, A));
    assert!(!bed.stats().ends[0].latched);
}

#[test]
fn silence_is_said_once_until_something_comes() {
    let mut bed = Bed::new(Kind::Rtp, settings());
    let moment = |start: Instant, seconds: u64| start + Duration::from_secs(seconds);
    assert!(!bed.pair.falls_silent(moment(bed.start, 59)));
    assert!(bed.pair.falls_silent(moment(bed.start, 60)));
    assert!(!bed.pair.falls_silent(moment(bed.start, 200)));
    bed.millis = 201_000;
    assert_eq!(bed.receive(Answerer, ByRtcp, "192.0.2.66:1", &rtp(1)), Verdict::Unexpected);
    assert!(!bed.pair.falls_silent(moment(bed.start, 202)));
    bed.receive(Answerer, ByRtcp, B_RTCP, &RTCP);
    assert!(!bed.pair.falls_silent(moment(bed.start, 260)));
    assert!(bed.pair.falls_silent(moment(bed.start, 261)));
    // A change says that somebody still wants it.
    bed.pair.change(moment(bed.start, 300), Offerer, settings()[0].clone(), Reopen::No);
    assert!(!bed.pair.falls_silent(moment(bed.start, 359)));
    assert!(bed.pair.falls_silent(moment(bed.start, 360)));
}

#[test]
#[expect(clippy::type_complexity, reason = "rows of a table")]
fn payload_of_rtp() {
    let cases: &[(&str, &[u8], Option<&[u8]>)] = &[
        ("plain", &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3], Some(&[1, 2, 3])),
        ("CSRC", &[0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 1, 2], Some(&[1, 2])),
        (
            "extension",
            &[0x90, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 7, 7, 7, 7, 1],
            Some(&[1]),
        ),
        ("padding", &[0xa0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 0, 2], Some(&[1, 2])),
        ("padding beyond", &[0xa0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 0, 9], None),
        ("CSRC cut", &[0x8f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2], None),
        ("extension cut", &[0x90, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2], None),
        ("RTCP", &[0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2], None),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(rtp_payload(bytes).map(|(_, payload)| payload), *expected, "{name}");
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let rtcp = (200..206u8, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, rest)| {
        let mut bytes = vec![0x81, kind];
        bytes.extend(rest);
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..100), rtcp, any::<u16>().prop_map(rtp),]
}

proptest! {
    /// Whatever comes from wherever: no panic, everything counted exactly once, and nothing sent to a stranger.
    #[test]
    fn any_traffic(
        kind in prop_oneof![Just(Kind::Rtp), Just(Kind::Srtp), Just(Kind::Opaque)],
        mux in any::<[bool; 2]>(),
        packets in prop::collection::vec((any::<bool>(), any::<bool>(), 0..6u16, any_bytes()), 0..200),
    ) {
        let mut both = settings();
        both[0].mux = mux[0];
        both[1].mux = mux[1];
        let mut bed = Bed::new(kind, both);
        let mut forwarded = 0;
        for (index, (offerer, rtcp, port, bytes)) in packets.iter().enumerate() {
            bed.millis = index as u64 * 7;
            let (side, host) = if *offerer { (Offerer, "192.0.2.1") } else { (Answerer, "[2001:db8::2]") };
            let source = format!("{host}:{}", 4_000 + port);
            let by = if *rtcp { ByRtcp } else { ByRtp };
            if let Verdict::Forward { to, .. } = bed.receive(side, by, &source, bytes) {
                prop_assert_eq!(to.is_ipv4(), !*offerer);
                forwarded += 1;
            }
            if let Some((_, payload)) = rtp_payload(bytes) {
                prop_assert!(payload.len() <= bytes.len() - 12);
            }
        }
        let stats = bed.stats();
        let count = |get: fn(&crate::plane::EndStats) -> u64| stats.ends.iter().map(get).sum::<u64>();
        let accepted = count(|end| end.packets + end.rtcp_packets);
        let dropped = count(|end| end.strangers + end.unexpected + end.over_rate);
        prop_assert_eq!(accepted + dropped, packets.len() as u64);
        prop_assert_eq!(forwarded + count(|end| end.unwanted), accepted);
    }
}
