//! A scripted element (or user): registers, answers keep-alives, follows H=1; or says only what a test tells it to.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_transport::{AssocId, Link, NetCommand, NetEvent, Protocol, Remote};
use dialtone_wire::asap::Message;
use dialtone_wire::{PeId, Policy, PoolElement, PoolHandle, ServerId, Transport};

use crate::world::{Name, ms, reg};

/// Not probed for so long: nobody knows me.
const FORGOTTEN: Duration = Duration::from_millis(4500);

#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) addr: SocketAddr,
    pub(crate) name: Name,
    pub(crate) policy: Policy<'static>,
    pub(crate) transport: Transport<'static>,
    pub(crate) life: i32,
    /// Behaves as an element does; else it is only a mailbox.
    auto: bool,
    pub(crate) link: Link,
    protocol: Protocol,
    registrars: Vec<u8>,
    home: Option<AssocId>,
    dialled: u64,
    dial_at: Option<Instant>,
    /// Its home is new: who claims the element has not heard of that.
    moved: bool,
    probed_at: Option<Instant>,
    pub(crate) answers_keep_alives: bool,
    /// Everything received, as sent.
    pub(crate) received: Vec<(Instant, Vec<u8>)>,
    /// Associations that are up.
    pub(crate) up: Vec<AssocId>,
    pub(crate) downs: usize,
    pub(crate) out: VecDeque<NetCommand>,
}

impl Element {
    /// An element of `pool` at 127.0.1.`id` that registers with the first of `registrars` that it reaches.
    pub(crate) fn new(pool: &str, id: u8, registrars: &[u8]) -> Self {
        let addr = SocketAddr::new(IpAddr::from([127, 0, 1, id]), 40000);
        Self {
            addr,
            name: Name(pool.to_owned(), u32::from(id)),
            policy: Policy::RoundRobin,
            transport: Transport::tcp(SocketAddr::new(addr.ip(), 5060)),
            life: 600,
            auto: true,
            link: Link::Sctp,
            protocol: Protocol::Asap,
            registrars: registrars.to_vec(),
            home: None,
            dialled: 0,
            dial_at: None,
            moved: false,
            probed_at: None,
            answers_keep_alives: true,
            received: Vec::new(),
            up: Vec::new(),
            downs: 0,
            out: VecDeque::new(),
        }
    }

    /// A mailbox connected to a registrar.
    pub(crate) fn mailbox(id: u8, registrar: u8, link: Link) -> Self {
        Self { auto: false, link, ..Self::new("none", id, &[registrar]) }
    }

    /// A mailbox that speaks ENRP.
    pub(crate) fn enrp_mailbox(id: u8, registrar: u8) -> Self {
        Self { protocol: Protocol::Enrp, ..Self::mailbox(id, registrar, Link::Sctp) }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.home.is_some_and(|home| self.up.contains(&home))
    }

    pub(crate) fn with(mut self, policy: Policy<'static>) -> Self {
        self.policy = policy;
        self
    }

    pub(crate) fn pool_element(&self) -> PoolElement<'static> {
        PoolElement {
            pe_id: PeId(self.name.1),
            home: ServerId::NONE,
            life: self.life,
            transport: self.transport.clone(),
            policy: self.policy.clone(),
            asap_transport: None,
            encaps_port: None,
        }
    }

    /// Queues a message to the home; the world has to be told to drain.
    pub(crate) fn say(&mut self, message: &Message<'_>) {
        let assoc = self.home.expect("connected");
        self.out.push_back(NetCommand::Send { assoc, payload: message.encode().unwrap() });
    }

    pub(crate) fn say_bytes(&mut self, payload: Vec<u8>) {
        let assoc = self.home.expect("connected");
        self.out.push_back(NetCommand::Send { assoc, payload });
    }

    pub(crate) fn register(&mut self) {
        let element = self.pool_element();
        let pool = self.name.0.clone();
        self.say(&Message::Registration { handle: PoolHandle(pool.as_bytes()), element });
    }

    /// Leaves its home for another registrar.
    pub(crate) fn move_to(&mut self, registrar: u8) {
        if let Some(assoc) = self.home.take() {
            self.out.push_back(NetCommand::Shutdown { assoc });
        }
        self.registrars = vec![registrar];
        self.moved = true;
        self.dial();
    }

    /// Takes the messages received so far.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.received).into_iter().map(|(_, payload)| payload).collect()
    }

    fn dial(&mut self) {
        let registrar = self.registrars[0];
        self.registrars.rotate_left(1);
        let assoc = AssocId::dialled(self.dialled);
        self.dialled += 1;
        self.home = Some(assoc);
        let (addr, sctp_port) = match (self.link, self.protocol) {
            (Link::Sctp, Protocol::Asap) => (reg(registrar), 3863),
            (Link::Sctp, Protocol::Enrp) => (reg(registrar), 9901),
            (Link::Tcp, _) => (reg(registrar), 0),
        };
        let remote = Remote { link: self.link, addr, sctp_port };
        self.out.push_back(NetCommand::Connect { assoc, protocol: self.protocol, remote });
    }

    pub(crate) fn handle_net(&mut self, now: Instant, event: NetEvent) {
        match event {
            NetEvent::Up { assoc, .. } => {
                self.up.push(assoc);
                if self.auto && self.home == Some(assoc) {
                    self.probed_at = Some(now);
                    self.register();
                }
            }
            NetEvent::Message { assoc, payload } => {
                self.received.push((now, payload.clone()));
                if self.auto {
                    self.message(now, assoc, &payload);
                }
            }
            NetEvent::Down { assoc, .. } => {
                self.up.retain(|up| *up != assoc);
                self.downs += 1;
                if self.home == Some(assoc) {
                    self.home = None;
                    self.dial_at = Some(now + ms(100));
                }
            }
            NetEvent::Moved { .. } | NetEvent::Suspect { .. } => {}
        }
    }

    fn message(&mut self, now: Instant, assoc: AssocId, payload: &[u8]) {
        let Ok(decoded) = Message::decode(payload) else { return };
        let Message::EndpointKeepAlive { home, handle, .. } = decoded.message else { return };
        if !self.answers_keep_alives || handle.0 != self.name.0.as_bytes() {
            return;
        }
        self.probed_at = Some(now);
        let ack = Message::EndpointKeepAliveAck { handle, pe_id: PeId(self.name.1) };
        self.out.push_back(NetCommand::Send { assoc, payload: ack.encode().unwrap() });
        if home && self.home != Some(assoc) && !self.moved {
            if let Some(old) = self.home.replace(assoc) {
                self.out.push_back(NetCommand::Shutdown { assoc: old });
            }
            self.dial_at = None;
            self.register();
        } else if home && self.home == Some(assoc) {
            // What it was told before may be older than what somebody else has said since.
            self.register();
        } else if self.home != Some(assoc) && self.home.is_some_and(|home| self.up.contains(&home))
        {
            // Somebody else believes to be our home: the real one tells them.
            self.register();
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.dialled == 0 || self.dial_at.is_some_and(|at| at <= now) {
            self.dial_at = None;
            self.dial();
        }
        if self.auto && self.probed_at.is_some_and(|at| now >= at + FORGOTTEN) {
            self.probed_at = Some(now);
            if self.home.is_some_and(|home| self.up.contains(&home)) {
                self.register();
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let forgotten = self.probed_at.filter(|_| self.auto).map(|at| at + FORGOTTEN);
        [self.dial_at, forgotten].into_iter().flatten().min()
    }
}
