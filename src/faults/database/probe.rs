//! Whether a proxy knows where users are: requests of our own, straight to its core listener, that only a binding in its
//! copy brings to the phone.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use dialtone_sip::{Frame, Message, StreamFramer};

use crate::launcher::clock;

/// Requests under way at a time.
const OUTSTANDING: usize = 100;
/// How long a phone may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Users whom a proxy does not find; an OPTIONS to each must come back answered 200 by the phone.
pub(super) fn missing(
    own: IpAddr,
    proxy: SocketAddr,
    domain: &str,
    users: &[String],
) -> io::Result<Vec<String>> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let run = fastrand::u32(..);
    let mut framer = StreamFramer::dialled(65_536);
    let mut waiting = BTreeMap::<String, (String, Instant)>::new();
    let mut users = users.iter().enumerate();
    let mut missing = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        while waiting.len() < OUTSTANDING
            && let Some((n, user)) = users.next()
        {
            let call_id = format!("probe-{run:x}-{n}");
            let request = format!(
                "OPTIONS sip:{user}@{domain} SIP/2.0\r\nVia: SIP/2.0/TCP {own}:5060;branch=z9hG4bK{call_id}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:probe@{domain}>;tag={n:x}\r\nTo: <sip:{user}@{domain}>\r\n\
                 Call-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            );
            stream.write_all(request.as_bytes())?;
            waiting.insert(call_id, (user.clone(), clock() + ANSWER));
        }
        if waiting.is_empty() {
            return Ok(missing);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => framer.push(&buffer[..read]),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let Some(frame) = framer.next_frame().map_err(io::Error::other)? {
            let Frame::Message(bytes) = frame else { continue };
            let Ok(answer) = Message::parse(bytes) else { continue };
            let (Some(status @ 200..), Ok(call_id)) = (answer.status(), answer.call_id()) else {
                continue;
            };
            if let Some((user, _)) = waiting.remove(call_id)
                && status != 200
            {
                missing.push(format!("{user} ({status})"));
            }
        }
        let now = clock();
        waiting.retain(|_, (user, until)| {
            if *until <= now {
                missing.push(format!("{user} (no answer)"));
            }
            *until > now
        });
    }
}

/// How often a proxy had to ask the database for a call, by its own count; it is a second old at most.
pub(super) fn lookups(admin: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("dialtone_sip_proxy_lookups_total "))
        .and_then(|value| value.trim().parse().ok());
    // A count that was never made is not there.
    Ok(value.unwrap_or_default())
}
