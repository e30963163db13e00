//! A phone made of a UDP socket and text: it says exactly what a test wants it to say, and shares no code with what is
//! tested.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// How long an answer may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Sip {
    pub(crate) bytes: Vec<u8>,
    head: String,
}

impl Sip {
    fn new(bytes: Vec<u8>) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Self { bytes, head }
    }

    /// Request line or status line.
    pub(crate) fn start(&self) -> &str {
        self.head.split("\r\n").next().unwrap()
    }

    /// 0: a request.
    pub(crate) fn status(&self) -> u16 {
        let code = self.start().strip_prefix("SIP/2.0 ").map(|rest| &rest[..3]);
        code.map_or(0, |code| code.parse().unwrap())
    }

    pub(crate) fn is(&self, method: &str) -> bool {
        self.start().strip_prefix(method).is_some_and(|rest| rest.starts_with(' '))
    }

    /// All lines of a header, as they stand.
    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        let is_it = |line: &&str| line.split(':').next().unwrap().eq_ignore_ascii_case(name);
        self.head.split("\r\n").skip(1).filter(is_it).collect()
    }

    /// The first value of a header.
    pub(crate) fn value(&self, name: &str) -> &str {
        let line = self.lines(name).into_iter().next();
        let line = line.unwrap_or_else(|| panic!("no {name} in {}", self.head));
        line.split_once(':').unwrap().1.trim()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.head.len() + 4..]
    }
}

/// The URI between the angle brackets.
pub(crate) fn uri(value: &str) -> &str {
    let rest = value.split_once('<').unwrap().1;
    rest.split_once('>').unwrap().0
}

/// A phone.
#[derive(Debug)]
pub(crate) struct Phone {
    pub(crate) user: String,
    pub(crate) local: SocketAddr,
    pub(crate) gateway: SocketAddr,
    socket: UdpSocket,
    serial: u32,
    /// What came to keep the pinhole open.
    pub(crate) keep_alives: usize,
}

impl Phone {
    pub(crate) fn new(user: &str, socket: UdpSocket, gateway: SocketAddr) -> Self {
        let local = socket.local_addr().unwrap();
        Self { user: user.to_owned(), local, gateway, socket, serial: 0, keep_alives: 0 }
    }

    fn next(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// A request outside of dialogs; `headers` are whole lines. Says nothing about Contact, Route or Content-Type.
    pub(crate) fn request(&mut self, method: &str, uri: &str, headers: &str, body: &str) -> String {
        let (serial, user) = (self.next(), &self.user);
        let from = format!("<sip:{user}@dialtone.test>;tag={user}{serial}");
        let call_id = format!("{user}{serial}-{:x}", fastrand::u64(..));
        self.text(method, uri, [&from, &format!("<{uri}>"), &call_id], serial, headers, body)
    }

    /// A request with a new branch.
    fn text(
        &self,
        method: &str,
        uri: &str,
        [from, to, call_id]: [&str; 3],
        serial: u32,
        headers: &str,
        body: &str,
    ) -> String {
        let local = self.local;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{:x};rport\r\nMax-Forwards: 70\r\n\
             From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {serial} {method}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            fastrand::u64(..),
            body.len(),
        )
    }

    pub(crate) fn contact(&self) -> String {
        format!("Contact: <sip:{}@{}>\r\n", self.user, self.local)
    }

