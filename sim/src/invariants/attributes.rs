//! After the end of trouble everybody knows every element as it is: policy values, addresses, registration life and
//! home are equal at all registrars, equal to what the element itself registers, and users have the same values.
//! Checksums cover handles and identifiers only, and would not show it.

use std::collections::BTreeMap;

use dialtone_handlespace::{Element, Handle};
use dialtone_wire::PeId;

use crate::process::{Process, Purpose};
use crate::world::World;

type Table<'a> = BTreeMap<(&'a Handle, PeId), &'a Element>;

pub(super) fn check(world: &World, wrong: &mut Vec<(&'static str, String)>) {
    let mut fail = |what: String| wrong.push(("attributes", what));
    let mut tables: Vec<(&Process, Table<'_>)> = Vec::new();
    for (_, registrar) in world.registrars() {
        if let Some(core) = registrar.registrar().filter(|core| core.in_service()) {
            let elements = core.handlespace().elements();
            let table = elements.map(|(handle, element)| ((handle, element.pe_id), element));
            tables.push((registrar, table.collect()));
        }
    }
    let Some((first, table)) = tables.first() else { return };
    for (other, theirs) in &tables[1..] {
        for (key, element) in table {
            if let Some(theirs) = theirs.get(key).filter(|theirs| *theirs != element) {
                let (one, other) = (&first.name, &other.name);
                fail(format!("{one} and {other} disagree on {key:?}: {element:?} {theirs:?}"));
            }
        }
    }
    for (_, process) in world.element_processes().filter(|(_, process)| process.is_running()) {
        let Purpose::Element(configs) = &process.purpose else { continue };
        for config in configs {
            let Some(element) = table.get(&(&config.handle, config.pe_id)) else { continue };
            let life = u64::try_from(element.life).ok();
            if element.policy != config.policy
                || element.transport != config.transport
                || life != Some(config.lifetime.as_secs())
            {
                let name = &process.name;
                fail(format!("{name} registers {config:?}, and is known as {element:?}"));
            }
        }
    }
    for (_, user) in world.users().filter(|(_, user)| user.is_running()) {
        for (handle, selector) in &user.selectors {
            for member in &*selector.view().members {
                let Some(element) = table.get(&(handle, member.pe_id)) else { continue };
                if member.policy != element.policy || member.transport != element.transport {
                    let name = &user.name;
                    fail(format!("{name} sees {member:?} of {handle}, which is {element:?}"));
                }
            }
        }
    }
}
