//! The task that owns the core and the endpoint, and what others see of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_daemon::CancellationToken;
use dialtone_handlespace::{Cursor, Handle};
use dialtone_transport::multicast::{Announcer, Listener};
use dialtone_transport::{Endpoint, NetEvent};
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::{Event, Output, Page, PoolSnapshot, Registrar, Snapshot};
use crate::metrics::Metrics;

/// Smallest distance of two published snapshots.
const PUBLISH: Duration = Duration::from_millis(50);
/// Metrics that are copied from totals.
const TOTALS: Duration = Duration::from_secs(1);
/// Events taken in one go before commands leave and timers are looked at.
const BATCH: usize = 256;
/// Lines about elements in a second.
const LINES: usize = 200;
/// Elements in one answer to a reader: it takes about a millisecond.
const PAGE: usize = 1000;
/// Readers that wait for an answer; others wait for their turn.
const READERS: usize = 4;

/// What others see of a registrar that runs.
#[derive(Clone, Debug)]
pub struct View {
    /// Always a recent state; [`Snapshot::in_service`] says when the start-up is over.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    questions: mpsc::Sender<Question>,
}

/// The driver's end of a [`View`].
#[derive(Debug)]
pub struct Viewed {
    snapshots: watch::Sender<Arc<Snapshot>>,
    questions: mpsc::Receiver<Question>,
}

#[derive(Debug)]
enum Question {
    Page { after: Option<Cursor>, reply: oneshot::Sender<Page> },
    Pool { handle: Handle, reply: oneshot::Sender<Option<PoolSnapshot>> },
}

impl View {
    /// A view of a core that is to be run.
    pub fn new(core: &Registrar, now: Instant) -> (Viewed, Self) {
        let (sender, snapshots) = watch::channel(Arc::new(core.snapshot(now)));
        let (asking, questions) = mpsc::channel(READERS);
        (Viewed { snapshots: sender, questions }, Self { snapshots, questions: asking })
    }

    /// All pools by handle. A large handlespace is read in parts: what changes meanwhile is in it or not. Nothing after
    /// the registrar's end.
    pub async fn pools(&self) -> Vec<PoolSnapshot> {
        let mut pools: Vec<PoolSnapshot> = Vec::new();
        let mut after = None;
        loop {
            let (reply, page) = oneshot::channel();
            let _ = self.questions.send(Question::Page { after, reply }).await;
            let Ok(page) = page.await else { return Vec::new() };
            for pool in page.pools {
                match pools.last_mut() {
                    // A part may end within a pool.
                    Some(last) if last.handle == pool.handle => last.elements.extend(pool.elements),
                    _ => pools.push(pool),
                }
            }
            after = page.next;
            if after.is_none() {
                return pools;
            }
        }
    }

    /// One pool.
    pub async fn pool(&self, handle: Handle) -> Option<PoolSnapshot> {
        let (reply, pool) = oneshot::channel();
        let _ = self.questions.send(Question::Pool { handle, reply }).await;
        pool.await.ok()?
    }
}

impl Question {
    /// Whoever has gone meanwhile needs no answer.
    fn answer(self, core: &Registrar) {
        match self {
            Self::Page { after, reply } => drop(reply.send(core.page(after.as_ref(), PAGE))),
            Self::Pool { handle, reply } => drop(reply.send(core.pool(&handle))),
        }
    }
}

/// The multicast group in which registrars find each other ([`crate::core::Config::multicast`]).
#[derive(Debug)]
pub struct Group {
    announcer: Announcer,
    listener: Listener,
    failing: bool,
}

impl Group {
    /// Joins the group on the interface that has this address.
    ///
    /// # Errors
    /// There is no such interface, or the system refuses it.
    pub fn join(group: SocketAddr, interface: IpAddr) -> io::Result<Self> {
        let announcer = Announcer::bind(group, interface, HOPS)?;
        let listener = Listener::join(group, interface)?;
        Ok(Self { announcer, listener, failing: false })
    }

    fn say(&mut self, presence: &[u8]) {
        let sent = self.announcer.try_send(presence);
        if let Err(error) = &sent
            && !self.failing
        {
            tracing::warn!(%error, "presence not sent to the multicast group; it is tried again");
        }
        self.failing = sent.is_err();
    }
}

/// Multicast stays on the local network.
pub(crate) const HOPS: u32 = 1;

async fn hear(group: &mut Option<Group>) -> (&[u8], SocketAddr) {
    match group {
        Some(group) => group.listener.receive().await,
        None => std::future::pending().await,
    }
}

