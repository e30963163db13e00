//! tshark, an independent decoder, reads everything that registrars, elements and users send each other: the name
//! service, and the control channel of sessions.
//!
//! A scenario makes at least one of every message type that ASAP and ENRP have; the capture must have each of them,
//! nothing malformed, no wrong checksum, and nothing that is not understood but two parameters that tshark 4.0 does not
//! know (see [`UNKNOWN_TO_TSHARK`]).

#[path = "../session/tests/support/example.rs"]
mod example;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use dialtone::launcher::{Exclusive, Launcher, Layout, Pid, Sidecar, Signal, wait_for};
use dialtone_asap_client::{Agent, AgentConfig, registrar_sctp, registrar_tcp};
use dialtone_handlespace::Handle;
use dialtone_pool_user::{Users, UsersConfig};
use dialtone_transport::{
    AssocId, ENRP_PORT, Endpoint, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

/// What is sent over ASAP: everything that it has. BUSINESS_CARD, COOKIE and COOKIE_ECHO are the control channel of
/// sessions (`docs/sessions.md`); elements of SIP pools have none.
const ASAP: &[(u8, &str)] = &[
    (0x01, "REGISTRATION"),
    (0x02, "DEREGISTRATION"),
    (0x03, "REGISTRATION_RESPONSE"),
    (0x04, "DEREGISTRATION_RESPONSE"),
    (0x05, "HANDLE_RESOLUTION"),
    (0x06, "HANDLE_RESOLUTION_RESPONSE"),
    (0x07, "ENDPOINT_KEEP_ALIVE"),
    (0x08, "ENDPOINT_KEEP_ALIVE_ACK"),
    (0x09, "ENDPOINT_UNREACHABLE"),
    (0x0a, "SERVER_ANNOUNCE"),
    (0x0b, "COOKIE"),
    (0x0c, "COOKIE_ECHO"),
    (0x0d, "BUSINESS_CARD"),
    (0x0e, "ERROR"),
];

/// What registrars send each other: everything that ENRP has.
const ENRP: &[(u8, &str)] = &[
    (0x01, "PRESENCE"),
    (0x02, "HANDLE_TABLE_REQUEST"),
    (0x03, "HANDLE_TABLE_RESPONSE"),
    (0x04, "HANDLE_UPDATE"),
    (0x05, "LIST_REQUEST"),
    (0x06, "LIST_RESPONSE"),
    (0x07, "INIT_TAKEOVER"),
    (0x08, "INIT_TAKEOVER_ACK"),
    (0x09, "TAKEOVER_SERVER"),
    (0x0a, "ERROR"),
];

/// The parameters that tshark 4.0 shows as numbers with bytes: Opaque Transport (RFC 5354 section 3.7), and our own
/// UDP encapsulation port, whose type says "skip silently".
const UNKNOWN_TO_TSHARK: &[u16] = &[0x0010, 0x8c0d];

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Who sends what registrars do not understand, to be told so. What it sends is not ours to answer for.
const INTRUDER: u8 = 250;

/// Where the elements of sessions are, and their user. They choose their ports themselves.
const SESSION_HOSTS: [u8; 3] = [201, 202, 203];

/// What the pool of the counter is called, and how far its user counts.
const COUNTER: &str = "counter";
const COUNTS: u64 = 3;

/// dumpcap on the loopback interface.
struct Capture {
    dumpcap: Child,
    messages: BufReader<std::process::ChildStderr>,
}

impl Capture {
    /// `None` where there is no tshark, or it may not capture.
    fn start(filter: &str, file: &Path) -> Option<Self> {
        let missing = |why: &str| {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "tshark is missing: {why}");
            println!("skipped: tshark {why}");
            None
        };
        if Command::new("tshark").arg("--version").output().is_err() {
            return missing("not installed");
        }
        let started = Command::new("dumpcap")
            .args(["-q", "-i", "lo", "-B", "16", "-s", "0", "-f", filter, "-w"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut dumpcap) = started else { return missing("not installed (dumpcap)") };
        let mut messages = BufReader::new(dumpcap.stderr.take().unwrap());
        let mut line = String::new();
        // It names the file when it has begun to capture, and ends when it may not.
        while messages.read_line(&mut line).unwrap() > 0 {
            if line.starts_with("File: ") {
                return Some(Self { dumpcap, messages });
            }
            line.clear();
        }
        let _ = dumpcap.wait();
        missing("not permitted to capture")
    }

    /// Ends the capture when everything that was sent is in the file; nothing may have been dropped.
    fn stop(mut self, file: &Path, intruder: IpAddr) {
        let marker = b"dialtone: the capture ends here";
        let socket = UdpSocket::bind((intruder, 0)).unwrap();
        socket.send_to(marker, (intruder, 9899)).unwrap();
        eventually("the capture is written", || {
            let bytes = std::fs::read(file).ok()?;
            bytes.windows(marker.len()).any(|window| window == marker).then_some(())
        });
        let pid = Pid::from_raw(self.dumpcap.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        assert!(self.dumpcap.wait().unwrap().success());
        let mut messages = String::new();
        self.messages.read_to_string(&mut messages).unwrap();
        // Packets received/dropped on interface 'Loopback: lo': 1234/0 (pcap:0/…)
        let counts = messages.lines().find(|line| line.contains("received/dropped"));
        assert!(counts.is_some_and(|line| line.contains("/0 (")), "{messages}");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.dumpcap.kill();
        let _ = self.dumpcap.wait();
    }
}

/// One packet as tshark understands it.
#[derive(Debug)]
struct Packet {
    number: u32,
    source: IpAddr,
    protocols: Vec<String>,
    /// Messages that SCTP carries for the first time (tshark dissects none twice), and messages that it recognised.
    data_chunks: usize,
    /// Those that are data of an application, by their payload protocol identifier.
    application_chunks: usize,
    asap: Vec<u8>,
    enrp: Vec<u8>,
    /// Types and lengths of the messages that a segment of TCP carries, `None` if it is not made of whole ones.
    tcp_messages: Option<Vec<(u8, usize)>>,
    /// Bytes of the messages that tshark recognised.
    message_bytes: usize,
    bad_checksum: bool,
    /// Parameters that tshark does not know by our reckoning, and those that it shows as mere bytes.
    expected_unknown: usize,
    unknown: usize,
    malformed: bool,
    /// tshark's own judgement of anything in the packet.
    expert_error: bool,
}

/// The gravest that tshark says of a packet (`PI_ERROR`).
const EXPERT_ERROR: u32 = 0x0080_0000;

const FIELDS: &[&str] = &[
    "frame.number",
    "ip.src",
    "frame.protocols",
    "sctp.chunk_type",
    "sctp.retransmission",
    "sctp.data_payload_proto_id",
    "asap.message_type",
    "enrp.message_type",
    "tcp.payload",
    "asap.message_length",
    "sctp.checksum.status",
    "asap.parameter_type",
    "enrp.parameter_type",
    "asap.parameter_value",
    "enrp.parameter_value",
    "_ws.malformed",
    "_ws.expert.severity",
];

/// Has tshark read the capture.
fn dissect(file: &Path) -> Vec<Packet> {
    // Sessions are encapsulated at ports of which nobody knows.
    let sessions = "udp && !(udp.port == 9899) && !(udp.port == 3863)";
    let ports = fields(file, &["-Y", sessions], &["udp.srcport", "udp.dstport"]);
    let ports: BTreeSet<&str> = ports.split_whitespace().collect();
    let sessions: Vec<String> = ports.iter().map(|port| format!("udp.port=={port},sctp")).collect();
    let mut options = vec!["-o", "sctp.checksum:crc-32c", "-d", "tcp.port==3863,asap"];
    sessions.iter().for_each(|session| options.extend(["-d", session]));
    fields(file, &options, FIELDS).lines().map(packet).collect()
}

/// These fields of every packet, as tshark has them with these options.
fn fields(file: &Path, options: &[&str], fields: &[&str]) -> String {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(options).args(["-T", "fields"]);
    fields.iter().for_each(|field| {
        tshark.args(["-e", field]);
    });
    let output = tshark.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn packet(line: &str) -> Packet {
    let fields: Vec<Vec<&str>> = line
        .split('\t')
        .map(|field| field.split(',').filter(|v| !v.is_empty()).collect())
        .collect();
    let field = |name: &str| &fields[FIELDS.iter().position(|field| *field == name).unwrap()];
    let numbers = |name: &str| -> Vec<u32> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        };
        field(name).iter().map(|text| number(text)).collect()
    };
    // What an ERROR quotes is dissected like a message, too.
    let own = |kind: &u32| *kind != u32::from(NONSENSE[0]);
    let types = |name: &str| numbers(name).into_iter().filter(own).map(|n| n as u8).collect();
    let chunks = numbers("sctp.chunk_type").into_iter().filter(|kind| *kind == 0).count();
    let expected_unknown = ["asap.parameter_type", "enrp.parameter_type"]
        .into_iter()
        .flat_map(numbers)
        .filter(|kind| UNKNOWN_TO_TSHARK.contains(&(*kind as u16)));
    Packet {
        number: numbers("frame.number")[0],
        source: field("ip.src")[0].parse().unwrap(),
        protocols: field("frame.protocols")[0].split(':').map(str::to_owned).collect(),
        data_chunks: chunks - field("sctp.retransmission").len(),
        application_chunks: numbers("sctp.data_payload_proto_id")
            .into_iter()
            .filter(|kind| *kind == 0)
            .count(),
        asap: types("asap.message_type"),
        enrp: types("enrp.message_type"),
        tcp_messages: framed(&field("tcp.payload").concat()),
        // Messages are padded to words (RFC 5352 section 2.2 and RFC 5354 section 4).
        message_bytes: numbers("asap.message_length")
            .into_iter()
            .zip(numbers("asap.message_type"))
            .filter(|(_, kind)| own(kind))
            .map(|(length, _)| length.next_multiple_of(4) as usize)
            .sum(),
        bad_checksum: numbers("sctp.checksum.status").contains(&0),
        expected_unknown: expected_unknown.count(),
        unknown: field("asap.parameter_value").len() + field("enrp.parameter_value").len(),
        malformed: !field("_ws.malformed").is_empty(),
        expert_error: numbers("_ws.expert.severity").contains(&EXPERT_ERROR),
    }
}

/// Types and lengths of the whole messages in a TCP segment, given in hex; `None` when anything is left over.
fn framed(hex: &str) -> Option<Vec<(u8, usize)>> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    let (mut messages, mut rest) = (Vec::new(), bytes.as_slice());
    while let [kind, _, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low])).next_multiple_of(4);
        let Some((_, behind)) = rest.split_at_checked(length) else { break };
        messages.push((kind, length));
        rest = behind;
    }
    rest.is_empty().then_some(messages)
}

