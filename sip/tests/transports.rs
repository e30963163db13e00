//! Drivers over loopback: framing, shared writes, keep-alives, bounds.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::invite;
use dialtone_sip::transport::{
    CloseCause, ConnId, Flow, SendError, TcpConfig, TcpCounters, TcpTransport, TransportEvent,
    UdpConfig, UdpTransport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(5);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("address")
}

async fn next(events: &mut mpsc::Receiver<TransportEvent>) -> TransportEvent {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("in time").expect("open")
}

async fn connected(events: &mut mpsc::Receiver<TransportEvent>) -> ConnId {
    match next(events).await {
        TransportEvent::Connected { conn, .. } => conn,
        other => panic!("{other:?}"),
    }
}

fn server(config: TcpConfig) -> (TcpTransport, SocketAddr, mpsc::Receiver<TransportEvent>) {
    let (sender, receiver) = mpsc::channel(64);
    let transport = TcpTransport::new(config, sender);
    let addr = transport.listen(any_port(), 7).expect("listening");
    (transport, addr, receiver)
}

#[tokio::test]
async fn udp_delivers_and_answers() {
    let (sender, mut events) = mpsc::channel(64);
    let transport = UdpTransport::bind(any_port(), 3, UdpConfig::default(), sender).expect("bound");
    let phone = UdpSocket::bind(any_port()).await.expect("bound");
    phone.send_to(invite().as_bytes(), transport.local_addr()).await.expect("sent");
    let TransportEvent::Message { flow: Flow::Udp { socket: 3, peer }, bytes } =
        next(&mut events).await
    else {
        panic!("no message")
    };
    assert_eq!((peer, &bytes[..]), (phone.local_addr().expect("address"), invite().as_bytes()));
    transport.send(peer, b"answer").expect("sent");
    let mut buf = [0; 16];
    let read =
        tokio::time::timeout(LIMIT, phone.recv(&mut buf)).await.expect("in time").expect("read");
    assert_eq!(&buf[..read], b"answer");
    phone.send_to(b"\r\n\r\n", transport.local_addr()).await.expect("sent");
    assert!(matches!(next(&mut events).await, TransportEvent::Ping { .. }));
    let read =
        tokio::time::timeout(LIMIT, phone.recv(&mut buf)).await.expect("in time").expect("read");
    assert_eq!(&buf[..read], b"\r\n");
    assert_eq!(transport.dropped(), 0);
}

#[tokio::test]
async fn datagrams_come_back_from_a_port_where_nobody_listens() {
    let (sender, mut events) = mpsc::channel(64);
    let config = UdpConfig { returned: true, ..UdpConfig::default() };
    let transport = UdpTransport::bind(any_port(), 3, config, sender).expect("bound");
    let gone = UdpSocket::bind(any_port()).await.expect("bound").local_addr().expect("address");
    let phone = UdpSocket::bind(any_port()).await.expect("bound");
    phone.send_to(invite().as_bytes(), transport.local_addr()).await.expect("sent");
    assert!(matches!(next(&mut events).await, TransportEvent::Message { .. }));
    for _ in 0..20 {
        transport.send(gone, invite().as_bytes()).expect("sent");
        // A keep-alive that comes back proves nothing.
        transport.send(gone, b"\r\n\r\n").expect("sent");
        // What ICMP says of one phone keeps nothing from another.
        transport.send(phone.local_addr().expect("address"), b"hello").expect("sent");
        let mut buf = [0; 16];
        let read = tokio::time::timeout(LIMIT, phone.recv(&mut buf)).await.expect("in time");
        assert_eq!(&buf[..read.expect("read")], b"hello");
        let TransportEvent::Returned { flow: Flow::Udp { socket: 3, peer }, bytes } =
            next(&mut events).await
        else {
            panic!("not returned")
        };
        assert_eq!(peer, gone);
        assert!(invite().as_bytes().starts_with(&bytes) && bytes.len() > 100, "{bytes:?}");
    }
    // Receiving goes on.
    phone.send_to(invite().as_bytes(), transport.local_addr()).await.expect("sent");
    assert!(matches!(next(&mut events).await, TransportEvent::Message { .. }));
}

