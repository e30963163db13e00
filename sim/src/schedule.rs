//! What is done to the system, derived from the seed alone.
//!
//! Even seeds are orderly: one episode at a time and quiet between them, so that the bounds of the design hold to the
//! letter. Odd seeds pile troubles up; then only what must be true in the end, and slower bounds, are asked for.

use std::time::Duration;

use dialtone_transport::DownCause;

use crate::process::Life;
use crate::scenario::Scenario;
use crate::set::Set;
use crate::world::{Happening, World, ms};

/// One thing that is done.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Begin(Episode),
    Boot {
        process: usize,
        /// With the identifiers of its last life; else with new ones.
        same: bool,
    },
    Freeze {
        process: usize,
        starved: bool,
    },
    /// Nothing is wrong any more from now on.
    Heal,
    Kill {
        process: usize,
        evidence: bool,
    },
    Leave {
        process: usize,
    },
    /// Some association's buffer is full.
    Overflow,
    /// Some association breaks; its sides learn of it within this time.
    Sever {
        limit: Duration,
    },
    Thaw {
        process: usize,
    },
    /// The associations between these two break, and both sides learn of it soon.
    SeverBetween {
        one: usize,
        other: usize,
    },
    /// What this process sends and is sent takes so much longer.
    Slow {
        process: usize,
        lag: Duration,
    },
    Unwall,
    /// Nothing from the one set to the other.
    Wall {
        from: Set,
        to: Set,
    },
}

/// What the present trouble is, in orderly runs; decides which bounds hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Episode {
    /// Associations break; everybody finds each other again.
    Cuts,
    /// Troubles overlap.
    Disorder,
    /// Processes of elements: killed, frozen, leaving, coming.
    Elements,
    /// No registrar runs.
    NoRegistrars,
    /// Somebody cannot reach somebody.
    Partition,
    /// After the end of all trouble.
    Quiet,
    /// A registrar starts again before anybody has missed it, under the same identifier.
    Restart,
    /// A registrar dies while the associations of the others break again and again.
    ShakyTakeover,
    /// One registrar is killed or frozen.
    Registrar,
    /// The system comes up.
    Start,
    /// Processes without CPU for 1 s.
    Starvation,
}

/// The schedule and when the run ends.
pub(crate) fn plan(seed: u64, scenario: &Scenario) -> (Vec<(Duration, Act)>, Duration) {
    let mut plan = Plan {
        scenario,
        rng: fastrand::Rng::with_seed(seed ^ 0x5eed_5eed_5eed_5eed),
        acts: Vec::new(),
        now: Duration::ZERO,
    };
    plan.start();
    if seed.is_multiple_of(2) {
        for _ in 0..6 {
            plan.episode();
        }
    } else {
        plan.disorder();
    }
    let now = plan.now;
    plan.at(now, Act::Heal);
    (plan.acts, now + ms(40_000))
}

struct Plan<'a> {
    scenario: &'a Scenario,
    rng: fastrand::Rng,
    acts: Vec<(Duration, Act)>,
    now: Duration,
}

/// The sides of a broken association know it after so many milliseconds.
pub(crate) const SILENT_BREAK: u64 = 2000;

