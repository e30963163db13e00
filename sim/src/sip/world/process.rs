//! Processes as their drivers run them: what they are told, what they want, and how they are killed and stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dialtone_conference::core as focus;
use dialtone_location::{Request, StoreEvent, Ticket};
use dialtone_sip::{Frame, StreamFramer};
use dialtone_sip_gateway::core::{Gateway, Input, Listener, Output, Pool, Settings, pool_view};
use dialtone_sip_pool::hops::{ConnId, Member, PING};
use dialtone_sip_pool::token::EdgeTransport;
use dialtone_sip_proxy::core as proxy;

use super::links::Arrival;
use super::{
    Blow, Event, FIRST_FOCUS, GATEWAYS, Inflight, PROCESSES, World, brief, core_address,
    edge_address, name,
};

/// A process that stood still for longer closes its core connections, as the drivers do.
const FROZEN: Duration = Duration::from_secs(2);
/// Longest message on a stream.
const LIMIT: usize = 1 << 17;
/// The start of the virtual clock in milliseconds since 1970.
pub(super) const EPOCH_MS: u64 = 1_700_000_000_000;

/// What a process is told; waits while it is frozen.
#[derive(Debug)]
pub(super) enum Input_ {
    Core {
        conn: ConnId,
        what: Arrival,
    },
    Datagram {
        remote: SocketAddr,
        bytes: Bytes,
    },
    EdgeMessage {
        conn: u64,
        bytes: Bytes,
    },
    /// Without bytes: nobody listens there.
    Relay {
        from: SocketAddr,
        bytes: Option<Bytes>,
    },
    Store(StoreEvent),
    View,
}

#[derive(Debug)]
pub(super) enum Core {
    Focus(Box<focus::Focus>),
    Gateway(Box<Gateway>),
    Proxy(Box<proxy::Proxy>),
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(super) core: Core,
    pub(crate) alive: bool,
    /// Its listener is open: a proxy knows the database first.
    pub(super) open: bool,
    pub(super) life: u32,
    pub(super) frozen: Option<Duration>,
    pub(super) backlog: Vec<Input_>,
    pub(super) framers: BTreeMap<ConnId, StreamFramer>,
    /// Connection to link and side.
    pub(super) links: BTreeMap<ConnId, (u64, usize)>,
    pub(super) wake: Option<Duration>,
    pub(super) visible: bool,
    /// Messages sent and requests to the database, while they are counted.
    pub(crate) outputs: usize,
    pub(super) spins: u32,
    /// How far its system's clock is wrong.
    pub(super) clock_ms: i64,
    /// When the last thing that it has written is carried out.
    pub(super) last_write: Duration,
}

impl World {
    pub(super) fn core(&mut self, process: usize) -> Core {
        let rng = self.rng.fork();
        if process < GATEWAYS {
            let advertised = edge_address(process);
            let listeners = vec![
                Listener { transport: EdgeTransport::Udp, advertised },
                Listener { transport: EdgeTransport::Tcp, advertised },
            ];
            let settings = Settings::new(100 + process as u32, listeners, core_address(process));
            return Core::Gateway(Box::new(Gateway::new(settings, self.keys.clone(), rng)));
        }
        let address = core_address(process);
        if process >= FIRST_FOCUS {
            return super::focuses::core(address, rng);
        }
        let clock_ms = self.procs.get(process).map_or(0, |known| known.clock_ms);
        let system_ms = self.wall_ms().saturating_add_signed(clock_ms);
        let mut settings = proxy::Settings::new(address, (self.base + self.now, system_ms));
        settings.store_timeout = self.store_timeout;
        settings.element = 100 + process as u32;
        settings.media = (!self.relays.is_empty()).then(proxy::MediaSettings::default);
        settings.conference = self.rooms.then(proxy::ConferenceSettings::default);
        if self.bugs.patient_lookups {
            settings.lookup_timeout = Duration::from_secs(3);
        }
        let names = proxy::Names::new(&["dialtone.test".to_owned()], &[address]);
        let now = self.base + self.now;
        Core::Proxy(Box::new(proxy::Proxy::new(now, settings, names, self.keys.clone(), rng)))
    }

    pub(super) fn give(&mut self, process: usize, input: Input_) {
        let taker = &mut self.procs[process];
        if !taker.alive {
            return;
        }
        if taker.frozen.is_some() {
            taker.backlog.push(input);
            return;
        }
        self.take(process, input);
        self.after(process);
    }

