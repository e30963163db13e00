//! RTCP: sender and receiver reports, source descriptions, goodbyes (RFC 3550 section 6).

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;

/// What a receiver reports about one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// Of the packets expected since the last report, in 256ths.
    pub fraction_lost: u8,
    /// 24 bits with sign.
    pub lost: i32,
    /// Highest sequence number with its cycles.
    pub highest: u32,
    /// In units of the timestamp.
    pub jitter: u32,
    /// The middle 32 bits of the last sender report's time; 0: none came.
    pub last_report: u32,
    /// Since it came, in 65,536ths of a second.
    pub delay: u32,
}

/// What a sender says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// NTP time: seconds since 1900 with 32 binary places.
    pub ntp: u64,
    pub timestamp: u32,
    pub packets: u32,
    pub octets: u32,
}

/// One report that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    pub ssrc: u32,
    /// Of a sender report.
    pub sender: Option<SenderInfo>,
    /// Blocks of 24 bytes.
    blocks: &'a [u8],
}

impl Report<'_> {
    /// What it says about sources, at most 31.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.blocks.chunks_exact(24).map(|bytes| {
            let word = |index: usize| word(bytes, index);
            Block {
                ssrc: word(0),
                fraction_lost: bytes[4],
                lost: ((word(1) << 8) as i32) >> 8,
                highest: word(2),
                jitter: word(3),
                last_report: word(4),
                delay: word(5),
            }
        })
    }
}

/// What a datagram brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The sources that have ended; the first is enough here.
    Goodbye(u32),
    Report(Report<'a>),
}

/// The 32-bit word at `index` of bytes that are long enough.
fn word(bytes: &[u8], index: usize) -> u32 {
    bytes[4 * index..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

/// Whether a datagram that came to an RTP port is RTCP (RFC 5761 section 4).
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 192..=223, ..] if first >> 6 == 2)
}

/// The reports and goodbyes of a datagram; `None` when it is no RTCP (RFC 3550 appendix A.2). Other packets in it are
/// skipped.
pub fn parse(bytes: &[u8]) -> Option<impl Iterator<Item = Item<'_>>> {
    let mut rest = bytes;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (&[first, kind, l0, l1], _) = rest.split_first_chunk()?;
        let length = 4 + 4 * usize::from(u16::from_be_bytes([l0, l1]));
        if first >> 6 != 2 || length > rest.len() {
            return None;
        }
        let (packet, after) = rest.split_at(length);
        packets.push((first & 0x1f, kind, packet));
        rest = after;
        // A datagram of 1,500 bytes has room for 187 empty packets; no sender sends more than a few.
        if packets.len() > 16 {
            return None;
        }
    }
    if packets.is_empty() {
        return None;
    }
    Some(packets.into_iter().filter_map(|(count, kind, packet)| {
        let (info, blocks) = match kind {
            SENDER_REPORT => (20, 28),
            RECEIVER_REPORT => (0, 8),
            GOODBYE if count > 0 && packet.len() >= 8 => {
                return Some(Item::Goodbye(word(packet, 1)));
            }
            _ => return None,
        };
        let blocks = packet.get(blocks..blocks + 24 * usize::from(count))?;
        let sender = (info > 0).then(|| SenderInfo {
            ntp: u64::from(word(packet, 2)) << 32 | u64::from(word(packet, 3)),
            timestamp: word(packet, 4),
            packets: word(packet, 5),
            octets: word(packet, 6),
        });
        Some(Item::Report(Report { ssrc: word(packet, 1), sender, blocks }))
    }))
}

/// Writes a report with a source description: that of a sender if it has sent, with a block if it has received. With
/// `goodbye` the source ends.
pub fn write(
    out: &mut Vec<u8>,
    ssrc: u32,
    sender: Option<&SenderInfo>,
    block: Option<&Block>,
    cname: &str,
    goodbye: bool,
) {
    out.clear();
    let count = u8::from(block.is_some());
    let kind = if sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
    let words = 1 + 5 * u16::from(sender.is_some()) + 6 * u16::from(count);
    out.extend_from_slice(&[0x80 | count, kind]);
    out.extend_from_slice(&words.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    if let Some(sender) = sender {
        out.extend_from_slice(&sender.ntp.to_be_bytes());
        for word in [sender.timestamp, sender.packets, sender.octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    if let Some(block) = block {
        let lost = (block.lost.clamp(-0x80_0000, 0x7f_ffff) as u32) & 0xff_ffff;
        let second = u32::from(block.fraction_lost) << 24 | lost;
        let words =
            [block.ssrc, second, block.highest, block.jitter, block.last_report, block.delay];
        for word in words {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    // Chunk: source, item 1 (CNAME), end; padded to a word.
    let cname = &cname.as_bytes()[..cname.len().min(255)];
    let item = (4 + 2 + cname.len() + 1).next_multiple_of(4);
    out.extend_from_slice(&[0x81, SOURCE_DESCRIPTION]);
    out.extend_from_slice(&((item / 4) as u16).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&[1, cname.len() as u8]);
    out.extend_from_slice(cname);
    out.resize(start + item, 0);
    if goodbye {
        out.extend_from_slice(&[0x81, GOODBYE, 0, 1]);
        out.extend_from_slice(&ssrc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: SenderInfo =
        SenderInfo { ntp: 0x1234_5678_9abc_def0, timestamp: 3, packets: 4, octets: 5 };

    fn block(lost: i32) -> Block {
        Block {
            ssrc: 9,
            fraction_lost: 12,
            lost,
            highest: 0x1_0001,
            jitter: 7,
            last_report: 8,
            delay: 9,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for sender in [None, Some(SENDER)] {
            for block in [None, Some(block(-3)), Some(block(70_000))] {
                for goodbye in [false, true] {
                    let mut bytes = Vec::new();
                    write(&mut bytes, 42, sender.as_ref(), block.as_ref(), "x@y", goodbye);
                    assert_eq!(bytes.len() % 4, 0);
                    assert!(is_rtcp(&bytes));
                    let items: Vec<Item<'_>> = parse(&bytes).expect("RTCP").collect();
                    let Item::Report(report) = &items[0] else { panic!("{items:?}") };
                    assert_eq!((report.ssrc, report.sender), (42, sender));
                    assert_eq!(report.blocks().next(), block);
                    assert_eq!(items.get(1), goodbye.then_some(&Item::Goodbye(42)));
                }
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        write(&mut bytes, 1, None, Some(&block(-1)), "ab", false);
        let expected: &[u8] = &[
            0x81, 201, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9, 12, 0xff, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 7,
            0, 0, 0, 8, 0, 0, 0, 9, 0x81, 202, 0, 3, 0, 0, 0, 1, 1, 2, b'a', b'b', 0, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(
            kind in 190_u8..210,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let [first, second, l0, ..] = &mut *bytes {
                (*first, *second, *l0) = (0x80 | *first & 0x1f, kind, 0);
            }
            for item in parse(&bytes).into_iter().flatten() {
                if let Item::Report(report) = item {
                    prop_assert!(report.blocks().count() <= 31);
                }
            }
        }
    }
}
