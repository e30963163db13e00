//! A whole server on loopback, but for its pool: SIP over TCP, sound over UDP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::JoinHandle;

use dialtone_sip::transport::TcpConfig;
use dialtone_sip::{Frame, HeaderName, Message, Method, ResponseBuilder, StreamFramer};

use super::*;
use crate::core::session::Remote;
use crate::core::{CallId, Settings};
use crate::media::MediaConfig;
use crate::media::tests::{Phone, now, talk, until};
use crate::mix::RoomSettings;

struct Server {
    core: SocketAddr,
    questions: mpsc::Sender<oneshot::Sender<RoomsView>>,
    drain: CancellationToken,
    /// Lets a media thread have a fault.
    break_media: Option<Box<dyn FnOnce() + Send>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let address = IpAddr::from([127, 78, fastrand::u8(1..), fastrand::u8(1..255)]);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let (sender, transport_events) = mpsc::channel(64);
                let tcp = TcpTransport::new(TcpConfig::default(), sender);
                let core = tcp.listen((address, 0).into(), 0).expect("listens");
                let mut settings = Settings::new(core);
                settings.media = RoomSettings { tones: false, ..RoomSettings::default() };
                let config =
                    MediaConfig { address, ports: 20_000..=21_000, workers: 1, recordings: None };
                let (media_sender, media_events) = mpsc::channel(64);
                let media = Media::start(&config, &media_sender).expect("started");
                let breaker = media.breaker();
                let (questions, questioned) = mpsc::channel(1);
                let drain = CancellationToken::new();
                let focus = Focus::new(settings, fastrand::Rng::new());
                let parts = Parts {
                    focus,
                    tcp,
                    address,
                    udp: None,
                    transport_events,
                    media,
                    media_events,
                    questions: questioned,
                    load: watch::Sender::new(0.0),
                };
                ready.send((core, questions, drain.clone(), breaker)).expect("somebody waits");
                run(parts, drain).await;
            });
        });
        let (core, questions, drain, breaker) = started.recv().expect("it starts");
        let break_media = Some(Box::new(breaker) as Box<dyn FnOnce() + Send>);
        Self { core, questions, drain, break_media, thread: Some(thread) }
    }

    fn view(&self) -> RoomsView {
        let (sender, receiver) = oneshot::channel();
        self.questions.blocking_send(sender).expect("asked");
        receiver.blocking_recv().expect("answered")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

/// A caller on a connection of his own.
struct Caller {
    name: &'static str,
    stream: TcpStream,
    framer: StreamFramer,
}

impl Caller {
    fn new(name: &'static str, server: &Server) -> Self {
        let stream = TcpStream::connect(server.core).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self { name, stream, framer: StreamFramer::dialled(65_536) }
    }

    fn say(&mut self, method: &str, sequence: u32, to: &str, body: &str) {
        let name = self.name;
        // Where the server reaches him: this connection, since no address stands in the route.
        let text = format!(
            "{method} sip:conf-a@localhost SIP/2.0\r\n\
             Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{name}{method}{sequence}\r\n\
             Record-Route: <sip:x@sip-proxy.pool.invalid;lr>\r\nMax-Forwards: 70\r\n\
             From: <sip:{name}@localhost>;tag=f{name}\r\nTo: {to}\r\nCall-ID: {name}\r\n\
             CSeq: {sequence} {method}\r\nContact: <sip:{name}@127.0.0.1>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(text.as_bytes()).expect("written");
    }

    /// The next message that is no 100.
    fn hear(&mut self) -> Message {
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = self.framer.next_frame().expect("SIP") {
                let Frame::Message(bytes) = frame else { continue };
                let message = Message::parse(bytes).expect("a message");
                if message.status() != Some(100) {
                    return message;
                }
            }
            let count = self.stream.read(&mut buffer).expect("read");
            assert!(count > 0, "the connection ended");
            self.framer.push(&buffer[..count]);
        }
    }

    /// Calls, and is a phone then that says this tone.
    fn call(&mut self, frequency: f32) -> (Phone, String) {
        let mut phone = Phone::new(CallId(0), self.stream.peer_addr().expect("address"), frequency);
        let port = phone.rtp.local_addr().expect("address").port();
        let rtcp = phone.rtcp.local_addr().expect("address").port();
        let offer = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtcp:{rtcp}\r\n"
        );
        self.say("INVITE", 1, "<sip:conf-a@localhost>", &offer);
        let answer = self.hear();
        assert_eq!(answer.status(), Some(200));
        phone.server = Remote::parse(answer.body()).expect("usable").rtp.expect("an address");
        let to = answer.header_str(HeaderName::To).expect("To").to_owned();
        self.say("ACK", 1, &to, "");
        (phone, to)
    }
}

#[test]
fn two_callers_hear_each_other_and_are_hung_up_in_the_end() {
    let server = Server::start();
    let (mut alice, mut bob) = (Caller::new("alice", &server), Caller::new("bob", &server));
    let (one, _) = alice.call(500.0);
    let (other, to) = bob.call(1200.0);
    let mut phones = [one, other];
    talk(&mut phones, "they hear each other", |phones| {
        phones[0].hears(1200.0) && phones[1].hears(500.0)
    });
    assert!(!phones[0].hears(500.0) && !phones[1].hears(1200.0));
    talk(&mut phones, "it is shown", |_| {
        let view = server.view();
        let [room] = &view.rooms[..] else { return false };
        let is_fine =
            |media: &admin::MediaView| media.codec == "PCMU" && media.packets_received > 10;
        view.participants == 2
            && &*room.name == "a"
            && room
                .participants
                .iter()
                .all(|one| one.is_inside && one.media.as_ref().is_some_and(is_fine))
    });
    bob.say("BYE", 2, &to, "");
    assert_eq!(bob.hear().status(), Some(200));
    let begin = now();
    server.drain.cancel();
    let bye = alice.hear();
    assert_eq!(bye.method(), Some(Method::Bye));
    let answer = ResponseBuilder::new(&bye, 200).build().expect("an answer");
    alice.stream.write_all(&answer).expect("written");
    until("the server ends", || {
        server.thread.as_ref().is_some_and(JoinHandle::is_finished).then_some(())
    });
    assert!(now() - begin < DRAIN, "as soon as all are gone");
}

/// Whoever is in a room that is not mixed any more must hear of it.
#[test]
fn a_media_thread_that_dies_takes_the_server_with_it_in_order() {
    let mut server = Server::start();
    let mut alice = Caller::new("alice", &server);
    let _phone = alice.call(500.0);
    server.break_media.take().expect("it was not broken before")();
    let bye = alice.hear();
    assert_eq!(bye.method(), Some(Method::Bye));
    let answer = ResponseBuilder::new(&bye, 200).build().expect("an answer");
    alice.stream.write_all(&answer).expect("written");
    until("the server ends", || {
        server.thread.as_ref().is_some_and(JoinHandle::is_finished).then_some(())
    });
}

#[test]
fn what_is_no_sip_ends_its_connection_only() {
    let server = Server::start();
    let mut bad = Caller::new("bad", &server);
    bad.stream.write_all(b"GET / HTTP/1.0\r\nContent-Length: x\r\n\r\n").expect("written");
    let mut rest = Vec::new();
    // Closed, with or without an answer.
    let _ = bad.stream.read_to_end(&mut rest);
    let mut good = Caller::new("good", &server);
    good.say("OPTIONS", 1, "<sip:conf-a@localhost>", "");
    let answer = good.hear();
    assert_eq!(answer.status(), Some(200));
    assert!(answer.header_str(HeaderName::Contact).is_some_and(|text| text.ends_with(";isfocus")));
}
