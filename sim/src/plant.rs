//! Bugs planted on purpose, to see whether the invariants notice. Most change messages on their way from or to a core,
//! so that the cores stay as they are; four sit where no message shows them.

use std::collections::BTreeSet;

use dialtone_registrar_ns::core::{Bugs, Event};
use dialtone_transport::{DownCause, NetCommand, NetEvent, Protocol};
use dialtone_wire::enrp::{self, Body};
use dialtone_wire::{Policy, ServerId, UpdateAction};

use crate::invariants::answered::Asked;
use crate::process::{Purpose, Said};
use crate::world::World;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// Every keep-alive is sent forty times.
    Chatter,
    /// A registrar does not hear a peer that it is taking over.
    DeafToTargets,
    /// Answers to resolutions are sent twice, sometimes.
    DoubleAnswers,
    /// A registrar keeps its rules of a pool, whatever its peers say (in the core).
    FirmRules,
    /// Checksums are folded before something is subtracted (in the core).
    FoldedSubtraction,
    /// A registrar is not told that an association has ended, sometimes.
    ForgottenEnds,
    /// Elements answer three of four keep-alives.
    LostAcks,
    /// Registrations are answered, but for one of eight.
    LostAnswers,
    /// Subscribers are not told what changes.
    LostPushes,
    /// No resync when an association with a peer is there again, or when the peer is (in the core).
    NoResyncOnReturn,
    /// The last element of a table is missing.
    ShortTables,
    /// Registrars do not show themselves to the group.
    SilentGroup,
    /// Removals are not announced.
    SilentRemovals,
    /// TAKEOVER_SERVER is not sent.
    SilentTakeovers,
    /// A registration that changes an element's values is not announced.
    SilentUpdates,
    /// TAKEOVER_SERVER moves everything, whoever owns it (in the core).
    TakeoverMovesAll,
    /// Users do not hear the answers to their questions, sometimes.
    UnheardAnswers,
    /// Peers understand policy values wrongly.
    WrongValues,
}

impl Plant {
    pub const ALL: [Self; 18] = [
        Self::Chatter,
        Self::DeafToTargets,
        Self::DoubleAnswers,
        Self::FirmRules,
        Self::FoldedSubtraction,
        Self::ForgottenEnds,
        Self::LostAcks,
        Self::LostAnswers,
        Self::LostPushes,
        Self::NoResyncOnReturn,
        Self::ShortTables,
        Self::SilentGroup,
        Self::SilentRemovals,
        Self::SilentTakeovers,
        Self::SilentUpdates,
        Self::TakeoverMovesAll,
        Self::UnheardAnswers,
        Self::WrongValues,
    ];
}

/// A planted bug at work.
#[derive(Debug)]
pub(crate) struct Planted {
    plant: Plant,
    /// Decides what "sometimes" is, so that the world draws as without the bug.
    rng: fastrand::Rng,
    /// Takeovers under way: whose, and of whom.
    takeovers: BTreeSet<(usize, ServerId)>,
}

impl Planted {
    pub(crate) fn new(plant: Plant) -> Self {
        Self { plant, rng: fastrand::Rng::with_seed(1), takeovers: BTreeSet::new() }
    }

    /// Those in the registrar's core.
    pub(crate) fn bugs(&self) -> Bugs {
        Bugs {
            firm_rules: self.plant == Plant::FirmRules,
            folded_subtraction: self.plant == Plant::FoldedSubtraction,
            no_resync_on_return: self.plant == Plant::NoResyncOnReturn,
            takeover_moves_all: self.plant == Plant::TakeoverMovesAll,
        }
    }

    /// Whether the process does not get this; it may get something else instead.
    pub(crate) fn swallows(world: &mut World, process: usize, event: &mut NetEvent) -> bool {
        let protocol = match event {
            NetEvent::Message { assoc, .. } => world.protocol_of(process, *assoc),
            _ => None,
        };
        let Some(planted) = &mut world.planted else { return false };
        let purpose = &world.processes[process].purpose;
        match (planted.plant, purpose, event) {
            (Plant::DeafToTargets, Purpose::Registrar, NetEvent::Message { payload, .. }) => {
                protocol == Some(Protocol::Enrp)
                    && enrp_sender(payload)
                        .is_some_and(|sender| planted.takeovers.contains(&(process, sender)))
            }
            (Plant::ForgottenEnds, Purpose::Registrar, NetEvent::Down { cause, .. }) => {
                *cause == DownCause::Closed && planted.rng.u8(..4) == 0
            }
            (Plant::UnheardAnswers, Purpose::User { .. }, NetEvent::Message { payload, .. }) => {
                payload.first() == Some(&RESOLUTION_RESPONSE)
                    && payload.get(1) == Some(&0)
                    && planted.rng.u8(..4) == 0
            }
            (Plant::WrongValues, Purpose::Registrar, NetEvent::Message { payload, .. })
                if protocol == Some(Protocol::Enrp) =>
            {
                if let Some(other) = with_other_values(payload) {
                    *payload = other;
                }
                false
            }
            _ => false,
        }
    }

