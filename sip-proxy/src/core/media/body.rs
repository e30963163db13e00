//! Session descriptions in the bodies of messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use dialtone_sip::sdp::{Sdp, SdpEdit};
use dialtone_sip::{Edit, HeaderName, Message, Params, unquote};

/// What a body says about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Nothing,
    /// There is a description at this place among the bytes of the message.
    Sdp(Range<usize>),
    /// There may be one that cannot be replaced: encoded, or in parts that are not plain.
    Sealed,
}

impl Body {
    pub(crate) fn of(message: &Message) -> Self {
        if message.body().is_empty() {
            return Self::Nothing;
        }
        let body = message.head().len()..message.bytes().len();
        let Some(content_type) = message.header_str(HeaderName::ContentType) else {
            return Self::Nothing;
        };
        let plain = message
            .header_str(HeaderName::ContentEncoding)
            .is_none_or(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity"));
        if is_type(content_type, "application/sdp") {
            return if plain { Self::Sdp(body) } else { Self::Sealed };
        }
        let (media_type, params) = parts_of(content_type);
        if !media_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
            return Self::Nothing;
        }
        match params.get("boundary").map(unquote).filter(|boundary| !boundary.is_empty()) {
            Some(boundary) if plain => in_parts(message.bytes(), body, boundary.as_bytes()),
            _ => Self::Sealed,
        }
    }
}

/// The description in a message, if it has one.
pub(crate) fn sdp_of(message: &Message) -> Option<&[u8]> {
    match Body::of(message) {
        Body::Sdp(span) => message.bytes().get(span),
        Body::Nothing | Body::Sealed => None,
    }
}

/// The message with another description in the place of its own.
pub(crate) fn with_sdp(message: &Message, sdp: &[u8]) -> Option<Message> {
    let Body::Sdp(span) = Body::of(message) else { return None };
    let length = message.body().len() - span.len() + sdp.len();
    let mut edit = Edit::new(message);
    edit.replace(span, sdp).set_content_length(length);
    Message::parse(edit.finish()).ok()
}

/// A description with media to nowhere (RFC 3264 section 8.4): for who was promised the ports of a relay that is gone.
pub(crate) fn silenced(sdp: &[u8]) -> Vec<u8> {
    let Ok(parsed) = Sdp::parse(sdp) else { return sdp.to_vec() };
    let mut edit = SdpEdit::new(&parsed);
    let sections = std::iter::once(parsed.session()).chain(parsed.medias());
    for section in sections {
        if let Some(connection) = section.connection() {
            let nowhere = match connection.ip {
                Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            };
            edit.set_connection(section, nowhere);
        }
        for attribute in section.attributes().filter(|attribute| attribute.is_ice()) {
            edit.remove(&attribute);
        }
    }
    edit.finish()
}

/// The first part of a multipart body (RFC 2046 section 5.1) that is a description.
fn in_parts(bytes: &[u8], body: Range<usize>, boundary: &[u8]) -> Body {
    let delimiter = [b"--", boundary].concat();
    // Where delimiter lines begin: at the beginning of the body or of a line.
    let starts: Vec<usize> = memchr::memmem::find_iter(&bytes[body.clone()], &delimiter)
        .map(|at| body.start + at)
        .filter(|at| *at == body.start || bytes[at - 1] == b'\n')
        .filter(|at| {
            let rest = &bytes[at + delimiter.len()..body.end];
            // White space may follow, and nothing else.
            let line = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];
            rest.starts_with(b"--") || line.iter().all(u8::is_ascii_whitespace)
        })
        .collect();
    for pair in starts.windows(2) {
        let part = pair[0] + delimiter.len()..pair[1];
        let Some(line) = memchr::memchr(b'\n', &bytes[part.clone()]) else { return Body::Sealed };
        let mut at = part.start + line + 1;
        let (mut is_sdp, mut is_plain) = (false, true);
        let content = loop {
            let Some(end) = memchr::memchr(b'\n', &bytes[at..part.end]).map(|end| at + end) else {
                return Body::Sealed;
            };
            let line = String::from_utf8_lossy(&bytes[at..end]);
            at = end + 1;
            let Some((name, value)) = line.trim_end_matches('\r').split_once(':') else { break at };
            match name.trim() {
                name if name.eq_ignore_ascii_case("Content-Type") => {
                    is_sdp = is_type(value.trim(), "application/sdp");
                }
                name if name.eq_ignore_ascii_case("Content-Length")
                    || name.eq_ignore_ascii_case("Content-Encoding") =>
                {
                    is_plain = false;
                }
                name if name.eq_ignore_ascii_case("Content-Transfer-Encoding") => {
                    let coding = value.trim();
                    is_plain &=
                        ["binary", "7bit", "8bit"].iter().any(|it| coding.eq_ignore_ascii_case(it));
                }
                _ => {}
            }
        };
        if is_sdp {
            // The line end before a delimiter belongs to the delimiter.
            let mut end = part.end - 1;
            if end > content && bytes[end - 1] == b'\r' {
                end -= 1;
            }
            return if is_plain && end > content { Body::Sdp(content..end) } else { Body::Sealed };
        }
    }
    Body::Nothing
}

