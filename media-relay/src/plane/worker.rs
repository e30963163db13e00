//! A thread that forwards packets: waits at its epoll, takes one packet from each socket that has some, obeys commands,
//! and looks for silent pairs from time to time.
//!
//! What a packet costs is the kernel's: 2.8 µs to send over loopback (half of that is delivery to the receiver), 0.7 to
//! receive, 0.3 of epoll when there are several at once; deciding costs 0.03. Sending from a connected socket would save
//! 0.4, but the kernel would then drop strangers before anybody could count them, and nothing better could take the
//! place of what was latched. Edge-triggered events would save 0.1, and need a second read for each packet.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedSender;

use super::end::Channel;
use super::pair::{Pair, Verdict};
use super::stats::Tick;
use super::{Command, Event, PairId, PairStats, PlaneConfig, RtcpSocket, Side, Sockets, Totals};
use crate::record::{Packet, Tap};

/// Sockets that are told ready at once.
const READY: usize = 256;
/// How often a part of the pairs is looked through for silence; all of them once in [`PARTS`] times that.
const LOOK: Duration = Duration::from_millis(125);
const PARTS: usize = 4;
/// More than any datagram.
const LARGEST: usize = 65_536;
/// The epoll data of the eventfd.
const WAKE: u64 = u64::MAX;

macro_rules! totals {
    ($($name:ident,)*) => {
        #[derive(Debug, Default)]
        struct Shared {
            $($name: AtomicU64,)*
            busy: AtomicU64,
        }

        impl Shared {
            fn publish(&self, totals: &Totals) {
                $(self.$name.store(totals.$name, Ordering::Relaxed);)*
            }

            fn read(&self) -> Totals {
                Totals {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    busy: Duration::from_nanos(self.busy.load(Ordering::Relaxed)),
                }
            }
        }

        impl std::ops::Add for Totals {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)* busy: self.busy + other.busy }
            }
        }
    };
}

totals! {
    pairs, packets_in, bytes_in, packets_out, bytes_out, strangers, unexpected, over_rate, unwanted, send_errors,
    unrecorded,
}

/// What the plane holds of a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: Option<Sender<Command>>,
    wake: Arc<Wake>,
    totals: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Wake {
    event: EventFd,
    /// The thread has been woken and has not looked yet.
    woken: AtomicBool,
}

impl Handle {
    pub(crate) fn execute(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread ends only after this handle has been dropped.
            let _ = commands.send(command);
            self.wake();
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals.read()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn wake(&self) {
        if !self.wake.woken.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the thread is awake anyway.
            let _ = self.wake.event.write(1);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        self.wake.woken.store(false, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn start(
    index: usize,
    config: &PlaneConfig,
    events: UnboundedSender<Event>,
) -> io::Result<Handle> {
    let (commands, inlet) = channel();
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let wake = Arc::new(Wake { event, woken: AtomicBool::new(false) });
    let totals = Arc::new(Shared::default());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&wake.event, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    let worker = Worker {
        epoll,
        inlet,
        wake: Arc::clone(&wake),
        events,
        shared: Arc::clone(&totals),
        rate_limit: config.rate_limit,
        start: clock(),
        totals: Totals::default(),
        slots: Vec::new(),
        free: Vec::new(),
        index: HashMap::new(),
    };
    let pin = config.pin;
    let thread = std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
        if pin && let Err(error) = pin_to(index) {
            tracing::warn!(%error, index, "a media worker stays on no processor");
        }
        worker.run();
    })?;
    Ok(Handle { commands: Some(commands), wake, totals, thread: Some(thread) })
}

/// Binds this thread to one of the processors that it may use.
fn pin_to(index: usize) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let processors: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let mut one = CpuSet::new();
    one.set(processors[index % processors.len().max(1)])?;
    sched_setaffinity(this, &one)
}

#[expect(clippy::disallowed_methods, reason = "a worker is a driver")]
fn clock() -> Instant {
    Instant::now()
}

struct Worker {
    epoll: Epoll,
    inlet: Receiver<Command>,
    wake: Arc<Wake>,
    events: UnboundedSender<Event>,
    shared: Arc<Shared>,
    rate_limit: u32,
    start: Instant,
    totals: Totals,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    index: HashMap<PairId, u32>,
}

struct Slot {
    id: PairId,
    pair: Pair,
    sockets: [[Option<UdpSocket>; 2]; 2],
    tap: Option<Tap>,
}

/// The epoll data of a port.
fn key(slot: u32, side: Side, channel: Channel) -> u64 {
    u64::from(slot) << 2 | (side as u64) << 1 | channel as u64
}

fn watch(epoll: &Epoll, socket: &UdpSocket, key: u64) {
    if let Err(error) = epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, key)) {
        // Memory, or the limit of watches: media of this port is lost, and the call ends by silence.
        tracing::warn!(%error, "a media socket cannot be watched");
    }
}

