//! Where the core gets sockets from: it decides which are needed, somebody else opens them.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Instant;

/// Sockets for media, in pairs of an even port for RTP and the odd one above it for RTCP.
pub trait PortPool {
    /// The sockets of one end.
    type Sockets: Debug;
    /// One socket for RTCP.
    type Rtcp: Debug;

    /// Takes a pair of ports on a local address. Without `rtcp` the odd port stays unused, but nobody else's.
    ///
    /// # Errors
    /// Nothing has been taken; the text is for the log.
    fn open(
        &mut self,
        now: Instant,
        address: IpAddr,
        rtcp: bool,
    ) -> Result<(u16, Self::Sockets), String>;

    /// Opens the odd port of a pair that is taken.
    ///
    /// # Errors
    /// The pair stays taken; the text is for the log.
    fn open_rtcp(&mut self, address: IpAddr, port: u16) -> Result<Self::Rtcp, String>;

    /// Gives a pair back whose sockets are closed.
    fn give_back(&mut self, now: Instant, address: IpAddr, port: u16);
}
