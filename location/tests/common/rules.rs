//! What every backend has to do with too many contacts, requests that come again, bad text and bad clocks: part of the
//! contract.

use dialtone_location::{
    Answer, BindingKey, Change, ClaimChange, ClaimOutcome, NewBinding, Record, Request, Save,
    SaveOutcome, TOMBSTONE_MS, limits,
};

use super::{AOR, Backend, Client, binding, register, remove_all};

const NOW: u64 = 1_000_000_000;

fn evicting(save: Save) -> Save {
    Save { evict_oldest: true, ..save }
}

fn contacts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| &*record.contact).collect()
}

pub(crate) fn the_oldest_contact_makes_room(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    let add = |n: u64| {
        let contact = format!("sip:a@host{n}");
        one.saved(evicting(register(&format!("{n}"), 1, NOW + n, vec![binding(&contact, 600)])))
    };
    (1..=4).for_each(|n| _ = add(n).expect("room"));
    // The first one is refreshed, so that the second one is the oldest.
    let refreshed = register("1", 2, NOW + 5, vec![binding("sip:a@host1", 600)]);
    one.saved(evicting(refreshed)).expect("refreshed");
    let left = ["sip:a@host1", "sip:a@host3", "sip:a@host4", "sip:a@host5"];
    assert_eq!(add(5).map(|list| list.len()), Ok(4));
    assert_eq!(one.found(AOR, NOW + 6), left);
    assert_eq!(one.replica_contacts(AOR, NOW + 6), left);
    two.await_replica(AOR, NOW + 6, &left);
    // It comes back with its next refreshment, not with a late copy of what it had.
    let old = |cseq| register("2", cseq, NOW + 7, vec![binding("sip:a@host2", 600)]);
    assert_eq!(one.saved(evicting(old(1))), Err(SaveOutcome::OutOfOrder));
    let back = one.saved(evicting(old(2))).expect("evicts another one");
    assert_eq!(back, ["sip:a@host1", "sip:a@host2", "sip:a@host4", "sip:a@host5"]);
    // One request never evicts what it brings itself.
    let five = (11..=15).map(|n| binding(&format!("sip:a@{n}"), 600)).collect();
    assert_eq!(one.saved(evicting(register("x", 1, NOW + 8, five))), Err(SaveOutcome::TooMany));
    assert_eq!(one.found(AOR, NOW + 8).len(), 4);
}

pub(crate) fn a_phone_that_starts_again_evicts_itself(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let desk = evicting(register("desk", 1, NOW, vec![binding("sip:a@desk:5060", 3600)]));
    one.saved(desk).expect("the oldest of all");
    for n in 1..=17 {
        let contact = format!("sip:a@lab:{}", 40_000 + n);
        let save =
            register(&format!("start{n}"), 1, NOW + n * 1_000, vec![binding(&contact, 3600)]);
        let left = one.saved(evicting(save)).expect("room");
        assert!(left.len() <= 4 && left.contains(&contact), "{left:?}");
        assert!(left.iter().any(|contact| contact == "sip:a@desk:5060"), "{left:?}");
    }
}

pub(crate) fn a_repeated_request_moves_to_its_newer_way(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    let by = |gateway: u32, now_ms, lifetime| {
        let way = NewBinding {
            path: format!("<sip:token{gateway}@gw;lr>").into(),
            gateway,
            ..binding("sip:a@1", lifetime)
        };
        register("a", 7, now_ms, vec![way])
    };
    one.saved(by(1, NOW, 600)).expect("first");
    match two.save(by(2, NOW + 5_000, 600)) {
        SaveOutcome::Saved { bindings, changed } => {
            assert_eq!((bindings.len(), changed.len()), (1, 1));
            assert_eq!((bindings[0].gateway, bindings[0].expires_at), (2, NOW + 600_000));
        }
        refused => panic!("{refused:?}"),
    }
    // What the user agent says itself must be the same; and a request does not travel for ever.
    assert_eq!(one.saved(by(3, NOW + 6_000, 601)), Err(SaveOutcome::OutOfOrder));
    assert_eq!(one.saved(by(3, NOW + TOMBSTONE_MS, 600)), Err(SaveOutcome::OutOfOrder));
    // Nor does it bring back what was removed meanwhile.
    one.saved(register("a", 8, NOW + 7_000, vec![binding("sip:a@1", 0)])).expect("removed");
    assert_eq!(two.saved(by(1, NOW + 8_000, 600)), Err(SaveOutcome::OutOfOrder));
    assert_eq!(two.found(AOR, NOW + 8_000), [""; 0]);
}

