//! Via (RFC 3261 section 20.42, RFC 3581).

use std::net::{IpAddr, SocketAddr};

use crate::syntax::{is_lws, is_token, split_at_byte, trim};
use crate::{HeaderName, Host, Params, ParseError};

/// The cookie that begins a branch made by RFC 3261 (section 8.1.1.7).
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// One Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The whole value.
    pub raw: &'a str,
    /// `UDP`, `TCP`, `TLS` or another token, as written.
    pub transport: &'a str,
    /// Host and port as written.
    pub sent_by: &'a str,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Parses one value; white space is allowed around slashes, colon and semicolons.
    ///
    /// # Errors
    /// [`ParseError::Header`].
    pub fn parse(raw: &'a str) -> Result<Self, ParseError> {
        let error = ParseError::Header(HeaderName::Via);
        let raw = trim(raw);
        let (name, rest) = split_at_byte(raw, b'/').ok_or(error)?;
        let (version, rest) = split_at_byte(rest, b'/').ok_or(error)?;
        let (name, version) = (trim(name), trim(version));
        if !name.eq_ignore_ascii_case("SIP") || version != "2.0" {
            return Err(error);
        }
        let rest = trim(rest);
        let space = rest.bytes().position(is_lws).ok_or(error)?;
        let transport = &rest[..space];
        let rest = trim(&rest[space..]);
        let (sent_by, params) = match memchr::memchr(b';', rest.as_bytes()) {
            Some(at) => (trim(&rest[..at]), &rest[at..]),
            None => (rest, ""),
        };
        let params = Params::new(params);
        if !is_token(transport) || !params.well_formed() {
            return Err(error);
        }
        let (host, port) = match Host::parse_with_port(sent_by) {
            Some(found) => found,
            // White space around the colon (RFC 4475 section 3.1.1.1).
            None => {
                let (host, port) = sent_by.rsplit_once(':').ok_or(error)?;
                let port =
                    crate::syntax::decimal(trim(port)).and_then(|port| u16::try_from(port).ok());
                (Host::parse(trim(host)).ok_or(error)?, Some(port.ok_or(error)?))
            }
        };
        Ok(Self { raw, transport, sent_by, host, port, params })
    }

    /// The branch, unless it is empty.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }

    /// The branch, if it begins with the cookie and says something after it.
    pub fn rfc3261_branch(&self) -> Option<&'a str> {
        self.branch().filter(|branch| {
            branch.len() > BRANCH_COOKIE.len() && branch.starts_with(BRANCH_COOKIE)
        })
    }

    /// The port, or the default of the transport.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(if self.transport.eq_ignore_ascii_case("TLS") { 5061 } else { 5060 })
    }

    /// The address in `received`.
    pub fn received(&self) -> Option<IpAddr> {
        self.params.get("received")?.trim_matches(['[', ']']).parse().ok()
    }

    /// `rport`: outer `None` when absent, inner when it has no value yet (RFC 3581 section 3).
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.find("rport").map(|param| param.value.and_then(|value| value.parse().ok()))
    }

    /// Where an answer over UDP to a request from `source` goes: `maddr` aside, the source's address, with its port
    /// if `rport` asks for it, else the sent-by port (RFC 3261 section 18.2.2, RFC 3581 section 4).
    pub fn reply_addr(&self, source: SocketAddr) -> SocketAddr {
        if self.params.has("rport") {
            return source;
        }
        let ip =
            self.params.get("maddr").and_then(|maddr| maddr.parse().ok()).unwrap_or(source.ip());
        SocketAddr::new(ip, self.port_or_default())
    }
}
