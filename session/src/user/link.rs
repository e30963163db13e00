//! One association of a session with one element.

use std::collections::{BTreeMap, VecDeque};

use dialtone_pool_user::Member;
use dialtone_transport::model::{AssocId, Remote};
use dialtone_transport::session::session_remote;
use dialtone_transport::{ENCAPSULATION_PORT, SessionCommand};
use dialtone_wire::{Transport, TransportUse};

use super::session::Outgoing;
use crate::options::SendOptions;

/// Bytes that SCTP is given beyond what the peer has acknowledged; less than an endpoint's send buffer.
const WINDOW: usize = 1 << 18;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) assoc: AssocId,
    pub(super) is_up: bool,
    /// RFC 5354 section 3.4: the element has a control channel.
    pub(super) control: bool,
    /// Our card was sent.
    pub(super) greeted: bool,
    pub(super) unsent: VecDeque<Outgoing>,
    /// What the peer's SCTP has not acknowledged, by the transport's number.
    sent: BTreeMap<u64, Outgoing>,
    sent_bytes: usize,
    /// Of all messages here.
    pub(super) bytes: usize,
}

impl Link {
    pub(super) fn new(assoc: AssocId, control: bool) -> Self {
        Self {
            assoc,
            is_up: false,
            control,
            greeted: false,
            unsent: VecDeque::new(),
            sent: BTreeMap::new(),
            sent_bytes: 0,
            bytes: 0,
        }
    }

    /// The peer's SCTP has not acknowledged everything.
    pub(super) fn owes(&self) -> bool {
        !self.sent.is_empty()
    }

    pub(super) fn messages(&self) -> usize {
        self.unsent.len() + self.sent.len()
    }

    pub(super) fn push(&mut self, message: Outgoing) {
        self.bytes += message.payload.len();
        self.unsent.push_back(message);
    }

    /// The next message for SCTP, under this number, if there is one and it has room.
    pub(super) fn next(&mut self, ppid: u32, number: u64) -> Option<SessionCommand> {
        if !self.is_up || self.sent_bytes >= WINDOW {
            return None;
        }
        let message = self.unsent.pop_front()?;
        self.sent_bytes += message.payload.len();
        let command = SessionCommand::Data {
            assoc: self.assoc,
            ppid,
            payload: message.payload.clone(),
            unordered: message.options.contains(SendOptions::UNORDERED),
            number: Some(number),
        };
        self.sent.insert(number, message);
        Some(command)
    }

    pub(super) fn delivered(&mut self, number: u64) {
        if let Some(message) = self.sent.remove(&number) {
            self.sent_bytes -= message.payload.len();
            self.bytes -= message.payload.len();
        }
    }

    pub(super) fn hold(&self, on: bool) -> SessionCommand {
        let assoc = self.assoc;
        if on { SessionCommand::Hold { assoc } } else { SessionCommand::Release { assoc } }
    }

    pub(super) fn end(&self) -> SessionCommand {
        let assoc = self.assoc;
        if self.is_up {
            SessionCommand::Shutdown { assoc }
        } else {
            SessionCommand::Abort { assoc }
        }
    }

    /// What is to go to another element, and what is to come back; both in order.
    pub(super) fn into_messages(self) -> (Vec<Outgoing>, Vec<Outgoing>) {
        let all = self.sent.into_values().chain(self.unsent);
        let again = |message: &Outgoing| {
            message.options.contains(SendOptions::FAILOVER)
                && !message.options.contains(SendOptions::TO_ALL)
        };
        let (mut again, back): (Vec<_>, Vec<_>) = all.partition(again);
        for message in &mut again {
            message.chosen = None;
        }
        (again, back)
    }
}

/// Where a session reaches an element, and whether it has a control channel; `None`: not over SCTP.
///
/// DEVIATION(G19): RFC 5355 section 2.16 wants data and control multiplexed on TCP, RFC 5354 section 3.5 has TCP for
/// data only. Nothing but SCTP carries sessions.
pub(super) fn remote(member: &Member) -> Option<(Remote, bool)> {
    let Transport::Sctp(transport) = &member.transport else { return None };
    let encaps_port = member.encaps_port.unwrap_or(ENCAPSULATION_PORT);
    let remote = session_remote(*transport.addrs.first()?, transport.port, encaps_port);
    Some((remote, transport.use_ == TransportUse::DATA_PLUS_CONTROL))
}
