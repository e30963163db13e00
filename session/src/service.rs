//! The element's side for code on a runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dialtone_pool_user::PoolUser;
use dialtone_transport::SessionSocket;
use dialtone_transport::model::AssocId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::card::Own;
use crate::client::{Client, Link, SessionError, check};
use crate::cookie::{Cookies, SealError};
use crate::driver::{Counters, Driver, Gate, Input, Outlet, Serving, Signal, unix};
use crate::element::{Command, Element, Event};
use crate::user::{UserConfig, Users};

/// Why a state was not given to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// All sessions of an element with its users. `S` is what one element tells the next one about a user.
#[derive(Debug)]
pub struct Service<S> {
    link: Link,
    cookies: Cookies<S>,
    ppid: u32,
    events: mpsc::UnboundedReceiver<Event<S>>,
    gate: Arc<Gate>,
    client: Client,
    task: JoinHandle<()>,
}

impl<S: Serialize + DeserializeOwned + Send + 'static> Service<S> {
    /// Serves users over an agent's endpoint. `own` is this element, with the transport that
    /// [`SessionSocket::transport`] names; it is registered by the application, with `cookies` of the same pool.
    /// `config` is for this process's own sessions with pools ([`Service::client`]), which show its card.
    ///
    /// # Errors
    /// [`SessionError::NoPort`] and [`SessionError::ControlPpid`].
    pub fn start(
        socket: SessionSocket,
        pools: PoolUser,
        own: Own,
        cookies: Cookies<S>,
        config: UserConfig,
    ) -> Result<Self, SessionError> {
        check(&config)?;
        if socket.transport().is_none() {
            return Err(SessionError::NoPort);
        }
        let (link, inputs, counters) = Link::new();
        let (sender, events) = mpsc::unbounded_channel();
        let gate = Arc::<Gate>::default();
        let outlet = Outlet { events: sender, gate: Arc::clone(&gate) };
        let element = Element::new(own.clone(), cookies.clone());
        let ppid = config.ppid;
        let handle = own.handle.clone();
        let driver = Driver {
            socket,
            pools,
            users: Users::new(config, Some(own), fastrand::Rng::new()),
            serving: Some(Serving { element, outlet, held: BTreeSet::new() }),
            outlets: BTreeMap::new(),
            watched: BTreeSet::new(),
            tasks: JoinSet::new(),
            counters,
        };
        let task = tokio::spawn(driver.run(inputs, Some(handle)));
        let client = Client { link: link.clone(), sessions: Arc::default() };
        Ok(Self { link, cookies, ppid, events, gate, client, task })
    }

    /// The next event; `None` when the service has ended. Cancel safe. While nobody asks, users have to wait with their
    /// messages.
    pub async fn next(&mut self) -> Option<Event<S>> {
        let event = self.events.recv().await?;
        self.gate.leave();
        if self.gate.opens() {
            let _ = self.link.signals.send(Signal::ReleaseAll);
        }
        Some(event)
    }

    /// Has the user keep this state for the next element. What is sent afterwards reaches the user after it: an answer
    /// that the user has seen is covered by the state that it has.
    ///
    /// # Errors
    /// When the state fits no cookie, or the service has ended.
    pub async fn save(&self, session: AssocId, state: &S) -> Result<(), SaveError> {
        let cookie = self.cookies.seal(unix(), state)?;
        Ok(self.link.send(Input::Element(Command::Cookie { session, cookie })).await?)
    }

    /// Sends data to a user. Nothing happens when that has gone; a user that takes too little loses its session.
    ///
    /// # Errors
    /// [`SessionError::Stopped`].
    pub async fn send(
        &self,
        session: AssocId,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), SessionError> {
        let (ppid, payload) = (self.ppid, payload.into());
        let command = Command::Send { session, ppid, payload, unordered: false };
        self.link.send(Input::Element(command)).await
    }

    /// Ends one session after what was sent: its user goes to another element.
    ///
    /// # Errors
    /// [`SessionError::Stopped`].
    pub async fn close(&self, session: AssocId) -> Result<(), SessionError> {
        self.link.send(Input::Element(Command::Close { session })).await
    }

    /// For sessions of this process with pools.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> Counters {
        *self.link.counters.borrow()
    }

    /// Ends all sessions in order and waits for that; call it when the element has left its pool.
    pub async fn stop(self) {
        let _ = self.link.signals.send(Signal::Stop);
        let _ = self.task.await;
    }
}
