//! Bodies of fuzz targets as plain functions: corpora replay in ordinary tests. They panic on a violated property.

use crate::{Compat, Framer, asap, enrp};

/// Any bytes: decoding never panics, and what decodes is stable under encoding and decoding again.
pub fn asap(bytes: &[u8]) {
    for compat in [Compat::Rfc, Compat::Rsplib] {
        let Ok(first) = asap::Message::decode_with(bytes, compat) else { continue };
        let Ok(encoded) = first.message.encode_with(compat) else { continue };
        let again = asap::Message::decode_with(&encoded, compat).expect("what was encoded decodes");
        assert_eq!(again.message.encode_with(compat).as_deref(), Ok(&encoded[..]));
        assert!(
            compat == Compat::Rsplib
                || again.message == first.message
                || strips_extension(&first.message)
        );
    }
}

/// As [`asap()`], for ENRP.
pub fn enrp(bytes: &[u8]) {
    for compat in [Compat::Rfc, Compat::Rsplib] {
        let Ok(first) = enrp::Message::decode_with(bytes, compat) else { continue };
        let Ok(encoded) = first.message.encode_with(compat) else { continue };
        let again = enrp::Message::decode_with(&encoded, compat).expect("what was encoded decodes");
        assert_eq!(again.message.encode_with(compat).as_deref(), Ok(&encoded[..]));
        assert!(compat == Compat::Rsplib || again.message == first.message);
    }
}

/// Any bytes: however they are cut, the framer hands out the same messages.
pub fn framer(bytes: &[u8]) {
    let frames = |chunk: usize| {
        let (mut framer, mut frames) = (Framer::default(), Vec::new());
        for piece in bytes.chunks(chunk.max(1)) {
            framer.push(piece);
            loop {
                match framer.next_message() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    assert_eq!(frames(bytes.len()), frames(7));
}

/// The PE identifier of a keep-alive is read from everybody, but written only for rsplib.
fn strips_extension(message: &asap::Message<'_>) -> bool {
    matches!(message, asap::Message::EndpointKeepAlive { pe_id: Some(_), .. })
}
