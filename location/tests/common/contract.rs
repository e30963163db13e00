//! What every backend has to do. A test of a backend runs all of [`CONTRACT`], each on a database of its own.

use super::rules::*;
use super::{AOR, Backend, Client, binding, register, remove_all};
use dialtone_location::{
    Answer, BindingKey, Claim, ClaimChange, ClaimOutcome, CredentialChange, NewBinding,
    NewCredential, Request, SaveOutcome, TOMBSTONE_MS,
};

/// The whole suite, by name.
#[expect(clippy::type_complexity, reason = "a table of two columns")]
pub(crate) const CONTRACT: &[(&str, fn(&dyn Backend))] = &[
    ("the_oldest_contact_makes_room", the_oldest_contact_makes_room),
    ("a_phone_that_starts_again_evicts_itself", a_phone_that_starts_again_evicts_itself),
    ("a_repeated_request_moves_to_its_newer_way", a_repeated_request_moves_to_its_newer_way),
    ("a_repeated_star_spares_what_came_after_it", a_repeated_star_spares_what_came_after_it),
    ("strange_text_stays_text", strange_text_stays_text),
    ("five_thousand_contacts_hurt_nobody_else", five_thousand_contacts_hurt_nobody_else),
    ("a_clock_far_ahead_forgets_nothing", a_clock_far_ahead_forgets_nothing),
    (
        "a_clock_far_ahead_spares_what_others_write_later",
        a_clock_far_ahead_spares_what_others_write_later,
    ),
    ("saves_are_conditional_on_call_id_and_cseq", saves_are_conditional_on_call_id_and_cseq),
    ("several_contacts_are_saved_all_or_none", several_contacts_are_saved_all_or_none),
    ("removals_are_remembered", removals_are_remembered),
    ("removals_of_one_address_are_bounded", removals_of_one_address_are_bounded),
    ("a_star_removes_everything", a_star_removes_everything),
    ("a_flow_replaces_its_contact", a_flow_replaces_its_contact),
    ("bindings_end_by_themselves", bindings_end_by_themselves),
    (
        "other_writers_and_later_processes_see_changes",
        other_writers_and_later_processes_see_changes,
    ),
    ("a_claim_has_one_owner", a_claim_has_one_owner),
    ("ended_leases_are_forgotten_after_an_hour", ended_leases_are_forgotten_after_an_hour),
    ("simultaneous_claims_have_one_winner", simultaneous_claims_have_one_winner),
    ("users_are_put_replaced_and_removed", users_are_put_replaced_and_removed),
    ("users_are_listed_in_pages", users_are_listed_in_pages),
    ("other_processes_see_users", other_processes_see_users),
    ("revisions_follow_commits", revisions_follow_commits),
];

const NOW: u64 = 1_000_000_000;

pub(crate) fn saves_are_conditional_on_call_id_and_cseq(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    assert_eq!(
        one.saved(register("a", 10, NOW, vec![binding("sip:a@1", 60)])),
        Ok(vec!["sip:a@1".into()])
    );
    // RFC 3261 section 10.3 step 7: lower CSeq of the same Call-ID fails, of another Call-ID does not matter.
    let late = register("a", 9, NOW + 1, vec![binding("sip:a@1", 90)]);
    assert_eq!(one.saved(late), Err(SaveOutcome::OutOfOrder));
    let other = register("b", 1, NOW + 2, vec![binding("sip:a@1", 60)]);
    assert_eq!(one.saved(other.clone()), Ok(vec!["sip:a@1".into()]));
    // Equal CSeq, equal content: a replay succeeds, at any writer, and changes nothing.
    let two = Client::open(backend, 2);
    match two.save(register("b", 1, NOW + 9_000, vec![binding("sip:a@1", 60)])) {
        SaveOutcome::Saved { bindings, changed } => {
            assert!(changed.is_empty(), "{changed:?}");
            assert_eq!((bindings[0].expires_at, bindings[0].version.writer.0), (NOW + 60_002, 1));
        }
        refused => panic!("{refused:?}"),
    }
    // Equal CSeq, other content.
    let changed = register("b", 1, NOW + 3, vec![binding("sip:a@1", 61)]);
    assert_eq!(one.saved(changed), Err(SaveOutcome::OutOfOrder));
}

