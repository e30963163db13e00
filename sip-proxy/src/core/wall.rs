//! What time it is for bindings: the clock of the system, but never where it jumps to.
//!
//! Bindings end at times that all proxies must agree on, so a proxy starts with the clock of its system. Afterwards it
//! counts by itself, sleep of the machine included, and lets the system correct it slowly. A clock that is suddenly
//! far away would end all bindings, or none for a year. It may be wrong (somebody set it, a virtual machine went on) or
//! right (it was set late after boot, or the machine stood still without knowing): a process alone cannot tell, but
//! going on as before loses nothing, since all times that count are measured against each other. So a jump is not
//! followed, until one of these says that it must be:
//! - other proxies have been writing times for a minute that agree with the system, and none that agrees with us;
//! - or we have only just started, and they all write another time than ours: then theirs counts, even against the
//!   system.
//!
//! Without other proxies a jump is followed at the next start. Proxies that are wrong all by the same, since their clocks
//! were set late, confirm each other, also to one that is started anew: they have to be stopped all, and then started.

use std::time::{Duration, Instant};

/// Differences up to this are followed slowly, milliseconds; larger ones are jumps.
const STEP_MS: u64 = 10_000;
/// How far the time may run too fast or too slow while it is corrected, per mille.
const RATE: i64 = 50;
/// For how long other proxies must write other times than ours until they are believed.
const AGREED_FOR: Duration = Duration::from_secs(60);
/// How many such times, at least.
const AGREED_TIMES: u32 = 3;
/// A process that started less than this before believes others after a moment; not at once, since what has waited for
/// a process that stood still comes all together.
const YOUNG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_secs(2);

/// Something to tell the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockNotice {
    /// We have started with another time than the other proxies and go on with theirs, which differs from ours so far
    /// by this, milliseconds.
    Adopted { by_ms: i64 },
    /// The system's clock agrees again.
    Agrees,
    /// The system's clock has jumped by this, milliseconds, and other proxies have confirmed it: followed.
    Followed { by_ms: i64 },
    /// The system's clock has jumped by this, milliseconds: not followed.
    Jumped { by_ms: i64 },
}

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    /// A moment by both clocks, the second in milliseconds since 1970.
    base: (Instant, u64),
    /// Correction since then, per mille.
    rate: i64,
    started: Instant,
    /// For how long the machine had slept when last looked at, once that was.
    slept: Option<Duration>,
    /// The system's clock is far away.
    away: bool,
    others: Option<Others>,
    adopted: Option<ClockNotice>,
}

/// Times of other proxies, far from ours and all by the same.
#[derive(Clone, Copy, Debug)]
struct Others {
    offset_ms: i64,
    since: Instant,
    last: Instant,
    times: u32,
}

impl Wall {
    pub(crate) fn new(now: Instant, system_ms: u64) -> Self {
        Self {
            base: (now, system_ms),
            rate: 0,
            started: now,
            slept: None,
            away: false,
            others: None,
            adopted: None,
        }
    }

