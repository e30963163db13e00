//! Sessions between users and elements on loopback: control and data on one association.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dialtone_transport::{
    ASAP_PORT, AssocId, DownCause, Endpoint, EndpointConfig, NetCommand, NetEvent, Remote,
    SessionCommand, SessionEvent, SessionLimits, SessionSocket, session::session_remote,
};
use dialtone_wire::{Transport, TransportUse};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7;
const ASAP: u32 = 11;

struct Peer {
    endpoint: Endpoint,
    events: Receiver<NetEvent>,
    sessions: SessionSocket,
}

impl Peer {
    async fn bind(test: u8, host: u8, limits: SessionLimits) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::new(127, 202, test, host), 0));
        let config = EndpointConfig { sessions: Some(limits), ..EndpointConfig::element(addr) };
        let (mut endpoint, events) = Endpoint::bind(config).await.unwrap();
        let sessions = endpoint.take_sessions().unwrap();
        assert!(endpoint.take_sessions().is_none());
        Self { endpoint, events, sessions }
    }

    async fn element(test: u8) -> Self {
        Self::bind(test, 1, SessionLimits::element(PORT)).await
    }

    async fn user(test: u8) -> Self {
        Self::bind(test, 2, SessionLimits::user()).await
    }

    fn remote(&self, port: u16) -> Remote {
        let addr = self.endpoint.local_addr();
        session_remote(addr.ip(), port, addr.port())
    }

    async fn next(&mut self) -> SessionEvent {
        timeout(LIMIT, self.sessions.recv()).await.expect("no event").expect("endpoint has ended")
    }

    async fn dial(&mut self, n: u64, remote: Remote) -> AssocId {
        let assoc = AssocId::session(n);
        self.sessions.execute(SessionCommand::Connect { assoc, remote });
        assert_eq!(self.next().await, SessionEvent::Up { assoc, remote });
        assoc
    }

    async fn accept(&mut self) -> AssocId {
        match self.next().await {
            SessionEvent::Up { assoc, .. } => assoc,
            event => panic!("{event:?}"),
        }
    }

    fn data(&self, assoc: AssocId, ppid: u32, payload: &[u8], number: Option<u64>) {
        let payload = payload.to_vec();
        let command = SessionCommand::Data { assoc, ppid, payload, unordered: false, number };
        self.sessions.execute(command);
    }

    fn control(&self, assoc: AssocId, payload: &[u8]) {
        self.sessions.execute(SessionCommand::Control { assoc, payload: payload.to_vec() });
    }
}

/// Proves A-151.
#[tokio::test]
async fn control_and_data_share_an_association_in_order() {
    let (mut element, mut user) = (Peer::element(1).await, Peer::user(1).await);
    let Some(Transport::Sctp(transport)) = element.sessions.transport() else { panic!("SCTP") };
    assert_eq!((transport.port, transport.use_), (PORT, TransportUse::DATA_PLUS_CONTROL));
    assert_eq!(transport.addrs[..], [element.endpoint.local_addr().ip()]);
    assert_eq!(user.sessions.transport(), None);

    let there = user.dial(1, element.remote(PORT)).await;
    let here = element.accept().await;
    assert!(here.is_session() && !here.is_dialled());
    user.control(there, b"echo");
    user.data(there, 0, b"one", Some(1));
    user.data(there, 34, &[7; 60_000], Some(2));
    let data =
        |ppid, payload: &[u8]| SessionEvent::Data { assoc: here, ppid, payload: payload.to_vec() };
    let echo = SessionEvent::Control { assoc: here, payload: b"echo".to_vec() };
    assert_eq!(element.next().await, echo);
    assert_eq!(element.next().await, data(0, b"one"));
    assert_eq!(element.next().await, data(34, &[7; 60_000]));
    for number in [1, 2] {
        assert_eq!(user.next().await, SessionEvent::Delivered { assoc: there, number });
    }

    element.control(here, b"cookie");
    element.data(here, 0, b"answer", None);
    let cookie = SessionEvent::Control { assoc: there, payload: b"cookie".to_vec() };
    assert_eq!(user.next().await, cookie);
    let answer = SessionEvent::Data { assoc: there, ppid: 0, payload: b"answer".to_vec() };
    assert_eq!(user.next().await, answer);

    user.sessions.execute(SessionCommand::Shutdown { assoc: there });
    assert_eq!(user.next().await, SessionEvent::Down { assoc: there, cause: DownCause::Local });
    let down = SessionEvent::Down { assoc: here, cause: DownCause::Closed };
    assert_eq!(element.next().await, down);
    assert!(element.events.try_recv().is_err() && user.events.try_recv().is_err());
}

