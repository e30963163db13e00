//! Bodies of fuzz targets as plain functions. They panic on a violated property.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{BACKLOG, Stack, packet};
use crate::config::EndpointConfig;
use crate::cookie::{Baker, INNER, Key, SUFFIX};
use crate::entropy::Entropy;
use crate::model::{AssocId, Link, NetCommand, NetEvent, Protocol, Remote};
use crate::packet::{InitAck, Packet, Returned};

/// Any bytes: parsers never panic, what parses adds up, and what is rewritten parses again.
pub fn packet(bytes: &[u8]) {
    let _ = Packet::parse(bytes);
    let _ = Returned::parse(bytes);
    if bytes.len() < 12 {
        return;
    }
    let bytes = packet::seal(bytes.to_vec());
    let Ok(packet) = Packet::parse(&bytes) else { return };
    let covered: usize = packet.chunks().map(|chunk| 4 + chunk.value.len()).sum();
    assert!(covered + 12 <= bytes.len() && covered > 0);
    if let Some(ack) = InitAck::find(&bytes)
        && bytes.len() < 60_000
    {
        let longer = ack.with_suffix(3863, &[0x5a; SUFFIX]);
        let again = InitAck::find(&longer).expect("the cookie is still there");
        assert_eq!(again.cookie.split_at(ack.cookie.len()), (ack.cookie, &[0x5a; SUFFIX][..]));
        assert_eq!((again.peer_tag, again.my_tag), (ack.peer_tag, ack.my_tag));
    }
    let first = packet.chunks().next().map_or(&[][..], |chunk| chunk.value);
    if first.len() == INNER + SUFFIX {
        let cut = packet::cut_cookie(&bytes, first.len(), INNER);
        let cut = Packet::parse(&cut).expect("what is left is a packet");
        assert_eq!(cut.chunks().count(), packet.chunks().count());
        assert_eq!(cut.chunks().next().map(|chunk| chunk.value), Some(&first[..INNER]));
    }
    if let Some(sack) = packet::acknowledged_by_shutdown(&packet, 0) {
        assert!(Packet::parse(&sack).is_ok());
    }
}

/// Any bytes: as a cookie they are refused; sealed and then changed anywhere they are refused, too.
pub fn cookie(bytes: &[u8]) {
    let now = epoch();
    let mut entropy = Entropy::Seeded(fastrand::Rng::with_seed(1));
    let Ok(baker) = Baker::new(&mut entropy, now, Duration::from_secs(10)) else { return };
    let peer = SocketAddr::from(([192, 0, 2, 1], 9899));
    let key = Key { peer, peer_port: 3863, local_port: 3863 };
    assert!(baker.open(now, &key, bytes).is_err());
    let Some((inner, rest)) = bytes.split_at_checked(INNER) else { return };
    let (peer_tag, my_tag) =
        (packet::u32_at(rest, 0).unwrap_or(1), packet::u32_at(rest, 4).unwrap_or(2));
    let mut sealed = inner.to_vec();
    sealed.extend(baker.suffix(now, &key, inner, peer_tag, my_tag));
    let opened = baker.open(now, &key, &sealed).expect("our own");
    assert_eq!((opened.peer_tag, opened.my_tag), (peer_tag, my_tag));
    if let [at, flip, ..] = rest
        && *flip != 0
    {
        let at = usize::from(*at) % sealed.len();
        sealed[at] ^= flip;
        assert!(baker.open(now, &key, &sealed).is_err());
    }
}

