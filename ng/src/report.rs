//! What `query` tells of a call (`delete` tells it once more), and what `statistics` tells of a relay, in rtpengine's
//! names and units.

use std::net::{IpAddr, SocketAddr};

use crate::bencode::{Dict, DictEncoder, Value};

/// One call. Times are seconds since the epoch of Unix; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallReport<'a> {
    pub created: u64,
    pub created_us: u32,
    /// When the last request for this call came.
    pub last_signal: u64,
    pub ssrcs: Vec<SsrcReport>,
    pub tags: Vec<TagReport<'a>>,
    pub rtp: Counters,
    pub rtcp: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    pub errors: u64,
}

/// One party of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagReport<'a> {
    /// Empty while nobody has answered.
    pub tag: &'a [u8],
    pub via_branch: Option<&'a [u8]>,
    pub label: Option<&'a [u8]>,
    pub created: u64,
    /// Tags of those whose media this party gets.
    pub subscriptions: Vec<&'a [u8]>,
    /// Tags of those who get this party's media.
    pub subscribers: Vec<&'a [u8]>,
    pub medias: Vec<MediaReport<'a>>,
}

/// One `m=` line of a party.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaReport<'a> {
    /// From 1.
    pub index: u64,
    /// `audio`, `video` …
    pub kind: &'a [u8],
    pub protocol: Option<&'a [u8]>,
    pub codec: Option<&'a [u8]>,
    /// RTP first, then RTCP.
    pub streams: Vec<StreamReport<'a>>,
    pub flags: Vec<&'a [u8]>,
}

/// One port of the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamReport<'a> {
    pub local: Option<SocketAddr>,
    /// Where packets are sent to: as signalled, or as latched.
    pub endpoint: Option<SocketAddr>,
    pub advertised: Option<SocketAddr>,
    pub last_packet: u64,
    /// `RTP`, `RTCP`, `filled`, `confirmed` …
    pub flags: Vec<&'a [u8]>,
    pub ssrc: Option<u32>,
    /// What came in at this port.
    pub counters: Counters,
}

/// One source of RTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SsrcReport {
    pub ssrc: u32,
    /// Packets, in the receiver's own count.
    pub cumulative_loss: i64,
    pub average: Quality,
    pub lowest: Quality,
    pub highest: Quality,
    /// Seconds between two entries of `progression`.
    pub interval: u64,
    pub progression: Vec<Quality>,
}

/// What the receiver of a stream reported in RTCP, and an estimate of what it sounds like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Mean opinion score times ten.
    pub mos: i64,
    /// Microseconds, from end to end.
    pub round_trip: i64,
    /// Microseconds, to the next hop only.
    pub round_trip_leg: i64,
    /// Milliseconds.
    pub jitter: i64,
    /// Percent.
    pub loss: i64,
    /// Of an average, how many values it is of; else when it was reported.
    pub at: u64,
}

impl<'a> CallReport<'a> {
    pub fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.count("created", self.created);
        dict.count("created_us", self.created_us.into());
        dict.count("last signal", self.last_signal);
        dict.dict("SSRC", |dict| {
            for ssrc in &self.ssrcs {
                dict.dict(ssrc.ssrc.to_string(), |dict| ssrc.write(dict));
            }
        });
        dict.dict("tags", |dict| {
            for (number, tag) in self.tags.iter().enumerate() {
                if tag.tag.is_empty() {
                    dict.dict(format!("<untagged {number}>"), |dict| tag.write(dict));
                } else {
                    dict.dict(tag.tag, |dict| tag.write(dict));
                }
            }
        });
        dict.dict("totals", |dict| {
            dict.dict("RTP", |dict| self.rtp.write(dict));
            dict.dict("RTCP", |dict| self.rtcp.write(dict));
        });
    }

    /// What a reply says; `None` if it is about no call.
    pub fn read(reply: &Dict<'a>) -> Option<Self> {
        let tags = reply.dict("tags")?;
        let totals = |kind: &str| reply.dict("totals")?.dict(kind).map(Counters::read);
        let ssrcs = reply.dict("SSRC").map(|ssrcs| {
            let known = ssrcs.entries.iter().filter_map(|(key, value)| {
                let ssrc = Value::Bytes(key).to_integer().and_then(|ssrc| ssrc.try_into().ok())?;
                Some(SsrcReport::read(ssrc, value.as_dict()?))
            });
            known.collect()
        });
        Some(Self {
            created: count(reply, "created"),
            created_us: count(reply, "created_us").try_into().unwrap_or_default(),
            last_signal: count(reply, "last signal"),
            ssrcs: ssrcs.unwrap_or_default(),
            tags: tags
                .entries
                .iter()
                .filter_map(|(_, tag)| tag.as_dict())
                .map(TagReport::read)
                .collect(),
            rtp: totals("RTP").unwrap_or_default(),
            rtcp: totals("RTCP").unwrap_or_default(),
        })
    }
}

