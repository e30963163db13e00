//! Files: foreign, damaged, unusable ones; processes that share one; what stands on the disk before an answer.

mod common;

use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Client, Folder, Sqlite, binding, open_sqlite, register};
use dialtone_location::{Error, Replica, Request, Save, StoreEvent, WriterId, sqlite};

#[test]
fn what_is_not_ours_is_refused_by_name_and_left_alone() {
    let folder = Folder::new("foreign");
    let path = folder.0.join("other.db");
    let other = rusqlite::Connection::open(&path).expect("open");
    other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);").expect("fill");
    drop(other);
    let before = std::fs::read(&path).expect("read");
    let refused = |path| open_sqlite(path, WriterId(1), |_| {}).expect_err("refused");
    let error = refused(&path);
    assert!(
        matches!(error, Error::Foreign { .. }) && error.to_string().contains("other.db"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).expect("read"), before);

    let text = folder.0.join("notes.txt");
    std::fs::write(&text, "not a database at all, but long enough to be looked at\n".repeat(20))
        .expect("write");
    let error = refused(&text);
    assert!(
        matches!(error, Error::Damaged { .. }) && error.to_string().contains("notes.txt"),
        "{error}"
    );

    let missing = folder.0.join("no/such/folder/location.db");
    assert!(refused(&missing).to_string().contains("no/such/folder"));

    let newer = folder.0.join("newer.db");
    drop(open_sqlite(&newer, WriterId(1), |_| {}).expect("make"));
    rusqlite::Connection::open(&newer)
        .and_then(|file| file.pragma_update(None, "user_version", 99))
        .expect("bump");
    assert!(matches!(refused(&newer), Error::Version { found: 99, .. }));

    let mode = std::fs::metadata(&newer).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "hashes of passwords are nobody else's business");
    assert!(sqlite::check(&folder.0.join("absent.db")).is_err());
    assert!(!folder.0.join("absent.db").exists());
}

/// What version 1 of the schema made, as far as it matters here.
const VERSION_1: &str = "
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY, aor TEXT NOT NULL, key TEXT NOT NULL, contact TEXT NOT NULL, params TEXT NOT NULL,
    q INTEGER NOT NULL, expires_at INTEGER NOT NULL, lifetime INTEGER NOT NULL, call_id TEXT NOT NULL,
    cseq INTEGER NOT NULL, user_agent TEXT NOT NULL, received TEXT NOT NULL, path TEXT NOT NULL,
    gateway INTEGER NOT NULL, flow_token TEXT NOT NULL, instance TEXT NOT NULL, reg_id INTEGER NOT NULL,
    writer INTEGER NOT NULL, sequence INTEGER NOT NULL, changed_at INTEGER NOT NULL, deleted_at INTEGER,
    purge_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX bindings_key ON bindings (aor, key);
