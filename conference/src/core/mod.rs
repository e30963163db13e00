//! The focus of conferences, without IO.
//!
//! One [`Focus`] takes SIP messages and what the media threads tell; after every input [`Focus::poll`] is drained, and
//! [`Focus::next_deadline`] says when to call [`Focus::handle_timeout`].
//!
//! A *call* is a dialog with a participant, or with somebody who follows a conference (RFC 4575), or both. Whoever
//! calls `sip:conf-NAME@…` is in the room NAME; that all who call it come to the same server is the proxies' matter.
//! Rooms begin with their first participant and end with the last one.
//!
//! What came from the network is answered as the protocol says, or counted in [`Stats`] and dropped.

mod change;
mod dialog;
mod ending;
mod events;
mod expires;
mod hop;
mod invite;
mod outgoing;
mod requests;
pub mod session;
mod settings;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::transaction::{ClientId, Layer, Output as LayerOutput, ServerId};
use dialtone_sip::{Message, Method};

use dialog::Dialog;
use events::Subscription;
pub use hop::Hop;
use invite::Session;
use outgoing::Asked;
pub use settings::{RoomOptions, Settings};
use timers::Timers;

use crate::mix::{MemberSettings, RoomSettings};

/// Names a call for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names a room for the life of the process; one that ended and begins again has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId(pub u64);

/// What the media threads are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaCommand {
    /// Make sockets for a call of this room, and the room if it is not there; answered by [`MediaEvent::Opened`] or
    /// [`MediaEvent::Failed`].
    Open {
        call: CallId,
        room: RoomId,
        name: Box<str>,
        settings: Box<RoomSettings>,
    },
    /// What was agreed upon; the call is in the room from then on.
    Set {
        call: CallId,
        session: Box<MediaSession>,
    },
    Close {
        call: CallId,
    },
}

/// What was agreed upon with a participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSession {
    /// Where it wants RTP and RTCP, as it says itself; where packets come from counts more.
    pub rtp: Option<SocketAddr>,
    pub rtcp: Option<SocketAddr>,
    pub mux: bool,
    pub member: MemberSettings,
}

/// What the media threads tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// The address of the call's RTP socket; RTCP is at the port above.
    Opened {
        call: CallId,
        rtp: SocketAddr,
    },
    /// No ports, no descriptors, too many calls.
    Failed {
        call: CallId,
    },
    /// Is in the room now.
    Entered {
        call: CallId,
    },
    Muted {
        call: CallId,
        muted: bool,
    },
    /// Nothing was heard from it for too long.
    Lost {
        call: CallId,
    },
    /// Did not know the number of the room.
    Refused {
        call: CallId,
    },
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Media(MediaCommand),
    /// Send to where a request came from or is to go; [`Hop::Tcp`] is dialled if there is no connection.
    Send {
        to: Hop,
        bytes: Bytes,
    },
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls that were answered.
    pub calls: u64,
    /// Requests answered with 4xx to 6xx.
    pub refused: u64,
    /// Of these: calls for a room that is full, or a server that is.
    pub full: u64,
    /// Of these: calls without a codec that is known here.
    pub no_codec: u64,
    /// Calls ended because nothing was heard from them.
    pub lost: u64,
    /// Calls ended because nobody refreshed their session, or acknowledged its answer.
    pub expired: u64,
    /// Calls ended because the number of the room was not known.
    pub wrong_pin: u64,
    /// Messages dropped: malformed, or without a transaction.
    pub dropped: u64,
    /// Notifications sent.
    pub notified: u64,
}

/// One participant, for the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    pub call: CallId,
    pub uri: Box<str>,
    pub name: Box<str>,
    /// Not while the number of the room is wanted from it.
    pub is_inside: bool,
    pub on_hold: bool,
    pub muted: bool,
    pub joined: Instant,
}

/// One room, for the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    pub room: RoomId,
    pub name: Box<str>,
    pub began: Instant,
    pub participants: Vec<Participant>,
    pub subscriptions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    /// The answer to an INVITE is repeated until it is acknowledged.
    Answer(CallId),
    /// An answered call's tag is remembered until then.
    Ended(CallId),
    /// Nobody has refreshed the session.
    Expires(CallId),
    Notify(RoomId),
    Refresh(CallId),
    Subscription(CallId),
}

