//! Secure mode on real sockets: registrars, elements and users with certificates, and those without the right ones.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dialtone_asap_client::{Agent, AgentConfig, Registrar as Known};
use dialtone_cert::{Authority, Request};
use dialtone_daemon::CancellationToken;
use dialtone_pool_user::{Users, UsersConfig};
use dialtone_registrar_ns::Settings;
use dialtone_registrar_ns::core::{Registrar, Snapshot};
use dialtone_registrar_ns::driver::{self, View};
use dialtone_transport::multicast::Announcer;
use dialtone_transport::tls::{Tls, TlsConfig};
use dialtone_transport::{
    ASAP_PORT, ASAP_TLS_PORT, AssocId, DownCause, ENCAPSULATION_PORT, ENRP_TLS_PORT, Endpoint,
    EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote, Secure,
};
use dialtone_wire::asap::Message;
use dialtone_wire::{
    Addrs, CauseCode, PeId, Policy, PoolElement, PoolHandle, SctpTransport, ServerId, Transport,
    TransportUse, UpdateAction, enrp,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
fn now() -> Instant {
    Instant::now()
}

/// An authority, and the folder that its certificates are in. Tests have networks of their own.
struct Pki {
    authority: Authority,
    folder: PathBuf,
    test: u8,
}

impl Pki {
    fn new(test: u8) -> Self {
        let folder =
            std::env::temp_dir().join(format!("dialtone-secure-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self { authority: Authority::create(&folder, 2).unwrap(), folder, test }
    }

    fn ip(&self, host: u8) -> IpAddr {
        IpAddr::from([127, 116, self.test, host])
    }

    fn files(&self, request: &Request) -> TlsConfig {
        self.files_of(&self.authority, request)
    }

    /// By whatever authority; this one is trusted.
    fn files_of(&self, authority: &Authority, request: &Request) -> TlsConfig {
        let name = format!("{:x}", fastrand::u64(..));
        let paths = authority.issue(request).unwrap().write(&self.folder, &name).unwrap();
        let authority = Authority::path(&self.folder);
        TlsConfig {
            certificate: paths.certificate,
            key: paths.key,
            authority,
            ..TlsConfig::default()
        }
    }

    fn ns(&self, host: u8) -> Request {
        Request::registrar(format!("ns{host}.example.org"), self.ip(host), 1)
    }

    async fn registrar(&self, host: u8, peers: &[u8]) -> Running {
        self.registrar_with(host, peers, &self.files(&self.ns(host)), "").await
    }

    async fn registrar_with(
        &self,
        host: u8,
        peers: &[u8],
        files: &TlsConfig,
        more: &str,
    ) -> Running {
        let peers: Vec<_> =
            peers.iter().map(|peer| format!("{:?}", self.ip(*peer).to_string())).collect();
        let text = format!(
            "address = \"{}\"\npeers = [{}]\nalone_after_ms = 500\n[tls]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n{more}\n\
             [tls.access]\necho = [\"a.example.org\", \"b.example.org\"]\n\"*\" = [\"admin.example.org\"]\n",
            self.ip(host),
            peers.join(", "),
            files.certificate,
            files.key,
            files.authority,
        );
        Running::start(host, &text).await
    }

    async fn element(&self, host: u8, name: &str) -> Peer {
        self.element_with(host, self.files(&Request::new(name, 1))).await
    }

    async fn element_with(&self, host: u8, files: TlsConfig) -> Peer {
        let secure = Some(Secure::element(Tls::load(files).unwrap()));
        let addr = SocketAddr::new(self.ip(host), 0);
        Peer::bind(EndpointConfig { secure, ..EndpointConfig::element(addr) }).await
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Running {
    view: View,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(host: u8, text: &str) -> Self {
        let settings: Settings =
            dialtone_daemon::config::parse(Path::new("ns.toml"), text).unwrap();
        let (endpoint, events) = Endpoint::bind(settings.endpoint_config().unwrap()).await.unwrap();
        let rng = fastrand::Rng::with_seed(host.into());
        let core = Registrar::new(now(), settings.core_config(), ServerId(u32::from(host)), rng);
        let (viewed, view) = View::new(&core, now());
        let shutdown = CancellationToken::new();
        let task =
            tokio::spawn(driver::run(core, endpoint, events, None, viewed, shutdown.clone()));
        let mut running = Self { view, shutdown, task };
        running.until("service", |snapshot| snapshot.in_service).await;
        running
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<Snapshot>) -> bool) {
        let found = timeout(LIMIT, self.view.snapshots.wait_for(condition))
            .await
            .map(|found| found.is_ok());
        assert!(found == Ok(true), "{what}: {:?}", self.view.snapshots.borrow());
    }

    /// Elements by identifier, with their homes.
    async fn elements(&self) -> Vec<(u32, u32)> {
        let pools = self.view.pools().await;
        let elements = pools.iter().flat_map(|pool| &pool.elements);
        elements.map(|element| (element.pe_id.0, element.home.0)).collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(LIMIT, self.task).await.expect("stops").unwrap();
    }
}

/// An element or user.
struct Peer {
    endpoint: Endpoint,
    events: mpsc::Receiver<NetEvent>,
    dialled: u64,
    home: AssocId,
}

impl Peer {
    async fn bind(config: EndpointConfig) -> Self {
        let (endpoint, events) = Endpoint::bind(config).await.unwrap();
        Self { endpoint, events, dialled: 0, home: AssocId::dialled(0) }
    }

    fn dial(&mut self, remote: Remote) {
        self.dial_with(Protocol::Asap, remote);
    }

    fn dial_with(&mut self, protocol: Protocol, remote: Remote) {
        self.dialled += 1;
        self.home = AssocId::dialled(self.dialled);
        self.endpoint.execute(NetCommand::Connect { assoc: self.home, protocol, remote });
    }

    /// Dials by TLS, and is up.
    async fn connect(&mut self, addr: SocketAddr) {
        self.dial(Remote { link: Link::Tcp, addr, sctp_port: 0 });
        assert!(matches!(self.next().await, NetEvent::Up { peer: Some(_), .. }));
    }

    async fn next(&mut self) -> NetEvent {
        timeout(LIMIT, self.events.recv()).await.expect("no event").expect("endpoint has ended")
    }

    async fn down(&mut self) -> DownCause {
        match self.next().await {
            NetEvent::Down { cause, .. } => cause,
            event => panic!("{event:?}"),
        }
    }

    fn send(&self, message: &Message<'_>) {
        self.send_bytes(message.encode().unwrap());
    }

    fn send_bytes(&self, payload: Vec<u8>) {
        self.endpoint.execute(NetCommand::Send { assoc: self.home, payload });
    }

    /// The answer to a message that is no keep-alive.
    async fn ask(&mut self, message: &Message<'_>) -> Vec<u8> {
        self.send(message);
        loop {
            match self.next().await {
                NetEvent::Message { payload, .. } if payload[0] == 0x07 => {}
                NetEvent::Message { payload, .. } => return payload,
                event => panic!("{event:?}"),
            }
        }
    }

    async fn register(&mut self, pool: &str, id: u32) -> Option<CauseCode> {
        let answer = self.ask(&registration(pool, id, self.endpoint.local_addr().ip())).await;
        cause(&answer)
    }
}

fn element(id: u32, ip: IpAddr) -> PoolElement<'static> {
    PoolElement {
        pe_id: PeId(id),
        home: ServerId::NONE,
        life: 300,
        transport: Transport::tcp(SocketAddr::new(ip, 5060)),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    }
}

fn registration(pool: &str, id: u32, ip: IpAddr) -> Message<'_> {
    Message::Registration { handle: PoolHandle(pool.as_bytes()), element: element(id, ip) }
}

fn cause(answer: &[u8]) -> Option<CauseCode> {
    match Message::decode(answer).unwrap().message {
        Message::RegistrationResponse { error, .. } => error.map(|error| error.causes[0].code),
        other => panic!("{other:?}"),
    }
}

const QUESTION: Message<'static> =
    Message::HandleResolution { subscribe: false, handle: PoolHandle(b"echo"), items: None };

fn asap_tls(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, ASAP_TLS_PORT)
}

/// Proves S-019.
#[tokio::test]
async fn certificates_open_the_pools_that_they_are_granted() {
    let pki = Pki::new(1);
    let mut registrar = pki.registrar(1, &[]).await;
    let mut element = pki.element(2, "a.example.org").await;
    element.connect(asap_tls(pki.ip(1))).await;
    assert_eq!(element.register("other", 7).await, Some(CauseCode::SECURITY), "the wrong pool");
    registrar.until("refused", |snapshot| snapshot.counters.rejects == 1).await;
    assert_eq!(registrar.elements().await, []);
    assert_eq!(element.register("echo", 7).await, None);
    registrar.until("registered", |snapshot| snapshot.elements == 1).await;
    // A user needs a certificate, too, but no pool.
    let mut user = pki.element(3, "user.example.org").await;
    user.connect(asap_tls(pki.ip(1))).await;
    assert_eq!(user.register("echo", 8).await, Some(CauseCode::SECURITY));
    let answer = user.ask(&QUESTION).await;
    let Message::HandleResolutionResponse { outcome: Ok(found), .. } =
        Message::decode(&answer).unwrap().message
    else {
        panic!("{answer:?}");
    };
    assert_eq!(found.elements[0].pe_id, PeId(7));
    // The element ends; nobody dials it.
    drop(element);
    registrar.until("gone", |snapshot| snapshot.elements == 0).await;
    registrar.stop().await;
}

#[tokio::test]
async fn an_identifier_under_another_name_is_refused() {
    let pki = Pki::new(2);
    let mut registrars = [pki.registrar(1, &[2]).await, pki.registrar(2, &[1]).await];
    let mut owner = pki.element(3, "a.example.org").await;
    owner.connect(asap_tls(pki.ip(1))).await;
    assert_eq!(owner.register("echo", 7).await, None);
    for (n, registrar) in (1..).zip(&mut registrars) {
        registrar.until("known", |snapshot| snapshot.elements == 1).await;
        let mut thief = pki.element(4, "b.example.org").await;
        thief.connect(asap_tls(pki.ip(n))).await;
        assert_eq!(
            thief.register("echo", 7).await,
            Some(CauseCode::NON_UNIQUE_PE_IDENTIFIER),
            "registrar {n}"
        );
        assert_eq!(thief.register("echo", 8 + u32::from(n)).await, None, "its own");
    }
    for registrar in registrars {
        registrar.stop().await;
    }
}

/// Proves S-017, S-032.
#[tokio::test]
async fn plain_peers_at_a_secure_registrar() {
    let pki = Pki::new(3);
    for (host, more, answered) in [(1, "", false), (2, "plain_resolutions = true", true)] {
        let mut registrar = pki.registrar_with(host, &[], &pki.files(&pki.ns(host)), more).await;
        let mut element = pki.element(3, "a.example.org").await;
        element.connect(asap_tls(pki.ip(host))).await;
        assert_eq!(element.register("echo", 7).await, None);

        // TCP: told why.
        let mut plain = Peer::bind(EndpointConfig::element(SocketAddr::new(pki.ip(9), 0))).await;
        let addr = SocketAddr::new(pki.ip(host), ASAP_PORT);
        plain.dial(Remote { link: Link::Tcp, addr, sctp_port: 0 });
        assert!(matches!(plain.next().await, NetEvent::Up { peer: None, .. }));
        assert_eq!(plain.register("echo", 8).await, Some(CauseCode::SECURITY));
        let answer = plain.ask(&QUESTION).await;
        let Message::HandleResolutionResponse { outcome, .. } =
            Message::decode(&answer).unwrap().message
        else {
            panic!("{answer:?}");
        };
        assert_eq!(
            outcome.map_err(|error| error.causes[0].code).err(),
            (!answered).then_some(CauseCode::SECURITY)
        );
        // SCTP: nobody there.
        let addr = SocketAddr::new(pki.ip(host), ENCAPSULATION_PORT);
        plain.dial(Remote { link: Link::Sctp, addr, sctp_port: 3863 });
        assert_eq!(plain.down().await, DownCause::Unreachable);
        // At the doors of TLS: hung up on.
        for port in [ASAP_TLS_PORT, ENRP_TLS_PORT] {
            let mut stream = TcpStream::connect((pki.ip(host), port)).await.unwrap();
            let bytes = registration("echo", 8, pki.ip(9)).encode().unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("hung up");
            assert!(answer.first().is_none_or(|kind| *kind == 21), "an alert at most: {answer:?}");
        }
        let unprotected = if answered { 1 } else { 2 };
        registrar.until("counted", |snapshot| snapshot.counters.unprotected == unprotected).await;
        assert_eq!(registrar.elements().await, [(7, u32::from(host))]);
        registrar.stop().await;
    }
}

#[tokio::test]
async fn secure_peers_at_a_plain_registrar() {
    let pki = Pki::new(4);
    let registrar =
        Running::start(1, &format!("address = \"{}\"\nalone_after_ms = 0", pki.ip(1))).await;
    let mut element = pki.element(2, "a.example.org").await;
    // Where a secure one would be, where TCP is, where SCTP is.
    for (link, addr, cause) in [
        (Link::Tcp, asap_tls(pki.ip(1)), DownCause::Unreachable),
        (Link::Tcp, SocketAddr::new(pki.ip(1), ASAP_PORT), DownCause::TimedOut),
        (Link::Sctp, SocketAddr::new(pki.ip(1), ENCAPSULATION_PORT), DownCause::Local),
    ] {
        element.dial(Remote { link, addr, sctp_port: 3863 });
        assert_eq!(element.down().await, cause, "{addr}");
    }
    // A secure registrar does not find it either, and goes on alone.
    let other = pki.registrar(3, &[1]).await;
    assert!(
        other.view.snapshots.borrow().peers.is_empty()
            && registrar.view.snapshots.borrow().peers.is_empty()
    );
    for registrar in [registrar, other] {
        assert_eq!(registrar.elements().await, []);
        registrar.stop().await;
    }
}

/// Proves S-021, S-033.
#[tokio::test]
async fn only_registrars_become_peers() {
    let pki = Pki::new(5);
    let mut one = pki.registrar(1, &[2, 3, 4, 5]).await;
    // With an element's certificate, even one with the right address; by another authority; with another address.
    let element = Request { ips: vec![pki.ip(3)], ..Request::new("a.example.org", 1) };
    let stranger = Authority::new(1).unwrap();
    let mut pretenders = Vec::new();
    for (host, files) in [
        (3, pki.files(&element)),
        (4, pki.files_of(&stranger, &pki.ns(4))),
        (5, pki.files(&Request::registrar("ns9.example.org", pki.ip(9), 1))),
    ] {
        pretenders.push(pki.registrar_with(host, &[1], &files, "").await);
    }
    let mut two = pki.registrar(2, &[1]).await;
    for registrar in [&mut one, &mut two] {
        registrar.until("each other", |snapshot| snapshot.peers.len() == 1).await;
    }
    let mut element = pki.element(20, "a.example.org").await;
    element.connect(asap_tls(pki.ip(2))).await;
    assert_eq!(element.register("echo", 7).await, None);
    one.until("told by its peer", |snapshot| snapshot.elements == 1).await;
    assert_eq!(one.elements().await, [(7, 2)]);
    assert_eq!(one.view.snapshots.borrow().peers.len(), 1);
    for pretender in pretenders {
        assert!(pretender.view.snapshots.borrow().peers.is_empty());
        assert_eq!(pretender.elements().await, []);
        pretender.stop().await;
    }
    // The home dies; its element finds the other one.
    two.task.abort();
    assert_eq!(element.down().await, DownCause::Aborted);
    element.connect(asap_tls(pki.ip(1))).await;
    assert_eq!(element.register("echo", 7).await, None);
    one.until("taken", |snapshot| snapshot.owned == 1).await;
    one.stop().await;
}

/// Carries one connection from `listener` to `to` and keeps what the dialler sent; a bit of it is changed when that is
/// asked for.
async fn wiretap(
    listener: &TcpListener,
    to: SocketAddr,
) -> (JoinHandle<()>, watch::Receiver<Vec<u8>>, Arc<AtomicBool>) {
    let (mut caller, _) = listener.accept().await.unwrap();
    // From where the dialler is, as a router does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(listener.local_addr().unwrap().ip(), 0)).unwrap();
    let mut callee = socket.connect(to).await.unwrap();
    let (heard, tape) = watch::channel(Vec::new());
    let spoil = Arc::new(AtomicBool::new(false));
    let spoilt = Arc::clone(&spoil);
    let task = tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
        loop {
            tokio::select! {
                length = caller.read(&mut up) => match length {
                    Ok(length) if length > 0 => {
                        heard.send_modify(|tape| tape.extend_from_slice(&up[..length]));
                        up[length - 1] ^= u8::from(spoilt.load(Ordering::Relaxed));
                        callee.write_all(&up[..length]).await.unwrap();
                    }
                    _ => return,
                },
                length = callee.read(&mut down) => match length {
                    Ok(length) if length > 0 => caller.write_all(&down[..length]).await.unwrap(),
                    _ => return,
                },
            }
        }
    });
    (task, tape, spoil)
}

