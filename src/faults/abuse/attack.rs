//! Who sends what to which port: datagrams, streams and associations, each with its own way to wait for the other side,
//! so that a flood is as fast as its target reads and no faster.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use dialtone_transport::{
    AssocId, Endpoint, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::{Framer, asap, asap::Message};
use fastrand::Rng;

use super::material::{self, Probe};
use crate::launcher::clock;

/// Addresses that datagrams come from, in the slice: 100 to 115.
const SOURCES: u8 = 16;

/// What is on its way to one port at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) datagrams: u64,
    /// How long the answer to a datagram may take before the next ones follow.
    pub(super) patience: Duration,
}

const SCTP_WINDOW: Window = Window { datagrams: 256, patience: Duration::from_millis(20) };
const SIP_WINDOW: Window = Window { datagrams: 64, patience: Duration::from_secs(1) };

/// Messages on their way over one connection at a time.
const STREAM_WINDOW: u64 = 32;

/// How long a connection may take to be made, to be answered and to be closed.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);

/// What an attack did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Packets, messages, or connections where one is what is wrong.
    pub(super) sent: u64,
    pub(super) answered: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
    }
}

/// Of how many packets, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) packets: u64,
    pub(super) until: Instant,
}

impl Budget {
    pub(super) fn goes_on(&self, done: u64) -> bool {
        done < self.packets && clock() < self.until
    }
}

type Run = Box<dyn FnMut(&mut Rng, Budget) -> Sent + Send>;

/// One kind of bad input for one port.
pub(super) struct Attack {
    /// `UDP 127.0.0.1:5060`.
    pub(super) port: String,
    pub(super) kind: &'static str,
    /// Its share of what its process gets.
    pub(super) weight: u64,
    /// So many at most in one go: slow ones, and those that are sound enough to be remembered for a while.
    pub(super) most: u64,
    /// This share at least is answered or counted.
    pub(super) noticed: f64,
    pub(super) run: Run,
}

/// Datagrams from many sources to one port.
pub(super) struct Datagrams {
    to: SocketAddr,
    sources: Vec<UdpSocket>,
    /// Asks whether everything before has been read.
    prober: UdpSocket,
    window: Window,
}

