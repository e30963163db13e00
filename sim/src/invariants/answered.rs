//! Every request gets exactly one answer: from a registrar in the same call, whatever it asks for; from an element to
//! a keep-alive; and a user's question or an element's wish to leave ends once, in time, as does a takeover.
//!
//! | exception | why |
//! |---|---|
//! | ENRP for another identifier than the registrar's | RFC 5353 section 2: meant for who was here before |
//! | elements of one pool in one process | G10: a keep-alive names a pool, each element in it answers, and one that has asked for its registration only may |
//! | a registrar that stood still for MAX-TIME-LAST-HEARD | it serves nothing that elements said before that, and ends their associations |
//! | a registrar that was called late | a push for the same pool that is overdue comes before the answer, and looks like one |
//! | INIT_TAKEOVER for a target that the registrar itself takes over, with precedence | RFC 5353 section 3.5.1: who comes second is not acknowledged |
//! | INIT_TAKEOVER for the registrar itself | RFC 5353 section 3.5.1: all peers are told that it lives |

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementKey, State};
use dialtone_registrar_ns::core::TimerConfig;
use dialtone_transport::{AssocId, Link, NetCommand, NetEvent, Protocol};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{self, Body};
use dialtone_wire::{PeId, ServerId};

use super::TOLERANCE;
use crate::process::{Core, Life, Said};
use crate::world::{World, ms};

/// A question of a user and a departure of an element may take so long, over all registrars.
const LIMIT: Duration = ms(3000);
/// A takeover may take so long: announced three times, the last two of them up to a quarter late.
const TAKEOVER: Duration = ms(3500);

/// A request that is about to reach a core.
#[derive(Debug)]
pub(crate) struct Asked {
    assoc: AssocId,
    what: What,
    /// How many answers are right.
    answers: RangeInclusive<usize>,
}

#[derive(Debug)]
enum What {
    Deregistration(Handle, PeId),
    KeepAlive(Handle),
    List(ServerId),
    /// By whom.
    Presence(ServerId),
    Registration(Handle, PeId),
    Resolution(Handle),
    Table(ServerId),
    /// Of a peer, by another.
    Takeover(ServerId, ServerId),
    /// Of the registrar that is asked.
    TakeoverOfItself,
}

impl Asked {
    pub(crate) fn assoc(&self) -> AssocId {
        self.assoc
    }
}

/// Whether the event is a request that must be answered.
pub(crate) fn asked(world: &World, process: usize, event: &NetEvent) -> Option<Asked> {
    let NetEvent::Message { assoc, payload } = event else { return None };
    let kind = *payload.first()?;
    let core = world.processes[process].core.as_ref()?;
    // Only these types are requests; nothing else is worth decoding.
    let protocol = world.protocol_of(process, *assoc)?;
    let mut answers = 1..=1;
    let what = match (core, protocol, kind) {
        (Core::Registrar(core), Protocol::Asap, 0x01 | 0x02 | 0x05) => {
            let what = match Message::decode(payload).ok()?.message {
                Message::Registration { handle, element } => {
                    What::Registration(Handle::try_from(handle).ok()?, element.pe_id)
                }
                Message::Deregistration { handle, pe_id } => {
                    What::Deregistration(Handle::try_from(handle).ok()?, pe_id)
                }
                Message::HandleResolution { handle, .. } => {
                    What::Resolution(Handle::try_from(handle).ok()?)
                }
                _ => return None,
            };
            let due = core.next_deadline().map(|at| world.since_start(at));
            let late = due.map_or(Duration::ZERO, |due| world.now.saturating_sub(due));
            let t = TimerConfig::telephony();
            if late > t.last_heard && world.link_of(process, *assoc) == Some(Link::Sctp) {
                answers = 0..=0;
            } else if late >= t.starvation && matches!(what, What::Resolution(_)) {
                answers = 1..=2;
            }
            what
        }
        (Core::Registrar(core), Protocol::Enrp, 0x01 | 0x02 | 0x05 | 0x07) => {
            let message = enrp::Message::decode(payload).ok()?.message;
            if message.receiver != ServerId::NONE && message.receiver != core.id() {
                return None;
            }
            let sender = message.sender;
            match message.body {
                Body::Presence { reply_required: true, .. } => What::Presence(sender),
                Body::HandleTableRequest { .. } => What::Table(sender),
                Body::ListRequest => What::List(sender),
                Body::InitTakeover { target } if target == core.id() => {
                    answers = 1..=usize::MAX;
                    What::TakeoverOfItself
                }
                Body::InitTakeover { target } => {
                    if world.heard.is_taking_over(process, target) && core.id() > sender {
                        answers = 0..=0;
                    }
                    What::Takeover(target, sender)
                }
                _ => return None,
            }
        }
        (Core::Element(client), Protocol::Asap, 0x07) => {
            let Message::EndpointKeepAlive { handle, .. } = Message::decode(payload).ok()?.message
            else {
                return None;
            };
            let handle = Handle::try_from(handle).ok()?;
            let here = || {
                let elements = world.processes[process].elements();
                elements.filter(|(pool, _)| **pool == handle)
            };
            let registered = here().filter(|(pool, pe_id)| {
                let key = ElementKey { handle: (*pool).clone(), pe_id: *pe_id };
                matches!(client.role().state(&key), Some(State::Registered { .. }))
            });
            answers = registered.count()..=here().count();
            What::KeepAlive(handle)
        }
        _ => return None,
    };
    Some(Asked { assoc: *assoc, what, answers })
}