impl Packet {
    /// What is wrong with it.
    fn fault(&self) -> Option<&'static str> {
        let messages = self.asap.len() + self.enrp.len();
        let over = |protocol: &str| self.protocols.iter().any(|name| name == protocol);
        // Nobody but the application knows what its data mean.
        let bytes = self.protocols.iter().filter(|name| *name == "data").count();
        let not_dissected = if over("sctp") {
            messages + bytes != self.data_chunks
        } else if over("tcp") {
            // tshark reads the first message of a segment, and takes those behind it for parameters of that one.
            let first = |all: &Vec<(u8, usize)>| all.first().map_or(0, |(_, length)| *length);
            self.tcp_messages.as_ref().map(first) != Some(self.message_bytes)
        } else {
            // Announcements.
            messages != 1
        };
        let behind = self.tcp_messages.as_ref().map_or(0, |all| all.len().saturating_sub(1));
        let checks = [
            (self.malformed, "malformed"),
            (self.bad_checksum, "a wrong checksum"),
            (self.expert_error, "an error, says tshark"),
            (bytes > self.application_chunks, "bytes of no protocol"),
            (not_dissected, "a message not dissected"),
            (self.unknown != self.expected_unknown + behind, "a parameter not dissected"),
        ];
        checks.into_iter().find(|(wrong, _)| *wrong).map(|(_, fault)| fault)
    }
}

