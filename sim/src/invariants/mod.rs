//! What must hold, one file per invariant, and when which of them is asked for.
//!
//! Bounds are those of the design; [`TOLERANCE`] on top covers the checks' own grid of 100 ms and the network's
//! delays. In orderly runs every episode says which bounds hold ([`crate::schedule::Episode`]); where a partition or
//! the loss of all registrars makes a bound impossible, its clock starts when that ends.

pub(crate) mod answered;
mod attributes;
pub(crate) mod bounded;
mod contested;
mod converged;
pub(crate) mod deadlines;
mod gone;
pub(crate) mod heard;
mod quiet;
mod rehomed;
mod resolvable;
mod settled;
mod spared;
mod usable;

pub(crate) use answered::Questions;
pub(crate) use heard::Heard;
pub(crate) use quiet::Tally;
pub(crate) use settled::{Moves, follow};

use std::time::Duration;

use dialtone_registrar_ns::core::Event;

use crate::world::World;

/// On top of every bound.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(350);

/// Looks at everything, every 100 ms.
pub(crate) fn observe(world: &mut World) {
    let mut wrong = Vec::new();
    answered::overdue(world, &mut wrong);
    bounded::check(world, &mut wrong);
    contested::observe(world, &mut wrong);
    gone::check(world, &mut wrong);
    rehomed::check(world, &mut wrong);
    resolvable::check(world, &mut wrong);
    settled::check(world, &mut wrong);
    usable::check(world, &mut wrong);
    for (invariant, what) in wrong {
        world.violation(invariant, what);
    }
}

/// A registrar reported a transition.
pub(crate) fn registrar_said(world: &mut World, process: usize, event: &Event) {
    world.tally.said(world.now, world.healed, process, event);
    count(world, event);
    resolvable::removed(world, event);
    let wrong = [heard::check(world, process, event), spared::check(world, process, event)];
    for (invariant, what) in wrong.into_iter().flatten() {
        world.violation(invariant, what);
    }
}

fn count(world: &mut World, event: &Event) {
    let runs = |target| {
        let mut registrars = world.registrars();
        registrars.any(|(_, other)| other.server_id == Some(target) && other.is_running())
    };
    match event {
        Event::ResyncStarted { .. } => world.coverage.resyncs += 1,
        Event::PoolConflict { .. } => world.coverage.pool_conflicts += 1,
        Event::TakeoverLost { to: None, .. } => world.coverage.false_alarms += 1,
        Event::TakeoverLost { to: Some(_), .. } => world.coverage.arbitrations_lost += 1,
        Event::TakeoverWon { target, .. } => {
            world.coverage.splits += u64::from(runs(*target));
            world.coverage.takeovers += 1;
        }
        _ => {}
    }
}

/// Everything has been quiet for long.
pub(crate) fn finish(world: &mut World) {
    let mut wrong = Vec::new();
    attributes::check(world, &mut wrong);
    contested::check(world, &mut wrong);
    converged::check(world, &mut wrong);
    quiet::check(world, &mut wrong);
    for (invariant, what) in wrong {
        world.violation(invariant, what);
    }
}
