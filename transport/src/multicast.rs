//! Announcements by UDP multicast: how registrars are found without configuration (RFC 5352 2.2.10 and 8.4; presences
//! of RFC 5353 sent to a group, as RFC 5351 3.1 has it in mind and rsplib does it).
//!
//! Datagrams prove nothing about their sender; receivers use them as hints about whom to dial.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Sleep;

/// Longest message with its padding; longer datagrams cannot be received.
const LONGEST: usize = 65_536;

/// After the socket failed, it is read again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Group and port of ASAP_SERVER_ANNOUNCE (RFC 5352 8.4) for the family of `interface`; the IPv6 one stays on the link.
pub fn asap_group(interface: IpAddr) -> SocketAddr {
    let group = match interface {
        IpAddr::V4(_) => Ipv4Addr::new(224, 0, 1, 185).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x133).into(),
    };
    SocketAddr::new(group, crate::ASAP_PORT)
}

/// Group and port of ENRP_PRESENCE for the family of `interface`. RFC 5353 assigns none: rsplib's for IPv4, a transient
/// one of the link for IPv6.
pub fn enrp_group(interface: IpAddr) -> SocketAddr {
    let group = match interface {
        IpAddr::V4(_) => Ipv4Addr::new(239, 0, 0, 51).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x9901).into(),
    };
    SocketAddr::new(group, crate::ENRP_PORT)
}

/// Sends to one group from one interface.
#[derive(Debug)]
pub struct Announcer {
    socket: UdpSocket,
    group: SocketAddr,
}

impl Announcer {
    /// `interface` is the address of the interface to send from, which the datagrams carry as their source; `hops` how
    /// many routers may pass them on, plus one.
    ///
    /// # Errors
    /// The socket could not be set up, for instance since there is no such interface, or it is of another address
    /// family than the group.
    pub fn bind(group: SocketAddr, interface: IpAddr, hops: u32) -> io::Result<Self> {
        let socket = socket(group)?;
        match on(group, interface)? {
            On::V4 { interface, .. } => {
                socket.set_multicast_if_v4(&interface)?;
                socket.set_multicast_ttl_v4(hops)?;
                // Registrar and elements may share a host.
                socket.set_multicast_loop_v4(true)?;
            }
            On::V6 { index, .. } => {
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_hops_v6(hops)?;
                socket.set_multicast_loop_v6(true)?;
            }
        }
        socket.bind(&SocketAddr::new(interface, 0).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, group })
    }

    /// Sends one message; it may get lost.
    ///
    /// # Errors
    /// The operating system refused it.
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.send_to(message, self.group).await.map(drop)
    }

    /// As [`Self::send`], where nobody can wait: a datagram that finds the socket full is lost.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn try_send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.try_send_to(message, self.group).map(drop)
    }
}

/// Hears one group on one interface. Several processes of a host can listen at once.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    buffer: Vec<u8>,
    /// The socket failed and is left alone until this ends.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    /// `interface` is the address of the interface to listen on.
    ///
    /// # Errors
    /// The socket could not be set up or the group not joined.
    pub fn join(group: SocketAddr, interface: IpAddr) -> io::Result<Self> {
        let socket = socket(group)?;
        socket.set_reuse_address(true)?;
        // Bound to the group, so that unicast to this port does not arrive here. Linux would else deliver what any
        // socket of the host joined on any interface.
        match on(group, interface)? {
            On::V4 { group: to, interface } => {
                socket.bind(&group.into())?;
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4(&to, &interface)?;
            }
            On::V6 { group: to, index } => {
                socket.set_only_v6(true)?;
                socket.bind(&std::net::SocketAddrV6::new(to, group.port(), 0, index).into())?;
                socket.set_multicast_all_v6(false)?;
                socket.join_multicast_v6(&to, index)?;
            }
        }
        Ok(Self::on(UdpSocket::from_std(socket.into())?))
    }

    fn on(socket: UdpSocket) -> Self {
        Self { socket, buffer: vec![0; LONGEST], pause: None }
    }

    /// The next message and who sent it. Cancel safe. A socket that fails is read again after a second, since
    /// who was not configured with addresses has nothing else.
    pub async fn receive(&mut self) -> (&[u8], SocketAddr) {
        let (length, from) = loop {
            if let Some(pause) = &mut self.pause {
                pause.await;
                self.pause = None;
            }
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(received) => break received,
                Err(error) => {
                    tracing::warn!(%error, "multicast is not heard; it is tried again");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        };
        (&self.buffer[..length], from)
    }
}

