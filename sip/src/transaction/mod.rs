//! Transactions without IO (RFC 3261 section 17, RFC 6026, RFC 4320).
//!
//! [`ClientInvite`], [`ClientRequest`], [`ServerInvite`] and [`ServerRequest`] are single transactions; a client and a
//! server transaction know nothing of each other. [`Layer`] holds many and matches messages to them.

mod client;
mod key;
mod layer;
mod server;

use std::time::Duration;

pub use client::{ClientAction, ClientInvite, ClientRequest};
pub use key::{ClientKey, ServerKey};
pub use layer::{ClientId, Destination, Layer, LayerStats, Output, ServerId};
pub use server::{ServerAction, ServerInvite, ServerRequest};

/// The base values that all timers derive from (RFC 3261 section 17.1.1.1 and appendix A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Round-trip estimate: 500 ms.
    pub t1: Duration,
    /// Longest interval between retransmissions of non-INVITE requests and INVITE responses: 4 s.
    pub t2: Duration,
    /// How long a message stays in the network: 5 s.
    pub t4: Duration,
    /// Timer D, over unreliable transports: at least 32 s.
    pub d: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            d: Duration::from_secs(32),
        }
    }
}

impl Timers {
    /// 64*T1: timers B, F, H, J, L and M.
    pub fn timeout(&self) -> Duration {
        self.t1 * 64
    }
}
