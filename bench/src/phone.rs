//! One phone: a socket (UDP) or connection (TCP) of its own, RFC 3261's transactions as far as a phone needs them,
//! and a record of everything on the [`Board`]. It does what a careful phone does: routes by Record-Route, ACKs every
//! repeated 200, sends requests again over UDP, never listens on TCP, and answers challenges if it has a password; with
//! a nonce once got it goes on until that has ended.
//!
//! Tasks: one per phone, owning its socket and all state; it ends when its command channel closes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_sip::digest::Challenge;
use tokio::sync::mpsc;

use crate::board::{Board, Register};
use crate::compose::{host_port, respond};
use crate::media::Calls;
use crate::sdp;
use crate::socket::Socket;
use crate::text::{Text, parameter, uri};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);

/// Between the last audio of a call and its BYE: what is under way is to arrive.
const LINGER: Duration = Duration::from_millis(60);

/// The port in the SDP of phones without audio.
const SILENT_PORT: u16 = 40_000;

/// Wall clocks, ours and the servers', need not run alike.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// How a phone reaches its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Who a phone is and which gateway it uses.
#[derive(Clone, Debug)]
pub struct PhoneConfig {
    pub user: String,
    pub domain: String,
    pub gateway: SocketAddr,
    pub transport: Transport,
    /// The address that the phone binds; its port is the system's choice.
    pub source: IpAddr,
    /// What it answers challenges with.
    pub password: Option<String>,
}

/// What the load tool asks of a phone.
#[derive(Clone, Debug)]
pub enum Command {
    /// REGISTER with this expiry in seconds.
    Register { expires: u32 },
    /// REGISTER without Contact: reads the bindings back.
    Fetch,
    /// Call `to`, hang up after `hold`.
    Call { call_id: String, to: String, hold: Duration },
}

#[derive(Clone, Debug)]
enum Purpose {
    /// `fetch`: without Contact.
    Register {
        fetch: bool,
    },
    Invite {
        call_id: String,
    },
    Bye {
        call_id: String,
    },
}

/// A request that waits for its final answer.
#[derive(Debug)]
struct Pending {
    purpose: Purpose,
    to: SocketAddr,
    bytes: Vec<u8>,
    started: Instant,
    interval: Duration,
    provisional: bool,
    retransmissions: u32,
    /// How often it was sent anew with other credentials.
    challenges: u32,
}

/// A challenge that was answered.
#[derive(Debug)]
struct Known {
    value: String,
    /// Answers given to it.
    count: u32,
}

/// A call that this phone placed.
#[derive(Debug)]
struct Placed {
    to_user: String,
    hold: Duration,
    from_tag: String,
    invite_branch: String,
    cseq: u32,
    to: String,
    target: String,
    routes: Vec<String>,
    ack: Vec<u8>,
    answered: bool,
}

/// A call that this phone received.
#[derive(Debug)]
struct Received {
    invite: Text,
    tag: String,
    /// Where this phone wants audio to be sent.
    audio: SocketAddr,
    source: SocketAddr,
    last_answer: Vec<u8>,
    answered: Option<Instant>,
    interval: Duration,
    acked: bool,
}

#[derive(Clone, Debug)]
enum Timer {
    Retransmit(String),
    GiveUp(String),
    Answer(String),
    RepeatAnswer(String),
    HangUp(String),
    Bye(String),
}

/// A running phone; see the module's documentation.
#[derive(Debug)]
pub struct Phone {
    config: PhoneConfig,
    board: Arc<Board>,
    /// The audio of all phones' calls; without it they only speak of audio.
    media: Option<Arc<Calls>>,
    socket: Socket,
    local: SocketAddr,
    register_call_id: String,
    register_cseq: u32,
    /// When the latest registration that was answered began, and for how many seconds it was granted.
    granted: Option<(Instant, u32)>,
    serial: u64,
    /// Of the registrar, and of the proxies.
    known: [Option<Known>; 2],
    pending: HashMap<String, Pending>,
    placed: HashMap<String, Placed>,
    received: HashMap<String, Received>,
    timers: BTreeMap<(Instant, u64), Timer>,
}

