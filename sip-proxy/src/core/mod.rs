//! Registrar and proxy without IO.
//!
//! One [`Proxy`] takes messages, answers of the location store, changes of the gateway pool and what happens to
//! connections; after every input [`Proxy::poll`] is drained, and [`Proxy::next_deadline`] says when to call
//! [`Proxy::handle_timeout`]. Requests pass [`routing`](self) (what is it, where does it go), REGISTER the registrar,
//! all others a *context* with one branch per binding (RFC 3261 section 16.2).
//!
//! Everything that came from the network is answered as the protocol says, or counted in [`Stats`] and dropped.

mod auth;
mod conference;
mod context;
mod fork;
mod hop;
mod media;
mod register;
mod respond;
mod routing;
mod settings;
#[cfg(test)]
mod tests;
mod wall;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_location::{
    Answer, Credentials, Replica, ReplicaStats, Request, SaveOutcome, StoreEvent, Ticket,
};
use dialtone_sip::transaction::{ClientId, Layer, Output as LayerOutput, ServerId};
use dialtone_sip::{Message, Method};
use dialtone_sip_pool::hops::{self, ConnId, Hops, Member, RequestId};
use dialtone_sip_pool::keys::Keys;

use auth::Auth;
pub use auth::{Lacking, Limits, Settings as AuthSettings, Stats as AuthStats};
use conference::Conference;
pub use conference::{Settings as ConferenceSettings, Stats as ConferenceStats};
use context::Context;
pub use hop::Hop;
use media::Media;
pub use media::{Settings as MediaSettings, Stats as MediaStats, WithoutRelay};
pub use settings::{Names, Settings};
pub use wall::ClockNotice;

/// How often the replica forgets a part of what has ended, and the database all of it.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// A database node may be behind by less than this; what is younger stays when everything is read again.
const RELOAD_KEEPS_MS: u64 = 30_000;
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// What the core wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close a core connection.
    Close { conn: ConnId },
    /// Dial a core connection; answered by [`Proxy::handle_connected`] or [`Proxy::handle_closed`].
    Dial { conn: ConnId, address: SocketAddr },
    /// An element of the pool `sip-gateway` does not answer: to be reported to the registrar.
    Report { element: u32 },
    /// An element of the pool of the conference servers does not answer: to be reported to the registrar.
    ReportConference { element: u32 },
    /// Send this datagram to a media relay; what comes back is for [`Proxy::handle_relay`].
    Relay { to: SocketAddr, bytes: Bytes },
    /// An element of the pool `media-relay` does not answer: to be reported to the registrar.
    ReportRelay { element: u32 },
    /// Send to a phone: a datagram, or over the TCP connection with this peer, dialled if there is none.
    Send { to: Hop, bytes: Bytes },
    /// Ask the location store; answered by [`Proxy::handle_store`].
    Store { ticket: Ticket, request: Request },
    /// An element of the pool `sip-gateway` answers again.
    Trust { element: u32 },
    /// An element of the pool of the conference servers answers again.
    TrustConference { element: u32 },
    /// An element of the pool `media-relay` answers again.
    TrustRelay { element: u32 },
    /// Write to a core connection.
    Write { conn: ConnId, bytes: Bytes },
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// REGISTER requests.
    pub registers: u64,
    /// Other requests that were forwarded.
    pub forwarded: u64,
    /// Requests answered by this proxy with 4xx to 6xx.
    pub refused: u64,
    /// Of these, because the database did not answer in time.
    pub store_timeouts: u64,
    /// Lookups that the replica could not answer.
    pub lookups: u64,
    /// Branches that found their flow or gateway gone.
    pub flow_failures: u64,
    /// Messages dropped: malformed, responses without transaction, ACKs that lead nowhere.
    pub dropped: u64,
    /// Responses forwarded.
    pub responses: u64,
    /// Times that the system's clock was found far away.
    pub clock_jumps: u64,
}

