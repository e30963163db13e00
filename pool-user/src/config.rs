//! Timers of resolution and failure reports.

use std::time::Duration;

/// How a process resolves pool handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersConfig {
    /// T1-ENRPrequest: how long a registrar may take to answer.
    pub t1: Duration,
    /// MAX-REQUEST-RETRANSMIT: then the home is given up and whoever asked once gets an error.
    pub max_retransmit: u32,
    /// How long a single question may take over all registrars.
    pub resolve_limit: Duration,
    /// stale.cache.value: how long the answer to a single question stays good for the next one.
    pub stale_after: Duration,
    /// A subscribed pool is asked for again this often: it proves that the home still lives.
    pub refresh: Duration,
    /// A watched pool is asked for this often when the registrar grants no subscription.
    pub poll_interval: Duration,
    /// A watched pool that is unknown is asked for this often: a negative answer leaves no subscription.
    pub negative_retry: Duration,
    /// A registrar that started just now knows nothing, and learns its elements one by one. What the former home knew
    /// and the new one does not stays known for so long: a pool that it denies as a whole, marked stale; single
    /// members out of the order, so that selection prefers the others.
    pub negative_hold: Duration,
    /// Reports about one element within this time are one report (RFC 5352 section 3.5), and the element stays
    /// suspect for so long unless it answers.
    pub suspicion: Duration,
}

impl UsersConfig {
    /// Timers for telephony.
    pub const fn telephony() -> Self {
        Self {
            t1: Duration::from_secs(1),
            max_retransmit: 2,
            resolve_limit: Duration::from_secs(3),
            stale_after: Duration::from_secs(1),
            refresh: Duration::from_secs(3),
            poll_interval: Duration::from_secs(1),
            negative_retry: Duration::from_millis(500),
            negative_hold: Duration::from_secs(3),
            suspicion: Duration::from_secs(5),
        }
    }

    /// The values of RFC 5352 section 7; where it has none, what fits to them.
    pub const fn rfc() -> Self {
        Self {
            t1: Duration::from_secs(15),
            resolve_limit: Duration::from_secs(60),
            stale_after: Duration::from_secs(30),
            refresh: Duration::from_secs(60),
            poll_interval: Duration::from_secs(30),
            negative_retry: Duration::from_secs(5),
            negative_hold: Duration::from_secs(10),
            suspicion: Duration::from_secs(30),
            max_retransmit: 2,
        }
    }
}