impl Worker {
    fn run(mut self) {
        let mut ready = [EpollEvent::empty(); READY];
        let mut buffer = vec![0; LARGEST];
        let mut look = self.start + LOOK;
        let mut part = 0;
        let mut running = true;
        let mut tick = Tick::new(self.start, self.start);
        while running {
            let wait = look.saturating_duration_since(tick.now).as_millis() + 1;
            let timeout = if self.index.is_empty() {
                EpollTimeout::NONE
            } else {
                EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
            };
            // Nothing but an interruption can go wrong here.
            let count = self.epoll.wait(&mut ready, timeout).unwrap_or(0);
            tick = Tick::new(self.start, clock());
            let ready = &ready[..count];
            // Before any packet: who has seen the answer to a request may have sent it. An event below may then be of a
            // slot's predecessor, whose successor has nothing to receive, or has, and receives it a little sooner.
            // The event itself may be one of the next batch.
            let woken = self.wake.woken.load(Ordering::SeqCst);
            if woken || ready.iter().any(|event| event.data() == WAKE) {
                running = self.obey(tick);
            }
            for event in ready.iter().filter(|event| event.data() != WAKE) {
                self.forward(tick, event.data(), &mut buffer);
            }
            if tick.now >= look {
                look = tick.now + LOOK;
                self.look(tick, part);
                part = (part + 1) % PARTS;
            }
            self.shared.publish(&self.totals);
        }
    }

    /// Forwards one packet that is waiting at a port. If there are more, epoll says so again: reading until nothing is
    /// left would cost a system call more for the one packet that there is nearly always.
    fn forward(&mut self, tick: Tick, key: u64, buffer: &mut [u8]) {
        let side = if key & 2 == 0 { Side::Offerer } else { Side::Answerer };
        let port = if key & 1 == 0 { Channel::Rtp } else { Channel::Rtcp };
        let Some(Some(slot)) = self.slots.get_mut((key >> 2) as usize) else { return };
        let Some(socket) = &slot.sockets[side as usize][port as usize] else { return };
        let other = side.other();
        let (length, source) = match socket.recv_from(buffer) {
            Ok(received) => received,
            // Nothing there, or an error of a packet that was sent before.
            Err(_) => return,
        };
        let bytes = &buffer[..length];
        self.totals.packets_in += 1;
        self.totals.bytes_in += length as u64;
        let verdict = slot.pair.receive(tick, self.rate_limit, side, port, source, bytes);
        if let Some(tap) = &slot.tap
            && matches!(verdict, Verdict::Forward { .. } | Verdict::Unwanted)
        {
            let (at, to) = (tick.now, socket.local_addr().ok());
            if !tap.packet(Packet { at, side, from: source, to, bytes }) {
                self.totals.unrecorded += 1;
            }
        }
        match verdict {
            Verdict::Forward { by, to } => {
                let sent = slot.sockets[other as usize][by as usize]
                    .as_ref()
                    .and_then(|socket| socket.send_to(bytes, to).ok());
                slot.pair.sent(other, sent);
                if sent.is_some() {
                    self.totals.packets_out += 1;
                    self.totals.bytes_out += length as u64;
                } else {
                    self.totals.send_errors += 1;
                }
            }
            Verdict::Unwanted => self.totals.unwanted += 1,
            Verdict::Stranger => self.totals.strangers += 1,
            Verdict::Unexpected => self.totals.unexpected += 1,
            Verdict::OverRate => self.totals.over_rate += 1,
        }
    }

