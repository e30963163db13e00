//! Reads the two RTCP packets that say how a stream fares: sender and receiver reports (RFC 3550 sections 6.4.1, 6.4.2).

/// One fact out of a compound packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fact {
    /// A sender report was made at this time: the middle 32 bits of its NTP timestamp.
    Sent {
        at: u32,
    },
    Block(Block),
}

/// A report block: what the reporter receives of one source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Block {
    pub(crate) ssrc: u32,
    pub(crate) fraction_lost: u8,
    /// 24 bits with sign.
    pub(crate) lost: i32,
    /// In units of the source's clock.
    pub(crate) jitter: u32,
    /// The last sender report that came, as in [`Fact::Sent`]; 0 if none.
    pub(crate) last_report: u32,
    /// Time since then, in 1/65536 s.
    pub(crate) delay: u32,
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const BLOCK: usize = 24;

/// Calls `each` with what the reports of a compound packet say. What does not add up ends the walk.
pub(crate) fn read(mut bytes: &[u8], mut each: impl FnMut(Fact)) {
    while let &[first, packet_type, l0, l1, ..] = bytes {
        let length = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        if first >> 6 != 2 || length > bytes.len() {
            return;
        }
        let (packet, rest) = bytes.split_at(length);
        bytes = rest;
        let head = match packet_type {
            SENDER_REPORT => 28,
            RECEIVER_REPORT => 8,
            _ => continue,
        };
        if packet.len() < head {
            return;
        }
        if packet_type == SENDER_REPORT {
            each(Fact::Sent { at: word(packet, 10) });
        }
        let count = usize::from(first & 0x1f);
        for block in packet[head..].chunks_exact(BLOCK).take(count) {
            let lost = word(block, 4);
            each(Fact::Block(Block {
                ssrc: word(block, 0),
                fraction_lost: (lost >> 24) as u8,
                lost: (lost << 8) as i32 >> 8,
                jitter: word(block, 12),
                last_report: word(block, 16),
                delay: word(block, 20),
            }));
        }
    }
}

/// The word at an offset that the caller has made sure of.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
