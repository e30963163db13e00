//! Bad input for media relays: control messages that cannot be obeyed, and packets of strangers at the ports of a call.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use dialtone_ng::message::{Command, Datagram, Reply, Request};
use fastrand::Rng;

use super::{
    attack::{Attack, Budget, Datagrams, Sent, Window},
    material::{self, Probe},
};

/// Control messages on their way at a time; of the largest, few fit into the socket's buffer.
const CONTROL: Window = Window { datagrams: 64, patience: Duration::from_secs(1) };
const LARGE: Window = Window { datagrams: 2, patience: Duration::from_secs(1) };

/// Packets of strangers between two of the call's own.
const STRANGERS: u64 = 64;

/// How long an answer, and a packet through the relay, may take.
const ANSWER: Duration = Duration::from_secs(1);
const THROUGH: Duration = Duration::from_millis(20);

/// Everything for a relay's control port.
pub(super) fn control(
    to: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> io::Result<Vec<Attack>> {
    type Make = fn(&mut Rng) -> Vec<u8>;
    let kinds: [(&'static str, u64, Window, Make); 6] = [
        ("random bytes", u64::MAX, CONTROL, material::random),
        ("truncated requests", u64::MAX, CONTROL, truncated),
        ("flipped bytes", u64::MAX, CONTROL, flipped),
        ("odd SDP", u64::MAX, CONTROL, odd_sdp),
        ("unknown calls", u64::MAX, CONTROL, unknown),
        ("65,000 bytes", 5_000, LARGE, oversized),
    ];
    let mut attacks = Vec::new();
    for (kind, most, window, make) in kinds {
        let datagrams = Datagrams::open(to, source, window)?;
        attacks.push(Attack {
            port: format!("UDP {to} (NG)"),
            kind,
            weight,
            most,
            noticed: 0.95,
            run: Box::new(move |rng, budget| datagrams.flood(rng, budget, &make, &probe)),
        });
    }
    Ok(attacks)
}

/// A command that is obeyed.
fn probe(rng: &mut Rng) -> Probe {
    let key = cookie(rng);
    Probe { packet: Request::new(Command::Ping).encode(&key), key }
}

fn cookie(rng: &mut Rng) -> Vec<u8> {
    format!("{:016x}", rng.u64(..)).into_bytes()
}

/// An answer for a call that nobody has.
fn answer(rng: &mut Rng, sdp: &[u8]) -> Vec<u8> {
    let id = format!("{:016x}@abuse", rng.u64(..));
    let request = Request {
        call_id: Some(id.as_bytes()),
        from_tag: Some(b"a"),
        to_tag: Some(b"b"),
        sdp: Some(sdp),
        ..Request::new(Command::Answer)
    };
    request.encode(&cookie(rng))
}

const SDP: &[u8] = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 0\r\na=rtcp:4001\r\n";

fn truncated(rng: &mut Rng) -> Vec<u8> {
    let mut datagram = answer(rng, SDP);
    // With its cookie, and so with an answer.
    datagram.truncate(rng.usize(18..datagram.len()));
    datagram
}

fn flipped(rng: &mut Rng) -> Vec<u8> {
    let mut datagram = answer(rng, SDP);
    for _ in 0..rng.usize(1..=8) {
        let at = rng.usize(17..datagram.len());
        datagram[at] = rng.u8(..);
    }
    datagram
}

fn unknown(rng: &mut Rng) -> Vec<u8> {
    answer(rng, SDP)
}

/// An offer whose last line says that media goes nowhere, after others that may say anything.
fn odd_sdp(rng: &mut Rng) -> Vec<u8> {
    const LINES: [&str; 12] = [
        "v=0",
        "v=",
        "o=",
        "c=IN IP4",
        "c=IN IP6 ::",
        "m=audio 1 RTP/AVP 0",
        "a=rtcp:x",
        "a=",
        "=",
        "",
        "\0",
        "a=candidate:",
    ];
    const ENDS: [&str; 4] = ["\r\n", "\n", "\r", ""];
    let mut sdp = String::from("v=0\r\n");
    for _ in 0..rng.usize(..40) {
        sdp += LINES[rng.usize(..LINES.len())];
        sdp += ENDS[rng.usize(..ENDS.len())];
    }
    sdp += "\r\nm=audio here RTP/AVP 0\r\n";
    let id = format!("{:016x}@abuse", rng.u64(..));
    let request = Request {
        call_id: Some(id.as_bytes()),
        from_tag: Some(b"a"),
        sdp: Some(sdp.as_bytes()),
        ..Request::new(Command::Offer)
    };
    request.encode(&cookie(rng))
}

fn oversized(rng: &mut Rng) -> Vec<u8> {
    let mut datagram = cookie(rng);
    let filling: &[u8] = [&b"l"[..], b"d1:a", b"i1e", b"99999:", b"1:x"][rng.usize(..5)];
    datagram.extend_from_slice(b" d7:command5:offer3:sdp");
    while datagram.len() < 65_000 {
        datagram.extend_from_slice(filling);
    }
    datagram
}

/// Makes one datagram.
type Make = fn(&mut Rng) -> Vec<u8>;

/// What strangers send to a port of media.
pub(super) const STRANGE: [(&str, Make); 4] = [
    ("RTP of strangers", rtp),
    ("RTCP of strangers", rtcp),
    ("random bytes", material::random),
    ("STUN garbage", material::stun),
];

/// Everything for the ports of a call: one of its own is at `ng`, its parties in the slice.
pub(super) fn media(
    ng: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> io::Result<Vec<Attack>> {
    let mut attacks = Vec::new();
    for (kind, make) in STRANGE {
        let mut call = Call::new(ng, source)?;
        attacks.push(Attack {
            port: format!("UDP {} (media)", ng.ip()),
            kind,
            weight,
            most: u64::MAX,
            noticed: 0.95,
            run: Box::new(move |rng, budget| call.flood(rng, budget, &make)),
        });
    }
    Ok(attacks)
}

/// Where a description says that media goes.
pub(super) fn media_address(sdp: &str) -> Option<SocketAddr> {
    let word = |start: &str| {
        let line = sdp.lines().find_map(|line| line.strip_prefix(start))?;
        line.split(' ').next()
    };
    let ip = word("c=IN IP4 ")?.parse().ok()?;
    Some(SocketAddr::new(ip, word("m=audio ")?.parse().ok()?))
}

fn rtp(rng: &mut Rng) -> Vec<u8> {
    let mut packet = vec![0x80, rng.u8(..128) & 0x3f];
    packet.extend(material::bytes(rng, 10 + 160));
    packet
}

fn rtcp(rng: &mut Rng) -> Vec<u8> {
    let length = rng.u8(..);
    let mut packet = vec![0x80 | (rng.u8(..) & 0x1f), rng.u8(200..=204), 0, length];
    let given = rng.usize(..200);
    packet.extend(material::bytes(rng, given));
    packet
}

/// A call between two sockets, and the sockets of those who are no part of it.
struct Call {
    ng: SocketAddr,
    user: UdpSocket,
    alice: UdpSocket,
    bob: UdpSocket,
    strangers: Vec<UdpSocket>,
    /// Of the packets that Alice sends.
    sequence: u16,
}

impl Call {
    fn new(ng: SocketAddr, source: &dyn Fn(u8) -> IpAddr) -> io::Result<Self> {
        let bind = |host: u8| UdpSocket::bind((source(host), 0));
        let (user, alice, bob) = (bind(121)?, bind(122)?, bind(123)?);
        user.set_read_timeout(Some(ANSWER))?;
        bob.set_read_timeout(Some(THROUGH))?;
        let strangers = (100..116).map(bind).collect::<io::Result<_>>()?;
        Ok(Self { ng, user, alice, bob, strangers, sequence: 0 })
    }

    /// Sets the call up, or finds it; says where Alice sends her media.
    fn set_up(&self, rng: &mut Rng) -> Option<SocketAddr> {
        let id = format!("{}@abuse", self.alice.local_addr().ok()?);
        let sdp = |socket: &UdpSocket| {
            let local = socket.local_addr().ok()?;
            let (ip, port) = (local.ip(), local.port());
            Some(format!(
                "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
            ))
        };
        let (alice, bob) = (sdp(&self.alice)?, sdp(&self.bob)?);
        let offer = Request {
            call_id: Some(id.as_bytes()),
            from_tag: Some(b"a"),
            sdp: Some(alice.as_bytes()),
            ..Request::new(Command::Offer)
        };
        let answer = Request {
            command: Command::Answer,
            to_tag: Some(b"b"),
            sdp: Some(bob.as_bytes()),
            ..offer.clone()
        };
        self.ask(rng, &offer)?;
        self.ask(rng, &answer)
    }

    /// Where the answer to a request says that media goes.
    fn ask(&self, rng: &mut Rng, request: &Request<'_>) -> Option<SocketAddr> {
        let cookie = cookie(rng);
        self.user.send_to(&request.encode(&cookie), self.ng).ok()?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = self.user.recv(&mut buffer).ok()?;
            let datagram = Datagram::split(&buffer[..length])?;
            if datagram.cookie != cookie {
                continue;
            }
            let reply = Reply::decode(datagram.body).ok()?;
            return media_address(std::str::from_utf8(reply.sdp()?).ok()?);
        }
    }

    /// Strangers send, and Alice between them; an answer is a packet of hers that Bob gets.
    fn flood(&mut self, rng: &mut Rng, budget: Budget, make: &dyn Fn(&mut Rng) -> Vec<u8>) -> Sent {
        let mut total = Sent::default();
        let Some(to) = self.set_up(rng) else { return total };
        // Her first one says where she is.
        self.talk(to);
        while budget.goes_on(total.sent) {
            for _ in 0..STRANGERS.min(budget.packets - total.sent) {
                let stranger = &self.strangers[rng.usize(..self.strangers.len())];
                total.sent += u64::from(stranger.send_to(&make(rng), to).is_ok());
            }
            total.sent += 1;
            total.answered += u64::from(self.talk(to));
        }
        total
    }

    fn talk(&mut self, to: SocketAddr) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend([0; 168]);
        let mut buffer = [0; 2048];
        self.alice.send_to(&packet, to).is_ok()
            && std::iter::from_fn(|| {
                self.bob.recv(&mut buffer).ok().map(|length| buffer[..length] == packet[..])
            })
            .any(|own| own)
    }
}
