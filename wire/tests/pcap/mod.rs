//! Just enough of pcap, Ethernet, IPv4, UDP encapsulation and SCTP to see in a capture who said what to whom, and when.

#![allow(dead_code, reason = "two test programs include this file and use a part each")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Two registrars, three elements, a user; one element fails over to another.
pub(crate) const FAILOVER: &[u8] =
    include_bytes!("../captures/rsplib-two-registrars-three-pes-failover.pcap");
/// Three registrars, frozen elements that are reported, and the death of a registrar.
pub(crate) const CRASH: &[u8] =
    include_bytes!("../captures/rsplib-unreachable-and-registrar-crash.pcap");

/// UDP port of encapsulated SCTP (RFC 6951).
const ENCAPSULATION: u16 = 9899;
const IGMP: u8 = 2;
const UDP: u8 = 17;
const BEGINNING: u8 = 0x02;
const ENDING: u8 = 0x01;

/// Something that was seen, by the time since the first packet.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    /// Address and SCTP port, or UDP port of a datagram.
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The first packet of an association.
    Init,
    /// A whole user message; `again` when it is a retransmission.
    Message {
        ppid: u32,
        payload: Vec<u8>,
        again: bool,
    },
    Shutdown,
    Abort,
    /// UDP without SCTP.
    Datagram(Vec<u8>),
    /// IGMP: a host joins or leaves a multicast group.
    Igmp,
}

/// A message whose last fragment has not come yet.
#[derive(Debug)]
struct Partial {
    next_tsn: u32,
    payload: Vec<u8>,
}

/// Everything in a capture, in order, fragments put together.
pub(crate) fn read(file: &[u8]) -> Vec<Seen> {
    let mut partial: BTreeMap<(u32, u16), Partial> = BTreeMap::new();
    let mut last_tsn: BTreeMap<u32, u32> = BTreeMap::new();
    let mut all = Vec::new();
    let mut start = None;
    for (time, frame) in frames(file) {
        let at = time - *start.get_or_insert(time);
        let Some(Packet { protocol, from, to, payload }) = packet(frame) else { continue };
        if protocol == IGMP {
            all.push(Seen { at, from, to, what: What::Igmp });
        }
        if protocol != UDP {
            continue;
        }
        if ![from.port(), to.port()].contains(&ENCAPSULATION) {
            all.push(Seen { at, from, to, what: What::Datagram(payload.to_vec()) });
            continue;
        }
        let from = SocketAddrV4::new(*from.ip(), u16_at(payload, 0));
        let to = SocketAddrV4::new(*to.ip(), u16_at(payload, 2));
        let tag = u32_at(payload, 4);
        for chunk in chunks(&payload[12..]) {
            let what = match chunk[0] {
                0 => {
                    let (flags, tsn, stream, ppid) =
                        (chunk[1], u32_at(chunk, 4), u16_at(chunk, 8), u32_at(chunk, 12));
                    let key = (tag, stream);
                    if flags & BEGINNING != 0 {
                        partial.insert(key, Partial { next_tsn: tsn, payload: Vec::new() });
                    }
                    let Some(message) =
                        partial.get_mut(&key).filter(|message| message.next_tsn == tsn)
                    else {
                        continue;
                    };
                    message.next_tsn = tsn.wrapping_add(1);
                    message.payload.extend_from_slice(&chunk[16..]);
                    if flags & ENDING == 0 {
                        continue;
                    }
                    let Some(Partial { payload, .. }) = partial.remove(&key) else { continue };
                    let last = last_tsn.entry(tag).or_insert(tsn.wrapping_sub(1));
                    let again = tsn.wrapping_sub(*last).cast_signed() <= 0;
                    if !again {
                        *last = tsn;
                    }
                    What::Message { ppid, payload, again }
                }
                1 => What::Init,
                6 => What::Abort,
                7 => What::Shutdown,
                _ => continue,
            };
            all.push(Seen { at, from, to, what });
        }
    }
    assert!(partial.is_empty(), "fragments without an end");
    all
}

/// The packets of a little-endian pcap file with Ethernet framing, and when they were seen.
fn frames(file: &[u8]) -> Vec<(Duration, &[u8])> {
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1], "little-endian pcap with microseconds");
    assert_eq!(file[20..24], [1, 0, 0, 0], "Ethernet");
    let mut frames = Vec::new();
    let mut rest = &file[24..];
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let time = Duration::from_secs(word(0).into()) + Duration::from_micros(word(4).into());
        let (frame, tail) = tail.split_at(word(8) as usize);
        frames.push((time, frame));
        rest = tail;
    }
    frames
}

struct Packet<'a> {
    protocol: u8,
    /// Addresses; ports if it is UDP.
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// After the UDP header.
    payload: &'a [u8],
}

/// The IPv4 packet in an Ethernet frame, if there is one.
fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let ip = (u16_at(frame, 12) == 0x0800).then(|| &frame[14..])?;
    let ip = &ip[..usize::from(u16_at(ip, 2))];
    let inner = &ip[usize::from(ip[0] & 0x0f) * 4..];
    assert_eq!(u16_at(ip, 6) & 0x3fff, 0, "IP fragments are not put together here");
    let protocol = ip[9];
    let port = |at| if protocol == UDP { u16_at(inner, at) } else { 0 };
    let address = |at| Ipv4Addr::from(u32_at(ip, at));
    Some(Packet {
        protocol,
        from: SocketAddrV4::new(address(12), port(0)),
        to: SocketAddrV4::new(address(16), port(2)),
        payload: &inner[8..],
    })
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
