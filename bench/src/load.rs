//! A load run: many phones register and call each other at a given rate; the [`Report`] says what they saw.
//!
//! Tasks: one per phone (see [`crate::phone`]); the caller's own task paces registrations and calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::board::{Board, Call, Register};
use crate::media::{Calls, MediaConfig, MediaReport};
use crate::phone::{Command, Phone, PhoneConfig, Transport};
use crate::stats::{Series, Summary};

/// A run's phones and rates.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    pub domain: String,
    /// Address that phones bind.
    pub source: IpAddr,
    pub transport: Transport,
    /// Gateway at which callees register.
    pub callee_gateway: SocketAddr,
    /// Gateway through which callers call.
    pub caller_gateway: SocketAddr,
    pub callees: usize,
    pub callers: usize,
    /// Prefix of user names, so that runs do not meet.
    pub prefix: String,
    /// REGISTER expiry in seconds.
    pub expires: u32,
    pub seed: u64,
    /// Of all users; without it a challenge is a failure.
    pub password: Option<String>,
}

/// How calls are placed.
#[derive(Clone, Debug)]
pub struct CallPlan {
    /// Calls per second.
    pub rate: f64,
    pub duration: Duration,
    /// One of these is drawn for each call.
    pub holds: Vec<Duration>,
    /// Share of the calls that ring for `ring` before they are answered.
    pub ring_share: f64,
    pub ring: Duration,
    /// REGISTERs per second meanwhile.
    pub reregister: f64,
}

/// What the phones of a run saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub registers: usize,
    pub registers_failed: usize,
    /// Milliseconds from REGISTER to its answer.
    pub register_ms: Summary,
    pub calls: usize,
    pub calls_failed: usize,
    /// What failed, with the number of calls each.
    pub failures: Vec<(String, usize)>,
    /// Milliseconds from INVITE to its first answer other than 100, or to its final answer without the ringing time,
    /// whichever is longer.
    pub answer_ms: Summary,
    /// Milliseconds from BYE to its answer.
    pub bye_ms: Summary,
    pub byes_failed: usize,
    pub rang_twice: usize,
    pub retransmissions: u32,
    /// Callees whose registration was acknowledged and is not found any more.
    pub bindings_lost: usize,
    /// Phones whose socket or connection ended.
    pub phones_lost: usize,
    /// Of calls with audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaReport>,
}

impl Report {
    /// True when nothing failed, was sent again, rang twice or got lost, audio included.
    pub fn is_clean(&self) -> bool {
        let Self {
            registers_failed,
            calls_failed,
            rang_twice,
            retransmissions,
            bindings_lost,
            phones_lost,
            ..
        } = self;
        [*registers_failed, *calls_failed, *rang_twice, *bindings_lost, *phones_lost] == [0; 5]
            && *retransmissions == 0
            && self.media.as_ref().is_none_or(MediaReport::is_clean)
    }

    /// The report as lines for people.
    pub fn table(&self) -> String {
        let line = |name: &str, s: &Summary| {
            format!(
                "{name:<22}{:>9}{:>10.1}{:>10.1}{:>10.1}{:>10.1}\n",
                s.count, s.p50, s.p99, s.p999, s.max
            )
        };
        let mut text = format!(
            "{:<22}{:>9}{:>10}{:>10}{:>10}{:>10}\n",
            "ms", "count", "p50", "p99", "p99.9", "worst"
        );
        text += &line("REGISTER", &self.register_ms);
        text += &line("INVITE answered", &self.answer_ms);
        text += &line("BYE", &self.bye_ms);
        text += &format!(
            "REGISTER failed {}, calls failed {}, rang twice {}, retransmissions {}, bindings lost {}, phones lost {}\n",
            self.registers_failed,
            self.calls_failed,
            self.rang_twice,
            self.retransmissions,
            self.bindings_lost,
            self.phones_lost,
        );
        for (failure, count) in &self.failures {
            text += &format!("  {count:>6} x {failure}\n");
        }
        text + &self.media.as_ref().map(MediaReport::table).unwrap_or_default()
    }
}

/// Phones that are open and may be told what to do.
#[derive(Debug)]
pub struct Load {
    config: LoadConfig,
    board: Arc<Board>,
    media: Option<Arc<Calls>>,
    callees: Vec<UnboundedSender<Command>>,
    callers: Vec<UnboundedSender<Command>>,
    phones: JoinSet<io::Result<()>>,
    rng: fastrand::Rng,
    /// Calls so far.
    placed: usize,
    /// Registrations beside calls so far.
    reregistered: usize,
    bindings_lost: usize,
}

