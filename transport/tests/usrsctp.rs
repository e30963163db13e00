//! Against an independent SCTP stack (libusrsctp): tests/usrsctp_peer.c dials us, and we dial it.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dialtone_transport::{
    AssocId, DownCause, Endpoint, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const US: &str = "127.201.12.1";
/// usrsctp knows only addresses of interfaces.
const PEER: &str = "127.0.0.1";

/// The compiled peer; `None` where it cannot be built.
fn compile(name: &str) -> Option<PathBuf> {
    if !Path::new("/usr/include/usrsctp.h").exists() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "libusrsctp is missing");
        println!("skipped: libusrsctp not installed");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usrsctp_peer.c");
    let cc = Command::new("cc").arg("-o").arg(&program).arg(source).arg("-lusrsctp").status();
    assert!(cc.expect("cc").success());
    Some(program)
}

struct Peer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Peer {
    fn start(program: &Path, mode: &str, own: u16, peer: u16) -> Self {
        let mut child = Command::new(program)
            .args([mode, US, PEER, &own.to_string(), &peer.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

async fn bind() -> (Endpoint, Receiver<NetEvent>) {
    let addr: SocketAddr = format!("{US}:0").parse().unwrap();
    Endpoint::bind(EndpointConfig::registrar(addr, None)).await.unwrap()
}

async fn next(events: &mut Receiver<NetEvent>) -> NetEvent {
    timeout(Duration::from_secs(5), events.recv()).await.expect("no event").unwrap()
}

#[tokio::test]
async fn it_dials_us() {
    let Some(program) = compile("usrsctp_dials") else { return };
    let (us, mut events) = bind().await;
    let mut peer = Peer::start(&program, "dial", free_port(), us.local_addr().port());
    let NetEvent::Up { assoc, protocol: Protocol::Asap, .. } = next(&mut events).await else {
        panic!("not up")
    };
    for size in [4, 1400, 60_000] {
        let NetEvent::Message { payload, .. } = next(&mut events).await else {
            panic!("no message")
        };
        assert_eq!(payload.len(), size);
        us.execute(NetCommand::Send { assoc, payload });
    }
    assert_eq!(next(&mut events).await, NetEvent::Down { assoc, cause: DownCause::Closed });
    assert_eq!((peer.line(), peer.line()), ("up".into(), "done".into()));
    assert_eq!(us.counters().malformed + us.counters().bad_checksum, 0);
}

#[tokio::test]
async fn we_dial_it() {
    let Some(program) = compile("usrsctp_accepts") else { return };
    let (us, mut events) = bind().await;
    let port = free_port();
    let mut peer = Peer::start(&program, "accept", port, us.local_addr().port());
    assert_eq!(peer.line(), "ready");
    let assoc = AssocId::dialled(1);
    let addr = format!("{PEER}:{port}").parse().unwrap();
    let remote = Remote { link: Link::Sctp, addr, sctp_port: 3863 };
    us.execute(NetCommand::Connect { assoc, protocol: Protocol::Asap, remote });
    assert_eq!(next(&mut events).await, NetEvent::Up { assoc, protocol: Protocol::Asap, remote });
    for size in [4, 1400, 60_000] {
        let payload = vec![size as u8; size];
        us.execute(NetCommand::Send { assoc, payload: payload.clone() });
        assert!(next(&mut events).await == NetEvent::Message { assoc, payload }, "{size} bytes");
    }
    us.execute(NetCommand::Shutdown { assoc });
    assert_eq!(next(&mut events).await, NetEvent::Down { assoc, cause: DownCause::Local });
    assert_eq!(peer.line(), "done");
}
