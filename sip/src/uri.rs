//! URIs: `sip:` and `sips:` in parts, others as they are (RFC 3261 section 19.1).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::syntax::{is_token_byte, split_at_byte};
use crate::{Params, ParseError};

/// Any URI that may stand in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uri<'a> {
    /// `sip:` or `sips:`.
    Sip(SipUri<'a>),
    /// `tel:` (RFC 3966); the text after the scheme.
    Tel(&'a str, &'a str),
    /// Another scheme: the scheme, the whole URI.
    Other(&'a str, &'a str),
}

/// A `sip:` or `sips:` URI; all parts as written, escapes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// The whole URI.
    pub raw: &'a str,
    /// `sips:`.
    pub secure: bool,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub params: Params<'a>,
    /// What follows the question mark.
    pub headers: Option<&'a str>,
}

/// A host: numeric or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host<'a> {
    Name(&'a str),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl<'a> Uri<'a> {
    /// Parses a whole URI (no brackets, no display name).
    ///
    /// # Errors
    /// [`ParseError::Uri`] when there is no scheme, or a `sip:` URI is malformed.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        let colon = memchr::memchr(b':', text.as_bytes()).ok_or(ParseError::Uri)?;
        let scheme = &text[..colon];
        if scheme.eq_ignore_ascii_case("sip") {
            return SipUri::parse_after(text, colon + 1, false).map(Self::Sip);
        }
        if scheme.eq_ignore_ascii_case("sips") {
            return SipUri::parse_after(text, colon + 1, true).map(Self::Sip);
        }
        let mut bytes = scheme.bytes();
        if !bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            || !bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            || text
                .bytes()
                .any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'<' | b'>' | b'"'))
        {
            return Err(ParseError::Uri);
        }
        Ok(if scheme.eq_ignore_ascii_case("tel") {
            Self::Tel(&text[colon + 1..], text)
        } else {
            Self::Other(scheme, text)
        })
    }

    /// The URI as written.
    pub const fn as_str(&self) -> &'a str {
        match self {
            Self::Sip(uri) => uri.raw,
            Self::Tel(_, raw) | Self::Other(_, raw) => raw,
        }
    }

    /// The parts of a `sip:` or `sips:` URI.
    pub const fn sip(&self) -> Option<&SipUri<'a>> {
        match self {
            Self::Sip(uri) => Some(uri),
            Self::Tel(..) | Self::Other(..) => None,
        }
    }

    /// Equality as RFC 3261 section 19.1.4 defines it for SIP URIs; other URIs must be equal byte by byte.
    pub fn equivalent(&self, other: &Uri<'_>) -> bool {
        match (self, other) {
            (Self::Sip(one), Uri::Sip(other)) => one.equivalent(other),
            (one, other) => one.as_str() == other.as_str(),
        }
    }
}