/// Runs a registrar until `shutdown`, then closes the endpoint in order.
pub async fn run(
    mut core: Registrar,
    endpoint: Endpoint,
    mut events: mpsc::Receiver<NetEvent>,
    mut group: Option<Group>,
    mut viewed: Viewed,
    shutdown: CancellationToken,
) {
    let metrics = Metrics::new();
    let mut log = Log::default();
    let mut publish_at = now();
    let mut totals_at = now();
    let mut unpublished = true;
    loop {
        drain(&mut core, &endpoint, group.as_mut(), &metrics, &mut log);
        let time = now();
        if unpublished && time >= publish_at {
            let snapshot = core.snapshot(time);
            if time >= totals_at {
                metrics.totals(&core.counters(), &snapshot, &endpoint);
                totals_at = time + TOTALS;
            }
            viewed.snapshots.send_replace(Arc::new(snapshot));
            publish_at = time + PUBLISH;
            unpublished = false;
        }
        // Even a registrar at rest shows how long ago it heard of its peers.
        let publish = if unpublished { publish_at } else { publish_at.max(time + TOTALS) };
        let wake = core.next_deadline().map_or(publish, |deadline| deadline.min(publish));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => core.handle_net(now(), event),
                None => {
                    tracing::error!("the transport endpoint ended");
                    break;
                }
            },
            (presence, from) = hear(&mut group) => core.handle_presence(now(), from, presence),
            Some(question) = viewed.questions.recv() => question.answer(&core),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        // What has arrived goes before what is due: silence is judged after everything was heard.
        for _ in 0..BATCH {
            let Ok(event) = events.try_recv() else { break };
            core.handle_net(now(), event);
        }
        // Nor does a flood of messages keep readers waiting for ever.
        if let Ok(question) = viewed.questions.try_recv() {
            question.answer(&core);
        }
        let time = now();
        if core.next_deadline().is_some_and(|deadline| deadline <= time) {
            core.handle_timeout(time);
        }
        unpublished = true;
    }
    endpoint.close(true).await;
}

fn drain(
    core: &mut Registrar,
    endpoint: &Endpoint,
    mut group: Option<&mut Group>,
    metrics: &Metrics,
    log: &mut Log,
) {
    while let Some(output) = core.poll() {
        match output {
            Output::Net(command) => endpoint.execute(command),
            Output::Event(event) => {
                metrics.event(&event);
                if log.allows(&event, now()) {
                    write(&event);
                }
            }
            Output::Presence(payload) => {
                group.iter_mut().for_each(|group| group.say(&payload));
            }
        }
    }
}

/// What happens to elements is logged line by line, unless there is so much of it that it would fill the disk: anybody can
/// register, or be refused, thousands of times a second. Metrics count all of it.
#[derive(Debug, Default)]
struct Log {
    /// Since when lines are counted, how many there were, and how many were left out.
    second: Option<(Instant, usize, usize)>,
}

impl Log {
    fn allows(&mut self, event: &Event, now: Instant) -> bool {
        let of_an_element = matches!(
            event,
            Event::Registered { .. } | Event::Rejected { .. } | Event::Removed { .. }
        );
        if !of_an_element {
            return true;
        }
        let (since, lines, left_out) = self.second.get_or_insert((now, 0, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            if *left_out > 0 {
                tracing::warn!(
                    lines = *left_out,
                    "registrations, refusals and removals not logged: too many a second"
                );
            }
            (*since, *lines, *left_out) = (now, 0, 0);
        }
        let allowed = *lines < LINES;
        *if allowed { lines } else { left_out } += 1;
        allowed
    }
}

fn write(event: &Event) {
    match event {
        Event::InService { mentor } => {
            tracing::info!(mentor = mentor.map(tracing::field::display), "service begins")
        }
        Event::Registered { pool, pe, from } => {
            tracing::info!(%pool, %pe, from = from.map(tracing::field::display), "element registered");
        }
        Event::Rejected { pool, pe, reason } => {
            tracing::warn!(%pool, %pe, reason = reason.name(), "registration refused");
        }
        Event::Removed { pool, pe, reason } => {
            tracing::info!(%pool, %pe, reason = reason.name(), "element removed")
        }
        Event::PeerUp { peer } => tracing::info!(%peer, "peer is up"),
        Event::PeerDown { peer } => tracing::warn!(%peer, "peer is dead"),
        Event::TakeoverStarted { target } => tracing::info!(%target, "takeover started"),
        Event::TakeoverLost { target, to } => {
            tracing::info!(%target, to = to.map(tracing::field::display), "takeover stopped");
        }
        Event::TakeoverWon { target, elements } => {
            tracing::info!(%target, elements, "takeover won")
        }
        Event::TakenOver { target, by, elements } => {
            tracing::info!(%target, %by, elements, "taken over by a peer")
        }
        Event::ResyncStarted { peer } => tracing::debug!(%peer, "resync started"),
        Event::ResyncDone { peer, changed, removed } => {
            tracing::info!(%peer, changed, removed, "resync done")
        }
        Event::ResyncFailed { peer } => tracing::info!(%peer, "resync failed, to be tried again"),
        Event::PoolConflict { pool, winner } => {
            tracing::warn!(%pool, %winner, "two registrars created a pool with different rules");
        }
        Event::Starved { millis } => tracing::warn!(millis, "this process was not run for a while"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the core's time comes from")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use dialtone_wire::{PeId, ServerId};

    use super::*;

    #[test]
    fn a_flood_fills_no_log() {
        let (mut log, start) = (Log::default(), now());
        let pool: Handle = "echo".parse().unwrap();
        let of_element = |n| Event::Registered { pool: pool.clone(), pe: PeId(n), from: None };
        let mut written = 0;
        for n in 0..10_000 {
            let at = start + Duration::from_micros(300) * n;
            written += usize::from(log.allows(&of_element(n), at));
        }
        // 3 s.
        assert_eq!(written, 3 * LINES);
        let end = start + Duration::from_secs(3);
        assert!(log.allows(&Event::PeerDown { peer: ServerId(7) }, end), "others always");
    }
}
