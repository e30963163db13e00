//! Bytes worked out by hand from the RFCs' rules.

use dialtone_wire::{
    Cause, CauseCode, Compat, DecodeError, EncodeError, Framer, OperationError, ParameterType,
    PeId, Policy, PoolElement, PoolHandle, SctpTransport, ServerId, ServerInformation, Transport,
    TransportUse, asap, enrp,
};
use std::net::{IpAddr, Ipv4Addr};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

const SIP: PoolHandle<'static> = PoolHandle(b"sip");

fn element() -> PoolElement<'static> {
    PoolElement {
        pe_id: PeId(0x1234_5678),
        home: ServerId::NONE,
        life: 300,
        transport: Transport::Sctp(SctpTransport {
            port: 5060,
            use_: TransportUse::DATA_ONLY,
            addrs: ip(10).into(),
        }),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    }
}

fn asap_is(message: &asap::Message<'_>, hex: &str) {
    assert_eq!(message.encode().unwrap(), bytes(hex));
    assert_eq!(asap::Message::decode(&bytes(hex)).unwrap().message, *message);
}

#[test]
fn worked_encodings() {
    asap_is(
        &asap::Message::Registration { handle: SIP, element: element() },
        "01000034 00090007 73697000 000a0028 12345678 00000000 0000012c 00040010 13c40000 00010008 c000020a 00080008
         00000001",
    );
    let policy = Policy::LeastUsed { load: 0 };
    asap_is(
        &asap::Message::RegistrationResponse {
            reject: true,
            handle: SIP,
            pe_id: PeId(0x1234_5678),
            error: Some(Cause::inconsistent_policy(&policy).unwrap().into()),
        },
        "03010028 00090007 73697000 000e0008 12345678 000c0014 00050010 0008000c 40000001 00000000",
    );
    asap_is(
        &asap::Message::HandleResolutionResponse {
            accepted: false,
            handle: SIP,
            outcome: Err(CauseCode::UNKNOWN_POOL_HANDLE.into()),
        },
        "06000014 00090007 73697000 000c0008 00090004",
    );
    asap_is(
        &asap::Message::EndpointKeepAlive {
            home: true,
            server_id: ServerId(0x1111_1111),
            handle: SIP,
            pe_id: None,
        },
        "0701000f 11111111 00090007 73697000",
    );
    let presence = enrp::Message {
        sender: ServerId(0x1111_1111),
        receiver: ServerId(0x2222_2222),
        body: enrp::Body::Presence {
            reply_required: true,
            checksum: Some(0x9343),
            server: Some(ServerInformation {
                server_id: ServerId(0x1111_1111),
                transport: SctpTransport {
                    port: 9901,
                    use_: TransportUse::DATA_ONLY,
                    addrs: [ip(1), ip(2)].into_iter().collect(),
                },
            }),
        },
    };
    let hex = "01010034 11111111 22222222 000f0006 93430000 000b0020 11111111 00040018 26ad0000 00010008 c0000201
               00010008 c0000202";
    assert_eq!(presence.encode().unwrap(), bytes(hex));
    assert_eq!(enrp::Message::decode(&bytes(hex)).unwrap().message, presence);
}

#[test]
fn our_port_parameter_follows_the_asap_transport_and_spares_rsplib() {
    let asap_transport =
        SctpTransport { port: 3863, use_: TransportUse::DATA_ONLY, addrs: ip(10).into() };
    let transport = Transport::Tcp { port: 5060, addr: ip(10) };
    let element = PoolElement {
        asap_transport: Some(asap_transport),
        encaps_port: Some(40000),
        transport,
        ..element()
    };
    let card = asap::Message::BusinessCard { handle: SIP, elements: vec![element] };
    asap_is(
        &card,
        "0d00004c 00090007 73697000 000a0040 12345678 00000000 0000012c 00050010 13c40000 00010008 c000020a 00080008
         00000001 00040010 0f170000 00010008 c000020a 8c0d0008 9c400000",
    );
    let rsplib = card.encode_with(Compat::Rsplib).unwrap();
    assert_eq!(rsplib.len(), 0x44, "no port");
    assert_eq!(rsplib[20..28], bytes("00000000 000493e0"), "life in milliseconds");
}

