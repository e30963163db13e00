//! What `query`, `delete` and `statistics` tell, in rtpengine's words.

use std::net::SocketAddr;
use std::time::Instant;

use dialtone_ng::message::{Outcome, ReplyEncoder};
use dialtone_ng::report::{
    CallReport, Counters, MediaReport, Quality, SsrcReport, StreamReport, TagReport, Workload,
};

use super::call::{Call, End, Leg, Media, Pair, Party};
use super::end::{loss, opinion, round_trip, worst_jitter};
use super::{PortPool, Relay, Stats};
use crate::plane::{EndStats, Kind, PairId, PairStats, Side};

/// The tag of whoever has none yet.
const NOBODY: &[u8] = b"";

type Known = [(PairId, Box<PairStats>)];

impl<P: PortPool> Relay<P> {
    /// The answer about a call, or about those of its legs that a party with this tag has.
    pub(super) fn describe(
        &self,
        call: &Call,
        tag: Option<&[u8]>,
        known: &Known,
        cookie: &[u8],
    ) -> Vec<u8> {
        let wall_micros = self.settings.wall_micros(call.created);
        let mut report = CallReport {
            created: wall_micros / 1_000_000,
            created_us: (wall_micros % 1_000_000) as u32,
            last_signal: self.settings.wall_seconds(call.last_signal),
            rtp: Counters { packets: call.past.packets, bytes: call.past.bytes, errors: 0 },
            rtcp: Counters {
                packets: call.past.rtcp_packets,
                bytes: call.past.rtcp_bytes,
                errors: 0,
            },
            ..CallReport::default()
        };
        for leg in call.legs.iter().filter(|leg| tag.is_none_or(|tag| leg.has(tag))) {
            for (side, party) in leg.parties() {
                report.tags.push(self.describe_party(leg, side, party, known));
            }
            if leg.answerers.is_empty() {
                report.tags.push(self.describe_nobody(leg, known));
            }
            for pair in leg.pairs() {
                let Some(stats) = stats_of(known, pair) else { continue };
                for side in [Side::Offerer, Side::Answerer] {
                    let (end, other) =
                        (&stats.ends[side as usize], &stats.ends[side.other() as usize]);
                    report.rtp.packets += end.packets;
                    report.rtp.bytes += end.bytes;
                    report.rtp.errors += errors(end);
                    report.rtcp.packets += end.rtcp_packets;
                    report.rtcp.bytes += end.rtcp_bytes;
                    report.ssrcs.extend(self.describe_source(end, other));
                }
            }
        }
        let mut reply = ReplyEncoder::with_capacity(cookie, 2_048);
        report.write(&mut reply.dict());
        reply.finish(Outcome::Ok).unwrap_or_else(|_| {
            // So many streams: without them it fits.
            report.tags.clear();
            report.ssrcs.clear();
            let mut reply = ReplyEncoder::new(cookie);
            report.write(&mut reply.dict());
            reply.dict().bytes("warning", "Reply too long for a datagram: tags left out");
            let short = reply.finish(Outcome::Ok);
            short.unwrap_or_else(|_| ReplyEncoder::error(cookie, "Reply too long for a datagram"))
        })
    }

