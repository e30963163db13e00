//! Arbitrary messages survive encoding and decoding; arbitrary bytes never panic.

use dialtone_wire::{
    AsapType, Cause, CauseCode, Compat, EnrpType, OperationError, PeId, Policy, PolicyType,
    PoolElement, PoolHandle, SctpTransport, ServerId, ServerInformation, Transport, TransportUse,
    UpdateAction, asap, enrp, fuzz,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::net::IpAddr;

fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn sctp() -> impl Strategy<Value = SctpTransport> {
    (any::<u16>(), any::<u16>(), vec(addr(), 1..4)).prop_map(|(port, use_, addrs)| SctpTransport {
        port,
        use_: TransportUse(use_),
        addrs: addrs.into(),
    })
}

fn transport() -> impl Strategy<Value = Transport<'static>> {
    prop_oneof![
        sctp().prop_map(Transport::Sctp),
        vec(any::<u8>(), 0..40).prop_map(|data| Transport::Opaque(data.into())),
        (any::<u16>(), any::<u32>(), addr())
            .prop_map(|(port, service_code, addr)| Transport::Dccp { port, service_code, addr }),
        (any::<u16>(), addr()).prop_map(|(port, addr)| Transport::Tcp { port, addr }),
        (any::<u16>(), addr()).prop_map(|(port, addr)| Transport::Udp { port, addr }),
        (any::<u16>(), addr()).prop_map(|(port, addr)| Transport::UdpLite { port, addr }),
    ]
}

fn policy() -> impl Strategy<Value = Policy<'static>> {
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Random),
        any::<u32>().prop_map(|weight| Policy::WeightedRoundRobin { weight }),
        any::<u32>().prop_map(|weight| Policy::WeightedRandom { weight }),
        any::<u32>().prop_map(|priority| Policy::Priority { priority }),
        any::<u32>().prop_map(|load| Policy::LeastUsed { load }),
        any::<u32>().prop_map(|load| Policy::RandomizedLeastUsed { load }),
        any::<(u32, u32)>()
            .prop_map(|(load, degradation)| Policy::LeastUsedDegradation { load, degradation }),
        any::<(u32, u32)>()
            .prop_map(|(load, degradation)| Policy::PriorityLeastUsed { load, degradation }),
        (0x8000_0000_u32.., vec(any::<u8>(), 0..20)).prop_map(|(number, data)| Policy::Other {
            number: PolicyType(number),
            data: data.into()
        }),
    ]
}

fn element() -> impl Strategy<Value = PoolElement<'static>> {
    let ids = (any::<u32>(), any::<u32>(), any::<i32>());
    (ids, transport(), policy(), option::of(sctp()), option::of(any::<u16>())).prop_map(
        |((pe_id, home, life), transport, policy, asap_transport, encaps_port)| PoolElement {
            pe_id: PeId(pe_id),
            home: ServerId(home),
            life,
            transport,
            policy,
            asap_transport,
            encaps_port,
        },
    )
}

fn error() -> impl Strategy<Value = OperationError<'static>> {
    let cause = (any::<u16>(), vec(any::<u8>(), 0..20));
    vec(cause.prop_map(|(code, info)| Cause { code: CauseCode(code), info: info.into() }), 0..4)
        .prop_map(OperationError::from)
}

fn server() -> impl Strategy<Value = ServerInformation> {
    (any::<u32>(), sctp())
        .prop_map(|(id, transport)| ServerInformation { server_id: ServerId(id), transport })
}

/// What a message is made of, before it is put together.
#[derive(Debug)]
struct Parts {
    number: u8,
    flags: [bool; 2],
    ids: [u32; 3],
    small: u16,
    handle: Vec<u8>,
    elements: Vec<PoolElement<'static>>,
    policy: Option<Policy<'static>>,
    error: Option<OperationError<'static>>,
    transports: Vec<Transport<'static>>,
    servers: Vec<ServerInformation>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let numbers = (any::<u8>(), any::<[bool; 2]>(), any::<[u32; 3]>(), any::<u16>());
    let lists = (vec(element(), 1..4), vec(transport(), 0..3), vec(server(), 0..3));
    (numbers, vec(any::<u8>(), 0..12), option::of(policy()), option::of(error()), lists).prop_map(
        |((number, flags, ids, small), handle, policy, error, (elements, transports, servers))| {
            Parts {
                number,
                flags,
                ids,
                small,
                handle,
                elements,
                policy,
                error,
                transports,
                servers,
            }
        },
    )
}