impl Counters {
    fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.count("packets", self.packets);
        dict.count("bytes", self.bytes);
        dict.count("errors", self.errors);
    }

    fn read(dict: &Dict<'_>) -> Self {
        Self {
            packets: count(dict, "packets"),
            bytes: count(dict, "bytes"),
            errors: count(dict, "errors"),
        }
    }
}

impl<'a> TagReport<'a> {
    fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.bytes("tag", self.tag);
        if let Some(via_branch) = self.via_branch {
            dict.bytes("via-branch", via_branch);
        }
        if let Some(label) = self.label {
            dict.bytes("label", label);
        }
        dict.count("created", self.created);
        for (key, tags) in
            [("subscriptions", &self.subscriptions), ("subscribers", &self.subscribers)]
        {
            dict.list(key, |list| {
                for tag in tags {
                    list.dict(|dict| {
                        dict.bytes("tag", tag);
                        dict.bytes("type", "offer/answer");
                    });
                }
            });
        }
        dict.list("medias", |list| {
            for media in &self.medias {
                list.dict(|dict| media.write(dict));
            }
        });
    }

    fn read(dict: &Dict<'a>) -> Self {
        let tags = |key: &str| {
            dicts(dict, key).filter_map(|subscription| subscription.bytes("tag")).collect()
        };
        Self {
            tag: dict.bytes("tag").unwrap_or_default(),
            via_branch: dict.bytes("via-branch"),
            label: dict.bytes("label"),
            created: count(dict, "created"),
            subscriptions: tags("subscriptions"),
            subscribers: tags("subscribers"),
            medias: dicts(dict, "medias").map(MediaReport::read).collect(),
        }
    }
}

impl<'a> MediaReport<'a> {
    fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.count("index", self.index);
        dict.bytes("type", self.kind);
        if let Some(protocol) = self.protocol {
            dict.bytes("protocol", protocol);
        }
        if let Some(codec) = self.codec {
            dict.bytes("codec", codec);
        }
        dict.list("streams", |list| {
            for stream in &self.streams {
                list.dict(|dict| stream.write(dict));
            }
        });
        dict.strings("flags", &self.flags);
    }

    fn read(dict: &Dict<'a>) -> Self {
        Self {
            index: count(dict, "index"),
            kind: dict.bytes("type").unwrap_or_default(),
            protocol: dict.bytes("protocol"),
            codec: dict.bytes("codec"),
            streams: dicts(dict, "streams").map(StreamReport::read).collect(),
            flags: strings(dict, "flags"),
        }
    }
}

impl<'a> StreamReport<'a> {
    fn write(&self, dict: &mut DictEncoder<'_>) {
        if let Some(local) = self.local {
            dict.count("local port", local.port().into());
            dict.bytes("local address", local.ip().to_string());
            dict.bytes("family", family(local.ip()));
        }
        for (key, endpoint) in
            [("endpoint", self.endpoint), ("advertised endpoint", self.advertised)]
        {
            dict.dict(key, |dict| {
                if let Some(endpoint) = endpoint {
                    dict.bytes("family", family(endpoint.ip()));
                    dict.bytes("address", endpoint.ip().to_string());
                    dict.count("port", endpoint.port().into());
                }
            });
        }
        dict.count("last packet", self.last_packet);
        dict.strings("flags", &self.flags);
        if let Some(ssrc) = self.ssrc {
            dict.count("SSRC", ssrc.into());
        }
        dict.dict("stats", |dict| self.counters.write(dict));
    }

