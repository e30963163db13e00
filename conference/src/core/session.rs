//! Session descriptions: what a caller offers, what we answer (RFC 3264), and what we offer when he does not.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use dialtone_sip::sdp::{Direction, Sdp, Section};

use crate::mix::Codec;

/// The payload type of telephone events in our offers.
pub const EVENTS: u8 = 101;
/// Payload types taken from one media description; more are ignored.
const MAX_FORMATS: usize = 64;

/// A description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    #[error("it is no session description")]
    Malformed,
    #[error("it has no audio with a codec that is known here")]
    NoCommonCodec,
}

/// What the other side described: its usable audio, and what must be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it wants audio; `None` while it wants none (port or address of zero).
    pub rtp: Option<SocketAddr>,
    pub rtcp: Option<SocketAddr>,
    /// RTP and RTCP on one port (RFC 5761).
    pub mux: bool,
    /// Codecs that are known here, in its order.
    pub codecs: Vec<(u8, Codec)>,
    pub events: Option<u8>,
    pub direction: Direction,
    /// Which of its media descriptions that is.
    media: usize,
    /// All of them as they must be repeated in an answer: kind, protocol, formats.
    medias: Vec<(String, String, String)>,
}

impl Remote {
    /// Reads an offer or an answer.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn parse(body: &[u8]) -> Result<Self, SessionError> {
        let sdp = Sdp::parse(body).map_err(|_| SessionError::Malformed)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let medias = sdp.medias().filter_map(|media| media.media_line());
        let medias: Vec<_> =
            medias.map(|line| (text(line.kind), text(line.proto), text(line.formats))).collect();
        for (media, section) in sdp.medias().enumerate() {
            if let Some(found) = Self::audio(&sdp, section) {
                return Ok(Self { media, medias, ..found });
            }
        }
        Err(if medias.is_empty() { SessionError::Malformed } else { SessionError::NoCommonCodec })
    }

    fn audio(sdp: &Sdp<'_>, section: Section<'_, '_>) -> Option<Self> {
        let line = section.media_line()?;
        let is_plain = line.proto.eq_ignore_ascii_case(b"RTP/AVP")
            || line.proto.eq_ignore_ascii_case(b"RTP/AVPF");
        if !line.kind.eq_ignore_ascii_case(b"audio") || !is_plain || line.port == 0 {
            return None;
        }
        let (mut codecs, mut events) = (Vec::new(), None);
        for payload_type in line.payload_types().take(MAX_FORMATS) {
            match format_of(section, payload_type) {
                Some(Format::Codec(codec)) => codecs.push((payload_type, codec)),
                Some(Format::Events) => events = events.or(Some(payload_type)),
                None => {}
            }
        }
        if codecs.is_empty() {
            return None;
        }
        let ip = sdp.connection_of(section).and_then(|address| address.ip);
        let ip = ip.filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let mux = section.attribute("rtcp-mux").is_some();
        let rtcp = section.attribute("rtcp").and_then(|attribute| attribute.rtcp());
        let rtcp_port = match rtcp {
            _ if mux => Some(line.port),
            Some((port, _)) => Some(port),
            None => line.port.checked_add(1),
        };
        let rtcp_ip = rtcp.and_then(|(_, ip)| ip).filter(|_| !mux).or(ip);
        Some(Self {
            rtp: ip.map(|ip| SocketAddr::new(ip, line.port)),
            rtcp: rtcp_ip.zip(rtcp_port).map(|(ip, port)| SocketAddr::new(ip, port)),
            mux,
            codecs,
            events,
            direction: sdp.direction_of(section),
            media: 0,
            medias: Vec::new(),
        })
    }

    /// Leaves wide codecs out, if there are others.
    pub fn narrow(&mut self) {
        if self.codecs.iter().any(|(_, codec)| !codec.is_wide()) {
            self.codecs.retain(|(_, codec)| !codec.is_wide());
        }
    }

    /// Whether it wants to hear us.
    pub fn hears(&self) -> bool {
        self.direction.receives() && self.rtp.is_some()
    }

    /// The codecs that are spoken with it: the best that both know, or the first of its own when it has answered us.
    pub fn chosen(&self, answered: bool) -> (u8, Codec) {
        let first = self.codecs[0];
        if answered {
            return first;
        }
        // The offer's order counts (RFC 3264 section 5.1), but for the width: who can do G.722 gets it.
        self.codecs.iter().copied().find(|(_, codec)| codec.is_wide()).unwrap_or(first)
    }
}

enum Format {
    Codec(Codec),
    Events,
}