pub(crate) fn several_contacts_are_saved_all_or_none(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    one.saved(register("a", 5, NOW, vec![binding("sip:a@1", 60)])).expect("first");
    let mixed = vec![binding("sip:a@2", 60), binding("sip:a@1", 60)];
    assert_eq!(one.saved(register("a", 4, NOW, mixed.clone())), Err(SaveOutcome::OutOfOrder));
    assert_eq!(one.found(AOR, NOW), ["sip:a@1"]);
    assert_eq!(
        one.saved(register("a", 6, NOW, mixed)),
        Ok(vec!["sip:a@1".into(), "sip:a@2".into()])
    );
    let five = (1..=5).map(|n| binding(&format!("sip:a@{n}"), 60)).collect();
    assert_eq!(one.saved(register("a", 7, NOW, five)), Err(SaveOutcome::TooMany));
    let swap = vec![binding("sip:a@1", 0), binding("sip:a@3", 60)];
    assert_eq!(
        one.saved(register("a", 8, NOW, swap)),
        Ok(vec!["sip:a@2".into(), "sip:a@3".into()])
    );
}

pub(crate) fn removals_are_remembered(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    one.saved(register("a", 1, NOW, vec![binding("sip:a@1", 60)])).expect("add");
    let removal = register("a", 3, NOW + 1, vec![binding("sip:a@1", 0)]);
    assert_eq!(one.saved(removal.clone()), Ok(vec![]));
    assert_eq!(one.saved(removal), Ok(vec![]), "a replayed removal");
    assert_eq!(
        one.saved(register("a", 2, NOW + 2, vec![binding("sip:a@1", 60)])),
        Err(SaveOutcome::OutOfOrder)
    );
    // The removal of what was never there is remembered as well: the request that adds it may come later.
    assert_eq!(one.saved(register("a", 5, NOW, vec![binding("sip:a@2", 0)])), Ok(vec![]));
    assert_eq!(
        one.saved(register("a", 4, NOW, vec![binding("sip:a@2", 60)])),
        Err(SaveOutcome::OutOfOrder)
    );
    assert_eq!(one.call(Request::Expire { now_ms: NOW + TOMBSTONE_MS - 1 }), Answer::Expired(0));
    assert_eq!(one.call(Request::Expire { now_ms: NOW + TOMBSTONE_MS + 1 }), Answer::Expired(2));
}

pub(crate) fn removals_of_one_address_are_bounded(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let removal = |n: u32| register("a", n, NOW, vec![binding(&format!("sip:a@{n}"), 0)]);
    let taken = (1..1_000).take_while(|n| one.saved(removal(*n)).is_ok()).count();
    assert!((16..100).contains(&taken), "{taken}");
    assert_eq!(one.saved(removal(1_000)), Err(SaveOutcome::TooMany));
    // What is there already may still change, and everything may go; after a while there is room again.
    assert_eq!(
        one.saved(register("b", 1, NOW, vec![binding("sip:a@1", 60)])).map(|l| l.len()),
        Ok(1)
    );
    assert_eq!(one.saved(remove_all("b", 2, NOW)), Ok(vec![]));
    one.call(Request::Expire { now_ms: NOW + TOMBSTONE_MS });
    let late = register("a", 2_000, NOW + TOMBSTONE_MS, vec![binding("sip:a@2000", 60)]);
    assert_eq!(one.saved(late).map(|list| list.len()), Ok(1));
}

