//! A live element is in the handlespace of every registrar in service: always, if nothing happened to it, and within
//! 2 s after it came (back). A registrar that was frozen knows everything again after 3 s, one that starts is in
//! service after 6 s, one that lost associations with peers knows everything again after 3 s. After partitions and after the loss of all registrars it may take 12 s.

use std::time::Duration;

use super::TOLERANCE;
use crate::process::Life;
use crate::schedule::Episode;
use crate::world::{World, ms};

const BACK: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(12);

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let settled = match world.episode {
        Episode::Disorder => return,
        Episode::Cuts | Episode::Elements | Episode::Registrar | Episode::Starvation => {
            Duration::ZERO
        }
        // Trouble of a disorderly run may end a little after that.
        Episode::NoRegistrars
        | Episode::Partition
        | Episode::Quiet
        | Episode::ShakyTakeover
        | Episode::Start => world.troubled + SETTLED,
    };
    if world.now <= settled || !world.net.walls.is_empty() {
        return;
    }
    let touched = |process: usize| world.touched >> process & 1 == 1;
    for (index, registrar) in world.registrars() {
        let Life::Running { since } = registrar.life else { continue };
        let Some(core) = registrar.registrar() else { continue };
        if !core.in_service() {
            if world.now > since + ms(6000) + TOLERANCE {
                wrong.push(("resolvable", format!("{} is not in service", registrar.name)));
            }
            continue;
        }
        // A registrar that lost the association with a peer may miss a move until it has asked again.
        let known = match world.episode {
            Episode::Cuts => world.troubled + ms(3000),
            _ => since + ms(3000),
        };
        if touched(index) && world.now <= known + TOLERANCE {
            continue;
        }
        for (index, process) in world.element_processes() {
            let Life::Running { since } = process.life else { continue };
            let back = match touched(index) && world.episode == Episode::Elements {
                true => since + BACK + TOLERANCE,
                false => Duration::ZERO,
            };
            if process.leaving || world.now <= back {
                continue;
            }
            for (handle, pe_id) in process.elements() {
                if core.handlespace().get(handle.as_bytes(), pe_id).is_none() {
                    wrong.push((
                        "resolvable",
                        format!(
                            "{} does not know {} ({handle} {pe_id}), which runs since {since:?}",
                            registrar.name, process.name
                        ),
                    ));
                }
            }
        }
    }
}
