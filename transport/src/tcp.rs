//! Connections over TCP, plain or with TLS: one task for each listener, one for each connection.
//!
//! Nothing here is cancelled from outside: a connection's task ends by its own decision, after `Down` was reported.
//! The consumer's full channel stops its reading, a full write queue ends it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dialtone_wire::Framer;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::config::Secure;
use crate::counters::{Live, add};
use crate::model::{AssocId, DownCause, Identity, Link, NetEvent, Protocol, Remote};
use crate::stream::Stream;
use crate::tls::{self, Handshakes, Limits, Seldom};

const READ: usize = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to finish a message that was begun: connections are few enough that nobody may hold many for nothing.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(10);
const PARTIAL_GRACE: Duration = Duration::from_millis(200);
/// How long a peer's host may leave what we sent without acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(1);
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(2));

/// What all connections of an endpoint share.
#[derive(Debug)]
pub(crate) struct Tcp {
    connections: Mutex<HashMap<AssocId, Connection>>,
    events: mpsc::Sender<NetEvent>,
    counters: Arc<Live>,
    accepted: Arc<AtomicU64>,
    settings: Settings,
    handshakes: Option<Handshakes>,
    refusals: Seldom,
    exhausted: Seldom,
    closing: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Dialled connections leave from this address, the port is any.
    pub(crate) local: SocketAddr,
    pub(crate) max_connections: usize,
    pub(crate) send_buffer: usize,
    pub(crate) enrp_send_buffer: usize,
    pub(crate) shutdown: Duration,
    /// Dialled connections have TLS.
    pub(crate) secure: Option<Secure>,
}

/// Who may be at the other end of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Door {
    /// Anybody, with ASAP.
    Plain,
    /// Who has a certificate for this protocol.
    Tls(Protocol),
}

/// The handle of one connection's task.
#[derive(Debug)]
struct Connection {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that were handed over and not written; bounded by the send buffer's size.
    waiting: Arc<AtomicUsize>,
    send_buffer: usize,
    wish: watch::Sender<Wish>,
}

/// What this side wants of a connection; only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Live,
    Shutdown,
    Abort(DownCause),
}

/// The task's end of a [`Connection`].
struct Inbox {
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    wish: watch::Receiver<Wish>,
}

impl Tcp {
    pub(crate) fn new(
        events: mpsc::Sender<NetEvent>,
        counters: Arc<Live>,
        accepted: Arc<AtomicU64>,
        settings: Settings,
    ) -> io::Result<Arc<Self>> {
        let closing = watch::Sender::new(false);
        let handshakes = settings.secure.as_ref().map(|secure| {
            let limits = Limits {
                at_a_time: secure.max_handshakes,
                per_second: secure.max_handshakes_per_second,
                per_address: secure.max_handshakes_per_address,
            };
            Handshakes::new(limits, clock())
        });
        let handshakes = handshakes
            .transpose()
            .map_err(|_| io::Error::other("no randomness from the operating system"))?;
        Ok(Arc::new(Self {
            connections: Mutex::default(),
            events,
            counters,
            accepted,
            settings,
            handshakes,
            refusals: Seldom::default(),
            exhausted: Seldom::default(),
            closing,
        }))
    }

