//! What happened, as a hash that two runs of one seed must share, and as text when somebody wants to read it.

use std::collections::VecDeque;
use std::time::Duration;

/// How much text a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// None; the fastest.
    #[default]
    None,
    /// The last so many lines before the first violation, or before the end.
    Tail(usize),
    /// Everything, printed as it happens.
    Print,
}

#[derive(Debug)]
pub(crate) struct Trace {
    /// Over everything noted.
    hash: u64,
    text: Text,
    tail: VecDeque<String>,
    /// A violation was found: what follows is of no interest.
    closed: bool,
}

impl Trace {
    pub(crate) fn new(text: Text) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, text, tail: VecDeque::new(), closed: false }
    }

    /// FNV-1a by words: most of a run's messages are hashed and never read.
    fn mix(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let last = rest.iter().fold(bytes.len() as u64, |word, byte| word << 8 | u64::from(*byte));
        for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain([last]) {
            let mixed = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash = mixed ^ mixed >> 32;
        }
    }

    /// Notes one thing: who, what kind, its bytes, and how to say it.
    pub(crate) fn note(
        &mut self,
        now: Duration,
        who: &str,
        kind: u8,
        bytes: &[u8],
        say: impl FnOnce() -> String,
    ) {
        self.mix(&now.as_nanos().to_le_bytes());
        self.mix(who.as_bytes());
        self.mix(&[kind]);
        self.mix(bytes);
        if self.closed || self.text == Text::None {
            return;
        }
        let line = format!("{:>11.6} {who:<12} {}", now.as_secs_f64(), say());
        match self.text {
            Text::None => {}
            Text::Print => println!("{line}"),
            Text::Tail(lines) => {
                if self.tail.len() >= lines {
                    self.tail.pop_front();
                }
                self.tail.push_back(line);
            }
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn into_parts(self) -> (u64, Vec<String>) {
        (self.hash, self.tail.into())
    }
}
