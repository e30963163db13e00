//! Runs the core over real sockets.
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | gateway (one) | the core and the sending side of all sockets | [`Stop::now`], or the [`Stop`] is dropped |
//! | receivers of crate `sip` | one UDP socket or connection each | the sockets are dropped |
//!
//! The gateway's task waits on the core network's events (first, so that phones cannot starve it), the phones' events, new
//! views of the pools, new keys, and the core's next deadline; every wait is cancel safe. Its state leaves through a watch
//! channel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_daemon::bind::BindError;
use dialtone_pool_user::View;
use dialtone_sip::transport::{
    ConnId as EdgeConn, Flow, TcpConfig, TcpCounters, TcpTransport, TransportEvent, UdpConfig,
    UdpTransport,
};
use dialtone_sip_pool::driver::{CoreEvent, CoreNet, Pace, core_tcp_config};
use dialtone_sip_pool::keys::Keys;
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::{Counters, Gateway, Gauges, Input, Output, Pool};

/// Events of one side that wait for the gateway's task at most; then receivers wait, and datagrams are dropped.
const EVENTS: usize = 8_192;

/// Events handled between two looks at timers and the other side.
const BATCH: usize = 128;

/// How often the state is published.
const STATUS: Duration = Duration::from_millis(500);

/// Numbers of the listeners for phones.
pub const UDP: u8 = 0;
/// See [`UDP`].
pub const TCP: u8 = 1;

/// All sockets of a gateway.
#[derive(Debug)]
pub struct Sockets {
    core: CoreNet,
    core_events: mpsc::Receiver<TransportEvent>,
    udp: UdpTransport,
    tcp: TcpTransport,
    edge_events: mpsc::Receiver<TransportEvent>,
    /// Where the core listener is.
    pub core_address: SocketAddr,
    /// Where phones reach this machine, UDP and TCP alike.
    pub edge_address: SocketAddr,
}

impl Sockets {
    /// Binds everything. An edge port of 0 takes a port that is free for UDP and TCP. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`] names the key of the configuration.
    pub fn bind(core: SocketAddr, edge: SocketAddr, phones: TcpConfig) -> Result<Self, BindError> {
        let (core_sender, core_events) = mpsc::channel(EVENTS);
        let net = CoreNet::new(core_tcp_config(), Some(core.ip()), core_sender);
        let core_address =
            net.listen(core).map_err(|source| BindError::new(core, "TCP", "core", source))?;
        let (sender, edge_events) = mpsc::channel(EVENTS);
        let returning = UdpConfig { returned: true, ..UdpConfig::default() };
        let mut attempts = 0;
        let (udp, tcp, edge_address) = loop {
            let udp = UdpTransport::bind(edge, u16::from(UDP), returning, sender.clone())
                .map_err(|source| BindError::new(edge, "UDP", "edge", source))?;
            let address = udp.local_addr();
            let tcp = TcpTransport::new(phones, sender.clone());
            match tcp.listen(address, u16::from(TCP)) {
                Ok(_) => break (udp, tcp, address),
                // The free UDP port was taken for TCP: another one.
                Err(_) if edge.port() == 0 && attempts < 16 => attempts += 1,
                Err(source) => return Err(BindError::new(address, "TCP", "edge", source)),
            }
        };
        Ok(Self { core: net, core_events, udp, tcp, edge_events, core_address, edge_address })
    }
}

/// What the gateway's task learns from the rest of the process.
#[derive(Debug)]
pub struct Sources {
    /// The pool `sip-proxy`.
    pub proxies: watch::Receiver<Arc<View>>,
    /// The pool `sip-gateway`.
    pub gateways: watch::Receiver<Arc<View>>,
    /// The keys.
    pub keys: watch::Receiver<Keys>,
}

/// What the gateway has to say about an element of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers (again).
    Answers,
    /// It has failed.
    Unreachable,
}

/// State for readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Counts since the start.
    pub counters: Counters,
    /// Sizes at the moment.
    pub gauges: Gauges,
    /// Requests that wait for their final answer.
    pub unfinished: usize,
    /// Datagrams of phones dropped because the gateway was too slow.
    pub dropped: u64,
    /// How often the process stood still for so long that others had given it up.
    pub frozen: u64,
    /// Connections of the core network that ended for what they sent; in metrics only.
    #[serde(skip)]
    pub core: TcpCounters,
    /// The same of phones.
    #[serde(skip)]
    pub edge: TcpCounters,
}

/// Ends the gateway's task.
#[derive(Debug)]
pub struct Stop(oneshot::Sender<()>);

impl Stop {
    /// Ends it now; drain before ([`Status::unfinished`]).
    pub fn now(self) {
        // The task may have ended by itself.
        let _ = self.0.send(());
    }
}

struct Driver<F> {
    gateway: Gateway,
    sockets: Sockets,
    report: F,
    frozen: u64,
}

