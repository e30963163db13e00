//! Whom real phones hear: several tones at once in what they record.

use std::time::Duration;

use dialtone::launcher::wait_for;

use crate::line::{RATE, level};

/// What is looked at together: a quarter of a second.
const WINDOW: usize = RATE / 4;

/// How many of them must be right.
const ENOUGH: usize = 8;

/// How long that may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A tone that is there. One that is not is much weaker than the weakest of these.
const LOUD: f64 = 1_000.0;
const MUCH: f64 = 6.0;

/// A phone.
pub(crate) struct Voice<'a> {
    /// What it plays.
    pub(crate) hertz: u32,
    /// Where it is.
    pub(crate) room: &'a str,
    /// All that it has heard so far.
    pub(crate) heard: Box<dyn Fn() -> Vec<i16> + 'a>,
}

impl Voice<'_> {
    fn ought_to_hear(&self, other: &Self) -> bool {
        self.room == other.room && self.hertz != other.hertz
    }
}

/// Waits until each has heard all others in its room for two seconds, and never itself or who is elsewhere. A busy
/// machine leaves gaps between the quarters of a second that are right.
pub(crate) fn hear_all<const N: usize>(what: &str, voices: [Voice<'_>; N]) {
    let begin: Vec<usize> = voices.iter().map(|voice| (voice.heard)().len()).collect();
    for (voice, begin) in voices.iter().zip(begin) {
        let others: Vec<u32> = voices
            .iter()
            .filter(|other| voice.ought_to_hear(other))
            .map(|other| other.hertz)
            .collect();
        // Of those who are to be heard the weakest, of the others the strongest.
        let mut levels = Vec::new();
        let right = |levels: &&(f64, f64)| levels.0 > LOUD.max(MUCH * levels.1) && levels.1 < LOUD;
        let heard = wait_for(LIMIT, || {
            let heard = (voice.heard)();
            let windows = heard.get(begin..).unwrap_or_default().chunks_exact(WINDOW);
            for window in windows.skip(levels.len()) {
                let (mut weakest, mut strongest) = (f64::MAX, 0.0_f64);
                for other in &voices {
                    let level = level(window, other.hertz);
                    if voice.ought_to_hear(other) {
                        weakest = weakest.min(level);
                    } else {
                        strongest = strongest.max(level);
                    }
                }
                levels.push((weakest, strongest));
            }
            (levels.iter().filter(right).count() >= ENOUGH).then_some(())
        });
        // Phones write what they hear some time later: before it is right for the first time, it is from before.
        let settled = levels.iter().skip_while(|levels| !right(levels));
        let strongest = settled.fold(0.0_f64, |strongest, levels| strongest.max(levels.1));
        println!(
            "table: {what}: {} Hz in room {} hears {others:?} Hz, whatever else at {strongest:.0} of 32,767 at most, in {} s",
            voice.hertz,
            voice.room,
            levels.len() as f64 / 4.0,
        );
        assert!(
            heard.is_some() && strongest < LOUD,
            "{} Hz does not hear {others:?} Hz alone: {levels:.0?}",
            voice.hertz
        );
    }
}
