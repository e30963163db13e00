//! The thread that sends and verifies: a wheel of ticks, each of which has the streams whose packets are due.
//!
//! The thread owns ports and streams. Commands come by a channel that is looked at every tick; what became of calls is
//! given back through [`Finished`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::port::{Batch, Port};
use super::rtp::{HEADER, Header};
use super::stream::{PACKET_TIME, Received, Stream, StreamReport};
use super::tone::{SAMPLES, Tone};
use crate::stats::Histogram;

/// So long what has been sent may take after the end of a call.
const DRAIN: Duration = Duration::from_millis(200);

/// How often what arrived is looked at. Its time was taken on arrival.
const LOOK: Duration = Duration::from_millis(1);

/// Who is more behind than this drops the time: a phone that was not run for so long sends nothing twice as fast.
const BEHIND: Duration = Duration::from_millis(500);

/// An SSRC is the place of its stream, and how many streams had it before.
const PLACE_BITS: u32 = 20;
const MAX_STREAMS: u32 = 1 << PLACE_BITS;

/// One end of a call.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Number of the port that it has.
    pub port: usize,
    /// Where it sends to, and what it is to hear from.
    pub remote: SocketAddr,
}

/// What packets there were that belong to no stream, and how well the engine itself ran.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// From sending to arrival.
    pub latency: Histogram,
    /// Packets that no stream of ours has sent.
    pub strangers: u64,
    /// Packets that came after their call's end.
    pub after_the_end: u64,
    /// Packets that the system refused to send.
    pub refused: u64,
    /// By how much a packet was sent too late at most.
    pub late: Duration,
}

#[derive(Debug)]
pub(super) enum Command {
    Connect {
        call: u64,
        ends: [End; 2],
    },
    Stop {
        call: u64,
    },
    /// Counts everything anew.
    Reset {
        done: Sender<()>,
    },
    Totals {
        answer: Sender<Totals>,
    },
}

/// What became of calls that have ended: packets from the first end to the second, and back.
pub(super) type Finished = Arc<Mutex<Vec<(u64, [StreamReport; 2])>>>;

pub(super) struct Engine {
    pub(super) ports: Vec<Port>,
    pub(super) commands: Receiver<Command>,
    pub(super) finished: Finished,
    pub(super) tick: Duration,
    wheel: Vec<Vec<usize>>,
    places: Vec<Place>,
    free: VecDeque<usize>,
    calls: HashMap<u64, [usize; 2]>,
    ending: VecDeque<(Instant, u64)>,
    tones: Vec<Tone>,
    totals: Totals,
    rng: fastrand::Rng,
}

/// Where streams live, one after the other.
struct Place {
    generation: u32,
    stream: Option<Box<Running>>,
}

struct Running {
    stream: Stream,
    tone: usize,
    /// Where in the wheel it is.
    due: usize,
    from_port: usize,
    to: SocketAddr,
    at_port: usize,
    source: SocketAddr,
}

#[expect(clippy::disallowed_methods, reason = "packets live in real time")]
fn now() -> Instant {
    Instant::now()
}

/// As the system stamps packets: nanoseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "packets live in real time")]
fn stamp() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

