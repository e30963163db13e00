//! The driver: runs a [`Client`] over a real [`Endpoint`].
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | agent (one per [`Agent`]) | the client core, the endpoint, the facade sinks | [`Agent::stop`], or the [`Agent`] is dropped |
//!
//! The task waits on the endpoint's events, on commands (bounded queue, refused when full), on multicast announcements
//! if configured, and on the core's next deadline; every wait is cancel safe. What has arrived goes before what is
//! due: a process that was stopped for a while hears first who spoke to it, and only then judges silence.
//! State for readers leaves through watch channels that the sinks hold.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use dialtone_transport::model::{Link, NetEvent};
use dialtone_transport::multicast::{Listener, asap_group};
use dialtone_transport::tls::{Tls, TlsConfig, TlsError};
use dialtone_transport::{Endpoint, EndpointConfig, Secure, SessionSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, error, info, info_span};

use crate::config::{ClientConfig, Registrar, over_tls};
use crate::core::{Client, Either, Home, Output, Role};
use crate::error::AgentError;
use crate::metrics::Metrics;

/// Commands that wait for the agent at most.
const COMMAND_QUEUE: usize = 1024;
/// Events taken in one go before timers are looked at.
const BATCH: usize = 256;

/// What an agent needs to start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub client: ClientConfig,
    /// Where the ASAP endpoint binds. RFC 5352 section 3.1 R1: elements bind the address that they register.
    pub endpoint: EndpointConfig,
    /// Where to listen for registrars that announce themselves (RFC 5352 section 3.6); `None`: only configured ones.
    pub announcements: Option<Announcements>,
}

/// The multicast channel of registrars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcements {
    /// [`asap_group`], unless the operator chose another one.
    pub group: SocketAddr,
    /// Address of the interface to listen on.
    pub interface: IpAddr,
}

impl AgentConfig {
    /// Telephony timers, a free UDP port on `bind`. Announcements are heard on the interface that has this address.
    pub fn telephony<R: Into<Registrar>>(
        bind: IpAddr,
        registrars: impl IntoIterator<Item = R>,
    ) -> Self {
        let (mut known, mut announcements) = (Vec::new(), None);
        for registrar in registrars {
            match registrar.into() {
                Registrar::At(remote) => known.push(remote),
                Registrar::Multicast(group) => {
                    let group = group.unwrap_or(asap_group(bind));
                    announcements = Some(Announcements { group, interface: bind });
                }
            }
        }
        Self {
            client: ClientConfig::telephony(known),
            endpoint: EndpointConfig::element(SocketAddr::new(bind, 0)),
            announcements,
        }
    }
}

impl AgentConfig {
    /// In secure mode, if certificates are given: registrars are dialled by TLS and nothing else. Addresses are taken as
    /// they are; ports that are those of plain ASAP become that of ASAP over TLS.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn secured(mut self, tls: Option<&TlsConfig>) -> Result<Self, TlsError> {
        if let Some(tls) = tls {
            self.endpoint.secure = Some(Secure::element(Tls::load(tls.clone())?));
            self.client
                .registrars
                .iter_mut()
                .for_each(|registrar| *registrar = over_tls(*registrar));
            // What a secure registrar announces as TCP is TLS.
            self.client.announced_link = Link::Tcp;
        }
        Ok(self)
    }
}

/// The own address from which packets to `peer` leave: what an endpoint binds that nobody gave an address. Nothing is
/// sent.
///
/// # Errors
/// There is no route.
pub fn source_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// Hands commands of one role to the agent's task.
pub struct CommandSender<C>(Arc<dyn Fn(C) -> Result<(), AgentError> + Send + Sync>);

impl<C> CommandSender<C> {
    /// A sender that hands commands to `send`, for tests and other drivers.
    pub fn new(send: impl Fn(C) -> Result<(), AgentError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Never blocks.
    ///
    /// # Errors
    /// [`AgentError::Stopped`] and [`AgentError::Busy`]; the command was not taken.
    pub fn send(&self, command: C) -> Result<(), AgentError> {
        (self.0)(command)
    }
}

impl<C: 'static> CommandSender<C> {
    fn map<D: 'static>(self, wrap: fn(D) -> C) -> CommandSender<D> {
        CommandSender::new(move |command| self.send(wrap(command)))
    }
}

impl<C> Clone for CommandSender<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for CommandSender<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommandSender")
    }
}

/// A role with an interface for the rest of the process: a handle to use, a sink that receives the role's events.
pub trait Facade: Role<Command: Send + 'static, Event: Send> + Send + 'static {
    type Handle: Clone + Send + Sync + 'static;
    type Sink: Send + 'static;

    fn facade(&self, commands: CommandSender<Self::Command>) -> (Self::Handle, Self::Sink);

    /// Brings an event to whoever waits for it; must not block.
    fn deliver(sink: &mut Self::Sink, event: Self::Event);
}

impl<A: Facade, B: Facade> Facade for (A, B) {
    type Handle = (A::Handle, B::Handle);
    type Sink = (A::Sink, B::Sink);

