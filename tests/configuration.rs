//! Wrong configuration of each daemon, as an operator meets it: refused with file, line, key and what would be right.
//! What cannot be had (a port in use, a folder that cannot be written) is named with its key.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use dialtone::launcher::Slice;

/// Wrong values in the file or on the command line.
const WRONG: i32 = 64;
/// A port that is not to be had.
const UNAVAILABLE: i32 = 69;
/// A file or folder that cannot be written.
const CANT_CREATE: i32 = 73;

/// The files of all daemons: the shipped examples in a slice and a folder of their own.
struct Files {
    folder: PathBuf,
    slice: Slice,
}

impl Files {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir()
            .join(format!("dialtone-configuration-{test}-{}", std::process::id()));
        fs::create_dir_all(folder.join("location")).unwrap();
        Self { folder, slice: Slice::any_free().unwrap() }
    }

    fn address(&self, host: u8) -> String {
        self.slice.host(host).to_string()
    }

    /// The example of a daemon with all its comments, so that line numbers are those of the shipped file.
    fn example(&self, daemon: &str) -> String {
        let path = format!("{}/packaging/examples/{daemon}.toml", env!("CARGO_MANIFEST_DIR"));
        let here = self.address(0);
        fs::read_to_string(path)
            .unwrap()
            .replace("127.0.0.", here.strip_suffix('0').unwrap())
            .replace("/var/lib/dialtone", self.folder.to_str().unwrap())
            // Empty sections are as good as none, but for this one: half a secure mode is refused.
            .replace("\n#[", "\n[")
            .replace("\n[tls", "\n#[tls")
    }

    /// Starts a daemon with this file, which it must refuse.
    fn refused(&self, daemon: &str, text: &[u8], code: i32, expected: &[&str]) {
        let path = self.folder.join(format!("{daemon}.toml"));
        fs::write(&path, text).unwrap();
        self.refused_at(daemon, &path, code, expected);
    }

    fn refused_at(&self, daemon: &str, path: &Path, code: i32, expected: &[&str]) {
        refuses(&[daemon, "--config", path.to_str().unwrap()], code, expected);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs the program; it must end with this code and say all of this.
fn refuses(arguments: &[&str], code: i32, expected: &[&str]) {
    // What is not refused is ended after a while, with another code.
    let output = Command::new("timeout")
        .arg("20")
        .arg(env!("CARGO_BIN_EXE_dialtone"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for expected in expected {
        assert!(text.contains(expected), "{arguments:?}: no {expected:?} in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// Where `line` stands in `text`, from 1.
fn line_of(text: &str, line: &str) -> usize {
    1 + text
        .lines()
        .position(|found| found == line)
        .unwrap_or_else(|| panic!("no {line:?} in {text}"))
}

#[test]
fn wrong_values_are_named_by_file_line_and_key() {
    let files = Files::new("values");
    // Daemon, a line of its example, what stands there instead, the key, what would be right.
    let table = [
        ("registrar-ns", "name =", "nmae = \"x\"", "nmae", "did you mean name?"),
        ("registrar-ns", "address =", "address = 7", "address", "use "),
        ("registrar-ns", "address =", "address = \"here\"", "address", "use an address such as"),
        (
            "registrar-ns",
            "address =",
            "address = \"0.0.0.0\"",
            "address",
            "use the address that peers",
        ),
        ("registrar-ns", "peers =", "peers = \"127.0.0.1\"", "peers", "use an array"),
        ("registrar-ns", "peers =", "peers = [\"localhost\"]", "peers", "IP:UDP-PORT"),
        ("registrar-ns", "peers =", "port = 0", "port", "use 9899"),
        ("registrar-ns", "peers =", "port = 70000", "port", "an integer from 0 to 65535"),
        ("registrar-ns", "peers =", "profile = \"fast\"", "profile", "telephony"),
        ("registrar-ns", "peers =", "server_id = \"0\"", "server_id", "not 0"),
        ("registrar-ns", "peers =", "max_elements = 0", "max_elements", "use 1 to 10000000"),
        ("registrar-ns", "peers =", "announce = \"yes\"", "announce", "use true or false"),
        ("registrar-ns", "#push_ms =", "push_ms = 1", "timers.push_ms", "use 10 to 3600000"),
        ("registrar-ns", "#push_ms =", "pull_ms = 1", "timers.pull_ms", "push_ms"),
        ("sip-gateway", "core =", "coer = \"x\"", "coer", "did you mean core?"),
        ("sip-gateway", "core =", "core = 5060", "core", "use "),
        ("sip-gateway", "core =", "core = \"127.0.0.1\"", "core", "use ADDRESS:PORT such as"),
        (
            "sip-gateway",
            "core =",
            "core = \"0.0.0.0:5060\"",
            "core",
            "name the address that proxies reach",
        ),
        ("sip-gateway", "registrars =", "registrars = []", "registrars", "name at least one"),
        (
            "sip-gateway",
            "registrars =",
            "registrars = [\"x\"]",
            "registrars[0]",
            "use [sctp:|tcp:]ADDRESS[:PORT]",
        ),
        ("sip-gateway", "name =", "choice = \"random\"", "choice", "policy"),
        ("sip-gateway", "name =", "wait_ms = 10001", "wait_ms", "use 0 to 10000"),
        ("sip-gateway", "name =", "wait_ms = -1", "wait_ms", "an integer from 0"),
        ("sip-gateway", "name =", "keep_alive_s = 1", "keep_alive_s", "use 5 to 600"),
        ("sip-gateway", "#message =", "message = 1", "limits.message", "use 4096 to 1000000"),
        ("sip-gateway", "#message =", "mesage = 1", "limits.mesage", "did you mean message?"),
        ("sip-gateway", "[limits]", "limits = 1", "limits", "use a section"),
        ("sip-proxy", "domains =", "domain = []", "domain", "did you mean domains?"),
        (
            "sip-proxy",
            "domains =",
            "domains = []",
            "domains",
            "name the domain of your users first",
        ),
        ("sip-proxy", "domains =", "domains = [\"a b\"]", "domains[0]", "use a name or an address"),
        ("sip-proxy", "domains =", "domains = [7]", "domains[0]", "use a string in quotes"),
        (
            "sip-proxy",
            "address =",
            "address = \"::\"",
            "address",
            "name one address of this machine",
        ),
        (
            "sip-proxy",
            "location_dir =",
            "location_dir = \"x\"",
            "location_dir",
            "use an absolute path",
        ),
        (
            "sip-proxy",
            "registrars =",
            "registrars = [\"nowhere\"]",
            "registrars[0]",
            "use IP, IP:UDP-PORT or tcp:IP",
        ),
        (
            "sip-proxy",
            "#min_expires =",
            "min_expires = 0",
            "registration.min_expires",
            "use 1 to 3600",
        ),
        (
            "sip-proxy",
            "#max_expires =",
            "max_expires = 9999999",
            "registration.max_expires",
            "use 60 to 2592000",
        ),
        ("sip-proxy", "#udp =", "udp = \"5060\"", "edge.udp", "use ADDRESS:PORT such as"),
        ("sip-proxy", "#udp =", "upd = \"\"", "edge.upd", "did you mean udp?"),
        ("media-relay", "control =", "contrl = \"x\"", "contrl", "did you mean control?"),
        ("media-relay", "control =", "control = \"127.0.0.81\"", "control", "use ADDRESS:PORT"),
        ("media-relay", "ipv4 =", "ipv4 = \"0.0.0.0\"", "interface[0].ipv4", "name one address"),
        ("media-relay", "ipv4 =", "ipv4 = \"::1\"", "interface[0].ipv4", "use an address"),
        ("media-relay", "ipv4 =", "ipv5 = \"::1\"", "interface[0].ipv5", "did you mean ipv4?"),
        ("media-relay", "#first =", "first = 80", "ports.first", "use 1024 to 65500"),
        ("media-relay", "#load =", "load = 101", "limits.load", "use 1 to 100"),
        ("media-relay", "#media =", "media = 0", "timeouts.media", "use 1 to 86400"),
        ("conference", "core =", "coer = \"x\"", "coer", "did you mean core?"),
        ("conference", "core =", "core = \"0.0.0.0:5060\"", "core", "name one address"),
        ("conference", "domain =", "domain = \"a b\"", "domain", "use the domain of your users"),
        ("conference", "#prefix =", "prefix = \"\"", "prefix", "the same as the proxies"),
        ("conference", "#first_port =", "first_port = 80", "media.first_port", "use 1024 to"),
        ("conference", "#participants = 2", "participants = 0", "limits.participants", "use 1 to"),
        ("conference", "#transactions =", "trans = 5", "limits.trans", "is not known"),
        ("conference", "#expires =", "expires = 5", "session.expires", "use 90 to 86400"),
        ("media-relay", "#folder =", "folder = \"x\"", "recording.folder", "an absolute path"),
    ];
    for (daemon, before, wrong, key, right) in table {
        let example = files.example(daemon);
        let line = example.lines().find(|line| line.starts_with(before));
        let line = line.unwrap_or_else(|| panic!("{daemon}.toml has no {before:?}"));
        let text: String = example
            .lines()
            .map(|other| if other == line { wrong } else { other })
            .map(|line| format!("{line}\n"))
            .collect();
        let number = line_of(&text, wrong);
        let place = format!("{}/{daemon}.toml:{number}:", files.folder.display());
        files.refused(daemon, text.as_bytes(), WRONG, &[&place, &format!("key {key}: "), right]);
    }
}

#[test]
fn what_is_missing_or_no_configuration_at_all_is_named() {
    let files = Files::new("files");
    for (daemon, key) in [
        ("registrar-ns", "address"),
        ("sip-gateway", "core"),
        ("sip-proxy", "data_dir"),
        ("media-relay", "control"),
        ("conference", "core"),
    ] {
        let place = format!("{}/{daemon}.toml:1:1: key ", files.folder.display());
        files.refused(daemon, b"", WRONG, &[&place, "is missing; the file needs it"]);
        let example = files.example(daemon);
        let line = example.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
        let text = example.replacen(line, "", 1);
        let missing = format!("key {key}: is missing; the file needs it");
        files.refused(daemon, text.as_bytes(), WRONG, &[&missing]);
        let twice = example.replacen(line, &format!("{line}\n{line}"), 1);
        files.refused(daemon, twice.as_bytes(), WRONG, &["not TOML: duplicate key"]);
        files.refused(daemon, b"name = \"x\n", WRONG, &[".toml:1:", "not TOML"]);
        files.refused(daemon, b"\x7fELF\0\0\0", WRONG, &[".toml:1:", "not TOML"]);
        files.refused(daemon, b"name = \"\xff\"\n", WRONG, &[".toml", "UTF-8"]);
        // A folder, and nothing at all.
        files.refused_at(
            daemon,
            &files.folder,
            WRONG,
            &["cannot read the configuration", "directory"],
        );
        let nowhere = files.folder.join("nowhere.toml");
        let text = format!("{}: cannot read the configuration: No such file", nowhere.display());
        files.refused_at(daemon, &nowhere, WRONG, &[&text]);
        refuses(&[daemon], WRONG, &["no configuration; name one with --config FILE"]);
        refuses(&[daemon, "--confg=x"], WRONG, &["--config"]);
    }
}

#[test]
fn ports_in_use_are_named() {
    let files = Files::new("ports");
    let registrar = files.address(1);
    let own = |daemon: &str, key: &str| {
        let text = files.example(daemon);
        let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let edge = |key: &str| format!("[edge]\n{key} = \"{}:5099\"", files.address(41));
    let (udp, tcp) = (edge("udp"), edge("tcp"));
    let phones = format!("{}:5099", files.address(41));
    for (daemon, address, protocol, key, more) in [
        ("registrar-ns", format!("{registrar}:9899"), "UDP", "port", ""),
        ("registrar-ns", format!("{registrar}:3863"), "TCP", "tcp_port", ""),
        ("registrar-ns", format!("{registrar}:9090"), "TCP", "admin", ""),
        ("sip-gateway", own("sip-gateway", "core"), "TCP", "core", ""),
        ("sip-gateway", own("sip-gateway", "admin"), "TCP", "admin", ""),
        ("sip-gateway", own("sip-gateway", "edge"), "UDP", "edge", ""),
        ("sip-gateway", own("sip-gateway", "edge"), "TCP", "edge", ""),
        ("sip-proxy", own("sip-proxy", "core"), "TCP", "core", ""),
        ("sip-proxy", format!("{}:9090", files.address(41)), "TCP", "admin", ""),
        ("media-relay", own("media-relay", "control"), "UDP", "control", ""),
        ("media-relay", format!("{}:9090", files.address(81)), "TCP", "admin", ""),
        ("conference", own("conference", "core"), "TCP", "core", ""),
        ("conference", format!("{}:9090", files.address(101)), "TCP", "admin", ""),
        ("sip-proxy", phones.clone(), "UDP", "edge.udp", &udp),
        ("sip-proxy", phones.clone(), "TCP", "edge.tcp", &tcp),
    ] {
        let _taken = (
            (protocol == "UDP").then(|| UdpSocket::bind(&address).unwrap()),
            (protocol == "TCP").then(|| TcpListener::bind(&address).unwrap()),
        );
        let example = files.example(daemon);
        let text = if more.is_empty() {
            example
        } else {
            example.replacen("\n[edge]", &format!("\n{more}"), 1)
        };
        let expected =
            format!("address in use: {address} ({protocol}, key {key}): another process");
        files.refused(daemon, text.as_bytes(), UNAVAILABLE, &[&expected]);
    }
    let elsewhere = files.example("registrar-ns").replacen(&registrar, "192.0.2.201", 1);
    let expected = "not an address of this machine: 192.0.2.201:";
    files.refused("registrar-ns", elsewhere.as_bytes(), UNAVAILABLE, &[expected]);
    let own = format!("ipv4 = \"{}\"", files.address(81));
    let elsewhere = files.example("media-relay").replacen(&own, "ipv4 = \"192.0.2.201\"", 1);
    let expected = [expected, "key interface[0].ipv4"];
    files.refused("media-relay", elsewhere.as_bytes(), UNAVAILABLE, &expected);
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let files = Files::new("folders");
    // Nothing can be made below a file, not even by root.
    let file = files.folder.join("file");
    fs::write(&file, "").unwrap();
    let below = format!("{}/data", file.display());
    for daemon in ["conference", "media-relay", "registrar-ns", "sip-gateway", "sip-proxy"] {
        let example = files.example(daemon);
        let first = example.lines().find(|line| line.starts_with("name =")).unwrap();
        let text: String = example
            .replacen(first, &format!("data_dir = {below:?}"), 1)
            .lines()
            .filter(|line| !line.starts_with("data_dir =") || line.contains(&below))
            .map(|line| format!("{line}\n"))
            .collect();
        let expected = format!("cannot create the data folder {below} (key data_dir)");
        files.refused(daemon, text.as_bytes(), CANT_CREATE, &[&expected, "choose a folder"]);
    }
    for daemon in ["sip-gateway", "sip-proxy"] {
        let example = files.example(daemon);
        let line = example.lines().find(|line| line.starts_with("key_file =")).unwrap();
        let text = example.replacen(line, &format!("key_file = {below:?}"), 1);
        files.refused(daemon, text.as_bytes(), WRONG, &[&below]);
    }
    let sidecar = ["pool-element", "--pool=x", "--registrar=127.0.0.1"];
    let with = |more: &[&'static str], last: &str| -> Vec<String> {
        sidecar.iter().chain(more).copied().map(str::to_owned).chain([last.to_owned()]).collect()
    };
    let refuses = |arguments: Vec<String>, code, expected: &[&str]| {
        refuses(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, expected);
    };
    refuses(
        with(&["--transport=tcp:127.0.0.1:1"], &format!("--data-dir={below}")),
        CANT_CREATE,
        &[&format!("cannot create the data folder {below} (key --data-dir)")],
    );
    refuses(with(&[], &format!("--transport=sqlite:{below}")), UNAVAILABLE, &[&below]);
}

#[test]
fn a_sidecars_command_line_is_checked() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = format!("--admin={}", taken.local_addr().unwrap());
    for (option, code, expected) in [
        ("--transport=tcp:nowhere", WRONG, "--transport"),
        ("--transport=http://127.0.0.1", WRONG, "tcp:HOST:PORT"),
        ("--policy=best", WRONG, "--policy"),
        ("--check-interval=5s", WRONG, "20ms"),
        ("--lifetime=1s", WRONG, "2s to 86400s"),
        ("--pe-id=0", WRONG, "never 0"),
        ("--registrar=tcp:127.0.0.1", WRONG, "SCTP"),
        ("--chek=tcp", WRONG, "--check"),
        (admin.as_str(), UNAVAILABLE, "key --admin"),
    ] {
        let mut arguments = vec!["pool-element", "--pool=x", option];
        if !option.starts_with("--transport") {
            arguments.push("--transport=tcp:127.0.0.1:1");
        }
        if !option.starts_with("--registrar") {
            arguments.push("--registrar=127.0.0.1");
        }
        refuses(&arguments, code, &[expected]);
    }
}
