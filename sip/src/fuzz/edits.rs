//! Operations of the edit list drawn from an input, and what they must make of a message, reckoned line by line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use crate::{Edit, Header, HeaderName, Limits, Message, Value, Via};

/// Every operation of [`Edit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    SetRequestUri,
    PushVia,
    PopVia,
    AddBefore,
    AddAfter,
    AddTop,
    AddBottom,
    SetHeader,
    SetMaxForwards,
    RemoveHeaders,
    RemoveLine,
    RemoveValuesAt,
    AppendToTopVia,
    StampVia,
    SetBody,
    SetContentLength,
    EnsureContentLength,
    Replace,
}

impl Operation {
    pub(super) const ALL: [Self; 18] = [
        Self::SetRequestUri,
        Self::PushVia,
        Self::PopVia,
        Self::AddBefore,
        Self::AddAfter,
        Self::AddTop,
        Self::AddBottom,
        Self::SetHeader,
        Self::SetMaxForwards,
        Self::RemoveHeaders,
        Self::RemoveLine,
        Self::RemoveValuesAt,
        Self::AppendToTopVia,
        Self::StampVia,
        Self::SetBody,
        Self::SetContentLength,
        Self::EnsureContentLength,
        Self::Replace,
    ];
}

/// Operations in one list at most.
const MAX_OPERATIONS: usize = 8;

/// Names that a message need not have.
const NAMES: [HeaderName; 10] = [
    HeaderName::Via,
    HeaderName::Route,
    HeaderName::RecordRoute,
    HeaderName::Contact,
    HeaderName::MaxForwards,
    HeaderName::Expires,
    HeaderName::ContentLength,
    HeaderName::Supported,
    HeaderName::Subject,
    HeaderName::Other,
];

/// Names of lines that are added; none that is read back as the only one of its name.
const ADDED: [&str; 4] = ["X-Added", "Record-Route", "m", "Path"];

/// What drawn text is made of: no line ends, which would end the value as well.
const TEXT: [char; 16] =
    ['a', 'Z', '9', '-', '.', ';', '=', ',', '<', '>', '"', '\\', '@', ':', '%', 'é'];

/// Bytes of an input, the last one first: what follows the body of a message is not part of it, and can be changed
/// without changing the message.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn next(&mut self) -> Option<usize> {
        let (last, rest) = self.0.split_last()?;
        self.0 = rest;
        Some(usize::from(*last))
    }

    fn below(&mut self, end: usize) -> usize {
        self.next().unwrap_or(0) % end
    }

    fn text(&mut self) -> String {
        let length = 1 + self.below(8);
        (0..length).map(|_| TEXT[self.below(TEXT.len())]).collect()
    }
}

/// What becomes of a line.
#[derive(Clone, Debug)]
enum Fate {
    Kept,
    Gone,
    /// These bytes.
    Is(Vec<u8>),
    /// A list that has lost some of its values, and still has these.
    Values(Vec<String>),
}

/// What the edit list is to make of the message. Its contract: edits do not see each other. So what one operation has
/// changed none changes again, but removals may overlap, and lines may be added anywhere.
struct Expected<'a> {
    message: &'a Message,
    lines: Vec<Header<'a>>,
    fates: Vec<Fate>,
    /// Lines added above each line, and at the bottom.
    added: Vec<Vec<String>>,
    changed: BTreeSet<HeaderName>,
    removed: BTreeSet<HeaderName>,
    thinned: BTreeSet<HeaderName>,
    uri: Option<String>,
    body: Option<Vec<u8>>,
    max_forwards: Option<u8>,
    content_length: Option<usize>,
    stamped: Option<SocketAddr>,
    /// The first one that was pushed is the topmost.
    pushed: Option<String>,
}

impl<'a> Expected<'a> {
    fn new(message: &'a Message) -> Self {
        let lines: Vec<_> = message.headers().collect();
        Self {
            message,
            fates: vec![Fate::Kept; lines.len()],
            added: vec![Vec::new(); lines.len() + 1],
            lines,
            changed: BTreeSet::new(),
            removed: BTreeSet::new(),
            thinned: BTreeSet::new(),
            uri: None,
            body: None,
            max_forwards: None,
            content_length: None,
            stamped: None,
            pushed: None,
        }
    }

    /// Whether a header may be changed; it may not be a second time.
    fn change(&mut self, name: HeaderName) -> bool {
        !self.removed.contains(&name) && !self.thinned.contains(&name) && self.changed.insert(name)
    }

    fn remove(&mut self, name: HeaderName) -> bool {
        self.removed.insert(name);
        !self.changed.contains(&name)
    }

