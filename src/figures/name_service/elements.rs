//! The elements' side: as many as are wanted, on some associations of one endpoint.
//!
//! A task registers them and answers their keep-alives until it is dropped.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use dialtone_transport::{
    AssocId, Endpoint, EndpointConfig, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::{PeId, Policy, PoolElement, PoolHandle, ServerId, Transport, asap::Message};
use tokio::{
    sync::{
        mpsc::{self, Receiver},
        oneshot,
    },
    task::JoinHandle,
};

use super::{super::Error, ANSWER};
use crate::launcher::clock;

/// Events that wait for the task: all elements may be asked at once.
const QUEUE: usize = 65_536;

/// How elements are spread: number `n` is on association `n % associations`, in pool `n / members`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// What the names of its pools begin with.
    pub(super) pools: &'static str,
    pub(super) associations: u32,
    /// Elements of each pool.
    pub(super) members: u32,
}

impl Spread {
    /// The name of a pool.
    pub(super) fn name(self, pool: u32) -> String {
        format!("{}-{pool}", self.pools)
    }
}

/// What is to be registered next: it ends with the number or with the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) elements: u32,
    pub(super) duration: Duration,
    /// Registrations of each association that wait for their answers at a time.
    pub(super) outstanding: usize,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Registered {
    /// How long each waited for its answer, in order.
    pub(super) waits: Vec<Duration>,
    pub(super) time: Duration,
}

pub(super) struct Elements {
    jobs: mpsc::Sender<(Wanted, oneshot::Sender<Registered>)>,
    task: JoinHandle<()>,
}

impl Elements {
    /// Connects; none is registered yet.
    pub(super) async fn connect(
        local: SocketAddr,
        registrar: Remote,
        spread: Spread,
    ) -> Result<Self, Error> {
        let associations = spread.associations as usize;
        let config = EndpointConfig {
            command_queue: QUEUE,
            event_queue: QUEUE,
            max_associations: associations,
            max_associations_per_address: associations,
            ..EndpointConfig::element(local)
        };
        let (endpoint, mut events) = Endpoint::bind(config).await?;
        for n in 0..spread.associations {
            connect(&endpoint, &mut events, AssocId::dialled(n.into()), registrar).await?;
        }
        let (jobs, wanted) = mpsc::channel(1);
        let line = |_| Line { sent: 0, wanted: 0, waiting: VecDeque::new() };
        let lines = (0..associations).map(line).collect();
        let task = Task { spread, lines, waits: Vec::new(), endpoint };
        Ok(Self { jobs, task: tokio::spawn(task.run(events, wanted)) })
    }

    /// Registers more.
    pub(super) async fn register(&self, wanted: Wanted) -> Result<Registered, Error> {
        let (reply, registered) = oneshot::channel();
        self.jobs.send((wanted, reply)).await.map_err(|_| Error::NoAnswer)?;
        registered.await.map_err(|_| Error::NoAnswer)
    }
}

impl Drop for Elements {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Dials and waits until it has succeeded.
pub(super) async fn connect(
    endpoint: &Endpoint,
    events: &mut Receiver<NetEvent>,
    assoc: AssocId,
    remote: Remote,
) -> Result<(), Error> {
    endpoint.execute(NetCommand::Connect { assoc, protocol: Protocol::Asap, remote });
    loop {
        match tokio::time::timeout(ANSWER, events.recv()).await {
            Ok(Some(NetEvent::Up { assoc: up, .. })) if up == assoc => return Ok(()),
            Ok(Some(NetEvent::Down { .. }) | None) | Err(_) => return Err(Error::NoAnswer),
            Ok(Some(_)) => {}
        }
    }
}

/// An association.
struct Line {
    /// How many elements have been registered on it, or are being, and how many are to be.
    sent: u32,
    wanted: u32,
    /// When what waits for an answer was sent.
    waiting: VecDeque<Instant>,
}

struct Task {
    spread: Spread,
    lines: Vec<Line>,
    waits: Vec<Duration>,
    endpoint: Endpoint,
}

impl Task {
    /// Ends when the registrar refuses one, does not answer, or ends an association.
    async fn run(
        mut self,
        mut events: Receiver<NetEvent>,
        mut wanted: Receiver<(Wanted, oneshot::Sender<Registered>)>,
    ) {
        loop {
            let (wanted, reply) = tokio::select! {
                event = events.recv() => match event.and_then(|event| self.take(event)) {
                    Some(_) => continue,
                    None => return,
                },
                job = wanted.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
            };
            let from = clock();
            if self.register(wanted, &mut events).await.is_none() {
                return;
            }
            let waits = std::mem::take(&mut self.waits);
            let time = clock().saturating_duration_since(from);
            let _ = reply.send(Registered { waits, time });
        }
    }

