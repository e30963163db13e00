//! Announcements by UDP multicast: how registrars are found without configuration (RFC 5352 2.2.10 and 8.4).
//!
//! Datagrams prove nothing about their sender; receivers use them as hints about whom to dial.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Group and port of ASAP_SERVER_ANNOUNCE (RFC 5352 8.4).
pub const ASAP_GROUP: SocketAddrV4 =
    SocketAddrV4::new(Ipv4Addr::new(224, 0, 1, 185), crate::ASAP_PORT);

/// Longest message with its padding; longer datagrams cannot be received.
const LONGEST: usize = 65_536;

/// Sends to one group from one interface.
#[derive(Debug)]
pub struct Announcer {
    socket: UdpSocket,
    group: SocketAddr,
}

impl Announcer {
    /// `interface` is the address of the interface to send from; `hops` how many routers may pass it on, plus one.
    ///
    /// # Errors
    /// The socket could not be set up, for instance since there is no such interface.
    pub fn bind(group: SocketAddrV4, interface: Ipv4Addr, hops: u32) -> io::Result<Self> {
        let socket = socket()?;
        socket.set_multicast_if_v4(&interface)?;
        socket.set_multicast_ttl_v4(hops)?;
        // Registrar and elements may share a host.
        socket.set_multicast_loop_v4(true)?;
        socket.bind(&SocketAddr::from((interface, 0)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, group: group.into() })
    }

    /// Sends one message; it may get lost.
    ///
    /// # Errors
    /// The operating system refused it.
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.send_to(message, self.group).await.map(drop)
    }
}

/// Hears one group on one interface. Several processes of a host can listen at once.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Listener {
    /// `interface` is the address of the interface to listen on.
    ///
    /// # Errors
    /// The socket could not be set up or the group not joined.
    pub fn join(group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<Self> {
        let socket = socket()?;
        socket.set_reuse_address(true)?;
        // Bound to the group, so that unicast to this port does not arrive here.
        socket.bind(&SocketAddr::from(group).into())?;
        // Linux would else deliver what any socket of the host joined on any interface.
        socket.set_multicast_all_v4(false)?;
        socket.join_multicast_v4(group.ip(), &interface)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, buffer: vec![0; LONGEST] })
    }

    /// The next message and who sent it. Cancel safe.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn receive(&mut self) -> io::Result<(&[u8], SocketAddr)> {
        let (length, from) = self.socket.recv_from(&mut self.buffer).await?;
        Ok((&self.buffer[..length], from))
    }
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn everybody_on_the_interface_hears_it() {
        let interface = Ipv4Addr::LOCALHOST;
        let group = SocketAddrV4::new(Ipv4Addr::new(239, 201, 13, 1), crate::ASAP_PORT);
        let mut listeners = [(); 2].map(|()| Listener::join(group, interface).unwrap());
        let announcer = Announcer::bind(group, interface, 1).unwrap();
        announcer.send(b"here").await.unwrap();
        for listener in &mut listeners {
            let heard = tokio::time::timeout(Duration::from_secs(5), listener.receive());
            let (message, from) = heard.await.expect("nothing heard").unwrap();
            assert_eq!((message, from), (&b"here"[..], announcer.socket.local_addr().unwrap()));
        }
    }
}
