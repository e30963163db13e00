//! Sets calls up: SIP over one TCP connection, as a proxy would send it.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use super::{super::Error, Size};

/// Calls that are being set up at a time.
const WINDOW: usize = 32;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection with the server.
pub(super) struct Caller {
    stream: BufReader<TcpStream>,
    local: SocketAddr,
    server: SocketAddr,
}

impl Caller {
    pub(super) fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let local = stream.local_addr()?;
        Ok(Self { stream: BufReader::new(stream), local, server })
    }

    /// Everybody calls; where the server takes each one's packets. `rooms` are the rooms' sockets.
    pub(super) fn call(
        &mut self,
        rooms: &[UdpSocket],
        size: Size,
    ) -> Result<Vec<SocketAddr>, Error> {
        let participants = size.participants as usize;
        let mut lines = vec![None; participants];
        let (mut next, mut answered) = (0, 0);
        while answered < participants {
            while next < participants && next < answered + WINDOW {
                let room = next / size.room as usize;
                let invite = self.invite(next, room, rooms[room].local_addr()?);
                self.stream.get_mut().write_all(invite.as_bytes())?;
                next += 1;
            }
            let answer = Answer::read(&mut self.stream)?;
            let Some((index, line)) = self.answered(&answer)? else { continue };
            if let Some(place @ None) = lines.get_mut(index) {
                *place = Some(line);
                answered += 1;
            }
        }
        Ok(lines.into_iter().flatten().collect())
    }

    fn invite(&self, index: usize, room: usize, media: SocketAddr) -> String {
        let (ip, port) = (media.ip(), media.port());
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n\
             a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
        );
        let local = self.local;
        format!(
            "INVITE sip:conf-{room}@{} SIP/2.0\r\n{}CSeq: 1 INVITE\r\nContact: <sip:{index}@{local};transport=tcp>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            self.server,
            self.head(index, &format!("<sip:conf-{room}@dialtone.test>")),
            sdp.len(),
        )
    }

    /// What all requests of a call have.
    fn head(&self, index: usize, to: &str) -> String {
        let branch = fastrand::u64(..);
        format!(
            "Via: SIP/2.0/TCP {};branch=z9hG4bK{branch:x}\r\nMax-Forwards: 70\r\n\
             From: <sip:{index}@dialtone.test>;tag={index}\r\nTo: {to}\r\nCall-ID: {index}\r\n",
            self.local
        )
    }

    /// Acknowledges a 2xx: whose it is, and where the server is. `None`: it is no final answer.
    fn answered(&mut self, answer: &Answer) -> Result<Option<(usize, SocketAddr)>, Error> {
        let refused = || Error::Service(format!("the server said {}", answer.start));
        match answer.status() {
            Some(200..=299) => {}
            Some(300..) => return Err(refused()),
            _ => return Ok(None),
        }
        let index = answer.value("Call-ID").and_then(|id| id.parse().ok()).ok_or_else(refused)?;
        let contact = answer.value("Contact").and_then(|value| value.split(['<', '>']).nth(1));
        let to = answer.value("To").ok_or_else(refused)?;
        let ack = format!(
            "ACK {} SIP/2.0\r\n{}CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n",
            contact.ok_or_else(refused)?,
            self.head(index, to),
        );
        self.stream.get_mut().write_all(ack.as_bytes())?;
        Ok(Some((index, answer.media().ok_or_else(refused)?)))
    }
}

/// A message of the server's.
struct Answer {
    start: String,
    headers: Vec<String>,
    body: String,
}

impl Answer {
    fn read(stream: &mut impl BufRead) -> Result<Self, Error> {
        let mut line = || -> Result<String, Error> {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(Error::NoAnswer);
            }
            Ok(line.trim_end().to_owned())
        };
        let mut start = line()?;
        while start.is_empty() {
            start = line()?;
        }
        let mut headers = Vec::new();
        loop {
            match line()? {
                end if end.is_empty() => break,
                header => headers.push(header),
            }
        }
        let mut answer = Self { start, headers, body: String::new() };
        let length = answer.value("Content-Length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0).min(1 << 16)];
        stream.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (found, value) = header.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn media(&self) -> Option<SocketAddr> {
        let word = |start: &str, n: usize| {
            let line = self.body.lines().find_map(|line| line.strip_prefix(start))?;
            line.split(' ').nth(n)
        };
        let ip = word("c=IN IP4 ", 0)?.parse().ok()?;
        Some(SocketAddr::new(ip, word("m=audio ", 0)?.parse().ok()?))
    }
}