#[expect(clippy::disallowed_methods, reason = "phones live in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Load {
    /// Opens all phones.
    pub async fn open(config: LoadConfig) -> io::Result<Self> {
        Self::open_all(config, None).await
    }

    /// Opens all phones; their calls have audio.
    pub async fn open_with_media(config: LoadConfig, media: &MediaConfig) -> io::Result<Self> {
        let media = Calls::start(media)?;
        Self::open_all(config, Some(Arc::new(media))).await
    }

    async fn open_all(config: LoadConfig, media: Option<Arc<Calls>>) -> io::Result<Self> {
        raise_descriptor_limit();
        let mut load = Self {
            board: Arc::default(),
            media,
            callees: Vec::new(),
            callers: Vec::new(),
            phones: JoinSet::new(),
            rng: fastrand::Rng::with_seed(config.seed),
            placed: 0,
            reregistered: 0,
            bindings_lost: 0,
            config,
        };
        tokio::spawn(watch_the_clock(Arc::downgrade(&load.board)));
        for n in 0..load.config.callees {
            let phone = load
                .phone(format!("{}{n}", load.config.prefix), load.config.callee_gateway)
                .await?;
            load.callees.push(phone);
        }
        for n in 0..load.config.callers {
            let phone = load
                .phone(format!("{}caller{n}", load.config.prefix), load.config.caller_gateway)
                .await?;
            load.callers.push(phone);
        }
        Ok(load)
    }

    async fn phone(
        &mut self,
        user: String,
        gateway: SocketAddr,
    ) -> io::Result<UnboundedSender<Command>> {
        let LoadConfig { domain, transport, source, password, .. } = self.config.clone();
        let config = PhoneConfig { user, domain, gateway, transport, source, password };
        let phone = Phone::open(config, self.board.clone(), self.media.clone()).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.phones.spawn(phone.run(receiver));
        Ok(sender)
    }

    /// What has happened so far.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The audio of the calls, if they have any.
    pub fn media(&self) -> Option<&Arc<Calls>> {
        self.media.as_ref()
    }

    /// Every callee sends one REGISTER, `rate` per second, over and over for `duration` (once for `None`); waits for the
    /// answers. Returns how long it took until the last one was asked for.
    pub async fn register(&self, rate: f64, duration: Option<Duration>) -> Duration {
        let begun = now();
        let mut ticks = ticks(rate);
        let end = duration.map(|duration| now() + duration);
        'rounds: loop {
            for callee in 0..self.callees.len() {
                ticks.tick().await;
                if end.is_some_and(|end| now() >= end) {
                    break 'rounds;
                }
                self.ask(callee, Command::Register { expires: self.config.expires });
            }
            if end.is_none() {
                break;
            }
        }
        let asked = now() - begun;
        self.settle().await;
        asked
    }

    /// A callee sends a REGISTER.
    fn ask(&self, callee: usize, command: Command) {
        self.board.register_started();
        if self.callees[callee].send(command).is_err() {
            self.board.register_impossible();
        }
    }

    /// Callers call random callees by the plan; returns when the last INVITE has left.
    pub async fn call(&mut self, plan: &CallPlan) {
        let end = now() + plan.duration;
        self.call_while(plan, || now() < end).await;
    }

    /// As [`Self::call`], for as long as `go_on` says. Meanwhile callees register again in turn at the plan's rate,
    /// those left out that wait for an answer.
    pub async fn call_while(&mut self, plan: &CallPlan, mut go_on: impl FnMut() -> bool) {
        let mut calls = ticks(plan.rate);
        let mut registers = ticks(if plan.reregister > 0.0 { plan.reregister } else { 1.0 });
        while go_on() {
            tokio::select! {
                _ = calls.tick() => self.place_call(plan),
                _ = registers.tick(), if plan.reregister > 0.0 => {
                    let callee = self.reregistered % self.callees.len();
                    self.reregistered += 1;
                    self.ask(callee, Command::Register { expires: self.config.expires });
                }
            }
        }
    }

    fn place_call(&mut self, plan: &CallPlan) {
        let to = format!("{}{}", self.config.prefix, self.rng.usize(..self.config.callees));
        let ring = if self.rng.f64() < plan.ring_share { plan.ring } else { Duration::ZERO };
        let hold = plan.holds[self.rng.usize(..plan.holds.len())];
        let n = self.placed;
        self.placed += 1;
        let call_id = format!("{}-{n}-{:x}", self.config.prefix, self.rng.u64(..));
        self.board.call_started(&call_id, now(), ring);
        let caller = &self.callers[n % self.callers.len()];
        if caller.send(Command::Call { call_id: call_id.clone(), to, hold }).is_err() {
            self.board.fail(&call_id, "the caller's socket or connection ended");
        }
    }

    /// Waits until no request waits for an answer, at most as long as a phone waits.
    pub async fn settle(&self) {
        let deadline = now() + Duration::from_secs(75);
        while self.board.open() != (0, 0) && now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads every callee's bindings back; those that are missing count as lost.
    pub async fn verify(&mut self, rate: f64) {
        let before = self.board.registers().len();
        let mut ticks = ticks(rate);
        for callee in 0..self.callees.len() {
            ticks.tick().await;
            self.ask(callee, Command::Fetch);
        }
        self.settle().await;
        let answers = self.board.registers().split_off(before);
        let listed = answers.iter().filter(|answer| answer.fetch && answer.listed).count();
        self.bindings_lost = self.callees.len().saturating_sub(listed);
    }

    /// Callees whose acknowledged registration [`Self::verify`] did not find.
    pub fn bindings_lost(&self) -> usize {
        self.bindings_lost
    }

    /// Everything so far, summed up.
    pub fn report(&mut self) -> Report {
        let mut phones_lost = 0;
        while self.phones.try_join_next().is_some() {
            phones_lost += 1;
        }
        let mut report = summarise(&self.board.calls(), &self.board.registers());
        report.bindings_lost = self.bindings_lost;
        report.phones_lost = phones_lost;
        report.media = self.media.as_ref().map(|media| media.report());
        report
    }
}