CREATE UNIQUE INDEX bindings_changes ON bindings (writer, sequence);
CREATE INDEX bindings_purge ON bindings (purge_at);
CREATE TABLE writers (id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL) STRICT;
CREATE TABLE claims (
    name TEXT PRIMARY KEY, owner INTEGER NOT NULL, generation INTEGER NOT NULL, lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE credentials (
    user TEXT NOT NULL, realm TEXT NOT NULL, ha1_md5 TEXT NOT NULL, ha1_sha256 TEXT NOT NULL,
    PRIMARY KEY (user, realm)
) STRICT, WITHOUT ROWID;
INSERT INTO bindings (aor, key, contact, params, q, expires_at, lifetime, call_id, cseq, user_agent, received, path,
    gateway, flow_token, instance, reg_id, writer, sequence, changed_at, purge_at)
    VALUES ('alice@dialtone.test', 'csip:a@1', 'sip:a@1', '', 1000, 2000000, 60, 'c', 1, '', '', '', 0, '', '', 0,
    1, 1, 1000000, 2040000);
INSERT INTO writers VALUES (1, 1);
PRAGMA application_id = 0x4469614C;
PRAGMA user_version = 1;
";

#[test]
fn a_file_of_the_former_version_is_brought_up_to_date() {
    let folder = Folder::new("version1");
    let path = folder.0.join("location.db");
    rusqlite::Connection::open(&path).and_then(|file| file.execute_batch(VERSION_1)).expect("make");
    sqlite::check(&path).expect("usable before anybody writes to it");
    let backend = Sqlite(path);
    let one = Client::open(&backend, 1);
    one.await_replica("alice@dialtone.test", 1_000_001, &["sip:a@1"]);
    let new = dialtone_location::NewCredential {
        user: "alice".into(),
        realm: "dialtone.test".into(),
        ha1_md5: Some([1; 16]),
        ha1_sha256: Some([2; 32]),
    };
    one.change_users(dialtone_location::CredentialChange::Put(vec![new]));
    one.await_user("alice", "dialtone.test", Some(1));
    drop(one);
    let again = Client::open(&backend, 1);
    again.await_user("alice", "dialtone.test", Some(1));
    again.await_replica("alice@dialtone.test", 1_000_001, &["sip:a@1"]);
}

#[test]
fn whoever_comes_while_a_file_is_made_is_let_in() {
    let folder = Folder::new("together");
    for round in 0..40 {
        let path = folder.0.join(format!("location{round}.db"));
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for writer in 1..=4 {
                let (path, start) = (&path, &start);
                scope.spawn(move || {
                    start.wait();
                    open_sqlite(path, WriterId(writer), |_| {}).map(drop).expect("open")
                });
            }
        });
    }
}

