//! RTP's fixed header (RFC 3550 section 5.1), as a phone of another maker writes and reads it: the load tool is a
//! witness, so it shares no code with the relay.

pub(super) const HEADER: usize = 12;

/// PCMU (RFC 3551 section 6).
pub(super) const PCMU: u8 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) marker: bool,
    pub(super) payload_type: u8,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) ssrc: u32,
}

impl Header {
    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = 0x80;
        bytes[1] = u8::from(self.marker) << 7 | self.payload_type;
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }

    /// The header and the payload; `None` for what is no RTP, or has parts that no stream here sends.
    pub(super) fn parse(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (header, payload) = packet.split_first_chunk::<HEADER>()?;
        let [first, second, s0, s1, t0, t1, t2, t3, ssrc @ ..] = *header;
        let header = Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes(ssrc),
        };
        (first == 0x80).then_some((header, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let header = Header {
            marker: true,
            payload_type: PCMU,
            sequence: 0xfffe,
            timestamp: 0x0102_0304,
            ssrc: 0xdead_beef,
        };
        let mut packet = header.bytes().to_vec();
        assert_eq!(packet, b"\x80\x80\xff\xfe\x01\x02\x03\x04\xde\xad\xbe\xef");
        packet.extend(b"audio");
        assert_eq!(Header::parse(&packet), Some((header, &b"audio"[..])));
        assert_eq!(Header::parse(&packet[..11]), None);
        assert_eq!(Header::parse(&[0; 40]), None);
    }
}