pub(crate) fn a_star_removes_everything(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let both = vec![binding("sip:a@1", 60), binding("sip:a@2", 60)];
    one.saved(register("a", 1, NOW, both.clone())).expect("add");
    one.saved(register("b", 7, NOW, vec![binding("sip:a@2", 60)])).expect("another phone");
    assert_eq!(one.saved(remove_all("b", 6, NOW + 1)), Err(SaveOutcome::OutOfOrder));
    assert_eq!(one.found(AOR, NOW + 1).len(), 2);
    assert_eq!(one.saved(remove_all("b", 9, NOW + 1)), Ok(vec![]));
    assert_eq!(one.saved(remove_all("b", 9, NOW + 2)), Ok(vec![]), "a replay");
    // Late ones of that Call-ID, for known and unknown contacts.
    assert_eq!(one.saved(register("b", 8, NOW + 3, both)), Err(SaveOutcome::OutOfOrder));
    assert_eq!(
        one.saved(register("b", 8, NOW + 3, vec![binding("sip:a@3", 60)])),
        Err(SaveOutcome::OutOfOrder)
    );
    assert_eq!(
        one.saved(register("b", 10, NOW + 4, vec![binding("sip:a@3", 60)])),
        Ok(vec!["sip:a@3".into()])
    );
    assert_eq!(one.saved(remove_all("b", 9, NOW + 5)), Err(SaveOutcome::OutOfOrder));
}

pub(crate) fn a_flow_replaces_its_contact(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let flow = |contact: &str, reg_id| NewBinding {
        key: BindingKey::flow("<urn:uuid:1>", reg_id),
        instance: "<urn:uuid:1>".into(),
        reg_id,
        ..binding(contact, 60)
    };
    one.saved(register("a", 1, NOW, vec![flow("sip:a@1", 1)])).expect("first flow");
    assert_eq!(
        one.saved(register("b", 1, NOW, vec![flow("sip:a@9", 1)])),
        Ok(vec!["sip:a@9".into()])
    );
    assert_eq!(
        one.saved(register("b", 2, NOW, vec![flow("sip:a@9", 2)])).map(|list| list.len()),
        Ok(2)
    );
}

pub(crate) fn bindings_end_by_themselves(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    one.saved(register("a", 1, NOW, vec![binding("sip:a@1", 60)])).expect("add");
    assert_eq!(one.found(AOR, NOW + 59_999), ["sip:a@1"]);
    assert_eq!(one.found(AOR, NOW + 60_000), [""; 0]);
    let other = register("b", 1, NOW + 60_000, vec![binding("sip:a@2", 60)]);
    assert_eq!(one.saved(other), Ok(vec!["sip:a@2".into()]));
    assert_eq!(
        one.call(Request::Expire { now_ms: NOW + 60_000 + TOMBSTONE_MS }),
        Answer::Expired(1)
    );
}

pub(crate) fn other_writers_and_later_processes_see_changes(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    one.saved(register("a", 1, NOW, vec![binding("sip:a@1", 60)])).expect("add");
    two.await_replica(AOR, NOW, &["sip:a@1"]);
    two.saved(register("a", 2, NOW + 1, vec![binding("sip:a@2", 60)])).expect("add");
    one.await_replica(AOR, NOW + 1, &["sip:a@1", "sip:a@2"]);
    one.saved(remove_all("a", 3, NOW + 2)).expect("remove");
    two.await_replica(AOR, NOW + 2, &[]);
    for n in 0..1_200 {
        let mut save = register("many", n, NOW, vec![binding("sip:m@1", 60)]);
        save.aor = format!("user{n}@dialtone.test").into();
        one.submit(Request::Save(Box::new(save)));
    }
    two.await_replica("user1199@dialtone.test", NOW, &["sip:m@1"]);
    drop((one, two));
    let three = Client::open(backend, 1);
    three.await_replica("user0@dialtone.test", NOW, &["sip:m@1"]);
    three.await_replica(AOR, NOW + 2, &[]);
    assert_eq!(three.replica.borrow().stats().aors, 1_201);
}

