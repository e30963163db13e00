//! `;name=value` parameters of URIs and headers.

use crate::syntax::{find_outside, is_lws, quoted_end, split_at_byte, trim};

/// Parameters as they stand in a message, from the first semicolon on; read on demand, unknown ones untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Params<'a>(&'a str);

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a str,
    /// The value as written, quotes included; `None` for a flag.
    pub value: Option<&'a str>,
    /// The whole parameter from its semicolon to its end, for edits by [`crate::Message::span_of`].
    pub raw: &'a str,
}

impl<'a> Params<'a> {
    /// Parameters from text that is empty or begins with a semicolon.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The text, beginning with the first semicolon, or empty.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// All parameters in order; empty ones (`;;`) are skipped.
    pub fn iter(self) -> impl Iterator<Item = Param<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                let start = memchr::memchr(b';', rest.as_bytes())?;
                let text = &rest[start..];
                let end = find_outside(text.as_bytes(), 1, b';');
                let raw = trim(&text[..end]);
                rest = &text[end..];
                let (name, value) = match split_at_byte(&raw[1..], b'=') {
                    Some((name, value)) => (trim(name), Some(trim(value))),
                    None => (trim(&raw[1..]), None),
                };
                if !name.is_empty() {
                    return Some(Param { name, value, raw });
                }
            }
        })
    }

    /// The first parameter of this name, whatever its case.
    pub fn find(self, name: &str) -> Option<Param<'a>> {
        self.iter().find(|param| param.name.eq_ignore_ascii_case(name))
    }

    /// The value of a parameter, empty for a flag; `None` when it is absent. Quotes are kept.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.find(name).map(|param| param.value.unwrap_or(""))
    }

    /// Whether a parameter is there, with or without value.
    pub fn has(self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether these are header parameters: each has a name, every quoted string ends (RFC 3261 section 25.1), and so
    /// does every bracket: what is appended would be taken for a part of the last value.
    pub(crate) fn well_formed(self) -> bool {
        let bytes = self.0.as_bytes();
        if bytes.is_empty() {
            return true;
        }
        let mut name_is_missing = false;
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => match quoted_end(bytes, at) {
                    Some(end) => {
                        at = end;
                        continue;
                    }
                    None => return false,
                },
                b'<' if at > 0 => {
                    let Some(length) = memchr::memchr(b'>', &bytes[at..]) else { return false };
                    (at, name_is_missing) = (at + length, false);
                }
                b';' if name_is_missing => return false,
                b';' => name_is_missing = true,
                byte if is_lws(byte) => {}
                _ if at == 0 => return false,
                _ => name_is_missing = false,
            }
            at += 1;
        }
        !name_is_missing
    }
}

/// The content of a quoted string without quotes and escapes, or the text itself when it is not quoted.
pub fn unquote(text: &str) -> std::borrow::Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return text.into();
    };
    if !inner.contains('\\') {
        return inner.into();
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out.into()
}
