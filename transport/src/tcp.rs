//! ASAP over TCP: one task for the listener, one for each connection.
//!
//! Nothing here is cancelled from outside: a connection's task ends by its own decision, after `Down` was reported.
//! The consumer's full channel stops its reading, a full write queue ends it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dialtone_wire::Framer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::counters::{Live, add};
use crate::model::{AssocId, DownCause, Link, NetEvent, Protocol, Remote};

const READ: usize = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to finish a message that was begun: connections are few enough that nobody may hold many for nothing.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(10);
const PARTIAL_GRACE: Duration = Duration::from_millis(200);
/// How long a peer's host may leave what we sent without acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(3);
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
    closing: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Dialled connections leave from this address, the port is any.
    pub(crate) local: SocketAddr,
    pub(crate) max_connections: usize,
    pub(crate) send_buffer: usize,
    pub(crate) shutdown: Duration,
}

/// The handle of one connection's task.
#[derive(Debug)]
struct Connection {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that were handed over and not written; bounded by the send buffer's size.
    waiting: Arc<AtomicUsize>,
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
    ) -> Arc<Self> {
        let closing = watch::Sender::new(false);
        Arc::new(Self {
            connections: Mutex::default(),
            events,
            counters,
            accepted,
            settings,
            closing,
        })
    }

    pub(crate) fn listen(self: &Arc<Self>, listener: TcpListener) {
        let tcp = Arc::clone(self);
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = closing.wait_for(|closing| *closing) => return,
                };
                match accepted {
                    Ok((stream, peer)) => tcp.accept(stream, peer),
                    Err(error) => {
                        // Out of descriptors, or a peer that was gone before it was accepted.
                        tracing::debug!(%error, "TCP accept failed");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let id = AssocId::accepted(self.accepted.fetch_add(1, Ordering::Relaxed));
        let Some(inbox) = self.register(id) else {
            add(&self.counters.associations_refused);
            return reset(&stream);
        };
        let remote = Remote { link: Link::Tcp, addr: peer, sctp_port: 0 };
        let tcp = Arc::clone(self);
        tokio::spawn(async move { tcp.run(id, Protocol::Asap, remote, stream, inbox).await });
    }

    pub(crate) fn connect(self: &Arc<Self>, id: AssocId, protocol: Protocol, remote: Remote) {
        let inbox = self.register(id);
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
                Ok(Ok(stream)) => tcp.run(id, protocol, remote, stream, inbox).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, %remote.addr, "TCP dial failed");
                    tcp.finish(id, DownCause::Unreachable).await;
                }
                Err(_) => tcp.finish(id, DownCause::TimedOut).await,
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
        if connection.waiting.fetch_add(length, Ordering::Relaxed) + length
            > self.settings.send_buffer
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

    fn register(&self, id: AssocId) -> Option<Inbox> {
        let mut connections = self.connections();
        if connections.len() >= self.settings.max_connections || connections.contains_key(&id) {
            return None;
        }
        let (queue, inbox) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (wish, wished) = watch::channel(Wish::Live);
        connections.insert(id, Connection { queue, waiting: Arc::clone(&waiting), wish });
        Some(Inbox { queue: inbox, waiting, wish: wished })
    }

    async fn run(
        &self,
        id: AssocId,
        protocol: Protocol,
        remote: Remote,
        mut stream: TcpStream,
        mut inbox: Inbox,
    ) {
        let socket = SockRef::from(&stream);
        // Options that a kernel refuses cost speed of detection, not correctness.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&KEEPALIVE);
        let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        add(&self.counters.ups);
        let up = NetEvent::Up { assoc: id, protocol, remote };
        let cause = match self.deliver(up, &mut inbox.wish).await {
            Ok(()) => self.carry(id, &mut stream, &mut inbox).await,
            Err(cause) => Err(cause),
        };
        let cause = cause.unwrap_or_else(|cause| {
            reset(&stream);
            cause
        });
        drop(stream);
        add(&self.counters.downs);
        self.finish(id, cause).await;
    }

    /// Moves bytes both ways until the connection ends; says why it did. `Err`: the peer is to see a RST.
    async fn carry(
        &self,
        id: AssocId,
        stream: &mut TcpStream,
        inbox: &mut Inbox,
    ) -> Result<DownCause, DownCause> {
        let (mut read, mut write) = stream.split();
        let mut framer = Framer::default();
        let mut buffer = vec![0; READ];
        let mut out: Vec<u8> = Vec::new();
        let mut written = 0;
        let (mut ending, mut ended) = (false, false);
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
                if let Err(error) = write.shutdown().await {
                    return Ok(cause_of(&error));
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
                    Err(error) => return Ok(cause_of(&error)),
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
                result = write.write(&out[written..]), if written < out.len() => match result {
                    Ok(length) => {
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
