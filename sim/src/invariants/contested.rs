//! A pool that elements of different policies create on both sides of a partition has one policy in the end, the same
//! everywhere (G17): 12 s after the partition all registrars agree on it, whoever is in the pool knows that it is, and
//! whoever is not was told why. RFC 5352 section 3.1 forbids the refused to try again with the same policy, so a pool
//! whose last member dies may stay empty although others live.

use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementKey, State};
use dialtone_wire::{CauseCode, PeId};

use super::TOLERANCE;
use super::resolvable::SETTLED;
use crate::process::Process;
use crate::schedule::Episode;
use crate::world::World;

/// Whether the element was told that the contested pool has another policy, or asks right now whether it still has.
pub(super) fn is_outvoted(world: &World, process: &Process, handle: &Handle, pe_id: PeId) -> bool {
    let asks = matches!(state(process, handle, pe_id), Some(State::Registering));
    (asks && world.scenario.contested.as_ref() == Some(handle))
        || is_refused(world, process, handle, pe_id)
}

/// Whether the element was told that the contested pool has another policy.
pub(super) fn is_refused(world: &World, process: &Process, handle: &Handle, pe_id: PeId) -> bool {
    world.scenario.contested.as_ref() == Some(handle)
        && matches!(
            state(process, handle, pe_id),
            Some(State::Rejected { causes }) if causes.contains(&CauseCode::INCONSISTENT_POLICY)
        )
}

fn state<'a>(process: &'a Process, handle: &Handle, pe_id: PeId) -> Option<&'a State> {
    let key = ElementKey { handle: handle.clone(), pe_id };
    process.element().and_then(|client| client.role().state(&key))
}

pub(super) fn observe(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let judged = matches!(world.episode, Episode::Partition | Episode::Quiet);
    if judged && world.net.walls.is_empty() && world.now > world.troubled + SETTLED + TOLERANCE {
        judge(world, wrong, false);
    }
}

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    judge(world, wrong, true);
}

/// `over`: nobody has anything to ask any more.
fn judge(world: &World, wrong: &mut Vec<(&'static str, String)>, over: bool) {
    let Some(contested) = &world.scenario.contested else { return };
    let spaces: Vec<_> = world
        .registrars()
        .filter_map(|(_, process)| Some((process, process.registrar()?)))
        .filter(|(_, core)| core.in_service())
        .map(|(process, core)| (process, core.handlespace()))
        .collect();
    let Some((first, space)) = spaces.first() else { return };
    let kind = space.pool(contested.as_bytes()).map(|pool| pool.kind());
    for (other, theirs) in &spaces[1..] {
        let theirs = theirs.pool(contested.as_bytes()).map(|pool| pool.kind());
        if theirs != kind {
            let (one, other) = (&first.name, &other.name);
            let what = format!("{contested} is {kind:?} at {one} and {theirs:?} at {other}");
            wrong.push(("contested", what));
        }
    }
    for (_, process) in world.element_processes().filter(|(_, process)| process.is_running()) {
        for (handle, pe_id) in process.elements().filter(|(handle, _)| *handle == contested) {
            if process.leaving {
                continue;
            }
            let known = space.get(handle.as_bytes(), pe_id).is_some();
            let believes = match state(process, handle, pe_id) {
                Some(State::Registered { .. }) => known,
                // It changes its values, and is told in a moment whether it is in.
                Some(State::Registering) if !over => true,
                _ => !known && is_refused(world, process, handle, pe_id),
            };
            if !believes {
                let (name, state) = (&process.name, state(process, handle, pe_id));
                let what = format!("{name} ({handle}) is known: {known}, and believes {state:?}");
                wrong.push(("contested", what));
            }
        }
    }
}
