//! The response context of a forwarded request (RFC 3261 section 16.7): its branches, and which answer is the best.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use dialtone_location::Ticket;
use dialtone_ng::client::RequestId as Question;
use dialtone_sip::transaction::{ClientId, ServerId};
use dialtone_sip::{Message, Method};

use crate::core::conference::Room;
use crate::core::hop::{Binding, Hop};
use crate::core::media::Session;

/// RFC 5393 section 5.3.3.1: Max-Breadth of a request without one.
const MAX_BREADTH: u32 = 60;

/// A request being forwarded.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) server: ServerId,
    pub(super) request: Message,
    pub(super) source: Hop,
    pub(super) invite: bool,
    pub(super) loop_hash: u64,
    /// Route values on top that named us.
    pub(super) own_routes: usize,
    /// Whose bindings are tried; `None` for a request that follows its Route.
    pub(super) aor: Option<Box<str>>,
    /// Where a request that follows its Route goes, until its branch is started.
    pub(super) hop: Option<Hop>,
    /// The room that it is for, outside of dialogs.
    pub(super) room: Option<Room>,
    /// The address of the phone there, as far as it is known.
    pub(super) callee: Option<IpAddr>,
    /// What media relays have to do with it.
    pub(super) session: Option<Session>,
    pub(super) branches: Vec<Branch>,
    /// Groups of equal q still to be tried, the best last.
    pub(super) queue: Vec<Vec<Binding>>,
    /// Other flows of instances that are tried already, the best last.
    pub(super) spare: Vec<Binding>,
    /// Concurrent branches that are left to this request (RFC 5393).
    pub(super) breadth: u32,
    /// The database was asked again after a flow was found gone.
    pub(super) refreshed: Option<Ticket>,
    /// A final answer was sent.
    pub(super) answered: bool,
    /// A CANCEL came.
    pub(super) cancelled: bool,
    /// The server transaction is gone.
    pub(super) gone: bool,
}

/// One target of a request.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) binding: Option<Binding>,
    pub(super) state: State,
    pub(super) client: Option<ClientId>,
    /// Sent to an element of a pool, which is watched.
    pub(super) element: bool,
    /// The conference server that it was sent to.
    pub(super) focus: Option<u32>,
    /// An answer has come, so that it may be cancelled (RFC 3261 section 9.1).
    pub(super) provisional: bool,
    pub(super) cancel: Cancel,
    pub(super) timer: Option<Instant>,
    /// Responses that have not gone up yet: a relay is asked about the first.
    pub(super) held: VecDeque<Message>,
    pub(super) question: Option<Question>,
}

/// Whether a branch is being cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// As soon as it may be.
    Wanted,
    Sent,
}

#[derive(Debug)]
pub(super) enum State {
    Running,
    /// Its flow or its conference server is gone; waits for the database to name another one.
    Looking,
    Done(Outcome),
}

#[derive(Debug)]
pub(super) enum Outcome {
    Response(Box<Message>),
    /// No response: what stands for it.
    Code(u16),
    /// Another branch took its place.
    Replaced,
}

impl Context {
    pub(super) fn new(
        server: ServerId,
        request: Message,
        source: Hop,
        loop_hash: u64,
        own_routes: usize,
    ) -> Self {
        let breadth = request.header_str(dialtone_sip::HeaderName::MaxBreadth);
        Self {
            server,
            source,
            invite: request.method() == Some(Method::Invite),
            loop_hash,
            own_routes,
            aor: None,
            hop: None,
            room: None,
            callee: None,
            session: None,
            branches: Vec::new(),
            queue: Vec::new(),
            spare: Vec::new(),
            breadth: breadth
                .and_then(|text| text.parse().ok())
                .unwrap_or(MAX_BREADTH)
                .min(MAX_BREADTH),
            refreshed: None,
            answered: false,
            cancelled: false,
            gone: false,
            request,
        }
    }

