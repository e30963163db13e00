//! The core in virtual time, with a store and phones that are a few lines each.

mod auth;
mod calls;
mod checks;
mod conference;
mod flows;
mod media;
mod registrar;
mod relay;
mod relayed;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_location::{
    Answer, BindingKey, Change, Record, Request, SaveOutcome, StoreEvent, Table, Ticket, Version,
    WriterId,
};
use dialtone_pool_user::View;
use dialtone_sip::{HeaderName, Message, ResponseBuilder};
use dialtone_sip_pool::hops::{ConnId, Member};
use dialtone_sip_pool::keys::{Generation, Keys};
use dialtone_sip_pool::token::{EdgeTransport, Flow, FlowToken, Use};

use self::relay::{FakeRelay, Manner, relay_address};
use super::*;

const EPOCH_MS: u64 = 1_700_000_000_000;
const DOMAIN: &str = "dialtone.test";
const EDGE: &str = "127.0.0.1:5060";
const CORE: &str = "127.0.0.41:5080";
/// A gateway that sends requests.
const GATEWAY: Hop = Hop::Core(ConnId(dialtone_sip_pool::hops::ACCEPTED | 7));

/// What the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Answers,
    Fails,
    Stalls,
}

struct World {
    proxy: Proxy,
    now: Instant,
    keys: Keys,
    store: Store,
    rows: BTreeMap<(Box<str>, BindingKey), Record>,
    sequence: u64,
    /// Claims only.
    table: Table,
    /// What was sent since the last look, in order.
    sent: Vec<(Hop, Message)>,
    reported: Vec<u32>,
    /// Addresses of gateways that do not accept connections.
    dead: Vec<SocketAddr>,
    /// Elements that do not answer pings.
    frozen: Vec<u32>,
    stalled: Vec<(Ticket, Request)>,
    elements: BTreeMap<ConnId, u32>,
    relays: BTreeMap<u32, FakeRelay>,
    relays_reported: Vec<u32>,
    /// Datagrams of relays on their way.
    coming: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)>,
    serial: u64,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let now = Instant::now();
        let core: SocketAddr = CORE.parse().unwrap();
        let edge: SocketAddr = EDGE.parse().unwrap();
        let mut settings = Settings::new(core, (now, EPOCH_MS));
        settings.edge_udp = Some(edge);
        settings.edge_tcp = Some(edge);
        change(&mut settings);
        let keys = Keys::new(&Generation { id: 1, secret: [5; 32] }, None);
        let names = Names::new(&[DOMAIN.to_owned(), "gw.test".to_owned()], &[core, edge]);
        let rng = fastrand::Rng::with_seed(4);
        let mut world = Self {
            proxy: Proxy::new(now, settings, names, keys.clone(), rng),
            now,
            keys,
            store: Store::Answers,
            rows: BTreeMap::new(),
            sequence: 0,
            table: Table::new(),
            sent: Vec::new(),
            reported: Vec::new(),
            dead: Vec::new(),
            frozen: Vec::new(),
            stalled: Vec::new(),
            elements: BTreeMap::new(),
            relays: BTreeMap::new(),
            relays_reported: Vec::new(),
            coming: BTreeMap::new(),
            serial: 0,
        };
        world.proxy.handle_store(now, StoreEvent::Loaded);
        world.run();
        world
    }

    fn receive(&mut self, source: Hop, bytes: impl Into<Bytes>) {
        match source {
            Hop::Core(conn) => self.proxy.handle_core_message(self.now, conn, bytes.into()),
            Hop::Element(element) | Hop::Focus(element) => {
                let conn = self
                    .elements
                    .iter()
                    .find(|(_, other)| **other == element)
                    .map(|(conn, _)| *conn);
                self.proxy.handle_core_message(self.now, conn.expect("connected"), bytes.into());
            }
            _ => self.proxy.handle_message(self.now, source, bytes.into()),
        }
        self.run();
    }

    /// Carries out what the core wants.
    fn run(&mut self) {
        loop {
            while let Some(output) = self.proxy.poll() {
                match output {
                    Output::Close { conn } => _ = self.elements.remove(&conn),
                    Output::Dial { conn, address } => {
                        let element = u32::from(address.port());
                        if self.dead.contains(&address) {
                            self.proxy.handle_closed(self.now, conn);
                        } else {
                            self.elements.insert(conn, element);
                            self.proxy.handle_connected(self.now, conn);
                        }
                    }
                    Output::Report { element } | Output::ReportConference { element } => {
                        self.reported.push(element);
                    }
                    Output::Trust { element } | Output::TrustConference { element } => {
                        self.reported.retain(|other| *other != element);
                    }
                    Output::Relay { to, bytes } => self.ask_relay(to, &bytes),
                    Output::ReportRelay { element } => self.relays_reported.push(element),
                    Output::TrustRelay { element } => {
                        self.relays_reported.retain(|other| *other != element);
                    }
                    Output::Send { to, bytes } => {
                        self.sent.push((to, Message::parse(bytes).expect("proper SIP")))
                    }
                    Output::Store { ticket, request } => self.ask_store(ticket, request),
                    Output::Write { conn, bytes } if bytes == dialtone_sip_pool::hops::PING => {
                        let element = self.elements.get(&conn);
                        if !element.is_some_and(|element| self.frozen.contains(element)) {
                            self.proxy.handle_received(self.now, conn);
                        }
                    }
                    Output::Write { conn, bytes } => {
                        let of_pool = if Conference::has(conn) { Hop::Focus } else { Hop::Element };
                        let element = self.elements.get(&conn);
                        let to = element.map_or(Hop::Core(conn), |element| of_pool(*element));
                        self.sent.push((to, Message::parse(bytes).expect("proper SIP")));
                    }
                }
            }
            if self.proxy.next_deadline().is_none_or(|deadline| deadline > self.now) {
                return;
            }
            self.proxy.handle_timeout(self.now);
        }
    }

    /// Lets time pass, deadline by deadline.
    fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.proxy.next_deadline();
            let Some(next) = coming.into_iter().chain(deadline).min().filter(|at| *at <= end)
            else {
                break;
            };
            if coming == Some(next) {
                self.now = self.now.max(next);
                let (_, (from, bytes)) = self.coming.pop_first().unwrap();
                self.proxy.handle_relay(self.now, from, &bytes);
            } else {
                assert!(next >= self.now, "deadlines are never in the past");
                self.now = next;
                self.proxy.handle_timeout(self.now);
            }
            self.run();
        }
        self.now = end;
    }

    fn ask_relay(&mut self, to: SocketAddr, datagram: &[u8]) {
        let found = self.relays.iter_mut().find(|(element, _)| relay_address(**element) == to);
        let Some((element, relay)) = found else { return };
        let after = match relay.manner {
            Manner::Absent => return self.proxy.handle_relay_unreachable(self.now, to),
            Manner::Slow(after) => after,
            _ => Duration::ZERO,
        };
        let Some(answer) = relay.take(*element, datagram) else { return };
        if after.is_zero() {
            self.proxy.handle_relay(self.now, to, &answer);
        } else {
            self.serial += 1;
            self.coming.insert((self.now + after, self.serial), (to, answer));
        }
    }

    /// Relays, the first of which is the least used.
    fn set_relays(&mut self, elements: &[u32]) {
        for element in elements {
            self.relays.entry(*element).or_insert_with(|| FakeRelay::new(Manner::Answers));
        }
        self.serial += 1;
        self.proxy.set_relays(self.now, relay::relay_view(self.serial, elements));
        self.run();
    }

    fn ask_store(&mut self, ticket: Ticket, request: Request) {
        let answer = match self.store {
            Store::Answers => self.answer(request),
            Store::Fails => Answer::Failed("disk full".into()),
            Store::Stalls => return self.stalled.push((ticket, request)),
        };
        self.proxy.handle_store(self.now, StoreEvent::Answer { ticket, answer });
    }

    /// What the real store does, without the conditions that have tests of their own.
    fn answer(&mut self, request: Request) -> Answer {
        let live = |rows: &BTreeMap<(Box<str>, BindingKey), Record>, aor: &str, now_ms| {
            rows.values()
                .filter(|row| *row.aor == *aor && row.is_live(now_ms))
                .cloned()
                .collect::<Vec<_>>()
        };
        match request {
            Request::Save(save) => {
                let mut changed = Vec::new();
                let list = match save.change {
                    Change::Bindings(list) => list,
                    Change::RemoveAll => {
                        for row in self.rows.values_mut().filter(|row| row.aor == save.aor) {
                            row.deleted_at = Some(save.now_ms);
                            row.changed_at += 1;
                            changed.push(row.clone());
                        }
                        Vec::new()
                    }
                };
                for new in list {
                    let old = self.rows.get(&(save.aor.clone(), new.key.clone()));
                    if old.is_some_and(|old| old.call_id == save.call_id && old.cseq > save.cseq) {
                        return Answer::Save(SaveOutcome::OutOfOrder);
                    }
                    self.sequence += 1;
                    let record = Record {
                        aor: save.aor.clone(),
                        key: new.key.clone(),
                        contact: new.contact,
                        params: new.params,
                        q: new.q,
                        expires_at: save.now_ms + u64::from(new.lifetime) * 1000,
                        lifetime: new.lifetime,
                        call_id: save.call_id.clone(),
                        cseq: save.cseq,
                        user_agent: new.user_agent,
                        received: new.received,
                        path: new.path,
                        gateway: new.gateway,
                        flow_token: new.flow_token,
                        instance: new.instance,
                        reg_id: new.reg_id,
                        version: Version { writer: WriterId(1), sequence: self.sequence },
                        changed_at: save.now_ms + self.sequence,
                        deleted_at: (new.lifetime == 0).then_some(save.now_ms),
                    };
                    self.rows.insert((save.aor.clone(), new.key), record.clone());
                    changed.push(record);
                }
                let bindings = live(&self.rows, &save.aor, save.now_ms);
                Answer::Save(SaveOutcome::Saved { bindings, changed })
            }
            Request::Lookup { aor, now_ms } => Answer::Found(live(&self.rows, &aor, now_ms)),
            Request::Expire { .. } => Answer::Expired(0),
            request @ (Request::Claim(_) | Request::ReadClaim { .. }) => {
                self.table.carry_out(WriterId(1), &request)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything sent since the last call.
    fn take(&mut self) -> Vec<(Hop, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// The status codes sent to `to` since the last look; requests are dropped.
    fn codes(&mut self, to: Hop) -> Vec<u16> {
        self.take()
            .iter()
            .filter(|(hop, _)| *hop == to)
            .filter_map(|(_, message)| message.status())
            .collect()
    }

    /// Requests sent since the last look, with their methods and hops; responses are dropped.
    fn requests(&mut self) -> Vec<(Hop, Message)> {
        self.take().into_iter().filter(|(_, message)| message.is_request()).collect()
    }

    /// As [`World::requests`], ordered by destination.
    fn forks(&mut self) -> Vec<(Hop, Message)> {
        let mut requests = self.requests();
        requests.sort_by_key(|(to, _)| *to);
        requests
    }

    /// The one request of this method sent since the last look.
    fn request(&mut self, method: &str) -> (Hop, Message) {
        let mut requests = self.requests();
        requests
            .retain(|(_, message)| message.method().is_some_and(|other| other.as_str() == method));
        assert_eq!(requests.len(), 1, "{method}: {requests:?}");
        requests.remove(0)
    }

    /// A phone or gateway answers a request that it got.
    fn respond(&mut self, request: &(Hop, Message), code: u16) {
        let response =
            ResponseBuilder::new(&request.1, code).to_tag(format!("t{code}")).build().unwrap();
        self.receive(request.0, response);
    }

    fn register(&mut self, user: &str, contact: &str) {
        let request = register(user, &format!("reg-{user}-{}", self.sequence), 1, contact);
        // Where its Via says: no NAT.
        self.receive(phone(9), request);
        let codes = self.codes(phone(9));
        assert_eq!(codes, [200], "{contact}");
    }

    /// Registers through a gateway: a token in Path.
    fn register_by_gateway(&mut self, user: &str, contact: &str, gateway: u32, remote: &str) {
        let path = self.path(gateway, remote);
        let call_id = format!("gw-{user}-{}", self.sequence);
        let request = register(user, &call_id, 1, contact)
            .replace("Content-Length", &format!("Path: {path}\r\nContent-Length"));
        self.receive(GATEWAY, request);
        assert_eq!(self.codes(GATEWAY), [200]);
    }

    fn path(&self, gateway: u32, remote: &str) -> String {
        format!("<sip:{}@127.0.0.1:5070;lr>", self.token(gateway, remote, Use::Path))
    }

    fn token(&self, gateway: u32, remote: &str, use_: Use) -> String {
        let remote = remote.parse().unwrap();
        let flow = Flow { gateway, transport: EdgeTransport::Udp, listener: 0, remote, serial: 0 };
        FlowToken { use_, flow }.sign(&self.keys)
    }

    /// Gateways with these identifiers, each at a port of that number.
    fn set_gateways(&mut self, elements: &[u32]) {
        let members: Vec<Member> = elements
            .iter()
            .map(|element| Member { element: *element, address: gateway_address(*element) })
            .collect();
        self.proxy.set_gateways(self.now, &members);
        self.run();
    }

    /// The gateway's process ends: its connections are reset and nobody listens.
    fn kill_gateway(&mut self, element: u32) {
        self.dead.push(gateway_address(element));
        let gone: Vec<ConnId> = self
            .elements
            .iter()
            .filter(|(_, other)| **other == element)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in gone {
            self.elements.remove(&conn);
            self.proxy.handle_closed(self.now, conn);
        }
        self.run();
    }
}

impl Drop for World {
    /// Whatever a test did: in the end nothing is left.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.store = Store::Answers;
        self.advance(Duration::from_secs(400));
        let sizes = self.proxy.sizes();
        assert_eq!(Sizes { timers: 0, ..sizes }, Sizes::default(), "left behind");
        assert_eq!(sizes.timers, 2, "only the periodic timers are left");
    }
}

fn gateway_address(element: u32) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 21], element as u16))
}

/// A phone at a UDP port.
fn phone(port: u16) -> Hop {
    Hop::Udp { socket: 0, peer: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn tcp_phone(port: u16) -> Hop {
    Hop::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn register(user: &str, call_id: &str, cseq: u32, contacts: &str) -> String {
    format!(
        "REGISTER sip:{DOMAIN} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bK{call_id}.{cseq}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{user}@{DOMAIN}>;tag=1\r\n\
         To: <sip:{user}@{DOMAIN}>\r\n\
         Call-ID: {call_id}\r\n\
         CSeq: {cseq} REGISTER\r\n\
         {}Content-Length: 0\r\n\r\n",
        if contacts.is_empty() { String::new() } else { format!("Contact: {contacts}\r\n") }
    )
}

fn request(method: &str, uri: &str, branch: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@{DOMAIN}>;tag=a1\r\n\
         To: <{uri}>\r\n\
         Call-ID: call-{branch}\r\n\
         CSeq: 1 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn invite(user: &str, branch: &str) -> String {
    request("INVITE", &format!("sip:{user}@{DOMAIN}"), branch)
}

fn header(message: &Message, name: HeaderName) -> Vec<String> {
    message.values(name).flatten().map(|value| value.text.to_owned()).collect()
}
