//! TCP driver: listeners, dialled and accepted connections, bounded in every direction.
//!
//! One task per listener accepts; one task per connection reads, frames and writes. Whoever sends puts bytes into the
//! connection's queue; the task writes all that waits in one call. A connection whose events find no room in the
//! channel stops reading, not writing.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::transport::{CloseCause, ConnId, Flow, TransportEvent};
use crate::{Frame, StreamFramer};

/// Bounds of TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Longest message in bytes.
    pub max_message: usize,
    /// Accepted connections at a time; further ones are closed at once.
    pub max_accepted: usize,
    /// Bytes that may wait to be written per connection; one that exceeds them is closed.
    pub max_queued: usize,
    /// Time to finish a message that was begun.
    pub partial_timeout: Duration,
    /// Accepted connections are closed after this time without a byte.
    pub idle_timeout: Option<Duration>,
    /// Time to dial.
    pub connect_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            max_message: 128 * 1024,
            max_accepted: 20_000,
            max_queued: 1 << 20,
            partial_timeout: Duration::from_secs(10),
            idle_timeout: None,
            connect_timeout: Duration::from_secs(2),
        }
    }
}

/// The message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("connection is gone")]
    Gone,
    #[error("write queue is full; the connection is being closed")]
    Full,
}

/// All TCP connections of a process. Clones share them; when the last clone is dropped, they are closed.
#[derive(Clone, Debug)]
pub struct TcpTransport {
    owner: Arc<Owner>,
}

/// An address that is bound, but not listened at; see [`TcpTransport::reserve`].
#[derive(Debug)]
pub struct Reserved {
    socket: TcpSocket,
    number: u16,
    address: SocketAddr,
}

impl Reserved {
    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Closes everything when the last handle is gone; the tasks hold only what it owns.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug)]
struct Shared {
    config: TcpConfig,
    events: mpsc::Sender<TransportEvent>,
    connections: Mutex<HashMap<ConnId, Arc<Connection>>>,
    accepted: AtomicUsize,
    serial: AtomicU64,
    counters: Live,
}

/// Connections that ended for what they sent, or did not, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Their bytes were no SIP, or too many.
    pub bad_frames: u64,
    /// They took too little of what was sent to them.
    pub congested: u64,
    /// Accepted ones that were idle for too long.
    pub idle: u64,
    /// Not accepted: there were too many.
    pub refused: u64,
    /// They began a message and did not finish it in time.
    pub slow: u64,
    /// Their peer ended them within a message.
    pub unfinished: u64,
}

impl TcpCounters {
    /// Name and value of every counter, for metrics.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { bad_frames, congested, idle, refused, slow, unfinished } = *self;
        [
            ("bad-frames", bad_frames),
            ("congested", congested),
            ("idle", idle),
            ("refused", refused),
            ("slow", slow),
            ("unfinished", unfinished),
        ]
        .into_iter()
    }
}

#[derive(Debug, Default)]
struct Live {
    bad_frames: AtomicU64,
    congested: AtomicU64,
    idle: AtomicU64,
    refused: AtomicU64,
    slow: AtomicU64,
    unfinished: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What senders and the task of a connection share.
#[derive(Debug)]
struct Connection {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After everything was written.
    Graceful,
    /// Now, by a reset.
    Reset,
    /// The queue was full.
    Congested,
}

impl TcpTransport {
    /// Events go into the channel; when it is full, connections wait (their peers feel it).
    pub fn new(config: TcpConfig, events: mpsc::Sender<TransportEvent>) -> Self {
        let shared = Shared {
            config,
            events,
            connections: Mutex::new(HashMap::new()),
            accepted: AtomicUsize::new(0),
            serial: AtomicU64::new(1),
            counters: Live::default(),
        };
        Self {
            owner: Arc::new(Owner { shared: Arc::new(shared), listeners: Mutex::new(Vec::new()) }),
        }
    }

    /// Listens; `number` names the listener in [`TransportEvent::Connected`]. Returns the bound address. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding.
    pub fn listen(&self, addr: SocketAddr, number: u16) -> io::Result<SocketAddr> {
        let reserved = self.reserve(addr, number)?;
        let bound = reserved.address;
        self.open(reserved)?;
        Ok(bound)
    }

