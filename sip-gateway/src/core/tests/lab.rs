//! Two gateways, proxies that know just enough, and phones that are lists of messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dialtone_sip::{HeaderName, Method, RequestBuilder, ack_for};
use dialtone_sip_pool::hops::{ACCEPTED, PING};
use dialtone_sip_pool::keys::Generation;
use dialtone_sip_pool::token::{DialogCookie, EdgeTransport, FlowToken};
use dialtone_sip_pool::uri::pool_uri;

use super::super::*;

pub(super) fn keys() -> Keys {
    Keys::new(&Generation { id: 1, secret: [7; 32] }, None)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Gateway(usize, ConnId),
    Proxy(usize),
}

#[derive(Clone, Debug)]
struct Forwarded {
    /// Number of the link that the request came by, and the request.
    from: usize,
    request: Message,
    sent: Message,
    to: usize,
}

/// A proxy as the gateway sees one: registers, forks to all bindings, passes answers on. Answers 100 at once.
#[derive(Debug, Default)]
struct Proxy {
    alive: bool,
    frozen: bool,
    forwarded: BTreeMap<String, Forwarded>,
}

pub(super) struct Lab {
    pub(super) now: Instant,
    next_ping: Instant,
    pub(super) gateways: Vec<Gateway>,
    proxies: Vec<Proxy>,
    links: Vec<Option<(End, End)>>,
    /// Gateways that take no connections of others.
    cut: BTreeSet<usize>,
    next_conn: u64,
    bindings: BTreeMap<String, BTreeMap<String, String>>,
    /// What phones got, by gateway and address.
    pub(super) inbox: BTreeMap<(usize, SocketAddr), VecDeque<Bytes>>,
    pub(super) streams: BTreeMap<(usize, u64), VecDeque<Bytes>>,
    pub(super) reports: Vec<(Pool, u32)>,
    serial: u64,
    /// All requests that proxies got, for looking at.
    pub(super) at_proxy: Vec<Message>,
    /// Which proxy got each of them.
    pub(super) handled_by: Vec<usize>,
    /// Called before each message that would reach a proxy; `true` kills the proxy with the message undelivered.
    pub(super) sabotage: Option<fn(&Message) -> bool>,
    /// What is done to the proxy that gets the message of this number (pings aside), and when.
    pub(super) fault: Option<(usize, Fault)>,
    pub(super) messages: usize,
    /// Proxies stay in the way of dialogs.
    pub(super) stays: bool,
}

/// What happens to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    FreezeAfter,
    FreezeBefore,
    KillAfter,
    KillBefore,
}

pub(super) fn core_of(gateway: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 21 + gateway as u8], 5070))
}

pub(super) fn edge_of(gateway: usize) -> SocketAddr {
    SocketAddr::from(([192, 168, 100, 100 + gateway as u8], 5060))
}

fn proxy_address(proxy: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 41 + proxy as u8], 5070))
}

