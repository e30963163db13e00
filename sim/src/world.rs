//! The clock, the queue, and the processes that live by them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_asap_client::core::Client;
use dialtone_asap_client::{ClientConfig, registrar_sctp, registrar_tcp};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{
    Command as ElementCommand, ElementKey, Elements, ElementsConfig, State,
};
use dialtone_pool_user::{Choice, Command as UserCommand, Selector, Users, UsersConfig};
use dialtone_registrar_ns::core::{Config, Registrar};
use dialtone_transport::{Link, NetEvent};
use dialtone_wire::{PeId, ServerId, Transport};

use crate::coverage::Coverage;
use crate::invariants::{self, Heard, Moves, Questions, Tally};
use crate::net::{EndRef, Net};
use crate::packets::Packets;
use crate::plant::Planted;
use crate::process::{Core, Life, Process, Purpose, Said};
use crate::queue::Queue;
use crate::scenario::{self, Scenario, registrar_ip};
use crate::schedule::{Act, Episode};
use crate::set::Set;
use crate::trace::Trace;
use crate::{Options, Violation};

/// Something due at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    Act(Act),
    Arrive {
        to: EndRef,
        event: NetEvent,
        sender: Option<u64>,
    },
    Beat(EndRef),
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Dial {
        from: EndRef,
        attempt: u32,
    },
    DialLimit(EndRef),
    Icmp {
        process: usize,
        boot: u32,
        to: SocketAddr,
        returned: Vec<u8>,
    },
    /// An event that the process's own endpoint makes.
    Local {
        process: usize,
        boot: u32,
        event: NetEvent,
    },
    /// An element's values change.
    Change {
        process: usize,
    },
    Observe,
    Pump(EndRef),
    ShutdownLimit(EndRef),
    /// A datagram that a registrar has sent to the group.
    Presence {
        from: usize,
        to: usize,
        payload: Vec<u8>,
    },
    /// An SCTP stack wants to be called.
    Stack {
        process: usize,
        alarm: u64,
    },
    /// A user needs an element.
    Use {
        user: usize,
    },
    /// It did not answer.
    UseFailed {
        user: usize,
        boot: u32,
        handle: Handle,
        pe_id: PeId,
    },
    Wake {
        process: usize,
        alarm: u64,
    },
}

/// What a core is given.
enum Input {
    Net(NetEvent),
    Presence(SocketAddr, Vec<u8>),
    Timeout,
    Element(ElementCommand),
    User(UserCommand),
}

/// An element's former identity.
#[derive(Clone, Debug)]
pub(crate) struct Departed {
    pub(crate) process: usize,
    pub(crate) handle: Handle,
    pub(crate) pe_id: PeId,
    /// How its last life ended, and when that was reported first.
    pub(crate) life: Life,
    pub(crate) reported: Option<Duration>,
    /// When the process came back under another one.
    pub(crate) back: Duration,
}

pub(crate) struct World {
    base: Instant,
    pub(crate) scenario: Scenario,
    pub(crate) now: Duration,
    /// Draws of the network and of processes; the schedule has a generator of its own.
    pub(crate) rng: fastrand::Rng,
    pub(crate) processes: Vec<Process>,
    pub(crate) hosts: BTreeMap<IpAddr, usize>,
    /// Which process an element is or was.
    pub(crate) elements: BTreeMap<(Handle, PeId), usize>,
    /// Identities that processes came back without, in the present episode.
    pub(crate) departed: Vec<Departed>,
    queue: Queue<Happening>,
    /// An empty vector with room.
    spare: Vec<Said>,
    pub(crate) net: Net,
    /// In place of the net's associations, in runs on datagrams.
    pub(crate) packets: Option<Packets>,
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<Violation>,
    pub(crate) planted: Option<Planted>,
    pub(crate) episode: Episode,
    /// The last time that something was done to the system.
    pub(crate) troubled: Duration,
    /// Processes that the present episode concerns.
    pub(crate) touched: Set,
    /// Pairs of processes whose associations broke in the present episode, once for each.
    pub(crate) breaks: Vec<(usize, usize)>,
    /// When all faults ended.
    pub(crate) healed: Option<Duration>,
    pub(crate) tally: Tally,
    pub(crate) moves: Moves,
    pub(crate) heard: Heard,
    pub(crate) questions: Questions,
    pub(crate) coverage: Coverage,
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    pub(crate) fn new(seed: u64, scenario: Scenario, options: Options) -> Self {
        let mut world = Self {
            base: Instant::now(),
            scenario,
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            processes: Vec::new(),
            hosts: BTreeMap::new(),
            elements: BTreeMap::new(),
            departed: Vec::new(),
            queue: Queue::default(),
            spare: Vec::new(),
            net: Net::default(),
            packets: None,
            trace: Trace::new(options.text),
            violations: Vec::new(),
            planted: options.plant.map(Planted::new),
            episode: Episode::Start,
            troubled: Duration::ZERO,
            touched: Set::default(),
            breaks: Vec::new(),
            healed: None,
            tally: Tally::default(),
            moves: Moves::default(),
            heard: Heard::default(),
            questions: Questions::default(),
            coverage: Coverage::default(),
        };
        world.net.jitter = ms([2, 10, 40][world.rng.usize(..3)]);
        world.people();
        if world.scenario.datagrams {
            let processes = world.processes.len();
            world.packets = Some(Packets::new(processes, &mut world.rng));
        }
        world
    }