    fn take(&mut self, process: usize, input: Input_) {
        match input {
            Input_::Core { conn, what } => self.take_core(process, conn, what),
            Input_::Datagram { remote, bytes } => {
                self.gateway(process, Input::Datagram { listener: 0, remote, bytes });
            }
            Input_::EdgeMessage { conn, bytes } => {
                self.gateway(process, Input::EdgeMessage { conn, bytes });
            }
            Input_::Relay { from, bytes } => {
                let now = self.base + self.now;
                if let Core::Proxy(proxy) = &mut self.procs[process].core {
                    match bytes {
                        Some(bytes) => proxy.handle_relay(now, from, &bytes),
                        None => proxy.handle_relay_unreachable(now, from),
                    }
                }
            }
            Input_::Store(event) => {
                let now = self.base + self.now;
                self.procs[process].open |= event == StoreEvent::Loaded;
                if let Core::Proxy(proxy) = &mut self.procs[process].core {
                    proxy.handle_store(now, event);
                }
            }
            Input_::View => self.view(process),
        }
        self.drain(process);
    }

    fn take_core(&mut self, process: usize, conn: ConnId, what: Arrival) {
        match what {
            Arrival::Opened if conn.is_accepted() => {
                self.procs[process].framers.insert(conn, StreamFramer::accepting(LIMIT));
                if process < GATEWAYS {
                    self.gateway(process, Input::CoreAccepted { conn });
                } else if let Core::Focus(focus) = &mut self.procs[process].core {
                    focus.handle_connected(conn.0);
                }
            }
            Arrival::Opened => {
                self.procs[process].framers.insert(conn, StreamFramer::dialled(LIMIT));
                self.core_event(process, conn, CoreEvent::Connected);
            }
            Arrival::Closed | Arrival::Refused => {
                self.procs[process].framers.remove(&conn);
                self.procs[process].links.remove(&conn);
                self.core_event(process, conn, CoreEvent::Closed);
            }
            Arrival::Bytes(bytes) => {
                let Some(framer) = self.procs[process].framers.get_mut(&conn) else { return };
                framer.push(&bytes);
                // A process that is killed or stopped in the middle goes on with the rest later, or never.
                while self.procs[process].alive {
                    if self.procs[process].frozen.is_some() {
                        let rest = Input_::Core { conn, what: Arrival::Bytes(Vec::new()) };
                        self.procs[process].backlog.insert(0, rest);
                        return;
                    }
                    let Some(framer) = self.procs[process].framers.get_mut(&conn) else { return };
                    match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => {
                            self.core_event(process, conn, CoreEvent::Message(bytes));
                        }
                        Ok(Some(Frame::Ping)) => {
                            self.write(process, conn, Bytes::from_static(b"\r\n"));
                            self.core_event(process, conn, CoreEvent::Activity);
                        }
                        Ok(Some(Frame::Pong)) => {
                            self.core_event(process, conn, CoreEvent::Activity)
                        }
                        Ok(None) => break,
                        Err(error) => {
                            self.wrong("framing", format!("{}: {error}", name(process)));
                            break;
                        }
                    }
                    self.drain(process);
                }
            }
        }
    }

    fn core_event(&mut self, process: usize, conn: ConnId, event: CoreEvent) {
        let now = self.base + self.now;
        let hop = if process >= FIRST_FOCUS {
            self.focus_hop(process, conn, matches!(event, CoreEvent::Closed))
        } else {
            None
        };
        match &mut self.procs[process].core {
            Core::Focus(focus) => match (event, hop) {
                (CoreEvent::Closed, Some(hop)) => focus.handle_closed(now, hop),
                (CoreEvent::Message(bytes), Some(hop)) => focus.handle_message(now, hop, bytes),
                _ => {}
            },
            Core::Gateway(gateway) => gateway.handle(
                now,
                match event {
                    CoreEvent::Activity => Input::CoreActivity { conn },
                    CoreEvent::Closed => Input::CoreClosed { conn },
                    CoreEvent::Connected => Input::CoreConnected { conn },
                    CoreEvent::Message(bytes) => Input::CoreMessage { conn, bytes },
                },
            ),
            Core::Proxy(proxy) => match event {
                CoreEvent::Activity => proxy.handle_received(now, conn),
                CoreEvent::Closed => proxy.handle_closed(now, conn),
                CoreEvent::Connected => proxy.handle_connected(now, conn),
                CoreEvent::Message(bytes) => proxy.handle_core_message(now, conn, bytes),
            },
        }
    }

    pub(super) fn gateway(&mut self, process: usize, input: Input) {
        let now = self.base + self.now;
        if let Core::Gateway(gateway) = &mut self.procs[process].core {
            gateway.handle(now, input);
        }
    }

    pub(super) fn timeout(&mut self, process: usize) {
        let now = self.base + self.now;
        match &mut self.procs[process].core {
            Core::Focus(focus) => focus.handle_timeout(now),
            Core::Gateway(gateway) => gateway.handle(now, Input::Timeout),
            Core::Proxy(proxy) => proxy.handle_timeout(now),
        }
        self.drain(process);
        let due = self.deadline(process);
        let process_ = &mut self.procs[process];
        process_.spins =
            if due.is_some_and(|due| due <= self.now) { process_.spins + 1 } else { 0 };
        if process_.spins > 100 {
            process_.spins = 0;
            self.wrong("deadline", format!("{} has a deadline in the past", name(process)));
            return;
        }
        self.after(process);
    }

    fn deadline(&self, process: usize) -> Option<Duration> {
        let deadline = match &self.procs[process].core {
            Core::Focus(focus) => focus.next_deadline(),
            Core::Gateway(gateway) => gateway.next_deadline(),
            Core::Proxy(proxy) => proxy.next_deadline(),
        };
        deadline.map(|at| at.saturating_duration_since(self.base))
    }

    /// Sees to it that a process wakes up at its deadline.
    fn after(&mut self, process: usize) {
        if !self.procs[process].alive || self.procs[process].frozen.is_some() {
            return;
        }
        let Some(at) = self.deadline(process) else { return };
        let at = at.max(self.now);
        if self.procs[process].wake.is_none_or(|wake| wake > at || wake < self.now) {
            self.procs[process].wake = Some(at);
            let life = self.procs[process].life;
            self.push(at, Event::Wake { process, life });
        }
    }

    /// Does what a process wants, one output after the other, until it is killed or stopped.
    fn drain(&mut self, process: usize) {
        while self.procs[process].alive && self.procs[process].frozen.is_none() {
            let output = match &mut self.procs[process].core {
                Core::Focus(focus) => focus.poll().map(Out::from),
                Core::Gateway(gateway) => gateway.poll().map(Out::from),
                Core::Proxy(proxy) => proxy.poll().map(Out::from),
            };
            let Some(output) = output else { return };
            let is_message = output.is_message();
            self.output(process, output);
            if is_message && self.counting {
                self.procs[process].outputs += 1;
                self.strike(process);
            }
        }
    }

    fn strike(&mut self, process: usize) {
        let outputs = self.procs[process].outputs;
        let due = |blow: &mut Blow| blow.sender == process && blow.output == outputs;
        if let Some(blow) = self.blow.take_if(due) {
            self.act(blow.act);
        }
    }

    fn output(&mut self, process: usize, output: Out) {
        let who = name(process);
        match output {
            Out::Close(conn) => {
                self.procs[process].framers.remove(&conn);
                if let Some((link, side)) = self.procs[process].links.remove(&conn) {
                    self.deliver(link, 1 - side, Arrival::Closed);
                }
            }
            Out::Dial(conn, address) => self.dial(process, conn, address),
            Out::Datagram(remote, bytes) => {
                let phone =
                    self.phones.iter().position(|phone| phone.local == remote && !phone.tcp);
                let Some(phone) = phone else {
                    return self.wrong("stray", format!("{who} sends to {remote}"));
                };
                for at in self.edge_arrivals(phone) {
                    self.push(at, Event::Phone { phone, bytes: bytes.clone() });
                }
            }
            Out::EdgeWrite(conn, bytes) => {
                let phone = self.edges.iter().position(|edge| *edge == conn);
                let Some(phone) = phone.filter(|phone| self.phones[*phone].gateway == process)
                else {
                    return self.wrong("stray", format!("{who} writes to connection {conn}"));
                };
                let at = self.now + Duration::from_millis(1);
                self.push(at, Event::Phone { phone, bytes });
            }
            Out::Media(command) => self.focus_media(process, &command),
            Out::Peer(address, bytes) => {
                let conn = self.focus_conn(process, address);
                self.output(process, Out::Write(conn, bytes));
            }
            Out::Relay(to, bytes) => self.tell_relay(process, to, bytes),
            Out::Store(ticket, request) => self.ask(process, ticket, request),
            Out::Write(conn, bytes) => {
                self.note(&who, 4, &bytes, || format!("{:x} > {}", conn.0, brief(&bytes)));
                let bytes = self.tampered(process, conn, bytes);
                self.write(process, conn, bytes);
            }
            Out::Other(what) => self.note(&who, 5, what.as_bytes(), || what.clone()),
        }
    }

    pub(super) fn kill(&mut self, process: usize, inflight: Inflight, restart: Option<Duration>) {
        if !self.procs[process].alive {
            return;
        }
        let who = name(process);
        self.note(&who, 6, &[], || format!("killed, {inflight:?}, restart {restart:?}"));
        let victim = &mut self.procs[process];
        victim.alive = false;
        victim.frozen = None;
        victim.life += 1;
        victim.backlog.clear();
        victim.framers.clear();
        victim.wake = None;
        self.focus_conns.retain(|(other, _), _| *other != process);
        let victim = &mut self.procs[process];
        let life = victim.life;
        for (_, (link, side)) in std::mem::take(&mut self.procs[process].links) {
            self.cut(link, 1 - side, inflight);
            self.deliver(link, 1 - side, Arrival::Closed);
        }
        if process < GATEWAYS {
            self.gateway_killed = true;
            self.phones.iter_mut().for_each(|phone| phone.lenient = true);
            for phone in self.phones.iter_mut().filter(|phone| phone.gateway == process) {
                phone.lost = true;
                phone.connected &= !phone.tcp;
            }
        }
        let gone = self.now + Duration::from_secs(1);
        self.push(gone, Event::Visible { process, life, visible: false });
        if let Some(after) = restart {
            self.push(self.now + after, Event::Restart { process });
        }
    }

    pub(super) fn restart(&mut self, process: usize) {
        if self.procs[process].alive {
            return;
        }
        let who = name(process);
        self.note(&who, 7, &[], || "starts again".to_owned());
        let core = self.core(process);
        let starter = &mut self.procs[process];
        starter.core = core;
        starter.alive = true;
        starter.open = !(GATEWAYS..PROCESSES).contains(&process);
        starter.life += 1;
        let life = starter.life;
        if (GATEWAYS..PROCESSES).contains(&process) {
            let at = self.now + self.store.loading();
            let records = self.store.all();
            for event in [StoreEvent::Changes(records), StoreEvent::Loaded] {
                self.push(at, Event::StoreTells { process, life, event });
            }
        }
        self.give(process, Input_::View);
        let seen = self.now + self.store.loading() + Duration::from_millis(300);
        self.push(seen, Event::Visible { process, life, visible: true });
    }

    pub(super) fn freeze(&mut self, process: usize, lasts: Duration) {
        let now = self.now;
        let victim = &mut self.procs[process];
        if !victim.alive || victim.frozen.is_some() {
            return;
        }
        victim.frozen = Some(now);
        let life = victim.life;
        let who = name(process);
        self.note(&who, 8, &[], || format!("stopped for {lasts:?}"));
        self.push(now + lasts, Event::Thaw { process });
        let gone = now + Duration::from_millis(2500);
        self.push(gone, Event::Visible { process, life, visible: false });
    }

    pub(super) fn thaw(&mut self, process: usize) {
        let Some(since) = self.procs[process].frozen.take() else { return };
        let who = name(process);
        self.note(&who, 9, &[], || "goes on".to_owned());
        if self.now - since > FROZEN && !self.bugs.stale_input {
            // As the drivers do: what waits in the connections is stale, and so is what was about to be written.
            if process < GATEWAYS {
                self.gateway(process, Input::Frozen);
            } else {
                let now = self.base + self.now;
                if let Core::Proxy(proxy) = &mut self.procs[process].core {
                    proxy.handle_standstill(now);
                }
                let conns: Vec<ConnId> = self.procs[process].framers.keys().copied().collect();
                for conn in conns.into_iter().filter(|conn| conn.is_accepted()) {
                    self.output(process, Out::Close(conn));
                    self.core_event(process, conn, CoreEvent::Closed);
                }
            }
        }
        self.drain(process);
        let (first, rest): (Vec<Input_>, Vec<Input_>) =
            std::mem::take(&mut self.procs[process].backlog)
                .into_iter()
                .partition(|input| matches!(input, Input_::Store(_)));
        for input in first.into_iter().chain(rest) {
            self.give(process, input);
        }
        if self.deadline(process).is_some_and(|at| at <= self.now)
            && self.procs[process].frozen.is_none()
        {
            self.timeout(process);
        }
        self.after(process);
        let life = self.procs[process].life;
        let seen = self.now + Duration::from_millis(300);
        self.push(seen, Event::Visible { process, life, visible: true });
    }

    /// Tells everybody who is in the pools.
    pub(super) fn pools(&mut self) {
        self.version += 1;
        for process in 0..PROCESSES {
            self.give(process, Input_::View);
        }
    }

    fn view(&mut self, process: usize) {
        let members = |from: usize, to: usize, procs: &[Process]| -> Vec<Member> {
            (from..to)
                .filter(|other| procs[*other].visible)
                .map(|other| Member { element: 100 + other as u32, address: core_address(other) })
                .collect()
        };
        let gateways = members(0, GATEWAYS, &self.procs);
        let proxies = members(GATEWAYS, PROCESSES, &self.procs);
        let now = self.base + self.now;
        let version = self.version;
        let relays = self.relay_view(process);
        let conferences = self.rooms.then(|| self.focus_view());
        match &mut self.procs[process].core {
            Core::Focus(_) => {}
            Core::Gateway(gateway) => {
                for (pool, members) in [(Pool::Gateway, gateways), (Pool::Proxy, proxies)] {
                    let view = pool_view(pool, version, &members);
                    gateway.handle(now, Input::View { pool, view });
                }
            }
            Core::Proxy(proxy) => {
                proxy.set_gateways(now, &gateways);
                proxy.set_relays(now, relays);
                if let Some(view) = conferences {
                    proxy.set_conferences(now, view);
                }
            }
        }
    }
}

