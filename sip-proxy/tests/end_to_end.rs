//! A proxy as a process: SIPp's phones on UDP and TCP, a phone of our own, start, restart and stop in order.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Folder, Process};

#[test]
fn daemon() {
    common::daemon();
}

fn ask(proxy: SocketAddr, phone: &UdpSocket, request: &str) -> String {
    let mut buffer = [0; 4096];
    for _ in 0..20 {
        phone.send_to(request.as_bytes(), proxy).expect("send");
        if let Ok((length, _)) = phone.recv_from(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
    panic!("no answer to {request}");
}

fn phone(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    socket
}

fn register(phone: &UdpSocket, cseq: u32, contact: &str) -> String {
    let local = phone.local_addr().expect("address");
    format!(
        "REGISTER sip:dialtone.test SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKe{cseq}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@dialtone.test>;tag=1\r\nTo: <sip:alice@dialtone.test>\r\nCall-ID: end-to-end\r\n\
         CSeq: {cseq} REGISTER\r\n{contact}Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn bindings_outlive_the_process_and_it_stops_in_order() {
    let folder = Folder::new("restart");
    let ip = "127.90.1.41";
    let proxy = Process::start(&folder.0, "proxy", ip);
    let phone = phone(ip);
    let answer =
        ask(proxy.udp(), &phone, &register(&phone, 1, "Contact: <sip:alice@127.90.1.7:5062>\r\n"));
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    drop(proxy);
    // Killed; the next one on the same database knows, and so does a second process beside it.
    let proxy = Process::start(&folder.0, "proxy", ip);
    let second = Process::start(&folder.0, "second", "127.90.1.42");
    for (cseq, proxy) in [(2, &proxy), (3, &second)] {
        let answer = ask(proxy.udp(), &phone, &register(&phone, cseq, ""));
        assert!(answer.contains("Contact: <sip:alice@127.90.1.7:5062>;expires="), "{answer}");
    }
    // The health check over TCP.
    let mut stream = TcpStream::connect(proxy.tcp()).expect("connect");
    let options = format!(
        "OPTIONS sip:{} SIP/2.0\r\nVia: SIP/2.0/TCP 127.90.1.9;branch=z9hG4bKo\r\nMax-Forwards: 70\r\n\
         From: <sip:check@x>;tag=1\r\nTo: <sip:check@x>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
        proxy.tcp()
    );
    stream.write_all(options.as_bytes()).expect("write");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answer");
    assert_eq!(&answer, b"SIP/2.0 200 ");
    assert!(proxy.stop() && second.stop(), "stopped in order");
}

/// Kills what it started.
struct Sipp(Child);

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sipp(
    scenario: &str,
    folder: &Path,
    transport: &str,
    local: (&str, u16),
    args: &[&str],
) -> Command {
    let mut command = Command::new("sipp");
    command
        .args(["-sf", &format!("{}/tests/sipp/{scenario}.xml", env!("CARGO_MANIFEST_DIR"))])
        .args([
            "-t",
            transport,
            "-i",
            local.0,
            "-p",
            &local.1.to_string(),
            "-nostdin",
            "-trace_err",
        ])
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// `DIALTONE_SIPP_USERS` makes it larger; the rates stay.
fn calls_by_sipp(name: &str, transport: &str, ip: &str) {
    if Command::new("sipp").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        assert!(std::env::var_os("CI").is_none(), "sipp is needed in CI");
        println!("skipped: sipp not installed");
        return;
    }
    let users: usize =
        std::env::var("DIALTONE_SIPP_USERS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let folder = Folder::new(name);
    let proxy = Process::start(&folder.0, "proxy", ip);
    let address = if transport == "u1" { proxy.udp() } else { proxy.tcp() }.to_string();
    let list: String = (0..users).map(|n| format!("user{n};\n")).collect();
    std::fs::write(folder.0.join("users.csv"), format!("SEQUENTIAL\n{list}")).expect("users");
    let phones = free_port(ip);
    let uas = sipp("uas", &folder.0, transport, (ip, phones), &[]).spawn().expect("sipp");
    let _uas = Sipp(uas);
    let count = users.to_string();
    let contact_port = phones.to_string();
    let run = |scenario: &str, rate: &str, more: &[&str]| {
        let mut args = vec![
            address.as_str(),
            "-inf",
            "users.csv",
            "-m",
            &count,
            "-r",
            rate,
            "-timeout",
            "120",
            "-timeout_error",
        ];
        args.extend_from_slice(more);
        let status = sipp(scenario, &folder.0, transport, (ip, free_port(ip)), &args)
            .status()
            .expect("sipp");
        if !status.success() {
            let errors = std::fs::read_dir(&folder.0).into_iter().flatten().flatten();
            let errors =
                errors.filter(|entry| entry.file_name().to_string_lossy().contains("errors"));
            let text: String =
                errors.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect();
            let log = std::fs::read_to_string(folder.0.join("proxy.log")).unwrap_or_default();
            panic!(
                "sipp {scenario}: {status}\n{}\n{log}",
                text.chars().take(3000).collect::<String>()
            );
        }
    };
    run("register", "1000", &["-set", "cport", &contact_port]);
    run("uac", "200", &[]);
    assert!(proxy.stop());
}

fn free_port(ip: &str) -> u16 {
    UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("free port").port()
}

#[test]
fn sipp_registers_and_calls_over_udp() {
    calls_by_sipp("sipp-udp", "u1", "127.90.1.43");
}

#[test]
fn sipp_registers_and_calls_over_tcp() {
    calls_by_sipp("sipp-tcp", "t1", "127.90.1.44");
}
