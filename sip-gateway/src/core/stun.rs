//! STUN binding requests as keep-alives (RFC 5389; RFC 5626 sections 3.5.2 and 4.4.2): answered with the address that
//! the phone is seen at.

use std::net::{IpAddr, SocketAddr};

const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const HEADER: usize = 20;

/// RFC 5389 section 6: the two upper bits are 0, which no SIP message begins with.
pub(crate) fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[0] & 0xc0 == 0 && bytes[4..8] == MAGIC_COOKIE
}

/// The answer to a binding request; `None` for everything else.
pub(crate) fn answer(bytes: &[u8], remote: SocketAddr) -> Option<Vec<u8>> {
    let kind = u16::from_be_bytes([bytes[0], bytes[1]]);
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if kind != BINDING_REQUEST || length % 4 != 0 || HEADER + length != bytes.len() {
        return None;
    }
    // RFC 5389 section 7.3.1: comprehension-required attributes (below 0x8000) that are unknown get error 420. None of
    // the known ones means anything here.
    let mut unknown = Vec::new();
    let mut rest = &bytes[HEADER..];
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let attribute = u16::from_be_bytes([head[0], head[1]]);
        let padded = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        rest = tail.get(padded..)?;
        if attribute < 0x8000 && !matches!(attribute, 0x0006 | 0x0008 | 0x0014 | 0x0015) && unknown.len() < 16 {
            unknown.push(attribute);
        }
        if attribute == FINGERPRINT {
            break;
        }
    }
    let mut body = Vec::with_capacity(32);
    if unknown.is_empty() {
        let port = remote.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
        let (family, ip) = match remote.ip().to_canonical() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (2, ip.octets().to_vec()),
        };
        push(&mut body, XOR_MAPPED_ADDRESS, 4 + ip.len());
        body.extend_from_slice(&[0, family]);
        body.extend_from_slice(&port.to_be_bytes());
        // RFC 5389 section 15.2: xor with the magic cookie and the transaction id.
        body.extend(ip.iter().zip(&bytes[4..HEADER]).map(|(octet, key)| octet ^ key));
    } else {
        push(&mut body, ERROR_CODE, 4);
        body.extend_from_slice(&[0, 0, 4, 20]);
        push(&mut body, UNKNOWN_ATTRIBUTES, 2 * unknown.len());
        body.extend(unknown.iter().flat_map(|attribute| attribute.to_be_bytes()));
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let kind = if unknown.is_empty() { BINDING_SUCCESS } else { BINDING_ERROR };
    let mut out = Vec::with_capacity(HEADER + body.len());
    push(&mut out, kind, body.len());
    out.extend_from_slice(&bytes[4..HEADER]);
    out.extend_from_slice(&body);
    Some(out)
}

fn push(out: &mut Vec<u8>, kind: u16, length: usize) {
    out.extend_from_slice(&kind.to_be_bytes());
    // Lengths here are below 64.
    out.extend_from_slice(&(length as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let mut request = vec![0, 1, 0, attributes.len() as u8];
        request.extend_from_slice(&MAGIC_COOKIE);
        request.extend_from_slice(b"transactions");
        request.extend_from_slice(attributes);
        request
    }

    /// The address is that of the IPv4 sample of RFC 5769 section 2.2.
    #[test]
    fn a_binding_request_gets_the_mapped_address() {
        let request = request(&[]);
        assert!(is_stun(&request));
        let answer = answer(&request, "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(answer[..4], [1, 1, 0, 12]);
        assert_eq!(answer[4..20], request[4..20]);
        assert_eq!(answer[20..], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    }

    #[test]
    fn unknown_attributes_are_named_and_broken_ones_dropped() {
        let remote = "192.0.2.1:1".parse().unwrap();
        let error = answer(&request(&[0x7f, 0x01, 0, 1, 9, 0, 0, 0]), remote).unwrap();
        assert_eq!(error[..2], [1, 0x11]);
        assert_eq!(error[20..], [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0x7f, 1, 0, 0]);
        assert_eq!(answer(&request(&[0x80, 0x22, 0, 40]), remote), None);
        assert!(answer(&request(&[0x80, 0x22, 0, 4, 1, 2, 3, 4]), remote).is_some());
        assert!(!is_stun(b"OPTIONS sip:a SIP/2.0\r\n"));
    }
}
