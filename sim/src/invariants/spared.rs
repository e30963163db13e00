//! Nobody who lives is declared dead: a second without CPU, broken associations, and the troubles of others remove no
//! element and start no takeover.
//!
//! Where the association of two registrars broke and the one that replaced it broke as well, silently, the question that
//! went over it stays unanswered for MAX-TIME-NO-RESPONSE (0.5 s after evidence). RFC 5353 section 3.4.3 then has the
//! peer dead and the takeover begin: that pair is excused, and `heard` checks that nothing was heard in that time.

use std::time::Duration;

use dialtone_registrar_ns::core::{Event, Removal};

use crate::process::Life;
use crate::schedule::Episode;
use crate::world::World;

/// How long a registrar remembers a report before it halves their number.
const REMEMBERED: Duration = Duration::from_secs(30);

pub(super) fn check(
    world: &World,
    registrar: usize,
    event: &Event,
) -> Option<(&'static str, String)> {
    let judged = match world.episode {
        Episode::Cuts | Episode::Elements | Episode::Registrar | Episode::Starvation => true,
        Episode::Disorder
        | Episode::NoRegistrars
        | Episode::Partition
        | Episode::Quiet
        | Episode::Restart
        | Episode::ShakyTakeover
        | Episode::Start => false,
    };
    if !judged {
        return None;
    }
    let touched = |process: usize| world.touched.contains(process);
    let by = &world.processes[registrar].name;
    match event {
        Event::Removed {
            pool,
            pe,
            reason: reason @ (Removal::KeepAlive | Removal::Reports | Removal::Unreachable),
        } => {
            let index = *world.elements.get(&(pool.clone(), *pe))?;
            let process = &world.processes[index];
            let lives =
                matches!(process.life, Life::Running { .. } | Life::Frozen { starved: true, .. });
            // Who cannot be asked for longer than two keep-alives take is removed, and comes back by itself.
            let cut_off = world.episode == Episode::Cuts && *reason == Removal::KeepAlive;
            let excused = touched(index) && (world.episode == Episode::Elements || cut_off);
            let excused =
                excused || (*reason == Removal::Reports && was_reported_earlier(world, index));
            (lives && !excused && !process.leaving).then(|| {
                (
                    "spared",
                    format!("{by} removes {} ({pool}), which lives: {reason:?}", process.name),
                )
            })
        }
        Event::TakeoverStarted { target } => {
            let (index, process) =
                world.registrars().find(|(_, process)| process.server_id == Some(*target))?;
            let pair = [(registrar, index), (index, registrar)];
            let breaks = world.breaks.iter().filter(|broken| pair.contains(broken)).count();
            let excused = match world.episode {
                Episode::Cuts => breaks >= 2,
                Episode::Registrar => touched(index),
                _ => false,
            };
            (!excused).then(|| ("spared", format!("{by} takes {} over, which lives", process.name)))
        }
        _ => None,
    }
}

/// Reports of a trouble before this one still count (RFC 5352 section 3.5).
pub(super) fn was_reported_earlier(world: &World, element: usize) -> bool {
    world.processes[element].blamed[1].is_some_and(|at| world.now < at + REMEMBERED)
}
