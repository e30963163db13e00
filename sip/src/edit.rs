//! Splice editing: a list of edits over a received message, applied once when it is sent.
//!
//! Bytes that no edit touches are copied verbatim, whatever they are.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use crate::scan::Start;
use crate::splice::{Splices, Text};
use crate::{HeaderName, Message};

/// Edits over one message. Positions are those of the original message; edits do not see each other, except that
/// insertions at one place keep their order and removals may overlap.
#[derive(Debug)]
pub struct Edit<'a> {
    message: &'a Message,
    splices: Splices<'a>,
}

const TYPICAL_SPLICES: usize = 12;

impl<'a> Edit<'a> {
    pub fn new(message: &'a Message) -> Self {
        Self { message, splices: Splices::with_capacity(TYPICAL_SPLICES) }
    }

    fn splice(&mut self, span: Range<usize>, text: Text<'a>) -> &mut Self {
        self.splices.push(span, text);
        self
    }

    fn insert_line(&mut self, at: usize, name: &'a str, value: Cow<'a, str>) -> &mut Self {
        self.splice(at..at, Text::Line(name, value))
    }

    /// Replaces bytes; see [`Message::span_of`], [`crate::Header::value_span`], [`crate::Value::span`].
    ///
    /// # Panics
    /// When the range is not inside the message.
    pub fn replace(&mut self, span: Range<usize>, text: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        assert!(
            span.start <= span.end && span.end <= self.message.buf.len(),
            "range outside the message"
        );
        self.splice(span, Text::Bytes(text.into()))
    }

    /// Replaces the Request-URI; nothing for a response.
    pub fn set_request_uri(&mut self, uri: impl Into<Cow<'a, str>>) -> &mut Self {
        if let Start::Request { uri: span, .. } = self.message.start {
            self.splice(span.start as usize..span.end as usize, text_of(uri.into()));
        }
        self
    }

    /// Adds a Via above all others.
    pub fn push_via(&mut self, value: impl Into<Cow<'a, str>>) -> &mut Self {
        self.add_before(HeaderName::Via, HeaderName::Via.as_str(), value)
    }

    /// Removes the topmost Via value.
    pub fn pop_via(&mut self) -> &mut Self {
        self.remove_values(HeaderName::Via, 1)
    }

    /// Adds a header line above the first line of `before`, or at the top when there is none.
    pub fn add_before(
        &mut self,
        before: HeaderName,
        name: &'a str,
        value: impl Into<Cow<'a, str>>,
    ) -> &mut Self {
        let at = self.message.header(before).map_or(self.top(), |header| header.line_span().start);
        self.insert_line(at, name, value.into())
    }

    /// Adds a header line below the last line of `after`, or at the bottom when there is none.
    pub fn add_after(
        &mut self,
        after: HeaderName,
        name: &'a str,
        value: impl Into<Cow<'a, str>>,
    ) -> &mut Self {
        let last = self.message.headers_named(after).last();
        let at = last.map_or(self.message.headers_end as usize, |header| header.line_span().end);
        self.insert_line(at, name, value.into())
    }