/// Runs the core until it is stopped. `report` passes verdicts on elements on; it must not block.
pub async fn run(
    gateway: Gateway,
    sockets: Sockets,
    mut sources: Sources,
    report: impl Fn(Pool, u32, Verdict) + Send,
    status: watch::Sender<Status>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut driver = Driver { gateway, sockets, report, frozen: 0 };
    let mut pace = Pace::new(clock());
    let mut published = clock();
    for (pool, views) in
        [(Pool::Proxy, &mut sources.proxies), (Pool::Gateway, &mut sources.gateways)]
    {
        let view = Arc::clone(&views.borrow_and_update());
        driver.input(Input::View { pool, view });
    }
    loop {
        let wake = pace.sleep_until(clock(), driver.gateway.next_deadline());
        let mut core = None;
        let mut edge = None;
        let mut changed = None;
        let mut new_keys = false;
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            Some(event) = driver.sockets.core_events.recv() => core = Some(event),
            Ok(()) = sources.proxies.changed() => changed = Some(Pool::Proxy),
            Ok(()) = sources.gateways.changed() => changed = Some(Pool::Gateway),
            Ok(()) = sources.keys.changed() => new_keys = true,
            Some(event) = driver.sockets.edge_events.recv() => edge = Some(event),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        if pace.stood_still(clock()) {
            tracing::warn!("the process stood still; core connections are closed");
            driver.frozen += 1;
            driver.input(Input::Frozen);
        }
        if let Some(pool) = changed {
            let views =
                if pool == Pool::Proxy { &mut sources.proxies } else { &mut sources.gateways };
            let view = Arc::clone(&views.borrow_and_update());
            driver.input(Input::View { pool, view });
        }
        if new_keys {
            let keys = sources.keys.borrow_and_update().clone();
            driver.input(Input::NewKeys { keys });
        }
        for _ in 0..BATCH {
            let Some(event) = core.take().or_else(|| driver.sockets.core_events.try_recv().ok())
            else {
                break;
            };
            driver.core_event(event);
        }
        for _ in 0..BATCH {
            let Some(event) = edge.take().or_else(|| driver.sockets.edge_events.try_recv().ok())
            else {
                break;
            };
            driver.edge_event(event);
        }
        let now = clock();
        if driver.gateway.next_deadline().is_some_and(|deadline| deadline <= now) {
            driver.input(Input::Timeout);
        }
        if now.saturating_duration_since(published) >= STATUS {
            published = now;
            status.send_replace(driver.status());
        }
    }
}

impl<F: Fn(Pool, u32, Verdict)> Driver<F> {
    fn core_event(&mut self, event: TransportEvent) {
        let Some(event) = self.sockets.core.translate(event) else { return };
        self.input(match event {
            CoreEvent::Accepted { conn, .. } => Input::CoreAccepted { conn },
            CoreEvent::Activity { conn } => Input::CoreActivity { conn },
            CoreEvent::Closed { conn } => Input::CoreClosed { conn },
            CoreEvent::Connected { conn } => Input::CoreConnected { conn },
            CoreEvent::Message { conn, bytes } => Input::CoreMessage { conn, bytes },
        });
    }

    fn edge_event(&mut self, event: TransportEvent) {
        self.input(match event {
            TransportEvent::Message { flow: Flow::Udp { peer, .. }, bytes } => {
                Input::Datagram { listener: UDP, remote: peer, bytes }
            }
            TransportEvent::Message { flow: Flow::Tcp(conn), bytes } => {
                Input::EdgeMessage { conn: conn.0, bytes }
            }
            TransportEvent::Connected { conn, peer, .. } => {
                Input::EdgeOpened { conn: conn.0, listener: TCP, remote: peer }
            }
            TransportEvent::Closed { conn, .. } => Input::EdgeClosed { conn: conn.0 },
            // Answered by the transport.
            TransportEvent::Ping { .. } | TransportEvent::Pong { .. } => return,
            TransportEvent::Returned { flow: Flow::Udp { peer, .. }, bytes } => {
                Input::DatagramReturned { listener: UDP, remote: peer, bytes }
            }
            TransportEvent::Returned { .. } => return,
        });
    }

    fn input(&mut self, input: Input) {
        self.gateway.handle(clock(), input);
        while let Some(output) = self.gateway.poll() {
            match output {
                Output::CoreClose { conn } => self.sockets.core.close(conn),
                Output::CoreDial { conn, address } => self.sockets.core.dial(conn, address),
                Output::CoreWrite { conn, bytes } => self.sockets.core.write(conn, bytes),
                Output::Datagram { remote, bytes, .. } => {
                    // Lost as datagrams are; phones and timers repeat.
                    if let Err(error) = self.sockets.udp.send(remote, &bytes) {
                        tracing::debug!(%remote, %error, "datagram not sent");
                    }
                }
                Output::EdgeWrite { conn, bytes } => {
                    // The event that follows an error says all.
                    let _ = self.sockets.tcp.send(EdgeConn(conn), bytes);
                }
                Output::ReportUnreachable { pool, element, cause } => {
                    tracing::info!(
                        ?pool,
                        element = format_args!("{element:#010x}"),
                        ?cause,
                        "element has failed"
                    );
                    (self.report)(pool, element, Verdict::Unreachable);
                }
                Output::Trust { pool, element } => {
                    tracing::info!(
                        ?pool,
                        element = format_args!("{element:#010x}"),
                        "element answers"
                    );
                    (self.report)(pool, element, Verdict::Answers);
                }
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            counters: self.gateway.counters(),
            gauges: self.gateway.gauges(),
            unfinished: self.gateway.unfinished(),
            dropped: self.sockets.udp.dropped(),
            frozen: self.frozen,
            core: self.sockets.core.counters(),
            edge: self.sockets.tcp.counters(),
        }
    }
}

/// A pair that stops [`run`].
#[must_use]
pub fn stop() -> (Stop, oneshot::Receiver<()>) {
    let (sender, receiver) = oneshot::channel();
    (Stop(sender), receiver)
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the core gets its time from")]
fn clock() -> Instant {
    Instant::now()
}
