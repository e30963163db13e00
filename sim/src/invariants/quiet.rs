//! When nothing happens, nothing is repaired: hardly any resync, and no more messages than keep-alives, presences and
//! questions need.

use std::time::Duration;

use dialtone_registrar_ns::core::Event;

use crate::world::World;

/// From this long after the end of trouble.
const CALM: Duration = Duration::from_secs(22);
/// One registrar's resyncs in the rest of the run, 18 s.
const MAX_RESYNCS: usize = 1;
/// One process's messages in the rest of the run: a registrar sends a keep-alive for each of its elements, a presence
/// to each peer, and pushes and answers in a second.
fn max_messages(world: &World) -> usize {
    let (registrars, users) = (world.scenario.registrars, world.scenario.users.len());
    9 * (20 + 3 * world.scenario.elements.iter().flatten().count() + 4 * registrars + 3 * users)
}

/// Counts of the quiet time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    resyncs: Vec<usize>,
    messages: Vec<usize>,
}

impl Tally {
    pub(crate) fn sent(&mut self, now: Duration, healed: Option<Duration>, process: usize) {
        if healed.is_some_and(|healed| now > healed + CALM) {
            add(&mut self.messages, process);
        }
    }

    pub(crate) fn said(
        &mut self,
        now: Duration,
        healed: Option<Duration>,
        process: usize,
        event: &Event,
    ) {
        let resync = matches!(event, Event::ResyncStarted { .. });
        if resync && healed.is_some_and(|healed| now > healed + CALM) {
            add(&mut self.resyncs, process);
        }
    }
}

fn add(counts: &mut Vec<usize>, process: usize) {
    if counts.len() <= process {
        counts.resize(process + 1, 0);
    }
    counts[process] += 1;
}

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    for (index, resyncs) in world.tally.resyncs.iter().enumerate() {
        if *resyncs > MAX_RESYNCS {
            let name = &world.processes[index].name;
            wrong.push(("quiet", format!("{name}: {resyncs} resyncs though nothing happens")));
        }
    }
    let limit = max_messages(world);
    for (index, messages) in world.tally.messages.iter().enumerate() {
        if *messages > limit {
            let name = &world.processes[index].name;
            wrong.push(("quiet", format!("{name}: {messages} commands though nothing happens")));
        }
    }
}
