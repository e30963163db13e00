//! The contract of stores on MariaDB, and what is special about a server.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::contract::CONTRACT;
use common::gate::{Gate, Trap};
use common::mariadb::{Mariadb, Server, now, run};
use common::{AOR, Client, binding, register};
use dialtone_location::mysql::{Config, MysqlStore, Node};
use dialtone_location::{Answer, Error, Request, Save, SaveOutcome, WriterId};

#[test]
fn the_contract_holds() {
    let Some(server) = Server::start("contract") else { return };
    for (name, test) in CONTRACT {
        println!("{name}");
        test(&server.database(name));
    }
}

/// Saves one contact after the other for one user; every one of them has to be carried out exactly once.
struct Chain<'a> {
    client: &'a Client,
    cseq: u32,
    sequence: u64,
}

impl Chain<'_> {
    fn next(&mut self, what: &str) {
        self.cseq += 1;
        let save = register("chain", self.cseq, 1_000_000, vec![binding("sip:a@1", 60)]);
        let SaveOutcome::Saved { changed, bindings } = self.client.save(save) else {
            panic!("{what}: refused");
        };
        // Carried out twice it would be a replay, or have taken two numbers.
        assert_eq!(changed.len(), 1, "{what}");
        assert_eq!(changed[0].version.sequence, self.sequence + 1, "{what}");
        assert_eq!(bindings, changed, "{what}");
        self.sequence += 1;
        self.check(what);
    }

    fn check(&self, what: &str) {
        let found = self.client.call(Request::Lookup { aor: AOR.into(), now_ms: 1_000_000 });
        let Answer::Found(found) = found else { panic!("{what}: {found:?}") };
        let stored: Vec<_> =
            found.iter().map(|record| (record.cseq, record.version.sequence)).collect();
        assert_eq!(stored, [(self.cseq, self.sequence)], "{what}");
    }
}

#[test]
fn unknown_outcomes_are_found_out() {
    let Some(server) = Server::start("outcomes") else { return };
    let gate = Gate::new(server.address);
    let database = server.database("outcomes");
    database.nodes.send_replace(vec![Node { id: 1, address: gate.address }]);
    let client = Client::open(&database, 1);
    client.forgiving.set(true);
    let mut chain = Chain { client: &client, cseq: 0, sequence: 0 };
    chain.next("nothing happens");
    // The packet is some 1,700 bytes long, its answer 11.
    let cuts = [0, 1, 4, 5, 20, 800, 1_500].map(Trap::Cut);
    for trap in cuts.into_iter().chain([1, 4, 5, 10].map(Trap::Deaf)) {
        gate.arm(trap);
        chain.next(&format!("{trap:?}"));
        assert!(gate.has_snapped(), "{trap:?}");
    }

    // A packet that is on its way for so long that it arrives when the same step was made by another one.
    gate.arm(Trap::Hold);
    chain.next("held");
    assert!(gate.has_snapped());
    chain.next("after it");
    gate.release();
    let answer = gate.late.recv_timeout(Duration::from_secs(10)).expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("sequence"), "{answer}");
    chain.check("the late packet");
    chain.next("after the late packet");
}

