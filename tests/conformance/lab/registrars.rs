//! Real registrar cores on a virtual network, with scripted elements and users that say bytes.

use std::net::SocketAddr;
use std::time::Duration;

use dialtone_transport::Link;

use super::bytes::{
    HANDLE_UPDATE, KEEP_ALIVE, KEEP_ALIVE_ACK, Message, Pe, handle, message, pe_id, registration,
};
use crate::element::Element;
use crate::world::{World, ms, reg};

/// Registrars 1 and up, all peers of each other, and who talks to them.
pub(crate) struct Lab {
    pub(crate) world: World,
}

impl Lab {
    /// So many registrars in service.
    pub(crate) fn new(registrars: u8) -> Self {
        Self { world: World::with_registrars(registrars) }
    }

    /// Somebody at 127.0.1.`id`, with an SCTP association with registrar `n`.
    pub(crate) fn sctp(&mut self, id: u8, n: u8) -> SocketAddr {
        self.connect(Element::mailbox(id, n, Link::Sctp))
    }

    /// The same with a TCP connection.
    pub(crate) fn tcp(&mut self, id: u8, n: u8) -> SocketAddr {
        self.connect(Element::mailbox(id, n, Link::Tcp))
    }

    fn connect(&mut self, mailbox: Element) -> SocketAddr {
        let addr = mailbox.addr;
        self.world.add_element(mailbox);
        self.world.run(ms(10));
        assert!(self.world.element(addr).is_connected());
        addr
    }

    /// An element of `pool` that registered with registrar `n` and answers keep-alives by itself.
    pub(crate) fn element(&mut self, pool: &str, id: u8, n: u8) -> SocketAddr {
        let element = Element::new(pool, id, &[n]);
        let addr = element.addr;
        self.world.add_element(element);
        self.world.run(ms(20));
        assert!(self.has(n, pool, u32::from(id)));
        addr
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.world.run(time);
    }

    /// Says something, without a look at what comes back.
    pub(crate) fn say(&mut self, who: SocketAddr, bytes: Vec<u8>) {
        self.world.element(who).say_bytes(bytes);
        self.world.drain(who);
    }

    /// What came since the last look, apart from keep-alives.
    pub(crate) fn hear(&mut self, who: SocketAddr) -> Vec<Message> {
        let received = self.world.element(who).take();
        received.iter().map(|bytes| Message::read(bytes)).filter(|m| m.kind != KEEP_ALIVE).collect()
    }

    /// Keep-alives that came since the last look; everything else is forgotten.
    pub(crate) fn keep_alives(&mut self, who: SocketAddr) -> Vec<Message> {
        let received = self.world.element(who).take();
        received.iter().map(|bytes| Message::read(bytes)).filter(|m| m.kind == KEEP_ALIVE).collect()
    }

    /// Says something; all that comes back within 10 ms.
    pub(crate) fn answers(&mut self, who: SocketAddr, bytes: Vec<u8>) -> Vec<Message> {
        self.hear(who);
        self.say(who, bytes);
        self.run(ms(10));
        self.hear(who)
    }

    /// Says something that has exactly one answer.
    pub(crate) fn ask(&mut self, who: SocketAddr, bytes: Vec<u8>) -> Message {
        let mut answers = self.answers(who, bytes);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// Registers, which is granted.
    pub(crate) fn register(&mut self, who: SocketAddr, pool: &str, element: &Pe) {
        let answer = self.ask(who, registration(pool, element));
        assert_eq!((answer.flags & 1, answer.causes()), (0, vec![]), "{answer:?}");
    }

    /// Answers a keep-alive.
    pub(crate) fn ack(&mut self, who: SocketAddr, pool: &str, id: u32) {
        self.say(who, message(KEEP_ALIVE_ACK, 0, &[handle(pool), pe_id(id)]));
    }

    /// Whether registrar `n` has the element in its handlespace.
    pub(crate) fn has(&self, n: u8, pool: &str, id: u32) -> bool {
        self.home(n, pool, id).is_some()
    }

    /// Whose element it is, as far as registrar `n` knows.
    pub(crate) fn home(&self, n: u8, pool: &str, id: u32) -> Option<u32> {
        let space = self.world.registrar(n).handlespace();
        space.get(pool.as_bytes(), dialtone_wire::PeId(id)).map(|element| element.home.0)
    }

    /// The HANDLE_UPDATEs that registrar `n` has sent: action, and the message.
    pub(crate) fn updates(&self, n: u8) -> Vec<(u16, Message)> {
        let enrp = self.world.enrp.iter().filter(|(_, from, ..)| *from == reg(n));
        enrp.map(|(.., bytes)| Message::read(bytes))
            .filter(|message| message.kind == HANDLE_UPDATE)
            .map(|message| (u16::from_be_bytes([message.value[8], message.value[9]]), message))
            .collect()
    }
}