/// Sums up calls and registrations; `bindings_lost`, `phones_lost` and `media` are for the caller to fill in.
pub fn summarise(calls: &[Call], registers: &[Register]) -> Report {
    let mut failures = std::collections::BTreeMap::<String, usize>::new();
    for call in calls {
        let failure =
            call.failure.clone().or_else(|| (!call.done).then(|| "never ended".to_owned()));
        if let Some(failure) = failure {
            *failures.entry(failure).or_default() += 1;
        }
    }
    let failed_registers = registers.iter().filter(|register| register.status != 200);
    for register in failed_registers.clone() {
        *failures.entry(format!("REGISTER answered {}", register.status)).or_default() += 1;
    }
    Report {
        registers: registers.len(),
        registers_failed: failed_registers.count(),
        register_ms: registers.iter().map(|register| register.answer).collect::<Series>().summary(),
        calls: calls.len(),
        calls_failed: calls.iter().filter(|call| call.failure.is_some() || !call.done).count(),
        failures: failures.into_iter().collect(),
        answer_ms: calls.iter().filter_map(Call::answer_delay).collect::<Series>().summary(),
        bye_ms: calls.iter().filter_map(|call| call.bye).collect::<Series>().summary(),
        byes_failed: calls.iter().filter(|call| call.bye_failed).count(),
        rang_twice: calls.iter().filter(|call| call.rings > 1).count(),
        retransmissions: calls.iter().map(|call| call.retransmissions).sum::<u32>()
            + registers.iter().map(|register| register.retransmissions).sum::<u32>(),
        bindings_lost: 0,
        phones_lost: 0,
        media: None,
    }
}

/// How often the clock is looked at, and what is more than usual.
const LOOK: Duration = Duration::from_millis(5);
const STILL: Duration = Duration::from_millis(15);

/// Notes when the phones were not run: on a busy machine they wait like everybody else, and measure themselves.
async fn watch_the_clock(board: Weak<Board>) {
    let mut before = now();
    while let Some(board) = board.upgrade() {
        let after = now();
        if after - before > LOOK + STILL {
            board.stood_still(before + LOOK, after);
        }
        before = after;
        drop(board);
        tokio::time::sleep(LOOK).await;
    }
}

fn ticks(rate: f64) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// A socket per phone: as many descriptors as the system lets us have.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
