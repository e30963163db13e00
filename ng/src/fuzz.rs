//! Body of a fuzz target as a plain function: corpora replay in ordinary tests. It panics on a violated property.

use crate::bencode::{Encoder, Value};
use crate::message::{Reply, Request};

/// Any bytes as the body of a datagram: what is decoded is written again as the same bytes, what a request was taken
/// for is what it says when it is sent on.
pub fn body(bytes: &[u8]) {
    if let Ok(value) = Value::decode(bytes) {
        let mut encoder = Encoder::new(Vec::new());
        value.encode(&mut encoder);
        assert_eq!(encoder.into_bytes(), bytes);
    }
    let _ = Reply::decode(bytes);
    if let Ok(request) = Request::decode(bytes) {
        let sent = request.encode(b"c");
        let again = Request::decode(&sent[2..]).expect("what was encoded decodes");
        assert_eq!(again.encode(b"c"), sent);
    }
}
