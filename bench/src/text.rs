//! SIP as a phone of another maker would read it: a plain split into lines. The load tool is a witness of Dialtone's
//! servers, so it shares no parsing code with them.

use std::net::SocketAddr;

use crate::sdp;

/// A received message, split into lines.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) start: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Text {
    /// `None` for what is not a complete SIP message (keep-alives, garbage).
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| {
                (full_name(name.trim()).to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let body = body.to_owned();
        start.contains("SIP/2.0").then_some(Self { start, headers, body })
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> Option<&str> {
        if self.start.starts_with("SIP/2.0") { None } else { self.start.split(' ').next() }
    }

    /// The first header of that name (lower case).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every header of that name (lower case), in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The values of a header that may be a comma-separated list (no commas inside quotes or `<>` are cut).
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.all(name).flat_map(split_commas).collect()
    }

    /// The branch of the topmost Via.
    pub(crate) fn branch(&self) -> Option<&str> {
        parameter(self.get("via")?, "branch")
    }

    /// Where its SDP wants audio to be sent; `None` without SDP, or if it wants none.
    pub(crate) fn audio(&self) -> Option<SocketAddr> {
        let kind = self.get("content-type")?;
        kind.to_ascii_lowercase().starts_with("application/sdp").then(|| sdp::audio(&self.body))?
    }

    /// The URI between `<` and `>` of the first Contact.
    pub(crate) fn contact_uri(&self) -> Option<String> {
        uri(self.get("contact")?).map(str::to_owned)
    }
}

/// The URI of a name-addr.
pub(crate) fn uri(name_addr: &str) -> Option<&str> {
    match name_addr.split_once('<') {
        Some((_, rest)) => rest.split_once('>').map(|(uri, _)| uri),
        None => name_addr.split(';').next(),
    }
}

/// The value of `;name=value`.
pub(crate) fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.rsplit('>').next()?.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn full_name(name: &str) -> &str {
    match name {
        "v" | "V" => "via",
        "f" | "F" => "from",
        "t" | "T" => "to",
        "i" | "I" => "call-id",
        "m" | "M" => "contact",
        "l" | "L" => "content-length",
        "c" | "C" => "content-type",
        _ => name,
    }
}

fn split_commas(value: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut start, mut parts) = (0, false, 0, Vec::new());
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'<' if !quoted => depth += 1,
            b'>' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                parts.push(value[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(value[start..].trim().to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_phone_needs() {
        let text = Text::parse(
            b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa;rport\r\nRecord-Route: <sip:a@g;lr>, <sip:b@g;lr>\r\n\
              Record-Route: <sip:c@g;lr>\r\nm: \"B, ob\" <sip:bob@h:5062;x=1>;q=0.5\r\nCSeq: 7 INVITE\r\n\r\nbody",
        )
        .expect("complete");
        assert_eq!(text.status(), Some(200));
        assert_eq!(text.method(), None);
        assert_eq!(text.branch(), Some("z9hG4bKa"));
        assert_eq!(text.list("record-route"), ["<sip:a@g;lr>", "<sip:b@g;lr>", "<sip:c@g;lr>"]);
        assert_eq!(text.contact_uri().as_deref(), Some("sip:bob@h:5062;x=1"));
        assert!(Text::parse(b"\r\n\r\n").is_none());
    }

    #[test]
    fn only_sdp_says_where_audio_goes() {
        let audio = |kind| {
            let sdp = sdp::offer(SocketAddr::from(([10, 0, 0, 1], 4000)));
            let message = format!("SIP/2.0 200 OK\r\nc: {kind}\r\n\r\n{sdp}");
            Text::parse(message.as_bytes()).unwrap().audio()
        };
        assert_eq!(audio("application/SDP; x=1"), Some(SocketAddr::from(([10, 0, 0, 1], 4000))));
        assert_eq!(audio("text/plain"), None);
    }
}
