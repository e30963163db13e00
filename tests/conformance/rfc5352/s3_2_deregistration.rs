//! Section 3.2 at the registrar: an element leaves its pool, or its registration life ends.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

fn removals(lab: &Lab, n: u8) -> usize {
    lab.updates(n).iter().filter(|(action, _)| *action == DEL_PE).count()
}

/// Proves.
#[test]
fn an_element_leaves_and_the_pool_goes_with_its_last_one() {
    let mut lab = Lab::new(2);
    let who = lab.sctp(9, 1);
    for id in [7, 8] {
        lab.register(who, "echo", &Pe::new(id, who.ip()));
    }
    let answer = lab.ask(who, deregistration("echo", 7));
    assert_eq!((answer.kind, answer.causes()), (DEREGISTRATION_RESPONSE, vec![]));
    assert_eq!(answer.find(POOL_HANDLE).unwrap().bytes(), handle("echo"));
    assert_eq!(answer.find(PE_ID).unwrap().word(0), 7);
    assert_eq!(lab.ask(who, resolution("echo", false)).elements(), [8]);
    let updates = lab.updates(1);
    let (action, update) = updates.last().unwrap();
    let parts = update.behind(12);
    assert_eq!(*action, DEL_PE);
    assert_eq!((parts[0].bytes(), parts[1].word(0)), (handle("echo"), 7));

    assert_eq!(lab.ask(who, deregistration("echo", 8)).causes(), NO_CAUSES);
    assert_eq!(lab.ask(who, resolution("echo", false)).causes(), [0x9], "no such pool any more");
    lab.run(ms(20));
    assert_eq!(removals(&lab, 1), 2);
    assert!(!lab.has(2, "echo", 7) && !lab.has(2, "echo", 8));
    // A new first element makes new rules.
    let other = Pe { policy: policy(RANDOM, &[]), ..Pe::new(9, who.ip()) };
    lab.register(who, "echo", &other);
}

/// Proves.
#[test]
fn who_is_not_there_has_left() {
    let mut lab = Lab::new(2);
    let who = lab.sctp(9, 1);
    lab.register(who, "echo", &Pe::new(7, who.ip()));
    for (pool, id) in [("echo", 8), ("nobody", 7)] {
        let answer = lab.ask(who, deregistration(pool, id));
        assert_eq!((answer.kind, answer.causes()), (DEREGISTRATION_RESPONSE, vec![]));
        assert_eq!(answer.find(PE_ID).unwrap().word(0), id);
    }
    lab.run(ms(20));
    assert_eq!(removals(&lab, 1), 0);
    assert!(lab.has(1, "echo", 7) && lab.has(2, "echo", 7));
}

/// Proves.
#[test]
fn nobody_deregisters_somebody_else() {
    let mut lab = Lab::new(2);
    let (owner, other) = (lab.sctp(9, 1), lab.sctp(10, 1));
    lab.register(owner, "echo", &Pe::new(7, owner.ip()));
    let answer = lab.ask(other, deregistration("echo", 7));
    assert_eq!((answer.kind, answer.causes()), (DEREGISTRATION_RESPONSE, vec![0xa]));
    lab.run(ms(20));
    assert_eq!(removals(&lab, 1), 0);
    assert!(lab.has(1, "echo", 7) && lab.has(2, "echo", 7));
    // Both parameters have to be there.
    for part in [handle("echo"), pe_id(7)] {
        assert_eq!(lab.answers(owner, message(DEREGISTRATION, 0, &[part])), []);
    }
    assert!(lab.has(1, "echo", 7));
}

/// Proves.
#[test]
fn the_response_comes_unasked_when_the_registration_life_ends() {
    let mut lab = Lab::new(2);
    let who = lab.sctp(9, 1);
    lab.register(who, "echo", &Pe { life: 2, ..Pe::new(7, who.ip()) });
    // Keep-alives are answered: it lives, and is gone all the same.
    let registered = lab.world.now;
    for _ in 0..200 {
        lab.run(ms(9));
        let come = lab.keep_alives(who);
        if !come.is_empty() {
            lab.ack(who, "echo", 7);
        }
    }
    assert!(lab.has(1, "echo", 7), "1.8 s");
    while lab.has(1, "echo", 7) {
        lab.run(ms(1));
        assert!(lab.world.now < registered + ms(2100));
    }
    lab.run(ms(5));
    let heard = lab.hear(who);
    assert_eq!((heard.len(), heard[0].kind), (1, DEREGISTRATION_RESPONSE));
    assert_eq!(heard[0].causes(), NO_CAUSES);
    assert_eq!(heard[0].find(POOL_HANDLE).unwrap().bytes(), handle("echo"));
    assert_eq!(heard[0].find(PE_ID).unwrap().word(0), 7);
    lab.run(ms(10));
    assert_eq!(removals(&lab, 1), 1);
    assert!(!lab.has(2, "echo", 7));
}
