//! Flow tokens and dialog cookies: what stands in the user part of our Record-Route, Path and pool URIs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Error;
use crate::keys::{Keys, Purpose};

/// What a flow token may be used for. The two kinds are not interchangeable: Path tokens never leave the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// In a Record-Route: requests inside a dialog, also from phones.
    Dialog,
    /// In a Path: new requests from the core towards the phone.
    Path,
}

/// Transport between phone and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeTransport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// UDP.
    Udp,
}

/// The way to a phone: which gateway, which of its listeners, which address, which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Element identifier of the gateway in the pool `sip-gateway`.
    pub gateway: u32,
    /// Transport.
    pub transport: EdgeTransport,
    /// Number of the gateway's edge listener.
    pub listener: u8,
    /// Address and port of the phone as the gateway sees them.
    pub remote: SocketAddr,
    /// Serial of the connection for TCP and TLS, 0 for UDP.
    pub serial: u32,
}

/// A flow and what the token that carries it may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowToken {
    /// What for.
    pub use_: Use,
    /// The flow.
    pub flow: Flow,
}

const USE_PATH: u8 = 0x80;
const IPV6: u8 = 0x40;

impl FlowToken {
    /// The signed text of the token: 32 characters for UDP over IPv4, at most 54.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> String {
        let Flow { gateway, transport, listener, remote, serial } = self.flow;
        let mut payload = Vec::with_capacity(32);
        let transport = match transport {
            EdgeTransport::Udp => 0,
            EdgeTransport::Tcp => 1,
            EdgeTransport::Tls => 2,
        };
        let use_ = match self.use_ {
            Use::Dialog => 0,
            Use::Path => USE_PATH,
        };
        let family = if remote.is_ipv6() { IPV6 } else { 0 };
        payload.push(transport | use_ | family);
        payload.extend_from_slice(&gateway.to_be_bytes());
        payload.push(listener);
        match remote.ip() {
            IpAddr::V4(ip) => payload.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => payload.extend_from_slice(&ip.octets()),
        }
        payload.extend_from_slice(&remote.port().to_be_bytes());
        if transport != 0 {
            payload.extend_from_slice(&serial.to_be_bytes());
        }
        keys.sign(Purpose::FlowToken, &payload)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`Error::Refused`] when it was not signed with one of `keys`.
    pub fn verify(keys: &Keys, token: &[u8]) -> Result<Self, Error> {
        let payload = keys.verify(Purpose::FlowToken, token)?;
        // The MAC was right, so the layout is ours unless a later version signed it: refused just the same.
        let mut rest = payload.as_slice();
        let kind = take::<1>(&mut rest)?[0];
        let gateway = u32::from_be_bytes(take(&mut rest)?);
        let listener = take::<1>(&mut rest)?[0];
        let ip = if kind & IPV6 == 0 {
            IpAddr::V4(Ipv4Addr::from(take::<4>(&mut rest)?))
        } else {
            IpAddr::V6(Ipv6Addr::from(take::<16>(&mut rest)?))
        };
        let remote = SocketAddr::new(ip, u16::from_be_bytes(take(&mut rest)?));
        let transport = match kind & !(IPV6 | USE_PATH) {
            0 => EdgeTransport::Udp,
            1 => EdgeTransport::Tcp,
            2 => EdgeTransport::Tls,
            _ => return Err(Error::Refused),
        };
        let serial =
            if transport == EdgeTransport::Udp { 0 } else { u32::from_be_bytes(take(&mut rest)?) };
        if !rest.is_empty() {
            return Err(Error::Refused);
        }
        let use_ = if kind & USE_PATH == 0 { Use::Dialog } else { Use::Path };
        Ok(Self { use_, flow: Flow { gateway, transport, listener, remote, serial } })
    }
}

/// What a proxy keeps in a dialog's route set: at most 40 bytes before base64. Its MAC covers the dialog's Call-ID and the
/// tag of its caller, too, so that it leads nobody anywhere in another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialogCookie {
    /// Element that should go on with the dialog if it lives.
    pub preferred: u32,
    /// First media relay, 0 for none.
    pub relay: u32,
    /// What the dialog needs from a proxy.
    pub flags: u16,
}

impl DialogCookie {
    /// In `flags`: the INVITE that began the dialog had no SDP, so that its answer's is the offer.
    pub const LATE_OFFER: u16 = 1;
    /// In `flags`: one side of the dialog is a conference server, which knows no pools and was given the address of a
    /// proxy; any other proxy can stand in for that.
    pub const CONFERENCE: u16 = 2;

    /// The signed text for the dialog that a request without a To tag begins; `caller` is its From tag, empty if it has
    /// none.
    #[must_use]
    pub fn sign(&self, keys: &Keys, call_id: &str, caller: &str) -> String {
        let mut payload = Vec::with_capacity(10);
        payload.extend_from_slice(&self.preferred.to_be_bytes());
        payload.extend_from_slice(&self.relay.to_be_bytes());
        payload.extend_from_slice(&self.flags.to_be_bytes());
        keys.sign_bound(Purpose::DialogCookie, &payload, &dialog(call_id, caller))
    }

    /// Reads the cookie of a request inside a dialog, whose caller is either of its `parties`: the tags of From and To,
    /// empty where there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] when it was not signed with one of `keys`, or for another dialog.
    pub fn verify(
        keys: &Keys,
        cookie: &[u8],
        call_id: &str,
        parties: [&str; 2],
    ) -> Result<Self, Error> {
        Self::verify_caller(keys, cookie, call_id, parties).map(|(cookie, _)| cookie)
    }

