//! Messages and parameters as RFC 5354 puts them on the wire: a writer and a reader of their own, so that these tests do
//! not trust the codec that they test.

use std::net::{IpAddr, SocketAddr};

pub(crate) const REGISTRATION: u8 = 0x01;
pub(crate) const DEREGISTRATION: u8 = 0x02;
pub(crate) const REGISTRATION_RESPONSE: u8 = 0x03;
pub(crate) const DEREGISTRATION_RESPONSE: u8 = 0x04;
pub(crate) const HANDLE_RESOLUTION: u8 = 0x05;
pub(crate) const HANDLE_RESOLUTION_RESPONSE: u8 = 0x06;
pub(crate) const KEEP_ALIVE: u8 = 0x07;
pub(crate) const KEEP_ALIVE_ACK: u8 = 0x08;
pub(crate) const UNREACHABLE: u8 = 0x09;
pub(crate) const ERROR: u8 = 0x0e;

// ENRP.
pub(crate) const PRESENCE: u8 = 0x01;
pub(crate) const TABLE_REQUEST: u8 = 0x02;
pub(crate) const TABLE_RESPONSE: u8 = 0x03;
pub(crate) const HANDLE_UPDATE: u8 = 0x04;
pub(crate) const LIST_REQUEST: u8 = 0x05;
pub(crate) const LIST_RESPONSE: u8 = 0x06;
pub(crate) const INIT_TAKEOVER: u8 = 0x07;
pub(crate) const INIT_TAKEOVER_ACK: u8 = 0x08;
pub(crate) const TAKEOVER_SERVER: u8 = 0x09;
pub(crate) const ENRP_ERROR: u8 = 0x0a;
/// Flags: reply required; own children only; reject; more to send.
pub(crate) const R: u8 = 0x01;
pub(crate) const W: u8 = 0x01;
pub(crate) const REJECT: u8 = 0x01;
pub(crate) const MORE: u8 = 0x02;
pub(crate) const ADD_PE: u16 = 0;
pub(crate) const DEL_PE: u16 = 1;

pub(crate) const IPV4: u16 = 0x1;
pub(crate) const IPV6: u16 = 0x2;
pub(crate) const SCTP: u16 = 0x4;
pub(crate) const TCP: u16 = 0x5;
pub(crate) const UDP: u16 = 0x6;
pub(crate) const POLICY: u16 = 0x8;
pub(crate) const POOL_HANDLE: u16 = 0x9;
pub(crate) const POOL_ELEMENT: u16 = 0xa;
pub(crate) const OPERATION_ERROR: u16 = 0xc;
pub(crate) const SERVER_INFORMATION: u16 = 0xb;
pub(crate) const PE_ID: u16 = 0xe;
pub(crate) const PE_CHECKSUM: u16 = 0xf;

pub(crate) const ROUND_ROBIN: u32 = 0x1;
pub(crate) const RANDOM: u32 = 0x3;
pub(crate) const PRIORITY: u32 = 0x5;
pub(crate) const LEAST_USED: u32 = 0x4000_0001;

/// No error.
pub(crate) const NO_CAUSES: [u16; 0] = [];

/// A parameter: its Length does not count the padding behind it, which whoever puts it somewhere adds.
pub(crate) fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    [&kind.to_be_bytes(), &length.to_be_bytes(), value].concat()
}

/// Parameters one behind the other, padded between them.
pub(crate) fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.resize(all.len().next_multiple_of(4), 0);
        all.extend_from_slice(part);
    }
    all
}

/// A whole message, padded.
pub(crate) fn message(kind: u8, flags: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let value = join(parts);
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut message = [&[kind, flags], &length.to_be_bytes()[..], &value].concat();
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

pub(crate) fn word(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(crate) fn handle(name: &str) -> Vec<u8> {
    tlv(POOL_HANDLE, name.as_bytes())
}

pub(crate) fn pe_id(id: u32) -> Vec<u8> {
    tlv(PE_ID, &word(id))
}

pub(crate) fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => tlv(IPV4, &ip.octets()),
        IpAddr::V6(ip) => tlv(IPV6, &ip.octets()),
    }
}