/// Saves at two writers as fast as they are answered while `disturb` does its worst; what was acknowledged is there
/// afterwards.
fn nothing_acknowledged_is_lost(name: &str, disturb: impl FnOnce(&mut Server, &dyn Fn())) {
    // More than go into one transaction, so that the next one is decided while one is under way.
    const USERS: u32 = 600;
    const ROUNDS: u32 = 10;
    let Some(mut server) = Server::start(name) else { return };
    let database = server.database(name);
    let over = AtomicBool::new(false);
    let rounds = [AtomicU32::new(0), AtomicU32::new(0)];
    // Until either writer has had a round of answers more.
    let a_round = || {
        let before = rounds.each_ref().map(|done| done.load(Ordering::Relaxed));
        let until = now() + Duration::from_secs(60);
        while rounds.iter().zip(before).any(|(done, before)| done.load(Ordering::Relaxed) <= before)
        {
            assert!(now() < until, "the writers do not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let acknowledged: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=2)
            .map(|writer| {
                let (database, over) = (database.clone(), &over);
                let done = &rounds[writer as usize - 1];
                scope.spawn(move || {
                    let client = Client::open(&database, writer);
                    client.forgiving.set(true);
                    let mut acknowledged = vec![0; USERS as usize];
                    for cseq in 1.. {
                        let submit = |user: u32| {
                            let save = register("x", cseq, 1_000_000, vec![binding("sip:x@1", 60)]);
                            let aor = format!("user{user}.{writer}@dialtone.test").into();
                            client.submit(Request::Save(Box::new(Save { aor, ..save })))
                        };
                        let tickets: Vec<_> = (0..USERS).map(submit).collect();
                        for (user, ticket) in tickets.into_iter().enumerate() {
                            match client.answer(ticket) {
                                Answer::Save(SaveOutcome::Saved { .. }) => {
                                    acknowledged[user] = cseq
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                        done.store(cseq, Ordering::Relaxed);
                        // However slow the machine is.
                        if over.load(Ordering::Relaxed) && cseq > ROUNDS {
                            break;
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        disturb(&mut server, &a_round);
        over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("writer")).collect()
    });
    let reader = Client::open(&database, 3);
    for (writer, users) in (1..).zip(&acknowledged) {
        assert!(users[0] > 2, "writer {writer} came only to {}", users[0]);
        for (user, cseq) in users.iter().enumerate() {
            let aor = format!("user{user}.{writer}@dialtone.test");
            let found = reader.call(Request::Lookup { aor: aor.clone().into(), now_ms: 1_000_000 });
            let Answer::Found(found) = found else { panic!("{found:?}") };
            assert_eq!(
                found.iter().map(|record| record.cseq).collect::<Vec<_>>(),
                [*cseq],
                "{aor}"
            );
        }
    }
}

#[test]
fn a_killed_server_loses_nothing_acknowledged() {
    nothing_acknowledged_is_lost("killed", |server, a_round| {
        for _ in 0..2 {
            a_round();
            server.kill();
            server.run();
        }
        a_round();
    });
}

#[test]
fn a_server_that_stands_still_loses_nothing() {
    nothing_acknowledged_is_lost("frozen", |server, a_round| {
        let signal = |name: &str| {
            let sent = Command::new("kill").args([name, &server.pid().to_string()]).status();
            assert!(sent.expect("kill").success());
        };
        for _ in 0..2 {
            a_round();
            signal("-STOP");
            // The fault itself: long enough to be given up.
            std::thread::sleep(Duration::from_millis(1_500));
            signal("-CONT");
        }
        a_round();
    });
}

#[test]
fn what_is_not_ours_is_refused_by_name() {
    let Some(server) = Server::start("foreign") else { return };
    let open = |database: &Mariadb| run(MysqlStore::open(database.config(WriterId(1)), |_| {}));
    let refused = |database: &Mariadb| open(database).expect_err("refused").to_string();
    server.execute("CREATE DATABASE theirs; CREATE TABLE theirs.bills (id INT)");
    let error = refused(&server.database("theirs"));
    assert!(error.contains("theirs") && error.contains("bills"), "{error}");
    server.execute("CREATE DATABASE meta; CREATE TABLE meta.meta (id INT)");
    assert!(refused(&server.database("meta")).contains("not a location database"));
    drop(open(&server.database("newer")).expect("made"));
    server.execute("UPDATE newer.meta SET version = 99");
    assert!(refused(&server.database("newer")).contains("version 99"));
    let mut stranger = server.database("stranger");
    stranger.client.password = "wrong".into();
    assert!(matches!(open(&stranger), Err(Error::Refused { .. })));
    let nobody = server.database("nobody");
    nobody.nodes.send_replace(Vec::new());
    let config = Config { open_within: Some(Duration::ZERO), ..nobody.config(WriterId(1)) };
    assert!(matches!(run(MysqlStore::open(config, |_| {})), Err(Error::Unreachable(_))));
}

#[test]
fn a_write_that_takes_too_long_is_answered() {
    let Some(mut server) = Server::start("late") else { return };
    let mut database = server.database("late");
    database.patience = Duration::from_millis(700);
    let client = Client::open(&database, 1);
    client.forgiving.set(true);
    client.saved(register("a", 1, 1_000_000, vec![binding("sip:a@1", 60)])).expect("saved");
    server.kill();
    let begun = now();
    let save = |cseq| {
        Request::Save(Box::new(register("a", cseq, 1_000_000, vec![binding("sip:a@1", 60)])))
    };
    let tickets = [client.submit(save(2)), client.submit(save(3))];
    for ticket in tickets {
        assert!(matches!(client.answer(ticket), Answer::Failed(_)));
    }
    assert!(now().duration_since(begun) < Duration::from_secs(3));
    let lookup = client.call(Request::Lookup { aor: AOR.into(), now_ms: 1_000_000 });
    assert!(matches!(lookup, Answer::Failed(_)), "{lookup:?}");
    server.run();
    let Answer::Save(SaveOutcome::Saved { .. }) = client.call(save(4)) else { panic!("refused") };
}

#[test]
fn nobody_waits_for_a_server_that_has_been_gone_for_longer_than_a_stall() {
    const STALL: Duration = Duration::from_secs(2);
    let Some(mut server) = Server::start("gone") else { return };
    let mut database = server.database("gone");
    // Whoever waited for it would be noticed.
    (database.patience, database.stall) = (Duration::from_secs(120), STALL);
    let client = Client::open(&database, 1);
    client.forgiving.set(true);
    let save = |cseq| {
        let save = register("a", cseq, 1_000_000, vec![binding("sip:a@1", 60)]);
        Request::Save(Box::new(save))
    };
    assert!(matches!(client.call(save(1)), Answer::Save(SaveOutcome::Saved { .. })));
    let begun = now();
    server.kill();
    let tickets = [2, 3].map(|cseq| client.submit(save(cseq)));
    for ticket in tickets {
        assert!(matches!(client.answer(ticket), Answer::Failed(_)));
    }
    // Not before: a cluster might have gone on.
    assert!(now().duration_since(begun) >= STALL);
    let lookup = || client.call(Request::Lookup { aor: AOR.into(), now_ms: 1_000_000 });
    let begun = now();
    for cseq in 4..24 {
        // A pool that has lost its registrars as well.
        database.nodes.send_replace(Vec::new());
        assert!(matches!(client.call(save(cseq)), Answer::Failed(_)));
        assert!(matches!(lookup(), Answer::Failed(_)));
    }
    // Had any of them waited, it would have been for one stall at least.
    assert!(now().duration_since(begun) < STALL * 5);
    server.run();
    let until = now() + Duration::from_secs(30);
    while matches!(client.call(save(24)), Answer::Failed(_)) {
        assert!(now() < until, "it is back");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(lookup(), Answer::Found(found) if found.len() == 1 && found[0].cseq == 24));
}

#[test]
fn a_follower_that_has_missed_changes_reads_everything_again() {
    let Some(server) = Server::start("missed") else { return };
    let database = server.database("missed");
    let one = Client::open(&database, 1);
    one.forgiving.set(true);
    one.saved(register("a", 1, 1_000_000, vec![binding("sip:a@1", 60)])).expect("saved");
    one.await_replica(AOR, 1_000_000, &["sip:a@1"]);
    // As another writer leaves it whose list of changes was forgotten before it was read.
    server.execute(
        "INSERT INTO missed.writers VALUES (2, 3, 77, 1); \
         UPDATE missed.bindings SET contact = 'sip:a@2', changed_at = changed_at + 1; \
         UPDATE missed.meta SET revision = revision + 1",
    );
    one.await_replica(AOR, 1_000_000, &["sip:a@2"]);
    // And it follows again.
    let two = Client::open(&database, 2);
    two.saved(register("a", 2, 1_000_001, vec![binding("sip:a@3", 60)])).expect("saved");
    one.await_replica(AOR, 1_000_000, &["sip:a@2", "sip:a@3"]);

    // Somebody has made the database anew: it is filled again, and what was known is still known.
    two.forgiving.set(true);
    server.execute(
        "DROP TABLE missed.bindings, missed.writers, missed.changes, missed.claims, missed.credentials, missed.meta",
    );
    one.saved(register("b", 1, 1_000_002, vec![binding("sip:b@1", 60)])).expect("saved");
    two.saved(register("c", 1, 1_000_003, vec![binding("sip:c@1", 60)])).expect("saved");
    let expected = ["sip:a@2", "sip:a@3", "sip:b@1", "sip:c@1"];
    one.await_replica(AOR, 1_000_003, &expected);
    assert_eq!(two.found(AOR, 1_000_003), ["sip:b@1", "sip:c@1"]);
}

#[test]
fn groups_that_are_decided_ahead_see_those_before_them() {
    const USERS: u32 = 300;
    const ROUNDS: u32 = 8;
    let Some(server) = Server::start("ahead") else { return };
    let database = server.database("ahead");
    // Two writers, so that what was decided ahead is also overtaken; some users belong to both.
    let writers: [Client; 2] = [Client::open(&database, 1), Client::open(&database, 2)];
    let aor = |writer: usize, user: u32| match user {
        0..20 => format!("both{user}@dialtone.test"),
        _ => format!("user{user}.{writer}@dialtone.test"),
    };
    let mut tickets = [Vec::new(), Vec::new()];
    for cseq in 1..=ROUNDS {
        for user in 0..USERS {
            for (writer, client) in writers.iter().enumerate() {
                let contact = format!("sip:x@{writer}");
                let call_id = format!("{writer}");
                let save = register(&call_id, cseq, 1_000_000, vec![binding(&contact, 60)]);
                let save = Save { aor: aor(writer, user).into(), ..save };
                tickets[writer].push(client.submit(Request::Save(Box::new(save))));
            }
        }
    }
    for (client, tickets) in writers.iter().zip(tickets) {
        for (sequence, ticket) in (1..).zip(tickets) {
            let answer = client.answer(ticket);
            let Answer::Save(SaveOutcome::Saved { changed, .. }) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(changed.len(), 1);
            assert_eq!(changed[0].version.sequence, sequence);
        }
    }
    for user in 0..USERS {
        let found = |writer| {
            let aor = aor(writer, user).into();
            match writers[writer].call(Request::Lookup { aor, now_ms: 1_000_000 }) {
                Answer::Found(found) => found.iter().map(|record| record.cseq).collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        };
        let expected = vec![ROUNDS; if user < 20 { 2 } else { 1 }];
        assert_eq!([found(0), found(1)], [expected.clone(), expected], "user {user}");
    }
}