    fn of(&self, name: HeaderName) -> Vec<usize> {
        (0..self.lines.len()).filter(|at| self.lines[*at].name == name).collect()
    }

    fn add(&mut self, at: usize, name: &str, value: &str) {
        self.added[at].push(format!("{name}: {value}\r\n"));
    }

    /// The line with other bytes in this place of the message.
    fn put(&mut self, line: usize, span: Range<usize>, text: &str) {
        let (raw, start) = (self.lines[line].raw(), self.lines[line].line_span().start);
        let [before, after] = [&raw[..span.start - start], &raw[span.end - start..]];
        self.fates[line] = Fate::Is([before, text.as_bytes(), after].concat());
    }

    fn set(&mut self, name: HeaderName, value: &str) {
        let lines = self.of(name);
        match lines.first() {
            Some(first) => self.put(*first, self.lines[*first].value_span(), value),
            None => self.add(self.lines.len(), name.as_str(), value),
        }
        lines.iter().skip(1).for_each(|at| self.fates[*at] = Fate::Gone);
    }

    fn thin(&mut self, name: HeaderName, indices: &Range<usize>) {
        let mut kept = vec![Vec::new(); self.lines.len()];
        let mut touched = BTreeSet::new();
        for (index, value) in self.message.values(name).filter_map(Result::ok).enumerate() {
            if indices.contains(&index) {
                touched.insert(value.line);
            } else {
                kept[value.line].push(value.text.to_owned());
            }
        }
        for at in touched {
            let kept = std::mem::take(&mut kept[at]);
            if !matches!(self.fates[at], Fate::Gone) {
                self.fates[at] = if kept.is_empty() { Fate::Gone } else { Fate::Values(kept) };
            }
        }
    }

    /// The first value of the first Via line, and where it stands.
    fn top_via(&self) -> Option<(usize, Value<'a>)> {
        let first = *self.of(HeaderName::Via).first()?;
        let value = self.message.values(HeaderName::Via).next()?.ok()?;
        (value.line == first).then_some((first, value))
    }

    /// One of the names that the message has, or another one.
    fn name(&self, draw: &mut Draw<'_>) -> HeaderName {
        let n = draw.below(256);
        let own =
            n.is_multiple_of(2).then_some(n / 2).and_then(|n| n.checked_rem(self.lines.len()));
        own.map_or(NAMES[n / 2 % NAMES.len()], |at| self.lines[at].name)
    }

