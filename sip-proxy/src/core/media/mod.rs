//! Media relays: calls get the ports of a relay of the pool `media-relay` in their session descriptions.
//!
//! - A relay is chosen by the pool's policy when an INVITE begins a dialog, and asked (`offer`) if the INVITE has a
//!   description; branches start when it has answered. The dialog's cookie in Record-Route names it, so that any proxy
//!   finds it again: see [`requests`].
//! - Descriptions in answers go to the relay that the cookie of the *answer's* Record-Route names: when another proxy has
//!   taken a call over, the phone rings with what its predecessor was given. See [`responses`].
//! - An ACK with a description waits for the relay as well; BYE and failed INVITEs end what relays have: see [`dialogs`].
//!
//! A relay that has not answered in time ([`Settings::answer_within`]) is passed over and reported, and the next one is
//! asked, at most [`TRIES`] of them; to an offer, the first answer counts, whoever it comes from. So nothing waits longer
//! than the product of the two.

mod body;
mod dialogs;
mod relays;
mod requests;
mod responses;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_ng::client::{Client, Config, Output as NgOutput, RequestId};
use dialtone_ng::message::{Command, Ice, Outcome, Replace, Reply, Request, RtcpMux};
use dialtone_pool_user::View;
use dialtone_sip::Message;
use dialtone_sip::transaction::ServerId;
use dialtone_wire::PeId;

use crate::core::{Output, Proxy};
use dialogs::HeldAck;
pub(super) use dialogs::{Cookie, Delete};
use relays::{Relay, Relays};
pub(super) use requests::Session;

/// Relays that are asked about one description.
const TRIES: usize = 3;

/// What comes later than this has found this process standing still: answers may wait to be taken in.
const LATE: Duration = Duration::from_millis(50);
const CATCH_UP: Duration = Duration::from_millis(20);

/// How relays are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub without_relay: WithoutRelay,
    /// How long a relay may take to answer.
    pub answer_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { without_relay: WithoutRelay::default(), answer_within: Duration::from_millis(100) }
    }
}

/// What becomes of a call when no relay answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutRelay {
    /// Its phones send media to each other.
    #[default]
    Direct,
    /// It is answered 503.
    Refuse,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions to relays.
    pub offers: u64,
    pub answers: u64,
    pub deletes: u64,
    /// Questions that were not answered in time.
    pub timeouts: u64,
    /// Questions that were answered with an error.
    pub errors: u64,
    /// Requests that went on without a relay.
    pub direct: u64,
    /// Requests refused because no relay answered.
    pub refused: u64,
    /// Descriptions that were sent on with media to nowhere, because the relay that the other side has is gone.
    pub silenced: u64,
    /// Bodies that may have had a description and were not looked into.
    pub sealed: u64,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// The description of a request that waits.
    Request(ServerId),
    /// That of the first response which a branch holds back.
    Response(ServerId, usize),
    /// That of an ACK.
    Ack(u64),
    /// The end of a call: nothing waits.
    End,
}

#[derive(Debug)]
struct Question {
    subject: Subject,
    element: PeId,
    /// When its answer is overdue.
    due: Instant,
    /// It was.
    late: bool,
}

/// What happened to questions.
#[derive(Debug)]
pub(super) enum MediaOutput {
    Client(NgOutput),
    Overdue(RequestId),
}

/// What a relay said to a question.
enum Said<'a> {
    /// The description to send on.
    Sdp(&'a [u8]),
    /// It cannot.
    Error,
    /// Nothing so far, and the next one is to be asked.
    NotYet,
    /// Nothing, and nothing is to be expected.
    Nothing,
}

/// A description and whose it is.
#[derive(Clone, Copy, Debug)]
struct Description<'a> {
    command: Command<'static>,
    call_id: &'a str,
    /// Tag of who has made the offer: of this description, or of the one that it answers.
    offerer: &'a str,
    other: Option<&'a str>,
    sdp: &'a [u8],
    /// Where the phone is that has made it.
    phone: Option<IpAddr>,
}