/// rsplib discards an answer that names no policy, though round robin goes without saying.
#[test]
fn answers_to_rsplib_name_their_policy() {
    let outcome = Ok(asap::Resolution { policy: None, elements: vec![element()] });
    let answer = asap::Message::HandleResolutionResponse { accepted: false, handle: SIP, outcome };
    let [rfc, rsplib] =
        [Compat::Rfc, Compat::Rsplib].map(|compat| answer.encode_with(compat).unwrap());
    assert_eq!(rfc[12..14], [0x00, 0x0a], "the element follows the handle");
    assert_eq!(rsplib[12..20], bytes("00080008 00000001"));
    assert_eq!(rsplib[20..22], [0x00, 0x0a]);
}

/// G5: the padding after the last nested parameter may be counted or not, and may be missing at the very end.
#[test]
fn both_padding_conventions_are_understood() {
    let ack = asap::Message::EndpointKeepAlive {
        home: false,
        server_id: ServerId(1),
        handle: SIP,
        pe_id: None,
    };
    for hex in [
        "0700000f 00000001 00090007 73697000",
        "07000010 00000001 00090007 736970ff",
        "0700000f 00000001 00090007 736970",
    ] {
        assert_eq!(asap::Message::decode(&bytes(hex)).unwrap().message, ack, "{hex}");
    }
    assert_eq!(
        ack.encode_with(Compat::Rsplib).unwrap(),
        bytes("07000010 00000001 00090007 73697000")
    );
    // Nested: an operation error whose last cause is padded, inside and outside of the parameter's length.
    let error = OperationError::from(Cause { code: CauseCode(0xf000), info: vec![7].into() });
    let error = asap::Message::Error(error);
    assert_eq!(error.encode().unwrap(), bytes("0e00000d 000c0009 f0000005 07000000"));
    assert_eq!(
        error.encode_with(Compat::Rsplib).unwrap(),
        bytes("0e000010 000c000c f0000005 07000000")
    );
    for hex in [
        "0e00000d 000c0009 f0000005 07000000",
        "0e000010 000c000c f0000005 07000000",
        "0e000010 000c0009 f0000005 07aaaaaa",
    ] {
        assert_eq!(asap::Message::decode(&bytes(hex)).unwrap().message, error, "{hex}");
    }
}

/// RFC 5354, section 4: the two top bits of an unknown parameter's type.
#[test]
fn unknown_parameters_are_treated_by_their_action_bits() {
    let resolution = |unknown: &str| {
        bytes(&format!("05000018 00090004 {unknown} 0008 11223344 803f0008 00000002"))
    };
    let decode = |message: &[u8]| match asap::Message::decode(message) {
        Ok(decoded) => {
            let asap::Message::HandleResolution { items: Some(2), .. } = decoded.message else {
                panic!()
            };
            Ok(decoded.unrecognized.into_iter().map(Cause::into_owned).collect::<Vec<_>>())
        }
        Err(error) => Err(error),
    };
    assert_eq!(decode(&resolution("8abc")), Ok(vec![]));
    let skipped = decode(&resolution("cabc")).unwrap();
    assert_eq!(skipped, [Cause::unrecognized_parameter(&bytes("cabc0008 11223344"))]);
    let reply = asap::error_reply(&skipped).unwrap();
    assert_eq!(reply, bytes("0e000014 000c0010 0001000c cabc0008 11223344"));

    let silent = decode(&resolution("0abc")).unwrap_err();
    assert_eq!(silent.cause(), None);
    assert!(matches!(
        silent,
        DecodeError::UnknownParameter { parameter: ParameterType(0x0abc), .. }
    ));
    let reported = decode(&resolution("4abc")).unwrap_err();
    assert_eq!(reported.cause(), Some(&Cause::unrecognized_parameter(&bytes("4abc0008 11223344"))));
    // A known parameter that others would skip is skipped where it means nothing.
    assert!(
        asap::Message::decode(&bytes("02000018 00090004 803f0008 00000002 000e0008 00000001"))
            .is_ok()
    );
    // The top bits are part of the type: this is not option 0x803f.
    assert!(matches!(
        asap::Message::decode(&bytes("05000010 00090004 003f0008 00000002")),
        Err(DecodeError::UnknownParameter { report: None, .. })
    ));
}

