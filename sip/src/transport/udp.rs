//! UDP socket driver: one task per socket that receives until dry, copies each datagram into a buffer of its own size
//! and hands it to the channel. Cancel safe at every await: what was not received stays in the socket.
//!
//! If asked for, datagrams that came back with an ICMP error are handed out as well (IP_RECVERR), but only such as
//! carry a branch of ours: what is too short to prove where it comes from is of no use.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::transport::{Flow, TransportEvent};

/// Settings of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// SO_RCVBUF in bytes; the system may give less.
    pub receive_buffer: usize,
    /// Whether datagrams that came back are told of ([`TransportEvent::Returned`]).
    pub returned: bool,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { receive_buffer: 4 << 20, returned: false }
    }
}

/// Datagrams taken before other tasks get a turn.
const BATCH: usize = 64;
/// With IP_RECVERR, an ICMP error about one datagram is also reported by the next call on the socket, whatever that is
/// for: so often it is tried again.
const TRIES: usize = 4;

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
        if config.returned {
            if addr.is_ipv4() {
                setsockopt(&socket, Ipv4RecvErr, &true)?;
            } else {
                setsockopt(&socket, Ipv6RecvErr, &true)?;
            }
        }
        socket.bind(&addr.into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let local = socket.local_addr()?;
        let dropped = Arc::new(AtomicU64::new(0));
        let receiving =
            receive(Arc::clone(&socket), number, config.returned, events, Arc::clone(&dropped));
        let task = tokio::spawn(receiving).abort_handle();
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
        let mut tries = 1;
        loop {
            match self.socket.try_send_to(bytes, to) {
                Err(error) if is_about_another(&error) && tries < TRIES => tries += 1,
                sent => return sent.map(|_| ()),
            }
        }
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

/// Whether an error is what ICMP said about a datagram sent before.
fn is_about_another(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

async fn receive(
    socket: Arc<UdpSocket>,
    number: u16,
    returned: bool,
    events: mpsc::Sender<TransportEvent>,
    dropped: Arc<AtomicU64>,
) {
    let mut buf = vec![0; 65_536];
    let interest = if returned { Interest::READABLE | Interest::ERROR } else { Interest::READABLE };
    loop {
        let Ok(ready) = socket.ready(interest).await else { return };
        for _ in 0..if ready.is_error() { BATCH } else { 0 } {
            let Ok(back) = socket.try_io(Interest::ERROR, || take_returned(&socket, &mut buf))
            else {
                break;
            };
            let Some((peer, bytes)) = back else { continue };
            let event =
                TransportEvent::Returned { flow: Flow::Udp { socket: number, peer }, bytes };
            // One that is lost is one that never came.
            let _ = events.try_send(event);
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

/// Takes one ICMP error from the error queue; `None` if it is not about a request or response of ours to an unreachable
/// port or host.
fn take_returned(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<Option<(SocketAddr, Bytes)>> {
    let mut control = nix::cmsg_space!([u8; 256]);
    let (length, peer, unreachable) = {
        let mut slices = [IoSliceMut::new(buf)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let unreachable = message.cmsgs()?.any(|message| match message {
            // RFC 792: type 3, codes 1 (host) and 3 (port).
            ControlMessageOwned::Ipv4RecvErr(error, _) => matches!(
                (error.ee_origin, error.ee_type, error.ee_code),
                (libc::SO_EE_ORIGIN_ICMP, 3, 1 | 3)
            ),
            // RFC 4443 section 3.1: type 1, codes 3 (address) and 4 (port).
            ControlMessageOwned::Ipv6RecvErr(error, _) => matches!(
                (error.ee_origin, error.ee_type, error.ee_code),
                (libc::SO_EE_ORIGIN_ICMP6, 1, 3 | 4)
            ),
            _ => false,
        });
        (message.bytes, message.address.as_ref().and_then(std_addr), unreachable)
    };
    let bytes = &buf[..length];
    let known = unreachable && memchr::memmem::find(bytes, b"branch=z9hG4bK").is_some();
    Ok(peer.filter(|_| known).map(|peer| (peer, Bytes::copy_from_slice(bytes))))
}

fn std_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}
