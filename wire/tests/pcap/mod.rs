//! Just enough of pcap, Ethernet, IPv4, UDP encapsulation and SCTP to get at the user messages of a capture.

use std::collections::BTreeMap;
use std::path::Path;

/// UDP port of encapsulated SCTP (RFC 6951).
const ENCAPSULATION: u16 = 9899;
const DATA: u8 = 0;
const BEGINNING: u8 = 0x02;
const ENDING: u8 = 0x01;

/// A user message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) ppid: u32,
    pub(crate) payload: Vec<u8>,
}

/// A message whose last fragment has not come yet.
#[derive(Debug)]
struct Partial {
    next_tsn: u32,
    payload: Vec<u8>,
}

/// All SCTP user messages of the capture of that name, in order, fragments put together.
pub(crate) fn messages(name: &str) -> Vec<Message> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name);
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut partial: BTreeMap<(u32, u16), Partial> = BTreeMap::new();
    let mut messages = Vec::new();
    for frame in frames(&file) {
        let Some(packet) = sctp(frame) else { continue };
        let tag = u32_at(packet, 4);
        for chunk in chunks(&packet[12..]) {
            if chunk[0] != DATA {
                continue;
            }
            let (flags, tsn, stream, ppid) =
                (chunk[1], u32_at(chunk, 4), u16_at(chunk, 8), u32_at(chunk, 12));
            let key = (tag, stream);
            if flags & BEGINNING != 0 {
                partial.insert(key, Partial { next_tsn: tsn, payload: Vec::new() });
            }
            let Some(message) = partial.get_mut(&key).filter(|message| message.next_tsn == tsn)
            else {
                continue;
            };
            message.next_tsn = tsn.wrapping_add(1);
            message.payload.extend_from_slice(&chunk[16..]);
            if flags & ENDING != 0 {
                messages.extend(
                    partial.remove(&key).map(|Partial { payload, .. }| Message { ppid, payload }),
                );
            }
        }
    }
    assert!(partial.is_empty(), "{name}: fragments without an end");
    messages
}

/// The packets of a little-endian pcap file with Ethernet framing.
fn frames(file: &[u8]) -> Vec<&[u8]> {
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1], "little-endian pcap with microseconds");
    assert_eq!(file[20..24], [1, 0, 0, 0], "Ethernet");
    let mut frames = Vec::new();
    let mut rest = &file[24..];
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let (frame, tail) = tail.split_at(length);
        frames.push(frame);
        rest = tail;
    }
    frames
}

/// The SCTP packet in an Ethernet frame, if there is one.
fn sctp(frame: &[u8]) -> Option<&[u8]> {
    let ip = (u16_at(frame, 12) == 0x0800).then(|| &frame[14..])?;
    let ip = &ip[..usize::from(u16_at(ip, 2))];
    let payload = &ip[usize::from(ip[0] & 0x0f) * 4..];
    assert_eq!(u16_at(ip, 6) & 0x3fff, 0, "IP fragments are not put together here");
    let encapsulated =
        ip[9] == 17 && (u16_at(payload, 0) == ENCAPSULATION || u16_at(payload, 2) == ENCAPSULATION);
    encapsulated.then(|| &payload[8..])
}

fn chunks(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 2));
        chunks.push(&rest[..length]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    chunks
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}