/// RFC 5354, section 3: of unknown messages only those with the bits 01 are reported.
#[test]
fn unknown_messages_are_treated_by_their_action_bits() {
    for (first, reported) in [("0f", false), ("4f", true), ("8f", false), ("cf", false)] {
        let message = bytes(&format!("{first}000006 01020000"));
        let whole = &message[..6];
        let cause = reported.then(|| Cause::unrecognized_message(whole));
        assert_eq!(asap::Message::decode(&message).unwrap_err().cause(), cause.as_ref());
        assert_eq!(enrp::Message::decode(&message).unwrap_err().cause(), cause.as_ref());
    }
    let huge = vec![0x4f; 0xffff];
    let cause = Cause::unrecognized_message(&huge);
    let reply = enrp::error_reply(ServerId(1), ServerId(2), std::slice::from_ref(&cause)).unwrap();
    assert!(enrp::Message::decode(&reply).is_ok());
    assert!(asap::error_reply(&[cause.clone(), cause]).is_some(), "what fits");
    assert_eq!(asap::error_reply(&[]), None);
}

/// G36: an ERROR never gives rise to another.
#[test]
fn errors_are_not_answered() {
    let skipped = bytes("0e000010 000c0008 00000004 cabc0004");
    assert_eq!(asap::Message::decode(&skipped).unwrap().unrecognized, []);
    let stopped = bytes("0e000010 000c0008 00000004 4abc0004");
    assert_eq!(asap::Message::decode(&stopped).unwrap_err().cause(), None);
    let enrp = bytes("0a000018 00000001 00000002 000c0008 00000004 4abc0004");
    assert_eq!(enrp::Message::decode(&enrp).unwrap_err().cause(), None);
}

/// Many unknown parameters in one message do not make a large answer.
#[test]
fn reports_are_bounded() {
    let mut message = bytes("0500ffff 00090007 73697000");
    message.extend(std::iter::repeat_n([0xff, 0xfe, 0x00, 0x04], 1000).flatten());
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    message[2..4].copy_from_slice(&length);
    assert_eq!(asap::Message::decode(&message).unwrap().unrecognized.len(), 16);
}

#[test]
fn malformed_messages_say_what_is_wrong() {
    let of = |hex: &str| asap::Message::decode(&bytes(hex)).unwrap_err().to_string();
    assert_eq!(of("01"), "ASAP message: needs 1 bytes, has 0");
    assert_eq!(of("01000003"), "ASAP message: length 3 is smaller than the header");
    assert_eq!(of("05000008 00090003"), "ASAP message: length 3 is smaller than the header");
    assert_eq!(of("05000004"), "ASAP message: pool handle is missing");
    assert_eq!(of("05000004 00000000"), "ASAP message: 4 bytes too many");
    assert_eq!(of("05000008 00090009"), "ASAP message: needs 5 bytes, has 0");
    assert_eq!(of("0500000c 00090004 00090004"), "ASAP message: unexpected pool handle");
    assert_eq!(of("0500000c 00090004 000d0004"), "ASAP message: unexpected cookie");
    assert_eq!(of("06000008 00090004"), "ASAP message: pool element is missing");
    let enrp = |hex: &str| enrp::Message::decode(&bytes(hex)).unwrap_err().to_string();
    assert_eq!(enrp("0100000a 00000001 0000"), "ENRP message: needs 4 bytes, has 2");
    assert_eq!(
        enrp("03000010 00000001 00000002 00090004"),
        "ENRP message: pool element is missing"
    );
    assert_eq!(enrp("02000010 00000001 00000002 00090004"), "ENRP message: unexpected pool handle");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let long = vec![0; 0xffff];
    assert!(matches!(
        asap::Message::Cookie(&long).encode(),
        Err(EncodeError::TooLong { length: 0x10003, .. })
    ));
    let cookie = asap::Message::Cookie(&long[..0xffff - 8]);
    assert_eq!(cookie.encode().unwrap().len(), 0x10000);
    assert_eq!(asap::Message::decode(&cookie.encode().unwrap()).unwrap().message, cookie);
    let elements = vec![element(); 2000];
    let card = asap::Message::BusinessCard { handle: SIP, elements };
    assert!(matches!(card.encode(), Err(EncodeError::TooLong { what: "ASAP message", .. })));
    let card = asap::Message::BusinessCard { handle: SIP, elements: vec![] };
    assert!(matches!(card.encode(), Err(EncodeError::Empty { .. })));
}

