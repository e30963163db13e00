//! What workers copy packets into.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use crate::plane::Side;

/// A packet as a worker saw it arrive.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub at: SystemTime,
    /// The end that sent it.
    pub side: Side,
    pub from: SocketAddr,
    /// The local port that it came to; `None` if that is not known.
    pub to: Option<SocketAddr>,
    pub bytes: &'a [u8],
}

/// The entrance of one pair to a recording.
#[derive(Clone, Debug)]
pub struct Tap {
    pub(super) queue: Arc<Queue>,
    pub(super) recording: u64,
    pub(super) stream: u16,
}

/// What waits for the writer, bounded by bytes.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) sender: Sender<Order>,
    pub(super) waiting: AtomicU64,
    pub(super) limit: u64,
    pub(super) dropped: AtomicU64,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    Packet(Copied),
}

#[derive(Debug)]
pub(super) struct Copied {
    pub(super) recording: u64,
    pub(super) stream: u16,
    pub(super) side: Side,
    pub(super) at: SystemTime,
    pub(super) from: SocketAddr,
    pub(super) to: Option<SocketAddr>,
    pub(super) bytes: Box<[u8]>,
}

impl Copied {
    /// What it weighs in the queue.
    pub(super) fn weight(&self) -> u64 {
        (size_of::<Self>() + self.bytes.len()) as u64
    }
}

impl Tap {
    /// Copies a packet; `false` if there was no room.
    pub fn packet(&self, packet: Packet<'_>) -> bool {
        let Packet { at, side, from, to, bytes } = packet;
        let Self { queue, recording, stream } = self;
        let (recording, stream) = (*recording, *stream);
        if queue.waiting.load(Ordering::Relaxed) >= queue.limit {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let copied = Copied { recording, stream, side, at, from, to, bytes: bytes.into() };
        queue.waiting.fetch_add(copied.weight(), Ordering::Relaxed);
        queue.sender.send(Order::Packet(copied)).is_ok()
    }
}
