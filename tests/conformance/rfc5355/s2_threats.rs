//! Sections 2.13 and 2.14: reports and keep-alives are limited.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

/// Proves S-029.
#[test]
fn one_user_cannot_have_everybody_asked() {
    let mut lab = Lab::new(1);
    let (element, user, other) = (lab.sctp(9, 1), lab.tcp(10, 1), lab.tcp(11, 1));
    for id in 1..=300 {
        lab.register(element, "echo", &Pe::new(id, element.ip()));
        if id % 10 == 0 {
            // Nobody is asked because of the period.
            lab.keep_alives(element);
            (1..=id).for_each(|id| lab.ack(element, "echo", id));
            lab.run(ms(1));
        }
    }
    lab.run(ms(100));
    lab.keep_alives(element);
    let before = lab.world.registrar(1).counters();
    for id in 1..=250 {
        lab.say(user, unreachable("echo", id));
    }
    lab.run(ms(20));
    let after = lab.world.registrar(1).counters();
    assert_eq!(
        after.reports_limited - before.reports_limited,
        150,
        "100 a second, and so many at once"
    );
    let asked = lab.keep_alives(element).len();
    assert!((100..=110).contains(&asked), "{asked}");
    // Another user's reports are heard.
    lab.say(other, unreachable("echo", 299));
    lab.run(ms(5));
    assert!(!lab.keep_alives(element).is_empty());
}

/// Proves S-030.
#[test]
fn an_element_is_not_asked_without_end() {
    let mut lab = Lab::new(1);
    let element = lab.sctp(9, 1);
    let users: Vec<_> = (10..20).map(|id| lab.tcp(id, 1)).collect();
    lab.register(element, "echo", &Pe::new(7, element.ip()));
    lab.run(ms(100));
    lab.keep_alives(element);
    let mut times = Vec::new();
    // Everybody reports it all the time, and it answers at once.
    while lab.has(1, "echo", 7) {
        users.iter().for_each(|user| lab.say(*user, unreachable("echo", 7)));
        lab.run(ms(1));
        for _ in lab.keep_alives(element) {
            times.push(lab.world.now);
            lab.ack(element, "echo", 7);
        }
        assert!(times.len() < 20);
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 2 && gaps.iter().all(|gap| *gap >= ms(100)), "{gaps:?}");
}
