//! Registrars on real sockets: two of them, an element and a user, each at an address of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_daemon::CancellationToken;
use dialtone_registrar_ns::admin::{AdminState, routes};
use dialtone_registrar_ns::core::{Config, Registrar, Snapshot};
use dialtone_registrar_ns::driver::{self, View};
use dialtone_transport::{
    ASAP_PORT, AssocId, ENCAPSULATION_PORT, Endpoint, EndpointConfig, Link, NetCommand, NetEvent,
    Protocol, Remote,
};
use dialtone_wire::asap::Message;
use dialtone_wire::{PeId, Policy, PoolElement, PoolHandle, ServerId, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(8);

fn ip(n: u8) -> IpAddr {
    IpAddr::from([127, 113, 7, n])
}

struct Running {
    view: View,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
fn now() -> Instant {
    Instant::now()
}

async fn registrar(n: u8, peers: &[u8]) -> Running {
    let udp = SocketAddr::new(ip(n), ENCAPSULATION_PORT);
    let tcp = SocketAddr::new(ip(n), ASAP_PORT);
    let bound = Endpoint::bind(EndpointConfig::registrar(udp, Some(tcp))).await.unwrap();
    let peers = peers.iter().map(|peer| SocketAddr::new(ip(*peer), ENCAPSULATION_PORT)).collect();
    run(n, bound, peers)
}

fn run(
    n: u8,
    (endpoint, events): (Endpoint, mpsc::Receiver<NetEvent>),
    peers: Vec<SocketAddr>,
) -> Running {
    let own = endpoint.local_addr();
    let config =
        Config { udp_port: own.port(), mentors: peers.clone(), peers, ..Config::new(own.ip()) };
    let core =
        Registrar::new(now(), config, ServerId(u32::from(n)), fastrand::Rng::with_seed(n.into()));
    let (viewed, view) = View::new(&core, now());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(driver::run(core, endpoint, events, None, viewed, shutdown.clone()));
    Running { view, shutdown, task }
}

impl Running {
    async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<Snapshot>) -> bool) {
        let found = tokio::time::timeout(LIMIT, self.view.snapshots.wait_for(condition))
            .await
            .map(|found| found.is_ok());
        assert!(found == Ok(true), "{what}: {:?}", self.view.snapshots.borrow());
    }

    async fn until_home(&mut self, home: Option<u32>) {
        let arrived = async {
            loop {
                let pools = self.view.pools().await;
                let element = pools.first().and_then(|pool| pool.elements.first());
                if element.map(|element| element.home.0) == home {
                    return;
                }
                self.view.snapshots.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(LIMIT, arrived).await;
        assert!(found.is_ok(), "home: {:?}", self.view.snapshots.borrow());
    }
}

/// Registers whenever it is connected or adopted, answers keep-alives.
async fn element(endpoint: Endpoint, mut events: mpsc::Receiver<NetEvent>, registrar: SocketAddr) {
    let handle = PoolHandle(b"echo");
    let element = PoolElement {
        pe_id: PeId(7),
        home: ServerId::NONE,
        life: 300,
        transport: Transport::tcp(SocketAddr::new(endpoint.local_addr().ip(), 5060)),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    };
    let register = Message::Registration { handle, element }.encode().unwrap();
    let ack = Message::EndpointKeepAliveAck { handle, pe_id: PeId(7) }.encode().unwrap();
    let home = AssocId::dialled(0);
    let remote = Remote { link: Link::Sctp, addr: registrar, sctp_port: ASAP_PORT };
    endpoint.execute(NetCommand::Connect { assoc: home, protocol: Protocol::Asap, remote });
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Up { assoc, .. } if assoc == home => {
                endpoint.execute(NetCommand::Send { assoc, payload: register.clone() });
            }
            NetEvent::Message { assoc, payload } => {
                if let Message::EndpointKeepAlive { home, .. } =
                    Message::decode(&payload).unwrap().message
                {
                    endpoint.execute(NetCommand::Send { assoc, payload: ack.clone() });
                    if home {
                        endpoint.execute(NetCommand::Send { assoc, payload: register.clone() });
                    }
                }
            }
            _ => {}
        }
    }
}