/// What a ticket waits for.
#[derive(Debug)]
enum Waiting {
    Register {
        server: ServerId,
        request: Box<Message>,
        source: Hop,
    },
    Lookup {
        server: ServerId,
    },
    /// Whose a room is.
    Claim {
        server: ServerId,
    },
    /// Whether the claim of a room that is in use ends soon.
    Renewal,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Timer C of a branch, or the wait for the answer after its CANCEL.
    Branch(ServerId, usize),
    Expire,
    /// A context lost the connection that it would be answered over.
    Orphan(ServerId),
    Sweep,
    Ticket(Ticket),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    names: Names,
    keys: Keys,
    rng: fastrand::Rng,
    /// Makes hashes in branches and tags unpredictable.
    secret: u64,
    layer: Layer<Hop>,
    hops: Hops,
    replica: Replica,
    /// `None`: nobody is asked who he is.
    auth: Option<Box<Auth>>,
    /// `None`: phones send media to each other.
    media: Option<Box<Media>>,
    /// `None`: there are no conferences.
    conference: Option<Box<Conference>>,
    credentials: Credentials,
    contexts: HashMap<ServerId, Box<Context>>,
    clients: HashMap<ClientId, (ServerId, usize)>,
    /// With the deadline of the answer.
    tickets: HashMap<Ticket, (Waiting, Option<Instant>)>,
    next_ticket: u64,
    timers: BTreeSet<(Instant, Timer)>,
    /// Requests given to the transaction layer for an element whose bytes it has not yet handed out.
    sending: VecDeque<(ClientId, Bytes)>,
    /// Branches whose element cannot be reached.
    unreachable: VecDeque<ClientId>,
    outputs: VecDeque<Output>,
    loaded: bool,
    /// What the store hands out is what others have just written.
    followed: bool,
    stats: Stats,
}

impl Proxy {
    /// A proxy with an empty replica; it is fed by [`Proxy::handle_store`].
    pub fn new(
        now: Instant,
        settings: Settings,
        names: Names,
        keys: Keys,
        mut rng: fastrand::Rng,
    ) -> Self {
        let hops = Hops::new(hops::Settings::irreplaceable(), 1, rng.fork());
        let mut timers = BTreeSet::new();
        timers.insert((now + SWEEP_EVERY, Timer::Sweep));
        timers.insert((now + EXPIRE_EVERY.mul_f64(0.5 + rng.f64()), Timer::Expire));
        let secret = rng.u64(..);
        let auth = settings.auth.clone().map(|auth| Box::new(Auth::new(now, auth, secret)));
        let most = settings.max_contexts;
        let media = settings.media.map(|media| Box::new(Media::new(media, most, rng.fork())));
        let conference = settings.conference.clone();
        let conference = conference.map(|one| Box::new(Conference::new(now, one, rng.fork())));
        Self {
            layer: Layer::new(settings.timers),
            secret,
            auth,
            media,
            conference,
            credentials: Credentials::new(),
            settings,
            names,
            keys,
            rng,
            hops,
            replica: Replica::new(),
            contexts: HashMap::new(),
            clients: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            timers,
            sending: VecDeque::new(),
            unreachable: VecDeque::new(),
            outputs: VecDeque::new(),
            loaded: false,
            followed: false,
            stats: Stats::default(),
        }
    }

    /// Bytes of one message: a datagram, or a message cut out of a stream.
    pub fn handle_message(&mut self, now: Instant, source: Hop, bytes: Bytes) {
        match Message::parse(bytes) {
            Ok(message) => match message.check() {
                Ok(()) if self.is_overloaded(&message) => {
                    self.answer_without_state(now, &message, source, 503, "")
                }
                Ok(()) => {
                    if self.layer.handle_message(now, message, source).is_err() {
                        self.stats.dropped += 1;
                    }
                }
                Err(error) => self.answer_fault(now, &message, source, error),
            },
            Err(partial) => match &partial.message {
                Some(message) => self.answer_fault(now, message, source, partial.error),
                None => self.stats.dropped += 1,
            },
        }
        self.pump(now);
    }

    /// Whether this would be one request too many to remember. What belongs to requests that are remembered is taken.
    fn is_overloaded(&self, message: &Message) -> bool {
        message.is_request()
            && !matches!(message.method(), Some(Method::Ack | Method::Cancel))
            && self.layer.stats().servers >= self.settings.max_transactions
    }

    /// A message over a core connection; see [`Proxy::handle_received`] for what else comes there.
    pub fn handle_core_message(&mut self, now: Instant, conn: ConnId, bytes: Bytes) {
        let hops = self.hops_of(conn);
        hops.received(now, conn);
        let element = hops.element_of(conn);
        let of_pool = if Conference::has(conn) { Hop::Focus } else { Hop::Element };
        let source = element.map_or(Hop::Core(conn), of_pool);
        self.handle_message(now, source, bytes);
    }