    /// Milliseconds since 1970. Never goes back, but when a jump back is followed.
    pub(crate) fn at(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.base.0).as_millis() as u64;
        (self.base.1 + passed).saturating_add_signed(passed as i64 * self.rate / 1_000)
    }

    /// What the system's clock says, and for how long the machine has slept since it was booted. To be called about
    /// once a second.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        slept: Duration,
        system_ms: u64,
    ) -> Option<ClockNotice> {
        // The steady clock stands still while the machine sleeps.
        let asleep = slept.saturating_sub(self.slept.replace(slept).unwrap_or(slept));
        self.base = (now, self.at(now) + asleep.as_millis() as u64);
        self.rate = 0;
        let notice = self.adopted.take();
        let away_ms = difference(system_ms, self.base.1);
        if away_ms.unsigned_abs() <= STEP_MS {
            // About a second until the next look: no more than what is missing.
            self.rate = away_ms.clamp(-RATE, RATE);
            let was_away = std::mem::replace(&mut self.away, false);
            return notice.or(was_away.then_some(ClockNotice::Agrees));
        }
        let confirmed = self.others.is_some_and(|others| {
            others.offset_ms.abs_diff(away_ms) <= STEP_MS
                && others.times >= AGREED_TIMES
                && now.saturating_duration_since(others.since) >= AGREED_FOR
                && now.saturating_duration_since(others.last) < AGREED_FOR
        });
        if confirmed {
            self.base.1 = system_ms;
            self.others = None;
            self.away = false;
            return Some(ClockNotice::Followed { by_ms: away_ms });
        }
        let was_away = std::mem::replace(&mut self.away, true);
        notice.or((!was_away).then_some(ClockNotice::Jumped { by_ms: away_ms }))
    }

    /// Another proxy has just written a record at this time of its own.
    pub(crate) fn heard(&mut self, now: Instant, written_ms: u64) {
        let offset_ms = difference(written_ms, self.at(now));
        if offset_ms.unsigned_abs() <= STEP_MS {
            self.others = None;
            return;
        }
        let others = match &mut self.others {
            Some(others) if others.offset_ms.abs_diff(offset_ms) <= STEP_MS => others,
            others => others.insert(Others { offset_ms, since: now, last: now, times: 0 }),
        };
        others.times += 1;
        others.last = now;
        if others.times >= AGREED_TIMES
            && now.saturating_duration_since(others.since) >= MOMENT
            && now.saturating_duration_since(self.started) < YOUNG
        {
            self.base = (now, self.at(now).saturating_add_signed(offset_ms));
            self.rate = 0;
            self.others = None;
            self.adopted = Some(ClockNotice::Adopted { by_ms: offset_ms });
        }
    }
}