/// What was recorded of a registration means nothing on another connection; nor does it twice on the same one.
///
/// Proves S-024.
#[tokio::test]
async fn a_replayed_registration_changes_nothing() {
    let pki = Pki::new(6);
    let mut registrar = pki.registrar(1, &[]).await;
    let listener = TcpListener::bind((pki.ip(50), 0)).await.unwrap();
    let files = pki.files(&Request::new("a.example.org", 1));
    let files = TlsConfig { registrar_names: vec!["ns1.example.org".to_owned()], ..files };
    let mut element = pki.element_with(50, files).await;
    element.dial(Remote { link: Link::Tcp, addr: listener.local_addr().unwrap(), sctp_port: 0 });
    let (carrier, tape, _) = wiretap(&listener, asap_tls(pki.ip(1))).await;
    assert!(matches!(element.next().await, NetEvent::Up { .. }));
    let handshake = tape.borrow().len();
    assert_eq!(element.register("echo", 7).await, None);
    let recorded = tape.borrow().clone();
    let registration = recorded[handshake..].to_vec();
    assert!(registration.len() > 60, "a record with a registration: {}", registration.len());
    let leave = Message::Deregistration { handle: PoolHandle(b"echo"), pe_id: PeId(7) };
    element.ask(&leave).await;
    registrar.until("gone", |snapshot| snapshot.counters.deregistrations == 1).await;

    // All of it, on a new connection; and the record by itself.
    for bytes in [&recorded, &registration] {
        let mut again = TcpStream::connect(asap_tls(pki.ip(1))).await.unwrap();
        again.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LIMIT, again.read_to_end(&mut answer)).await.expect("hung up");
    }
    carrier.abort();
    registrar.until("the connection ended", |snapshot| snapshot.clients == 0).await;
    let counters = registrar.view.snapshots.borrow().counters;
    assert_eq!(
        (registrar.elements().await, counters.registrations, counters.rejects),
        (vec![], 1, 0)
    );
    registrar.stop().await;
}

