//! As much of the SCTP packet format as demultiplexing, cookies and answers out of the blue need (RFC 9260 section 3).

const HEADER: usize = 12;
/// Fixed part of INIT and INIT ACK after the chunk header (RFC 9260 3.3.2).
const INIT_FIXED: usize = 16;
/// Fixed part of DATA after the chunk header (RFC 9260 3.3.1).
pub(crate) const DATA_FIXED: usize = 12;
const STATE_COOKIE: u16 = 0x0007;

pub(crate) const DATA: u8 = 0x00;
pub(crate) const INIT: u8 = 0x01;
pub(crate) const INIT_ACK: u8 = 0x02;
const SACK: u8 = 0x03;
pub(crate) const ABORT: u8 = 0x06;
const SHUTDOWN: u8 = 0x07;
pub(crate) const SHUTDOWN_ACK: u8 = 0x08;
pub(crate) const ERROR: u8 = 0x09;
pub(crate) const COOKIE_ECHO: u8 = 0x0a;
pub(crate) const COOKIE_ACK: u8 = 0x0b;
pub(crate) const SHUTDOWN_COMPLETE: u8 = 0x0e;

pub(crate) const CAUSE_STALE_COOKIE: u16 = 0x0003;
pub(crate) const CAUSE_OUT_OF_RESOURCE: u16 = 0x0004;

/// The T bit of ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, reflected.
pub(crate) const TAG_REFLECTED: u8 = 0x01;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketError {
    Malformed,
    Checksum,
}

/// One packet whose checksum was right and whose chunks add up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) tag: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) value: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let packet = Self {
            bytes,
            source_port: u16_at(bytes, 0).ok_or(PacketError::Malformed)?,
            destination_port: u16_at(bytes, 2).ok_or(PacketError::Malformed)?,
            tag: u32_at(bytes, 4).ok_or(PacketError::Malformed)?,
        };
        let claimed = bytes.get(8..HEADER).ok_or(PacketError::Malformed)?;
        if claimed != checksum(bytes).to_le_bytes() {
            return Err(PacketError::Checksum);
        }
        let mut rest = &bytes[HEADER..];
        if rest.is_empty() {
            return Err(PacketError::Malformed);
        }
        while !rest.is_empty() {
            (_, rest) = split_chunk(rest).ok_or(PacketError::Malformed)?;
        }
        Ok(packet)
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk<'a>> + use<'a> {
        let mut rest = &self.bytes[HEADER..];
        std::iter::from_fn(move || {
            let (chunk, after) = split_chunk(rest)?;
            rest = after;
            Some(chunk)
        })
    }

    pub(crate) fn has(&self, kind: u8) -> bool {
        self.chunks().any(|chunk| chunk.kind == kind)
    }
}

fn split_chunk(bytes: &[u8]) -> Option<(Chunk<'_>, &[u8])> {
    let kind = *bytes.first()?;
    let length = usize::from(u16_at(bytes, 2)?);
    let chunk = Chunk { kind, flags: bytes[1], value: bytes.get(4..length)? };
    Some((chunk, &bytes[length.next_multiple_of(4).min(bytes.len())..]))
}

/// RFC 9260 appendix A: CRC32c over the packet with a checksum field of zero.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[HEADER..])
}

pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = checksum(&bytes);
    bytes[8..HEADER].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A packet of one chunk, addressed as the answer to a packet that came to `local_port` from `peer_port`.
pub(crate) fn answer(
    local_port: u16,
    peer_port: u16,
    tag: u32,
    kind: u8,
    flags: u8,
    value: &[u8],
) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(HEADER + length.next_multiple_of(4));
    bytes.extend(local_port.to_be_bytes());
    bytes.extend(peer_port.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, flags]);
    // Values are a cause or two of ours, far below 64 kB.
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(HEADER + length.next_multiple_of(4), 0);
    seal(bytes)
}

