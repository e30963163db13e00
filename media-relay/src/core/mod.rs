//! The relay without IO: what the control messages make of calls, and what calls need of the [plane](crate::plane).
//!
//! [`Relay::handle_datagram`], [`Relay::handle_event`], [`Relay::handle_timeout`] change state; [`Relay::poll`] is
//! drained after each of them; [`Relay::next_deadline`] says when to call back. Sockets come from a [`PortPool`] and
//! leave in [`Output::Open`]: ports are taken while an offer is worked at, so that it can be answered at once.
//!
//! # Calls
//! A call has legs, nearly always one. A leg is between the party that offered first and those that answered; it has a
//! *pair* of ends in the plane for each media description that is relayed, with ports of its own on either side, taken
//! with the offer: early media flows before there is an answer. Parties that answer the same offer (a forked call)
//! share the ports: the one that answered last has them, and latching opens again. Offers for several branches
//! (`via-branch`) have a leg each.
//!
//! What an offer takes away (a media description with port 0, another kind of media) happens with its answer, since a
//! re-INVITE that is refused must leave the call as it was.
//!
//! # Answers
//! `query` and `delete` wait for what the plane has counted; everything else is answered at once. A request that comes
//! again, byte for byte, is answered as before for some seconds, whoever sends it.

mod answers;
mod call;
mod end;
mod ignored;
mod negotiate;
mod ports;
mod quality;
mod report;
mod rewrite;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_ng::message::{Command, Datagram, Outcome, ReplyEncoder, Request};

use crate::plane::{EndSettings, Event, Kind, PairId, PairStats, Reopen, Side};
use answers::{Answers, Key, Seen};
use call::{Call, Deletion, Due};
pub use end::{EndSummary, Reason, Summary};
pub use ignored::IgnoredCounts;
pub use ports::PortPool;
pub use quality::mos;
pub use settings::{Interface, Limits, Local, Settings};

/// Longest Call-ID, tag, branch or label that is kept.
const MAX_NAME: usize = 512;
/// Longest delay of a deletion that is obeyed.
const MAX_DELETE_DELAY: i64 = 3_600;
/// Requests that wait for the plane; it answers within milliseconds.
const MAX_WAITING: usize = 10_000;
/// How many calls `list` names if it is not told.
const LISTED: i64 = 32;

/// What is to be done; see [`crate::plane::Command`] for what concerns pairs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output<P: PortPool> {
    Change {
        pair: PairId,
        side: Side,
        settings: EndSettings,
        reopen: Reopen,
        rtcp: RtcpPort<P::Rtcp>,
    },
    Close {
        pair: PairId,
    },
    /// A call is over.
    Ended(Box<Summary>),
    /// The pair carries something else from now on.
    Kind {
        pair: PairId,
        kind: Kind,
    },
    Open {
        pair: PairId,
        kind: Kind,
        sockets: [P::Sockets; 2],
        settings: [EndSettings; 2],
    },
    Query {
        pair: PairId,
        tag: u64,
    },
    /// A pair of a call that is recorded; said again when it carries something else.
    RecordPair {
        call: CallKey,
        pair: PairId,
        kind: Kind,
        /// Position of its media description.
        media: usize,
    },
    Send {
        to: SocketAddr,
        bytes: Arc<[u8]>,
    },
    StartRecording(Recording),
    StopRecording {
        recording: Recording,
        pairs: Vec<PairId>,
    },
}

/// What becomes of the RTCP port of an end.
#[derive(Debug)]
pub enum RtcpPort<S> {
    Close,
    Keep,
    Open(S),
}

/// Names a call for the life of the process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CallKey(pub u64);

/// A recording that begins or ends, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub call: CallKey,
    pub call_id: Box<[u8]>,
    /// The parties that are known.
    pub tags: Vec<Box<[u8]>>,
    /// Who has asked; `None`: the call has ended.
    pub by: Option<SocketAddr>,
    /// The name that was asked for.
    pub name: Option<Box<[u8]>>,
}

