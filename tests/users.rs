//! Users and their passwords: the command that keeps them, phones that log in by them, nonces that outlive their proxy.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use dialtone::launcher::{Launcher, Layout, Signal, wait_for};
use dialtone_sip::digest::Challenge;
use nix::pty::openpty;
use sip::{LIMIT, Phone, Sip};

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");

const CTRL_C: char = '\u{3}';

/// A database, in a folder that goes with the test.
struct Store {
    folder: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    said: String,
    complained: String,
}

impl Store {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dialtone-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        dialtone_location::sqlite::create(&folder.join("location.db")).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn user(&self, arguments: &[&str], input: &str) -> Ended {
        user(&self.folder.join("location.db"), arguments, input)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `dialtone user`, given this to read.
fn user(database: &Path, arguments: &[&str], input: &str) -> Ended {
    let mut process = Command::new(BINARY)
        .arg("user")
        .args(arguments)
        .arg(format!("--store=sqlite:{}", database.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Not everybody reads it.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let output = process.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        said: String::from_utf8(output.stdout).unwrap(),
        complained: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn users_are_added_listed_replaced_and_removed() {
    let store = Store::new("users");
    let realm = ["--realm", "dialtone.test"];
    let first = store.user(&["add", "alice"], "secret\n");
    assert_eq!(first.code, 64, "nobody knows the realm: {first:?}");
    assert!(first.complained.contains("--realm"), "{first:?}");
    let added = store.user(&["add", "alice", realm[0], realm[1]], "secret\nmore\n");
    assert_eq!((added.code, &*added.said), (0, "user alice added in realm dialtone.test\n"));
    // From now on the realm is known.
    let file = store.file("password", "pass word\n");
    let bob = store.user(&["add", "bob", "--password-file", &file], "");
    assert_eq!((bob.code, &*bob.said), (0, "user bob added in realm dialtone.test\n"));
    let again = store.user(&["add", "alice"], "other");
    assert_eq!(&*again.said, "user alice replaced in realm dialtone.test\n");
    for (arguments, input, complaint) in [
        (&["add", "carol"][..], "\n", "the password is empty"),
        (&["add", "carol@dialtone.test"], "x", "only the part before the @"),
        (&["add", "carol", "--password-file", "/nonexistent"], "", "/nonexistent: No such file"),
        (&["add", "carol", "--password", "x"], "", "--password"),
        (&["import", "/nonexistent"], "", "/nonexistent: No such file"),
    ] {
        let refused = store.user(arguments, input);
        assert!(refused.code == 64 && refused.complained.contains(complaint), "{refused:?}");
    }

    let hash = "0123456789abcdef".repeat(2);
    let list = store.file(
        "list.csv",
        format!("user,password\nalice,third\ncarol,\"fo,ur\"\ndave:dialtone.test:{hash}{hash}\nerin:other:{hash}\n"),
    );
    let imported = store.user(&["import", &list], "");
    assert_eq!(
        (imported.code, &*imported.said),
        (0, "3 users added, 1 replaced; 3 with a SHA-256 hash, 3 with an MD5 hash\n"),
        "{imported:?}"
    );
    // By realm: phones see what they are offered there, not what a single user has.
    let warnings = "warning: 1 of 4 users of realm dialtone.test have no MD5 hash: proxies offer SHA-256 only, to all; a \
                    phone that knows no SHA-256 is kept out\n\
                    warning: 1 of 1 users of realm other have no SHA-256 hash: proxies offer MD5 only, to all; a phone \
                    that knows no MD5 is kept out\n";
    assert_eq!(imported.complained, warnings);
    let broken = store.file("broken.csv", "frank,x\ngrace\n");
    let broken = store.user(&["import", &broken, realm[0], realm[1]], "");
    assert!(broken.code == 64 && broken.complained.contains("broken.csv:2: "), "{broken:?}");
    let listed = store.user(&["list"], "");
    let expected = "USER   REALM          HASHES\n\
                    alice  dialtone.test  SHA-256 MD5\n\
                    bob    dialtone.test  SHA-256 MD5\n\
                    carol  dialtone.test  SHA-256 MD5\n\
                    dave   dialtone.test  SHA-256\n\
                    erin   other          MD5\n";
    assert_eq!((&*listed.said, &*listed.complained), (expected, warnings));
    let ambiguous = store.user(&["remove", "bob"], "");
    assert!(ambiguous.complained.contains("dialtone.test, other"), "{ambiguous:?}");
    let removed = store.user(&["remove", "bob", realm[0], realm[1]], "");
    assert_eq!((removed.code, &*removed.said), (0, "user bob removed from realm dialtone.test\n"));
    let nobody = store.user(&["remove", "bob", realm[0], realm[1]], "");
    assert_eq!(
        (nobody.code, &*nobody.complained),
        (1, "there is no user bob in realm dialtone.test\n")
    );
    let json = store.user(&["list", "--json", "--realm", "other"], "");
    let json: serde_json::Value = serde_json::from_str(&json.said).unwrap();
    let erin = serde_json::json!([{ "user": "erin", "realm": "other", "algorithms": ["MD5"] }]);
    assert_eq!(json, erin);
    // No password and no whole hash is in what anybody can read, nor in the database.
    let database: Vec<u8> = ["location.db", "location.db-wal"]
        .iter()
        .flat_map(|name| fs::read(store.folder.join(name)).unwrap_or_default())
        .collect();
    for password in ["secret", "pass word", "third", "fo,ur"] {
        assert!(!database.windows(password.len()).any(|part| part == password.as_bytes()));
    }
    // A mistyped name makes no database.
    let missing = user(&store.folder.join("typo.db"), &["list"], "");
    assert!(missing.code == 64 && missing.complained.contains("typo.db"), "{missing:?}");
    assert!(!store.folder.join("typo.db").exists());
}

#[test]
fn a_terminal_does_not_show_the_password() {
    let store = Store::new("terminal");
    let run = |typed: &str| {
        let terminal = openpty(None, None).unwrap();
        let process = Command::new(BINARY)
            .args(["user", "add", "alice", "--realm=dialtone.test"])
            .arg(format!("--store=sqlite:{}", store.folder.join("location.db").display()))
            .stdin(terminal.slave.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(terminal.slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        drop(terminal.slave);
        let mut keyboard = fs::File::from(terminal.master.try_clone().unwrap());
        let (screen, reader) = shown_on(terminal.master);
        // What is typed before it is asked for would be shown, and thrown away.
        for (line, prompt) in typed.lines().zip(["Password of alice: ", "Again: "]) {
            let seen = wait_for(LIMIT, || screen.lock().unwrap().contains(prompt).then_some(()));
            assert!(seen.is_some(), "{:?}", screen.lock().unwrap());
            keyboard.write_all(line.as_bytes()).unwrap();
            if !line.ends_with(CTRL_C) {
                keyboard.write_all(b"\n").unwrap();
            }
        }
        let output = process.wait_with_output().unwrap();
        reader.join().unwrap();
        let shown = screen.lock().unwrap().clone();
        (String::from_utf8(output.stdout).unwrap(), shown)
    };
    let (said, shown) = run("swordfish\nswordfisk\n");
    assert!(said.is_empty() && !shown.contains("swordfi"), "{said:?} {shown:?}");
    assert_eq!(store.user(&["list"], "").said.lines().count(), 1, "nobody was added");
    let (said, shown) = run(&format!("sword{CTRL_C}\n"));
    assert!(said.is_empty() && shown.contains("interrupted"), "{said:?} {shown:?}");
    let (said, shown) = run("swordfish\nswordfish\n");
    assert_eq!(said, "user alice added in realm dialtone.test\n", "{shown:?}");
    assert!(!shown.contains("swordfish"), "{shown:?}");
}

/// What a terminal shows, as it comes; it ends when nobody has the other side open any more.
fn shown_on(terminal: OwnedFd) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let screen = Arc::<Mutex<String>>::default();
    let copy = Arc::clone(&screen);
    let reader = thread::spawn(move || {
        let mut terminal = fs::File::from(terminal);
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            copy.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    });
    (screen, reader)
}

/// Servers that ask for passwords: everything but the proxies.
fn start(algorithms: &[&str]) -> Launcher {
    let auth = Some(algorithms.iter().map(|name| (*name).to_owned()).collect());
    let layout = Layout { registrars: 1, auth, ..Layout::default() };
    let mut launcher = Launcher::for_test(BINARY, layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names =
        [launcher.spawn_location_db(), launcher.spawn_gateway(1), launcher.spawn_gateway(2)];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    launcher
}

fn database(launcher: &Launcher) -> PathBuf {
    launcher.folder().join("location/location.db")
}

/// `dialtone load`, which runs for some seconds.
struct Load(Child);

fn load(launcher: &Launcher, password: &str, options: &[&str]) -> Load {
    let edge = |n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n)).to_string();
    let process = Command::new(BINARY)
        .args(["load", "--gateway", &edge(1), "--gateway", &edge(2), "--password", password])
        .args(["--source", &launcher.slice().host(200).to_string()])
        .args(["--users", "20", "--callers", "10", "--hold", "0.1", "--ring", "0.2"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    Load(process.unwrap())
}

impl Load {
    /// Whether nothing failed, and what it says in the end.
    fn seen(mut self) -> (bool, String) {
        let mut report = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        (self.0.wait().unwrap().success(), report)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests that a proxy has sent on, counted once a second.
fn forwarded(launcher: &mut Launcher, proxy: &str) -> u64 {
    let address = launcher.addresses(proxy).unwrap()["admin"].clone();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix("dialtone_sip_proxy_forwarded_total "));
    line.unwrap_or("0").parse().unwrap()
}

#[test]
fn phones_call_each_other_with_passwords_and_not_without() {
    let mut launcher = start(&["SHA-256", "MD5"]);
    for name in [launcher.spawn_proxy(1), launcher.spawn_proxy(2)] {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    let callees = (0..20).map(|n| format!("u{n},secret\n"));
    let callers = (0..10).map(|n| format!("ucaller{n},secret\n"));
    let list: String = callees.chain(callers).collect();
    let imported = user(&database(&launcher), &["import", "-", "--realm=dialtone.test"], &list);
    assert_eq!(
        imported.said, "30 users added, 0 replaced; 30 with a SHA-256 hash, 30 with an MD5 hash\n",
        "{imported:?}"
    );
    for transport in ["udp", "tcp"] {
        let options = ["--transport", transport, "--rate", "20", "--duration", "2"];
        let (clean, report) = load(&launcher, "secret", &options).seen();
        assert!(clean, "{report}");
    }
    // What was sent to a proxy that dies comes again with the same nonce and count.
    let calls = ["--rate", "40", "--duration", "4"];
    let running = load(&launcher, "secret", &calls);
    let before = forwarded(&mut launcher, "sip-proxy-1");
    let busy =
        wait_for(LIMIT, || (forwarded(&mut launcher, "sip-proxy-1") > before + 30).then_some(()));
    assert!(busy.is_some(), "no calls");
    launcher.kill("sip-proxy-1", Signal::SIGKILL).unwrap();
    let (clean, report) = running.seen();
    assert!(clean, "{report}");
    let (clean, report) = load(&launcher, "guess", &["--rate", "0"]).seen();
    assert!(!clean && report.contains("REGISTER answered 401"), "{report}");
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}

#[test]
fn sipp_logs_in_with_the_right_password() {
    if Command::new("sipp").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        assert!(std::env::var_os("CI").is_none(), "sipp is needed in CI");
        println!("skipped: sipp not installed");
        return;
    }
    // SIPp 3.6 knows no other algorithm, and gives up when it sees one.
    let mut launcher = start(&["MD5"]);
    launcher.start_proxy(1).unwrap();
    let list: String = (0..20).map(|n| format!("user{n},secret{n}\n")).collect();
    let imported = user(&database(&launcher), &["import", "-", "--realm=dialtone.test"], &list);
    assert_eq!(imported.code, 0, "{imported:?}");
    let gateway = launcher.layout().edge(1, launcher.slice().host(21));
    let scenario = format!("{}/tests/sipp/login.xml", env!("CARGO_MANIFEST_DIR"));
    let folder = launcher.folder().to_owned();
    let sipp = |password: &str| {
        let line =
            |n| format!("user{n};[authentication username=user{n} password={password}{n}]\n");
        let users: String = (0..20).map(line).collect();
        fs::write(folder.join("users.csv"), format!("SEQUENTIAL\n{users}")).unwrap();
        let ended = Command::new("sipp")
            .arg(gateway.to_string())
            .args(["-sf", &scenario, "-inf", "users.csv", "-t", "u1", "-m", "20", "-r", "100"])
            .args(["-i", &launcher.slice().host(200).to_string(), "-nostdin", "-timeout", "20"])
            .args(["-trace_stat", "-stf", "statistics.csv", "-fd", "1"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let counts = fs::read_to_string(folder.join("statistics.csv")).unwrap();
        let of = |line: Option<&str>| -> Vec<String> {
            line.unwrap_or_default().split(';').map(str::to_owned).collect()
        };
        let (names, values) = (of(counts.lines().next()), of(counts.lines().next_back()));
        let count = |name: &str| {
            let at = names.iter().position(|other| other == name).unwrap();
            values[at].parse::<u32>().unwrap()
        };
        (ended.code(), count("SuccessfulCall(C)"), count("FailedCall(C)"))
    };
    assert_eq!(sipp("secret"), (Some(0), 20, 0));
    assert_eq!(sipp("guess"), (Some(1), 0, 20));
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}

#[test]
fn a_nonce_outlives_the_proxy_that_gave_it() {
    let mut launcher = start(&["SHA-256", "MD5"]);
    launcher.start_proxy(1).unwrap();
    let added = user(&database(&launcher), &["add", "alice", "--realm=dialtone.test"], "secret");
    assert_eq!(added.code, 0, "{added:?}");
    let gateway = launcher.layout().edge(1, launcher.slice().host(21));
    let socket = UdpSocket::bind((launcher.slice().host(200), 0)).unwrap();
    let mut phone = Phone::new("alice", socket, gateway);
    let asked = ask(&mut phone, None);
    assert_eq!(asked.status(), 401);
    assert_eq!(asked.lines("WWW-Authenticate").len(), 2);
    let nonce = asked.value("WWW-Authenticate").to_owned();
    launcher.start_proxy(2).unwrap();
    launcher.kill("sip-proxy-1", Signal::SIGKILL).unwrap();
    // The second one reads the users before it is in service.
    let wrong = ask(&mut phone, Some((&nonce, "guess")));
    assert_eq!(wrong.status(), 401);
    let right = ask(&mut phone, Some((&nonce, "secret")));
    assert_eq!(right.status(), 200, "{}", right.start());
    let elsewhere = phone.user.clone();
    phone.user = "bob".to_owned();
    let stolen = ask_as(&mut phone, &elsewhere, Some((&nonce, "secret")));
    assert_eq!(stolen.status(), 403, "{}", stolen.start());
}

fn ask(phone: &mut Phone, login: Option<(&str, &str)>) -> Sip {
    let user = phone.user.clone();
    ask_as(phone, &user, login)
}

/// Registers, if need be with an answer to this challenge; the final answer.
fn ask_as(phone: &mut Phone, user: &str, login: Option<(&str, &str)>) -> Sip {
    let uri = "sip:dialtone.test";
    let nc = fastrand::u32(1..);
    let authorization = login.map(|(challenge, password)| {
        let challenge = Challenge::parse(challenge).unwrap();
        let answer = challenge.answer(user, password, "REGISTER", uri, nc, "c0ffee");
        format!("Authorization: {answer}\r\n")
    });
    let headers = format!(
        "Contact: <sip:{}@{}>\r\n{}",
        phone.user,
        phone.local,
        authorization.unwrap_or_default()
    );
    let to = format!("To: <sip:{}@dialtone.test>", phone.user);
    let text =
        phone.request("REGISTER", uri, &headers, "").replacen("To: <sip:dialtone.test>", &to, 1);
    phone.ask(&text)
}
