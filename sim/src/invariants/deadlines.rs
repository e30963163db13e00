//! No core keeps its driver busy: after a timeout the next deadline lies in the future, one input has bounded
//! consequences, and nobody is called thousands of times a second.

use std::time::Instant;

use crate::world::World;

/// Of one input, which everybody may have to be told.
pub(crate) fn max_outputs(world: &World) -> usize {
    1000 + 30 * world.processes.len()
}

fn max_calls_per_second(world: &World) -> u32 {
    u32::try_from(1500 + 50 * world.processes.len()).unwrap_or(u32::MAX)
}

pub(crate) fn check(
    world: &mut World,
    process: usize,
    timeout: bool,
    next: Option<Instant>,
    outputs: usize,
) {
    let now = world.instant(world.now);
    let (max_outputs, max_calls) = (max_outputs(world), max_calls_per_second(world));
    let entry = &mut world.processes[process];
    let second = world.now.as_secs();
    if entry.second.0 != second {
        entry.second = (second, 0);
    }
    entry.second.1 += 1;
    let calls = entry.second.1;
    let busy = timeout && next.is_some_and(|next| next <= now);
    if !busy && outputs <= max_outputs && calls <= max_calls {
        return;
    }
    let name = entry.name.clone();
    if busy {
        world.violation("deadlines", format!("{name}: the deadline after a timeout is not later"));
    }
    if outputs > max_outputs {
        world.violation("deadlines", format!("{name}: {outputs} outputs of one input"));
    }
    if calls > max_calls {
        world.violation("deadlines", format!("{name}: called {calls} times in a second"));
    }
}