    fn describe_party<'a>(
        &self,
        leg: &'a Leg,
        side: Side,
        party: &'a Party,
        known: &Known,
    ) -> TagReport<'a> {
        let has_ports = match side {
            Side::Offerer => true,
            Side::Answerer => leg.answerers.last().is_some_and(|last| std::ptr::eq(last, party)),
        };
        let partner = match side {
            Side::Offerer => Some(leg.answerers.last().map_or(NOBODY, |party| &*party.tag)),
            Side::Answerer => Some(&*leg.offerer.tag).filter(|_| has_ports),
        };
        let partners: Vec<&[u8]> = partner.into_iter().collect();
        let medias = leg.medias.iter().filter(|_| has_ports);
        TagReport {
            tag: &party.tag,
            via_branch: leg.branch.as_deref().filter(|_| side == Side::Answerer),
            label: party.label.as_deref(),
            created: self.settings.wall_seconds(party.created),
            subscriptions: partners.clone(),
            subscribers: partners,
            medias: self.describe_medias(medias, side, known),
        }
    }

    /// The party that is to answer: it has ports already.
    fn describe_nobody<'a>(&self, leg: &'a Leg, known: &Known) -> TagReport<'a> {
        TagReport {
            tag: NOBODY,
            via_branch: leg.branch.as_deref(),
            label: None,
            created: self.settings.wall_seconds(leg.offerer.created),
            subscriptions: vec![&leg.offerer.tag],
            subscribers: vec![&leg.offerer.tag],
            medias: self.describe_medias(leg.medias.iter(), Side::Answerer, known),
        }
    }

    fn describe_medias<'a>(
        &self,
        medias: impl Iterator<Item = &'a Media>,
        side: Side,
        known: &Known,
    ) -> Vec<MediaReport<'a>> {
        let numbered = medias.enumerate();
        numbered.map(|(index, media)| self.describe_media(index, media, side, known)).collect()
    }

    fn describe_media<'a>(
        &self,
        index: usize,
        media: &'a Media,
        side: Side,
        known: &Known,
    ) -> MediaReport<'a> {
        let mut report = MediaReport {
            index: index as u64 + 1,
            kind: &media.kind,
            protocol: Some(&media.proto),
            ..MediaReport::default()
        };
        let Some(pair) = &media.pair else { return report };
        let stats = stats_of(known, pair).map(|stats| &stats.ends[side as usize]);
        let (end, other) = (&pair.ends[side as usize], &pair.ends[side.other() as usize]);
        report.codec = stats.and_then(|stats| stats.payload_type).and_then(codec);
        for (is_set, flag) in [
            (true, &b"initialized"[..]),
            (end.asymmetric, b"asymmetric"),
            (end.receives, b"send"),
            (other.receives, b"recv"),
            (end.mux.on, b"rtcp-mux"),
            (pair.kind == Kind::Opaque, b"passthrough"),
        ] {
            if is_set {
                report.flags.push(flag);
            }
        }
        report.streams.push(self.describe_stream(end, stats, false));
        if pair.kind != Kind::Opaque {
            report.streams.push(self.describe_stream(end, stats, true));
        }
        report
    }

    fn describe_stream<'a>(
        &self,
        end: &End,
        stats: Option<&EndStats>,
        rtcp: bool,
    ) -> StreamReport<'a> {
        let shares = rtcp && end.mux.on && end.mux.settled;
        let port = if rtcp && !shares { end.port + 1 } else { end.port };
        let advertised = if rtcp && !shares { end.rtcp } else { end.rtp };
        let mut report = StreamReport {
            local: Some(SocketAddr::new(end.address, port)),
            endpoint: advertised,
            advertised,
            flags: vec![if rtcp { b"RTCP" } else { b"RTP" }],
            ..StreamReport::default()
        };
        if advertised.is_some() {
            report.flags.push(b"filled");
        }
        if end.strict || (self.settings.strict_source && !end.asymmetric) {
            report.flags.push(b"strict source address");
        }
        let Some(stats) = stats else { return report };
        report.endpoint = if rtcp { stats.rtcp_peer } else { stats.peer };
        report.last_packet = stats.last_packet.map_or(0, |at| self.settings.wall_seconds(at));
        if rtcp {
            report.counters =
                Counters { packets: stats.rtcp_packets, bytes: stats.rtcp_bytes, errors: 0 };
        } else {
            if stats.latched {
                report.flags.push(b"confirmed");
            }
            report.ssrc = stats.ssrc;
            report.counters =
                Counters { packets: stats.packets, bytes: stats.bytes, errors: errors(stats) };
        }
        report
    }

    fn describe_source(&self, end: &EndStats, other: &EndStats) -> Option<SsrcReport> {
        let ssrc = end.ssrc?;
        let now = Quality {
            mos: (opinion(end, other)? * 10.0).round() as i64,
            round_trip: round_trip(end, other).as_micros() as i64,
            round_trip_leg: end.round_trip.unwrap_or_default().as_micros() as i64,
            jitter: worst_jitter(end, other).as_millis() as i64,
            loss: (loss(end, other) * 100.0).round() as i64,
            at: end.last_packet.map_or(0, |at| self.settings.wall_seconds(at)),
        };
        // One value for the whole call: no history is kept.
        Some(SsrcReport {
            ssrc,
            cumulative_loss: other.far.map_or(end.lost as i64, |far| far.lost.into()),
            average: Quality { at: 1, ..now },
            lowest: now,
            highest: now,
            interval: 0,
            progression: vec![now],
        })
    }

    pub(super) fn write_statistics(&self, now: Instant, reply: &mut ReplyEncoder) {
        let sample = self.sample;
        let Stats { pings, offers, answers, deletes, queries, lists, statistics, .. } = self.stats;
        let s = self.stats;
        reply.dict().dict("statistics", |all| {
            Workload {
                sessions: self.calls.len() as u64,
                packet_rate: sample.packets,
                byte_rate: sample.bytes,
                error_rate: sample.errors,
            }
            .write(all);
            all.dict("totalstatistics", |dict| {
                let up = now.saturating_duration_since(self.started).as_secs();
                let ended = s.deleted + s.drained + s.silent + s.silent_on_hold + s.unanswered;
                dict.bytes("uptime", up.to_string());
                for (name, value) in [
                    ("managedsessions", ended),
                    ("rejectedsessions", s.refused),
                    ("timeoutsessions", s.silent),
                    ("silenttimeoutsessions", s.silent_on_hold),
                    ("finaltimeoutsessions", 0),
                    ("offertimeoutsessions", s.unanswered),
                    ("regularterminatedsessions", s.deleted),
                    ("forcedterminatedsessions", s.drained),
                    ("relayedpackets", sample.total_packets),
                    ("relayedpacketerrors", sample.total_errors),
                    ("relayedbytes", sample.total_bytes),
                    ("zerowaystreams", s.empty_streams),
                    ("onewaystreams", s.one_way_streams),
                ] {
                    dict.count(name, value);
                }
            });
            all.dict("controlstatistics", |dict| {
                dict.list("proxies", |_| {});
                for (name, value) in [
                    ("totalpingcount", pings),
                    ("totaloffercount", offers),
                    ("totalanswercount", answers),
                    ("totaldeletecount", deletes),
                    ("totalquerycount", queries),
                    ("totallistcount", lists),
                    ("totalstartreccount", s.recording_starts),
                    ("totalstopreccount", s.recording_stops),
                    ("totalstatscount", statistics),
                    // Documented there, but not in its answers.
                    ("totalerrorcount", s.errors),
                ] {
                    dict.count(name, value);
                }
            });
            all.dict("ignored", |dict| {
                for (name, count) in self.ignored.iter() {
                    dict.count(name, count);
                }
            });
        });
    }
}

fn stats_of<'a>(known: &'a Known, pair: &Pair) -> Option<&'a PairStats> {
    known.iter().find(|(id, _)| *id == pair.id).map(|(_, stats)| &**stats)
}

/// Packets that came and went nowhere, those on purpose excepted.
const fn errors(end: &EndStats) -> u64 {
    end.strangers + end.unexpected + end.over_rate + end.send_errors
}

/// Static payload types of audio and video (RFC 3551 section 6).
const fn codec(payload_type: u8) -> Option<&'static [u8]> {
    Some(match payload_type {
        0 => b"PCMU/8000",
        3 => b"GSM/8000",
        4 => b"G723/8000",
        8 => b"PCMA/8000",
        9 => b"G722/8000",
        13 => b"CN/8000",
        18 => b"G729/8000",
        26 => b"JPEG/90000",
        31 => b"H261/90000",
        34 => b"H263/90000",
        _ => return None,
    })
}
