//! rtpengine (Debian's, in user space): the relay that ours stands beside and is compared with. And who asks relays.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command as Program, Stdio},
    time::Duration,
};

use dialtone::launcher::{Pid, Signal, wait_for};
use dialtone_ng::{
    MAX_DATAGRAM,
    message::{Datagram, Request},
};

/// How long a relay may take to answer, and to start.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether there is an rtpengine.
pub(crate) fn is_installed() -> bool {
    let found = Program::new("rtpengine").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "rtpengine not installed");
        println!("skipped: rtpengine not installed");
    }
    found
}

/// A running rtpengine.
#[derive(Debug)]
pub(crate) struct Rtpengine {
    process: Child,
    /// Where it speaks NG.
    pub(crate) ng: SocketAddr,
    log: PathBuf,
}

impl Rtpengine {
    /// Starts it with all its listeners at one address and waits until it answers; its log is in `folder`.
    pub(crate) fn start(folder: &Path, address: IpAddr, ports: &RangeInclusive<u16>) -> Self {
        fs::create_dir_all(folder).unwrap();
        let log = folder.join(format!("rtpengine-{address}.log"));
        let output = File::create(&log).unwrap();
        let ng = SocketAddr::new(address, dialtone_ng::NG_PORT);
        let process = Program::new("rtpengine")
            .args(["--config-file=none", "--foreground", "--log-stderr", "--log-level=6"])
            .args(["--table=-1", "--num-threads=1", "--tos=0", "--delete-delay=0"])
            .args([format!("--interface={address}"), format!("--listen-ng={ng}")])
            .arg(format!("--listen-cli={address}:9900"))
            .arg(format!("--port-min={}", ports.start()))
            .arg(format!("--port-max={}", ports.end()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        let relay = Self { process, ng, log };
        let user = NgUser::new(ng);
        let answers = wait_for(LIMIT, || user.try_ask(b"d7:command4:pinge", PATIENCE));
        assert!(answers.is_some(), "rtpengine does not answer");
        relay
    }

    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Rtpengine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- rtpengine at {} ---\n{}", self.ng, self.log());
        }
    }
}

/// How long a relay that does not run yet is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// Asks one relay, one thing at a time, and is patient.
#[derive(Debug)]
pub(crate) struct NgUser {
    socket: UdpSocket,
}

impl NgUser {
    pub(crate) fn new(relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind((relay.ip(), 0)).unwrap();
        socket.connect(relay).unwrap();
        Self { socket }
    }

    /// Whom it asks.
    pub(crate) fn relay(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap()
    }

    /// The body of the answer to a request.
    pub(crate) fn ask(&self, request: &Request<'_>) -> Vec<u8> {
        let datagram = request.encode(b"x");
        self.ask_bytes(&datagram[2..])
    }

    /// The body of the answer to whatever this is.
    pub(crate) fn ask_bytes(&self, body: &[u8]) -> Vec<u8> {
        self.try_ask(body, LIMIT).unwrap_or_else(|| {
            panic!("no answer from {:?} to {}", self.socket.peer_addr(), body.escape_ascii())
        })
    }

    /// Sends a datagram as it is; the next one that comes back.
    pub(crate) fn exchange(&self, datagram: &[u8]) -> Vec<u8> {
        self.socket.set_read_timeout(Some(LIMIT)).unwrap();
        self.socket.send(datagram).unwrap();
        let mut answer = vec![0; MAX_DATAGRAM];
        let length = self.socket.recv(&mut answer).expect("an answer");
        answer.truncate(length);
        answer
    }

    /// As [`Self::ask_bytes`], if an answer comes in time.
    pub(crate) fn try_ask(&self, body: &[u8], limit: Duration) -> Option<Vec<u8>> {
        let cookie = format!("{:016x}", fastrand::u64(..));
        let datagram = [cookie.as_bytes(), b" ", body].concat();
        self.socket.set_read_timeout(Some(limit)).unwrap();
        self.socket.send(&datagram).ok()?;
        let mut answer = vec![0; MAX_DATAGRAM];
        loop {
            let length = self.socket.recv(&mut answer).ok()?;
            let Some(datagram) = Datagram::split(&answer[..length]) else { continue };
            // Others are answers to what was given up.
            if datagram.cookie == cookie.as_bytes() {
                return Some(datagram.body.to_vec());
            }
        }
    }
}