    fn people(&mut self) {
        for index in self.scenario.registrars() {
            let addr = SocketAddr::new(registrar_ip(index), 9899);
            self.add(format!("registrar-{}", index + 1), Purpose::Registrar, addr);
        }
        for (index, configs) in self.scenario.elements.clone().into_iter().enumerate() {
            for config in &configs {
                let key = (config.handle.clone(), config.pe_id);
                self.elements.insert(key, self.processes.len());
            }
            let addr = SocketAddr::new(scenario::element_ip(index), 40_000);
            self.add(format!("element-{}", index + 1), Purpose::Element(configs), addr);
        }
        for (index, (pools, link)) in self.scenario.users.clone().into_iter().enumerate() {
            let addr = SocketAddr::new(scenario::user_ip(index), 40_000);
            self.add(format!("user-{}", index + 1), Purpose::User { pools, link }, addr);
        }
        self.net.lags = vec![Duration::ZERO; self.processes.len()];
    }

    fn add(&mut self, name: String, purpose: Purpose, addr: SocketAddr) {
        self.hosts.insert(addr.ip(), self.processes.len());
        self.processes.push(Process {
            name,
            purpose,
            addr,
            core: None,
            life: Life::Dead { since: Duration::ZERO, evidence: true },
            boot: 0,
            held: Vec::new(),
            accepted: 0,
            armed: None,
            alarm: 0,
            second: (0, 0),
            sent: (0, 0),
            selectors: BTreeMap::new(),
            leaving: false,
            registered: None,
            reported: None,
            blamed: [None; 2],
            removed: None,
            server_id: None,
        });
    }

    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.base + at
    }

    pub(crate) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    pub(crate) fn later(&mut self, at: Duration, happening: Happening) {
        self.queue.push(at.max(self.now), happening);
    }

    pub(crate) fn registrars(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.processes[self.scenario.registrars()].iter().enumerate()
    }

    pub(crate) fn element_processes(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.scenario.element_processes().map(|index| (index, &self.processes[index]))
    }

    pub(crate) fn user_range(&self) -> std::ops::Range<usize> {
        self.scenario.element_processes().end..self.processes.len()
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.user_range().map(|index| (index, &self.processes[index]))
    }

    pub(crate) fn violation(&mut self, invariant: &'static str, what: String) {
        self.trace.note(self.now, "VIOLATION", 0, invariant.as_bytes(), || {
            format!("{invariant}: {what}")
        });
        self.trace.close();
        if self.violations.len() < 20 {
            self.violations.push(Violation { at: self.now, invariant, what });
        }
    }

    /// Runs until the end of the schedule, or until something is wrong.
    pub(crate) fn run(&mut self, end: Duration) {
        while let Some((at, happening)) = self.queue.pop() {
            if at > end || !self.violations.is_empty() {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Act(act) => self.act(act),
            Happening::Arrive { to, event, sender } => self.arrived(to, event, sender),
            Happening::Beat(at) => self.beat(at),
            Happening::Datagram { from, to, bytes } => self.datagram(from, to, bytes),
            Happening::Icmp { process, boot, to, returned } => {
                self.icmp(process, boot, to, &returned);
            }
            Happening::Stack { process, alarm } => self.stack_due(process, alarm),
            Happening::Dial { from, attempt } => self.dial(from, attempt),
            Happening::DialLimit(from) => self.dial_limit(from),
            Happening::Local { process, boot, event } => {
                if self.processes[process].boot == boot {
                    self.deliver(process, event);
                }
            }
            Happening::Change { process } => self.change(process),
            Happening::Observe => {
                invariants::observe(self);
                self.later(self.now + ms(100), Happening::Observe);
            }
            Happening::Presence { from, to, payload } => {
                // Nobody keeps datagrams for a process that does not run.
                if self.processes[to].is_running() && !self.blocked(from, to) {
                    self.input(to, Input::Presence(self.processes[from].addr, payload));
                }
            }
            Happening::Pump(at) => self.pump_due(at),
            Happening::ShutdownLimit(at) => self.shutdown_limit(at),
            Happening::Use { user } => self.use_pool(user),
            Happening::UseFailed { user, boot, handle, pe_id } => {
                self.use_failed(user, boot, handle, pe_id);
            }
            Happening::Wake { process, alarm } => {
                let entry = &mut self.processes[process];
                if entry.alarm == alarm && entry.is_running() {
                    entry.armed = None;
                    self.input(process, Input::Timeout);
                }
            }
        }
    }

    pub(crate) fn deliver(&mut self, process: usize, event: NetEvent) {
        let entry = &mut self.processes[process];
        if entry.is_frozen() {
            entry.held.push(event);
        } else {
            self.input(process, Input::Net(event));
        }
    }

    /// One call of a core, and all that follows from it.
    fn input(&mut self, process: usize, mut input: Input) {
        let now = self.base + self.now;
        let entry = &self.processes[process];
        if entry.core.is_none() {
            return;
        }
        let mut asked = None;
        if let Input::Net(event) = &input {
            let (kind, bytes) = match event {
                NetEvent::Message { payload, .. } => (1, payload.as_slice()),
                NetEvent::Up { .. } => (2, &[][..]),
                NetEvent::Down { .. } => (3, &[][..]),
                _ => (4, &[][..]),
            };
            let name = &entry.name;
            self.trace.note(self.now, name, kind, bytes, || crate::describe::event(event));
            self.coverage.associations += u64::from(kind == 2);
            invariants::heard::note(self, process, event);
            asked = invariants::answered::asked(self, process, event);
        }
        if let Input::Net(event) = &mut input
            && self.planted.is_some()
            && Planted::swallows(self, process, event)
        {
            return;
        }
        let timeout = matches!(input, Input::Timeout);
        let sleeps = timeout && self.planted.as_mut().is_some_and(Planted::sleeps);
        let Some(core) = &mut self.processes[process].core else { return };
        match (input, core) {
            (Input::Timeout, _) if sleeps => {}
            (Input::Net(event), core) => core.handle_net(now, event),
            (Input::Timeout, core) => core.handle_timeout(now),
            (Input::Element(command), Core::Element(client)) => client.handle_command(now, command),
            (Input::User(command), Core::User(client)) => client.handle_command(now, command),
            (Input::Presence(from, payload), Core::Registrar(core)) => {
                core.handle_presence(now, from, &payload);
            }
            (Input::Element(_) | Input::Presence(..) | Input::User(_), _) => {}
        }
        let mut said = std::mem::take(&mut self.spare);
        let limit = invariants::deadlines::max_outputs(self);
        let Some(core) = &mut self.processes[process].core else { return };
        while let Some(output) = core.poll() {
            said.push(output);
            if said.len() > limit {
                break;
            }
        }
        let next = core.next_deadline();
        if self.planted.is_some() {
            Planted::alters(self, process, asked.as_ref(), &mut said);
        }
        invariants::follow(self, process);
        invariants::deadlines::check(self, process, timeout, next, said.len());
        if let Some(asked) = asked {
            invariants::answered::check(self, process, &asked, &said);
        }
        for output in said.drain(..) {
            self.said(process, output);
        }
        self.spare = said;
        self.arm(process);
    }

    /// Sees to it that the process is woken at its next deadline, or a little later.
    fn arm(&mut self, process: usize) {
        let entry = &self.processes[process];
        if !entry.is_running() {
            return;
        }
        let next = entry.core.as_ref().and_then(Core::next_deadline).map(|at| self.since_start(at));
        if next == entry.armed {
            return;
        }
        let late = Duration::from_micros(self.rng.u64(..1000));
        let entry = &mut self.processes[process];
        entry.armed = next;
        entry.alarm += 1;
        let alarm = entry.alarm;
        if let Some(next) = next {
            self.later(next.max(self.now) + late, Happening::Wake { process, alarm });
        }
    }

    fn said(&mut self, process: usize, output: Said) {
        if let Said::Net(command) = output {
            invariants::bounded::sent(self, process, &command);
            return self.command(process, command);
        }
        let name = &self.processes[process].name;
        let (kind, number) = output.fingerprint();
        self.trace.note(self.now, name, kind, &number.to_le_bytes(), || output.describe());
        match output {
            Said::Registrar(event) => invariants::registrar_said(self, process, &event),
            Said::Element(change) => {
                let entry = &mut self.processes[process];
                match change.state {
                    State::Registered { .. } => entry.registered = Some(self.now),
                    State::Deregistered { .. } => {
                        self.questions.left(process, &change.key);
                        if self.processes[process].leaving {
                            self.left(process);
                        }
                    }
                    _ => {}
                }
            }
            Said::View(view) => {
                let seed = self.rng.u64(..);
                let suspicion = UsersConfig::telephony().suspicion;
                let selectors = &mut self.processes[process].selectors;
                match selectors.get_mut(&view.handle) {
                    Some(selector) => selector.update(view),
                    None => {
                        let rng = fastrand::Rng::with_seed(seed);
                        let handle = view.handle.clone();
                        selectors.insert(handle, Selector::new(view, suspicion, rng));
                    }
                }
            }
            Said::Resolved(id, _) => self.questions.resolved(process, id),
            Said::Presence(payload) => self.multicast(process, &payload),
            Said::Home(_) | Said::Net(_) => {}
        }
    }

    /// To all registrars that can be reached; one of eight datagrams is lost.
    fn multicast(&mut self, from: usize, payload: &[u8]) {
        for to in self.scenario.registrars().filter(|to| *to != from) {
            let at = self.now + self.delay() + self.net.lags[from] + self.net.lags[to];
            if self.rng.u8(..8) > 0 {
                self.later(at, Happening::Presence { from, to, payload: payload.to_vec() });
            }
        }
    }

    /// An element left its pools in order; the process ends.
    fn left(&mut self, process: usize) {
        let entry = &self.processes[process];
        let all_out = entry.element().is_some_and(|client| {
            entry.elements().all(|(handle, pe_id)| {
                client.role().state(&ElementKey { handle: handle.clone(), pe_id }).is_none()
            })
        });
        if all_out {
            self.later(self.now + ms(50), Happening::Act(Act::Kill { process, evidence: true }));
        }
    }

    pub(crate) fn boot(&mut self, process: usize, same: bool) {
        if self.processes[process].core.is_some() {
            return;
        }
        self.identify(process, same);
        let now = self.base + self.now;
        let rng = fastrand::Rng::with_seed(self.rng.u64(..));
        // A socket on port 0 gets another port, often.
        let port = self.rng.u16(40_000..50_000);
        let moves = self.rng.bool();
        let own_ip = self.processes[process].addr.ip();
        let purpose = self.processes[process].purpose.clone();
        let (core, commands) = match &purpose {
            Purpose::Registrar => {
                let id = self.processes[process].server_id.unwrap_or(ServerId(1));
                let peers: Vec<_> = self
                    .scenario
                    .registrars()
                    .map(registrar_ip)
                    .filter(|ip| *ip != own_ip && !self.scenario.multicast)
                    .map(|ip| SocketAddr::new(ip, 9899))
                    .collect();
                let config = Config {
                    mentors: peers.clone(),
                    peers,
                    multicast: self.scenario.multicast,
                    bugs: self.planted.as_ref().map(Planted::bugs).unwrap_or_default(),
                    ..Config::new(own_ip)
                };
                (Core::Registrar(Box::new(Registrar::new(now, config, id, rng))), Vec::new())
            }
            Purpose::Element(configs) => {
                let registrars =
                    self.scenario.registrars().map(registrar_ip).map(registrar_sctp).collect();
                let role = Elements::new(ElementsConfig::telephony());
                let client = Client::new(now, ClientConfig::telephony(registrars), role, rng);
                let commands = configs.iter().cloned().map(ElementCommand::Register);
                (Core::Element(Box::new(client)), commands.map(Input::Element).collect())
            }
            Purpose::User { pools, link } => {
                let registrar = match link {
                    Link::Sctp => registrar_sctp,
                    Link::Tcp => registrar_tcp,
                };
                let registrars =
                    self.scenario.registrars().map(registrar_ip).map(registrar).collect();
                let role = Users::new(UsersConfig::telephony());
                let client = Client::new(now, ClientConfig::telephony(registrars), role, rng);
                let commands = pools.iter().cloned().map(UserCommand::Watch).map(Input::User);
                (Core::User(Box::new(client)), commands.collect())
            }
        };
        let entry = &mut self.processes[process];
        if moves && !matches!(purpose, Purpose::Registrar) {
            entry.addr.set_port(port);
        }
        entry.core = Some(core);
        entry.boot += 1;
        entry.life = Life::Running { since: self.now };
        entry.accepted = 0;
        entry.armed = None;
        entry.held.clear();
        entry.selectors.clear();
        entry.leaving = false;
        entry.registered = None;
        entry.reported = None;
        self.trace.note(self.now, &entry.name, 6, &[], || "boots".to_owned());
        self.heard.forget(process);
        self.open_port(process);
        for command in commands {
            self.input(process, command);
        }
        // Drains what the constructor said, and arms.
        self.input(process, Input::Timeout);
    }

    /// Who the process is in its next life.
    fn identify(&mut self, process: usize, same: bool) {
        let entry = &mut self.processes[process];
        let again = entry.boot > 0;
        match &mut entry.purpose {
            Purpose::Registrar if same && again => self.coverage.same_identity += 1,
            Purpose::Registrar => entry.server_id = Some(ServerId(self.rng.u32(1..))),
            Purpose::Element(configs) if !same => {
                for config in configs {
                    let former = config.pe_id;
                    config.pe_id = PeId(self.rng.u32(1..));
                    let handle = config.handle.clone();
                    self.elements.insert((handle.clone(), config.pe_id), process);
                    let (life, reported) = (entry.life, entry.reported);
                    let back = self.now;
                    let pe_id = former;
                    self.departed.push(Departed { process, handle, pe_id, life, reported, back });
                }
                self.coverage.new_identity += 1;
            }
            Purpose::Element(_) | Purpose::User { .. } => {}
        }
    }

    pub(crate) fn kill(&mut self, process: usize, evidence: bool) {
        let entry = &mut self.processes[process];
        if entry.core.take().is_none() {
            return;
        }
        entry.life = Life::Dead { since: self.now, evidence };
        entry.held.clear();
        entry.alarm += 1;
        entry.reported = None;
        self.questions.forget(process);
        self.forget_ends(process);
    }

    pub(crate) fn freeze(&mut self, process: usize, starved: bool) {
        let entry = &mut self.processes[process];
        if entry.is_running() {
            entry.life = Life::Frozen { since: self.now, starved };
            entry.alarm += 1;
            entry.armed = None;
            entry.reported = None;
        }
    }

    pub(crate) fn thaw(&mut self, process: usize) {
        if !self.processes[process].is_frozen() {
            return;
        }
        self.processes[process].life = Life::Running { since: self.now };
        self.questions.thawed(process, self.now);
        self.revive_ends(process);
        // The transport's thread and the core's task race.
        if self.rng.bool() {
            self.input(process, Input::Timeout);
        }
        for event in std::mem::take(&mut self.processes[process].held) {
            self.input(process, Input::Net(event));
        }
        self.arm(process);
    }

    pub(crate) fn leave(&mut self, process: usize) {
        let entry = &mut self.processes[process];
        if !entry.is_running() || entry.core.is_none() {
            return;
        }
        entry.leaving = true;
        let keys: Vec<_> = entry
            .elements()
            .map(|(handle, pe_id)| ElementKey { handle: handle.clone(), pe_id })
            .collect();
        for key in keys {
            self.questions.leaves(process, key.clone(), self.now);
            self.input(process, Input::Element(ElementCommand::Deregister(key)));
        }
    }

    /// New values for an element: those of its policy mostly, now and then its port or its registration life.
    fn change(&mut self, process: usize) {
        if self.healed.is_some() {
            return;
        }
        let next = self.now + ms(self.rng.u64(300..3000));
        self.later(next, Happening::Change { process });
        let entry = &mut self.processes[process];
        if !entry.is_running() || entry.leaving {
            return;
        }
        let Purpose::Element(configs) = &mut entry.purpose else { return };
        let index = self.rng.usize(..configs.len());
        let config = &mut configs[index];
        let command = match self.rng.u8(..16) {
            0 => {
                let ip = entry.addr.ip();
                let port = self.rng.u16(5060..5070);
                config.transport = Transport::tcp(SocketAddr::new(ip, port));
                ElementCommand::Register(config.clone())
            }
            1 => {
                config.lifetime = Duration::from_secs(self.rng.u64(20..900));
                ElementCommand::Register(config.clone())
            }
            _ => {
                config.policy = scenario::policy(config.policy.number(), &mut self.rng);
                let key = ElementKey { handle: config.handle.clone(), pe_id: config.pe_id };
                ElementCommand::UpdatePolicy { key, policy: config.policy.clone() }
            }
        };
        self.input(process, Input::Element(command));
    }

    fn use_pool(&mut self, user: usize) {
        let next = self.now + ms(self.rng.u64(100..400));
        self.later(next, Happening::Use { user });
        let now = self.base + self.now;
        let entry = &mut self.processes[user];
        if !entry.is_running() || entry.selectors.is_empty() {
            return;
        }
        let index = self.rng.usize(..entry.selectors.len());
        let Some((handle, selector)) = entry.selectors.iter_mut().nth(index) else { return };
        let handle = handle.clone();
        let key = self.rng.u32(..).to_be_bytes();
        let choice = if self.rng.bool() { Choice::Policy } else { Choice::Key(&key) };
        let Ok(member) = selector.select(now, choice, &[]) else { return };
        let pe_id = member.pe_id;
        let suspect = selector.is_suspect(now, pe_id);
        let boot = entry.boot;
        let Some(&target) = self.elements.get(&(handle.clone(), pe_id)) else { return };
        let answers = self.processes[target].is_running()
            && !self.blocked(user, target)
            && !self.blocked(target, user);
        if answers {
            if suspect {
                if let Some(selector) = self.processes[user].selectors.get_mut(&handle) {
                    selector.trust(pe_id);
                }
                self.input(user, Input::User(UserCommand::Trust { handle, pe_id }));
            }
        } else {
            let at = self.now + ms(self.rng.u64(50..250));
            self.later(at, Happening::UseFailed { user, boot, handle, pe_id });
        }
        if self.rng.u8(..) < 20 {
            // A single question about some pool.
            let index = self.rng.usize(..self.scenario.pools.len());
            let (id, handle) = (self.queue.count(), self.scenario.pools[index].clone());
            self.questions.asks(user, id, self.now);
            self.input(user, Input::User(UserCommand::Resolve { id, handle }));
        }
    }

    fn use_failed(&mut self, user: usize, boot: u32, handle: Handle, pe_id: PeId) {
        let now = self.base + self.now;
        let entry = &mut self.processes[user];
        if !entry.is_running() || entry.boot != boot {
            return;
        }
        let fresh =
            entry.selectors.get_mut(&handle).is_some_and(|selector| selector.suspect(now, pe_id));
        if !fresh {
            return;
        }
        let at_home = entry.user().is_some_and(|client| client.home().is_some());
        if at_home && let Some(&target) = self.elements.get(&(handle.clone(), pe_id)) {
            let now = self.now;
            self.processes[target].reported.get_or_insert(now);
            self.processes[target].blamed[0] = Some(now);
        }
        self.input(user, Input::User(UserCommand::ReportUnreachable { handle, pe_id }));
    }
}
