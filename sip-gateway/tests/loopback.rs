//! The gateway's driver over real sockets, between phones and proxies that are models.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dialtone_pool_user::View;
use dialtone_sip::transport::TcpConfig;
use dialtone_sip::{
    Edit, Frame, HeaderName, Message, Method, RequestBuilder, ResponseBuilder, StreamFramer,
};
use dialtone_sip_gateway::core::{Gateway, Listener, Pool, Settings, pool_view};
use dialtone_sip_gateway::driver::{self, Sockets, Sources, Status, Verdict};
use dialtone_sip_pool::hops::Member;
use dialtone_sip_pool::keys::{Generation, Keys};
use dialtone_sip_pool::token::EdgeTransport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);

/// Contact and Path of the one phone that has registered.
type Binding = Arc<Mutex<Option<(String, String)>>>;

/// Reads messages from a stream; pings are answered.
struct Reader {
    framer: StreamFramer,
    buffer: Vec<u8>,
}

impl Reader {
    fn new() -> Self {
        Self { framer: StreamFramer::accepting(65_536), buffer: vec![0; 65_536] }
    }

    async fn next(&mut self, stream: &mut TcpStream) -> Option<Message> {
        loop {
            match self.framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => return Some(Message::parse(bytes).unwrap()),
                Ok(Some(Frame::Ping)) => stream.write_all(b"\r\n").await.ok()?,
                Ok(Some(Frame::Pong)) => {}
                Ok(None) => {
                    let read = stream.read(&mut self.buffer).await.ok().filter(|read| *read > 0)?;
                    self.framer.push(&self.buffer[..read]);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A proxy: registers one phone, passes an INVITE on to it over a connection of its own, and the answers back. With
/// `dies` it ends when the first INVITE comes.
async fn proxy(listener: TcpListener, gateway: SocketAddr, binding: Binding, dies: bool) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut reader = Reader::new();
    while let Some(request) = reader.next(&mut stream).await {
        match request.method().unwrap() {
            Method::Register => {
                let contact = request
                    .contacts()
                    .next()
                    .unwrap()
                    .unwrap()
                    .addr()
                    .unwrap()
                    .uri
                    .as_str()
                    .to_owned();
                let path = request.header_str(HeaderName::Path).unwrap().to_owned();
                *binding.lock().unwrap() = Some((contact.clone(), path));
                let answer = ResponseBuilder::new(&request, 200)
                    .to_tag("proxy")
                    .header("Contact", format!("<{contact}>;expires=60"))
                    .build()
                    .unwrap();
                stream.write_all(&answer).await.unwrap();
            }
            Method::Invite if dies => return,
            Method::Invite => {
                let (contact, path) = binding.lock().unwrap().clone().unwrap();
                let mut edit = Edit::new(&request);
                edit.push_via("SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKproxy".to_owned());
                edit.add_after(HeaderName::Via, "Route", path);
                edit.set_request_uri(contact);
                let mut onward = TcpStream::connect(gateway).await.unwrap();
                onward.write_all(&edit.finish()).await.unwrap();
                let mut answers = Reader::new();
                while let Some(answer) = answers.next(&mut onward).await {
                    let mut edit = Edit::new(&answer);
                    edit.pop_via();
                    stream.write_all(&edit.finish()).await.unwrap();
                    if answer.status() >= Some(200) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
}

fn request(method: Method<'_>, transport: &str, local: SocketAddr, user: &str, to: &str) -> Bytes {
    RequestBuilder::new(method, &format!("sip:{to}@dialtone.test"))
        .via(transport, local, &format!("z9hG4bK{user}{method}"))
        .header("Max-Forwards", "70")
        .header("From", &format!("<sip:{user}@dialtone.test>;tag={user}"))
        .header("To", &format!("<sip:{to}@dialtone.test>"))
        .header("Call-ID", &format!("{user}{method}"))
        .header("CSeq", &format!("1 {method}"))
        .header("Contact", &format!("<sip:{user}@{local}>"))
        .build()
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65_536];
    let length =
        timeout(LIMIT, socket.recv(&mut buffer)).await.expect("a datagram within 5 s").unwrap();
    Message::parse(Bytes::copy_from_slice(&buffer[..length])).unwrap()
}

#[tokio::test]
async fn a_call_from_tcp_to_udp_although_a_proxy_dies_of_it() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sockets = Sockets::bind(any, any, TcpConfig::default()).unwrap();
    let (core, edge) = (sockets.core_address, sockets.edge_address);
    let binding = Binding::default();
    let mut members = Vec::new();
    let mut proxies = Vec::new();
    for dies in [true, false] {
        let listener = TcpListener::bind(any).await.unwrap();
        members.push(Member {
            element: 1 + u32::from(!dies),
            address: listener.local_addr().unwrap(),
        });
        proxies.push(tokio::spawn(proxy(listener, core, Arc::clone(&binding), dies)));
    }
    let keys = Keys::new(&Generation { id: 1, secret: [5; 32] }, None);
    let listeners = [EdgeTransport::Udp, EdgeTransport::Tcp]
        .map(|transport| Listener { transport, advertised: edge });
    let gateway = Gateway::new(
        Settings::new(77, listeners.to_vec(), core),
        keys.clone(),
        fastrand::Rng::with_seed(1),
    );
    let (_proxy_views, proxy_views) = watch::channel(pool_view(Pool::Proxy, 1, &members));
    let (_gateway_views, gateway_views) =
        watch::channel(Arc::new(View::unknown(Pool::Gateway.handle())));
    let (_keys, keys) = watch::channel(keys);
    let sources = Sources { proxies: proxy_views, gateways: gateway_views, keys };
    let (reports, mut reported) = mpsc::unbounded_channel();
    let report = move |pool, element, verdict| reports.send((pool, element, verdict)).unwrap();
    let (status_sender, mut status) = watch::channel(Status::default());
    let (stop, stopped) = driver::stop();
    let task = tokio::spawn(driver::run(gateway, sockets, sources, report, status_sender, stopped));

    // Both proxies answer; then Bob registers over UDP.
    for _ in 0..2 {
        let (_, _, verdict) = timeout(LIMIT, reported.recv()).await.unwrap().unwrap();
        assert_eq!(verdict, Verdict::Answers);
    }
    let bob = UdpSocket::bind(any).await.unwrap();
    bob.connect(edge).await.unwrap();
    bob.send(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 8];
    assert_eq!(timeout(LIMIT, bob.recv(&mut pong)).await.unwrap().unwrap(), 2);
    bob.send(&request(Method::Register, "UDP", bob.local_addr().unwrap(), "bob", "bob"))
        .await
        .unwrap();
    assert_eq!(receive(&bob).await.status(), Some(200));

    // Alice calls over TCP until one of her calls has killed the first proxy.
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let alice = stream.local_addr().unwrap();
    let mut reader = Reader::new();
    for call in 0..2 {
        let invite = request(Method::Invite, "TCP", alice, &format!("alice{call}"), "bob");
        stream.write_all(&invite).await.unwrap();
        let invite = receive(&bob).await;
        assert_eq!((invite.method(), invite.vias().count()), (Some(Method::Invite), 1));
        let answer = ResponseBuilder::new(&invite, 486).to_tag("bob").build().unwrap();
        bob.send(&answer).await.unwrap();
        assert_eq!(receive(&bob).await.method(), Some(Method::Ack));
        let mut got = Vec::new();
        while got.last() != Some(&486) {
            let answer = timeout(LIMIT, reader.next(&mut stream))
                .await
                .expect("an answer within 5 s")
                .unwrap();
            got.extend(answer.status());
            if answer.status() == Some(486) {
                let sent = Message::parse(request(
                    Method::Invite,
                    "TCP",
                    alice,
                    &format!("alice{call}"),
                    "bob",
                ));
                stream
                    .write_all(&dialtone_sip::ack_for(&sent.unwrap(), &answer).unwrap())
                    .await
                    .unwrap();
            }
        }
        assert_eq!(got, [100, 486]);
    }
    let (pool, element, verdict) = timeout(LIMIT, reported.recv()).await.unwrap().unwrap();
    assert_eq!((pool, element, verdict), (Pool::Proxy, 1, Verdict::Unreachable));
    let settled =
        status.wait_for(|status| status.counters.failed_over == 1 && status.unfinished == 0);
    timeout(LIMIT, settled).await.expect("one fail-over within 5 s").unwrap();
    stop.now();
    task.await.unwrap();
    for proxy in proxies {
        proxy.abort();
    }
}