/// On the way nobody reads what is said, and who changes a bit of it ends the connection; nothing of it is taken.
///
/// Proves S-026, S-027.
#[tokio::test]
async fn what_is_changed_on_the_way_is_not_taken_and_nobody_reads_it() {
    let pki = Pki::new(9);
    let mut registrar = pki.registrar(1, &[]).await;
    let listener = TcpListener::bind((pki.ip(50), 0)).await.unwrap();
    let files = pki.files(&Request::new("a.example.org", 1));
    let files = TlsConfig { registrar_names: vec!["ns1.example.org".to_owned()], ..files };
    let mut element = pki.element_with(50, files).await;
    let remote = Remote { link: Link::Tcp, addr: listener.local_addr().unwrap(), sctp_port: 0 };
    for spoilt in [false, true] {
        element.dial(remote);
        let (carrier, tape, spoil) = wiretap(&listener, asap_tls(pki.ip(1))).await;
        assert!(matches!(element.next().await, NetEvent::Up { .. }));
        spoil.store(spoilt, Ordering::Relaxed);
        let handshake = tape.borrow().len();
        if spoilt {
            element.send(&registration("echo", 8, pki.ip(50)));
        } else {
            assert_eq!(element.register("echo", 7).await, None);
            carrier.abort();
        }
        // Keep-alives may have come before.
        while !matches!(element.next().await, NetEvent::Down { .. }) {}
        let said = tape.borrow()[handshake..].to_vec();
        assert!(said.len() > 60, "a record with a registration: {}", said.len());
        assert!(!said.windows(4).any(|bytes| bytes == b"echo"), "{said:?}");
        let ended = |snapshot: &Arc<Snapshot>| {
            (snapshot.clients, snapshot.counters.registrations) == (0, 1)
        };
        registrar.until("one registration, and the connection ended", ended).await;
    }
    let known = registrar.elements().await;
    assert!(known.iter().all(|(pe_id, _)| *pe_id != 8), "{known:?}");
    let counters = registrar.view.snapshots.borrow().counters;
    assert_eq!((counters.registrations, counters.rejects), (1, 0));
    registrar.stop().await;
}

