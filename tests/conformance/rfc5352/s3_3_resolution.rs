//! Section 3.3 at the registrar, and what 2.2.5 and 2.2.6 say of its answers.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

/// Proves.
#[test]
fn an_answer_lists_the_pool_and_its_policy_unless_that_is_round_robin() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let pools = [
        ("rr", policy(ROUND_ROBIN, &[])),
        ("prio", policy(PRIORITY, &[3])),
        ("lu", policy(LEAST_USED, &[9])),
    ];
    for (pool, policy) in &pools {
        for id in 1..=5 {
            lab.register(who, pool, &Pe { policy: policy.clone(), ..Pe::new(id, who.ip()) });
        }
    }
    for (pool, policy) in &pools {
        let answer = lab.ask(who, resolution(pool, false));
        assert_eq!(answer.kind, HANDLE_RESOLUTION_RESPONSE);
        assert_eq!(answer.find(POOL_HANDLE).unwrap().bytes(), handle(pool));
        let mut elements = answer.elements();
        elements.sort_unstable();
        assert_eq!(elements, [1, 2, 3, 4, 5]);
        assert_eq!(answer.find(OPERATION_ERROR), None);
        let number = answer.find(POLICY).map(|policy| policy.word(0));
        let expected = u32::from_be_bytes(policy[4..8].try_into().unwrap());
        assert_eq!(number, (expected != ROUND_ROBIN).then_some(expected));
        // The values of the elements are their own.
        let element = answer.find_all(POOL_ELEMENT).remove(0);
        assert!(element.behind(12).iter().any(|part| part.bytes() == *policy));
    }
}

/// Proves A-093.
#[test]
fn an_unknown_pool_has_a_negative_answer_without_elements_and_policy() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    for subscribe in [false, true] {
        let answer = lab.ask(who, resolution("nobody", subscribe));
        assert_eq!(
            (answer.kind, answer.flags, answer.causes()),
            (HANDLE_RESOLUTION_RESPONSE, 0, vec![0x9])
        );
        let kinds: Vec<u16> = answer.tlvs().iter().map(|tlv| tlv.kind).collect();
        assert_eq!(kinds, [POOL_HANDLE, OPERATION_ERROR]);
    }
}

/// Proves A-015.
#[test]
fn accepted_subscribers_are_told_of_changes_and_nobody_else_is() {
    let mut lab = Lab::new(1);
    let (owner, subscriber, other) = (lab.sctp(9, 1), lab.sctp(10, 1), lab.tcp(11, 1));
    lab.register(owner, "echo", &Pe::new(1, owner.ip()));
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 1);
    assert_eq!(lab.ask(other, resolution("echo", false)).flags, 0);
    lab.register(owner, "echo", &Pe::new(2, owner.ip()));
    lab.run(ms(10));
    let told = lab.hear(subscriber);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].flags), (HANDLE_RESOLUTION_RESPONSE, 1));
    assert_eq!(told[0].elements().len(), 2);
    assert_eq!(lab.ask(owner, deregistration("echo", 1)).causes(), NO_CAUSES);
    assert_eq!(lab.hear(subscriber)[0].elements(), [2]);
    assert_eq!(lab.hear(other), []);
}

/// Proves A-014.
#[test]
fn a_subscription_ends_with_the_pool_and_with_the_association() {
    let mut lab = Lab::new(1);
    let (owner, subscriber) = (lab.sctp(9, 1), lab.sctp(10, 1));
    // A negative answer makes none.
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 0);
    lab.register(owner, "echo", &Pe::new(1, owner.ip()));
    lab.run(ms(10));
    assert_eq!(lab.hear(subscriber), []);
    // The end of the pool is told, and ends it.
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 1);
    lab.ask(owner, deregistration("echo", 1));
    let told = lab.hear(subscriber);
    assert_eq!((told.len(), told[0].flags, told[0].causes()), (1, 0, vec![0x9]));
    lab.register(owner, "echo", &Pe::new(1, owner.ip()));
    lab.run(ms(10));
    assert_eq!(lab.hear(subscriber), []);
    // The next association of the same user has none.
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 1);
    lab.world.element(subscriber).move_to(1);
    lab.world.drain(subscriber);
    lab.run(ms(20));
    assert!(lab.world.element(subscriber).is_connected());
    lab.register(owner, "echo", &Pe::new(2, owner.ip()));
    lab.run(ms(10));
    assert_eq!(lab.hear(subscriber), []);
}

/// Proves A-013.
#[test]
fn registrars_do_not_share_subscriptions() {
    let mut lab = Lab::new(2);
    let (owner, subscriber) = (lab.sctp(9, 1), lab.sctp(10, 1));
    lab.register(owner, "echo", &Pe::new(1, owner.ip()));
    lab.run(ms(20));
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 1);
    // It goes to the other registrar, which tells it nothing until it is asked to.
    lab.world.element(subscriber).move_to(2);
    lab.world.drain(subscriber);
    lab.run(ms(20));
    lab.register(owner, "echo", &Pe::new(2, owner.ip()));
    lab.run(ms(20));
    assert_eq!(lab.hear(subscriber), []);
    assert_eq!(lab.ask(subscriber, resolution("echo", true)).flags, 1);
    lab.register(owner, "echo", &Pe::new(3, owner.ip()));
    lab.run(ms(20));
    assert_eq!(lab.hear(subscriber).len(), 1);
}