impl Lab {
    pub(super) fn new(gateways: usize, proxies: usize) -> Self {
        Self::with(gateways, proxies, |_| {})
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    pub(super) fn with(gateways: usize, proxies: usize, adjust: impl Fn(&mut Settings)) -> Self {
        let now = Instant::now();
        let mut lab = Self {
            now,
            next_ping: now,
            gateways: Vec::new(),
            proxies: (0..proxies).map(|_| Proxy { alive: true, ..Proxy::default() }).collect(),
            links: Vec::new(),
            cut: BTreeSet::new(),
            next_conn: ACCEPTED,
            bindings: BTreeMap::new(),
            inbox: BTreeMap::new(),
            streams: BTreeMap::new(),
            reports: Vec::new(),
            serial: 0,
            at_proxy: Vec::new(),
            handled_by: Vec::new(),
            sabotage: None,
            fault: None,
            messages: 0,
            stays: false,
        };
        for number in 0..gateways {
            let listeners = vec![
                Listener { transport: EdgeTransport::Udp, advertised: edge_of(number) },
                Listener { transport: EdgeTransport::Tcp, advertised: edge_of(number) },
            ];
            let mut settings = Settings::new(100 + number as u32, listeners, core_of(number));
            adjust(&mut settings);
            lab.gateways.push(Gateway::new(
                settings,
                keys(),
                fastrand::Rng::with_seed(number as u64),
            ));
        }
        let members: Vec<Member> = (0..gateways)
            .map(|g| Member { element: 100 + g as u32, address: core_of(g) })
            .collect();
        for gateway in 0..gateways {
            lab.input(
                gateway,
                Input::View { pool: Pool::Gateway, view: pool_view(Pool::Gateway, 1, &members) },
            );
        }
        lab.set_proxies();
        lab
    }

    fn set_proxies(&mut self) {
        let members: Vec<Member> = (0..self.proxies.len())
            .map(|p| Member { element: p as u32, address: proxy_address(p) })
            .collect();
        for gateway in 0..self.gateways.len() {
            self.input(
                gateway,
                Input::View { pool: Pool::Proxy, view: pool_view(Pool::Proxy, 1, &members) },
            );
        }
    }

    pub(super) fn input(&mut self, gateway: usize, input: Input) {
        self.gateways[gateway].handle(self.now, input);
        self.settle();
    }

    /// An input whose outputs are thrown away: whoever sent it is none of the models.
    pub(super) fn input_only(&mut self, gateway: usize, input: Input) {
        self.gateways[gateway].handle(self.now, input);
        while let Some(output) = self.gateways[gateway].poll() {
            // Core writes may concern the models' own messages as well, and are theirs.
            if !matches!(output, Output::Datagram { .. } | Output::EdgeWrite { .. }) {
                self.output(gateway, output);
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((gateway, output)) = self
            .gateways
            .iter_mut()
            .enumerate()
            .find_map(|(number, gateway)| Some((number, gateway.poll()?)))
        {
            self.output(gateway, output);
        }
    }

    fn output(&mut self, gateway: usize, output: Output) {
        match output {
            Output::CoreDial { conn, address } => {
                let proxy = (0..self.proxies.len()).find(|p| proxy_address(*p) == address);
                let other = (0..self.gateways.len()).find(|g| core_of(*g) == address);
                let end = match (proxy, other) {
                    (Some(proxy), _) if self.proxies[proxy].alive => End::Proxy(proxy),
                    (_, Some(other)) if !self.cut.contains(&other) => {
                        self.next_conn += 1;
                        let accepted = ConnId(self.next_conn);
                        self.gateways[other]
                            .handle(self.now, Input::CoreAccepted { conn: accepted });
                        End::Gateway(other, accepted)
                    }
                    _ => {
                        self.gateways[gateway].handle(self.now, Input::CoreClosed { conn });
                        return;
                    }
                };
                self.links.push(Some((End::Gateway(gateway, conn), end)));
                self.gateways[gateway].handle(self.now, Input::CoreConnected { conn });
            }
            Output::CoreWrite { conn, bytes } => {
                let Some((link, other)) = self.link_of(End::Gateway(gateway, conn)) else { return };
                self.arrive(link, other, bytes);
            }
            Output::CoreClose { conn } => {
                if let Some((link, other)) = self.link_of(End::Gateway(gateway, conn)) {
                    self.links[link] = None;
                    if let End::Gateway(other, conn) = other {
                        self.gateways[other].handle(self.now, Input::CoreClosed { conn });
                    }
                }
            }
            Output::Datagram { remote, bytes, .. } => {
                self.inbox.entry((gateway, remote)).or_default().push_back(bytes);
            }
            Output::EdgeWrite { conn, bytes } => {
                self.streams.entry((gateway, conn)).or_default().push_back(bytes);
            }
            Output::ReportUnreachable { pool, element, .. } => self.reports.push((pool, element)),
            Output::Trust { .. } => {}
        }
    }

    fn link_of(&self, end: End) -> Option<(usize, End)> {
        self.links.iter().enumerate().find_map(|(number, link)| match link {
            Some((a, b)) if *a == end => Some((number, *b)),
            Some((a, b)) if *b == end => Some((number, *a)),
            _ => None,
        })
    }

    fn arrive(&mut self, link: usize, end: End, bytes: Bytes) {
        match end {
            End::Gateway(gateway, conn) if bytes == PING => {
                self.gateways[gateway].handle(self.now, Input::CoreActivity { conn });
                let (_, other) = self.link_of(end).expect("the link that it came by");
                if let End::Gateway(other, conn) = other {
                    self.gateways[other].handle(self.now, Input::CoreActivity { conn });
                }
            }
            End::Gateway(gateway, conn) => {
                self.gateways[gateway].handle(self.now, Input::CoreMessage { conn, bytes });
            }
            End::Proxy(proxy) => {
                if self.proxies[proxy].frozen {
                    return;
                }
                if bytes == PING {
                    let (_, other) = self.link_of_number(link, end);
                    if let End::Gateway(gateway, conn) = other {
                        self.gateways[gateway].handle(self.now, Input::CoreActivity { conn });
                    }
                    return;
                }
                let message = Message::parse(bytes).expect("gateways send sound messages");
                message.check().expect("gateways send sound messages");
                if self.sabotage.is_some_and(|sabotage| sabotage(&message)) {
                    self.sabotage = None;
                    self.kill(proxy);
                    return;
                }
                self.messages += 1;
                let fault = self
                    .fault
                    .filter(|(number, _)| *number == self.messages)
                    .map(|(_, fault)| fault);
                match fault {
                    Some(Fault::KillBefore) => self.kill(proxy),
                    Some(Fault::FreezeBefore) => self.freeze(proxy),
                    None | Some(Fault::FreezeAfter | Fault::KillAfter) => {
                        self.proxy(proxy, link, message)
                    }
                }
                match fault {
                    Some(Fault::KillAfter) => self.kill(proxy),
                    Some(Fault::FreezeAfter) => self.freeze(proxy),
                    None | Some(Fault::FreezeBefore | Fault::KillBefore) => {}
                }
            }
        }
    }

    fn link_of_number(&self, link: usize, end: End) -> (usize, End) {
        let (a, b) = self.links[link].expect("a link in use");
        (link, if a == end { b } else { a })
    }

    fn write(&mut self, proxy: usize, link: usize, bytes: Bytes) {
        if self.links[link].is_some() {
            let (_, other) = self.link_of_number(link, End::Proxy(proxy));
            self.arrive(link, other, bytes);
        }
    }

    /// The proxy's own connection to a gateway.
    fn dial(&mut self, proxy: usize, gateway: usize) -> usize {
        let found = self.links.iter().position(
            |link| matches!(link, Some((End::Proxy(p), End::Gateway(g, _))) if *p == proxy && *g == gateway),
        );
        found.unwrap_or_else(|| {
            self.next_conn += 1;
            let conn = ConnId(self.next_conn);
            self.gateways[gateway].handle(self.now, Input::CoreAccepted { conn });
            self.links.push(Some((End::Proxy(proxy), End::Gateway(gateway, conn))));
            self.links.len() - 1
        })
    }

    fn proxy(&mut self, proxy: usize, link: usize, message: Message) {
        if !message.is_request() {
            self.proxy_response(proxy, &message);
            return;
        }
        self.at_proxy.push(message.clone());
        self.handled_by.push(proxy);
        if self.stays && message.to().unwrap().tag().is_some() {
            self.follow(proxy, link, message);
            return;
        }
        let respond =
            |code: u16| ResponseBuilder::new(&message, code).to_tag(format!("proxy{proxy}"));
        let user = |uri: dialtone_sip::Uri<'_>| {
            uri.sip().and_then(|uri| uri.user).unwrap_or("").to_owned()
        };
        match message.method().unwrap() {
            Method::Ack => {}
            Method::Register => {
                let contact = message.contacts().next().and_then(Result::ok);
                let Some(contact) = contact.as_ref().and_then(|contact| contact.addr()) else {
                    self.write(proxy, link, respond(400).build().unwrap());
                    return;
                };
                let contact = contact.uri.as_str().to_owned();
                let path = message.header_str(HeaderName::Path).unwrap().to_owned();
                let aor = user(message.to().unwrap().uri);
                self.bindings.entry(aor).or_default().insert(contact.clone(), path);
                let answer = respond(200)
                    .header("Contact", format!("<{contact}>;expires=3600"))
                    .copy(HeaderName::Path)
                    .build()
                    .unwrap();
                self.write(proxy, link, answer);
            }
            Method::Cancel => {
                self.write(proxy, link, respond(200).build().unwrap());
                let branch = message.top_via().unwrap().branch().unwrap().to_owned();
                let mine: Vec<Forwarded> = self.proxies[proxy]
                    .forwarded
                    .values()
                    .filter(|f| f.request.top_via().unwrap().branch().unwrap() == branch)
                    .cloned()
                    .collect();
                for forwarded in mine {
                    self.write(
                        proxy,
                        forwarded.to,
                        dialtone_sip::cancel_for(&forwarded.sent).unwrap(),
                    );
                }
            }
            method => {
                if method == Method::Invite {
                    self.write(proxy, link, respond(100).build().unwrap());
                }
                let bindings = self
                    .bindings
                    .get(&user(message.request_uri().unwrap()))
                    .cloned()
                    .unwrap_or_default();
                if bindings.is_empty() {
                    self.write(proxy, link, respond(404).build().unwrap());
                }
                for (contact, path) in bindings {
                    self.serial += 1;
                    let branch = format!("z9hG4bKp{proxy}x{}", self.serial);
                    let mut edit = dialtone_sip::Edit::new(&message);
                    edit.push_via(format!("SIP/2.0/TCP {};branch={branch}", proxy_address(proxy)));
                    edit.add_after(HeaderName::Via, "Route", path.as_str());
                    edit.set_request_uri(contact.as_str());
                    if self.stays && method == Method::Invite {
                        let cookie = DialogCookie { preferred: proxy as u32, relay: 7, flags: 0 };
                        let caller = message.from().unwrap().tag().unwrap();
                        let cookie = cookie.sign(&keys(), message.call_id().unwrap(), caller);
                        let route = format!("<{}>", pool_uri("sip-proxy", &cookie));
                        edit.add_before(HeaderName::RecordRoute, "Record-Route", route);
                    }
                    let sent = Message::parse(edit.finish()).unwrap();
                    let to = self.dial(proxy, gateway_of(&sent));
                    let forwarded =
                        Forwarded { from: link, request: message.clone(), sent: sent.clone(), to };
                    self.proxies[proxy].forwarded.insert(branch, forwarded);
                    self.write(proxy, to, sent.bytes().clone());
                }
            }
        }
    }

    /// A request inside a dialog that this pool stays in: to the gateway that the next Route value names.
    fn follow(&mut self, proxy: usize, link: usize, message: Message) {
        let route = message.routes().next().unwrap().unwrap();
        assert!(route.raw.ends_with("@sip-proxy.pool.invalid;lr>"), "{}", route.raw);
        if message.method() == Some(Method::Invite) {
            let trying = ResponseBuilder::new(&message, 100).build().unwrap();
            self.write(proxy, link, trying);
        }
        self.serial += 1;
        let branch = format!("z9hG4bKp{proxy}x{}", self.serial);
        let mut edit = dialtone_sip::Edit::new(&message);
        edit.push_via(format!("SIP/2.0/TCP {};branch={branch}", proxy_address(proxy)));
        edit.remove_values(HeaderName::Route, 1);
        let sent = Message::parse(edit.finish()).unwrap();
        let to = self.dial(proxy, gateway_of(&sent));
        let bytes = sent.bytes().clone();
        if message.method() != Some(Method::Ack) {
            let forwarded = Forwarded { from: link, request: message.clone(), sent, to };
            self.proxies[proxy].forwarded.insert(branch, forwarded);
        }
        self.write(proxy, to, bytes);
    }

    fn proxy_response(&mut self, proxy: usize, response: &Message) {
        let branch = response.top_via().unwrap().branch().unwrap().to_owned();
        let Some(forwarded) = self.proxies[proxy].forwarded.get(&branch).cloned() else { return };
        if response.method() == Some(Method::Cancel) || response.status() == Some(100) {
            return;
        }
        if response.status() >= Some(300) && response.method() == Some(Method::Invite) {
            self.write(proxy, forwarded.to, ack_for(&forwarded.sent, response).unwrap());
        }
        let mut edit = dialtone_sip::Edit::new(response);
        edit.pop_via();
        self.write(proxy, forwarded.from, edit.finish());
    }

    /// Kill -9: its connections are reset. `revive` is a restart with empty memory.
    pub(super) fn kill(&mut self, proxy: usize) {
        self.proxies[proxy] = Proxy::default();
        for link in 0..self.links.len() {
            let Some((a, b)) =
                self.links[link].filter(|(a, b)| [a, b].contains(&&End::Proxy(proxy)))
            else {
                continue;
            };
            self.links[link] = None;
            for end in [a, b] {
                if let End::Gateway(gateway, conn) = end {
                    self.gateways[gateway].handle(self.now, Input::CoreClosed { conn });
                }
            }
        }
        self.settle();
    }

    /// Resets the connections of other gateways to this one and refuses new ones.
    pub(super) fn cut(&mut self, gateway: usize) {
        self.cut.insert(gateway);
        for link in 0..self.links.len() {
            if let Some((End::Gateway(from, conn), End::Gateway(to, accepted))) = self.links[link]
                && to == gateway
            {
                self.links[link] = None;
                self.gateways[to].handle(self.now, Input::CoreClosed { conn: accepted });
                self.gateways[from].handle(self.now, Input::CoreClosed { conn });
            }
        }
        self.settle();
    }

    pub(super) fn mend(&mut self, gateway: usize) {
        self.cut.remove(&gateway);
    }

    pub(super) fn revive(&mut self, proxy: usize) {
        self.proxies[proxy].alive = true;
    }

    pub(super) fn freeze(&mut self, proxy: usize) {
        self.proxies[proxy].frozen = true;
    }

    /// The latest request that a proxy sent to a phone's gateway.
    pub(super) fn sent_by(&self, proxy: usize) -> Message {
        let latest = self.proxies[proxy].forwarded.values().next_back();
        latest.expect("a forwarded request").sent.clone()
    }

    /// The proxy that handled the latest request.
    pub(super) fn busy_proxy(&self) -> usize {
        (0..self.proxies.len())
            .find(|p| !self.proxies[*p].forwarded.is_empty())
            .expect("a proxy with requests")
    }

    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.next_ping <= end {
            self.run_until(self.next_ping);
            self.ping();
            self.next_ping += Duration::from_secs(1);
        }
        self.run_until(end);
    }

    /// Proxies that live ping the connections that they have opened.
    fn ping(&mut self) {
        for link in self.links.clone().into_iter().flatten() {
            if let (End::Proxy(proxy), End::Gateway(gateway, conn)) = link
                && !self.proxies[proxy].frozen
            {
                self.input(gateway, Input::CoreActivity { conn });
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let next = self
                .gateways
                .iter()
                .enumerate()
                .filter_map(|(n, g)| Some((g.next_deadline()?, n)))
                .min();
            let Some((deadline, gateway)) = next.filter(|(deadline, _)| *deadline <= end) else {
                break;
            };
            self.now = self.now.max(deadline);
            self.input(gateway, Input::Timeout);
        }
        self.now = end;
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// The number of the gateway that the first Route value leads to.
fn gateway_of(request: &Message) -> usize {
    let token = request.routes().next().unwrap().unwrap();
    let token = token.uri.sip().unwrap().user.unwrap().to_owned();
    let token = FlowToken::verify(&keys(), token.as_bytes()).unwrap();
    token.flow.gateway as usize - 100
}

/// A phone over UDP.
#[derive(Clone, Debug)]
pub(super) struct Phone {
    pub(super) user: &'static str,
    pub(super) gateway: usize,
    pub(super) address: SocketAddr,
}

impl Phone {
    pub(super) fn new(user: &'static str, gateway: usize, last: u8) -> Self {
        Self {
            user,
            gateway,
            address: SocketAddr::from(([198, 51, 100, last], 40_000 + u16::from(last))),
        }
    }

    pub(super) fn send(&self, lab: &mut Lab, bytes: Bytes) {
        lab.input(self.gateway, Input::Datagram { listener: 0, remote: self.address, bytes });
    }

    /// What came, oldest first.
    pub(super) fn take(&self, lab: &mut Lab) -> Vec<Message> {
        let got = lab.inbox.remove(&(self.gateway, self.address)).unwrap_or_default();
        got.into_iter()
            .filter(|bytes| bytes != PING)
            .map(|bytes| {
                let message = Message::parse(bytes).expect("phones get sound messages");
                if message.is_request() {
                    message.check().expect("phones get sound requests");
                }
                message
            })
            .collect()
    }

    /// Status codes of the responses that came, and methods of the requests.
    pub(super) fn got(&self, lab: &mut Lab) -> Vec<String> {
        let name = |message: &Message| match message.status() {
            Some(code) => code.to_string(),
            None => message.method().unwrap().to_string(),
        };
        self.take(lab).iter().map(name).collect()
    }

    pub(super) fn contact(&self) -> String {
        format!("sip:{}@{}", self.user, self.address)
    }

    pub(super) fn request(&self, lab: &mut Lab, method: Method<'_>, to: &str) -> RequestBuilder {
        let serial = lab.serial();
        RequestBuilder::new(method, &format!("sip:{to}@dialtone.test"))
            .via("UDP", "10.0.0.1:5060".parse().unwrap(), &format!("z9hG4bKphone{serial}"))
            .header("Max-Forwards", "70")
            .header("From", &format!("<sip:{}@dialtone.test>;tag=from{serial}", self.user))
            .header("To", &format!("<sip:{to}@dialtone.test>"))
            .header("Call-ID", &format!("call{serial}@{}", self.user))
            .header("CSeq", &format!("1 {method}"))
            .header("Contact", &format!("<{}>", self.contact()))
    }

    pub(super) fn register(&self, lab: &mut Lab) {
        let register = self.request(lab, Method::Register, self.user).build();
        self.send(lab, register);
        assert_eq!(self.got(lab), ["200"]);
    }

    /// Sends an INVITE and returns it.
    pub(super) fn invite(&self, lab: &mut Lab, to: &str) -> Message {
        let invite = self.request(lab, Method::Invite, to).build();
        self.send(lab, invite.clone());
        Message::parse(invite).unwrap()
    }

    /// Answers a request.
    pub(super) fn answer(&self, lab: &mut Lab, request: &Message, code: u16) -> Bytes {
        let bytes = ResponseBuilder::new(request, code)
            .to_tag(format!("to{}", self.address.port()))
            .header("Contact", format!("<{}>", self.contact()))
            .copy(HeaderName::RecordRoute)
            .build()
            .unwrap();
        self.send(lab, bytes.clone());
        bytes
    }

    /// A request inside the dialog that `answer` (200 to `invite`) made; by the caller.
    pub(super) fn in_dialog(
        &self,
        lab: &mut Lab,
        method: Method<'_>,
        answer: &Message,
        cseq: u32,
    ) -> RequestBuilder {
        let target =
            answer.contacts().next().unwrap().unwrap().addr().unwrap().uri.as_str().to_owned();
        let serial = lab.serial();
        let mut request = RequestBuilder::new(method, &target)
            .via("UDP", "10.0.0.1:5060".parse().unwrap(), &format!("z9hG4bKphone{serial}"))
            .header("Max-Forwards", "70")
            .header("From", answer.header_str(HeaderName::From).unwrap())
            .header("To", answer.header_str(HeaderName::To).unwrap())
            .header("Call-ID", answer.call_id().unwrap())
            .header("CSeq", &format!("{cseq} {method}"));
        let mut routes: Vec<String> =
            answer.record_routes().map(|route| route.unwrap().raw.to_owned()).collect();
        routes.reverse();
        for route in routes {
            request = request.header("Route", &route);
        }
        request
    }

    /// A request inside the dialog that `invite` (as the callee got it) made; by the callee.
    pub(super) fn back(
        &self,
        lab: &mut Lab,
        method: Method<'_>,
        invite: &Message,
        tag: &str,
    ) -> RequestBuilder {
        let target =
            invite.contacts().next().unwrap().unwrap().addr().unwrap().uri.as_str().to_owned();
        let serial = lab.serial();
        let mut request = RequestBuilder::new(method, &target)
            .via("UDP", "10.0.0.2:5060".parse().unwrap(), &format!("z9hG4bKphone{serial}"))
            .header("Max-Forwards", "70")
            .header("From", &format!("{};tag={tag}", invite.header_str(HeaderName::To).unwrap()))
            .header("To", invite.header_str(HeaderName::From).unwrap())
            .header("Call-ID", invite.call_id().unwrap())
            .header("CSeq", &format!("1 {method}"));
        for route in invite.record_routes() {
            request = request.header("Route", route.unwrap().raw);
        }
        request
    }
}