impl Parts {
    fn element(&self) -> PoolElement<'static> {
        self.elements[0].clone()
    }

    fn some_error(&self) -> OperationError<'static> {
        self.error.clone().unwrap_or_default()
    }

    fn asap(&self) -> asap::Message<'_> {
        let handle = PoolHandle(&self.handle);
        let [flag, other] = self.flags;
        let (pe_id, server_id, error) =
            (PeId(self.ids[0]), ServerId(self.ids[1]), self.error.clone());
        match AsapType(self.number % 14 + 1) {
            AsapType::REGISTRATION => {
                asap::Message::Registration { handle, element: self.element() }
            }
            AsapType::DEREGISTRATION => asap::Message::Deregistration { handle, pe_id },
            AsapType::REGISTRATION_RESPONSE => {
                asap::Message::RegistrationResponse { reject: flag, handle, pe_id, error }
            }
            AsapType::DEREGISTRATION_RESPONSE => {
                asap::Message::DeregistrationResponse { handle, pe_id, error }
            }
            AsapType::HANDLE_RESOLUTION => asap::Message::HandleResolution {
                subscribe: flag,
                handle,
                items: other.then_some(self.ids[2]),
            },
            AsapType::HANDLE_RESOLUTION_RESPONSE => asap::Message::HandleResolutionResponse {
                accepted: flag,
                handle,
                outcome: match error {
                    Some(error) => Err(error),
                    None => Ok(asap::Resolution {
                        policy: self.policy.clone(),
                        elements: self.elements.clone(),
                    }),
                },
            },
            AsapType::ENDPOINT_KEEP_ALIVE => {
                asap::Message::EndpointKeepAlive { home: flag, server_id, handle, pe_id: None }
            }
            AsapType::ENDPOINT_KEEP_ALIVE_ACK => {
                asap::Message::EndpointKeepAliveAck { handle, pe_id }
            }
            AsapType::ENDPOINT_UNREACHABLE => asap::Message::EndpointUnreachable { handle, pe_id },
            AsapType::SERVER_ANNOUNCE => {
                let fits = |transport: &&Transport<'_>| {
                    matches!(transport, Transport::Sctp(_) | Transport::Tcp { .. })
                };
                let transports = self.transports.iter().filter(fits).cloned().collect();
                asap::Message::ServerAnnounce { server_id, transports }
            }
            AsapType::COOKIE => asap::Message::Cookie(&self.handle),
            AsapType::COOKIE_ECHO => asap::Message::CookieEcho(&self.handle),
            AsapType::BUSINESS_CARD => {
                asap::Message::BusinessCard { handle, elements: self.elements.clone() }
            }
            _ => asap::Message::Error(self.some_error()),
        }
    }

    fn enrp(&self) -> enrp::Message<'_> {
        let handle = PoolHandle(&self.handle);
        let [flag, other] = self.flags;
        let target = ServerId(self.ids[2]);
        let body = match EnrpType(self.number % 10 + 1) {
            EnrpType::PRESENCE => enrp::Body::Presence {
                reply_required: flag,
                checksum: other.then_some(self.small),
                server: self.servers.first().cloned(),
            },
            EnrpType::HANDLE_TABLE_REQUEST => {
                enrp::Body::HandleTableRequest { own_children_only: flag }
            }
            EnrpType::HANDLE_TABLE_RESPONSE => {
                let entry = |element: &PoolElement<'static>| enrp::PoolEntry {
                    handle,
                    elements: vec![element.clone()],
                };
                let pools = self.elements.iter().map(entry).collect();
                enrp::Body::HandleTableResponse { reject: flag, more: other, pools }
            }
            EnrpType::HANDLE_UPDATE => enrp::Body::HandleUpdate {
                takeover_suggested: flag,
                action: UpdateAction(self.small),
                handle,
                element: Box::new(self.element()),
            },
            EnrpType::LIST_REQUEST => enrp::Body::ListRequest,
            EnrpType::LIST_RESPONSE => {
                enrp::Body::ListResponse { reject: flag, servers: self.servers.clone() }
            }
            EnrpType::INIT_TAKEOVER => enrp::Body::InitTakeover { target },
            EnrpType::INIT_TAKEOVER_ACK => enrp::Body::InitTakeoverAck { target },
            EnrpType::TAKEOVER_SERVER => enrp::Body::TakeoverServer { target },
            _ => enrp::Body::Error(self.some_error()),
        };
        enrp::Message { sender: ServerId(self.ids[0]), receiver: ServerId(self.ids[1]), body }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive(parts in parts()) {
        let message = parts.asap();
        let encoded = message.encode().unwrap();
        let decoded = asap::Message::decode(&encoded).unwrap();
        prop_assert_eq!(&decoded.message, &message);
        prop_assert!(decoded.unrecognized.is_empty());
        // rsplib's bytes are read by everybody; only the registration life means something else.
        prop_assert!(asap::Message::decode(&message.encode_with(Compat::Rsplib).unwrap()).is_ok());

        let message = parts.enrp();
        let encoded = message.encode().unwrap();
        let decoded = enrp::Message::decode(&encoded).unwrap();
        prop_assert_eq!(&decoded.message, &message);
        prop_assert!(decoded.unrecognized.is_empty());
    }

    #[test]
    fn elements_are_no_longer_than_they_say(element in element()) {
        let message = asap::Message::Registration { handle: PoolHandle(b""), element: element.clone() };
        prop_assert!(message.encode().unwrap().len() <= 8 + element.max_len());
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..120)) {
        fuzz::asap(&bytes);
        fuzz::enrp(&bytes);
        fuzz::framer(&bytes);
    }

    /// Bytes flipped, and the message cut, where it hurts more than random bytes do.
    #[test]
    fn damaged_messages(parts in parts(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in 0_usize..8) {
        for mut bytes in [parts.asap().encode().unwrap(), parts.enrp().encode().unwrap()] {
            for (index, value) in &flips {
                let index = index.index(bytes.len());
                bytes[index] = *value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            fuzz::asap(&bytes);
            fuzz::enrp(&bytes);
        }
    }
}
