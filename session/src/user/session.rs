//! One session.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use dialtone_handlespace::Handle;
use dialtone_wire::PeId;

use super::link::Link;
use crate::options::SendOptions;

/// Where a session stands, as an observer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No element was found in time; the next message starts over.
    Idle,
    Resolving,
    Connecting {
        element: PeId,
    },
    Established {
        element: PeId,
    },
    /// As resolving or connecting, after `from` was lost.
    FailingOver {
        from: PeId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Resolving,
    Connecting(PeId),
    Established(PeId),
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// The application's.
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
    pub(super) options: SendOptions,
    /// The policy chose this element for it.
    pub(super) chosen: Option<PeId>,
}

impl Outgoing {
    pub(super) fn new(number: u64, payload: Vec<u8>, options: SendOptions) -> Self {
        Self { number, payload, options, chosen: None }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) handle: Handle,
    pub(super) phase: Phase,
    /// The element that failed, until there is another one.
    pub(super) lost: Option<PeId>,
    /// There has been an element.
    pub(super) connected: bool,
    pub(super) links: BTreeMap<PeId, Link>,
    /// The latest that the session's element sent.
    pub(super) cookie: Option<Vec<u8>>,
    /// The order of the latest card.
    pub(super) preferred: Vec<PeId>,
    /// Elements that failed in this search.
    pub(super) tried: Vec<PeId>,
    /// What no element has been given yet, or has to be given to another one.
    pub(super) queue: VecDeque<Outgoing>,
    /// When the search has taken too long.
    pub(super) limit: Option<Instant>,
    pub(super) retry: Option<Instant>,
    pub(super) on_hold: bool,
    pub(super) armed: Option<Instant>,
}

impl Session {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            phase: Phase::Idle,
            lost: None,
            connected: false,
            links: BTreeMap::new(),
            cookie: None,
            preferred: Vec::new(),
            tried: Vec::new(),
            queue: VecDeque::new(),
            limit: None,
            retry: None,
            on_hold: false,
            armed: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match (self.phase, self.lost) {
            (Phase::Idle, _) => State::Idle,
            (Phase::Established(element), _) => State::Established { element },
            (Phase::Resolving | Phase::Connecting(_), Some(from)) => State::FailingOver { from },
            (Phase::Resolving, None) => State::Resolving,
            (Phase::Connecting(element), None) => State::Connecting { element },
        }
    }

    /// Messages that are kept.
    pub(super) fn messages(&self) -> usize {
        self.queue.len() + self.links.values().map(Link::messages).sum::<usize>()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        let queued: usize = self.queue.iter().map(|message| message.payload.len()).sum();
        queued + self.links.values().map(|link| link.bytes).sum::<usize>()
    }

    pub(super) fn push(&mut self, element: PeId, message: Outgoing) {
        if let Some(link) = self.links.get_mut(&element) {
            link.push(message);
        }
    }

    pub(super) fn delivered(&mut self, element: PeId, number: u64) {
        if let Some(link) = self.links.get_mut(&element) {
            link.delivered(number);
        }
    }

    /// Takes out what was to go to this element, selected first, and to no other; the rest may choose again. What waits for
    /// the session's first element, or goes where the one before goes, was to go there without a choice of its own.
    pub(super) fn refuse_failover(&mut self, element: PeId) -> Vec<Outgoing> {
        let (mut refused, mut kept) = (Vec::new(), VecDeque::new());
        for mut message in self.queue.drain(..) {
            let was_selected = message.chosen == Some(element)
                || !self.connected
                || message.options.contains(SendOptions::TO_LAST);
            if was_selected && message.options.contains(SendOptions::NO_FAILOVER) {
                refused.push(message);
            } else {
                if message.chosen == Some(element) {
                    message.chosen = None;
                }
                kept.push_back(message);
            }
        }
        self.queue = kept;
        refused
    }
}