/// A group on an interface.
enum On {
    V4 { group: Ipv4Addr, interface: Ipv4Addr },
    V6 { group: Ipv6Addr, index: u32 },
}

fn on(group: SocketAddr, interface: IpAddr) -> io::Result<On> {
    match (group.ip(), interface) {
        (IpAddr::V4(group), IpAddr::V4(interface)) => Ok(On::V4 { group, interface }),
        (IpAddr::V6(group), IpAddr::V6(interface)) => {
            Ok(On::V6 { group, index: index(interface)? })
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the group {group} and the interface {interface} are of different families"),
        )),
    }
}

/// The index of the interface that has this address.
fn index(address: Ipv6Addr) -> io::Result<u32> {
    let found = getifaddrs()?.find(|interface| {
        let has = interface.address.as_ref().and_then(|storage| storage.as_sockaddr_in6());
        has.is_some_and(|has| has.ip() == address)
    });
    let found = found.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(if_nametoindex(found.interface_name.as_str())?)
}

fn socket(group: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.cloexec().nonblocking();
    Socket::new(Domain::for_address(group), kind, Some(Protocol::UDP))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn everybody_hears(group: SocketAddr, interface: IpAddr) {
        let mut listeners = [(); 2].map(|()| Listener::join(group, interface).unwrap());
        let announcer = Announcer::bind(group, interface, 1).unwrap();
        announcer.send(b"here").await.unwrap();
        let sender = announcer.socket.local_addr().unwrap();
        for listener in &mut listeners {
            let heard = tokio::time::timeout(Duration::from_secs(5), listener.receive());
            let (message, from) = heard.await.expect("nothing heard");
            assert_eq!((message, from.ip(), from.port()), (&b"here"[..], interface, sender.port()));
        }
    }

    #[tokio::test]
    async fn everybody_on_the_interface_hears_it() {
        let group = SocketAddr::new([239, 201, 13, 1].into(), crate::ASAP_PORT);
        everybody_hears(group, Ipv4Addr::LOCALHOST.into()).await;
    }

    /// The same on IPv6. The loopback interface carries no multicast there: an interface that does is taken with a
    /// group of interface-local scope (ff01), which never leaves the host.
    #[tokio::test]
    async fn everybody_on_the_interface_hears_it_over_ipv6() {
        let global = |address: Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
        let multicast = nix::net::if_::InterfaceFlags::IFF_MULTICAST;
        let usable = getifaddrs().unwrap().filter(|found| found.flags.contains(multicast));
        let mut addresses = usable.filter_map(|found| Some(found.address?.as_sockaddr_in6()?.ip()));
        let Some(interface) = addresses.find(|address| global(*address)) else {
            return println!("skipped: no interface with an IPv6 address");
        };
        let group = SocketAddr::new("ff01::113:77".parse().unwrap(), crate::ASAP_PORT);
        everybody_hears(group, interface.into()).await;
    }

    #[tokio::test]
    async fn a_socket_that_fails_is_read_again() {
        let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let socket = UdpSocket::bind(loopback).await.unwrap();
        let (ours, closed) = (socket.local_addr().unwrap(), UdpSocket::bind(loopback).await);
        let there = closed.unwrap().local_addr().unwrap();
        socket.connect(there).await.unwrap();
        socket.send(b"anybody there?").await.unwrap();
        let mut listener = Listener::on(socket);
        // Whoever is called off in between hears no less.
        let soon = tokio::time::timeout(PAUSE / 10, listener.receive()).await;
        soon.expect_err("nobody has spoken");
        assert!(listener.pause.is_some(), "the error was not seen");
        let socket = UdpSocket::bind(there).await.unwrap();
        socket.send_to(b"here", ours).await.unwrap();
        let heard = tokio::time::timeout(PAUSE * 10, listener.receive());
        assert_eq!(heard.await.expect("nothing heard"), (&b"here"[..], there));
    }

    #[tokio::test]
    async fn families_do_not_mix() {
        let error =
            Announcer::bind(asap_group(Ipv6Addr::LOCALHOST.into()), Ipv4Addr::LOCALHOST.into(), 1);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let unknown =
            Listener::join(enrp_group(Ipv6Addr::LOCALHOST.into()), "fd00:dead::1".parse().unwrap());
        assert_eq!(unknown.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