fn format_of(section: Section<'_, '_>, payload_type: u8) -> Option<Format> {
    let mapped = section.attributes_named("rtpmap").find_map(|attribute| {
        let (number, rate) = attribute.rtpmap()?;
        let value = std::str::from_utf8(attribute.value?).ok()?;
        let name = value.split_ascii_whitespace().nth(1)?.split('/').next()?;
        (number == payload_type).then(|| (name.to_owned(), rate))
    });
    match mapped {
        Some((name, 8000)) if name.eq_ignore_ascii_case("telephone-event") => Some(Format::Events),
        Some((name, 8000)) => Codec::find(&name).map(Format::Codec),
        Some(_) => None,
        None => Codec::ALL
            .into_iter()
            .find(|codec| codec.payload_type() == payload_type)
            .map(Format::Codec),
    }
}

/// What we offer to who has not said what he knows.
pub fn our_codecs(wide: bool) -> Vec<(u8, Codec)> {
    let codecs = Codec::ALL.into_iter().filter(|codec| wide || !codec.is_wide());
    codecs.map(|codec| (codec.payload_type(), codec)).collect()
}

/// Our side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Where we want audio.
    pub rtp: SocketAddr,
    /// Number and version of the description (`o=`).
    pub id: u64,
    pub version: u64,
}

impl Local {
    fn head(&self) -> String {
        let family = if self.rtp.is_ipv4() { "IP4" } else { "IP6" };
        let ip: IpAddr = self.rtp.ip();
        let Self { id, version, .. } = self;
        format!(
            "v=0\r\no=- {id} {version} IN {family} {ip}\r\ns=conference\r\nc=IN {family} {ip}\r\nt=0 0\r\n"
        )
    }

    /// The answer to an offer: its audio with one codec, everything else refused.
    pub fn answer(&self, offer: &Remote) -> String {
        let direction = match (offer.direction.sends(), offer.hears()) {
            (true, true) => "sendrecv",
            (true, false) => "recvonly",
            (false, true) => "sendonly",
            (false, false) => "inactive",
        };
        self.session(offer, offer.chosen(false), direction)
    }

    /// An offer to who has described himself before: in the same order, with nothing left out (RFC 3264 section 8).
    pub fn offer_again(&self, remote: &Remote, answered: bool) -> String {
        self.session(remote, remote.chosen(answered), "sendrecv")
    }

    fn session(
        &self,
        remote: &Remote,
        (payload_type, codec): (u8, Codec),
        direction: &str,
    ) -> String {
        let mut out = self.head();
        for (index, (kind, proto, formats)) in remote.medias.iter().enumerate() {
            if index != remote.media {
                // "The port number ... MUST be set to zero"; the formats are of no meaning then.
                let formats = formats.split_ascii_whitespace().next().unwrap_or("0");
                let _ = write!(out, "m={kind} 0 {proto} {formats}\r\n");
                continue;
            }
            let _ = write!(out, "m=audio {} {proto} {payload_type}", self.rtp.port());
            push_formats(&mut out, &[(payload_type, codec)], remote.events);
            let _ = write!(out, "a={direction}\r\n");
            if remote.mux {
                out.push_str("a=rtcp-mux\r\n");
            }
        }
        out
    }

    /// An offer of these codecs.
    pub fn offer(&self, codecs: &[(u8, Codec)], events: Option<u8>) -> String {
        let mut out = self.head();
        let _ = write!(out, "m=audio {} RTP/AVP", self.rtp.port());
        for (payload_type, _) in codecs {
            let _ = write!(out, " {payload_type}");
        }
        push_formats(&mut out, codecs, events);
        out.push_str("a=sendrecv\r\n");
        out
    }
}

