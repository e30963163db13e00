//! Elements and the timers of their registrations.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_wire::{PeId, Policy, Transport};

/// One element of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementConfig {
    pub handle: Handle,
    /// Not 0, and the same after a restart: see [`crate::pe_id`].
    pub pe_id: PeId,
    /// Where users reach the service. The ASAP endpoint must be bound to this address (RFC 5352 section 3.1 R1).
    pub transport: Transport<'static>,
    pub policy: Policy<'static>,
    /// Registration life, whole seconds; the registrar drops an element that does not renew before.
    pub lifetime: Duration,
}

impl ElementConfig {
    /// An element that serves on a TCP address: round robin, 30 s.
    pub fn tcp(handle: Handle, pe_id: PeId, addr: SocketAddr) -> Self {
        Self::new(handle, pe_id, Transport::Tcp { port: addr.port(), addr: addr.ip() })
    }

    /// An element that serves on a UDP address: round robin, 30 s.
    pub fn udp(handle: Handle, pe_id: PeId, addr: SocketAddr) -> Self {
        Self::new(handle, pe_id, Transport::Udp { port: addr.port(), addr: addr.ip() })
    }

    /// An element that is reached in a way only its users understand: round robin, 30 s.
    pub fn opaque(handle: Handle, pe_id: PeId, data: impl Into<Vec<u8>>) -> Self {
        Self::new(handle, pe_id, Transport::Opaque(Cow::Owned(data.into())))
    }

    /// An element with any transport: round robin, 30 s.
    pub fn new(handle: Handle, pe_id: PeId, transport: Transport<'static>) -> Self {
        Self {
            handle,
            pe_id,
            transport,
            policy: Policy::RoundRobin,
            lifetime: Duration::from_secs(30),
        }
    }

    /// The same with another policy.
    pub fn with_policy(mut self, policy: Policy<'static>) -> Self {
        self.policy = policy;
        self
    }
}

/// Timers of all elements of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementsConfig {
    /// T2-registration: how long a registrar may take to answer a registration.
    pub t2: Duration,
    /// T3-deregistration.
    pub t3: Duration,
    /// MAX-REG-ATTEMPT: unanswered registrations until the home is given up.
    pub max_attempts: u32,
    /// Stop at MAX-REG-ATTEMPT, as RFC 5352 section 3.1 has it. Otherwise the search goes on for ever.
    pub give_up: bool,
    /// T4-reregistration at most; it is sooner when the registration life is shorter than that plus 20 s.
    pub t4_max: Duration,
    /// A registered element that heard nothing from its home for so long registers again: it may have been removed.
    /// Three keep-alive periods of the registrar. `None`: registrars may not probe at all.
    pub silence: Option<Duration>,
    /// Registrations that many elements would send at the same moment are spread over this.
    pub jitter: Duration,
    /// Changed policy values are registered no more often than this.
    pub update_interval: Duration,
    /// Keep-alives by which another registrar, or the home anew, claims the element lead to a registration with the home,
    /// no more often than this.
    pub nudge_interval: Duration,
    /// First wait after a rejection for lack of resources; doubles up to `retry_max`.
    pub retry_initial: Duration,
    pub retry_max: Duration,
    /// A de-registration that is not confirmed by then is given up; the process wants to stop.
    pub deregister_limit: Duration,
}

impl ElementsConfig {
    /// Timers for telephony.
    pub const fn telephony() -> Self {
        Self {
            t2: Duration::from_secs(1),
            t3: Duration::from_secs(1),
            max_attempts: 2,
            give_up: false,
            t4_max: Duration::from_secs(600),
            silence: Some(Duration::from_secs(3)),
            jitter: Duration::from_millis(100),
            update_interval: Duration::from_secs(1),
            nudge_interval: Duration::from_secs(2),
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            deregister_limit: Duration::from_secs(3),
        }
    }

    /// The values of RFC 5352 section 7.
    pub const fn rfc() -> Self {
        Self {
            t2: Duration::from_secs(30),
            t3: Duration::from_secs(30),
            give_up: true,
            silence: None,
            deregister_limit: Duration::from_secs(90),
            ..Self::telephony()
        }
    }

    /// T4-reregistration: min(10 min, lifetime - 20 s) by RFC 5352 section 7.2. Half of a life that is too short for
    /// that, since the formula would give nothing.
    pub(crate) fn t4(&self, lifetime: Duration) -> Duration {
        let early = Duration::from_secs(20);
        let t4 = if lifetime > 2 * early { lifetime - early } else { lifetime / 2 };
        t4.min(self.t4_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t4_fires_before_the_life_ends() {
        let config = ElementsConfig::rfc();
        for (life, t4) in [(3600, 600), (600, 580), (60, 40), (41, 21), (40, 20), (20, 10), (2, 1)]
        {
            assert_eq!(config.t4(Duration::from_secs(life)), Duration::from_secs(t4), "{life}");
        }
    }
}
