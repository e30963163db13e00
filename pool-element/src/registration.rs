//! What a server holds: a handle to register elements with, and one [`Registration`] per element.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dialtone_asap_client::{AgentError, CommandSender, Facade};
use dialtone_wire::Policy;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::ElementConfig;
use crate::core::{Command, ElementKey, Elements, State, StateChange};
use crate::error::RegisterError;

/// Where the states of elements go: written by the agent's task, added to by [`PoolElement::register`].
type Observers = Arc<Mutex<BTreeMap<ElementKey, watch::Sender<State>>>>;

/// Registers elements; clones share the same agent.
#[derive(Clone, Debug)]
pub struct PoolElement {
    commands: CommandSender<Command>,
    observers: Observers,
}

impl PoolElement {
    /// Puts an element into its pool and keeps it there. Registering the same handle and identifier again changes the
    /// registration; at most one [`Registration`] of an element is to be held, since dropping any takes it out.
    ///
    /// # Errors
    /// When the agent has stopped or is overloaded; nothing is registered then.
    pub fn register(&self, config: ElementConfig) -> Result<Registration, AgentError> {
        let key = ElementKey { handle: config.handle.clone(), pe_id: config.pe_id };
        let (observer, state) = watch::channel(State::Searching);
        let former = lock(&self.observers).insert(key.clone(), observer);
        if let Err(error) = self.commands.send(Command::Register(config)) {
            let mut observers = lock(&self.observers);
            match former {
                Some(former) => observers.insert(key, former),
                None => observers.remove(&key),
            };
            return Err(error);
        }
        Ok(Registration { key, commands: self.commands.clone(), state, given_back: false })
    }
}

/// One element in its pool. Dropping it de-registers the element without waiting for the registrar.
#[derive(Debug)]
pub struct Registration {
    key: ElementKey,
    commands: CommandSender<Command>,
    state: watch::Receiver<State>,
    given_back: bool,
}

impl Registration {
    pub fn key(&self) -> &ElementKey {
        &self.key
    }

    /// The state, now and whenever it changes; closed when the agent has ended or the element was de-registered.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Tells the pool new policy values, for example a load; sent at most once per
    /// [`crate::ElementsConfig::update_interval`], the latest values count.
    ///
    /// # Errors
    /// When the agent has stopped or is overloaded.
    pub fn update_policy(&self, policy: Policy<'static>) -> Result<(), AgentError> {
        self.commands.send(Command::UpdatePolicy { key: self.key.clone(), policy })
    }

    /// Waits until the element is in its pool.
    ///
    /// # Errors
    /// [`RegisterError::Rejected`] and others when it will not get there by waiting.
    pub async fn registered(&mut self) -> Result<(), RegisterError> {
        let settled = self
            .state
            .wait_for(|state| !matches!(state, State::Searching | State::Registering))
            .await;
        match settled.as_deref() {
            Ok(State::Rejected { causes }) => {
                Err(RegisterError::Rejected { causes: causes.clone() })
            }
            Ok(State::GaveUp) => Err(RegisterError::GaveUp),
            Ok(State::Deregistered { .. }) => Err(RegisterError::Deregistered),
            Ok(_) => Ok(()),
            Err(_) => Err(AgentError::Stopped.into()),
        }
    }

    /// Takes the element out of its pool; `true` when a registrar confirmed it. Bounded by
    /// [`crate::ElementsConfig::deregister_limit`].
    pub async fn deregister(mut self) -> bool {
        self.given_back = true;
        if self.commands.send(Command::Deregister(self.key.clone())).is_err() {
            return false;
        }
        let gone = self.state.wait_for(|state| matches!(state, State::Deregistered { .. })).await;
        matches!(gone.as_deref(), Ok(State::Deregistered { confirmed: true }))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.given_back {
            let _ = self.commands.send(Command::Deregister(self.key.clone()));
        }
    }
}

/// Brings states to their registrations.
#[derive(Debug)]
pub struct Sink(Observers);

impl Drop for Sink {
    /// The agent has ended: nobody shall wait for ever.
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

impl Facade for Elements {
    type Handle = PoolElement;
    type Sink = Sink;

    fn facade(&self, commands: CommandSender<Command>) -> (PoolElement, Sink) {
        let observers = Observers::default();
        (PoolElement { commands, observers: Arc::clone(&observers) }, Sink(observers))
    }

    fn deliver(sink: &mut Sink, event: StateChange) {
        let StateChange { key, state } = event;
        let (pool, pe_id) = (&key.handle, key.pe_id);
        match &state {
            State::Searching => info!(%pool, %pe_id, "looking for a registrar"),
            State::Registering => {}
            State::Registered { home } => info!(%pool, %pe_id, registrar = %home, "registered"),
            State::Rejected { causes } => warn!(%pool, %pe_id, ?causes, "registration rejected"),
            State::GaveUp => warn!(%pool, %pe_id, "no registrar answered"),
            State::Deregistered { confirmed } => info!(%pool, %pe_id, confirmed, "de-registered"),
        }
        let mut observers = lock(&sink.0);
        if matches!(state, State::Deregistered { .. }) {
            if let Some(observer) = observers.remove(&key) {
                observer.send_replace(state);
            }
        } else if let Some(observer) = observers.get(&key) {
            observer.send_replace(state);
        }
    }
}

fn lock(
    observers: &Observers,
) -> std::sync::MutexGuard<'_, BTreeMap<ElementKey, watch::Sender<State>>> {
    // Every change under the lock is a single insert or remove: a panic elsewhere leaves the map whole.
    observers.lock().unwrap_or_else(PoisonError::into_inner)
}
