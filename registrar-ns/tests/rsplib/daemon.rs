//! A part on sockets: a registrar with its driver, and an endpoint for each of the others. They say what they said in the
//! capture, without its pauses: who asks waits for the answer.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use dialtone_daemon::CancellationToken;
use dialtone_registrar_ns::core::{Config, Limits, Registrar, TimerConfig};
use dialtone_registrar_ns::driver::{self, View};
use dialtone_transport::{
    ASAP_PORT, AssocId, ENCAPSULATION_PORT, ENRP_PORT, Endpoint, EndpointConfig, Link, NetCommand,
    NetEvent, Protocol, Remote,
};
use dialtone_wire::{AsapType, Compat, EnrpType};
use tokio::sync::mpsc;

use crate::compare::{Found, fields, listed, name};
use crate::pcap::FAILOVER;
use crate::script::{Line, Part, Place, Step, host};

const LIMIT: Duration = Duration::from_secs(20);

/// 10.99.0.n of the capture is 127.99.0.n here.
fn local(address: Ipv4Addr) -> IpAddr {
    let [_, b, c, d] = address.octets();
    IpAddr::from([127, b, c, d])
}

/// The same in address parameters.
fn rewritten(payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    for at in 0..payload.len().saturating_sub(7) {
        if payload[at..at + 7] == [0x00, 0x01, 0x00, 0x08, 10, 99, 0] {
            payload[at + 4] = 127;
        }
    }
    payload
}

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
fn now() -> Instant {
    Instant::now()
}

/// One of the others, with its association.
struct Other {
    endpoint: Endpoint,
    events: mpsc::Receiver<NetEvent>,
    place: Place,
}

const ASSOC: AssocId = AssocId::dialled(0);

impl Other {
    async fn dial(place: Place, registrar: IpAddr) -> Self {
        let Place::Association { own, peer } = place else { panic!("the group does not dial") };
        let addr = local(*peer.ip());
        let (protocol, config) = if own == ENRP_PORT {
            let udp = SocketAddr::new(addr, ENCAPSULATION_PORT);
            (Protocol::Enrp, EndpointConfig::registrar(udp, None))
        } else {
            (Protocol::Asap, EndpointConfig::element(SocketAddr::new(addr, 0)))
        };
        let (endpoint, events) = Endpoint::bind(config).await.unwrap();
        let addr = SocketAddr::new(registrar, ENCAPSULATION_PORT);
        let remote = Remote { link: Link::Sctp, addr, sctp_port: own };
        endpoint.execute(NetCommand::Connect { assoc: ASSOC, protocol, remote });
        let mut other = Self { endpoint, events, place };
        let up = tokio::time::timeout(LIMIT, other.events.recv()).await.expect("an answer");
        assert!(matches!(up, Some(NetEvent::Up { .. })), "{up:?}");
        other
    }

    /// The next message of this type, without its first flag.
    async fn hear(&mut self, kind: u8) -> Line {
        let next = async {
            loop {
                match self.events.recv().await {
                    Some(NetEvent::Message { payload, .. })
                        if payload[0] == kind && payload[1] & 1 == 0 =>
                    {
                        return payload;
                    }
                    Some(NetEvent::Message { .. }) => {}
                    event => panic!("{:?}: {event:?}", self.place),
                }
            }
        };
        let payload = tokio::time::timeout(LIMIT, next).await.expect("said in time");
        Line { at: Duration::ZERO, place: self.place, payload }
    }
}

