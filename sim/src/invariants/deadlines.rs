//! No core keeps its driver busy: after a timeout the next deadline lies in the future, one input has bounded
//! consequences, and nobody is called thousands of times a second.

use std::time::Instant;

use crate::world::World;

pub(crate) const MAX_OUTPUTS: usize = 2000;
const MAX_CALLS_PER_SECOND: u32 = 3000;

pub(crate) fn check(
    world: &mut World,
    process: usize,
    timeout: bool,
    next: Option<Instant>,
    outputs: usize,
) {
    let now = world.instant(world.now);
    let entry = &mut world.processes[process];
    let name = entry.name.clone();
    let second = world.now.as_secs();
    if entry.second.0 != second {
        entry.second = (second, 0);
    }
    entry.second.1 += 1;
    let calls = entry.second.1;
    if timeout && next.is_some_and(|next| next <= now) {
        world.violation("deadlines", format!("{name}: the deadline after a timeout is not later"));
    }
    if outputs > MAX_OUTPUTS {
        world.violation("deadlines", format!("{name}: {outputs} outputs of one input"));
    }
    if calls > MAX_CALLS_PER_SECOND {
        world.violation("deadlines", format!("{name}: called {calls} times in a second"));
    }
}
