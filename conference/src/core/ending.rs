//! How calls end: CANCEL, BYE from either side.

use std::time::Instant;

use dialtone_sip::Message;
use dialtone_sip::transaction::ServerId;

use crate::core::dialog::Dialog;
use crate::core::{
    Call, CallId, Ended, Focus, Hop, MAX_ENDED, MediaCommand, Output, REMEMBER, RoomId, Timer,
};

impl Focus {
    pub(super) fn cancel(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        cancels: Option<ServerId>,
    ) {
        let Some(cancelled) = cancels else {
            return self.refuse(now, server, request, source, 481);
        };
        self.refuse(now, server, request, source, 200);
        // Answered already: CANCEL has no effect (RFC 3261 section 9.2).
        let Some(id) = self.servers.get(&cancelled).copied() else { return };
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some((server, invite)) = session.and_then(|session| session.opening.take()) {
            self.refuse(now, server, &invite, source, 487);
            self.end_session(now, id);
        }
    }

    pub(super) fn bye(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        id: CallId,
    ) {
        self.refuse(now, server, request, source, 200);
        self.end_session(now, id);
    }

    /// Ends a call from our side.
    pub(super) fn hang_up(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let source = call.dialog.hop;
        let opening = call.session.as_mut().map(|session| session.opening.take());
        match opening {
            Some(Some((server, request))) => self.refuse(now, server, &request, source, 503),
            Some(None) => self.send_bye(now, id),
            None => {}
        }
        self.end_session(now, id);
        self.end_subscription(now, id, "deactivated");
    }

    /// Somebody is no participant any more; what he follows, he goes on following.
    fn end_session(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(session) = call.session.take() {
            for timer in [Timer::Answer(id), Timer::Expires(id), Timer::Refresh(id)] {
                self.timers.stop(timer);
            }
            self.participants -= 1;
            self.outputs.push_back(Output::Media(MediaCommand::Close { call: id }));
            self.left(now, session.room, id);
        }
        self.drop_if_unused(now, id);
    }

    fn left(&mut self, now: Instant, id: RoomId, call: CallId) {
        let Some(name) = self.room_names.get(&id).cloned() else { return };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        room.members.retain(|member| *member != call);
        if !room.members.is_empty() {
            return self.changed(now, id);
        }
        for follower in std::mem::take(&mut room.subscriptions) {
            self.end_subscription(now, follower, "noresource");
        }
        self.timers.stop(Timer::Notify(id));
        self.rooms.remove(&name);
        self.room_names.remove(&id);
    }

    /// Forgets a call that neither takes part nor follows; its tag is remembered for a while.
    pub(super) fn drop_if_unused(&mut self, now: Instant, id: CallId) {
        let is_unused = |call: &Call| call.session.is_none() && call.subscription.is_none();
        if !self.calls.get(&id).is_some_and(|call| is_unused(call)) {
            return;
        }
        if let Some(call) = self.calls.remove(&id) {
            let Dialog { local_tag, caller, .. } = call.dialog;
            self.ended.insert(id, Ended { tag: local_tag, caller });
            self.timers.set(Timer::Ended(id), now + REMEMBER);
            if self.ended.len() > MAX_ENDED {
                self.forget(id);
            }
        }
    }

    /// Forgets that a call has been here.
    pub(super) fn forget(&mut self, id: CallId) {
        self.timers.stop(Timer::Ended(id));
        if let Some(Ended { tag, caller }) = self.ended.remove(&id) {
            self.tags.remove(&tag);
            if self.callers.get(&caller) == Some(&id) {
                self.callers.remove(&caller);
            }
        }
    }
}
