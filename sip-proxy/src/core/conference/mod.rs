//! Conferences: whoever calls `sip:conf-NAME@domain` comes to the element of the pool `conference` that NAME belongs to.
//!
//! - A name belongs to whoever *claims* it in the location store. An INVITE to a name that nobody has claims it for the
//!   element that rendezvous hashing prefers. One that finds the owner out of the pool, or dead while it is being sent
//!   there, moves the claim by compare-and-swap to the next element in the order of that name: see [`rooms`].
//! - So all proxies send a name to the same element, and what runs stays where it is when elements come or go. Nothing is
//!   decided without the store: when it does not answer, rooms that were seen lately are found in memory ([`Known`]),
//!   and requests for all others are answered 503.
//! - Elements are watched hops as gateways are. They need to know no pools: towards them this proxy record-routes by its
//!   own address (RFC 5658), for which any other proxy can stand in.
//!
//! Names are the unescaped user part without the prefix. They are case-sensitive, as user parts are (RFC 3261 section
//! 19.1.4), and no longer than [`MAX_NAME`] bytes.

mod known;
mod rooms;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::rendezvous;
use dialtone_pool_user::View;
use dialtone_sip::SipUri;
use dialtone_sip_pool::hops::{self, ConnId, Hops, Member};
use dialtone_wire::Policy;

use crate::core::{Output, Proxy};
use known::{Budget, Known, Used};
pub(super) use rooms::Room;

/// Longest name of a room, bytes; the conference server has the same limit.
const MAX_NAME: usize = 128;
/// Of the connections to elements.
const PREFIX: u8 = 2;
/// Silence of an element with requests that means failure. Others cannot take over what it mixes, so it is given more
/// time than a proxy; a call finds the next element within a second all the same.
const SILENCE: Duration = Duration::from_millis(500);
/// Elements that have left the pool and whose addresses are remembered.
const DEPARTED: usize = 64;
/// An element with this part of its load is proposed for new rooms only if all are as full.
const FULL: u32 = u32::MAX / 100 * 95;

/// How conferences are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Handle of the pool; names in the store begin with it.
    pub pool: Box<str>,
    /// What the user part of a conference URI begins with.
    pub prefix: Box<str>,
    /// Whether participants get the ports of media relays, if other calls do.
    pub relayed: bool,
    /// How long a claim is kept that no INVITE renews; an hour later it is forgotten.
    pub lease: Duration,
    /// Names that this proxy claims at once, and so many more in the time of a lease; the last tenth only if they are in
    /// use.
    pub max_rooms: usize,
    /// How long the database may take to claim a name or move it.
    pub claim_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool: crate::CONFERENCES.into(),
            prefix: "conf-".into(),
            relayed: true,
            lease: Duration::from_secs(86_400),
            max_rooms: 20_000,
            claim_timeout: Duration::from_secs(2),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests for rooms, outside of dialogs.
    pub requests: u64,
    /// Names claimed, moved to another element, and kept for another while.
    pub claimed: u64,
    pub moved: u64,
    pub renewed: u64,
    /// Requests that went where memory said, because the database did not answer in time.
    pub remembered: u64,
    /// Requests refused: no element, no answer of the database, too many new names.
    pub no_element: u64,
    pub no_store: u64,
    pub too_many: u64,
    /// Requests whose element failed while they were there.
    pub failed: u64,
}

/// The pool of the conference servers, and what is known of their rooms.
#[derive(Debug)]
pub(super) struct Conference {
    settings: Settings,
    pub(super) hops: Hops,
    view: Arc<View>,
    /// Where elements listened that have left the pool; the one that left last is the last.
    departed: VecDeque<(SocketAddr, u32)>,
    known: Known,
    used: Used,
    budget: Budget,
    stats: Stats,
}

impl Conference {
    pub(super) fn new(now: Instant, settings: Settings, rng: fastrand::Rng) -> Self {
        let pool = crate::CONFERENCES.parse().map(View::unknown);
        let times = hops::Settings { silence: SILENCE, ..hops::Settings::default() };
        Self {
            hops: Hops::new(times, PREFIX, rng),
            // Neither empty nor too long, which is all that handles are checked for.
            view: Arc::new(pool.expect("a constant handle")),
            departed: VecDeque::new(),
            known: Known::default(),
            used: Used::default(),
            budget: Budget::new(now, settings.max_rooms, settings.lease),
            stats: Stats::default(),
            settings,
        }
    }

    /// Whether a connection leads to an element.
    pub(super) fn has(conn: ConnId) -> bool {
        conn.prefix() == PREFIX
    }

