//! Events and messages in words, for traces.

use dialtone_transport::NetEvent;
use dialtone_wire::{asap, enrp};

pub(crate) fn event(event: &NetEvent) -> String {
    match event {
        NetEvent::Message { assoc, payload } => format!("{assoc:?} {}", message(payload)),
        other => format!("{other:?}"),
    }
}

/// Types of ASAP end at 0x0f; ENRP counts from 1 as well, but its messages begin with two identifiers. Whatever
/// decodes is printed.
fn message(payload: &[u8]) -> String {
    if let Ok(decoded) = asap::Message::decode(payload) {
        return cut(format!("asap {:?}", decoded.message));
    }
    match enrp::Message::decode(payload) {
        Ok(decoded) => cut(format!(
            "enrp {} -> {} {:?}",
            decoded.message.sender, decoded.message.receiver, decoded.message.body
        )),
        Err(_) => format!("{} bytes", payload.len()),
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(400) {
        text.truncate(at);
        text.push('…');
    }
    text
}
