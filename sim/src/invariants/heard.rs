//! Nobody is taken over who was heard from since: a registrar that declares a peer dead has had no message of it for
//! as long as evidence needs, and does not win the takeover when the peer speaks before.

use std::collections::BTreeMap;
use std::time::Duration;

use dialtone_registrar_ns::core::Event;
use dialtone_transport::{NetEvent, Protocol};
use dialtone_wire::ServerId;

use crate::plant::enrp_sender;
use crate::process::Purpose;
use crate::world::{World, ms};

/// The shortest way to a takeover: evidence, and no answer to a question for MAX-TIME-NO-RESPONSE after evidence.
const SILENCE: Duration = ms(500);

/// By who listens and who speaks.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    last: BTreeMap<(usize, ServerId), Duration>,
    started: BTreeMap<(usize, ServerId), Duration>,
}

impl Heard {
    /// Takeovers under way: whose, of whom, and since when.
    pub(super) fn takeovers(&self) -> impl Iterator<Item = (usize, ServerId, Duration)> {
        self.started.iter().map(|((process, target), since)| (*process, *target, *since))
    }

    pub(super) fn is_taking_over(&self, process: usize, target: ServerId) -> bool {
        self.started.contains_key(&(process, target))
    }

    /// Another life begins.
    pub(crate) fn forget(&mut self, process: usize) {
        self.last.retain(|(listener, _), _| *listener != process);
        self.started.retain(|(listener, _), _| *listener != process);
    }
}

/// A message is about to reach a core.
pub(crate) fn note(world: &mut World, process: usize, event: &NetEvent) {
    let NetEvent::Message { assoc, payload } = event else { return };
    world.coverage.messages += 1;
    if !matches!(world.processes[process].purpose, Purpose::Registrar)
        || world.protocol_of(process, *assoc) != Some(Protocol::Enrp)
    {
        return;
    }
    let Some(sender) = enrp_sender(payload) else { return };
    // Meant for whoever was here before: not heard.
    let receiver =
        payload.get(8..12).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap_or_default()));
    let own = world.processes[process].server_id.map(|id| id.0);
    if receiver == Some(0) || receiver == own {
        world.heard.last.insert((process, sender), world.now);
    }
}

pub(super) fn check(
    world: &mut World,
    registrar: usize,
    event: &Event,
) -> Option<(&'static str, String)> {
    let now = world.now;
    let name = &world.processes[registrar].name;
    let heard = &mut world.heard;
    match event {
        Event::TakeoverStarted { target } => {
            heard.started.insert((registrar, *target), now);
            let last = heard.last.get(&(registrar, *target))?;
            (now < *last + SILENCE).then(|| {
                ("heard", format!("{name} takes {target} over, which spoke {:?} ago", now - *last))
            })
        }
        Event::TakeoverLost { target, .. } => {
            heard.started.remove(&(registrar, *target));
            None
        }
        Event::TakeoverWon { target, .. } => {
            let started = heard.started.remove(&(registrar, *target))?;
            let last = heard.last.get(&(registrar, *target))?;
            (*last > started).then(|| {
                let after = *last - started;
                (
                    "heard",
                    format!(
                        "{name} has taken {target} over, which spoke {after:?} after the start"
                    ),
                )
            })
        }
        _ => None,
    }
}
