//! What the focus is told once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_sip::transaction::Timers;

use crate::mix::RoomSettings;

/// How one room differs from the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomOptions {
    /// Digits that callers must type.
    pub pin: Option<Box<str>>,
    /// Participants, if fewer than in other rooms are allowed.
    pub max_participants: Option<usize>,
    /// Whether what is said is written into a file.
    pub record: bool,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The TCP listener: stands in Via and Contact.
    pub address: SocketAddr,
    /// The UDP listener, if there is one.
    pub udp: Option<SocketAddr>,
    /// What stands in SDP instead of the local address of media sockets.
    pub media_address: Option<IpAddr>,
    /// The host of conference URIs.
    pub domain: Box<str>,
    /// What the user part of a conference URI begins with.
    pub prefix: Box<str>,
    /// Rooms at a time; a call to one more is answered 503.
    pub max_rooms: usize,
    /// Participants of all rooms together; one more is answered 503, so that the proxy can look elsewhere.
    pub max_participants: usize,
    /// Participants of one room; one more is answered 486.
    pub max_room: usize,
    /// Those who follow one room (RFC 4575); one more is answered 503.
    pub max_subscriptions: usize,
    /// Requests remembered at a time; more are answered 503 without being remembered.
    pub max_transactions: usize,
    /// How rooms differ.
    pub rooms: HashMap<Box<str>, RoomOptions>,
    /// Of rooms that are not among them.
    pub default_room: RoomOptions,
    /// Speak G.722 with those who can. It costs about three times what G.711 does.
    pub wideband: bool,
    /// How rooms sound; number and recording are those of each room.
    pub media: RoomSettings,
    /// RFC 4028: what we wish when the caller has none, and the least that we take.
    pub session_expires: Duration,
    pub min_session_expires: Duration,
    /// Between two notifications of the same room.
    pub notify_every: Duration,
    /// What 503 answers say in Retry-After, seconds.
    pub retry_after: u32,
    pub timers: Timers,
}

impl Settings {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            udp: None,
            media_address: None,
            domain: "localhost".into(),
            prefix: "conf-".into(),
            max_rooms: 1000,
            max_participants: 3000,
            max_room: 500,
            max_subscriptions: 100,
            max_transactions: 50_000,
            rooms: HashMap::new(),
            default_room: RoomOptions::default(),
            wideband: true,
            media: RoomSettings::default(),
            session_expires: Duration::from_secs(1800),
            min_session_expires: Duration::from_secs(90),
            notify_every: Duration::from_secs(1),
            retry_after: 5,
            timers: Timers::default(),
        }
    }

    pub(crate) fn options(&self, room: &str) -> &RoomOptions {
        self.rooms.get(room).unwrap_or(&self.default_room)
    }
}
