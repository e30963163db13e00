//! Persistent connections to the elements of one pool, and the evidence that one of them has failed.
//!
//! A core without IO. The caller says who is in the pool ([`Hops::set_members`]), sends requests ([`Hops::send_any`],
//! [`Hops::send_to`]), reports answers ([`Hops::provisional`], [`Hops::finished`]) and what its driver sees on the
//! connections; it drains [`Hops::poll`]. Every member has a warm connection, so that a reset is seen at once.
//!
//! Fail-over is triggered by the hop, never by a missing final answer:
//! - a connection is reset: its requests have failed at once;
//! - a request has no answer for 50 ms and nothing else has come: a CRLF CRLF ping (RFC 5626 section 4.4.1) goes out, and
//!   when not a single byte comes within 200 ms the connection has failed;
//! - the same watch, a little slower, runs while a request waits for its final answer, and slowest on an idle connection.
//!
//! A failed element is *suspect*: it gets no new requests until a byte has come over a new connection.
//! One instance serves one pool; the upper 8 bits of its connection ids are its prefix.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// RFC 5626 section 4.4.1: the ping; the pong is a single CRLF.
pub const PING: &[u8] = b"\r\n\r\n";

/// A connection of the core network, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Set in the ids of connections that peers opened; the driver numbers those, [`Hops`] numbers the others.
pub const ACCEPTED: u64 = 1 << 63;

impl ConnId {
    /// Whether a peer opened this connection.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        self.0 & ACCEPTED != 0
    }

    /// The prefix given to [`Hops::new`] by the instance that dialled this connection.
    #[must_use]
    pub fn prefix(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// Names a request towards [`Hops`]; chosen by the caller, not used twice at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An element of the pool and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Element identifier.
    pub element: u32,
    /// Address of its core listener.
    pub address: SocketAddr,
}

/// Why a request or an element has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The element registered with another address.
    Moved,
    /// The connection was reset or closed.
    Reset,
    /// Nothing came, not even an answer to the ping.
    Silent,
    /// No connection could be made.
    Unreachable,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close the connection; nothing more about it is expected.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Open a connection; answered by [`Hops::connected`] or [`Hops::closed`].
    Dial {
        /// Its id from now on.
        conn: ConnId,
        /// Where to.
        address: SocketAddr,
    },
    /// The request has no answer and will get none from this element: send it to another one.
    Failed {
        /// The request.
        request: RequestId,
        /// The element that had it.
        element: u32,
        /// Why.
        cause: Cause,
    },
    /// The element has failed: to be reported to the registrar (ENDPOINT_UNREACHABLE). Once for each failure, and only
    /// if something was to be sent to it.
    Suspect {
        /// The element.
        element: u32,
        /// Why.
        cause: Cause,
    },
    /// The element can be used; requests that wait for one may be tried again.
    Usable {
        /// The element.
        element: u32,
    },
    /// Write these bytes.
    Write {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        data: Bytes,
    },
}

/// No element is there that could take the request: none known, all suspect, or their queues full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no element of the pool can be used")]
pub struct NoElement;

/// Times and limits. The defaults are those of the design.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A request unanswered for so long triggers a ping: 50 ms.
    pub unanswered: Duration,
    /// While a final answer is awaited, so much silence triggers a ping: 100 ms.
    pub pending: Duration,
    /// On a connection without requests, so much silence triggers a ping: 1 s.
    pub idle: Duration,
    /// Silence after a ping that means failure: 200 ms; as long as `idle` while there are no requests.
    pub silence: Duration,
    /// A connection that is not made within this time has failed: 300 ms.
    pub dial: Duration,
    /// First and longest pause between dials: 50 ms and 1 s.
    pub backoff: (Duration, Duration),
    /// How long the connection to an element that left the pool stays, while it drains: 40 s.
    pub linger: Duration,
    /// A timer that fires later than this says that our own process stood still: nothing is concluded from it. 100 ms.
    pub lateness: Duration,
    /// Messages queued while one connection is being made: 1,000.
    pub queue: usize,
    /// Requests without a final answer on one connection: 50,000.
    pub outstanding: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unanswered: Duration::from_millis(50),
            pending: Duration::from_millis(100),
            idle: Duration::from_secs(1),
            silence: Duration::from_millis(200),
            dial: Duration::from_millis(300),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            linger: Duration::from_secs(40),
            lateness: Duration::from_millis(100),
            queue: 1_000,
            outstanding: 50_000,
        }
    }
}