/// Between registrars likewise.
///
/// Proves S-026, S-027.
#[tokio::test]
async fn what_is_changed_between_registrars_is_not_taken_and_nobody_reads_it() {
    let pki = Pki::new(10);
    let mut registrar = pki.registrar(1, &[2]).await;
    let listener = TcpListener::bind((pki.ip(2), 0)).await.unwrap();
    let files = pki.files(&pki.ns(2));
    let files = TlsConfig { registrar_names: vec!["ns1.example.org".to_owned()], ..files };
    let mut peer = pki.element_with(2, files).await;
    let remote = Remote { link: Link::Tcp, addr: listener.local_addr().unwrap(), sctp_port: 0 };
    let enrp = SocketAddr::new(pki.ip(1), ENRP_TLS_PORT);
    for (id, spoilt) in [(7, false), (8, true)] {
        peer.dial_with(Protocol::Enrp, remote);
        let (carrier, tape, spoil) = wiretap(&listener, enrp).await;
        assert!(matches!(peer.next().await, NetEvent::Up { .. }));
        spoil.store(spoilt, Ordering::Relaxed);
        let handshake = tape.borrow().len();
        let transport = SctpTransport {
            port: ASAP_PORT,
            use_: TransportUse::DATA_ONLY,
            addrs: Addrs::from(pki.ip(2)),
        };
        let added = PoolElement {
            home: ServerId(2),
            asap_transport: Some(transport),
            ..element(id, pki.ip(60))
        };
        let update = enrp::Message {
            sender: ServerId(2),
            receiver: ServerId(1),
            body: enrp::Body::HandleUpdate {
                takeover_suggested: false,
                action: UpdateAction::ADD_PE,
                handle: PoolHandle(b"echo"),
                element: Box::new(added),
            },
        };
        peer.send_bytes(update.encode().unwrap());
        if spoilt {
            while !matches!(peer.next().await, NetEvent::Down { .. }) {}
        } else {
            registrar.until("told", |snapshot| snapshot.elements == 1).await;
            carrier.abort();
            while !matches!(peer.next().await, NetEvent::Down { .. }) {}
        }
        let said = tape.borrow()[handshake..].to_vec();
        assert!(said.len() > 60, "a record with an update: {}", said.len());
        assert!(!said.windows(4).any(|bytes| bytes == b"echo"), "{said:?}");
    }
    let known = registrar.elements().await;
    assert!(known.iter().all(|(pe_id, _)| *pe_id != 8), "{known:?}");
    registrar.stop().await;
}

