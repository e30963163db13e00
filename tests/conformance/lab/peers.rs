//! Scripted peers of registrar 1: they say bytes over ENRP, and on request behave as registrars do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_registrar_ns::core::Config;
use dialtone_transport::NetCommand;

use super::bytes::*;
use super::registrars::Lab;
use crate::element::Element;
use crate::world::{World, ms};

/// No registrar is there.
const NOBODY: u8 = 250;
const STEP: Duration = Duration::from_millis(10);
const PRESENCES: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) id: u32,
    /// What it owns: pools and elements.
    pub(crate) elements: Vec<(String, Pe)>,
    /// What it was told, when.
    pub(crate) heard: Vec<(Instant, Message)>,
    next_presence: Instant,
}

impl Peer {
    /// Messages of a kind that it was told since `since`.
    pub(crate) fn told(&self, since: Instant, kind: u8) -> Vec<&Message> {
        let all = self.heard.iter().filter(|(at, message)| *at >= since && message.kind == kind);
        all.map(|(_, message)| message).collect()
    }

    fn checksum(&self) -> u16 {
        let names: Vec<(&str, u32)> =
            self.elements.iter().map(|(pool, element)| (pool.as_str(), element.id)).collect();
        checksum(&names)
    }

    pub(crate) fn presence(&self, flags: u8) -> Vec<u8> {
        presence(self.id, flags, self.checksum())
    }

    /// All that it owns, in one message.
    pub(crate) fn table(&self, flags: u8) -> Vec<u8> {
        let entries =
            self.elements.iter().flat_map(|(pool, element)| [handle(pool), element.tlv()]);
        enrp(TABLE_RESPONSE, flags, self.id, 0, &entries.collect::<Vec<_>>())
    }
}

impl Lab {
    /// Registrar 1 with this identifier, alone and in service.
    pub(crate) fn alone(id: u32) -> Self {
        Self::configured(id, World::config(1, Vec::new()))
    }

    /// Registrar 1 with this identifier and configuration.
    pub(crate) fn configured(id: u32, config: Config) -> Self {
        let mut world = World::new();
        world.add_configured(1, id, config);
        Self { world }
    }

    /// Where a peer with this number listens.
    pub(crate) fn place(n: u8) -> SocketAddr {
        Element::enrp_mailbox(n, NOBODY).addr
    }

    /// A peer with this number and identifier that waits to be dialled.
    pub(crate) fn listening(&mut self, n: u8) -> Peer {
        self.add_peer(n, NOBODY)
    }

    /// A peer with this number and identifier that has dialled registrar 1 and said nothing yet.
    pub(crate) fn dialled(&mut self, n: u8) -> Peer {
        let peer = self.add_peer(n, 1);
        self.run(ms(5));
        peer
    }

    /// A peer that registrar 1 knows and has asked what it owns: nothing.
    pub(crate) fn peer(&mut self, n: u8) -> Peer {
        let mut peer = self.dialled(n);
        self.live(&mut [&mut peer], ms(50));
        assert_eq!(peer.told(peer.heard[0].0, TABLE_REQUEST).len(), 1, "{:?}", peer.heard);
        peer
    }

    fn add_peer(&mut self, n: u8, registrar: u8) -> Peer {
        let mailbox = Element::enrp_mailbox(n, registrar);
        let addr = mailbox.addr;
        self.world.add_element(mailbox);
        let next_presence = self.world.now;
        Peer { addr, id: n.into(), elements: Vec::new(), heard: Vec::new(), next_presence }
    }

    /// Says something over the association with registrar 1, whoever dialled it.
    pub(crate) fn tell(&mut self, peer: &Peer, payload: Vec<u8>) {
        let element = self.world.element(peer.addr);
        let assoc = *element.up.last().expect("connected");
        element.out.push_back(NetCommand::Send { assoc, payload });
        self.world.drain(peer.addr);
    }

    /// Lets the peer hear what has come, and do nothing about it.
    pub(crate) fn listen(&mut self, peer: &mut Peer) -> Vec<Message> {
        let received = std::mem::take(&mut self.world.element(peer.addr).received);
        let new: Vec<_> = received.iter().map(|(at, bytes)| (*at, Message::read(bytes))).collect();
        peer.heard.extend(new.iter().cloned());
        new.into_iter().map(|(_, message)| message).collect()
    }

    /// Says something; all that comes back within 10 ms.
    pub(crate) fn ask_peer(&mut self, peer: &mut Peer, bytes: Vec<u8>) -> Vec<Message> {
        self.listen(peer);
        self.tell(peer, bytes);
        self.run(ms(10));
        self.listen(peer)
    }

    /// Time in which these peers send presences, answer those that ask for it, and say what they own. All others are
    /// silent.
    pub(crate) fn live(&mut self, peers: &mut [&mut Peer], time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            for peer in &mut *peers {
                for message in self.listen(peer) {
                    match message.kind {
                        PRESENCE if message.flags & R != 0 => self.tell(peer, peer.presence(0)),
                        TABLE_REQUEST => self.tell(peer, peer.table(0)),
                        _ => {}
                    }
                }
                if self.world.now >= peer.next_presence {
                    peer.next_presence = self.world.now + PRESENCES;
                    self.tell(peer, peer.presence(0));
                }
            }
            self.run(STEP.min(end - self.world.now));
        }
        for peer in peers {
            self.listen(peer);
        }
    }

    /// Whether registrar 1 has a peer with this identifier in its list.
    pub(crate) fn knows(&self, id: u32) -> bool {
        self.status(id).is_some()
    }

    /// What registrar 1 thinks of a peer.
    pub(crate) fn status(&self, id: u32) -> Option<&'static str> {
        let peers = self.world.registrar(1).snapshot(self.world.now).peers;
        peers.iter().find(|peer| peer.id.0 == id).map(|peer| peer.status)
    }

    /// The registrar's own presence right now, by asking for it.
    pub(crate) fn own_checksum(&mut self, peer: &mut Peer) -> u16 {
        let answers = self.ask_peer(peer, peer.presence(R));
        let presence = answers.iter().find(|answer| answer.kind == PRESENCE).expect("an answer");
        let parts = presence.behind(8);
        let value = &parts.iter().find(|part| part.kind == PE_CHECKSUM).unwrap().value;
        u16::from_be_bytes([value[0], value[1]])
    }
}
