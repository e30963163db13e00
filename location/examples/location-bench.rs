//! Committed bindings per second of one file, and memory per contact of the replica.
//!
//! `cargo run --release -p dialtone-location --example location-bench -- [FOLDER] [BINDINGS] [OUTSTANDING]`

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use dialtone_location::sqlite::{Config, SqliteStore};
use dialtone_location::{
    Answer, BindingKey, Change, LocationStore, NewBinding, Replica, Request, Save, SaveOutcome,
    StoreEvent, Ticket, WriterId,
};

fn save(user: u64, cseq: u32) -> Save {
    let host = format!("10.{}.{}.{}", user >> 16 & 255, user >> 8 & 255, user & 255);
    let instance = format!("<urn:uuid:00000000-0000-1000-8000-{user:012x}>");
    Save {
        aor: format!("user{user}@dialtone.test").into(),
        call_id: format!("call-{user}@{host}").into(),
        cseq,
        now_ms: 1_700_000_000_000,
        max_bindings: 8,
        evict_oldest: false,
        change: Change::Bindings(vec![NewBinding {
            key: BindingKey::flow(&instance, 1),
            contact: format!("sip:user{user}@{host}:5060;transport=udp").into(),
            params: format!(";+sip.instance=\"{instance}\";reg-id=1").into(),
            q: 1000,
            lifetime: 3600,
            user_agent: "bench".into(),
            received: "".into(),
            path: format!("<sip:AQEAAAB{user:032x}@127.0.0.1:5060;lr;ob>").into(),
            gateway: 1,
            flow_token: format!("AQEAAAB{user:032x}").into(),
            instance: instance.into(),
            reg_id: 1,
        }]),
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let number = |text: Option<String>, default: u64| {
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let bindings = number(args.next(), 100_000);
    let outstanding = number(args.next(), 1_000);
    let path = folder.join(format!("location-bench-{}.db", std::process::id()));
    let (sender, events) = channel();
    let config = Config::new(&path, WriterId(1));
    let store = SqliteStore::open(config, move |batch| drop(sender.send(batch))).expect("open");
    let mut replica = Replica::new();
    for (cseq, what) in [(1, "new"), (2, "refreshed")] {
        let started = Instant::now();
        let commits = store.stats().commits;
        let (mut sent, mut answered) = (0, 0);
        while answered < bindings {
            while sent < bindings && sent - answered < outstanding {
                store
                    .submit(Ticket(sent), Request::Save(Box::new(save(sent, cseq))))
                    .expect("submit");
                sent += 1;
            }
            for event in events.recv().expect("events") {
                if let StoreEvent::Answer {
                    answer: Answer::Save(SaveOutcome::Saved { changed, .. }),
                    ..
                } = event
                {
                    answered += 1;
                    changed.iter().for_each(|record| _ = replica.apply(record));
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{what}: {bindings} bindings in {seconds:.2} s = {:.0}/s, {} commits, {outstanding} outstanding",
            bindings as f64 / seconds,
            store.stats().commits - commits
        );
    }
    let stats = replica.stats();
    println!(
        "replica: {} contacts, {} bytes each",
        stats.contacts,
        stats.bytes / stats.contacts.max(1)
    );
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}
