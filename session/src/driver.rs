//! The driver: runs both cores over the sessions of an endpoint.
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | sessions (one per [`crate::Client`] or [`crate::Service`]) | the cores, the [`SessionSocket`] | all handles are
//! dropped, [`crate::Service::stop`], or the agent ends |
//! | one for each pool of a session | a view of the pool | with the sessions |
//! | one for each pool that a card named, shortly | one question | with its answer |
//!
//! The sessions' task waits on the socket, on commands (bounded queue), on signals, on views and on the cores' next
//! deadline; every wait is cancel safe. It never waits for an application: what an application does not take is counted
//! by a [`Gate`], and beyond a limit its associations are put on hold, so that their peers have to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dialtone_asap_client::AgentError;
use dialtone_handlespace::Handle;
use dialtone_pool_user::{PoolUser, View};
use dialtone_transport::model::AssocId;
use dialtone_transport::{SessionCommand, SessionEvent, SessionSocket};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::element::{self, Element};
use crate::user::{self, SessionId, Users};

/// Events that wait for an application until its peers have to wait, and until they go on.
const HIGH: usize = 64;
const LOW: usize = 16;
/// With so many waiting no new session is accepted.
const FULL: usize = 4096;
/// Between two tries to have a pool watched by an agent that is busy.
const WATCH_RETRY: Duration = Duration::from_millis(100);

/// What handles ask for.
#[derive(Debug)]
pub(crate) enum Input {
    Open { session: SessionId, handle: Handle, outlet: Outlet<user::Event> },
    User(user::Command),
    Element(element::Command),
}

/// What must neither wait nor be lost; few by nature.
#[derive(Debug)]
pub(crate) enum Signal {
    /// The application has given the session up.
    Close(SessionId),
    /// It takes messages again.
    Release(SessionId),
    ReleaseAll,
    Stop,
}

/// What has been counted on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub user: user::Counters,
    pub element: element::Counters,
}

/// How far an application is behind.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    waiting: AtomicUsize,
    shut: AtomicBool,
}

impl Gate {
    /// One more waits; `true`: now the peers have to wait.
    fn enter(&self) -> bool {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        waiting >= HIGH && !self.shut.swap(true, Ordering::SeqCst)
    }

    /// One was taken.
    pub(crate) fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// `true`, once: the peers may go on. Asked by whoever takes, and by who has shut the gate, since the last one may
    /// have been taken in between.
    pub(crate) fn opens(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) <= LOW && self.shut.swap(false, Ordering::SeqCst)
    }
}

/// The driver's end of a queue of events.
#[derive(Debug)]
pub(crate) struct Outlet<E> {
    pub(crate) events: mpsc::UnboundedSender<E>,
    pub(crate) gate: Arc<Gate>,
}

/// The element's side, if this process has one.
pub(crate) struct Serving<S> {
    pub(crate) element: Element<S>,
    pub(crate) outlet: Outlet<element::Event<S>>,
    /// Whose messages wait for the application.
    pub(crate) held: BTreeSet<AssocId>,
}

pub(crate) struct Driver<S> {
    pub(crate) socket: SessionSocket,
    pub(crate) pools: PoolUser,
    pub(crate) users: Users,
    pub(crate) serving: Option<Serving<S>>,
    pub(crate) outlets: BTreeMap<SessionId, Outlet<user::Event>>,
    pub(crate) watched: BTreeSet<Handle>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) counters: watch::Sender<Counters>,
}

/// What the task waits for.
pub(crate) struct Inputs {
    pub(crate) commands: mpsc::Receiver<Input>,
    pub(crate) signals: mpsc::UnboundedReceiver<Signal>,
}

