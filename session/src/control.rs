//! The control channel: ASAP messages between users and elements (RFC 5352 sections 3.8 and 5).

use dialtone_transport::SessionCommand;
use dialtone_transport::model::AssocId;
use dialtone_wire::asap::{Message, error_reply};

/// `None`: it cannot be encoded.
pub(crate) fn send(assoc: AssocId, message: &Message<'_>) -> Option<SessionCommand> {
    let payload = message.encode().ok()?;
    Some(SessionCommand::Control { assoc, payload })
}

/// Reads a message; `answer` takes what RFC 5354 section 4 wants to be reported. `None`: nothing is to be done.
pub(crate) fn receive(
    assoc: AssocId,
    payload: &[u8],
    mut answer: impl FnMut(SessionCommand),
) -> Option<Message<'_>> {
    let mut report = |causes: &[dialtone_wire::Cause<'_>]| {
        if let Some(payload) = error_reply(causes) {
            answer(SessionCommand::Control { assoc, payload });
        }
    };
    match Message::decode(payload) {
        Ok(decoded) => {
            report(&decoded.unrecognized);
            Some(decoded.message)
        }
        Err(error) => {
            tracing::debug!(%error, "control message discarded");
            if let Some(cause) = error.cause() {
                report(std::slice::from_ref(cause));
            }
            None
        }
    }
}