    /// As [`DialogCookie::verify`]; also says which of the parties is the caller, 0 or 1.
    ///
    /// # Errors
    /// As there.
    pub fn verify_caller(
        keys: &Keys,
        cookie: &[u8],
        call_id: &str,
        parties: [&str; 2],
    ) -> Result<(Self, usize), Error> {
        let read = |party: usize| {
            let bound = dialog(call_id, parties[party]);
            keys.verify_bound(Purpose::DialogCookie, cookie, &bound).map(|payload| (payload, party))
        };
        let (payload, caller) = read(0).or_else(|_| read(1))?;
        let mut rest = payload.as_slice();
        let cookie = Self {
            preferred: u32::from_be_bytes(take(&mut rest)?),
            relay: u32::from_be_bytes(take(&mut rest)?),
            flags: u16::from_be_bytes(take(&mut rest)?),
        };
        if rest.is_empty() { Ok((cookie, caller)) } else { Err(Error::Refused) }
    }
}

/// What a cookie is bound to, in one text only.
fn dialog(call_id: &str, caller: &str) -> Vec<u8> {
    let length = (call_id.len() as u64).to_be_bytes();
    [&length, call_id.as_bytes(), caller.as_bytes()].concat()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(Error::Refused)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::Generation;

    fn keys() -> Keys {
        Keys::new(
            &Generation { id: 7, secret: [3; 32] },
            Some(&Generation { id: 6, secret: [9; 32] }),
        )
    }

    fn any_token() -> impl Strategy<Value = FlowToken> {
        (
            any::<bool>(),
            0..3u8,
            any::<u32>(),
            any::<u8>(),
            any::<IpAddr>(),
            any::<u16>(),
            any::<u32>(),
        )
            .prop_map(|(path, transport, gateway, listener, ip, port, serial)| {
                let transport = [EdgeTransport::Udp, EdgeTransport::Tcp, EdgeTransport::Tls]
                    [usize::from(transport)];
                let serial = if transport == EdgeTransport::Udp { 0 } else { serial };
                let flow = Flow {
                    gateway,
                    transport,
                    listener,
                    remote: SocketAddr::new(ip, port),
                    serial,
                };
                FlowToken { use_: if path { Use::Path } else { Use::Dialog }, flow }
            })
    }

    proptest! {
        #[test]
        fn every_token_comes_back_and_every_flipped_bit_is_refused(token in any_token()) {
            let keys = keys();
            let text = token.sign(&keys);
            prop_assert!(text.len() <= 54);
            prop_assert_eq!(FlowToken::verify(&keys, text.as_bytes()).unwrap(), token);
            // Bits of the text, and bits of what the text stands for.
            for bit in 0..text.len() * 8 {
                let mut changed = text.clone().into_bytes();
                changed[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(FlowToken::verify(&keys, &changed).is_err(), "text bit {} accepted", bit);
            }
            let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let changed = URL_SAFE_NO_PAD.encode(changed);
                prop_assert!(FlowToken::verify(&keys, changed.as_bytes()).is_err(), "bit {} accepted", bit);
            }
        }

        #[test]
        fn whatever_comes_is_refused_without_panic(junk in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(FlowToken::verify(&keys(), &junk).is_err());
            prop_assert!(DialogCookie::verify(&keys(), &junk, "c", ["a", "b"]).is_err());
        }
    }

    #[test]
    fn a_cookie_comes_back_and_stays_small() {
        let cookie = DialogCookie { preferred: 0xdead_beef, relay: 5, flags: 3 };
        let text = cookie.sign(&keys(), "call", "a");
        assert!(URL_SAFE_NO_PAD.decode(&text).unwrap().len() <= 40);
        let read = |call_id, from, to| {
            DialogCookie::verify(&keys(), text.as_bytes(), call_id, [from, to]).ok()
        };
        let caller = |from, to| {
            DialogCookie::verify_caller(&keys(), text.as_bytes(), "call", [from, to]).unwrap().1
        };
        assert_eq!((caller("a", "b"), caller("b", "a")), (0, 1));
        assert_eq!(read("call", "a", "b"), Some(cookie), "from the caller");
        assert_eq!(read("call", "b", "a"), Some(cookie), "from the callee");
        // Elsewhere it is of no use.
        for (call_id, from, to) in [
            ("other", "a", "b"),
            ("call", "b", "c"),
            ("call", "", "b"),
            ("calla", "", "b"),
            ("cal", "la", "b"),
        ] {
            assert_eq!(read(call_id, from, to), None, "{call_id} {from} {to}");
        }
        assert!(keys().verify(Purpose::DialogCookie, text.as_bytes()).is_err());
        assert!(FlowToken::verify(&keys(), text.as_bytes()).is_err());
        // Of no dialog at all.
        let unbound = keys().sign(Purpose::DialogCookie, &[0; 10]);
        assert!(DialogCookie::verify(&keys(), unbound.as_bytes(), "", ["", ""]).is_err());
    }

    #[test]
    fn a_token_for_udp_over_ipv4_is_32_characters() {
        let flow = Flow {
            gateway: 1,
            transport: EdgeTransport::Udp,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            serial: 0,
        };
        assert_eq!(FlowToken { use_: Use::Path, flow }.sign(&keys()).len(), 32);
    }
}
