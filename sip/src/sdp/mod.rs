//! SDP (RFC 8866) as received: lines as offsets into the buffer, parsed when asked for, edited by splice.
//!
//! The scanner takes what real devices send: any line end (CRLF, LF, CR alone if there is no LF at all, none after the
//! last line), blank lines, lines it does not know, white space in odd places. All of it survives an [`SdpEdit`]
//! byte for byte, unless the edit is about it.

mod edit;
mod scan;

use std::net::IpAddr;
use std::ops::Range;

pub use edit::SdpEdit;
use scan::Line;

/// Bounds on what is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdpLimits {
    /// Bytes of the whole description.
    pub max_size: usize,
    /// Lines of any kind.
    pub max_lines: usize,
    /// Media descriptions (`m=` lines).
    pub max_media: usize,
}

impl Default for SdpLimits {
    fn default() -> Self {
        Self { max_size: 65_535, max_lines: 2_000, max_media: 32 }
    }
}

/// A session description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// Where the line begins, in bytes.
    #[error("the m= line at offset {offset} has no media, port and protocol")]
    Media { offset: usize },
    #[error("it does not begin with a v= line")]
    NoVersion,
    #[error("it is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("it has more than {limit} lines")]
    TooManyLines { limit: usize },
    #[error("it has more than {limit} m= lines")]
    TooManyMedia { limit: usize },
}

/// A session description, never changed. Borrows what it was parsed from.
#[derive(Clone, Debug)]
pub struct Sdp<'a> {
    bytes: &'a [u8],
    lines: Vec<Line>,
    /// The `m=` lines, as indices of `lines`.
    media: Vec<u32>,
}

/// The lines before the first `m=` line, or those of one media description. Of the session's lines, those of its media
/// are none.
#[derive(Clone, Copy, Debug)]
pub struct Section<'s, 'a> {
    sdp: &'s Sdp<'a>,
    first: usize,
    end: usize,
}

/// The fields of an `m=` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaLine<'a> {
    /// `audio`, `video`, `application`, `image` …
    pub kind: &'a [u8],
    /// 0: rejected, or bundled elsewhere.
    pub port: u16,
    /// The number of ports behind a slash; 1 without it.
    pub ports: u16,
    /// `RTP/AVP`, `udptl` …
    pub proto: &'a [u8],
    /// Formats: payload types for RTP.
    pub formats: &'a [u8],
    /// Where port and number of ports stand.
    pub port_span: Range<usize>,
}

/// An address in an `o=` or `c=` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// As written, without TTL and number of addresses (`224.2.1.1/127`).
    pub text: &'a [u8],
    /// `None`: a host name, or nothing that could be read.
    pub ip: Option<IpAddr>,
    /// Where address type and address stand: what a relay replaces.
    pub span: Range<usize>,
}

/// An attribute line, `a=name` or `a=name:value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub name: &'a [u8],
    pub value: Option<&'a [u8]>,
    /// The whole line with its line end.
    pub line_span: Range<usize>,
    /// The value; empty and at the end of the name when there is none.
    pub value_span: Range<usize>,
}

/// Who sends, from the view of the description's author (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    Inactive,
    RecvOnly,
    SendOnly,
    #[default]
    SendRecv,
}

impl<'a> Sdp<'a> {
    /// Parses with default limits.
    ///
    /// # Errors
    /// [`SdpError`]: only what leaves it open where media goes, and what is too large.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SdpError> {
        Self::parse_within(bytes, &SdpLimits::default())
    }

    /// Parses.
    ///
    /// # Errors
    /// As [`Sdp::parse`].
    pub fn parse_within(bytes: &'a [u8], limits: &SdpLimits) -> Result<Self, SdpError> {
        let sdp = scan::scan(bytes, limits)?;
        for index in &sdp.media {
            let line = &sdp.lines[*index as usize];
            scan::media_line(bytes, line).ok_or(SdpError::Media { offset: line.start as usize })?;
        }
        Ok(sdp)
    }

    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The lines before the first media description.
    pub fn session(&self) -> Section<'_, 'a> {
        let end = self.media.first().map_or(self.lines.len(), |line| *line as usize);
        Section { sdp: self, first: 0, end }
    }

    pub const fn media_count(&self) -> usize {
        self.media.len()
    }

    /// One media description with its `m=` line.
    pub fn media(&self, index: usize) -> Option<Section<'_, 'a>> {
        let first = *self.media.get(index)? as usize;
        let end = self.media.get(index + 1).map_or(self.lines.len(), |line| *line as usize);
        Some(Section { sdp: self, first, end })
    }

    /// All media descriptions in order.
    pub fn medias(&self) -> impl Iterator<Item = Section<'_, 'a>> {
        (0..self.media.len()).filter_map(|index| self.media(index))
    }

    /// The address in the `o=` line.
    pub fn origin(&self) -> Option<Address<'a>> {
        let line = self.session().lines_of(b'o').next()?;
        // username, session id, version, network type, address type, address.
        scan::address(self.bytes, line.value(), 4)
    }

    /// The address that media of this section is to be sent to: its own `c=` line's, or the session's.
    pub fn connection_of(&self, media: Section<'_, 'a>) -> Option<Address<'a>> {
        media.connection().or_else(|| self.session().connection())
    }

    /// Who sends in this section: its own attribute, or the session's.
    pub fn direction_of(&self, media: Section<'_, 'a>) -> Direction {
        media.direction().or_else(|| self.session().direction()).unwrap_or_default()
    }
}