/// Sidecars without a command: one server of the test's serves for all of them, in pools of all policies.
fn sidecars(launcher: &Launcher, server: SocketAddr) -> Vec<Sidecar> {
    let pools =
        [("tcp", "rr"), ("tcp", "wrr:3"), ("tcp", "rand"), ("tcp", "prio:2"), ("udp", "lu:30%")];
    let registrar = launcher.slice().host(3);
    pools
        .iter()
        .map(|(transport, policy)| Sidecar {
            name: format!("pe-{}", policy.split(':').next().unwrap()),
            pool: format!("pool-{policy}"),
            transport: format!("{transport}:{server}"),
            // All at registrar 3 if it can be had.
            options: vec![
                "--check=tcp".to_owned(),
                format!("--policy={policy}"),
                format!("--registrar={registrar}"),
            ],
            command: Vec::new(),
        })
        .collect()
}

fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_for(Duration::from_secs(20), condition)
        .unwrap_or_else(|| panic!("not within 20 s: {what}"))
}

/// Everything that the capture is to have.
fn scenario(launcher: &mut Launcher, counter: &Path) {
    let host = |launcher: &Launcher, n| launcher.slice().host(n);
    // A registrar alone, then two that have mentors: lists and tables.
    for n in 1..=3 {
        launcher.start_registrar(n).unwrap();
    }
    let listener = TcpListener::bind((host(launcher, 60), 7000)).unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let sidecars = sidecars(launcher, server);
    for sidecar in &sidecars {
        launcher.spawn_sidecar(sidecar).unwrap();
    }
    launcher.spawn_location_db().unwrap();
    for sidecar in &sidecars {
        launcher.wait_ready(&sidecar.name).unwrap();
    }
    launcher.wait_ready("location-db").unwrap();
    let count = sidecars.len() + 1;
    for registrar in ["registrar-ns-1", "registrar-ns-2", "registrar-ns-3"] {
        eventually("all elements everywhere", || {
            (launcher.pools(registrar)?.pools.len() == count).then_some(())
        });
    }

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (registrar, own) = (host(launcher, 1), host(launcher, 200));
    runtime.block_on(use_pools(own, registrar, launcher));
    let intruder = host(launcher, INTRUDER);
    runtime.block_on(asap_nonsense(intruder, registrar));
    runtime.block_on(enrp_nonsense(intruder, registrar));
    use_session(launcher, counter);

    launcher.stop("pe-rand").unwrap();
    // Two registrars agree who takes over from the third, which was home to somebody.
    let (victim, id) = eventually("a registrar with elements", || {
        (1..=3).find_map(|n| {
            let name = format!("registrar-ns-{n}");
            let pools = launcher.pools(&name)?;
            (pools.homed(&pools.server_id) > 0).then_some((name, pools.server_id))
        })
    });
    launcher.kill(&victim, Signal::SIGKILL).unwrap();
    let others: Vec<String> =
        (1..=3).map(|n| format!("registrar-ns-{n}")).filter(|name| *name != victim).collect();
    for name in &others {
        eventually("the takeover", || {
            let known = launcher.status(name)?.peers.iter().any(|peer| peer.server_id == id);
            let moved = launcher.pools(name)?.homed(&id) == 0;
            (!known && moved).then_some(())
        });
    }
    // It downloads a table with something in it.
    launcher.restart(&victim).unwrap();
    // An element that is frozen is asked in vain, removed, and comes back.
    launcher.kill("pe-rr", Signal::SIGSTOP).unwrap();
    eventually("a frozen element is removed", || {
        (launcher.pools(&victim)?.elements("pool-rr").is_empty()).then_some(())
    });
    launcher.kill("pe-rr", Signal::SIGCONT).unwrap();
    eventually("it comes back", || {
        (!launcher.pools(&victim)?.elements("pool-rr").is_empty()).then_some(())
    });
    assert!(launcher.stop_all().is_empty(), "everybody ends in order");
}