/// The same over IPv6: ASAP by SCTP and TCP, ENRP, the admin interface, and a takeover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6() {
    let localhost = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
    let any = SocketAddr::new(localhost, 0);
    if let Err(error) = std::net::UdpSocket::bind(any) {
        return println!("skipped: no IPv6 here: {error}");
    }
    let bind = || Endpoint::bind(EndpointConfig::registrar(any, Some(any)));
    let (first, second) = (bind().await.unwrap(), bind().await.unwrap());
    let [first_at, second_at] = [&first, &second].map(|(endpoint, _)| endpoint.local_addr());
    let tcp = second.0.tcp_addr().unwrap();
    let mut first = run(1, first, vec![second_at]);
    let mut second = run(2, second, vec![first_at]);
    first.until("service", |snapshot| snapshot.in_service).await;
    second.until("peers", |snapshot| snapshot.in_service && snapshot.peers.len() == 1).await;

    let (endpoint, events) = Endpoint::bind(EndpointConfig::element(any)).await.unwrap();
    let element_at = endpoint.local_addr();
    let elements_task = tokio::spawn(element(endpoint, events, first_at));
    first.until_home(Some(1)).await;
    second.until_home(Some(1)).await;

    let mut user = TcpStream::connect(tcp).await.unwrap();
    let handle = PoolHandle(b"echo");
    let question = Message::HandleResolution { subscribe: false, handle, items: None };
    user.write_all(&question.encode().unwrap()).await.unwrap();
    let mut answer = vec![0; 1024];
    let length = tokio::time::timeout(LIMIT, user.read(&mut answer)).await.unwrap().unwrap();
    let Message::HandleResolutionResponse { outcome: Ok(found), .. } =
        Message::decode(&answer[..length]).unwrap().message
    else {
        panic!("{answer:?}");
    };
    let element = &found.elements[0];
    assert_eq!(element.transport.socket_addr(), Some(SocketAddr::new(localhost, 5060)));
    assert_eq!(element.asap_transport.as_ref().unwrap().addrs[..], [localhost]);
    assert_eq!(element.encaps_port, Some(element_at.port()));

    let listener = TcpListener::bind(any).await.unwrap();
    let admin = listener.local_addr().unwrap();
    let view = second.view.clone();
    let state = AdminState { name: "two".to_owned(), address: second_at, view };
    let server = tokio::spawn(async move { axum::serve(listener, routes(state)).await });
    assert_eq!(http(admin, "/pools/echo").await["elements"][0]["address"], "[::1]:5060");
    assert_eq!(http(admin, "/peers").await["peers"][0]["address"], first_at.to_string());

    // The home disappears; the element is adopted by the other, which dials it.
    first.task.abort();
    second.until_home(Some(2)).await;
    second.until("adopted", |snapshot| snapshot.counters.registrations > 0).await;
    server.abort();
    elements_task.abort();
    second.shutdown.cancel();
    tokio::time::timeout(LIMIT, second.task).await.expect("stops").unwrap();
}

async fn http(addr: SocketAddr, path: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_resolution_admin_and_takeover() {
    let mut first = registrar(1, &[2]).await;
    let mut second = registrar(2, &[1]).await;
    first.until("service", |snapshot| snapshot.in_service).await;
    second.until("peers", |snapshot| snapshot.in_service && snapshot.peers.len() == 1).await;

    let config = EndpointConfig::element(SocketAddr::new(ip(61), 0));
    let (endpoint, events) = Endpoint::bind(config).await.unwrap();
    let home = SocketAddr::new(ip(1), ENCAPSULATION_PORT);
    let elements_task = tokio::spawn(element(endpoint, events, home));
    first.until_home(Some(1)).await;
    second.until_home(Some(1)).await;

    // A user asks the other registrar over TCP.
    let mut user = TcpStream::connect((ip(2), ASAP_PORT)).await.unwrap();
    let question =
        Message::HandleResolution { subscribe: false, handle: PoolHandle(b"echo"), items: None };
    user.write_all(&question.encode().unwrap()).await.unwrap();
    let mut answer = vec![0; 1024];
    let length = tokio::time::timeout(LIMIT, user.read(&mut answer)).await.unwrap().unwrap();
    match Message::decode(&answer[..length]).unwrap().message {
        Message::HandleResolutionResponse { outcome: Ok(found), .. } => {
            assert_eq!(found.elements.len(), 1)
        }
        other => panic!("{other:?}"),
    }

    let listener = TcpListener::bind((ip(2), 0)).await.unwrap();
    let admin = listener.local_addr().unwrap();
    let address = SocketAddr::new(ip(2), ENCAPSULATION_PORT);
    let state = AdminState { name: "two".to_owned(), address, view: second.view.clone() };
    let server = tokio::spawn(async move { axum::serve(listener, routes(state)).await });
    let pool = http(admin, "/pools/echo").await;
    assert_eq!(pool["policy"], "round-robin");
    assert_eq!(pool["elements"][0]["id"], "0x00000007");
    assert_eq!(pool["elements"][0]["home"], "0x00000001");
    assert_eq!(pool["elements"][0]["address"], "127.113.7.61:5060");
    assert_eq!(http(admin, "/pools").await["pools"][0], pool);
    assert_eq!(http(admin, "/pools/nobody").await["error"], "unknown pool handle");
    second.until("counted", |snapshot| snapshot.counters.resolutions == 1).await;
    let status = http(admin, "/status").await;
    assert_eq!(
        (&status["name"], &status["server_id"], &status["peers"][0]["status"]),
        (&"two".into(), &"0x00000002".into(), &"active".into())
    );
    assert_eq!(status["counters"]["resolutions"], 1);
    assert_eq!(status["in_service"], true);
    assert_eq!(http(admin, "/peers").await["peers"][0]["server_id"], "0x00000001");

    // The home disappears; the element is adopted by the other.
    first.task.abort();
    second.until_home(Some(2)).await;
    second.until("adopted", |snapshot| snapshot.counters.registrations > 0).await;

    server.abort();
    elements_task.abort();
    second.until_home(None).await;
    second.shutdown.cancel();
    tokio::time::timeout(LIMIT, second.task).await.expect("stops").unwrap();
}
