//! The tokio side of the core network: the core listener and the connections that [`crate::hops`] dials.
//!
//! [`CoreNet`] owns no task of its own: crate `sip` runs one per connection, all of which report into one bounded channel.
//! Whoever owns a core gives each event of that channel to [`CoreNet::translate`], the result to the core, and the core's
//! outputs to [`CoreNet::dial`], [`CoreNet::write`] and [`CoreNet::close`].
//!
//! [`Pace`] tells the owner's loop when the process stood still.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::transport::{self, Flow, TcpConfig, TcpTransport, TransportEvent};
use tokio::sync::mpsc;

use crate::hops::{ACCEPTED, ConnId};

/// What happened on the core network; `conn` as cores know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreEvent {
    /// A peer opened a connection to the core listener.
    Accepted {
        /// The connection, with [`ACCEPTED`] set.
        conn: ConnId,
        /// Who.
        peer: SocketAddr,
    },
    /// Something came that is no message: a ping, which has been answered, or a pong.
    Activity {
        /// The connection.
        conn: ConnId,
    },
    /// The connection ended or could not be made.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// A connection that was dialled is up.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// A message came.
    Message {
        /// The connection.
        conn: ConnId,
        /// The message as cut out of the stream.
        bytes: Bytes,
    },
}

/// All core connections of a process.
#[derive(Debug)]
pub struct CoreNet {
    tcp: TcpTransport,
    local: Option<IpAddr>,
    dialled: HashMap<transport::ConnId, ConnId>,
    numbers: HashMap<ConnId, transport::ConnId>,
}

/// Bounds of core connections: everybody there is one of us, so a burst may be large; what does not drain is broken.
#[must_use]
pub fn core_tcp_config() -> TcpConfig {
    TcpConfig {
        max_accepted: 4_096,
        max_queued: 32 << 20,
        partial_timeout: Duration::from_secs(5),
        idle_timeout: None,
        connect_timeout: Duration::from_millis(500),
        ..TcpConfig::default()
    }
}

impl CoreNet {
    /// Events go into `events`; connections are dialled from `local` if given.
    #[must_use]
    pub fn new(
        config: TcpConfig,
        local: Option<IpAddr>,
        events: mpsc::Sender<TransportEvent>,
    ) -> Self {
        let tcp = TcpTransport::new(config, events);
        Self { tcp, local, dialled: HashMap::new(), numbers: HashMap::new() }
    }

    /// Listens for other elements; returns the bound address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.tcp.listen(address, 0)
    }

    /// Dials for [`crate::hops::Output::Dial`].
    pub fn dial(&mut self, conn: ConnId, address: SocketAddr) {
        let number = self.tcp.connect(self.local, address);
        self.dialled.insert(number, conn);
        self.numbers.insert(conn, number);
    }

    /// Queues bytes; a connection that is gone or does not drain reports that by [`CoreEvent::Closed`].
    pub fn write(&self, conn: ConnId, bytes: Bytes) {
        if let Some(number) = self.number(conn) {
            // Either error is followed by the event.
            let _ = self.tcp.send(number, bytes);
        }
    }

    /// Closes a connection at once; no event follows.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(number) = self.number(conn) {
            self.tcp.close(number, false);
        }
        if let Some(number) = self.numbers.remove(&conn) {
            self.dialled.remove(&number);
        }
    }

    /// What the transport has counted.
    #[must_use]
    pub fn counters(&self) -> transport::TcpCounters {
        self.tcp.counters()
    }

    /// Connections alive.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tcp.connections()
    }

    /// What an event of the transport means to the core; `None` for those that mean nothing any more.
    pub fn translate(&mut self, event: TransportEvent) -> Option<CoreEvent> {
        match event {
            TransportEvent::Connected { conn, peer, listener: Some(_), .. } => {
                Some(CoreEvent::Accepted { conn: ConnId(ACCEPTED | conn.0), peer })
            }
            TransportEvent::Connected { conn, .. } => {
                self.dialled.get(&conn).map(|conn| CoreEvent::Connected { conn: *conn })
            }
            TransportEvent::Closed { conn, .. } => match self.dialled.remove(&conn) {
                Some(conn) => {
                    self.numbers.remove(&conn);
                    Some(CoreEvent::Closed { conn })
                }
                // Also for dialled connections that we closed: cores ignore what they do not know.
                None => Some(CoreEvent::Closed { conn: ConnId(ACCEPTED | conn.0) }),
            },
            TransportEvent::Message { flow: Flow::Tcp(conn), bytes } => {
                Some(CoreEvent::Message { conn: self.known_as(conn), bytes })
            }
            TransportEvent::Ping { flow: Flow::Tcp(conn) }
            | TransportEvent::Pong { flow: Flow::Tcp(conn) } => {
                Some(CoreEvent::Activity { conn: self.known_as(conn) })
            }
            TransportEvent::Message { .. }
            | TransportEvent::Ping { .. }
            | TransportEvent::Pong { .. }
            | TransportEvent::Returned { .. } => None,
        }
    }

    fn known_as(&self, number: transport::ConnId) -> ConnId {
        self.dialled.get(&number).copied().unwrap_or(ConnId(ACCEPTED | number.0))
    }

    fn number(&self, conn: ConnId) -> Option<transport::ConnId> {
        if conn.is_accepted() {
            Some(transport::ConnId(conn.0 & !ACCEPTED))
        } else {
            self.numbers.get(&conn).copied()
        }
    }
}