impl<S: DeserializeOwned + Send + 'static> Driver<S> {
    /// `own`: the pool whose members stand on this process's cards.
    pub(crate) async fn run(mut self, mut inputs: Inputs, own: Option<Handle>) {
        let (views, mut viewed) = mpsc::channel(64);
        if let Some(own) = own {
            self.watch(own, &views);
        }
        let mut stopping = false;
        loop {
            self.drain(&views);
            if stopping && self.serving.as_ref().is_none_or(|serving| serving.element.is_empty()) {
                return;
            }
            let deadline = self.next_deadline();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.socket.recv() => match event {
                    Some(event) => self.handle_net(event),
                    // The agent has ended, and the associations with it.
                    None => return,
                },
                input = inputs.commands.recv(), if !stopping => match input {
                    Some(input) => self.handle_input(input),
                    None => stopping = self.stop(),
                },
                Some(signal) = inputs.signals.recv() => match signal {
                    Signal::Stop => stopping = self.stop(),
                    signal => self.handle_signal(signal),
                },
                Some(view) = viewed.recv() => {
                    let now = clock();
                    if let Some(serving) = &mut self.serving {
                        serving.element.handle_view(now, Arc::clone(&view));
                    }
                    self.users.handle_view(now, view);
                }
                Some(_) = self.tasks.join_next() => {}
                () = timer => {
                    let now = clock();
                    self.users.handle_timeout(now);
                    if let Some(serving) = &mut self.serving {
                        serving.element.handle_timeout(now);
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let element = self.serving.as_ref().and_then(|serving| serving.element.next_deadline());
        [self.users.next_deadline(), element].into_iter().flatten().min()
    }

    fn handle_net(&mut self, event: SessionEvent) {
        let assoc = event.assoc();
        match &mut self.serving {
            _ if assoc.is_dialled() => self.users.handle_net(clock(), event),
            Some(serving) => {
                if matches!(event, SessionEvent::Up { .. }) && serving.outlet.gate.is_full() {
                    return self.socket.execute(SessionCommand::Abort { assoc });
                }
                serving.element.handle_net(unix(), event);
            }
            // The endpoint has a port for sessions, but this process serves nobody.
            None if matches!(event, SessionEvent::Up { .. }) => {
                self.socket.execute(SessionCommand::Abort { assoc });
            }
            None => {}
        }
    }

    fn handle_input(&mut self, input: Input) {
        match input {
            Input::Open { session, handle, outlet } => {
                self.outlets.insert(session, outlet);
                self.users.handle_command(clock(), user::Command::Open { session, handle });
            }
            Input::User(command) => self.users.handle_command(clock(), command),
            Input::Element(command) => {
                if let Some(serving) = &mut self.serving {
                    serving.element.handle_command(command);
                }
            }
        }
    }

    fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Close(session) => {
                self.users.handle_command(clock(), user::Command::Close { session });
            }
            Signal::Release(session) => {
                self.users.handle_command(clock(), user::Command::Hold { session, on: false });
            }
            Signal::ReleaseAll => {
                if let Some(serving) = &mut self.serving {
                    serving.release();
                }
            }
            Signal::Stop => {}
        }
    }

    /// Ends all sessions in order; elements of their users are to be found elsewhere.
    fn stop(&mut self) -> bool {
        let sessions: Vec<SessionId> = self.outlets.keys().copied().collect();
        for session in sessions {
            self.users.handle_command(clock(), user::Command::Close { session });
        }
        if let Some(serving) = &mut self.serving {
            serving.element.close_all();
        }
        true
    }

    /// Does what the cores want.
    fn drain(&mut self, views: &mpsc::Sender<Arc<View>>) {
        loop {
            if let Some(serving) = &mut self.serving
                && let Some(output) = serving.element.poll()
            {
                match output {
                    element::Output::Net(command) => self.socket.execute(command),
                    element::Output::Meet(handle) => self.users.meet(clock(), handle),
                    element::Output::Event(event) => serving.deliver(event),
                }
            } else if let Some(output) = self.users.poll() {
                match output {
                    user::Output::Net(command) => self.socket.execute(command),
                    user::Output::Watch(handle) => self.watch(handle, views),
                    user::Output::Resolve(handle) => {
                        let pools = self.pools.clone();
                        self.tasks.spawn(async move {
                            let found = pools.resolve(&handle).await;
                            debug!(pool = %handle, known = found.is_ok(), "pool of a business card");
                        });
                    }
                    user::Output::Unreachable { handle, element } => {
                        self.pools.report_unreachable(&handle, element);
                    }
                    user::Output::Reachable { handle, element } => {
                        self.pools.trust(&handle, element);
                    }
                    user::Output::Event { session, event } => self.deliver(session, event),
                }
            } else {
                break;
            }
        }
        let element = self.serving.as_ref().map(|serving| serving.element.counters());
        let now = Counters { user: self.users.counters(), element: element.unwrap_or_default() };
        self.counters.send_if_modified(|former| std::mem::replace(former, now) != now);
    }

    fn watch(&mut self, handle: Handle, views: &mpsc::Sender<Arc<View>>) {
        if self.watched.insert(handle.clone()) {
            self.tasks.spawn(follow(self.pools.clone(), handle, views.clone()));
        }
    }

    fn deliver(&mut self, session: SessionId, event: user::Event) {
        let closed = event == user::Event::Closed;
        if let user::Event::FailedOver { from, to, cookie } = &event {
            info!(session = session.0, %from, %to, cookie, "session failed over");
        }
        if let Some(outlet) = self.outlets.get(&session) {
            let shut = outlet.gate.enter();
            // Whoever does not listen any more has signalled that already.
            let _ = outlet.events.send(event);
            if shut {
                let on = !outlet.gate.opens();
                self.users.handle_command(clock(), user::Command::Hold { session, on });
            }
        }
        if closed {
            self.outlets.remove(&session);
        }
    }
}

