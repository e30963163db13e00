//! Local ports for media: pairs of an even port for RTP and the odd one above it for RTCP, on one address.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Ports in use by somebody else that are tried and put aside before giving up.
const ATTEMPTS: usize = 32;

/// How sockets for media are made.
#[derive(Clone, Debug)]
pub struct PortsConfig {
    /// Only whole pairs (even, odd) inside it are used.
    pub range: RangeInclusive<u16>,
    /// How long a port that was given back stays unused, so that late packets of its last call do not reach the next.
    pub quarantine: Duration,
    /// SO_RCVBUF of each socket in bytes, which the kernel doubles; `None` leaves the system's default.
    pub receive_buffer: Option<usize>,
    /// Type of service of what is sent (IPv4 TOS, IPv6 traffic class); 184 is expedited forwarding.
    pub tos: Option<u8>,
}

impl Default for PortsConfig {
    fn default() -> Self {
        Self {
            range: 30_000..=39_999,
            quarantine: Duration::from_secs(10),
            receive_buffer: Some(64 << 10),
            tos: None,
        }
    }
}

/// Why there are no sockets. Nothing has been taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("all {pairs} port pairs of {address} are in use or in quarantine")]
    Exhausted { address: IpAddr, pairs: usize },
    #[error("cannot open a media socket on {address}: {error}")]
    Io { address: IpAddr, error: io::Error },
}

/// The free ports of one address: a queue in random order, so that the port that was free for longest comes next.
#[derive(Debug)]
pub struct Ports {
    address: IpAddr,
    config: PortsConfig,
    free: VecDeque<u16>,
    /// In the order in which they become free.
    resting: VecDeque<(Instant, u16)>,
    pairs: usize,
}

/// The sockets of one end. Closing them does not give the port back: that is for who took it to do.
#[derive(Debug)]
pub struct Sockets {
    pub rtp: UdpSocket,
    pub rtcp: Option<UdpSocket>,
    /// The even port, with which both are given back.
    pub port: u16,
}

impl Ports {
    pub fn new(address: IpAddr, config: PortsConfig, rng: &mut fastrand::Rng) -> Self {
        let (first, last) = (*config.range.start(), *config.range.end());
        let mut free: Vec<u16> = (first..last).filter(|port| port % 2 == 0 && *port != 0).collect();
        rng.shuffle(&mut free);
        let pairs = free.len();
        Self { address, config, free: free.into(), resting: VecDeque::new(), pairs }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// All port pairs that there are.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Port pairs that could be taken at `now`.
    pub fn available(&mut self, now: Instant) -> usize {
        self.rested(now);
        self.free.len()
    }

    /// The share of the port pairs that calls have; all of them if none could be taken at `now`.
    pub fn use_share(&mut self, now: Instant) -> f64 {
        let free = self.available(now);
        if free == 0 {
            return 1.0;
        }
        (self.pairs - free - self.resting.len()) as f64 / self.pairs as f64
    }

    /// Takes a port pair and binds it; without `rtcp` the odd port stays taken and unbound.
    ///
    /// # Errors
    /// No free port, or the operating system's reason (descriptors, memory, address not of this machine). A port that
    /// somebody else uses is put aside as if it had been given back, and the next one is tried.
    pub fn open(&mut self, now: Instant, rtcp: bool) -> Result<Sockets, OpenError> {
        self.rested(now);
        let address = self.address;
        for _ in 0..ATTEMPTS {
            let Some(port) = self.free.pop_front() else { break };
            let bound = self.bind(port).and_then(|rtp| {
                let rtcp = if rtcp { Some(self.bind(port + 1)?) } else { None };
                Ok(Sockets { rtp, rtcp, port })
            });
            match bound {
                Ok(sockets) => return Ok(sockets),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    self.give_back(now, port);
                }
                Err(error) => {
                    self.free.push_front(port);
                    return Err(OpenError::Io { address, error });
                }
            }
        }
        Err(OpenError::Exhausted { address, pairs: self.pairs })
    }

    /// Binds the RTCP port of a pair that is taken and was opened without, or whose RTCP socket was closed since.
    ///
    /// # Errors
    /// As [`Ports::open`]; the pair stays taken.
    pub fn open_rtcp(&self, port: u16) -> Result<UdpSocket, OpenError> {
        self.bind(port + 1).map_err(|error| OpenError::Io { address: self.address, error })
    }

    /// Gives back the pair with that even port, once its sockets are closed.
    pub fn give_back(&mut self, now: Instant, port: u16) {
        self.resting.push_back((now + self.config.quarantine, port));
    }

    fn rested(&mut self, now: Instant) {
        while let Some((until, port)) = self.resting.front().copied() {
            if until > now {
                break;
            }
            self.resting.pop_front();
            self.free.push_back(port);
        }
    }

    fn bind(&self, port: u16) -> io::Result<UdpSocket> {
        let address = SocketAddr::new(self.address, port);
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.cloexec().nonblocking(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if let Some(bytes) = self.config.receive_buffer {
            // What goes beyond the system's limit is cut by the kernel.
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(tos) = self.config.tos {
            if address.is_ipv6() {
                socket.set_tclass_v6(tos.into())?;
            } else {
                socket.set_tos_v4(tos.into())?;
            }
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    }
}
