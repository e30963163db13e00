//! What `/metrics` shows of a relay.

use crate::core::{IgnoredCounts, Sample, Stats};
use crate::plane::Totals;
use crate::record::RecorderTotals;

/// A moment's view of everything that is counted.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) stats: Stats,
    pub(crate) totals: Totals,
    pub(crate) sample: Sample,
    pub(crate) load: f64,
    pub(crate) calls: usize,
    pub(crate) kept_answers: usize,
    /// Pairs of ports, all and free.
    pub(crate) ports: (usize, usize),
    pub(crate) ignored: &'a IgnoredCounts,
    pub(crate) recorder: Option<RecorderTotals>,
}

pub(crate) fn export(figures: &Figures<'_>) {
    let Figures { stats, totals, sample, .. } = figures;
    for (command, count) in [
        ("answer", stats.answers),
        ("delete", stats.deletes),
        ("list", stats.lists),
        ("offer", stats.offers),
        ("ping", stats.pings),
        ("query", stats.queries),
        ("start recording", stats.recording_starts),
        ("stop recording", stats.recording_stops),
        ("statistics", stats.statistics),
        ("unknown", stats.unknown_commands),
    ] {
        metrics::counter!("dialtone_media_relay_requests_total", "command" => command)
            .absolute(count);
    }
    for (name, count) in [
        ("dialtone_media_relay_calls_total", stats.calls),
        ("dialtone_media_relay_errors_total", stats.errors),
        ("dialtone_media_relay_garbage_total", stats.garbage),
        ("dialtone_media_relay_no_ports_total", stats.no_ports),
        ("dialtone_media_relay_recordings_failed_total", stats.recordings_failed),
        ("dialtone_media_relay_refused_total", stats.refused),
        ("dialtone_media_relay_repeated_total", stats.repeated),
        ("dialtone_media_relay_empty_streams_total", stats.empty_streams),
        ("dialtone_media_relay_one_way_streams_total", stats.one_way_streams),
        ("dialtone_media_relay_packets_in_total", totals.packets_in),
        ("dialtone_media_relay_packets_out_total", totals.packets_out),
        ("dialtone_media_relay_bytes_in_total", totals.bytes_in),
        ("dialtone_media_relay_bytes_out_total", totals.bytes_out),
    ] {
        metrics::counter!(name).absolute(count);
    }
    for (reason, count) in [
        ("deleted", stats.deleted),
        ("drained", stats.drained),
        ("silent", stats.silent),
        ("silent-on-hold", stats.silent_on_hold),
        ("unanswered", stats.unanswered),
    ] {
        metrics::counter!("dialtone_media_relay_ended_calls_total", "reason" => reason)
            .absolute(count);
    }
    for (why, count) in [
        ("over-rate", totals.over_rate),
        ("send-error", totals.send_errors),
        ("stranger", totals.strangers),
        ("unexpected", totals.unexpected),
        ("unwanted", totals.unwanted),
    ] {
        metrics::counter!("dialtone_media_relay_dropped_packets_total", "why" => why)
            .absolute(count);
    }
    for (name, count) in figures.ignored.iter() {
        metrics::counter!("dialtone_media_relay_ignored_total", "name" => name.to_owned())
            .absolute(count);
    }
    for (name, value) in [
        ("dialtone_media_relay_calls", figures.calls as f64),
        ("dialtone_media_relay_streams", totals.pairs as f64),
        ("dialtone_media_relay_kept_answers", figures.kept_answers as f64),
        ("dialtone_media_relay_load", figures.load),
        ("dialtone_media_relay_worker_load", sample.load),
        ("dialtone_media_relay_port_pairs", figures.ports.0 as f64),
        ("dialtone_media_relay_port_pairs_free", figures.ports.1 as f64),
    ] {
        metrics::gauge!(name).set(value);
    }
    if let Some(recorder) = figures.recorder {
        metrics::gauge!("dialtone_media_relay_recordings").set(recorder.running as f64);
        for (what, count) in [
            ("beyond-limit", recorder.beyond_limit),
            ("dropped", recorder.dropped),
            ("failed-file", recorder.failed_files),
            ("recorded", recorder.packets),
        ] {
            metrics::counter!("dialtone_media_relay_recorded_packets_total", "what" => what)
                .absolute(count);
        }
    }
}
