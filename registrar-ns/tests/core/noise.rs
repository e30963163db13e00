//! Whatever arrives: nothing panics, nothing grows, valid requests are still answered.

use dialtone_transport::Link;
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp};
use dialtone_wire::{PeId, PoolHandle, ServerId, UpdateAction};

use crate::element::Element;
use crate::world::{World, ms};

fn damaged(rng: &mut fastrand::Rng, valid: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.choice(valid).cloned().unwrap_or_default();
    match rng.u8(0..5) {
        0 => bytes.truncate(rng.usize(0..=bytes.len())),
        1 => bytes.iter_mut().for_each(|byte| *byte = rng.u8(..)),
        2 => {
            let more = rng.usize(1..40);
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(more));
        }
        _ => {
            for _ in 0..rng.usize(1..4) {
                if let Some(byte) = rng.choice(&mut bytes) {
                    *byte ^= 1 << rng.u8(0..8);
                }
            }
        }
    }
    bytes
}

#[test]
fn damaged_messages_do_no_harm() {
    let mut world = World::with_registrars(2);
    world.add_element(Element::new("echo", 1, &[1]));
    let asap = Element::mailbox(90, 1, Link::Sctp);
    let enrp = Element::enrp_mailbox(91, 1);
    let (asap_addr, enrp_addr) = (asap.addr, enrp.addr);
    let element = asap.pool_element();
    world.add_element(asap);
    world.add_element(enrp);
    world.run(ms(50));
    let handle = PoolHandle(b"echo");
    let from_users = [
        Message::Registration { handle, element: element.clone() },
        Message::Deregistration { handle, pe_id: PeId(90) },
        Message::HandleResolution { subscribe: true, handle, items: Some(5) },
        Message::EndpointKeepAliveAck { handle, pe_id: PeId(1) },
        Message::EndpointUnreachable { handle, pe_id: PeId(1) },
    ]
    .map(|message| message.encode().unwrap());
    let target = ServerId(2);
    let from_peers = [
        Body::Presence { reply_required: true, checksum: Some(7), server: None },
        Body::HandleTableRequest { own_children_only: true },
        Body::HandleTableResponse { reject: false, more: true, pools: Vec::new() },
        Body::HandleUpdate {
            takeover_suggested: false,
            action: UpdateAction::ADD_PE,
            handle,
            element: Box::new(element),
        },
        Body::ListRequest,
        Body::InitTakeover { target },
        Body::InitTakeoverAck { target },
        Body::TakeoverServer { target: ServerId(9) },
    ]
    .map(|body| Enrp { sender: ServerId(77), receiver: ServerId::NONE, body }.encode().unwrap());
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..3000 {
        for (addr, valid) in [(asap_addr, &from_users[..]), (enrp_addr, &from_peers[..])] {
            let bytes = damaged(&mut rng, valid);
            let mailbox = world.element(addr);
            if mailbox.is_connected() {
                mailbox.say_bytes(bytes);
            }
            world.drain(addr);
        }
        world.run(ms(3));
        world.element(asap_addr).take();
        world.element(enrp_addr).take();
    }
    let snapshot = world.registrar(1).snapshot(world.now);
    assert!(snapshot.peers.len() <= 64, "{}", snapshot.peers.len());
    assert!(snapshot.counters.dropped > 500);
    // Peers that were made up are found dead, and the real world is as before.
    world.kill(enrp_addr);
    world.kill(asap_addr);
    world.run(ms(20_000));
    let user = Element::mailbox(92, 2, Link::Tcp);
    let user_addr = user.addr;
    world.add_element(user);
    world.run(ms(20));
    world.element(user_addr).say(&Message::HandleResolution {
        subscribe: false,
        handle,
        items: None,
    });
    world.drain(user_addr);
    world.run(ms(20));
    let answer = world.element(user_addr).take();
    let Message::HandleResolutionResponse { outcome: Ok(found), .. } =
        Message::decode(&answer[0]).unwrap().message
    else {
        panic!("{answer:?}");
    };
    assert!(found.elements.iter().any(|element| element.pe_id == PeId(1)));
}
