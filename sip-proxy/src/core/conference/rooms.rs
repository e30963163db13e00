//! One request for a room: whose the room is, and what happens when that element fails.

use std::time::Instant;

use dialtone_location::{Answer, Claim, ClaimChange, ClaimOutcome, Request};
use dialtone_sip::transaction::ServerId;
use dialtone_sip::{Message, Method};

use super::Conference;
use crate::core::context::{Branch, Context, Outcome, State};
use crate::core::hop::Hop;
use crate::core::media::Cookie;
use crate::core::{Proxy, Waiting};

/// Changes of a claim that one request tries: more than elements can fail or others can come first in the time of one.
const MAX_CHANGES: u32 = 6;

/// What a request wants of a room.
#[derive(Debug)]
pub(in crate::core) struct Room {
    /// As the store knows it.
    name: Box<str>,
    /// An INVITE that begins a dialog: it claims the name. Others find nothing where nobody is.
    claims: bool,
    /// Elements that failed while it was there.
    tried: Vec<u32>,
    /// Whether a living owner has refused it once, having no room for more requests.
    repelled: bool,
    claim: Option<Claim>,
    stage: Stage,
    /// When the store was asked last.
    asked_at: Instant,
    changes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Claiming,
    Seated,
}

/// Why a request does not get into its room.
enum Lacks {
    Budget,
    Element,
    Store,
}

impl Conference {
    fn lease_ms(&self) -> u64 {
        self.settings.lease.as_millis() as u64
    }

    /// The change that keeps a claim for another while, when half of its lease is over.
    fn renewal(&self, claim: &Claim, now_ms: u64) -> Option<ClaimChange> {
        let lease = self.lease_ms();
        (claim.lease_until < now_ms.saturating_add(lease / 2)).then(|| ClaimChange::Swap {
            name: claim.name.clone(),
            generation: claim.generation,
            owner: claim.owner,
            lease_until: now_ms + lease,
        })
    }
}

impl Proxy {
    /// A request for a room outside of dialogs.
    pub(in crate::core) fn join(&mut self, now: Instant, mut context: Context, name: &str) {
        let server = context.server;
        let Some(conference) = &mut self.conference else { return };
        conference.stats.requests += 1;
        let name: Box<str> = format!("{}/{name}", conference.settings.pool).into();
        let begins = context.request.to().is_ok_and(|to| to.tag().is_none());
        context.room = Some(Room {
            name: name.clone(),
            claims: context.invite && begins,
            tried: Vec::new(),
            repelled: false,
            claim: None,
            stage: Stage::Reading,
            asked_at: now,
            changes: 0,
        });
        self.contexts.insert(server, Box::new(context));
        let patience = Some(self.settings.lookup_timeout);
        self.ask(now, Request::ReadClaim { name }, Waiting::Claim { server }, patience);
    }

    /// What the store says of a room's claim; `None`: nothing in time.
    pub(in crate::core) fn claim_answered(
        &mut self,
        now: Instant,
        server: ServerId,
        answer: Option<Answer>,
    ) {
        self.with_context(now, server, |proxy, context| {
            let (Some(room), Some(conference)) = (&mut context.room, &mut proxy.conference) else {
                return;
            };
            if context.answered {
                return;
            }
            match answer {
                Some(Answer::ReadClaim(claim)) => room.claim = claim,
                Some(Answer::Claim(outcome)) => {
                    let (done, claim) = match outcome {
                        ClaimOutcome::Done(claim) => (true, Some(claim)),
                        ClaimOutcome::Refused(claim) => (false, claim),
                    };
                    match &room.claim {
                        Some(_) => conference.stats.moved += u64::from(done),
                        None => conference.stats.claimed += u64::from(done),
                    }
                    room.claim = claim;
                }
                _ => {
                    // What was seen last, if that is of any use, and if it was not that which has failed.
                    let known = conference.known.get(&room.name).cloned();
                    let usable = known.filter(|claim| {
                        conference.is_usable(claim.owner) && !room.tried.contains(&claim.owner)
                    });
                    match usable {
                        Some(claim) => {
                            conference.stats.remembered += 1;
                            room.claim = Some(claim);
                        }
                        // A database that is slow to read may still be there for a change, which says who owns it, too.
                        None if room.claims && room.stage == Stage::Reading => {}
                        None => return proxy.turn_away(now, context, Lacks::Store),
                    }
                }
            }
            proxy.seat(now, context);
        });
    }

