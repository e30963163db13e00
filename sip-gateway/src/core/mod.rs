//! The gateway's core: requests of phones towards the core, requests of the core towards phones, without IO.
//!
//! [`Gateway::handle`] takes one [`Input`]; [`Gateway::poll`] is drained after it; [`Gateway::next_deadline`] says when
//! the next [`Input::Timeout`] is due. Nothing inside reads a clock or draws randomness that was not passed in.
//!
//! Two halves share one transaction layer and know nothing of each other:
//! - `edge`: server transactions of phones; each request becomes a *leg*, sent by `legs` to an element of `sip-proxy`, to
//!   another gateway (in-dialog, by tokens) or to the other half of this gateway.
//! - `deliver`: server transactions of proxies and gateways; each becomes a client transaction towards a phone, by way of
//!   the delivery table.

mod accepted;
mod acks;
mod deliver;
mod edge;
mod flows;
mod interface;
mod legs;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_pool_user::{Selector, View};
use dialtone_sip::transaction::{ClientId, Destination, Layer, Output as LayerOutput, ServerId};
use dialtone_sip::{Limits as MessageLimits, Message, Method, Partial, ResponseBuilder};
use dialtone_sip_pool::delivery::{Key, Table};
use dialtone_sip_pool::dialog::Dialogs;
use dialtone_sip_pool::hops::{self, ConnId, Hops, Member};
use dialtone_sip_pool::keys::Keys;
use dialtone_sip_pool::leg::LegId;

pub use interface::{
    Bounds, Choice, Counters, Gauges, Input, Listener, Output, Pool, Settings, pool_view,
};

use accepted::Accepted;
use acks::Acks;
use deliver::Delivery;
use flows::Flows;
use legs::Leg;
use sources::Sources;

/// Where the transaction layer's messages come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// A core connection.
    Core(ConnId),
    /// The other half of this gateway.
    Loop,
    /// A phone's connection.
    Tcp(u64),
    /// A phone's address.
    Udp { listener: u8, remote: SocketAddr },
}

/// A server on a core hop answers 100 to what it has not answered after this time. Below the 50 ms after which the other
/// end of the hop asks whether we live.
const CORE_TRYING: Duration = Duration::from_millis(40);

/// How much longer than what a phone may send a message in the core may be: Vias, routes, Path.
const CORE_GROWTH: usize = 16_384;

impl Destination for Peer {
    fn is_reliable(&self) -> bool {
        !matches!(self, Self::Udp { .. })
    }

    fn trying_after(&self, invite: bool) -> Option<Duration> {
        match self {
            // RFC 4320 section 4.1 allows 100 to a non-INVITE request over a reliable hop.
            Self::Core(_) | Self::Loop => Some(if invite { Duration::ZERO } else { CORE_TRYING }),
            Self::Tcp(_) | Self::Udp { .. } => invite.then_some(Duration::ZERO),
        }
    }
}

