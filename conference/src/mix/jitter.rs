//! The jitter buffer: holds what has come until it is played, as long as it must and no longer.
//!
//! Packets are cut open: the buffer is a ring of [units](super::codec), filled by timestamp and emptied by 20 ms at each
//! tick. So reordering, repetition and any packet length need no care, and it never holds more than [`RING`] units.
//!
//! The delay follows what packets need. The *margin* of a packet says how long before its turn it came. One that comes
//! after its turn makes the buffer wait by so much; when for a while all have come a whole frame too early, the buffer
//! skips a frame. After each wait that follows a skip, the next skip takes twice as long to come, so that a link
//! with rare peaks does not click for ever.

use std::ops::Range;

use crate::mix::UNITS;

/// Units that fit: 256 ms.
pub const RING: usize = 2048;
const WORDS: usize = RING / 64;
/// One frame, as a distance of timestamps.
const FRAME: i32 = UNITS as i32;
/// Longest delay before a packet's turn: 80 ms, and 20 ms until the end of its first frame.
const MAX_MARGIN: i32 = 4 * FRAME;
/// Ticks over which margins are looked at: 2 s.
const WINDOW: u32 = 100;
/// Longest time between two skips: 64 windows, about two minutes.
const MAX_PATIENCE: u32 = 64;
/// Empty ticks after which the stream is taken for ended and the next packet for the first: 500 ms.
const EMPTY: u32 = 25;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Its timestamp is far from what is played; if the next one agrees, the stream begins anew there.
    Astray,
    Duplicate,
    /// All of it came after its turn.
    Late,
    Stored,
    /// It begins the stream, or begins it anew.
    Began,
}

/// What there is to play at a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing has come yet, or nothing comes any more.
    Silence,
    /// To be stretched over this frame: the buffer waits.
    Wait,
    /// These units of the frame are there; the range may be empty.
    Frame(Range<usize>),
}

/// Apart from the rest, which is all looked at for every packet: of this only a small part is.
#[derive(Debug)]
struct Ring {
    units: [u8; RING],
    /// A bit for each unit that is there.
    present: [u64; WORDS],
}

/// See the module documentation.
#[derive(Debug)]
pub struct JitterBuffer {
    ring: Box<Ring>,
    /// The timestamp to be played next, if a stream has begun.
    next: Option<u32>,
    /// Where a packet that went astray ended.
    astray: Option<u32>,
    /// Units by which the buffer still waits.
    wait: i32,
    /// Margins within the window, if packets came.
    least: Option<i32>,
    most: i32,
    /// The largest margin of the window before.
    most_before: i32,
    ticks: u32,
    /// Windows without need that go before a skip.
    patience: u32,
    calm: u32,
    skips: bool,
    skipped_last: bool,
    empty: u32,
    /// With how much the next stream begins.
    prefill: i32,
}

impl Default for JitterBuffer {
    fn default() -> Self {
        Self {
            ring: Box::new(Ring { units: [0; RING], present: [0; WORDS] }),
            next: None,
            astray: None,
            wait: 0,
            least: None,
            most: 0,
            most_before: 0,
            ticks: 0,
            patience: 1,
            calm: 0,
            skips: false,
            skipped_last: false,
            empty: 0,
            prefill: FRAME,
        }
    }
}

impl JitterBuffer {
    /// The payload of a packet. What is longer than 120 ms is cut.
    pub fn put(&mut self, timestamp: u32, payload: &[u8]) -> Put {
        let payload = &payload[..payload.len().min(6 * UNITS)];
        let length = payload.len() as i32;
        let Some(next) = self.next else {
            self.begin(timestamp);
            self.store(timestamp, payload);
            return Put::Began;
        };
        let margin = timestamp.wrapping_sub(next) as i32;
        if !(-(RING as i32) * 4..=RING as i32 - length).contains(&margin) {
            let expected = self.astray.replace(timestamp.wrapping_add(length as u32));
            if expected.is_none_or(|end| timestamp.wrapping_sub(end) > RING as u32) {
                return Put::Astray;
            }
            self.begin(timestamp);
            self.store(timestamp, payload);
            return Put::Began;
        }
        self.astray = None;
        self.least = Some(self.least.map_or(margin, |least| least.min(margin)));
        self.most = self.most.max(margin);
        if margin < 0 {
            // It waits until this one would have come in time, if that does not make the quickest ones wait too long.
            let needed = (-margin + FRAME - 1) / FRAME * FRAME;
            let room = MAX_MARGIN - self.most.max(self.most_before);
            self.wait = self.wait.max(needed.min(room));
            if margin + length <= 0 {
                return Put::Late;
            }
            let late = -margin as usize;
            self.store(next, &payload[late..]);
            return Put::Stored;
        }
        if self.is_present(timestamp) && length > 0 {
            return Put::Duplicate;
        }
        self.store(timestamp, payload);
        Put::Stored
    }

