//! A message: one received buffer and a table of header offsets. Values are parsed when asked for.

use std::ops::Range;

use bytes::Bytes;

use crate::scan::{self, Line, Span, Start};
use crate::syntax::{find_outside, trim};
use crate::{CSeq, Contact, HeaderName, Method, NameAddr, ParseError, Partial, Uri, Via};

/// Bounds on what is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole message. UDP cannot carry more than 65,535.
    pub max_message: usize,
    /// Header lines.
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: 128 * 1024, max_headers: 512 }
    }
}

/// A SIP message as received, never changed. A clone shares the bytes and copies the table of headers; see [`crate::Edit`] for sending a changed copy.
#[derive(Clone)]
pub struct Message {
    pub(crate) buf: Bytes,
    pub(crate) start: Start,
    pub(crate) lines: Vec<Line>,
    /// Where the empty line after the headers begins.
    pub(crate) headers_end: u32,
    /// Where the body begins.
    pub(crate) body: u32,
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    pub name: HeaderName,
    message: &'a Message,
    line: Line,
}

/// One value of a list header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    pub text: &'a str,
    /// Index of its line among the headers of the message.
    pub line: usize,
    /// The value in the message's bytes.
    pub span: Range<usize>,
}

impl Message {
    /// Parses a whole message with default limits. Bytes after the body are dropped, line ends before the start line
    /// are skipped (RFC 3261 sections 18.3, 7.5).
    ///
    /// # Errors
    /// [`Partial`], with what could be read. Only the structure is checked; see [`Message::check`] for the rest.
    pub fn parse(bytes: Bytes) -> Result<Self, Partial> {
        Self::parse_within(bytes, &Limits::default())
    }

