//! Selection from views: policy order, keys, suspects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::{Element, Handle};
use dialtone_pool_user::{Choice, Freshness, Member, SelectError, Selector, View};
use dialtone_wire::{PeId, Policy, PolicyType, ServerId, Transport};

const SUSPICION: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
fn start() -> Instant {
    Instant::now()
}

fn member(pe_id: u32, policy: Policy<'static>) -> Member {
    Member::from(Element {
        pe_id: PeId(pe_id),
        home: ServerId(1),
        life: 30,
        encaps_port: None,
        transport: Transport::tcp("127.0.0.1:5060".parse().unwrap()),
        policy,
        asap_transport: None,
    })
}

/// In the order given, which is the registrar's.
fn view(policy: PolicyType, members: Vec<Member>) -> Arc<View> {
    let order: Vec<PeId> = members.iter().map(|member| member.pe_id).collect();
    let mut members = members;
    members.sort_by_key(|member| member.pe_id);
    Arc::new(View {
        policy,
        members: members.into(),
        order: order.into(),
        complete: true,
        freshness: Freshness::Fresh,
        ..View::unknown(Handle::new("sip-proxy").unwrap())
    })
}

fn round_robin(ids: &[u32]) -> Arc<View> {
    view(PolicyType::ROUND_ROBIN, ids.iter().map(|id| member(*id, Policy::RoundRobin)).collect())
}

fn selector(view: Arc<View>) -> Selector {
    Selector::new(view, SUSPICION, fastrand::Rng::with_seed(1))
}

fn picks(selector: &mut Selector, now: Instant, count: usize) -> Vec<u32> {
    (0..count).map(|_| selector.select(now, Choice::Policy, &[]).unwrap().pe_id.0).collect()
}

#[test]
fn round_robin_starts_with_each_new_list() {
    let now = start();
    let mut selector = selector(round_robin(&[3, 1, 2]));
    assert_eq!(picks(&mut selector, now, 5), [3, 1, 2, 3, 1]);
    selector.update(round_robin(&[1, 2, 3]));
    assert_eq!(picks(&mut selector, now, 2), [1, 2]);
    // The same list again: the turn goes on.
    selector.update(round_robin(&[1, 2, 3]));
    assert_eq!(picks(&mut selector, now, 2), [3, 1]);
}

#[test]
fn least_used_takes_the_order_and_weights_their_share() {
    let now = start();
    let loads = [(2, 10), (1, 20)].map(|(id, load)| member(id, Policy::LeastUsed { load }));
    assert_eq!(
        picks(&mut selector(view(PolicyType::LEAST_USED, loads.to_vec())), now, 3),
        [2, 2, 2]
    );

    let weights = [(1, 3), (2, 1), (3, 0)]
        .map(|(id, weight)| member(id, Policy::WeightedRoundRobin { weight }));
    let mut selector = selector(view(PolicyType::WEIGHTED_ROUND_ROBIN, weights.to_vec()));
    let mut counts = BTreeMap::new();
    for id in picks(&mut selector, now, 40) {
        *counts.entry(id).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(1, 30), (2, 10)]));
}

#[test]
fn suspects_are_passed_over_until_nobody_else_is_left_or_time_heals() {
    let now = start();
    let mut selector = selector(round_robin(&[1, 2, 3]));
    assert!(selector.suspect(now, PeId(2)));
    assert!(!selector.suspect(now, PeId(2)), "known already");
    assert!(!selector.suspect(now, PeId(99)), "no member");
    assert_eq!(picks(&mut selector, now, 4), [1, 3, 1, 3]);
    selector.suspect(now, PeId(1));
    selector.suspect(now, PeId(3));
    let mut all = picks(&mut selector, now, 3);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
    selector.trust(PeId(3));
    assert_eq!(picks(&mut selector, now, 2), [3, 3]);
    let later = now + SUSPICION;
    assert!(!selector.is_suspect(later, PeId(1)));
    let mut all = picks(&mut selector, later, 3);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
}

#[test]
fn members_that_the_registrar_does_not_name_are_the_last_resort() {
    let now = start();
    let named = View { order: Arc::new([PeId(1)]), ..View::clone(&round_robin(&[1, 2])) };
    let mut selector = selector(Arc::new(named));
    assert_eq!(picks(&mut selector, now, 2), [1, 1]);
    assert_eq!(selector.select(now, Choice::Policy, &[PeId(1)]).unwrap().pe_id, PeId(2));
    for key in ["a", "b", "c", "d"] {
        assert_eq!(selector.select(now, Choice::Key(key.as_bytes()), &[]).unwrap().pe_id, PeId(1));
    }
}

#[test]
fn a_member_that_comes_back_is_no_suspect() {
    let now = start();
    let mut selector = selector(round_robin(&[1, 2]));
    selector.suspect(now, PeId(2));
    selector.update(round_robin(&[1]));
    selector.update(round_robin(&[1, 2]));
    assert!(!selector.is_suspect(now, PeId(2)));
}

#[test]
fn tried_ones_are_out_and_errors_say_why_there_is_none() {
    let now = start();
    let mut selector = selector(round_robin(&[1, 2]));
    selector.suspect(now, PeId(2));
    let second = selector.select(now, Choice::Policy, &[PeId(1)]).unwrap();
    assert_eq!(second.pe_id, PeId(2), "a suspect is better than nobody");
    let both = [PeId(1), PeId(2)];
    assert_eq!(selector.select(now, Choice::Policy, &both), Err(SelectError::Exhausted));
    assert_eq!(selector.select(now, Choice::Key(b"k"), &both), Err(SelectError::Exhausted));

    let incomplete = View { complete: false, ..View::clone(&round_robin(&[1, 2])) };
    selector.update(Arc::new(incomplete));
    assert_eq!(selector.select(now, Choice::Key(b"k"), &[]), Err(SelectError::Incomplete));
    selector.update(round_robin(&[]));
    assert_eq!(selector.select(now, Choice::Policy, &[]), Err(SelectError::Empty));
}

#[test]
fn a_key_stays_with_its_element_and_moves_only_when_that_one_goes() {
    let now = start();
    let mut one = selector(round_robin(&[5, 1, 4, 2, 3]));
    let mut other = selector(round_robin(&[1, 2, 3, 4, 5]));
    let keys: Vec<String> = (0..200).map(|n| format!("call-{n}@example.com")).collect();
    let choose = |selector: &mut Selector| -> Vec<u32> {
        keys.iter()
            .map(|key| selector.select(now, Choice::Key(key.as_bytes()), &[]).unwrap().pe_id.0)
            .collect()
    };
    let before = choose(&mut one);
    assert_eq!(before, choose(&mut other), "every user computes the same");
    one.update(round_robin(&[1, 2, 4, 5]));
    for (before, after) in before.iter().zip(choose(&mut one)) {
        assert!(*before == 3 || *before == after);
    }
    // A suspect gives its keys to the next in line and to nobody else.
    other.suspect(now, PeId(3));
    assert_eq!(choose(&mut one), choose(&mut other));
}
