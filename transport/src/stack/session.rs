//! Sessions in the stack: two channels on one association, told apart by the payload protocol identifier.

use std::sync::atomic::Ordering;
use std::time::Instant;

use dcsctp::api::{DcSctpSocket as _, LifecycleId, Message, PpId, SendError, SendOptions};

use super::{MAX_MESSAGE, SESSION_EVENTS, STREAM, Stack, ppid};
use crate::counters::add;
use crate::model::{AssocId, NetCommand, NetEvent, Protocol};
use crate::session::{SessionCommand, SessionEvent};

impl Stack {
    /// As [`Stack::handle_command`], for an association of a user with an element.
    pub(crate) fn handle_session_command(&mut self, now: Instant, command: SessionCommand) {
        match command {
            SessionCommand::Connect { assoc, remote } => {
                self.connect(now, assoc, Protocol::Asap, remote)
            }
            // RFC 5352 section 5: the control channel is what has the PPID of ASAP.
            SessionCommand::Control { assoc, payload } => {
                self.handle_command(now, NetCommand::Send { assoc, payload });
            }
            SessionCommand::Data { assoc: id, ppid: number, payload, .. }
                if number == ppid(Protocol::Asap)
                    || payload.is_empty()
                    || payload.len() > MAX_MESSAGE
                    || !self.is_open(id) =>
            {
                add(&self.counters.sends_dropped);
            }
            SessionCommand::Data { assoc: id, ppid, payload, unordered: false, number: None } => {
                if let Some(assoc) = self.assocs.get_mut(&id) {
                    assoc.outbox.push(Message::new(STREAM, PpId(ppid), payload));
                    self.dirty.insert(id);
                }
            }
            SessionCommand::Data { assoc: id, ppid, payload, unordered, number } => {
                // What was to be sent before is sent before.
                self.flush_one(now, id);
                let lifecycle_id = number.and_then(LifecycleId::new);
                let options = SendOptions { unordered, lifecycle_id, ..SendOptions::default() };
                let message = Message::new(STREAM, PpId(ppid), payload);
                let mut sent = Ok(());
                self.operate(now, id, |socket| sent = socket.send(message, &options));
                let full = matches!(sent, Err(SendError::ResourceExhaustion));
                self.account(now, id, 1, u64::from(sent.is_err()), full);
            }
            SessionCommand::Hold { assoc: id } | SessionCommand::Release { assoc: id } => {
                if let Some(assoc) = self.assocs.get_mut(&id) {
                    assoc.on_hold = matches!(command, SessionCommand::Hold { .. });
                    self.operate(now, id, |_| ());
                }
            }
            SessionCommand::Abort { assoc } => self.abort(now, assoc),
            SessionCommand::Shutdown { assoc } => {
                self.handle_command(now, NetCommand::Shutdown { assoc });
            }
        }
    }

    /// Counts what was sent; a peer whose buffer is full has ended its association.
    pub(super) fn account(
        &mut self,
        now: Instant,
        id: AssocId,
        count: u64,
        failed: u64,
        full: bool,
    ) {
        self.counters.messages_out.fetch_add(count - failed, Ordering::Relaxed);
        self.counters.sends_dropped.fetch_add(failed, Ordering::Relaxed);
        if full {
            self.drop_slow(now, id);
        }
    }

    fn is_open(&self, id: AssocId) -> bool {
        self.assocs.get(&id).is_some_and(|assoc| assoc.up && assoc.ending.is_none())
    }

    /// Delivers what had found no room.
    pub(crate) fn resume_sessions(&mut self, now: Instant) {
        while self.session_events.len() < SESSION_EVENTS
            && let Some(id) = self.held.pop_first()
        {
            self.operate(now, id, |_| ());
        }
    }

    pub(super) fn take_messages(&mut self, id: AssocId) {
        // DATA can overtake COOKIE ACK: it waits until the association was reported.
        let Some(assoc) = self.assocs.get_mut(&id).filter(|assoc| assoc.up && !assoc.on_hold)
        else {
            return;
        };
        while !id.is_session() || self.session_events.len() < SESSION_EVENTS {
            let Some(message) = assoc.socket.get_next_message() else { return };
            // RFC 5352 8.3, RFC 5353 5.4: the identifier must be right on a control channel.
            if message.ppid == PpId(ppid(assoc.protocol)) {
                add(&self.counters.messages_in);
                let payload = message.payload;
                if id.is_session() {
                    self.session_events.push_back(SessionEvent::Control { assoc: id, payload });
                } else {
                    self.events.push_back(NetEvent::Message { assoc: id, payload });
                }
            } else if id.is_session() {
                add(&self.counters.messages_in);
                let (PpId(ppid), payload) = (message.ppid, message.payload);
                self.session_events.push_back(SessionEvent::Data { assoc: id, ppid, payload });
            } else {
                add(&self.counters.wrong_ppid);
            }
        }
        self.held.insert(id);
    }

    pub(super) fn emit(&mut self, id: AssocId, event: NetEvent) {
        if id.is_session() {
            self.session_events.extend(crate::session::event(event));
        } else {
            self.events.push_back(event);
        }
    }

    pub(super) fn is_session_port(&self, port: u16) -> bool {
        self.config.sessions.is_some_and(|limits| limits.port == Some(port))
    }
}
