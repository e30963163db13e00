//! Bugs planted on purpose, to see whether the invariants notice. Most change messages on their way from or to a core,
//! so that the cores stay as they are; four sit in the registrar's core, where no message shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dialtone_pool_user::{Freshness, View};
use dialtone_registrar_ns::core::{Bugs, Event};
use dialtone_transport::{DownCause, NetCommand, NetEvent, Protocol};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{self, Body};
use dialtone_wire::{CauseCode, PeId, Policy, ServerId, UpdateAction};

use crate::invariants::answered::Asked;
use crate::process::{Purpose, Said};
use crate::world::{Happening, World, ms};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// Every keep-alive is sent forty times.
    Chatter,
    /// A registrar does not hear a peer that it is taking over.
    DeafToTargets,
    /// Answers to resolutions are sent twice, sometimes.
    DoubleAnswers,
    /// Peers that ask whether a registrar lives are told twice, sometimes.
    DoublePresences,
    /// An element that was refused takes what grants for a refusal as well.
    FirmRefusals,
    /// A registrar keeps its rules of a pool, whatever its peers say (in the core).
    FirmRules,
    /// Checksums are folded before something is subtracted (in the core).
    FoldedSubtraction,
    /// Users forget a pool when their registrar is lost.
    ForgetfulUsers,
    /// A registrar is not told that an association has ended, sometimes.
    ForgottenEnds,
    /// Elements answer three of four keep-alives.
    LostAcks,
    /// Registrations are answered, but for one of eight.
    LostAnswers,
    /// Subscribers are not told what changes.
    LostPushes,
    /// Acknowledgements of takeovers are not sent, sometimes.
    LostTakeoverAcks,
    /// A core does nothing when its deadline comes, sometimes.
    MissedDeadlines,
    /// A registrar tells its peers nothing for 6 s, and does not hear what they ask.
    MuteRegistrar,
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
    /// For 8 s after the loss of a registrar its elements find no other, and the others do not hear that they agree
    /// about who takes it over.
    SlowSuccession,
    /// TAKEOVER_SERVER moves everything, whoever owns it (in the core).
    TakeoverMovesAll,
    /// Registrars do not hear one of eight answers to their keep-alives.
    UnheardAcks,
    /// Users do not hear the answers to their questions, sometimes.
    UnheardAnswers,
    /// Peers understand policy values wrongly.
    WrongValues,
}

