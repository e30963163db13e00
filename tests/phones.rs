//! Two real phones on different gateways call each other, over UDP and over TCP, and hear each other; they log in with
//! passwords if they must.

#[path = "support/baresip.rs"]
#[expect(dead_code, reason = "each phone has one call")]
mod baresip;
#[path = "support/linphone.rs"]
mod linphone;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/talk.rs"]
mod talk;
#[path = "support/tone.rs"]
#[expect(dead_code, reason = "phones decode for themselves")]
mod tone;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use baresip::{Account, Baresip};
use dialtone::launcher::wait_for;
use linphone::Linphone;
use netns::{Host, SERVERS};
use talk::{LIMIT, await_tone, with_tone};

#[test]
fn two_phones_hear_each_other() {
    netns::within("two_phones_hear_each_other", |network| {
        if !baresip::is_installed() {
            return;
        }
        let mut launcher = servers::start(0);
        let alice = network.host("alice", Ipv4Addr::new(10, 77, 0, 11));
        let bob = network.host("bob", Ipv4Addr::new(10, 77, 0, 12));
        for transport in ["udp", "tcp"] {
            call(&alice, &bob, transport);
        }
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

#[test]
fn phones_of_different_make_hear_each_other() {
    netns::within("phones_of_different_make_hear_each_other", |network| {
        if !baresip::is_installed() || !linphone::is_installed() {
            return;
        }
        let mut launcher = servers::start(0);
        let bob = network.host("bob", Ipv4Addr::new(10, 77, 0, 12));
        let carol = network.host("carol", Ipv4Addr::new(10, 77, 0, 13));
        let bob = with_tone(&bob, "udp", 5070, 880, Baresip::start);
        let mut carol = with_tone(&carol, "udp", 5060, 440, Linphone::start);
        carol.command("call sip:bob@dialtone.test");
        bob.await_event("CALL_ESTABLISHED");
        carol.await_word("Media streams established");
        await_tone("linphonec", || carol.heard(), 880);
        await_tone("baresip", || bob.heard(), 440);
        carol.command("terminate");
        bob.await_event("CALL_CLOSED");
        carol.await_word("ended (No error)");
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

/// localnet as a newcomer starts it.
struct Localnet {
    process: Child,
    folder: PathBuf,
}

impl Localnet {
    fn start(option: &str) -> Self {
        let folder = env::temp_dir().join(format!("localnet{option}"));
        fs::create_dir_all(&folder).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["localnet", option, "--sip-address", &SERVERS.to_string(), "--data-dir"])
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(folder.join("ready.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let localnet = Self { process, folder };
        let ready = wait_for(LIMIT, || localnet.folder.join("ready.json").exists().then_some(()));
        assert!(ready.is_some(), "{}", localnet.log());
        localnet
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// As it is printed for people.
    fn password(&self, user: &str) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.trim_start().starts_with(&format!("user {user} ")));
        line.unwrap_or_else(|| panic!("{log}")).split(' ').next_back().unwrap().to_owned()
    }

    /// What its proxies have counted together.
    fn counted(&self, result: &str) -> u64 {
        let ready = fs::read(self.folder.join("ready.json")).unwrap();
        let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
        let processes = ready["processes"].as_array().unwrap().iter();
        let proxies = processes.filter(|process| process["role"] == "sip-proxy");
        let name = format!("dialtone_sip_proxy_authentication_total{{result=\"{result}\"}} ");
        proxies
            .map(|proxy| {
                let mut stream =
                    TcpStream::connect(proxy["addresses"]["admin"].as_str().unwrap()).unwrap();
                stream
                    .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                let line = text.lines().find_map(|line| line.strip_prefix(&*name));
                line.unwrap_or("0").parse::<u64>().unwrap()
            })
            .sum()
    }
}

impl Drop for Localnet {
    fn drop(&mut self) {
        // What it started ends with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

#[test]
fn phones_of_different_make_log_in_and_call_each_other() {
    netns::within("phones_of_different_make_log_in_and_call_each_other", |network| {
        if !baresip::is_installed() || !linphone::is_installed() {
            return;
        }
        let alice = network.host("alice", Ipv4Addr::new(10, 77, 0, 11));
        let carol = network.host("carol", Ipv4Addr::new(10, 77, 0, 13));
        // baresip 1.0 gives up when it sees SHA-256.
        let localnet = Localnet::start("--auth=MD5");
        let (one, two) = (localnet.password("alice"), localnet.password("carol"));
        let account = |user, password, port| Account {
            user,
            password,
            gateway: SocketAddr::from((SERVERS, port)),
            transport: "udp",
            tone: None,
        };
        let folder = |name: &str| env::temp_dir().join("login").join(name);
        fs::create_dir_all(folder("carol")).unwrap();
        let mut a = Baresip::start(&folder("alice"), &alice, &account("alice", &one, 5060));
        let mut c = Linphone::start(&folder("carol"), &carol, &account("carol", &two, 5070));
        c.command("call sip:alice@dialtone.test");
        a.await_event("CALL_ESTABLISHED");
        c.await_word("Media streams established");
        a.command("hangup", "");
        a.await_event("CALL_CLOSED");
        c.await_word("ended (No error)");
        drop((a, c, localnet));

        // The other way round, with everything that there is.
        let localnet = Localnet::start("--auth");
        let password = localnet.password("carol");
        let c = Linphone::start(&folder("carol2"), &carol, &account("carol", &password, 5060));
        // Proxies count once a second.
        let counted = wait_for(LIMIT, || (localnet.counted("accepted-sha-256") > 0).then_some(()));
        assert!(counted.is_some(), "linphone logs in with SHA-256");
        assert_eq!(localnet.counted("accepted-md5"), 0);
        drop((c, localnet));
    });
}

fn call(alice: &Host, bob: &Host, transport: &str) {
    let mut a = with_tone(alice, transport, 5060, 440, Baresip::start);
    let b = with_tone(bob, transport, 5070, 880, Baresip::start);
    a.command("dial", "sip:bob@dialtone.test");
    for (listener, phone, hertz) in [("alice", &a, 880), ("bob", &b, 440)] {
        phone.await_event("CALL_ESTABLISHED");
        await_tone(&format!("{listener} over {transport}"), || phone.heard(), hertz);
    }
    a.command("hangup", "");
    for phone in [a, b] {
        phone.await_event("CALL_CLOSED");
    }
}