pub(crate) fn a_repeated_star_spares_what_came_after_it(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    one.saved(register("a", 1, NOW, vec![binding("sip:a@1", 60)])).expect("add");
    one.saved(remove_all("a", 2, NOW + 1)).expect("remove");
    one.saved(register("b", 1, NOW + 2, vec![binding("sip:a@2", 60)])).expect("another phone");
    assert_eq!(one.saved(remove_all("a", 2, NOW + 3)), Ok(vec!["sip:a@2".into()]));
}

pub(crate) fn strange_text_stays_text(backend: &dyn Backend) {
    const STRANGE: [&str; 8] = [
        "'; DROP TABLE bindings; --",
        "\"quoted\" `back` 'single' \\ \\' \\",
        "%s %n _%_ [a-z]* {0} $1 ?1 :aor @x",
        "line\r\nContact: <sip:evil@x>\t\u{1}\u{7f}",
        "\u{202e}\u{feff}\u{1f4de}e\u{301} \u{10ffff}",
        "/* */ -- # ;",
        "trailing spaces   ",
        "NULL",
    ];
    let one = Client::open(backend, 1);
    let two = Client::open(backend, 2);
    let fill = |text: &str, limit: usize| -> Box<str> {
        text.chars()
            .cycle()
            .scan(0, |length, c| {
                *length += c.len_utf8();
                (*length <= limit).then_some(c)
            })
            .collect::<String>()
            .into()
    };
    one.saved(register("sound", 1, NOW, vec![binding("sip:a@sound", 60)])).expect("a sound one");
    for (number, text) in STRANGE.iter().enumerate() {
        for long in [false, true] {
            let value = |limit: usize| if long { fill(text, limit) } else { (*text).into() };
            let aor = if long { value(limits::AOR) } else { format!("{text}@x").into() };
            // Keys have a letter of their own in front.
            let contact = fill(&value(limits::CONTACT), limits::KEY.min(limits::CONTACT) - 1);
            let new = NewBinding {
                key: BindingKey::contact(&contact),
                contact,
                params: value(limits::PARAMS),
                user_agent: value(limits::USER_AGENT),
                received: value(limits::RECEIVED),
                path: value(limits::PATH),
                flow_token: value(limits::FLOW_TOKEN),
                instance: value(limits::INSTANCE),
                gateway: u32::MAX,
                reg_id: u32::MAX,
                q: 1000,
                lifetime: 2_592_000,
            };
            let save = Save {
                aor: aor.clone(),
                call_id: value(limits::CALL_ID),
                cseq: u32::MAX,
                now_ms: NOW,
                max_bindings: 4,
                evict_oldest: true,
                change: Change::Bindings(vec![new.clone()]),
            };
            let expected = |record: &Record| {
                assert_eq!(record.aor, aor, "{number}");
                assert_eq!(record.key, new.key, "{number}");
                let texts = [
                    (&record.contact, &new.contact),
                    (&record.params, &new.params),
                    (&record.user_agent, &new.user_agent),
                    (&record.received, &new.received),
                    (&record.path, &new.path),
                    (&record.flow_token, &new.flow_token),
                    (&record.instance, &new.instance),
                    (&record.call_id, &save.call_id),
                ];
                texts.iter().for_each(|(found, given)| assert_eq!(found, given, "{number}"));
            };
            one.saved(save.clone()).unwrap_or_else(|refused| panic!("{number}: {refused:?}"));
            match two.call(Request::Lookup { aor: aor.clone(), now_ms: NOW }) {
                Answer::Found(records) if records.len() == 1 => expected(&records[0]),
                other => panic!("{number}: {other:?}"),
            }
            two.await_replica(&aor, NOW, &[&new.contact]);
            // Found again by what it was saved under: a replay, and a removal.
            match two.save(save.clone()) {
                SaveOutcome::Saved { changed, .. } => assert!(changed.is_empty(), "{number}"),
                refused => panic!("{number}: {refused:?}"),
            }
            let star = Save { call_id: "other".into(), change: Change::RemoveAll, ..save.clone() };
            assert_eq!(two.saved(star), Ok(vec![]), "{number}");
        }
    }
    assert_eq!(two.found(AOR, NOW), ["sip:a@sound"]);
    let odd = |aor: &str| Save {
        aor: aor.into(),
        ..register("case", 1, NOW, vec![binding("sip:a@1", 60)])
    };
    // Names that differ by case, accents or spaces at the end are different names.
    for aor in ["e@x", "E@x", "\u{e9}@x", "e@x ", "e\u{301}@x"] {
        one.saved(odd(aor)).expect("saved");
    }
    for aor in ["e@x", "E@x", "\u{e9}@x", "e@x ", "e\u{301}@x"] {
        assert_eq!(one.found(aor, NOW), ["sip:a@1"], "{aor:?}");
        let removal = Save { change: Change::RemoveAll, cseq: 2, ..odd(aor) };
        one.saved(removal).expect("removed");
        assert_eq!(one.found(aor, NOW), [""; 0], "{aor:?}");
    }
}

