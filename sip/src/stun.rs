//! STUN binding requests as keep-alives over UDP (RFC 5626 section 3.5.2, RFC 5389).

use std::net::{IpAddr, SocketAddr};

const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const BINDING_REQUEST: [u8; 2] = 0x0001_u16.to_be_bytes();
const BINDING_SUCCESS: [u8; 2] = 0x0101_u16.to_be_bytes();
const XOR_MAPPED_ADDRESS: [u8; 2] = 0x0020_u16.to_be_bytes();

/// The answer to a STUN binding request from `source`; `None` for any other datagram. No SIP message can be mistaken
/// for one: its bytes begin with a text, never with zero.
pub fn stun_response(datagram: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let (header, attributes) = datagram.split_at_checked(20)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[..2] != BINDING_REQUEST || header[4..8] != MAGIC_COOKIE || length != attributes.len()
    {
        return None;
    }
    let transaction = &header[4..20];
    let port = source.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
    let (family, address) = match source.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let attribute = 4 + address.len() as u16;
    let mut out = Vec::with_capacity(44);
    out.extend_from_slice(&BINDING_SUCCESS);
    out.extend_from_slice(&(4 + attribute).to_be_bytes());
    out.extend_from_slice(transaction);
    out.extend_from_slice(&XOR_MAPPED_ADDRESS);
    out.extend_from_slice(&attribute.to_be_bytes());
    out.extend_from_slice(&[0, family]);
    out.extend_from_slice(&port.to_be_bytes());
    // The address is masked by the cookie, an IPv6 one also by the transaction that follows it.
    out.extend(address.iter().zip(transaction).map(|(byte, mask)| byte ^ mask));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.2 has this address in its sample response.
    #[test]
    fn answers_with_the_masked_address() {
        let mut request = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
        request.extend_from_slice(&[
            0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
        ]);
        let response = stun_response(&request, "192.0.2.1:32853".parse().expect("address"))
            .expect("a response");
        assert_eq!(response[..4], [0x01, 0x01, 0x00, 0x0c]);
        assert_eq!(response[4..20], request[4..20]);
        assert_eq!(
            response[20..],
            [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]
        );
        let source = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().expect("address");
        let response = stun_response(&request, source).expect("a response");
        assert_eq!(response[28..32], [0x01, 0x13, 0xa9, 0xfa]);
        assert_eq!(stun_response(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n", source), None);
        assert_eq!(stun_response(&request[..19], source), None);
    }
}