impl Settings {
    /// For a pool whose elements cannot stand in for each other, such as gateways that hold phones' connections. Giving
    /// one up early helps nobody and fails all its requests, so it may be silent for a second, as a process is that gets
    /// no time on a busy machine. A reset still shows at once.
    #[must_use]
    pub fn irreplaceable() -> Self {
        Self { silence: Duration::from_secs(1), ..Self::default() }
    }
}

#[derive(Debug)]
enum Link {
    Dialling { conn: ConnId, until: Instant, queue: Vec<Bytes> },
    Down { redial_at: Option<Instant> },
    Up { conn: ConnId, heard_at: Instant, pinged_at: Option<Instant> },
}

#[derive(Debug)]
struct Outstanding {
    sent_at: Instant,
    answered: bool,
    /// What a request that only this element can take looked like, until it has been sent twice.
    again: Option<Bytes>,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    link: Link,
    suspect: bool,
    /// Whether anything was ever to be sent to it, be it a ping.
    used: bool,
    /// Whether [`Output::Suspect`] said it.
    reported: bool,
    /// When the element left the pool and its connection will be closed.
    left: Option<Instant>,
    failures: u32,
    /// Since when there has been at least one request.
    busy_since: Instant,
    requests: BTreeMap<RequestId, Outstanding>,
    unanswered: BTreeSet<(Instant, RequestId)>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Hops {
    settings: Settings,
    rng: fastrand::Rng,
    peers: BTreeMap<u32, Peer>,
    elements: BTreeMap<ConnId, u32>,
    requests: BTreeMap<RequestId, u32>,
    next_conn: u64,
    outputs: VecDeque<Output>,
}

impl Hops {
    /// An instance without members. `prefix` (below 0x80) keeps its connection ids apart from other instances'.
    #[must_use]
    pub fn new(settings: Settings, prefix: u8, rng: fastrand::Rng) -> Self {
        Self {
            settings,
            rng,
            peers: BTreeMap::new(),
            elements: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_conn: u64::from(prefix & 0x7f) << 56,
            outputs: VecDeque::new(),
        }
    }

    /// The complete membership of the pool. New members are dialled; those that left keep their connection for a while,
    /// because an element that stops leaves the pool first and finishes what it has.
    pub fn set_members(&mut self, now: Instant, members: &[Member]) {
        for member in members {
            match self.peers.get_mut(&member.element) {
                Some(peer) if peer.address == member.address => {
                    let was_away = peer.left.take().is_some();
                    if matches!(peer.link, Link::Down { redial_at: None }) {
                        self.dial(now, member.element);
                    } else if was_away && !peer.suspect && matches!(peer.link, Link::Up { .. }) {
                        self.outputs.push_back(Output::Usable { element: member.element });
                    }
                }
                known => {
                    if known.is_some() {
                        self.fail(now, member.element, Cause::Moved, None);
                        self.peers.remove(&member.element);
                    }
                    let peer = Peer {
                        address: member.address,
                        link: Link::Down { redial_at: None },
                        suspect: false,
                        used: false,
                        reported: false,
                        left: None,
                        failures: 0,
                        busy_since: now,
                        requests: BTreeMap::new(),
                        unanswered: BTreeSet::new(),
                    };
                    self.peers.insert(member.element, peer);
                    self.dial(now, member.element);
                }
            }
        }
        let linger = self.settings.linger;
        self.peers.retain(|element, peer| {
            if members.iter().any(|member| member.element == *element) {
                return true;
            }
            peer.left.get_or_insert(now + linger);
            !matches!(peer.link, Link::Down { .. })
        });
    }

    /// Whether this element is in the pool, usable or not.
    #[must_use]
    pub fn is_member(&self, element: u32) -> bool {
        self.peers.get(&element).is_some_and(|peer| peer.left.is_none())
    }

    /// Whether new requests may go to this element.
    #[must_use]
    pub fn is_usable(&self, element: u32) -> bool {
        self.peers.get(&element).is_some_and(|peer| {
            !peer.suspect
                && peer.left.is_none()
                && matches!(peer.link, Link::Up { .. } | Link::Dialling { .. })
        })
    }

    /// Whether new requests may go to this element and would be written at once.
    #[must_use]
    pub fn is_connected(&self, element: u32) -> bool {
        self.is_usable(element)
            && self.peers.get(&element).is_some_and(|peer| matches!(peer.link, Link::Up { .. }))
    }

