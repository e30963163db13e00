//! Bad input for conference servers: packets of strangers at the port of somebody who is in a room.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use dialtone_sip::{Frame, HeaderName, Message, StreamFramer};
use fastrand::Rng;

use super::{
    attack::{Attack, Budget, Sent},
    media::{STRANGE, media_address},
};

/// Packets of strangers between two that the guest hears. A server looks at them as often as it mixes.
const STRANGERS: u64 = 32;

/// How long an answer, and the next packet of the room, may take.
const ANSWER: Duration = Duration::from_secs(2);
const HEARD: Duration = Duration::from_millis(200);

/// Everything for the port of a guest of the server that speaks SIP at `core`.
pub(super) fn media(
    core: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> io::Result<Vec<Attack>> {
    let mut attacks = Vec::new();
    for (kind, make) in STRANGE {
        let mut guest = Guest::new(core, source)?;
        attacks.push(Attack {
            port: format!("UDP {} (room)", core.ip()),
            kind,
            weight,
            most: u64::MAX,
            noticed: 0.95,
            run: Box::new(move |rng, budget| guest.flood(rng, budget, &make)),
        });
    }
    Ok(attacks)
}

/// Somebody in a room of his own, and the sockets of those who are not.
struct Guest {
    core: SocketAddr,
    line: UdpSocket,
    strangers: Vec<UdpSocket>,
    seat: Option<Seat>,
    /// Of the packets that he sends.
    sequence: u16,
}

struct Seat {
    /// The call lasts as long as he listens here.
    _call: TcpStream,
    /// Where the server takes his packets.
    line: SocketAddr,
}

impl Guest {
    fn new(core: SocketAddr, source: &dyn Fn(u8) -> IpAddr) -> io::Result<Self> {
        let bind = |host: u8| UdpSocket::bind((source(host), 0));
        let line = bind(124)?;
        line.set_read_timeout(Some(HEARD))?;
        let strangers = (100..116).map(bind).collect::<io::Result<_>>()?;
        Ok(Self { core, line, strangers, seat: None, sequence: 0 })
    }

    fn call(&self, rng: &mut Rng) -> io::Result<Seat> {
        let mut stream = TcpStream::connect_timeout(&self.core, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let (core, contact, local) = (self.core, stream.local_addr()?, self.line.local_addr()?);
        let (ip, port, id) = (local.ip(), local.port(), rng.u64(..));
        let request = |method: &str, uri: &str, to: &str, body: &str| {
            format!(
                "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TCP {contact};branch=z9hG4bK{method}{id:x}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:guest@{core}>;tag={id:x}\r\nTo: {to}\r\nCall-ID: {id:x}@abuse\r\n\
                 CSeq: 1 {method}\r\nContact: <sip:guest@{contact};transport=tcp>\r\n\
                 Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let room = format!("sip:conf-{id:x}@{core}");
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
        );
        stream.write_all(request("INVITE", &room, &format!("<{room}>"), &sdp).as_bytes())?;
        let answer = final_answer(&mut stream)?;
        let refused = || io::Error::other("the room does not take guests");
        let accepted = answer.status().filter(|status| (200..300).contains(status)).is_some();
        let to = answer.header_str(HeaderName::To).filter(|_| accepted).ok_or_else(refused)?;
        let uri =
            answer.header_str(HeaderName::Contact).and_then(|uri| uri.split(['<', '>']).nth(1));
        stream.write_all(request("ACK", uri.ok_or_else(refused)?, to, "").as_bytes())?;
        let line = std::str::from_utf8(answer.body()).ok().and_then(media_address);
        Ok(Seat { _call: stream, line: line.ok_or_else(refused)? })
    }

    /// Strangers send, and the guest between them; an answer is a packet of the room that he gets.
    fn flood(&mut self, rng: &mut Rng, budget: Budget, make: &dyn Fn(&mut Rng) -> Vec<u8>) -> Sent {
        let mut total = Sent::default();
        while budget.goes_on(total.sent) {
            if self.seat.is_none() {
                // Who was silent while others were attacked has been hung up.
                self.seat = self.call(rng).ok();
            }
            let Some(to) = self.seat.as_ref().map(|seat| seat.line) else { break };
            total.sent += 1;
            if !self.hears(to) {
                self.seat = None;
                continue;
            }
            total.answered += 1;
            for _ in 0..STRANGERS.min(budget.packets.saturating_sub(total.sent)) {
                let stranger = &self.strangers[rng.usize(..self.strangers.len())];
                total.sent += u64::from(stranger.send_to(&make(rng), to).is_ok());
            }
        }
        total
    }

    /// He speaks, and hears what the room sends after that.
    fn hears(&mut self, to: SocketAddr) -> bool {
        let mut buffer = [0; 2048];
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend([7; 4]);
        packet.extend([0xff; 160]);
        let before = self.line.set_nonblocking(true);
        while before.is_ok() && self.line.recv(&mut buffer).is_ok() {}
        self.line.set_nonblocking(false).is_ok()
            && self.line.send_to(&packet, to).is_ok()
            && self.line.recv(&mut buffer).is_ok()
    }
}

fn final_answer(stream: &mut TcpStream) -> io::Result<Message> {
    let mut framer = StreamFramer::dialled(65_536);
    let mut buffer = [0; 4096];
    loop {
        while let Some(frame) = framer.next_frame().map_err(io::Error::other)? {
            let Frame::Message(bytes) = frame else { continue };
            let message = Message::parse(bytes).map_err(io::Error::other)?;
            if message.status().is_some_and(|status| status >= 200) {
                return Ok(message);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => framer.push(&buffer[..length]),
        }
    }
}