/// Subscribes, asks in vain, reports; over SCTP and over TCP. One thing after the other: tshark reads only the
/// first message of a segment of TCP.
async fn use_pools(own: IpAddr, registrar: IpAddr, launcher: &mut Launcher) {
    for (n, remote) in [registrar_sctp(registrar), registrar_tcp(registrar)].into_iter().enumerate()
    {
        let config = AgentConfig::telephony(own, vec![remote]);
        let agent = Agent::start(config, Users::new(UsersConfig::telephony())).await.unwrap();
        let user = agent.handle();
        let pool = Handle::new("pool-wrr:3").unwrap();
        let members = user.resolve(&pool).await.unwrap().members.clone();
        assert_eq!(members.len(), 1);
        assert!(user.resolve(&Handle::new("location-db").unwrap()).await.is_ok());
        assert!(user.resolve(&Handle::new("nobody").unwrap()).await.is_err());
        let mut views = user.watch(&pool).unwrap();
        tokio::time::timeout(LIMIT, views.wait_for(|view| !view.members.is_empty()))
            .await
            .unwrap()
            .unwrap();
        user.report_unreachable(&pool, members[0].pe_id);
        eventually("the report arrived", || {
            let reports = launcher.status("registrar-ns-1")?.counters.reports;
            (reports == n as u64 + 1).then_some(())
        });
        agent.stop().await;
    }
}

