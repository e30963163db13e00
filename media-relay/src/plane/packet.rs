//! What a datagram is by its first bytes: RFC 3550 section 5.1, told apart as RFC 5761 section 4 and RFC 7983 say.

/// The fixed header of an RTP packet, as far as statistics need it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rtp {
    pub(crate) payload_type: u8,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    Rtp(Rtp),
    Rtcp,
    /// STUN, DTLS, ZRTP, noise.
    Other,
}

/// Where a datagram came in, as far as that changes what it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    /// For RTP only. A phone that shares ports without having said so is understood all the same.
    Rtp,
    /// For both (RFC 5761).
    Shared,
    Rtcp,
}

pub(crate) fn classify(port: Port, bytes: &[u8]) -> Class {
    let &[first, second, s0, s1, t0, t1, t2, t3, ref rest @ ..] = bytes else {
        return Class::Other;
    };
    if first >> 6 != 2 {
        return Class::Other;
    }
    // RFC 5761 section 4: packet types 192 to 223 are RTCP, and payload types 64 to 95 unused, where ports are shared.
    // Elsewhere only 72 to 76 are kept free of RTP (RFC 3551 section 6).
    let rtcp = match port {
        Port::Rtp => (200..=204).contains(&second),
        Port::Shared | Port::Rtcp => (192..=223).contains(&second),
    };
    if rtcp {
        return Class::Rtcp;
    }
    match (port, rest) {
        (Port::Rtp | Port::Shared, &[r0, r1, r2, r3, ..]) => Class::Rtp(Rtp {
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([r0, r1, r2, r3]),
        }),
        _ => Class::Other,
    }
}

/// Header and payload of an RTP packet, without CSRCs, extension and padding (RFC 3550 section 5.1).
pub(crate) fn rtp_payload(bytes: &[u8]) -> Option<(Rtp, &[u8])> {
    let Class::Rtp(header) = classify(Port::Shared, bytes) else { return None };
    let first = bytes[0];
    let mut payload = bytes.get(12 + usize::from(first & 0xf) * 4..)?;
    if first & 0x10 != 0 {
        let words = u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]);
        payload = payload.get(4 + usize::from(words) * 4..)?;
    }
    if first & 0x20 != 0 {
        let padding = usize::from(*payload.last()?);
        payload = payload.get(..payload.len().checked_sub(padding)?)?;
    }
    Some((header, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(first: u8, second: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first, second, 0x12, 0x34, 0, 0, 0, 5, 0xde, 0xad, 0xbe, 0xef];
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn table() {
        let rtp = |payload_type| {
            Class::Rtp(Rtp { payload_type, sequence: 0x1234, timestamp: 5, ssrc: 0xdead_beef })
        };
        let cases = [
            ("RTP", Port::Rtp, header(0x80, 0, 172), rtp(0)),
            ("RTP, marker", Port::Rtp, header(0x80, 0x80 | 8, 172), rtp(8)),
            ("RTP, no payload", Port::Rtp, header(0x80, 0, 12), rtp(0)),
            ("RTP cut", Port::Rtp, header(0x80, 0, 11), Class::Other),
            ("RTP on an RTCP port", Port::Rtcp, header(0x80, 0, 172), Class::Other),
            ("SR, not announced", Port::Rtp, header(0x80, 200, 28), Class::Rtcp),
            ("SR shared", Port::Shared, header(0x80, 200, 28), Class::Rtcp),
            ("RR", Port::Rtcp, header(0x80, 201, 8), Class::Rtcp),
            ("RR cut", Port::Rtcp, header(0x80, 201, 7), Class::Other),
            ("PSFB shared", Port::Shared, header(0x80, 206, 12), Class::Rtcp),
            ("payload type 78, marker", Port::Rtp, header(0x80, 206, 12), rtp(78)),
            ("FIR, RFC 2032", Port::Shared, header(0x80, 192, 8), Class::Rtcp),
            ("payload type 96, marker", Port::Shared, header(0x80, 224, 12), rtp(96)),
            ("STUN", Port::Shared, header(0, 1, 20), Class::Other),
            ("DTLS", Port::Rtp, header(22, 254, 60), Class::Other),
            ("version 1", Port::Rtp, header(0x40, 0, 60), Class::Other),
            ("version 3", Port::Rtp, header(0xc0, 0, 60), Class::Other),
            ("nothing", Port::Rtp, vec![], Class::Other),
        ];
        for (name, port, bytes, expected) in cases {
            assert_eq!(classify(port, &bytes), expected, "{name}");
        }
    }
}
