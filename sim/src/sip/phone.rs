//! A phone: an independent user agent that does what it is told and insists on legal SIP (RFC 3261, RFC 6026).
//!
//! It keeps every transaction for the whole run, so that nothing that comes late or twice goes unnoticed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dialtone_sip::{
    HeaderName, Message, Method, RequestBuilder, ResponseBuilder, ack_for, cancel_for,
};

use super::bindings::{Asked, Change};
use super::media::{target, values};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// 64*T1.
const LIMIT: Duration = Duration::from_secs(32);
const DOMAIN: &str = "dialtone.test";

/// What a phone does with an INVITE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// When it rings; not at all if `None`.
    pub(crate) ring: Option<Duration>,
    /// When it answers, and with what; never if `None`.
    pub(crate) answer: Option<(Duration, u16)>,
}

/// What a phone wants.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Something happened that runs are compared by.
    Mark {
        what: String,
        code: u16,
    },
    Send(Bytes),
    Timer {
        at: Duration,
        token: Token,
    },
    Wrong(String),
}

#[derive(Clone, Debug)]
pub(crate) enum Token {
    Answer(Key),
    Bye(String),
    Change(Change),
    Repeat(Key),
    RepeatAnswer(Key),
    Ring(Key),
}

/// Branch and method of a transaction.
pub(crate) type Key = (String, String);

#[derive(Debug)]
struct Client {
    call: String,
    request: Message,
    began: Duration,
    sends: u32,
    interval: Duration,
    provisional: bool,
    finals: Vec<(u16, Option<String>)>,
    gave_up: bool,
    cancel: bool,
    cancel_sent: bool,
}

#[derive(Debug)]
struct Server {
    call: String,
    request: Message,
    tag: String,
    last: Option<Bytes>,
    began: Duration,
    provisional: bool,
    answer: Option<u16>,
    sends: u32,
    interval: Duration,
    acks: u32,
    cancelled: bool,
}

#[derive(Debug)]
struct Dialog {
    local_tag: String,
    remote_tag: String,
    /// Header values with the tags.
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    local_cseq: u32,
    remote_cseq: u32,
    invite: Key,
    ended: bool,
}

#[derive(Debug)]
pub(crate) struct Phone {
    /// Unlike any other phone's.
    pub(crate) name: String,
    /// Several phones may be one user's.
    pub(crate) user: String,
    pub(crate) gateway: usize,
    pub(crate) local: SocketAddr,
    pub(crate) edge: SocketAddr,
    pub(crate) tcp: bool,
    /// Its way to the gateway exists.
    pub(crate) connected: bool,
    /// Its gateway was killed: it may lose calls.
    pub(crate) lost: bool,
    /// A gateway was killed, so that what its phones send again comes as something new; or datagrams get lost while
    /// proxies die: when a 2xx or its ACK is lost at the edge and the proxy that would carry the repetition is gone, the
    /// call is lost, as with any proxy between two phones.
    pub(crate) lenient: bool,
    /// Answers may take so long that requests are sent again.
    pub(crate) patient: bool,
    /// Datagrams may be lost and doubled.
    pub(crate) lossy: bool,
    /// An ACK that a proxy may have lost comes once more.
    pub(crate) ack_twice: bool,
    /// Calls that it begins without a description.
    pub(crate) late: BTreeSet<String>,
    /// Where it was told to send media, by call.
    pub(crate) remote_media: BTreeMap<String, String>,
    pub(crate) plans: BTreeMap<String, Plan>,
    clients: BTreeMap<Key, Client>,
    servers: BTreeMap<Key, Server>,
    dialogs: BTreeMap<String, Dialog>,
    pub(crate) register_cseq: u32,
    /// Changes of its bindings, in order.
    pub(crate) asked: Vec<Asked>,
    /// Changes that wait for the answer to the last one.
    pub(crate) wanted: VecDeque<Change>,
    serial: u32,
    pub(crate) effects: Vec<Effect>,
}