    /// Orders bindings for trying: one flow of each instance, the one refreshed last (RFC 5626 section 5.3), in
    /// groups of descending q.
    pub(super) fn plan(&mut self, mut bindings: Vec<Binding>) {
        bindings.sort_by_key(|binding| std::cmp::Reverse(binding.changed_at));
        let mut chosen: Vec<Binding> = Vec::with_capacity(bindings.len());
        for binding in bindings {
            let other_flow = !binding.instance.is_empty()
                && chosen.iter().any(|other| other.instance == binding.instance);
            if other_flow {
                self.spare.insert(0, binding);
            } else {
                chosen.push(binding);
            }
        }
        // Stable: equal q keep the order of their age.
        chosen.sort_by_key(|binding| binding.q);
        self.queue =
            chosen.chunk_by(|one, other| one.q == other.q).map(<[Binding]>::to_vec).collect();
    }

    /// Takes the best other flow of this instance.
    pub(super) fn take_spare(&mut self, instance: &str) -> Option<Binding> {
        let at = self
            .spare
            .iter()
            .rposition(|spare| !instance.is_empty() && *spare.instance == *instance)?;
        Some(self.spare.remove(at))
    }

    /// Whether this way to a phone is or was part of this request.
    pub(super) fn knows(&self, binding: &Binding) -> bool {
        self.branches
            .iter()
            .filter_map(|branch| branch.binding.as_ref())
            .any(|tried| tried.same_flow(binding))
            || self
                .queue
                .iter()
                .flatten()
                .chain(&self.spare)
                .any(|waiting| waiting.same_flow(binding))
    }

    /// Whether there is something left to try.
    pub(super) fn has_targets(&self) -> bool {
        self.hop.is_some() || !self.queue.is_empty()
    }

    /// Whether responses wait for relays.
    pub(super) fn is_holding(&self) -> bool {
        self.branches.iter().any(|branch| !branch.held.is_empty())
    }

    pub(super) fn is_done(&self) -> bool {
        self.branches.iter().all(|branch| matches!(branch.state, State::Done(_)))
    }

    /// Nobody needs it any more.
    pub(super) fn is_over(&self) -> bool {
        self.gone && self.answered && self.branches.iter().all(|branch| branch.client.is_none())
    }

    pub(super) fn has_global_failure(&self) -> bool {
        self.outcomes().any(|outcome| outcome.code() >= 600)
    }

    pub(super) fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.branches.iter().filter_map(|branch| match &branch.state {
            State::Done(outcome) => Some(outcome),
            State::Running | State::Looking => None,
        })
    }

    /// RFC 3261 section 16.7 step 6: 6xx if there is one, else the lowest class, and within 4xx what tells the sender
    /// how to ask again. What a phone said goes before what we concluded. The first of equals.
    pub(super) fn best(&self) -> Option<&Outcome> {
        self.outcomes()
            .filter(|outcome| !matches!(outcome, Outcome::Replaced))
            .min_by_key(|outcome| outcome.rank())
    }
}

impl Branch {
    pub(super) fn done(binding: Option<Binding>, outcome: Outcome) -> Self {
        Self {
            binding,
            state: State::Done(outcome),
            client: None,
            element: false,
            focus: None,
            provisional: false,
            cancel: Cancel::No,
            timer: None,
            held: VecDeque::new(),
            question: None,
        }
    }
}

impl Outcome {
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Response(response) => response.status().unwrap_or(500),
            Self::Code(code) => *code,
            Self::Replaced => 0,
        }
    }

    fn rank(&self) -> (u16, u8, u8) {
        let code = self.code();
        let class = if code >= 600 { 0 } else { code / 100 };
        let within = match code {
            401 | 407 => 0,
            415 | 420 | 484 => 1,
            // Says less than any other.
            408 | 480 | 503 => 3,
            _ => 2,
        };
        (class, within, u8::from(!matches!(self, Self::Response(_))))
    }
}