fn difference(left: u64, right: u64) -> i64 {
    i64::try_from(left).unwrap_or(i64::MAX) - i64::try_from(right).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH_MS: u64 = 1_700_000_000_000;
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    const AWAKE: Duration = Duration::ZERO;

    #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
    fn start() -> (Instant, Wall) {
        let now = Instant::now();
        (now, Wall::new(now, EPOCH_MS))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn small_differences_are_followed_slowly_and_never_backwards() {
        for away in [-3_000, 3_000] {
            let (begun, mut wall) = start();
            let system = |at: u64| (EPOCH_MS + at * 1_000).saturating_add_signed(away);
            let mut before = EPOCH_MS;
            for at in 0..100 {
                let now = begun + seconds(at);
                assert_eq!(wall.look(now, AWAKE, system(at)), None);
                for ms in [0, 1, 500, 999] {
                    let time = wall.at(now + Duration::from_millis(ms));
                    assert!((before..=before + 600).contains(&time), "{before} {time}");
                    before = time;
                }
            }
            let late = wall.at(begun + seconds(100)).abs_diff(system(100));
            assert!(late <= 50, "still {late} ms away");
        }
    }

    #[test]
    fn a_jump_is_told_and_not_followed() {
        for system in [EPOCH_MS + YEAR_MS, EPOCH_MS - YEAR_MS, 0, u64::MAX] {
            let (begun, mut wall) = start();
            let by_ms = difference(system, EPOCH_MS + 1_000);
            let told = wall.look(begun + seconds(1), AWAKE, system);
            assert_eq!(told, Some(ClockNotice::Jumped { by_ms }));
            for at in 2..100_000 {
                assert_eq!(wall.look(begun + seconds(at), AWAKE, system), None);
                assert_eq!(wall.at(begun + seconds(at)), EPOCH_MS + at * 1_000);
            }
            let repaired = wall.look(begun + seconds(100_000), AWAKE, EPOCH_MS + 100_000_000);
            assert_eq!(repaired, Some(ClockNotice::Agrees));
        }
    }

    #[test]
    fn sleep_is_no_jump() {
        let (begun, mut wall) = start();
        wall.look(begun + seconds(1), seconds(500), EPOCH_MS + 1_000);
        let now = begun + seconds(2);
        assert_eq!(wall.look(now, seconds(7_700), EPOCH_MS + 7_202_000), None);
        assert_eq!(wall.at(now), EPOCH_MS + 7_202_000);
    }

    #[test]
    fn other_proxies_confirm_a_jump() {
        // A virtual machine that stood still for an hour without knowing.
        let (begun, mut wall) = start();
        let system = |at: u64| EPOCH_MS + 3_600_000 + at * 1_000;
        let grown = 600;
        for at in 0..60 {
            wall.heard(begun + seconds(grown + at), system(grown + at) - 200);
            let told = wall.look(begun + seconds(grown + at), AWAKE, system(grown + at));
            assert_eq!(told.is_some(), at == 0, "{told:?}");
        }
        let at = grown + 60;
        wall.heard(begun + seconds(at), system(at) - 200);
        let told = wall.look(begun + seconds(at), AWAKE, system(at));
        assert!(matches!(told, Some(ClockNotice::Followed { .. })), "{told:?}");
        assert_eq!(wall.at(begun + seconds(at)), system(at));
    }

    #[test]
    fn one_proxy_that_agrees_with_us_is_enough_to_stay() {
        let (begun, mut wall) = start();
        let system = |at: u64| EPOCH_MS + YEAR_MS + at * 1_000;
        for at in 100..1_000 {
            let now = begun + seconds(at);
            wall.heard(now, system(at));
            if at % 20 == 0 {
                wall.heard(now, EPOCH_MS + at * 1_000 - 700);
            }
            wall.look(now, AWAKE, system(at));
            assert_eq!(wall.at(now), EPOCH_MS + at * 1_000);
        }
    }

    #[test]
    fn what_has_waited_for_a_process_that_stood_still_is_no_other_time() {
        let (begun, mut wall) = start();
        let now = begun + seconds(40);
        for waited in [30_000, 25_000, 24_000, 23_000, 22_000, 21_000] {
            wall.heard(now, EPOCH_MS + 40_000 - waited);
        }
        wall.heard(now + seconds(3), EPOCH_MS + 43_000);
        assert_eq!(wall.look(now + seconds(4), AWAKE, EPOCH_MS + 44_000), None);
    }

    #[test]
    fn proxies_that_are_wrong_all_by_the_same_come_right_together_only() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let begun = Instant::now();
        let right = |at: u64| EPOCH_MS + at * 1_000;
        let mut walls = [(); 3].map(|()| Wall::new(begun, EPOCH_MS + YEAR_MS));
        let mut run = |at: std::ops::Range<u64>, started: &[usize]| {
            let now = begun + seconds(at.start);
            started.iter().for_each(|index| walls[*index] = Wall::new(now, right(at.start)));
            let end = at.end;
            for at in at {
                let now = begun + seconds(at);
                for writer in 0..walls.len() {
                    let written = walls[writer].at(now);
                    let others = walls.iter_mut().enumerate().filter(|(index, _)| *index != writer);
                    others.for_each(|(_, wall)| wall.heard(now, written));
                }
                walls.iter_mut().for_each(|wall| _ = wall.look(now, AWAKE, right(at)));
            }
            walls.map(|wall| difference(wall.at(begun + seconds(end)), right(end)).unsigned_abs())
        };
        // The clocks were set right at the beginning.
        for (nth, started) in [&[][..], &[0], &[1], &[2]].into_iter().enumerate() {
            let at = nth as u64 * 200;
            let away = run(at..at + 200, started);
            assert!(away.iter().all(|away| *away > YEAR_MS / 2), "{started:?}: {away:?}");
        }
        assert_eq!(run(800..1_000, &[0, 1, 2]), [0; 3]);
    }

    #[test]
    fn a_process_that_starts_with_a_wrong_clock_takes_the_time_of_the_others() {
        let (begun, mut wall) = start();
        let right = |at: u64| EPOCH_MS - YEAR_MS + at * 1_000;
        for at in 1..=3 {
            wall.heard(begun + seconds(at), right(at));
        }
        let told = wall.look(begun + seconds(4), AWAKE, EPOCH_MS + 4_000);
        assert!(matches!(told, Some(ClockNotice::Adopted { .. })), "{told:?}");
        assert_eq!(wall.at(begun + seconds(4)), right(4));
        // A right clock is not led astray later.
        let (begun, mut wall) = start();
        for at in 100..300 {
            wall.heard(begun + seconds(at), right(at));
            assert_eq!(wall.look(begun + seconds(at), AWAKE, EPOCH_MS + at * 1_000), None);
        }
    }
}
