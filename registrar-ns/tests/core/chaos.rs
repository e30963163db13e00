//! Random faults on three registrars and twenty elements, then peace: everybody agrees, and goes quiet.

use std::net::SocketAddr;

use dialtone_registrar_ns::core::Event;

use crate::element::Element;
use crate::world::{Name, World, ms, reg};

struct Chaos {
    world: World,
    rng: fastrand::Rng,
    seed: u64,
    names: Vec<Name>,
    elements: Vec<SocketAddr>,
    frozen: Vec<SocketAddr>,
    cuts: Vec<(SocketAddr, SocketAddr)>,
    /// Killed registrars, to be started again.
    dead: Vec<u8>,
    lives: u32,
}

const REGISTRARS: u8 = 3;

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut world = World::with_registrars(REGISTRARS);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut names, mut elements) = (Vec::new(), Vec::new());
        for id in 1..=20 {
            let mut known = vec![1, 2, 3];
            rng.shuffle(&mut known);
            let element = Element::new(["a", "b", "c"][usize::from(id) % 3], id, &known);
            names.push(element.name.clone());
            elements.push(element.addr);
            world.add_element(element);
        }
        world.run(ms(1000));
        let (frozen, cuts, dead) = (Vec::new(), Vec::new(), Vec::new());
        Self { world, rng, seed, names, elements, frozen, cuts, dead, lives: 100 }
    }

    fn any(&mut self) -> SocketAddr {
        match self.rng.usize(0..23) {
            n if n < 20 => self.elements[n],
            n => reg(n as u8 - 19),
        }
    }

    fn fault(&mut self) {
        match self.rng.u8(0..10) {
            0..3 => {
                let addr = self.any();
                if !self.frozen.contains(&addr) && self.world.lives(addr) {
                    self.world.freeze(addr);
                    self.frozen.push(addr);
                }
            }
            3..6 => {
                let (a, b) = (reg(self.rng.u8(1..=REGISTRARS)), self.any());
                if a != b {
                    self.world.cut(a, b);
                    self.cuts.push((a, b));
                }
            }
            6 => {
                let n = self.rng.u8(1..=REGISTRARS);
                if self.dead.len() < 2 && !self.dead.contains(&n) {
                    self.world.kill(reg(n));
                    self.frozen.retain(|addr| *addr != reg(n));
                    self.dead.push(n);
                }
            }
            7 => {
                // An element is killed and started again.
                let index = self.rng.usize(0..20);
                let addr = self.elements[index];
                self.world.kill(addr);
                self.frozen.retain(|frozen| *frozen != addr);
                self.world.run(ms(self.rng.u64(0..2000)));
                self.start_element(index);
            }
            8 if !self.frozen.is_empty() => self.thaw(),
            _ => self.restart(),
        }
        if self.cuts.len() > 3 {
            let (a, b) = self.cuts.remove(0);
            self.world.heal(a, b);
        }
    }

    fn start_element(&mut self, index: usize) {
        let mut known = vec![1, 2, 3];
        self.rng.shuffle(&mut known);
        self.world.add_element(Element::new(
            &self.names[index].0,
            self.names[index].1 as u8,
            &known,
        ));
    }

    fn thaw(&mut self) {
        let index = self.rng.usize(0..self.frozen.len());
        let addr = self.frozen.swap_remove(index);
        self.world.thaw(addr);
    }

    fn restart(&mut self) {
        if let Some(n) = self.dead.pop() {
            self.lives += 1;
            self.world.add_registrar(
                n,
                self.lives * 10 + u32::from(n),
                (1..=REGISTRARS).map(reg).collect(),
            );
        }
    }

    fn peace(&mut self) {
        while let Some((a, b)) = self.cuts.pop() {
            self.world.heal(a, b);
        }
        while !self.frozen.is_empty() {
            self.thaw();
        }
        while !self.dead.is_empty() {
            self.restart();
        }
        self.world.run(ms(30_000));
    }

    fn check(&mut self) {
        let seed = self.seed;
        let table = |n: u8| {
            let space = self.world.registrar(n).handlespace();
            space.elements().map(|(h, e)| (h.to_string(), e.pe_id.0, e.home.0)).collect::<Vec<_>>()
        };
        for n in 2..=REGISTRARS {
            assert_eq!(table(1), table(n), "seed {seed}: registrar {n}");
        }
        let missing: Vec<_> =
            self.names.iter().filter(|name| self.world.home_of(1, name).is_none()).collect();
        assert!(missing.is_empty(), "seed {seed}: {missing:?}: {}", self.world.story(missing[0]));
        let ids: Vec<_> = (1..=REGISTRARS).map(|n| self.world.registrar(n).id().0).collect();
        assert!(table(1).iter().all(|(.., home)| ids.contains(home)), "seed {seed}");
        let quiet = self.world.now;
        self.world.run(ms(20_000));
        for n in 1..=REGISTRARS {
            let noise = |e: &Event| !matches!(e, Event::Starved { .. });
            let found =
                self.world.events(n).iter().find(|(at, event)| *at >= quiet && noise(event));
            assert_eq!(found, None, "seed {seed}: registrar {n} is not quiet");
        }
    }
}

fn run(seed: u64) {
    let mut chaos = Chaos::new(seed);
    for _ in 0..30 {
        chaos.fault();
        let pause = chaos.rng.u64(0..4000);
        chaos.world.run(ms(pause));
    }
    chaos.peace();
    chaos.check();
}

/// `CHAOS_SEEDS=from..to` runs other seeds.
#[test]
fn everybody_agrees_after_faults() {
    let seeds = std::env::var("CHAOS_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in seeds.unwrap_or(0..40) {
        run(seed);
    }
}