impl Phone {
    pub(crate) fn new(
        name: &str,
        user: &str,
        gateway: usize,
        local: SocketAddr,
        edge: SocketAddr,
        tcp: bool,
    ) -> Self {
        Self {
            name: name.to_owned(),
            user: user.to_owned(),
            gateway,
            local,
            edge,
            tcp,
            connected: true,
            lost: false,
            lenient: false,
            patient: false,
            lossy: false,
            ack_twice: false,
            late: BTreeSet::new(),
            remote_media: BTreeMap::new(),
            plans: BTreeMap::new(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            register_cseq: 0,
            asked: Vec::new(),
            wanted: VecDeque::new(),
            serial: 0,
            effects: Vec::new(),
        }
    }

    pub(crate) fn contact(&self) -> String {
        let transport = if self.tcp { ";transport=tcp" } else { "" };
        format!("sip:{}@{}{transport}", self.user, self.local)
    }

    /// When it began this call.
    pub(crate) fn began(&self, call: &str) -> Option<Duration> {
        let clients = self.clients.iter().filter(|((_, method), _)| method == "INVITE");
        clients.filter(|(_, client)| client.call == call).map(|(_, client)| client.began).min()
    }

    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        let text = format!("{}: {}", self.name, what.into());
        self.effects.push(Effect::Wrong(text));
    }

    fn mark(&mut self, call: &str, what: &str, code: u16) {
        let what = format!("{} {call} {what}", self.name);
        self.effects.push(Effect::Mark { what, code });
    }

