//! What happened to every call and registration of a run: phones write, the report reads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One call, from the first INVITE to the answer of its BYE.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its Call-ID.
    pub id: String,
    pub started: Instant,
    /// How long the callee lets it ring.
    pub ring: Duration,
    /// First answer other than 100.
    pub first_answer: Option<Duration>,
    /// Final answer; includes `ring`.
    pub final_answer: Option<Duration>,
    pub status: u16,
    /// INVITE transactions that reached the callee: more than one is a phone that rings twice.
    pub rings: u32,
    /// Requests that phones sent again, final answers that had to be repeated, requests that arrived again.
    pub retransmissions: u32,
    /// From BYE to its answer.
    pub bye: Option<Duration>,
    /// The BYE was refused or never answered.
    pub bye_failed: bool,
    pub done: bool,
    pub failure: Option<String>,
    /// For how long the phones themselves were not run meanwhile, up to the final answer.
    pub stood_still: Duration,
}

impl Call {
    /// How late the call was answered: the first answer, or the final one without the time that it rang. Without the time
    /// for which the phones stood still: that is not the servers'.
    pub fn answer_delay(&self) -> Option<Duration> {
        let last = self.final_answer?.saturating_sub(self.ring);
        Some(self.first_answer.unwrap_or(last).max(last).saturating_sub(self.stood_still))
    }
}

/// One REGISTER.
#[derive(Clone, Debug)]
pub struct Register {
    pub started: Instant,
    pub status: u16,
    pub answer: Duration,
    pub retransmissions: u32,
    /// The answer listed the phone's own contact, for as long as the latest registration that was answered said.
    pub listed: bool,
    /// REGISTER without Contact.
    pub fetch: bool,
    /// The answer said when to try again.
    pub retry_after: bool,
}

#[derive(Debug, Default)]
struct State {
    calls: HashMap<String, Call>,
    registers: Vec<Register>,
    registers_open: usize,
    /// From when to when the phones were not run although something was due.
    still: Vec<(Instant, Instant)>,
}

/// Shared by all phones of a run.
#[derive(Debug, Default)]
pub struct Board(Mutex<State>);

impl Board {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A poisoned lock means that a phone panicked: the run has failed anyway.
        self.0.lock().expect("no phone panicked")
    }

    pub fn call_started(&self, call_id: &str, started: Instant, ring: Duration) {
        let call = Call {
            id: call_id.to_owned(),
            started,
            ring,
            first_answer: None,
            final_answer: None,
            status: 0,
            rings: 0,
            retransmissions: 0,
            bye: None,
            bye_failed: false,
            done: false,
            failure: None,
            stood_still: Duration::ZERO,
        };
        self.state().calls.insert(call_id.to_owned(), call);
    }

    /// Changes a call's record; calls of other tools are ignored.
    pub fn call(&self, call_id: &str, change: impl FnOnce(&mut Call)) {
        if let Some(call) = self.state().calls.get_mut(call_id) {
            change(call);
        }
    }

    pub fn fail(&self, call_id: &str, why: impl Into<String>) {
        self.call(call_id, |call| {
            call.failure.get_or_insert(why.into());
            call.done = true;
        });
    }

    /// The call has failed with its BYE.
    pub fn fail_bye(&self, call_id: &str, why: impl Into<String>) {
        self.call(call_id, |call| call.bye_failed = true);
        self.fail(call_id, why);
    }

    /// How long the callee lets this call ring; `None` for calls that this run did not place.
    pub fn ring(&self, call_id: &str) -> Option<Duration> {
        self.state().calls.get(call_id).map(|call| call.ring)
    }

    /// Counted when it is asked for, before the phone sends it.
    pub fn register_started(&self) {
        self.state().registers_open += 1;
    }

    /// The phone is gone, or still waits for an answer: none will come.
    pub fn register_impossible(&self) {
        self.state().registers_open -= 1;
    }

    pub fn register_done(&self, register: Register) {
        let mut state = self.state();
        state.registers_open -= 1;
        state.registers.push(register);
    }

    pub fn open(&self) -> (usize, usize) {
        let state = self.state();
        (state.registers_open, state.calls.values().filter(|call| !call.done).count())
    }

    /// The phones were not run from when to when.
    pub fn stood_still(&self, from: Instant, until: Instant) {
        self.state().still.push((from, until));
    }

    /// The longest time since `start` for which the phones were not run.
    pub fn longest_still(&self, start: Instant) -> Duration {
        let state = self.state();
        let since = state.still.iter().filter(|(from, _)| *from >= start);
        since.map(|(from, until)| *until - *from).max().unwrap_or_default()
    }

    pub fn calls(&self) -> Vec<Call> {
        let state = self.state();
        let mut calls: Vec<_> = state.calls.values().cloned().collect();
        for call in &mut calls {
            let end = call.started + call.final_answer.unwrap_or_default();
            let overlap = |(from, until): &(Instant, Instant)| {
                end.min(*until).saturating_duration_since(call.started.max(*from))
            };
            call.stood_still = state.still.iter().map(overlap).sum();
        }
        drop(state);
        calls.sort_by_key(|call| call.started);
        calls
    }

    pub fn registers(&self) -> Vec<Register> {
        self.state().registers.clone()
    }
}