    /// Parses a whole message.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_within(bytes: Bytes, limits: &Limits) -> Result<Self, Partial> {
        scan::scan(bytes, limits)
    }

    /// The whole message as received.
    pub const fn bytes(&self) -> &Bytes {
        &self.buf
    }

    /// The bytes of the body; empty when there is none.
    pub fn body(&self) -> &[u8] {
        &self.buf[self.body as usize..]
    }

    /// Start line and headers with the empty line.
    pub fn head(&self) -> &[u8] {
        &self.buf[..self.body as usize]
    }

    pub const fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The method of a request, or of the request that a response answers (from CSeq).
    pub fn method(&self) -> Option<Method<'_>> {
        match self.start {
            Start::Request { method, .. } => self.str_at(method).ok().map(Method::new),
            Start::Response { .. } => self.cseq().ok().map(|cseq| cseq.method),
        }
    }

    /// The status code of a response.
    pub const fn status(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { code, .. } => Some(code),
        }
    }

    /// The reason phrase of a response; may be empty.
    pub fn reason(&self) -> Option<&[u8]> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { reason, .. } => Some(self.bytes_at(reason)),
        }
    }

    /// The Request-URI as written; `None` for a response or when it is not UTF-8.
    pub fn request_uri_str(&self) -> Option<&str> {
        match self.start {
            Start::Request { uri, .. } => self.str_at(uri).ok(),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI.
    ///
    /// # Errors
    /// [`ParseError::Uri`], also for a response.
    pub fn request_uri(&self) -> Result<Uri<'_>, ParseError> {
        Uri::parse(self.request_uri_str().ok_or(ParseError::Uri)?)
    }

    /// All header lines in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.lines.iter().map(|line| Header { name: line.name, message: self, line: *line })
    }

    /// The header lines of one name.
    pub fn headers_named(&self, name: HeaderName) -> impl Iterator<Item = Header<'_>> {
        let lines = self.lines.iter().filter(move |line| line.name == name);
        lines.map(|line| Header { name: line.name, message: self, line: *line })
    }

    /// The first header line of a name.
    pub fn header(&self, name: HeaderName) -> Option<Header<'_>> {
        self.headers_named(name).next()
    }

    /// The text of the first header line of a name; `None` when absent or not UTF-8.
    pub fn header_str(&self, name: HeaderName) -> Option<&str> {
        self.header(name).and_then(|header| header.text().ok())
    }

    /// The first header line whose name is not in [`HeaderName`].
    pub fn other_header(&self, name: &str) -> Option<Header<'_>> {
        self.headers_named(HeaderName::Other)
            .find(|header| header.name_str().eq_ignore_ascii_case(name))
    }

    /// All values of a list header over all its lines, cut at commas outside quotes and brackets. A header without any
    /// value has none; a value missing between commas is an error.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = Result<Value<'_>, ParseError>> {
        let lines = self.lines.iter().enumerate().filter(move |(_, line)| line.name == name);
        lines.flat_map(move |(index, line)| self.values_of_line(index, line.value, name))
    }

    fn values_of_line(
        &self,
        line: usize,
        span: Span,
        name: HeaderName,
    ) -> impl Iterator<Item = Result<Value<'_>, ParseError>> {
        let list = name.is_list();
        let whole = (!list || span.start < span.end).then(|| self.str_at(span));
        // What is left, and where it begins; the text is validated once.
        let mut rest = whole.map(|text| text.map(|text| (text, span.start as usize)));
        std::iter::from_fn(move || {
            let (text, at) = match rest.take()? {
                Ok(rest) => rest,
                Err(error) => return Some(Err(error)),
            };
            let end = if list { find_outside(text.as_bytes(), 0, b',') } else { text.len() };
            if end < text.len() {
                rest = Some(Ok((&text[end + 1..], at + end + 1)));
            }
            let value = trim(&text[..end]);
            if value.is_empty() && list {
                return Some(Err(ParseError::Header(name)));
            }
            let start = at + (value.as_ptr() as usize - text.as_ptr() as usize);
            Some(Ok(Value { text: value, line, span: start..start + value.len() }))
        })
    }

    /// The first value of a list header, as [`Message::values`] has it, without looking at the rest.
    pub(crate) fn first_value(&self, name: HeaderName) -> Option<Value<'_>> {
        let (index, line) = self.lines.iter().enumerate().find(|(_, line)| line.name == name)?;
        let text = self.str_at(line.value).ok()?;
        let value = trim(&text[..find_outside(text.as_bytes(), 0, b',')]);
        let start = line.value.start as usize;
        (!value.is_empty()).then(|| Value {
            text: value,
            line: index,
            span: start..start + value.len(),
        })
    }

    fn parsed<'a, T>(
        &'a self,
        name: HeaderName,
        parse: impl Fn(&'a str) -> Result<T, ParseError>,
    ) -> impl Iterator<Item = Result<T, ParseError>> {
        self.values(name).map(move |value| parse(value?.text).map_err(|_| ParseError::Header(name)))
    }

    fn single(&self, name: HeaderName) -> Result<&str, ParseError> {
        self.header(name)
            .ok_or(ParseError::Missing(name))?
            .text()
            .map_err(|_| ParseError::Header(name))
    }

    /// All Via values, top first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, ParseError>> {
        self.parsed(HeaderName::Via, Via::parse)
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// [`ParseError::Missing`] or [`ParseError::Header`].
    pub fn top_via(&self) -> Result<Via<'_>, ParseError> {
        match self.first_value(HeaderName::Via) {
            Some(value) => Via::parse(value.text),
            None if self.header(HeaderName::Via).is_some() => {
                Err(ParseError::Header(HeaderName::Via))
            }
            None => Err(ParseError::Missing(HeaderName::Via)),
        }
    }

    /// From.
    ///
    /// # Errors
    /// [`ParseError::Missing`] or [`ParseError::Header`].
    pub fn from(&self) -> Result<NameAddr<'_>, ParseError> {
        NameAddr::parse(self.single(HeaderName::From)?)
            .map_err(|_| ParseError::Header(HeaderName::From))
    }

    /// To.
    ///
    /// # Errors
    /// [`ParseError::Missing`] or [`ParseError::Header`].
    pub fn to(&self) -> Result<NameAddr<'_>, ParseError> {
        NameAddr::parse(self.single(HeaderName::To)?)
            .map_err(|_| ParseError::Header(HeaderName::To))
    }

    /// Call-ID.
    ///
    /// # Errors
    /// [`ParseError::Missing`] or [`ParseError::Header`].
    pub fn call_id(&self) -> Result<&str, ParseError> {
        let text = self.single(HeaderName::CallId)?;
        if text.is_empty() || text.bytes().any(crate::syntax::is_lws) {
            return Err(ParseError::Header(HeaderName::CallId));
        }
        Ok(text)
    }

    /// CSeq.
    ///
    /// # Errors
    /// [`ParseError::Missing`] or [`ParseError::Header`].
    pub fn cseq(&self) -> Result<CSeq<'_>, ParseError> {
        CSeq::parse(self.single(HeaderName::CSeq)?)
    }

    /// All Contact values.
    pub fn contacts(&self) -> impl Iterator<Item = Result<Contact<'_>, ParseError>> {
        self.parsed(HeaderName::Contact, Contact::parse)
    }

    /// All Route values, top first.
    pub fn routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, ParseError>> {
        self.parsed(HeaderName::Route, NameAddr::parse)
    }

    /// All Record-Route values, top first.
    pub fn record_routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, ParseError>> {
        self.parsed(HeaderName::RecordRoute, NameAddr::parse)
    }

    /// All Path values, top first (RFC 3327).
    pub fn paths(&self) -> impl Iterator<Item = Result<NameAddr<'_>, ParseError>> {
        self.parsed(HeaderName::Path, NameAddr::parse)
    }

    /// Max-Forwards; `None` when absent.
    ///
    /// # Errors
    /// [`ParseError::Header`] when it is not a number from 0 to 255 (RFC 3261 section 20.22).
    pub fn max_forwards(&self) -> Result<Option<u8>, ParseError> {
        let Some(header) = self.header(HeaderName::MaxForwards) else { return Ok(None) };
        let error = ParseError::Header(HeaderName::MaxForwards);
        let value = crate::syntax::decimal(header.text().map_err(|_| error)?).ok_or(error)?;
        u8::try_from(value).map(Some).map_err(|_| error)
    }

    /// Expires in seconds, at most 2^32-1; `None` when absent; malformed counts as 3600 (RFC 3261 section 20.19).
    pub fn expires(&self) -> Option<u32> {
        let text = self.header_str(HeaderName::Expires)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(3600);
        }
        Some(
            crate::syntax::decimal(text)
                .map_or(u32::MAX, |value| u32::try_from(value).unwrap_or(u32::MAX)),
        )
    }

    /// Content-Length; `None` when absent.
    ///
    /// # Errors
    /// [`ParseError::Header`] when malformed, [`ParseError::Repeated`] when several lines disagree.
    pub fn content_length(&self) -> Result<Option<usize>, ParseError> {
        let mut found = None;
        for line in self.lines.iter().filter(|line| line.name == HeaderName::ContentLength) {
            let error = ParseError::Header(HeaderName::ContentLength);
            let value =
                crate::syntax::decimal(self.str_at(line.value).map_err(|_| error)?).ok_or(error)?;
            let value = usize::try_from(value).map_err(|_| error)?;
            if found.is_some_and(|found| found != value) {
                return Err(ParseError::Repeated(HeaderName::ContentLength));
            }
            found = Some(value);
        }
        Ok(found)
    }

    /// The option tags of Require, Proxy-Require, Supported, Unsupported, or the methods of Allow; what is not UTF-8
    /// is skipped.
    pub fn tokens(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| value.ok().map(|value| value.text))
    }

    /// Whether a list of tokens has this one, whatever its case.
    pub fn has_token(&self, name: HeaderName, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }

    /// Where a piece of this message (anything that an accessor returned) stands in its bytes; `None` for text from
    /// elsewhere.
    pub fn span_of(&self, piece: &str) -> Option<Range<usize>> {
        let start = (piece.as_ptr() as usize).checked_sub(self.buf.as_ptr() as usize)?;
        let end = start.checked_add(piece.len())?;
        (end <= self.buf.len()).then_some(start..end)
    }

    pub(crate) fn bytes_at(&self, span: Span) -> &[u8] {
        &self.buf[span.start as usize..span.end as usize]
    }

    pub(crate) fn str_at(&self, span: Span) -> Result<&str, ParseError> {
        std::str::from_utf8(self.bytes_at(span)).map_err(|_| ParseError::Utf8)
    }
}

impl<'a> Header<'a> {
    /// The name as written.
    pub fn name_str(&self) -> &'a str {
        self.message.str_at(self.line.name_span()).unwrap_or("")
    }

    /// The value without surrounding white space; folded lines keep their line ends.
    pub fn value(&self) -> &'a [u8] {
        self.message.bytes_at(self.line.value)
    }

    /// The value as text.
    ///
    /// # Errors
    /// [`ParseError::Utf8`].
    pub fn text(&self) -> Result<&'a str, ParseError> {
        self.message.str_at(self.line.value)
    }

    /// The whole line with its line end, folded lines included.
    pub fn raw(&self) -> &'a [u8] {
        &self.message.buf[self.line_span()]
    }

    /// Where the whole line stands.
    pub const fn line_span(&self) -> Range<usize> {
        self.line.start as usize..self.line.end as usize
    }

    /// Where the value stands.
    pub const fn value_span(&self) -> Range<usize> {
        self.line.value.start as usize..self.line.value.end as usize
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Message").field(&self.buf).finish()
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.buf == other.buf
    }
}

impl Eq for Message {}