    pub(crate) fn listen(self: &Arc<Self>, listener: TcpListener, door: Door) {
        let tcp = Arc::clone(self);
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = closing.wait_for(|closing| *closing) => return,
                };
                match accepted {
                    Ok((stream, peer)) => match door {
                        Door::Plain => {
                            let tcp = Arc::clone(&tcp);
                            tokio::spawn(async move {
                                tcp.accept(stream, peer, Protocol::Asap, None).await
                            });
                        }
                        Door::Tls(protocol) => {
                            let tcp = Arc::clone(&tcp);
                            tokio::spawn(
                                async move { tcp.accept_tls(stream, peer, protocol).await },
                            );
                        }
                    },
                    Err(error) => {
                        tcp.accept_failed(&error);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }

    /// A peer that was gone before it was accepted, or the system's limits. Connections that are up go on, and SCTP,
    /// which needs no descriptor for each association.
    fn accept_failed(&self, error: &io::Error) {
        add(&self.counters.accepts_failed);
        let exhausted = matches!(
            error.raw_os_error().map(Errno::from_raw),
            Some(Errno::EMFILE | Errno::ENFILE)
        );
        if !exhausted {
            tracing::debug!(%error, "TCP accept failed");
        } else if self.exhausted.allows(clock()) {
            tracing::error!(
                %error,
                "out of file descriptors: TCP connections wait until others end; raise the limit \
                 (LimitNOFILE= of systemd, ulimit -n) or allow fewer connections"
            );
        }
    }

    async fn accept<S: Stream>(
        &self,
        stream: S,
        peer: SocketAddr,
        protocol: Protocol,
        identity: Option<Identity>,
    ) {
        let id = AssocId::accepted(self.accepted.fetch_add(1, Ordering::Relaxed));
        // In secure mode who has proven nothing may not take all places.
        let reserved = if self.settings.secure.is_some() && identity.is_none() { 2 } else { 1 };
        let Some(inbox) = self.register(id, protocol, self.settings.max_connections / reserved)
        else {
            add(&self.counters.associations_refused);
            return reset(stream.socket());
        };
        let remote = Remote { link: Link::Tcp, addr: peer, sctp_port: 0 };
        self.run(NetEvent::Up { assoc: id, protocol, remote, peer: identity }, id, stream, inbox)
            .await;
    }

    /// Nothing of a caller reaches anybody before it has proven who it is.
    async fn accept_tls(&self, stream: TcpStream, peer: SocketAddr, protocol: Protocol) {
        let (Some(secure), Some(handshakes)) = (&self.settings.secure, &self.handshakes) else {
            return;
        };
        let Some(mut started) = handshakes.begin(clock(), peer.ip()) else {
            add(&self.counters.tls_limited);
            return reset(&stream);
        };
        set_options(&stream);
        let acceptor = TlsAcceptor::from(secure.tls.server(protocol));
        let handshake = tokio::time::timeout(secure.handshake_timeout, acceptor.accept(stream));
        let stream = tokio::select! {
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    add(&self.counters.tls_failed);
                    if self.refusals.allows(clock()) {
                        tracing::info!(%peer, ?protocol, %error, "TLS handshake failed");
                    }
                    return;
                }
                Err(_) => return add(&self.counters.tls_unfinished),
            },
            _ = &mut started.evicted => return add(&self.counters.tls_unfinished),
        };
        drop(started);
        add(&self.counters.tls_accepted);
        let stream = TlsStream::from(stream);
        let identity = identity_of(&stream);
        self.accept(stream, peer, protocol, Some(identity)).await;
    }

    pub(crate) fn connect(self: &Arc<Self>, id: AssocId, protocol: Protocol, remote: Remote) {
        let inbox = self.register(id, protocol, self.settings.max_connections);
        let tcp = Arc::clone(self);
        tokio::spawn(async move {
            let Some(mut inbox) = inbox else {
                add(&tcp.counters.associations_refused);
                let _ =
                    tcp.events.send(NetEvent::Down { assoc: id, cause: DownCause::Local }).await;
                return;
            };
            let dialled = tokio::select! {
                dialled = tokio::time::timeout(CONNECT_TIMEOUT, dial(tcp.settings.local, remote.addr)) => dialled,
                () = wished(&mut inbox.wish, |wish| wish > Wish::Live) => return tcp.finish(id, DownCause::Local).await,
            };
            match dialled {
                Ok(Ok(stream)) if tcp.settings.secure.is_some() => {
                    tcp.connect_tls(id, protocol, remote, stream, inbox).await;
                }
                Ok(Ok(stream)) => {
                    let up = NetEvent::Up { assoc: id, protocol, remote, peer: None };
                    tcp.run(up, id, stream, inbox).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, %remote.addr, "TCP dial failed");
                    tcp.finish(id, DownCause::Unreachable).await;
                }
                Err(_) => tcp.finish(id, DownCause::TimedOut).await,
            }
        });
    }

    async fn connect_tls(
        &self,
        id: AssocId,
        protocol: Protocol,
        remote: Remote,
        stream: TcpStream,
        mut inbox: Inbox,
    ) {
        let Some(secure) = &self.settings.secure else { return };
        set_options(&stream);
        let connector = TlsConnector::from(secure.tls.client());
        let handshake = connector.connect(remote.addr.ip().into(), stream);
        let stream = tokio::select! {
            done = tokio::time::timeout(secure.handshake_timeout, handshake) => match done {
                Ok(Ok(stream)) => TlsStream::from(stream),
                Ok(Err(error)) => {
                    add(&self.counters.tls_failed);
                    // RFC 5352 section 9.2: an automated client closes and says so.
                    if self.refusals.allows(clock()) {
                        tracing::warn!(registrar = %remote.addr, %error, "TLS handshake failed");
                    }
                    return self.finish(id, DownCause::Aborted).await;
                }
                Err(_) => {
                    add(&self.counters.tls_unfinished);
                    return self.finish(id, DownCause::TimedOut).await;
                }
            },
            () = wished(&mut inbox.wish, |wish| wish > Wish::Live) => return self.finish(id, DownCause::Local).await,
        };
        let peer = Some(identity_of(&stream));
        self.run(NetEvent::Up { assoc: id, protocol, remote, peer }, id, stream, inbox).await;
    }

    /// A dial of what this endpoint has not.
    pub(crate) fn refuse(self: &Arc<Self>, id: AssocId) {
        let tcp = Arc::clone(self);
        tokio::spawn(async move { tcp.finish(id, DownCause::Local).await });
    }

    /// Looks again and again whether certificates have changed.
    pub(crate) fn watch_certificates(self: &Arc<Self>) {
        let Some(secure) = self.settings.secure.clone() else { return };
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let mut failed = false;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
                match secure.tls.refresh() {
                    Ok(false) => {}
                    Ok(true) => {
                        failed = false;
                        tracing::info!("certificates have changed; new connections use them");
                    }
                    // Perhaps only half of it has been replaced yet.
                    Err(error) if failed => tracing::debug!(%error, "certificates cannot be used"),
                    Err(error) => {
                        failed = true;
                        tracing::warn!(%error, "certificates have changed and cannot be used; going on with those before");
                    }
                }
            }
        });
    }

    /// `false`: not a connection of ours.
    pub(crate) fn send(&self, id: AssocId, payload: &mut Vec<u8>) -> bool {
        let connections = self.connections();
        let Some(connection) = connections.get(&id) else { return false };
        let mut payload = std::mem::take(payload);
        payload.resize(payload.len().next_multiple_of(4), 0);
        let length = payload.len();
        if connection.waiting.fetch_add(length, Ordering::Relaxed) + length > connection.send_buffer
        {
            add(&self.counters.slow_peers);
            connection.want(Wish::Abort(DownCause::TimedOut));
        } else if connection.queue.send(payload).is_ok() {
            add(&self.counters.messages_out);
        }
        true
    }

    /// `false`: not a connection of ours.
    pub(crate) fn end(&self, id: AssocId, graceful: bool) -> bool {
        let connections = self.connections();
        let Some(connection) = connections.get(&id) else { return false };
        connection.want(if graceful { Wish::Shutdown } else { Wish::Abort(DownCause::Local) });
        true
    }

    pub(crate) fn end_all(&self, graceful: bool) {
        self.closing.send_replace(true);
        for connection in self.connections().values() {
            connection.want(if graceful { Wish::Shutdown } else { Wish::Abort(DownCause::Local) });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connections().is_empty()
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<AssocId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, id: AssocId, protocol: Protocol, places: usize) -> Option<Inbox> {
        let mut connections = self.connections();
        // A handshake may end after everything else was told to.
        let closing = *self.closing.borrow();
        if closing || connections.len() >= places || connections.contains_key(&id) {
            return None;
        }
        let (queue, inbox) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (wish, wished) = watch::channel(Wish::Live);
        let send_buffer = match protocol {
            Protocol::Asap => self.settings.send_buffer,
            Protocol::Enrp => self.settings.enrp_send_buffer,
        };
        let connection = Connection { queue, waiting: Arc::clone(&waiting), send_buffer, wish };
        connections.insert(id, connection);
        Some(Inbox { queue: inbox, waiting, wish: wished })
    }

    async fn run<S: Stream>(&self, up: NetEvent, id: AssocId, mut stream: S, mut inbox: Inbox) {
        set_options(stream.socket());
        add(&self.counters.ups);
        let cause = match self.deliver(up, &mut inbox.wish).await {
            Ok(()) => self.carry(id, &mut stream, &mut inbox).await,
            Err(cause) => Err(cause),
        };
        let cause = cause.unwrap_or_else(|cause| {
            reset(stream.socket());
            cause
        });
        drop(stream);
        add(&self.counters.downs);
        self.finish(id, cause).await;
    }

    /// Moves bytes both ways until the connection ends; says why it did. `Err`: the peer is to see a RST.
    async fn carry<S: Stream>(
        &self,
        id: AssocId,
        stream: &mut S,
        inbox: &mut Inbox,
    ) -> Result<DownCause, DownCause> {
        let peer = stream.socket().peer_addr();
        let (mut read, mut write) = stream.halves();
        let mut framer = Framer::default();
        let mut buffer = vec![0; READ];
        let mut out: Vec<u8> = Vec::new();
        let mut written = 0;
        let (mut ending, mut ended, mut unflushed) = (false, false, false);
        let deadline = tokio::time::sleep(Duration::MAX);
        let partial = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline, partial);
        let (mut is_partial, mut overdue) = (false, false);
        loop {
            let wish = *inbox.wish.borrow_and_update();
            match wish {
                Wish::Live => (),
                Wish::Shutdown if !ending => {
                    ending = true;
                    deadline.set(tokio::time::sleep(self.settings.shutdown));
                    // What was sent before is already in the queue.
                    inbox.queue.close();
                }
                Wish::Shutdown => (),
                Wish::Abort(cause) => return Err(cause),
            }
            if ending && !ended && out.is_empty() && inbox.queue.is_empty() {
                ended = true;
                match tokio::time::timeout(self.settings.shutdown, write.shutdown()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Ok(cause_of(&error)),
                    Err(_) => return Err(DownCause::Local),
                }
            }
            tokio::select! {
                () = &mut deadline, if ending => return Err(DownCause::Local),
                _ = inbox.wish.changed() => (),
                received = read.read(&mut buffer) => match received {
                    Ok(0) if ending => return Ok(DownCause::Local),
                    Ok(0) => {
                        if is_partial {
                            add(&self.counters.unfinished);
                        }
                        return Ok(DownCause::Closed);
                    }
                    Ok(length) => {
                        framer.push(&buffer[..length]);
                        let mut progress = false;
                        loop {
                            match framer.next_message() {
                                Ok(Some(message)) => {
                                    progress = true;
                                    add(&self.counters.messages_in);
                                    let message = NetEvent::Message { assoc: id, payload: message.to_vec() };
                                    self.deliver(message, &mut inbox.wish).await?;
                                }
                                Ok(None) => break,
                                Err(error) => {
                                    tracing::debug!(%error, "TCP stream cannot be cut into messages");
                                    add(&self.counters.bad_frames);
                                    return Err(DownCause::Local);
                                }
                            }
                        }
                        let was_partial = std::mem::replace(&mut is_partial, framer.pending() > 0);
                        if is_partial && (progress || !was_partial) {
                            overdue = false;
                            partial.set(tokio::time::sleep(PARTIAL_TIMEOUT));
                        }
                    }
                    // A peer that ends a TLS connection after we did need not say so.
                    Err(error) if ended && error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(DownCause::Local);
                    }
                    Err(error) => {
                        self.read_failed(&error, &peer);
                        return Ok(cause_of(&error));
                    }
                },
                // Once more: what has waited while this process was frozen was in time, and is read first.
                () = &mut partial, if is_partial => {
                    if overdue {
                        add(&self.counters.unfinished);
                        return Err(DownCause::Local);
                    }
                    overdue = true;
                    partial.set(tokio::time::sleep(PARTIAL_GRACE));
                }
                Some(payload) = inbox.queue.recv(), if out.len() < READ => {
                    out.extend(payload);
                    while out.len() < READ && let Ok(payload) = inbox.queue.try_recv() {
                        out.extend(payload);
                    }
                }
                result = push(&mut write, &out[written..]), if written < out.len() || unflushed => match result {
                    Ok(length) => {
                        unflushed = S::BUFFERS && written < out.len();
                        written += length;
                        if written == out.len() {
                            inbox.waiting.fetch_sub(written, Ordering::Relaxed);
                            out.clear();
                            written = 0;
                        }
                    }
                    Err(error) => return Ok(cause_of(&error)),
                },
            }
        }
    }

    /// In TLS 1.3 a callee judges its caller's certificate when the caller's handshake has ended: its verdict comes here.
    fn read_failed(&self, error: &io::Error, peer: &io::Result<SocketAddr>) {
        if error.kind() == io::ErrorKind::InvalidData {
            add(&self.counters.tls_failed);
            if let Ok(peer) = peer
                && self.refusals.allows(clock())
            {
                tracing::warn!(%peer, %error, "TLS connection refused or broken");
            }
        }
    }

    /// Waits for room in the consumer's channel, but not beyond an abort.
    async fn deliver(
        &self,
        event: NetEvent,
        wish: &mut watch::Receiver<Wish>,
    ) -> Result<(), DownCause> {
        tokio::select! {
            biased;
            _ = self.events.send(event) => Ok(()),
            () = wished(wish, |wish| matches!(wish, Wish::Abort(_))) => match *wish.borrow() {
                Wish::Abort(cause) => Err(cause),
                Wish::Live | Wish::Shutdown => Err(DownCause::Local),
            },
        }
    }

    async fn finish(&self, id: AssocId, cause: DownCause) {
        self.connections().remove(&id);
        let _ = self.events.send(NetEvent::Down { assoc: id, cause }).await;
    }
}

