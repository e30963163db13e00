//! Endpoints on loopback: real sockets, real ICMP, real time.

#[allow(dead_code, reason = "each test has use for a part of it")]
mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use dialtone_transport::{
    AssocId, DownCause, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use support::{LIMIT, Peer, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long a thousand associations may take.
const BOUND: Duration = Duration::from_secs(5);

fn local(test: u8, host: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 201, test, host), 0))
}

impl Peer {
    async fn registrar(test: u8, host: u8) -> Self {
        let addr = local(test, host);
        Self::bind(EndpointConfig::registrar(addr, Some(addr))).await
    }

    async fn element(test: u8, host: u8) -> Self {
        Self::bind(EndpointConfig::element(local(test, host))).await
    }

    fn remote(&self) -> Remote {
        Remote { link: Link::Sctp, addr: self.endpoint.local_addr(), sctp_port: 3863 }
    }

    fn tcp_remote(&self) -> Remote {
        Remote { link: Link::Tcp, addr: self.endpoint.tcp_addr().unwrap(), sctp_port: 0 }
    }

    async fn up(&mut self) -> (AssocId, Remote) {
        match self.next().await {
            NetEvent::Up { assoc, protocol: Protocol::Asap, remote, peer: None } => (assoc, remote),
            event => panic!("{event:?}"),
        }
    }

    async fn message(&mut self) -> Vec<u8> {
        match self.next().await {
            NetEvent::Message { payload, .. } => payload,
            event => panic!("{event:?}"),
        }
    }
}

async fn pair(dialler: &mut Peer, listener: &mut Peer, remote: Remote) -> (AssocId, AssocId) {
    let assoc = dialler.dial(remote);
    assert_eq!(dialler.up().await, (assoc, remote));
    (assoc, listener.up().await.0)
}

/// ASAP's header around a body.
fn asap(body: usize) -> Vec<u8> {
    let length = 4 + body;
    let mut message = vec![1, 0, (length >> 8) as u8, length as u8];
    message.resize(length.next_multiple_of(4), 7);
    message
}

#[tokio::test]
async fn messages_over_sctp_and_tcp() {
    let (mut a, mut b) = (Peer::element(1, 1).await, Peer::registrar(1, 2).await);
    for remote in [b.remote(), b.tcp_remote()] {
        let (one, two) = pair(&mut a, &mut b, remote).await;
        for body in [0, 1, 1_400, 60_000, 65_531] {
            let message = asap(body);
            a.send(one, &message);
            assert!(b.message().await == message, "{body} bytes there");
            b.send(two, &message);
            assert!(a.message().await == message, "{body} bytes back");
        }
        a.endpoint.execute(NetCommand::Shutdown { assoc: one });
        assert_eq!(a.down().await, (one, DownCause::Local));
        assert_eq!(b.down().await, (two, DownCause::Closed));
    }
}

#[tokio::test]
async fn registrar_dials_an_element_back() {
    let (mut a, mut b) = (Peer::registrar(2, 1).await, Peer::element(2, 2).await);
    let remote = b.remote();
    let (one, two) = pair(&mut a, &mut b, remote).await;
    a.endpoint.execute(NetCommand::Abort { assoc: one });
    assert_eq!(a.down().await, (one, DownCause::Local));
    assert_eq!(b.down().await, (two, DownCause::Aborted));
}