pub(crate) fn a_claim_has_one_owner(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    let insert = |owner, now_ms| ClaimChange::Insert {
        name: "room".into(),
        owner,
        lease_until: now_ms + 100,
        now_ms,
    };
    let claim = |client: &Client, change| match client.call(Request::Claim(change)) {
        Answer::Claim(outcome) => outcome,
        other => panic!("{other:?}"),
    };
    let ClaimOutcome::Done(first) = claim(&one, insert(11, NOW)) else { panic!("refused") };
    assert_eq!(claim(&two, insert(22, NOW + 99)), ClaimOutcome::Refused(Some(first.clone())));
    assert_eq!(
        two.call(Request::ReadClaim { name: "room".into() }),
        Answer::ReadClaim(Some(first.clone()))
    );
    let swap = |generation, owner| ClaimChange::Swap {
        name: "room".into(),
        generation,
        owner,
        lease_until: NOW + 500,
    };
    let second = Claim {
        owner: 22,
        generation: first.generation + 1,
        lease_until: NOW + 500,
        ..first.clone()
    };
    assert_eq!(claim(&two, swap(first.generation, 22)), ClaimOutcome::Done(second.clone()));
    assert_eq!(
        claim(&one, swap(first.generation, 11)),
        ClaimOutcome::Refused(Some(second.clone()))
    );
    let release = |generation| ClaimChange::Release { name: "room".into(), generation };
    assert!(matches!(claim(&one, release(second.generation)), ClaimOutcome::Done(_)));
    assert_eq!(one.call(Request::ReadClaim { name: "room".into() }), Answer::ReadClaim(None));
    assert_eq!(claim(&two, swap(second.generation, 22)), ClaimOutcome::Refused(None));
    let ClaimOutcome::Done(third) = claim(&two, insert(22, NOW + 1)) else { panic!("refused") };
    assert!(third.generation > second.generation);
    // The end of the lease takes nothing from the owner.
    let late = insert(11, third.lease_until + 1);
    assert_eq!(claim(&one, late), ClaimOutcome::Refused(Some(third.clone())));
    assert!(matches!(claim(&one, swap(third.generation, 11)), ClaimOutcome::Done(_)));
}

pub(crate) fn ended_leases_are_forgotten_after_an_hour(backend: &dyn Backend) {
    const HOUR: u64 = 3_600_000;
    let one = Client::open(backend, 1);
    let insert = |now_ms| {
        let name = "room".into();
        ClaimChange::Insert { name, owner: 11, lease_until: now_ms + 1_000, now_ms }
    };
    let read = || one.call(Request::ReadClaim { name: "room".into() });
    let Answer::Claim(ClaimOutcome::Done(first)) = one.call(Request::Claim(insert(NOW))) else {
        panic!("refused")
    };
    // What nobody else has written by that time is a clock that is ahead.
    let save = register("a", 1, first.lease_until + HOUR, vec![binding("sip:a@1", 60)]);
    Client::open(backend, 2).saved(save).expect("saved");
    one.call(Request::Expire { now_ms: first.lease_until + HOUR - 1 });
    assert_eq!(read(), Answer::ReadClaim(Some(first.clone())));
    one.call(Request::Expire { now_ms: first.lease_until + HOUR });
    assert_eq!(read(), Answer::ReadClaim(None));
    // Who remembers the former claim cannot take it for this one.
    let again = one.call(Request::Claim(insert(first.lease_until + HOUR)));
    let Answer::Claim(ClaimOutcome::Done(second)) = again else { panic!("{again:?}") };
    assert!(second.generation > first.generation + HOUR);
}

