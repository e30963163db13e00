//! A registrar that stood still until it was taken over, and goes on, fights nobody: in the eyes of those that never
//! stopped no element moves more than once after that, and 2 s later all registrars agree on every element's home.

use std::collections::BTreeMap;
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_wire::{PeId, ServerId};

use super::TOLERANCE;
use crate::schedule::Episode;
use crate::world::World;

const AGREED: Duration = Duration::from_secs(2);
const MAX_MOVES: u32 = 1;

/// Homes since a registrar goes on.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    thawed: Option<(usize, Duration)>,
    /// As each registrar sees them: the present home, and how often that has changed.
    homes: BTreeMap<(usize, Handle, PeId), (ServerId, u32)>,
}

impl Moves {
    pub(crate) fn thawed(&mut self, registrar: usize, now: Duration) {
        *self = Self { thawed: Some((registrar, now)), homes: BTreeMap::new() };
    }

    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// A registrar's core was called.
pub(crate) fn follow(world: &mut World, registrar: usize) {
    let Some((thawed, _)) = world.moves.thawed.filter(|(thawed, _)| *thawed != registrar) else {
        return;
    };
    let mut wrong = None;
    let process = &world.processes[registrar];
    let Some(core) = process.registrar() else { return };
    for (handle, element) in core.handlespace().elements() {
        let key = (registrar, handle.clone(), element.pe_id);
        let (home, moves) = world.moves.homes.entry(key).or_insert((element.home, 0));
        if *home != element.home {
            *home = element.home;
            *moves += 1;
            if *moves > MAX_MOVES {
                wrong = Some(format!(
                    "{} sees {handle} {} move {moves} times since {} goes on",
                    process.name, element.pe_id, world.processes[thawed].name
                ));
            }
        }
    }
    if let Some(what) = wrong {
        world.violation("settled", what);
    }
}

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let Some((_, since)) = world.moves.thawed else { return };
    if world.episode != Episode::Registrar || world.now <= since + AGREED + TOLERANCE {
        return;
    }
    let mut first: Option<(&str, BTreeMap<_, _>)> = None;
    for (_, registrar) in world.registrars() {
        let Some(core) = registrar.registrar().filter(|core| core.in_service()) else { continue };
        let homes: BTreeMap<_, _> = core
            .handlespace()
            .elements()
            .map(|(handle, element)| ((handle, element.pe_id), element.home))
            .collect();
        match &first {
            None => first = Some((&registrar.name, homes)),
            Some((name, theirs)) if *theirs != homes => {
                let differs: Vec<_> = theirs
                    .iter()
                    .filter(|(key, home)| homes.get(key) != Some(home))
                    .map(|((handle, pe_id), home)| format!("{handle} {pe_id}: {home}"))
                    .collect();
                let after = world.now - since;
                wrong.push((
                    "settled",
                    format!(
                        "{name} and {} disagree {after:?} after: {}",
                        registrar.name,
                        differs.join(", ")
                    ),
                ));
            }
            Some(_) => {}
        }
    }
}
