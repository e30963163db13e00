//! A proxy that is killed under REGISTER load: what it answered is there afterwards.

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::{Folder, Process};

const KILLS: usize = 20;
/// Requests that wait for an answer at a time.
const WINDOW: usize = 64;

#[test]
fn daemon() {
    common::daemon();
}

fn register(user: usize, cseq: u32, local: SocketAddr, contact: &str) -> String {
    format!(
        "REGISTER sip:dialtone.test SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{user}.{cseq}\r\nMax-Forwards: 70\r\n\
         From: <sip:u{user}@dialtone.test>;tag=1\r\nTo: <sip:u{user}@dialtone.test>\r\nCall-ID: {user}\r\n\
         CSeq: {cseq} REGISTER\r\n{contact}Content-Length: 0\r\n\r\n"
    )
}

/// The Call-ID, which is the user's number, of a 200.
fn accepted(answer: &str) -> Option<usize> {
    if !answer.starts_with("SIP/2.0 200") {
        return None;
    }
    answer.lines().find_map(|line| line.strip_prefix("Call-ID: "))?.trim().parse().ok()
}

struct Phones {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Phones {
    fn receive(&mut self) -> Option<String> {
        let (length, _) = self.socket.recv_from(&mut self.buffer).ok()?;
        Some(String::from_utf8_lossy(&self.buffer[..length]).into_owned())
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "kills come at moments of real time")]
fn every_answered_registration_outlives_twenty_kills() {
    let folder = Folder::new("killed");
    let ip = "127.90.2.41";
    let socket = UdpSocket::bind((ip, 0)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
    let local = socket.local_addr().expect("address");
    let mut phones = Phones { socket, buffer: vec![0; 4096] };
    let mut answered = BTreeMap::new();
    let mut user = 0;
    for round in 0..KILLS {
        let mut proxy = Process::start(&folder.0, "proxy", ip);
        let address = proxy.udp();
        let kill_at = Instant::now() + Duration::from_millis(fastrand::u64(20..150));
        let mut waiting = 0;
        let mut killed = false;
        loop {
            if !killed && Instant::now() >= kill_at {
                proxy.kill();
                killed = true;
            }
            while !killed && waiting < WINDOW {
                let contact = format!("Contact: <sip:u{user}@{ip}:{}>\r\n", 10_000 + round);
                let _ =
                    phones.socket.send_to(register(user, 1, local, &contact).as_bytes(), address);
                user += 1;
                waiting += 1;
            }
            match phones.receive() {
                Some(answer) => {
                    waiting = waiting.saturating_sub(1);
                    answered.extend(accepted(&answer).map(|user| (user, 10_000 + round)));
                }
                None if killed => break,
                // The window is stuck: a datagram got lost.
                None => waiting = 0,
            }
        }
    }
    assert!(answered.len() > KILLS * 10, "only {} of {user} were answered", answered.len());
    let proxy = Process::start(&folder.0, "proxy", ip);
    let mut lost: BTreeMap<usize, usize> = answered.clone();
    for attempt in 2..10 {
        let open: Vec<usize> = lost.keys().copied().collect();
        for chunk in open.chunks(WINDOW) {
            for user in chunk {
                let _ = phones
                    .socket
                    .send_to(register(*user, attempt, local, "").as_bytes(), proxy.udp());
            }
            for _ in chunk {
                let Some(answer) = phones.receive() else { break };
                if let Some(user) = accepted(&answer)
                    && lost
                        .get(&user)
                        .is_some_and(|port| answer.contains(&format!("<sip:u{user}@{ip}:{port}>")))
                {
                    lost.remove(&user);
                }
            }
        }
    }
    assert!(
        lost.is_empty(),
        "{} of {} answered registrations are lost: {lost:?}",
        lost.len(),
        answered.len()
    );
    println!(
        "{KILLS} kills, {} of {user} registrations answered, none of these lost",
        answered.len()
    );
    assert!(proxy.stop());
}
