//! Recordings: one thread writes WAV files of 16 kHz, so that a slow disk holds up no sound.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::core::RoomId;

/// Beginnings, and pieces of a second, that may wait for the disk; more are dropped and counted. Ends are not: there are no
/// more of them than there were beginnings, and without its end a file would stay open.
const QUEUE: usize = 1000;
const HEADER: u32 = 44;
const RATE: u32 = 16_000;
/// What the length in a WAV file can say.
const MAX_BYTES: u32 = u32::MAX - HEADER;

enum Order {
    Begin { room: RoomId, name: String },
    Piece { room: RoomId, samples: Vec<i16> },
    End { room: RoomId },
}

/// Gives recordings to the writing thread. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    orders: Sender<Order>,
    /// Orders that wait, but for ends.
    waiting: Arc<AtomicUsize>,
    /// Pieces that the disk was too slow for.
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    pub(super) fn start(folder: PathBuf) -> io::Result<(Self, JoinHandle<()>)> {
        std::fs::create_dir_all(&folder)?;
        let (recorder, mut writer, orders) = Self::new(folder);
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || orders.into_iter().for_each(|order| writer.handle(order)))?;
        Ok((recorder, thread))
    }

    fn new(folder: PathBuf) -> (Self, Writer, Receiver<Order>) {
        let (orders, receiver) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer { folder, files: HashMap::new(), waiting: Arc::clone(&waiting) };
        (Self { orders, waiting, dropped: Arc::new(AtomicU64::new(0)) }, writer, receiver)
    }

    /// A room begins at this time, in seconds since 1970. Whether there will be a recording.
    pub(super) fn begin(&self, room: RoomId, name: &str, time: u64) -> bool {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = name.chars().take(64).map(safe).collect();
        self.give(Order::Begin { room, name: format!("{name}-{time}-{}.wav", room.0) })
    }

    pub(super) fn piece(&self, room: RoomId, samples: Vec<i16>) {
        let _ = self.give(Order::Piece { room, samples });
    }

    pub(super) fn end(&self, room: RoomId) {
        // A writer that has ended has closed all files.
        let _ = self.orders.send(Order::End { room });
    }

    fn give(&self, order: Order) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        let given = has_room && self.orders.send(order).is_ok();
        if !given {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        given
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Wav {
    file: File,
    bytes: u32,
}

/// What the writing thread has.
struct Writer {
    folder: PathBuf,
    files: HashMap<RoomId, Wav>,
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    fn handle(&mut self, order: Order) {
        if !matches!(order, Order::End { .. }) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let Self { folder, files, .. } = self;
        let result = match order {
            Order::Begin { room, name } => {
                Wav::create(&folder.join(name)).map(|wav| _ = files.insert(room, wav))
            }
            Order::Piece { room, samples } => {
                let result = files.get_mut(&room).map_or(Ok(()), |wav| wav.push(&samples));
                if result.is_err() {
                    files.remove(&room);
                }
                result
            }
            Order::End { room } => {
                files.remove(&room);
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, folder = %folder.display(), "a recording cannot be written");
        }
    }
}

impl Wav {
    fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut wav = Self { file, bytes: 0 };
        wav.file.write_all(&header(0))?;
        Ok(wav)
    }

    /// Each piece brings the lengths up to date, so that what is there is a file at any time.
    fn push(&mut self, samples: &[i16]) -> io::Result<()> {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let Some(length) = self.bytes.checked_add(bytes.len() as u32).filter(|n| *n < MAX_BYTES)
        else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.file.seek(SeekFrom::Start(u64::from(HEADER + self.bytes)))?;
        self.file.write_all(&bytes)?;
        self.bytes = length;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(length))
    }
}

/// RIFF, PCM, one channel of 16 bits.
fn header(bytes: u32) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    let fields: [&[u8]; 13] = [
        b"RIFF",
        &(bytes + HEADER - 8).to_le_bytes(),
        b"WAVE",
        b"fmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &RATE.to_le_bytes(),
        &(2 * RATE).to_le_bytes(),
        &2_u16.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &bytes.to_le_bytes(),
    ];
    let mut at = 0;
    for field in fields {
        header[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_a_file() {
        let folder = std::env::temp_dir().join(format!("conference-{}", fastrand::u64(..)));
        let (recorder, thread) = Recorder::start(folder.clone()).expect("a folder");
        assert!(recorder.begin(RoomId(7), "a/../b c", 100));
        recorder.piece(RoomId(7), vec![1, -1, 256]);
        recorder.piece(RoomId(8), vec![9]);
        recorder.piece(RoomId(7), vec![2]);
        recorder.end(RoomId(7));
        assert_eq!(recorder.dropped(), 0);
        drop(recorder);
        thread.join().expect("written");
        let files: Vec<_> = std::fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].file_name(), "a____b_c-100-7.wav");
        let bytes = std::fs::read(files[0].path()).expect("a file");
        assert_eq!(bytes[44..], [1, 0, 255, 255, 0, 1, 2, 0]);
        assert_eq!(bytes[40..44], [8, 0, 0, 0]);
        assert_eq!(bytes[4..8], [44, 0, 0, 0]);
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_slow_disk_costs_sound_but_leaves_no_file_open() {
        let folder = std::env::temp_dir().join(format!("conference-{}", fastrand::u64(..)));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (recorder, mut writer, orders) = Recorder::new(folder.clone());
        assert!(recorder.begin(RoomId(1), "a", 1));
        (0..QUEUE).for_each(|_| recorder.piece(RoomId(1), vec![1]));
        assert!(!recorder.begin(RoomId(2), "b", 1), "as many as may wait");
        recorder.end(RoomId(1));
        assert_eq!(recorder.dropped(), 2);
        orders.try_iter().for_each(|order| writer.handle(order));
        assert_eq!(writer.files.len(), 0);
        // There is room again.
        assert!(recorder.begin(RoomId(3), "c", 1));
        orders.try_iter().for_each(|order| writer.handle(order));
        assert_eq!((writer.files.len(), recorder.waiting.load(Ordering::Relaxed)), (1, 0));
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
