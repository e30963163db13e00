//! The element's side of sessions (RFC 5352 sections 3.8 and 3.9), without IO.
//!
//! ```text
//! association up ──► OPENED ── COOKIE_ECHO, first and genuine ──► RESUMED ──┐
//!    (card sent)        │                                                   │
//!                       └──────────── data ─────────► SERVING ◄─────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::Handle;
use dialtone_pool_user::View;
use dialtone_transport::model::{AssocId, DownCause, Remote};
use dialtone_transport::{SessionCommand, SessionEvent};
use dialtone_wire::asap::Message;
use serde::de::DeserializeOwned;

use crate::card::{Card, Own};
use crate::control;
use crate::cookie::{Cookies, Refusal};

/// New cards after a change of the pool are sent no more often than this.
const CARD_INTERVAL: Duration = Duration::from_secs(1);

/// What the application wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send data.
    Send { session: AssocId, ppid: u32, payload: Vec<u8>, unordered: bool },
    /// Have the user keep this cookie; it replaces the one before.
    Cookie { session: AssocId, cookie: Vec<u8> },
    /// End the session after what was sent. The user goes to another element.
    Close { session: AssocId },
    /// The application takes no messages of this session at present, or takes them again.
    Hold { session: AssocId, on: bool },
}

/// What the application learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<S> {
    /// A user has come.
    Opened { session: AssocId, remote: Remote },
    /// It comes from another element, which had given it this state. Always before the first data.
    Resumed { session: AssocId, state: S },
    /// It showed a cookie that is not good; the session goes on without.
    Refused { session: AssocId, refusal: Refusal },
    /// The user is an element, too: of this pool, followed by these when it fails.
    Met { session: AssocId, card: Card },
    /// A message on the data channel.
    Received { session: AssocId, ppid: u32, payload: Vec<u8> },
    /// The user has gone.
    Closed { session: AssocId, cause: DownCause },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<S> {
    Net(SessionCommand),
    /// A card named this pool.
    Meet(Handle),
    Event(Event<S>),
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    pub sessions: u64,
    pub resumed: u64,
    pub refused_malformed: u64,
    pub refused_forged: u64,
    pub refused_expired: u64,
    pub refused_foreign_pool: u64,
    pub refused_undecodable: u64,
    pub refused_late: u64,
    pub cards: u64,
    /// Control messages that are no cookie echo and no card.
    pub unexpected: u64,
}

impl Counters {
    /// Cookies that were refused, whatever was wrong with them.
    pub fn refused(&self) -> u64 {
        self.refused_malformed
            + self.refused_forged
            + self.refused_expired
            + self.refused_foreign_pool
            + self.refused_undecodable
            + self.refused_late
    }

    fn refuse(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Malformed => &mut self.refused_malformed,
            Refusal::Forged => &mut self.refused_forged,
            Refusal::Expired => &mut self.refused_expired,
            Refusal::ForeignPool => &mut self.refused_foreign_pool,
            Refusal::Undecodable => &mut self.refused_undecodable,
            Refusal::Late => &mut self.refused_late,
        };
        *counter += 1;
    }
}

#[derive(Debug)]
struct Peer {
    remote: Remote,
    /// Nothing has come yet that a cookie would have had to precede.
    is_new: bool,
}

/// All sessions of one element with its users. `S`: the state in its cookies.
#[derive(Debug)]
pub struct Element<S> {
    own: Own,
    cookies: Cookies<S>,
    view: Option<Arc<View>>,
    peers: BTreeMap<AssocId, Peer>,
    /// When the users are told of a change of the pool, and when they were told last.
    cards_due: Option<Instant>,
    cards_sent: Option<Instant>,
    closing: bool,
    counters: Counters,
    outputs: VecDeque<Output<S>>,
}

