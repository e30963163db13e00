//! The parts of pool elements and pool users in the captures, played by our client cores: each does what rsplib's
//! application did, when it did it, and the registrars answer what rsplib's answered.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use dialtone_asap_client::core::{Client, Output, Role};
use dialtone_asap_client::{ClientConfig, registrar_sctp};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{
    Command as ElementCommand, ElementConfig, ElementKey, Elements, ElementsConfig, State,
};
use dialtone_pool_user::{Command as UserCommand, Event, Users, UsersConfig};
use dialtone_transport::{AssocId, DownCause, NetCommand, NetEvent, Protocol};
use dialtone_wire::asap::{Message, Resolution};
use dialtone_wire::{AsapType, Compat, PeId, ServerId};

use crate::compare::{compare, listed};
use crate::pcap::{CRASH, FAILOVER};
use crate::replay::remote;
use crate::script::{Line, Part, Place, Step, host};

const DELAY: Duration = Duration::from_millis(1);
const TAIL: Duration = Duration::from_millis(100);

/// A client core and the registrars that it meets.
struct Play<R: Role> {
    part: Part,
    port: u16,
    start: Instant,
    now: Instant,
    client: Client<R>,
    /// What the application wants.
    commands: VecDeque<(Duration, R::Command)>,
    /// What registrars do unasked.
    steps: VecDeque<(Duration, Place, Step)>,
    /// What they answer, by type; the last one again and again.
    answers: BTreeMap<u8, VecDeque<Vec<u8>>>,
    queue: BTreeMap<(Instant, u64), NetEvent>,
    serial: u64,
    up: BTreeMap<AssocId, Place>,
    said: Vec<Line>,
    events: Vec<R::Event>,
}

/// Whose part it is, without the other processes of the host.
fn own_part(capture: &[u8], own: SocketAddrV4) -> Part {
    let mut part = Part::new(capture, *own.ip());
    let mine = |place: &Place| matches!(place, Place::Association { own: port, .. } if *port == own.port());
    part.steps.retain(|(_, place, _)| mine(place));
    part.lines.retain(|line| mine(&line.place));
    part
}

fn decode(payload: &[u8]) -> Message<'_> {
    Message::decode_with(payload, Compat::Rsplib).expect("decodes").message
}

impl<R: Role> Play<R> {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new(part: Part, port: u16, role: R, commands: VecDeque<(Duration, R::Command)>) -> Self {
        let first = part.lines.first().expect("it spoke");
        let Place::Association { peer, .. } = first.place else { panic!("no registrar") };
        let registrars = vec![registrar_sctp(IpAddr::V4(*peer.ip()))];
        let config = ClientConfig { compat: Compat::Rsplib, ..ClientConfig::rfc(registrars) };
        let start = Instant::now();
        let begin = start + first.at - 10 * DELAY;
        let (mut steps, mut answers) = (VecDeque::new(), BTreeMap::<u8, VecDeque<_>>::new());
        for (at, place, step) in part.steps.iter().cloned() {
            match step {
                Step::Message(payload) if payload[0] != AsapType::ENDPOINT_KEEP_ALIVE.0 => {
                    answers.entry(payload[0]).or_default().push_back(payload);
                }
                step => steps.push_back((at, place, step)),
            }
        }
        Self {
            part,
            port,
            start,
            now: begin,
            client: Client::new(begin, config, role, fastrand::Rng::with_seed(1)),
            commands,
            steps,
            answers,
            queue: BTreeMap::new(),
            serial: 0,
            up: BTreeMap::new(),
            said: Vec::new(),
            events: Vec::new(),
        }
    }

    fn at(&self) -> Duration {
        self.now - self.start
    }

    /// Plays to the end; all that differs is on the list.
    fn run(&mut self, name: &str) {
        let end = self.start + self.part.lines.last().expect("it spoke").at + TAIL;
        self.drain();
        loop {
            let command = self.commands.front().map(|(at, _)| self.start + *at);
            let step = self.steps.front().map(|(at, ..)| self.start + *at);
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.client.next_deadline();
            let Some(next) = [event, command, step, timer].into_iter().flatten().min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if event == Some(next) {
                let (_, event) = self.queue.pop_first().expect("there is one");
                self.client.handle_net(self.now, event);
            } else if command == Some(next) {
                let (_, command) = self.commands.pop_front().expect("there is one");
                self.client.handle_command(self.now, command);
            } else if step == Some(next) {
                let (_, place, step) = self.steps.pop_front().expect("there is one");
                self.step(place, step);
            } else {
                self.client.handle_timeout(self.now);
            }
            self.drain();
        }
        assert_eq!(compare(&self.part.lines, &self.said), listed(name), "{name}, {}", self.port);
    }