impl<S: DeserializeOwned> Serving<S> {
    fn deliver(&mut self, event: element::Event<S>) {
        let from = match &event {
            element::Event::Refused { session, refusal } => {
                debug!(?session, %refusal, "cookie refused");
                Some(*session)
            }
            // Whatever a user can cause as often as it likes.
            element::Event::Received { session, .. } | element::Event::Met { session, .. } => {
                Some(*session)
            }
            element::Event::Closed { session, .. } => {
                self.held.remove(session);
                None
            }
            element::Event::Opened { .. } | element::Event::Resumed { .. } => None,
        };
        let shut = self.outlet.gate.enter();
        let _ = self.outlet.events.send(event);
        if (shut || self.outlet.gate.is_shut())
            && let Some(session) = from
            && self.held.insert(session)
        {
            self.element.handle_command(element::Command::Hold { session, on: true });
        }
        if shut && self.outlet.gate.opens() {
            self.release();
        }
    }

    fn release(&mut self) {
        while let Some(session) = self.held.pop_first() {
            self.element.handle_command(element::Command::Hold { session, on: false });
        }
    }
}

impl Gate {
    fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) >= FULL
    }
}

/// Hands every view of a pool to the sessions.
async fn follow(pools: PoolUser, handle: Handle, views: mpsc::Sender<Arc<View>>) {
    let mut view = loop {
        match pools.watch(&handle) {
            Ok(view) => break view,
            Err(AgentError::Busy) => tokio::time::sleep(WATCH_RETRY).await,
            Err(_) => return,
        }
    };
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        if views.send(now).await.is_err() || view.changed().await.is_err() {
            return;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the cores get their time from")]
fn clock() -> Instant {
    Instant::now()
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the driver is where the cores get their time from")]
pub(crate) fn unix() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use dialtone_keys::{Generation, Keys};
    use dialtone_transport::session::session_remote;
    use dialtone_wire::asap::Message;
    use dialtone_wire::{PeId, Policy, Transport};

    use super::*;
    use crate::{Cookies, Own};

    #[test]
    fn a_user_that_floods_its_element_is_put_on_hold_whatever_it_sends() {
        let pool: Handle = "echo".parse().unwrap();
        let keys = Keys::new(&Generation { id: 1, secret: [7; 32] }, None);
        let cookies = Cookies::<u32>::new(keys, pool.clone(), Duration::from_secs(1));
        let transport = Transport::tcp(([127, 0, 0, 1], 5).into());
        let own = Own::new(pool, PeId(1), transport, Policy::RoundRobin);
        let card = own.card(None, b"user").unwrap();
        let echo = Message::CookieEcho(&[1]).encode().unwrap();
        let data = b"data".to_vec();
        let assoc = AssocId::accepted_session(1);
        for flood in [
            SessionEvent::Control { assoc, payload: card },
            SessionEvent::Control { assoc, payload: echo },
            SessionEvent::Data { assoc, ppid: 0, payload: data },
        ] {
            let (events, mut taken) = mpsc::unbounded_channel();
            let outlet = Outlet { events, gate: Arc::default() };
            let element = Element::new(own.clone(), cookies.clone());
            let mut serving = Serving { element, outlet, held: BTreeSet::new() };
            let remote = session_remote([127, 0, 0, 9].into(), 5, 9899);
            serving.element.handle_net(0, SessionEvent::Up { assoc, remote });
            let mut held = None;
            for n in 0..2 * HIGH {
                serving.element.handle_net(0, flood.clone());
                while let Some(output) = serving.element.poll() {
                    match output {
                        element::Output::Event(event) => serving.deliver(event),
                        element::Output::Net(SessionCommand::Hold { .. }) => held = Some(n),
                        _ => (),
                    }
                }
            }
            assert!(held.is_some_and(|n| n < HIGH), "{flood:?}");
            while let Ok(event) = taken.try_recv() {
                serving.outlet.gate.leave();
                drop(event);
            }
            assert!(serving.outlet.gate.opens());
            serving.release();
            let released = SessionCommand::Release { assoc };
            assert_eq!(serving.element.poll(), Some(element::Output::Net(released)));
        }
    }

    #[test]
    fn a_gate_shuts_once_and_opens_once() {
        let gate = Gate::default();
        for n in 1..HIGH {
            assert!(!gate.enter(), "{n}");
        }
        assert!(gate.enter());
        assert!(!gate.enter() && !gate.opens());
        let mut opened = 0;
        for left in (0..=HIGH).rev() {
            gate.leave();
            if gate.opens() {
                opened += 1;
                assert_eq!(left, LOW);
            }
        }
        assert_eq!(opened, 1);
        assert!(!gate.is_shut());
    }
}
