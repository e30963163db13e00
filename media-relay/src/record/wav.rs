//! A WAV file of a call in G.711: two tracks of linear samples, placed by when they arrived.
//!
//! Within a stream RTP timestamps say where a packet belongs, so jitter leaves no gaps; the time of arrival says where
//! a stream begins, and corrects what drifts away by more than [`TOLERANCE`]. Frames are written when nothing can come
//! before them any more ([`DELAY`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use crate::plane::Side;

const RATE: u32 = 8_000;
/// Frames that timestamps and arrival may differ: 200 ms.
const TOLERANCE: u64 = 1_600;
/// Frames that are held back: 500 ms.
const DELAY: u64 = 4_000;
/// Samples of one packet that are used; no phone sends more than 200 ms in one.
const MOST_SAMPLES: usize = 1_600;
const HEADER: u64 = 44;
/// Frames after which the header is brought up to date, for the case that nobody ends the file: 5 s.
const HEADER_FRAMES: u64 = 40_000;
/// Bytes of a frame: a sample of 16 bits for each side.
const FRAME: u64 = 4;

pub(super) struct Wav {
    file: BufWriter<File>,
    origin: Instant,
    /// Frames before the window.
    written: u64,
    window: VecDeque<[i16; 2]>,
    tracks: [Option<Anchor>; 2],
}

/// Where in the file a timestamp of a stream lies.
#[derive(Clone, Copy)]
struct Anchor {
    ssrc: u32,
    timestamp: u32,
    frame: u64,
}

/// Samples as they came.
pub(super) struct Samples<'a> {
    pub(super) side: Side,
    pub(super) at: Instant,
    pub(super) ssrc: u32,
    pub(super) timestamp: u32,
    pub(super) codes: &'a [u8],
    pub(super) decode: fn(u8) -> i16,
}

impl Wav {
    pub(super) fn new(file: File, origin: Instant) -> io::Result<Self> {
        let mut file = BufWriter::new(file);
        file.write_all(&header(0))?;
        let (window, tracks) = (VecDeque::new(), [None; 2]);
        Ok(Self { file, origin, written: 0, window, tracks })
    }

    /// Where the file would end with samples that arrive then.
    pub(super) fn size_at(&self, at: Instant) -> u64 {
        HEADER + (self.arrival(at) + TOLERANCE + MOST_SAMPLES as u64) * FRAME
    }

    pub(super) fn put(&mut self, samples: Samples<'_>) -> io::Result<()> {
        let Samples { side, at, ssrc, timestamp, codes, decode } = samples;
        let arrival = self.arrival(at);
        let anchored = self.tracks[side as usize]
            .filter(|anchor| anchor.ssrc == ssrc)
            .and_then(|anchor| {
                let ahead = timestamp.wrapping_sub(anchor.timestamp) as i32;
                anchor.frame.checked_add_signed(ahead.into())
            })
            .filter(|frame| frame.abs_diff(arrival) <= TOLERANCE);
        let frame = anchored.unwrap_or(arrival);
        // The anchor moves along, so that timestamps can wrap around.
        self.tracks[side as usize] = Some(Anchor { ssrc, timestamp, frame });
        self.write_until(arrival.saturating_sub(DELAY))?;
        for (index, code) in codes.iter().take(MOST_SAMPLES).enumerate() {
            // What comes too late is lost.
            let Some(place) = (frame + index as u64).checked_sub(self.written) else { continue };
            let place = place as usize;
            if place >= self.window.len() {
                self.window.resize(place + 1, [0; 2]);
            }
            self.window[place][side as usize] = decode(*code);
        }
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.write_until(self.written + self.window.len() as u64)?;
        self.write_header()
    }

    /// Says how long the file is by now.
    fn write_header(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(self.written * FRAME))?;
        self.file.seek(SeekFrom::End(0))?;
        self.file.flush()
    }

    fn arrival(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        frames(since)
    }

    fn write_until(&mut self, frame: u64) -> io::Result<()> {
        let count = frame.saturating_sub(self.written);
        let waiting = count.min(self.window.len() as u64) as usize;
        for [left, right] in self.window.drain(..waiting) {
            self.file.write_all(&left.to_le_bytes())?;
            self.file.write_all(&right.to_le_bytes())?;
        }
        let silence = count - waiting as u64;
        if silence > 0 {
            // A hole in the file is silence, however long somebody was on hold.
            let end = HEADER + (self.written + count) * FRAME;
            self.file.flush()?;
            self.file.get_ref().set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
        }
        let before = self.written;
        self.written += count;
        if self.written / HEADER_FRAMES != before / HEADER_FRAMES {
            self.write_header()?;
        }
        Ok(())
    }
}

fn frames(since: Duration) -> u64 {
    (since.as_micros() as u64).saturating_mul(RATE.into()) / 1_000_000
}

fn header(data: u64) -> Vec<u8> {
    let data = u32::try_from(data).unwrap_or(u32::MAX - HEADER as u32);
    let mut out = Vec::with_capacity(HEADER as usize);
    out.extend(b"RIFF");
    out.extend((data + HEADER as u32 - 8).to_le_bytes());
    out.extend(b"WAVEfmt ");
    out.extend(16u32.to_le_bytes());
    // Linear PCM, two channels.
    out.extend(1u16.to_le_bytes());
    out.extend(2u16.to_le_bytes());
    out.extend(RATE.to_le_bytes());
    out.extend((RATE * FRAME as u32).to_le_bytes());
    out.extend((FRAME as u16).to_le_bytes());
    out.extend(16u16.to_le_bytes());
    out.extend(b"data");
    out.extend(data.to_le_bytes());
    out
}