    fn facade(&self, commands: CommandSender<Self::Command>) -> (Self::Handle, Self::Sink) {
        let (first, first_sink) = self.0.facade(commands.clone().map(Either::First));
        let (second, second_sink) = self.1.facade(commands.map(Either::Second));
        ((first, second), (first_sink, second_sink))
    }

    fn deliver(sink: &mut Self::Sink, event: Self::Event) {
        match event {
            Either::First(event) => A::deliver(&mut sink.0, event),
            Either::Second(event) => B::deliver(&mut sink.1, event),
        }
    }
}

/// A running ASAP client: one endpoint, one home registrar, the roles of one process.
///
/// Dropping it ends the associations without de-registering; use [`Agent::stop`] after the registrations were given
/// back.
#[derive(Debug)]
pub struct Agent<R: Facade> {
    handle: R::Handle,
    local: SocketAddr,
    home: watch::Receiver<Option<Home>>,
    sessions: Option<SessionSocket>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl<R: Facade> Agent<R> {
    /// Binds the endpoint and starts the task.
    ///
    /// # Errors
    /// [`AgentError::Endpoint`] when the address cannot be bound.
    pub async fn start(config: AgentConfig, role: R) -> Result<Self, AgentError> {
        let announcements = config
            .announcements
            .map(|from| {
                let joined = Listener::join(from.group, from.interface);
                joined.map_err(|source| AgentError::Announcements { group: from.group, source })
            })
            .transpose()?;
        let (mut endpoint, events) = Endpoint::bind(config.endpoint).await?;
        let sessions = endpoint.take_sessions();
        let local = endpoint.local_addr();
        let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
        let (handle, sink) = role.facade(CommandSender::new(move |command| {
            commands_in.try_send(command).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AgentError::Busy,
                mpsc::error::TrySendError::Closed(_) => AgentError::Stopped,
            })
        }));
        let (home_out, home) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let client = Client::new(clock(), config.client, role, fastrand::Rng::new());
        let driver = Driver { client, endpoint, sink, home: home_out, metrics: Metrics::new() };
        let inputs = Inputs { events, commands, announcements, stopped };
        let task = tokio::spawn(driver.run(inputs).instrument(info_span!("asap", %local)));
        Ok(Self { handle, local, home, sessions, stop, task })
    }

    /// The interface of the role; for a tuple of roles, a tuple.
    pub fn handle(&self) -> R::Handle {
        self.handle.clone()
    }

    /// The UDP address that carries the associations.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Associations with users and elements on the same endpoint, if [`EndpointConfig::sessions`] asked for them; once.
    /// They end with the agent.
    pub fn take_sessions(&mut self) -> Option<SessionSocket> {
        self.sessions.take()
    }

    /// The home registrar, `None` while there is none.
    pub fn home(&self) -> watch::Receiver<Option<Home>> {
        self.home.clone()
    }

    /// Ends the associations in order and waits for that.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// What the task waits for.
struct Inputs<C> {
    events: mpsc::Receiver<NetEvent>,
    commands: mpsc::Receiver<C>,
    announcements: Option<Listener>,
    stopped: oneshot::Receiver<()>,
}

async fn hear(announcements: &mut Option<Listener>) -> (&[u8], SocketAddr) {
    match announcements {
        Some(listener) => listener.receive().await,
        None => std::future::pending().await,
    }
}

struct Driver<R: Facade> {
    client: Client<R>,
    endpoint: Endpoint,
    sink: R::Sink,
    home: watch::Sender<Option<Home>>,
    metrics: Metrics,
}

impl<R: Facade> Driver<R> {
    async fn run(mut self, mut inputs: Inputs<R::Command>) {
        self.drain();
        loop {
            let deadline = self.client.next_deadline();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Either stopped or the Agent was dropped.
                stop = &mut inputs.stopped => {
                    if stop.is_ok() {
                        self.client.shut_down();
                        self.drain();
                        self.endpoint.close(true).await;
                    }
                    return;
                }
                event = inputs.events.recv() => match event {
                    Some(event) => self.client.handle_net(clock(), event),
                    None => {
                        error!("the endpoint ended");
                        return;
                    }
                },
                Some(command) = inputs.commands.recv() => self.client.handle_command(clock(), command),
                (message, from) = hear(&mut inputs.announcements) => {
                    self.client.handle_announce(clock(), from, message);
                }
                () = timer => {}
            }
            self.drain();
            for _ in 0..BATCH {
                let Ok(event) = inputs.events.try_recv() else { break };
                self.client.handle_net(clock(), event);
                self.drain();
            }
            let now = clock();
            if self.client.next_deadline().is_some_and(|at| at <= now) {
                self.client.handle_timeout(now);
                self.drain();
            }
            let has_home = self.client.home().is_some();
            self.metrics.totals(&self.client.counters(), &self.endpoint.counters(), has_home);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Net(command) => self.endpoint.execute(command),
                Output::Event(event) => R::deliver(&mut self.sink, event),
                Output::Home(home) => {
                    match home {
                        Some(home) => info!(registrar = %home.addr(), "home registrar found"),
                        None => info!("no home registrar"),
                    }
                    self.home.send_replace(home);
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the cores get their time from")]
fn clock() -> Instant {
    Instant::now()
}
