//! What every backend has to do; a backend is one function at the end.

mod common;

use common::{AOR, Backend, Client, Folder, Sqlite, binding, register, remove_all};
use dialtone_location::{
    Answer, BindingKey, Claim, ClaimChange, ClaimOutcome, NewBinding, Request, SaveOutcome,
    TOMBSTONE_MS,
};

const NOW: u64 = 1_000_000_000;

fn saves_are_conditional_on_call_id_and_cseq(backend: &dyn Backend) {
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

fn several_contacts_are_saved_all_or_none(backend: &dyn Backend) {
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

fn removals_are_remembered(backend: &dyn Backend) {
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

fn removals_of_one_address_are_bounded(backend: &dyn Backend) {
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

fn a_star_removes_everything(backend: &dyn Backend) {
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

fn a_flow_replaces_its_contact(backend: &dyn Backend) {
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

fn bindings_end_by_themselves(backend: &dyn Backend) {
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

fn other_writers_and_later_processes_see_changes(backend: &dyn Backend) {
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

fn a_claim_has_one_owner(backend: &dyn Backend) {
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
    let ClaimOutcome::Done(fourth) = claim(&one, insert(11, NOW + 101)) else {
        panic!("the lease has ended")
    };
    assert_eq!(fourth.owner, 11);
}

macro_rules! contract {
    ($backend:ident: $($test:ident)*) => {
        mod $backend {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let folder = Folder::new(stringify!($test));
                    super::$test(&Sqlite(folder.0.join("location.db")));
                }
            )*
        }
    };
}

contract! { sqlite:
    saves_are_conditional_on_call_id_and_cseq
    several_contacts_are_saved_all_or_none
    removals_are_remembered
    removals_of_one_address_are_bounded
    a_star_removes_everything
    a_flow_replaces_its_contact
    bindings_end_by_themselves
    other_writers_and_later_processes_see_changes
    a_claim_has_one_owner
}