    /// Notes the operation here and in the edit list; `false` when this message cannot have it, or has had its like.
    fn apply(&mut self, operation: Operation, draw: &mut Draw<'_>, edit: &mut Edit<'a>) -> bool {
        let bottom = self.lines.len();
        match operation {
            Operation::SetRequestUri => {
                let uri = format!("sip:{}", draw.text());
                if !self.message.is_request() || self.uri.is_some() {
                    return false;
                }
                edit.set_request_uri(uri.clone());
                self.uri = Some(uri);
            }
            Operation::PushVia => {
                let value = format!("SIP/2.0/UDP h{};branch=z9hG4bK1", draw.below(256));
                edit.push_via(value.clone());
                let at = self.of(HeaderName::Via).first().copied().unwrap_or(0);
                self.add(at, "Via", &value);
                self.pushed.get_or_insert(value);
            }
            Operation::PopVia | Operation::RemoveValuesAt => {
                let (name, indices) = match operation {
                    Operation::PopVia => (HeaderName::Via, 0..1),
                    _ => {
                        let (name, start) = (self.name(draw), draw.below(4));
                        (name, start..start + draw.below(4))
                    }
                };
                if self.changed.contains(&name) || !self.thinned.insert(name) {
                    return false;
                }
                self.thin(name, &indices);
                match operation {
                    Operation::PopVia => edit.pop_via(),
                    _ if indices.start == 0 => edit.remove_values(name, indices.end),
                    _ => edit.remove_values_at(name, indices),
                };
            }
            Operation::AddBefore | Operation::AddAfter => {
                let (name, added, value) =
                    (self.name(draw), ADDED[draw.below(ADDED.len())], draw.text());
                let of = self.of(name);
                let at = if operation == Operation::AddBefore {
                    edit.add_before(name, added, value.clone());
                    of.first().copied().unwrap_or(0)
                } else {
                    edit.add_after(name, added, value.clone());
                    of.last().map_or(bottom, |last| last + 1)
                };
                self.add(at, added, &value);
            }
            Operation::AddTop | Operation::AddBottom => {
                let (added, value) = (ADDED[draw.below(ADDED.len())], draw.text());
                let at = if operation == Operation::AddTop {
                    edit.add_top(added, value.clone());
                    0
                } else {
                    edit.add_bottom(added, value.clone());
                    bottom
                };
                self.add(at, added, &value);
            }
            Operation::SetHeader => {
                let (name, value) = (self.name(draw), draw.text());
                // Neither is text: the one has no name to be written, the other says where the message ends.
                let fits = !matches!(name, HeaderName::Other | HeaderName::ContentLength);
                if !fits || !self.change(name) {
                    return false;
                }
                self.set(name, &value);
                edit.set_header(name, value);
            }
            Operation::SetMaxForwards => {
                let value = draw.below(256) as u8;
                if !self.change(HeaderName::MaxForwards) {
                    return false;
                }
                self.set(HeaderName::MaxForwards, &value.to_string());
                self.max_forwards = Some(value);
                edit.set_max_forwards(value);
            }
            Operation::RemoveHeaders => {
                let name = self.name(draw);
                if !self.remove(name) {
                    return false;
                }
                self.of(name).iter().for_each(|at| self.fates[*at] = Fate::Gone);
                edit.remove_headers(name);
            }
            Operation::RemoveLine => {
                let Some(at) = draw.below(256).checked_rem(bottom) else { return false };
                let line = self.lines[at];
                if !self.remove(line.name) {
                    return false;
                }
                self.fates[at] = Fate::Gone;
                edit.remove_line(&line);
            }
            Operation::AppendToTopVia | Operation::StampVia => {
                let text = format!(";{}", draw.text());
                if !self.change(HeaderName::Via) {
                    return false;
                }
                if operation == Operation::AppendToTopVia {
                    if let Some((line, value)) = self.top_via() {
                        self.put(line, value.span.end..value.span.end, &text);
                    }
                    edit.append_to_top_via(text);
                } else {
                    let source = ([203, 0, 113, 9], 31_000).into();
                    if let Some((line, value)) = self.top_via()
                        && let Some(stamped) = crate::build::stamped_via(value.text, source)
                    {
                        self.put(line, value.span, &stamped);
                    }
                    self.stamped = Some(source);
                    edit.stamp_via(source);
                }
            }
            Operation::SetBody => {
                let body = draw.text().into_bytes();
                if !self.change(HeaderName::ContentLength) {
                    return false;
                }
                self.set(HeaderName::ContentLength, &body.len().to_string());
                self.content_length = Some(body.len());
                edit.set_body(body.clone());
                self.body = Some(body);
            }
            Operation::SetContentLength | Operation::EnsureContentLength => {
                if !self.change(HeaderName::ContentLength) {
                    return false;
                }
                let length = self.message.body().len();
                self.content_length = Some(length);
                let ensure = operation == Operation::EnsureContentLength;
                if !ensure || self.of(HeaderName::ContentLength).is_empty() {
                    self.set(HeaderName::ContentLength, &length.to_string());
                }
                if ensure {
                    edit.ensure_content_length();
                } else {
                    edit.set_content_length(length);
                }
            }
            Operation::Replace => {
                let (at, nth, text) = (draw.below(256), draw.below(4), draw.text());
                let Some(at) = at.checked_rem(bottom) else { return false };
                let line = self.lines[at];
                if line.name == HeaderName::ContentLength || !self.change(line.name) {
                    return false;
                }
                let values = self.message.values(line.name).filter_map(Result::ok);
                let span = values.filter(|value| value.line == at).map(|value| value.span).nth(nth);
                let span = span.unwrap_or(line.value_span());
                self.put(at, span.clone(), &text);
                edit.replace(span, text.into_bytes());
            }
        }
        true
    }

    /// The start line as it is to be.
    fn start_line(&self) -> Vec<u8> {
        let end = self.lines.first().map_or(self.separator().start, |line| line.line_span().start);
        let line = &self.message.bytes()[..end];
        let Some(uri) = &self.uri else { return line.to_vec() };
        let spaces: Vec<usize> = (0..line.len()).filter(|at| line[*at] == b' ').collect();
        let [first, last] = spaces[..] else { panic!("a request that is whole has two spaces") };
        [&line[..=first], uri.as_bytes(), &line[last..]].concat()
    }

    /// Where the empty line behind the headers stands.
    fn separator(&self) -> Range<usize> {
        let head = self.message.head();
        head.len() - if head.ends_with(b"\r\n") { 2 } else { 1 }..head.len()
    }