#[test]
fn two_writers_at_full_speed_lose_and_refuse_nothing() {
    const EACH: u32 = 1_500;
    let folder = Folder::new("sharing");
    let backend = Sqlite(folder.0.join("location.db"));
    let threads: Vec<_> = (1..=2)
        .map(|writer| {
            let backend = Sqlite(backend.0.clone());
            std::thread::spawn(move || {
                let client = Client::open(&backend, writer);
                let tickets: Vec<_> = (0..EACH)
                    .map(|n| {
                        let mut save = register("x", 1, 1_000_000, vec![binding("sip:x@1", 60)]);
                        save.aor = format!("user{n}.{writer}@dialtone.test").into();
                        let ticket = client.submit(Request::Save(Box::new(save)));
                        // Small groups, so that the two really alternate.
                        if n % 50 == 49 {
                            client.answer(ticket);
                            None
                        } else {
                            Some(ticket)
                        }
                    })
                    .collect();
                for ticket in tickets.into_iter().flatten() {
                    let answer = client.answer(ticket);
                    assert!(matches!(answer, dialtone_location::Answer::Save(_)), "{answer:?}");
                }
                let other = 3 - writer;
                client.await_replica(
                    &format!("user{}.{other}@dialtone.test", EACH - 1),
                    1_000_001,
                    &["sip:x@1"],
                );
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("writer"));
    let count: u32 = rusqlite::Connection::open(&backend.0)
        .and_then(|file| {
            file.query_row("SELECT count(*) FROM bindings WHERE deleted_at IS NULL", [], |row| {
                row.get(0)
            })
        })
        .expect("count");
    assert_eq!(count, 2 * EACH);
}

/// A reader that finds out that it has missed changes is told what is there, and drops the rest.
#[test]
fn a_removal_that_was_forgotten_meanwhile_is_noticed() {
    let folder = Folder::new("missed");
    let path = folder.0.join("location.db");
    let client = Client::open(&Sqlite(path.clone()), 1);
    let kept = register("k", 1, 1_000_000, vec![binding("sip:kept@1", 600)]);
    client.save(Save { aor: "kept@dialtone.test".into(), ..kept });
    client.save(register("a", 1, 1_000_000, vec![binding("sip:a@1", 600)]));

    let (sender, events) = channel();
    // Every pause between two looks is too long for it.
    let config =
        sqlite::Config { missed_after: Duration::ZERO, ..sqlite::Config::new(&path, WriterId(2)) };
    let _store =
        sqlite::SqliteStore::open(config, move |batch| _ = sender.send(batch)).expect("open");
    let mut replica = Replica::new();
    let mut reloads = 0;
    let mut next = |replica: &mut Replica| {
        let batch = events.recv_timeout(Duration::from_secs(20)).expect("an event");
        for event in batch {
            match event {
                StoreEvent::Reloading => {
                    reloads += 1;
                    replica.begin_reload(u64::MAX);
                }
                StoreEvent::Loaded => replica.end_reload(),
                // The removal itself goes unheard.
                StoreEvent::Changes(records) => records
                    .iter()
                    .filter(|record| record.deleted_at.is_none())
                    .for_each(|record| _ = replica.apply(record)),
                other => panic!("{other:?}"),
            }
        }
        reloads
    };
    while !replica.is_known("alice@dialtone.test") || !replica.is_known("kept@dialtone.test") {
        next(&mut replica);
    }
    client.save(register("a", 2, 1_000_001, vec![binding("sip:a@1", 0)]));
    let mut reloaded = 0;
    while reloaded == 0 || replica.is_known("alice@dialtone.test") {
        reloaded = next(&mut replica);
        (0..256).for_each(|_| replica.sweep(1_000_002));
    }
    assert!(replica.is_known("kept@dialtone.test"));
}

const TRACED: &str = "DIALTONE_LOCATION_TRACED";

/// Runs under strace: says on stderr what it submits and what is answered, at the moment of the answer; each in one
/// system call.
#[test]
fn traced_saves() {
    let Ok(path) = std::env::var(TRACED) else { return };
    let (sender, answers) = channel();
    let store = open_sqlite(path.as_ref(), WriterId(1), move |batch| {
        for event in batch {
            if let dialtone_location::StoreEvent::Answer { ticket, .. } = event {
                let _ = std::io::stderr().write_all(format!("@answer {}@", ticket.0).as_bytes());
                let _ = sender.send(ticket);
            }
        }
    })
    .expect("open");
    for ticket in 0..40u64 {
        let save = register("x", ticket as u32, 1_000_000, vec![binding("sip:x@1", 60)]);
        let _ = std::io::stderr().write_all(format!("@submit {ticket}@").as_bytes());
        let submitted = dialtone_location::LocationStore::submit(
            &store,
            dialtone_location::Ticket(ticket),
            Request::Save(Box::new(save)),
        );
        assert_eq!(submitted, Ok(()));
        // Some alone, some in groups.
        if ticket % 8 < 4 {
            answers.recv().expect("answer");
        }
    }
}

#[test]
fn an_fsync_returns_between_a_save_and_its_answer() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is needed in CI");
        println!("skipped: strace not installed");
        return;
    }
    let folder = Folder::new("fsync");
    let trace = folder.0.join("trace");
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync,write", "-e", "signal=none", "-s", "64", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "traced_saves", "--nocapture"])
        .env(TRACED, folder.0.join("location.db"))
        .output()
        .expect("strace");
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("ptrace") {
        assert!(std::env::var_os("CI").is_none(), "strace must be allowed to trace in CI");
        println!("skipped: strace is not allowed here");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Lines are in the order in which calls return, or start if they are short.
    let lines = std::io::BufReader::new(std::fs::File::open(&trace).expect("trace")).lines();
    let (mut syncs, mut answered, mut submitted_at) = (0u32, 0, std::collections::HashMap::new());
    for line in lines.map_while(Result::ok) {
        let number = |word: &str| -> Option<u64> {
            line.split(word).nth(1)?.split('@').next()?.parse().ok()
        };
        if line.contains("sync") && line.ends_with("= 0") {
            syncs += 1;
        } else if let Some(ticket) = number("@submit ") {
            submitted_at.insert(ticket, syncs);
        } else if let Some(ticket) = number("@answer ") {
            answered += 1;
            assert!(
                syncs > submitted_at[&ticket],
                "answer {ticket} came before any fsync:\n{line}"
            );
        }
    }
    assert_eq!(answered, 40);
    println!("40 saves, {syncs} fsyncs, each answer after one");
}
