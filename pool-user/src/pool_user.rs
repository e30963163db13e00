//! The pool user for code on a runtime: views through watch channels, selection, reports.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dialtone_asap_client::{AgentError, CommandSender, Facade};
use dialtone_handlespace::Handle;
use dialtone_wire::PeId;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info};

use crate::core::{Command, Event, Users};
use crate::error::{ResolveError, SelectError};
use crate::select::{Choice, Selector};
use crate::view::{Freshness, Member, View};

#[derive(Debug)]
struct Watched {
    view: watch::Sender<Arc<View>>,
    selector: Selector,
}

/// Shared between the handles and the agent's task, locked for single lookups and selections only.
#[derive(Debug, Default)]
struct Shared {
    pools: BTreeMap<Handle, Watched>,
    questions: BTreeMap<u64, oneshot::Sender<Result<Arc<View>, ResolveError>>>,
}

/// Uses pools; clones share the same agent and views.
#[derive(Clone, Debug)]
pub struct PoolUser {
    commands: CommandSender<Command>,
    shared: Arc<Mutex<Shared>>,
    numbers: Arc<AtomicU64>,
    suspicion: Duration,
}

impl PoolUser {
    /// A view of the pool that is kept up to date, by subscription, as long as the agent runs. The first value says
    /// [`Freshness::Unknown`] until a registrar has answered; when all registrars are gone the last one stays. The
    /// channel is closed when the agent has ended.
    ///
    /// # Errors
    /// When the agent has stopped or is overloaded.
    pub fn watch(&self, handle: &Handle) -> Result<watch::Receiver<Arc<View>>, AgentError> {
        let mut shared = self.lock();
        if let Some(watched) = shared.pools.get(handle) {
            return Ok(watched.view.subscribe());
        }
        self.commands.send(Command::Watch(handle.clone()))?;
        let unknown = Arc::new(View::unknown(handle.clone()));
        let selector = Selector::new(Arc::clone(&unknown), self.suspicion, fastrand::Rng::new());
        let (view, receiver) = watch::channel(unknown);
        shared.pools.insert(handle.clone(), Watched { view, selector });
        Ok(receiver)
    }

    /// Asks once. A watched pool is answered from its view while that is fresh.
    ///
    /// # Errors
    /// See [`ResolveError`]; at the latest after [`crate::UsersConfig::resolve_limit`].
    pub async fn resolve(&self, handle: &Handle) -> Result<Arc<View>, ResolveError> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.lock().questions.insert(id, answer);
        if let Err(error) = self.commands.send(Command::Resolve { id, handle: handle.clone() }) {
            self.lock().questions.remove(&id);
            return Err(error.into());
        }
        answered.await.unwrap_or(Err(ResolveError::Agent))
    }

    /// The element of a pool to use now; the pool is watched from the first call on, and has no element until a
    /// registrar has answered. Elements in `tried` are left out.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub fn select(
        &self,
        handle: &Handle,
        choice: Choice<'_>,
        tried: &[PeId],
    ) -> Result<Member, SelectError> {
        self.watch(handle).map_err(|_| SelectError::Empty)?;
        let mut shared = self.lock();
        let watched = shared.pools.get_mut(handle).ok_or(SelectError::Empty)?;
        watched.selector.select(clock(), choice, tried)
    }

    /// The element did not answer: it is passed over for a while, and the registrar is told, once per failure. Only
    /// for elements to which something was sent (RFC 5352 section 3.5).
    pub fn report_unreachable(&self, handle: &Handle, pe_id: PeId) {
        if let Some(watched) = self.lock().pools.get_mut(handle) {
            watched.selector.suspect(clock(), pe_id);
        }
        // The core coalesces. A report that finds no room is lost: there are many others under way then.
        let _ = self.commands.send(Command::ReportUnreachable { handle: handle.clone(), pe_id });
    }

    /// The element answers again: no suspicion any more, and its next failure is reported anew.
    pub fn trust(&self, handle: &Handle, pe_id: PeId) {
        if let Some(watched) = self.lock().pools.get_mut(handle) {
            watched.selector.trust(pe_id);
        }
        let _ = self.commands.send(Command::Trust { handle: handle.clone(), pe_id });
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

/// Brings views and answers to their readers.
#[derive(Debug)]
pub struct Sink(Arc<Mutex<Shared>>);

impl Drop for Sink {
    /// The agent has ended: nobody shall wait for ever.
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.questions.clear();
        shared.pools.clear();
    }
}

impl Facade for Users {
    type Handle = PoolUser;
    type Sink = Sink;

    fn facade(&self, commands: CommandSender<Command>) -> (PoolUser, Sink) {
        let shared = Arc::<Mutex<Shared>>::default();
        let user = PoolUser {
            commands,
            shared: Arc::clone(&shared),
            numbers: Arc::default(),
            suspicion: self.config().suspicion,
        };
        (user, Sink(shared))
    }

    fn deliver(sink: &mut Sink, event: Event) {
        let mut shared = lock(&sink.0);
        match event {
            Event::View(view) => {
                let Some(watched) = shared.pools.get_mut(&view.handle) else { return };
                let former = watched.selector.view();
                if former.version != view.version {
                    info!(pool = %view.handle, members = view.members.len(), version = view.version, "pool changed");
                } else if matches!(view.freshness, Freshness::Stale { .. }) && !former.is_stale() {
                    info!(pool = %view.handle, members = view.members.len(), "pool view is stale");
                } else {
                    debug!(pool = %view.handle, "pool view updated");
                }
                watched.selector.update(Arc::clone(&view));
                watched.view.send_replace(view);
            }
            Event::Resolved { id, outcome } => {
                if let Some(answer) = shared.questions.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = answer.send(outcome);
                }
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Changes under the lock are single inserts and removes: a panic elsewhere leaves it whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the interface for code on a runtime is where cores get their time from"
)]
fn clock() -> Instant {
    Instant::now()
}