/// Any bytes, as a schedule of what happens to a registrar's stack that has an association with an element: packets of
/// strangers, of the element and of somebody who knows its tags, ICMP errors, time, commands.
pub fn demultiplexer(bytes: &[u8]) {
    let mut world = World::new();
    let mut rest = bytes;
    while let [what, size, more @ ..] = rest {
        let (piece, after) = more.split_at(usize::from(*size).min(more.len()));
        rest = after;
        world.step(*what, piece);
        world.registrar.check();
        world.element.check();
    }
    world.now += Duration::from_secs(60);
    for stack in [&mut world.registrar, &mut world.element] {
        stack.end_all(world.now, false);
        stack.check();
        assert!(stack.is_empty() && stack.timers.is_empty() && stack.sites.is_empty());
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
fn epoch() -> Instant {
    Instant::now()
}

struct World {
    now: Instant,
    registrar: Stack,
    element: Stack,
    /// The registrar's name of their association.
    assoc: AssocId,
}

impl World {
    const REGISTRAR: ([u8; 4], u16) = ([127, 203, 0, 1], 9899);
    const ELEMENT: ([u8; 4], u16) = ([127, 203, 0, 2], 9899);

    fn new() -> Self {
        let now = epoch();
        let stack = |config, seed| {
            let entropy = Entropy::Seeded(fastrand::Rng::with_seed(seed));
            Stack::with_entropy(config, now, Arc::default(), Arc::default(), entropy)
                .expect("a seed does not run dry")
        };
        let registrar = stack(EndpointConfig::registrar(Self::REGISTRAR.into(), None), 1);
        let element = stack(EndpointConfig::element(Self::ELEMENT.into()), 2);
        let mut world = Self { now, registrar, element, assoc: AssocId::accepted(0) };
        let addr = Self::REGISTRAR.into();
        let remote = Remote { link: Link::Sctp, addr, sctp_port: 3863 };
        let (assoc, protocol) = (AssocId::dialled(1), Protocol::Asap);
        world.element.handle_command(now, NetCommand::Connect { assoc, protocol, remote });
        world.carry();
        assert!(matches!(
            world.registrar.events.pop_front(),
            Some(NetEvent::Up { assoc, .. }) if assoc == world.assoc
        ));
        world
    }

    /// Delivers what is under way between the two; what goes elsewhere is lost.
    fn carry(&mut self) {
        for _ in 0..1_000 {
            let there: Vec<_> = self.element.transmits.drain(..).collect();
            let back: Vec<_> = self.registrar.transmits.drain(..).collect();
            if there.is_empty() && back.is_empty() {
                return;
            }
            for (to, bytes) in there {
                if to == Self::REGISTRAR.into() {
                    self.registrar.handle_datagram(self.now, Self::ELEMENT.into(), &bytes);
                }
            }
            for (to, bytes) in back {
                if to == Self::ELEMENT.into() {
                    self.element.handle_datagram(self.now, Self::REGISTRAR.into(), &bytes);
                }
            }
        }
        panic!("they do not come to an end");
    }

    fn step(&mut self, what: u8, piece: &[u8]) {
        let from = match what >> 6 {
            0 | 1 => SocketAddr::from(Self::ELEMENT),
            2 => SocketAddr::from((Self::ELEMENT.0, 1234)),
            _ => SocketAddr::from(([198, 51, 100, 7], 9899)),
        };
        let tags = self.registrar.assocs.get(&self.assoc).map(|a| (a.my_tag, a.peer_tag));
        let (mine, theirs) = tags.unwrap_or_default();
        match what & 0x0f {
            0 => self.registrar.handle_datagram(self.now, from, piece),
            1 if piece.len() >= 12 => {
                let bytes = packet::seal(piece.to_vec());
                self.registrar.handle_datagram(self.now, from, &bytes);
            }
            // With header: the piece is chunks.
            kind @ 2..=5 => {
                let tag = [mine, mine, theirs, 0][usize::from(kind - 2)];
                let mut bytes = [3863u16.to_be_bytes(); 2].concat();
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(piece);
                self.registrar.handle_datagram(self.now, from, &packet::seal(bytes));
            }
            6 | 7 => {
                self.now += Duration::from_millis(piece.len() as u64 * 10);
                self.registrar.handle_timeout(self.now);
                self.element.handle_timeout(self.now);
            }
            8 => self.registrar.handle_unreachable(
                self.now,
                from,
                piece.len().is_multiple_of(2),
                piece,
            ),
            9 | 10 => {
                let (stack, assoc) = match what & 0x0f {
                    9 => (&mut self.registrar, self.assoc),
                    _ => (&mut self.element, AssocId::dialled(1)),
                };
                let payload = piece.repeat(1 + usize::from(what >> 4));
                stack.handle_command(self.now, NetCommand::Send { assoc, payload });
                stack.flush(self.now);
            }
            11 => self
                .element
                .handle_command(self.now, NetCommand::Shutdown { assoc: AssocId::dialled(1) }),
            12 => {
                self.registrar.handle_command(self.now, NetCommand::Shutdown { assoc: self.assoc });
            }
            _ => self.carry(),
        }
        // Nobody listens.
        self.registrar.events.clear();
        self.element.events.clear();
    }
}

impl Stack {
    /// Everything that is said twice is said alike, and no bound is broken.
    fn check(&self) {
        assert_eq!(self.counters.faults.load(Ordering::Relaxed), 0, "the SCTP code panicked");
        assert!(self.transmits.len() <= BACKLOG);
        for (key, id) in &self.by_key {
            assert_eq!(self.assocs[id].key, *key);
        }
        for (tag, id) in &self.by_tag {
            assert_eq!(self.assocs[id].my_tag, tag.tag);
        }
        for (at, id) in &self.timers {
            assert_eq!(self.assocs[id].scheduled, Some(*at));
        }
        let here: usize = self.sites.values().sum();
        assert_eq!(here, self.assocs.len());
        self.check_hoards();
    }
}
