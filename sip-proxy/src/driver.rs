//! The task that owns the core and connects it to sockets, store and pools.
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | driver (one) | the core, maps of connections | asked to, after requests under way have ended or 5 s |
//! | of [`dialtone_sip::transport`] | sockets and connections | their handles are dropped |
//! | one for each media relay | receives from it | not used for a minute |
//! | threads of [`dialtone_location::sqlite`] or [`dialtone_location::mysql`] | the database | the store is dropped |
//!
//! Everything comes in through channels whose receiving is cancel safe. What has arrived goes before what is due, so
//! that a process that stood still for a while does not take its own silence for that of others. One that stood still
//! for more than `FROZEN` closes its core connections: the gateways have long sent elsewhere what waits in them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use dialtone_handlespace::Handle;
use dialtone_location::{Answer, LocationStore, StoreEvent};
use dialtone_pool_user::{Freshness, PoolUser, View};
use dialtone_sip::digest::Algorithm;
use dialtone_sip::transport::{
    ConnId as TransportId, Flow, Reserved, TcpTransport, TransportEvent, UdpTransport,
};
use dialtone_sip_pool::hops::{ACCEPTED, ConnId, Member};
use dialtone_wire::PeId;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::core::{ClockNotice, Hop, Lacking, Output, Proxy, Stats};
use crate::intake::Intake;
use crate::relays::{RelayEvent, RelaySockets};

/// A pause of the driver longer than this means that the process was stopped.
const FROZEN: Duration = Duration::from_secs(2);
/// Events taken in one go before timers are looked at.
const BATCH: usize = 256;
/// How long requests under way may take when the process stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a proxy that starts waits for its connections to gateways.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// Datagrams of relays that wait for the driver.
const RELAY_QUEUE: usize = 4096;

/// Where a proxy's messages come from and go to.
#[derive(Debug)]
pub struct Network {
    /// Connections with pool elements.
    pub core: TcpTransport,
    pub core_events: mpsc::Receiver<TransportEvent>,
    /// The address to dial from, which is the listener's as well.
    pub core_address: SocketAddr,
    /// Opened when calls can be routed: a gateway that has lost this proxy dials until it is back, and sends it calls as
    /// soon as somebody answers.
    pub core_listener: Reserved,
    pub edge_udp: Option<UdpTransport>,
    /// For phones on TCP; dials even without a listener.
    pub edge_tcp: TcpTransport,
    pub edge_tcp_address: Option<SocketAddr>,
    pub edge_events: mpsc::Receiver<TransportEvent>,
}

/// A pool that the proxy uses, as seen by this process.
#[derive(Debug)]
pub struct Pool {
    pub user: PoolUser,
    pub handle: Handle,
    pub view: watch::Receiver<Arc<View>>,
}

/// The pools that the proxy uses.
#[derive(Debug, Default)]
pub struct Pools {
    pub gateways: Option<Pool>,
    pub relays: Option<Pool>,
    pub conferences: Option<Pool>,
}