/// The end of the `m=` line, and what its payload types mean.
fn push_formats(out: &mut String, codecs: &[(u8, Codec)], events: Option<u8>) {
    // Writing to a string cannot fail.
    if let Some(events) = events {
        let _ = write!(out, " {events}");
    }
    out.push_str("\r\n");
    for (payload_type, codec) in codecs {
        let _ = write!(out, "a=rtpmap:{payload_type} {}/8000\r\n", codec.name());
    }
    if let Some(events) = events {
        let _ = write!(out, "a=rtpmap:{events} telephone-event/8000\r\na=fmtp:{events} 0-15\r\n");
    }
    out.push_str("a=ptime:20\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(rest: &str) -> Vec<u8> {
        format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{rest}")
            .into_bytes()
    }

    const LOCAL: Local = Local {
        rtp: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9)), 4000),
        id: 7,
        version: 8,
    };

    #[test]
    fn the_best_common_codec_is_answered() {
        let remote = Remote::parse(&offer(
            "m=audio 5004 RTP/AVP 0 8 96 97\r\na=rtpmap:96 G722/8000\r\na=rtpmap:97 telephone-event/8000\r\n",
        ))
        .expect("usable");
        assert_eq!(remote.codecs, [(0, Codec::Pcmu), (8, Codec::Pcma), (96, Codec::G722)]);
        assert_eq!(remote.events, Some(97));
        assert_eq!(remote.rtp, "192.0.2.1:5004".parse().ok());
        assert_eq!(remote.rtcp, "192.0.2.1:5005".parse().ok());
        let answer = LOCAL.answer(&remote);
        assert_eq!(
            answer,
            "v=0\r\no=- 7 8 IN IP4 127.0.0.9\r\ns=conference\r\nc=IN IP4 127.0.0.9\r\nt=0 0\r\n\
             m=audio 4000 RTP/AVP 96 97\r\na=rtpmap:96 G722/8000\r\na=rtpmap:97 telephone-event/8000\r\n\
             a=fmtp:97 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
        );
        let understood = Remote::parse(answer.as_bytes()).expect("our own answer");
        assert_eq!(understood.chosen(true), (96, Codec::G722));
    }

    #[test]
    fn other_media_is_refused_in_its_place() {
        let remote = Remote::parse(&offer(
            "m=video 5006 RTP/AVP 31 34\r\nm=audio 5004 RTP/SAVP 0\r\nm=audio 5008 RTP/AVP 18\r\n\
             m=audio 5010 RTP/AVPF 8\r\na=rtcp-mux\r\na=sendonly\r\nm=audio 5012 RTP/AVP 0\r\n",
        ))
        .expect("usable");
        let answer = LOCAL.answer(&remote);
        let lines: Vec<&str> = answer.lines().filter(|line| line.starts_with("m=")).collect();
        assert_eq!(
            lines,
            [
                "m=video 0 RTP/AVP 31",
                "m=audio 0 RTP/SAVP 0",
                "m=audio 0 RTP/AVP 18",
                "m=audio 4000 RTP/AVPF 8",
                "m=audio 0 RTP/AVP 0"
            ]
        );
        assert!(answer.contains("a=recvonly\r\na=rtcp-mux\r\n"));
        let again = LOCAL.offer_again(&remote, false);
        assert_eq!(again, answer.replace("a=recvonly", "a=sendrecv"));
        assert_eq!(remote.rtcp, remote.rtp);
    }

    #[test]
    fn hold_and_nonsense() {
        for (text, hears) in [
            ("m=audio 5004 RTP/AVP 0\r\na=sendrecv\r\n", true),
            ("m=audio 5004 RTP/AVP 0\r\na=sendonly\r\n", false),
            ("m=audio 5004 RTP/AVP 0\r\na=inactive\r\n", false),
            ("m=audio 5004 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\n", false),
            ("a=recvonly\r\nm=audio 5004 RTP/AVP 0\r\n", true),
        ] {
            assert_eq!(
                Remote::parse(&offer(text)).map(|remote| remote.hears()),
                Ok(hears),
                "{text}"
            );
        }
        for (text, error) in [
            ("m=audio 5004 RTP/AVP 18 3\r\n", SessionError::NoCommonCodec),
            ("m=audio 0 RTP/AVP 0\r\n", SessionError::NoCommonCodec),
            ("m=audio 5004 RTP/AVP 0\r\na=rtpmap:0 SPEEX/8000\r\n", SessionError::NoCommonCodec),
            ("m=audio 5004 RTP/AVP 9\r\na=rtpmap:9 G722/16000\r\n", SessionError::NoCommonCodec),
            ("", SessionError::Malformed),
        ] {
            assert_eq!(Remote::parse(&offer(text)), Err(error), "{text}");
        }
        assert_eq!(Remote::parse(b"hello"), Err(SessionError::Malformed));
    }

    #[test]
    fn our_offer_is_understood() {
        let text = LOCAL.offer(&our_codecs(true), Some(EVENTS));
        let remote = Remote::parse(text.as_bytes()).expect("usable");
        assert_eq!(remote.codecs, [(9, Codec::G722), (8, Codec::Pcma), (0, Codec::Pcmu)]);
        assert_eq!(remote.events, Some(EVENTS));
        let text = LOCAL.offer(&[(96, Codec::Pcma)], Some(100));
        let remote = Remote::parse(text.as_bytes()).expect("usable");
        assert_eq!((remote.codecs, remote.events), (vec![(96, Codec::Pcma)], Some(100)));
    }
}