impl Engine {
    pub(super) fn new(
        ports: Vec<Port>,
        commands: Receiver<Command>,
        finished: Finished,
        tick: Duration,
    ) -> Self {
        let ticks = (PACKET_TIME.as_nanos() / tick.as_nanos().max(1)).max(1) as usize;
        Self {
            ports,
            commands,
            finished,
            tick: PACKET_TIME / ticks as u32,
            wheel: vec![Vec::new(); ticks],
            places: Vec::new(),
            free: VecDeque::new(),
            calls: HashMap::new(),
            ending: VecDeque::new(),
            tones: Tone::all(),
            totals: Totals::default(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Serves until the other end of the commands is gone.
    pub(super) fn run(mut self) {
        // The system gives sleepers up to 50 µs more, unless it is asked not to.
        let _ = nix::sys::prctl::set_timerslack(1);
        let looks = (LOOK.as_nanos() / self.tick.as_nanos()).max(1) as usize;
        let mut batch = Batch::new();
        let mut due = now();
        for turn in 0usize.. {
            let idle = self.calls.is_empty();
            if !self.obey() {
                return;
            }
            if idle {
                due = now();
            }
            self.send(turn % self.wheel.len());
            if turn % looks == 0 {
                self.receive(&mut batch);
                self.end_calls(now());
            }
            due += self.tick;
            let moment = now();
            match due.checked_duration_since(moment) {
                Some(rest) => std::thread::sleep(rest),
                None => {
                    let behind = moment - due;
                    if !self.calls.is_empty() {
                        self.totals.late = self.totals.late.max(behind);
                    }
                    if behind > BEHIND {
                        due = moment;
                    }
                }
            }
        }
    }

    /// False when nobody commands any more.
    fn obey(&mut self) -> bool {
        loop {
            let command = if self.calls.is_empty() {
                // Nothing to send, nothing to await.
                self.commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                self.commands.try_recv()
            };
            match command {
                Ok(Command::Connect { call, ends }) => self.connect(call, ends),
                Ok(Command::Stop { call }) => {
                    if let Some(places) = self.calls.get(&call) {
                        for place in *places {
                            self.silence(place);
                        }
                        self.ending.push_back((now() + DRAIN, call));
                    }
                }
                Ok(Command::Reset { done }) => {
                    self.totals = Totals::default();
                    for place in &mut self.places {
                        if let Some(running) = &mut place.stream {
                            running.stream.reset();
                        }
                    }
                    let _ = done.send(());
                }
                Ok(Command::Totals { answer }) => {
                    let _ = answer.send(self.totals.clone());
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn connect(&mut self, call: u64, ends: [End; 2]) {
        let [a, b] = ends;
        let places = [(a, b), (b, a)].map(|(from, to)| self.begin(from, to));
        self.calls.insert(call, places);
    }

    fn begin(&mut self, from: End, to: End) -> usize {
        // The place that has been free for the longest time: packets that are late find it empty.
        let place = match self.free.pop_front() {
            Some(place) => place,
            None => {
                self.places.push(Place { generation: 0, stream: None });
                self.places.len() - 1
            }
        };
        // The emptier one of two.
        let ticks = self.wheel.len();
        let (one, other) = (self.rng.usize(..ticks), self.rng.usize(..ticks));
        let due = if self.wheel[one].len() <= self.wheel[other].len() { one } else { other };
        self.wheel[due].push(place);
        let generation = self.places[place].generation;
        let ssrc = generation << PLACE_BITS | place as u32;
        let running = Running {
            stream: Stream::new(ssrc, &mut self.rng),
            tone: place % self.tones.len(),
            due,
            from_port: from.port,
            to: from.remote,
            at_port: to.port,
            source: to.remote,
        };
        self.places[place].stream = Some(Box::new(running));
        place
    }

    /// Sends nothing more of a stream.
    fn silence(&mut self, place: usize) {
        if let Some(running) = &self.places[place].stream {
            self.wheel[running.due].retain(|other| *other != place);
        }
    }

    fn end_calls(&mut self, now: Instant) {
        while self.ending.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, call)) = self.ending.pop_front()
        {
            let Some(places) = self.calls.remove(&call) else { continue };
            let reports = places.map(|place| {
                self.free.push_back(place);
                let place = &mut self.places[place];
                place.generation = (place.generation + 1) % (1 << (32 - PLACE_BITS));
                place.stream.take().map(|mut running| running.stream.finish()).unwrap_or_default()
            });
            // Nothing panics between two writes that belong together.
            self.finished.lock().unwrap_or_else(|e| e.into_inner()).push((call, reports));
        }
    }

    fn send(&mut self, due: usize) {
        let Self { wheel, places, ports, tones, totals, .. } = self;
        for place in &wheel[due] {
            let Some(running) = &mut places[*place].stream else { continue };
            let at = stamp();
            let (number, header) = running.stream.send(at);
            let mut packet = [0; HEADER + SAMPLES];
            packet[..HEADER].copy_from_slice(&header.bytes());
            packet[HEADER..].copy_from_slice(tones[running.tone].payload());
            if ports[running.from_port].send(&packet, running.to).is_err() {
                running.stream.refused(number);
                totals.refused += 1;
            }
        }
    }

    fn receive(&mut self, batch: &mut Batch) {
        let Self { places, ports, tones, totals, .. } = self;
        for (number, port) in ports.iter().enumerate() {
            // Other errors than that nothing is there concern single packets, which then are missed.
            let _ = batch.receive(port, |packet, source, at| {
                let Some((header, payload)) = Header::parse(packet) else {
                    totals.strangers += 1;
                    return;
                };
                let place = (header.ssrc % MAX_STREAMS) as usize;
                let Some(place) = places.get_mut(place) else {
                    totals.strangers += 1;
                    return;
                };
                let generation = header.ssrc >> PLACE_BITS;
                let Some(running) =
                    place.stream.as_mut().filter(|_| place.generation == generation)
                else {
                    let before = generation < place.generation;
                    *(if before { &mut totals.after_the_end } else { &mut totals.strangers }) += 1;
                    return;
                };
                let wrong = source != running.source || number != running.at_port;
                let at = if at == 0 { stamp() } else { at };
                let tone = &tones[running.tone];
                match running.stream.receive(&header, payload, tone, wrong, at) {
                    Received::Counted { latency } => totals.latency.add(latency),
                    Received::Unknown => totals.strangers += 1,
                    Received::Duplicate | Received::Earlier => {}
                }
            });
        }
    }
}
