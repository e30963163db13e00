//! Reception statistics against sequences whose outcome is worked out by hand.

use std::time::Duration;

use proptest::prelude::*;

use super::{at, start};
use crate::plane::EndStats;
use crate::plane::packet::Rtp;
use crate::plane::stats::{Reception, Tick};

fn clock(payload_type: u8) -> Option<u32> {
    (payload_type == 0).then_some(8_000)
}

fn rtp(sequence: u16) -> Rtp {
    Rtp { payload_type: 0, sequence, timestamp: u32::from(sequence) * 160, ssrc: 1 }
}

fn after(packets: impl IntoIterator<Item = Rtp>) -> EndStats {
    let start = start();
    let mut reception = Reception::default();
    for (index, rtp) in packets.into_iter().enumerate() {
        reception.receive(at(start, index as u64 * 20), rtp, clock);
    }
    let mut stats = EndStats::default();
    reception.fill(&mut stats);
    stats
}

/// Lost, out of order, duplicates.
fn counts(sequences: &[u16]) -> (u64, u64, u64) {
    let stats = after(sequences.iter().copied().map(rtp));
    (stats.lost, stats.out_of_order, stats.duplicates)
}

#[test]
#[expect(clippy::type_complexity, reason = "rows of a table")]
fn sequences() {
    let cases: &[(&str, &[u16], (u64, u64, u64))] = &[
        ("nothing", &[], (0, 0, 0)),
        ("one", &[9], (0, 0, 0)),
        ("in order", &[1, 2, 3, 4], (0, 0, 0)),
        ("two lost", &[1, 2, 5], (2, 0, 0)),
        ("lost, then late", &[1, 3, 2, 4], (0, 1, 0)),
        ("twice", &[1, 2, 2, 3], (0, 0, 1)),
        ("twice, later", &[1, 2, 3, 1, 4], (0, 0, 1)),
        ("late and twice", &[1, 3, 2, 2, 4], (0, 1, 1)),
        ("the first comes second", &[2, 1, 3], (0, 1, 0)),
        ("wraps around", &[65_534, 65_535, 0, 1], (0, 0, 0)),
        ("wraps around with loss", &[65_534, 1], (2, 0, 0)),
        ("wraps around, late", &[65_534, 0, 65_535, 1], (0, 1, 0)),
        ("before the first across the wrap", &[0, 65_535, 1], (0, 1, 0)),
        ("a stray far away is no loss", &[1, 2, 30_000, 3, 4], (0, 0, 0)),
        ("two in sequence far away are a restart", &[1, 2, 30_000, 30_001, 30_003], (1, 0, 0)),
        ("loss before a restart is kept", &[1, 4, 30_000, 30_001], (2, 0, 0)),
        ("far behind is a restart as well", &[20_000, 20_001, 5, 6, 7], (0, 0, 0)),
        ("the largest gap", &[1, 3_000], (2_998, 0, 0)),
        ("a hundred late", &[200, 301, 201], (99, 1, 0)),
    ];
    for (name, sequences, expected) in cases {
        assert_eq!(counts(sequences), *expected, "{name}");
    }
}

#[test]
fn another_source_needs_two_packets_in_sequence() {
    let other = |sequence| Rtp { ssrc: 2, ..rtp(sequence) };
    let stats = after([rtp(1), other(500), rtp(2), other(501), rtp(3), other(700)]);
    assert_eq!((stats.ssrc, stats.ssrc_changes, stats.lost), (Some(1), 0, 0));
    let stats = after([rtp(1), rtp(3), other(500), other(501), other(503)]);
    assert_eq!((stats.ssrc, stats.ssrc_changes, stats.lost), (Some(2), 1, 2));
    // A flood of one-packet sources between the packets of a phone changes nothing.
    let flood = (0..1_000u16).flat_map(|n| [rtp(n), Rtp { ssrc: 1_000 + u32::from(n), ..rtp(n) }]);
    let stats = after(flood);
    assert_eq!((stats.ssrc, stats.ssrc_changes, stats.lost), (Some(1), 0, 0));
}

/// Packets that arrive at given times, in microseconds.
fn jitter(arrivals: &[(u64, Rtp)]) -> Option<Duration> {
    let start = start();
    let mut reception = Reception::default();
    for (micros, rtp) in arrivals {
        reception.receive(Tick::new(start, start + Duration::from_micros(*micros)), *rtp, clock);
    }
    let mut stats = EndStats::default();
    reception.fill(&mut stats);
    stats.jitter
}