impl Plant {
    pub const ALL: [Self; 26] = [
        Self::Chatter,
        Self::DeafToTargets,
        Self::DoubleAnswers,
        Self::DoublePresences,
        Self::FirmRefusals,
        Self::FirmRules,
        Self::FoldedSubtraction,
        Self::ForgetfulUsers,
        Self::ForgottenEnds,
        Self::LostAcks,
        Self::LostAnswers,
        Self::LostPushes,
        Self::LostTakeoverAcks,
        Self::MissedDeadlines,
        Self::MuteRegistrar,
        Self::NoResyncOnReturn,
        Self::ShortTables,
        Self::SilentGroup,
        Self::SilentRemovals,
        Self::SilentTakeovers,
        Self::SilentUpdates,
        Self::SlowSuccession,
        Self::TakeoverMovesAll,
        Self::UnheardAcks,
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
    /// When they first began, since the target was heard.
    begun: BTreeMap<(usize, ServerId), Duration>,
    /// Elements that were refused, by process, life and who they are.
    refused: BTreeSet<(usize, u32, Vec<u8>, PeId)>,
    /// When elements lost their home, by process and life.
    homeless: BTreeMap<(usize, u32), Duration>,
}

/// How long a registrar says nothing.
const MUTE: Range<Duration> = ms(18_000)..ms(24_000);
/// How long nobody takes the place of a registrar.
const VACANT: Duration = ms(8000);

impl Planted {
    pub(crate) fn new(plant: Plant) -> Self {
        Self {
            plant,
            rng: fastrand::Rng::with_seed(1),
            takeovers: BTreeSet::new(),
            begun: BTreeMap::new(),
            refused: BTreeSet::new(),
            homeless: BTreeMap::new(),
        }
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
        let now = world.now;
        let Some(planted) = &mut world.planted else { return false };
        let purpose = &world.processes[process].purpose;
        let boot = world.processes[process].boot;
        match (planted.plant, purpose, event) {
            (Plant::DeafToTargets, Purpose::Registrar, NetEvent::Message { payload, .. }) => {
                protocol == Some(Protocol::Enrp)
                    && enrp_sender(payload)
                        .is_some_and(|sender| planted.takeovers.contains(&(process, sender)))
            }
            (Plant::FirmRefusals, Purpose::Element(_), NetEvent::Message { payload, .. }) => {
                if let Some(other) = planted.refuses_again(process, boot, payload) {
                    *payload = other;
                }
                false
            }
            (Plant::ForgottenEnds, Purpose::Registrar, NetEvent::Down { cause, .. }) => {
                *cause == DownCause::Closed && planted.rng.u8(..4) == 0
            }
            (Plant::MuteRegistrar, Purpose::Registrar, NetEvent::Message { payload, .. }) => {
                // What others tell it is heard: it finds nobody dead.
                let asks = match payload.first() {
                    Some(&PRESENCE) => payload.get(1) == Some(&REPLY_REQUIRED),
                    Some(&kind) => [TABLE_REQUEST, LIST_REQUEST, INIT_TAKEOVER].contains(&kind),
                    None => false,
                };
                process == 0 && protocol == Some(Protocol::Enrp) && asks && MUTE.contains(&now)
            }
            (Plant::SlowSuccession, Purpose::Registrar, NetEvent::Message { payload, .. }) => {
                protocol == Some(Protocol::Enrp)
                    && takeover_acked(payload)
                        .and_then(|target| planted.begun.get(&(process, target)))
                        .is_some_and(|begun| now < *begun + VACANT)
            }
            (Plant::UnheardAcks, Purpose::Registrar, NetEvent::Message { payload, .. }) => {
                protocol == Some(Protocol::Asap)
                    && payload.first() == Some(&KEEP_ALIVE_ACK)
                    && planted.rng.u8(..8) == 0
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
        let (now, boot) = (world.now, world.processes[process].boot);
        let is_element = matches!(world.processes[process].purpose, Purpose::Element(_));
        let Some(planted) = &mut world.planted else { return };
        let mut refused = Vec::new();
        let mut after = Vec::with_capacity(said.len());
        for (output, protocol) in said.drain(..).zip(protocols) {
            match output {
                Said::Net(NetCommand::Send { assoc, payload }) => {
                    let answers = asked.is_some_and(|asked| asked.assoc() == assoc);
                    let copies = match protocol {
                        Some(Protocol::Asap) => planted.asap(answers, payload),
                        Some(Protocol::Enrp)
                            if planted.plant == Plant::MuteRegistrar
                                && process == 0
                                && MUTE.contains(&now) =>
                        {
                            Vec::new()
                        }
                        Some(Protocol::Enrp) => planted.enrp(answers, payload),
                        None => vec![payload],
                    };
                    let send = |payload| Said::Net(NetCommand::Send { assoc, payload });
                    after.extend(copies.into_iter().map(send));
                }
                Said::Net(NetCommand::Connect { assoc, .. })
                    if planted.plant == Plant::SlowSuccession
                        && is_element
                        && planted
                            .homeless
                            .get(&(process, boot))
                            .is_some_and(|since| now < *since + VACANT) =>
                {
                    refused.push(assoc);
                }
                Said::Presence(_) if planted.plant == Plant::SilentGroup => {}
                Said::View(view)
                    if planted.plant == Plant::ForgetfulUsers
                        && matches!(view.freshness, Freshness::Stale { .. }) =>
                {
                    after.push(Said::View(Arc::new(View::unknown(view.handle.clone()))));
                }
                output => {
                    planted.follow(now, process, boot, &output);
                    after.push(output);
                }
            }
        }
        *said = after;
        for assoc in refused {
            let event = NetEvent::Down { assoc, cause: DownCause::Unreachable };
            world.later(now + ms(1), Happening::Local { process, boot, event });
        }
    }

    /// Whether a core sleeps through its deadline.
    pub(crate) fn sleeps(&mut self) -> bool {
        self.plant == Plant::MissedDeadlines && self.rng.u16(..1000) == 0
    }

    fn follow(&mut self, now: Duration, process: usize, boot: u32, output: &Said) {
        match output {
            Said::Home(None) => {
                self.homeless.insert((process, boot), now);
            }
            Said::Home(Some(_)) => {
                self.homeless.remove(&(process, boot));
            }
            Said::Registrar(Event::PeerUp { peer }) => {
                self.begun.remove(&(process, *peer));
            }
            Said::Registrar(Event::TakeoverStarted { target }) => {
                self.takeovers.insert((process, *target));
                self.begun.entry((process, *target)).or_insert(now);
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

    /// A grant for an element that was refused before, as a refusal.
    fn refuses_again(&mut self, process: usize, boot: u32, payload: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::decode(payload).ok()?.message;
        let Message::RegistrationResponse { reject, handle, pe_id, error } = &mut message else {
            return None;
        };
        let key = (process, boot, handle.0.to_vec(), *pe_id);
        if *reject {
            self.refused.insert(key);
            return None;
        }
        if !self.refused.contains(&key) {
            return None;
        }
        (*reject, *error) = (true, Some(CauseCode::INCONSISTENT_POLICY.into()));
        message.encode().ok()
    }

    fn enrp(&mut self, answers: bool, payload: Vec<u8>) -> Vec<Vec<u8>> {
        let Ok(decoded) = enrp::Message::decode(&payload) else { return vec![payload] };
        let mut message = decoded.message;
        let lost = match (self.plant, &mut message.body) {
            (Plant::DoublePresences, Body::Presence { .. }) if answers && self.rng.u8(..8) == 0 => {
                return vec![payload.clone(), payload];
            }
            (Plant::LostTakeoverAcks, Body::InitTakeoverAck { .. }) => self.rng.u8(..4) == 0,
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

const PRESENCE: u8 = 0x01;
const REPLY_REQUIRED: u8 = 0x01;
const TABLE_REQUEST: u8 = 0x02;
const LIST_REQUEST: u8 = 0x05;
const INIT_TAKEOVER: u8 = 0x07;

/// Who an ENRP message is from (RFC 5353 section 2).
pub(crate) fn enrp_sender(payload: &[u8]) -> Option<ServerId> {
    let bytes = payload.get(4..8)?.try_into().ok()?;
    Some(ServerId(u32::from_be_bytes(bytes)))
}

/// Whose takeover is acknowledged.
fn takeover_acked(payload: &[u8]) -> Option<ServerId> {
    match enrp::Message::decode(payload).ok()?.message.body {
        Body::InitTakeoverAck { target } => Some(target),
        _ => None,
    }
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
