//! Splice editing of a session description.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use super::{Address, Attribute, Sdp, Section, scan};
use crate::splice::{Splices, Text};

/// Edits over one description. Positions are those of the original; edits do not see each other.
#[derive(Debug)]
pub struct SdpEdit<'s, 'a> {
    sdp: &'s Sdp<'a>,
    splices: Splices<'s>,
}

const TYPICAL_SPLICES: usize = 8;

impl<'s, 'a> SdpEdit<'s, 'a> {
    pub fn new(sdp: &'s Sdp<'a>) -> Self {
        Self { sdp, splices: Splices::with_capacity(TYPICAL_SPLICES) }
    }

    /// Replaces bytes.
    ///
    /// # Panics
    /// When the range is not inside the description.
    pub fn replace(&mut self, span: Range<usize>, text: impl Into<Cow<'s, [u8]>>) -> &mut Self {
        assert!(
            span.start <= span.end && span.end <= self.sdp.bytes.len(),
            "range outside the description"
        );
        self.splices.push(span, Text::Bytes(text.into()));
        self
    }

    /// Replaces the address in the `o=` line, if there is one.
    pub fn set_origin_address(&mut self, ip: IpAddr) -> &mut Self {
        if let Some(origin) = self.sdp.origin() {
            self.replace(origin.span, typed(ip).into_bytes());
        }
        self
    }

    /// Replaces the address in all `c=` lines of a section, TTL and number of addresses included. Without such a line a
    /// media section gets one; the session's section stays as it is.
    pub fn set_connection(&mut self, section: Section<'_, 'a>, ip: IpAddr) -> &mut Self {
        let mut found = false;
        for connection in section.connections() {
            self.replace(connection.span, typed(ip).into_bytes());
            found = true;
        }
        if !found {
            self.add_connection(section, typed(ip).as_bytes());
        }
        self
    }

    /// Gives a media section that has no `c=` line one with an address that stands elsewhere.
    pub fn copy_connection(
        &mut self,
        section: Section<'_, 'a>,
        address: &Address<'_>,
    ) -> &mut Self {
        self.add_connection(section, &self.sdp.bytes[address.span.clone()]);
        self
    }

    /// Where RFC 8866 section 5 has its place.
    fn add_connection(&mut self, section: Section<'_, 'a>, typed: &[u8]) {
        if section.media_line().is_none() {
            return;
        }
        let mut lines = section.lines();
        let media = lines.next().into_iter();
        let after = media.chain(lines.take_while(|line| line.kind == b'i')).last();
        if let Some(line) = after {
            let at = line.span();
            self.insert_after(at, &[b"c=IN ", typed].concat());
        }
    }

    /// Replaces the port in an `m=` line. A number of ports goes: there is one.
    pub fn set_port(&mut self, media: Section<'_, 'a>, port: u16) -> &mut Self {
        if let Some(line) = media.media_line() {
            self.replace(line.port_span, port.to_string().into_bytes());
        }
        self
    }

    /// Adds an attribute at the end of a section.
    pub fn append_attribute(&mut self, section: Section<'_, 'a>, text: &str) -> &mut Self {
        let last = section.lines().filter(|line| line.kind != 0).last();
        if let Some(line) = last {
            let at = line.span();
            self.insert_after(at, &[b"a=", text.as_bytes()].concat());
        }
        self
    }

    /// Removes the line of an attribute.
    pub fn remove(&mut self, attribute: &Attribute<'_>) -> &mut Self {
        self.splices.push(attribute.line_span.clone(), Text::Nothing);
        self
    }

    /// The edited description.
    pub fn finish(self) -> Vec<u8> {
        self.splices.apply(self.sdp.bytes)
    }

    /// A new line after the one at `line`, with the same line end.
    fn insert_after(&mut self, line: Range<usize>, text: &[u8]) {
        let bytes = self.sdp.bytes;
        let content = bytes[line.clone()].iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        let content_end = line.start + content.map_or(0, |last| last + 1);
        let line_end = &bytes[content_end..line.end];
        let mut inserted = Vec::with_capacity(text.len() + 2);
        if line_end.last() != Some(&scan::end_of_line(bytes)) {
            // The last line has no end, and so the new one will have none.
            inserted.extend_from_slice(self.sdp.line_end());
            inserted.extend_from_slice(text);
        } else {
            inserted.extend_from_slice(text);
            inserted.extend_from_slice(line_end);
        }
        self.splices.push(line.end..line.end, Text::Bytes(inserted.into()));
    }
}

impl Sdp<'_> {
    /// How the first line ends.
    fn line_end(&self) -> &[u8] {
        self.lines
            .first()
            .map(|line| &self.bytes[line.value_end as usize..line.end as usize])
            .filter(|end| !end.is_empty())
            .unwrap_or(b"\r\n")
    }
}

/// Address type and address.
fn typed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("IP4 {ip}"),
        IpAddr::V6(ip) => format!("IP6 {ip}"),
    }
}
