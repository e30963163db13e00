//! What must hold, one file per invariant, and when which of them is asked for.
//!
//! Bounds are those of the design; [`TOLERANCE`] on top covers the checks' own grid of 100 ms and the network's
//! delays. In orderly runs every episode says which bounds hold ([`crate::schedule::Episode`]); where a partition or
//! the loss of all registrars makes a bound impossible, its clock starts when that ends.

pub(crate) mod converged;
pub(crate) mod deadlines;
mod gone;
mod quiet;
mod rehomed;
mod resolvable;
mod settled;
mod spared;
mod usable;

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
    if let Some((invariant, what)) = spared::check(world, process, event) {
        world.violation(invariant, what);
    }
}

/// Everything has been quiet for long.
pub(crate) fn finish(world: &mut World) {
    let mut wrong = Vec::new();
    converged::check(world, &mut wrong);
    quiet::check(world, &mut wrong);
    for (invariant, what) in wrong {
        world.violation(invariant, what);
    }
}
