//! A UDP port that many streams share. Packets are taken in batches, with the time at which the system received them:
//! so it does not matter when they are looked at.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

const BATCH: usize = 64;

/// Longer packets are cut: none of ours are, and nobody else's are understood.
const LARGEST: usize = 256;

/// What may wait while this process is not run: a quarter of a second at 20,000 packets a second and port.
const BUFFER: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Port {
    socket: UdpSocket,
    local: SocketAddr,
}

impl Port {
    /// An even port of the system's choice: the next one is RTCP's (RFC 3550 section 11).
    pub(super) fn open(address: IpAddr) -> io::Result<Self> {
        for _ in 0..64 {
            let socket = UdpSocket::bind((address, 0))?;
            let local = socket.local_addr()?;
            if local.port() % 2 == 0 {
                socket.set_nonblocking(true)?;
                setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
                setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
                return Ok(Self { socket, local });
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(packet, to).map(drop)
    }
}

/// What batches are received with.
pub(super) struct Batch {
    buffers: Box<[[u8; LARGEST]; BATCH]>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { buffers: Box::new([[0; LARGEST]; BATCH]), headers: headers() }
    }

    /// Takes everything that has arrived at a port: bytes, source, nanoseconds since 1970 (0 if the system did not say).
    pub(super) fn receive(
        &mut self,
        port: &Port,
        mut each: impl FnMut(&[u8], SocketAddr, u64),
    ) -> io::Result<()> {
        loop {
            let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
            let fd = port.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let messages = match recvmmsg(fd, &mut self.headers, slices.iter_mut(), flags, None) {
                Ok(messages) => messages,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let (mut taken, mut untimed) = (0, false);
            for message in messages {
                taken += 1;
                let at = message.cmsgs().ok().and_then(|mut all| all.find_map(timestamp));
                untimed |= at.is_none();
                let bytes = message.iovs().next().unwrap_or_default();
                if let Some(from) = message.address.as_ref().and_then(address) {
                    each(bytes, from, at.unwrap_or_default());
                }
            }
            if untimed {
                // The system has written how much room it used: none, which it would take for how much there is.
                self.headers = headers();
            }
            if taken < BATCH {
                return Ok(());
            }
        }
    }
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(TimeSpec)))
}

fn timestamp(message: ControlMessageOwned) -> Option<u64> {
    match message {
        ControlMessageOwned::ScmTimestampns(time) => {
            let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
            Some((seconds * 1_000_000_000 + nanoseconds).cast_unsigned())
        }
        _ => None,
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "sockets live in real time")]
    fn packets_come_with_their_source_and_time() {
        let ports = [0; 2].map(|_| Port::open(IpAddr::from([127, 0, 0, 1])).unwrap());
        assert!(ports.iter().all(|port| port.local().port() % 2 == 0));
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let before = now();
        for n in 0..200u8 {
            ports[0].send(&vec![n; 20 + usize::from(n)], ports[1].local()).unwrap();
        }
        let after = now();
        let mut batch = Batch::new();
        let mut seen = Vec::new();
        let deadline = after + Duration::from_secs(5);
        while seen.len() < 200 && now() < deadline {
            let each = |bytes: &[u8], from, at| {
                assert_eq!(from, ports[0].local());
                seen.push((bytes.to_vec(), Duration::from_nanos(at)));
            };
            batch.receive(&ports[1], each).unwrap();
        }
        assert_eq!(seen.len(), 200);
        for (n, (bytes, at)) in seen.iter().enumerate() {
            assert_eq!(*bytes, vec![n as u8; 20 + n]);
            assert!(before <= *at && *at <= after);
        }
    }
}
