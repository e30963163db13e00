//! UDP socket driver: one task per socket that receives until dry, copies each datagram into a buffer of its own size
//! and hands it to the channel. Cancel safe at every await: what was not received stays in the socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::transport::{Flow, TransportEvent};

/// Settings of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// SO_RCVBUF in bytes; the system may give less.
    pub receive_buffer: usize,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { receive_buffer: 4 << 20 }
    }
}

/// Datagrams taken before other tasks get a turn.
const BATCH: usize = 64;

/// One bound UDP socket with a task that receives. Dropping it stops the task.
#[derive(Debug)]
pub struct UdpTransport {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    dropped: Arc<AtomicU64>,
    task: AbortHandle,
}

impl UdpTransport {
    /// Binds and begins to receive into the channel. When the channel is full, datagrams are dropped and counted.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(
        addr: SocketAddr,
        number: u16,
        config: UdpConfig,
        events: mpsc::Sender<TransportEvent>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Best effort: the system caps it without saying so, and a small buffer is no reason not to serve.
        let _ = socket.set_recv_buffer_size(config.receive_buffer);
        socket.bind(&addr.into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let local = socket.local_addr()?;
        let dropped = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(receive(Arc::clone(&socket), number, events, Arc::clone(&dropped)))
            .abort_handle();
        Ok(Self { socket, local, dropped, task })
    }

    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram now; when the socket's buffer is full it is lost, as datagrams are.
    ///
    /// # Errors
    /// Those of the system, `WouldBlock` included.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket.try_send_to(bytes, to).map(|_| ())
    }

    /// Datagrams dropped because the channel was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for UdpTransport {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(
    socket: Arc<UdpSocket>,
    number: u16,
    events: mpsc::Sender<TransportEvent>,
    dropped: Arc<AtomicU64>,
) {
    let mut buf = vec![0; 65_536];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..BATCH {
            let (len, peer) = match socket.try_recv_from(&mut buf) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Errors of earlier sends (ICMP) are reported here; they say nothing about receiving.
                Err(error) => {
                    tracing::debug!(%error, "receiving over UDP");
                    continue;
                }
            };
            let flow = Flow::Udp { socket: number, peer };
            let datagram = &buf[..len];
            let event = if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                if datagram == b"\r\n\r\n" {
                    let _ = socket.try_send_to(b"\r\n", peer);
                }
                TransportEvent::Ping { flow }
            } else if let Some(response) = crate::stun_response(datagram, peer) {
                let _ = socket.try_send_to(&response, peer);
                TransportEvent::Ping { flow }
            } else {
                TransportEvent::Message { flow, bytes: Bytes::copy_from_slice(datagram) }
            };
            match events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
        tokio::task::yield_now().await;
    }
}