impl Peer {
    fn is_core(self) -> bool {
        matches!(self, Self::Core(_) | Self::Loop)
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    keys: Keys,
    rng: fastrand::Rng,
    layer: Layer<Peer>,
    flows: Flows,
    sources: Sources,
    proxies: Hops,
    selector: Selector,
    gateways: Hops,
    accepted: Accepted,
    legs: BTreeMap<LegId, Leg>,
    leg_deadlines: BTreeSet<(Instant, LegId)>,
    waiting: BTreeSet<LegId>,
    leg_of_server: HashMap<ServerId, LegId>,
    leg_of_request: HashMap<hops::RequestId, LegId>,
    acks: Acks,
    next_request: u64,
    table: Table<ServerId, Message>,
    deliveries: BTreeMap<ClientId, Delivery>,
    cancel_deadlines: BTreeSet<(Instant, ClientId)>,
    delivery_of_key: BTreeMap<Key, ClientId>,
    delivery_of_server: HashMap<ServerId, ClientId>,
    dialogs: Dialogs,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Gateway {
    /// A gateway that knows no proxies yet.
    #[must_use]
    pub fn new(settings: Settings, keys: Keys, mut rng: fastrand::Rng) -> Self {
        let bounds = &settings.bounds;
        Self {
            layer: Layer::new(settings.timers),
            flows: Flows::new(
                settings.listeners.clone(),
                settings.element,
                settings.keep_alive,
                &mut rng,
            ),
            sources: Sources::new(bounds.per_source),
            proxies: Hops::new(settings.hops.clone(), 1, rng.fork()),
            gateways: Hops::new(
                hops::Settings {
                    silence: hops::Settings::irreplaceable().silence,
                    ..settings.hops.clone()
                },
                2,
                rng.fork(),
            ),
            selector: Selector::new(
                Arc::new(View::unknown(Pool::Proxy.handle())),
                Duration::ZERO,
                rng.fork(),
            ),
            table: Table::new(bounds.deliveries),
            dialogs: Dialogs::new(bounds.dialogs),
            keys,
            rng,
            accepted: Accepted::default(),
            legs: BTreeMap::new(),
            leg_deadlines: BTreeSet::new(),
            waiting: BTreeSet::new(),
            leg_of_server: HashMap::new(),
            leg_of_request: HashMap::new(),
            acks: Acks::default(),
            next_request: 0,
            deliveries: BTreeMap::new(),
            cancel_deadlines: BTreeSet::new(),
            delivery_of_key: BTreeMap::new(),
            delivery_of_server: HashMap::new(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::CoreAccepted { conn } => self.accepted.opened(now, conn),
            Input::CoreActivity { conn } => self.hear(now, conn),
            Input::CoreClosed { conn } => self.core_closed(now, conn),
            Input::CoreConnected { conn } => {
                if let Some(hops) = self.hops_of(conn) {
                    hops.connected(now, conn);
                }
            }
            Input::CoreMessage { conn, bytes } => self.core_message(now, conn, bytes),
            Input::Datagram { listener, remote, bytes } => {
                self.datagram(now, listener, remote, bytes)
            }
            Input::DatagramReturned { listener, remote, bytes } => {
                self.returned(now, Peer::Udp { listener, remote }, bytes);
            }
            Input::EdgeClosed { conn } => {
                if self.flows.closed(conn) {
                    self.layer.handle_transport_error(now, Peer::Tcp(conn));
                }
            }
            Input::EdgeMessage { conn, bytes } => {
                if let Some(remote) = self.flows.remote(conn) {
                    self.edge_message(now, Peer::Tcp(conn), remote, bytes);
                }
            }
            Input::EdgeOpened { conn, listener, remote } => {
                self.flows.opened(conn, listener, remote)
            }
            Input::Frozen => {
                for conn in self.accepted.take_all() {
                    self.outputs.push_back(Output::CoreClose { conn });
                    self.layer.handle_transport_error(now, Peer::Core(conn));
                }
            }
            Input::NewKeys { keys } => self.keys = keys,
            Input::Timeout => self.timeout(now),
            Input::View { pool, view } => {
                let members: Vec<Member> = view
                    .members
                    .iter()
                    // Nobody needs a connection to itself.
                    .filter(|member| pool == Pool::Proxy || member.pe_id.0 != self.settings.element)
                    .filter_map(|member| {
                        Some(Member { element: member.pe_id.0, address: member.addr()? })
                    })
                    .collect();
                match pool {
                    Pool::Gateway => {
                        self.gateways.set_members(now, &members);
                        // What waits for one that has left waits in vain.
                        self.launch_waiting(now);
                    }
                    Pool::Proxy => {
                        self.proxies.set_members(now, &members);
                        self.selector.update(view);
                    }
                }
            }
        }
        self.pump(now);
    }

    /// Next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the next [`Input::Timeout`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        [
            self.layer.next_deadline(),
            self.proxies.next_deadline(),
            self.gateways.next_deadline(),
            self.accepted.next_deadline(),
            self.table.next_deadline(),
            self.dialogs.next_deadline(),
            self.flows.next_deadline(),
            self.leg_deadlines.first().map(|(deadline, _)| *deadline),
            self.acks.next_deadline(),
            self.cancel_deadlines.first().map(|(deadline, _)| *deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sizes at the moment.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let stats = self.layer.stats();
        Gauges {
            clients: stats.clients,
            deliveries: self.table.len(),
            dialogs: self.dialogs.len(),
            edge_connections: self.flows.connections(),
            legs: self.legs.len(),
            pinholes: self.flows.pinholes(),
            servers: stats.servers,
        }
    }

    /// Requests of either side that wait for their final answer: 0 when a gateway that stops has drained.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        let waiting = |leg: &&Leg| !leg.is_answered();
        let delivering = |delivery: &&Delivery| !delivery.answered;
        self.legs.values().filter(waiting).count()
            + self.deliveries.values().filter(delivering).count()
    }

    /// The records of dialogs that pass.
    #[must_use]
    pub fn dialogs(&self) -> &Dialogs {
        &self.dialogs
    }

    fn timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        // What the layer has to say may concern legs and deliveries that expire in the same moment.
        self.pump(now);
        self.proxies.handle_timeout(now);
        self.gateways.handle_timeout(now);
        for conn in self.accepted.silent(now) {
            self.outputs.push_back(Output::CoreClose { conn });
            self.layer.handle_transport_error(now, Peer::Core(conn));
        }
        self.table.handle_timeout(now);
        self.dialogs.handle_timeout(now);
        while let Some((_, leg)) =
            self.leg_deadlines.first().filter(|(deadline, _)| *deadline <= now).copied()
        {
            self.set_leg_deadline(leg, None);
            self.leg_expired(now, leg);
        }
        self.acks_due(now);
        while self.cancel_deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, delivery)) = self.cancel_deadlines.pop_first() {
                self.cancelled_in_vain(now, delivery);
            }
        }
        for (listener, remote) in self.flows.due(now) {
            self.counters.refreshed += 1;
            self.outputs.push_back(Output::Datagram {
                listener,
                remote,
                bytes: Bytes::from_static(hops::PING),
            });
        }
    }

    /// Passes on what the parts of the core have to say until all are silent.
    fn pump(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.layer.poll() {
                self.layer_output(now, output);
            } else if let Some(output) = self.proxies.poll() {
                self.hop_output(now, Pool::Proxy, output);
            } else if let Some(output) = self.gateways.poll() {
                self.hop_output(now, Pool::Gateway, output);
            } else if let Some(key) = self.table.poll_orphan() {
                self.orphaned(now, &key);
            } else {
                return;
            }
        }
    }

    fn layer_output(&mut self, now: Instant, output: LayerOutput<Peer>) {
        match output {
            LayerOutput::Send { to, bytes } => self.send(now, to, bytes),
            LayerOutput::Request { id, request, source, cancels } => {
                let cancel = request.method() == Some(Method::Cancel);
                match (source.is_core(), cancel) {
                    (true, true) => self.core_cancel(now, id, &request, cancels),
                    (true, false) => self.core_request(now, id, request),
                    (false, true) => {
                        let remote = self.remote_of(source);
                        self.edge_cancel(now, id, &request, remote, cancels);
                    }
                    (false, false) => self.edge_request(now, id, request, source),
                }
            }
            LayerOutput::Ack { request, source, .. } if source.is_core() => {
                self.core_ack(now, &request)
            }
            LayerOutput::Ack { request, .. } => self.edge_ack(now, &request),
            LayerOutput::Response { id, response } => self.phone_response(now, id, response),
            LayerOutput::StrayResponse { .. } => self.counters.stray += 1,
            LayerOutput::ClientTimeout { id } => self.phone_silent(now, id),
            LayerOutput::ServerTimeout { .. } => {}
            LayerOutput::ClientTerminated { id } => self.delivery_over(id),
            LayerOutput::ServerTerminated { id } => {
                self.leg_abandoned(now, id);
                self.asker_lost(now, id);
            }
        }
    }

    fn hop_output(&mut self, now: Instant, pool: Pool, output: hops::Output) {
        match output {
            hops::Output::Close { conn } => self.outputs.push_back(Output::CoreClose { conn }),
            hops::Output::Dial { conn, address } => {
                self.outputs.push_back(Output::CoreDial { conn, address })
            }
            hops::Output::Failed { request, element, .. } => self.hop_failed(now, request, element),
            hops::Output::Suspect { element, cause } => {
                self.outputs.push_back(Output::ReportUnreachable { pool, element, cause });
            }
            hops::Output::Usable { element } => {
                self.outputs.push_back(Output::Trust { pool, element });
                self.launch_waiting(now);
            }
            hops::Output::Write { conn, data } => {
                self.outputs.push_back(Output::CoreWrite { conn, bytes: data })
            }
        }
    }

    fn send(&mut self, now: Instant, to: Peer, bytes: Bytes) {
        match to {
            Peer::Core(conn) => self.outputs.push_back(Output::CoreWrite { conn, bytes }),
            Peer::Loop => {
                // Only answers go this way: requests are handed to the layer.
                if let Ok(response) = Message::parse(bytes) {
                    self.core_response(now, &response);
                }
            }
            Peer::Tcp(conn) => self.outputs.push_back(Output::EdgeWrite { conn, bytes }),
            Peer::Udp { listener, remote } => {
                self.outputs.push_back(Output::Datagram { listener, remote, bytes })
            }
        }
    }

    fn hops_of(&mut self, conn: ConnId) -> Option<&mut Hops> {
        match conn.prefix() {
            1 => Some(&mut self.proxies),
            2 => Some(&mut self.gateways),
            _ => None,
        }
    }

    fn hear(&mut self, now: Instant, conn: ConnId) {
        self.accepted.hear(now, conn);
        if let Some(hops) = self.hops_of(conn) {
            hops.received(now, conn);
        }
    }

    fn core_closed(&mut self, now: Instant, conn: ConnId) {
        if let Some(hops) = self.hops_of(conn) {
            hops.closed(now, conn);
        }
        if self.accepted.closed(conn) {
            self.layer.handle_transport_error(now, Peer::Core(conn));
        }
    }

    fn core_message(&mut self, now: Instant, conn: ConnId, bytes: Bytes) {
        self.hear(now, conn);
        if conn.is_accepted() && !self.accepted.contains(conn) {
            // Stale: the connection was given up.
            self.counters.stray += 1;
            return;
        }
        match Self::parse(bytes, self.settings.bounds.message + CORE_GROWTH) {
            Ok(message) if !message.is_request() => self.core_response(now, &message),
            Ok(message) => self.incoming(now, message, Peer::Core(conn)),
            Err(partial) => self.answer_broken(now, Peer::Core(conn), &partial),
        }
    }

    fn parse(bytes: Bytes, max_message: usize) -> Result<Message, Partial> {
        let limits = MessageLimits { max_message, ..MessageLimits::default() };
        Message::parse_within(bytes, &limits)
    }

    /// A message with sound structure: checked, then matched to a transaction.
    fn incoming(&mut self, now: Instant, message: Message, source: Peer) {
        if let Err(error) = message.check() {
            let partial = Partial { error, message: Some(Box::new(message)) };
            self.answer_broken(now, source, &partial);
        } else if self.is_too_much(&message, source) {
            self.counters.over_bounds += 1;
            self.answer_stateless(now, source, &message, 503, "Service Unavailable");
        } else if self.layer.handle_message(now, message, source).is_err() {
            self.counters.broken += 1;
        }
    }

    /// Whether a request of a phone would be one transaction too many. What ends transactions is always taken.
    fn is_too_much(&self, message: &Message, source: Peer) -> bool {
        !source.is_core()
            && message.is_request()
            && !matches!(message.method(), Some(Method::Ack | Method::Bye | Method::Cancel))
            && self.layer.stats().servers >= self.settings.bounds.transactions
    }

    /// Answers what cannot be processed with the headers that could be read, without a transaction.
    fn answer_broken(&mut self, now: Instant, source: Peer, partial: &Partial) {
        self.counters.broken += 1;
        let Some(request) = partial.message.as_deref().filter(|message| message.is_request())
        else {
            return;
        };
        // RFC 3261 section 17.1.1.3: nothing answers an ACK.
        if request.bytes().starts_with(b"ACK ") {
            return;
        }
        let (code, reason) = partial.error.status();
        self.answer_stateless(now, source, request, code, reason);
    }

    fn answer_stateless(
        &mut self,
        now: Instant,
        source: Peer,
        request: &Message,
        code: u16,
        reason: &str,
    ) {
        let tag = format!("{:016x}", self.rng.u64(..));
        let mut response = ResponseBuilder::new(request, code).reason(reason).to_tag(tag);
        if let Some(remote) = self.remote_of(source) {
            response = response.source(remote);
        }
        if let Ok(bytes) = response.build() {
            self.send(now, source, bytes);
        }
    }

    /// Answers a request of its transaction.
    fn answer(&mut self, now: Instant, id: ServerId, request: &Message, code: u16) {
        self.answer_with(now, id, request, code, &[]);
    }

    fn answer_with(
        &mut self,
        now: Instant,
        id: ServerId,
        request: &Message,
        code: u16,
        headers: &[(&'static str, String)],
    ) {
        let tag = format!("{:016x}", self.rng.u64(..));
        let mut response = ResponseBuilder::new(request, code);
        if code > 100 {
            response = response.to_tag(tag);
        }
        for (name, value) in headers {
            response = response.header(*name, value.as_str());
        }
        if let Ok(bytes) = response.build() {
            self.layer.respond(now, id, code, bytes);
        }
    }

    fn remote_of(&self, peer: Peer) -> Option<SocketAddr> {
        match peer {
            Peer::Core(_) | Peer::Loop => None,
            Peer::Tcp(conn) => self.flows.remote(conn),
            Peer::Udp { remote, .. } => Some(remote),
        }
    }
}
