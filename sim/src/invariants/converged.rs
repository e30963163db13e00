//! After the end of trouble and a quiet time all registrars tell the same: every live element with one home, which is
//! where the element itself believes to be registered, nobody else, equal checksums; and users see just that.

use std::collections::BTreeMap;

use dialtone_handlespace::Element;
use dialtone_pool_user::Freshness;
use dialtone_wire::{PeId, ServerId};

use crate::process::Process;
use crate::world::World;

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let mut fail = |what: String| wrong.push(("converged", what));
    let mut tables: Vec<(&Process, BTreeMap<_, Element>)> = Vec::new();
    for (_, registrar) in world.registrars() {
        match registrar.registrar().filter(|core| core.in_service()) {
            Some(core) => tables.push((
                registrar,
                core.handlespace()
                    .elements()
                    .map(|(handle, element)| ((handle.clone(), element.pe_id), element.clone()))
                    .collect(),
            )),
            None => fail(format!("{} is not in service", registrar.name)),
        }
    }
    let Some((first, table)) = tables.first() else { return };
    for (other, theirs) in &tables[1..] {
        for (key, element) in table {
            match theirs.get(key) {
                None => fail(format!("{} knows {key:?}, {} does not", first.name, other.name)),
                Some(theirs) if theirs.home != element.home => fail(format!(
                    "{} and {} disagree on the home of {key:?}: {} {}",
                    first.name, other.name, element.home, theirs.home
                )),
                Some(_) => {}
            }
        }
        for key in theirs.keys().filter(|key| !table.contains_key(key)) {
            fail(format!("{} knows {key:?}, {} does not", other.name, first.name));
        }
    }
    let homes: Vec<ServerId> =
        tables.iter().filter_map(|(registrar, _)| registrar.server_id).collect();
    for home in &homes {
        let sums = tables.iter().filter_map(|(registrar, _)| {
            Some(registrar.registrar()?.handlespace().checksum(*home))
        });
        let sums: Vec<u16> = sums.collect();
        if sums.windows(2).any(|pair| pair[0] != pair[1]) {
            fail(format!("checksums of {home} differ: {sums:04x?}"));
        }
    }
    for (handle, pe_id) in table.keys() {
        let owner = world.elements.get(&(handle.clone(), *pe_id)).map(|at| &world.processes[*at]);
        if !owner.is_some_and(|owner| owner.elements().any(|now| now == (handle, *pe_id))) {
            fail(format!("{handle} {pe_id} is nobody's identity any more, and known"));
        }
    }
    for (_, process) in world.element_processes() {
        let alive = process.is_running() && !process.leaving;
        for (handle, pe_id) in process.elements() {
            let entry = table.get(&(handle.clone(), pe_id));
            match (alive, entry) {
                // Of two policies of a pool one has lost; see `contested`.
                (true, None) if super::contested::is_refused(world, process, handle, pe_id) => {}
                (true, None) => fail(format!("{} ({handle}) lives and is unknown", process.name)),
                (false, Some(_)) => fail(format!("{} ({handle}) is dead and known", process.name)),
                (true, Some(element)) => {
                    let home = process.element().and_then(|client| client.home());
                    let believed = home.and_then(|home| {
                        let index = world.hosts.get(&home.remote.addr.ip())?;
                        world.processes[*index].server_id
                    });
                    if believed != Some(element.home) {
                        fail(format!(
                            "{} ({handle}) has home {} and believes {believed:?}",
                            process.name, element.home
                        ));
                    }
                }
                (false, None) => {}
            }
        }
    }
    for (_, user) in world.users().filter(|(_, user)| user.is_running()) {
        for (handle, selector) in &user.selectors {
            let view = selector.view();
            let range = (handle.clone(), PeId(0))..=(handle.clone(), PeId(u32::MAX));
            let members: Vec<PeId> = table.range(range).map(|((_, pe_id), _)| *pe_id).collect();
            let seen: Vec<PeId> = view.members.iter().map(|member| member.pe_id).collect();
            let fresh = match view.freshness {
                Freshness::Fresh => true,
                Freshness::Absent => members.is_empty(),
                Freshness::Stale { .. } | Freshness::Unknown => false,
            };
            if !fresh || seen != members {
                fail(format!(
                    "{} sees {handle} as {seen:?} ({:?}), registrars as {members:?}",
                    user.name, view.freshness
                ));
            }
        }
    }
}