    /// Panics where an edited message is not what was asked for.
    fn check(&self, bytes: Bytes) {
        // What was added may be more than is read from the network.
        let limits = Limits { max_message: usize::MAX, max_headers: usize::MAX };
        let length = bytes.len();
        let out = Message::parse_within(bytes, &limits).expect("edits keep the structure");
        assert_eq!(out.bytes().len(), length, "bytes that belong to nothing");
        let mut lines = out.headers().enumerate();
        let mut at = self.start_line().len();
        assert!(out.bytes().starts_with(&self.start_line()));
        let mut next = || {
            let (index, line) = lines.next().expect("no line is missing");
            assert_eq!(line.line_span().start, at);
            at = line.line_span().end;
            (index, line)
        };
        for (line, added) in self.added.iter().enumerate() {
            for text in added {
                assert_eq!(text.as_bytes(), next().1.raw());
            }
            let Some(before) = self.lines.get(line) else { break };
            match &self.fates[line] {
                Fate::Gone => {}
                Fate::Kept => assert_eq!(before.raw(), next().1.raw()),
                Fate::Is(bytes) => assert_eq!(bytes, next().1.raw()),
                Fate::Values(values) => {
                    let (index, line) = next();
                    let is_here = |value: &Result<Value<'_>, _>| {
                        value.as_ref().is_ok_and(|value| value.line == index)
                    };
                    let found = out.values(before.name).filter(is_here).flatten();
                    assert_eq!(*values, found.map(|value| value.text).collect::<Vec<_>>());
                    assert!(missing(before.name, line.raw()) <= missing(before.name, before.raw()));
                    let (raw, span, value) =
                        (before.raw(), before.line_span(), before.value_span());
                    assert!(line.raw().starts_with(&raw[..value.start - span.start]));
                    assert!(line.raw().ends_with(&raw[value.end - span.start..]));
                }
            }
        }
        assert!(lines.next().is_none(), "a line too many");
        assert_eq!(out.head()[at..], self.message.bytes()[self.separator()]);
        assert_eq!(out.body(), self.body.as_deref().unwrap_or(self.message.body()));
        self.read_back(&out);
    }

    /// The same again as those see it who read messages.
    fn read_back(&self, out: &Message) {
        if let Some(uri) = &self.uri {
            assert_eq!(out.request_uri_str(), Some(uri.as_str()));
        }
        if let Some(value) = self.max_forwards {
            assert_eq!(out.max_forwards(), Ok(Some(value)));
        }
        if let Some(length) = self.content_length {
            assert_eq!(out.content_length(), Ok(Some(length)));
        }
        // A message without headers has one place for lines: there a Via may have been set before.
        let alone = self.of(HeaderName::Via).is_empty() && self.changed.contains(&HeaderName::Via);
        if let Some(via) = self.pushed.as_ref().filter(|_| !alone) {
            assert_eq!(out.top_via(), Via::parse(via));
        }
        if let Some(source) = self.stamped
            && let Some(before) = self.top_via().and_then(|(_, value)| Via::parse(value.text).ok())
        {
            let pushed =
                self.added.iter().flatten().filter(|line| line.starts_with("Via:")).count();
            let after = out.vias().nth(pushed).expect("it stays").expect("it reads");
            assert_eq!((after.branch(), &after.host), (before.branch(), &before.host));
            let asked = before.rport().is_some();
            assert_eq!(after.rport(), asked.then_some(Some(source.port())));
            let elsewhere = asked || before.host.ip() != Some(source.ip());
            assert_eq!(after.received(), elsewhere.then_some(source.ip()));
        }
    }
}

/// How many values are missing between the commas of a line.
fn missing(name: HeaderName, line: &[u8]) -> usize {
    let message = [b"SIP/2.0 200 OK\r\n", line, b"\r\n"].concat();
    let message = Message::parse(message.into()).expect("lists make no message unreadable");
    message.values(name).filter(Result::is_err).count()
}

/// Draws operations and applies them; those that were. Nothing is said of what becomes of a message that is not whole.
pub(super) fn drawn(message: &Message, whole: bool, input: &[u8]) -> BTreeSet<Operation> {
    let mut draw = Draw(input);
    let mut edit = Edit::new(message);
    let mut expected = Expected::new(message);
    let mut applied = BTreeSet::new();
    for _ in 0..MAX_OPERATIONS {
        // More than there are operations: a list may be short.
        let Some(operation) = draw.next().and_then(|n| Operation::ALL.get(n % 20)) else { break };
        if expected.apply(*operation, &mut draw, &mut edit) {
            applied.insert(*operation);
        }
    }
    let out = edit.finish();
    if whole {
        expected.check(out);
    }
    applied
}
