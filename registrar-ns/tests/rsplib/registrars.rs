//! The five parts of registrars in the captures, each played by a registrar core.

use std::time::Duration;

use dialtone_registrar_ns::core::{Event, Removal};
use dialtone_wire::{PeId, ServerId};

use crate::compare::{DIFFERENCES, Found, compare, listed};
use crate::pcap::{CRASH, FAILOVER};
use crate::replay::{Replay, config};
use crate::script::{Part, host};

/// So long after rsplib's last word: another heartbeat.
const TAIL: Duration = Duration::from_millis(2500);

/// Plays a part up to the last word that rsplib said in it; everything that differs is on the list, at whichever moments
/// this registrar speaks.
fn play(name: &str, capture: &[u8], own: u8) -> Replay {
    let mut plays: Vec<_> = (1..=8).map(|seed| play_once(name, capture, own, seed)).collect();
    plays.pop().expect("there are some")
}

fn play_once(name: &str, capture: &[u8], own: u8, seed: u64) -> Replay {
    let mut replay = begin(capture, own, seed);
    let lines = replay.part.lines.clone();
    replay.run(lines.last().expect("it spoke").at + TAIL);
    let found = compare(&lines, &replay.said);
    assert_eq!(found, listed(name), "{name}, {seed}");
    replay
}

fn begin(capture: &[u8], own: u8, seed: u64) -> Replay {
    let part = Part::new(capture, host(own));
    let config = config(&part);
    Replay::new(part, config, seed)
}

impl Replay {
    fn home_of(&self, pool: &str, pe_id: u32) -> Option<ServerId> {
        Some(self.core.handlespace().get(pool.as_bytes(), PeId(pe_id))?.home)
    }

    fn removals(&self) -> Vec<(PeId, Removal)> {
        let removal = |(_, event): &(Duration, Event)| match event {
            Event::Removed { pe, reason, .. } => Some((*pe, *reason)),
            _ => None,
        };
        self.events.iter().filter_map(removal).collect()
    }
}

#[test]
fn failover_11_serves_elements_and_is_the_mentor() {
    let replay = play("failover 11", FAILOVER, 11);
    assert_eq!(replay.core.counters().rejects, 0);
    // All leave by themselves: nobody was given up though their lives are 15 s, in milliseconds.
    let removals = replay.removals();
    assert_eq!(removals.len(), 4);
    assert!(removals.iter().all(|(_, reason)| *reason == Removal::Deregistered), "{removals:?}");
}

#[test]
fn failover_12_downloads_from_a_mentor_and_serves_a_user() {
    let replay = play("failover 12", FAILOVER, 12);
    let mentor = Event::InService { mentor: Some(ServerId(0xe66b_68cf)) };
    assert!(replay.events.iter().any(|(_, event)| *event == mentor));
    assert!(replay.core.handlespace().is_empty(), "all have left");
}

#[test]
fn crash_11_removes_elements_that_answer_no_more() {
    let replay = play("crash 11", CRASH, 11);
    let mut removals = replay.removals();
    removals.sort();
    let gone = |pe| (PeId(pe), Removal::KeepAlive);
    assert_eq!(removals, [gone(0x2222_2222), gone(0x3333_3333)]);
}

#[test]
fn crash_12_yields_to_the_smaller_identifier_and_hears_no_takeover_server() {
    let mut replay = begin(CRASH, 12, 1);
    replay.run(Duration::from_secs(41));
    let winner = ServerId(0x34b9_1cd8);
    let lost = Event::TakeoverLost { target: ServerId(0x01bd_8446), to: Some(winner) };
    assert!(replay.events.iter().any(|(_, event)| *event == lost));
    assert_eq!(replay.home_of("PPool", 0x1111_1111), Some(winner), "the audit tells");
    play("crash 12", CRASH, 12);
}

#[test]
fn crash_13_takes_over_since_its_identifier_is_the_smaller_one() {
    let mut replay = begin(CRASH, 13, 1);
    replay.run(Duration::from_secs(41));
    let won = Event::TakeoverWon { target: ServerId(0x01bd_8446), elements: 1 };
    assert!(replay.events.iter().any(|(_, event)| *event == won));
    assert_eq!(replay.home_of("PPool", 0x1111_1111), Some(replay.core.id()));
    let replay = play("crash 13", CRASH, 13);
    assert_eq!(replay.removals(), [(PeId(0x1111_1111), Removal::Deregistered)]);
}

#[test]
fn no_difference_is_listed_twice_or_without_a_reason() {
    let mut seen = Found::new();
    for (message, what, parts, why) in DIFFERENCES {
        assert!(seen.insert(((*message).to_owned(), what)), "{message}, {what}");
        assert!(!parts.is_empty() && why.len() > 20, "{message}, {what}");
    }
}
