//! The data path: forwards the packets of calls between their two ends, without knowing anything of SDP or NG.
//!
//! A **pair** is one media stream of a call. It has two **ends**: each is a local RTP socket and, unless RTP and RTCP
//! share a port on that side, a local RTCP socket. What arrives at one end leaves through the other one.
//!
//! # Threads
//! [`Plane::start`] starts worker threads. Each has an epoll of its own and owns the pairs that were given to it:
//! sockets, latches and statistics are touched by that thread only, without locks. A packet costs one system call to
//! receive and one to send; it stays in the worker's one buffer. Workers are filled with pairs one after the other, so
//! that those with something to do find several packets whenever they wake up. Commands come through a queue with an eventfd,
//! events go back through a channel: at most one for each command, and one [`Event::Silent`] for each time that a pair
//! falls silent, so the channel is bounded by who gives the commands. Ports are taken by who opens pairs ([`Ports`]),
//! and may be given back after [`Event::Closed`], when the sockets are gone.
//!
//! # Where media of an end comes from, and goes to
//! [`Latch::Once`]: the first packet of the right kind fixes where the end is, for RTP and RTCP separately. Until
//! then media is sent to where signalling said. A source that signalling makes more likely takes over from one that
//! came first: the very address of the SDP before the same host (or [`EndSettings::hint`]) with another port before
//! anybody else. So who comes first by guessing ports holds a call only until the phone itself has sent a packet,
//! unless signalling named neither its address nor its host; and the place moves twice at most. Latching opens again
//! only by signalling ([`Reopen`]). [`Latch::Never`]: the signalled address only.
//!
//! [`Source::Strict`] drops and counts whatever comes from elsewhere ([`EndStats::strangers`]). [`Source::Any`]
//! forwards it as well, as rtpengine does unless it is told `strict-source`; it never moves where media is sent to.
//! An end that signalled `asymmetric` is [`Latch::Never`] with [`Source::Any`].
//!
//! # Kinds
//! In [`Kind::Rtp`] anything that is neither RTP nor RTCP (STUN, DTLS, version other than 2) is dropped and counted.
//! RTP and RTCP are told apart by RFC 5761 where a side shares its port, and leave by the port that the other side
//! expects. Payload is never touched.

mod end;
mod packet;
mod pair;
mod placement;
mod ports;
mod rtcp;
mod stats;
mod worker;

use std::io;
use std::net::UdpSocket;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

pub use end::{EndSettings, Latch, Reopen, SOFT, Source};
pub use ports::{OpenError, Ports, PortsConfig, Sockets};
pub use stats::{EndStats, FarEnd, PairStats};

pub(crate) use packet::rtp_payload;
use placement::Placement;

use crate::record::Tap;

/// Identifies a pair for the life of the process. Whoever opens pairs numbers them.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PairId(pub u64);

/// An end of a pair: towards who sent the offer of the call's first exchange, or towards who answered it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    Offerer = 0,
    Answerer = 1,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::Answerer => Self::Offerer,
            Self::Offerer => Self::Answerer,
        }
    }
}

/// What a pair carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Anything; one socket on each side, nothing is looked into.
    Opaque,
    /// RTP and RTCP in the clear.
    Rtp,
    /// SRTP: RTCP is not looked into, DTLS and STUN pass.
    Srtp,
}

/// How a plane is run.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    /// Threads that forward packets; at least one.
    pub workers: usize,
    /// Packets a second that an end accepts; what comes beyond is dropped and counted. Bounds what a flood from the
    /// right address, or a loop of calls that name each other's ports, can cost.
    pub rate_limit: u32,
    /// Whether each worker stays on one processor, of those that the process may use: for machines of its own, since a
    /// worker that is kept on one waits for it, even when others are free.
    pub pin: bool,
}

impl Default for PlaneConfig {
    fn default() -> Self {
        Self { workers: 1, rate_limit: 5_000, pin: false }
    }
}

