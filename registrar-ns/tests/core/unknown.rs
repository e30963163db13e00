//! What a registrar does not understand of another registrar's messages (RFC 5353 section 3.7, RFC 5354 sections 3 and 4).

use dialtone_transport::Link;
use dialtone_wire::asap;
use dialtone_wire::enrp::{Body, Message};
use dialtone_wire::{CauseCode, OperationError, ServerId};

use crate::element::Element;
use crate::world::{World, ms};

/// Sends bytes from a registrar 50 and returns what comes back, but for what would have come anyway.
fn answers(world: &mut World, payload: &[u8]) -> Vec<Vec<u8>> {
    let addr = Element::enrp_mailbox(50, 1).addr;
    world.element(addr).take();
    world.element(addr).say_bytes(payload.to_vec());
    world.drain(addr);
    world.run(ms(10));
    let received = world.element(addr).take();
    received.into_iter().filter(|payload| ![0x01, 0x02].contains(&payload[0])).collect()
}

fn start() -> World {
    let mut world = World::with_registrars(1);
    world.add_element(Element::enrp_mailbox(50, 1));
    world.run(ms(20));
    world
}

/// A message with this type and these parameters from registrar 50.
fn message(kind: u8, parameters: &[u8]) -> Vec<u8> {
    let length = 12 + u16::try_from(parameters.len()).unwrap();
    let mut bytes = vec![kind, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 50, 0, 0, 0, 0]);
    bytes.extend(parameters);
    bytes
}

fn error(payload: &[u8]) -> OperationError<'static> {
    match Message::decode(payload).unwrap().message {
        Message { sender: ServerId(1), body: Body::Error(error), .. } => error.into_owned(),
        other => panic!("{other:?}"),
    }
}

/// Unknown messages: dropped, and reported whole if their type asks for it.
/// Proves E-101, E-102, P-025, P-033.
#[test]
fn unknown_enrp_messages() {
    let mut world = start();
    for silent in [0x3f, 0xbf, 0xff] {
        assert!(answers(&mut world, &message(silent, &[])).is_empty(), "{silent:#x}");
    }
    let unknown = message(0x7f, &[1, 2, 3, 4]);
    let reports = answers(&mut world, &unknown);
    let causes = error(&reports[0]).causes;
    assert_eq!((reports.len(), causes.len()), (1, 1));
    assert_eq!(
        (causes[0].code, &causes[0].info[..]),
        (CauseCode::UNRECOGNIZED_MESSAGE, &unknown[..])
    );
    // Even an error that contains what asks to be reported is not answered by one.
    let mut echo = reports[0].clone();
    echo[4..12].copy_from_slice(&[0, 0, 0, 50, 0, 0, 0, 1]);
    assert!(answers(&mut world, &echo).is_empty());
    let worse = message(0x0a, &[0, 12, 0, 4, 0x7f, 0xff, 0, 4]);
    assert!(answers(&mut world, &worse).is_empty());
}

/// Unknown parameters: skipped or not, reported or not, each in a cause of its own with all of it.
/// Proves E-101, E-102, P-003, P-004, P-005, P-006, P-024.
#[test]
fn unknown_enrp_parameters() {
    let mut world = start();
    let parameter = |kind: u16| [kind.to_be_bytes(), [0, 7], [9, 9], [9, 0]].concat();
    let list = |kinds: &[u16]| {
        message(0x05, &kinds.iter().flat_map(|kind| parameter(*kind)).collect::<Vec<_>>())
    };
    let kinds = |answers: &[Vec<u8>]| answers.iter().map(|bytes| bytes[0]).collect::<Vec<_>>();
    // A list request is answered by 0x06; an error is 0x0a.
    assert_eq!(kinds(&answers(&mut world, &list(&[0x8abc]))), [0x06], "10: skipped");
    assert!(answers(&mut world, &list(&[0x0abc])).is_empty(), "00: discarded");
    let discarded = answers(&mut world, &list(&[0x4abc, 0x4abd]));
    assert_eq!(kinds(&discarded), [0x0a], "01: discarded and reported");
    let causes = error(&discarded[0]).causes;
    assert_eq!(causes.len(), 1, "what comes after it was not looked at");
    let skipped = answers(&mut world, &list(&[0xcabc, 0x8abc, 0xcabd]));
    assert_eq!(kinds(&skipped), [0x0a, 0x06], "11: skipped and reported");
    let causes = error(&skipped[0]).causes;
    let told: Vec<_> = causes.iter().map(|cause| (cause.code, cause.info.to_vec())).collect();
    // The last byte is padding.
    let expected = [0xcabc, 0xcabd]
        .map(|kind| (CauseCode::UNRECOGNIZED_PARAMETER, parameter(kind)[..7].to_vec()));
    assert_eq!(told, expected);
}

/// The same from elements and users: several unknown parameters are several causes of one error.
/// Proves, P-024.
#[test]
fn unknown_asap_parameters_are_reported_together() {
    let mut world = World::with_registrars(1);
    let user = Element::mailbox(9, 1, Link::Tcp);
    let addr = user.addr;
    world.add_element(user);
    world.run(ms(20));
    let mut bytes = vec![5, 0, 0, 20, 0, 9, 0, 5, b'x', 0, 0, 0];
    bytes.extend([0xca, 0xbc, 0, 4, 0xca, 0xbd, 0, 4]);
    world.element(addr).say_bytes(bytes);
    world.drain(addr);
    world.run(ms(10));
    let received = world.element(addr).take();
    let asap::Message::Error(error) = asap::Message::decode(&received[0]).unwrap().message else {
        panic!("{received:?}");
    };
    let infos: Vec<_> = error.causes.iter().map(|cause| &cause.info[..]).collect();
    assert_eq!(infos, [&[0xca, 0xbc, 0, 4][..], &[0xca, 0xbd, 0, 4]]);
    assert_eq!(received[1][0], 0x06, "and the question is answered");
}