    fn begin(&mut self, timestamp: u32) {
        self.ring.present = [0; WORDS];
        self.next = Some(timestamp.wrapping_sub(self.prefill as u32));
        self.astray = None;
        (self.wait, self.least, self.most, self.most_before) = (0, None, 0, 0);
        (self.ticks, self.calm, self.empty) = (0, 0, 0);
        self.skips = false;
    }

    /// What is to be played now; the units are copied into `frame`. Time goes on by a frame.
    pub fn take(&mut self, frame: &mut [u8; UNITS]) -> Taken {
        let Some(next) = self.next else { return Taken::Silence };
        self.ticks += 1;
        if self.ticks >= WINDOW {
            self.look_back();
        }
        if self.wait >= FRAME {
            self.wait -= FRAME;
            self.calm = 0;
            if std::mem::take(&mut self.skipped_last) {
                self.patience = (2 * self.patience).min(MAX_PATIENCE);
            }
            (self.most, self.most_before) = (self.most + FRAME, self.most_before + FRAME);
            self.least = self.least.map(|least| least + FRAME);
            return Taken::Wait;
        }
        let found = self.cut(next, frame);
        self.next = Some(next.wrapping_add(UNITS as u32));
        if found.is_empty() {
            self.empty += 1;
            if self.empty > EMPTY {
                self.next = None;
            }
        } else {
            self.empty = 0;
        }
        Taken::Frame(found)
    }

    /// Whether the next frame should be left out, because all packets have come early for long enough. The caller takes
    /// one frame more at this tick; asked once.
    pub fn skips(&mut self) -> bool {
        std::mem::take(&mut self.skips)
    }

    /// At the end of a window.
    fn look_back(&mut self) {
        self.ticks = 0;
        let most = std::mem::take(&mut self.most);
        self.most_before = most;
        let Some(least) = self.least.take() else { return };
        self.prefill = ((most - least + FRAME - 1) / FRAME * FRAME).clamp(FRAME, MAX_MARGIN);
        self.calm = if least < FRAME { 0 } else { self.calm + 1 };
        if self.calm >= self.patience || most > MAX_MARGIN {
            self.calm = 0;
            self.most_before -= FRAME;
            (self.skips, self.skipped_last) = (true, true);
        }
    }

    /// The timestamp of the frame that was taken last; `None` when no stream is there.
    pub fn position(&self) -> Option<u32> {
        self.next.map(|next| next.wrapping_sub(UNITS as u32))
    }

    /// Milliseconds from the arrival of the quickest packets of this window to their turn.
    pub fn delay_ms(&self) -> u32 {
        (self.most.max(self.most_before).max(0) / 8) as u32
    }

    fn store(&mut self, timestamp: u32, payload: &[u8]) {
        let start = timestamp as usize % RING;
        let first = payload.len().min(RING - start);
        self.ring.units[start..start + first].copy_from_slice(&payload[..first]);
        self.ring.units[..payload.len() - first].copy_from_slice(&payload[first..]);
        self.mark(start..start + first, true);
        self.mark(0..payload.len() - first, true);
    }

    /// Copies the first run of units that are there out of the frame at `next`, and forgets the frame.
    fn cut(&mut self, next: u32, frame: &mut [u8; UNITS]) -> Range<usize> {
        let start = next as usize % RING;
        let first = UNITS.min(RING - start);
        frame[..first].copy_from_slice(&self.ring.units[start..start + first]);
        frame[first..].copy_from_slice(&self.ring.units[..UNITS - first]);
        let found = if self.all_present(start..start + first) && self.all_present(0..UNITS - first)
        {
            0..UNITS
        } else {
            let is_there = |index: &usize| self.is_present(next.wrapping_add(*index as u32));
            let from = (0..UNITS).find(is_there).unwrap_or(UNITS);
            from..(from..UNITS).find(|index| !is_there(index)).unwrap_or(UNITS)
        };
        self.mark(start..start + first, false);
        self.mark(0..UNITS - first, false);
        found
    }

