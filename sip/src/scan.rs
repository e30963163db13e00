//! The scanner: finds start line, header lines and body in one pass over a buffer and keeps offsets only.

use bytes::{Buf, Bytes};

use crate::{HeaderName, Limits, Message, ParseError, Partial};

/// A range of the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Request { method: Span, uri: Span },
    Response { code: u16, reason: Span },
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) start: u32,
    /// After the line end.
    pub(crate) end: u32,
    pub(crate) value: Span,
    pub(crate) name_len: u16,
    pub(crate) name: HeaderName,
}

impl Line {
    pub(crate) const fn name_span(&self) -> Span {
        Span { start: self.start, end: self.start + self.name_len as u32 }
    }
}

/// Typical messages have fewer lines, so the table is allocated once.
const TYPICAL_LINES: usize = 24;

pub(crate) fn scan(mut buf: Bytes, limits: &Limits) -> Result<Message, Partial> {
    // RFC 3261 section 7.5: "Implementations processing SIP messages over stream-oriented transports MUST ignore any
    // CRLF appearing before the start-line"; harmless over UDP as well.
    let leading = buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buf.advance(leading);
    let mut fault = None;
    if buf.len() > limits.max_message {
        fault = Some(ParseError::TooLong { limit: limits.max_message });
        buf.truncate(limits.max_message);
    }
    if buf.is_empty() {
        return Err(Partial { error: fault.unwrap_or(ParseError::Empty), message: None });
    }
    let (start, mut at) = match start_line(&buf, &mut fault) {
        Some(found) => found,
        None => {
            return Err(Partial { error: fault.unwrap_or(ParseError::StartLine), message: None });
        }
    };
    let bytes: &[u8] = &buf;
    let mut lines = Vec::with_capacity(TYPICAL_LINES);
    let headers_end = loop {
        let rest = &bytes[at..];
        match rest {
            [b'\r', b'\n', ..] => break Some((at, at + 2)),
            [b'\n', ..] => break Some((at, at + 1)),
            _ => {}
        }
        let Some(end) = line_end(bytes, at) else { break None };
        if lines.len() == limits.max_headers {
            fault.get_or_insert(ParseError::TooManyHeaders { limit: limits.max_headers });
            break None;
        }
        match header_line(bytes, at, end) {
            Some(line) => lines.push(line),
            None => {
                fault.get_or_insert(ParseError::HeaderLine);
            }
        }
        at = end;
    };
    let (headers_end, body) = headers_end.unwrap_or_else(|| {
        fault.get_or_insert(ParseError::Unterminated);
        (at, at)
    });
    if fault == Some(ParseError::Unterminated)
        || matches!(fault, Some(ParseError::TooManyHeaders { .. }))
    {
        // What follows is no body, and must not be taken for one.
        buf.truncate(body);
    }
    let mut message =
        Message { buf, start, lines, headers_end: headers_end as u32, body: body as u32 };
    match message.content_length() {
        Err(error) => {
            fault.get_or_insert(error);
        }
        Ok(Some(length)) => {
            let have = message.buf.len() - body;
            if length > have {
                fault.get_or_insert(ParseError::ShortBody);
            } else {
                // RFC 3261 section 18.3: "If there are additional bytes in the transport packet beyond the end of
                // the body, they MUST be discarded."
                message.buf.truncate(body + length);
            }
        }
        Ok(None) => {}
    }
    match fault {
        None => Ok(message),
        Some(error) => Err(Partial { error, message: Some(Box::new(message)) }),
    }
}

/// The index after the header line that begins at `at`, folded lines included; `None` when it does not end.
fn line_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr(b'\n', &bytes[at..])? + 1;
        match bytes.get(at) {
            Some(b' ' | b'\t') => {}
            _ => return Some(at),
        }
    }
}

fn header_line(bytes: &[u8], start: usize, end: usize) -> Option<Line> {
    let line = &bytes[start..end];
    let colon = memchr::memchr(b':', line)?;
    let mut name_len = colon;
    while name_len > 0 && matches!(line[name_len - 1], b' ' | b'\t') {
        name_len -= 1;
    }
    let name = &line[..name_len];
    if name.is_empty() || name_len > usize::from(u16::MAX) {
        return None;
    }
    let known = HeaderName::find(name);
    if known == HeaderName::Other && !name.iter().all(|byte| crate::syntax::is_token_byte(*byte)) {
        return None;
    }
    // From the end first: an empty value stands behind the colon, not on the next line.
    let mut from = colon + 1;
    let mut to = line.len();
    while to > from && crate::syntax::is_lws(line[to - 1]) {
        to -= 1;
    }
    while from < to && crate::syntax::is_lws(line[from]) {
        from += 1;
    }
    Some(Line {
        start: start as u32,
        end: end as u32,
        value: Span { start: (start + from) as u32, end: (start + to) as u32 },
        name_len: name_len as u16,
        name: known,
    })
}

/// Reads the start line; what is wrong but can be told apart is noted as a fault, so that it can be answered.
fn start_line(bytes: &[u8], fault: &mut Option<ParseError>) -> Option<(Start, usize)> {
    let newline = memchr::memchr(b'\n', bytes)?;
    let mut end = newline;
    if end > 0 && bytes[end - 1] == b'\r' {
        end -= 1;
    }
    let line = &bytes[..end];
    let first = memchr::memchr(b' ', line)?;
    if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        return status_line(line, first, fault).map(|start| (start, newline + 1));
    }
    let last = memchr::memrchr(b' ', line)?;
    let mut method_end = first;
    if !line[..first].iter().all(|byte| crate::syntax::is_token_byte(*byte)) || first == 0 {
        fault.get_or_insert(ParseError::StartLine);
        method_end = 0;
    }
    let version = &line[last + 1..];
    let (mut uri_start, mut uri_end) = (first + 1, last.max(first + 1));
    if version.len() < 4 || !version[..4].eq_ignore_ascii_case(b"SIP/") {
        // White space after the version, or no version at all.
        fault.get_or_insert(ParseError::StartLine);
    } else if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        fault.get_or_insert(ParseError::Version);
    }
    while uri_start < uri_end && line[uri_start] == b' ' {
        uri_start += 1;
    }
    while uri_end > uri_start && line[uri_end - 1] == b' ' {
        uri_end -= 1;
    }
    // RFC 3261 section 7.1: exactly one space between the elements, none inside the Request-URI.
    if uri_start != first + 1
        || uri_end != last
        || uri_start == uri_end
        || line[uri_start..uri_end].iter().any(|byte| byte.is_ascii_whitespace())
    {
        fault.get_or_insert(ParseError::StartLine);
    }
    let method = Span { start: 0, end: method_end as u32 };
    let uri = Span { start: uri_start as u32, end: uri_end as u32 };
    Some((Start::Request { method, uri }, newline + 1))
}

fn status_line(line: &[u8], first: usize, fault: &mut Option<ParseError>) -> Option<Start> {
    if !line[..first].eq_ignore_ascii_case(b"SIP/2.0") {
        fault.get_or_insert(ParseError::Version);
    }
    let code = line.get(first + 1..first + 4)?;
    if !code.iter().all(u8::is_ascii_digit) || !matches!(code[0], b'1'..=b'6') {
        return None;
    }
    let code = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let reason = match line.get(first + 4) {
        None => line.len(),
        Some(b' ') => first + 5,
        Some(_) => return None,
    };
    Some(Start::Response { code, reason: Span { start: reason as u32, end: line.len() as u32 } })
}
