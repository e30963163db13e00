//! What rsplib says on the wire: every ASAP and ENRP message of the captures decodes; how many encode to the same
//! bytes again, and why the others do not, is counted exactly. See `captures/README.md`.

mod pcap;

use dialtone_wire::{ASAP_PPID, AsapType, Compat, ENRP_PPID, PoolElement, asap, enrp};
use std::collections::BTreeMap;

/// The SCTP user messages of both captures, retransmissions too: payload protocol identifier and bytes.
fn messages() -> impl Iterator<Item = (u32, Vec<u8>)> {
    [pcap::FAILOVER, pcap::CRASH].into_iter().flat_map(pcap::read).filter_map(|seen| {
        match seen.what {
            pcap::What::Message { ppid, payload, .. } => Some((ppid, payload)),
            _ => None,
        }
    })
}

/// Per message type: how many there are, and how many are the same bytes after decoding and encoding as the RFC says
/// and as rsplib does.
const EXPECTED: [(&str, [usize; 3]); 18] = [
    ("ASAP cookie", [24, 24, 24]),
    ("ASAP cookie echo", [1, 1, 1]),
    ("ASAP deregistration", [5, 5, 5]),
    ("ASAP deregistration response", [5, 5, 5]),
    // The RFC's form has no place for the PE identifier that rsplib adds.
    ("ASAP endpoint keep-alive", [28, 0, 28]),
    ("ASAP endpoint keep-alive ack", [26, 26, 26]),
    ("ASAP endpoint unreachable", [10, 10, 10]),
    ("ASAP handle resolution", [69, 69, 69]),
    ("ASAP handle resolution response", [69, 69, 69]),
    ("ASAP registration", [21, 21, 21]),
    ("ASAP registration response", [21, 21, 21]),
    ("ENRP handle table request", [5, 5, 5]),
    ("ENRP handle table response", [5, 5, 5]),
    ("ENRP handle update", [29, 29, 29]),
    ("ENRP init takeover", [5, 5, 5]),
    ("ENRP init takeover ack", [1, 1, 1]),
    ("ENRP list request/response", [16, 16, 16]),
    ("ENRP presence", [150, 150, 150]),
];

/// The message's type and its bytes after decoding and encoding.
fn again(ppid: u32, bytes: &[u8], compat: Compat) -> (String, Vec<u8>) {
    if ppid == ASAP_PPID {
        let decoded = asap::Message::decode_with(bytes, compat).expect("ASAP decodes");
        assert_eq!(decoded.unrecognized, []);
        (
            format!("ASAP {}", decoded.message.number()),
            decoded.message.encode_with(compat).expect("ASAP encodes"),
        )
    } else {
        let decoded = enrp::Message::decode_with(bytes, compat).expect("ENRP decodes");
        assert_eq!(decoded.unrecognized, []);
        let name = match &decoded.message.body {
            enrp::Body::ListRequest | enrp::Body::ListResponse { .. } => {
                "ENRP list request/response".to_owned()
            }
            body => format!("ENRP {}", body.number()),
        };
        (name, decoded.message.encode_with(compat).expect("ENRP encodes"))
    }
}

#[test]
fn every_message_decodes_and_most_encode_to_the_same_bytes() {
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for (ppid, payload) in messages() {
        if ![ASAP_PPID, ENRP_PPID].contains(&ppid) {
            continue;
        }
        let (name, rfc) = again(ppid, &payload, Compat::Rfc);
        let (_, rsplib) = again(ppid, &payload, Compat::Rsplib);
        if rfc != payload {
            assert_eq!(
                without_pe_identifier(&payload),
                rfc,
                "{name}: no other reason than this is known"
            );
        }
        let count = counts.entry(name).or_default();
        count[0] += 1;
        count[1] += usize::from(rfc == payload);
        count[2] += usize::from(rsplib == payload);
    }
    println!("{:<36}{:>8}{:>8}{:>8}", "message", "decoded", "RFC", "rsplib");
    for (name, [decoded, rfc, rsplib]) in &counts {
        println!("{name:<36}{decoded:>8}{rfc:>8}{rsplib:>8}");
    }
    let counts: Vec<(&str, [usize; 3])> =
        counts.iter().map(|(name, counts)| (name.as_str(), *counts)).collect();
    assert_eq!(counts, EXPECTED);
}

/// The keep-alive without rsplib's additional parameter, lengths and padding as the RFC says.
fn without_pe_identifier(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(bytes[0], AsapType::ENDPOINT_KEEP_ALIVE.0);
    let (rest, identifier) = bytes.split_at(bytes.len() - 8);
    assert_eq!(identifier[..4], [0x00, 0x0e, 0x00, 0x08]);
    let handle_length = u16::from_be_bytes([rest[10], rest[11]]);
    let mut expected = rest.to_vec();
    expected[2..4].copy_from_slice(&(8 + handle_length).to_be_bytes());
    expected
}

#[test]
fn registration_life_of_rsplib_is_in_milliseconds() {
    let mut lives = BTreeMap::new();
    for (_, payload) in messages().filter(|(ppid, _)| *ppid == ASAP_PPID) {
        let life = |compat| {
            let decoded = asap::Message::decode_with(&payload, compat).expect("decodes").message;
            match decoded {
                asap::Message::Registration { element: PoolElement { life, .. }, .. } => Some(life),
                _ => None,
            }
        };
        if let (Some(rfc), Some(rsplib)) = (life(Compat::Rfc), life(Compat::Rsplib)) {
            *lives.entry((rfc, rsplib)).or_insert(0) += 1;
        }
    }
    assert!(lives.keys().all(|(rfc, rsplib)| *rfc == rsplib * 1000), "{lives:?}");
    assert_eq!(lives.values().sum::<usize>(), 21);
}
