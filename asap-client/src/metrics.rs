//! Metrics of an agent, copied from the core's totals.

use dialtone_transport::Counters as TransportCounters;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::core::Counters;

/// Handles of all metrics.
pub(crate) struct Metrics {
    home: Gauge,
    hunts: Counter,
    homes_found: Counter,
    homes_lost: Counter,
    adoptions: Counter,
    messages: Counter,
    dropped: Counter,
    refused: Counter,
    /// In the order of [`TransportCounters::iter`].
    transport: Vec<Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_gauge!(
            "dialtone_asap_home",
            "1 with a home registrar, 0 while hunting without one"
        );
        describe_counter!("dialtone_asap_hunts_total", "server hunts begun");
        describe_counter!("dialtone_asap_homes_found_total", "registrars that became the home");
        describe_counter!("dialtone_asap_homes_lost_total", "homes that ended or were given up");
        describe_counter!(
            "dialtone_asap_adoptions_total",
            "homes that claimed this process after a takeover"
        );
        describe_counter!("dialtone_asap_messages_total", "messages from registrars");
        describe_counter!(
            "dialtone_asap_messages_dropped_total",
            "messages malformed or of no business here"
        );
        describe_counter!(
            "dialtone_asap_associations_refused_total",
            "associations from registrars beyond the limit"
        );
        Self {
            home: gauge!("dialtone_asap_home"),
            hunts: counter!("dialtone_asap_hunts_total"),
            homes_found: counter!("dialtone_asap_homes_found_total"),
            homes_lost: counter!("dialtone_asap_homes_lost_total"),
            adoptions: counter!("dialtone_asap_adoptions_total"),
            messages: counter!("dialtone_asap_messages_total"),
            dropped: counter!("dialtone_asap_messages_dropped_total"),
            refused: counter!("dialtone_asap_associations_refused_total"),
            transport: TransportCounters::default()
                .iter()
                .map(|(name, _)| counter!("dialtone_transport_total", "what" => name))
                .collect(),
        }
    }

    pub(crate) fn totals(
        &self,
        counters: &Counters,
        transport: &TransportCounters,
        has_home: bool,
    ) {
        self.home.set(f64::from(u8::from(has_home)));
        self.hunts.absolute(counters.hunts);
        self.homes_found.absolute(counters.homes_found);
        self.homes_lost.absolute(counters.homes_lost);
        self.adoptions.absolute(counters.adoptions);
        self.messages.absolute(counters.messages);
        self.dropped.absolute(counters.malformed + counters.unexpected);
        self.refused.absolute(counters.refused);
        for (counter, (_, value)) in self.transport.iter().zip(transport.iter()) {
            counter.absolute(value);
        }
    }
}
