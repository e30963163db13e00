//! Sockets towards media relays: one for each, connected, so that the system says when nobody listens there.
//!
//! Each has a task that receives into one bounded channel; what finds no room is lost, as datagrams are. Cancel safe: what
//! was not received stays in the socket.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_ng::MAX_DATAGRAM;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Sockets at a time; beyond it the one that was used least lately goes.
const MOST: usize = 256;
/// A socket that was not used for so long goes.
const IDLE: Duration = Duration::from_secs(60);
/// An error that belongs to a datagram sent before is reported by the next call: so often it is tried again.
const TRIES: usize = 3;
/// Datagrams taken before other tasks get a turn.
const BATCH: usize = 64;

/// What comes from relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RelayEvent {
    Datagram {
        from: SocketAddr,
        bytes: Bytes,
    },
    /// Nobody listens there.
    Unreachable {
        relay: SocketAddr,
    },
}

#[derive(Debug)]
struct Channel {
    /// Not tokio's handle, which knows only after a while that a new socket can be written to.
    socket: std::net::UdpSocket,
    used_at: Instant,
    task: AbortHandle,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct RelaySockets {
    local: IpAddr,
    channels: HashMap<SocketAddr, Channel>,
    events: mpsc::Sender<RelayEvent>,
}

impl RelaySockets {
    /// Sockets are bound to `local`.
    pub(crate) fn new(local: IpAddr, events: mpsc::Sender<RelayEvent>) -> Self {
        Self { local, channels: HashMap::new(), events }
    }

    /// Sends now; what finds no room in the socket is lost.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, bytes: &[u8]) {
        let channel = match self.channel(now, to) {
            Ok(channel) => channel,
            Err(error) => return tracing::debug!(relay = %to, %error, "no socket towards a relay"),
        };
        let mut unreachable = false;
        for _ in 0..TRIES {
            match channel.socket.send(bytes) {
                Err(error) if is_unreachable(&error) => unreachable = true,
                Err(error) => {
                    tracing::debug!(relay = %to, %error, "datagram not sent");
                    break;
                }
                Ok(_) => break,
            }
        }
        if unreachable {
            // What was sent before has come back. A message that finds no room is one that never came.
            let _ = self.events.try_send(RelayEvent::Unreachable { relay: to });
        }
    }

    fn channel(&mut self, now: Instant, to: SocketAddr) -> io::Result<&Channel> {
        if !self.channels.contains_key(&to) {
            if self.channels.len() >= MOST
                && let Some(oldest) = self
                    .channels
                    .iter()
                    .min_by_key(|(_, channel)| channel.used_at)
                    .map(|(to, _)| *to)
            {
                self.channels.remove(&oldest);
            }
            let socket = std::net::UdpSocket::bind((self.local, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(to)?;
            let receiving = UdpSocket::from_std(socket.try_clone()?)?;
            let task = tokio::spawn(receive(receiving, to, self.events.clone()));
            let channel = Channel { socket, used_at: now, task: task.abort_handle() };
            self.channels.insert(to, channel);
        }
        let channel = self.channels.get_mut(&to).ok_or(io::ErrorKind::NotConnected)?;
        channel.used_at = now;
        Ok(channel)
    }

    /// Closes what is not used any more.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.channels.retain(|_, channel| now.saturating_duration_since(channel.used_at) < IDLE);
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

async fn receive(socket: UdpSocket, relay: SocketAddr, events: mpsc::Sender<RelayEvent>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // What came back with ICMP makes a socket ready, too, but not readable.
        let Ok(ready) = socket.ready(Interest::READABLE | Interest::ERROR).await else { return };
        let mut unreachable = ready.is_error() && was_unreachable(&socket);
        for _ in 0..BATCH {
            let event = match socket.try_recv(&mut buffer) {
                Ok(length) => RelayEvent::Datagram {
                    from: relay,
                    bytes: Bytes::copy_from_slice(&buffer[..length]),
                },
                Err(error) if is_unreachable(&error) => {
                    unreachable = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%relay, %error, "cannot receive from a relay");
                    return;
                }
            };
            if let Err(mpsc::error::TrySendError::Closed(_)) = events.try_send(event) {
                return;
            }
        }
        if unreachable {
            let _ = events.try_send(RelayEvent::Unreachable { relay });
        }
        tokio::task::yield_now().await;
    }
}

/// Takes the errors that wait in the socket, until there is none: it would stay ready else.
fn was_unreachable(socket: &UdpSocket) -> bool {
    let take = || socket.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
    let errors = std::iter::from_fn(|| socket.try_io(Interest::ERROR, take).ok());
    errors.filter(is_unreachable).count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    /// Of this thread so far.
    fn run_time() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn answers_and_absence_are_told() {
        let (sender, mut events) = mpsc::channel(16);
        let mut sockets = RelaySockets::new([127, 0, 0, 1].into(), sender);
        let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = relay.local_addr().unwrap();
        let now = now();
        sockets.send(now, address, b"question");
        let mut buffer = [0; 64];
        let receiving = tokio::time::timeout(LIMIT, relay.recv_from(&mut buffer));
        let (length, from) = receiving.await.unwrap().unwrap();
        assert_eq!(&buffer[..length], b"question");
        relay.send_to(b"answer", from).await.unwrap();
        let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
        let bytes = Bytes::from_static(b"answer");
        assert_eq!(event, Some(RelayEvent::Datagram { from: address, bytes }));
        // Nobody else is listened to.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"lie", from).await.unwrap();
        drop(relay);
        sockets.send(now, address, b"question");
        let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
        assert_eq!(event, Some(RelayEvent::Unreachable { relay: address }));
        // Told once, and then there is nothing to do.
        let busy = run_time();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let busy = run_time() - busy;
        assert!(busy < Duration::from_millis(50), "{busy:?}");
        sockets.tidy(now + IDLE);
        assert!(sockets.channels.is_empty());
    }
}