impl Connection {
    fn want(&self, wish: Wish) {
        self.wish.send_if_modified(|current| {
            let rises = wish > *current;
            if rises {
                *current = wish;
            }
            rises
        });
    }
}

/// Writes some of it; flushes when there is nothing to write.
async fn push(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() { write.flush().await.map(|()| 0) } else { write.write(bytes).await }
}

fn identity_of(stream: &TlsStream<TcpStream>) -> Identity {
    let (_, session) = stream.get_ref();
    session.peer_certificates().and_then(<[_]>::first).map(tls::identity).unwrap_or_default()
}

/// Options that a kernel refuses cost speed of detection, not correctness.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

#[expect(clippy::disallowed_methods, reason = "handshakes of strangers are limited in real time")]
fn clock() -> Instant {
    Instant::now()
}

/// The answer of `wait_for` would hold a lock over what follows.
async fn wished(wish: &mut watch::Receiver<Wish>, condition: fn(Wish) -> bool) {
    let _ = wish.wait_for(|wish| condition(*wish)).await;
}

async fn dial(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if local.is_ipv4() == remote.is_ipv4() {
        socket.bind(SocketAddr::new(local.ip(), 0))?;
    }
    socket.connect(remote).await
}

/// Closing becomes a RST: the peer sees that this was no orderly end.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn cause_of(error: &io::Error) -> DownCause {
    match error.kind() {
        io::ErrorKind::TimedOut => DownCause::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            DownCause::Unreachable
        }
        _ => DownCause::Aborted,
    }
}
