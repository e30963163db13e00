//! RFC 5356, policies: the lists that registrars hand out, and what users make of them.

mod registrar;
mod s4_static;
mod s5_adaptive;

use std::time::Instant;

use dialtone_asap_client::ClientConfig;
use dialtone_pool_user::{Choice, Command, Selector, Users, UsersConfig};
use dialtone_wire::PeId;

use crate::client_world::{World, ms, remotes};
use crate::lab::bytes::{
    HANDLE_RESOLUTION, HANDLE_RESOLUTION_RESPONSE, Pe, handle, message, policy,
};
use crate::lab::clients::{POOL, outcome, pool, said};

/// Identifier and policy values of an element in a list.
type Listed = (u32, &'static [u32]);

/// A user that was sent a list of elements of one policy.
struct User {
    world: World<Users>,
    selector: Selector,
    questions: u64,
}

impl User {
    /// Identifiers and policy values, in the order of the answer.
    fn new(number: u32, list: &[Listed]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
        let now = Instant::now();
        let config = ClientConfig::rfc(remotes([1]));
        let mut world = World::with(now, config, 1, Users::new(UsersConfig::rfc()));
        world.registrar(1).ignores_resolutions = true;
        world.run(ms(100));
        let view = ask(&mut world, 0, number, list);
        let suspicion = std::time::Duration::from_secs(3600);
        let selector = Selector::new(view, suspicion, fastrand::Rng::with_seed(1));
        Self { world, selector, questions: 0 }
    }

    /// The answer is out of date: it is asked for again.
    fn renew(&mut self, number: u32, list: &[Listed]) {
        self.questions += 1;
        self.world.run(std::time::Duration::from_secs(31));
        let view = ask(&mut self.world, self.questions, number, list);
        self.selector.update(view);
    }

    fn picks(&mut self, count: usize) -> Vec<u32> {
        let now = self.world.now;
        (0..count)
            .map(|_| self.selector.select(now, Choice::Policy, &[]).unwrap().pe_id.0)
            .collect()
    }

    /// Failed to answer.
    fn fails(&mut self, id: u32) {
        assert!(self.selector.suspect(self.world.now, PeId(id)));
    }

    /// How often each of `count` elements was picked of so many times.
    fn shares(&mut self, count: u32, picks: usize) -> Vec<usize> {
        let picks = self.picks(picks);
        (1..=count).map(|id| picks.iter().filter(|pick| **pick == id).count()).collect()
    }

    /// How many elements its requests asked for (option 0x803f).
    fn wanted(&self) -> Vec<u32> {
        let requests = said(&self.world, HANDLE_RESOLUTION);
        requests.iter().map(|(.., request)| request.find(0x803f).unwrap().word(0)).collect()
    }
}

fn ask(
    world: &mut World<Users>,
    id: u64,
    number: u32,
    list: &[Listed],
) -> std::sync::Arc<dialtone_pool_user::View> {
    world.command(Command::Resolve { id, handle: pool() });
    let mut parts = vec![handle(POOL), policy(number, &vec![0; list[0].1.len()])];
    let ip = "127.0.0.61".parse().unwrap();
    parts.extend(
        list.iter()
            .map(|(id, values)| Pe { policy: policy(number, values), ..Pe::new(*id, ip) }.tlv()),
    );
    let assoc = world.client.home().unwrap().assoc;
    world.deliver(assoc, message(HANDLE_RESOLUTION_RESPONSE, 0, &parts));
    world.run(ms(10));
    outcome(world, id).unwrap().clone().unwrap()
}
