//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route, Record-Route, Path, Refer-To.

use crate::syntax::{find_outside, is_token_byte, quoted_end, trim};
use crate::{Params, ParseError, Uri};

/// One address with an optional display name and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The whole value.
    pub raw: &'a str,
    /// As written, quotes included; `None` when absent or empty.
    pub display: Option<&'a str>,
    pub uri: Uri<'a>,
    /// Parameters of the header, not of the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Parses one value.
    ///
    /// # Errors
    /// [`ParseError::Uri`] when brackets, quotes, URI or parameters are malformed.
    pub fn parse(raw: &'a str) -> Result<Self, ParseError> {
        let raw = trim(raw);
        let bytes = raw.as_bytes();
        let open = match bytes.first() {
            None => return Err(ParseError::Uri),
            Some(b'"') => {
                let end = quoted_end(bytes, 0).ok_or(ParseError::Uri)?;
                let open = end + raw[end..].find('<').ok_or(ParseError::Uri)?;
                if !trim(&raw[end..open]).is_empty() {
                    return Err(ParseError::Uri);
                }
                Some(open)
            }
            Some(_) => memchr::memchr(b'<', bytes),
        };
        let Some(open) = open else {
            return Self::parse_bare(raw);
        };
        let close = open + memchr::memchr(b'>', &bytes[open..]).ok_or(ParseError::Uri)?;
        let display = trim(&raw[..open]);
        // "display-name = *(token LWS) / quoted-string"; other characters are tolerated (RFC 4475 section 3.1.2.15)
        // as long as they cannot be mistaken for something else.
        if !display.starts_with('"')
            && display.bytes().any(|byte| matches!(byte, b'"' | b';' | b'>'))
        {
            return Err(ParseError::Uri);
        }
        let params = Params::new(trim(&raw[close + 1..]));
        if !params.well_formed() {
            return Err(ParseError::Uri);
        }
        Ok(Self {
            raw,
            display: (!display.is_empty()).then_some(display),
            uri: Uri::parse(&raw[open + 1..close])?,
            params,
        })
    }

    /// Without brackets, "any URI parameters are interpreted as header parameters", and comma, question mark and
    /// semicolon cannot belong to the URI (RFC 3261 section 20).
    fn parse_bare(raw: &'a str) -> Result<Self, ParseError> {
        let end = find_outside(raw.as_bytes(), 0, b';');
        let uri = trim(&raw[..end]);
        let params = Params::new(&raw[end..]);
        if uri.contains(['?', ',']) || !params.well_formed() {
            return Err(ParseError::Uri);
        }
        Ok(Self { raw, display: None, uri: Uri::parse(uri)?, params })
    }

    /// The `tag` parameter (From, To).
    pub fn tag(&self) -> Option<&'a str> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    /// The `q` parameter in thousandths; 1000 when absent, as the best guess of a registrar; `None` when malformed.
    pub fn q(&self) -> Option<u16> {
        let Some(text) = self.params.get("q") else { return Some(1000) };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut thousandths = match whole {
            "0" | "" => 0,
            "1" => 1000,
            _ => return None,
        };
        let mut unit = 100;
        for digit in fraction.bytes() {
            thousandths += unit * u16::from(digit - b'0');
            unit /= 10;
        }
        (thousandths <= 1000).then_some(thousandths)
    }

    /// The `expires` parameter in seconds, at most 2^32-1; a malformed one counts as 3600 (RFC 3261 section 20.10).
    pub fn expires(&self) -> Option<u32> {
        let text = self.params.get("expires")?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(3600);
        }
        Some(
            crate::syntax::decimal(text)
                .map_or(u32::MAX, |value| u32::try_from(value).unwrap_or(u32::MAX)),
        )
    }
}

/// One value of Contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact<'a> {
    /// `*`: all bindings (RFC 3261 section 10.2.2).
    Star,
    Addr(NameAddr<'a>),
}

impl<'a> Contact<'a> {
    /// Parses one value.
    ///
    /// # Errors
    /// [`ParseError::Uri`].
    pub fn parse(raw: &'a str) -> Result<Self, ParseError> {
        if trim(raw) == "*" { Ok(Self::Star) } else { NameAddr::parse(raw).map(Self::Addr) }
    }

    /// The address, unless it is `*`.
    pub const fn addr(&self) -> Option<&NameAddr<'a>> {
        match self {
            Self::Star => None,
            Self::Addr(addr) => Some(addr),
        }
    }
}

/// CSeq (RFC 3261 section 20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CSeq<'a> {
    pub seq: u32,
    pub method: crate::Method<'a>,
}

impl<'a> CSeq<'a> {
    /// Parses the value.
    ///
    /// # Errors
    /// [`ParseError::Header`] when it is malformed or not below 2^31.
    pub fn parse(raw: &'a str) -> Result<Self, ParseError> {
        let error = ParseError::Header(crate::HeaderName::CSeq);
        let raw = trim(raw);
        let space = raw.bytes().position(crate::syntax::is_lws).ok_or(error)?;
        let seq =
            crate::syntax::decimal(&raw[..space]).filter(|seq| *seq < 1 << 31).ok_or(error)?;
        let method = trim(&raw[space..]);
        if !method.bytes().all(is_token_byte) {
            return Err(error);
        }
        Ok(Self { seq: seq as u32, method: crate::Method::new(method) })
    }
}