/// The relays and what they are asked.
#[derive(Debug)]
pub(super) struct Media {
    settings: Settings,
    relays: Relays,
    client: Client,
    questions: HashMap<RequestId, Question>,
    due: BTreeSet<(Instant, RequestId)>,
    overdue: VecDeque<RequestId>,
    acks: HashMap<u64, HeldAck>,
    next_ack: u64,
    /// ACKs that may wait at a time.
    max_acks: usize,
    /// Nothing is given up before, so that what has arrived is taken in first.
    catching_up: Option<Instant>,
    stats: Stats,
}

impl Media {
    pub(super) fn new(settings: Settings, most: usize, mut rng: fastrand::Rng) -> Self {
        let config = Config {
            attempt: settings.answer_within * TRIES as u32,
            resend: settings.answer_within.mul_f64(0.4),
            outstanding: most,
        };
        let pool = crate::RELAYS.parse().map(View::unknown);
        // Neither empty nor too long, which is all that handles are checked for.
        let view = Arc::new(pool.expect("a constant handle"));
        Self {
            settings,
            client: Client::new(config, rng.u64(..)),
            relays: Relays::new(view, rng),
            questions: HashMap::new(),
            due: BTreeSet::new(),
            overdue: VecDeque::new(),
            acks: HashMap::new(),
            next_ack: 0,
            max_acks: most,
            catching_up: None,
            stats: Stats::default(),
        }
    }

    fn due(&self) -> Option<Instant> {
        let overdue = self.due.first().map(|(due, _)| *due);
        self.client.next_deadline().into_iter().chain(overdue).min()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = self.due()?;
        Some(self.catching_up.map_or(due, |at| at.max(due)))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.due().filter(|due| *due <= now) else { return };
        match self.catching_up {
            Some(at) if now < at => {}
            None if now.saturating_duration_since(due) > LATE => {
                self.catching_up = Some(now + CATCH_UP);
            }
            Some(_) | None => {
                self.catching_up = None;
                self.client.handle_timeout(now);
                while let Some((due, id)) = self.due.first().copied()
                    && due <= now
                {
                    self.due.pop_first();
                    self.overdue.push_back(id);
                }
            }
        }
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.client.handle_datagram(now, from, bytes);
        if self.due().is_none_or(|due| due > now) {
            self.catching_up = None;
        }
    }

    pub(super) fn poll(&mut self) -> Option<MediaOutput> {
        let overdue = &mut self.overdue;
        let client = self.client.poll().map(MediaOutput::Client);
        client.or_else(|| overdue.pop_front().map(MediaOutput::Overdue))
    }

    fn insert(&mut self, id: RequestId, subject: Subject, element: PeId, due: Instant) {
        self.questions.insert(id, Question { subject, element, due, late: false });
        self.due.insert((due, id));
    }

    fn remove(&mut self, id: RequestId) -> Option<Question> {
        let question = self.questions.remove(&id)?;
        self.due.remove(&(question.due, id));
        Some(question)
    }

    /// A question is to be overdue once more, then.
    fn extend(&mut self, id: RequestId, due: Instant) {
        if let Some(question) = self.questions.get_mut(&id) {
            self.due.remove(&(question.due, id));
            question.due = due;
            self.due.insert((due, id));
        }
    }

    /// Its answer does not matter any more.
    fn cancel(&mut self, id: RequestId) {
        self.client.cancel(id);
        self.remove(id);
    }

    /// Questions under way.
    pub(super) fn questions(&self) -> usize {
        self.questions.len()
    }

    /// Messages that wait, other than those in contexts.
    pub(super) fn waiting(&self) -> usize {
        self.acks.len()
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    /// Asks a relay about a description; `None` when too much is under way.
    fn ask(
        &mut self,
        now: Instant,
        relay: Relay,
        subject: Subject,
        of: Description<'_>,
    ) -> Option<RequestId> {
        let request = Request {
            call_id: Some(of.call_id.as_bytes()),
            from_tag: Some(of.offerer.as_bytes()),
            to_tag: of.other.map(str::as_bytes),
            sdp: Some(of.sdp),
            replace: Replace { origin: true, session_connection: true, ..Replace::default() },
            ice: Some(Ice::Remove),
            // Who offers rtcp-mux gets it; phones that do not know it are not asked.
            rtcp_mux: RtcpMux { demux: of.command == Command::Offer, ..RtcpMux::default() },
            received_from: of.phone,
            supports_load_limit: true,
            ..Request::new(of.command)
        };
        let id = self.client.request(now, relay.address, &request)?;
        match of.command {
            Command::Offer => self.stats.offers += 1,
            _ => self.stats.answers += 1,
        }
        self.insert(id, subject, relay.element, now + self.settings.answer_within);
        Some(id)
    }
}

impl Proxy {
    /// The membership of the pool of the relays.
    pub fn set_relays(&mut self, now: Instant, view: Arc<View>) {
        if let Some(media) = &mut self.media {
            media.relays.update(view);
        }
        self.pump(now);
    }

