//! Metrics of a gateway.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::driver::Status;

/// Describes all metrics once.
pub(crate) fn describe() {
    describe_counter!("dialtone_gateway_requests_total", "what became of requests and messages");
    describe_counter!(
        "dialtone_sip_transport_total",
        "connections that ended for what they sent, or did not"
    );
    describe_gauge!("dialtone_gateway_size", "what the gateway remembers at the moment");
}

/// Publishes the present state.
pub(crate) fn publish(status: &Status) {
    let c = &status.counters;
    for (what, value) in [
        ("broken", c.broken),
        ("delivered", c.delivered),
        ("dropped", status.dropped),
        ("failed-over", c.failed_over),
        ("flow-gone", c.flow_gone),
        ("forwarded", c.forwarded),
        ("no-proxy", c.no_proxy),
        ("orphaned", c.orphaned),
        ("over-bounds", c.over_bounds),
        ("reattached", c.reattached),
        ("refreshed", c.refreshed),
        ("refused", c.refused),
        ("stray", c.stray),
        ("unreachable", c.unreachable),
    ] {
        counter!("dialtone_gateway_requests_total", "what" => what).absolute(value);
    }
    for (listener, counters) in [("core", status.core), ("edge", status.edge)] {
        for (what, value) in counters.iter() {
            counter!("dialtone_sip_transport_total", "listener" => listener, "what" => what)
                .absolute(value);
        }
    }
    let g = &status.gauges;
    for (what, value) in [
        ("clients", g.clients),
        ("deliveries", g.deliveries),
        ("dialogs", g.dialogs),
        ("edge-connections", g.edge_connections),
        ("legs", g.legs),
        ("pinholes", g.pinholes),
        ("servers", g.servers),
        ("unfinished", status.unfinished),
    ] {
        gauge!("dialtone_gateway_size", "what" => what).set(value as f64);
    }
}