/// Whoever says by multicast to be a registrar is one if its certificate says so, too: a registrar of another authority,
/// and an element that has a certificate of this one, are dialled and left.
///
/// Proves S-023, S-028.
#[tokio::test]
async fn an_announced_registrar_has_to_prove_what_it_is() {
    let pki = Pki::new(7);
    let foreign = Pki::new(8);
    let registrar = pki.registrar(1, &[]).await;
    let other_authority = pki.files_of(&foreign.authority, &pki.ns(2));
    let element = pki.files(&Request::new("b.example.org", 1));
    let mut pretenders = Vec::new();
    for (host, files) in [(2, other_authority), (3, element)] {
        let running = pki.registrar_with(host, &[], &files, "").await;
        let listener = TcpListener::bind((pki.ip(host), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dials, dialled) = watch::channel(0);
        let to = asap_tls(pki.ip(host));
        let carrier = tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                dials.send_modify(|dials| *dials += 1);
                let mut callee = TcpStream::connect(to).await.unwrap();
                // How it ends is the business of both ends.
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut callee).await;
            }
        });
        pretenders.push((running, address, dialled, carrier));
    }

    let group = SocketAddr::from(([239, 201, 116, pki.test], ASAP_PORT));
    let files = pki.files(&Request::new("user.example.org", 1));
    let config = AgentConfig::telephony(pki.ip(10), [Known::Multicast(Some(group))]);
    let users = Users::new(UsersConfig::telephony());
    let agent = Agent::start(config.secured(Some(&files)).unwrap(), users).await.unwrap();
    let mut home = agent.home();
    let announcer = Announcer::bind(group, pki.ip(9), 1).unwrap();
    let announce = async |addresses: &[SocketAddr]| {
        let transports = addresses.iter().copied().map(Transport::tcp).collect();
        let message = Message::ServerAnnounce { server_id: ServerId(9), transports };
        announcer.send(&message.encode().unwrap()).await.unwrap();
    };

    let addresses: Vec<_> = pretenders.iter().map(|pretender| pretender.1).collect();
    announce(&addresses).await;
    for (_, address, dialled, _) in &mut pretenders {
        let often = timeout(LIMIT, dialled.wait_for(|dials| *dials >= 2)).await;
        assert!(often.is_ok_and(|often| often.is_ok()), "{address} is tried, and tried again");
    }
    assert_eq!(*home.borrow(), None);
    announce(&[&addresses[..], &[asap_tls(pki.ip(1))]].concat()).await;
    let found = timeout(LIMIT, home.wait_for(Option::is_some)).await.expect("no home");
    let found = *found.unwrap();
    assert_eq!(found.map(|home| home.remote.addr), Some(asap_tls(pki.ip(1))));
    agent.stop().await;
    for (running, _, _, carrier) in pretenders {
        carrier.abort();
        running.stop().await;
    }
    registrar.stop().await;
}
