//! tshark, an independent decoder, reads everything that stage one of the system sends: registrars, elements and users.
//!
//! A scenario makes at least one of every message type that is ever sent; the capture must have each of them, nothing
//! malformed, no wrong checksum, and nothing that is not understood but two parameters that tshark 4.0 does not know
//! (see [`UNKNOWN_TO_TSHARK`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
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

/// What is sent over ASAP. BUSINESS_CARD, COOKIE and COOKIE_ECHO belong to sessions between users and elements, which
/// speak SIP; SERVER_ANNOUNCE needs multicast, which registrars do not send.
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

/// Who sends what registrars do not understand, to be told so. What it sends is not ours to answer for.
const INTRUDER: u8 = 250;

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

    /// Ends the capture; nothing may have been dropped.
    fn stop(mut self) {
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
    data_chunks: usize,
    tcp_bytes: usize,
    asap: Vec<u8>,
    enrp: Vec<u8>,
    /// Parameters of which tshark shows type and bytes only.
    unknown: Vec<u16>,
}

const FIELDS: &[&str] = &[
    "frame.number",
    "ip.src",
    "frame.protocols",
    "sctp.chunk_type",
    "tcp.len",
    "asap.message_type",
    "enrp.message_type",
];