/// What the plane does now; measured by the driver, once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// In the last second, both directions.
    pub packets: u64,
    pub bytes: u64,
    pub errors: u64,
    /// Processor time of the workers, as a fraction of what they could use.
    pub load: f64,
    /// The share of its ports that calls have, of the local address where it is largest.
    pub ports: f64,
    /// Since the start.
    pub total_packets: u64,
    pub total_bytes: u64,
    pub total_errors: u64,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub pings: u64,
    pub offers: u64,
    pub answers: u64,
    pub deletes: u64,
    pub queries: u64,
    pub lists: u64,
    pub statistics: u64,
    pub recording_starts: u64,
    pub recording_stops: u64,
    /// Recordings that were wanted and have not begun.
    pub recordings_failed: u64,
    /// Commands that are not known here.
    pub unknown_commands: u64,
    /// Answered by an error.
    pub errors: u64,
    /// Datagrams without a cookie: nothing to answer to.
    pub garbage: u64,
    /// Requests that came again.
    pub repeated: u64,
    /// Offers refused: no port was free.
    pub no_ports: u64,
    /// Calls refused by a limit, and while draining.
    pub refused: u64,
    /// Calls that have begun.
    pub calls: u64,
    /// Calls that have ended, by reason.
    pub deleted: u64,
    pub unanswered: u64,
    pub silent: u64,
    pub silent_on_hold: u64,
    pub drained: u64,
    /// Of calls that have ended: streams without a packet, and those with packets in one direction only.
    pub empty_streams: u64,
    pub one_way_streams: u64,
}

/// A media relay.
#[derive(Debug)]
pub struct Relay<P: PortPool> {
    settings: Settings,
    started: Instant,
    ports: P,
    calls: HashMap<CallKey, Call>,
    by_id: HashMap<Box<[u8]>, CallKey>,
    pairs: HashMap<PairId, Owner>,
    deadlines: BTreeSet<(Instant, CallKey)>,
    answers: Answers,
    waiting: HashMap<u64, Waiting>,
    last_key: u64,
    last_pair: u64,
    last_tag: u64,
    draining: bool,
    sample: Sample,
    stats: Stats,
    ignored: IgnoredCounts,
    outputs: VecDeque<Output<P>>,
}

/// Whom a pair belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Call(CallKey),
    /// A call that is over; its pairs are being closed.
    Ended(u64),
    /// Being closed while its call goes on.
    Loose {
        call: CallKey,
        ports: [(IpAddr, u16); 2],
    },
}

/// Something that waits until the plane has answered about some pairs.
#[derive(Debug)]
struct Waiting {
    outstanding: usize,
    stats: Vec<(PairId, Box<PairStats>)>,
    what: For,
}

#[derive(Debug)]
enum For {
    Deletion {
        call: Box<Call>,
        reason: Reason,
        reply: Option<Asked>,
    },
    Query {
        call: CallKey,
        reply: Asked,
        tag: Option<Box<[u8]>>,
    },
    /// Is it really silent?
    Silence {
        call: CallKey,
    },
}

/// A request that is to be answered.
#[derive(Debug)]
struct Asked {
    key: Key,
    cookie: Box<[u8]>,
}

/// How a request is answered that needs nothing of the plane.
type Answer = Result<ReplyEncoder, Refusal>;

