//! A live element is in the handlespace of every registrar in service: always, if nothing happened to it, and within
//! 2 s after it came (back). An element whose association is broken without a word may be removed, since it answers no
//! keep-alive, and is back 2 s after it has noticed. A registrar that was frozen knows everything again after 3 s, one
//! that starts is in service after 6 s; one that lost associations with peers forgets nothing. After partitions and
//! after the loss of all registrars it may take 12 s.
//!
//! While datagrams are lost, all copies of an answer to a keep-alive can be, and SCTP keeps what follows back: the
//! element is removed as its registrar must, and is back 2 s after that. So is one that reports of an earlier trouble
//! removed (`spared`).

use std::time::Duration;

use dialtone_registrar_ns::core::{Event, Removal};

use super::{TOLERANCE, spared};
use crate::packets::Packets;
use crate::process::Life;
use crate::schedule::{Episode, SILENT_BREAK};
use crate::world::{World, ms};

const BACK: Duration = Duration::from_secs(2);
pub(super) const SETTLED: Duration = Duration::from_secs(12);

/// A registrar said something: notes elements that it had to remove.
pub(super) fn removed(world: &mut World, event: &Event) {
    let Event::Removed { pool, pe, reason } = event else { return };
    let Some(&index) = world.elements.get(&(pool.clone(), *pe)) else { return };
    let had_to = match reason {
        Removal::KeepAlive => world.packets.as_ref().is_some_and(Packets::is_lossy),
        Removal::Reports => spared::was_reported_earlier(world, index),
        _ => false,
    };
    if had_to {
        world.processes[index].removed = Some(world.now);
    }
}

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
        | Episode::Restart
        | Episode::ShakyTakeover
        | Episode::Start => world.troubled + SETTLED,
    };
    if world.now <= settled || !world.net.walls.is_empty() {
        return;
    }
    let touched = |process: usize| world.touched.contains(process);
    for (index, registrar) in world.registrars() {
        let Life::Running { since } = registrar.life else { continue };
        let Some(core) = registrar.registrar() else { continue };
        if !core.in_service() {
            if world.now > since + ms(6000) + TOLERANCE {
                wrong.push(("resolvable", format!("{} is not in service", registrar.name)));
            }
            continue;
        }
        let frozen_or_new = touched(index) && world.episode != Episode::Cuts;
        if frozen_or_new && world.now <= since + ms(3000) + TOLERANCE {
            continue;
        }
        for (index, process) in world.element_processes() {
            let Life::Running { since } = process.life else { continue };
            let back = match world.episode {
                Episode::Elements if touched(index) => since + BACK + TOLERANCE,
                Episode::Cuts if touched(index) => {
                    world.troubled + ms(SILENT_BREAK) + BACK + TOLERANCE
                }
                _ => Duration::ZERO,
            };
            let removed = process.removed.map_or(Duration::ZERO, |at| at + BACK + TOLERANCE);
            if process.leaving || world.now <= back.max(removed) {
                continue;
            }
            for (handle, pe_id) in process.elements() {
                let outvoted = super::contested::is_outvoted(world, process, handle, pe_id);
                if core.handlespace().get(handle.as_bytes(), pe_id).is_none() && !outvoted {
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
