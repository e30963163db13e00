//! Bodies of fuzz targets as plain functions: corpora replay in ordinary tests. They panic on a violated property.

use bytes::Bytes;

use crate::digest::{Algorithm, Authorization, Challenge, Hash};
use crate::sdp::{Sdp, SdpEdit};
use crate::{
    Contact, Frame, Message, NameAddr, ResponseBuilder, SipUri, StreamFramer, Uri, Via, ack_for,
    cancel_for, stun_response,
};

mod edits;

/// Any bytes as a message: whatever reads it does not panic, what it says of places in the message is right, and
/// edits that its last bytes choose change what they are to change, and no other byte.
pub fn message(bytes: &[u8]) {
    let (message, whole) = match Message::parse(Bytes::copy_from_slice(bytes)) {
        Ok(message) => (message, true),
        Err(partial) => match partial.message {
            Some(message) => (*message, false),
            None => return,
        },
    };
    let _ = message.check();
    let _ = (
        message.method(),
        message.request_uri(),
        message.expires(),
        message.max_forwards(),
        message.reason(),
    );
    for header in message.headers() {
        let _ = (header.name_str(), header.text(), header.raw().len());
        for value in message.values(header.name).flatten() {
            assert_eq!(message.span_of(value.text), Some(value.span));
        }
    }
    for via in message.vias().flatten() {
        let _ = (via.branch(), via.rport(), via.received(), via.port_or_default());
    }
    for contact in message.contacts().flatten() {
        if let Contact::Addr(addr) = contact {
            let _ = (addr.q(), addr.expires(), addr.uri.equivalent(&addr.uri));
            let _ = addr.uri.sip().map(SipUri::address_of_record);
        }
    }
    let source = ([203, 0, 113, 9], 31_000).into();
    let _ = ResponseBuilder::new(&message, 400).source(source).to_tag("t").build();
    let _ = (cancel_for(&message), ack_for(&message, &message));
    let _ = edits::drawn(&message, whole, bytes);
}

/// Any bytes as a stream: however it is torn, the same frames come out.
pub fn stream(bytes: &[u8]) {
    for new in [StreamFramer::accepting, StreamFramer::dialled] {
        let frames = |step: usize| {
            let (mut framer, mut frames) = (new(600), Vec::<Frame>::new());
            for piece in bytes.chunks(step.max(1)) {
                framer.push(piece);
                loop {
                    match framer.next_frame() {
                        Ok(Some(frame)) => frames.push(frame),
                        Ok(None) => break,
                        Err(_) => return (frames, true),
                    }
                }
            }
            (frames, false)
        };
        assert_eq!(frames(bytes.len()), frames(1));
        assert_eq!(frames(bytes.len()), frames(7));
    }
}

/// Any text as a value of a header, of a URI, and as STUN.
pub fn value(bytes: &[u8]) {
    let _ = stun_response(bytes, ([203, 0, 113, 9], 31_000).into());
    let text = String::from_utf8_lossy(bytes);
    if let Ok(uri) = Uri::parse(&text) {
        assert!(uri.equivalent(&uri));
        if let Some(sip) = uri.sip() {
            let _ = (sip.address_of_record(), sip.user_unescaped(), sip.port_or_default());
        }
    }
    let _ = (NameAddr::parse(&text).is_ok(), Via::parse(&text).is_ok());
}

/// Any text as a challenge and as an answer to one; what answers a challenge is accepted, and by nobody else's
/// password.
pub fn digest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let of = |algorithm, realm: &str, password| Hash::of_user(algorithm, "alice", realm, password);
    let _ = Authorization::realm_of(&text);
    if let Ok(answer) = Authorization::parse(&text) {
        assert!(!answer.verify(&of(answer.algorithm(), &answer.realm, "never"), "REGISTER"));
    }
    let Ok(challenge) = Challenge::parse(&text) else { return };
    let answer = challenge.answer("alice", "secret", "REGISTER", "sip:example.com", 1, "c0ffee");
    // A nonce is repeated as it came, quotes and all.
    let Ok(answer) = Authorization::parse(&answer) else { return };
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let ha1 = |password| of(algorithm, &challenge.realm, password);
        assert_eq!(
            answer.verify(&ha1("secret"), "REGISTER"),
            algorithm == challenge.algorithm && answer.nonce == challenge.nonce,
        );
        assert!(!answer.verify(&ha1("Secret"), "REGISTER"));
        assert!(!answer.verify(&ha1("secret"), "INVITE"));
    }
}

/// Any bytes as a session description: what reads it does not panic, an edit of nothing changes nothing, and what is
/// set reads back.
pub fn sdp(bytes: &[u8]) {
    let Ok(sdp) = Sdp::parse(bytes) else { return };
    assert_eq!(SdpEdit::new(&sdp).finish(), bytes);
    let address = [192, 0, 2, 1].into();
    let mut edit = SdpEdit::new(&sdp);
    edit.set_origin_address(address);
    for media in sdp.medias() {
        let _ = (sdp.connection_of(media), sdp.direction_of(media), media.media_line());
        for attribute in media.attributes() {
            let _ = (attribute.is_ice(), attribute.rtcp(), attribute.rtpmap());
        }
        edit.set_connection(media, address).set_port(media, 4_000);
    }
    let edited = edit.finish();
    let Ok(again) = Sdp::parse(&edited) else { panic!("an edited description is one") };
    assert_eq!(again.medias().count(), sdp.medias().count());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole messages of the corpus have every operation of the edit list, all of them changing something.
    #[test]
    fn the_corpus_draws_every_operation() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/sip_message");
        let mut drawn = std::collections::BTreeMap::<edits::Operation, usize>::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let Ok(message) = Message::parse(Bytes::copy_from_slice(&bytes)) else { continue };
            for operation in edits::drawn(&message, true, &bytes) {
                *drawn.entry(operation).or_default() += 1;
            }
        }
        println!("table: {drawn:?}");
        let missing = edits::Operation::ALL.iter().find(|operation| !drawn.contains_key(operation));
        assert_eq!(missing, None);
    }
}
