//! All that one backend holds goes into the other and back, and nothing is lost or added.

mod common;

use std::io::BufReader;
use std::path::{Path, PathBuf};

use common::mariadb::Server;
use common::{Client, Folder, Sqlite, binding, register, remove_all};
use dialtone_location::cli::{Session, StoreArgs};
use dialtone_location::transfer::{self, Counts, Imported};
use dialtone_location::{
    ClaimChange, CredentialChange, Error, NewCredential, Request, Save, SaveOutcome,
};

const NOW: u64 = 1_000_000_000;
const AORS: u64 = 1_200;

fn sqlite(path: &Path) -> StoreArgs {
    StoreArgs {
        store: format!("sqlite:{}", path.display()).parse().expect("a store"),
        credentials: None,
    }
}

fn of(n: u64, save: Save) -> Save {
    Save { aor: format!("us'er{n}@dialtone.test").into(), ..save }
}

fn fill(path: &Path) {
    let client = Client::open(&Sqlite(path.to_owned()), 7);
    let tickets: Vec<_> = (0..AORS)
        .map(|n| {
            let save = register("a", 1, NOW + n, vec![binding(&format!("sip:\"a\\b\"@{n}"), 60)]);
            client.submit(Request::Save(Box::new(of(n, save))))
        })
        .collect();
    tickets.into_iter().for_each(|ticket| _ = client.answer(ticket));
    client.saved(of(1, remove_all("a", 2, NOW + 5_000))).expect("removed");
    client.call(Request::Claim(ClaimChange::Insert {
        name: "room".into(),
        owner: 5,
        lease_until: NOW + 50,
        now_ms: NOW,
    }));
    let user = |user: &str, md5: Option<u8>, sha256: Option<u8>| NewCredential {
        user: user.into(),
        realm: "dialtone.test".into(),
        ha1_md5: md5.map(|byte| [byte; 16]),
        ha1_sha256: sha256.map(|byte| [byte; 32]),
    };
    let users = vec![user("alice", Some(0xab), Some(0x01)), user("bob", None, Some(0x02))];
    client.call(Request::Credentials(CredentialChange::Put(users)));
}

/// The lines in order, since those of a table have none.
fn export(store: &StoreArgs) -> Vec<String> {
    let mut text = Vec::new();
    let mut session = Session::open(store).expect("open");
    let counts = transfer::export(&mut session, &mut text, &mut |_| {}).expect("export");
    // One of the bindings became a removal, and the star is remembered.
    assert_eq!(counts, Counts { bindings: AORS + 1, claims: 1, credentials: 2 });
    let text = String::from_utf8(text).expect("text");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[1..].sort();
    // The end is to be the last one again.
    let end = lines.iter().position(|line| line.contains("\"end\"")).expect("an end");
    let end = lines.remove(end);
    lines.push(end);
    lines
}

fn import(store: &StoreArgs, lines: &[String]) -> Result<Imported, Error> {
    let text = lines.join("\n");
    let mut session = Session::open(store).expect("open");
    transfer::import(
        &mut session,
        &PathBuf::from("all.jsonl"),
        &mut BufReader::new(text.as_bytes()),
        &mut |_| {},
    )
}

#[test]
fn everything_moves_in_both_directions() {
    let Some(server) = Server::start("transfer") else { return };
    let folder = Folder::new("transfer-files");
    let (first, second) = (folder.0.join("first.db"), folder.0.join("second.db"));
    fill(&first);
    let credentials = folder.0.join("client.cnf");
    std::fs::write(&credentials, server.client("moved").to_text()).expect("write");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&credentials, private).expect("chmod");
    let servers = StoreArgs {
        store: format!("mysql:{}", server.address).parse().expect("a store"),
        credentials: Some(credentials),
    };

    let lines = export(&sqlite(&first));
    let total = AORS + 4;
    assert_eq!(import(&servers, &lines).expect("import").written, total);
    assert_eq!(import(&servers, &lines).expect("import").written, 0, "a second time");
    assert_eq!(export(&servers), lines);

    assert_eq!(import(&sqlite(&second), &export(&servers)).expect("import").written, total);
    assert_eq!(export(&sqlite(&second)), lines);

    // What is newer stays, on either side.
    let client = Client::open(&server.database("moved"), 8);
    let newer = register("a", 9, NOW + 90_000, vec![binding("sip:\"a\\b\"@2", 60)]);
    assert!(matches!(client.save(of(2, newer)), SaveOutcome::Saved { .. }));
    drop(client);
    assert_eq!(import(&servers, &lines).expect("import").written, 0);
    let changed = export(&servers);
    assert_ne!(changed, lines);
    assert_eq!(import(&sqlite(&first), &changed).expect("import").written, 1);
    assert_eq!(export(&sqlite(&first)), changed);
}

#[test]
fn a_wrong_line_is_named() {
    let folder = Folder::new("transfer-wrong");
    let (first, second) = (folder.0.join("first.db"), sqlite(&folder.0.join("second.db")));
    fill(&first);
    let lines = export(&sqlite(&first));
    let error = |lines: &[String]| import(&second, lines).expect_err("wrong").to_string();
    let cut = error(&lines[..600]);
    assert!(cut.starts_with("all.jsonl:601: ") && cut.contains("cut off"), "{cut}");
    let mut wrong = lines.clone();
    wrong[700] = "{\"binding\":{\"aor\":7}}".to_owned();
    let wrong = error(&wrong);
    assert!(wrong.starts_with("all.jsonl:701: "), "{wrong}");
    let foreign = error(&lines[1..]);
    assert!(foreign.starts_with("all.jsonl:1: "), "{foreign}");
    let mut short = lines.clone();
    short.remove(5);
    assert!(error(&short).contains("there were"));
    assert!(import(&second, &lines).is_ok(), "the right one afterwards");
}
