//! Metrics of a registrar.

use dialtone_transport::Endpoint;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::core::{Counters, Event, Snapshot};

/// Handles of all metrics that have no label of the moment.
pub(crate) struct Metrics {
    registrations: Counter,
    deregistrations: Counter,
    resolutions: Counter,
    resolutions_negative: Counter,
    pushes: Counter,
    keep_alives: Counter,
    reports: Counter,
    reports_limited: Counter,
    requests_limited: Counter,
    hung_up: Counter,
    associations_refused: Counter,
    subscriptions_refused: Counter,
    foreign_deletes: Counter,
    dropped: Counter,
    unprotected: Counter,
    elements: Gauge,
    owned: Gauge,
    pools: Gauge,
    peers: Gauge,
    clients: Gauge,
    subscriptions: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_counter!(
            "dialtone_registrar_registrations_total",
            "registrations and re-registrations granted"
        );
        describe_counter!("dialtone_registrar_rejects_total", "registrations refused, by reason");
        describe_counter!(
            "dialtone_registrar_removals_total",
            "own elements removed or moved away, by reason"
        );
        describe_counter!("dialtone_registrar_resolutions_total", "handle resolutions answered");
        describe_counter!(
            "dialtone_registrar_takeovers_total",
            "takeovers, by what became of them"
        );
        describe_counter!(
            "dialtone_registrar_resyncs_total",
            "resyncs with peers, by what became of them"
        );
        describe_counter!(
            "dialtone_registrar_requests_limited_total",
            "messages dropped since their address has sent too many"
        );
        describe_counter!(
            "dialtone_registrar_hung_up_total",
            "associations ended since too many messages went on"
        );
        describe_counter!(
            "dialtone_registrar_associations_refused_total",
            "associations refused since their address has too many"
        );
        describe_counter!(
            "dialtone_registrar_subscriptions_refused_total",
            "resolutions answered without the subscription that they asked for"
        );
        describe_gauge!("dialtone_registrar_elements", "elements in all pools");
        describe_gauge!(
            "dialtone_registrar_owned_elements",
            "elements whose home this registrar is"
        );
        describe_gauge!("dialtone_registrar_peers", "peers that are active");
        Self {
            registrations: counter!("dialtone_registrar_registrations_total"),
            deregistrations: counter!("dialtone_registrar_deregistrations_total"),
            resolutions: counter!("dialtone_registrar_resolutions_total"),
            resolutions_negative: counter!("dialtone_registrar_resolutions_negative_total"),
            pushes: counter!("dialtone_registrar_pushes_total"),
            keep_alives: counter!("dialtone_registrar_keep_alives_total"),
            reports: counter!("dialtone_registrar_unreachable_reports_total"),
            reports_limited: counter!("dialtone_registrar_unreachable_reports_limited_total"),
            requests_limited: counter!("dialtone_registrar_requests_limited_total"),
            hung_up: counter!("dialtone_registrar_hung_up_total"),
            associations_refused: counter!("dialtone_registrar_associations_refused_total"),
            subscriptions_refused: counter!("dialtone_registrar_subscriptions_refused_total"),
            foreign_deletes: counter!("dialtone_registrar_foreign_deletes_total"),
            dropped: counter!("dialtone_registrar_messages_dropped_total"),
            unprotected: counter!("dialtone_registrar_messages_unprotected_total"),
            elements: gauge!("dialtone_registrar_elements"),
            owned: gauge!("dialtone_registrar_owned_elements"),
            pools: gauge!("dialtone_registrar_pools"),
            peers: gauge!("dialtone_registrar_peers"),
            clients: gauge!("dialtone_registrar_clients"),
            subscriptions: gauge!("dialtone_registrar_subscriptions"),
        }
    }

    /// What is counted by name.
    pub(crate) fn event(&self, event: &Event) {
        let count = |name: &'static str, key: &'static str, value: &'static str| {
            counter!(name, key => value).increment(1);
        };
        match event {
            Event::Rejected { reason, .. } => {
                count("dialtone_registrar_rejects_total", "cause", reason.name())
            }
            Event::Removed { reason, .. } => {
                count("dialtone_registrar_removals_total", "reason", reason.name())
            }
            Event::ResyncStarted { .. } => {
                count("dialtone_registrar_resyncs_total", "step", "started")
            }
            Event::ResyncDone { .. } => count("dialtone_registrar_resyncs_total", "step", "done"),
            Event::ResyncFailed { .. } => {
                count("dialtone_registrar_resyncs_total", "step", "failed")
            }
            Event::TakeoverStarted { .. } => {
                count("dialtone_registrar_takeovers_total", "step", "started")
            }
            Event::TakeoverLost { .. } => {
                count("dialtone_registrar_takeovers_total", "step", "lost")
            }
            Event::TakeoverWon { .. } => count("dialtone_registrar_takeovers_total", "step", "won"),
            Event::TakenOver { .. } => {
                count("dialtone_registrar_takeovers_total", "step", "by-peer")
            }
            Event::PoolConflict { .. } => {
                counter!("dialtone_registrar_pool_conflicts_total").increment(1)
            }
            Event::Starved { .. } => counter!("dialtone_registrar_starved_total").increment(1),
            _ => {}
        }
    }

    pub(crate) fn totals(&self, counters: &Counters, snapshot: &Snapshot, endpoint: &Endpoint) {
        self.registrations.absolute(counters.registrations);
        self.deregistrations.absolute(counters.deregistrations);
        self.resolutions.absolute(counters.resolutions);
        self.resolutions_negative.absolute(counters.resolutions_negative);
        self.pushes.absolute(counters.pushes);
        self.keep_alives.absolute(counters.keep_alives);
        self.reports.absolute(counters.reports);
        self.reports_limited.absolute(counters.reports_limited);
        self.requests_limited.absolute(counters.requests_limited);
        self.hung_up.absolute(counters.hung_up);
        self.associations_refused.absolute(counters.associations_refused);
        self.subscriptions_refused.absolute(counters.subscriptions_refused);
        self.foreign_deletes.absolute(counters.foreign_deletes);
        self.dropped.absolute(counters.dropped);
        self.unprotected.absolute(counters.unprotected);
        self.elements.set(snapshot.elements as f64);
        self.owned.set(snapshot.owned as f64);
        self.pools.set(snapshot.pools as f64);
        self.peers.set(snapshot.peers.iter().filter(|peer| peer.status == "active").count() as f64);
        self.clients.set(snapshot.clients as f64);
        self.subscriptions.set(snapshot.subscriptions as f64);
        for (name, value) in endpoint.counters().iter() {
            counter!("dialtone_transport_total", "what" => name).absolute(value);
        }
    }
}