/// A transport: `use_` is the Transport Use of SCTP, reserved in the others.
pub(crate) fn transport(kind: u16, addr: SocketAddr, use_: u16) -> Vec<u8> {
    let ports = [addr.port().to_be_bytes(), use_.to_be_bytes()].concat();
    tlv(kind, &join(&[ports, address(addr.ip())]))
}

pub(crate) fn policy(number: u32, values: &[u32]) -> Vec<u8> {
    let words: Vec<u8> =
        [&[number], values].concat().into_iter().flat_map(u32::to_be_bytes).collect();
    tlv(POLICY, &words)
}

/// What a Pool Element parameter says.
#[derive(Clone, Debug)]
pub(crate) struct Pe {
    pub(crate) id: u32,
    /// The home, 0 if it is undetermined.
    pub(crate) home: u32,
    pub(crate) life: i32,
    pub(crate) transport: Vec<u8>,
    pub(crate) policy: Vec<u8>,
    /// What stands behind the policy.
    pub(crate) more: Vec<Vec<u8>>,
}

impl Pe {
    /// Round robin, TCP, 600 s.
    pub(crate) fn new(id: u32, ip: IpAddr) -> Self {
        let transport = transport(TCP, SocketAddr::new(ip, 5060), 0);
        let policy = policy(ROUND_ROBIN, &[]);
        Self { id, home: 0, life: 600, transport, policy, more: Vec::new() }
    }

    /// As a home passes it on: registrars reach the element at this address, UDP port and SCTP port 3863.
    pub(crate) fn owned(self, home: u32, asap: SocketAddr) -> Self {
        let sctp = transport(SCTP, SocketAddr::new(asap.ip(), 3863), 0);
        let encapsulation = tlv(0x8c0d, &[&asap.port().to_be_bytes()[..], &[0, 0]].concat());
        Self { home, more: vec![sctp, encapsulation], ..self }
    }

    pub(crate) fn tlv(&self) -> Vec<u8> {
        let fixed = [word(self.id), word(self.home), word(self.life.cast_unsigned())].concat();
        let parts =
            [&[fixed, self.transport.clone(), self.policy.clone()], &self.more[..]].concat();
        tlv(POOL_ELEMENT, &join(&parts))
    }
}

pub(crate) fn registration(pool: &str, element: &Pe) -> Vec<u8> {
    message(REGISTRATION, 0, &[handle(pool), element.tlv()])
}

pub(crate) fn deregistration(pool: &str, id: u32) -> Vec<u8> {
    message(DEREGISTRATION, 0, &[handle(pool), pe_id(id)])
}

pub(crate) fn resolution(pool: &str, subscribe: bool) -> Vec<u8> {
    message(HANDLE_RESOLUTION, u8::from(subscribe), &[handle(pool)])
}

pub(crate) fn unreachable(pool: &str, id: u32) -> Vec<u8> {
    message(UNREACHABLE, 0, &[handle(pool), pe_id(id)])
}

/// An ENRP message.
pub(crate) fn enrp(kind: u8, flags: u8, sender: u32, receiver: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    message(kind, flags, &[&[word(sender), word(receiver)], parts].concat())
}

pub(crate) fn presence(sender: u32, flags: u8, checksum: u16) -> Vec<u8> {
    enrp(PRESENCE, flags, sender, 0, &[tlv(PE_CHECKSUM, &checksum.to_be_bytes())])
}

pub(crate) fn update(sender: u32, action: u16, pool: &str, element: &Pe) -> Vec<u8> {
    let action = [action.to_be_bytes(), [0, 0]].concat();
    enrp(HANDLE_UPDATE, 0, sender, 0, &[action, handle(pool), element.tlv()])
}

