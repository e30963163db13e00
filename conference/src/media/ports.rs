//! Sockets for media: an even port for RTP and the odd one above it for RTCP.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes that a socket may hold: about a second of one participant.
const BUFFER: usize = 32 * 1024;

/// Takes ports in turn, so that a port that was given back rests for long. Shared by all threads.
#[derive(Debug)]
pub(super) struct Ports {
    address: IpAddr,
    first: u16,
    pairs: u32,
    next: AtomicU32,
}

/// RTP and RTCP.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) rtp: UdpSocket,
    pub(super) rtcp: UdpSocket,
    pub(super) address: SocketAddr,
}

impl Ports {
    pub(super) fn new(address: IpAddr, ports: &RangeInclusive<u16>) -> Self {
        let first = ports.start().next_multiple_of(2);
        let pairs = (u32::from(*ports.end()) + 1).saturating_sub(first.into()) / 2;
        Self { address, first, pairs, next: AtomicU32::new(0) }
    }

    /// A free pair. Ports that others hold are passed over.
    pub(super) fn take(&self) -> io::Result<Pair> {
        for _ in 0..self.pairs {
            let pair = self.next.fetch_add(1, Ordering::Relaxed) % self.pairs;
            // Both lie within the range.
            let port = self.first + (2 * pair) as u16;
            match (self.bind(port), self.bind(port + 1)) {
                (Ok(rtp), Ok(rtcp)) => {
                    let address = SocketAddr::new(self.address, port);
                    return Ok(Pair { rtp, rtcp, address });
                }
                (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn bind(&self, port: u16) -> io::Result<UdpSocket> {
        let address = SocketAddr::new(self.address, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }
}

/// Another socket at the port of this one, which gets what comes from this address instead of it.
pub(super) fn connect(socket: &UdpSocket, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = SockRef::from(socket);
    let connected = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    connected.set_nonblocking(true)?;
    connected.set_recv_buffer_size(BUFFER)?;
    // Both must allow it while the second one is bound. Later neither does: the port is nobody else's.
    socket.set_reuse_address(true)?;
    connected.set_reuse_address(true)?;
    let bound = socket.local_addr().and_then(|address| connected.bind(&address));
    socket.set_reuse_address(false)?;
    connected.set_reuse_address(false)?;
    bound?;
    connected.connect(&peer.into())?;
    Ok(connected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_even_and_run_out() {
        let address: IpAddr = "127.0.0.1".parse().expect("address");
        // Some range that is free just now.
        let probe = UdpSocket::bind((address, 0)).expect("a port");
        let base = probe.local_addr().expect("address").port().clamp(2000, 60_000);
        let ports = Ports::new(address, &(base + 101..=base + 108));
        let taken: Vec<Pair> = std::iter::from_fn(|| ports.take().ok()).collect();
        assert!((1..=4).contains(&taken.len()), "{}", taken.len());
        for pair in &taken {
            assert_eq!(pair.address.port() % 2, 0);
            let rtcp = pair.rtcp.local_addr().expect("address");
            assert_eq!(rtcp.port(), pair.address.port() + 1);
        }
        drop(taken);
        assert!(ports.take().is_ok(), "given back");
    }

    #[test]
    fn a_connected_socket_gets_what_is_its_own_and_the_other_one_the_rest() {
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (open, peer, stranger) = (socket(), socket(), socket());
        open.set_nonblocking(true).expect("non-blocking");
        let (here, there) =
            [&open, &peer].map(|socket| socket.local_addr().expect("address")).into();
        let connected = connect(&open, there).expect("connected");
        peer.send_to(b"peer", here).expect("sent");
        stranger.send_to(b"stranger", here).expect("sent");
        let take = |socket: &UdpSocket| {
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer);
            length.map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned()).ok()
        };
        assert_eq!([&connected, &open].map(take), ["peer", "stranger"].map(|who| Some(who.into())));
        assert_eq!([&connected, &open].map(take), [None, None]);
        connected.send(b"hello").expect("sent");
        let (_, from) = peer.recv_from(&mut [0; 100]).expect("received");
        assert_eq!(from, here);
        // The port is taken, even for those who would share it.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        other.set_reuse_address(true).expect("allowed");
        assert!(other.bind(&here.into()).is_err());
        // Without it everything comes to the other one again.
        drop(connected);
        peer.send_to(b"peer", here).expect("sent");
        assert_eq!(take(&open), Some("peer".into()));
    }
}