#[tokio::test]
async fn killed_peer_is_suspected_and_given_up() {
    let (mut a, mut b) = (Peer::registrar(3, 1).await, Peer::element(3, 2).await);
    let remote = a.remote();
    let (_, two) = pair(&mut b, &mut a, remote).await;
    b.endpoint.vanish();
    let begun = now();
    a.send(two, &asap(8));
    assert_eq!(a.next().await, NetEvent::Suspect { assoc: two });
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    loop {
        match a.next().await {
            NetEvent::Suspect { .. } => (),
            event => {
                assert_eq!(event, NetEvent::Down { assoc: two, cause: DownCause::TimedOut });
                break;
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn dials_fail_quickly_where_nobody_is() {
    let mut a = Peer::element(4, 1).await;
    // A port that was just free.
    let free = UdpSocket::bind(local(4, 2)).unwrap().local_addr().unwrap();
    for link in [Link::Sctp, Link::Tcp] {
        let begun = now();
        let assoc = a.dial(Remote { link, addr: free, sctp_port: 3863 });
        assert_eq!(a.down().await, (assoc, DownCause::Unreachable));
        assert!(begun.elapsed() < Duration::from_millis(100), "{link:?} {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn restarted_peer_on_the_same_port() {
    let (mut a, mut b) = (Peer::registrar(5, 1).await, Peer::element(5, 2).await);
    let remote = a.remote();
    let (_, old) = pair(&mut b, &mut a, remote).await;
    let addr = b.endpoint.local_addr();
    b.endpoint.vanish();
    let mut b = Peer::bind(EndpointConfig::element(addr)).await;
    let assoc = b.dial(remote);
    assert_eq!(b.up().await.0, assoc);
    assert_eq!(a.down().await, (old, DownCause::Aborted));
    let (new, _) = a.up().await;
    assert_ne!(new, old);
    b.send(assoc, &asap(4));
    assert_eq!(a.message().await, asap(4));
}

/// A NAT: forwards between an element and a registrar, and changes its outer port when told.
async fn relay(
    inner: UdpSocket,
    outer: Vec<UdpSocket>,
    registrar: SocketAddr,
    mut rebind: tokio::sync::watch::Receiver<usize>,
) {
    let socket = |socket: UdpSocket| {
        socket.set_nonblocking(true).unwrap();
        tokio::net::UdpSocket::from_std(socket).unwrap()
    };
    let inner = socket(inner);
    let outer: Vec<_> = outer.into_iter().map(socket).collect();
    let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    let mut element = None;
    loop {
        let current = *rebind.borrow_and_update();
        tokio::select! {
            _ = rebind.changed() => (),
            received = inner.recv_from(&mut there) => if let Ok((length, from)) = received {
                element = Some(from);
                let _ = outer[current].send_to(&there[..length], registrar).await;
            },
            received = outer[current].recv_from(&mut back) => {
                if let (Ok((length, _)), Some(element)) = (received, element) {
                    let _ = inner.send_to(&back[..length], element).await;
                }
            },
        }
    }
}

#[tokio::test]
async fn nat_rebinding_is_followed() {
    let (mut a, mut b) = (Peer::registrar(6, 1).await, Peer::element(6, 2).await);
    let inner = UdpSocket::bind(local(6, 3)).unwrap();
    let outer: Vec<_> = (0..2).map(|_| UdpSocket::bind(local(6, 4)).unwrap()).collect();
    let outside: Vec<_> = outer.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let via = Remote { addr: inner.local_addr().unwrap(), ..a.remote() };
    let (rebind, rebound) = tokio::sync::watch::channel(0);
    let nat = tokio::spawn(relay(inner, outer, a.endpoint.local_addr(), rebound));

    let assoc = b.dial(via);
    b.up().await;
    let (two, remote) = a.up().await;
    assert_eq!(remote.addr, outside[0]);
    rebind.send(1).unwrap();
    b.send(assoc, &asap(4));
    assert_eq!(
        a.next().await,
        NetEvent::Moved { assoc: two, remote: Remote { addr: outside[1], ..remote } }
    );
    assert_eq!(a.message().await, asap(4));
    a.send(two, &asap(8));
    assert_eq!(b.message().await, asap(8));
    nat.abort();
}

#[tokio::test]
async fn closing_ends_what_is_up() {
    for graceful in [true, false] {
        let (mut a, mut b) = (Peer::registrar(7, 1).await, Peer::element(7, 2).await);
        let (sctp, tcp) = (a.remote(), a.tcp_remote());
        pair(&mut b, &mut a, sctp).await;
        pair(&mut b, &mut a, tcp).await;
        a.endpoint.close(graceful).await;
        let expected = if graceful { DownCause::Closed } else { DownCause::Aborted };
        for _ in 0..2 {
            assert_eq!(b.down().await.1, expected);
        }
        for _ in 0..2 {
            let event = timeout(LIMIT, a.events.recv()).await.unwrap();
            assert!(
                matches!(event, Some(NetEvent::Down { cause: DownCause::Local, .. })),
                "{event:?}"
            );
        }
        assert_eq!(timeout(LIMIT, a.events.recv()).await.unwrap(), None);
    }
}

/// The last events wait for a slow consumer, too.
#[tokio::test]
async fn closing_delivers_what_waits() {
    let config = EndpointConfig { event_queue: 2, ..EndpointConfig::registrar(local(13, 1), None) };
    let (mut a, mut b) = (Peer::bind(config).await, Peer::element(13, 2).await);
    let remote = a.remote();
    for _ in 0..20 {
        pair(&mut b, &mut a, remote).await;
    }
    let Peer { endpoint, mut events, .. } = a;
    let closing = tokio::spawn(endpoint.close(true));
    for _ in 0..20 {
        assert!(matches!(b.down().await, (_, DownCause::Closed)));
    }
    for _ in 0..20 {
        let event = timeout(LIMIT, events.recv()).await.unwrap();
        assert!(matches!(event, Some(NetEvent::Down { cause: DownCause::Local, .. })), "{event:?}");
    }
    assert_eq!(timeout(LIMIT, events.recv()).await.unwrap(), None);
    closing.await.unwrap();
}

#[tokio::test]
async fn tcp_stream_torn_at_every_byte() {
    let mut a = Peer::registrar(8, 1).await;
    let mut client = TcpStream::connect(a.endpoint.tcp_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (assoc, remote) = a.up().await;
    assert_eq!((remote.link, remote.addr), (Link::Tcp, client.local_addr().unwrap()));
    let messages = [asap(3), asap(0), asap(17)];
    for byte in messages.concat() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    for message in messages {
        assert_eq!(a.message().await, message);
    }
    // Sent without padding, arrives with it.
    a.send(assoc, &[1, 0, 0, 5, 9]);
    let mut answer = [0; 8];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [1, 0, 0, 5, 9, 0, 0, 0]);
    drop(client);
    assert_eq!(a.down().await, (assoc, DownCause::Closed));

    let mut client = TcpStream::connect(a.endpoint.tcp_addr().unwrap()).await.unwrap();
    let (assoc, _) = a.up().await;
    client.write_all(&[1, 0, 0, 3]).await.unwrap();
    assert_eq!(a.down().await, (assoc, DownCause::Local));
    assert!(client.read(&mut answer).await.is_err(), "a frame error resets");
    assert_eq!(a.endpoint.counters().bad_frames, 1);

    let mut client = TcpStream::connect(a.endpoint.tcp_addr().unwrap()).await.unwrap();
    let (assoc, _) = a.up().await;
    client.write_all(&asap(17)[..20]).await.unwrap();
    drop(client);
    assert_eq!(a.down().await, (assoc, DownCause::Closed));
    assert_eq!(a.endpoint.counters().unfinished, 1);
}

#[tokio::test]
async fn tcp_peer_that_does_not_read_is_dropped() {
    let mut a = Peer::element(9, 1).await;
    let listener = TcpListener::bind(local(9, 2)).await.unwrap();
    let remote = Remote { link: Link::Tcp, addr: listener.local_addr().unwrap(), sctp_port: 0 };
    let assoc = a.dial(remote);
    let (_peer, _) = listener.accept().await.unwrap();
    a.up().await;
    // Beyond what the kernel buffers on loopback.
    for _ in 0..512 {
        a.send(assoc, &asap(65_531));
    }
    assert_eq!(a.down().await, (assoc, DownCause::TimedOut));
}

/// A consumer that does not look costs nobody a message.
#[tokio::test]
async fn full_event_channel_loses_nothing() {
    let config = EndpointConfig { event_queue: 4, ..EndpointConfig::registrar(local(10, 1), None) };
    let (mut a, mut b) = (Peer::bind(config).await, Peer::element(10, 2).await);
    let remote = a.remote();
    let (one, _) = pair(&mut b, &mut a, remote).await;
    for n in 0..500u16 {
        b.send(one, &n.to_be_bytes());
    }
    // The channel is full by now, and the rest waits behind it.
    timeout(LIMIT, async {
        while a.endpoint.counters().messages_in < 8 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for n in 0..500u16 {
        assert_eq!(a.message().await, n.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_associations() {
    const COUNT: usize = 1_000;
    let mut a = Peer::registrar(11, 1).await;
    let config =
        EndpointConfig { max_associations: COUNT, ..EndpointConfig::element(local(11, 2)) };
    let mut b = Peer::bind(config).await;
    let remote = a.remote();
    let begun = now();
    let dialled: Vec<_> = (0..COUNT).map(|_| b.dial(remote)).collect();
    for _ in 0..COUNT {
        b.up().await;
        a.up().await;
    }
    let up = begun.elapsed();
    for assoc in &dialled {
        b.send(*assoc, &asap(100));
    }
    for _ in 0..COUNT {
        let NetEvent::Message { assoc, payload } = a.next().await else { panic!("no message") };
        a.send(assoc, &payload);
    }
    for _ in 0..COUNT {
        b.message().await;
    }
    println!("{COUNT} associations up in {up:?}, a round trip each in {:?}", begun.elapsed() - up);
    assert!(begun.elapsed() < BOUND);
    a.endpoint.close(true).await;
    for _ in 0..COUNT {
        assert_eq!(b.down().await.1, DownCause::Closed);
    }
}
