//! The core on a model of the plane: ports that are numbers, and pairs that remember their settings.

mod bad_input;
mod calls;
mod limits;
mod negotiation;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_ng::message::{Command, Datagram, Outcome, Reply, Request};
use dialtone_sip::sdp::Sdp;

use super::{Interface, Local, Output, PortPool, Recording, Relay, RtcpPort, Settings, Summary};
use crate::plane::{EndSettings, EndStats, Event, Kind, PairId, PairStats, Reopen, Side};

#[expect(clippy::disallowed_methods, reason = "tests have to begin at some time")]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// Ports of each address, and when those given back were given back.
#[derive(Debug, Default)]
pub(super) struct FakePorts {
    next: u16,
    taken: BTreeMap<(IpAddr, u16), Taken>,
    /// Pairs that there are, over all addresses.
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    rtcp: bool,
}

#[derive(Debug)]
pub(super) struct FakeSockets {
    port: u16,
    rtcp: bool,
}

impl PortPool for FakePorts {
    type Sockets = FakeSockets;
    type Rtcp = u16;

    fn open(
        &mut self,
        _: Instant,
        address: IpAddr,
        rtcp: bool,
    ) -> Result<(u16, FakeSockets), String> {
        if self.limit.is_some_and(|limit| self.taken.len() >= limit) {
            return Err("none left".to_owned());
        }
        self.next += 2;
        let port = 30_000 + self.next;
        self.taken.insert((address, port), Taken { rtcp });
        Ok((port, FakeSockets { port, rtcp }))
    }

    fn open_rtcp(&mut self, address: IpAddr, port: u16) -> Result<u16, String> {
        let taken = self.taken.get_mut(&(address, port)).expect("it is taken");
        assert!(!taken.rtcp, "it is open already");
        taken.rtcp = true;
        Ok(port + 1)
    }

    fn give_back(&mut self, _: Instant, address: IpAddr, port: u16) {
        assert!(self.taken.remove(&(address, port)).is_some(), "{port} was not taken");
    }
}

/// A pair as the plane has it.
#[derive(Debug)]
struct ModelPair {
    kind: Kind,
    ports: [u16; 2],
    rtcp: [bool; 2],
    settings: [EndSettings; 2],
    reopened: Vec<(Side, Reopen)>,
}

struct Lab {
    now: Instant,
    relay: Relay<FakePorts>,
    pairs: BTreeMap<u64, ModelPair>,
    /// What the plane says it has counted.
    stats: HashMap<u64, [EndStats; 2]>,
    /// Datagrams sent, by receiver.
    sent: Vec<(SocketAddr, Vec<u8>)>,
    ended: Vec<Summary>,
    recordings: Vec<(bool, Recording)>,
    recorded: BTreeMap<u64, Kind>,
    /// Whether the plane answers.
    plane_works: bool,
    waiting: Vec<Event>,
    cookie: u64,
}

const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 5000);

fn local(address: &str) -> Option<Local> {
    let address = address.parse().expect("an address");
    Some(Local { bind: address, advertised: address })
}

fn settings() -> Settings {
    let public =
        Interface { name: "public".to_owned(), v4: local("203.0.113.1"), v6: local("2001:db8::1") };
    let private = Interface {
        name: "private".to_owned(),
        v4: Some(Local {
            bind: "10.0.0.9".parse().expect("an address"),
            advertised: "198.51.100.9".parse().expect("an address"),
        }),
        v6: None,
    };
    Settings::new(vec![public, private], (start(), 1_700_000_000_000_000))
}