impl<'a> SipUri<'a> {
    /// Parses `sip:` and `sips:` URIs only.
    ///
    /// # Errors
    /// [`ParseError::Uri`].
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        match Uri::parse(text)? {
            Uri::Sip(uri) => Ok(uri),
            Uri::Tel(..) | Uri::Other(..) => Err(ParseError::Uri),
        }
    }

    fn parse_after(raw: &'a str, after_scheme: usize, secure: bool) -> Result<Self, ParseError> {
        let rest = &raw[after_scheme..];
        if rest.bytes().any(|byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f)) {
            return Err(ParseError::Uri);
        }
        // A user part may contain ';' and '?', so the '@' is looked for first (RFC 4475 section 3.1.1.9). One in the
        // headers part must be escaped (section 25.1), hence the last one ends the user part.
        let (userinfo, rest) = match memchr::memrchr(b'@', rest.as_bytes()) {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            None => (None, None),
            Some(info) => match split_at_byte(info, b':') {
                Some((user, password)) => (Some(user), Some(password)),
                None => (Some(info), None),
            },
        };
        if user.is_some_and(|user| {
            user.is_empty() || !user.bytes().all(is_user_byte) || !escapes_are_whole(user)
        }) || password.is_some_and(|password| password.contains(['@', ':', ';', '?']))
        {
            return Err(ParseError::Uri);
        }
        let (rest, headers) = match split_at_byte(rest, b'?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let (hostport, params) = match memchr::memchr(b';', rest.as_bytes()) {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let (host, port) = Host::parse_with_port(hostport).ok_or(ParseError::Uri)?;
        Ok(Self { raw, secure, user, password, host, port, params: Params::new(params), headers })
    }

    /// The port, or the default of the scheme: 5060, 5061 (RFC 3261 section 19.1.2).
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 5061 } else { 5060 })
    }

    /// The user part without escapes.
    pub fn user_unescaped(&self) -> Option<Cow<'a, str>> {
        self.user.map(unescape)
    }

    /// The `transport` parameter.
    pub fn transport(&self) -> Option<&'a str> {
        self.params.get("transport")
    }

    /// The `lr` parameter: a loose router (RFC 3261 section 16.12).
    pub fn is_loose(&self) -> bool {
        self.params.has("lr")
    }

    /// The canonical form of an address-of-record: parameters, headers and password dropped, user unescaped, host in
    /// lower case, default port dropped (RFC 3261 section 10.3 step 5).
    pub fn address_of_record(&self) -> String {
        let mut out = String::with_capacity(self.raw.len());
        out.push_str(if self.secure { "sips:" } else { "sip:" });
        if let Some(user) = self.user_unescaped() {
            out.push_str(&user);
            out.push('@');
        }
        out.push_str(&self.host.to_string().to_ascii_lowercase());
        if let Some(port) = self.port
            && port != if self.secure { 5061 } else { 5060 }
        {
            out.push(':');
            out.push_str(&port.to_string());
        }
        out
    }

    /// Equality (RFC 3261 section 19.1.4).
    pub fn equivalent(&self, other: &SipUri<'_>) -> bool {
        let same_user = |one: Option<&str>, other: Option<&str>| match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => unescape(one) == unescape(other),
            _ => false,
        };
        if self.raw == other.raw {
            return true;
        }
        self.secure == other.secure
            && same_user(self.user, other.user)
            && same_user(self.password, other.password)
            && self.host.equivalent(&other.host)
            && self.port == other.port
            && params_equivalent(self.params, other.params)
            && headers_equivalent(self.headers, other.headers)
    }
}

/// "A user, ttl, or method uri-parameter appearing in only one URI never matches"; so do maddr and transport. Any
/// other parameter that appears in only one of them is ignored.
fn params_equivalent(one: Params<'_>, other: Params<'_>) -> bool {
    const ALWAYS: [&str; 5] = ["maddr", "method", "transport", "ttl", "user"];
    /// Comparing takes the square of the number, which a peer chooses. More than any real URI has must be equal as
    /// written.
    const COMPARED: usize = 64;
    if one.iter().nth(COMPARED).is_some() || other.iter().nth(COMPARED).is_some() {
        return one == other;
    }
    let matches = |one: Params<'_>, other: Params<'_>| {
        one.iter().all(|param| match other.find(param.name) {
            Some(found) => unescape(param.value.unwrap_or(""))
                .eq_ignore_ascii_case(&unescape(found.value.unwrap_or(""))),
            None => !ALWAYS.iter().any(|name| param.name.eq_ignore_ascii_case(name)),
        })
    };
    matches(one, other) && matches(other, one)
}

/// "URI header components are never ignored", their order does not matter.
fn headers_equivalent(one: Option<&str>, other: Option<&str>) -> bool {
    let sorted = |headers: Option<&str>| {
        let mut list: Vec<(String, String)> = headers
            .unwrap_or("")
            .split('&')
            .filter(|header| !header.is_empty())
            .map(|header| {
                let (name, value) = header.split_once('=').unwrap_or((header, ""));
                (unescape(name).to_ascii_lowercase(), unescape(value).into_owned())
            })
            .collect();
        list.sort_unstable();
        list
    };
    one == other || sorted(one) == sorted(other)
}

/// unreserved, escaped, user-unreserved (RFC 3261 section 25.1); what is above ASCII is tolerated, and so is '#', which
/// telephones put there.
const fn is_user_byte(byte: u8) -> bool {
    byte >= 0x80 || USER[byte as usize]
}

