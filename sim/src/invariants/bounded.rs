//! What a process holds and sends is bounded by the size of the world: no message is longer than the protocol allows,
//! nobody floods the network even in trouble, and when all is quiet nobody holds an association that has ended.

use std::time::Duration;

use dialtone_transport::NetCommand;

use crate::process::Purpose;
use crate::world::{World, ms};

/// A message's length field, and the padding after it.
const MAX_MESSAGE: usize = 0xffff + 3;
/// Ends that are known to one side only, for a moment.
const SLACK: usize = 2;
const CALM: Duration = ms(38_000);

/// Messages that one process may send in a second: what it has to tell everybody, and again after a heal.
fn max_messages(world: &World) -> u32 {
    u32::try_from(300 + 60 * world.processes.len()).unwrap_or(u32::MAX)
}

/// Everything that a registrar keeps books of.
fn max_records(world: &World) -> usize {
    let elements = world.elements.len();
    200 + 10 * elements + 8 * world.processes.len()
}

/// A core sends something.
pub(crate) fn sent(world: &mut World, process: usize, command: &NetCommand) {
    world.tally.sent(world.now, world.healed, process);
    let NetCommand::Send { payload, .. } = command else { return };
    let limit = max_messages(world);
    let second = world.now.as_secs();
    let entry = &mut world.processes[process];
    if entry.sent.0 != second {
        entry.sent = (second, 0);
    }
    entry.sent.1 += 1;
    let (count, length) = (entry.sent.1, payload.len());
    if length > MAX_MESSAGE {
        let what = format!("{} sends a message of {length} bytes", entry.name);
        world.violation("bounded", what);
    } else if count > limit {
        let what = format!("{} sends more than {limit} messages in a second", entry.name);
        world.violation("bounded", what);
    }
}

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let limit = max_records(world);
    for (_, registrar) in world.registrars() {
        let records = registrar.registrar().map_or(0, |core| core.records());
        if records > limit {
            let name = &registrar.name;
            wrong.push(("bounded", format!("{name} holds {records} records, more than {limit}")));
        }
    }
    if world.healed.is_none_or(|healed| world.now < healed + CALM) {
        return;
    }
    for (index, process) in world.processes.iter().enumerate() {
        let Some(core) = process.core.as_ref().filter(|_| process.is_running()) else { continue };
        let (held, there) = (core.associations(), world.count_ends(index));
        // A client dials registrars that are not there, too.
        let dialled = match process.purpose {
            Purpose::Registrar => SLACK,
            Purpose::Element(_) | Purpose::User { .. } => SLACK + 3,
        };
        if held > there + dialled {
            let name = &process.name;
            wrong.push((
                "bounded",
                format!("{name} holds {held} associations, of which {there} exist"),
            ));
        }
    }
}