    fn step(&mut self, place: Place, step: Step) {
        let assoc = self.up.iter().find(|(_, at)| **at == place).map(|(assoc, _)| *assoc);
        let event = match (step, assoc) {
            (Step::Dialled, _) => {
                let Place::Association { peer, .. } = place else { panic!("who dials?") };
                let assoc = AssocId::accepted(self.up.len() as u64);
                self.up.insert(assoc, place);
                let (protocol, remote) = (Protocol::Asap, remote(peer));
                NetEvent::Up { assoc, protocol, remote, peer: None }
            }
            (Step::Message(payload), Some(assoc)) => NetEvent::Message { assoc, payload },
            (step, _) => panic!("{step:?} at {place:?}"),
        };
        self.client.handle_net(self.now, event);
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Event(event) => self.events.push(event),
                Output::Home(_) => {}
                Output::Net(NetCommand::Connect { assoc, protocol, remote }) => {
                    let IpAddr::V4(addr) = remote.addr.ip() else { panic!("{remote:?}") };
                    let peer = SocketAddrV4::new(addr, remote.sctp_port);
                    self.up.insert(assoc, Place::Association { own: self.port, peer });
                    self.later(NetEvent::Up { assoc, protocol, remote, peer: None });
                }
                Output::Net(NetCommand::Send { assoc, payload }) => {
                    let place = self.up[&assoc];
                    let answer = match AsapType(payload[0]) {
                        AsapType::REGISTRATION => AsapType::REGISTRATION_RESPONSE,
                        AsapType::DEREGISTRATION => AsapType::DEREGISTRATION_RESPONSE,
                        AsapType::HANDLE_RESOLUTION => AsapType::HANDLE_RESOLUTION_RESPONSE,
                        _ => AsapType::ERROR,
                    };
                    self.said.push(Line { at: self.at(), place, payload });
                    if let Some(answers) = self.answers.get_mut(&answer.0) {
                        let last = answers.len() == 1;
                        let payload =
                            if last { answers.front().cloned() } else { answers.pop_front() };
                        let payload = payload.expect("there is one");
                        self.later(NetEvent::Message { assoc, payload });
                    }
                }
                Output::Net(NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc }) => {
                    self.later(NetEvent::Down { assoc, cause: DownCause::Local });
                }
            }
        }
    }

    fn later(&mut self, event: NetEvent) {
        self.serial += 1;
        self.queue.insert((self.now + DELAY, self.serial), event);
    }
}

fn element(capture: &[u8], own: u8, port: u16, name: &str) -> Play<Elements> {
    let part = own_part(capture, SocketAddrV4::new(host(own), port));
    let (mut commands, mut t4) = (VecDeque::new(), Duration::ZERO);
    for line in &part.lines {
        match decode(&line.payload) {
            Message::Registration { handle, element } if commands.is_empty() => {
                let lifetime = Duration::from_secs(element.life.try_into().unwrap());
                // As often as rsplib does.
                t4 = lifetime / 3;
                let handle = Handle::try_from(handle).unwrap();
                let element = element.into_owned();
                let config = ElementConfig {
                    lifetime,
                    ..ElementConfig::new(handle, element.pe_id, element.transport)
                };
                let config = config.with_policy(element.policy);
                commands.push_back((line.at, ElementCommand::Register(config)));
            }
            Message::Deregistration { handle, pe_id } => {
                let key = ElementKey { handle: Handle::try_from(handle).unwrap(), pe_id };
                commands.push_back((line.at, ElementCommand::Deregister(key)));
            }
            _ => {}
        }
    }
    let config = ElementsConfig { t4_max: t4, ..ElementsConfig::rfc() };
    let mut play = Play::new(part, port, Elements::new(config), commands);
    play.run(name);
    play
}

#[test]
fn elements_register_answer_and_leave() {
    for port in [36575, 35371, 56433, 37059] {
        let name = if port == 56433 { "element that registers once" } else { "elements" };
        let play = element(FAILOVER, 13, port, name);
        let states: Vec<_> = play.events.iter().map(|change| &change.state).collect();
        assert!(
            matches!(
                states[..],
                [
                    State::Registering,
                    State::Registered { .. },
                    State::Deregistered { confirmed: true },
                ]
            ),
            "{port}: {states:?}"
        );
    }
}

