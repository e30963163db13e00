//! An element that is dead or frozen leaves every handlespace and every user's fresh view: 1 s after the first report
//! of a killed one, 2 s after its death when nobody uses it, 3 s when nothing tells of it (frozen, host dead). A process
//! that is back under another identity listens where the dead one did, and the host says nothing any more: 3 s as well.

use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_pool_user::Freshness;
use dialtone_wire::PeId;

use super::TOLERANCE;
use crate::process::{Life, Process};
use crate::schedule::Episode;
use crate::world::{World, ms};

/// What a registrar's push needs to a user.
const PUSH: Duration = Duration::from_millis(100);

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    if world.episode != Episode::Elements {
        return;
    }
    for (_, process) in world.element_processes() {
        for (handle, pe_id) in process.elements() {
            let end = (process.life, process.reported, None);
            identity(world, wrong, process, end, (handle, pe_id));
        }
    }
    for former in &world.departed {
        let process = &world.processes[former.process];
        let key = (&former.handle, former.pe_id);
        let end = (former.life, former.reported, Some(former.back));
        identity(world, wrong, process, end, key);
    }
}

fn identity(
    world: &World,
    wrong: &mut Vec<(&'static str, String)>,
    process: &Process,
    (life, reported, back): (Life, Option<Duration>, Option<Duration>),
    (handle, pe_id): (&Handle, PeId),
) {
    let (since, bound) = match life {
        Life::Dead { since, evidence: true } => {
            let traffic = reported.map(|at| at - since + ms(1000));
            let told = traffic.map_or(ms(2000), |traffic| traffic.min(ms(2000)));
            let untold = back.is_some_and(|back| back < since + told);
            (since, if untold { ms(3000) } else { told })
        }
        Life::Dead { since, .. } | Life::Frozen { since, starved: false } => (since, ms(3000)),
        Life::Running { .. } | Life::Frozen { .. } => return,
    };
    if world.now <= since + bound + TOLERANCE {
        return;
    }
    let name = &process.name;
    for (_, registrar) in world.registrars().filter(|(_, registrar)| registrar.is_running()) {
        let core = registrar.registrar().filter(|core| core.in_service());
        let space = core.map(|core| core.handlespace());
        if space.is_some_and(|space| space.get(handle.as_bytes(), pe_id).is_some()) {
            wrong.push((
                "gone",
                format!(
                    "{} still has {name} ({handle} {pe_id}) {:?} after it ended; bound {bound:?}",
                    registrar.name,
                    world.now - since
                ),
            ));
        }
    }
    if world.now <= since + bound + TOLERANCE + PUSH {
        return;
    }
    for (_, user) in world.users().filter(|(_, user)| user.is_running()) {
        let view = user.user().and_then(|client| client.role().view(handle));
        let shows = view
            .is_some_and(|view| view.freshness == Freshness::Fresh && view.member(pe_id).is_some());
        // Single questions are good for a second; only watched pools are kept true.
        if shows && user.selectors.contains_key(handle) {
            let user = &user.name;
            wrong.push(("gone", format!("{user} is still given {name} ({handle})")));
        }
    }
}