    /// Takes an address for later: until [`TcpTransport::open`], who connects to it is refused.
    ///
    /// # Errors
    /// Those of binding.
    pub fn reserve(&self, addr: SocketAddr, number: u16) -> io::Result<Reserved> {
        let socket = new_socket(addr)?;
        // A restarted process must get its port back while old connections linger.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let address = socket.local_addr()?;
        Ok(Reserved { socket, number, address })
    }

    /// Listens at a reserved address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Somebody else listens there by now.
    pub fn open(&self, reserved: Reserved) -> io::Result<()> {
        let listener = reserved.socket.listen(1024)?;
        let task = tokio::spawn(accept(Arc::clone(&self.owner.shared), listener, reserved.number));
        lock(&self.owner.listeners).push(task.abort_handle());
        Ok(())
    }

    /// Dials, from `local` if given; messages may be sent at once and go out when it is up. Answered by
    /// [`TransportEvent::Connected`] or [`TransportEvent::Closed`].
    pub fn connect(&self, local: Option<IpAddr>, peer: SocketAddr) -> ConnId {
        let shared = &self.owner.shared;
        let (id, connection) = shared.register();
        tokio::spawn(dial(Arc::clone(shared), id, connection, local, peer));
        id
    }

    /// Queues bytes (a message, or a CRLF CRLF ping).
    ///
    /// # Errors
    /// [`SendError`]; `Closed` follows or came already.
    pub fn send(&self, conn: ConnId, bytes: Bytes) -> Result<(), SendError> {
        let connection = self.owner.shared.find(conn).ok_or(SendError::Gone)?;
        let mut queue = lock(&connection.queue);
        if queue.end.is_some() {
            return Err(SendError::Gone);
        }
        if queue.bytes + bytes.len() > self.owner.shared.config.max_queued {
            queue.end = Some(End::Congested);
            drop(queue);
            connection.changed.notify_one();
            return Err(SendError::Full);
        }
        queue.bytes += bytes.len();
        queue.waiting.push_back(bytes);
        drop(queue);
        connection.changed.notify_one();
        Ok(())
    }

    /// Closes a connection: `gracefully` after what is queued was written, else at once by a reset.
    pub fn close(&self, conn: ConnId, gracefully: bool) {
        if let Some(connection) = self.owner.shared.find(conn) {
            connection.end(if gracefully { End::Graceful } else { End::Reset });
        }
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> TcpCounters {
        let live = &self.owner.shared.counters;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TcpCounters {
            bad_frames: value(&live.bad_frames),
            congested: value(&live.congested),
            idle: value(&live.idle),
            refused: value(&live.refused),
            slow: value(&live.slow),
            unfinished: value(&live.unfinished),
        }
    }

    /// Connections alive, dialled and accepted.
    pub fn connections(&self) -> usize {
        lock(&self.owner.shared.connections).len()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        for listener in lock(&self.listeners).drain(..) {
            listener.abort();
        }
        for connection in lock(&self.shared.connections).values() {
            connection.end(End::Graceful);
        }
    }
}

impl Shared {
    fn register(&self) -> (ConnId, Arc<Connection>) {
        let id = ConnId(self.serial.fetch_add(1, Ordering::Relaxed));
        let connection =
            Arc::new(Connection { queue: Mutex::new(Queue::default()), changed: Notify::new() });
        lock(&self.connections).insert(id, Arc::clone(&connection));
        (id, connection)
    }

    fn find(&self, id: ConnId) -> Option<Arc<Connection>> {
        lock(&self.connections).get(&id).cloned()
    }

