//! What `/metrics` shows of a conference server.

use dialtone_sip::transport::TcpCounters;

use crate::core::Focus;
use crate::media::Counters;

pub(crate) fn export(focus: &Focus, media: &Counters, tcp: &TcpCounters) {
    let stats = focus.stats();
    for (name, count) in [
        ("dialtone_conference_calls_total", stats.calls),
        ("dialtone_conference_refused_total", stats.refused),
        ("dialtone_conference_dropped_messages_total", stats.dropped),
        ("dialtone_conference_notifications_total", stats.notified),
        ("dialtone_conference_packets_in_total", media.received),
        ("dialtone_conference_packets_out_total", media.sent),
        ("dialtone_conference_late_beats_total", media.late),
        ("dialtone_conference_left_out_beats_total", media.left_out),
        ("dialtone_conference_unrecorded_seconds_total", media.unrecorded),
    ] {
        metrics::counter!(name).absolute(count);
    }
    for (why, count) in [("full", stats.full), ("no-codec", stats.no_codec)] {
        metrics::counter!("dialtone_conference_refused_calls_total", "why" => why).absolute(count);
    }
    for (why, count) in
        [("expired", stats.expired), ("silent", stats.lost), ("wrong-pin", stats.wrong_pin)]
    {
        metrics::counter!("dialtone_conference_ended_calls_total", "why" => why).absolute(count);
    }
    for (why, count) in [
        ("invalid", media.invalid),
        ("send-error", media.send_errors),
        ("stranger", media.strangers),
    ] {
        metrics::counter!("dialtone_conference_dropped_packets_total", "why" => why)
            .absolute(count);
    }
    for (why, count) in tcp.iter() {
        metrics::counter!("dialtone_conference_closed_connections_total", "why" => why)
            .absolute(count);
    }
    for (name, value) in [
        ("dialtone_conference_rooms", focus.rooms_count() as f64),
        ("dialtone_conference_participants", focus.participants() as f64),
        ("dialtone_conference_load", focus.load()),
    ] {
        metrics::gauge!(name).set(value);
    }
}