    /// Something other than a message came over a core connection.
    pub fn handle_received(&mut self, now: Instant, conn: ConnId) {
        self.hops_of(conn).received(now, conn);
        self.pump(now);
    }

    /// A core connection that was to be dialled is there.
    pub fn handle_connected(&mut self, now: Instant, conn: ConnId) {
        self.hops_of(conn).connected(now, conn);
        self.pump(now);
    }

    /// A core connection ended or could not be dialled.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        if conn.is_accepted() {
            self.layer.handle_transport_error(now, Hop::Core(conn));
        } else {
            self.hops_of(conn).closed(now, conn);
        }
        self.pump(now);
    }

    /// This process stood still for so long that the gateways have sent elsewhere what it had: everything that came over
    /// core connections is forgotten without a word to anybody, what is not written yet stays unwritten, and connections
    /// are made anew. The caller closes the accepted ones.
    pub fn handle_standstill(&mut self, now: Instant) {
        let mut stale: Vec<ServerId> = self
            .contexts
            .iter()
            .filter(|(_, context)| context.source.is_core())
            .map(|(server, _)| *server)
            .collect();
        stale.sort_unstable();
        for server in stale {
            self.forget_context(server);
        }
        let contexts = &self.contexts;
        if let Some(media) = &mut self.media {
            media.stood_still(|server| contexts.contains_key(&server));
        }
        self.outputs
            .retain(|output| !matches!(output, Output::Write { .. } | Output::Relay { .. }));
        self.hops.stood_still(now);
        if let Some(conference) = &mut self.conference {
            conference.hops.stood_still(now);
        }
        self.pump(now);
    }

    /// The TCP connection with a phone ended or could not be dialled.
    pub fn handle_edge_closed(&mut self, now: Instant, peer: SocketAddr) {
        self.layer.handle_transport_error(now, Hop::Tcp(peer));
        self.pump(now);
    }

    /// The complete membership of the pool `sip-gateway`.
    pub fn set_gateways(&mut self, now: Instant, members: &[Member]) {
        self.hops.set_members(now, members);
        self.pump(now);
    }

    /// What the system's clock says, in milliseconds since 1970, and for how long the machine has slept since it was
    /// booted: to be told about once a second. It is followed slowly, jumps are not; what there is to say about that is
    /// returned.
    pub fn set_wall(
        &mut self,
        now: Instant,
        slept: Duration,
        system_ms: u64,
    ) -> Option<ClockNotice> {
        let notice = self.settings.wall.look(now, slept, system_ms);
        self.stats.clock_jumps += u64::from(matches!(
            notice,
            Some(ClockNotice::Jumped { .. } | ClockNotice::Adopted { .. })
        ));
        notice
    }

    /// The keys were read again.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// What the location store tells.
    pub fn handle_store(&mut self, now: Instant, event: StoreEvent) {
        match event {
            StoreEvent::Changes(records) => {
                // What comes later than the whole table was written by others just now.
                if let Some(record) = records.last().filter(|_| self.followed) {
                    self.settings.wall.heard(now, record.written_at());
                }
                records.iter().for_each(|record| _ = self.replica.apply(record))
            }
            StoreEvent::Credentials(list) => {
                list.iter().for_each(|credential| _ = self.credentials.apply(credential))
            }
            StoreEvent::Loaded => {
                self.loaded = true;
                self.followed = true;
                self.replica.end_reload();
            }
            StoreEvent::Reloading => {
                self.followed = false;
                self.replica.begin_reload(self.settings.wall(now).saturating_sub(RELOAD_KEEPS_MS));
            }
            StoreEvent::Answer { ticket, answer } => self.answered(now, ticket, answer),
            // The replica still answers; what it lacks is looked up.
            StoreEvent::Behind(_) | StoreEvent::Recovered => {}
        }
        self.pump(now);
    }

    fn answered(&mut self, now: Instant, ticket: Ticket, answer: Answer) {
        // Late or not: what was saved is true.
        if let Answer::Save(SaveOutcome::Saved { changed, .. }) = &answer {
            changed.iter().for_each(|record| _ = self.replica.apply(record));
        }
        let Some((waiting, deadline)) = self.tickets.remove(&ticket) else { return };
        if let Some(deadline) = deadline {
            self.timers.remove(&(deadline, Timer::Ticket(ticket)));
        }
        match waiting {
            Waiting::Register { server, request, source } => {
                self.register_answered(now, server, &request, source, answer);
            }
            Waiting::Lookup { server } => {
                let records =
                    if let Answer::Found(records) = answer { records } else { Vec::new() };
                records.iter().for_each(|record| _ = self.replica.apply(record));
                self.found(now, server, &records);
            }
            Waiting::Claim { server } => self.claim_answered(now, server, Some(answer)),
            Waiting::Renewal => self.renewal_read(now, &answer),
            Waiting::Nothing => {}
        }
    }

    /// Asks the store; the answer must come within `patience`.
    fn ask(
        &mut self,
        now: Instant,
        request: Request,
        waiting: Waiting,
        patience: Option<Duration>,
    ) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let deadline = patience.map(|patience| now + patience);
        self.tickets.insert(ticket, (waiting, deadline));
        self.timers.extend(deadline.map(|deadline| (deadline, Timer::Ticket(ticket))));
        self.outputs.push_back(Output::Store { ticket, request });
        ticket
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Proxy::handle_timeout`].
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = self.timers.first().map(|(at, _)| *at);
        let media = self.media.as_ref().and_then(|media| media.next_deadline());
        let rooms = self.conference.as_ref().and_then(|one| one.hops.next_deadline());
        let [layer, hops] = [self.layer.next_deadline(), self.hops.next_deadline()];
        [own, media, layer, hops, rooms].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.hops.handle_timeout(now);
        if let Some(conference) = &mut self.conference {
            conference.hops.handle_timeout(now);
        }
        if let Some(media) = &mut self.media {
            media.handle_timeout(now);
        }
        self.pump(now);
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Branch(server, index) => self.branch_timeout(now, server, index),
                Timer::Expire => {
                    let now_ms = self.settings.wall(now);
                    self.ask(now, Request::Expire { now_ms }, Waiting::Nothing, None);
                    self.timers.insert((now + EXPIRE_EVERY, Timer::Expire));
                }
                Timer::Orphan(server) => self.orphaned(now, server),
                Timer::Sweep => {
                    // 256 shards in 12.8 s.
                    (0..2).for_each(|_| self.replica.sweep(self.settings.wall(now)));
                    self.timers.insert((now + SWEEP_EVERY, Timer::Sweep));
                }
                Timer::Ticket(ticket) => self.ticket_timeout(now, ticket),
            }
            self.pump(now);
        }
    }

    fn ticket_timeout(&mut self, now: Instant, ticket: Ticket) {
        match self.tickets.remove(&ticket).map(|(waiting, _)| waiting) {
            Some(Waiting::Register { server, request, source }) => {
                self.stats.store_timeouts += 1;
                self.unavailable(now, server, &request, source);
            }
            // The replica had nothing, and a call does not wait for a stalled database.
            Some(Waiting::Lookup { server }) => self.found(now, server, &[]),
            Some(Waiting::Claim { server }) => self.claim_answered(now, server, None),
            Some(Waiting::Renewal | Waiting::Nothing) | None => {}
        }
    }

    /// Passes on what the parts of the core want until they want nothing more.
    fn pump(&mut self, now: Instant) {
        loop {
            // First: whoever hears of the end of a call may begin it anew, after its relay has heard of the end as well.
            if let Some(output) = self.media.as_mut().and_then(|media| media.poll()) {
                self.media_output(now, output);
            } else if let Some(output) = self.layer.poll() {
                self.layer_output(now, output);
            } else if let Some(output) = self.hops.poll() {
                match output {
                    hops::Output::Close { conn } => self.outputs.push_back(Output::Close { conn }),
                    hops::Output::Dial { conn, address } => {
                        self.outputs.push_back(Output::Dial { conn, address })
                    }
                    hops::Output::Failed { request, .. } => {
                        self.flow_failed(now, ClientId(request.0))
                    }
                    hops::Output::Suspect { element, .. } => {
                        self.outputs.push_back(Output::Report { element })
                    }
                    hops::Output::Usable { element } => {
                        self.outputs.push_back(Output::Trust { element })
                    }
                    hops::Output::Write { conn, data } => {
                        self.outputs.push_back(Output::Write { conn, bytes: data });
                    }
                }
            } else if let Some(output) = self.conference.as_mut().and_then(|one| one.hops.poll()) {
                self.conference_output(now, output);
            } else if let Some(client) = self.unreachable.pop_front() {
                self.flow_failed(now, client);
            } else {
                return;
            }
        }
    }

    fn layer_output(&mut self, now: Instant, output: LayerOutput<Hop>) {
        match output {
            LayerOutput::Send { to, bytes } => self.send(now, to, bytes),
            LayerOutput::Request { id, request, source, cancels } => {
                self.request(now, id, request, source, cancels);
            }
            LayerOutput::Ack { request, source, .. } => self.ack(now, &request, source),
            LayerOutput::Response { id, response } => self.response(now, id, response),
            // RFC 6026 section 7.3: "The proxy MUST NOT forward the response if there is no matching transaction".
            LayerOutput::StrayResponse { .. } => self.stats.dropped += 1,
            LayerOutput::ClientTimeout { id } => self.client_timeout(now, id),
            LayerOutput::ServerTimeout { .. } => {}
            LayerOutput::ClientTerminated { id } => self.client_terminated(id),
            LayerOutput::ServerTerminated { id } => self.server_terminated(now, id),
        }
    }

    /// Sends bytes of the transaction layer; the first bytes of a request to an element are watched.
    fn send(&mut self, now: Instant, to: Hop, bytes: Bytes) {
        match to {
            Hop::Element(element) | Hop::Focus(element) => {
                let request = self.sending.iter().position(|(_, sent)| *sent == bytes);
                let request = request.and_then(|at| self.sending.remove(at));
                let hops = match (&mut self.conference, to) {
                    (Some(conference), Hop::Focus(_)) => &mut conference.hops,
                    _ => &mut self.hops,
                };
                match request {
                    Some((client, _)) => {
                        if hops.send_to(now, element, RequestId(client.0), bytes).is_err() {
                            self.unreachable.push_back(client);
                        }
                    }
                    // ACK and CANCEL: the INVITE that they belong to is being watched.
                    None => _ = hops.send_only(now, element, bytes),
                }
            }
            Hop::Core(conn) => self.outputs.push_back(Output::Write { conn, bytes }),
            Hop::Tcp(_) | Hop::Udp { .. } => self.outputs.push_back(Output::Send { to, bytes }),
        }
    }

    /// Whether there is a connection to every gateway and conference server that answers.
    pub fn is_connected(&self) -> bool {
        self.hops.is_settled() && self.conference.as_ref().is_none_or(|one| one.hops.is_settled())
    }

    /// Whether the database has been read once.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Requests under way, answered ones not counted.
    pub fn pending(&self) -> usize {
        let calls = self.contexts.values();
        let calls = calls.filter(|context| !context.answered || context.is_holding()).count();
        let acks = self.media.as_ref().map_or(0, |media| media.waiting());
        calls
            + acks
            + self
                .tickets
                .values()
                .filter(|(waiting, _)| matches!(waiting, Waiting::Register { .. }))
                .count()
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What authentication came to; nothing if it is off.
    pub fn auth_stats(&self) -> AuthStats {
        self.auth.as_ref().map(|auth| auth.stats).unwrap_or_default()
    }

    /// Users who can log in; `None` if nobody must.
    pub fn users(&self) -> Option<usize> {
        self.auth.as_ref().map(|auth| self.credentials.count(auth.realm()))
    }

    /// Contexts, transactions and timers alive, for metrics and to see that nothing is left behind.
    pub fn sizes(&self) -> Sizes {
        let layer = self.layer.stats();
        Sizes {
            contexts: self.contexts.len(),
            clients: layer.clients,
            servers: layer.servers,
            tickets: self.tickets.len(),
            timers: self.timers.len(),
            questions: self.media.as_ref().map_or(0, |media| media.questions()),
        }
    }

    /// The contacts that a call to this address-of-record would find in memory.
    pub fn contacts(&self, now: Instant, aor: &str) -> Vec<String> {
        let now_ms = self.settings.wall(now);
        self.replica.lookup(aor, now_ms).map(|target| target.contact.to_owned()).collect()
    }

    /// Walks the whole replica.
    pub fn replica_stats(&self) -> ReplicaStats {
        self.replica.stats()
    }
}

/// How much is alive inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub contexts: usize,
    pub clients: usize,
    pub servers: usize,
    pub tickets: usize,
    pub timers: usize,
    /// To media relays.
    pub questions: usize,
}
