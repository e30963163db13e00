//! While no registrar runs, users go on with what they know: every watched pool has members to choose from.

use crate::schedule::Episode;
use crate::world::World;

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let nobody = world.registrars().all(|(_, registrar)| !registrar.is_running());
    if world.episode != Episode::NoRegistrars || !nobody {
        return;
    }
    for (_, user) in world.users().filter(|(_, user)| user.is_running()) {
        for (handle, selector) in &user.selectors {
            if selector.view().members.is_empty() {
                wrong.push(("usable", format!("{} has nobody left in {handle}", user.name)));
            }
        }
    }
}
