//! Splices: a list of replacements over received bytes, applied at once. What no splice touches is copied verbatim.

use std::borrow::Cow;
use std::ops::Range;

/// Positions are those of the source; splices do not see each other, except that insertions at one place keep their
/// order and removals may overlap.
#[derive(Debug)]
pub(crate) struct Splices<'a>(Vec<Splice<'a>>);

#[derive(Debug)]
struct Splice<'a> {
    start: usize,
    end: usize,
    text: Text<'a>,
}

#[derive(Debug)]
pub(crate) enum Text<'a> {
    Nothing,
    Bytes(Cow<'a, [u8]>),
    /// A header line: name and value.
    Line(&'a str, Cow<'a, str>),
}

impl Text<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Line(name, value) => name.len() + value.len() + 4,
        }
    }
}

impl<'a> Splices<'a> {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(crate) fn push(&mut self, span: Range<usize>, text: Text<'a>) {
        self.0.push(Splice { start: span.start, end: span.end, text });
    }

    /// The source with all splices applied, in a vector of exactly its length.
    pub(crate) fn apply(mut self, source: &[u8]) -> Vec<u8> {
        self.0.sort_by_key(|splice| splice.start);
        let mut length = source.len();
        let mut at = 0;
        for splice in &self.0 {
            length += splice.text.len();
            at = at.max(splice.start);
            length -= splice.end.saturating_sub(at);
            at = at.max(splice.end);
        }
        let mut out = Vec::with_capacity(length);
        let mut at = 0;
        for splice in &self.0 {
            if splice.start > at {
                out.extend_from_slice(&source[at..splice.start]);
                at = splice.start;
            }
            match &splice.text {
                Text::Nothing => {}
                Text::Bytes(bytes) => out.extend_from_slice(bytes),
                Text::Line(name, value) => {
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
            }
            at = at.max(splice.end);
        }
        out.extend_from_slice(&source[at..]);
        debug_assert_eq!(out.len(), length);
        out
    }
}