impl Lab {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let now = settings.epoch.0;
        Self {
            now,
            relay: Relay::new(now, settings, FakePorts::default()),
            pairs: BTreeMap::new(),
            stats: HashMap::new(),
            sent: Vec::new(),
            ended: Vec::new(),
            recordings: Vec::new(),
            recorded: BTreeMap::new(),
            plane_works: true,
            waiting: Vec::new(),
            cookie: 0,
        }
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.relay.handle_datagram(self.now, from, bytes);
        self.drain();
    }

    /// Does what the core wants, as the plane and the driver would.
    fn drain(&mut self) {
        while let Some(output) = self.relay.poll() {
            let event = match output {
                Output::Open { pair, kind, sockets, settings } => {
                    let [a, b] = &sockets;
                    let model = ModelPair {
                        kind,
                        ports: [a.port, b.port],
                        rtcp: [a.rtcp, b.rtcp],
                        settings,
                        reopened: Vec::new(),
                    };
                    assert!(self.pairs.insert(pair.0, model).is_none(), "opened twice");
                    continue;
                }
                Output::Change { pair, side, settings, reopen, rtcp } => {
                    let pair = self.pairs.get_mut(&pair.0).expect("it is open");
                    let open = &mut pair.rtcp[side as usize];
                    match rtcp {
                        RtcpPort::Keep => {}
                        RtcpPort::Close => {
                            assert!(std::mem::replace(open, false), "it was closed already");
                            let port = pair.ports[side as usize];
                            let taken = self.relay.ports.taken.iter_mut();
                            let mut own = taken.filter(|((_, one), _)| *one == port);
                            own.next().expect("it is taken").1.rtcp = false;
                        }
                        RtcpPort::Open(port) => {
                            assert!(!std::mem::replace(open, true), "it was open already");
                            assert_eq!(port, pair.ports[side as usize] + 1);
                        }
                    }
                    pair.settings[side as usize] = settings;
                    pair.reopened.push((side, reopen));
                    continue;
                }
                Output::Kind { pair, kind } => {
                    self.pairs.get_mut(&pair.0).expect("it is open").kind = kind;
                    continue;
                }
                Output::Close { pair } => {
                    self.pairs.remove(&pair.0).expect("it is open");
                    Event::Closed { pair, stats: Some(self.stats_of(pair)) }
                }
                Output::Query { pair, tag } => {
                    Event::Queried { pair, tag, stats: Some(self.stats_of(pair)) }
                }
                Output::Send { to, bytes } => {
                    self.sent.push((to, bytes.to_vec()));
                    continue;
                }
                Output::Ended(summary) => {
                    self.ended.push(*summary);
                    continue;
                }
                Output::StartRecording(recording) => {
                    self.recordings.push((true, recording));
                    continue;
                }
                Output::StopRecording { recording, pairs } => {
                    self.recorded.retain(|pair, _| !pairs.contains(&PairId(*pair)));
                    self.recordings.push((false, recording));
                    continue;
                }
                Output::RecordPair { pair, kind, .. } => {
                    let open = self.pairs.get(&pair.0).expect("it is open before it is recorded");
                    assert_eq!(open.kind, kind);
                    self.recorded.insert(pair.0, kind);
                    continue;
                }
            };
            if self.plane_works {
                self.relay.handle_event(self.now, event);
            } else {
                self.waiting.push(event);
            }
        }
    }

    fn stats_of(&self, pair: PairId) -> Box<PairStats> {
        let ends = self.stats.get(&pair.0).cloned().unwrap_or_default();
        Box::new(PairStats { opened: self.now, ends })
    }

    /// The plane answers what it was asked so far.
    fn thaw(&mut self) {
        self.plane_works = true;
        for event in std::mem::take(&mut self.waiting) {
            self.relay.handle_event(self.now, event);
        }
        self.drain();
    }

    fn event(&mut self, event: Event) {
        self.relay.handle_event(self.now, event);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        while self.relay.next_deadline().is_some_and(|at| at <= self.now) {
            self.relay.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Asks, and returns the one answer, which has come at once.
    fn ask(&mut self, request: &Request<'_>) -> Got {
        self.cookie += 1;
        let cookie = format!("c_{}", self.cookie);
        self.sent.clear();
        self.datagram(PROXY, &request.encode(cookie.as_bytes()));
        let [(to, bytes)] = &self.sent[..] else { panic!("not one answer: {:?}", self.sent) };
        assert_eq!(*to, PROXY);
        let datagram = Datagram::split(bytes).expect("an answer");
        assert_eq!(datagram.cookie, cookie.as_bytes());
        Got(datagram.body.to_vec())
    }

    fn offer(&mut self, sdp: &str) -> String {
        self.ask(&offer(sdp)).sdp()
    }

    fn answer(&mut self, sdp: &str) -> String {
        self.ask(&answer(sdp)).sdp()
    }

    fn pair(&self) -> &ModelPair {
        assert_eq!(self.pairs.len(), 1);
        self.pairs.values().next().expect("one")
    }

    fn pair_id(&self) -> PairId {
        PairId(*self.pairs.keys().next().expect("one"))
    }

    /// Ports that are taken, and open RTCP ports among them.
    fn taken(&self) -> (usize, usize) {
        let taken = &self.relay.ports.taken;
        (taken.len(), taken.values().filter(|taken| taken.rtcp).count())
    }

    /// What holds whenever everything has been answered.
    fn check(&self) {
        assert_eq!(self.relay.pairs(), self.pairs.len());
        assert_eq!(self.taken().0, 2 * self.pairs.len(), "{:?}", self.relay.ports.taken);
        for pair in self.pairs.values() {
            for (port, rtcp) in pair.ports.iter().zip(pair.rtcp) {
                let mut own = self.relay.ports.taken.iter().filter(|((_, one), _)| one == port);
                assert_eq!(own.next().map(|(_, taken)| taken.rtcp), Some(rtcp));
            }
        }
        assert!(self.relay.waiting.is_empty(), "{:?}", self.relay.waiting);
        assert_eq!(self.relay.by_id.len(), self.relay.calls.len());
    }
}

/// The body of an answer.
#[derive(Debug)]
struct Got(Vec<u8>);

impl Got {
    fn reply(&self) -> Reply<'_> {
        Reply::decode(&self.0).expect("an answer")
    }

    #[track_caller]
    fn sdp(&self) -> String {
        let reply = self.reply();
        assert_eq!(reply.outcome, Outcome::Ok, "{}", self.text());
        String::from_utf8(reply.sdp().expect("a description").to_vec()).expect("text")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    #[track_caller]
    fn error(&self) -> String {
        match self.reply().outcome {
            Outcome::Error(reason) => String::from_utf8_lossy(reason).into_owned(),
            other => panic!("no error: {other:?}"),
        }
    }
}

fn offer(sdp: &str) -> Request<'_> {
    Request {
        call_id: Some(b"call"),
        from_tag: Some(b"alice"),
        sdp: Some(sdp.as_bytes()),
        ..Request::new(Command::Offer)
    }
}

fn answer(sdp: &str) -> Request<'_> {
    Request { to_tag: Some(b"bob"), command: Command::Answer, ..offer(sdp) }
}

fn about(command: Command<'static>) -> Request<'static> {
    Request { call_id: Some(b"call"), ..Request::new(command) }
}

/// Of a phone at that address: audio at that port.
fn audio(address: &str, port: u16) -> String {
    let family = if address.contains(':') { "IP6" } else { "IP4" };
    format!(
        "v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
    )
}

/// Ports of the media descriptions.
fn ports(sdp: &str) -> Vec<u16> {
    let sdp = Sdp::parse(sdp.as_bytes()).expect("a description");
    sdp.medias().filter_map(|media| Some(media.media_line()?.port)).collect()
}

/// Addresses of the media descriptions.
fn addresses(sdp: &str) -> Vec<String> {
    let sdp = Sdp::parse(sdp.as_bytes()).expect("a description");
    let address = |media| sdp.connection_of(media).map(|found| found.text.to_vec());
    let found = sdp.medias().map(|media| address(media).unwrap_or_default());
    found.map(|text| String::from_utf8(text).expect("text")).collect()
}

fn at(address: &str) -> Option<SocketAddr> {
    Some(address.parse().expect("an address"))
}
