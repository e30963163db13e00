//! RTCP: reading, and the round trip that follows from it.

use std::time::Duration;

use proptest::prelude::*;

use super::{address, at, rtp_bytes, start};
use crate::plane::end::Channel;
use crate::plane::packet::Rtp;
use crate::plane::pair::Pair;
use crate::plane::rtcp::{Block, Fact, read};
use crate::plane::{EndSettings, FarEnd, Kind, Side};

fn facts(bytes: &[u8]) -> Vec<Fact> {
    let mut facts = Vec::new();
    read(bytes, |fact| facts.push(fact));
    facts
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A sender report of SSRC 1 at that time, without blocks.
fn sender(at: u32) -> Vec<u8> {
    words(&[0x80c8_0006, 1, at >> 16, at << 16, 0, 0, 0])
}

/// A receiver report of SSRC 2 about SSRC 1.
fn receiver(block: Block) -> Vec<u8> {
    let lost = u32::from(block.fraction_lost) << 24 | (block.lost as u32 & 0xff_ffff);
    let Block { ssrc, jitter, last_report, delay, .. } = block;
    words(&[0x81c9_0007, 2, ssrc, lost, 0, jitter, last_report, delay])
}

const BLOCK: Block = Block {
    ssrc: 1,
    fraction_lost: 64,
    lost: -2,
    jitter: 80,
    last_report: 0x1234_5678,
    delay: 0x1_0000,
};

#[test]
fn compound_packets() {
    assert_eq!(facts(&sender(0x1234_5678)), [Fact::Sent { at: 0x1234_5678 }]);
    assert_eq!(facts(&receiver(BLOCK)), [Fact::Block(BLOCK)]);
    let sdes = words(&[0x81ca_0002, 1, 0x0100_0000]);
    let compound = [sender(7), sdes, receiver(BLOCK)].concat();
    assert_eq!(facts(&compound), [Fact::Sent { at: 7 }, Fact::Block(BLOCK)]);
    // Cut anywhere, nothing is made up; what came before the cut stands.
    for length in 0..compound.len() {
        let facts = facts(&compound[..length]);
        assert_eq!(facts.len(), usize::from(length >= sender(7).len()), "{length}");
    }
    // A count beyond the packet's own length reads what is there, and not the next packet.
    let mut greedy = receiver(BLOCK);
    greedy[0] = 0x9f;
    assert_eq!(facts(&[greedy, sender(7)].concat()), [Fact::Block(BLOCK), Fact::Sent { at: 7 }]);
    // A sender report that is too short for what it must hold.
    assert!(facts(&words(&[0x80c8_0001, 1])).is_empty());
}

#[test]
fn round_trip_and_loss_of_the_far_end() {
    let start = start();
    let settings = || EndSettings {
        rtp: Some(address("192.0.2.1:4000")),
        rtcp: Some(address("192.0.2.1:4001")),
        ..EndSettings::default()
    };
    let mut pair = Pair::new(start, Kind::Rtp, [settings(), settings()], Duration::from_secs(60));
    let mut receive = |millis, side, port, bytes: &[u8]| {
        let source = if port == Channel::Rtp { "192.0.2.1:4000" } else { "192.0.2.1:4001" };
        pair.receive(at(start, millis), 100, side, port, address(source), bytes);
        pair.stats()
    };
    let media = rtp_bytes(Rtp { payload_type: 0, sequence: 1, timestamp: 0, ssrc: 1 });
    receive(0, Side::Offerer, Channel::Rtp, &media);
    // The sender report passes at 1,000 ms; the answer, made 1 s after it came, passes at 2,060 ms.
    receive(1_000, Side::Offerer, Channel::Rtcp, &sender(0x1234_5678));
    let [offerer, answerer] = receive(2_060, Side::Answerer, Channel::Rtcp, &receiver(BLOCK)).ends;
    assert_eq!(answerer.round_trip, Some(Duration::from_millis(60)));
    let jitter = Some(Duration::from_millis(10));
    assert_eq!(answerer.far, Some(FarEnd { fraction_lost: 64, lost: -2, jitter }));
    assert_eq!((offerer.round_trip, offerer.far), (None, None));

    // The report before the last one may be answered as well.
    receive(3_000, Side::Offerer, Channel::Rtcp, &sender(0x2222_2222));
    let stats = receive(3_010, Side::Answerer, Channel::Rtcp, &receiver(BLOCK));
    assert_eq!(stats.ends[1].round_trip, Some(Duration::from_millis(1_010)));
    // Unknown reports, impossible delays and other streams change nothing.
    for block in [
        Block { last_report: 0x3333_3333, ..BLOCK },
        Block { last_report: 0, ..BLOCK },
        Block { delay: u32::MAX, ..BLOCK },
        Block { ssrc: 99, fraction_lost: 255, ..BLOCK },
    ] {
        let [_, answerer] = receive(3_020, Side::Answerer, Channel::Rtcp, &receiver(block)).ends;
        assert_eq!(answerer.round_trip, Some(Duration::from_millis(1_010)), "{block:?}");
        assert_eq!(answerer.far.unwrap().fraction_lost, 64);
    }
}

proptest! {
    /// Any bytes: no panic, and never more facts than fit.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
        prop_assert!(facts(&bytes).len() <= bytes.len() / 8);
    }

    /// Bytes that look like reports: the same.
    #[test]
    fn any_reports(
        packets in prop::collection::vec((0..32u8, 199..204u8, 0..40u16, prop::collection::vec(any::<u8>(), 0..200)), 0..8),
    ) {
        let mut bytes = Vec::new();
        for (count, kind, length, rest) in packets {
            bytes.extend([0x80 | count, kind]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(rest);
        }
        prop_assert!(facts(&bytes).len() <= bytes.len() / 8);
    }
}
