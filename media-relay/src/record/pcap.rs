//! A pcap file of UDP packets: link type RAW, so that IPv4 and IPv6 stand side by side.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_RAW: u32 = 101;
/// More than any datagram with its headers.
const SNAP_LENGTH: u32 = 0x4_0000;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

pub(super) fn header() -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.extend(MAGIC.to_le_bytes());
    out.extend(2u16.to_le_bytes());
    out.extend(4u16.to_le_bytes());
    // Times are UTC, of no stated accuracy.
    out.extend([0; 8]);
    out.extend(SNAP_LENGTH.to_le_bytes());
    out.extend(LINKTYPE_RAW.to_le_bytes());
    out
}

/// What a packet takes in the file.
pub(super) fn size(payload: &[u8]) -> u64 {
    (16 + 40 + UDP_HEADER + payload.len()) as u64
}

/// Appends a packet. `at` is the time since 1970.
pub(super) fn write(
    out: &mut impl Write,
    at: Duration,
    from: SocketAddr,
    to: Option<SocketAddr>,
    payload: &[u8],
) -> io::Result<()> {
    let to_port = to.map_or(0, |to| to.port());
    let length = UDP_HEADER + payload.len();
    let mut packet = Vec::with_capacity(40 + length);
    match (from.ip(), to.map(|to| to.ip())) {
        (IpAddr::V4(from), to) => {
            let to = match to {
                Some(IpAddr::V4(to)) => to.octets(),
                _ => [0; 4],
            };
            packet.extend([0x45, 0]);
            packet.extend(((20 + length) as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to);
            let sum = fold(sum(&packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), to) => {
            let to = match to {
                Some(IpAddr::V6(to)) => to.octets(),
                _ => [0; 16],
            };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((length as u16).to_be_bytes());
            packet.extend([UDP, 64]);
            packet.extend(from.octets());
            packet.extend(to);
        }
    }
    let ip_header = packet.len();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    if from.is_ipv6() {
        // Without a checksum it is allowed in IPv4 only. Pseudo header: addresses, length, next header.
        let pseudo = sum(&packet[8..40]) + length as u64 + u64::from(UDP);
        let checksum = match fold(pseudo + sum(&packet[ip_header..])) {
            0 => 0xffff,
            checksum => checksum,
        };
        packet[ip_header + 6..ip_header + 8].copy_from_slice(&checksum.to_be_bytes());
    }
    out.write_all(&(at.as_secs() as u32).to_le_bytes())?;
    out.write_all(&at.subsec_micros().to_le_bytes())?;
    out.write_all(&(packet.len() as u32).to_le_bytes())?;
    out.write_all(&(packet.len() as u32).to_le_bytes())?;
    out.write_all(&packet)
}

/// The sum of 16-bit words that the internet checksum (RFC 1071) is made of.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |byte| u64::from(*byte) << 8);
    words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>() + odd
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
