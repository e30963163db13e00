//! Every request gets exactly one answer: from a registrar in the same call, whatever it asks for; from an element to
//! a keep-alive; and a user's question or an element's wish to leave ends once, in time.

use std::collections::BTreeMap;
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementKey, State};
use dialtone_transport::{AssocId, NetCommand, NetEvent, Protocol};
use dialtone_wire::PeId;
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{self, Body};

use super::TOLERANCE;
use crate::process::{Core, Said};
use crate::world::{World, ms};

/// A question of a user and a departure of an element may take so long, over all registrars.
const LIMIT: Duration = ms(3000);
/// Called so late, a registrar pushes what was due in the same call, and ends old associations first.
const LATE: Duration = ms(200);

/// A request that is about to reach a core.
#[derive(Debug)]
pub(crate) struct Asked {
    assoc: AssocId,
    what: What,
}

#[derive(Debug)]
enum What {
    Deregistration(Handle, PeId),
    /// Elements of that pool here: those that are registered, and all. Each answers for itself (G10), and those that
    /// have registered once may still be known.
    KeepAlive(Handle, usize, usize),
    List,
    Presence,
    Registration(Handle, PeId),
    Resolution(Handle),
    Table,
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
    let what = match (core, protocol, kind) {
        (Core::Registrar(core), Protocol::Asap, 0x01 | 0x02 | 0x05) => {
            let late =
                core.next_deadline().is_some_and(|at| world.since_start(at) + LATE <= world.now);
            if late || !core.in_service() {
                return None;
            }
            match Message::decode(payload).ok()?.message {
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
            }
        }
        (Core::Registrar(core), Protocol::Enrp, 0x01 | 0x02 | 0x05) => {
            let message = enrp::Message::decode(payload).ok()?.message;
            if message.receiver != dialtone_wire::ServerId::NONE && message.receiver != core.id() {
                return None;
            }
            match message.body {
                Body::Presence { reply_required: true, .. } => What::Presence,
                Body::HandleTableRequest { .. } => What::Table,
                Body::ListRequest => What::List,
                _ => return None,
            }
        }
        (Core::Element(client), Protocol::Asap, 0x07) => {
            let Message::EndpointKeepAlive { handle, .. } = Message::decode(payload).ok()?.message
            else {
                return None;
            };
            let handle = Handle::try_from(handle).ok()?;
            let registered = world.processes[process].elements().filter(|(pool, pe_id)| {
                let key = ElementKey { handle: (*pool).clone(), pe_id: *pe_id };
                **pool == handle
                    && matches!(client.role().state(&key), Some(State::Registered { .. }))
            });
            let registered = registered.count();
            let here = world.processes[process].elements();
            let here = here.filter(|(pool, _)| **pool == handle).count();
            What::KeepAlive(handle, registered, here)
        }
        _ => return None,
    };
    Some(Asked { assoc: *assoc, what })
}

/// The core was called with it and said this.
pub(crate) fn check(world: &mut World, process: usize, asked: &Asked, said: &[Said]) {
    let sent = said.iter().filter_map(|said| match said {
        Said::Net(NetCommand::Send { assoc, payload }) if *assoc == asked.assoc => Some(payload),
        _ => None,
    });
    let answers = sent.filter(|payload| asked.what.is_answered_by(payload)).count();
    let right = match asked.what {
        What::KeepAlive(_, registered, here) => answers >= registered && answers <= here,
        // It may be due anyway.
        What::Presence => answers >= 1,
        _ => answers == 1,
    };
    if !right {
        let name = &world.processes[process].name;
        let what = format!("{name} gives {answers} answers to {:?}", asked.what);
        world.violation("answered", what);
    }
}

impl What {
    fn is_answered_by(&self, payload: &[u8]) -> bool {
        let enrp = |wanted: fn(&Body<'_>) -> bool| {
            enrp::Message::decode(payload).is_ok_and(|decoded| wanted(&decoded.message.body))
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
            Self::KeepAlive(pool, ..) => asap(pool, &|message| match message {
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
            Self::List => enrp(|body| matches!(body, Body::ListResponse { .. })),
            Self::Presence => {
                enrp(|body| matches!(body, Body::Presence { reply_required: false, .. }))
            }
            Self::Table => enrp(|body| matches!(body, Body::HandleTableResponse { .. })),
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
}