enum CoreEvent {
    Activity,
    Closed,
    Connected,
    Message(Bytes),
}

/// What a process wants, whichever it is.
enum Out {
    Close(ConnId),
    Datagram(SocketAddr, Bytes),
    Dial(ConnId, SocketAddr),
    EdgeWrite(u64, Bytes),
    Media(focus::MediaCommand),
    Other(String),
    /// Over a connection with this address, dialled if there is none.
    Peer(SocketAddr, Bytes),
    Relay(SocketAddr, Bytes),
    Store(Ticket, Request),
    Write(ConnId, Bytes),
}

impl Out {
    /// Pings aside.
    fn is_message(&self) -> bool {
        match self {
            Self::Close(_) | Self::Dial(..) | Self::Media(_) | Self::Other(_) => false,
            Self::Datagram(_, bytes)
            | Self::EdgeWrite(_, bytes)
            | Self::Peer(_, bytes)
            | Self::Write(_, bytes) => bytes != PING,
            Self::Relay(..) => true,
            Self::Store(_, request) => !matches!(request, Request::Expire { .. }),
        }
    }
}

impl From<focus::Output> for Out {
    fn from(output: focus::Output) -> Self {
        match output {
            focus::Output::Media(command) => Self::Media(command),
            focus::Output::Send { to: focus::Hop::Accepted(conn), bytes } => {
                Self::Write(ConnId(conn), bytes)
            }
            focus::Output::Send { to: focus::Hop::Tcp(peer), bytes } => Self::Peer(peer, bytes),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl From<Output> for Out {
    fn from(output: Output) -> Self {
        match output {
            Output::CoreClose { conn } => Self::Close(conn),
            Output::CoreDial { conn, address } => Self::Dial(conn, address),
            Output::CoreWrite { conn, bytes } => Self::Write(conn, bytes),
            Output::Datagram { remote, bytes, .. } => Self::Datagram(remote, bytes),
            Output::EdgeWrite { conn, bytes } => Self::EdgeWrite(conn, bytes),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl From<proxy::Output> for Out {
    fn from(output: proxy::Output) -> Self {
        match output {
            proxy::Output::Close { conn } => Self::Close(conn),
            proxy::Output::Dial { conn, address } => Self::Dial(conn, address),
            proxy::Output::Relay { to, bytes } => Self::Relay(to, bytes),
            proxy::Output::Store { ticket, request } => Self::Store(ticket, request),
            proxy::Output::Write { conn, bytes } => Self::Write(conn, bytes),
            other => Self::Other(format!("{other:?}")),
        }
    }
}
