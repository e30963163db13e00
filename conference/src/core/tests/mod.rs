//! The focus with callers made of text.

mod calls;
mod events;
mod hostile;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::{HeaderName, Message, Method, ResponseBuilder};

use crate::core::{CallId, Focus, Hop, MediaCommand, MediaEvent, MediaSession, Output, Settings};

const PROXY: Hop = Hop::Accepted(1);
const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
                     m=audio 7000 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\n";

/// A focus with a clock, and what it has wanted so far.
struct Lab {
    focus: Focus,
    now: Instant,
    sent: Vec<(Hop, Message)>,
    media: Vec<MediaCommand>,
    /// Whether sockets are made at once.
    opens: bool,
    ports: u16,
}

#[expect(clippy::disallowed_methods, reason = "a beginning; the rest is arithmetic")]
fn beginning() -> Instant {
    Instant::now()
}

impl Lab {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("127.0.0.9:5060".parse().expect("address"));
        settings.domain = "dialtone.test".into();
        change(&mut settings);
        let mut focus = Focus::new(settings, fastrand::Rng::with_seed(4579));
        focus.handle_connected(1);
        Self {
            focus,
            now: beginning(),
            sent: Vec::new(),
            media: Vec::new(),
            opens: true,
            ports: 4000,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.focus.poll() {
            match output {
                Output::Send { to, bytes } => {
                    let message = Message::parse(bytes).expect("a message");
                    // What answers a broken request lacks what that lacks.
                    if message.is_request() {
                        message.check().expect("a proper request");
                    }
                    self.sent.push((to, message));
                }
                Output::Media(command) => {
                    let opened = match &command {
                        MediaCommand::Open { call, .. } if self.opens => Some(*call),
                        _ => None,
                    };
                    self.media.push(command);
                    if let Some(call) = opened {
                        self.ports += 2;
                        let rtp = SocketAddr::new([127, 0, 0, 9].into(), self.ports);
                        self.focus.handle_media(self.now, MediaEvent::Opened { call, rtp });
                    }
                }
            }
        }
    }

    fn say(&mut self, text: impl Into<Vec<u8>>) -> &mut Self {
        self.say_over(PROXY, text)
    }

    fn say_over(&mut self, hop: Hop, text: impl Into<Vec<u8>>) -> &mut Self {
        self.focus.handle_message(self.now, hop, Bytes::from(text.into()));
        self.drain();
        self
    }

    fn tell(&mut self, event: MediaEvent) {
        self.focus.handle_media(self.now, event);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.focus.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.focus.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn take(&mut self) -> Vec<(Hop, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// The only final response that was sent; 100 is passed over.
    fn response(&mut self) -> Message {
        let sent = self.take();
        let mut finals = sent.into_iter().map(|(_, message)| message);
        let found = finals.find(|message| message.status().is_some_and(|code| code > 100));
        found.expect("a final response")
    }

    fn status(&mut self) -> u16 {
        self.response().status().expect("a response")
    }

    /// The only request that was sent.
    fn request(&mut self) -> (Hop, Message) {
        let mut sent = self.take();
        sent.retain(|(_, message)| message.is_request());
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// Answers a request of the focus.
    fn answer(&mut self, hop: Hop, request: &Message, code: u16) {
        let bytes = ResponseBuilder::new(request, code).build().expect("an answer");
        self.say_over(hop, bytes.to_vec());
    }

    /// What was agreed upon last.
    fn agreed(&self) -> &MediaSession {
        let last = self.media.iter().rev().find_map(|command| match command {
            MediaCommand::Set { session, .. } => Some(&**session),
            _ => None,
        });
        last.expect("something was agreed upon")
    }

    fn closed(&self) -> usize {
        self.media.iter().filter(|command| matches!(command, MediaCommand::Close { .. })).count()
    }

    /// A call that is answered and acknowledged, and in its room.
    fn join(&mut self, caller: &Caller) -> CallId {
        self.say(caller.invite(OFFER));
        let answer = self.response();
        assert_eq!(answer.status(), Some(200), "{answer:?}");
        self.say(caller.ack(&answer, ""));
        let call = self.media.iter().rev().find_map(|command| match command {
            MediaCommand::Open { call, .. } => Some(*call),
            _ => None,
        });
        let call = call.expect("it was opened");
        self.tell(MediaEvent::Entered { call });
        self.take();
        call
    }

    /// Nobody is here, and a minute later nothing is left of anybody.
    fn is_clean(&mut self) {
        self.pass(Duration::from_secs(70));
        assert!(self.focus.is_empty());
        assert_eq!(self.focus.sizes(), [0; 6]);
        assert_eq!(self.focus.participants(), 0);
    }
}

/// Somebody who calls a room.
struct Caller {
    name: &'static str,
    room: String,
    /// Headers that all requests have in addition.
    more: String,
}

impl Caller {
    fn new(name: &'static str, room: &str) -> Self {
        Self { name, room: room.to_owned(), more: String::new() }
    }

    /// A request; `sequence` makes its branch as well.
    fn request(&self, method: &str, sequence: u32, to_tag: &str, more: &str, body: &str) -> String {
        let Self { name, room, more: always, .. } = self;
        let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
        let branch = format!("z9hG4bK{name}{method}{sequence}");
        let length = body.len();
        format!(
            "{method} sip:{room}@dialtone.test SIP/2.0\r\n\
             Via: SIP/2.0/TCP 127.0.0.41:5060;branch={branch}\r\n\
             Record-Route: <sip:token@192.0.2.1:5060;lr>\r\n\
             Max-Forwards: 69\r\n\
             From: \"{name} <&>\" <sip:{name}@dialtone.test>;tag=f{name}\r\n\
             To: <sip:{room}@dialtone.test>{to_tag}\r\n\
             Call-ID: c{name}\r\n\
             CSeq: {sequence} {method}\r\n\
             Contact: <sip:{name}@192.0.2.9:5062>\r\n\
             {always}{more}Content-Length: {length}\r\n\r\n{body}"
        )
    }

    fn invite(&self, offer: &str) -> String {
        self.request("INVITE", 1, "", kind(offer), offer)
    }

    fn ack(&self, answer: &Message, body: &str) -> String {
        let sequence = answer.cseq().expect("CSeq").seq;
        let ack = self.request("ACK", sequence, &tag(answer), kind(body), body);
        // It has a branch of its own.
        ack.replace("branch=z9hG4bK", "branch=z9hG4bKack")
    }

    fn bye(&self, answer: &Message, sequence: u32) -> String {
        self.request("BYE", sequence, &tag(answer), "", "")
    }
}

fn kind(body: &str) -> &'static str {
    if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" }
}

/// The tag of To.
fn tag(message: &Message) -> String {
    message.to().expect("To").tag().unwrap_or("").to_owned()
}

fn body(message: &Message) -> &str {
    std::str::from_utf8(message.body()).expect("text")
}

fn header(message: &Message, name: HeaderName) -> &str {
    message.header_str(name).unwrap_or("")
}

fn is(message: &Message, method: Method<'_>) -> bool {
    message.is_request() && message.method() == Some(method)
}