    fn next(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}-{}-{}", self.name, self.serial)
    }

    pub(crate) fn start(&mut self, method: Method<'_>, uri: &str) -> (String, RequestBuilder) {
        let branch = format!("z9hG4bK{}", self.next("branch"));
        let transport = if self.tcp { "TCP" } else { "UDP" };
        let builder = RequestBuilder::new(method, uri)
            .via(transport, self.local, &branch)
            .header("Max-Forwards", "70");
        (branch, builder)
    }

    pub(crate) fn send_request(&mut self, now: Duration, call: &str, branch: String, bytes: Bytes) {
        let request = Message::parse(bytes.clone()).expect("phones send sound requests");
        let method = request.method().expect("a request").as_str().to_owned();
        let client = Client {
            call: call.to_owned(),
            request,
            began: now,
            sends: 1,
            interval: T1,
            provisional: false,
            finals: Vec::new(),
            gave_up: false,
            cancel: false,
            cancel_sent: false,
        };
        let key = (branch, method);
        self.clients.insert(key.clone(), client);
        self.effects.push(Effect::Send(bytes));
        let wait = if self.tcp { LIMIT } else { T1 };
        self.effects.push(Effect::Timer { at: now + wait, token: Token::Repeat(key) });
    }

    /// Whether a REGISTER is under way.
    pub(crate) fn is_registering(&self) -> bool {
        self.clients
            .iter()
            .any(|(key, client)| key.1 == "REGISTER" && client.finals.is_empty() && !client.gave_up)
    }

    /// Registers its one contact, unless a REGISTER is under way.
    pub(crate) fn register(&mut self, now: Duration) {
        let contact = format!("<{}>", self.contact());
        self.send_register(now, &contact, "3600");
    }

    pub(crate) fn invite(&mut self, now: Duration, call: &str, to: &str) {
        let tag = self.next("from");
        let uri = format!("sip:{to}@{DOMAIN}");
        let (branch, builder) = self.start(Method::Invite, &uri);
        let mut builder = builder
            .header("From", &format!("<sip:{}@{DOMAIN}>;tag={tag}", self.user))
            .header("To", &format!("<{uri}>"))
            .header("Call-ID", call)
            .header("CSeq", "1 INVITE")
            .header("Contact", &format!("<{}>", self.contact()));
        if !self.late.contains(call) {
            builder = builder.body("application/sdp", self.sdp());
        }
        let bytes = builder.build();
        self.mark(call, "calls", 0);
        self.send_request(now, call, branch, bytes);
    }

    pub(crate) fn cancel(&mut self, now: Duration, call: &str) {
        let Some((key, client)) = self
            .clients
            .iter_mut()
            .find(|((_, method), client)| method == "INVITE" && client.call == call)
        else {
            return;
        };
        if !client.finals.is_empty() {
            return;
        }
        client.cancel = true;
        let key = key.clone();
        self.send_cancel(now, &key);
    }

    fn send_cancel(&mut self, now: Duration, key: &Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if !client.cancel || client.cancel_sent || !client.provisional {
            return;
        }
        client.cancel_sent = true;
        let call = client.call.clone();
        let bytes = cancel_for(&client.request).expect("a CANCEL");
        self.send_request(now, &call, key.0.clone(), bytes);
    }

    fn in_dialog(&mut self, call: &str, method: Method<'_>, cseq: u32) -> Option<(String, Bytes)> {
        let dialog = self.dialogs.get(call)?;
        let (target, local, remote) =
            (dialog.target.clone(), dialog.local.clone(), dialog.remote.clone());
        let routes = dialog.routes.clone();
        let (branch, mut builder) = self.start(method, &target);
        for route in &routes {
            builder = builder.header("Route", route);
        }
        builder = builder
            .header("From", &local)
            .header("To", &remote)
            .header("Call-ID", call)
            .header("CSeq", &format!("{cseq} {method}"));
        if method == Method::Invite {
            builder = builder.header("Contact", &format!("<{}>", self.contact()));
        }
        // A re-INVITE has an offer even if the call began without one.
        if method == Method::Invite
            || method == Method::Ack && self.late.contains(call) && cseq == 1
        {
            builder = builder.body("application/sdp", self.sdp());
        }
        // A phone goes to the first route's address, which must be that of its own gateway.
        let first = routes.first().cloned().unwrap_or_default();
        if !first.contains(&format!("@{}", self.edge)) {
            self.wrong(format!(
                "the route set of {call} does not begin at the own gateway: {first}"
            ));
        }
        Some((branch, builder.build()))
    }

    /// BYE or re-INVITE of an established call; nothing if there is none.
    pub(crate) fn within(&mut self, now: Duration, call: &str, method: Method<'_>) {
        let Some(dialog) = self.dialogs.get_mut(call).filter(|dialog| !dialog.ended) else {
            return;
        };
        let waits = |server: &Server| server.acks == 0 && now < server.began + LIMIT;
        if method == Method::Bye && self.servers.get(&dialog.invite).is_some_and(waits) {
            // RFC 3261 section 15: a callee MUST NOT say BYE before its 2xx is acknowledged, or was for too long not.
            let token = Token::Bye(call.to_owned());
            return self.effects.push(Effect::Timer { at: now + T1, token });
        }
        dialog.local_cseq += 1;
        dialog.ended |= method == Method::Bye;
        let cseq = dialog.local_cseq;
        if let Some((branch, bytes)) = self.in_dialog(call, method, cseq) {
            self.send_request(now, call, branch, bytes);
        }
    }

    /// Where requests go of a call that it ever was in.
    pub(crate) fn target_of(&self, call: &str) -> Option<&str> {
        self.dialogs.get(call).map(|dialog| &*dialog.target)
    }

    pub(crate) fn has_dialog(&self, call: &str) -> bool {
        self.dialogs.get(call).is_some_and(|dialog| !dialog.ended)
    }

    pub(crate) fn handle(&mut self, now: Duration, bytes: Bytes) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return;
        }
        let message = match Message::parse(bytes.clone()) {
            Ok(message) => message,
            Err(partial) => return self.wrong(format!("gets no SIP: {}", partial.error)),
        };
        if let Err(error) = message.check() {
            return self.wrong(format!("gets broken SIP: {error}"));
        }
        match message.content_length() {
            Ok(Some(length)) if length == message.body().len() => {}
            other => self.wrong(format!("Content-Length {other:?} of {}", message.body().len())),
        }
        if message.is_request() {
            self.request(now, message);
        } else {
            self.response(now, &message);
        }
    }

    fn response(&mut self, now: Duration, response: &Message) {
        let code = response.status().unwrap_or(0);
        let cseq = response.cseq().expect("checked");
        let (seq, method) = (cseq.seq, cseq.method.as_str().to_owned());
        if response.vias().count() != 1 {
            self.wrong(format!("{code} with {} Vias", response.vias().count()));
        }
        let branch = response.top_via().expect("checked").branch().unwrap_or("").to_owned();
        let key = (branch, method);
        let lossy = self.lossy;
        let Some(client) = self.clients.get_mut(&key) else {
            return self.wrong(format!("{code} for {key:?} that it never sent"));
        };
        let call = client.call.clone();
        let mut faults = Vec::new();
        let tag = |message: &Message| message.to().ok().and_then(|to| to.tag().map(str::to_owned));
        if response.call_id() != client.request.call_id()
            || client.request.cseq().map(|cseq| cseq.seq) != Ok(seq)
            || response.from().ok().and_then(|from| from.tag())
                != client.request.from().ok().and_then(|from| from.tag())
        {
            faults.push(format!("{code} for {key:?} of another call"));
        }
        let (asked, answered) = (tag(&client.request), tag(response));
        if asked.is_some() && asked != answered {
            faults.push(format!("{code} for {key:?} changes the tag to {answered:?}"));
        }
        let invite = key.1 == "INVITE";
        if code < 200 {
            if !client.finals.is_empty() && !lossy {
                faults.push(format!("{code} after {:?} for {key:?}", client.finals));
            }
            client.provisional = true;
            if code > 100 && answered.is_none() {
                faults.push(format!("{code} without a tag"));
            }
            faults.into_iter().for_each(|fault| self.wrong(fault));
            if invite && code > 100 {
                self.mark(&call, &format!("hears {code}"), code);
            }
            return self.send_cancel(now, &key);
        }
        let first = client.finals.is_empty();
        let known = client.finals.iter().any(|(other, tag)| *other == code && *tag == answered);
        if let Some((other, _)) = client.finals.first()
            && *other != code
        {
            faults.push(format!("{code} after {other} for {key:?}"));
        } else if !(first || invite && code < 300)
            && (self.tcp || (client.sends == 1 && !invite && !lossy))
        {
            faults.push(format!("{code} again for {key:?}"));
        }
        if !known {
            client.finals.push((code, answered.clone()));
        }
        let cancelled = client.cancel;
        let request = client.request.clone();
        let took = now - client.began;
        faults.into_iter().for_each(|fault| self.wrong(fault));
        if first && key.1 == "REGISTER" {
            self.registered(now, took, seq, code, response);
        }
        if first {
            self.mark(&call, &format!("{} {seq} answered", key.1), code);
        }
        if !invite {
            return;
        }
        if code < 300 {
            self.note_media(&call, response);
        }
        if code >= 300 {
            let ack = ack_for(&request, response).expect("an ACK");
            self.effects.push(Effect::Send(ack));
            return;
        }
        let mut surplus = false;
        if !known && asked.is_none() {
            let text = |message: &Message, name| message.header_str(name).unwrap_or("").to_owned();
            let mut routes = values(response, HeaderName::RecordRoute);
            routes.reverse();
            let dialog = Dialog {
                local_tag: request.from().ok().and_then(|from| from.tag()).unwrap_or("").to_owned(),
                remote_tag: answered.clone().unwrap_or_default(),
                local: text(&request, HeaderName::From),
                remote: text(response, HeaderName::To),
                target: target(response),
                routes,
                local_cseq: seq,
                remote_cseq: 0,
                invite: key.clone(),
                ended: false,
            };
            if dialog.target.is_empty() {
                self.wrong("2xx to INVITE without Contact");
            }
            // The second phone of a fork that answers: its call is ended at once (RFC 3261 section 13.2.2.4).
            surplus = self.dialogs.contains_key(&call);
            self.dialogs.insert(call.clone(), dialog);
        }
        if let Some((_, ack)) = self.in_dialog(&call, Method::Ack, seq) {
            self.effects.push(Effect::Send(ack));
        }
        if !known && (cancelled || surplus) {
            self.within(now, &call, Method::Bye);
        }
    }

    fn request(&mut self, now: Duration, request: Message) {
        let method = request.method().expect("a request").as_str().to_owned();
        let call = request.call_id().expect("checked").to_owned();
        let via = request.top_via().expect("checked");
        let branch = format!("{}|{}", via.branch().unwrap_or(""), via.sent_by);
        if request.vias().count() != 1 {
            self.wrong(format!("{method} with {} Vias", request.vias().count()));
        }
        if request.header(HeaderName::Path).is_some() || request.header(HeaderName::Route).is_some()
        {
            self.wrong(format!("{method} shows Path or Route of the core"));
        }
        if !matches!(request.max_forwards(), Ok(Some(1..))) {
            self.wrong(format!("{method} without Max-Forwards left"));
        }
        if method == "ACK" {
            return self.ack(&call, &branch, &request);
        }
        let key = (branch, method.clone());
        if let Some(server) = self.servers.get_mut(&key) {
            if let Some(last) = server.last.clone() {
                self.effects.push(Effect::Send(last));
            }
            if self.tcp || !self.lossy {
                self.wrong(format!("{method} of {call} is sent again in one transaction"));
            }
            return;
        }
        let cseq = request.cseq().expect("checked").seq;
        let in_dialog = request.to().expect("checked").tag().map(str::to_owned);
        let tag = in_dialog.clone().unwrap_or_else(|| self.next("to"));
        let server = Server {
            call: call.clone(),
            request: request.clone(),
            tag,
            last: None,
            began: now,
            provisional: false,
            answer: None,
            sends: 0,
            interval: T1,
            acks: 0,
            cancelled: false,
        };
        match (method.as_str(), in_dialog) {
            ("CANCEL", _) => {
                self.servers.insert(key.clone(), server);
                self.cancelled(now, &call, &key);
            }
            ("INVITE", None) => {
                let again = self.servers.iter().any(|((_, other), server)| {
                    other == "INVITE"
                        && server.call == call
                        && server.request.to().is_ok_and(|to| to.tag().is_none())
                });
                if again {
                    self.wrong(format!("rings twice for {call}"));
                }
                self.servers.insert(key.clone(), server);
                self.note_media(&call, &request);
                self.mark(&call, "rings", 0);
                self.respond(now, &key, 100);
                let plan = self.plans.get(&call).copied();
                let plan = plan.unwrap_or(Plan {
                    ring: Some(Duration::ZERO),
                    answer: Some((Duration::from_millis(100), 200)),
                });
                if let Some(ring) = plan.ring {
                    self.effects
                        .push(Effect::Timer { at: now + ring, token: Token::Ring(key.clone()) });
                }
                if let Some((after, _)) = plan.answer {
                    self.effects.push(Effect::Timer { at: now + after, token: Token::Answer(key) });
                }
            }
            (_, None) => {
                self.servers.insert(key.clone(), server);
                self.wrong(format!("{method} outside of a dialog"));
                self.respond(now, &key, 501);
            }
            (_, Some(tag)) => {
                self.servers.insert(key.clone(), server);
                let from = request.from().expect("checked").tag().unwrap_or("").to_owned();
                let fault = match self.dialogs.get_mut(&call) {
                    None => Some("in a dialog that never was"),
                    Some(dialog) if dialog.local_tag != tag || dialog.remote_tag != from => {
                        Some("with other tags")
                    }
                    // BYEs may cross.
                    Some(dialog) if dialog.ended && method != "BYE" => Some("after BYE"),
                    Some(dialog) if cseq <= dialog.remote_cseq => Some("with an old CSeq"),
                    Some(dialog) => {
                        dialog.remote_cseq = cseq;
                        dialog.ended |= method == "BYE";
                        None
                    }
                };
                if let Some(fault) = fault {
                    // Where datagrams get lost, re-INVITE may overtake the 2xx and be overtaken by BYE.
                    let excused = self.lenient || self.lossy && method == "INVITE";
                    if !excused {
                        self.wrong(format!("{method} of {call} {fault}"));
                    }
                    return self.respond(now, &key, 481);
                }
                self.note_media(&call, &request);
                self.mark(&call, &format!("gets {method} {cseq}"), 0);
                self.respond(now, &key, 200);
            }
        }
    }

    fn cancelled(&mut self, now: Duration, call: &str, key: &Key) {
        let invite = (key.0.clone(), "INVITE".to_owned());
        let Some(server) = self.servers.get_mut(&invite) else {
            self.wrong(format!("CANCEL of {call} for no INVITE"));
            return self.respond(now, key, 481);
        };
        let (provisional, answered) = (server.provisional, server.answer.is_some());
        server.cancelled = true;
        if !provisional {
            self.wrong(format!("CANCEL of {call} before any provisional answer"));
        }
        self.mark(call, "cancelled", 0);
        self.respond(now, key, 200);
        if !answered {
            self.respond(now, &invite, 487);
        }
    }

    fn ack(&mut self, call: &str, branch: &str, ack: &Message) {
        let seq = ack.cseq().map(|cseq| cseq.seq);
        let same = (branch.to_owned(), "INVITE".to_owned());
        let exact = self.servers.contains_key(&same);
        let found = self.servers.iter_mut().find(|((other, method), server)| {
            method == "INVITE"
                && if exact {
                    other == branch
                } else {
                    server.call == call
                        && server.request.cseq().map(|cseq| cseq.seq) == seq
                        && server.answer.is_some_and(|code| code < 300)
                }
        });
        let lossy = self.lossy;
        let twice = self.ack_twice;
        let fault = match found {
            None => Some("for no INVITE".to_owned()),
            Some((_, server)) => match server.answer {
                None => Some("before any final answer".to_owned()),
                Some(code) if exact != (code >= 300) => {
                    Some(format!("with the wrong branch for {code}"))
                }
                Some(_) if ack.to().ok().and_then(|to| to.tag()) != Some(&server.tag) => {
                    Some("with another tag".to_owned())
                }
                Some(_) => {
                    server.acks += 1;
                    let most = server.sends + u32::from(twice) * server.sends;
                    (server.acks > most && !lossy).then(|| "once too often".to_owned())
                }
            },
        };
        match fault {
            Some(fault) => self.wrong(format!("ACK of {call} {fault}")),
            None => self.note_media(call, ack),
        }
    }

    fn respond(&mut self, now: Duration, key: &Key, code: u16) {
        let (contact, sdp) = (format!("<{}>", self.contact()), self.sdp());
        let Some(server) = self.servers.get_mut(key) else { return };
        let mut builder = ResponseBuilder::new(&server.request, code);
        if code > 100 {
            builder = builder.to_tag(server.tag.clone()).copy(HeaderName::RecordRoute);
        }
        let invite = key.1 == "INVITE";
        if invite && code > 100 && code < 300 {
            builder = builder.header("Contact", contact);
            if code >= 200 {
                builder = builder.body("application/sdp", sdp.into_bytes());
            }
        }
        let bytes = builder.build().expect("an answer");
        server.last = Some(bytes.clone());
        self.effects.push(Effect::Send(bytes.clone()));
        if code < 200 {
            server.provisional = true;
            return;
        }
        server.answer = Some(code);
        server.sends = 1;
        let (request, call, tag) =
            (server.request.clone(), server.call.clone(), server.tag.clone());
        if !invite {
            return;
        }
        // 2xx is repeated until its ACK comes whatever the transport, others over UDP only.
        if code < 300 || !self.tcp {
            self.effects
                .push(Effect::Timer { at: now + T1, token: Token::RepeatAnswer(key.clone()) });
        }
        self.mark(&call, "answers", code);
        if code < 300 && request.to().is_ok_and(|to| to.tag().is_none()) {
            let answer = Message::parse(bytes).expect("an answer");
            let text = |message: &Message, name| message.header_str(name).unwrap_or("").to_owned();
            let from = request.from().ok();
            let dialog = Dialog {
                local_tag: tag,
                remote_tag: from.and_then(|from| from.tag()).unwrap_or("").to_owned(),
                local: text(&answer, HeaderName::To),
                remote: text(&request, HeaderName::From),
                target: target(&request),
                routes: values(&request, HeaderName::RecordRoute),
                local_cseq: 0,
                remote_cseq: request.cseq().map_or(0, |cseq| cseq.seq),
                invite: key.clone(),
                ended: false,
            };
            self.dialogs.insert(call, dialog);
        }
    }

    pub(crate) fn timer(&mut self, now: Duration, token: Token) {
        match token {
            Token::Bye(call) => self.within(now, &call, Method::Bye),
            Token::Change(change) => self.change_bindings(now, change),
            Token::Ring(key) => {
                if self.servers.get(&key).is_some_and(|server| server.answer.is_none()) {
                    self.respond(now, &key, 180);
                }
            }
            Token::Answer(key) => {
                let open = self.servers.get(&key).filter(|server| server.answer.is_none());
                let Some(server) = open else { return };
                let plan = self.plans.get(&server.call).and_then(|plan| plan.answer);
                self.respond(now, &key, plan.map_or(200, |(_, code)| code));
            }
            Token::Repeat(key) => {
                let connected = self.connected;
                let Some(client) = self.clients.get_mut(&key) else { return };
                let waits_on = key.1 == "INVITE" && client.provisional;
                if !client.finals.is_empty() || waits_on {
                    return;
                }
                if now >= client.began + LIMIT || !connected {
                    client.gave_up = true;
                    return;
                }
                if self.tcp {
                    return;
                }
                client.sends += 1;
                client.interval =
                    (client.interval * 2).min(if key.1 == "INVITE" { LIMIT } else { T2 });
                let at = (now + client.interval).min(client.began + LIMIT);
                self.effects.push(Effect::Send(client.request.bytes().clone()));
                self.effects.push(Effect::Timer { at, token: Token::Repeat(key) });
            }
            Token::RepeatAnswer(key) => {
                let Some(server) = self.servers.get_mut(&key) else { return };
                if server.acks > 0 || now > server.began + LIMIT * 2 || !self.connected {
                    return;
                }
                server.sends += 1;
                server.interval = (server.interval * 2).min(T2);
                let at = now + server.interval;
                if let Some(last) = server.last.clone() {
                    self.effects.push(Effect::Send(last));
                }
                self.effects.push(Effect::Timer { at, token: Token::RepeatAnswer(key) });
            }
        }
    }

    /// Looks back when all is over. `strict` when no gateway was killed.
    pub(crate) fn finish(&mut self, strict: bool) {
        let mut faults = Vec::new();
        for (key, client) in &self.clients {
            let worn = self.lossy && self.lenient && key.1 == "INVITE";
            let excused = self.lost || worn || (!strict && client.gave_up);
            if client.finals.is_empty() && !excused {
                faults.push(format!("{} of {} has no final answer", key.1, client.call));
            }
            if client.sends > 1 && strict && !(self.tcp || self.lossy || self.patient) {
                faults
                    .push(format!("{} of {} was sent {} times", key.1, client.call, client.sends));
            }
        }
        for (key, server) in self.servers.iter().filter(|(key, _)| key.1 == "INVITE") {
            match server.answer {
                None if !self.lost => faults.push(format!("still rings for {}", server.call)),
                Some(200) if self.lossy && self.lenient => {}
                Some(code) if server.acks == 0 && strict => {
                    faults.push(format!(
                        "{code} to {key:?} of {} was never acknowledged",
                        server.call
                    ));
                }
                Some(_) | None => {}
            }
        }
        for (call, dialog) in &self.dialogs {
            if dialog.local_tag.is_empty() || dialog.remote_tag.is_empty() {
                faults.push(format!("{call} by {:?} has no tags", dialog.invite));
            }
        }
        faults.into_iter().for_each(|fault| self.wrong(fault));
    }
}