/// What is wanted of a plane. A command for a pair that is not open is ignored, except for [`Command::Query`].
#[derive(Debug)]
pub enum Command {
    /// Forwards from now on.
    Open {
        pair: PairId,
        kind: Kind,
        /// Of [`Side::Offerer`], [`Side::Answerer`].
        sockets: [Sockets; 2],
        settings: [EndSettings; 2],
        /// Without an accepted packet from either end for so long, [`Event::Silent`] follows. Kept to half a second.
        silence: Duration,
    },
    /// Replaces the settings of one end.
    Change {
        pair: PairId,
        side: Side,
        settings: EndSettings,
        reopen: Reopen,
        rtcp: RtcpSocket,
    },
    /// The pair carries something else from now on (a call has become a fax). Its sockets stay.
    Kind {
        pair: PairId,
        kind: Kind,
    },
    /// Copies every accepted packet of the pair to a recording, in place of an earlier one.
    Record {
        pair: PairId,
        tap: Tap,
    },
    StopRecording {
        pair: PairId,
    },
    /// Answered by [`Event::Queried`] with the same tag.
    Query {
        pair: PairId,
        tag: u64,
    },
    /// Closes the sockets; answered by [`Event::Closed`].
    Close {
        pair: PairId,
    },
    /// To see what becomes of a worker that has a fault.
    #[cfg(test)]
    Panic,
}

/// What becomes of an end's RTCP socket when its settings change.
#[derive(Debug)]
pub enum RtcpSocket {
    Keep,
    /// RTCP comes to the RTP port from now on. The port stays taken with its pair.
    Close,
    Replace(UdpSocket),
}

/// What a plane reports.
#[derive(Debug)]
pub enum Event {
    /// The sockets are closed. `stats` is absent if the pair was not open.
    Closed { pair: PairId, stats: Option<Box<PairStats>> },
    /// `stats` is absent if the pair is not open.
    Queried { pair: PairId, tag: u64, stats: Option<Box<PairStats>> },
    /// No packet was accepted from either end for the time given in [`Command::Open`]. Said once, and again only after
    /// packets or a change.
    Silent { pair: PairId },
}

/// What all workers have counted since they were started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Totals {
    /// Open pairs.
    pub pairs: u64,
    /// Packets received, whatever became of them.
    pub packets_in: u64,
    pub bytes_in: u64,
    /// Packets forwarded.
    pub packets_out: u64,
    pub bytes_out: u64,
    /// From an address that is not the end's.
    pub strangers: u64,
    /// Neither RTP nor RTCP, where only these are expected.
    pub unexpected: u64,
    /// Beyond the rate limit of their end.
    pub over_rate: u64,
    /// Nowhere to send to: no address known, or the other side does not want media.
    pub unwanted: u64,
    /// The operating system refused to send.
    pub send_errors: u64,
    /// Packets that recordings had no room for.
    pub unrecorded: u64,
    /// Processor time of the workers, user and system.
    pub busy: Duration,
}

/// The running workers. Dropping it stops them and closes all sockets.
#[derive(Debug)]
pub struct Plane {
    workers: Vec<worker::Handle>,
    placement: Mutex<Placement>,
}

impl Plane {
    /// Starts the workers.
    ///
    /// # Errors
    /// Whatever the operating system says about epoll, eventfd and threads.
    pub fn start(config: &PlaneConfig) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let (events, receiver) = mpsc::unbounded_channel();
        let workers: Vec<_> = (0..config.workers.max(1))
            .map(|index| worker::start(index, config, events.clone()))
            .collect::<io::Result<_>>()?;
        let placement = Mutex::new(Placement::new(workers.len()));
        Ok((Self { workers, placement }, receiver))
    }

    /// Hands a command to the worker of its pair. Commands for one pair are obeyed in the order given.
    pub fn execute(&self, command: Command) {
        // Who gives commands waits for nobody else here, as long as one thread does.
        let mut placement = self.placement.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &command {
            Command::Open { pair, .. } => placement.place(*pair),
            Command::Close { pair } => placement.remove(*pair),
            Command::Change { pair, .. }
            | Command::Kind { pair, .. }
            | Command::Query { pair, .. }
            | Command::Record { pair, .. }
            | Command::StopRecording { pair } => placement.find(*pair),
            #[cfg(test)]
            Command::Panic => 0,
        };
        self.workers[worker].execute(command);
    }

    /// Whether all workers are at work. One that panicked has taken its pairs with it.
    pub fn is_whole(&self) -> bool {
        self.workers.iter().all(worker::Handle::is_alive)
    }

    /// The counters of all workers together; a snapshot that costs no lock.
    pub fn totals(&self) -> Totals {
        self.workers.iter().fold(Totals::default(), |sum, worker| sum + worker.totals())
    }
}

#[cfg(test)]
mod tests;
