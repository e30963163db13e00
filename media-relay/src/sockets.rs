//! Real ports for the core.

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use crate::core::PortPool;
use crate::plane::{Ports, PortsConfig, Sockets};

/// The ports of all local addresses.
#[derive(Debug)]
pub(crate) struct SocketPool {
    addresses: Vec<Ports>,
}

impl SocketPool {
    pub(crate) fn new(
        addresses: impl IntoIterator<Item = IpAddr>,
        config: &PortsConfig,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let mut pool = Self { addresses: Vec::new() };
        for address in addresses {
            // Two interfaces may stand at one address.
            if pool.of(address).is_none() {
                pool.addresses.push(Ports::new(address, config.clone(), rng));
            }
        }
        pool
    }

    fn of(&mut self, address: IpAddr) -> Option<&mut Ports> {
        self.addresses.iter_mut().find(|ports| ports.address() == address)
    }

    fn have(&mut self, address: IpAddr) -> Result<&mut Ports, String> {
        self.of(address).ok_or_else(|| format!("{address} is not among the interfaces"))
    }

    /// The share of its ports that calls have, of the address where it is largest.
    pub(crate) fn use_share(&mut self, now: Instant) -> f64 {
        self.addresses.iter_mut().map(|ports| ports.use_share(now)).fold(0.0, f64::max)
    }

    /// Pairs of ports that there are, and that are free.
    pub(crate) fn count(&mut self, now: Instant) -> (usize, usize) {
        let counts = self.addresses.iter_mut().map(|ports| (ports.pairs(), ports.available(now)));
        counts.fold((0, 0), |(all, free), (pairs, available)| (all + pairs, free + available))
    }
}

impl PortPool for SocketPool {
    type Sockets = Sockets;
    type Rtcp = UdpSocket;

    fn open(
        &mut self,
        now: Instant,
        address: IpAddr,
        rtcp: bool,
    ) -> Result<(u16, Sockets), String> {
        let opened = self.have(address)?.open(now, rtcp);
        opened.map(|sockets| (sockets.port, sockets)).map_err(|error| error.to_string())
    }

    fn open_rtcp(&mut self, address: IpAddr, port: u16) -> Result<UdpSocket, String> {
        self.have(address)?.open_rtcp(port).map_err(|error| error.to_string())
    }

    fn give_back(&mut self, now: Instant, address: IpAddr, port: u16) {
        if let Some(ports) = self.of(address) {
            ports.give_back(now, port);
        }
    }
}