    /// What comes out of a core, after the bug.
    pub(crate) fn alters(
        world: &mut World,
        process: usize,
        asked: Option<&Asked>,
        said: &mut Vec<Said>,
    ) {
        let protocols: Vec<Option<Protocol>> = said
            .iter()
            .map(|said| match said {
                Said::Net(NetCommand::Send { assoc, .. }) => world.protocol_of(process, *assoc),
                _ => None,
            })
            .collect();
        let Some(planted) = &mut world.planted else { return };
        let mut after = Vec::with_capacity(said.len());
        for (output, protocol) in said.drain(..).zip(protocols) {
            match output {
                Said::Net(NetCommand::Send { assoc, payload }) => {
                    let answers = asked.is_some_and(|asked| asked.assoc() == assoc);
                    let copies = match protocol {
                        Some(Protocol::Asap) => planted.asap(answers, payload),
                        Some(Protocol::Enrp) => planted.enrp(payload),
                        None => vec![payload],
                    };
                    let send = |payload| Said::Net(NetCommand::Send { assoc, payload });
                    after.extend(copies.into_iter().map(send));
                }
                Said::Presence(_) if planted.plant == Plant::SilentGroup => {}
                output => {
                    planted.follow(process, &output);
                    after.push(output);
                }
            }
        }
        *said = after;
    }

    fn follow(&mut self, process: usize, output: &Said) {
        match output {
            Said::Registrar(Event::TakeoverStarted { target }) => {
                self.takeovers.insert((process, *target));
            }
            Said::Registrar(
                Event::TakeoverWon { target, .. } | Event::TakeoverLost { target, .. },
            ) => {
                self.takeovers.remove(&(process, *target));
            }
            _ => {}
        }
    }

    fn asap(&mut self, answers: bool, payload: Vec<u8>) -> Vec<Vec<u8>> {
        let kind = payload.first().copied().unwrap_or(0);
        match (self.plant, kind) {
            (Plant::Chatter, KEEP_ALIVE) => vec![payload; 40],
            (Plant::LostAcks, KEEP_ALIVE_ACK) if self.rng.u8(..4) == 0 => Vec::new(),
            (Plant::LostAnswers, REGISTRATION_RESPONSE) if self.rng.u8(..8) == 0 => Vec::new(),
            (Plant::DoubleAnswers, RESOLUTION_RESPONSE) if answers && self.rng.u8(..8) == 0 => {
                vec![payload.clone(), payload]
            }
            (Plant::LostPushes, RESOLUTION_RESPONSE) if !answers => Vec::new(),
            _ => vec![payload],
        }
    }

    fn enrp(&mut self, payload: Vec<u8>) -> Vec<Vec<u8>> {
        let Ok(decoded) = enrp::Message::decode(&payload) else { return vec![payload] };
        let mut message = decoded.message;
        let lost = match (self.plant, &mut message.body) {
            (Plant::SilentRemovals, Body::HandleUpdate { action, .. }) => {
                *action == UpdateAction::DEL_PE
            }
            (Plant::SilentUpdates, Body::HandleUpdate { action, .. }) => {
                *action == UpdateAction::ADD_PE && self.rng.bool()
            }
            (Plant::SilentTakeovers, Body::TakeoverServer { .. }) => true,
            (Plant::ShortTables, Body::HandleTableResponse { pools, .. }) => {
                if let Some(last) = pools.last_mut() {
                    last.elements.pop();
                    if last.elements.is_empty() {
                        pools.pop();
                    }
                }
                return vec![message.encode().unwrap_or_default()];
            }
            _ => false,
        };
        if lost { Vec::new() } else { vec![payload] }
    }
}

const REGISTRATION_RESPONSE: u8 = 0x03;
const RESOLUTION_RESPONSE: u8 = 0x06;
const KEEP_ALIVE: u8 = 0x07;
const KEEP_ALIVE_ACK: u8 = 0x08;

/// Who an ENRP message is from (RFC 5353 section 2).
pub(crate) fn enrp_sender(payload: &[u8]) -> Option<ServerId> {
    let bytes = payload.get(4..8)?.try_into().ok()?;
    Some(ServerId(u32::from_be_bytes(bytes)))
}

fn with_other_values(payload: &[u8]) -> Option<Vec<u8>> {
    let mut message = enrp::Message::decode(payload).ok()?.message;
    let Body::HandleUpdate { element, .. } = &mut message.body else { return None };
    element.policy = match &element.policy {
        // A weight of 0 would take the element out of service, which users notice first.
        Policy::WeightedRandom { weight } => Policy::WeightedRandom { weight: weight ^ 1 | 2 },
        Policy::WeightedRoundRobin { weight } => {
            Policy::WeightedRoundRobin { weight: weight ^ 1 | 2 }
        }
        other => Policy::of_pool(other.number()),
    };
    message.encode().ok()
}