#[test]
fn jitter_as_appendix_a_8() {
    let even: Vec<_> = (0..50u16).map(|n| (u64::from(n) * 20_000, rtp(n))).collect();
    assert_eq!(jitter(&even), Some(Duration::ZERO));
    // One packet 10 ms late, 80 units: J = 80, then the next one is 80 early: J = 80 + 80 - ((80 + 8) >> 4) = 155,
    // scaled by 16: 9 units of 125 microseconds.
    assert_eq!(
        jitter(&[(0, rtp(0)), (30_000, rtp(1)), (40_000, rtp(2))]),
        Some(Duration::from_micros(9 * 125))
    );
    // Alternating by 10 ms for long: it nears 80 units, 10 ms, from below (15 of 16 are rounded off).
    let alternating: Vec<_> = (0..1_000u16)
        .map(|n| (u64::from(n) * 20_000 + u64::from(n % 2) * 10_000, Rtp { ..rtp(n) }))
        .collect();
    let settled = jitter(&alternating).unwrap();
    assert!((9_700..=10_000).contains(&settled.as_micros()), "{settled:?}");
    // No clock, no jitter.
    assert_eq!(jitter(&[(0, Rtp { payload_type: 96, ..rtp(0) })]), None);
    // Packets of one frame share a timestamp, and do not count.
    let frame: Vec<_> =
        (0..50u16).map(|n| (u64::from(n) * 5_000, Rtp { timestamp: 77, ..rtp(n) })).collect();
    assert_eq!(jitter(&frame), Some(Duration::ZERO));
    // Timestamps wrap around.
    let wrapping: Vec<_> = (0..50u16)
        .map(|n| {
            let timestamp = u32::MAX.wrapping_add(u32::from(n) * 160).wrapping_sub(3_200);
            (u64::from(n) * 20_000, Rtp { timestamp, ..rtp(n) })
        })
        .collect();
    assert_eq!(jitter(&wrapping), Some(Duration::ZERO));
}

#[test]
fn any_clock_will_do() {
    let start = start();
    let mut reception = Reception::default();
    let month = 30 * 24 * 3_600_000;
    for n in 0..3_u16 {
        let tick = at(start, month + u64::from(n) * 20);
        reception.receive(tick, rtp(n), |_| Some(u32::MAX));
    }
    let mut stats = EndStats::default();
    reception.fill(&mut stats);
    assert_eq!((stats.lost, stats.jitter.is_some()), (0, true));
}

proptest! {
    /// Whatever comes: no panic, and no counter beyond what came.
    #[test]
    fn any_packets(
        packets in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u32>(), 0..3u32, 0..100_000u64), 0..300),
    ) {
        let start = start();
        let mut reception = Reception::default();
        let mut micros = 0;
        for (payload_type, sequence, timestamp, ssrc, later) in &packets {
            micros += later;
            let rtp = Rtp {
                payload_type: *payload_type & 0x7f,
                sequence: *sequence,
                timestamp: *timestamp,
                ssrc: *ssrc,
            };
            let tick = Tick::new(start, start + Duration::from_micros(micros));
            reception.receive(tick, rtp, |_| Some(90_000));
        }
        let mut stats = EndStats::default();
        reception.fill(&mut stats);
        let count = packets.len() as u64;
        prop_assert!(stats.out_of_order + stats.duplicates + u64::from(stats.ssrc_changes) <= count);
        prop_assert!(stats.lost <= count * 3_000);
    }

    /// Loss and duplicates of a shuffled stream are found exactly, as long as nothing moves by more than 100.
    #[test]
    fn shuffled(
        first in any::<u16>(),
        fates in prop::collection::vec((0..4u8, 0..40usize), 2..500),
    ) {
        let mut packets: Vec<(usize, u16)> = Vec::new();
        let (mut lost, mut duplicates) = (0, 0);
        let last = fates.len() - 1;
        for (index, (fate, delay)) in fates.iter().enumerate() {
            let sequence = first.wrapping_add(index as u16);
            // Nothing is known of loss at either end of the stream.
            match fate {
                0 if index != 0 && index != last => lost += 1,
                1 if index != 0 => {
                    duplicates += 1;
                    packets.extend([(index + delay, sequence), (index + delay, sequence)]);
                }
                _ if index == 0 => packets.push((0, sequence)),
                _ => packets.push((index + delay, sequence)),
            }
        }
        packets.sort_by_key(|(place, _)| *place);
        let sequences: Vec<u16> = packets.iter().map(|(_, sequence)| *sequence).collect();
        let (got_lost, _, got_duplicates) = counts(&sequences);
        prop_assert_eq!((got_lost, got_duplicates), (lost, duplicates));
    }
}
