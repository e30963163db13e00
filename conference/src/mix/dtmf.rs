//! Keys of the telephone as RTP events (RFC 4733), and what they mean to a conference.

use std::collections::VecDeque;

/// The keys of events 0 to 15.
const KEYS: [u8; 16] = *b"0123456789*#ABCD";

/// Units that one event lasts at most for our purposes: 4 s. What says that it lasts longer is not believed.
const LONGEST: u32 = 32_000;

/// Recognises each key once: events are repeated while the key is down, and their end three times.
#[derive(Debug, Default)]
pub struct KeyDecoder {
    /// The timestamp of the last event: all packets of one have the same.
    last: Option<u32>,
    /// Until when the sender sends an event instead of sound.
    until: Option<u32>,
}

impl KeyDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// An event packet. Returns the key when it is a new one.
    pub fn handle(&mut self, timestamp: u32, payload: &[u8]) -> Option<u8> {
        // RFC 4733 section 2.3: event, end bit and volume, duration.
        let &[event, _, d0, d1] = payload.first_chunk::<4>()?;
        let key = *KEYS.get(usize::from(event))?;
        let duration = u32::from(u16::from_be_bytes([d0, d1])).min(LONGEST);
        self.until = Some(timestamp.wrapping_add(duration));
        // A packet of an earlier event that comes late is no new key.
        if self.last.is_some_and(|last| timestamp.wrapping_sub(last) as i32 <= 0) {
            return None;
        }
        self.last = Some(timestamp);
        Some(key)
    }

    /// Whether the sender sends an event at this time: then missing sound was not lost. The end of an event is known a
    /// packet late.
    pub fn covers(&self, timestamp: u32) -> bool {
        self.until.is_some_and(|until| {
            let left = until.wrapping_add(480).wrapping_sub(timestamp) as i32;
            (0..=LONGEST as i32 + 480).contains(&left)
        })
    }

    /// The stream begins anew, with other timestamps.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// What somebody wants who is in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `*6`.
    ToggleMute,
    /// `*#`.
    Count,
}

/// Two keys make a wish.
#[derive(Debug, Default)]
pub struct Wishes {
    star: bool,
}

impl Wishes {
    pub fn handle(&mut self, key: u8) -> Option<Wish> {
        match (std::mem::replace(&mut self.star, key == b'*'), key) {
            (true, b'6') => Some(Wish::ToggleMute),
            (true, b'#') => Some(Wish::Count),
            _ => None,
        }
    }
}

/// The number that opens a room.
#[derive(Debug)]
pub struct Lock {
    pin: Box<[u8]>,
    typed: VecDeque<u8>,
    tries: u8,
}

/// What the keys have led to so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    NotYet,
    Yes,
    /// Wrong; may try again.
    Wrong,
    /// Wrong for the last time.
    Never,
}

/// Tries that somebody has.
const TRIES: u8 = 3;

impl Lock {
    /// `pin` is made of digits.
    pub fn new(pin: &str) -> Self {
        Self { pin: pin.as_bytes().into(), typed: VecDeque::new(), tries: 0 }
    }

    /// As soon as there are enough digits, or at `#`, they are compared; `*` begins anew.
    pub fn handle(&mut self, key: u8) -> Opened {
        match key {
            // Keys that come before the caller is gone are no more tries.
            _ if self.tries >= TRIES => return Opened::NotYet,
            b'*' => {
                self.typed.clear();
                return Opened::NotYet;
            }
            b'#' if self.typed.is_empty() => return Opened::NotYet,
            b'#' => {}
            digit => {
                self.typed.push_back(digit);
                if self.typed.len() < self.pin.len() {
                    return Opened::NotYet;
                }
            }
        }
        // Not in constant time: three keys in ten seconds are no oracle.
        let right = self.typed.iter().eq(&*self.pin);
        self.typed.clear();
        if right {
            return Opened::Yes;
        }
        self.tries += 1;
        if self.tries < TRIES { Opened::Wrong } else { Opened::Never }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: u8, duration: u16) -> [u8; 4] {
        let [d0, d1] = duration.to_be_bytes();
        [event, 10, d0, d1]
    }

    #[test]
    fn a_key_counts_once_however_often_it_is_sent() {
        let mut decoder = KeyDecoder::new();
        let mut keys = Vec::new();
        for (timestamp, number, duration) in [
            (1000, 5, 160),
            (1000, 5, 320),
            (1000, 5, 480),
            (1000, 5, 480),
            (3000, 5, 160),
            // The end of the first, late.
            (1000, 5, 480),
            (5000, 10, 160),
            (6000, 11, 160),
            (7000, 15, 160),
        ] {
            keys.extend(decoder.handle(timestamp, &event(number, duration)));
        }
        assert_eq!(keys, b"55*#D");
        assert_eq!(decoder.handle(9000, &event(16, 1)), None, "flash is no key");
        assert_eq!(decoder.handle(9000, &[1, 2, 3]), None, "too short");
        assert!(decoder.covers(7100) && decoder.covers(7500) && !decoder.covers(9000));
        assert!(!decoder.covers(7000_u32.wrapping_sub(100_000)));
    }

    #[test]
    fn wishes_are_two_keys() {
        let mut wishes = Wishes::default();
        let found: Vec<Wish> =
            b"6#1*6**66*#*1#".iter().filter_map(|key| wishes.handle(*key)).collect();
        assert_eq!(found, [Wish::ToggleMute, Wish::ToggleMute, Wish::Count]);
    }

    #[test]
    fn locks_open_for_the_right_number_only() {
        let typed = |keys: &[u8]| {
            let mut lock = Lock::new("4711");
            keys.iter()
                .map(|key| lock.handle(*key))
                .filter(|opened| *opened != Opened::NotYet)
                .collect::<Vec<_>>()
        };
        assert_eq!(typed(b"4711"), [Opened::Yes]);
        assert_eq!(typed(b"47*4711"), [Opened::Yes]);
        assert_eq!(typed(b"##47#4711"), [Opened::Wrong, Opened::Yes]);
        assert_eq!(typed(b"123412341234"), [Opened::Wrong, Opened::Wrong, Opened::Never]);
        assert_eq!(typed(b"1111222233334711"), [Opened::Wrong, Opened::Wrong, Opened::Never]);
        assert_eq!(typed(b"471"), []);
    }
}
