//! One pass over the bytes: lines with their kind, and what stands in some of them.

use std::net::IpAddr;
use std::ops::Range;

use super::{Address, Attribute, MediaLine, Sdp, SdpError, SdpLimits};

/// A line with its line end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) start: u32,
    /// Behind the `=`, or the start when there is none.
    value_start: u32,
    /// Before the line end.
    pub(super) value_end: u32,
    /// After the line end.
    pub(super) end: u32,
    /// The letter before the `=`; 0 for anything else, blank lines included.
    pub(super) kind: u8,
}

impl Line {
    pub(super) const fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) const fn value(&self) -> Range<usize> {
        self.value_start as usize..self.value_end as usize
    }
}

/// Typical descriptions have fewer.
const TYPICAL_LINES: usize = 32;

pub(super) fn scan<'a>(bytes: &'a [u8], limits: &SdpLimits) -> Result<Sdp<'a>, SdpError> {
    if bytes.len() > limits.max_size {
        return Err(SdpError::TooLong { limit: limits.max_size });
    }
    let end_of_line = end_of_line(bytes);
    let mut lines: Vec<Line> = Vec::with_capacity(TYPICAL_LINES);
    let mut media = Vec::new();
    let mut started = false;
    let mut at = 0;
    while at < bytes.len() {
        let end = memchr::memchr(end_of_line, &bytes[at..]).map_or(bytes.len(), |n| at + n + 1);
        let line = line(bytes, at, end);
        started = started || line.kind == b'v';
        if !started && line.start != line.value_end {
            return Err(SdpError::NoVersion);
        }
        if lines.len() == limits.max_lines {
            return Err(SdpError::TooManyLines { limit: limits.max_lines });
        }
        if line.kind == b'm' {
            if media.len() == limits.max_media {
                return Err(SdpError::TooManyMedia { limit: limits.max_media });
            }
            media.push(lines.len() as u32);
        }
        lines.push(line);
        at = end;
    }
    if started { Ok(Sdp { bytes, lines, media }) } else { Err(SdpError::NoVersion) }
}

/// Old devices end lines with CR; one that stands alone among line feeds is something else.
pub(super) fn end_of_line(bytes: &[u8]) -> u8 {
    if memchr::memchr(b'\n', bytes).is_some() { b'\n' } else { b'\r' }
}

fn line(bytes: &[u8], start: usize, end: usize) -> Line {
    let mut value_end = end;
    while value_end > start && matches!(bytes[value_end - 1], b'\r' | b'\n') {
        value_end -= 1;
    }
    let (kind, value_start) = match &bytes[start..value_end] {
        [kind @ b'a'..=b'z', b'=', ..] => (*kind, start + 2),
        _ => (0, start),
    };
    Line {
        start: start as u32,
        value_start: value_start as u32,
        value_end: value_end as u32,
        end: end as u32,
        kind,
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| is_space(*byte)).filter(|word| !word.is_empty())
}

/// Where the words of a range stand.
fn word_spans(bytes: &[u8], span: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = span.start;
    std::iter::from_fn(move || {
        while at < span.end && is_space(bytes[at]) {
            at += 1;
        }
        let start = at;
        while at < span.end && !is_space(bytes[at]) {
            at += 1;
        }
        (start < at).then_some(start..at)
    })
}

pub(super) fn decimal(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 10 {
        return None;
    }
    text.iter().try_fold(0_u16, |sum, byte| {
        let digit = u16::from(byte.is_ascii_digit().then(|| byte - b'0')?);
        sum.checked_mul(10)?.checked_add(digit)
    })
}

pub(super) fn ip(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn media_line<'a>(bytes: &'a [u8], line: &Line) -> Option<MediaLine<'a>> {
    let mut spans = word_spans(bytes, line.value());
    let (kind, port_span, proto) = (spans.next()?, spans.next()?, spans.next()?);
    let mut numbers = bytes[port_span.clone()].splitn(2, |byte| *byte == b'/');
    let port = decimal(numbers.next()?)?;
    let ports = match numbers.next() {
        None => 1,
        Some(count) => decimal(count).filter(|count| *count > 0)?,
    };
    let formats = spans.next().map_or(&[][..], |first| &bytes[first.start..line.value().end]);
    Some(MediaLine {
        kind: &bytes[kind],
        port,
        ports,
        proto: &bytes[proto],
        formats: formats.trim_ascii_end(),
        port_span,
    })
}

/// The address type and address that stand after `skipped` words.
pub(super) fn address(bytes: &[u8], value: Range<usize>, skipped: usize) -> Option<Address<'_>> {
    let mut spans = word_spans(bytes, value).skip(skipped);
    let (family, address) = (spans.next()?, spans.next()?);
    let text = bytes[address.clone()].split(|byte| *byte == b'/').next()?;
    Some(Address { text, ip: ip(text), span: family.start..address.end })
}

pub(super) fn attribute<'a>(bytes: &'a [u8], line: &Line) -> Attribute<'a> {
    let value = line.value();
    let text = &bytes[value.clone()];
    let colon = memchr::memchr(b':', text);
    let name = text[..colon.unwrap_or(text.len())].trim_ascii();
    let value_start = colon.map_or(value.end, |colon| value.start + colon + 1);
    Attribute {
        name,
        value: colon.map(|_| bytes[value_start..value.end].trim_ascii()),
        line_span: line.span(),
        value_span: value_start..value.end,
    }
}