    /// Forgets the connection, then says so.
    async fn closed(&self, conn: ConnId, cause: CloseCause) {
        lock(&self.connections).remove(&conn);
        match &cause {
            CloseCause::Congested => add(&self.counters.congested),
            CloseCause::Frame(_) => add(&self.counters.bad_frames),
            CloseCause::Idle => add(&self.counters.idle),
            CloseCause::Slow => add(&self.counters.slow),
            CloseCause::Io(_) | CloseCause::Local | CloseCause::Peer => {}
        }
        tracing::debug!(?conn, ?cause, "connection closed");
        // Nobody listens any more: then nobody needs to know.
        let _ = self.events.send(TransportEvent::Closed { conn, cause }).await;
    }
}

impl Connection {
    fn end(&self, end: End) {
        lock(&self.queue).end.get_or_insert(end);
        self.changed.notify_one();
    }
}

/// No code panics while it holds one of these locks, and what they protect is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, number: u16) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or aborted by the peer; waiting a moment keeps the former from spinning.
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if shared.accepted.fetch_add(1, Ordering::Relaxed) >= shared.config.max_accepted {
            shared.accepted.fetch_sub(1, Ordering::Relaxed);
            add(&shared.counters.refused);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let (id, connection) = shared.register();
            let cause = serve(&shared, id, &connection, stream, peer, Some(number)).await;
            shared.accepted.fetch_sub(1, Ordering::Relaxed);
            shared.closed(id, cause).await;
        });
    }
}

async fn dial(
    shared: Arc<Shared>,
    id: ConnId,
    connection: Arc<Connection>,
    local: Option<IpAddr>,
    peer: SocketAddr,
) {
    let dialled = timeout(shared.config.connect_timeout, async {
        let socket = new_socket(peer)?;
        if let Some(local) = local {
            socket.bind(SocketAddr::new(local, 0))?;
        }
        socket.connect(peer).await
    });
    let cause = match dialled.await {
        Ok(Ok(stream)) => serve(&shared, id, &connection, stream, peer, None).await,
        Ok(Err(error)) => CloseCause::Io(error.kind()),
        Err(_) => CloseCause::Io(io::ErrorKind::TimedOut),
    };
    shared.closed(id, cause).await;
}

/// Bytes read at a time: few while a connection is quiet, more while reads come back full.
const READ_MIN: usize = 4096;
const READ_MAX: usize = 65_536;
/// How long what is queued may take to be written once the connection is being closed.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Buffers written in one call.
const WRITE_SLICES: usize = 64;

