//! The sound of rooms on sockets: threads that receive, mix and send.
//!
//! # Threads
//! | thread | owns | ends when |
//! |---|---|---|
//! | worker (N) | its rooms, their sockets, an epoll | [`Media`] is dropped |
//! | `record` (one, if recordings are wanted) | the files | all workers have ended |
//!
//! A room and all its sockets belong to one worker, so nothing about sound is locked. A worker wakes every 5 ms and
//! takes a quarter of its rooms, so each room every 20 ms: reads what has come to its lines, mixes, sends. It is not woken
//! by packets, nor told where they are: that would cost more than what it does for them. An epoll tells only of what is
//! rare: RTCP, and RTP from elsewhere. Commands come through a queue, events go back through a channel, what readers want
//! to know is published once a second.
//!
//! A thread that panics takes its rooms with it. [`Media::is_whole`] tells the driver, which ends the process in order.

mod line;
mod ports;
mod record;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::core::{CallId, MediaCommand, MediaEvent, RoomId};
use crate::mix::MemberStats;
use ports::Ports;
use record::Recorder;
use worker::{Order, Worker};

/// How media is served.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// Where sockets are bound.
    pub address: IpAddr,
    /// Two for each participant.
    pub ports: RangeInclusive<u16>,
    /// Threads.
    pub workers: usize,
    /// Where rooms that record do so.
    pub recordings: Option<PathBuf>,
}

/// What has come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    pub sent: u64,
    /// Packets from others than the participants.
    pub strangers: u64,
    /// Packets that are neither RTP nor RTCP.
    pub invalid: u64,
    /// The system refused to send.
    pub send_errors: u64,
    /// Times of 5 ms that were made up for because the worker was late, or left out because it was very late.
    pub late: u64,
    pub left_out: u64,
    /// Pieces of recordings that the disk was too slow for.
    pub unrecorded: u64,
    pub rooms: u64,
    pub participants: u64,
}

impl Counters {
    fn add(&mut self, other: &Self) {
        let Self {
            received,
            sent,
            strangers,
            invalid,
            send_errors,
            late,
            left_out,
            unrecorded,
            rooms,
            participants,
        } = other;
        self.received += received;
        self.sent += sent;
        self.strangers += strangers;
        self.invalid += invalid;
        self.send_errors += send_errors;
        self.late += late;
        self.left_out += left_out;
        self.unrecorded = self.unrecorded.max(*unrecorded);
        self.rooms += rooms;
        self.participants += participants;
    }
}

/// How one participant fares.
#[derive(Clone, Debug, PartialEq)]
pub struct LineStats {
    pub call: CallId,
    pub room: RoomId,
    pub member: MemberStats,
    pub strangers: u64,
}

/// What a worker publishes.
#[derive(Clone, Debug, Default)]
struct Published {
    counters: Counters,
    lines: Arc<[LineStats]>,
}

/// All workers. Dropping it ends them.
#[derive(Debug)]
pub struct Media {
    workers: Vec<Handle>,
    rooms: HashMap<RoomId, (usize, usize)>,
    calls: HashMap<CallId, RoomId>,
    recording: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Handle {
    orders: worker::Orders,
    published: Arc<Mutex<Published>>,
    thread: Option<JoinHandle<()>>,
    calls: usize,
}

impl Media {
    /// Starts the threads. Events go to `events`, in the order in which they happen in each room; what finds no room there
    /// waits in the worker.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(config: &MediaConfig, events: &mpsc::Sender<MediaEvent>) -> io::Result<Self> {
        let ports = Arc::new(Ports::new(config.address, &config.ports));
        let (recorder, recording) = match config.recordings.clone().map(Recorder::start) {
            Some(started) => {
                let (recorder, thread) = started?;
                (Some(recorder), Some(thread))
            }
            None => (None, None),
        };
        let workers = (0..config.workers.max(1)).map(|number| {
            let published = Arc::new(Mutex::new(Published::default()));
            let (worker, orders) = Worker::new(
                Arc::clone(&ports),
                events.clone(),
                recorder.clone(),
                Arc::clone(&published),
            )?;
            let thread = std::thread::Builder::new()
                .name(format!("mix-{number}"))
                .spawn(move || worker.run())?;
            Ok(Handle { orders, published, thread: Some(thread), calls: 0 })
        });
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { workers, rooms: HashMap::new(), calls: HashMap::new(), recording })
    }

    /// Carries a command out, soon.
    pub fn command(&mut self, command: MediaCommand) {
        let worker = match &command {
            MediaCommand::Open { call, room, .. } => {
                let idle = (0..self.workers.len()).min_by_key(|number| self.workers[*number].calls);
                let entry = self.rooms.entry(*room).or_insert((idle.unwrap_or(0), 0));
                entry.1 += 1;
                self.workers[entry.0].calls += 1;
                self.calls.insert(*call, *room);
                entry.0
            }
            MediaCommand::Set { call, .. } => {
                let Some((worker, _)) = self.calls.get(call).and_then(|room| self.rooms.get(room))
                else {
                    return;
                };
                *worker
            }
            MediaCommand::Close { call } => {
                let Some(room) = self.calls.remove(call) else { return };
                let Some(entry) = self.rooms.get_mut(&room) else { return };
                let worker = entry.0;
                entry.1 -= 1;
                self.workers[worker].calls -= 1;
                if entry.1 == 0 {
                    self.rooms.remove(&room);
                }
                worker
            }
        };
        self.workers[worker].orders.give(Order::Command(command));
    }

    /// Whether all threads are at work.
    pub fn is_whole(&self) -> bool {
        let workers = self.workers.iter().filter_map(|worker| worker.thread.as_ref());
        workers.chain(&self.recording).all(|thread| !thread.is_finished())
    }

    /// Lets the first worker have a fault.
    #[cfg(test)]
    pub(crate) fn breaker(&self) -> impl FnOnce() + Send + use<> {
        let orders = self.workers[0].orders.clone();
        move || orders.give(Order::Panic)
    }

    /// What has come and gone, as of the last second.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for worker in &self.workers {
            all.add(&read(&worker.published).counters);
        }
        all
    }

    /// How everybody fares, as of the last second.
    pub fn lines(&self) -> Vec<LineStats> {
        let all = self.workers.iter().map(|worker| Arc::clone(&read(&worker.published).lines));
        all.flat_map(|lines| lines.to_vec()).collect()
    }
}

fn read(published: &Mutex<Published>) -> Published {
    published.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Drop for Media {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.orders.give(Order::End);
        }
        let threads = self.workers.iter_mut().map(|worker| worker.thread.take());
        for thread in threads.chain([self.recording.take()]).flatten() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