    fn read(dict: &Dict<'a>) -> Self {
        let endpoint = |key: &str| address(dict.dict(key)?, "address", "port");
        Self {
            local: address(dict, "local address", "local port"),
            endpoint: endpoint("endpoint"),
            advertised: endpoint("advertised endpoint"),
            last_packet: count(dict, "last packet"),
            flags: strings(dict, "flags"),
            ssrc: dict.integer("SSRC").and_then(|ssrc| ssrc.try_into().ok()),
            counters: dict.dict("stats").map(Counters::read).unwrap_or_default(),
        }
    }
}

impl SsrcReport {
    fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.integer("cumulative loss", self.cumulative_loss);
        dict.dict("average MOS", |dict| self.average.write(dict, "samples"));
        dict.dict("lowest MOS", |dict| self.lowest.write(dict, "reported at"));
        dict.dict("highest MOS", |dict| self.highest.write(dict, "reported at"));
        dict.dict("MOS progression", |dict| {
            dict.count("interval", self.interval);
            dict.list("entries", |list| {
                for quality in &self.progression {
                    list.dict(|dict| quality.write(dict, "reported at"));
                }
            });
        });
    }

    fn read(ssrc: u32, dict: &Dict<'_>) -> Self {
        let quality = |key: &str| dict.dict(key).map(Quality::read).unwrap_or_default();
        let progression = dict.dict("MOS progression");
        Self {
            ssrc,
            cumulative_loss: dict.integer("cumulative loss").unwrap_or_default(),
            average: quality("average MOS"),
            lowest: quality("lowest MOS"),
            highest: quality("highest MOS"),
            interval: progression.map_or(0, |dict| count(dict, "interval")),
            progression: progression
                .map(|dict| dicts(dict, "entries").map(Quality::read).collect())
                .unwrap_or_default(),
        }
    }
}

impl Quality {
    fn write(&self, dict: &mut DictEncoder<'_>, at: &str) {
        dict.integer("MOS", self.mos);
        dict.integer("round-trip time", self.round_trip);
        dict.integer("round-trip time leg", self.round_trip_leg);
        dict.integer("jitter", self.jitter);
        dict.integer("packet loss", self.loss);
        dict.count(at, self.at);
    }

    fn read(dict: &Dict<'_>) -> Self {
        let integer = |key: &str| dict.integer(key).unwrap_or_default();
        Self {
            mos: integer("MOS"),
            round_trip: integer("round-trip time"),
            round_trip_leg: integer("round-trip time leg"),
            jitter: integer("jitter"),
            loss: integer("packet loss"),
            at: count(dict, "samples").max(count(dict, "reported at")),
        }
    }
}

/// What a relay has to do now: of the answer to `statistics`, the part that changes with its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    pub sessions: u64,
    /// Packets, bytes and errors in the last second.
    pub packet_rate: u64,
    pub byte_rate: u64,
    pub error_rate: u64,
}

impl Workload {
    /// What a reply to `statistics` says; `None` if it does not say how many calls there are.
    pub fn read(reply: &Dict<'_>) -> Option<Self> {
        let current = reply.dict("statistics")?.dict("currentstatistics")?;
        Some(Self {
            sessions: current.integer("sessionstotal")?.try_into().ok()?,
            packet_rate: count(current, "packetrate"),
            byte_rate: count(current, "byterate"),
            error_rate: count(current, "errorrate"),
        })
    }

    /// Writes `currentstatistics`.
    pub fn write(&self, statistics: &mut DictEncoder<'_>) {
        statistics.dict("currentstatistics", |dict| {
            dict.count("sessionsown", self.sessions);
            dict.count("sessionsforeign", 0);
            dict.count("sessionstotal", self.sessions);
            dict.count("transcodedmedia", 0);
            dict.count("packetrate", self.packet_rate);
            dict.count("byterate", self.byte_rate);
            dict.count("errorrate", self.error_rate);
        });
    }
}

const fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn count(dict: &Dict<'_>, key: &str) -> u64 {
    dict.integer(key).and_then(|count| count.try_into().ok()).unwrap_or_default()
}

fn dicts<'d, 'a>(dict: &'d Dict<'a>, key: &str) -> impl Iterator<Item = &'d Dict<'a>> {
    dict.list(key).unwrap_or_default().iter().filter_map(Value::as_dict)
}

fn strings<'a>(dict: &Dict<'a>, key: &str) -> Vec<&'a [u8]> {
    dict.list(key).unwrap_or_default().iter().filter_map(Value::as_bytes).collect()
}

fn address(dict: &Dict<'_>, address: &str, port: &str) -> Option<SocketAddr> {
    let ip = std::str::from_utf8(dict.bytes(address)?).ok()?.parse().ok()?;
    Some(SocketAddr::new(ip, dict.integer(port)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bencode::Encoder;

    fn decoded(bytes: &[u8]) -> Dict<'_> {
        let Value::Dict(dict) = Value::decode(bytes).unwrap() else { panic!("no dictionary") };
        dict
    }

    fn quality(at: u64) -> Quality {
        Quality { mos: 43, round_trip: 20_000, round_trip_leg: 9_000, jitter: 3, loss: 1, at }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let stream = |port: u16, flag: &'static [u8]| StreamReport {
            local: Some(SocketAddr::new("127.0.0.1".parse().unwrap(), port)),
            endpoint: Some(SocketAddr::new("2001:db8::1".parse().unwrap(), port)),
            advertised: None,
            last_packet: 1_700_000_003,
            flags: vec![flag, b"confirmed"],
            ssrc: Some(u32::MAX),
            counters: Counters { packets: 3, bytes: 516, errors: 1 },
        };
        let report = CallReport {
            created: 1_700_000_000,
            created_us: 999_999,
            last_signal: 1_700_000_001,
            ssrcs: vec![SsrcReport {
                ssrc: 0xdead_beef,
                cumulative_loss: -2,
                average: quality(7),
                lowest: quality(1_700_000_001),
                highest: quality(1_700_000_002),
                interval: 5,
                progression: vec![quality(1_700_000_001), quality(1_700_000_002)],
            }],
            tags: vec![
                TagReport {
                    tag: b"a",
                    via_branch: Some(b"z9hG4bK1"),
                    label: Some(b"caller"),
                    created: 1_700_000_000,
                    subscriptions: vec![b"b"],
                    subscribers: vec![b"b"],
                    medias: vec![MediaReport {
                        index: 1,
                        kind: b"audio",
                        protocol: Some(b"RTP/AVP"),
                        codec: Some(b"PCMA/8000"),
                        streams: vec![stream(30_000, b"RTP"), stream(30_001, b"RTCP")],
                        flags: vec![b"initialized", b"send", b"recv"],
                    }],
                },
                TagReport { tag: b"", ..TagReport::default() },
            ],
            rtp: Counters { packets: 3, bytes: 516, errors: 1 },
            rtcp: Counters::default(),
        };
        let mut encoder = Encoder::default();
        encoder.dict(|dict| report.write(dict));
        let bytes = encoder.into_bytes();
        assert_eq!(CallReport::read(&decoded(&bytes)), Some(report));
    }

    #[test]
    fn a_reply_about_no_call_is_no_report() {
        assert_eq!(CallReport::read(&decoded(b"d7:warning1:x6:result2:oke")), None);
    }

    #[test]
    fn the_workload_stands_in_statistics() {
        let workload =
            Workload { sessions: 7, packet_rate: 700, byte_rate: 120_400, error_rate: 1 };
        let mut encoder = Encoder::default();
        encoder.dict(|dict| dict.dict("statistics", |dict| workload.write(dict)));
        let bytes = encoder.into_bytes();
        assert_eq!(Workload::read(&decoded(&bytes)), Some(workload));
        assert_eq!(Workload::read(&decoded(b"d10:statisticsd17:currentstatisticsdeee")), None);
        assert_eq!(Workload::read(&decoded(b"de")), None);
    }
}