fn is_type(content_type: &str, wanted: &str) -> bool {
    parts_of(content_type).0.eq_ignore_ascii_case(wanted)
}

fn parts_of(content_type: &str) -> (&str, Params<'_>) {
    let at = content_type.find(';').unwrap_or(content_type.len());
    (content_type[..at].trim(), Params::new(&content_type[at..]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                       m=audio 4000 RTP/AVP 0\r\na=candidate:1 1 UDP 1 192.0.2.1 4000 typ host\r\n";

    fn message(content_type: &str, more: &str, body: &str) -> Message {
        let text = format!(
            "INVITE sip:b@c SIP/2.0\r\nContent-Type: {content_type}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn descriptions_are_found_and_replaced() {
        let plain = message("Application/SDP;charset=utf-8", "", SDP);
        assert_eq!(sdp_of(&plain), Some(SDP.as_bytes()));
        let other = with_sdp(&plain, b"v=0\r\n").unwrap();
        assert_eq!(other.body(), b"v=0\r\n");
        assert_eq!(other.content_length(), Ok(Some(5)));

        // Without Content-Length, as over UDP.
        let text = format!("INVITE sip:b@c SIP/2.0\r\nc: application/sdp\r\n\r\n{SDP}");
        let bare = Message::parse(Bytes::from(text)).unwrap();
        let other = with_sdp(&bare, b"v=0\r\n").unwrap();
        assert_eq!((other.body(), other.content_length()), (&b"v=0\r\n"[..], Ok(Some(5))));

        for (what, message) in [
            ("no body", message("application/sdp", "", "")),
            ("another type", message("application/isup", "", SDP)),
            ("no type", message("", "", SDP)),
        ] {
            assert_eq!(Body::of(&message), Body::Nothing, "{what}");
        }
        let packed = message("application/sdp", "Content-Encoding: gzip\r\n", SDP);
        assert_eq!(Body::of(&packed), Body::Sealed);
        assert_eq!(with_sdp(&packed, b"v=0\r\n"), None);
    }

    #[test]
    fn a_description_among_other_parts() {
        let kind = "multipart/mixed;boundary=\"b 1\"";
        let parts = |head: &str, ending: &str| {
            format!(
                "preamble\r\n--b 1\r\nContent-Type: text/plain\r\n\r\n--b 12 hello\r\n--b 1\r\n{head}\r\n\r\n{SDP}\r\n{ending}"
            )
        };
        let whole = message(kind, "", &parts("content-type: application/sdp", "--b 1--\r\n"));
        assert_eq!(sdp_of(&whole), Some(SDP.as_bytes()));
        let other = with_sdp(&whole, b"v=0").unwrap();
        assert_eq!(sdp_of(&other), Some(&b"v=0"[..]));
        let shrunk = whole.body().len() - SDP.len() + 3;
        assert_eq!((other.body().len(), other.content_length()), (shrunk, Ok(Some(shrunk))));
        for sealed in [
            parts("Content-Type: application/sdp\r\nContent-Transfer-Encoding: base64", "--b 1--"),
            parts("Content-Type: application/sdp\r\nContent-Length: 5", "--b 1--"),
        ] {
            assert_eq!(Body::of(&message(kind, "", &sealed)), Body::Sealed);
        }
        let other_parts = parts("Content-Type: text/html", "--b 1--");
        assert_eq!(Body::of(&message(kind, "", &other_parts)), Body::Nothing);
        // The last part does not end, or there is no boundary.
        let cut = parts("Content-Type: application/sdp", "");
        assert_eq!(Body::of(&message(kind, "", &cut)), Body::Nothing);
        assert_eq!(Body::of(&message("multipart/mixed", "", &cut)), Body::Sealed);
        for body in ["--b 1", "--b 1\r\n--b 1", "--b 1\r\n\n--b 1", "--b 1\n\n\n--b 1--", "\r\n"] {
            assert_ne!(Body::of(&message(kind, "", body)), Body::Sdp(0..0), "{body:?}");
        }
    }

    #[test]
    fn media_to_nowhere() {
        let quiet = String::from_utf8(silenced(SDP.as_bytes())).unwrap();
        assert!(quiet.contains("\r\nc=IN IP4 0.0.0.0\r\n"), "{quiet}");
        assert!(quiet.contains("m=audio 4000") && !quiet.contains("candidate"), "{quiet}");
        let v6 = SDP.replace("c=IN IP4 192.0.2.1", "c=IN IP6 2001:db8::1");
        assert!(String::from_utf8(silenced(v6.as_bytes())).unwrap().contains("c=IN IP6 ::\r\n"));
        assert_eq!(silenced(b"no sdp"), b"no sdp");
    }
}
