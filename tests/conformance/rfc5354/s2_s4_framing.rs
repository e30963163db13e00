//! Sections 2, 3 (beginning) and 4: lengths, padding, flags, message types.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;

/// What comes back, as it was on the wire.
fn raw(lab: &mut Lab, who: std::net::SocketAddr, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    lab.world.element(who).take();
    lab.say(who, bytes);
    lab.run(crate::world::ms(10));
    let received = lab.world.element(who).take();
    received.into_iter().filter(|bytes| bytes[0] != KEEP_ALIVE).collect()
}

/// A pool handle of five bytes, an element that ends with an Opaque Transport of five bytes: padding everywhere.
///
/// Proves P-001, P-002, P-007, P-008, P-009, P-035, P-036.
#[test]
fn what_is_sent_is_padded_with_zeros_that_do_not_count_at_the_end() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    // Registered with another order of parameters, so that the answer is not an echo: policy, then transport.
    let fixed = [word(7), word(0), word(600)].concat();
    let element = tlv(POOL_ELEMENT, &join(&[fixed, policy(ROUND_ROBIN, &[]), tlv(0x10, b"12345")]));
    let answers = raw(&mut lab, who, message(REGISTRATION, 0, &[handle("abcde"), element]));
    let registered = [
        0x03, 0, 0, 24, // Length: 4 + 12 (padded handle) + 8
        0, 0x09, 0, 9, b'a', b'b', b'c', b'd', b'e', 0, 0, 0, // Pool Handle
        0, 0x0e, 0, 8, 0, 0, 0, 7, // PE Identifier
    ];
    assert_eq!(answers, [registered]);

    let answers = raw(&mut lab, who, resolution("abcde", false));
    let bytes = &answers[0];
    // Message, Pool Handle, then the Pool Element with the padded transport inside.
    assert_eq!(bytes[4..16], registered[4..16]);
    let at = 16 + 16;
    assert_eq!(bytes[at..at + 12], [0, 0x10, 0, 9, b'1', b'2', b'3', b'4', b'5', 0, 0, 0]);
    let length = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    assert_eq!(length(2), bytes.len(), "nothing is padded at the end here");
    assert_eq!(length(18), bytes.len() - 16, "the outer length counts the padding between");

    // The last parameter is padded: a keep-alive for a handle of five bytes.
    lab.run(crate::world::ms(1500));
    let received = lab.world.element(who).take();
    let keep_alive = received.iter().find(|bytes| bytes[0] == KEEP_ALIVE).unwrap();
    let expected =
        [0x07, 0, 0, 17, 0, 0, 0, 1, 0, 0x09, 0, 9, b'a', b'b', b'c', b'd', b'e', 0, 0, 0];
    assert_eq!(*keep_alive, expected, "Length 17 of 20 bytes");
}

/// Proves P-010, P-037.
#[test]
fn what_stands_in_padding_does_not_matter_and_may_be_counted() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let element = Pe::new(7, who.ip());
    let mut register = registration("abcde", &element);
    // Behind the handle.
    register[13..16].copy_from_slice(&[1, 2, 3]);
    assert_eq!(lab.ask(who, register).flags, 0);
    for (length, padding) in [(13, [0, 0, 0]), (13, [1, 2, 3]), (16, [0, 0, 0]), (16, [1, 2, 3])] {
        // Of the message; G5: other implementations count it.
        let mut resolve = resolution("abcde", false);
        assert_eq!((resolve.len(), resolve[3]), (16, 13));
        resolve[3] = length;
        resolve[13..16].copy_from_slice(&padding);
        assert_eq!(lab.ask(who, resolve).elements(), [7], "{length} {padding:?}");
    }
}

/// Proves P-034.
#[test]
fn undefined_flags_are_ignored_and_never_sent() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let with = |mut bytes: Vec<u8>, flags: u8| {
        bytes[1] |= flags;
        bytes
    };
    let element = Pe::new(7, who.ip());
    assert_eq!(lab.ask(who, with(registration("echo", &element), 0xff)).flags, 0);
    assert_eq!(lab.ask(who, with(resolution("echo", false), 0xfe)).flags, 0, "S is not set");
    assert_eq!(lab.ask(who, with(resolution("echo", true), 0xfe)).flags, 1);
    let answers = lab.answers(who, with(deregistration("echo", 7), 0xff));
    let flags: Vec<(u8, u8)> = answers.iter().map(|answer| (answer.kind, answer.flags)).collect();
    // It had subscribed.
    assert_eq!(flags, [(DEREGISTRATION_RESPONSE, 0), (HANDLE_RESOLUTION_RESPONSE, 0)]);
}

/// Proves P-033.
#[test]
fn unknown_messages_are_discarded_and_reported_as_their_type_says() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    for (kind, reported) in
        [(0x0f, false), (0x3f, false), (0x40, true), (0x7f, true), (0x80, false), (0xff, false)]
    {
        let answers = lab.answers(who, message(kind, 0, &[handle("echo")]));
        assert_eq!(answers.len(), usize::from(reported), "{kind:#04x}");
        for report in answers {
            assert_eq!((report.kind, report.causes()), (ERROR, vec![0x2]));
        }
    }
}

/// Proves P-024.
#[test]
fn each_unknown_parameter_has_a_cause_of_its_own() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let unknown = [tlv(0xfff0, b"a"), tlv(0xfff1, b"bcdef"), tlv(0xbff0, b"not to be reported")];
    let parts = [&[handle("nobody")][..], &unknown].concat();
    let answers = lab.answers(who, message(HANDLE_RESOLUTION, 0, &parts));
    let kinds: Vec<u8> = answers.iter().map(|answer| answer.kind).collect();
    assert_eq!(kinds, [ERROR, HANDLE_RESOLUTION_RESPONSE]);
    let causes = answers[0].find(OPERATION_ERROR).unwrap().behind(0);
    let expected = unknown[..2].iter().map(|value| Tlv { kind: 0x1, value: value.clone() });
    assert_eq!(causes, expected.collect::<Vec<_>>());
}
