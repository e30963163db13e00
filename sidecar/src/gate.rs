//! Whether an element may be registered: only while a check younger than [`MAX_AGE`] succeeded.
//!
//! A check is as old as its start. Evidence against the server (connection refused, wrong answer) closes the gate at
//! once; silence closes it when the last success has become too old. Time in which the sidecar itself was not running
//! (starved, stopped, suspended) says nothing about the server and is not counted against it.

use std::time::{Duration, Instant};

/// How old a successful check may be.
pub const MAX_AGE: Duration = Duration::from_millis(500);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The server serves.
    Healthy,
    /// The server does not serve: evidence.
    Failed(String),
    /// No answer in time.
    Silent,
}

/// The gate; closed at first.
#[derive(Debug, Default)]
pub struct Gate {
    fresh_until: Option<Instant>,
    /// When the sidecar last noticed that it had not been running.
    resumed: Option<Instant>,
}

impl Gate {
    /// Whether the element may be registered, as of the last input.
    pub fn is_open(&self) -> bool {
        self.fresh_until.is_some()
    }

    /// A check that began at `started` has ended. Returns why the gate closed, if it did.
    pub fn handle_finding(&mut self, started: Instant, finding: Finding) -> Option<String> {
        match finding {
            Finding::Healthy => {
                let fresh_until = started + MAX_AGE;
                self.fresh_until =
                    Some(self.fresh_until.map_or(fresh_until, |until| until.max(fresh_until)));
                None
            }
            // A check that was under way while nothing ran proves nothing by having failed.
            Finding::Failed(_) if self.resumed.is_some_and(|resumed| started < resumed) => None,
            Finding::Failed(reason) => self.fresh_until.take().map(|_| reason),
            Finding::Silent => None,
        }
    }

    /// The sidecar did not run for `pause` and noticed at `now`.
    pub fn handle_pause(&mut self, now: Instant, pause: Duration) {
        self.resumed = Some(now);
        self.handle_lateness(pause);
    }

    /// The sidecar ran, but so much later than it wanted to: on a busy machine its server waits likewise.
    pub fn handle_lateness(&mut self, late: Duration) {
        if let Some(until) = &mut self.fresh_until {
            *until += late;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.fresh_until
    }

    /// Time has passed. Returns why the gate closed, if it did.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<String> {
        self.fresh_until
            .take_if(|until| *until <= now)
            .map(|_| "no check succeeded in time".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to begin with")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn silence_closes_it_when_the_last_success_is_too_old() {
        let t = start();
        let mut gate = Gate::default();
        assert!(!gate.is_open());
        gate.handle_finding(t, Finding::Healthy);
        assert!(gate.is_open());
        assert_eq!(gate.handle_finding(t + ms(200), Finding::Silent), None);
        assert_eq!(gate.handle_timeout(t + ms(499)), None);
        assert_eq!(gate.next_deadline(), Some(t + ms(500)));
        assert!(gate.handle_timeout(t + ms(500)).is_some());
        assert!(!gate.is_open() && gate.next_deadline().is_none());
        gate.handle_finding(t + ms(600), Finding::Healthy);
        assert!(gate.is_open());
    }

    #[test]
    fn evidence_closes_it_at_once() {
        let t = start();
        let mut gate = Gate::default();
        gate.handle_finding(t, Finding::Healthy);
        let closed = gate.handle_finding(t + ms(200), Finding::Failed("connection refused".into()));
        assert_eq!(closed.as_deref(), Some("connection refused"));
        assert_eq!(gate.handle_finding(t + ms(400), Finding::Failed("again".into())), None);
        assert!(!gate.is_open());
    }

    #[test]
    fn ones_own_pause_is_not_held_against_the_server() {
        let t = start();
        let mut gate = Gate::default();
        gate.handle_finding(t, Finding::Healthy);
        gate.handle_pause(t + ms(1100), ms(1000));
        assert_eq!(gate.handle_timeout(t + ms(1100)), None);
        assert_eq!(
            gate.handle_finding(t + ms(50), Finding::Failed("began before the pause".into())),
            None
        );
        assert!(gate.is_open());
        assert!(gate.handle_timeout(t + ms(1500)).is_some());
        // A server that was removed is not brought back by a pause.
        gate.handle_pause(t + ms(3000), ms(1000));
        assert!(!gate.is_open());
    }

    #[test]
    fn a_busy_machine_stretches_time_and_hides_no_evidence() {
        let t = start();
        let mut gate = Gate::default();
        gate.handle_finding(t, Finding::Healthy);
        gate.handle_lateness(ms(60));
        gate.handle_lateness(ms(40));
        assert_eq!(gate.next_deadline(), Some(t + ms(600)));
        let refused = Finding::Failed("connection refused".into());
        assert!(gate.handle_finding(t + ms(10), refused).is_some());
    }

    #[test]
    fn an_older_success_does_not_shorten_a_newer_one() {
        let t = start();
        let mut gate = Gate::default();
        gate.handle_finding(t + ms(100), Finding::Healthy);
        gate.handle_finding(t, Finding::Healthy);
        assert_eq!(gate.next_deadline(), Some(t + ms(600)));
    }
}