/// A program that ends with this.
struct Counter(Child);

impl Counter {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        // Also when the test itself is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session whose element is killed: the next one is shown the cookie.
fn use_session(launcher: &mut Launcher, program: &Path) {
    let [first, second, user] = SESSION_HOSTS.map(|n| launcher.slice().host(n).to_string());
    let registrar = launcher.slice().host(1).to_string();
    let keys = launcher.folder().join("counter-keys").display().to_string();
    let mut elements = Vec::new();
    for (id, address) in [("1", first), ("2", second)] {
        elements.push(Counter::start(program, &["element", &registrar, &address, id, &keys]));
        eventually("the counter is in its pool", || {
            let known = launcher.pools("registrar-ns-1")?.elements(COUNTER).len();
            (known == elements.len()).then_some(())
        });
    }
    let mut user = Counter::start(program, &["user", &registrar, &user, &COUNTS.to_string()]);
    let (sender, lines) = std::sync::mpsc::channel();
    let output = BufReader::new(user.0.stdout.take().unwrap());
    std::thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let (mut at, mut counts) = (Vec::new(), Vec::new());
    while counts.len() < COUNTS as usize {
        let line = lines.recv_timeout(4 * LIMIT).expect("the user counts on");
        match line.strip_prefix("now at ") {
            Some(element) => {
                at.push(element.to_owned());
                // Without its cookie it is sent away again and again.
                assert!(at.len() <= 2, "{at:?}");
            }
            None => counts.push(line.parse::<u64>().unwrap()),
        }
        if counts == [1] && at.len() == 1 {
            let serves = usize::from(at[0] != "0x00000001");
            drop(elements.remove(serves));
        }
    }
    assert_eq!(counts, (1..=COUNTS).collect::<Vec<_>>(), "the other one knows the count");
    assert_eq!(at.len(), 2, "{at:?}");
    assert!(user.0.wait().unwrap().success());
    drop(elements);
    for registrar in ["registrar-ns-1", "registrar-ns-2", "registrar-ns-3"] {
        eventually("nobody counts any more", || {
            launcher.pools(registrar)?.elements(COUNTER).is_empty().then_some(())
        });
    }
}

/// Message 0x7f, whose two upper bits ask for a report (RFC 5354 section 4).
const NONSENSE: [u8; 4] = [0x7f, 0, 0, 4];

/// Over TCP; the answer is ERROR.
async fn asap_nonsense(own: IpAddr, registrar: IpAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(own, 0)).unwrap();
    let mut stream = socket.connect(SocketAddr::new(registrar, 3863)).await.unwrap();
    stream.write_all(&NONSENSE).await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer[0], 0x0e, "ERROR");
}