    async fn register(&mut self, wanted: Wanted, events: &mut Receiver<NetEvent>) -> Option<()> {
        let until = clock() + wanted.duration;
        let (all, lines) = (wanted.elements, self.spread.associations);
        for (n, line) in (0..).zip(&mut self.lines) {
            line.wanted = line.sent.saturating_add(all / lines + u32::from(n < all % lines));
        }
        for n in 0..self.lines.len() {
            self.fill(n, wanted.outstanding);
        }
        let mut limit = clock() + ANSWER;
        while self.lines.iter().any(|line| !line.waiting.is_empty()) {
            let event = tokio::time::timeout_at(limit.into(), events.recv()).await.ok()??;
            if let Some(n) = self.take(event)? {
                let now = clock();
                limit = now + ANSWER;
                if now < until {
                    self.fill(n, wanted.outstanding);
                }
            }
        }
        Some(())
    }

    fn fill(&mut self, n: usize, outstanding: usize) {
        while self.lines[n].sent < self.lines[n].wanted && self.lines[n].waiting.len() < outstanding
        {
            self.send_registration(n);
        }
    }

    fn send_registration(&mut self, n: usize) {
        let line = &mut self.lines[n];
        let element = line.sent * self.spread.associations + n as u32;
        line.sent += 1;
        line.waiting.push_back(clock());
        let pool = self.spread.name(element / self.spread.members);
        let element = PoolElement {
            pe_id: PeId(element + 1),
            home: ServerId::NONE,
            life: 3600,
            transport: Transport::tcp(self.endpoint.local_addr()),
            policy: Policy::RoundRobin,
            asap_transport: None,
            encaps_port: None,
        };
        self.send(n, &Message::Registration { handle: PoolHandle(pool.as_bytes()), element });
    }

    fn send(&self, n: usize, message: &Message<'_>) {
        if let Ok(payload) = message.encode() {
            let assoc = AssocId::dialled(n as u64);
            self.endpoint.execute(NetCommand::Send { assoc, payload });
        }
    }

    /// The association whose registration was answered, if it was that. `None`: it is all over.
    fn take(&mut self, event: NetEvent) -> Option<Option<usize>> {
        let (assoc, payload) = match event {
            NetEvent::Message { assoc, payload } => (assoc, payload),
            NetEvent::Down { .. } => return None,
            _ => return Some(None),
        };
        // The one that the registrar may have dialled is not used.
        let dialled = |n: &usize| AssocId::dialled(*n as u64) == assoc;
        let Some(n) = (0..self.lines.len()).find(dialled) else { return Some(None) };
        let Ok(decoded) = Message::decode(&payload) else { return Some(None) };
        match decoded.message {
            Message::EndpointKeepAlive { handle, .. } => {
                for pe_id in self.asked(handle.0, n) {
                    self.send(n, &Message::EndpointKeepAliveAck { handle, pe_id });
                }
                Some(None)
            }
            Message::RegistrationResponse { reject: false, .. } => {
                let sent = self.lines[n].waiting.pop_front()?;
                self.waits.push(clock().saturating_duration_since(sent));
                Some(Some(n))
            }
            Message::RegistrationResponse { .. } => None,
            _ => Some(None),
        }
    }

    /// Keep-alives name the pool only: all of its elements on the association are meant.
    fn asked(&self, handle: &[u8], n: usize) -> impl Iterator<Item = PeId> + use<> {
        let Spread { associations, members, .. } = self.spread;
        let sent = self.lines[n].sent;
        let name = std::str::from_utf8(handle).ok().and_then(|name| name.rsplit_once('-'));
        let pool = name.and_then(|(_, pool)| pool.parse::<u32>().ok()).unwrap_or(u32::MAX);
        let first = pool.saturating_mul(members);
        (first..first.saturating_add(members))
            .filter(move |e| e % associations == n as u32 && e / associations < sent)
            .map(|element| PeId(element + 1))
    }
}