/// Two processes claim the same name for different owners at the same moment, and swap it at the same moment.
pub(crate) fn simultaneous_claims_have_one_winner(backend: &dyn Backend) {
    const TRIALS: u64 = 1_000;
    let both = |change: &(dyn Fn(u64, u32) -> ClaimChange + Sync)| -> [Vec<ClaimOutcome>; 2] {
        let start = std::sync::Barrier::new(2);
        let run = |writer: u32| {
            let client = Client::open(backend, writer);
            let once = |trial| {
                start.wait();
                match client.call(Request::Claim(change(trial, writer))) {
                    Answer::Claim(outcome) => outcome,
                    other => panic!("{other:?}"),
                }
            };
            (0..TRIALS).map(once).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let run = &run;
            let other = scope.spawn(move || run(2));
            [run(1), other.join().expect("the other claimer")]
        })
    };
    let winners = |told: [Vec<ClaimOutcome>; 2]| -> Vec<Claim> {
        let [ones, twos] = told;
        let pairs = ones.into_iter().zip(twos).enumerate();
        let winner = |(trial, pair)| match pair {
            (ClaimOutcome::Done(claim), ClaimOutcome::Refused(Some(same)))
            | (ClaimOutcome::Refused(Some(same)), ClaimOutcome::Done(claim)) => {
                assert_eq!(claim, same, "trial {trial}");
                claim
            }
            other => panic!("trial {trial}: {other:?}"),
        };
        pairs.map(winner).collect()
    };
    let name = |trial: u64| format!("room{trial}").into_boxed_str();
    let first = winners(both(&|trial, writer| ClaimChange::Insert {
        name: name(trial),
        owner: writer,
        lease_until: NOW + 1_000,
        now_ms: NOW,
    }));
    // Both have found the owner dead.
    let second = winners(both(&|trial, writer| ClaimChange::Swap {
        name: name(trial),
        generation: first[trial as usize].generation,
        owner: 10 + writer,
        lease_until: NOW + 2_000,
    }));
    let won = |claims: &[Claim], owner| claims.iter().filter(|claim| claim.owner == owner).count();
    let won = [won(&first, 1), won(&first, 2), won(&second, 11), won(&second, 12)];
    println!("{TRIALS} names: won {won:?}");
    let client = Client::open(backend, 3);
    for claim in second {
        let stored = client.call(Request::ReadClaim { name: claim.name.clone() });
        assert_eq!(stored, Answer::ReadClaim(Some(claim)));
    }
}

fn put(users: &[(&str, u8)]) -> CredentialChange {
    let new = |&(user, byte): &(&str, u8)| NewCredential {
        user: user.into(),
        realm: "dialtone.test".into(),
        ha1_md5: Some([byte; 16]),
        ha1_sha256: (byte % 2 == 0).then_some([byte; 32]),
    };
    CredentialChange::Put(users.iter().map(new).collect())
}

fn remove(user: &str) -> CredentialChange {
    CredentialChange::Remove { user: user.into(), realm: "dialtone.test".into() }
}

pub(crate) fn users_are_put_replaced_and_removed(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let outcomes = one.change_users(put(&[("alice", 1), ("bob", 2)]));
    let existed: Vec<bool> = outcomes.iter().map(|outcome| outcome.existed).collect();
    assert_eq!(existed, [false, false]);
    let revisions: Vec<u64> =
        outcomes.iter().filter_map(|outcome| Some(outcome.credential.as_ref()?.revision)).collect();
    assert!(revisions.len() == 2 && revisions[0] < revisions[1], "{revisions:?}");
    // A replacement takes the hashes along that it does not bring.
    let replaced = one.change_users(put(&[("bob", 3)])).remove(0);
    assert!(replaced.existed);
    let bob = replaced.credential.expect("stored");
    assert_eq!((bob.ha1_md5, bob.ha1_sha256, bob.removed), (Some([3; 16]), None, false));
    assert!(bob.revision > revisions[1]);
    let removed = one.change_users(remove("alice")).remove(0);
    assert!(removed.existed);
    let alice = removed.credential.expect("stored");
    assert_eq!((alice.ha1_md5, alice.ha1_sha256, alice.removed), (None, None, true));
    for nobody in ["alice", "carol", "ALICE", "bob "] {
        let nothing = one.change_users(remove(nobody)).remove(0);
        assert_eq!((nothing.existed, nothing.credential), (false, None), "{nobody}");
    }
    assert!(!one.change_users(put(&[("alice", 4)])).remove(0).existed);
    // One user twice: the last one counts.
    let twice = one.change_users(put(&[("carol", 6), ("carol", 8)]));
    assert_eq!(twice.iter().map(|outcome| outcome.existed).collect::<Vec<_>>(), [false, true]);
    one.await_user("carol", "dialtone.test", Some(8));
}