/// The core was called with it and said this.
pub(crate) fn check(world: &mut World, process: usize, asked: &Asked, said: &[Said]) {
    // Who lives tells its peers over the associations that it has chosen.
    let anywhere = matches!(asked.what, What::TakeoverOfItself);
    // What follows the end of an association reaches nobody.
    let ends = |said: &&Said| matches!(said, Said::Net(NetCommand::Abort { assoc }) if *assoc == asked.assoc);
    let sent = said.iter().take_while(|said| !ends(said)).filter_map(|said| match said {
        Said::Net(NetCommand::Send { assoc, payload }) if *assoc == asked.assoc || anywhere => {
            Some(payload)
        }
        _ => None,
    });
    let answers = sent.filter(|payload| asked.what.is_answered_by(payload)).count();
    let right = asked.answers.contains(&answers);
    if !right {
        let name = &world.processes[process].name;
        let (what, right) = (&asked.what, &asked.answers);
        let what = format!("{name} gives {answers} answers to {what:?}, not {right:?}");
        world.violation("answered", what);
    }
}

impl What {
    fn is_answered_by(&self, payload: &[u8]) -> bool {
        // What is told to everybody is for nobody (RFC 5353 section 2.1): an announcement that is due answers nothing.
        let enrp = |asker: ServerId, wanted: &dyn Fn(&Body<'_>) -> bool| {
            enrp::Message::decode(payload).is_ok_and(|decoded| {
                decoded.message.receiver == asker && wanted(&decoded.message.body)
            })
        };
        let asap = |pool: &Handle, wanted: &dyn Fn(&Message<'_>) -> Option<Handle>| {
            Message::decode(payload)
                .is_ok_and(|decoded| wanted(&decoded.message).as_ref() == Some(pool))
        };
        match self {
            Self::Deregistration(pool, pe) => asap(pool, &|message| match message {
                Message::DeregistrationResponse { handle, pe_id, .. } if pe_id == pe => {
                    Handle::try_from(*handle).ok()
                }
                _ => None,
            }),
            Self::KeepAlive(pool) => asap(pool, &|message| match message {
                Message::EndpointKeepAliveAck { handle, .. } => Handle::try_from(*handle).ok(),
                _ => None,
            }),
            Self::Registration(pool, pe) => asap(pool, &|message| match message {
                Message::RegistrationResponse { handle, pe_id, .. } if pe_id == pe => {
                    Handle::try_from(*handle).ok()
                }
                _ => None,
            }),
            Self::Resolution(pool) => asap(pool, &|message| match message {
                Message::HandleResolutionResponse { handle, .. } => Handle::try_from(*handle).ok(),
                _ => None,
            }),
            Self::List(asker) => enrp(*asker, &|body| matches!(body, Body::ListResponse { .. })),
            Self::Presence(asker) => {
                enrp(*asker, &|body| matches!(body, Body::Presence { reply_required: false, .. }))
            }
            Self::Table(asker) => {
                enrp(*asker, &|body| matches!(body, Body::HandleTableResponse { .. }))
            }
            Self::Takeover(target, asker) => enrp(
                *asker,
                &|body| matches!(body, Body::InitTakeoverAck { target: other } if other == target),
            ),
            Self::TakeoverOfItself => enrp(ServerId::NONE, &|body| {
                matches!(body, Body::Presence { reply_required: false, .. })
            }),
        }
    }
}

/// What users and owners of elements wait for, and since when.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<(usize, Question), Duration>,
    /// Answers to nobody's question.
    unasked: Vec<(usize, Question)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Leave(ElementKey),
    Resolve(u64),
}

impl Questions {
    pub(crate) fn asks(&mut self, process: usize, id: u64, now: Duration) {
        self.open.insert((process, Question::Resolve(id)), now);
    }

    pub(crate) fn leaves(&mut self, process: usize, key: ElementKey, now: Duration) {
        self.open.insert((process, Question::Leave(key)), now);
    }

    pub(crate) fn resolved(&mut self, process: usize, id: u64) {
        self.end((process, Question::Resolve(id)));
    }

    pub(crate) fn left(&mut self, process: usize, key: &ElementKey) {
        self.end((process, Question::Leave(key.clone())));
    }

    fn end(&mut self, question: (usize, Question)) {
        if self.open.remove(&question).is_none() {
            self.unasked.push(question);
        }
    }

    /// The process is dead: nobody waits.
    pub(crate) fn forget(&mut self, process: usize) {
        self.open.retain(|(asker, _), _| *asker != process);
    }

    /// The process stood still until now: its time begins anew.
    pub(crate) fn thawed(&mut self, process: usize, now: Duration) {
        let own = self.open.iter_mut().filter(|((asker, _), _)| *asker == process);
        own.for_each(|(_, since)| *since = now);
    }
}

pub(super) fn overdue(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    for (process, question) in &world.questions.unasked {
        let name = &world.processes[*process].name;
        wrong.push(("answered", format!("{name} is answered twice, or unasked: {question:?}")));
    }
    for ((process, question), since) in &world.questions.open {
        let asker = &world.processes[*process];
        if asker.is_running() && world.now > *since + LIMIT + TOLERANCE {
            let name = &asker.name;
            wrong.push(("answered", format!("{name} waits for ever: {question:?}")));
        }
    }
    for (process, target, started) in world.heard.takeovers() {
        let process = &world.processes[process];
        let Life::Running { since } = process.life else { continue };
        if world.now > started.max(since) + TAKEOVER + TOLERANCE {
            let name = &process.name;
            wrong.push(("answered", format!("{name} takes {target} over without an end")));
        }
    }
}