    /// Whether to go on.
    fn obey(&mut self, tick: Tick) -> bool {
        let _ = self.wake.event.read();
        self.wake.woken.store(false, Ordering::SeqCst);
        loop {
            match self.inlet.try_recv() {
                Ok(command) => self.execute(tick, command),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn execute(&mut self, tick: Tick, command: Command) {
        match command {
            Command::Open { pair, kind, sockets, settings, silence } => {
                let pair_state = Pair::new(tick.now, kind, settings, silence);
                self.open(pair, pair_state, sockets);
            }
            Command::Change { pair, side, settings, reopen, rtcp } => {
                let Some(index) = self.index.get(&pair).copied() else { return };
                let Some(slot) = &mut self.slots[index as usize] else { return };
                slot.pair.change(tick.now, side, settings, reopen);
                let place = &mut slot.sockets[side as usize][Channel::Rtcp as usize];
                match rtcp {
                    RtcpSocket::Keep => {}
                    RtcpSocket::Close => *place = None,
                    RtcpSocket::Replace(socket) => {
                        let socket = place.insert(socket);
                        let key = key(index, side, Channel::Rtcp);
                        watch(&self.epoll, socket, key);
                    }
                }
            }
            #[cfg(test)]
            Command::Panic => panic!("as it was told to"),
            Command::Kind { pair, kind } => {
                if let Some(slot) = self.slot(pair) {
                    slot.pair.set_kind(kind);
                }
            }
            Command::Record { pair, tap } => {
                if let Some(slot) = self.slot(pair) {
                    slot.tap = Some(tap);
                }
            }
            Command::StopRecording { pair } => {
                if let Some(slot) = self.slot(pair) {
                    slot.tap = None;
                }
            }
            Command::Query { pair, tag } => {
                let stats = self.slot(pair).map(|slot| Box::new(slot.pair.stats()));
                self.report(Event::Queried { pair, tag, stats });
            }
            Command::Close { pair } => {
                let stats = self.close(pair);
                self.report(Event::Closed { pair, stats });
            }
        }
    }

    fn open(&mut self, id: PairId, pair: Pair, sockets: [Sockets; 2]) {
        self.close(id);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let sockets = sockets.map(|sockets| [Some(sockets.rtp), sockets.rtcp]);
        for side in [Side::Offerer, Side::Answerer] {
            for channel in [Channel::Rtp, Channel::Rtcp] {
                if let Some(socket) = &sockets[side as usize][channel as usize] {
                    watch(&self.epoll, socket, key(index, side, channel));
                }
            }
        }
        self.slots[index as usize] = Some(Slot { id, pair, sockets, tap: None });
        self.index.insert(id, index);
        self.totals.pairs = self.index.len() as u64;
    }

    fn close(&mut self, id: PairId) -> Option<Box<PairStats>> {
        let index = self.index.remove(&id)?;
        // Closing the only descriptor of a socket takes it out of the epoll as well.
        let slot = self.slots[index as usize].take()?;
        self.free.push(index);
        self.totals.pairs = self.index.len() as u64;
        Some(Box::new(slot.pair.stats()))
    }

    fn slot(&mut self, id: PairId) -> Option<&mut Slot> {
        let index = *self.index.get(&id)?;
        self.slots[index as usize].as_mut()
    }

    fn report(&self, event: Event) {
        // Nobody listens any more when the process ends.
        let _ = self.events.send(event);
    }

    /// Looks for silent pairs in one of [`PARTS`] parts.
    fn look(&mut self, tick: Tick, part: usize) {
        let size = self.slots.len().div_ceil(PARTS);
        let slots = self.slots.iter_mut().skip(part * size).take(size).flatten();
        for slot in slots {
            if slot.pair.falls_silent(tick.now) {
                let _ = self.events.send(Event::Silent { pair: slot.id });
            }
        }
        if let Ok(busy) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            self.shared.busy.store(Duration::from(busy).as_nanos() as u64, Ordering::Relaxed);
        }
    }
}
