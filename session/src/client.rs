//! The user's side for code on a runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dialtone_handlespace::Handle;
use dialtone_pool_user::PoolUser;
use dialtone_transport::SessionSocket;
use dialtone_wire::ASAP_PPID;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::driver::{Counters, Driver, Gate, Input, Inputs, Outlet, Signal};
use crate::options::SendOptions;
use crate::user::{Command, Event, SessionId, UserConfig, Users};

/// Commands that wait for the sessions' task at most; who sends more waits.
pub(crate) const COMMAND_QUEUE: usize = 1024;

/// Why sessions cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The sessions' task, or the agent below it, has ended.
    #[error("the sessions have ended")]
    Stopped,
    /// RFC 5352 section 5: the data channel must not use ASAP's payload protocol identifier.
    #[error("payload protocol identifier {ASAP_PPID} is that of the control channel")]
    ControlPpid,
    /// The endpoint accepts no sessions.
    #[error("the endpoint has no port for sessions")]
    NoPort,
}

/// How handles reach the sessions' task.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) commands: mpsc::Sender<Input>,
    pub(crate) signals: mpsc::UnboundedSender<Signal>,
    pub(crate) counters: watch::Receiver<Counters>,
}

impl Link {
    pub(crate) fn new() -> (Self, Inputs, watch::Sender<Counters>) {
        let (commands, commanded) = mpsc::channel(COMMAND_QUEUE);
        let (signals, signalled) = mpsc::unbounded_channel();
        let (count, counters) = watch::channel(Counters::default());
        let inputs = Inputs { commands: commanded, signals: signalled };
        (Self { commands, signals, counters }, inputs, count)
    }

    pub(crate) async fn send(&self, input: Input) -> Result<(), SessionError> {
        self.commands.send(input).await.map_err(|_| SessionError::Stopped)
    }
}

/// Opens sessions with pools; clones share the same task.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) link: Link,
    pub(crate) sessions: Arc<AtomicU64>,
}

impl Client {
    /// Sessions over an agent's endpoint ([`dialtone_asap_client::Agent::take_sessions`]), with pools that `pools`
    /// resolves.
    ///
    /// # Errors
    /// [`SessionError::ControlPpid`].
    pub fn start(
        socket: SessionSocket,
        pools: PoolUser,
        config: UserConfig,
    ) -> Result<Self, SessionError> {
        check(&config)?;
        let (link, inputs, counters) = Link::new();
        let driver = Driver::<()> {
            socket,
            pools,
            users: Users::new(config, None, fastrand::Rng::new()),
            serving: None,
            outlets: BTreeMap::new(),
            watched: BTreeSet::new(),
            tasks: JoinSet::new(),
            counters,
        };
        tokio::spawn(driver.run(inputs, None));
        Ok(Self { link, sessions: Arc::default() })
    }

    /// A session with a pool. It looks for an element at once, and for the next one whenever that fails, until it is
    /// dropped.
    ///
    /// # Errors
    /// [`SessionError::Stopped`].
    pub async fn open(&self, handle: &Handle) -> Result<Session, SessionError> {
        let id = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let (events, receiver) = mpsc::unbounded_channel();
        let gate = Arc::<Gate>::default();
        let outlet = Outlet { events, gate: Arc::clone(&gate) };
        self.link.send(Input::Open { session: id, handle: handle.clone(), outlet }).await?;
        let link = self.link.clone();
        Ok(Session { id, link, events: receiver, gate, numbers: AtomicU64::new(0) })
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> Counters {
        *self.link.counters.borrow()
    }
}

pub(crate) fn check(config: &UserConfig) -> Result<(), SessionError> {
    if config.ppid == ASAP_PPID { Err(SessionError::ControlPpid) } else { Ok(()) }
}

/// A session with a pool, over one element after the other. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    link: Link,
    events: mpsc::UnboundedReceiver<Event>,
    gate: Arc<Gate>,
    numbers: AtomicU64,
}

impl Session {
    /// Sends a message (RFC 5352 section 6.5). Its number comes back in [`Event::Unsent`] if it cannot be delivered; it
    /// may wait for an element meanwhile.
    ///
    /// # Errors
    /// [`SessionError::Stopped`].
    pub async fn send(
        &self,
        payload: impl Into<Vec<u8>>,
        options: SendOptions,
    ) -> Result<u64, SessionError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (session, payload) = (self.id, payload.into());
        let command = Command::Send { session, number, payload, options };
        self.link.send(Input::User(command)).await?;
        Ok(number)
    }

    /// The next event; `None` after [`Event::Closed`] or when the sessions' task has ended. Cancel safe. While nobody
    /// asks, the element has to wait with its messages.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        self.gate.leave();
        if self.gate.opens() {
            let _ = self.link.signals.send(Signal::Release(self.id));
        }
        Some(event)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.link.signals.send(Signal::Close(self.id));
    }
}