impl Datagrams {
    pub(super) fn open(
        to: SocketAddr,
        source: impl Fn(u8) -> IpAddr,
        window: Window,
    ) -> io::Result<Self> {
        let sources = (0..SOURCES)
            .map(|n| {
                let socket = UdpSocket::bind((source(100 + n), 0))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect::<io::Result<_>>()?;
        let prober = UdpSocket::bind((source(120), 0))?;
        prober.set_read_timeout(Some(window.patience))?;
        Ok(Self { to, sources, prober, window })
    }

    pub(super) fn flood(
        &self,
        rng: &mut Rng,
        budget: Budget,
        make: &dyn Fn(&mut Rng) -> Vec<u8>,
        probe: &dyn Fn(&mut Rng) -> Probe,
    ) -> Sent {
        let mut total = Sent::default();
        let mut buffer = [0; 2048];
        while budget.goes_on(total.sent) {
            for _ in 0..self.window.datagrams.min(budget.packets - total.sent) {
                let source = &self.sources[rng.usize(..self.sources.len())];
                if source.send_to(&make(rng), self.to).is_ok() {
                    total.sent += 1;
                }
            }
            let Probe { packet, key } = probe(rng);
            if self.prober.send_to(&packet, self.to).is_ok() {
                total.sent += 1;
                total.answered += u64::from(self.await_answer(&key, &mut buffer));
            }
            for source in &self.sources {
                while source.recv_from(&mut buffer).is_ok() {
                    total.answered += 1;
                }
            }
        }
        // Answers to the last ones are on their way.
        sleep(Duration::from_millis(20));
        for source in &self.sources {
            while source.recv_from(&mut buffer).is_ok() {
                total.answered += 1;
            }
        }
        total
    }

    fn await_answer(&self, key: &[u8], buffer: &mut [u8]) -> bool {
        loop {
            match self.prober.recv_from(buffer) {
                Ok((length, _)) => {
                    if buffer[..length].windows(key.len()).any(|window| window == key) {
                        return true;
                    }
                    // The answer to an earlier one, late.
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Everything for a port that carries SCTP over UDP.
pub(super) fn sctp(
    to: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> io::Result<Vec<Attack>> {
    type Make = fn(&mut Rng) -> Vec<u8>;
    let kinds: [(&'static str, Make); 7] = [
        ("random bytes", material::random),
        ("truncated packets", material::truncated),
        ("flipped bits", material::flipped),
        ("flipped, sum right", material::sealed),
        ("INIT flood", material::init),
        ("DATA out of the blue", material::stranger),
        ("made-up cookies", material::cookie),
    ];
    let mut attacks = Vec::new();
    for (kind, make) in kinds {
        let datagrams = Datagrams::open(to, source, SCTP_WINDOW)?;
        attacks.push(Attack {
            port: format!("UDP {to} (SCTP)"),
            kind,
            weight,
            most: u64::MAX,
            noticed: 0.95,
            run: Box::new(move |rng, budget| {
                datagrams.flood(rng, budget, &make, &material::sctp_probe)
            }),
        });
    }
    Ok(attacks)
}

/// Everything for a gateway's UDP port for phones.
pub(super) fn sip_udp(
    to: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> io::Result<Vec<Attack>> {
    type Make = Box<dyn Fn(&mut Rng) -> Vec<u8> + Send>;
    let torture = |rng: &mut Rng| material::TORTURE[rng.usize(..material::TORTURE.len())].to_vec();
    // Sound requests make transactions that live for 32 s, so they come by the hundred.
    let kinds: [(&'static str, u64, u64, Make); 9] = [
        ("random bytes", weight, u64::MAX, Box::new(material::random)),
        ("STUN garbage", weight, u64::MAX, Box::new(material::stun)),
        (
            "broken requests",
            weight,
            u64::MAX,
            Box::new(|rng| material::broken_sip(rng, "UDP").packet),
        ),
        ("bad Content-Length", weight, u64::MAX, Box::new(|rng| material::bad_length(rng, "UDP"))),
        ("RFC 4475", weight, u64::MAX, Box::new(torture)),
        ("stray responses", weight, u64::MAX, Box::new(material::stray)),
        ("10,000 headers", weight, 5_000, Box::new(|rng| material::many_headers(rng, "UDP"))),
        ("65,000 bytes", weight, 5_000, Box::new(|rng| material::oversized(rng, "UDP", 64_500))),
        ("mutated requests", weight, 300, Box::new(|rng| material::mutated(rng, "UDP"))),
    ];
    let mut attacks = Vec::new();
    for (kind, weight, most, make) in kinds {
        let datagrams = Datagrams::open(to, source, SIP_WINDOW)?;
        attacks.push(Attack {
            port: format!("UDP {to} (SIP)"),
            kind,
            weight,
            most,
            noticed: 0.95,
            run: Box::new(move |rng, budget| {
                datagrams
                    .flood(rng, budget, &make, &|rng: &mut Rng| material::broken_sip(rng, "UDP"))
            }),
        });
    }
    Ok(attacks)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Sends `bytes` over a connection of their own, ends it, and waits for the other side's end. Whether bytes came back.
fn once(to: SocketAddr, bytes: &[u8]) -> io::Result<bool> {
    let mut stream = connect(to)?;
    // Whoever has had enough resets in the middle, which is its answer.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    Ok(!answer.is_empty())
}

/// One connection for each.
fn each(to: SocketAddr, make: impl Fn(&mut Rng) -> Vec<u8> + Send + 'static) -> Run {
    Box::new(move |rng, budget| {
        let mut total = Sent::default();
        while budget.goes_on(total.sent) {
            match once(to, &make(rng)) {
                Ok(answered) => total += Sent { sent: 1, answered: answered.into() },
                Err(_) => sleep(Duration::from_millis(10)),
            }
        }
        total
    })
}

/// Messages over a connection that goes on, a window at a time; `exchange` sends one and waits for its answers.
fn windows(
    to: SocketAddr,
    mut exchange: impl FnMut(&mut TcpStream, &mut Rng) -> io::Result<Sent> + Send + 'static,
) -> Run {
    Box::new(move |rng, budget| {
        let mut total = Sent::default();
        let mut stream = None;
        while budget.goes_on(total.sent) {
            let Ok(mut open) = stream.take().map_or_else(|| connect(to), Ok) else {
                sleep(Duration::from_millis(10));
                continue;
            };
            match exchange(&mut open, rng) {
                Ok(sent) => {
                    total += sent;
                    stream = Some(open);
                }
                Err(_) => total.sent += STREAM_WINDOW,
            }
        }
        total
    })
}

/// Many connections that say nothing and are closed all at once.
fn connections(to: SocketAddr) -> Run {
    Box::new(move |_, budget| {
        let mut total = Sent::default();
        while budget.goes_on(total.sent) {
            let many: Vec<TcpStream> = (0..200.min(budget.packets - total.sent))
                .filter_map(|_| connect(to).ok())
                .collect();
            total.sent += (many.len() as u64).max(1);
        }
        total
    })
}

/// Requests that each have an answer, which nobody reads: the other side must not keep all of them.
fn unread(to: SocketAddr, request: impl Fn(&mut Rng) -> Vec<u8> + Send + 'static) -> Run {
    Box::new(move |rng, budget| {
        let mut total = Sent::default();
        let Ok(mut stream) = connect(to) else { return total };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
        while budget.goes_on(total.sent) {
            let batch: Vec<u8> = (0..STREAM_WINDOW).flat_map(|_| request(rng)).collect();
            // Closed, or reads no more while its answers are not read.
            if stream.write_all(&batch).is_err() {
                break;
            }
            total.sent += STREAM_WINDOW;
        }
        total
    })
}

/// Kind, weight, most, noticed and the way of each [`Attack`] of one port.
fn attacks<const N: usize>(
    port: String,
    kinds: [(&'static str, u64, u64, f64, Run); N],
) -> Vec<Attack> {
    kinds
        .into_iter()
        .map(|(kind, weight, most, noticed, run)| Attack {
            port: port.clone(),
            kind,
            weight,
            most,
            noticed,
            run,
        })
        .collect()
}

/// Everything for a registrar's TCP port.
pub(super) fn asap_tcp(to: SocketAddr, weight: u64) -> Vec<Attack> {
    let truncated = |rng: &mut Rng| {
        let mut message = material::resolution();
        message.truncate(rng.usize(1..message.len()));
        message
    };
    let oversized = |rng: &mut Rng| {
        let mut message = vec![rng.u8(1..=14), 0, 0xff, 0xff];
        message.extend(material::random(rng));
        message
    };
    attacks(
        format!("TCP {to} (ASAP)"),
        [
            (
                "random bytes",
                weight,
                2_000,
                0.8,
                each(to, |rng| {
                    let mut bytes = material::random(rng);
                    bytes.resize(bytes.len().max(8), 0);
                    bytes
                }),
            ),
            ("truncated messages", weight, 2_000, 0.95, each(to, truncated)),
            ("lengths of 65,535", weight, 2_000, 0.95, each(to, oversized)),
            ("malformed messages", 4 * weight, u64::MAX, 0.95, windows(to, asap_window)),
            ("answers not read", weight, 20_000, 0.0, unread(to, |_| material::resolution())),
            ("silent connections", weight, 400, 0.0, connections(to)),
        ],
    )
}

fn asap_window(stream: &mut TcpStream, rng: &mut Rng) -> io::Result<Sent> {
    let mut batch: Vec<u8> = (0..STREAM_WINDOW).flat_map(|_| material::broken_asap(rng)).collect();
    batch.extend(material::resolution());
    stream.write_all(&batch)?;
    let mut framer = Framer::default();
    let mut buffer = [0; 16 << 10];
    let mut sent = Sent { sent: STREAM_WINDOW, answered: 0 };
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        framer.push(&buffer[..length]);
        while let Some(message) = framer.next_message().map_err(io::Error::other)? {
            if is_resolved(message) {
                return Ok(sent);
            }
            sent.answered += 1;
        }
    }
}

fn is_resolved(message: &[u8]) -> bool {
    let decoded = asap::Message::decode(message);
    decoded.is_ok_and(|decoded| matches!(decoded.message, Message::HandleResolutionResponse { .. }))
}

/// Malformed messages over real associations with a registrar.
pub(super) fn associations(
    to: SocketAddr,
    source: &dyn Fn(u8) -> IpAddr,
    weight: u64,
) -> Vec<Attack> {
    let kind = |protocol, local: IpAddr| -> Run {
        Box::new(move |rng, budget| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_or_else(
                |_| Sent::default(),
                |runtime| runtime.block_on(associate(to, protocol, local, rng, budget)),
            )
        })
    };
    attacks(
        format!("UDP {to} (SCTP)"),
        [
            ("malformed ASAP", 2 * weight, 50_000, 0.95, kind(Protocol::Asap, source(121))),
            ("malformed ENRP", 2 * weight, 50_000, 0.95, kind(Protocol::Enrp, source(122))),
        ],
    )
}

async fn associate(
    to: SocketAddr,
    protocol: Protocol,
    local: IpAddr,
    rng: &mut Rng,
    budget: Budget,
) -> Sent {
    let mut total = Sent::default();
    let mut config = EndpointConfig::element(SocketAddr::new(local, 0));
    config.enrp_port = Some(dialtone_transport::ENRP_PORT);
    let Ok((endpoint, mut events)) = Endpoint::bind(config).await else { return total };
    let sctp_port = match protocol {
        Protocol::Asap => dialtone_transport::ASAP_PORT,
        Protocol::Enrp => dialtone_transport::ENRP_PORT,
    };
    let remote = Remote { link: Link::Sctp, addr: to, sctp_port };
    let mut dialled = 0;
    while budget.goes_on(total.sent) {
        let assoc = AssocId::dialled(dialled);
        dialled += 1;
        endpoint.execute(NetCommand::Connect { assoc, protocol, remote });
        let mut up = false;
        // A registrar may end it at any time; then there is another one.
        loop {
            let patience = if up { Duration::from_millis(5) } else { CONNECT };
            match tokio::time::timeout(patience, events.recv()).await {
                Ok(Some(NetEvent::Up { assoc: id, .. })) if id == assoc => up = true,
                Ok(Some(NetEvent::Message { assoc: id, .. })) if id == assoc => {
                    total.answered += 1;
                    continue;
                }
                Ok(Some(NetEvent::Down { assoc: id, .. })) if id == assoc => break,
                Ok(Some(_)) => continue,
                Ok(None) => return total,
                Err(_) if up => {}
                Err(_) => break,
            }
            if !budget.goes_on(total.sent) {
                break;
            }
            for _ in 0..STREAM_WINDOW.min(budget.packets - total.sent) {
                let payload = match protocol {
                    Protocol::Asap => material::broken_asap(rng),
                    Protocol::Enrp => material::broken_enrp(rng),
                };
                endpoint.execute(NetCommand::Send { assoc, payload });
                total.sent += 1;
            }
        }
    }
    endpoint.close(true).await;
    total
}

/// Everything for a TCP port that speaks SIP: phones' (`edge`) or the core's.
pub(super) fn sip_tcp(to: SocketAddr, edge: bool, weight: u64) -> Vec<Attack> {
    let route = to.to_string();
    let broken = |stream: &mut TcpStream, rng: &mut Rng| {
        sip_window(stream, rng, |rng| material::broken_sip(rng, "TCP").packet)
    };
    let forged = move |stream: &mut TcpStream, rng: &mut Rng| {
        sip_window(stream, rng, |rng| material::forged(rng, &route))
    };
    let name = if edge { "SIP" } else { "SIP core" };
    attacks(
        format!("TCP {to} ({name})"),
        [
            (
                "random bytes",
                weight,
                1_000,
                0.8,
                each(to, |rng| {
                    let mut bytes = vec![b'x'];
                    bytes.extend(material::random(rng));
                    bytes
                }),
            ),
            (
                "unfinished messages",
                weight,
                1_000,
                0.95,
                each(to, |rng| {
                    let mut message = material::broken_sip(rng, "TCP").packet;
                    message.truncate(rng.usize(1..message.len() - 2));
                    message
                }),
            ),
            (
                "bad Content-Length",
                weight,
                1_000,
                0.95,
                each(to, |rng| material::bad_length(rng, "TCP")),
            ),
            (
                "10,000 headers",
                weight,
                200,
                0.95,
                each(to, |rng| material::many_headers(rng, "TCP")),
            ),
            ("200,000 bytes", weight, 200, 0.95, each(to, |rng| material::endless(rng, 200_000))),
            ("broken requests", 4 * weight, u64::MAX, 0.95, windows(to, broken)),
            ("made-up tokens", weight, 5_000, 0.95, windows(to, forged)),
            (
                "answers not read",
                weight,
                20_000,
                0.0,
                unread(to, |rng| material::broken_sip(rng, "TCP").packet),
            ),
            ("silent connections", weight, 400, 0.0, connections(to)),
        ],
    )
}

/// Sends a window of requests; each is to be answered, in any order.
fn sip_window(
    stream: &mut TcpStream,
    rng: &mut Rng,
    make: impl Fn(&mut Rng) -> Vec<u8>,
) -> io::Result<Sent> {
    let mut batch = Vec::new();
    (0..STREAM_WINDOW).for_each(|_| batch.extend(make(rng)));
    stream.write_all(&batch)?;
    let mut sent = Sent { sent: STREAM_WINDOW, answered: 0 };
    let mut text = Vec::new();
    let mut buffer = [0; 16 << 10];
    while sent.answered < STREAM_WINDOW {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => text.extend(&buffer[..length]),
            // Some have no answer: then all that will come has come.
            Err(_) => break,
        }
        let finals = text
            .windows(9)
            .filter(|window| window.starts_with(b"SIP/2.0 ") && matches!(window[8], b'4'..=b'6'));
        sent.answered = finals.count() as u64;
    }
    Ok(sent)
}

/// Everything for an admin port.
pub(super) fn http(to: SocketAddr, weight: u64) -> Vec<Attack> {
    attacks(
        format!("TCP {to} (HTTP)"),
        [
            ("random bytes", weight, 500, 0.0, each(to, material::random)),
            (
                "broken requests",
                weight,
                500,
                // A server that leaves a body unread resets, and an answer that was not read yet is lost.
                0.7,
                each(to, |rng| {
                    let requests: [&[u8]; 5] = [
                        b"GET\r\n\r\n",
                        b"GET / HTTP/9.9\r\n\r\n",
                        b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
                        b"POST /metrics HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
                        b"\0\0\0\0\r\n\r\n",
                    ];
                    requests[rng.usize(..requests.len())].to_vec()
                }),
            ),
            (
                "200,000 bytes",
                weight,
                100,
                0.0,
                each(to, |_| [b"GET / HTTP/1.1\r\nX: ", &[b'y'; 200_000][..]].concat()),
            ),
            ("silent connections", weight, 200, 0.0, connections(to)),
        ],
    )
}

/// Connections that send a byte now and then and never finish; each that the other side closes is an answer.
pub(super) struct Slow {
    pub(super) port: String,
    to: SocketAddr,
    text: Vec<u8>,
    open: Vec<(TcpStream, usize)>,
    pub(super) total: Sent,
}

impl Slow {
    /// So many at a time: few, since an admin server takes 64 and must go on telling what is counted.
    const CONNECTIONS: usize = 20;

    pub(super) fn new(port: String, to: SocketAddr, text: Vec<u8>) -> Self {
        Self { port, to, text, open: Vec::new(), total: Sent::default() }
    }

    /// A byte for each; to be called a few times a second.
    pub(super) fn step(&mut self) {
        let total = &mut self.total;
        let text = &self.text;
        self.open.retain_mut(|(stream, at)| {
            let mut byte = [0];
            let closed = match stream.read(&mut byte) {
                Ok(length) => length == 0,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            let closed = closed || stream.write_all(&text[*at..=*at]).is_err();
            *at = (*at + 1) % text.len();
            total.answered += u64::from(closed);
            !closed
        });
        if self.open.len() < Self::CONNECTIONS
            && let Ok(stream) = TcpStream::connect_timeout(&self.to, CONNECT)
            && stream.set_nonblocking(true).is_ok()
        {
            self.open.push((stream, 0));
            self.total.sent += 1;
        }
    }
}