/// Over SCTP; the answer is ERROR, after the presence that begins every association.
async fn enrp_nonsense(own: IpAddr, registrar: IpAddr) {
    let config = EndpointConfig::element(SocketAddr::new(own, 0));
    let (endpoint, mut events) = Endpoint::bind(config).await.unwrap();
    let assoc = AssocId::dialled(0);
    let addr = SocketAddr::new(registrar, 9899);
    let remote = Remote { link: Link::Sctp, addr, sctp_port: ENRP_PORT };
    endpoint.execute(NetCommand::Connect { assoc, protocol: Protocol::Enrp, remote });
    let answered = async {
        loop {
            match events.recv().await.unwrap() {
                NetEvent::Up { assoc, .. } => {
                    endpoint.execute(NetCommand::Send { assoc, payload: NONSENSE.to_vec() });
                }
                NetEvent::Message { payload, .. } if payload[0] == 0x0a => return,
                NetEvent::Down { cause, .. } => panic!("{cause:?}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, answered).await.unwrap();
    endpoint.close(true).await;
}

#[test]
fn tshark_understands_every_message_type_that_is_sent() {
    let _turn = Exclusive::wait().unwrap();
    let layout = Layout { announce: true, registrars: 3, ..Layout::default() };
    let mut launcher = Launcher::for_test(BINARY, layout).unwrap();
    let file = launcher.folder().join("capture.pcapng");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let counter = example::counter(&root.join("session/examples/counter.rs"));
    let sessions = SESSION_HOSTS.map(|n| format!("host {}", launcher.slice().host(n))).join(" or ");
    let filter = format!(
        "net {} and (udp port 9899 or port 3863 or (udp and ({sessions})))",
        launcher.slice()
    );
    let Some(capture) = Capture::start(&filter, &file) else { return };
    scenario(&mut launcher, &counter);
    let intruder = launcher.slice().host(INTRUDER);
    capture.stop(&file, intruder);

    let packets = dissect(&file);
    let ours: Vec<&Packet> = packets.iter().filter(|packet| packet.source != intruder).collect();
    let faults: Vec<String> = ours
        .iter()
        .filter_map(|packet| {
            Some(format!("packet {}: {}: {packet:?}", packet.number, packet.fault()?))
        })
        .collect();
    if !faults.is_empty() {
        let kept = launcher.keep_folder().display().to_string();
        panic!("{} faults; the capture is kept in {kept}:\n{}", faults.len(), faults.join("\n"));
    }

    let mut counts: BTreeMap<(&str, u8), usize> = BTreeMap::new();
    for packet in &ours {
        packet.asap.iter().for_each(|kind| *counts.entry(("ASAP", *kind)).or_default() += 1);
        packet.enrp.iter().for_each(|kind| *counts.entry(("ENRP", *kind)).or_default() += 1);
    }
    let names: BTreeMap<(&str, u8), &str> = [("ASAP", ASAP), ("ENRP", ENRP)]
        .into_iter()
        .flat_map(|(protocol, types)| {
            types.iter().map(move |(kind, name)| ((protocol, *kind), *name))
        })
        .collect();
    for ((protocol, kind), name) in &names {
        let count = counts.get(&(*protocol, *kind)).copied().unwrap_or(0);
        println!("table: {protocol} {name} ({kind:#04x}): {count}");
    }
    // Neither less than is listed, nor more.
    let seen: BTreeSet<_> = counts.keys().copied().collect();
    assert_eq!(seen, names.keys().copied().collect::<BTreeSet<_>>());
    let over_tcp: BTreeSet<u8> = ours
        .iter()
        .filter_map(|packet| packet.tcp_messages.as_ref())
        .flat_map(|messages| messages.iter().map(|(kind, _)| *kind))
        .collect();
    assert_eq!(over_tcp, BTreeSet::from([0x05, 0x06, 0x09, 0x0e]), "what users say over TCP");
    let opaque = ours.iter().filter(|packet| packet.expected_unknown > 0).count();
    println!(
        "table: {} packets from us, {opaque} with parameters that tshark does not know, nothing malformed",
        ours.len()
    );
}
