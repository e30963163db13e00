//! Secure mode on real sockets: who gets in, who does not, and what strangers cost.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod reload;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dialtone_cert::{Authority, Request};
use dialtone_transport::tls::{Tls, TlsConfig};
use dialtone_transport::{
    AssocId, DownCause, EndpointConfig, Identity, Link, NetCommand, NetEvent, Protocol, Remote,
    Secure,
};
use support::{LIMIT, Peer, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const DAY: Duration = Duration::from_secs(86_400);

fn ip(test: u8, host: u8) -> IpAddr {
    IpAddr::from([127, 115, test, host])
}

/// An authority, and the folder that its certificates are in.
struct Pki {
    authority: Authority,
    folder: PathBuf,
    test: u8,
}

impl Pki {
    fn new(test: u8) -> Self {
        // Tests with the same number would remove each other's files.
        static TAKEN: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
        let free = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(test);
        assert!(free, "another test has number {test}");
        let folder =
            std::env::temp_dir().join(format!("dialtone-tls-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self { authority: Authority::create(&folder, 2).unwrap(), folder, test }
    }

    /// Files of somebody, whose certificate this authority made.
    fn files(&self, request: &Request) -> TlsConfig {
        files(&self.folder, &self.authority, &Authority::path(&self.folder), request)
    }

    async fn registrar(&self, host: u8, config: TlsConfig) -> Peer {
        registrar_at(ip(self.test, host), config).await
    }

    /// The registrar that is host 1, with all as it should be.
    async fn ns1(&self) -> Peer {
        self.registrar(1, self.files(&ns1(self.test))).await
    }

    async fn element(&self, host: u8, config: TlsConfig) -> Peer {
        element_at(ip(self.test, host), config).await
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn registrar_at(ip: IpAddr, config: TlsConfig) -> Peer {
    let addr = SocketAddr::new(ip, 0);
    let secure = Secure::registrar(Tls::load(config).unwrap(), addr, addr);
    let config = EndpointConfig::registrar(addr, Some(addr));
    Peer::bind(EndpointConfig { secure: Some(secure), ..config }).await
}

async fn element_at(ip: IpAddr, config: TlsConfig) -> Peer {
    let secure = Secure::element(Tls::load(config).unwrap());
    let config = EndpointConfig::element(SocketAddr::new(ip, 0));
    Peer::bind(EndpointConfig { secure: Some(secure), ..config }).await
}

fn files(folder: &Path, authority: &Authority, trusted: &Path, request: &Request) -> TlsConfig {
    let name = format!(
        "{}-{:x}",
        request.names.first().map_or("nobody", String::as_str),
        fastrand::u64(..)
    );
    let paths = authority.issue(request).unwrap().write(folder, &name).unwrap();
    TlsConfig {
        certificate: paths.certificate,
        key: paths.key,
        authority: trusted.to_owned(),
        ..TlsConfig::default()
    }
}

fn ns1(test: u8) -> Request {
    Request::registrar("ns1.example.org", ip(test, 1), 1)
}

#[expect(clippy::disallowed_methods, reason = "certificates end in real time")]
fn expired(request: Request) -> Request {
    let now = SystemTime::now();
    Request { not_before: now - 2 * DAY, not_after: now - DAY, ..request }
}

impl Peer {
    fn remote(&self, protocol: Protocol) -> Remote {
        Remote { link: Link::Tcp, addr: self.endpoint.tls_addr(protocol).unwrap(), sctp_port: 0 }
    }

    async fn up(&mut self) -> (AssocId, Identity) {
        match self.next().await {
            NetEvent::Up { assoc, peer: Some(peer), .. } => (assoc, peer),
            event => panic!("{event:?}"),
        }
    }

    /// A dial that this side gives up, since it does not believe the other one.
    async fn does_not_trust(&mut self, what: &str, registrar: &mut Peer) {
        self.dial(registrar.remote(Protocol::Asap));
        assert_eq!(self.down().await.1, DownCause::Aborted, "{what}");
        assert_eq!(self.endpoint.counters().ups, 0, "{what}");
        registrar.saw_nobody(what).await;
    }

    /// A dial that the other side ends. With TLS 1.3 this side is ready before it learns that.
    async fn is_not_trusted(&mut self, what: &str, protocol: Protocol, registrar: &mut Peer) {
        self.dial_with(protocol, registrar.remote(protocol));
        self.up().await;
        assert_eq!(self.down().await.1, DownCause::Aborted, "{what}");
        registrar.saw_nobody(what).await;
    }

    /// A handshake failed here, and nothing came of it.
    async fn saw_nobody(&mut self, what: &str) {
        self.until(what, |endpoint| endpoint.counters().tls_failed > 0).await;
        assert_eq!(
            (self.endpoint.counters().ups, self.events.try_recv().ok()),
            (0, None),
            "{what}"
        );
    }
}

/// ASAP's header around a body.
fn asap(body: usize) -> Vec<u8> {
    let length = 4 + body;
    let mut message = vec![1, 0, (length >> 8) as u8, length as u8];
    message.resize(length.next_multiple_of(4), 7);
    message
}

/// Proves S-001, S-006, S-007, S-008, S-016, S-022.
#[tokio::test]
async fn both_sides_know_each_other_and_messages_pass() {
    let pki = Pki::new(1);
    let mut registrar = pki.ns1().await;
    let mut request = Request::new("Proxy-1.example.org", 1);
    request.names.push("urn:example:proxy".to_owned());
    let mut element = pki.element(2, pki.files(&request)).await;
    let one = element.dial(registrar.remote(Protocol::Asap));
    let (up, peer) = element.up().await;
    assert_eq!((up, peer.name()), (one, Some("ns1.example.org")));
    let (two, peer) = registrar.up().await;
    assert_eq!(peer.names(), ["proxy-1.example.org", "urn:example:proxy"]);
    for body in [0, 1, 1_400, 60_000, 65_531] {
        let message = asap(body);
        element.endpoint.execute(NetCommand::Send { assoc: one, payload: message.clone() });
        assert_eq!(
            registrar.next().await,
            NetEvent::Message { assoc: two, payload: message.clone() }
        );
        registrar.endpoint.execute(NetCommand::Send { assoc: two, payload: message.clone() });
        assert_eq!(element.next().await, NetEvent::Message { assoc: one, payload: message });
    }
    // More than the buffers between them hold, and nobody has to write again for the rest to leave.
    for _ in 0..15 {
        element.endpoint.execute(NetCommand::Send { assoc: one, payload: asap(60_000) });
    }
    for _ in 0..15 {
        assert!(matches!(registrar.next().await, NetEvent::Message { .. }));
    }
    element.endpoint.execute(NetCommand::Shutdown { assoc: one });
    assert_eq!(element.down().await.1, DownCause::Local);
    assert_eq!(registrar.down().await.1, DownCause::Closed);
}

#[tokio::test]
async fn a_process_that_dies_is_no_orderly_end() {
    let pki = Pki::new(2);
    let mut registrar = pki.ns1().await;
    let mut element = pki.element(2, pki.files(&Request::new("proxy-1", 1))).await;
    element.dial(registrar.remote(Protocol::Asap));
    element.up().await;
    registrar.up().await;
    drop(element);
    assert_eq!(registrar.down().await.1, DownCause::Aborted);
}

/// Proves S-018, S-021.
#[tokio::test]
async fn callers_without_the_right_certificate_do_not_get_in() {
    let pki = Pki::new(3);
    let other = Authority::new(1).unwrap();
    let trusted = Authority::path(&pki.folder);
    let by_other = |request: &Request| files(&pki.folder, &other, &trusted, request);
    let element = Request::new("proxy-1.example.org", 1);
    let nobody = Request { names: Vec::new(), ips: vec![ip(3, 2)], ..element.clone() };
    for (what, protocol, config) in [
        ("wrong authority", Protocol::Asap, by_other(&element)),
        ("expired", Protocol::Asap, pki.files(&expired(element.clone()))),
        ("without a name", Protocol::Asap, pki.files(&nobody)),
        ("wrong authority", Protocol::Enrp, by_other(&Request::registrar("ns2", ip(3, 2), 1))),
        ("an element's certificate", Protocol::Enrp, pki.files(&element)),
        (
            "an element's certificate with a registrar's address",
            Protocol::Enrp,
            pki.files(&Request { ips: vec![ip(3, 2)], ..element.clone() }),
        ),
        (
            "a registrar that is no peer",
            Protocol::Enrp,
            pki.files(&Request::registrar("ns3.example.org", ip(3, 3), 1)),
        ),
    ] {
        let peers = vec![ip(3, 2)];
        let mut registrar = pki.registrar(1, TlsConfig { peers, ..pki.files(&ns1(3)) }).await;
        let mut caller = pki.element(2, config).await;
        caller.is_not_trusted(what, protocol, &mut registrar).await;
    }
}

/// Proves S-009, S-011, S-014, S-023.
#[tokio::test]
async fn registrars_with_another_name_are_not_believed() {
    let pki = Pki::new(4);
    let other = Authority::new(1).unwrap();
    let trusted = Authority::path(&pki.folder);
    let good = pki.files(&Request::new("proxy-1.example.org", 1));
    let named = |name: &str| TlsConfig { registrar_names: vec![name.to_owned()], ..good.clone() };
    let wildcard = Request { names: vec!["ns1.example.org".to_owned()], ..ns1(4) };
    for (what, caller, registrar) in [
        ("wrong authority", good.clone(), files(&pki.folder, &other, &trusted, &ns1(4))),
        ("expired", good.clone(), pki.files(&expired(ns1(4)))),
        (
            "another address",
            good.clone(),
            pki.files(&Request::registrar("ns1.example.org", ip(4, 9), 1)),
        ),
        ("another name", named("ns2.example.org"), pki.files(&ns1(4))),
        ("a domain above", named("example.org"), pki.files(&wildcard)),
        (
            "an element's certificate",
            good.clone(),
            pki.files(&Request { registrar: false, ..ns1(4) }),
        ),
    ] {
        let mut registrar = pki.registrar(1, registrar).await;
        let mut caller = pki.element(2, caller).await;
        caller.does_not_trust(what, &mut registrar).await;
    }
}

/// Names are compared label by label, international ones in their ASCII form, and the address does not matter then.
///
/// Proves S-012, S-013.
#[tokio::test]
async fn names_of_registrars_are_compared_as_dns_does() {
    let pki = Pki::new(12);
    let good = pki.files(&Request::new("proxy-1.example.org", 1));
    for (reference, presented, believed) in [
        ("NS1.example.org", "ns1.example.org", true),
        ("bücher.example", "xn--bcher-kva.example", true),
        ("bucher.example", "xn--bcher-kva.example", false),
        ("ns1.example.org", "*.example.org", true),
        ("a.ns1.example.org", "*.example.org", false),
        ("example.org", "*.example.org", false),
    ] {
        let elsewhere = Request::registrar(presented, ip(12, 9), 1);
        let mut registrar = pki.registrar(1, pki.files(&elsewhere)).await;
        let config = TlsConfig { registrar_names: vec![reference.to_owned()], ..good.clone() };
        let mut caller = pki.element(2, config).await;
        if believed {
            caller.dial(registrar.remote(Protocol::Asap));
            caller.up().await;
            registrar.up().await;
        } else {
            caller.does_not_trust(reference, &mut registrar).await;
        }
    }
}

#[tokio::test]
async fn peers_are_registrars_with_the_address_or_name_of_one() {
    let pki = Pki::new(5);
    for names in [vec![], vec!["ns2.example.org".to_owned(), "ns1.example.org".to_owned()]] {
        let config = |host: u8, name: &str| TlsConfig {
            peers: vec![ip(5, 3 - host)],
            registrar_names: names.clone(),
            ..pki.files(&Request::registrar(name, ip(5, host), 1))
        };
        let mut one = pki.registrar(1, config(1, "ns1.example.org")).await;
        let mut two = pki.registrar(2, config(2, "ns2.example.org")).await;
        two.dial_with(Protocol::Enrp, one.remote(Protocol::Enrp));
        assert_eq!(two.up().await.1.name(), Some("ns1.example.org"));
        assert_eq!(one.up().await.1.name(), Some("ns2.example.org"));
    }
}

/// All 16 octets of an IPv6 address count, and 4 never mean the same as 16: not the last ones, and not an IPv4 address
/// that is written as IPv6. Elements look at registrars so, and registrars at each other.
///
/// Proves S-014.
#[tokio::test]
async fn ipv6_addresses_of_registrars_are_compared_octet_by_octet() {
    let pki = Pki::new(15);
    let mapped = "::ffff:127.115.15.1";
    for (dialled, presented, believed) in [
        ("::1", "::1", true),
        ("::1", "::2", false),
        ("::1", "2001:db8::1", false),
        ("::1", "0.0.0.1", false),
        ("127.115.15.1", mapped, false),
    ] {
        let what = format!("{presented} at {dialled}");
        let (dialled, presented): (IpAddr, IpAddr) =
            (dialled.parse().unwrap(), presented.parse().unwrap());
        let named = Request::registrar("ns1.example.org", presented, 1);
        let mut registrar = registrar_at(dialled, pki.files(&named)).await;
        let mut caller = element_at(dialled, pki.files(&Request::new("proxy-1", 1))).await;
        if believed {
            caller.dial(registrar.remote(Protocol::Asap));
            caller.up().await;
            registrar.up().await;
        } else {
            caller.does_not_trust(&what, &mut registrar).await;
        }

        // Now the caller is the registrar whose address is looked at.
        let genuine = Request::registrar("ns2.example.org", dialled, 1);
        let config = TlsConfig { peers: vec![dialled], ..pki.files(&genuine) };
        let mut registrar = registrar_at(dialled, config).await;
        let mut caller = registrar_at(dialled, pki.files(&named)).await;
        if believed {
            caller.dial_with(Protocol::Enrp, registrar.remote(Protocol::Enrp));
            caller.up().await;
            assert_eq!(registrar.up().await.1.name(), Some("ns1.example.org"));
        } else {
            caller.is_not_trusted(&what, Protocol::Enrp, &mut registrar).await;
        }
    }
}

/// A ClientHello of TLS 1.2: no supported_versions.
fn hello_of_tls12() -> Vec<u8> {
    let suites = [0xc0, 0x2b, 0xc0, 0x2f, 0x00, 0x2f];
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17][..], // supported_groups: P-256
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03], // signature_algorithms: ECDSA, SHA-256
    ]
    .concat();
    let mut body = vec![0x03, 0x03];
    body.extend([0x5a; 32]);
    body.push(0);
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(((body.len() + 4) as u16).to_be_bytes());
    record.extend([0x01, 0x00, 0x00, body.len() as u8]);
    record.extend(body);
    record
}

/// Proves S-015.
#[tokio::test]
async fn what_is_not_tls_13_is_refused() {
    let pki = Pki::new(6);
    for protocol in [Protocol::Asap, Protocol::Enrp] {
        for (what, bytes, answer) in [
            ("TLS 1.2", hello_of_tls12(), Some(70)), // protocol_version
            ("plain ASAP", asap(40), None),
            ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        ] {
            let mut registrar = pki.ns1().await;
            let mut stream =
                TcpStream::connect(registrar.endpoint.tls_addr(protocol).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut got = Vec::new();
            let _ = timeout(LIMIT, stream.read_to_end(&mut got)).await.expect("it is closed");
            if let Some(alert) = answer {
                assert_eq!(
                    (got[0], got[got.len() - 2], got[got.len() - 1]),
                    (21, 2, alert),
                    "{what}: {got:?}"
                );
            }
            registrar.saw_nobody(what).await;
        }
    }
}

#[tokio::test]
async fn secure_mode_dials_nothing_else_and_knows_plain_callers() {
    let pki = Pki::new(7);
    let mut registrar = pki.ns1().await;
    let mut element = pki.element(2, pki.files(&Request::new("proxy-1", 1))).await;
    let sctp = Remote { link: Link::Sctp, addr: SocketAddr::new(ip(7, 1), 9899), sctp_port: 3863 };
    element.dial(sctp);
    assert_eq!(element.down().await.1, DownCause::Local);
    // A plain server is no registrar: it says nothing that TLS knows.
    let plain =
        Remote { link: Link::Tcp, addr: registrar.endpoint.tcp_addr().unwrap(), sctp_port: 0 };
    element.dial(plain);
    assert!(matches!(registrar.next().await, NetEvent::Up { peer: None, .. }));
    assert_eq!(element.down().await.1, DownCause::TimedOut);
    assert_eq!(element.endpoint.counters().ups, 0);
}

/// Strangers that hold handshakes open are bounded in number and time, and hold up nobody.
#[tokio::test]
async fn slow_handshakes_hold_up_nobody() {
    let pki = Pki::new(8);
    let addr = SocketAddr::new(ip(8, 1), 0);
    let secure = Secure {
        max_handshakes: 20,
        handshake_timeout: Duration::from_millis(700),
        ..Secure::registrar(Tls::load(pki.files(&ns1(8))).unwrap(), addr, addr)
    };
    let config = EndpointConfig { secure: Some(secure), ..EndpointConfig::registrar(addr, None) };
    let mut registrar = Peer::bind(config).await;
    let to = registrar.endpoint.tls_addr(Protocol::Asap).unwrap();
    let mut strangers = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        // Some of them say the beginning of something.
        if n % 2 == 0 {
            stream.write_all(&hello_of_tls12()[..20]).await.unwrap();
        }
        strangers.push(stream);
    }
    registrar.until("80 make room", |endpoint| endpoint.counters().tls_unfinished >= 80).await;
    let mut element = pki.element(2, pki.files(&Request::new("proxy-1", 1))).await;
    element.dial(registrar.remote(Protocol::Asap));
    element.up().await;
    registrar.up().await;
    // The others are ended by time.
    registrar.until("all have ended", |endpoint| endpoint.counters().tls_unfinished == 100).await;
    for mut stream in strangers {
        let ended = timeout(LIMIT, stream.read(&mut [0; 16])).await.expect("closed");
        assert!(!matches!(ended, Ok(1..)), "nobody is answered");
    }
    assert_eq!(registrar.endpoint.counters().downs, 0);
}

#[tokio::test]
async fn a_flood_of_handshakes_is_limited() {
    let pki = Pki::new(9);
    let addr = SocketAddr::new(ip(9, 1), 0);
    let tls = Tls::load(pki.files(&ns1(9))).unwrap();
    let secure = Secure { max_handshakes_per_second: 5, ..Secure::registrar(tls, addr, addr) };
    let registrar = Peer::bind(EndpointConfig {
        secure: Some(secure),
        ..EndpointConfig::registrar(addr, None)
    })
    .await;
    let to = registrar.endpoint.tls_addr(Protocol::Asap).unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        held.extend(TcpStream::connect(to).await);
    }
    registrar.until("most are reset", |endpoint| endpoint.counters().tls_limited >= 50).await;
}

/// However many connections one address makes, an element at another one gets in at once.
#[tokio::test]
async fn a_flood_from_one_address_keeps_nobody_else_out() {
    let pki = Pki::new(14);
    let addr = SocketAddr::new(ip(14, 1), 0);
    let tls = Tls::load(pki.files(&ns1(14))).unwrap();
    let secure = Secure {
        max_handshakes_per_second: 40,
        max_handshakes_per_address: 20,
        ..Secure::registrar(tls, addr, addr)
    };
    let config = EndpointConfig { secure: Some(secure), ..EndpointConfig::registrar(addr, None) };
    let mut registrar = Peer::bind(config).await;
    let to = registrar.endpoint.tls_addr(Protocol::Asap).unwrap();
    let flood = tokio::spawn(async move {
        loop {
            let stranger = TcpStream::connect(to).await;
            drop(stranger);
            tokio::task::yield_now().await;
        }
    });
    registrar.until("most are reset", |endpoint| endpoint.counters().tls_limited >= 200).await;
    let mut element = pki.element(2, pki.files(&Request::new("proxy-1", 1))).await;
    element.dial(registrar.remote(Protocol::Asap));
    element.up().await;
    registrar.up().await;
    flood.abort();
}

/// Who is still in its handshake when the endpoint is told to end does not get in behind it.
#[tokio::test]
async fn a_handshake_does_not_outlive_the_endpoint() {
    let pki = Pki::new(13);
    let registrar = pki.ns1().await;
    let to = registrar.endpoint.tls_addr(Protocol::Asap).unwrap();
    // Somebody in between, who holds the registrar's answer back.
    let between = tokio::net::TcpListener::bind((ip(13, 1), 0)).await.unwrap();
    let mut element = pki.element(2, pki.files(&Request::new("proxy-1", 1))).await;
    let addr = between.local_addr().unwrap();
    element.dial(Remote { link: Link::Tcp, addr, sctp_port: 0 });
    let (mut left, _) = between.accept().await.unwrap();
    let mut right = TcpStream::connect(to).await.unwrap();
    let mut flight = [0; 16_384];
    let hello = left.read(&mut flight).await.unwrap();
    right.write_all(&flight[..hello]).await.unwrap();
    let answer = right.read(&mut flight).await.unwrap();
    let mut events = registrar.events;
    registrar.endpoint.close(true).await;
    let rest = async {
        left.write_all(&flight[..answer]).await?;
        tokio::io::copy_bidirectional(&mut left, &mut right).await
    };
    let _ = timeout(LIMIT, rest).await.expect("the connection is ended");
    while let Some(event) = timeout(LIMIT, events.recv()).await.expect("the events end") {
        assert!(!matches!(event, NetEvent::Up { .. }), "{event:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new(11);
    let good = pki.files(&ns1(11));
    let missing = PathBuf::from("/nonexistent/x.pem");
    let named = |name: &str| TlsConfig { registrar_names: vec![name.to_owned()], ..good.clone() };
    for (config, hints) in [
        (
            TlsConfig { certificate: missing.clone(), ..good.clone() },
            ["/nonexistent/x.pem", "tls.certificate"],
        ),
        (TlsConfig { key: missing.clone(), ..good.clone() }, ["/nonexistent/x.pem", "tls.key"]),
        (
            TlsConfig { authority: good.key.clone(), ..good.clone() },
            ["tls.authority", "no certificate in it"],
        ),
        (
            TlsConfig { key: pki.folder.join("authority.key"), ..good.clone() },
            ["tls.certificate", "tls.key"],
        ),
        (named("bü cher.example"), ["bü cher.example", "ns1.example.org"]),
        (named("192.0.2.1"), ["192.0.2.1", "tls.registrar_names"]),
    ] {
        let error = Tls::load(config.clone()).unwrap_err().to_string();
        assert!(hints.iter().all(|hint| error.contains(hint)), "{error}");
    }
    let tls: Arc<Tls> = Tls::load(good.clone()).unwrap();
    assert!(!tls.refresh().unwrap(), "nothing has changed");
    // A group may read a key, everybody may not.
    for (mode, right) in [(0o640, true), (0o644, false), (0o602, false)] {
        std::fs::set_permissions(&good.key, Permissions::from_mode(mode)).unwrap();
        match Tls::load(good.clone()) {
            Ok(_) => assert!(right, "{mode:o}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!right && error.contains("tls.key") && error.contains("chmod"), "{error}");
            }
        }
    }
}
