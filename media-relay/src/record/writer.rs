//! The thread that writes recordings.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::tap::{Copied, Order, Queue};
use super::wav::{Samples, Wav};
use super::{Formats, g711, pcap, with_suffix};
use crate::plane::rtp_payload;

/// How long written bytes may stay in memory when nothing more comes.
const IDLE: Duration = Duration::from_millis(500);
const PCMU: u8 = 0;
const PCMA: u8 = 8;

pub(super) struct Writer {
    orders: Receiver<Order>,
    recordings: HashMap<u64, Files>,
    bounds: Bounds,
}

/// What all files have in common: their limit, and where failures are counted.
struct Bounds {
    queue: Arc<Queue>,
    file_bytes: u64,
}

/// The files of one recording. One that could not be made, or written, is given up.
struct Files {
    stem: PathBuf,
    now: Instant,
    wall: SystemTime,
    formats: Formats,
    pcap: Option<Pcap>,
    wavs: BTreeMap<u16, Option<Wav>>,
    full: bool,
}

struct Pcap {
    file: BufWriter<File>,
    size: u64,
}

impl Writer {
    pub(super) fn new(orders: Receiver<Order>, queue: Arc<Queue>, file_bytes: u64) -> Self {
        Self { orders, recordings: HashMap::new(), bounds: Bounds { queue, file_bytes } }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.orders.recv_timeout(IDLE) {
                Ok(Order::Begin { recording, stem, now, wall, formats }) => {
                    let pcap = with_suffix(&stem, ".pcap");
                    let pcap = formats.pcap.then(|| self.bounds.kept(&pcap, Pcap::new(&pcap)));
                    let (pcap, wavs) = (pcap.flatten(), BTreeMap::new());
                    let files = Files { stem, now, wall, formats, pcap, wavs, full: false };
                    self.recordings.insert(recording, files);
                }
                Ok(Order::Packet(packet)) => {
                    self.bounds.queue.taken(&packet);
                    if let Some(files) = self.recordings.get_mut(&packet.recording) {
                        files.write_pcap(&self.bounds, &packet);
                        files.write_wav(&self.bounds, &packet);
                    }
                }
                Ok(Order::End { recording }) => {
                    if let Some(files) = self.recordings.remove(&recording) {
                        files.finish(&self.bounds);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    for pcap in self.recordings.values_mut().filter_map(|files| files.pcap.as_mut())
                    {
                        // What cannot be written is said with the next packet.
                        let _ = pcap.file.flush();
                    }
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for (_, files) in self.recordings {
            files.finish(&self.bounds);
        }
    }
}

impl Files {
    fn write_pcap(&mut self, bounds: &Bounds, packet: &Copied) {
        let Some(pcap) = &mut self.pcap else { return };
        let size = pcap::size(&packet.bytes);
        if pcap.size + size > bounds.file_bytes {
            return self.refuse(bounds);
        }
        pcap.size += size;
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = since + packet.at.saturating_duration_since(self.now);
        let written = pcap::write(&mut pcap.file, at, packet.from, packet.to, &packet.bytes);
        if bounds.kept(&with_suffix(&self.stem, ".pcap"), written).is_none() {
            self.pcap = None;
        }
    }

    fn write_wav(&mut self, bounds: &Bounds, packet: &Copied) {
        if !self.formats.wav || !packet.audible {
            return;
        }
        let Some((header, codes)) = rtp_payload(&packet.bytes) else { return };
        let decode = match header.payload_type {
            PCMU => g711::from_mu_law,
            PCMA => g711::from_a_law,
            _ => return,
        };
        let path = with_suffix(&self.stem, &format!(".{}.wav", packet.stream));
        let place = self.wavs.entry(packet.stream).or_insert_with(|| {
            bounds.kept(&path, create(&path).and_then(|file| Wav::new(file, packet.at)))
        });
        let Some(wav) = place else { return };
        if wav.size_at(packet.at) > bounds.file_bytes {
            return self.refuse(bounds);
        }
        let samples = Samples {
            side: packet.side,
            at: packet.at,
            ssrc: header.ssrc,
            timestamp: header.timestamp,
            codes,
            decode,
        };
        if bounds.kept(&path, wav.put(samples)).is_none() {
            *place = None;
        }
    }

    /// A packet comes when its file is full.
    fn refuse(&mut self, bounds: &Bounds) {
        bounds.queue.beyond_limit.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.full, true) {
            let limit = bounds.file_bytes;
            tracing::warn!(file = %self.stem.display(), limit, "a recording is full");
        }
    }

    fn finish(mut self, bounds: &Bounds) {
        if let Some(mut pcap) = self.pcap.take() {
            bounds.kept(&with_suffix(&self.stem, ".pcap"), pcap.file.flush());
        }
        for (stream, wav) in self.wavs {
            if let Some(mut wav) = wav {
                bounds.kept(&with_suffix(&self.stem, &format!(".{stream}.wav")), wav.finish());
            }
        }
    }
}

impl Bounds {
    /// The value, or a word about why there is none.
    fn kept<T>(&self, path: &Path, result: io::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.queue.failed_files.fetch_add(1, Ordering::Relaxed);
                tracing::error!(file = %path.display(), %error, "a recording is given up");
            })
            .ok()
    }
}

impl Pcap {
    fn new(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(create(path)?);
        let header = pcap::header();
        file.write_all(&header)?;
        Ok(Self { file, size: header.len() as u64 })
    }
}

/// A file that was not there, for nobody else to read.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
