//! What workers copy packets into, and the queue to the writer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime};

use super::{Formats, RecorderTotals};
use crate::plane::Side;

/// A packet as a worker saw it arrive.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub at: Instant,
    /// The end that sent it.
    pub side: Side,
    pub from: SocketAddr,
    /// The local port that it came to.
    pub to: Option<SocketAddr>,
    pub bytes: &'a [u8],
}

/// The entrance of one pair to a recording.
#[derive(Clone, Debug)]
pub struct Tap {
    pub(super) queue: Arc<Queue>,
    pub(super) recording: u64,
    pub(super) stream: u16,
    pub(super) audible: bool,
}

/// What waits for the writer: packets bounded by bytes, and orders, of which there are few.
#[derive(Debug)]
pub(super) struct Queue {
    sender: Sender<Order>,
    waiting: AtomicU64,
    limit: u64,
    pub(super) running: AtomicU64,
    packets: AtomicU64,
    dropped: AtomicU64,
    pub(super) beyond_limit: AtomicU64,
    pub(super) failed_files: AtomicU64,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    Begin { recording: u64, stem: PathBuf, now: Instant, wall: SystemTime, formats: Formats },
    Packet(Copied),
    End { recording: u64 },
    Stop,
}

#[derive(Debug)]
pub(super) struct Copied {
    pub(super) recording: u64,
    pub(super) stream: u16,
    /// It is RTP in the clear.
    pub(super) audible: bool,
    pub(super) side: Side,
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) to: Option<SocketAddr>,
    pub(super) bytes: Box<[u8]>,
}

impl Copied {
    /// What it weighs in the queue.
    fn weight(&self) -> u64 {
        (size_of::<Order>() + self.bytes.len()) as u64
    }
}

impl Queue {
    pub(super) fn new(sender: Sender<Order>, limit: u64) -> Self {
        Self {
            sender,
            waiting: AtomicU64::new(0),
            limit,
            running: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            beyond_limit: AtomicU64::new(0),
            failed_files: AtomicU64::new(0),
        }
    }

    pub(super) fn order(&self, order: Order) {
        // The writer ends only with the recorder, and then nobody waits for files any more.
        let _ = self.sender.send(order);
    }

    /// The writer has taken a packet out.
    pub(super) fn taken(&self, copied: &Copied) {
        self.waiting.fetch_sub(copied.weight(), Ordering::Relaxed);
    }

    pub(super) fn totals(&self) -> RecorderTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RecorderTotals {
            running: read(&self.running),
            packets: read(&self.packets),
            dropped: read(&self.dropped),
            beyond_limit: read(&self.beyond_limit),
            failed_files: read(&self.failed_files),
        }
    }
}

impl Tap {
    /// Copies a packet; `false` if there was no room.
    pub fn packet(&self, packet: Packet<'_>) -> bool {
        let Packet { at, side, from, to, bytes } = packet;
        let Self { queue, recording, stream, audible } = self;
        if queue.waiting.load(Ordering::Relaxed) >= queue.limit {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let (recording, stream, audible) = (*recording, *stream, *audible);
        let copied = Copied { recording, stream, audible, side, at, from, to, bytes: bytes.into() };
        queue.waiting.fetch_add(copied.weight(), Ordering::Relaxed);
        queue.packets.fetch_add(1, Ordering::Relaxed);
        queue.order(Order::Packet(copied));
        true
    }
}
