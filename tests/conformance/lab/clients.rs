//! Real elements and users before scripted registrars, and the bytes that they say.

use std::sync::Arc;
use std::time::Duration;

use dialtone_asap_client::core::Role;
use dialtone_handlespace::Handle;
use dialtone_pool_element::{Command, ElementConfig, ElementKey, Elements, ElementsConfig, State};
use dialtone_pool_user::{Event, ResolveError, Users, View};
use dialtone_wire::PeId;

use super::bytes::Message;
use crate::client_world::World;

/// The pool of these tests.
pub(crate) const POOL: &str = "echo";

pub(crate) fn pool() -> Handle {
    Handle::new(POOL).unwrap()
}

/// When, to which registrar, what: all messages of a kind that the client said.
pub(crate) fn said<R: Role>(world: &World<R>, kind: u8) -> Vec<(Duration, u8, Message)> {
    let messages = world.said.iter().map(|(at, n, bytes)| (*at, *n, Message::read(bytes)));
    messages.filter(|(.., message)| message.kind == kind).collect()
}

/// An element at 127.0.0.61, TCP port 5060, with a registration life of 30 s.
pub(crate) fn element(id: u32) -> ElementConfig {
    ElementConfig::tcp(pool(), PeId(id), "127.0.0.61:5060".parse().unwrap())
}

/// So many registrars, and element 7, which has begun to look for one.
pub(crate) fn element_before(registrars: u8, config: ElementsConfig) -> World<Elements> {
    let mut world = World::new(registrars, Elements::new(config));
    world.command(Command::Register(element(7)));
    world
}

pub(crate) fn state(world: &World<Elements>) -> Option<&State> {
    world.client.role().state(&ElementKey { handle: pool(), pe_id: PeId(7) })
}

pub(crate) fn is_registered(world: &World<Elements>) -> bool {
    matches!(state(world), Some(State::Registered { .. }))
}

/// The outcome of question `id`, if there is one.
pub(crate) fn outcome(world: &World<Users>, id: u64) -> Option<&Result<Arc<View>, ResolveError>> {
    world.events.iter().find_map(|(_, event)| match event {
        Event::Resolved { id: answered, outcome } if *answered == id => Some(outcome),
        _ => None,
    })
}