    /// The name of the room that a URI of our domain means; `Err` has a status code.
    pub(super) fn name_of(&self, uri: &SipUri<'_>) -> Option<Result<Box<str>, u16>> {
        let user = uri.user_unescaped()?;
        let name = user.strip_prefix(&*self.settings.prefix)?;
        if name.len() > MAX_NAME {
            return Some(Err(414));
        }
        let sound = !name.is_empty() && !name.chars().any(|c| c.is_control() || c.is_whitespace());
        Some(if sound { Ok(name.into()) } else { Err(404) })
    }

    /// The element that a target with a numeric host means; `Err`: one that has left the pool for good.
    pub(super) fn at(&self, uri: &SipUri<'_>) -> Option<Result<u32, u32>> {
        let address = SocketAddr::new(uri.host.ip()?, uri.port_or_default());
        if uri.secure || uri.transport().is_some_and(|other| !other.eq_ignore_ascii_case("tcp")) {
            return None;
        }
        let member = self.view.members.iter().find(|member| member.addr() == Some(address));
        if let Some(member) = member {
            return Some(Ok(member.pe_id.0));
        }
        let (_, element) = *self.departed.iter().find(|(other, _)| *other == address)?;
        Some(if self.hops.is_reachable(element) { Ok(element) } else { Err(element) })
    }

    /// Whether the room of this element can be joined there.
    fn is_usable(&self, element: u32) -> bool {
        self.hops.is_usable(element)
    }

    /// Who shall have a room: the first of its order who can be reached and has not failed for this request.
    fn propose(&self, name: &str, tried: &[u32]) -> Option<u32> {
        let members = self.view.members.iter().map(|member| member.pe_id);
        let order = rendezvous::order(name.as_bytes(), members);
        let mut usable = order
            .into_iter()
            .filter(|element| self.is_usable(element.0) && !tried.contains(&element.0));
        let is_full = |element: &dialtone_wire::PeId| {
            let policy = self.view.member(*element).map(|member| &member.policy);
            matches!(policy, Some(Policy::LeastUsed { load }) if *load >= FULL)
        };
        let first = usable.next()?;
        let better = if is_full(&first) { usable.find(|other| !is_full(other)) } else { None };
        Some(better.unwrap_or(first).0)
    }

    fn update(&mut self, now: Instant, view: Arc<View>) {
        for member in self.view.members.iter() {
            if view.member(member.pe_id).is_none() {
                self.known.forget_owner(member.pe_id.0);
                self.departed.extend(member.addr().map(|address| (address, member.pe_id.0)));
            }
        }
        self.departed
            .retain(|(address, _)| !view.members.iter().any(|one| one.addr() == Some(*address)));
        let excess = self.departed.len().saturating_sub(DEPARTED);
        self.departed.drain(..excess);
        let members: Vec<Member> = view
            .members
            .iter()
            .filter_map(|member| Some(Member { element: member.pe_id.0, address: member.addr()? }))
            .collect();
        self.hops.set_members(now, &members);
        self.view = view;
    }
}

impl Proxy {
    /// The membership of the pool of the conference servers.
    pub fn set_conferences(&mut self, now: Instant, view: Arc<View>) {
        if let Some(conference) = &mut self.conference {
            conference.update(now, view);
        }
        self.pump(now);
    }

    /// What became of requests for rooms; nothing if there are none.
    pub fn conference_stats(&self) -> Stats {
        self.conference.as_ref().map(|conference| conference.stats).unwrap_or_default()
    }

    /// Whether participants get the ports of relays, if other calls do.
    pub(super) fn relays_rooms(&self) -> bool {
        self.conference.as_ref().is_none_or(|conference| conference.settings.relayed)
    }

    /// The connections that lead to the same pool as this one.
    pub(super) fn hops_of(&mut self, conn: ConnId) -> &mut Hops {
        match &mut self.conference {
            Some(conference) if Conference::has(conn) => &mut conference.hops,
            _ => &mut self.hops,
        }
    }

    pub(super) fn conference_output(&mut self, now: Instant, output: hops::Output) {
        match output {
            hops::Output::Close { conn } => self.outputs.push_back(Output::Close { conn }),
            hops::Output::Dial { conn, address } => {
                self.outputs.push_back(Output::Dial { conn, address });
            }
            hops::Output::Failed { request, .. } => {
                self.flow_failed(now, dialtone_sip::transaction::ClientId(request.0));
            }
            hops::Output::Suspect { element, .. } => {
                if let Some(conference) = &mut self.conference {
                    conference.known.forget_owner(element);
                }
                self.outputs.push_back(Output::ReportConference { element });
            }
            hops::Output::Usable { element } => {
                self.outputs.push_back(Output::TrustConference { element });
            }
            hops::Output::Write { conn, data } => {
                self.outputs.push_back(Output::Write { conn, bytes: data });
            }
        }
    }
}
