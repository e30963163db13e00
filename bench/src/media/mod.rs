//! Real audio: streams of RTP with a tone in G.711, and a witness of every packet.
//!
//! [`Media`] sends and verifies, from few ports and one thread for thousands of calls; [`Calls`] brings together what
//! the two phones of a call know. The payload stays a tone: when a packet was sent is remembered by its sequence
//! number, and when it arrived is what the system says, so that waiting for this process is not counted.

mod calls;
mod engine;
mod port;
mod rtp;
mod stream;
mod tone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub use calls::{CallMedia, Calls, MediaReport, Running};
pub use engine::{End, Totals};
pub use stream::{PACKET_TIME, StreamReport};

use engine::{Command, Engine, Finished};
use port::Port;

/// Where and how streams are sent.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// What the ports are bound to.
    pub address: IpAddr,
    /// How many ports all calls share.
    pub ports: usize,
    /// How often packets are sent: those of all streams are spread over ticks. Shorter ones are smoother and cost more.
    pub tick: Duration,
    /// The core that the thread stays on.
    pub core: Option<usize>,
}

impl MediaConfig {
    /// For phones on a machine that has other things to do.
    pub fn new(address: IpAddr) -> Self {
        Self { address, ports: 16, tick: Duration::from_millis(1), core: None }
    }
}

/// A running engine; it ends when this is dropped.
#[derive(Debug)]
pub struct Media {
    /// `None` only while it is dropped.
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// Number of the thread, as the system has it.
    tid: u32,
    ports: Vec<SocketAddr>,
    next_port: AtomicUsize,
    next_call: AtomicU64,
    finished: Finished,
}

impl Media {
    /// Opens the ports and starts the thread.
    pub fn start(config: &MediaConfig) -> io::Result<Self> {
        let ports = (0..config.ports)
            .map(|_| Port::open(config.address))
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = ports.iter().map(Port::local).collect();
        let (sender, commands) = channel();
        let finished = Finished::default();
        let engine = Engine::new(ports, commands, finished.clone(), config.tick);
        let (started, tid) = channel();
        let core = config.core;
        let thread = std::thread::Builder::new().name("media".to_owned()).spawn(move || {
            let pinned = core.map_or(Ok(()), pin);
            let _ = started.send(pinned.map(|()| nix::unistd::gettid().as_raw().cast_unsigned()));
            engine.run();
        })?;
        let tid = tid.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        Ok(Self {
            commands: Some(sender),
            thread: Some(thread),
            tid,
            ports: addresses,
            next_port: AtomicUsize::new(0),
            next_call: AtomicU64::new(0),
            finished,
        })
    }

    /// A port for one end of a call, each in turn: its number and address.
    pub fn port(&self) -> (usize, SocketAddr) {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed) % self.ports.len();
        (port, self.ports[port])
    }

    /// Sends both ways between two ends until [`Self::stop`]; returns the call's number.
    pub fn connect(&self, ends: [End; 2]) -> u64 {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        self.command(Command::Connect { call, ends });
        call
    }

    /// Ends a call; what became of it is to be had a moment later from [`Self::take_finished`].
    pub fn stop(&self, call: u64) {
        self.command(Command::Stop { call });
    }

    /// What became of calls that have ended since this was asked last: from the first end to the second, and back.
    pub fn take_finished(&self) -> Vec<(u64, [StreamReport; 2])> {
        // Nothing panics between two writes that belong together.
        std::mem::take(&mut *self.finished.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Counts anew, for running calls too: only what is sent from now on.
    pub fn reset(&self) {
        let (done, wait) = channel();
        self.command(Command::Reset { done });
        let _ = wait.recv();
    }

    /// What was seen since the beginning or [`Self::reset`] that is no single call's.
    pub fn totals(&self) -> Totals {
        let (answer, wait) = channel();
        self.command(Command::Totals { answer });
        wait.recv().unwrap_or_default()
    }

    /// Packets for the ports that the system has dropped because their buffers were full: nobody else's fault.
    pub fn dropped_here(&self) -> u64 {
        ["/proc/net/udp", "/proc/net/udp6"].iter().map(|table| dropped(table, &self.ports)).sum()
    }

    /// The thread's number, for who wants to know what it costs.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread ends only after this.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pin(core: usize) -> io::Result<()> {
    let mut cores = nix::sched::CpuSet::new();
    cores.set(core)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores)?)
}

/// Lines of the table have address and port in hexadecimal second, and packets dropped last.
fn dropped(table: &str, ports: &[SocketAddr]) -> u64 {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, port) = words.nth(1)?.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let v4 = u32::from_str_radix(address, 16).map(|bits| IpAddr::from(bits.to_ne_bytes()));
            // Addresses of the other family are not compared: the system chose the ports among all.
            let ours = |local: &&SocketAddr| {
                local.port() == port && v4.as_ref().map_or(local.is_ipv6(), |ip| *ip == local.ip())
            };
            ports.iter().find(ours)?;
            words.last()?.parse::<u64>().ok()
        })
        .sum()
}