/// Runs a proxy until `drain` is cancelled and requests under way have ended. `serving` becomes true when it is open for
/// gateways.
pub async fn run(
    proxy: Proxy,
    mut network: Network,
    store: Arc<dyn LocationStore>,
    mut store_events: Intake,
    pools: Pools,
    serving: watch::Sender<bool>,
    drain: CancellationToken,
) {
    let Pools { mut gateways, relays: mut relay_pool, mut conferences } = pools;
    let user_of =
        |pool: &Option<Pool>| pool.as_ref().map(|pool| (pool.user.clone(), pool.handle.clone()));
    let (relay_sender, mut relay_events) = mpsc::channel(RELAY_QUEUE);
    let mut driver = Driver {
        proxy,
        core: network.core,
        core_address: network.core_address,
        edge_udp: network.edge_udp,
        edge_tcp: network.edge_tcp,
        store,
        user: user_of(&gateways),
        relay_user: user_of(&relay_pool),
        conference_user: user_of(&conferences),
        relays: RelaySockets::new(network.core_address.ip(), relay_sender),
        knows_gateways: gateways.is_none(),
        knows_relays: relay_pool.is_none(),
        knows_conferences: conferences.is_none(),
        core_ids: HashMap::new(),
        transport_ids: HashMap::new(),
        edge_ids: HashMap::new(),
        edge_peers: HashMap::new(),
        exported: Stats::default(),
        limited: 0,
        lacking: Vec::new(),
        seen: clock(),
    };
    let mut core_events = Vec::with_capacity(BATCH);
    let mut edge_events = Vec::with_capacity(BATCH);
    let mut relay_batch = Vec::with_capacity(BATCH);
    let mut metrics_at = clock();
    let mut draining_until = None;
    let mut opening = Some(Opening { listener: network.core_listener, until: None });
    driver.gateways_changed(clock(), gateways.as_mut());
    driver.relays_changed(clock(), relay_pool.as_mut());
    driver.conferences_changed(clock(), conferences.as_mut());
    loop {
        let before = driver.look();
        if before >= metrics_at {
            driver.export();
            driver.look_at_wall(before);
            driver.relays.tidy(before);
            metrics_at = before + METRICS_EVERY;
        }
        if let Some(ready) = opening.take_if(|opening| {
            let others = driver.knows_relays && driver.knows_conferences;
            opening.is_due(before, &driver.proxy, driver.knows_gateways, others)
        }) {
            if let Err(error) = driver.core.open(ready.listener) {
                tracing::error!(%error, address = %driver.core_address, "cannot listen for gateways");
                break;
            }
            serving.send_replace(true);
        }
        if drain.is_cancelled() {
            let until = *draining_until.get_or_insert(before + DRAIN);
            if before >= until || driver.proxy.pending() == 0 {
                tracing::info!(pending = driver.proxy.pending(), "stopped");
                break;
            }
        }
        let opens_at = opening.as_ref().and_then(|opening| opening.until);
        let wake_at = opens_at.map_or(metrics_at, |at| at.min(metrics_at));
        let deadline =
            driver.proxy.next_deadline().map_or(wake_at, |deadline| deadline.min(wake_at));
        let mut core_closed = false;
        let input = tokio::select! {
            biased;
            batch = store_events.recv() => Input::Store(batch),
            count = network.core_events.recv_many(&mut core_events, BATCH) => {
                core_closed = count == 0;
                Input::Core
            }
            count = relay_events.recv_many(&mut relay_batch, BATCH) => {
                // The driver has a sender itself.
                debug_assert!(count > 0);
                Input::Relay
            }
            () = changed(&mut gateways) => Input::Gateways,
            () = changed(&mut relay_pool) => Input::Relays,
            () = changed(&mut conferences) => Input::Conferences,
            _ = network.edge_events.recv_many(&mut edge_events, BATCH) => Input::Edge,
            () = tokio::time::sleep_until(deadline.into()) => Input::Time,
            () = drain.cancelled(), if draining_until.is_none() => Input::Time,
        };
        driver.seen = before.max(deadline);
        let now = driver.look();
        match input {
            Input::Store(Some(batch)) => {
                batch.into_iter().for_each(|event| driver.store_event(now, event))
            }
            Input::Core => core_events.drain(..).for_each(|event| driver.core_event(event)),
            Input::Edge => edge_events.drain(..).for_each(|event| driver.edge_event(event)),
            Input::Gateways => driver.gateways_changed(now, gateways.as_mut()),
            Input::Relay => relay_batch.drain(..).for_each(|event| driver.relay_event(event)),
            Input::Relays => driver.relays_changed(now, relay_pool.as_mut()),
            Input::Conferences => driver.conferences_changed(now, conferences.as_mut()),
            Input::Time => {}
            Input::Store(None) => {
                tracing::error!("the location store ended");
                break;
            }
        }
        if core_closed {
            tracing::error!("the core transport ended");
            break;
        }
        let now = driver.look();
        if driver.proxy.next_deadline().is_some_and(|deadline| deadline <= now) {
            driver.proxy.handle_timeout(now);
        }
        driver.drain();
    }
    driver.export();
}

/// The core listener, as long as it is closed.
struct Opening {
    listener: Reserved,
    /// How long connections to gateways are waited for.
    until: Option<Instant>,
}

impl Opening {
    /// Whether calls could be routed now: bindings are known, and gateways connected and the other pools heard of, those
    /// that answer soon.
    fn is_due(
        &mut self,
        now: Instant,
        proxy: &Proxy,
        knows_gateways: bool,
        knows_others: bool,
    ) -> bool {
        if !proxy.is_loaded() || !knows_gateways {
            return false;
        }
        let until = *self.until.get_or_insert(now + CONNECTED_WITHIN);
        (proxy.is_connected() && knows_others) || now >= until
    }
}

enum Input {
    Conferences,
    Core,
    Edge,
    Gateways,
    Relay,
    Relays,
    Store(Option<Vec<StoreEvent>>),
    Time,
}

