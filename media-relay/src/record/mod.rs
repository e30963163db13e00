//! Recording of calls to files: pcap of all packets, WAV of G.711 audio.
//!
//! [`Recorder`] owns a folder and a thread that writes. A recording of a call ([`Recorder::begin`]) hands out one
//! [`Tap`] for each of its pairs; workers of the [plane](crate::plane) copy accepted packets into it. The queue between
//! them is bounded by bytes: what does not fit is dropped and counted, and the call is not disturbed. Dropping the
//! [`Recording`] ends its files.
//!
//! - **pcap** (one file for a call): link type RAW, every packet as it came to the relay, with IP and UDP headers made
//!   up from its addresses.
//! - **WAV** (one file for each pair that carries G.711 in the clear, from its first such packet): 16 bits, 8 kHz, the
//!   offerer's voice on the left, the answerer's on the right. Both lie where they arrived; what is missing is silence.
//!
//! File names begin with the Call-ID, percent-encoded, and files are readable by their owner only.

mod g711;
mod pcap;
mod tap;
mod wav;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tap::{Order, Queue};
pub use tap::{Packet, Tap};

use crate::plane::Kind;

/// Where and how much is recorded.
#[derive(Clone, Debug)]
pub struct RecorderConfig {
    /// An existing folder, better one that nobody else can read.
    pub folder: PathBuf,
    /// Memory for packets that wait to be written.
    pub queue_bytes: u64,
    /// A file that has reached this size takes no more; below 4 GiB, which is what WAV can say.
    pub file_bytes: u64,
    /// Recordings at the same time.
    pub recordings: u64,
}

/// What is written of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Formats {
    pub pcap: bool,
    pub wav: bool,
}

/// Why a recording does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("{limit} recordings are running already")]
    TooMany { limit: u64 },
}

/// What a recorder has counted since it was started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct RecorderTotals {
    /// Recordings that run.
    pub running: u64,
    /// Packets taken.
    pub packets: u64,
    /// Packets for which the queue had no room.
    pub dropped: u64,
    /// Packets that came when their file was full.
    pub beyond_limit: u64,
    /// Files that could not be made, or not written to the end.
    pub failed_files: u64,
}

#[derive(Debug)]
pub struct Recorder {
    queue: Arc<Queue>,
    serial: AtomicU64,
    config: RecorderConfig,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// The folder is not there, or there is no thread.
    pub fn start(config: RecorderConfig) -> io::Result<Self> {
        if !config.folder.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (sender, orders) = channel();
        let queue = Arc::new(Queue::new(sender, config.queue_bytes));
        let writer =
            writer::Writer::new(orders, Arc::clone(&queue), config.file_bytes.min(MOST_BYTES));
        let thread =
            std::thread::Builder::new().name("recorder".into()).spawn(move || writer.run())?;
        Ok(Self { queue, serial: AtomicU64::new(0), config, thread: Some(thread) })
    }

    /// Begins a recording. Files are made by the writer's thread, which logs and counts what fails.
    ///
    /// # Errors
    /// Too many recordings at the same time.
    pub fn begin(
        &self,
        now: Instant,
        wall: SystemTime,
        call_id: &[u8],
        formats: Formats,
    ) -> Result<Recording, RecordError> {
        let limit = self.config.recordings;
        if self.queue.running.fetch_add(1, Ordering::Relaxed) >= limit {
            self.queue.running.fetch_sub(1, Ordering::Relaxed);
            return Err(RecordError::TooMany { limit });
        }
        let id = self.serial.fetch_add(1, Ordering::Relaxed);
        let millis = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let stem = self.config.folder.join(format!("{}.{millis}.{id}", encode(call_id)));
        self.queue.order(Order::Begin { recording: id, stem: stem.clone(), now, wall, formats });
        Ok(Recording { queue: Arc::clone(&self.queue), id, stem, formats })
    }

    pub fn totals(&self) -> RecorderTotals {
        self.queue.totals()
    }
}

impl Drop for Recorder {
    /// Writes what waits, and ends all files.
    fn drop(&mut self) {
        self.queue.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A recording of one call, until it is dropped.
#[derive(Debug)]
pub struct Recording {
    queue: Arc<Queue>,
    id: u64,
    stem: PathBuf,
    formats: Formats,
}

impl Recording {
    /// The entrance for one pair of the call; the number tells its WAV file from others. Only of [`Kind::Rtp`] there is
    /// something to hear.
    pub fn tap(&self, stream: u16, kind: Kind) -> Tap {
        let audible = kind == Kind::Rtp;
        Tap { queue: Arc::clone(&self.queue), recording: self.id, stream, audible }
    }

    /// The pcap file, if there is to be one.
    pub fn pcap(&self) -> Option<PathBuf> {
        self.formats.pcap.then(|| with_suffix(&self.stem, ".pcap"))
    }

    /// The WAV file of that pair, which is made when G.711 comes.
    pub fn wav(&self, stream: u16) -> Option<PathBuf> {
        self.formats.wav.then(|| with_suffix(&self.stem, &format!(".{stream}.wav")))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.queue.running.fetch_sub(1, Ordering::Relaxed);
        self.queue.order(Order::End { recording: self.id });
    }
}

/// The sizes inside a WAV file have 32 bits.
const MOST_BYTES: u64 = u32::MAX as u64 - 4_096;
/// What of a Call-ID goes into a name; the rest of the name makes it unique.
const NAME: usize = 100;

fn with_suffix(stem: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A name without separators, dots at the front, or anything that a shell would mind.
fn encode(call_id: &[u8]) -> String {
    let mut name = String::new();
    for byte in call_id {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' => name.push(char::from(*byte)),
            b'-' | b'.' | b'@' if !name.is_empty() => name.push(char::from(*byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
        if name.len() >= NAME {
            break;
        }
    }
    name
}

#[cfg(test)]
mod tests;
