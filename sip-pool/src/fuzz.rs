//! Body of a fuzz target as a plain function: corpora replay in ordinary tests. It panics on a violated property.

use std::sync::LazyLock;

use crate::leg::LegId;
use crate::token::{DialogCookie, FlowToken};
use crate::uri::pool_of_host;
use dialtone_keys::{Generation, Keys, Purpose};

static KEYS: LazyLock<Keys> =
    LazyLock::new(|| Keys::new(&Generation { id: 1, secret: [7; 32] }, None));
static OTHERS: LazyLock<Keys> =
    LazyLock::new(|| Keys::new(&Generation { id: 1, secret: [8; 32] }, None));

/// Any bytes as something signed, and as what somebody who has the keys would have signed: nothing panics, what is
/// accepted is what its owner would have written, and only with the right keys.
pub fn signed(bytes: &[u8]) {
    let _ = LegId::from_branch(&KEYS, bytes);
    let _ = FlowToken::verify(&KEYS, bytes);
    let _ = DialogCookie::verify(&KEYS, bytes, "call", ["a", "b"]);
    let _ = pool_of_host(bytes);
    let token = KEYS.sign(Purpose::FlowToken, bytes);
    assert!(FlowToken::verify(&OTHERS, token.as_bytes()).is_err());
    assert!(KEYS.verify(Purpose::SessionCookie, token.as_bytes()).is_err(), "for another purpose");
    if let Ok(flow) = FlowToken::verify(&KEYS, token.as_bytes()) {
        assert_eq!(flow.sign(&KEYS), token, "one text for one flow");
    }
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let [call_id, caller] = [head, tail].map(String::from_utf8_lossy);
    let cookie = KEYS.sign_bound(Purpose::DialogCookie, bytes, &[]);
    assert!(DialogCookie::verify(&KEYS, cookie.as_bytes(), &call_id, [&caller, ""]).is_err());
    let mut fields = [0; 10];
    let length = bytes.len().min(10);
    fields[..length].copy_from_slice(&bytes[..length]);
    let [a, b, c, d, e, f, g, h, i, j] = fields;
    let cookie = DialogCookie {
        preferred: u32::from_be_bytes([a, b, c, d]),
        relay: u32::from_be_bytes([e, f, g, h]),
        flags: u16::from_be_bytes([i, j]),
    };
    let text = cookie.sign(&KEYS, &call_id, &caller);
    let read =
        DialogCookie::verify_caller(&KEYS, text.as_bytes(), &call_id, ["somebody else", &caller]);
    assert_eq!(read.ok().map(|(cookie, _)| cookie), Some(cookie));
    let leg = LegId(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let branch = leg.branch(&KEYS, i.into());
    assert_eq!(LegId::from_branch(&KEYS, branch.as_bytes()), Some((leg, i.into())));
    assert_eq!(LegId::from_branch(&OTHERS, branch.as_bytes()), None);
}
