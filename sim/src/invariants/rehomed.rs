//! The elements of a registrar that died have a living home within 3 s when its host tells of the death, within 6 s
//! when nothing does, and within 6 s
//! after associations of the others have stopped breaking.

use super::TOLERANCE;
use crate::process::Life;
use crate::schedule::Episode;
use crate::world::{World, ms};

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    if !matches!(world.episode, Episode::Registrar | Episode::ShakyTakeover) {
        return;
    }
    for (_, dead) in world.registrars() {
        let (since, bound) = match dead.life {
            Life::Dead { since, evidence: true } => (since, ms(3000)),
            Life::Dead { since, .. } | Life::Frozen { since, starved: false } => (since, ms(6000)),
            Life::Running { .. } | Life::Frozen { .. } => continue,
        };
        // Peers that do not hear each other settle it when they do.
        let (since, bound) = match world.episode {
            Episode::ShakyTakeover => (world.troubled, ms(6000)),
            _ => (since, bound),
        };
        let Some(id) = dead.server_id.filter(|_| world.now > since + bound + TOLERANCE) else {
            continue;
        };
        for (_, registrar) in world.registrars().filter(|(_, registrar)| registrar.is_running()) {
            let owned = registrar.registrar().map_or(0, |core| core.handlespace().owned_len(id));
            if owned > 0 {
                wrong.push((
                    "rehomed",
                    format!(
                        "{}: {owned} elements still have {} as their home {:?} after its end; bound {bound:?}",
                        registrar.name,
                        dead.name,
                        world.now - since
                    ),
                ));
            }
        }
    }
}