/// G26, G27: what rsplib's parser demands is missed here, not there.
#[test]
fn rsplib_gets_only_what_it_accepts() {
    let between = |body| enrp::Message { sender: ServerId(1), receiver: ServerId::NONE, body };
    let presence =
        between(enrp::Body::Presence { reply_required: false, checksum: Some(1), server: None });
    assert!(presence.encode().is_ok());
    assert!(matches!(
        presence.encode_with(Compat::Rsplib),
        Err(EncodeError::RsplibRequires { .. })
    ));
    let pools = vec![enrp::PoolEntry { handle: SIP, elements: vec![element()] }];
    let table = between(enrp::Body::HandleTableResponse { reject: false, more: false, pools });
    assert!(table.encode().is_ok());
    assert!(matches!(table.encode_with(Compat::Rsplib), Err(EncodeError::RsplibRequires { .. })));
}

#[test]
fn policies_decode_to_their_values_and_unknown_ones_survive() {
    let known = [
        (Policy::RoundRobin, "00080008 00000001"),
        (Policy::WeightedRoundRobin { weight: 3 }, "0008000c 00000002 00000003"),
        (Policy::Random, "00080008 00000003"),
        (Policy::WeightedRandom { weight: 3 }, "0008000c 00000004 00000003"),
        (Policy::Priority { priority: 9 }, "0008000c 00000005 00000009"),
        (Policy::LeastUsed { load: 7 }, "0008000c 40000001 00000007"),
        (
            Policy::LeastUsedDegradation { load: 7, degradation: 1 },
            "00080010 40000002 00000007 00000001",
        ),
        (
            Policy::PriorityLeastUsed { load: 7, degradation: 1 },
            "00080010 40000003 00000007 00000001",
        ),
        (Policy::RandomizedLeastUsed { load: 7 }, "0008000c 40000004 00000007"),
        (
            Policy::Other {
                number: dialtone_wire::PolicyType(0xb000_2001),
                data: vec![1, 2, 3, 4, 5].into(),
            },
            "0008000d b0002001 01020304 05",
        ),
    ];
    for (policy, hex) in known {
        let cause = Cause::inconsistent_policy(&policy).unwrap();
        assert_eq!(cause.info, bytes(hex));
        assert_eq!(cause.policy(), Some(policy));
    }
    let short = Cause {
        code: CauseCode::INCONSISTENT_POLICY,
        info: bytes("0008000a 00000002 0000").into(),
    };
    assert_eq!(short.policy(), None);
}

#[test]
fn a_stream_is_cut_by_message_length_rounded_up() {
    let stream = bytes("0700000f 00000001 00090007 73697000 05000008 00090004 0500");
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for byte in stream {
        framer.push(&[byte]);
        while let Some(frame) = framer.next_message().unwrap() {
            frames.push(frame.len());
        }
    }
    assert_eq!((frames, framer.pending()), (vec![16, 8], 2));
    framer.push(&[0, 3]);
    assert!(framer.next_message().is_err());
}
