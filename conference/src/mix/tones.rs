//! Sounds that the room makes itself: a queue of notes, played into frames of 16 kHz.

use std::collections::VecDeque;
use std::f32::consts::TAU;

use crate::mix::WIDE;

/// One note, or a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Below 4 kHz, so that leaving out every second sample makes it one of 8 kHz; 0 for a pause.
    pub hertz: u16,
    pub ms: u16,
    /// Largest sample.
    pub amplitude: i16,
}

const fn note(hertz: u16, ms: u16) -> Note {
    Note { hertz, ms, amplitude: 5000 }
}

const fn pause(ms: u16) -> Note {
    Note { hertz: 0, ms, amplitude: 0 }
}

/// Somebody has come: up.
pub const JOINED: [Note; 2] = [note(660, 120), note(880, 120)];
/// Somebody has gone: down.
pub const LEFT: [Note; 2] = [note(880, 120), note(660, 120)];
/// Nobody else is here, every five seconds.
pub const ALONE: [Note; 2] = [Note { hertz: 425, ms: 300, amplitude: 1500 }, pause(4700)];
/// The number that opens the room is wanted, every five seconds.
pub const ASK: [Note; 4] = [note(1000, 150), pause(100), note(1000, 150), pause(4600)];
/// It was wrong.
pub const WRONG: [Note; 1] = [note(400, 600)];
pub const MUTED: [Note; 2] = [note(620, 100), note(480, 100)];
pub const UNMUTED: [Note; 2] = [note(480, 100), note(620, 100)];

/// A number below 100 as beeps: long low ones for tens, short high ones for ones; one very low for zero.
pub fn number(value: usize) -> impl Iterator<Item = Note> {
    let value = value.min(99);
    let tens = std::iter::repeat_n([note(500, 400), pause(200)], value / 10);
    let ones = std::iter::repeat_n([note(1000, 150), pause(200)], value % 10);
    let zero = (value == 0).then_some([note(300, 400), pause(200)]);
    tens.chain(ones).chain(zero).flatten()
}

/// Notes that wait at most; more are not played.
const MAX_NOTES: usize = 64;
/// Samples over which a note swells and fades, so that it does not click.
const EDGE: usize = 64;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Player {
    notes: VecDeque<Note>,
    /// Samples of the first note that have been played.
    played: usize,
    /// Turns of the first note so far, in radians.
    phase: f32,
}

impl Player {
    pub fn new() -> Self {
        Self::default()
    }

    /// Plays these after what is being played.
    pub fn add(&mut self, notes: impl IntoIterator<Item = Note>) {
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(notes.into_iter().take(room));
    }

    /// Whether one of these is being played.
    pub fn plays(&self, notes: &[Note]) -> bool {
        self.notes.front().is_some_and(|note| notes.contains(note))
    }

    /// Stops at once.
    pub fn stop(&mut self) {
        self.notes.clear();
        (self.played, self.phase) = (0, 0.0);
    }

    /// Notes that are not over.
    pub fn waiting(&self) -> usize {
        self.notes.len()
    }

    pub fn is_idle(&self) -> bool {
        self.notes.is_empty()
    }

    /// The next 20 ms, if there is anything to hear in them.
    pub fn sound(&mut self) -> Option<[i16; WIDE]> {
        let mut frame = [0; WIDE];
        self.play(&mut frame).then_some(frame)
    }

    /// The next 20 ms. Returns whether there is anything to hear in them.
    pub fn play(&mut self, frame: &mut [i16; WIDE]) -> bool {
        frame.fill(0);
        let mut at = 0;
        let mut sounds = false;
        while let Some(note) = self.notes.front().copied().filter(|_| at < WIDE) {
            let length = usize::from(note.ms) * 16;
            let count = (length - self.played).min(WIDE - at);
            if note.hertz > 0 {
                sounds = true;
                let step = TAU * f32::from(note.hertz) / 16_000.0;
                for (index, sample) in frame[at..at + count].iter_mut().enumerate() {
                    let position = self.played + index;
                    let edge = position.min(length - 1 - position).min(EDGE) as f32 / EDGE as f32;
                    *sample = (f32::from(note.amplitude) * edge * self.phase.sin()) as i16;
                    self.phase = (self.phase + step) % TAU;
                }
            }
            at += count;
            self.played += count;
            if self.played >= length {
                self.notes.pop_front();
                (self.played, self.phase) = (0, 0.0);
            }
        }
        sounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::testing::level;

    #[test]
    fn notes_follow_each_other() {
        let mut player = Player::new();
        player.add(JOINED);
        let mut heard = Vec::new();
        while !player.is_idle() {
            let mut frame = [0; WIDE];
            assert!(player.play(&mut frame));
            heard.extend_from_slice(&frame);
        }
        assert_eq!(heard.len(), 240 * 16);
        let (first, second) = heard.split_at(120 * 16);
        assert!(level(first, 660.0, 16e3) > 3500.0 && level(first, 880.0, 16e3) < 500.0);
        assert!(level(second, 880.0, 16e3) > 3500.0 && level(second, 660.0, 16e3) < 500.0);
        assert!(!player.play(&mut [0; WIDE]));
    }

    #[test]
    fn numbers_are_beeps_and_the_queue_is_bounded() {
        let beeps = |value| {
            let (mut low, mut high) = (0, 0);
            for note in number(value) {
                low += usize::from(note.hertz == 500);
                high += usize::from(note.hertz == 1000);
            }
            (low, high)
        };
        assert_eq!((beeps(7), beeps(23), beeps(500)), ((0, 7), (2, 3), (9, 9)));
        assert_eq!(number(0).count(), 2);
        let mut player = Player::new();
        (0..100).for_each(|_| player.add(number(99)));
        assert_eq!(player.notes.len(), MAX_NOTES);
    }
}