pub(crate) fn users_are_listed_in_pages(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    assert_eq!(one.listed(None, 10), []);
    let odd = ["al'; DROP TABLE credentials; --", "b%_\\\"o`b", "\u{e4}\u{1f4de}", "Zoe", "zoe"];
    one.change_users(put(&odd.map(|user| (user, 2))));
    let elsewhere = NewCredential {
        user: "zoe".into(),
        realm: "a.test".into(),
        ha1_md5: None,
        ha1_sha256: Some([9; 32]),
    };
    one.change_users(CredentialChange::Put(vec![elsewhere]));
    one.change_users(put(&[("gone", 1)]));
    one.change_users(remove("gone"));
    let mut expected: Vec<(String, String)> =
        odd.iter().map(|user| (user.to_string(), "dialtone.test".to_owned())).collect();
    expected.push(("zoe".into(), "a.test".into()));
    expected.sort();
    assert_eq!(one.listed(None, usize::MAX), expected);
    let mut pages: Vec<(String, String)> = Vec::new();
    loop {
        let after = pages.last().cloned();
        let after = after.as_ref().map(|(user, realm)| (&**user, &**realm));
        match one.listed(after, 2) {
            page if page.is_empty() => break,
            page => pages.extend(page),
        }
    }
    assert_eq!(pages, expected);
}

pub(crate) fn other_processes_see_users(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    one.change_users(put(&[("alice", 1)]));
    two.await_user("alice", "dialtone.test", Some(1));
    one.await_user("alice", "dialtone.test", Some(1));
    two.change_users(put(&[("alice", 2), ("bob", 4)]));
    one.await_user("alice", "dialtone.test", Some(2));
    one.await_user("bob", "dialtone.test", Some(4));
    one.change_users(remove("bob"));
    two.await_user("bob", "dialtone.test", None);
    let many: Vec<String> = (0..1_200).map(|n| format!("user{n}")).collect();
    one.change_users(put(&many.iter().map(|user| (&**user, 7)).collect::<Vec<_>>()));
    two.await_user("user1199", "dialtone.test", Some(7));
    assert_eq!(two.credentials.borrow().count("dialtone.test"), 1_201);
    // The last change of all is a removal, which the next process must not take for news that it missed.
    one.change_users(remove("user0"));
    drop((one, two));
    let three = Client::open(backend, 3);
    three.await_user("user1199", "dialtone.test", Some(7));
    three.await_user("user0", "dialtone.test", None);
    assert_eq!(three.credentials.borrow().count("dialtone.test"), 1_200);
    let four = Client::open(backend, 4);
    four.change_users(put(&[("user0", 5)]));
    three.await_user("user0", "dialtone.test", Some(5));
}

pub(crate) fn revisions_follow_commits(backend: &dyn Backend) {
    // Two writers at once: the clients insist that revisions only grow, and end with the same.
    let clients = [Client::open(backend, 1), Client::open(backend, 2)];
    let mut tickets = [Vec::new(), Vec::new()];
    for n in 0..60_u8 {
        for (client, tickets) in clients.iter().zip(&mut tickets) {
            let name = format!("user{}", n % 7);
            tickets.push(client.submit(Request::Credentials(if n % 5 == 4 {
                remove(&name)
            } else {
                put(&[(&name, n)])
            })));
        }
    }
    for (client, tickets) in clients.iter().zip(tickets) {
        tickets.into_iter().for_each(|ticket| _ = client.answer(ticket));
    }
    clients[0].change_users(put(&[("last", 1)]));
    clients.iter().for_each(|client| client.await_user("last", "dialtone.test", Some(1)));
    for n in 0..7 {
        let user = format!("user{n}");
        let [one, two] = [&clients[0], &clients[1]]
            .map(|client| client.credentials.borrow().find(&user, "dialtone.test").copied());
        assert_eq!(one, two, "{user}");
    }
}
