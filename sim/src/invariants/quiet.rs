//! When nothing happens, nothing is repaired: hardly any resync, and no more messages than keep-alives, presences and
//! questions need.

use std::time::Duration;

use dialtone_registrar_ns::core::Event;

use crate::world::{REGISTRARS, World};

/// From this long after the end of trouble.
const CALM: Duration = Duration::from_secs(22);
/// One registrar's resyncs in the rest of the run, 18 s.
const MAX_RESYNCS: u32 = 1;
/// One process's messages in the rest of the run: a registrar sends 20 keep-alives, 2 presences, pushes and answers
/// in a second.
const MAX_MESSAGES: u32 = 18 * 60;

/// Counts of the quiet time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    resyncs: [u32; REGISTRARS],
    messages: Vec<u32>,
}

impl Tally {
    pub(crate) fn sent(&mut self, now: Duration, healed: Option<Duration>, process: usize) {
        if healed.is_some_and(|healed| now > healed + CALM) {
            if self.messages.len() <= process {
                self.messages.resize(process + 1, 0);
            }
            self.messages[process] += 1;
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
            self.resyncs[process] += 1;
        }
    }
}

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    for (index, resyncs) in world.tally.resyncs.iter().enumerate() {
        if *resyncs > MAX_RESYNCS {
            let name = &world.processes[index].name;
            wrong.push(("quiet", format!("{name}: {resyncs} resyncs though nothing happens")));
        }
    }
    for (index, messages) in world.tally.messages.iter().enumerate() {
        if *messages > MAX_MESSAGES {
            let name = &world.processes[index].name;
            wrong.push(("quiet", format!("{name}: {messages} commands though nothing happens")));
        }
    }
}
