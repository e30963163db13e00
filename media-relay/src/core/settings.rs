//! What a relay is told when it starts.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Settings of a relay.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one; the first serves whoever asks for none.
    pub interfaces: Vec<Interface>,
    pub limits: Limits,
    /// How long an offer may wait for its answer.
    pub offer_timeout: Duration,
    /// How long an answered call may be without a packet.
    pub media_timeout: Duration,
    /// The same for a call on hold.
    pub hold_timeout: Duration,
    /// How long a deleted call goes on forwarding, unless the request says so itself.
    pub delete_delay: Duration,
    /// Drop packets from other sources than the latched one, also if `strict-source` was not asked for.
    pub strict_source: bool,
    /// Whether calls can be recorded.
    pub recording: bool,
    /// An instant, and the microseconds since 1970 then.
    pub epoch: (Instant, u64),
}

/// A network that has parties of calls in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub v4: Option<Local>,
    pub v6: Option<Local>,
}

/// A local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub bind: IpAddr,
    /// What stands in session descriptions: differs behind a one-to-one NAT.
    pub advertised: IpAddr,
}

/// Beyond these, new calls are refused; those that there are go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub sessions: usize,
    /// Bytes a second, in and out.
    pub bandwidth: Option<u64>,
    /// Processor time of the workers, as a fraction of what they could use.
    pub load: Option<f64>,
}

impl Settings {
    /// Defaults for one interface.
    pub fn new(interfaces: Vec<Interface>, epoch: (Instant, u64)) -> Self {
        Self {
            interfaces,
            limits: Limits { sessions: 2_000, bandwidth: None, load: Some(0.9) },
            offer_timeout: Duration::from_secs(240),
            media_timeout: Duration::from_secs(60),
            hold_timeout: Duration::from_secs(3_600),
            delete_delay: Duration::ZERO,
            strict_source: true,
            recording: false,
            epoch,
        }
    }

    /// Microseconds since 1970.
    pub(super) fn wall_micros(&self, now: Instant) -> u64 {
        let (then, micros) = self.epoch;
        micros + now.saturating_duration_since(then).as_micros() as u64
    }

    pub(super) fn wall_seconds(&self, now: Instant) -> u64 {
        self.wall_micros(now) / 1_000_000
    }
}

impl Interface {
    /// The address of the wanted family, or the one that there is.
    pub(super) fn local(&self, v6: bool) -> Option<Local> {
        if v6 { self.v6.or(self.v4) } else { self.v4.or(self.v6) }
    }
}