#[tokio::test]
async fn tcp_connections_carry_messages_and_pings_both_ways() {
    let (server, addr, mut at_server) = server(TcpConfig::default());
    let (sender, mut at_client) = mpsc::channel(64);
    let client = TcpTransport::new(TcpConfig::default(), sender);
    let conn = client.connect(Some("127.0.0.1".parse().expect("address")), addr);
    // Sent before the connection is up, and many at once.
    for _ in 0..200 {
        client.send(conn, invite().into_bytes().into()).expect("queued");
    }
    client.send(conn, Bytes::from_static(b"\r\n\r\n")).expect("queued");
    assert_eq!(connected(&mut at_client).await, conn);
    let accepted = connected(&mut at_server).await;
    for _ in 0..200 {
        match next(&mut at_server).await {
            TransportEvent::Message { flow, bytes } => {
                assert_eq!((flow, &bytes[..]), (Flow::Tcp(accepted), invite().as_bytes()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(next(&mut at_server).await, TransportEvent::Ping { .. }));
    assert!(matches!(next(&mut at_client).await, TransportEvent::Pong { .. }));
    server.send(accepted, invite().into_bytes().into()).expect("queued");
    assert!(matches!(next(&mut at_client).await, TransportEvent::Message { .. }));
    client.send(conn, invite().into_bytes().into()).expect("queued");
    client.close(conn, true);
    assert!(matches!(
        next(&mut at_client).await,
        TransportEvent::Closed { cause: CloseCause::Local, .. }
    ));
    assert!(matches!(next(&mut at_server).await, TransportEvent::Message { .. }));
    assert!(matches!(
        next(&mut at_server).await,
        TransportEvent::Closed { cause: CloseCause::Peer, .. }
    ));
    assert_eq!(client.send(conn, Bytes::from_static(b"x")), Err(SendError::Gone));
    assert_eq!((client.connections(), server.connections()), (0, 0));
}

#[tokio::test]
async fn a_reset_is_told_at_once() {
    let (server, addr, mut at_server) = server(TcpConfig::default());
    let (sender, mut at_client) = mpsc::channel(64);
    let client = TcpTransport::new(TcpConfig::default(), sender);
    let conn = client.connect(None, addr);
    connected(&mut at_client).await;
    let accepted = connected(&mut at_server).await;
    server.close(accepted, false);
    let TransportEvent::Closed { conn: closed, cause: CloseCause::Io(kind) } =
        next(&mut at_client).await
    else {
        panic!("not closed")
    };
    assert_eq!((closed, kind), (conn, std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_refused_connection_is_told() {
    let (sender, mut events) = mpsc::channel(64);
    let client = TcpTransport::new(TcpConfig::default(), sender);
    let free =
        std::net::TcpListener::bind(any_port()).expect("bound").local_addr().expect("address");
    let conn = client.connect(None, free);
    let TransportEvent::Closed { conn: closed, cause: CloseCause::Io(kind) } =
        next(&mut events).await
    else {
        panic!("not closed")
    };
    assert_eq!((closed, kind), (conn, std::io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn slow_idle_oversized_and_too_many_peers_are_closed() {
    let config = TcpConfig {
        max_message: 1000,
        max_accepted: 3,
        partial_timeout: Duration::from_millis(50),
        idle_timeout: Some(Duration::from_millis(150)),
        ..TcpConfig::default()
    };
    let (server, addr, mut events) = server(config);
    let mut slow = TcpStream::connect(addr).await.expect("connected");
    let slow_id = connected(&mut events).await;
    slow.write_all(b"OPTIONS sip:").await.expect("written");
    let mut idle = TcpStream::connect(addr).await.expect("connected");
    let idle_id = connected(&mut events).await;
    let mut large = TcpStream::connect(addr).await.expect("connected");
    let large_id = connected(&mut events).await;
    large.write_all(invite().as_bytes()).await.expect("written");
    let mut refused = TcpStream::connect(addr).await.expect("connected");
    let mut buf = [0; 1];
    assert!(matches!(
        tokio::time::timeout(LIMIT, refused.read(&mut buf)).await.expect("in time"),
        Ok(0) | Err(_)
    ));
    let mut causes = std::collections::BTreeMap::new();
    while causes.len() < 3 {
        if let TransportEvent::Closed { conn, cause } = next(&mut events).await {
            causes.insert(conn, cause);
        }
    }
    assert!(matches!(causes[&slow_id], CloseCause::Slow), "{causes:?}");
    assert!(matches!(causes[&idle_id], CloseCause::Idle), "{causes:?}");
    assert!(matches!(causes[&large_id], CloseCause::Frame(_)), "{causes:?}");
    idle.shutdown().await.ok();
    let counted = server.counters();
    assert_eq!((counted.bad_frames, counted.slow, counted.unfinished), (1, 1, 0));
    assert!(counted.idle >= 1, "{counted:?}");
}

#[tokio::test]
async fn a_message_that_ends_with_its_connection_is_counted() {
    let (server, addr, mut events) = server(TcpConfig::default());
    let mut torn = TcpStream::connect(addr).await.expect("connected");
    connected(&mut events).await;
    torn.write_all(b"OPTIONS sip:").await.expect("written");
    drop(torn);
    assert!(matches!(next(&mut events).await, TransportEvent::Closed { .. }));
    assert_eq!(server.counters(), TcpCounters { unfinished: 1, ..TcpCounters::default() });
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_closed_when_its_queue_is_full() {
    let config = TcpConfig { max_queued: 100_000, ..TcpConfig::default() };
    let (server, addr, mut events) = server(config);
    let _deaf = TcpStream::connect(addr).await.expect("connected");
    let conn = connected(&mut events).await;
    let block = Bytes::from(vec![b'x'; 50_000]);
    let full = async {
        loop {
            match server.send(conn, block.clone()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, full).await.expect("in time"), SendError::Full);
    assert!(matches!(
        next(&mut events).await,
        TransportEvent::Closed { cause: CloseCause::Congested, .. }
    ));
}

#[tokio::test]
async fn dropping_the_transport_closes_listeners_and_connections() {
    let (server, addr, mut events) = server(TcpConfig::default());
    let mut peer = TcpStream::connect(addr).await.expect("connected");
    connected(&mut events).await;
    drop(server);
    let mut buf = [0; 1];
    assert_eq!(
        tokio::time::timeout(LIMIT, peer.read(&mut buf)).await.expect("in time").expect("closed"),
        0
    );
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.expect("in time");
}