static USER: [bool; 256] = crate::syntax::table(b"-_.!~*'()%&=+$,;?/#[]|`^{}");

fn escapes_are_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'%', bytes).all(|at| {
        bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Text without `%HH` escapes. An escape that is incomplete, or makes no UTF-8, stays as it is.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(text.into(), Into::into)
}

impl<'a> Host<'a> {
    /// Parses `host`, `[v6]`, without a port.
    pub fn parse(text: &'a str) -> Option<Self> {
        match Self::parse_with_port(text)? {
            (host, None) => Some(host),
            _ => None,
        }
    }

    /// Parses `host[:port]`.
    pub fn parse_with_port(text: &'a str) -> Option<(Self, Option<u16>)> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']')?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if after.is_empty() => None,
                None => return None,
            };
            return Some((Self::V6(inner.parse().ok()?), port));
        }
        let (name, port) = match split_at_byte(text, b':') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (text, None),
        };
        // Hosts in the wild have underscores; RFC 3261 allows none, and nobody gains by refusing them.
        if name.is_empty() || !name.bytes().all(|byte| is_token_byte(byte) && byte != b'%') {
            return None;
        }
        let numeric = name.as_bytes()[0].is_ascii_digit();
        Some((
            numeric.then(|| name.parse().ok().map(Self::V4)).flatten().unwrap_or(Self::Name(name)),
            port,
        ))
    }

    /// The address of a numeric host.
    pub const fn ip(&self) -> Option<IpAddr> {
        match *self {
            Self::Name(_) => None,
            Self::V4(ip) => Some(IpAddr::V4(ip)),
            Self::V6(ip) => Some(IpAddr::V6(ip)),
        }
    }

    /// Equality ignoring the case of names.
    pub fn equivalent(&self, other: &Host<'_>) -> bool {
        match (self, other) {
            (Self::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (Self::V4(one), Host::V4(other)) => one == other,
            (Self::V6(one), Host::V6(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(ip) => ip.fmt(f),
            Self::V6(ip) => write!(f, "[{ip}]"),
        }
    }
}

impl From<IpAddr> for Host<'_> {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6(ip),
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    crate::syntax::decimal(text).and_then(|port| u16::try_from(port).ok())
}

/// A socket address as it stands in Via, Contact and URIs: IPv6 in brackets, IPv4-mapped addresses as IPv4.
pub fn host_port(addr: SocketAddr) -> String {
    SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equivalent(one: &str, other: &str) -> bool {
        let parse = |text| Uri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parse(one).equivalent(&parse(other)), parse(other).equivalent(&parse(one)));
        parse(one).equivalent(&parse(other))
    }

    /// The examples of RFC 3261 section 19.1.4.
    #[test]
    fn equality() {
        for (one, other) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:[2001:db8::1]", "sip:[2001:0DB8:0:0::1]"),
        ] {
            assert!(equivalent(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:a@b", "sips:a@b"),
            ("tel:+1", "tel:1"),
        ] {
            assert!(!equivalent(one, other), "{one} {other}");
        }
    }

    #[test]
    fn addresses_of_record() {
        let aor = |text| SipUri::parse(text).map(|uri| uri.address_of_record());
        assert_eq!(
            aor("sip:%61lice:pw@AtLanTa.CoM:5060;x=y?h=1").as_deref(),
            Ok("sip:alice@atlanta.com")
        );
        assert_eq!(aor("sips:a@b:5060").as_deref(), Ok("sips:a@b:5060"));
        assert_eq!(aor("tel:+1"), Err(ParseError::Uri));
    }

    #[test]
    fn malformed_ones() {
        for text in [
            "",
            "sip",
            "sip:",
            "sip:@b",
            "sip:a@",
            "sip:a@b:",
            "sip:a@b:65536",
            "sip:a@b:x",
            "sip:a@[::1",
            "sip:a@[x]",
            "sip:a b@c",
            "sip:a@b c",
            "<sip:a@b>",
            "sip:a%4@b",
            "sip:a%zz@b",
            "1x:y",
            ":x",
            "sip:a@b@c:d@",
        ] {
            assert_eq!(Uri::parse(text), Err(ParseError::Uri), "{text}");
        }
    }
}
