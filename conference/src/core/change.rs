//! What changes within calls: INVITE and UPDATE again, what the media threads notice.

use std::time::Instant;

use dialtone_sip::transaction::ServerId;
use dialtone_sip::{Message, Method};

use crate::core::invite::Refusal;
use crate::core::requests::describe;
use crate::core::{CallId, Focus, Hop};

impl Focus {
    /// INVITE or UPDATE within a call.
    pub(super) fn reinvite(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        id: CallId,
    ) {
        let is_invite = request.method() == Some(Method::Invite);
        let session = self.calls.get(&id).and_then(|call| call.session.as_ref());
        let Some(session) = session else {
            return self.refuse(now, server, request, source, 481);
        };
        // RFC 3261 section 14.2: while ours is under way, or an earlier one has not ended.
        if !session.is_confirmed() || session.refreshing && !session.allows_update {
            return self.refuse(now, server, request, source, 491);
        }
        let read =
            self.session_timer(request).and_then(|timer| Ok((timer, self.description(request)?)));
        let (timer, remote) = match read {
            Ok(read) => read,
            Err(Refusal::Code(code)) => return self.refuse(now, server, request, source, code),
            Err(Refusal::With(code, name, value)) => {
                return self.respond(now, server, request, source, code, |response| {
                    response.header(name, value)
                });
            }
        };
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.dialog.refresh_target(request);
        let Some(session) = &mut call.session else { return };
        session.timer = timer;
        let has_offer = remote.is_some();
        if let Some(remote) = remote {
            (session.remote, session.answered_us) = (Some(remote), false);
        }
        if let Some(local) = &mut session.local {
            local.version += 1;
        }
        let body = session.local.zip(session.remote.as_ref()).filter(|_| has_offer);
        let body = body.map(|(local, remote)| local.answer(remote));
        let room = session.room;
        self.start_session_timer(now, id);
        if has_offer {
            self.agree(id);
            self.changed(now, room);
        }
        if is_invite {
            return self.answer(now, id, server, request, source, true);
        }
        let Some(contact) = self.contact_of(id) else { return };
        self.respond(now, server, request, source, 200, |response| {
            let mut response = describe(response).header("Contact", contact);
            for (name, value) in timer.headers() {
                response = response.header(name, value);
            }
            match body {
                Some(body) => response.body("application/sdp", body.into_bytes()),
                None => response,
            }
        });
    }

    /// Is in the room now: it knew the number, or needed none.
    pub(super) fn entered(&mut self, now: Instant, id: CallId) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some(session) = session {
            session.is_inside = true;
            let room = session.room;
            self.changed(now, room);
        }
    }

    pub(super) fn muted(&mut self, now: Instant, id: CallId, muted: bool) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some(session) = session {
            session.muted = muted;
            let room = session.room;
            self.changed(now, room);
        }
    }
}