    /// Whether something can be sent to this element, which may have left the pool and be finishing what it has.
    #[must_use]
    pub fn is_reachable(&self, element: u32) -> bool {
        self.peers
            .get(&element)
            .is_some_and(|peer| !peer.suspect && !matches!(peer.link, Link::Down { .. }))
    }

    /// Whether there is a connection to every member that is not suspect.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.peers
            .values()
            .all(|peer| peer.suspect || peer.left.is_some() || matches!(peer.link, Link::Up { .. }))
    }

    /// The element at the other end of a connection that this instance dialled.
    #[must_use]
    pub fn element_of(&self, conn: ConnId) -> Option<u32> {
        self.elements.get(&conn).copied()
    }

    /// How many requests wait for a final answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.requests.len()
    }

    /// Sends a request to the first usable element in `order` and says which; a connected one is preferred to one that
    /// is being dialled.
    ///
    /// # Errors
    /// [`NoElement`]; the request is then forgotten.
    pub fn send_any(
        &mut self,
        now: Instant,
        order: &[u32],
        request: RequestId,
        data: Bytes,
    ) -> Result<u32, NoElement> {
        let ready = |up: bool| {
            order.iter().copied().find(|element| {
                self.is_usable(*element)
                    && matches!(self.peers[element].link, Link::Up { .. }) == up
                    && self.has_room(*element)
            })
        };
        let element = ready(true).or_else(|| ready(false)).ok_or(NoElement)?;
        self.transmit(now, element, request, data, false);
        Ok(element)
    }

    /// Sends a request that only this element can take. When the connection is lost the request is sent once more over
    /// a new one, then it has failed.
    ///
    /// # Errors
    /// [`NoElement`] when the element is unknown, does not answer or has no room.
    pub fn send_to(
        &mut self,
        now: Instant,
        element: u32,
        request: RequestId,
        data: Bytes,
    ) -> Result<(), NoElement> {
        self.reach(now, element)?;
        self.transmit(now, element, request, data, true);
        Ok(())
    }

    /// Sends a message that has no answer (ACK) to this element.
    ///
    /// # Errors
    /// As [`Hops::send_to`].
    pub fn send_only(&mut self, now: Instant, element: u32, data: Bytes) -> Result<(), NoElement> {
        self.reach(now, element)?;
        self.write(element, data);
        Ok(())
    }

    /// A provisional answer to the request has come.
    pub fn provisional(&mut self, request: RequestId) {
        let Some(peer) =
            self.requests.get(&request).and_then(|element| self.peers.get_mut(element))
        else {
            return;
        };
        if let Some(outstanding) = peer.requests.get_mut(&request) {
            outstanding.answered = true;
            peer.unanswered.remove(&(outstanding.sent_at, request));
        }
    }

    /// The request has its final answer, or nobody waits for one any more.
    pub fn finished(&mut self, request: RequestId) {
        let Some(element) = self.requests.remove(&request) else { return };
        let Some(peer) = self.peers.get_mut(&element) else { return };
        if let Some(outstanding) = peer.requests.remove(&request) {
            peer.unanswered.remove(&(outstanding.sent_at, request));
        }
    }

    /// The driver made the connection.
    pub fn connected(&mut self, now: Instant, conn: ConnId) {
        let Some((element, peer)) = self.peer_of(conn) else { return };
        let Link::Dialling { queue, .. } = std::mem::replace(
            &mut peer.link,
            Link::Up { conn, heard_at: now, pinged_at: Some(now) },
        ) else {
            return;
        };
        // A stopped process still lets its kernel accept connections: only an answer shows that somebody is there.
        let usable = !peer.suspect && peer.left.is_none();
        peer.used = true;
        self.outputs.push_back(Output::Write { conn, data: Bytes::from_static(PING) });
        self.outputs.extend(queue.into_iter().map(|data| Output::Write { conn, data }));
        if usable {
            self.outputs.push_back(Output::Usable { element });
        }
    }

    /// Bytes came over the connection, whatever they were.
    pub fn received(&mut self, now: Instant, conn: ConnId) {
        let Some((element, peer)) = self.peer_of(conn) else { return };
        if let Link::Up { heard_at, pinged_at, .. } = &mut peer.link {
            *heard_at = now;
            *pinged_at = None;
        }
        peer.failures = 0;
        peer.reported = false;
        if std::mem::take(&mut peer.suspect) && peer.left.is_none() {
            self.outputs.push_back(Output::Usable { element });
        }
    }

    /// The connection was reset or closed, or could not be made.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        let Some((element, peer)) = self.peer_of(conn) else { return };
        let cause = if matches!(peer.link, Link::Dialling { .. }) {
            Cause::Unreachable
        } else {
            Cause::Reset
        };
        self.elements.remove(&conn);
        self.lose(now, element, cause);
    }

    /// This process stood still for so long that others have given it up: all connections are made anew, and requests on
    /// them have failed, also those that only one element can take. Nothing is concluded about the elements.
    pub fn stood_still(&mut self, now: Instant) {
        let elements: Vec<u32> = self.peers.keys().copied().collect();
        for element in elements {
            self.fail(now, element, Cause::Silent, None);
            if self.peers.get(&element).is_some_and(|peer| peer.left.is_some()) {
                self.peers.remove(&element);
            } else {
                self.dial(now, element);
            }
        }
    }

    /// Next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Hops::handle_timeout`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| self.deadline(peer)).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<(u32, Instant)> = self
            .peers
            .iter()
            .filter_map(|(element, peer)| Some((*element, self.deadline(peer)?)))
            .filter(|(_, deadline)| *deadline <= now)
            .collect();
        for (element, deadline) in due {
            let late = now.saturating_duration_since(deadline) > self.settings.lateness;
            self.expire(now, element, late);
        }
    }

    fn expire(&mut self, now: Instant, element: u32, late: bool) {
        let Some(peer) = self.peers.get_mut(&element) else { return };
        if peer.left.is_some_and(|left| left <= now) {
            self.fail(now, element, Cause::Moved, None);
            self.peers.remove(&element);
            return;
        }
        match &mut peer.link {
            Link::Dialling { until, .. } if late => *until = now + self.settings.dial,
            Link::Dialling { .. } => self.lose(now, element, Cause::Unreachable),
            Link::Down { .. } => self.dial(now, element),
            Link::Up { pinged_at: Some(pinged_at), .. } if late => *pinged_at = now,
            Link::Up { conn, pinged_at: Some(pinged_at), .. }
                if peer.suspect && peer.requests.is_empty() =>
            {
                // Still silent: the element stays out of use, and answers when it lives again.
                *pinged_at = now;
                self.outputs
                    .push_back(Output::Write { conn: *conn, data: Bytes::from_static(PING) });
            }
            Link::Up { pinged_at: Some(_), .. } => self.lose(now, element, Cause::Silent),
            Link::Up { conn, pinged_at, .. } => {
                *pinged_at = Some(now);
                self.outputs
                    .push_back(Output::Write { conn: *conn, data: Bytes::from_static(PING) });
            }
        }
    }

    fn deadline(&self, peer: &Peer) -> Option<Instant> {
        let settings = &self.settings;
        let link = match &peer.link {
            Link::Dialling { until, .. } => Some(*until),
            Link::Down { redial_at } => *redial_at,
            // Nothing is lost by patience while nobody waits: a process that is short of time answers late.
            Link::Up { pinged_at: Some(pinged_at), .. } if peer.requests.is_empty() => {
                Some(*pinged_at + settings.idle)
            }
            Link::Up { pinged_at: Some(pinged_at), .. } => {
                Some(*pinged_at.max(&peer.busy_since) + settings.silence)
            }
            Link::Up { heard_at, .. } => {
                let mut due = *heard_at + settings.idle;
                if !peer.requests.is_empty() {
                    due = due.min(peer.busy_since.max(*heard_at) + settings.pending);
                }
                if let Some((sent_at, _)) = peer.unanswered.first() {
                    due = due.min(*sent_at.max(heard_at) + settings.unanswered);
                }
                Some(due)
            }
        };
        [link, peer.left].into_iter().flatten().min()
    }

    fn has_room(&self, element: u32) -> bool {
        self.peers.get(&element).is_some_and(|peer| {
            let queued =
                if let Link::Dialling { queue, .. } = &peer.link { queue.len() } else { 0 };
            queued < self.settings.queue && peer.requests.len() < self.settings.outstanding
        })
    }

    /// Makes sure that something can be written to this element, if only into the queue of a new connection.
    fn reach(&mut self, now: Instant, element: u32) -> Result<(), NoElement> {
        let peer = self.peers.get(&element).ok_or(NoElement)?;
        match peer.link {
            Link::Up { .. } if peer.suspect => return Err(NoElement),
            Link::Down { .. } if peer.suspect && peer.failures > 1 => return Err(NoElement),
            Link::Down { .. } => self.dial(now, element),
            Link::Dialling { .. } | Link::Up { .. } => {}
        }
        if self.has_room(element) { Ok(()) } else { Err(NoElement) }
    }

    fn transmit(
        &mut self,
        now: Instant,
        element: u32,
        request: RequestId,
        data: Bytes,
        only_here: bool,
    ) {
        let Some(peer) = self.peers.get_mut(&element) else { return };
        let again = only_here.then(|| data.clone());
        if peer.requests.is_empty() {
            peer.busy_since = now;
        }
        peer.requests.insert(request, Outstanding { sent_at: now, answered: false, again });
        peer.unanswered.insert((now, request));
        self.requests.insert(request, element);
        self.write(element, data);
    }

    fn write(&mut self, element: u32, data: Bytes) {
        let Some(peer) = self.peers.get_mut(&element) else { return };
        peer.used = true;
        match &mut peer.link {
            Link::Dialling { queue, .. } => queue.push(data),
            // Nobody is there to write to; requests hear of it, other messages are lost as on any network.
            Link::Down { .. } => {}
            Link::Up { conn, .. } => self.outputs.push_back(Output::Write { conn: *conn, data }),
        }
    }

    fn dial(&mut self, now: Instant, element: u32) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let Some(peer) = self.peers.get_mut(&element) else { return };
        peer.link = Link::Dialling { conn, until: now + self.settings.dial, queue: Vec::new() };
        self.elements.insert(conn, element);
        self.outputs.push_back(Output::Dial { conn, address: peer.address });
    }

    fn peer_of(&mut self, conn: ConnId) -> Option<(u32, &mut Peer)> {
        let element = *self.elements.get(&conn)?;
        Some((element, self.peers.get_mut(&element)?))
    }

    /// The connection is of no use any more: requests fail, the element becomes suspect, a new connection is made.
    fn lose(&mut self, now: Instant, element: u32, cause: Cause) {
        let Some(peer) = self.peers.get_mut(&element) else { return };
        if peer.left.is_some() {
            self.fail(now, element, cause, None);
            self.peers.remove(&element);
            return;
        }
        peer.suspect = true;
        peer.failures = peer.failures.saturating_add(1);
        let (shortest, longest) = self.settings.backoff;
        // An element that was fine a moment ago is dialled again at once: it may just have been started anew.
        let pause = if peer.failures == 1 {
            Duration::ZERO
        } else {
            let pause =
                (shortest * 2u32.saturating_pow(peer.failures - 2).min(1 << 10)).min(longest);
            pause.mul_f64(0.75 + self.rng.f64() / 2.0)
        };
        // RFC 5352 section 3.5: no report of an element to which nothing was to be sent.
        if peer.used && !std::mem::replace(&mut peer.reported, true) {
            self.outputs.push_back(Output::Suspect { element, cause });
        }
        self.fail(now, element, cause, Some(now + pause));
    }

    /// Ends the connection and the requests on it, except those that only this element can take and that were sent but
    /// once: these wait for the new connection.
    fn fail(&mut self, now: Instant, element: u32, cause: Cause, redial_at: Option<Instant>) {
        let Some(peer) = self.peers.get_mut(&element) else { return };
        let immediately = redial_at == Some(now) && cause == Cause::Reset;
        match std::mem::replace(&mut peer.link, Link::Down { redial_at }) {
            Link::Dialling { conn, .. } | Link::Up { conn, .. } => {
                // Closed by the peer, it is not ours to close any more.
                if self.elements.remove(&conn).is_some() {
                    self.outputs.push_back(Output::Close { conn });
                }
            }
            Link::Down { .. } => {}
        }
        peer.unanswered.clear();
        let mut again = Vec::new();
        for (request, outstanding) in std::mem::take(&mut peer.requests) {
            if let Some(data) = outstanding.again.filter(|_| immediately) {
                peer.requests
                    .insert(request, Outstanding { sent_at: now, answered: false, again: None });
                peer.unanswered.insert((now, request));
                again.push(data);
            } else {
                self.requests.remove(&request);
                self.outputs.push_back(Output::Failed { request, element, cause });
            }
        }
        if immediately {
            self.dial(now, element);
            for data in again {
                self.write(element, data);
            }
        }
    }
}

#[cfg(test)]
mod tests;