    /// Adds a header line directly below the start line.
    pub fn add_top(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> &mut Self {
        self.insert_line(self.top(), name, value.into())
    }

    /// Adds a header line below all others.
    pub fn add_bottom(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> &mut Self {
        self.insert_line(self.message.headers_end as usize, name, value.into())
    }

    /// Sets the value of a header that occurs once; adds the line at the bottom when there is none, removes further
    /// lines.
    pub fn set_header(&mut self, name: HeaderName, value: impl Into<Cow<'a, str>>) -> &mut Self {
        let message = self.message;
        let mut headers = message.headers_named(name);
        match headers.next() {
            Some(header) => {
                self.splice(header.value_span(), text_of(value.into()));
            }
            None => {
                self.insert_line(message.headers_end as usize, name.as_str(), value.into());
            }
        }
        for header in headers {
            self.splice(header.line_span(), Text::Nothing);
        }
        self
    }

    /// Sets Max-Forwards.
    pub fn set_max_forwards(&mut self, value: u8) -> &mut Self {
        self.set_header(HeaderName::MaxForwards, value.to_string())
    }

    /// Removes all lines of a header.
    pub fn remove_headers(&mut self, name: HeaderName) -> &mut Self {
        let message = self.message;
        for header in message.headers_named(name) {
            self.splice(header.line_span(), Text::Nothing);
        }
        self
    }

    /// Removes one header line.
    pub fn remove_line(&mut self, header: &crate::Header<'_>) -> &mut Self {
        self.splice(header.line_span(), Text::Nothing)
    }

    /// Removes the first `count` values of a list header, and the lines that become empty by it. Call once per header:
    /// edits do not see each other.
    pub fn remove_values(&mut self, name: HeaderName, count: usize) -> &mut Self {
        self.remove_values_at(name, 0..count)
    }

    /// Removes the values of a list header whose indices (over all lines) lie in the range.
    pub fn remove_values_at(&mut self, name: HeaderName, indices: Range<usize>) -> &mut Self {
        let message = self.message;
        let mut values = message.values(name).filter_map(Result::ok).enumerate().peekable();
        let mut kept_in_line = 0;
        let mut line = usize::MAX;
        // End of the last value that stays in the present line, and beginning of the run that goes.
        let mut kept_end = 0;
        let mut run: Option<usize> = None;
        while let Some((index, value)) = values.next() {
            if value.line != line {
                (line, kept_in_line, run) = (value.line, 0, None);
            }
            let remove = indices.contains(&index);
            if remove {
                run.get_or_insert(value.span.start);
            } else {
                if let Some(start) = run.take() {
                    // The values that go take the comma after them along.
                    self.splice(start..value.span.start, Text::Nothing);
                }
                kept_in_line += 1;
                kept_end = value.span.end;
            }
            let last_in_line = values.peek().is_none_or(|(_, next)| next.line != line);
            if last_in_line && run.take().is_some() {
                let entry = message.lines[line];
                if kept_in_line == 0 {
                    self.splice(entry.start as usize..entry.end as usize, Text::Nothing);
                } else {
                    self.splice(kept_end..entry.value.end as usize, Text::Nothing);
                }
            }
        }
        self
    }

    /// Appends text such as `;received=192.0.2.1` to the topmost Via.
    pub fn append_to_top_via(&mut self, text: impl Into<Cow<'a, str>>) -> &mut Self {
        if let Some(value) = self.message.first_value(HeaderName::Via) {
            self.splice(value.span.end..value.span.end, text_of(text.into()));
        }
        self
    }

    /// Notes in the topmost Via where a request came from: `received` if it differs from sent-by or `rport` is asked
    /// for, and the value of `rport` (RFC 3261 section 18.2.1, RFC 3581 section 4). Values that the sender wrote there
    /// itself are replaced.
    pub fn stamp_via(&mut self, source: SocketAddr) -> &mut Self {
        let message = self.message;
        if let Some(value) = message.first_value(HeaderName::Via)
            && let Some(stamped) = crate::build::stamped_via(value.text, source)
        {
            self.splice(value.span, Text::Bytes(stamped.into_bytes().into()));
        }
        self
    }

    /// Replaces the body and sets Content-Length.
    pub fn set_body(&mut self, body: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        let body = body.into();
        self.set_content_length(body.len());
        let message = self.message;
        self.splice(message.body as usize..message.buf.len(), Text::Bytes(body))
    }

    /// Sets Content-Length, as streams need it (RFC 3261 section 18.3).
    pub fn set_content_length(&mut self, length: usize) -> &mut Self {
        self.set_header(HeaderName::ContentLength, length.to_string())
    }

    /// Adds Content-Length when the message has none, as before sending over a stream.
    pub fn ensure_content_length(&mut self) -> &mut Self {
        if self.message.header(HeaderName::ContentLength).is_none() {
            self.set_content_length(self.message.body().len());
        }
        self
    }

    /// The edited message in a buffer of its own.
    pub fn finish(self) -> Bytes {
        self.splices.apply(&self.message.buf).into()
    }

    fn top(&self) -> usize {
        self.message
            .lines
            .first()
            .map_or(self.message.headers_end as usize, |line| line.start as usize)
    }
}

fn text_of(text: Cow<'_, str>) -> Text<'_> {
    Text::Bytes(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}