    /// Sends a request to the owner of its room, or changes who that is.
    fn seat(&mut self, now: Instant, context: &mut Context) {
        let now_ms = self.settings.wall(now);
        let lookup_timeout = self.settings.lookup_timeout;
        let (Some(room), Some(conference)) = (&mut context.room, &mut self.conference) else {
            return;
        };
        let owner = room.claim.as_ref().map(|claim| claim.owner);
        let owner =
            owner.filter(|owner| conference.is_usable(*owner) && !room.tried.contains(owner));
        if let Some(owner) = owner {
            let renewal = room.claim.as_ref().filter(|_| room.claims);
            let renewal = renewal.and_then(|claim| conference.renewal(claim, now_ms));
            room.stage = Stage::Seated;
            // What took longer may be old news.
            let claim = room.claim.as_ref();
            if let Some(claim) = claim.filter(|_| now <= room.asked_at + lookup_timeout) {
                conference.known.learn(claim);
            }
            if let Some(renewal) = renewal {
                conference.stats.renewed += 1;
                self.ask(now, Request::Claim(renewal), Waiting::Nothing, None);
            }
            return self.go(now, context, owner);
        }
        let Some(next) = conference.propose(&room.name, &room.tried) else {
            return self.turn_away(now, context, Lacks::Element);
        };
        if !room.claims {
            room.stage = Stage::Seated;
            return self.go(now, context, next);
        }
        room.changes += 1;
        if room.changes > MAX_CHANGES {
            return self.turn_away(now, context, Lacks::Store);
        }
        let lease_until = now_ms + conference.lease_ms();
        let name = room.name.clone();
        // Whatever is answered, or not: it may be somebody else's from now on.
        conference.known.forget(&name);
        let change = match &room.claim {
            Some(Claim { generation, .. }) => {
                ClaimChange::Swap { name, generation: *generation, owner: next, lease_until }
            }
            None if conference.budget.take(now, conference.used.has(&name)) => {
                ClaimChange::Insert { name, owner: next, lease_until, now_ms }
            }
            None => return self.turn_away(now, context, Lacks::Budget),
        };
        room.stage = Stage::Claiming;
        room.asked_at = now;
        let patience = Some(conference.settings.claim_timeout);
        let waiting = Waiting::Claim { server: context.server };
        self.ask(now, Request::Claim(change), waiting, patience);
    }

    fn go(&mut self, now: Instant, context: &mut Context, element: u32) {
        context.hop = Some(Hop::Focus(element));
        if let Some(index) = looking(context) {
            self.finish_branch(context, index, Outcome::Replaced);
        }
        self.settle(now, context);
    }

    fn turn_away(&mut self, now: Instant, context: &mut Context, lacks: Lacks) {
        if let Some(conference) = &mut self.conference {
            let stats = &mut conference.stats;
            *match lacks {
                Lacks::Budget => &mut stats.too_many,
                Lacks::Element => &mut stats.no_element,
                Lacks::Store => &mut stats.no_store,
            } += 1;
        }
        match looking(context) {
            Some(index) => self.finish_branch(context, index, Outcome::Code(503)),
            None => context.branches.push(Branch::done(None, Outcome::Code(503))),
        }
        self.settle(now, context);
    }

    /// An element does not answer while a request is there, or has no room for one more.
    pub(in crate::core) fn element_failed(
        &mut self,
        now: Instant,
        context: &mut Context,
        index: usize,
        element: u32,
    ) {
        let mut lives = false;
        if let Some(conference) = &mut self.conference {
            conference.stats.failed += 1;
            lives = conference.is_usable(element);
        }
        let wanted = !context.cancelled && !context.answered && !context.gone;
        match &mut context.room {
            // A room is never moved away from an owner that lives. It is asked once more, after the database has said
            // whether it still is the owner.
            Some(room) if wanted && lives => {
                context.branches[index].state = State::Looking;
                if std::mem::replace(&mut room.repelled, true) {
                    return self.turn_away(now, context, Lacks::Element);
                }
                (room.stage, room.asked_at) = (Stage::Reading, now);
                let read = Request::ReadClaim { name: room.name.clone() };
                let waiting = Waiting::Claim { server: context.server };
                self.ask(now, read, waiting, Some(self.settings.lookup_timeout));
            }
            Some(room) if wanted => {
                room.tried.push(element);
                context.branches[index].state = State::Looking;
                self.seat(now, context);
            }
            None if wanted && lives => self.finish_branch(context, index, Outcome::Code(503)),
            // What it mixed has ended with it; RFC 5057 section 5.1: 481 ends the dialog, which nothing else would.
            None if wanted && context.request.to().is_ok_and(|to| to.tag().is_some()) => {
                self.finish_branch(context, index, Outcome::Code(481));
            }
            _ => {
                let code = if context.cancelled { 487 } else { 480 };
                self.finish_branch(context, index, Outcome::Code(code));
            }
        }
    }

    /// A participant's session is refreshed, from either side: its room is in use.
    pub(in crate::core) fn keep_room(&mut self, now: Instant, request: &Message, cookie: Cookie) {
        let Some(conference) = self.conference.as_ref().filter(|_| cookie.is_of_conference())
        else {
            return;
        };
        if !matches!(request.method(), Some(Method::Invite | Method::Update)) {
            return;
        }
        let room = if cookie.from_caller { request.to() } else { request.from() };
        let name = room.ok().and_then(|room| {
            let uri = room.uri.sip()?;
            self.names.domain_of(uri)?;
            conference.name_of(uri)?.ok()
        });
        if let Some(name) = name {
            let name = format!("{}/{name}", conference.settings.pool).into();
            let patience = Some(self.settings.store_timeout);
            self.ask(now, Request::ReadClaim { name }, Waiting::Renewal, patience);
        }
    }

    /// The claim of a room that is in use.
    pub(in crate::core) fn renewal_read(&mut self, now: Instant, answer: &Answer) {
        let now_ms = self.settings.wall(now);
        let (Answer::ReadClaim(Some(claim)), Some(conference)) = (answer, &mut self.conference)
        else {
            return;
        };
        conference.used.learn(&claim.name);
        if let Some(renewal) = conference.renewal(claim, now_ms) {
            conference.stats.renewed += 1;
            self.ask(now, Request::Claim(renewal), Waiting::Nothing, None);
        }
    }
}

/// The branch that waits for another element.
fn looking(context: &Context) -> Option<usize> {
    context.branches.iter().position(|branch| matches!(branch.state, State::Looking))
}