/// Waits for a change of a pool; for ever if there is none to come.
async fn changed(pool: &mut Option<Pool>) {
    match pool {
        Some(pool) => {
            if pool.view.changed().await.is_err() {
                // The agent ended: the last members stay.
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

struct Driver {
    proxy: Proxy,
    core: TcpTransport,
    core_address: SocketAddr,
    edge_udp: Option<UdpTransport>,
    edge_tcp: TcpTransport,
    store: Arc<dyn LocationStore>,
    /// For the pool of the gateways, that of the relays, and that of the conference servers.
    user: Option<(PoolUser, Handle)>,
    relay_user: Option<(PoolUser, Handle)>,
    conference_user: Option<(PoolUser, Handle)>,
    relays: RelaySockets,
    /// Whether these pools have been heard of.
    knows_gateways: bool,
    knows_relays: bool,
    knows_conferences: bool,
    /// Core connections by both names.
    core_ids: HashMap<TransportId, ConnId>,
    transport_ids: HashMap<ConnId, TransportId>,
    /// Connections with phones by both names.
    edge_ids: HashMap<SocketAddr, TransportId>,
    edge_peers: HashMap<TransportId, SocketAddr>,
    exported: Stats,
    /// Requests refused because of wrong passwords before them, as told last.
    limited: u64,
    /// Algorithms that not all users have a hash of, and whether they are offered, as told last.
    lacking: Vec<(Algorithm, bool)>,
    /// When the clock was looked at last, or when it was to be looked at.
    seen: Instant,
}

impl Driver {
    /// What time it is. A process that was stopped finds out here, before anything stale is taken in or sent.
    fn look(&mut self) -> Instant {
        let now = clock();
        let before = std::mem::replace(&mut self.seen, now);
        if now.saturating_duration_since(before) > FROZEN {
            self.thaw(now);
        }
        now
    }

    fn look_at_wall(&mut self, now: Instant) {
        match self.proxy.set_wall(now, slept(), wall_clock()) {
            None => {}
            Some(ClockNotice::Jumped { by_ms }) => tracing::warn!(
                seconds = by_ms / 1_000,
                "the system's clock has jumped; bindings end by the time from before, until other proxies confirm the \
                 jump. If it is right now and was wrong before, as the other proxies may be: stop all proxies, set the \
                 clocks, then start them; one that is started alone takes the time of those that run"
            ),
            Some(ClockNotice::Adopted { by_ms }) => tracing::warn!(
                seconds = by_ms / 1_000,
                "the other proxies have another time than this system's clock: theirs counts. If it is wrong: stop all \
                 proxies, set the clocks, then start them"
            ),
            Some(ClockNotice::Followed { by_ms }) => tracing::warn!(
                seconds = by_ms / 1_000,
                "other proxies confirm the jump of the system's clock: followed"
            ),
            Some(ClockNotice::Agrees) => {
                tracing::info!("the system's clock agrees with the time of the bindings again")
            }
        }
    }

    fn core_event(&mut self, event: TransportEvent) {
        let now = self.look();
        match event {
            TransportEvent::Message { flow: Flow::Tcp(conn), bytes } => {
                // Of a connection that was given up: nobody waits for it.
                if let Some(conn) = self.core_ids.get(&conn) {
                    self.proxy.handle_core_message(now, *conn, bytes);
                }
            }
            TransportEvent::Connected { conn, listener: Some(_), .. } => {
                let core = ConnId(ACCEPTED | conn.0);
                self.core_ids.insert(conn, core);
                self.transport_ids.insert(core, conn);
            }
            TransportEvent::Connected { conn, .. } => {
                if let Some(conn) = self.core_ids.get(&conn) {
                    self.proxy.handle_connected(now, *conn);
                }
            }
            TransportEvent::Ping { flow: Flow::Tcp(conn) }
            | TransportEvent::Pong { flow: Flow::Tcp(conn) } => {
                if let Some(conn) = self.core_ids.get(&conn) {
                    self.proxy.handle_received(now, *conn);
                }
            }
            TransportEvent::Closed { conn, cause } => {
                if let Some(core) = self.core_ids.remove(&conn) {
                    tracing::debug!(?core, ?cause, "core connection closed");
                    self.transport_ids.remove(&core);
                    self.proxy.handle_closed(now, core);
                }
            }
            TransportEvent::Message { .. }
            | TransportEvent::Ping { .. }
            | TransportEvent::Pong { .. }
            | TransportEvent::Returned { .. } => {}
        }
        self.drain();
    }

    fn edge_event(&mut self, event: TransportEvent) {
        let now = self.look();
        match event {
            TransportEvent::Message { flow: Flow::Udp { socket, peer }, bytes } => {
                self.proxy.handle_message(now, Hop::Udp { socket, peer }, bytes);
            }
            TransportEvent::Message { flow: Flow::Tcp(conn), bytes } => {
                if let Some(peer) = self.edge_peers.get(&conn) {
                    self.proxy.handle_message(now, Hop::Tcp(*peer), bytes);
                }
            }
            TransportEvent::Connected { conn, peer, listener: Some(_), .. } => {
                self.edge_ids.insert(peer, conn);
                self.edge_peers.insert(conn, peer);
            }
            TransportEvent::Closed { conn, .. } => {
                if let Some(peer) = self.edge_peers.remove(&conn)
                    && self.edge_ids.get(&peer) == Some(&conn)
                {
                    self.edge_ids.remove(&peer);
                    self.proxy.handle_edge_closed(now, peer);
                }
            }
            TransportEvent::Connected { .. }
            | TransportEvent::Ping { .. }
            | TransportEvent::Pong { .. }
            | TransportEvent::Returned { .. } => {}
        }
        self.drain();
    }

    fn store_event(&mut self, now: Instant, event: StoreEvent) {
        match &event {
            StoreEvent::Behind(reason) => {
                tracing::warn!(%reason, "the location database cannot be read for changes")
            }
            StoreEvent::Reloading => {
                tracing::warn!(
                    "changes of the location database were missed; everything is read again"
                )
            }
            StoreEvent::Recovered => {
                tracing::info!("changes of the location database are read again")
            }
            StoreEvent::Loaded => {
                let stats = self.proxy.replica_stats();
                tracing::info!(
                    contacts = stats.contacts,
                    bytes = stats.bytes,
                    "location database loaded"
                );
                if self.proxy.users() == Some(0) {
                    tracing::warn!(
                        "passwords are required, but no user of this realm has one: see `dialtone user`"
                    );
                }
            }
            StoreEvent::Answer { .. } | StoreEvent::Changes(_) | StoreEvent::Credentials(_) => {}
        }
        self.proxy.handle_store(now, event);
        self.tell_of_lacking();
        self.drain();
    }

    /// An operator who imports hashes of one kind only finds out here what phones get to see of it.
    fn tell_of_lacking(&mut self) {
        if !self.proxy.is_loaded() {
            return;
        }
        let lacking = self.proxy.lacking();
        let kinds: Vec<_> =
            lacking.iter().map(|lacking| (lacking.algorithm, lacking.offered)).collect();
        if kinds == self.lacking {
            return;
        }
        for Lacking { algorithm, users, offered } in lacking {
            let algorithm = algorithm.as_str();
            if offered {
                tracing::warn!(
                    users,
                    algorithm,
                    "users without a hash of this algorithm cannot log in by a phone that chooses it; it is offered since \
                     there is none that all users have a hash of: see `dialtone user list`"
                );
            } else {
                tracing::warn!(
                    users,
                    algorithm,
                    "this algorithm is offered to nobody while there are users without a hash of it: see `dialtone user list`"
                );
            }
        }
        if kinds.is_empty() {
            tracing::info!("all users have a hash of every algorithm: all are offered");
        }
        self.lacking = kinds;
    }

    fn relay_event(&mut self, event: RelayEvent) {
        let now = self.look();
        match event {
            RelayEvent::Datagram { from, bytes } => self.proxy.handle_relay(now, from, &bytes),
            RelayEvent::Unreachable { relay } => self.proxy.handle_relay_unreachable(now, relay),
        }
        self.drain();
    }

    fn relays_changed(&mut self, now: Instant, relays: Option<&mut Pool>) {
        let Some(relays) = relays else { return };
        let view = relays.view.borrow_and_update().clone();
        self.knows_relays |= view.freshness != Freshness::Unknown;
        self.proxy.set_relays(now, view);
        self.drain();
    }

    fn conferences_changed(&mut self, now: Instant, conferences: Option<&mut Pool>) {
        let Some(conferences) = conferences else { return };
        let view = conferences.view.borrow_and_update().clone();
        if view.freshness == Freshness::Unknown {
            return;
        }
        self.knows_conferences = true;
        self.proxy.set_conferences(now, view);
        self.drain();
    }

    fn gateways_changed(&mut self, now: Instant, gateways: Option<&mut Pool>) {
        let Some(gateways) = gateways else { return };
        let view = gateways.view.borrow_and_update().clone();
        if view.freshness == Freshness::Unknown {
            return;
        }
        self.knows_gateways = true;
        let members: Vec<Member> = view
            .members
            .iter()
            .filter_map(|member| Some(Member { element: member.pe_id.0, address: member.addr()? }))
            .collect();
        self.proxy.set_gateways(now, &members);
        self.drain();
    }

    /// The process stood still: what waits in its connections is stale, and the other ends have given them up.
    fn thaw(&mut self, now: Instant) {
        tracing::warn!(
            connections = self.core_ids.len(),
            "this process stood still; closing core connections"
        );
        self.proxy.handle_standstill(now);
        let mut accepted: Vec<(TransportId, ConnId)> = self
            .core_ids
            .iter()
            .filter(|(_, core)| core.is_accepted())
            .map(|(conn, core)| (*conn, *core))
            .collect();
        accepted.sort();
        for (conn, core) in accepted {
            self.core_ids.remove(&conn);
            self.transport_ids.remove(&core);
            self.core.close(conn, false);
            self.proxy.handle_closed(now, core);
        }
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            // What a process was about to write when it was stopped is as stale as what waits for it.
            let now = self.look();
            let Some(output) = self.proxy.poll() else { return };
            match output {
                Output::Close { conn } => {
                    if let Some(transport) = self.transport_ids.remove(&conn) {
                        self.core_ids.remove(&transport);
                        self.core.close(transport, false);
                    }
                }
                Output::Dial { conn, address } => {
                    let transport = self.core.connect(Some(self.core_address.ip()), address);
                    self.core_ids.insert(transport, conn);
                    self.transport_ids.insert(conn, transport);
                }
                Output::Report { element } => {
                    tracing::info!(
                        element = format_args!("{element:#010x}"),
                        "gateway does not answer"
                    );
                    if let Some((user, handle)) = &self.user {
                        user.report_unreachable(handle, PeId(element));
                    }
                }
                Output::Trust { element } => {
                    if let Some((user, handle)) = &self.user {
                        user.trust(handle, PeId(element));
                    }
                }
                Output::ReportConference { element } => {
                    tracing::info!(
                        element = format_args!("{element:#010x}"),
                        "conference server does not answer"
                    );
                    if let Some((user, handle)) = &self.conference_user {
                        user.report_unreachable(handle, PeId(element));
                    }
                }
                Output::TrustConference { element } => {
                    if let Some((user, handle)) = &self.conference_user {
                        user.trust(handle, PeId(element));
                    }
                }
                Output::Relay { to, bytes } => self.relays.send(now, to, &bytes),
                Output::ReportRelay { element } => {
                    tracing::info!(
                        element = format_args!("{element:#010x}"),
                        "media relay does not answer"
                    );
                    if let Some((user, handle)) = &self.relay_user {
                        user.report_unreachable(handle, PeId(element));
                    }
                }
                Output::TrustRelay { element } => {
                    if let Some((user, handle)) = &self.relay_user {
                        user.trust(handle, PeId(element));
                    }
                }
                Output::Send { to, bytes } => self.send_edge(to, bytes),
                Output::Store { ticket, request } => {
                    if let Err(error) = self.store.submit(ticket, request) {
                        let answer = Answer::Failed(error.to_string().into());
                        self.proxy.handle_store(now, StoreEvent::Answer { ticket, answer });
                    }
                }
                Output::Write { conn, bytes } => {
                    if let Some(transport) = self.transport_ids.get(&conn) {
                        // A failure is followed by an event.
                        let _ = self.core.send(*transport, bytes);
                    }
                }
            }
        }
    }

    fn send_edge(&mut self, to: Hop, bytes: Bytes) {
        match to {
            Hop::Udp { peer, .. } => {
                let sent = self
                    .edge_udp
                    .as_ref()
                    .map_or(Err(io::ErrorKind::NotConnected.into()), |udp| udp.send(peer, &bytes));
                if let Err(error) = sent {
                    // Timers decide, as for any datagram that is lost.
                    tracing::debug!(%peer, %error, "datagram not sent");
                }
            }
            Hop::Tcp(peer) => {
                let tcp = &self.edge_tcp;
                let conn = *self.edge_ids.entry(peer).or_insert_with(|| {
                    let conn = tcp.connect(None, peer);
                    self.edge_peers.insert(conn, peer);
                    conn
                });
                let _ = tcp.send(conn, bytes);
            }
            Hop::Core(_) | Hop::Element(_) | Hop::Focus(_) => {}
        }
    }

    fn export(&mut self) {
        let stats = self.proxy.stats();
        let sizes = self.proxy.sizes();
        for (name, value, former) in [
            ("dialtone_sip_proxy_registers_total", stats.registers, self.exported.registers),
            ("dialtone_sip_proxy_forwarded_total", stats.forwarded, self.exported.forwarded),
            ("dialtone_sip_proxy_responses_total", stats.responses, self.exported.responses),
            ("dialtone_sip_proxy_refused_total", stats.refused, self.exported.refused),
            (
                "dialtone_sip_proxy_store_timeouts_total",
                stats.store_timeouts,
                self.exported.store_timeouts,
            ),
            ("dialtone_sip_proxy_lookups_total", stats.lookups, self.exported.lookups),
            (
                "dialtone_sip_proxy_flow_failures_total",
                stats.flow_failures,
                self.exported.flow_failures,
            ),
            ("dialtone_sip_proxy_dropped_total", stats.dropped, self.exported.dropped),
            ("dialtone_sip_proxy_clock_jumps_total", stats.clock_jumps, self.exported.clock_jumps),
        ] {
            metrics::counter!(name).increment(value.saturating_sub(former));
        }
        for (name, value) in [
            ("dialtone_sip_proxy_contexts", sizes.contexts),
            ("dialtone_sip_proxy_client_transactions", sizes.clients),
            ("dialtone_sip_proxy_server_transactions", sizes.servers),
            ("dialtone_sip_proxy_relay_questions", sizes.questions),
            ("dialtone_sip_proxy_core_connections", self.core_ids.len()),
            ("dialtone_sip_proxy_phone_connections", self.edge_ids.len()),
        ] {
            metrics::gauge!(name).set(value as f64);
        }
        for (listener, counters) in
            [("core", self.core.counters()), ("edge", self.edge_tcp.counters())]
        {
            for (what, value) in counters.iter() {
                metrics::counter!("dialtone_sip_transport_total", "listener" => listener, "what" => what)
                    .absolute(value);
            }
        }
        let media = self.proxy.media_stats();
        for (what, value) in [
            ("offer", media.offers),
            ("answer", media.answers),
            ("delete", media.deletes),
            ("timeout", media.timeouts),
            ("error", media.errors),
            ("direct", media.direct),
            ("refused", media.refused),
            ("silenced", media.silenced),
            ("sealed", media.sealed),
        ] {
            metrics::counter!("dialtone_sip_proxy_media_total", "what" => what).absolute(value);
        }
        let rooms = self.proxy.conference_stats();
        for (what, value) in [
            ("request", rooms.requests),
            ("claimed", rooms.claimed),
            ("moved", rooms.moved),
            ("renewed", rooms.renewed),
            ("remembered", rooms.remembered),
            ("no-element", rooms.no_element),
            ("no-store", rooms.no_store),
            ("too-many", rooms.too_many),
            ("failed", rooms.failed),
        ] {
            metrics::counter!("dialtone_sip_proxy_conference_total", "what" => what)
                .absolute(value);
        }
        let auth = self.proxy.auth_stats();
        if auth.limited > self.limited {
            let requests = auth.limited - self.limited;
            tracing::warn!(
                requests,
                "refused unread: too many wrong passwords for a user or from an address"
            );
            self.limited = auth.limited;
        }
        for (result, value) in [
            ("challenged", auth.challenged),
            ("accepted-md5", auth.md5),
            ("accepted-sha-256", auth.sha256),
            ("wrong", auth.wrong),
            ("mismatched", auth.mismatched),
            ("stale", auth.stale),
            ("replayed", auth.replayed),
            ("limited", auth.limited),
        ] {
            metrics::counter!("dialtone_sip_proxy_authentication_total", "result" => result)
                .absolute(value);
        }
        if let Some(users) = self.proxy.users() {
            metrics::gauge!("dialtone_sip_proxy_users").set(users as f64);
        }
        if let Some(udp) = &self.edge_udp {
            metrics::counter!("dialtone_sip_transport_total", "listener" => "edge", "what" => "dropped")
                .absolute(udp.dropped());
        }
        self.exported = stats;
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the core gets its time from")]
fn clock() -> Instant {
    Instant::now()
}

/// For how long the machine has slept since it was booted: the steady clock stands still meanwhile.
fn slept() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    // In this order a pause between the two can only make it less.
    let boot = read(ClockId::CLOCK_BOOTTIME);
    boot.saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the driver is where the core gets its time from")]
pub(crate) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