/// One dialog.
#[derive(Debug)]
struct Call {
    dialog: Dialog,
    session: Option<Session>,
    subscription: Option<Subscription>,
}

#[derive(Debug)]
struct Room {
    id: RoomId,
    began: Instant,
    /// Calls with sockets, in the order in which they came.
    members: Vec<CallId>,
    subscriptions: Vec<CallId>,
    /// Of the conference's state (RFC 4575 section 5.1).
    version: u32,
    notified: Option<Instant>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Focus {
    settings: Settings,
    rng: fastrand::Rng,
    /// Makes tags of answers without state unpredictable.
    secret: u64,
    layer: Layer<Hop>,
    calls: HashMap<CallId, Box<Call>>,
    /// By our tag. Of ended calls, it answers what comes late.
    tags: HashMap<Box<str>, CallId>,
    /// Calls by what makes two INVITEs the same, whatever way they came: Call-ID, tag and CSeq of the caller.
    callers: HashMap<Box<str>, CallId>,
    ended: HashMap<CallId, Ended>,
    /// By name, in the order of names.
    rooms: BTreeMap<Box<str>, Room>,
    room_names: HashMap<RoomId, Box<str>>,
    participants: usize,
    /// INVITEs that wait for their answer, and requests of ours.
    servers: HashMap<ServerId, CallId>,
    clients: HashMap<ClientId, Asked>,
    timers: Timers<Timer>,
    next: u64,
    /// Connections that others dialled, for requests that can go to any proxy.
    accepted: Vec<u64>,
    draining: bool,
    outputs: VecDeque<Output>,
    stats: Stats,
}

/// How long it is remembered that a call has ended, and of how many calls.
const REMEMBER: Duration = Duration::from_secs(32);
const MAX_ENDED: usize = 50_000;

/// By what a call that has ended is known.
#[derive(Debug)]
struct Ended {
    tag: Box<str>,
    caller: Box<str>,
}

impl Focus {
    pub fn new(settings: Settings, mut rng: fastrand::Rng) -> Self {
        Self {
            layer: Layer::new(settings.timers),
            secret: rng.u64(..),
            settings,
            rng,
            calls: HashMap::new(),
            tags: HashMap::new(),
            callers: HashMap::new(),
            ended: HashMap::new(),
            rooms: BTreeMap::new(),
            room_names: HashMap::new(),
            participants: 0,
            servers: HashMap::new(),
            clients: HashMap::new(),
            timers: Timers::new(),
            next: 1,
            accepted: Vec::new(),
            draining: false,
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Bytes of one message: a datagram, or a message cut out of a stream.
    pub fn handle_message(&mut self, now: Instant, source: Hop, bytes: Bytes) {
        match Message::parse(bytes) {
            Ok(message) => match message.check() {
                Ok(()) if self.is_overloaded(&message) => {
                    self.answer_without_state(&message, source, 503, "");
                }
                Ok(()) => {
                    if self.layer.handle_message(now, message, source).is_err() {
                        self.stats.dropped += 1;
                    }
                }
                Err(error) => {
                    let (code, reason) = error.status();
                    self.answer_without_state(&message, source, code, reason);
                }
            },
            Err(partial) => match &partial.message {
                Some(message) => {
                    let (code, reason) = partial.error.status();
                    self.answer_without_state(message, source, code, reason);
                }
                None => self.stats.dropped += 1,
            },
        }
        self.pump(now);
    }

    fn is_overloaded(&self, message: &Message) -> bool {
        message.is_request()
            && !matches!(message.method(), Some(Method::Ack | Method::Cancel))
            && self.layer.stats().servers >= self.settings.max_transactions
    }

    /// Somebody has connected.
    pub fn handle_connected(&mut self, connection: u64) {
        self.accepted.push(connection);
    }

    /// A connection ended, or could not be dialled.
    pub fn handle_closed(&mut self, now: Instant, hop: Hop) {
        if let Hop::Accepted(connection) = hop {
            self.accepted.retain(|other| *other != connection);
        }
        self.layer.handle_transport_error(now, hop);
        self.pump(now);
    }

    /// What the media threads tell.
    pub fn handle_media(&mut self, now: Instant, event: MediaEvent) {
        match event {
            MediaEvent::Opened { call, rtp } => self.opened(now, call, rtp),
            MediaEvent::Failed { call } => self.open_failed(now, call),
            MediaEvent::Entered { call } => self.entered(now, call),
            MediaEvent::Muted { call, muted } => self.muted(now, call, muted),
            MediaEvent::Lost { call } => {
                self.stats.lost += 1;
                self.hang_up(now, call);
            }
            MediaEvent::Refused { call } => {
                self.stats.wrong_pin += 1;
                self.hang_up(now, call);
            }
        }
        self.pump(now);
    }

    /// Ends everything: calls are hung up, new ones refused, followers told. [`Focus::is_empty`] says when that is done.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        let mut calls: Vec<CallId> = self.calls.keys().copied().collect();
        calls.sort_unstable();
        for call in calls {
            self.hang_up(now, call);
        }
        self.pump(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Focus::handle_timeout`].
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.timers.next(), self.layer.next_deadline()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.pump(now);
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Answer(call) => self.answer_again(now, call),
                Timer::Ended(call) => self.forget(call),
                Timer::Expires(call) => {
                    self.stats.expired += 1;
                    self.hang_up(now, call);
                }
                Timer::Notify(room) => self.notify_room(now, room),
                Timer::Refresh(call) => self.refresh(now, call),
                Timer::Subscription(call) => self.subscription_expired(now, call),
            }
            self.pump(now);
        }
    }

    /// Passes on what the transaction layer wants until it wants nothing more.
    fn pump(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll() {
            match output {
                LayerOutput::Send { to, bytes } => {
                    self.outputs.push_back(Output::Send { to, bytes })
                }
                LayerOutput::Request { id, request, source, cancels } => {
                    self.request(now, id, &request, source, cancels);
                }
                LayerOutput::Ack { request, .. } => self.acknowledged(now, &request),
                LayerOutput::Response { id, response } => self.response(now, id, &response),
                LayerOutput::StrayResponse { response, .. } => self.stray_response(now, &response),
                LayerOutput::ClientTimeout { id } => self.unanswered(now, id),
                LayerOutput::ClientTerminated { id } => _ = self.clients.remove(&id),
                LayerOutput::ServerTerminated { id } => _ = self.servers.remove(&id),
                LayerOutput::ServerTimeout { .. } => {}
            }
        }
    }

    fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether nobody is here, and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.clients.is_empty()
    }

    /// Participants of all rooms.
    pub const fn participants(&self) -> usize {
        self.participants
    }

    pub fn rooms_count(&self) -> usize {
        self.rooms.len()
    }

    /// How full this server is, from 0 to 1: the share that is taken of its participants, or of its rooms, whichever is
    /// nearer to its end. One that can begin no room must not be proposed for new names.
    pub fn load(&self) -> f64 {
        if self.draining {
            return 1.0;
        }
        let share = |taken: usize, of: usize| (taken as f64 / of.max(1) as f64).min(1.0);
        share(self.participants, self.settings.max_participants)
            .max(share(self.rooms.len(), self.settings.max_rooms))
    }

    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Calls, remembered tags, transactions and timers, to see that nothing is left behind.
    pub fn sizes(&self) -> [usize; 6] {
        let layer = self.layer.stats();
        [
            self.calls.len(),
            self.tags.len() + self.callers.len(),
            self.rooms.len(),
            layer.servers + layer.clients,
            self.servers.len() + self.clients.len(),
            self.timers.len(),
        ]
    }

    /// All rooms with everybody in them.
    pub fn rooms(&self) -> impl Iterator<Item = RoomInfo> {
        self.rooms.iter().map(|(name, room)| RoomInfo {
            room: room.id,
            name: name.clone(),
            began: room.began,
            participants: self.participants_of(room).collect(),
            subscriptions: room.subscriptions.len(),
        })
    }

    fn participants_of(&self, room: &Room) -> impl Iterator<Item = Participant> {
        room.members.iter().filter_map(|call| {
            let session = self.calls.get(call)?.session.as_ref()?;
            Some(Participant {
                call: *call,
                uri: session.uri.clone(),
                name: session.name.clone(),
                is_inside: session.is_inside,
                on_hold: session.on_hold(),
                muted: session.muted,
                joined: session.joined,
            })
        })
    }
}