impl Plan<'_> {
    fn at(&mut self, at: Duration, act: Act) {
        self.acts.push((at, act));
    }

    fn between(&mut self, from: u64, to: u64) -> Duration {
        ms(self.rng.u64(from..to))
    }

    fn element(&mut self) -> usize {
        self.rng.usize(self.scenario.element_processes())
    }

    fn registrar(&mut self) -> usize {
        self.rng.usize(self.scenario.registrars())
    }

    /// Three of four come back as themselves, as a process with a state file does.
    fn boot(&mut self, at: Duration, process: usize) {
        let same = self.rng.u8(..4) > 0;
        self.at(at, Act::Boot { process, same });
    }

    /// Registrars together or one by one; everybody else meanwhile.
    fn start(&mut self) {
        let spread = [1, 50, 3000][self.rng.usize(..3)];
        for process in 0..self.scenario.processes() {
            let registrar = self.scenario.registrars().contains(&process);
            let at = self.between(0, if registrar { spread } else { 4000 });
            self.at(at, Act::Boot { process, same: true });
            if self.rng.u8(..8) == 0 {
                // Some are further away than others.
                let lag = self.between(1, 15);
                self.at(Duration::ZERO, Act::Slow { process, lag });
            }
        }
        self.now = ms(16_000);
    }

    fn episode(&mut self) {
        let now = self.now;
        let kind = self.rng.u8(..17);
        let (episode, length) = match kind {
            _ if self.scenario.contested.is_some() => (Episode::Partition, self.rivals_apart()),
            0..=5 => (Episode::Elements, self.elements(kind)),
            6 if self.scenario.registrars > 2 && self.rng.bool() => {
                (Episode::ShakyTakeover, self.shaky_takeover())
            }
            6..=8 => (Episode::Registrar, self.one_registrar(kind)),
            9 => (Episode::NoRegistrars, self.no_registrars()),
            10 | 11 => (Episode::Partition, self.partition()),
            12 | 13 => (Episode::Starvation, self.starvation()),
            14 => (Episode::Restart, self.restart()),
            _ => (Episode::Cuts, self.cuts()),
        };
        self.at(now, Act::Begin(episode));
        self.now = now + length + ms(14_000);
    }

    fn elements(&mut self, kind: u8) -> Duration {
        let now = self.now + ms(1);
        let mut longest = Duration::ZERO;
        for _ in 0..self.rng.u8(1..4) {
            let process = self.element();
            let away = self.between(4000, 9000);
            longest = longest.max(away);
            match kind {
                0 | 1 => {
                    self.at(now, Act::Kill { process, evidence: true });
                    self.boot(now + away, process);
                }
                2 => {
                    self.at(now, Act::Kill { process, evidence: false });
                    self.boot(now + away, process);
                }
                3 => {
                    self.at(now, Act::Freeze { process, starved: false });
                    self.at(now + away, Act::Thaw { process });
                }
                4 => {
                    // Back before anybody may have noticed.
                    let soon = self.between(10, 2500);
                    self.at(now, Act::Kill { process, evidence: true });
                    self.boot(now + soon, process);
                }
                _ => {
                    self.at(now, Act::Leave { process });
                    self.boot(now + away, process);
                }
            }
        }
        longest
    }

    fn one_registrar(&mut self, kind: u8) -> Duration {
        let now = self.now + ms(1);
        let process = self.registrar();
        let away = self.between(8000, 12_000);
        if kind == 8 {
            self.at(now, Act::Freeze { process, starved: false });
            self.at(now + away, Act::Thaw { process });
        } else {
            self.at(now, Act::Kill { process, evidence: kind == 6 });
            self.boot(now + away, process);
        }
        away
    }

    fn shaky_takeover(&mut self) -> Duration {
        let now = self.now + ms(1);
        let process = self.registrar();
        let count = self.scenario.registrars;
        let (one, other) = ((process + 1) % count, (process + 2) % count);
        self.at(now, Act::Kill { process, evidence: true });
        let mut at = now;
        for _ in 0..16 {
            at += self.between(50, 350);
            self.at(at, Act::SeverBetween { one, other });
        }
        let away = ms(16_000);
        self.boot(now + away, process);
        away
    }

    fn restart(&mut self) -> Duration {
        let now = self.now + ms(1);
        let process = self.registrar();
        let evidence = self.rng.bool();
        let away = self.between(10, 2500);
        self.at(now, Act::Kill { process, evidence });
        self.at(now + away, Act::Boot { process, same: true });
        away
    }

    fn no_registrars(&mut self) -> Duration {
        let now = self.now + ms(1);
        let evidence = self.rng.bool();
        let freeze = self.rng.bool();
        let away = self.between(3000, 9000);
        for process in self.scenario.registrars() {
            if freeze {
                self.at(now, Act::Freeze { process, starved: false });
                self.at(now + away, Act::Thaw { process });
            } else {
                self.at(now, Act::Kill { process, evidence });
                self.boot(now + away, process);
            }
        }
        away
    }

    fn partition(&mut self) -> Duration {
        let now = self.now + ms(1);
        let away = self.between(500, 12_000);
        self.at(now + away, Act::Unwall);
        let all = self.scenario.all();
        let side = match self.rng.u8(..4) {
            0 => Set::of([self.registrar()]),
            1 => Set::of([self.element()]),
            2 => self.half(),
            _ => {
                self.fall_apart(now);
                return away;
            }
        };
        let registrars = Set::of(self.scenario.registrars());
        let other = if self.rng.bool() { all } else { registrars }.without(&side);
        self.at(now, Act::Wall { from: side, to: other });
        if self.rng.u8(..4) > 0 {
            self.at(now, Act::Wall { from: other, to: side });
        }
        away
    }

    fn half(&mut self) -> Set {
        Set::of((0..self.scenario.processes()).filter(|_| self.rng.bool()))
    }

    /// Islands with registrars of their own, between which nothing passes.
    fn fall_apart(&mut self, at: Duration) {
        let islands = self.rng.usize(2..=self.scenario.registrars.min(4));
        let mut sides = vec![Set::default(); islands];
        for process in 0..self.scenario.processes() {
            let registrar = self.scenario.registrars().contains(&process);
            let side = if registrar { process % islands } else { self.rng.usize(..islands) };
            sides[side].insert(process);
        }
        let all = self.scenario.all();
        for side in sides {
            self.at(at, Act::Wall { from: side, to: all.without(&side) });
        }
    }

    /// Two sides with registrars, and on each the elements of one policy of the contested pool.
    fn rivals_apart(&mut self) -> Duration {
        let now = self.now + ms(1);
        let away = self.between(4000, 14_000);
        self.at(now + away, Act::Unwall);
        let alone = self.registrar();
        let registrars = self.scenario.registrars();
        let few = registrars.filter(|other| *other == alone || self.rng.u8(..3) == 0);
        let mut side = Set::of(few);
        if self.scenario.registrars().all(|registrar| side.contains(registrar)) {
            side = Set::of([alone]);
        }
        let first = self.scenario.rival_policy(self.scenario.element_processes().start);
        for process in self.scenario.element_processes() {
            let here = match self.scenario.rival_policy(process) {
                Some(policy) => Some(policy) == first,
                None => self.rng.bool(),
            };
            if here {
                side.insert(process);
            }
        }
        for user in self.scenario.element_processes().end..self.scenario.processes() {
            if self.rng.bool() {
                side.insert(user);
            }
        }
        let other = self.scenario.all().without(&side);
        self.at(now, Act::Wall { from: side, to: other });
        self.at(now, Act::Wall { from: other, to: side });
        away
    }

    fn starvation(&mut self) -> Duration {
        let now = self.now + ms(1);
        let many = self.rng.u8(1..6);
        let only_registrar = self.rng.bool();
        let first = self.registrar();
        for n in 0..many {
            let process = match (n, only_registrar) {
                (0, true) => first,
                (_, true) => self.element(),
                _ => self.rng.usize(self.scenario.registrars..self.scenario.processes()),
            };
            self.at(now, Act::Freeze { process, starved: true });
            self.at(now + ms(1000), Act::Thaw { process });
            if only_registrar {
                break;
            }
        }
        ms(1000)
    }

    fn cuts(&mut self) -> Duration {
        let now = self.now + ms(1);
        for _ in 0..self.rng.u8(1..6) {
            let at = now + self.between(0, 500);
            let limit = self.between(1, SILENT_BREAK);
            let act = if self.rng.bool() { Act::Overflow } else { Act::Sever { limit } };
            self.at(at, act);
        }
        ms(500 + SILENT_BREAK)
    }

    /// Everything at once.
    fn disorder(&mut self) {
        let (now, end) = (self.now, self.now + ms(40_000));
        self.at(now, Act::Begin(Episode::Disorder));
        let pace = [300, 1000, 3000][self.rng.usize(..3)];
        let registrars_too = self.rng.bool();
        while self.now < end {
            let at = self.now;
            let pause = self.between(50, pace * 2);
            self.now += pause;
            let process = match self.rng.u8(..10) {
                0..=2 => self.registrar(),
                3..=8 => self.element(),
                _ => self.rng.usize(..self.scenario.processes()),
            };
            let away = at + self.between(50, 8000);
            match self.rng.u8(..20) {
                0..=4 => {
                    let evidence = self.rng.bool();
                    self.at(at, Act::Kill { process, evidence });
                    self.boot(away, process);
                }
                5..=8 => {
                    self.at(at, Act::Freeze { process, starved: false });
                    self.at(away, Act::Thaw { process });
                }
                9 => {
                    self.at(at, Act::Freeze { process, starved: true });
                    self.at(at + ms(1000), Act::Thaw { process });
                }
                10..=12 if registrars_too => {
                    let side = Set::of([self.registrar()]) | self.half();
                    let other = self.scenario.all().without(&side);
                    match self.rng.u8(..4) {
                        0 => self.fall_apart(at),
                        1 => self.at(at, Act::Wall { from: side, to: other }),
                        _ => {
                            self.at(at, Act::Wall { from: side, to: other });
                            self.at(at, Act::Wall { from: other, to: side });
                        }
                    }
                    self.at(away, Act::Unwall);
                }
                10..=13 => {
                    let process = self.element();
                    self.at(at, Act::Leave { process });
                    self.boot(away, process);
                }
                14 => self.at(at, Act::Overflow),
                15 => {
                    let lag = self.between(20, 600);
                    self.at(at, Act::Slow { process, lag });
                    self.at(away, Act::Slow { process, lag: Duration::ZERO });
                }
                _ => {
                    let limit = self.between(1, 3000);
                    self.at(at, Act::Sever { limit });
                }
            }
        }
        self.now += ms(100);
    }
}