impl<S: DeserializeOwned> Element<S> {
    pub fn new(own: Own, cookies: Cookies<S>) -> Self {
        Self {
            own,
            cookies,
            view: None,
            peers: BTreeMap::new(),
            cards_due: None,
            cards_sent: None,
            closing: false,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Output<S>> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.cards_due
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn handle_command(&mut self, command: Command) {
        let (session, command) = match command {
            Command::Send { session, ppid, payload, unordered } => {
                let assoc = session;
                let data = SessionCommand::Data { assoc, ppid, payload, unordered, number: None };
                (session, Some(data))
            }
            Command::Cookie { session, cookie } => {
                (session, control::send(session, &Message::Cookie(&cookie)))
            }
            Command::Close { session } => {
                (session, Some(SessionCommand::Shutdown { assoc: session }))
            }
            Command::Hold { session, on: true } => {
                (session, Some(SessionCommand::Hold { assoc: session }))
            }
            Command::Hold { session, on: false } => {
                (session, Some(SessionCommand::Release { assoc: session }))
            }
        };
        if self.peers.contains_key(&session) {
            self.outputs.extend(command.map(Output::Net));
        }
    }

    /// No user has a session.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Ends all sessions in order, and those that come now as soon as they come.
    pub fn close_all(&mut self) {
        self.closing = true;
        let commands = self.peers.keys().map(|assoc| SessionCommand::Shutdown { assoc: *assoc });
        self.outputs.extend(commands.map(Output::Net));
    }

    /// The element's own pool, as its registrar describes it now: what stands on cards.
    pub fn handle_view(&mut self, now: Instant, view: Arc<View>) {
        if view.handle != self.own.handle {
            return;
        }
        let changed = self.view.as_ref().is_none_or(|former| former.order != view.order);
        self.view = Some(view);
        if changed && !self.peers.is_empty() && self.cards_due.is_none() {
            let earliest = self.cards_sent.map_or(now, |sent| sent + CARD_INTERVAL);
            self.cards_due = Some(earliest.max(now));
        }
    }

    /// `unix`: seconds since 1970, by which cookies expire.
    pub fn handle_net(&mut self, unix: u64, event: SessionEvent) {
        match event {
            SessionEvent::Up { assoc, .. } if self.closing => {
                self.outputs.push_back(Output::Net(SessionCommand::Shutdown { assoc }));
            }
            SessionEvent::Up { assoc, remote } => {
                self.counters.sessions += 1;
                self.peers.insert(assoc, Peer { remote, is_new: true });
                // RFC 5352 section 3.9: always, when communication begins.
                self.send_card(assoc);
                self.outputs.push_back(Output::Event(Event::Opened { session: assoc, remote }));
            }
            SessionEvent::Control { assoc, payload } => self.control(unix, assoc, &payload),
            SessionEvent::Data { assoc, ppid, payload } => {
                let Some(peer) = self.peers.get_mut(&assoc) else { return };
                peer.is_new = false;
                let event = Event::Received { session: assoc, ppid, payload };
                self.outputs.push_back(Output::Event(event));
            }
            SessionEvent::Delivered { .. } => (),
            // Nobody listens at the user's port any more.
            SessionEvent::Suspect { assoc } => {
                if self.peers.contains_key(&assoc) {
                    self.outputs.push_back(Output::Net(SessionCommand::Abort { assoc }));
                    self.down(assoc, DownCause::Unreachable);
                }
            }
            SessionEvent::Down { assoc, cause } => self.down(assoc, cause),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.cards_due.is_some_and(|due| due <= now) {
            self.cards_due = None;
            self.cards_sent = Some(now);
            let peers: Vec<AssocId> = self.peers.keys().copied().collect();
            for assoc in peers {
                self.send_card(assoc);
            }
        }
    }

    fn send_card(&mut self, assoc: AssocId) {
        let Some(peer) = self.peers.get(&assoc) else { return };
        let user = format!("{}", peer.remote.addr);
        if let Some(payload) = self.own.card(self.view.as_deref(), user.as_bytes()) {
            self.outputs.push_back(Output::Net(SessionCommand::Control { assoc, payload }));
        }
    }

    fn control(&mut self, unix: u64, assoc: AssocId, payload: &[u8]) {
        let Some(peer) = self.peers.get_mut(&assoc) else { return };
        let outputs = &mut self.outputs;
        let message = control::receive(assoc, payload, |net| outputs.push_back(Output::Net(net)));
        let event = match &message {
            Some(Message::CookieEcho(cookie)) => {
                // RFC 5352 section 3.8: the first message on the control channel. One that comes after data would undo
                // what was done since.
                let opened =
                    if peer.is_new { self.cookies.open(unix, cookie) } else { Err(Refusal::Late) };
                peer.is_new = false;
                match opened {
                    Ok(state) => {
                        self.counters.resumed += 1;
                        Event::Resumed { session: assoc, state }
                    }
                    Err(refusal) => {
                        self.counters.refuse(refusal);
                        Event::Refused { session: assoc, refusal }
                    }
                }
            }
            other => {
                peer.is_new = false;
                let Some(card) = other.as_ref().and_then(Card::read) else {
                    self.counters.unexpected += 1;
                    return;
                };
                self.counters.cards += 1;
                if card.handle != self.own.handle {
                    self.outputs.push_back(Output::Meet(card.handle.clone()));
                }
                Event::Met { session: assoc, card }
            }
        };
        self.outputs.push_back(Output::Event(event));
    }

    fn down(&mut self, assoc: AssocId, cause: DownCause) {
        if self.peers.remove(&assoc).is_some() {
            let event = Event::Closed { session: assoc, cause };
            self.outputs.push_back(Output::Event(event));
        }
    }
}

#[cfg(test)]
mod tests;