/// The far end is an ASAP port, which takes messages with ASAP's identifier and counts all others.
///
/// Proves.
#[tokio::test]
async fn control_has_the_identifier_of_asap_and_data_never_has() {
    let (mut registrar, mut user) = (Peer::element(2).await, Peer::user(2).await);
    let assoc = user.dial(1, registrar.remote(ASAP_PORT)).await;
    let up = timeout(LIMIT, registrar.events.recv()).await.unwrap();
    let Some(NetEvent::Up { assoc: here, .. }) = up else { panic!("{up:?}") };
    user.data(assoc, ASAP, b"forbidden", None);
    user.data(assoc, ASAP, b"forbidden", Some(1));
    user.data(assoc, 0, b"data", None);
    user.control(assoc, b"control");
    let message = timeout(LIMIT, registrar.events.recv()).await.unwrap();
    let control = NetEvent::Message { assoc: here, payload: b"control".to_vec() };
    assert_eq!(message, Some(control));
    assert_eq!(registrar.endpoint.counters().wrong_ppid, 1);
    assert_eq!(user.endpoint.counters().sends_dropped, 2);
}

#[tokio::test]
async fn a_consumer_that_does_not_read_makes_its_sender_wait_and_nobody_else() {
    let limits = SessionLimits { event_queue: 4, ..SessionLimits::element(PORT) };
    let (mut element, mut user) = (Peer::bind(3, 1, limits).await, Peer::user(3).await);
    let assoc = user.dial(1, element.remote(PORT)).await;
    let here = element.accept().await;
    let count = 300u64;
    for number in 1..=count {
        user.data(assoc, 0, &[number as u8; 3_000], Some(number));
    }
    // A registrar talks to the same endpoint meanwhile.
    let asap = AssocId::dialled(1);
    let remote = element.remote(ASAP_PORT);
    let protocol = dialtone_transport::Protocol::Asap;
    user.endpoint.execute(NetCommand::Connect { assoc: asap, protocol, remote });
    let up = timeout(LIMIT, user.events.recv()).await.unwrap();
    assert_eq!(up, Some(NetEvent::Up { assoc: asap, protocol, remote, peer: None }));
    user.endpoint.execute(NetCommand::Send { assoc: asap, payload: b"alive".to_vec() });
    loop {
        match timeout(LIMIT, element.events.recv()).await.unwrap() {
            Some(NetEvent::Message { payload, .. }) => break assert_eq!(payload, b"alive"),
            event => assert!(matches!(event, Some(NetEvent::Up { .. })), "{event:?}"),
        }
    }
    // What was acknowledged stands in the channel, the stack and the receive window: not everything.
    let mut delivered = 0;
    while let Ok(event) = timeout(Duration::from_millis(300), user.sessions.recv()).await {
        assert!(matches!(event, Some(SessionEvent::Delivered { .. })), "{event:?}");
        delivered += 1;
    }
    assert!((1..count).contains(&delivered), "{delivered} of {count}");
    for number in 1..=count {
        let payload = vec![number as u8; 3_000];
        assert_eq!(element.next().await, SessionEvent::Data { assoc: here, ppid: 0, payload });
    }
    while delivered < count {
        assert!(matches!(user.next().await, SessionEvent::Delivered { .. }));
        delivered += 1;
    }
}

#[tokio::test]
async fn messages_on_hold_stay_with_their_association() {
    let (mut element, mut user) = (Peer::element(5).await, Peer::user(5).await);
    let remote = element.remote(PORT);
    let held = user.dial(1, remote).await;
    let here = element.accept().await;
    let free = user.dial(2, remote).await;
    let other = element.accept().await;
    element.sessions.execute(SessionCommand::Hold { assoc: here });
    // Held before the other one's answer: commands are executed in order.
    element.data(other, 0, b"held", None);
    assert!(matches!(user.next().await, SessionEvent::Data { .. }));
    user.data(held, 0, b"late", Some(1));
    assert_eq!(user.next().await, SessionEvent::Delivered { assoc: held, number: 1 });
    user.data(free, 0, b"early", None);
    let early = SessionEvent::Data { assoc: other, ppid: 0, payload: b"early".to_vec() };
    assert_eq!(element.next().await, early);
    element.sessions.execute(SessionCommand::Release { assoc: here });
    let late = SessionEvent::Data { assoc: here, ppid: 0, payload: b"late".to_vec() };
    assert_eq!(element.next().await, late);
}

#[tokio::test]
async fn sessions_have_a_limit_of_their_own_and_a_port_of_their_own() {
    let limits = SessionLimits { max_associations: 1, ..SessionLimits::element(PORT) };
    let (mut element, mut user) = (Peer::bind(4, 1, limits).await, Peer::user(4).await);
    let remote = element.remote(PORT);
    user.dial(1, remote).await;
    element.accept().await;
    let refused = AssocId::session(2);
    user.sessions.execute(SessionCommand::Connect { assoc: refused, remote });
    let down = SessionEvent::Down { assoc: refused, cause: DownCause::Aborted };
    assert_eq!(user.next().await, down);

    for port in [0, ASAP_PORT] {
        let config = EndpointConfig {
            sessions: Some(SessionLimits::element(port)),
            ..EndpointConfig::element(SocketAddr::from((Ipv4Addr::new(127, 202, 4, 9), 0)))
        };
        let error = Endpoint::bind(config).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