pub(crate) fn five_thousand_contacts_hurt_nobody_else(backend: &dyn Backend) {
    let one = Client::open(backend, 1);
    let sound = Save {
        aor: "bob@dialtone.test".into(),
        ..register("b", 1, NOW, vec![binding("sip:b@1", 60)])
    };
    one.saved(sound).expect("a sound one");
    let many = (0..5_000).map(|n| binding(&format!("sip:a@{n}"), 60)).collect();
    assert_eq!(one.saved(evicting(register("all", 1, NOW, many))), Err(SaveOutcome::TooMany));
    assert_eq!(one.found(AOR, NOW), [""; 0]);
    let tickets: Vec<_> = (0..5_000u64)
        .map(|n| {
            let save =
                register(&format!("c{n}"), 1, NOW + n, vec![binding(&format!("sip:a@{n}"), 60)]);
            one.submit(Request::Save(Box::new(evicting(save))))
        })
        .collect();
    let mut taken = 0;
    for ticket in tickets {
        match one.answer(ticket) {
            Answer::Save(SaveOutcome::Saved { bindings, .. }) => {
                taken += 1;
                assert!(bindings.len() <= 4, "{:?}", contacts(&bindings));
            }
            // Too many came and went within a short while.
            Answer::Save(SaveOutcome::TooMany) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (16..100).contains(&taken),
        "{taken} were taken: what is remembered of one address is bounded"
    );
    assert_eq!(one.found(AOR, NOW + 5_000).len(), 4);
    assert_eq!(one.found("bob@dialtone.test", NOW), ["sip:b@1"]);
    // After a while there is room again.
    let later = NOW + 5_000 + TOMBSTONE_MS;
    let fresh = register("fresh", 1, later, vec![binding("sip:a@fresh", 60)]);
    assert!(one.saved(evicting(fresh)).is_ok_and(|list| list.len() == 4));
}

pub(crate) fn a_clock_far_ahead_forgets_nothing(backend: &dyn Backend) {
    const YEAR: u64 = 365 * 24 * 3_600_000;
    let one = Client::open(backend, 1);
    one.saved(register("a", 1, NOW, vec![binding("sip:a@1", 3600)])).expect("add");
    one.saved(register("a", 2, NOW + 1, vec![binding("sip:a@2", 0)])).expect("remove");
    drop(one);
    // A process that starts with a bad clock.
    let two = Client::open(backend, 2);
    assert_eq!(two.call(Request::Expire { now_ms: NOW + YEAR }), Answer::Expired(0));
    assert_eq!(two.call(Request::Expire { now_ms: NOW - 1 }), Answer::Expired(0));
    assert_eq!(two.found(AOR, NOW + 2), ["sip:a@1"]);
    let late = register("a", 1, NOW + 3, vec![binding("sip:a@2", 3600)]);
    assert_eq!(two.saved(late), Err(SaveOutcome::OutOfOrder));
}

/// Then nothing in the database tells a process that its clock is wrong.
pub(crate) fn a_clock_far_ahead_spares_what_others_write_later(backend: &dyn Backend) {
    const YEAR: u64 = 365 * 24 * 3_600_000;
    let ahead = Client::open(backend, 2);
    let own = |call_id: &str, now_ms| Save {
        aor: "bob@dialtone.test".into(),
        ..register(call_id, 1, now_ms, vec![binding("sip:b@1", 0)])
    };
    ahead.saved(own("b", NOW + YEAR)).expect("its own");
    let forget = |now_ms| ahead.call(Request::Expire { now_ms });
    assert_eq!(forget(NOW + YEAR + TOMBSTONE_MS), Answer::Expired(1), "its own end by its clock");
    let right = Client::open(backend, 1);
    let claim = ClaimChange::Insert {
        name: "room".into(),
        owner: 7,
        lease_until: NOW + 30_000,
        now_ms: NOW,
    };
    assert!(matches!(right.call(Request::Claim(claim)), Answer::Claim(ClaimOutcome::Done(_))));
    assert_eq!(forget(NOW + YEAR), Answer::Expired(0));
    assert!(matches!(
        right.call(Request::ReadClaim { name: "room".into() }),
        Answer::ReadClaim(Some(_))
    ));
    right.saved(register("a", 1, NOW, vec![binding("sip:a@1", 3600)])).expect("add");
    right.saved(register("a", 2, NOW + 1, vec![binding("sip:a@2", 0)])).expect("remove");
    assert_eq!(forget(NOW + YEAR), Answer::Expired(0));
    assert_eq!(right.found(AOR, NOW + 2), ["sip:a@1"]);
    let late = register("a", 1, NOW + 3, vec![binding("sip:a@2", 3600)]);
    assert_eq!(right.saved(late), Err(SaveOutcome::OutOfOrder));
}