/// The type of the answer, if there is one.
fn answer(place: Place, question: &[u8]) -> Option<u8> {
    if place.is_asap() {
        return match AsapType(question[0]) {
            AsapType::REGISTRATION => Some(AsapType::REGISTRATION_RESPONSE.0),
            AsapType::DEREGISTRATION => Some(AsapType::DEREGISTRATION_RESPONSE.0),
            AsapType::HANDLE_RESOLUTION => Some(AsapType::HANDLE_RESOLUTION_RESPONSE.0),
            _ => None,
        };
    }
    match EnrpType(question[0]) {
        EnrpType::PRESENCE => (question[1] & 1 != 0).then_some(EnrpType::PRESENCE.0),
        EnrpType::LIST_REQUEST => Some(EnrpType::LIST_RESPONSE.0),
        EnrpType::HANDLE_TABLE_REQUEST => Some(EnrpType::HANDLE_TABLE_RESPONSE.0),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_11_on_sockets() {
    let part = Part::new(FAILOVER, host(11));
    let address = local(part.own);
    let udp = SocketAddr::new(address, ENCAPSULATION_PORT);
    let tcp = SocketAddr::new(address, ASAP_PORT);
    let (endpoint, events) =
        Endpoint::bind(EndpointConfig::registrar(udp, Some(tcp))).await.unwrap();
    let config = Config {
        compat: Compat::Rsplib,
        limits: Limits { default_items: 3, ..Limits::default() },
        // Nobody here answers keep-alives, or is heard again and again.
        timers: TimerConfig { keep_alive: Duration::from_secs(600), ..TimerConfig::rfc() },
        ..Config::new(address)
    };
    let id = part.id_of(part.own);
    let core = Registrar::new(now(), config, id, fastrand::Rng::with_seed(1));
    let (viewed, mut view) = View::new(&core, now());
    let shutdown = CancellationToken::new();
    let driver = tokio::spawn(driver::run(core, endpoint, events, None, viewed, shutdown.clone()));
    let served = tokio::time::timeout(LIMIT, view.snapshots.wait_for(|now| now.in_service)).await;
    drop(served.expect("service begins").unwrap());

    // What rsplib said, by place and type.
    let mut lines: BTreeMap<(Place, u8), VecDeque<&Line>> = BTreeMap::new();
    for line in part.lines.iter().filter(|line| line.payload[1] & 1 == 0) {
        lines.entry((line.place, line.payload[0])).or_default().push_back(line);
    }
    let peer = Place::Association { own: ENRP_PORT, peer: SocketAddrV4::new(host(12), ENRP_PORT) };
    let mut others: BTreeMap<Place, Other> = BTreeMap::new();
    let mut found = Found::new();
    for (_, place, step) in &part.steps {
        let payload = match step {
            Step::Dialled => {
                others.insert(*place, Other::dial(*place, address).await);
                continue;
            }
            Step::Message(payload) if *place != Place::Group => payload,
            _ => continue,
        };
        let other = others.get_mut(place).expect("it has dialled");
        other.endpoint.execute(NetCommand::Send { assoc: ASSOC, payload: rewritten(payload) });
        let Some(kind) = answer(*place, payload) else { continue };
        let mut heard = vec![(*place, kind)];
        let changes = [AsapType::REGISTRATION.0, AsapType::DEREGISTRATION.0];
        if place.is_asap() && changes.contains(&payload[0]) && others.contains_key(&peer) {
            heard.push((peer, EnrpType::HANDLE_UPDATE.0));
        }
        for (place, kind) in heard {
            let ours = others.get_mut(&place).expect("it has dialled").hear(kind).await;
            let theirs = lines.get_mut(&(place, kind)).and_then(VecDeque::pop_front);
            let theirs = theirs.expect("rsplib has answered as well");
            let theirs = Line { payload: rewritten(&theirs.payload), ..theirs.clone() };
            found.extend(fields(&theirs, &ours).into_iter().map(|what| (name(&ours), what)));
        }
    }
    assert_eq!(found, listed("sockets"));
    // Responses and updates have these numbers in both protocols.
    let left: Vec<_> = lines
        .iter()
        .filter(|((_, kind), left)| [3, 4, 6].contains(kind) && !left.is_empty())
        .collect();
    assert!(left.is_empty(), "{left:02x?}");
    for other in others.into_values() {
        other.endpoint.close(true).await;
    }
    shutdown.cancel();
    tokio::time::timeout(LIMIT, driver).await.expect("it stops").unwrap();
}