/// Notices that the process stood still (stopped, starved, suspended): it wakes up much later than it had asked for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    expected: Instant,
}

impl Pace {
    /// A loop wakes at least this often.
    pub const TICK: Duration = Duration::from_millis(500);

    /// Waking later than this is standing still; others have given us up by then.
    pub const FROZEN: Duration = Duration::from_secs(2);

    /// Starts to watch.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { expected: now + Self::TICK }
    }

    /// Until when the loop may sleep, given the core's deadline. Call it before sleeping.
    pub fn sleep_until(&mut self, now: Instant, deadline: Option<Instant>) -> Instant {
        let tick = now + Self::TICK;
        self.expected = deadline.map_or(tick, |deadline| deadline.clamp(now, tick));
        self.expected
    }

    /// Whether the process stood still before it woke up now.
    #[must_use]
    pub fn stood_still(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.expected) > Self::FROZEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(event: &CoreEvent) -> &'static str {
        match event {
            CoreEvent::Accepted { .. } => "accepted",
            CoreEvent::Activity { .. } => "activity",
            CoreEvent::Closed { .. } => "closed",
            CoreEvent::Connected { .. } => "connected",
            CoreEvent::Message { .. } => "message",
        }
    }

    async fn next(net: &mut CoreNet, events: &mut mpsc::Receiver<TransportEvent>) -> CoreEvent {
        let wait = async {
            loop {
                let event = events.recv().await.expect("an event");
                if let Some(event) = net.translate(event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("an event within 5 s")
    }

    #[tokio::test]
    async fn pings_messages_and_resets_between_two_elements() {
        let (sender, mut server_events) = mpsc::channel(16);
        let mut server = CoreNet::new(core_tcp_config(), None, sender);
        let address = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (sender, mut client_events) = mpsc::channel(16);
        let mut client = CoreNet::new(core_tcp_config(), Some([127, 0, 0, 1].into()), sender);
        let conn = ConnId(1 << 56);
        client.dial(conn, address);
        assert_eq!(next(&mut client, &mut client_events).await, CoreEvent::Connected { conn });
        let accepted = next(&mut server, &mut server_events).await;
        let CoreEvent::Accepted { conn: theirs, .. } = accepted else { panic!("{accepted:?}") };

        client.write(conn, Bytes::from_static(crate::hops::PING));
        assert_eq!(
            next(&mut server, &mut server_events).await,
            CoreEvent::Activity { conn: theirs }
        );
        assert_eq!(next(&mut client, &mut client_events).await, CoreEvent::Activity { conn });
        let message = Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n");
        server.write(theirs, message.clone());
        assert_eq!(
            next(&mut client, &mut client_events).await,
            CoreEvent::Message { conn, bytes: message }
        );
        server.close(theirs);
        assert_eq!(named(&next(&mut client, &mut client_events).await), "closed");
        // Nobody listens there any more.
        drop(server);
        let again = ConnId(1 << 56 | 1);
        client.dial(again, "127.0.0.1:1".parse().unwrap());
        assert_eq!(next(&mut client, &mut client_events).await, CoreEvent::Closed { conn: again });
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn waking_late_is_standing_still() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.sleep_until(now, None), now + Pace::TICK);
        assert!(!pace.stood_still(now + Pace::TICK + Pace::FROZEN));
        assert!(pace.stood_still(now + Pace::TICK + Pace::FROZEN + Duration::from_millis(1)));
    }
}
