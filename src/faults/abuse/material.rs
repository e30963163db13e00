//! What is sent: packets and messages that are wrong in every way that could be thought of. All from a seed.

use dialtone_wire::{
    PoolHandle,
    asap::{self, Message},
    enrp,
};
use fastrand::Rng;

/// SCTP ports of registrars and elements.
const ASAP: u16 = 3863;
const ENRP: u16 = 9901;

/// Chunk types (RFC 9260 section 3.2).
const DATA: u8 = 0x00;
const INIT: u8 = 0x01;
const COOKIE_ECHO: u8 = 0x0a;

/// Something that has an answer of its own.
pub(super) struct Probe {
    pub(super) packet: Vec<u8>,
    /// Stands in the answer, too.
    pub(super) key: Vec<u8>,
}

pub(super) fn bytes(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

/// Random bytes, mostly few.
pub(super) fn random(rng: &mut Rng) -> Vec<u8> {
    let length = if rng.u8(..) == 0 { rng.usize(1..=1400) } else { rng.usize(1..=120) };
    bytes(rng, length)
}

/// An SCTP packet with the right checksum (RFC 9260 section 3.1 and appendix A).
fn packet(rng: &mut Rng, tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = rng.u16(1024..).to_be_bytes().to_vec();
    let port = if rng.u8(..4) == 0 { ENRP } else { ASAP };
    packet.extend(port.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    seal(&mut packet);
    packet
}

fn seal(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let sum = crc32c::crc32c(packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
}

fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind, flags];
    chunk.extend((4 + value.len() as u16).to_be_bytes());
    chunk.extend(value);
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// A sound INIT from an SCTP port of the moment, so that each asks for an association of its own.
pub(super) fn init(rng: &mut Rng) -> Vec<u8> {
    let mut value = rng.u32(1..).to_be_bytes().to_vec();
    value.extend(0x0002_0000_u32.to_be_bytes());
    value.extend([0, 16, 0, 16]);
    value.extend(rng.u32(..).to_be_bytes());
    packet(rng, 0, &chunk(INIT, 0, &value))
}

/// DATA for an association that nobody has.
pub(super) fn stranger(rng: &mut Rng) -> Vec<u8> {
    let tag = rng.u32(1..);
    stranger_with(rng, tag)
}

fn stranger_with(rng: &mut Rng, tag: u32) -> Vec<u8> {
    let mut value = bytes(rng, 8);
    value.extend([0, 0, 0, 11]);
    let message = bytes(rng, 16);
    value.extend(message);
    packet(rng, tag, &chunk(DATA, 3, &value))
}

/// DATA out of the blue, and the tag that its answer carries (RFC 9260 section 8.4).
pub(super) fn sctp_probe(rng: &mut Rng) -> Probe {
    let tag = rng.u32(1..);
    Probe { packet: stranger_with(rng, tag), key: tag.to_be_bytes().to_vec() }
}

/// COOKIE ECHO with a cookie that its receiver never made.
pub(super) fn cookie(rng: &mut Rng) -> Vec<u8> {
    let (tag, length) = (rng.u32(1..), 4 * rng.usize(1..60));
    let value = bytes(rng, length);
    packet(rng, tag, &chunk(COOKIE_ECHO, 0, &value))
}

fn sound(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..3) {
        0 => init(rng),
        1 => stranger(rng),
        _ => cookie(rng),
    }
}

/// A sound packet without its end.
pub(super) fn truncated(rng: &mut Rng) -> Vec<u8> {
    let mut packet = sound(rng);
    packet.truncate(rng.usize(1..packet.len()));
    packet
}

/// A sound packet with some bits flipped on the way.
pub(super) fn flipped(rng: &mut Rng) -> Vec<u8> {
    let mut packet = sound(rng);
    flip(rng, &mut packet);
    packet
}

/// The same, flipped before the checksum was made.
pub(super) fn sealed(rng: &mut Rng) -> Vec<u8> {
    let mut packet = flipped(rng);
    seal(&mut packet);
    packet
}

fn flip(rng: &mut Rng, bytes: &mut [u8]) {
    for _ in 0..rng.usize(1..=3) {
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u8(..8);
    }
}

/// A request that registrars answer, so that an answer says that all before it was taken.
pub(super) fn resolution() -> Vec<u8> {
    let message = Message::HandleResolution {
        subscribe: false,
        handle: PoolHandle(b"sip-proxy"),
        items: None,
    };
    // A handle of nine bytes fits.
    message.encode().unwrap_or_default()
}

/// Some parameters, one in three with a wrong length.
fn parameters(rng: &mut Rng, message: &mut Vec<u8>) {
    for _ in 0..rng.usize(..4) {
        let kind = if rng.bool() { rng.u16(1..=0x10) } else { rng.u16(..) };
        let value = rng.usize(..24);
        let length = if rng.u8(..3) == 0 { rng.u16(..) } else { 4 + value as u16 };
        message.extend(kind.to_be_bytes());
        message.extend(length.to_be_bytes());
        let value = bytes(rng, value.next_multiple_of(4));
        message.extend(value);
    }
}

/// A message with the right length in front, of a known type or not.
fn message(rng: &mut Rng, types: u8, head: usize) -> Vec<u8> {
    let kind = if rng.u8(..8) == 0 { rng.u8(..) } else { rng.u8(1..=types) };
    let mut message = vec![kind, rng.u8(..), 0, 0];
    let head = bytes(rng, head);
    message.extend(head);
    parameters(rng, &mut message);
    let length = message.len() as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

/// An ASAP message that cannot be decoded, but can be framed.
pub(super) fn broken_asap(rng: &mut Rng) -> Vec<u8> {
    loop {
        let message = message(rng, 14, 0);
        if asap::Message::decode(&message).is_err() {
            return message;
        }
    }
}

/// The same of ENRP, which has both servers' identifiers in front.
pub(super) fn broken_enrp(rng: &mut Rng) -> Vec<u8> {
    loop {
        let message = message(rng, 10, 8);
        if enrp::Message::decode(&message).is_err() {
            return message;
        }
    }
}

/// A sound OPTIONS for a domain that is not ours, with other headers in place of some.
fn options(id: &str, transport: &str, changed: &[(&str, &str)], more: &str) -> Vec<u8> {
    let (via, cseq) = (
        format!("SIP/2.0/{transport} phone.invalid;rport;branch=z9hG4bK{id}"),
        "1 OPTIONS".to_owned(),
    );
    let mut text = String::from("OPTIONS sip:nobody@other.invalid SIP/2.0\r\n");
    for (name, value) in [
        ("Via", via.as_str()),
        ("Max-Forwards", "70"),
        ("From", "<sip:nobody@other.invalid>;tag=x"),
        ("To", "<sip:nobody@other.invalid>"),
        ("Call-ID", id),
        ("CSeq", &cseq),
        ("Content-Length", "0"),
    ] {
        let value = changed.iter().find(|(other, _)| *other == name).map_or(value, |(_, v)| v);
        text += &format!("{name}: {value}\r\n");
    }
    (text + more + "\r\n").into_bytes()
}

fn id(rng: &mut Rng) -> String {
    format!("{:016x}", rng.u64(..))
}

/// A request with a fault behind a Via that can be read: it must be answered 4xx or 5xx, with its Call-ID.
pub(super) fn broken_sip(rng: &mut Rng, transport: &str) -> Probe {
    const FAULTS: [(&str, &str); 10] = [
        ("CSeq", "none OPTIONS"),
        ("CSeq", "1 INVITE"),
        ("CSeq", "99999999999 OPTIONS"),
        ("From", "\"nobody <sip:nobody@other.invalid>;tag=x"),
        ("From", "<>"),
        ("To", "<sip:nobody@other.invalid"),
        ("To", ";;;"),
        ("Max-Forwards", "-1"),
        ("Max-Forwards", "many"),
        ("CSeq", ""),
    ];
    let id = id(rng);
    let fault = FAULTS[rng.usize(..FAULTS.len())];
    Probe { packet: options(&id, transport, &[fault], ""), key: id.into_bytes() }
}

/// As [`broken_sip`], with nothing but a bad length.
pub(super) fn bad_length(rng: &mut Rng, transport: &str) -> Vec<u8> {
    let values = ["-5", "4294967296", "99999999", "0x10", "18446744073709551617", "5, 6"];
    options(&id(rng), transport, &[("Content-Length", values[rng.usize(..values.len())])], "")
}

/// Ten thousand header lines.
pub(super) fn many_headers(rng: &mut Rng, transport: &str) -> Vec<u8> {
    options(&id(rng), transport, &[], &"a:b\r\n".repeat(10_000))
}

/// One header of `length` bytes.
pub(super) fn oversized(rng: &mut Rng, transport: &str, length: usize) -> Vec<u8> {
    options(
        &id(rng),
        transport,
        &[("Max-Forwards", "-1")],
        &format!("X: {}\r\n", "y".repeat(length)),
    )
}

/// A head that never ends.
pub(super) fn endless(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut text = options(&id(rng), "TCP", &[], &format!("X: {}\r\n", "y".repeat(length)));
    text.truncate(text.len() - 2);
    text
}

/// A sound request with a made-up token in its route: inside the core, only who has the key may write such.
pub(super) fn forged(rng: &mut Rng, to: &str) -> Vec<u8> {
    let id = id(rng);
    let token: String = std::iter::repeat_with(|| rng.alphanumeric()).take(43).collect();
    let route = format!("Route: <sip:{token}@{to};lr>\r\n");
    let to = ("To", "<sip:nobody@other.invalid>;tag=y");
    options(&id, "TCP", &[to], &route)
}

/// A sound request with a few bits flipped. Many still are sound: those make transactions.
pub(super) fn mutated(rng: &mut Rng, transport: &str) -> Vec<u8> {
    let mut message = options(&id(rng), transport, &[], "");
    flip(rng, &mut message);
    message
}

/// Looks like STUN (RFC 8489 section 5), is not.
pub(super) fn stun(rng: &mut Rng) -> Vec<u8> {
    let mut message = vec![rng.u8(..4), rng.u8(..), rng.u8(..), rng.u8(..) | 1];
    message.extend(0x2112_a442_u32.to_be_bytes());
    let length = rng.usize(..60);
    let rest = bytes(rng, length);
    message.extend(rest);
    message
}

/// A response that nobody waits for.
pub(super) fn stray(rng: &mut Rng) -> Vec<u8> {
    let request = options(&id(rng), "UDP", &[], "");
    let end = request.iter().position(|byte| *byte == b'\n').unwrap_or_default();
    [b"SIP/2.0 200 OK\r\n", &request[end + 1..]].concat()
}

/// Messages of RFC 4475 that are no sound requests.
pub(super) const TORTURE: [&[u8]; 16] = [
    include_bytes!("../../../sip/tests/rfc4475/badinv01.dat"),
    include_bytes!("../../../sip/tests/rfc4475/clerr.dat"),
    include_bytes!("../../../sip/tests/rfc4475/ncl.dat"),
    include_bytes!("../../../sip/tests/rfc4475/scalar02.dat"),
    include_bytes!("../../../sip/tests/rfc4475/scalarlg.dat"),
    include_bytes!("../../../sip/tests/rfc4475/quotbal.dat"),
    include_bytes!("../../../sip/tests/rfc4475/ltgtruri.dat"),
    include_bytes!("../../../sip/tests/rfc4475/lwsruri.dat"),
    include_bytes!("../../../sip/tests/rfc4475/lwsstart.dat"),
    include_bytes!("../../../sip/tests/rfc4475/trws.dat"),
    include_bytes!("../../../sip/tests/rfc4475/escruri.dat"),
    include_bytes!("../../../sip/tests/rfc4475/regbadct.dat"),
    include_bytes!("../../../sip/tests/rfc4475/badaspec.dat"),
    include_bytes!("../../../sip/tests/rfc4475/badvers.dat"),
    include_bytes!("../../../sip/tests/rfc4475/insuf.dat"),
    include_bytes!("../../../sip/tests/rfc4475/multi01.dat"),
];