    fn is_present(&self, timestamp: u32) -> bool {
        let index = timestamp as usize % RING;
        self.ring.present[index / 64] >> (index % 64) & 1 != 0
    }

    fn all_present(&self, range: Range<usize>) -> bool {
        masks(range).all(|(word, mask)| self.ring.present[word] & mask == mask)
    }

    fn mark(&mut self, range: Range<usize>, present: bool) {
        for (word, mask) in masks(range) {
            if present {
                self.ring.present[word] |= mask;
            } else {
                self.ring.present[word] &= !mask;
            }
        }
    }
}

/// The words that a range of bits touches, with the bits in each.
fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let (word, bit) = (at / 64, at % 64);
        let count = (64 - bit).min(range.end.checked_sub(at)?);
        if count == 0 {
            return None;
        }
        at += count;
        Some((word, (u64::MAX >> (64 - count)) << bit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u32 = 0xffff_ff00;

    fn packet(index: u32) -> (u32, [u8; UNITS]) {
        (START.wrapping_add(index * UNITS as u32), [index as u8; UNITS])
    }

    /// A script: packets by number, `.` is a tick; what is played is written back: the packet's number, `-` for a frame
    /// without sound, `w` for a wait.
    fn play(script: &str) -> String {
        let mut buffer = JitterBuffer::default();
        let mut heard = String::new();
        for step in script.chars() {
            if step != '.' {
                let (timestamp, payload) = packet(step.to_digit(36).expect("a number"));
                buffer.put(timestamp, &payload);
                continue;
            }
            let mut frame = [0; UNITS];
            heard.push(match buffer.take(&mut frame) {
                Taken::Silence => '-',
                Taken::Wait => 'w',
                Taken::Frame(found) if found == (0..UNITS) => {
                    assert!(frame.iter().all(|unit| *unit == frame[0]), "one packet, one frame");
                    char::from_digit(frame[0].into(), 36).expect("a number")
                }
                Taken::Frame(_) => '-',
            });
        }
        heard
    }

    #[test]
    fn tables() {
        for (what, script, heard) in [
            ("nothing", "...", "---"),
            ("in order", "0.1.2.3.4.", "-0123"),
            ("one lost", "0.1..3.4.5.", "-01-34"),
            ("two swapped", "0.1.3.2.4.5.", "-01234"),
            ("repeated", "0.01.112.2333.4.", "-0123"),
            ("one late by a frame: waits", "0.1...23.4.5.6.", "-01-w345"),
            ("a burst after a gap", "0.1....2345.6.7.8.", "-01--ww45"),
        ] {
            assert_eq!(play(script), heard, "{what}");
        }
    }

    #[test]
    fn lengths_need_no_care() {
        // 30 ms packets over 20 ms ticks, across the wrap of the timestamp and of the ring.
        let mut buffer = JitterBuffer::default();
        let (mut sent, mut heard) = (0_u32, Vec::new());
        for tick in 0..300_u32 {
            while sent * 240 <= tick * 160 {
                let payload = std::array::from_fn::<u8, 240, _>(|i| (sent * 240 + i as u32) as u8);
                buffer.put(START.wrapping_add(sent * 240), &payload);
                sent += 1;
            }
            let mut frame = [0; UNITS];
            if buffer.take(&mut frame) == Taken::Frame(0..UNITS) {
                heard.extend_from_slice(&frame);
            }
        }
        assert!(heard.len() > 280 * UNITS, "{}", heard.len());
        let broken = heard.windows(2).filter(|pair| pair[0].wrapping_add(1) != pair[1]).count();
        assert!(broken <= 3, "{broken} cuts");
    }

    /// Packets of a sender whose clock runs at `percent` of ours, each with a delay in units. Returns how many were heard,
    /// and the largest and the last time from sending to the end of playing, in ms.
    fn run(packets: u32, percent: u32, mut delay: impl FnMut(u32) -> u32) -> (usize, u32, u32) {
        let sent = |index: u32| index * 16_000 / percent;
        let mut buffer = JitterBuffer::default();
        let mut arrivals: Vec<(u32, u32)> =
            (0..packets).map(|index| (sent(index) + delay(index), index)).collect();
        arrivals.sort_unstable();
        let mut arrivals = arrivals.into_iter().peekable();
        let (mut heard, mut worst, mut last) = (0, 0, 0);
        for tick in 1..packets * 100 / percent {
            while let Some((_, index)) = arrivals.next_if(|(at, _)| *at < tick * 160) {
                let (timestamp, payload) = packet(index);
                buffer.put(timestamp, &payload);
            }
            for _ in 0..1 + u32::from(buffer.skips()) {
                let mut frame = [0; UNITS];
                if buffer.take(&mut frame) == Taken::Frame(0..UNITS) {
                    heard += 1;
                    // The packet's number from its last eight bits.
                    let about = tick * percent / 100;
                    let behind = (about as u8).wrapping_sub(frame[0]) as i8;
                    let index = about.wrapping_add_signed(-i32::from(behind));
                    last = (tick * 160).saturating_sub(sent(index)) / 8;
                    worst = worst.max(last);
                }
            }
        }
        (heard, worst, last)
    }

    #[test]
    fn a_steady_stream_is_delayed_by_two_frames_and_then_by_one() {
        let (heard, worst, last) = run(1000, 100, |_| 0);
        assert!(heard >= 995, "{heard}");
        assert_eq!((worst, last), (40, 20));
    }

    #[test]
    fn jitter_is_followed_and_forgotten() {
        let mut rng = fastrand::Rng::with_seed(60);
        let (heard, worst, last) =
            run(3000, 100, |index| if index < 1000 { rng.u32(..480) } else { 240 });
        println!(
            "table: jitter buffer, 60 ms of jitter for 20 s, then none for 40 s: {heard} of 3000 packets heard, at most \
             {worst} ms from sending to playing, {last} ms at the end"
        );
        assert!(heard > 2920, "{heard}");
        assert!(worst <= 120, "{worst}");
        assert!(last <= 60, "{last}");
    }

    #[test]
    fn clocks_may_drift() {
        for percent in [99, 101] {
            let (heard, worst, last) = run(5000, percent, |_| 0);
            println!(
                "table: jitter buffer, sender's clock at {percent} %: {heard} of 5000 packets heard, at most {worst} ms \
                 from sending to playing, {last} ms at the end"
            );
            assert!(heard > 4800, "{percent} %: {heard}");
            assert!(worst <= 120, "{percent} %: {worst}");
        }
    }

    #[test]
    fn far_timestamps_need_two_packets() {
        let mut buffer = JitterBuffer::default();
        assert_eq!(buffer.put(0, &[1; 160]), Put::Began);
        assert_eq!(buffer.put(160, &[1; 160]), Put::Stored);
        assert_eq!(buffer.put(160, &[1; 160]), Put::Duplicate);
        assert_eq!(buffer.put(1 << 30, &[9; 160]), Put::Astray);
        assert_eq!(buffer.put(320, &[1; 160]), Put::Stored);
        assert_eq!(buffer.put(1 << 30, &[9; 160]), Put::Astray);
        assert_eq!(buffer.put((1 << 30) + 160, &[9; 160]), Put::Began);
        assert_eq!(buffer.put(480, &[1; 160]), Put::Astray);
    }

    #[test]
    fn a_stream_that_ended_begins_anew() {
        let mut buffer = JitterBuffer::default();
        buffer.put(0, &[1; 160]);
        let mut frame = [0; UNITS];
        for _ in 0..40 {
            buffer.take(&mut frame);
        }
        assert_eq!(buffer.take(&mut frame), Taken::Silence);
        assert_eq!(buffer.put(77, &[1; 160]), Put::Began);
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(steps in proptest::collection::vec(
            prop_oneof![
                (any::<u32>(), 0_usize..2000).prop_map(Some),
                (0_u32..4000, 0_usize..400).prop_map(Some),
                Just(None),
            ],
            0..300,
        )) {
            let mut buffer = JitterBuffer::default();
            for step in steps {
                match step {
                    Some((timestamp, length)) => _ = buffer.put(timestamp, &vec![0; length]),
                    None => {
                        buffer.skips();
                        if let Taken::Frame(found) = buffer.take(&mut [0; UNITS]) {
                            prop_assert!(found.start <= found.end && found.end <= UNITS);
                        }
                    }
                }
                prop_assert!(buffer.wait >= 0 && buffer.wait <= MAX_MARGIN + FRAME);
            }
        }
    }
}