impl World {
    pub(crate) fn prepare(&mut self, acts: Vec<(Duration, Act)>) {
        for (at, act) in acts {
            self.later(at, Happening::Act(act));
        }
        for user in self.user_range() {
            let at = ms(self.rng.u64(5000..6000));
            self.later(at, Happening::Use { user });
        }
        for process in self.scenario.element_processes() {
            let at = ms(self.rng.u64(5000..8000));
            self.later(at, Happening::Change { process });
        }
        self.later(ms(100), Happening::Observe);
    }

    pub(crate) fn act(&mut self, act: Act) {
        self.trace.note(self.now, "schedule", 7, &[], || format!("{act:?}"));
        self.troubled = self.now;
        match act {
            Act::Begin(episode) => {
                self.episode = episode;
                self.touched = Set::default();
                self.departed.clear();
                self.breaks.clear();
                for process in &mut self.processes {
                    process.blamed[1] = process.blamed[0];
                }
                self.moves.forget();
            }
            Act::Boot { process, same } => {
                self.touched.insert(process);
                self.boot(process, same);
            }
            Act::Freeze { process, starved } => {
                self.touched.insert(process);
                self.freeze(process, starved);
            }
            Act::Heal => self.heal(),
            Act::Kill { process, evidence } => {
                self.touched.insert(process);
                self.kill(process, evidence);
            }
            Act::Leave { process } => {
                self.touched.insert(process);
                self.leave(process);
            }
            Act::Overflow => {
                if let Some((one, other)) = self.any_pair() {
                    self.touched = self.touched | Set::of([one.process, other.process]);
                    self.breaks.push((one.process, other.process));
                    self.break_off(one, DownCause::TimedOut);
                }
            }
            Act::Sever { limit } => {
                if let Some((one, other)) = self.any_pair() {
                    self.touched = self.touched | Set::of([one.process, other.process]);
                    self.breaks.push((one.process, other.process));
                    self.sever(one, other, limit);
                }
            }
            Act::SeverBetween { one, other } => self.sever_between(one, other, ms(350)),
            Act::Thaw { process } => {
                self.touched.insert(process);
                if process < self.scenario.registrars && self.episode == Episode::Registrar {
                    self.moves.thawed(process, self.now);
                }
                self.thaw(process);
            }
            Act::Slow { process, lag } => self.net.lags[process] = lag,
            Act::Unwall => self.net.walls.clear(),
            Act::Wall { from, to } => {
                self.touched = self.touched | from | to;
                self.net.walls.push((from, to));
            }
        }
    }

    /// Ends every fault. Elements that died stay away, half of them.
    fn heal(&mut self) {
        self.episode = Episode::Quiet;
        self.healed = Some(self.now);
        self.net.walls.clear();
        self.net.lags.fill(Duration::ZERO);
        if let Some(packets) = &mut self.packets {
            packets.heal();
        }
        for process in 0..self.processes.len() {
            match self.processes[process].life {
                Life::Frozen { .. } => self.thaw(process),
                Life::Dead { .. } if process < self.scenario.registrars || self.rng.bool() => {
                    self.boot(process, true);
                }
                Life::Dead { .. } | Life::Running { .. } => {}
            }
        }
    }
}