/// An error cause (RFC 9260 3.3.10) without or with a number as its value.
pub(crate) fn cause(code: u16, value: Option<u32>) -> Vec<u8> {
    let mut bytes = code.to_be_bytes().to_vec();
    match value {
        None => bytes.extend(4u16.to_be_bytes()),
        Some(value) => {
            bytes.extend(8u16.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
    }
    bytes
}

/// An INIT ACK that dcsctp made, taken apart.
pub(crate) struct InitAck<'a> {
    bytes: &'a [u8],
    /// Tag of the peer, to which the packet goes.
    pub(crate) peer_tag: u32,
    /// Tag that this side would have.
    pub(crate) my_tag: u32,
    pub(crate) cookie: &'a [u8],
    /// Where the parameter of the cookie begins.
    parameter: usize,
}

impl<'a> InitAck<'a> {
    /// `None` unless the packet is one INIT ACK with a cookie of a length that needs no padding.
    pub(crate) fn find(bytes: &'a [u8]) -> Option<Self> {
        if *bytes.get(HEADER)? != INIT_ACK {
            return None;
        }
        let mut parameter = HEADER + 4 + INIT_FIXED;
        loop {
            let length = usize::from(u16_at(bytes, parameter + 2)?);
            if u16_at(bytes, parameter)? == STATE_COOKIE && length.is_multiple_of(4) {
                let cookie = bytes.get(parameter + 4..parameter + length)?;
                return Some(Self {
                    bytes,
                    peer_tag: u32_at(bytes, 4)?,
                    my_tag: u32_at(bytes, HEADER + 4)?,
                    cookie,
                    parameter,
                });
            }
            parameter += length.max(4).next_multiple_of(4);
        }
    }

    /// The same packet with `suffix` behind the cookie, to another port.
    pub(crate) fn with_suffix(&self, peer_port: u16, suffix: &[u8]) -> Vec<u8> {
        let end = self.parameter + 4 + self.cookie.len();
        let mut bytes = Vec::with_capacity(self.bytes.len() + suffix.len());
        bytes.extend(&self.bytes[..end]);
        bytes.extend(suffix);
        bytes.extend(&self.bytes[end..]);
        bytes[2..4].copy_from_slice(&peer_port.to_be_bytes());
        grow(&mut bytes, HEADER + 2, suffix.len() as i32);
        grow(&mut bytes, self.parameter + 2, suffix.len() as i32);
        seal(bytes)
    }
}

/// A packet that begins with COOKIE ECHO, its cookie cut to `length` bytes (a multiple of 4).
pub(crate) fn cut_cookie(bytes: &[u8], cookie: usize, length: usize) -> Vec<u8> {
    let mut cut = Vec::with_capacity(bytes.len());
    cut.extend(&bytes[..HEADER + 4 + length]);
    cut.extend(bytes.get(HEADER + 4 + cookie.next_multiple_of(4)..).unwrap_or_default());
    grow(&mut cut, HEADER + 2, length as i32 - cookie as i32);
    seal(cut)
}

fn grow(bytes: &mut [u8], at: usize, by: i32) {
    let length = i32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])) + by;
    bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

/// The acknowledgement in a SHUTDOWN (RFC 9260 9.2) as a packet with a SACK, which says the same: dcsctp looks at the
/// latter only, and would send what has arrived again until it gave the peer up.
pub(crate) fn acknowledged_by_shutdown(packet: &Packet<'_>, window: u32) -> Option<Vec<u8>> {
    let shutdown = packet.chunks().find(|chunk| chunk.kind == SHUTDOWN)?;
    let mut value = [0; 12];
    value[..4].copy_from_slice(shutdown.value.first_chunk::<4>()?);
    value[4..8].copy_from_slice(&window.to_be_bytes());
    Some(answer(packet.source_port, packet.destination_port, packet.tag, SACK, 0, &value))
}

/// Verification tag and, of an INIT, the initiate tag, from the start of a packet that ICMP brought back.
pub(crate) struct Returned {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) tag: u32,
    pub(crate) initiate_tag: Option<u32>,
}

impl Returned {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let initiate = bytes.get(HEADER) == Some(&INIT);
        Some(Self {
            source_port: u16_at(bytes, 0)?,
            destination_port: u16_at(bytes, 2)?,
            tag: u32_at(bytes, 4)?,
            initiate_tag: initiate.then(|| u32_at(bytes, HEADER + 4)).flatten(),
        })
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Kind of the first chunk and tag of a packet that dcsctp made.
pub(crate) fn outgoing(bytes: &[u8]) -> Option<(u8, u32)> {
    Some((*bytes.get(HEADER)?, u32_at(bytes, 4)?))
}