    pub(crate) fn send(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.gateway).unwrap();
    }

    /// The next message within the limit; keep-alives are counted only.
    #[expect(clippy::disallowed_methods, reason = "phones live in real time")]
    pub(crate) fn receive(&mut self, limit: Duration) -> Option<Sip> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 65_535];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) if from == self.gateway => {
                    if buffer[..length].iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
                        return Some(Sip::new(buffer[..length].to_vec()));
                    }
                    self.keep_alives += 1;
                }
                Ok((length, from)) => panic!("{length} bytes from {from}"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if left.is_zero() {
                        return None;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next message that is meant; others are passed over.
    pub(crate) fn expect(&mut self, what: &str, is_it: impl Fn(&Sip) -> bool) -> Sip {
        loop {
            let found = self.receive(LIMIT);
            let found = found.unwrap_or_else(|| panic!("{} waits for {what}", self.user));
            if is_it(&found) {
                return found;
            }
        }
    }

    /// Sends a request; its final answer.
    pub(crate) fn ask(&mut self, request: &str) -> Sip {
        self.send(request);
        let asked = Sip::new(request.as_bytes().to_vec());
        let same = |name, answer: &Sip| answer.value(name) == asked.value(name);
        self.expect(asked.start(), |answer| {
            answer.status() >= 200 && same("Call-ID", answer) && same("CSeq", answer)
        })
    }

    pub(crate) fn register(&mut self) {
        let headers = format!("{}Expires: 3600\r\n", self.contact());
        let request = self.request("REGISTER", "sip:dialtone.test", &headers, "");
        let to = format!("<sip:{}@dialtone.test>", self.user);
        let answer = self.ask(&request.replace("To: <sip:dialtone.test>", &format!("To: {to}")));
        assert_eq!(answer.status(), 200, "{}", answer.start());
    }

    /// The answer to a request, with a tag of this phone's.
    pub(crate) fn answer(&self, request: &Sip, status: &str, headers: &str, body: &str) {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for line in request.lines(name) {
                text.push_str(line);
                if name == "To" && !line.contains(";tag=") {
                    text.push_str(&format!(";tag={}", self.user));
                }
                text.push_str("\r\n");
            }
        }
        self.send(&format!("{text}{headers}Content-Length: {}\r\n\r\n{body}", body.len()));
    }
}

/// A call from the caller's side.
#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) call_id: String,
    /// Of the INVITE.
    pub(crate) cseq: u32,
    /// The other phone.
    pub(crate) target: String,
    /// As a phone uses it: the own gateway first.
    pub(crate) routes: Vec<String>,
}

impl Dialog {
    /// From the answer to an INVITE.
    pub(crate) fn new(answer: &Sip) -> Self {
        let mut routes: Vec<String> = Vec::new();
        for line in answer.lines("Record-Route") {
            routes.extend(line.split_once(':').unwrap().1.split(',').map(|r| r.trim().to_owned()));
        }
        routes.reverse();
        Self {
            from: answer.value("From").to_owned(),
            to: answer.value("To").to_owned(),
            call_id: answer.value("Call-ID").to_owned(),
            cseq: answer.value("CSeq").split(' ').next().unwrap().parse().unwrap(),
            target: uri(answer.value("Contact")).to_owned(),
            routes,
        }
    }

    /// A request inside, along these routes.
    pub(crate) fn request(&self, phone: &mut Phone, method: &str, routes: &[String]) -> String {
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let names = [&*self.from, &*self.to, &*self.call_id];
        let headers = format!("{routes}{}", phone.contact());
        let cseq = if method == "ACK" { self.cseq } else { phone.next() };
        phone.text(method, &self.target, names, cseq, &headers, "")
    }
}

/// One calls the other, who answers; both are registered. The INVITE as the other one saw it comes back, too.
pub(crate) fn call(
    caller: &mut Phone,
    callee: &mut Phone,
    headers: &str,
    body: &str,
) -> (Dialog, Sip) {
    let uri = format!("sip:{}@dialtone.test", callee.user);
    let invite = caller.request("INVITE", &uri, &format!("{}{headers}", caller.contact()), body);
    caller.send(&invite);
    let delivered = callee.expect("an INVITE", |message| message.is("INVITE"));
    callee.answer(&delivered, "200 OK", &callee.contact(), "");
    let answer = caller.expect("a final answer", |message| message.status() >= 200);
    assert_eq!(answer.status(), 200, "{}", answer.start());
    let dialog = Dialog::new(&answer);
    let ack = dialog.request(caller, "ACK", &dialog.routes);
    caller.send(&ack);
    callee.expect("an ACK", |message| message.is("ACK"));
    (dialog, delivered)
}

/// The caller hangs up.
pub(crate) fn hang_up(caller: &mut Phone, callee: &mut Phone, dialog: &Dialog) {
    let bye = dialog.request(caller, "BYE", &dialog.routes);
    caller.send(&bye);
    let delivered = callee.expect("a BYE", |message| message.is("BYE"));
    callee.answer(&delivered, "200 OK", "", "");
    caller.expect("the answer to a BYE", |message| {
        message.status() == 200 && message.value("CSeq").ends_with("BYE")
    });
}
