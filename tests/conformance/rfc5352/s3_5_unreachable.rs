//! Section 3.5 at the registrar: reports of unreachable elements, and keep-alives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

const H: u8 = 1;

/// A registrar, an element that registered, and a user.
fn start() -> (Lab, SocketAddr, SocketAddr) {
    let mut lab = Lab::new(2);
    let (element, user) = (lab.sctp(9, 1), lab.tcp(10, 1));
    lab.register(element, "echo", &Pe::new(7, element.ip()));
    lab.keep_alives(element);
    (lab, element, user)
}

/// Proves.
#[test]
fn a_report_has_the_element_asked_at_once() {
    let (mut lab, element, user) = start();
    // Not by the way of a periodic one: the first of these comes half a second after the registration at the earliest.
    lab.run(ms(100));
    assert_eq!(lab.keep_alives(element), []);
    lab.say(user, unreachable("echo", 7));
    lab.run(ms(3));
    let asked = lab.keep_alives(element);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].flags & H, 0);
    // It says who asks, and for which pool.
    assert_eq!(asked[0].value[..4], word(1));
    assert_eq!(asked[0].behind(4)[0].bytes(), handle("echo"));
    assert_eq!(lab.hear(user), [], "a report has no answer");
}

/// Proves A-103.
#[test]
fn a_reported_element_that_does_not_answer_is_removed() {
    let (mut lab, element, user) = start();
    lab.run(ms(100));
    lab.say(user, unreachable("echo", 7));
    lab.run(ms(100));
    assert!(lab.has(1, "echo", 7));
    // Two keep-alives, 500 and 750 ms.
    lab.run(ms(1300));
    assert!(!lab.has(1, "echo", 7) && !lab.has(2, "echo", 7));
    assert_eq!(lab.world.element(element).downs, 1, "if it lives it finds out");

    // Nobody at its address any more: the transport says so.
    let (mut lab, element, user) = start();
    lab.run(ms(100));
    lab.world.kill(element);
    lab.say(user, unreachable("echo", 7));
    lab.run(ms(500));
    assert!(!lab.has(1, "echo", 7) && !lab.has(2, "echo", 7));
}

/// Proves.
#[test]
fn an_element_that_answers_stays_until_it_was_reported_too_often() {
    let (mut lab, element, user) = start();
    // RFC 5355 section 2.13: one user alone, whoever it may be, is not believed so far.
    let another = lab.tcp(11, 1);
    // MAX-BAD-PE-REPORT is 3.
    for report in 1..=3 {
        lab.run(ms(150));
        lab.say(user, unreachable("echo", 7));
        lab.run(ms(5));
        assert_eq!(lab.keep_alives(element).len(), 1, "{report}");
        lab.ack(element, "echo", 7);
        lab.run(ms(5));
        assert!(lab.has(1, "echo", 7), "{report}");
    }
    lab.run(ms(150));
    lab.say(another, unreachable("echo", 7));
    lab.run(ms(5));
    assert!(!lab.has(1, "echo", 7), "the fourth exceeds it");
    lab.run(ms(5));
    assert!(!lab.has(2, "echo", 7));
}

/// When keep-alives came in so much time; all are answered.
fn probed(lab: &mut Lab, element: SocketAddr, time: Duration) -> Vec<Instant> {
    let end = lab.world.now + time;
    let mut times = Vec::new();
    while lab.world.now < end {
        lab.run(ms(1));
        for keep_alive in lab.keep_alives(element) {
            assert_eq!(keep_alive.flags & H, 0);
            times.push(lab.world.now);
            lab.ack(element, "echo", 7);
        }
    }
    times
}

/// Proves.
#[test]
fn keep_alives_come_periodically_and_not_regularly() {
    let (mut lab, element, _) = start();
    let times = probed(&mut lab, element, ms(60_000));
    let mut gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((45..=75).contains(&gaps.len()), "{gaps:?}");
    gaps.sort_unstable();
    // 1 s, spread by half of it; the answer takes 2 ms.
    let (shortest, longest) = (gaps[0], gaps[gaps.len() - 1]);
    assert!(shortest >= ms(500) && longest <= ms(1505), "{shortest:?} {longest:?}");
    assert!(shortest < ms(650) && longest > ms(1350), "{shortest:?} {longest:?}");
    // Many elements that registered at the same moment are not asked at the same moment.
    let many: Vec<SocketAddr> = (100..150).map(|id| lab.sctp(id, 1)).collect();
    for (n, who) in many.iter().enumerate() {
        lab.say(*who, registration("many", &Pe::new(n as u32 + 1, who.ip())));
    }
    lab.run(ms(10));
    many.iter().for_each(|who| drop(lab.keep_alives(*who)));
    let mut asked_in = Vec::new();
    for _ in 0..16 {
        lab.run(ms(100));
        let mut asked = 0;
        for (n, who) in many.iter().enumerate() {
            if !lab.keep_alives(*who).is_empty() {
                lab.ack(*who, "many", n as u32 + 1);
                asked += 1;
            }
        }
        asked_in.push(asked);
    }
    assert!(asked_in.iter().all(|count| *count <= 15), "{asked_in:?}");
}

/// Proves A-108.
#[test]
fn an_element_that_leaves_periodic_keep_alives_unanswered_is_removed() {
    let (mut lab, element, _) = start();
    assert!(probed(&mut lab, element, ms(5000)).len() >= 3);
    let silent_since = lab.world.now;
    while lab.has(1, "echo", 7) {
        lab.run(ms(10));
        assert!(lab.world.now < silent_since + ms(3000));
    }
    lab.run(ms(5));
    assert!(!lab.has(2, "echo", 7));
}
