//! RTP packets (RFC 3550 section 5.1).

/// Bytes of a header without contributing sources.
pub const HEADER: usize = 12;

/// A received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Without padding.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram; `None` when it is no RTP packet. Contributing sources and extensions are skipped.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>()?;
        let [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = *header;
        if first >> 6 != 2 {
            return None;
        }
        rest = rest.get(4 * usize::from(first & 0x0f)..)?;
        if first & 0x10 != 0 {
            let (extension, after) = rest.split_first_chunk::<4>()?;
            let words = usize::from(u16::from_be_bytes([extension[2], extension[3]]));
            rest = after.get(4 * words..)?;
        }
        if first & 0x20 != 0 {
            // "The last octet of the padding contains a count of how many padding octets should be ignored, including
            // itself."
            let padding = usize::from(*rest.last()?);
            rest = rest.get(..rest.len().checked_sub(padding.max(1))?)?;
        }
        Some(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([i0, i1, i2, i3]),
            payload: rest,
        })
    }

    /// The header of a packet like this one.
    pub const fn header(&self) -> [u8; HEADER] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = self.ssrc.to_be_bytes();
        let second = self.payload_type | if self.marker { 0x80 } else { 0 };
        [0x80, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3]
    }

    /// The whole packet.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header(), self.payload].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Packet<'_> = Packet {
        marker: true,
        payload_type: 8,
        sequence: 0xfffe,
        timestamp: 0xdead_beef,
        ssrc: 7,
        payload: b"sound",
    };

    #[test]
    fn extras_are_skipped() {
        let mut bytes = PLAIN.to_bytes();
        assert_eq!(Packet::parse(&bytes), Some(PLAIN));
        // Two contributing sources, an extension of one word, three bytes of padding.
        bytes[0] |= 0x32;
        bytes.splice(12..12, [1, 1, 1, 1, 2, 2, 2, 2, 0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
        bytes.extend([0, 0, 3]);
        assert_eq!(Packet::parse(&bytes), Some(PLAIN));
        for broken in [0, 11, 13, 20, 25] {
            assert_eq!(Packet::parse(&bytes[..broken]), None, "cut to {broken}");
        }
        let last = bytes.len() - 1;
        for padding in [0, 200] {
            bytes[last] = padding;
            let payload = Packet::parse(&bytes).map(|packet| packet.payload);
            assert_eq!(payload.is_some(), padding == 0, "padding of {padding}");
        }
        bytes[0] &= 0x3f;
        assert_eq!(Packet::parse(&bytes), None, "version 0");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.payload.len() + HEADER <= bytes.len());
            }
        }

        #[test]
        fn what_is_written_is_read(sequence: u16, timestamp: u32, ssrc: u32, marker: bool) {
            let packet = Packet { marker, sequence, timestamp, ssrc, ..PLAIN };
            let bytes = packet.to_bytes();
            prop_assert_eq!(Packet::parse(&bytes), Some(packet));
        }
    }
}