#[derive(Debug)]
enum Refusal {
    Error(&'static str),
    LoadLimit(&'static str),
    /// The answer comes later.
    Later,
}

impl<P: PortPool> Relay<P> {
    pub fn new(now: Instant, settings: Settings, ports: P) -> Self {
        Self {
            settings,
            started: now,
            ports,
            calls: HashMap::new(),
            by_id: HashMap::new(),
            pairs: HashMap::new(),
            deadlines: BTreeSet::new(),
            answers: Answers::new(),
            waiting: HashMap::new(),
            last_key: 0,
            last_pair: 0,
            last_tag: 0,
            draining: false,
            sample: Sample::default(),
            stats: Stats::default(),
            ignored: IgnoredCounts::default(),
            outputs: VecDeque::new(),
        }
    }

    /// A datagram of the control protocol has come.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Some(Datagram { cookie, body }) = Datagram::split(bytes) else {
            self.stats.garbage += 1;
            return;
        };
        let key = match self.answers.look_up(now, from, bytes) {
            (key, Seen::No) => key,
            (_, Seen::Pending) => {
                self.stats.repeated += 1;
                return;
            }
            (_, Seen::Answered(bytes)) => {
                self.stats.repeated += 1;
                self.outputs.push_back(Output::Send { to: from, bytes });
                return;
            }
        };
        let asked = Asked { key, cookie: cookie.into() };
        let request = match Request::decode(body) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%from, %error, "not understood");
                self.stats.errors += 1;
                let reply = ReplyEncoder::error(cookie, &error.to_string());
                return self.reply(key, reply);
            }
        };
        for ignored in &request.ignored {
            self.ignored.count(&ignored.to_string());
        }
        let answer = self.execute(now, from, &request, &asked);
        let reply = match answer {
            Err(Refusal::Later) => return,
            Err(Refusal::LoadLimit(message)) if request.supports_load_limit => {
                ReplyEncoder::new(cookie).finish(Outcome::LoadLimit(message.as_bytes()))
            }
            Err(Refusal::LoadLimit(reason) | Refusal::Error(reason)) => {
                tracing::debug!(%from, reason, "refused");
                self.stats.errors += 1;
                Ok(ReplyEncoder::error(cookie, reason))
            }
            Ok(encoder) => {
                let outcome =
                    if request.command == Command::Ping { Outcome::Pong } else { Outcome::Ok };
                encoder.finish(outcome)
            }
        };
        let reply =
            reply.unwrap_or_else(|_| ReplyEncoder::error(cookie, "Reply too long for a datagram"));
        self.reply(key, reply);
    }

    fn execute(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Request<'_>,
        asked: &Asked,
    ) -> Answer {
        let names = [
            request.call_id,
            request.from_tag,
            request.to_tag,
            request.via_branch,
            request.label,
            request.set_label,
        ];
        if names.into_iter().flatten().any(|name| name.len() > MAX_NAME) {
            return Err(Refusal::Error("Identifier too long"));
        }
        match request.command {
            Command::Ping => {
                self.stats.pings += 1;
                Ok(ReplyEncoder::new(&asked.cookie))
            }
            Command::Offer => {
                self.stats.offers += 1;
                self.offer(now, from, request, asked)
            }
            Command::Answer => {
                self.stats.answers += 1;
                self.answer(now, from, request, asked)
            }
            Command::Delete => {
                self.stats.deletes += 1;
                self.delete(now, request, asked)
            }
            Command::Query => {
                self.stats.queries += 1;
                let (_, call) = self.find(request.call_id)?;
                let tag = request.to_tag.or(request.from_tag).filter(|tag| !tag.is_empty());
                let tag = tag.map(Into::into);
                self.ask_plane(now, call, |reply| For::Query { call, reply, tag }, asked)
            }
            Command::List => {
                self.stats.lists += 1;
                self.list(request.limit.unwrap_or(LISTED), asked)
            }
            Command::Statistics => {
                self.stats.statistics += 1;
                let mut reply = ReplyEncoder::with_capacity(&asked.cookie, 4_096);
                self.write_statistics(now, &mut reply);
                Ok(reply)
            }
            Command::StartRecording | Command::StopRecording => {
                match request.command {
                    Command::StartRecording => self.stats.recording_starts += 1,
                    _ => self.stats.recording_stops += 1,
                }
                let (_, key) = self.find(request.call_id)?;
                if !self.settings.recording {
                    return Err(Refusal::Error("Recording is not configured"));
                }
                if request.command == Command::StartRecording {
                    self.start_recording(key, from, request.output_destination);
                } else {
                    self.stop_recording(key, Some(from));
                }
                Ok(ReplyEncoder::new(&asked.cookie))
            }
            Command::Other(_) => {
                self.stats.unknown_commands += 1;
                Err(Refusal::Error("Unrecognized command"))
            }
        }
    }

    fn find<'a>(&self, call_id: Option<&'a [u8]>) -> Result<(&'a [u8], CallKey), Refusal> {
        let call_id = call_id.ok_or(Refusal::Error("No call-id in message"))?;
        let key = self.by_id.get(call_id).ok_or(Refusal::Error("Unknown call-id"))?;
        Ok((call_id, *key))
    }

    fn delete(&mut self, now: Instant, request: &Request<'_>, asked: &Asked) -> Answer {
        let call_id = request.call_id.ok_or(Refusal::Error("No call-id in message"))?;
        let present =
            |name: Option<&'_ [u8]>| name.filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
        let (from, to, branch) =
            (present(request.from_tag), present(request.to_tag), present(request.via_branch));
        let found = self.by_id.get(call_id).copied();
        let deletion = found.and_then(|key| {
            let call = self.calls.get(&key)?;
            Some((key, call.legs_to_delete(from.as_deref(), to.as_deref(), branch.as_deref())))
        });
        let (key, legs) = match deletion {
            None | Some((_, Deletion::Nothing)) => {
                const NOTHING: &str = "Call-ID not found or tags didn't match";
                if request.flags.fatal {
                    return Err(Refusal::Error(NOTHING));
                }
                let mut reply = ReplyEncoder::new(&asked.cookie);
                reply.dict().bytes("warning", NOTHING);
                return Ok(reply);
            }
            Some((key, Deletion::Party(leg, tag))) => {
                if let Some(call) = self.calls.get_mut(&key) {
                    call.last_signal = now;
                    call.legs[leg].answerers.retain(|party| party.tag != tag);
                }
                return Ok(ReplyEncoder::new(&asked.cookie));
            }
            Some((key, Deletion::All)) => (key, None),
            Some((key, Deletion::Legs(legs))) => (key, Some(legs)),
        };
        let Some(call) = self.calls.get_mut(&key) else {
            return Err(Refusal::Error("Unknown call-id"));
        };
        call.last_signal = now;
        match legs {
            Some(legs) if legs.len() < call.legs.len() => {
                // Whatever the delay: the other branches need no ports of this one.
                let mut gone = Call { id: call.id.clone(), ..Call::new(&[], call.created) };
                for index in legs.into_iter().rev() {
                    gone.legs.push(call.legs.remove(index));
                }
                let settings = &self.settings;
                let deadline = match call.deadline {
                    None if !call.is_answered() => {
                        Some((now + settings.offer_timeout, Due::Unanswered))
                    }
                    // The plane has said already which of the others are silent, and does not say it again.
                    None => Some((now + settings.media_timeout, Due::Quiet)),
                    deadline => deadline,
                };
                self.set_deadline(key, deadline);
                self.close(gone, Reason::Deleted, Some(asked))
            }
            _ => {
                let delay = match request.delete_delay {
                    Some(seconds @ 0..) => {
                        Duration::from_secs(seconds.min(MAX_DELETE_DELAY) as u64)
                    }
                    _ => self.settings.delete_delay,
                };
                if delay.is_zero() {
                    return self.end(key, Reason::Deleted, Some(asked));
                }
                self.set_deadline(key, Some((now + delay, Due::Deleted)));
                self.ask_plane(now, key, |reply| For::Query { call: key, reply, tag: None }, asked)
            }
        }
    }

    /// Asks the plane about all pairs of a call, and answers when it knows.
    fn ask_plane(
        &mut self,
        now: Instant,
        call: CallKey,
        what: impl FnOnce(Asked) -> For,
        asked: &Asked,
    ) -> Answer {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Refusal::Error("Too many requests"));
        }
        let asked = Asked { key: asked.key, cookie: asked.cookie.clone() };
        self.wait(now, call, what(asked));
        Err(Refusal::Later)
    }

    fn wait(&mut self, now: Instant, call: CallKey, what: For) {
        self.last_tag += 1;
        let tag = self.last_tag;
        let pairs: Vec<PairId> = self
            .calls
            .get(&call)
            .map(|call| call.pairs().map(|pair| pair.id).collect())
            .unwrap_or_default();
        let waiting =
            Waiting { outstanding: pairs.len(), stats: Vec::with_capacity(pairs.len()), what };
        self.outputs.extend(pairs.into_iter().map(|pair| Output::Query { pair, tag }));
        if waiting.outstanding == 0 {
            // Nothing counts packets there.
            self.resolve(now, waiting);
        } else {
            self.waiting.insert(tag, waiting);
        }
    }

    /// The plane has answered about all pairs.
    fn resolve(&mut self, now: Instant, waiting: Waiting) {
        match waiting.what {
            For::Silence { call } => self.judge_silence(now, call, &waiting.stats),
            _ => self.resolve_query(waiting),
        }
    }

    fn list(&self, limit: i64, asked: &Asked) -> Answer {
        let Ok(limit) = usize::try_from(limit) else {
            return Err(Refusal::Error("invalid limit, must be >= 0"));
        };
        let mut reply = ReplyEncoder::new(&asked.cookie);
        let mut room = dialtone_ng::MAX_DATAGRAM - 512;
        reply.dict().list("calls", |list| {
            for id in self.by_id.keys().take(limit) {
                let length = id.len() + 8;
                if length > room {
                    break;
                }
                room -= length;
                list.bytes(id);
            }
        });
        Ok(reply)
    }

    fn reply(&mut self, key: Key, bytes: Vec<u8>) {
        let bytes: Arc<[u8]> = bytes.into();
        for to in self.answers.answer(key, &bytes) {
            self.outputs.push_back(Output::Send { to, bytes: Arc::clone(&bytes) });
        }
    }

    /// The plane reports something.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Closed { pair, stats } => self.closed(now, pair, stats),
            Event::Queried { pair, tag, stats } => {
                let Some(waiting) = self.waiting.get_mut(&tag) else { return };
                waiting.stats.extend(stats.map(|stats| (pair, stats)));
                waiting.outstanding -= 1;
                if waiting.outstanding == 0
                    && let Some(waiting) = self.waiting.remove(&tag)
                {
                    self.resolve(now, waiting);
                }
            }
            Event::Silent { pair } => self.fell_silent(now, pair),
        }
    }

    fn resolve_query(&mut self, waiting: Waiting) {
        let For::Query { call, reply, tag } = waiting.what else { return };
        let bytes = match self.calls.get(&call) {
            Some(call) => self.describe(call, tag.as_deref(), &waiting.stats, &reply.cookie),
            // It has ended meanwhile.
            None => ReplyEncoder::error(&reply.cookie, "Unknown call-id"),
        };
        self.reply(reply.key, bytes);
    }

    fn fell_silent(&mut self, now: Instant, pair: PairId) {
        let Some(Owner::Call(key)) = self.pairs.get(&pair).copied() else { return };
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.pairs_mut().filter(|one| one.id == pair).for_each(|one| one.silent = true);
        if !call.pairs().all(|pair| pair.silent) {
            return;
        }
        match call.deadline {
            // Ringing may take longer.
            Some((_, Due::Unanswered | Due::Deleted)) => {}
            _ if call.is_held() => {
                let rest = self.settings.hold_timeout.saturating_sub(self.settings.media_timeout);
                self.set_deadline(key, Some((now + rest, Due::Quiet)));
            }
            _ if call.pairs().nth(1).is_none() => drop(self.end(key, Reason::Silent, None)),
            // What was silent first may have become loud again.
            _ => self.wait(now, key, For::Silence { call: key }),
        }
    }

    fn judge_silence(&mut self, now: Instant, key: CallKey, stats: &[(PairId, Box<PairStats>)]) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let loud = |pair: PairId| {
            let stats = stats.iter().find(|(id, _)| *id == pair);
            let last = stats
                .and_then(|(_, stats)| stats.ends.iter().filter_map(|end| end.last_packet).max());
            last.is_some_and(|last| {
                // The plane notices silence with half a second's precision.
                now.saturating_duration_since(last) + Duration::from_secs(1)
                    < self.settings.media_timeout
            })
        };
        let mut any = false;
        for pair in call.pairs_mut() {
            if loud(pair.id) {
                pair.silent = false;
                any = true;
            }
        }
        if !any && call.pairs().all(|pair| pair.silent) {
            let held = call.is_held();
            let _ = self.end(key, if held { Reason::SilentOnHold } else { Reason::Silent }, None);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.answers.handle_timeout(now);
        while let Some((at, key)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, key));
            let due = self.calls.get_mut(&key).and_then(|call| call.deadline.take());
            match due {
                Some((_, Due::Deleted)) => drop(self.end(key, Reason::Deleted, None)),
                Some((_, Due::Unanswered)) => drop(self.end(key, Reason::Unanswered, None)),
                Some((_, Due::Quiet)) => self.wait(now, key, For::Silence { call: key }),
                None => {}
            }
        }
    }

    fn set_deadline(&mut self, key: CallKey, deadline: Option<(Instant, Due)>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let Some((at, _)) = std::mem::replace(&mut call.deadline, deadline) {
            self.deadlines.remove(&(at, key));
        }
        if let Some((at, _)) = deadline {
            self.deadlines.insert((at, key));
        }
    }

    /// Takes no new call from now on; those that there are go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends all calls.
    pub fn end_all(&mut self) {
        let keys: Vec<CallKey> = self.calls.keys().copied().collect();
        for key in keys {
            let _ = self.end(key, Reason::Drained, None);
        }
    }

    /// What the plane does now.
    pub fn set_sample(&mut self, sample: Sample) {
        self.sample = sample;
    }

    /// How much of what this relay can do it does, from 0 to 1: the one of its limits that is nearest.
    pub fn load(&self) -> f64 {
        let Limits { sessions, bandwidth, load } = self.settings.limits;
        let of = |value: f64, limit: f64| if limit > 0.0 { value / limit } else { 1.0 };
        let by_sessions = of(self.calls.len() as f64, sessions as f64);
        let by_bandwidth =
            bandwidth.map_or(0.0, |limit| of(self.sample.bytes as f64, limit as f64));
        let by_load = load.map_or(0.0, |limit| of(self.sample.load, limit));
        by_sessions.max(by_bandwidth).max(by_load).max(self.sample.ports).clamp(0.0, 1.0)
    }

    /// Where sockets come from.
    pub const fn ports_mut(&mut self) -> &mut P {
        &mut self.ports
    }

    /// Calls that there are.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Pairs in the plane, those included that are being closed.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Answers that are kept for requests that come again.
    pub fn kept_answers(&self) -> usize {
        self.answers.len()
    }

    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// What was asked for and has no effect.
    pub const fn ignored(&self) -> &IgnoredCounts {
        &self.ignored
    }

    /// When to call [`Relay::handle_timeout`].
    pub fn next_deadline(&self) -> Option<Instant> {
        let call = self.deadlines.first().map(|(at, _)| *at);
        [call, self.answers.next_deadline()].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output<P>> {
        self.outputs.pop_front()
    }
}