/// The PE checksum of these elements (RFC 5353 section 3.6.2): the Internet checksum over padded handles and identifiers.
pub(crate) fn checksum(elements: &[(&str, u32)]) -> u16 {
    let mut sum = 0u32;
    for (pool, id) in elements {
        let mut block = pool.as_bytes().to_vec();
        block.resize(block.len().next_multiple_of(4), 0);
        block.extend(id.to_be_bytes());
        for pair in block.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// A message that was received. Reading it checks what holds for all messages (RFC 5354 sections 2 to 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) value: Vec<u8>,
}

/// A parameter, or a cause inside an Operation Error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tlv {
    pub(crate) kind: u16,
    pub(crate) value: Vec<u8>,
}

fn padded(bytes: &[u8], length: usize) -> &[u8] {
    let padding = &bytes[length..length.next_multiple_of(4).min(bytes.len())];
    assert!(padding.iter().all(|byte| *byte == 0), "padding is zero: {bytes:02x?}");
    &bytes[length + padding.len()..]
}

impl Message {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 4 && bytes.len().is_multiple_of(4), "whole words: {bytes:02x?}");
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        assert_eq!(length.next_multiple_of(4), bytes.len(), "length: {bytes:02x?}");
        padded(bytes, length);
        Self { kind: bytes[0], flags: bytes[1], value: bytes[4..length].to_vec() }
    }

    /// The parameters behind so many bytes of fixed fields.
    pub(crate) fn behind(&self, fixed: usize) -> Vec<Tlv> {
        tlvs(&self.value[fixed..])
    }

    pub(crate) fn tlvs(&self) -> Vec<Tlv> {
        self.behind(0)
    }

    pub(crate) fn find_all(&self, kind: u16) -> Vec<Tlv> {
        self.tlvs().into_iter().filter(|tlv| tlv.kind == kind).collect()
    }

    /// ENRP: who sent it, and to whom.
    pub(crate) fn route(&self) -> (u32, u32) {
        let word = |at: usize| u32::from_be_bytes(self.value[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    /// ENRP: the target of a takeover.
    pub(crate) fn target(&self) -> u32 {
        u32::from_be_bytes(self.value[8..12].try_into().unwrap())
    }

    /// ENRP: the entries of a table, in their order: pool handle, identifier and home of each element.
    pub(crate) fn table(&self) -> Vec<(String, u32, u32)> {
        let (mut all, mut pool) = (Vec::new(), None);
        for part in self.behind(8) {
            match part.kind {
                POOL_HANDLE => pool = Some(String::from_utf8(part.value).unwrap()),
                POOL_ELEMENT => all.push((pool.clone().unwrap(), part.word(0), part.word(4))),
                kind => panic!("{kind:#x} in a table"),
            }
        }
        all
    }

    /// The only parameter of a kind, if there is one.
    pub(crate) fn find(&self, kind: u16) -> Option<Tlv> {
        let mut all = self.find_all(kind);
        assert!(all.len() <= 1, "twice there: {all:?}");
        all.pop()
    }

    /// The codes of the causes; empty without Operation Error.
    pub(crate) fn causes(&self) -> Vec<u16> {
        let error = self.find(OPERATION_ERROR);
        error.iter().flat_map(|error| error.behind(0)).map(|cause| cause.kind).collect()
    }

    /// The identifiers of the Pool Elements, in their order.
    pub(crate) fn elements(&self) -> Vec<u32> {
        self.find_all(POOL_ELEMENT).iter().map(|element| element.word(0)).collect()
    }
}

impl Tlv {
    pub(crate) fn behind(&self, fixed: usize) -> Vec<Tlv> {
        tlvs(&self.value[fixed..])
    }

    /// The 32 bits at an offset of the value.
    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.value[at..at + 4].try_into().unwrap())
    }

    /// As it was on the wire, without padding.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        tlv(self.kind, &self.value)
    }
}

fn tlvs(mut bytes: &[u8]) -> Vec<Tlv> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let [t0, t1, l0, l1, ..] = *bytes else { panic!("no parameter: {bytes:02x?}") };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = bytes[4..length].to_vec();
        all.push(Tlv { kind: u16::from_be_bytes([t0, t1]), value });
        bytes = padded(bytes, length);
    }
    all
}