#[test]
fn an_element_follows_the_registrar_that_took_over() {
    let play = element(CRASH, 14, 50560, "adopted element");
    let adopter = IpAddr::V4(host(13));
    assert!(
        play.events.iter().any(
            |change| matches!(change.state, State::Registered { home } if home.ip() == adopter),
        ),
        "{:?}",
        play.events
    );
}

#[test]
fn users_resolve_and_report() {
    for (capture, port) in [(FAILOVER, 40957), (FAILOVER, 50539), (FAILOVER, 48765), (CRASH, 50328)]
    {
        let part = own_part(capture, SocketAddrV4::new(host(14), port));
        let mut commands = VecDeque::new();
        for (id, line) in (0..).zip(&part.lines) {
            let command = match decode(&line.payload) {
                Message::HandleResolution { handle, .. } => {
                    UserCommand::Resolve { id, handle: Handle::try_from(handle).unwrap() }
                }
                Message::EndpointUnreachable { handle, pe_id } => UserCommand::ReportUnreachable {
                    handle: Handle::try_from(handle).unwrap(),
                    pe_id,
                },
                message => panic!("{message:?}"),
            };
            commands.push_back((line.at, command));
        }
        let answers: Vec<_> = part
            .steps
            .iter()
            .filter_map(|(_, _, step)| match step {
                Step::Message(payload) => Some(payload.clone()),
                _ => None,
            })
            .collect();
        let config = UsersConfig {
            stale_after: Duration::ZERO,
            suspicion: Duration::from_millis(500),
            ..UsersConfig::rfc()
        };
        let mut play = Play::new(part, port, Users::new(config), commands);
        play.run(if capture == CRASH { "reporting user" } else { "users" });
        let outcomes: Vec<_> = play
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Resolved { outcome, .. } => Some(outcome),
                Event::View(_) => None,
            })
            .collect();
        assert_eq!(outcomes.len(), answers.len(), "{port}");
        for (outcome, answer) in outcomes.into_iter().zip(&answers) {
            let Message::HandleResolutionResponse { outcome: answered, .. } = decode(answer) else {
                panic!("{answer:02x?}")
            };
            match (outcome, answered) {
                (Ok(view), Ok(Resolution { elements, .. })) => {
                    let named: Vec<_> = elements.iter().map(|element| element.pe_id).collect();
                    assert_eq!(view.order[..], named, "{port}");
                }
                (Err(_), Err(_)) => {}
                other => panic!("{port}: {other:?}"),
            }
        }
    }
}

/// G10: of two elements of one pool behind one association the one that is named answers; without a name, both.
#[test]
#[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
fn a_keep_alive_that_names_an_element_is_answered_by_that_one() {
    let now = Instant::now();
    let registrars = vec![registrar_sctp(IpAddr::V4(host(11)))];
    let config = ClientConfig { compat: Compat::Rsplib, ..ClientConfig::rfc(registrars) };
    let role = Elements::new(ElementsConfig::rfc());
    let mut client = Client::new(now, config, role, fastrand::Rng::with_seed(1));
    let sent = |client: &mut Client<Elements>| {
        let mut sent = Vec::new();
        while let Some(output) = client.poll() {
            if let Output::Net(NetCommand::Send { payload, .. }) = output {
                sent.push(payload);
            }
        }
        sent
    };
    let Some(Output::Net(NetCommand::Connect { assoc, protocol, remote })) = client.poll() else {
        panic!("it dials")
    };
    client.handle_net(now, NetEvent::Up { assoc, protocol, remote, peer: None });
    let handle: Handle = "pool".parse().unwrap();
    for id in [1, 2] {
        let addr = SocketAddr::new(IpAddr::V4(host(13)), 5060);
        let element = ElementConfig::tcp(handle.clone(), PeId(id), addr);
        client.handle_command(now, ElementCommand::Register(element));
    }
    assert_eq!(sent(&mut client).len(), 2);
    for (pe_id, answering) in [(Some(PeId(2)), vec![PeId(2)]), (None, vec![PeId(1), PeId(2)])] {
        let server_id = ServerId(0xe66b_68cf);
        let handle = handle.to_wire();
        let question = Message::EndpointKeepAlive { home: false, server_id, handle, pe_id };
        let payload = question.encode_with(Compat::Rsplib).unwrap();
        client.handle_net(now, NetEvent::Message { assoc, payload });
        let answers: Vec<PeId> = sent(&mut client)
            .iter()
            .map(|payload| match decode(payload) {
                Message::EndpointKeepAliveAck { pe_id, .. } => pe_id,
                message => panic!("{message:?}"),
            })
            .collect();
        assert_eq!(answers, answering, "{pe_id:?}");
    }
}
