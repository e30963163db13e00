//! Subscriptions (RFC 5352 sections 2.2.5 and 2.2.6, G22).

use std::net::SocketAddr;

use dialtone_transport::Link;
use dialtone_wire::asap::Message;
use dialtone_wire::{Policy, PoolHandle};

use crate::element::Element;
use crate::world::{World, ms};

/// The sizes of the lists that a user was sent; 0 for a negative answer. The flag A of each.
fn answers(world: &mut World, user: SocketAddr) -> Vec<(bool, usize)> {
    let payloads = world.element(user).take();
    let size = |payload: &Vec<u8>| match Message::decode(payload).unwrap().message {
        Message::HandleResolutionResponse { accepted, outcome, .. } => {
            (accepted, outcome.map_or(0, |found| found.elements.len()))
        }
        other => panic!("{other:?}"),
    };
    payloads.iter().map(size).collect()
}

/// membership at once, loads once a second, to the end of the pool.
#[test]
fn a_015_changes_are_pushed() {
    for link in [Link::Sctp, Link::Tcp] {
        let mut world = World::with_registrars(2);
        let lu = |id| Element::new("echo", id, &[1]).with(Policy::LeastUsed { load: 1 });
        world.add_element(lu(1));
        let user = Element::mailbox(99, 2, link);
        let user_addr = user.addr;
        world.add_element(user);
        world.run(ms(50));
        let ask = Message::HandleResolution {
            subscribe: true,
            handle: PoolHandle(b"echo"),
            items: Some(u32::MAX),
        };
        world.element(user_addr).say(&ask);
        world.drain(user_addr);
        world.run(ms(10));
        assert_eq!(answers(&mut world, user_addr), [(true, 1)]);

        let second = lu(2);
        let addr = second.addr;
        world.add_element(second);
        world.run(ms(20));
        assert_eq!(
            answers(&mut world, user_addr),
            [(true, 2)],
            "at once, and from the other registrar"
        );

        for load in 0..50 {
            world.element(addr).policy = Policy::LeastUsed { load };
            world.element(addr).register();
            world.drain(addr);
            world.run(ms(40));
        }
        assert!((1..=2).contains(&answers(&mut world, user_addr).len()), "loads are coalesced");
        world.run(ms(1100));
        world.element(user_addr).take();
        world.run(ms(5000));
        assert!(answers(&mut world, user_addr).is_empty(), "nothing changes, nothing is sent");

        world.kill(addr);
        world.kill(lu(1).addr);
        world.run(ms(3000));
        assert_eq!(
            answers(&mut world, user_addr),
            [(true, 1), (false, 0)],
            "the pool ends, and the subscription"
        );
        world.add_element(lu(3));
        world.run(ms(100));
        assert!(answers(&mut world, user_addr).is_empty(), "A-014");
    }
}

/// a negative answer makes no subscription.
#[test]
fn a_014_no_subscription_to_an_unknown_pool() {
    let mut world = World::with_registrars(1);
    let user = Element::mailbox(99, 1, Link::Tcp);
    let user_addr = user.addr;
    world.add_element(user);
    world.run(ms(50));
    let ask =
        Message::HandleResolution { subscribe: true, handle: PoolHandle(b"echo"), items: None };
    world.element(user_addr).say(&ask);
    world.drain(user_addr);
    world.run(ms(10));
    world.add_element(Element::new("echo", 1, &[1]));
    world.run(ms(100));
    assert_eq!(answers(&mut world, user_addr), [(false, 0)]);
}