#[expect(clippy::disallowed_methods, reason = "phones live in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Phone {
    /// Opens the phone's socket; TCP connects here.
    pub async fn open(
        config: PhoneConfig,
        board: Arc<Board>,
        media: Option<Arc<Calls>>,
    ) -> io::Result<Self> {
        let (socket, local) = Socket::open(&config).await?;
        let register_call_id = format!("reg-{}-{:x}", config.user, fastrand::u64(..));
        Ok(Self {
            config,
            board,
            media,
            socket,
            local,
            register_call_id,
            register_cseq: 0,
            granted: None,
            serial: fastrand::u64(..) & 0xffff_ffff_0000_0000,
            known: [None, None],
            pending: HashMap::new(),
            placed: HashMap::new(),
            received: HashMap::new(),
            timers: BTreeMap::new(),
        })
    }

    /// Serves until the channel closes or the connection ends.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> io::Result<()> {
        loop {
            let deadline = self.timers.keys().next().map_or_else(|| now() + GIVE_UP, |(at, _)| *at);
            // What has arrived goes before what is due: a phone that was not run for a while sends nothing again that has
            // been answered meanwhile.
            tokio::select! {
                biased;
                bytes = self.socket.receive() => {
                    let bytes = match bytes {
                        // ICMP of an earlier datagram: a gateway that is away for a moment.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                        other => other?,
                    };
                    if let Some(text) = Text::parse(&bytes) {
                        self.message(text).await?;
                    }
                }
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(deadline.into()) => self.timer().await?,
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn at(&mut self, when: Instant, timer: Timer) {
        let serial = self.next();
        self.timers.insert((when, serial), timer);
    }

    fn contact(&self) -> String {
        let suffix = if self.config.transport == Transport::Tcp { ";transport=tcp" } else { "" };
        format!("sip:{}@{}{suffix}", self.config.user, self.local)
    }

    /// Where this phone wants audio to be sent.
    fn own_audio(&self, ask: impl FnOnce(&Calls) -> Option<SocketAddr>) -> SocketAddr {
        let media = self.media.as_deref().and_then(ask);
        media.unwrap_or_else(|| SocketAddr::new(self.local.ip(), SILENT_PORT))
    }

    fn via(&self, branch: &str) -> String {
        let name = if self.config.transport == Transport::Tcp { "TCP" } else { "UDP" };
        format!("Via: SIP/2.0/{name} {};branch={branch};rport\r\nMax-Forwards: 70\r\n", self.local)
    }

    async fn request(
        &mut self,
        purpose: Purpose,
        branch: String,
        to: SocketAddr,
        text: String,
    ) -> io::Result<()> {
        let pending = Pending {
            purpose,
            to,
            bytes: self.signed(text).into_bytes(),
            started: now(),
            interval: T1,
            provisional: false,
            retransmissions: 0,
            challenges: 0,
        };
        self.dispatch(branch, pending).await
    }

    async fn dispatch(&mut self, branch: String, pending: Pending) -> io::Result<()> {
        self.socket.send(pending.to, &pending.bytes).await?;
        if self.config.transport == Transport::Udp {
            self.at(now() + T1, Timer::Retransmit(branch.clone()));
        }
        self.at(now() + GIVE_UP, Timer::GiveUp(branch.clone()));
        self.pending.insert(branch, pending);
        Ok(())
    }

    /// A request with an answer to the challenge that such requests got last.
    fn signed(&mut self, request: String) -> String {
        let mut words = request.split(' ');
        let (Some(method), Some(uri)) = (words.next(), words.next()) else { return request };
        let (index, name) = match method {
            "REGISTER" => (0, "Authorization"),
            "INVITE" => (1, "Proxy-Authorization"),
            // Inside a dialog nobody asks.
            _ => return request,
        };
        let (Some(password), Some(known)) = (&self.config.password, &mut self.known[index]) else {
            return request;
        };
        let Ok(challenge) = Challenge::parse(&known.value) else { return request };
        known.count += 1;
        let cnonce = format!("{:016x}", fastrand::u64(..));
        let answer =
            challenge.answer(&self.config.user, password, method, uri, known.count, &cnonce);
        request.replacen("Content-Length:", &format!("{name}: {answer}\r\nContent-Length:"), 1)
    }

    /// Sends a request anew with an answer to this challenge; gives it back if there is none to give.
    async fn answer_challenge(
        &mut self,
        branch: &str,
        mut pending: Pending,
        text: &Text,
    ) -> io::Result<Option<Pending>> {
        let (index, name) = match pending.purpose {
            Purpose::Register { .. } => (0, "www-authenticate"),
            Purpose::Invite { .. } => (1, "proxy-authenticate"),
            Purpose::Bye { .. } => return Ok(Some(pending)),
        };
        // RFC 8760 section 2.4: the topmost one that is understood.
        let understood =
            |value: &str| Some((value.to_owned(), Challenge::parse(value).ok()?.stale));
        let wanted = self.config.password.is_some();
        let found = text.all(name).find_map(understood).filter(|_| wanted);
        let Some((value, stale)) = found else { return Ok(Some(pending)) };
        // Asked once more although the nonce is fresh: the password is wrong.
        if pending.challenges > 1 || (pending.challenges == 1 && !stale) {
            return Ok(Some(pending));
        }
        self.known[index] = Some(Known { value, count: 0 });
        let new_branch = format!("z9hG4bK{:x}", self.next());
        let mut cseq = 0;
        if let Purpose::Invite { call_id } = &pending.purpose
            && let Some(ack) = self.ack_of_refusal(call_id, text)
        {
            self.socket.send(pending.to, ack.as_bytes()).await?;
            if let Some(call) = self.placed.get_mut(call_id) {
                call.invite_branch.clone_from(&new_branch);
                call.cseq += 1;
                cseq = call.cseq;
            }
        } else {
            self.register_cseq += 1;
            cseq = cseq.max(self.register_cseq);
        }
        // RFC 3261 section 22.2: as before, but for the CSeq.
        let former = String::from_utf8_lossy(&pending.bytes).into_owned();
        let line = |line: &str| match line.split_once(": ") {
            Some(("CSeq", rest)) => {
                let method = rest.split(' ').nth(1).unwrap_or_default();
                format!("CSeq: {cseq} {method}\r\n")
            }
            Some(("Authorization" | "Proxy-Authorization", _)) => String::new(),
            _ => format!("{line}\r\n"),
        };
        let (head, body) = former.split_once("\r\n\r\n").unwrap_or((&former, ""));
        let head: String = head.replacen(branch, &new_branch, 1).split("\r\n").map(line).collect();
        pending.bytes = self.signed(format!("{head}\r\n{body}")).into_bytes();
        pending.challenges += 1;
        pending.interval = T1;
        pending.provisional = false;
        self.dispatch(new_branch, pending).await?;
        Ok(None)
    }

    /// The ACK for an INVITE that was refused.
    fn ack_of_refusal(&self, call_id: &str, refusal: &Text) -> Option<String> {
        let call = self.placed.get(call_id)?;
        let PhoneConfig { user, domain, .. } = &self.config;
        let name = if self.config.transport == Transport::Tcp { "TCP" } else { "UDP" };
        Some(format!(
            "ACK sip:{}@{domain} SIP/2.0\r\nVia: SIP/2.0/{name} {};branch={};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{domain}>;tag={}\r\nTo: {}\r\nCall-ID: {call_id}\r\nCSeq: {} ACK\r\n\
             Content-Length: 0\r\n\r\n",
            call.to_user,
            self.local,
            call.invite_branch,
            call.from_tag,
            refusal.get("to").unwrap_or_default(),
            call.cseq,
        ))
    }

    fn is_registering(&self) -> bool {
        let registers =
            |pending: &Pending| matches!(pending.purpose, Purpose::Register { fetch: false });
        self.pending.values().any(registers)
    }

    async fn command(&mut self, command: Command) -> io::Result<()> {
        let branch = format!("z9hG4bK{:x}", self.next());
        let PhoneConfig { user, domain, gateway, .. } = self.config.clone();
        match command {
            // RFC 3261 section 10.2: no new registration "until they have received a final response from the registrar
            // for the previous one".
            Command::Register { .. } if self.is_registering() => {
                self.board.register_impossible();
                Ok(())
            }
            Command::Register { .. } | Command::Fetch => {
                self.register_cseq += 1;
                let contact = match command {
                    Command::Register { expires } => {
                        format!("Contact: <{}>\r\nExpires: {expires}\r\n", self.contact())
                    }
                    _ => String::new(),
                };
                let text = format!(
                    "REGISTER sip:{domain} SIP/2.0\r\n{}From: <sip:{user}@{domain}>;tag={:x}\r\nTo: <sip:{user}@{domain}>\r\n\
                     Call-ID: {}\r\nCSeq: {} REGISTER\r\n{contact}User-Agent: dialtone-load\r\nContent-Length: 0\r\n\r\n",
                    self.via(&branch),
                    self.serial,
                    self.register_call_id,
                    self.register_cseq,
                );
                let fetch = matches!(command, Command::Fetch);
                self.request(Purpose::Register { fetch }, branch, gateway, text).await
            }
            Command::Call { call_id, to, hold } => {
                let from_tag = format!("{:x}", self.next());
                let body = sdp::offer(self.own_audio(|media| Some(media.offer(&call_id))));
                let text = format!(
                    "INVITE sip:{to}@{domain} SIP/2.0\r\n{}From: <sip:{user}@{domain}>;tag={from_tag}\r\nTo: <sip:{to}@{domain}>\r\n\
                     Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: <{}>\r\nUser-Agent: dialtone-load\r\n\
                     Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
                    self.via(&branch),
                    self.contact(),
                    body.len(),
                );
                let placed = Placed {
                    to_user: to,
                    hold,
                    from_tag,
                    invite_branch: branch.clone(),
                    cseq: 1,
                    to: String::new(),
                    target: String::new(),
                    routes: Vec::new(),
                    ack: Vec::new(),
                    answered: false,
                };
                self.placed.insert(call_id.clone(), placed);
                self.request(Purpose::Invite { call_id }, branch, gateway, text).await
            }
        }
    }

    async fn message(&mut self, text: Text) -> io::Result<()> {
        match text.method().map(str::to_owned) {
            None => self.response(text).await,
            Some(method) => self.incoming(&method, text).await,
        }
    }

    async fn response(&mut self, text: Text) -> io::Result<()> {
        let (Some(status), Some(branch)) = (text.status(), text.branch().map(str::to_owned)) else {
            return Ok(());
        };
        let call_id = text.get("call-id").unwrap_or_default().to_owned();
        let elapsed = match self.pending.get_mut(&branch) {
            Some(pending) if status < 200 => {
                pending.provisional = true;
                let elapsed = pending.started.elapsed();
                if status > 100 && matches!(pending.purpose, Purpose::Invite { .. }) {
                    self.board.call(&call_id, |call| {
                        call.first_answer.get_or_insert(elapsed);
                    });
                }
                return Ok(());
            }
            Some(pending) => pending.started.elapsed(),
            None => return self.repeated_final(&call_id, status).await,
        };
        let Some(mut pending) = self.pending.remove(&branch) else { return Ok(()) };
        if matches!(status, 401 | 407) {
            match self.answer_challenge(&branch, pending, &text).await? {
                Some(unanswered) => pending = unanswered,
                None => return Ok(()),
            }
        }
        let retransmissions = pending.retransmissions;
        match pending.purpose {
            Purpose::Register { fetch } => {
                let own = self.contact();
                let contacts = text.list("contact");
                let mine = contacts.iter().find(|contact| uri(contact) == Some(&own));
                let expires: u32 = mine
                    .filter(|_| status == 200)
                    .and_then(|contact| parameter(contact, "expires")?.parse().ok())
                    .unwrap_or_default();
                let started = pending.started;
                // What is read back must be the latest: an older one has the same contact, but ends earlier.
                if !fetch && status == 200 {
                    self.granted = Some((started, expires));
                }
                let due = self.granted.map_or(1, |(since, seconds)| {
                    let gone = since.elapsed() + CLOCKS_DIFFER;
                    Duration::from_secs(seconds.into()).saturating_sub(gone).as_secs() as u32
                });
                let listed = expires > 0 && expires >= due;
                self.board.register_done(Register {
                    started,
                    status,
                    answer: elapsed,
                    retransmissions,
                    listed,
                    fetch,
                    retry_after: text.get("retry-after").is_some(),
                });
            }
            Purpose::Bye { call_id } => {
                self.placed.remove(&call_id);
                self.board.call(&call_id, |call| {
                    call.bye = Some(elapsed);
                    call.retransmissions += retransmissions;
                    call.done = true;
                });
                if status != 200 {
                    self.board.fail_bye(&call_id, format!("BYE answered {status}"));
                }
            }
            Purpose::Invite { call_id } => {
                self.board.call(&call_id, |call| {
                    call.first_answer.get_or_insert(elapsed);
                    call.final_answer = Some(elapsed);
                    call.status = status;
                    call.retransmissions += retransmissions;
                });
                self.invite_answered(&call_id, status, &text, pending.to).await?;
            }
        }
        Ok(())
    }

    async fn invite_answered(
        &mut self,
        call_id: &str,
        status: u16,
        text: &Text,
        to: SocketAddr,
    ) -> io::Result<()> {
        if status >= 300 {
            let Some(ack) = self.ack_of_refusal(call_id, text) else { return Ok(()) };
            self.placed.remove(call_id);
            self.give_up_audio(call_id);
            self.board.fail(call_id, format!("INVITE answered {}", text.start));
            return self.socket.send(to, ack.as_bytes()).await;
        }
        let Some(call) = self.placed.get_mut(call_id) else { return Ok(()) };
        call.to = text.get("to").unwrap_or_default().to_owned();
        call.answered = true;
        call.target = text.contact_uri().unwrap_or_default();
        call.routes = text.list("record-route");
        call.routes.reverse();
        let (hold, cseq) = (call.hold, call.cseq);
        let ack = self.in_dialog(call_id, "ACK", cseq, &format!("z9hG4bK{:x}", fastrand::u64(..)));
        let Some((next, ack)) = ack else {
            self.board.fail(call_id, "the route set leads nowhere");
            return Ok(());
        };
        if let Some(call) = self.placed.get_mut(call_id) {
            call.ack = ack.clone().into_bytes();
        }
        self.socket.send(next, ack.as_bytes()).await?;
        if let Some(media) = &self.media {
            media.answered(call_id, text.audio(), now());
        }
        self.at(now() + hold, Timer::HangUp(call_id.to_owned()));
        Ok(())
    }

    fn give_up_audio(&self, call_id: &str) {
        if let Some(media) = &self.media {
            media.forget(call_id);
        }
    }

    /// A request inside the dialog and the address that its route set leads to.
    fn in_dialog(
        &self,
        call_id: &str,
        method: &str,
        cseq: u32,
        branch: &str,
    ) -> Option<(SocketAddr, String)> {
        let call = self.placed.get(call_id)?;
        let first = call
            .routes
            .first()
            .map_or(call.target.as_str(), |route| uri(route).unwrap_or_default());
        let next = host_port(first)?;
        let routes: String =
            call.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let PhoneConfig { user, domain, .. } = &self.config;
        let text = format!(
            "{method} {} SIP/2.0\r\n{}{routes}From: <sip:{user}@{domain}>;tag={}\r\nTo: {}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n",
            call.target,
            self.via(branch),
            call.from_tag,
            call.to,
        );
        Some((next, text))
    }

    /// A final answer to a transaction that is over: 200s are ACKed again.
    async fn repeated_final(&mut self, call_id: &str, status: u16) -> io::Result<()> {
        let Some(call) = self.placed.get(call_id) else { return Ok(()) };
        if status / 100 != 2 || !call.answered {
            return Ok(());
        }
        let ack = call.ack.clone();
        self.board.call(call_id, |call| call.retransmissions += 1);
        match call.routes.first().and_then(|route| host_port(uri(route)?)) {
            Some(next) => self.socket.send(next, &ack).await,
            None => Ok(()),
        }
    }

    async fn incoming(&mut self, method: &str, text: Text) -> io::Result<()> {
        let call_id = text.get("call-id").unwrap_or_default().to_owned();
        let source = self.config.gateway;
        match method {
            "INVITE" => {
                if let Some(call) = self.received.get(&call_id) {
                    if call.invite.branch() == text.branch() {
                        self.board.call(&call_id, |call| call.retransmissions += 1);
                    } else {
                        self.board.call(&call_id, |call| call.rings += 1);
                    }
                    let answer = call.last_answer.clone();
                    return self.socket.send(source, &answer).await;
                }
                let Some(ring) = self.board.ring(&call_id) else {
                    let answer = respond(&text, "404 Not Found", "", "", "");
                    return self.socket.send(source, answer.as_bytes()).await;
                };
                self.board.call(&call_id, |call| call.rings += 1);
                let tag = format!("{:x}", self.next());
                let contact = format!("Contact: <{}>\r\n", self.contact());
                let answer = respond(&text, "180 Ringing", &tag, &contact, "").into_bytes();
                self.socket.send(source, &answer).await?;
                let audio = self.own_audio(|media| media.offered(&call_id, text.audio()));
                let call = Received {
                    invite: text,
                    tag,
                    audio,
                    source,
                    last_answer: answer,
                    answered: None,
                    interval: T1,
                    acked: false,
                };
                self.received.insert(call_id.clone(), call);
                self.at(now() + ring, Timer::Answer(call_id));
                Ok(())
            }
            "ACK" => {
                if let Some(call) = self.received.get_mut(&call_id) {
                    call.acked = true;
                }
                Ok(())
            }
            "BYE" => {
                let known = self.received.remove(&call_id).is_some();
                let status = if known { "200 OK" } else { "481 Call/Transaction Does Not Exist" };
                let answer = respond(&text, status, "", "", "");
                self.socket.send(source, answer.as_bytes()).await
            }
            "CANCEL" => {
                let answer = respond(&text, "200 OK", "", "", "");
                self.socket.send(source, answer.as_bytes()).await?;
                if let Some(call) =
                    self.received.remove(&call_id).filter(|call| call.answered.is_none())
                {
                    let answer = respond(&call.invite, "487 Request Terminated", &call.tag, "", "");
                    self.socket.send(source, answer.as_bytes()).await?;
                }
                Ok(())
            }
            _ => {
                let answer = respond(&text, "200 OK", "", "", "");
                self.socket.send(source, answer.as_bytes()).await
            }
        }
    }

    async fn timer(&mut self) -> io::Result<()> {
        let now = now();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Timer::Retransmit(branch) => self.retransmit(branch, now).await?,
                Timer::GiveUp(branch) => self.give_up(&branch),
                Timer::Answer(call_id) => self.pick_up(call_id, now).await?,
                Timer::RepeatAnswer(call_id) => self.repeat_answer(call_id, now).await?,
                Timer::HangUp(call_id) => {
                    if self.media.as_ref().is_some_and(|media| media.stop(&call_id, now)) {
                        self.at(now + LINGER, Timer::Bye(call_id));
                    } else {
                        self.hang_up(call_id).await?;
                    }
                }
                Timer::Bye(call_id) => self.hang_up(call_id).await?,
            }
        }
        Ok(())
    }

    async fn retransmit(&mut self, branch: String, now: Instant) -> io::Result<()> {
        let Some(pending) = self.pending.get_mut(&branch) else { return Ok(()) };
        let invite = matches!(pending.purpose, Purpose::Invite { .. });
        if invite && pending.provisional {
            return Ok(());
        }
        pending.interval *= 2;
        if !invite {
            pending.interval = pending.interval.min(T2);
        }
        pending.retransmissions += 1;
        let (bytes, to, next) = (pending.bytes.clone(), pending.to, now + pending.interval);
        self.at(next, Timer::Retransmit(branch));
        self.socket.send(to, &bytes).await
    }

    fn give_up(&mut self, branch: &str) {
        if self.pending.get(branch).is_none_or(|pending| pending.provisional) {
            return;
        }
        let Some(pending) = self.pending.remove(branch) else { return };
        match pending.purpose {
            Purpose::Register { fetch } => {
                let Pending { started, retransmissions, .. } = pending;
                let answer = started.elapsed();
                self.board.register_done(Register {
                    started,
                    status: 0,
                    answer,
                    retransmissions,
                    listed: false,
                    fetch,
                    retry_after: false,
                });
            }
            Purpose::Invite { call_id } => {
                self.give_up_audio(&call_id);
                self.board.fail(&call_id, "INVITE without an answer for 32 s")
            }
            Purpose::Bye { call_id } => {
                self.board.fail_bye(&call_id, "BYE without an answer for 32 s");
            }
        }
    }

    async fn pick_up(&mut self, call_id: String, now: Instant) -> io::Result<()> {
        let Some(call) = self.received.get(&call_id) else { return Ok(()) };
        let contact = format!("Contact: <{}>\r\n", self.contact());
        let (invite, body) = (&call.invite, sdp::offer(call.audio));
        let answer = respond(invite, "200 OK", &call.tag, &contact, &body).into_bytes();
        let source = call.source;
        self.socket.send(source, &answer).await?;
        if let Some(call) = self.received.get_mut(&call_id) {
            call.last_answer = answer;
            call.answered = Some(now);
        }
        // RFC 3261 13.3.1.4: the 200 is repeated whatever the transport.
        self.at(now + T1, Timer::RepeatAnswer(call_id));
        Ok(())
    }

    async fn repeat_answer(&mut self, call_id: String, now: Instant) -> io::Result<()> {
        let Some(call) = self.received.get_mut(&call_id).filter(|call| !call.acked) else {
            return Ok(());
        };
        if call.answered.is_some_and(|answered| now >= answered + GIVE_UP) {
            self.received.remove(&call_id);
            self.board.fail(&call_id, "the 200 was never acknowledged");
            return Ok(());
        }
        call.interval = (call.interval * 2).min(T2);
        let (answer, source, next) = (call.last_answer.clone(), call.source, now + call.interval);
        self.board.call(&call_id, |call| call.retransmissions += 1);
        self.at(next, Timer::RepeatAnswer(call_id));
        self.socket.send(source, &answer).await
    }

    async fn hang_up(&mut self, call_id: String) -> io::Result<()> {
        let branch = format!("z9hG4bK{:x}", self.next());
        let cseq = self.placed.get(&call_id).map_or(0, |call| call.cseq) + 1;
        match self.in_dialog(&call_id, "BYE", cseq, &branch) {
            Some((next, text)) => self.request(Purpose::Bye { call_id }, branch, next, text).await,
            None => Ok(()),
        }
    }
}