/// Serves one connection until it ends, and says why.
async fn serve(
    shared: &Shared,
    id: ConnId,
    connection: &Connection,
    mut stream: TcpStream,
    peer: SocketAddr,
    listener: Option<u16>,
) -> CloseCause {
    let config = &shared.config;
    let _ = stream.set_nodelay(true);
    let flow = Flow::Tcp(id);
    let mut framer = match listener {
        Some(_) => StreamFramer::accepting(config.max_message),
        None => StreamFramer::dialled(config.max_message),
    };
    let mut events = VecDeque::new();
    let local = stream.local_addr().unwrap_or(SocketAddr::new(peer.ip(), 0));
    events.push_back(TransportEvent::Connected { conn: id, peer, local, listener });
    let mut writing: VecDeque<Bytes> = VecDeque::new();
    let mut chunk = READ_MIN;
    let idle = config.idle_timeout.filter(|_| listener.is_some());
    let mut last_byte = now();
    let mut partial_since: Option<Instant> = None;
    let mut end_of_input: Option<CloseCause> = None;
    let mut closing_since: Option<Instant> = None;
    let (mut reader, stream) = stream.split();
    loop {
        while let Some(event) = events.pop_front() {
            match shared.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    events.push_front(event);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return CloseCause::Local,
            }
        }
        if events.is_empty()
            && let Some(cause) = end_of_input.take()
        {
            return cause;
        }
        let end = {
            let mut queue = lock(&connection.queue);
            writing.append(&mut queue.waiting);
            queue.end
        };
        if matches!(end, Some(End::Reset | End::Congested)) {
            let _ = stream.as_ref().set_zero_linger();
            let congested = end == Some(End::Congested);
            return if congested { CloseCause::Congested } else { CloseCause::Local };
        }
        if !writing.is_empty() {
            match write(stream.as_ref(), &mut writing) {
                Ok(written) => lock(&connection.queue).bytes -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return CloseCause::Io(error.kind()),
            }
        }
        if end == Some(End::Graceful) {
            let since = *closing_since.get_or_insert_with(now);
            if writing.is_empty() || now() >= since + CLOSING_TIME {
                return CloseCause::Local;
            }
        }
        // While events wait for room, nothing is read, and the peer is not to blame for it.
        let patience = events.is_empty();
        let deadline = [
            partial_since.filter(|_| patience).map(|at| at + config.partial_timeout),
            idle.filter(|_| patience && closing_since.is_none()).map(|idle| last_byte + idle),
            closing_since.map(|at| at + CLOSING_TIME),
        ];
        let deadline = deadline.into_iter().flatten().min();
        // Reading comes before the timeout: after a freeze both are due, and the bytes were in time.
        tokio::select! {
            biased;
            // A read that does not fill the buffer tells tokio that there is no more: the next one waits without asking
            // the system in vain.
            read = read_some(&mut reader, framer.buffer_mut(), chunk), if events.is_empty() => {
                match read {
                    Ok(0) => {
                        if partial_since.is_some() {
                            add(&shared.counters.unfinished);
                        }
                        return CloseCause::Peer;
                    }
                    Ok(read) => {
                        chunk = if read >= chunk { (chunk * 2).min(READ_MAX) } else { (chunk / 2).max(READ_MIN) };
                    }
                    Err(error) => return CloseCause::Io(error.kind()),
                }
                last_byte = now();
                let mut progress = false;
                loop {
                    match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => events.push_back(TransportEvent::Message { flow, bytes }),
                        Ok(Some(Frame::Ping)) => {
                            let mut queue = lock(&connection.queue);
                            queue.bytes += 2;
                            if queue.bytes > config.max_queued {
                                return CloseCause::Congested;
                            }
                            queue.waiting.push_back(Bytes::from_static(b"\r\n"));
                            events.push_back(TransportEvent::Ping { flow });
                        }
                        Ok(Some(Frame::Pong)) => events.push_back(TransportEvent::Pong { flow }),
                        Ok(None) => break,
                        Err(error) => {
                            end_of_input = Some(CloseCause::Frame(error));
                            break;
                        }
                    }
                    progress = true;
                }
                if !framer.is_partial() {
                    partial_since = None;
                    if chunk == READ_MIN {
                        // Many connections are quiet for long: they need no buffer.
                        *framer.buffer_mut() = BytesMut::from(&framer.buffer_mut()[..]);
                    }
                } else if progress || partial_since.is_none() {
                    partial_since = Some(last_byte);
                }
            }
            () = connection.changed.notified() => {}
            ready = stream.writable(), if !writing.is_empty() => {
                if let Err(error) = ready {
                    return CloseCause::Io(error.kind());
                }
            }
            permit = shared.events.reserve(), if !events.is_empty() => match (permit, events.pop_front()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    last_byte = now();
                    partial_since = partial_since.map(|_| last_byte);
                }
                _ => return CloseCause::Local,
            },
            () = sleep_until(deadline.unwrap_or(last_byte)), if deadline.is_some() => {
                let now = now();
                if partial_since.is_some_and(|at| at + config.partial_timeout <= now) {
                    return CloseCause::Slow;
                }
                if closing_since.is_none() {
                    return CloseCause::Idle;
                }
            }
        }
    }
}

/// Waits for bytes and reads `chunk` of them or a little more at most; nothing is set aside for a connection that is
/// quiet. Cancel safe: nothing was read then.
async fn read_some(
    reader: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    chunk: usize,
) -> io::Result<usize> {
    reader.readable().await?;
    buffer.reserve(chunk);
    reader.read_buf(buffer).await
}

/// Writes what one call takes; returns the number of bytes.
fn write(stream: &TcpStream, writing: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
    let mut count = 0;
    for (slice, bytes) in slices.iter_mut().zip(writing.iter()) {
        *slice = IoSlice::new(bytes);
        count += 1;
    }
    let written = stream.try_write_vectored(&slices[..count])?;
    let mut left = written;
    while let Some(first) = writing.front_mut() {
        if first.len() > left {
            first.advance(left);
            break;
        }
        left -= first.len();
        writing.pop_front();
    }
    Ok(written)
}

#[expect(clippy::disallowed_methods, reason = "driver: timeouts of real connections")]
fn now() -> Instant {
    Instant::now()
}