impl<'s, 'a> Section<'s, 'a> {
    fn lines(self) -> impl Iterator<Item = &'s Line> {
        self.sdp.lines[self.first..self.end].iter()
    }

    fn lines_of(self, kind: u8) -> impl Iterator<Item = &'s Line> {
        self.lines().filter(move |line| line.kind == kind)
    }

    /// The `m=` line; `None` for the session's section.
    pub fn media_line(self) -> Option<MediaLine<'a>> {
        let line = self.lines().next().filter(|line| line.kind == b'm')?;
        scan::media_line(self.sdp.bytes, line)
    }

    /// The first `c=` line.
    pub fn connection(self) -> Option<Address<'a>> {
        self.connections().next()
    }

    /// All `c=` lines: several are legal for hierarchical encodings.
    pub fn connections(self) -> impl Iterator<Item = Address<'a>> {
        let bytes = self.sdp.bytes;
        // Network type, address type, address.
        self.lines_of(b'c').filter_map(move |line| scan::address(bytes, line.value(), 1))
    }

    /// All attributes in order.
    pub fn attributes(self) -> impl Iterator<Item = Attribute<'a>> {
        let bytes = self.sdp.bytes;
        self.lines_of(b'a').map(move |line| scan::attribute(bytes, line))
    }

    /// The attributes of one name, which is case-sensitive (RFC 8866 section 5.13).
    pub fn attributes_named(self, name: &str) -> impl Iterator<Item = Attribute<'a>> {
        self.attributes().filter(move |attribute| attribute.name == name.as_bytes())
    }

    pub fn attribute(self, name: &str) -> Option<Attribute<'a>> {
        self.attributes_named(name).next()
    }

    /// The last of its direction attributes.
    pub fn direction(self) -> Option<Direction> {
        self.attributes().filter_map(|attribute| Direction::parse(attribute.name)).last()
    }
}

impl Direction {
    fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"inactive" => Self::Inactive,
            b"recvonly" => Self::RecvOnly,
            b"sendonly" => Self::SendOnly,
            b"sendrecv" => Self::SendRecv,
            _ => return None,
        })
    }

    /// Whether the author sends.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendOnly | Self::SendRecv)
    }

    /// Whether the author wants to receive.
    pub const fn receives(self) -> bool {
        matches!(self, Self::RecvOnly | Self::SendRecv)
    }
}

impl Attribute<'_> {
    /// Whether it belongs to ICE (RFC 8839, RFC 8840, RFC 5245).
    pub fn is_ice(&self) -> bool {
        self.name.starts_with(b"ice-")
            || matches!(
                self.name,
                b"candidate" | b"end-of-candidates" | b"remote-candidates" | b"ice2"
            )
    }

    /// The port and, if it is there, the address of `a=rtcp` (RFC 3605).
    pub fn rtcp(&self) -> Option<(u16, Option<IpAddr>)> {
        if self.name != b"rtcp" {
            return None;
        }
        let mut words = scan::words(self.value?);
        let port = scan::decimal(words.next()?)?;
        let address = words.nth(2).and_then(scan::ip);
        Some((port, address))
    }

    /// Payload type and clock rate of `a=rtpmap`.
    pub fn rtpmap(&self) -> Option<(u8, u32)> {
        if self.name != b"rtpmap" {
            return None;
        }
        let mut words = scan::words(self.value?);
        let payload_type = u8::try_from(scan::decimal(words.next()?)?).ok()?;
        let rate = words.next()?.split(|byte| *byte == b'/').nth(1)?;
        let rate = std::str::from_utf8(rate).ok()?.parse().ok()?;
        (payload_type < 128).then_some((payload_type, rate))
    }
}

impl<'a> MediaLine<'a> {
    /// The payload types among the formats.
    pub fn payload_types(&self) -> impl Iterator<Item = u8> {
        scan::words(self.formats)
            .filter_map(|word| u8::try_from(scan::decimal(word)?).ok())
            .filter(|payload_type| *payload_type < 128)
    }
}