    /// A datagram from a relay.
    pub fn handle_relay(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if let Some(media) = &mut self.media {
            media.handle_datagram(now, from, bytes);
        }
        self.pump(now);
    }

    /// Nobody listens there: a datagram to a relay came back.
    pub fn handle_relay_unreachable(&mut self, now: Instant, address: SocketAddr) {
        if let Some(media) = &mut self.media {
            media.client.handle_unreachable(now, address);
        }
        self.pump(now);
    }

    /// What relays were asked, and what came of it; nothing if none are used.
    pub fn media_stats(&self) -> Stats {
        self.media.as_ref().map(|media| media.stats()).unwrap_or_default()
    }

    pub(super) fn media_output(&mut self, now: Instant, output: MediaOutput) {
        let Some(media) = &mut self.media else { return };
        match output {
            MediaOutput::Client(NgOutput::Send { to, datagram }) => {
                self.outputs.push_back(Output::Relay { to, bytes: datagram.into() });
            }
            MediaOutput::Client(NgOutput::Answered { id, body, .. }) => {
                let Some(Question { subject, element, .. }) = media.remove(id) else { return };
                if media.relays.trust(now, element) {
                    self.outputs.push_back(Output::TrustRelay { element: element.0 });
                }
                let reply = Reply::decode(&body).ok();
                let said = match &reply {
                    Some(Reply { outcome: Outcome::Ok, .. }) if subject == Subject::End => return,
                    Some(reply) if reply.outcome == Outcome::Ok => {
                        reply.sdp().map_or(Said::Error, Said::Sdp)
                    }
                    _ => Said::Error,
                };
                media.stats.errors += u64::from(matches!(said, Said::Error));
                self.said(now, id, subject, element, &said);
            }
            MediaOutput::Client(NgOutput::Expired { id, .. }) => {
                let Some(Question { subject, element, late, .. }) = media.remove(id) else {
                    return;
                };
                if !late {
                    self.relay_failed(now, element);
                }
                self.said(now, id, subject, element, &Said::Nothing);
            }
            MediaOutput::Overdue(id) => {
                let Some(question) = media.questions.get_mut(&id) else { return };
                let was_late = std::mem::replace(&mut question.late, true);
                let (subject, element) = (question.subject, question.element);
                let said = match subject {
                    Subject::Request(_) => Said::NotYet,
                    Subject::Response(..) | Subject::Ack(_) => {
                        media.cancel(id);
                        Said::Nothing
                    }
                    // It is told again for a while.
                    Subject::End => Said::NotYet,
                };
                if !was_late {
                    self.relay_failed(now, element);
                }
                self.said(now, id, subject, element, &said);
            }
        }
    }

    fn relay_failed(&mut self, now: Instant, element: PeId) {
        let Some(media) = &mut self.media else { return };
        media.stats.timeouts += 1;
        if media.relays.suspect(now, element) {
            self.outputs.push_back(Output::ReportRelay { element: element.0 });
        }
    }

    fn said(
        &mut self,
        now: Instant,
        question: RequestId,
        subject: Subject,
        element: PeId,
        said: &Said<'_>,
    ) {
        match subject {
            Subject::Request(server) => self.with_context(now, server, |proxy, context| {
                proxy.request_said(now, context, question, element, said);
            }),
            Subject::Response(server, index) => self.with_context(now, server, |proxy, context| {
                proxy.response_said(now, context, index, question, element, said);
            }),
            Subject::Ack(number) => self.ack_said(now, number, element, said),
            Subject::End => {}
        }
    }
}

/// Tags of From and To.
fn tags(message: &Message) -> (&str, Option<&str>) {
    let from = message.from().ok().and_then(|from| from.tag()).unwrap_or("");
    (from, message.to().ok().and_then(|to| to.tag()))
}
