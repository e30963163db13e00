//! The UDP socket under the SCTP stack: datagrams in batches, ICMP errors from the error queue.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{self, Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, recvmsg, sendmmsg,
    setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

const BATCH: usize = 32;
const LARGEST: usize = 65_536;
const BUFFER: usize = 4 << 20;

pub(crate) struct Udp {
    socket: UdpSocket,
    buffers: Vec<u8>,
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
}

/// An ICMP error about a datagram of ours.
pub(crate) struct Unreachable {
    pub(crate) to: SocketAddr,
    /// Port unreachable, as opposed to network or host.
    pub(crate) port: bool,
    /// How the datagram began.
    pub(crate) returned: Vec<u8>,
}

// What the kernel believes of a path's MTU is whatever an ICMP message said, and those need no tag of ours. Our packets
// fit every path (see `EndpointConfig::mtu`): they go out as they are, and an IPv4 router may cut them.
#[derive(Clone, Copy, Debug)]
struct Ipv4MtuDiscover;
#[derive(Clone, Copy, Debug)]
struct Ipv6MtuDiscover;
nix::setsockopt_impl!(
    Ipv4MtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32,
    sockopt::SetStruct<i32>
);
nix::setsockopt_impl!(
    Ipv6MtuDiscover,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    i32,
    sockopt::SetStruct<i32>
);

/// Binds the socket that carries SCTP.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::DGRAM.cloexec().nonblocking(),
        Some(Protocol::UDP),
    )?;
    // Sizes beyond the kernel's limit are cut; bursts then cost retransmissions.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    if addr.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
        setsockopt(&socket, Ipv4MtuDiscover, &libc::IP_PMTUDISC_OMIT)?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
        setsockopt(&socket, Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_OMIT)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

impl Udp {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            buffers: vec![0; BATCH * LARGEST],
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Receives one batch. The answer tells whether another one may be waiting.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(SocketAddr, &[u8])) -> bool {
        let mut slices: Vec<_> =
            self.buffers.chunks_mut(LARGEST).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.socket.as_raw_fd();
        let received =
            match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
            {
                Ok(received) => received,
                // Errors that ICMP caused are reported once here as well; the error queue has the details.
                Err(error) => return error != Errno::EAGAIN,
            };
        let lengths: Vec<_> = received.map(|message| (message.bytes, message.address)).collect();
        for ((length, address), buffer) in lengths.iter().zip(self.buffers.chunks(LARGEST)) {
            if let Some(from) = address.as_ref().and_then(std_addr) {
                each(from, &buffer[..*length]);
            }
        }
        lengths.len() == BATCH
    }

    /// Takes one ICMP error from the error queue; `None` when it is empty.
    pub(crate) fn receive_error(&mut self) -> Option<Option<Unreachable>> {
        let mut control = nix::cmsg_space!([u8; 256]);
        let (length, address, genuine) = {
            let mut slices = [IoSliceMut::new(&mut self.buffers[..LARGEST])];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let message =
                recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags).ok()?;
            let genuine =
                message.cmsgs().ok().into_iter().flatten().find_map(|message| match message {
                    ControlMessageOwned::Ipv4RecvErr(error, _) => unreachable_v4(&error),
                    ControlMessageOwned::Ipv6RecvErr(error, _) => unreachable_v6(&error),
                    _ => None,
                });
            (message.bytes, message.address, genuine)
        };
        let (Some(port), Some(to)) = (genuine, address.as_ref().and_then(std_addr)) else {
            return Some(None);
        };
        Some(Some(Unreachable { to, port, returned: self.buffers[..length].to_vec() }))
    }

    /// Sends a batch from the front. `Ok` tells how many left; 0 means that the socket is full.
    pub(crate) fn send<'a>(
        &mut self,
        datagrams: impl Iterator<Item = &'a (SocketAddr, Vec<u8>)>,
    ) -> Result<usize, Errno> {
        let (addresses, slices): (Vec<_>, Vec<_>) = datagrams
            .take(BATCH)
            .map(|(to, bytes)| (Some(SockaddrStorage::from(*to)), [IoSlice::new(bytes)]))
            .unzip();
        let fd = self.socket.as_raw_fd();
        match sendmmsg(
            fd,
            &mut self.outgoing,
            slices.iter(),
            &addresses,
            [],
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `Some(true)`: port unreachable (RFC 792 type 3 code 3). `Some(false)`: network or host unreachable.
fn unreachable_v4(error: &libc::sock_extended_err) -> Option<bool> {
    let local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, 3, 3) => Some(true),
        (libc::SO_EE_ORIGIN_ICMP, 3, 0 | 1) => Some(false),
        _ if local && error.ee_errno == Errno::EHOSTUNREACH as u32 => Some(false),
        _ => None,
    }
}

/// RFC 4443 type 1: code 4 is the port.
fn unreachable_v6(error: &libc::sock_extended_err) -> Option<bool> {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Some(true),
        (libc::SO_EE_ORIGIN_ICMP6, 1, 0 | 3) => Some(false),
        _ => None,
    }
}

fn std_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}
