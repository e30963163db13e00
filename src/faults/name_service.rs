//! `dialtone faults name-service`: three registrars, ten sidecars with a server each; elements and registrars are
//! killed, frozen, thawed and starved, and every registrar is watched over ASAP and through its admin JSON.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use dialtone_daemon::exit;
use dialtone_handlespace::Handle;
use tokio::runtime::Runtime;

use super::{
    observe::{Observer, Seen},
    table::{Effect, Row, TOLERANCE, json, table},
    traffic::Traffic,
};
use crate::launcher::{self, Launcher, Layout, Sidecar, Signal, clock};

const POOL: &str = "echo";
const REGISTRARS: u8 = 3;
const SIDECARS: u8 = 10;

/// So many elements suffer in one round.
const VICTIMS: usize = 3;

/// Identifiers of elements: this and the number of the sidecar.
const IDS: u32 = 0x0e1e_0000;

/// Bounds: what users of the name service may rely on.
const GONE_UNDER_TRAFFIC: Duration = Duration::from_secs(1);
const GONE_IDLE: Duration = Duration::from_secs(2);
const GONE_WITHOUT_EVIDENCE: Duration = Duration::from_secs(3);
/// A sidecar has a check of at most 500 ms age, and tells its registrar.
const GONE_BY_CHECK: Duration = Duration::from_secs(1);
const BACK: Duration = Duration::from_secs(2);
const HOMES_WITH_EVIDENCE: Duration = Duration::from_secs(3);
const HOMES_WITHOUT_EVIDENCE: Duration = Duration::from_secs(6);
/// Who was taken for dead learns what has happened, and some elements prefer to stay with it.
const AGREED: Duration = Duration::from_secs(6);

/// There and back again, twice, is no fight: a registrar that goes on reads what was sent to it before it was given up,
/// and tells its peers what it believes to own.
const MOVES: u32 = 4;

/// So long everything stands still when it is starved.
const STARVED: Duration = Duration::from_secs(1);

/// Longer than it takes to remove whoever does not answer.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// How long everything may take to be as it was, between two faults.
const SETTLE: Duration = Duration::from_secs(30);

/// How often counts that say nothing are taken again.
const TRIES: u32 = 5;

/// A machine that lets this program wait so long also lets servers wait, and what is counted then says nothing.
const BUSY: Duration = Duration::from_millis(150);

/// How often the observers are asked.
const LOOK: Duration = Duration::from_millis(5);

/// Kill, freeze and starve pool elements and registrars; measure when the name service has dealt with it
///
/// Three registrars and ten sidecars run as processes in a loopback slice of their own. Each fault is inflicted in
/// every round: on three elements at once, or on one registrar. A time counts until all registrars that run agree,
/// to their subscribers and in their admin JSON. Exit code 1 when something is more than three times its bound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds per fault
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seed of who suffers and when [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Per fault.
    pub rounds: u32,
    /// Of who suffers and when.
    pub seed: u64,
}

/// The measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error("cannot observe: {0}")]
    Observe(#[from] io::Error),
    #[error("not as it should be within {} s: {what}; logs are in {}", SETTLE.as_secs(), folder.display())]
    Unsettled { what: String, folder: PathBuf },
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan { rounds: args.rounds, seed: args.seed.unwrap_or_else(|| fastrand::u64(..)) };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, plan, |line| eprintln!("{line}")));
    match measured {
        Ok(rows) => {
            print!("{}", if args.json { json(&rows) + "\n" } else { table(&rows) });
            ExitCode::from(u8::from(rows.iter().any(Row::broken)))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// Inflicts every fault, `plan.rounds` times each, on processes of `binary`. `progress` receives a line at a time.
///
/// # Errors
/// When a process cannot be started, or everything is not as it was a while after a fault.
pub fn measure(binary: &Path, plan: Plan, progress: impl FnMut(&str)) -> Result<Vec<Row>, Error> {
    let mut lab = Lab::start(binary, plan, progress)?;
    let mut rows = Vec::new();
    rows.push(lab.kill_sidecars("element killed, idle", GONE_IDLE, false)?);
    rows.push(lab.kill_sidecars("element killed, in use", GONE_UNDER_TRAFFIC, true)?);
    rows.extend(lab.freeze_sidecars()?);
    rows.extend(lab.freeze_servers()?);
    rows.extend(lab.kill_registrars()?);
    rows.extend(lab.freeze_registrars()?);
    rows.push(lab.starve("all starved for 1 s: elements removed", true)?);
    rows.push(lab.starve("registrar starved for 1 s: elements removed", false)?);
    if rows.iter().any(Row::broken) {
        let folder = lab.launcher.keep_folder().display().to_string();
        lab.say(&format!("a bound is broken; logs are in {folder}"));
    }
    Ok(rows)
}

/// The processes and those who watch them.
struct Lab<P> {
    // Dropped first: who observes does not wait for those who have gone.
    observers: BTreeMap<u8, Observer>,
    runtime: Runtime,
    launcher: Launcher,
    pool: Handle,
    rng: fastrand::Rng,
    rounds: u32,
    /// The longest time for which this program was not run, since somebody began to look at that.
    late: Duration,
    progress: P,
}

impl<P: FnMut(&str)> Lab<P> {
    fn start(binary: &Path, plan: Plan, progress: P) -> Result<Self, Error> {
        let layout = Layout { registrars: REGISTRARS, ..Layout::default() };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let pool = Handle::new(POOL.as_bytes()).map_err(io::Error::other)?;
        let mut lab = Self {
            observers: BTreeMap::new(),
            runtime,
            launcher: Launcher::for_test(binary, layout)?,
            pool,
            rng: fastrand::Rng::with_seed(plan.seed),
            rounds: plan.rounds,
            late: Duration::ZERO,
            progress,
        };
        let slice = lab.launcher.slice().to_string();
        lab.say(&format!(
            "seed {}: starting {REGISTRARS} registrars and {SIDECARS} sidecars in {slice}",
            plan.seed
        ));
        for n in 1..=REGISTRARS {
            lab.launcher.spawn_registrar(n)?;
        }
        for n in 1..=REGISTRARS {
            lab.launcher.wait_ready(&registrar(n))?;
        }
        for n in 1..=SIDECARS {
            let address = format!("{}:7000", lab.launcher.slice().host(60 + n));
            let command = ["faults", "echo-server", &address].map(Into::into);
            lab.launcher.spawn_sidecar(&Sidecar {
                name: sidecar(n),
                pool: POOL.to_owned(),
                transport: format!("tcp:{address}"),
                options: vec!["--check=tcp".to_owned(), format!("--pe-id={:#x}", element(n))],
                command: [binary.into()].into_iter().chain(command).collect(),
            })?;
        }
        for n in 1..=SIDECARS {
            lab.launcher.wait_ready(&sidecar(n))?;
        }
        for n in 1..=REGISTRARS {
            lab.observe(n)?;
        }
        lab.settle()?;
        Ok(lab)
    }

    fn say(&mut self, line: &str) {
        (self.progress)(line);
    }

    /// Watches a registrar from now on, and no more as it was before.
    fn observe(&mut self, n: u8) -> Result<(), Error> {
        let admin = self.launcher.addresses(&registrar(n))?.remove("admin").unwrap_or_default();
        let slice = self.launcher.slice();
        let (own, registrar) = (slice.host(200 + n), slice.host(n));
        let observer = Observer::start(&self.runtime, own, registrar, admin, &self.pool);
        self.observers.insert(n, observer);
        Ok(())
    }

    fn seen(&self) -> Vec<Seen> {
        self.observers.values().map(Observer::seen).collect()
    }

    /// Waits until all registrars tell all the same, and that is everything.
    fn settle(&mut self) -> Result<(), Error> {
        let deadline = clock() + SETTLE;
        loop {
            let seen = self.seen();
            let complete = seen.iter().all(|seen| elements().all(|id| seen.everywhere(id)));
            if complete && equal(&seen) && self.peers_active() {
                return Ok(());
            }
            if clock() >= deadline {
                let what = format!("{seen:#?}");
                let folder = self.launcher.keep_folder().to_owned();
                return Err(Error::Unsettled { what, folder });
            }
            sleep(LOOK * 4);
        }
    }

    fn peers_active(&mut self) -> bool {
        (1..=REGISTRARS).all(|n| {
            self.launcher.status(&registrar(n)).is_some_and(|status| {
                let active = status.peers.iter().filter(|peer| peer.status == "active");
                active.count() == usize::from(REGISTRARS) - 1
            })
        })
    }

    /// Lets a moment pass, and notes how long it really was.
    fn nap(&mut self) {
        let since = clock();
        sleep(LOOK);
        self.late = self.late.max(since.elapsed().saturating_sub(LOOK));
    }

    /// Whether a count is to be taken again, since the machine was too busy for everybody.
    fn is_void(&mut self, round: u32, count: u32, tries: &mut u32) -> bool {
        let void = count > 0 && self.late > BUSY && *tries > 0;
        if void {
            *tries -= 1;
            let late = self.late.as_millis();
            self.say(&format!(
                "  round {round}: once more: nothing ran for {late} ms on this busy machine"
            ));
        }
        void
    }

    /// Keep-alives, presences and checks stand anywhere in their periods when a fault comes.
    fn pause(&mut self) {
        sleep(Duration::from_secs(1).mul_f64(self.rng.f64()));
    }

    fn choose_sidecars(&mut self) -> Vec<u8> {
        self.rng.choose_multiple(1..=SIDECARS, VICTIMS)
    }

    /// The registrar that is home to most elements, its identifier, and all the others.
    fn choose_registrar(&mut self) -> Result<(u8, String), Error> {
        let mut most = (1, String::new(), 0);
        let seen = self.seen();
        for n in 1..=REGISTRARS {
            let Some(status) = self.launcher.status(&registrar(n)) else { continue };
            let owned = seen[usize::from(n) - 1].homes.values();
            let owned = owned.filter(|home| **home == status.server_id).count();
            if owned >= most.2 {
                most = (n, status.server_id, owned);
            }
        }
        let (n, id, owned) = most;
        if owned == 0 {
            let folder = self.launcher.keep_folder().to_owned();
            return Err(Error::Unsettled { what: "no registrar owns elements".to_owned(), folder });
        }
        Ok((n, id))
    }

    /// How long it took since the moments given until `is_true` for each element; at most `TOLERANCE` times the bound
    /// and a second.
    fn times(
        &mut self,
        since: &[(u8, Instant)],
        bound: Duration,
        is_true: impl Fn(&[Seen], u32) -> bool,
    ) -> Vec<Duration> {
        let deadline = clock() + bound * TOLERANCE + Duration::from_secs(1);
        let mut times: Vec<Option<Duration>> = vec![None; since.len()];
        loop {
            let (seen, now) = (self.seen(), clock());
            for ((n, since), time) in since.iter().zip(&mut times) {
                if time.is_none() && (is_true(&seen, element(*n)) || now >= deadline) {
                    *time = Some(now - *since);
                }
            }
            if let Some(times) = times.iter().copied().collect() {
                return times;
            }
            self.nap();
        }
    }

    fn gone(&mut self, since: &[(u8, Instant)], bound: Duration) -> Vec<Duration> {
        self.times(since, bound, |seen, id| !seen.iter().any(|seen| seen.anywhere(id)))
    }

    fn back(&mut self, since: &[(u8, Instant)]) -> Vec<Duration> {
        self.times(since, BACK, |seen, id| seen.iter().all(|seen| seen.everywhere(id)))
    }

    fn kill_sidecars(&mut self, fault: &str, bound: Duration, busy: bool) -> Result<Row, Error> {
        let mut samples = Vec::new();
        for round in 1..=self.rounds {
            self.settle()?;
            let traffic = busy.then(|| self.traffic());
            if let Some(traffic) = &traffic {
                let flows = || (traffic.served() > 100).then_some(());
                launcher::wait_for(SETTLE, flows);
            }
            self.pause();
            let mut since = Vec::new();
            for n in self.choose_sidecars() {
                self.launcher.kill(&sidecar(n), Signal::SIGKILL)?;
                since.push((n, clock()));
            }
            let times = self.gone(&since, bound);
            drop(traffic);
            self.report(round, &format!("{fault}: gone after"), &times);
            samples.extend(times);
            for (n, _) in &since {
                self.launcher.respawn(&sidecar(*n))?;
            }
            for (n, _) in &since {
                self.launcher.wait_ready(&sidecar(*n))?;
            }
        }
        Ok(timed(fault, bound, samples))
    }

    fn traffic(&self) -> Traffic {
        let slice = self.launcher.slice();
        let registrars: Vec<IpAddr> = (1..=REGISTRARS).map(|n| slice.host(n)).collect();
        Traffic::start(&self.runtime, slice.host(200), &registrars, &self.pool)
    }

    fn freeze_sidecars(&mut self) -> Result<[Row; 2], Error> {
        self.freeze("sidecar", GONE_WITHOUT_EVIDENCE, |launcher, n, signal| {
            launcher.kill(&sidecar(n), signal)
        })
    }

    fn freeze_servers(&mut self) -> Result<[Row; 2], Error> {
        self.freeze("server of a sidecar", GONE_BY_CHECK, |launcher, n, signal| {
            // Sidecar, keeper, server.
            if let Some(server) = launcher.process(&sidecar(n))?.descendants().last() {
                let _ = nix::sys::signal::kill(*server, signal);
            }
            Ok(())
        })
    }

    fn freeze(
        &mut self,
        what: &str,
        bound: Duration,
        signal: impl Fn(&mut Launcher, u8, Signal) -> Result<(), launcher::Error>,
    ) -> Result<[Row; 2], Error> {
        let (frozen, thawed) = (format!("{what} frozen"), format!("{what} thawed: in use again"));
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            self.settle()?;
            self.pause();
            let victims = self.choose_sidecars();
            let mut since = Vec::new();
            for n in &victims {
                signal(&mut self.launcher, *n, Signal::SIGSTOP)?;
                since.push((*n, clock()));
            }
            let times = self.gone(&since, bound);
            self.report(round, &format!("{frozen}: gone after"), &times);
            out.extend(times);
            since.clear();
            for n in &victims {
                signal(&mut self.launcher, *n, Signal::SIGCONT)?;
                since.push((*n, clock()));
            }
            let times = self.back(&since);
            self.report(round, &format!("{thawed} after"), &times);
            back.extend(times);
        }
        Ok([timed(&frozen, bound, out), timed(&thawed, BACK, back)])
    }

    fn kill_registrars(&mut self) -> Result<[Row; 2], Error> {
        let fault = "registrar killed: elements have a new home";
        let (mut times, mut losses) = (Vec::new(), Vec::new());
        let (mut round, mut tries) = (1, TRIES);
        while round <= self.rounds {
            self.settle()?;
            self.pause();
            let (victim, id) = self.choose_registrar()?;
            let before = self.losses(Some(victim));
            self.late = Duration::ZERO;
            self.launcher.kill(&registrar(victim), Signal::SIGKILL)?;
            let time = self.homes_moved(victim, &id, HOMES_WITH_EVIDENCE);
            self.report(round, &format!("{fault} after"), &[time]);
            let lost = self.losses(Some(victim)) - before;
            self.observers.remove(&victim);
            self.launcher.restart(&registrar(victim))?;
            self.observe(victim)?;
            if self.is_void(round, lost, &mut tries) {
                continue;
            }
            times.push(time);
            losses.push(lost);
            round += 1;
        }
        let lost = counted("registrar killed: elements removed meanwhile", losses);
        Ok([timed(fault, HOMES_WITH_EVIDENCE, times), lost])
    }

    fn freeze_registrars(&mut self) -> Result<[Row; 3], Error> {
        let frozen = "registrar frozen: elements have a new home";
        let thawed = "registrar thawed: all registrars agree for good";
        let fights = "registrar thawed: moves of the element that moves most";
        let (mut moved, mut agreed, mut most_moved) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            self.settle()?;
            self.pause();
            let (victim, id) = self.choose_registrar()?;
            self.launcher.kill(&registrar(victim), Signal::SIGSTOP)?;
            let time = self.homes_moved(victim, &id, HOMES_WITHOUT_EVIDENCE);
            self.report(round, &format!("{frozen} after"), &[time]);
            moved.push(time);
            self.pause();
            self.launcher.kill(&registrar(victim), Signal::SIGCONT)?;
            let (time, moves) = self.agreed(victim);
            self.report(round, &format!("{thawed} after"), &[time]);
            self.say(&format!("  round {round}: {fights}: {moves}"));
            agreed.push(time);
            most_moved.push(moves);
        }
        Ok([
            timed(frozen, HOMES_WITHOUT_EVIDENCE, moved),
            timed(thawed, AGREED, agreed),
            Row {
                fault: fights.to_owned(),
                effect: Effect::Count { bound: MOVES, samples: most_moved },
            },
        ])
    }

    /// How long until the other registrars have all elements, and none at this one.
    fn homes_moved(&mut self, victim: u8, id: &str, bound: Duration) -> Duration {
        let since = clock();
        let limit = bound * TOLERANCE + Duration::from_secs(1);
        let others: Vec<u8> = (1..=REGISTRARS).filter(|n| *n != victim).collect();
        loop {
            let seen: Vec<Seen> = others.iter().map(|n| self.observers[n].seen()).collect();
            let moved = |seen: &Seen| {
                elements().all(|element| seen.homes.get(&element).is_some_and(|home| home != id))
            };
            if (seen.iter().all(moved) && equal(&seen)) || since.elapsed() >= limit {
                return since.elapsed();
            }
            self.nap();
        }
    }

    /// How long until all registrars have all elements with the same homes, and keep them; and how often the
    /// element that changes homes most often does so meanwhile, in the eyes of one who was not frozen.
    fn agreed(&mut self, thawed: u8) -> (Duration, u32) {
        let since = clock();
        let limit = AGREED * TOLERANCE + AFTERWARDS;
        let mut moves: BTreeMap<u32, u32> = BTreeMap::new();
        let mut former = self.seen();
        let mut unquiet = since;
        loop {
            self.nap();
            let (seen, now) = (self.seen(), clock());
            let complete =
                seen.iter().all(|seen| elements().all(|id| seen.homes.contains_key(&id)));
            let same = former.iter().zip(&seen).all(|(former, seen)| former.homes == seen.homes);
            if !(same && complete && equal(&seen)) {
                unquiet = now;
            }
            let witness = usize::from(thawed == 1);
            for id in elements() {
                if former[witness].homes.get(&id) != seen[witness].homes.get(&id) {
                    *moves.entry(id).or_default() += 1;
                }
            }
            former = seen;
            if now - unquiet >= AFTERWARDS || now - since >= limit {
                return (unquiet - since, moves.values().copied().max().unwrap_or(0));
            }
        }
    }

    /// Nothing runs for a second: no process at all, or one registrar.
    fn starve(&mut self, fault: &str, all: bool) -> Result<Row, Error> {
        let mut samples = Vec::new();
        let (mut round, mut tries) = (1, TRIES);
        while round <= self.rounds {
            self.settle()?;
            self.pause();
            let registrars = (1..=REGISTRARS).map(registrar);
            let names: Vec<String> = match all {
                true => registrars.chain((1..=SIDECARS).map(sidecar)).collect(),
                false => vec![registrar(self.choose_registrar()?.0)],
            };
            let before = self.losses(None);
            for name in &names {
                self.launcher.kill_tree(name, Signal::SIGSTOP)?;
            }
            sleep(STARVED);
            for name in &names {
                self.launcher.kill_tree(name, Signal::SIGCONT)?;
            }
            self.late = Duration::ZERO;
            let until = clock() + AFTERWARDS;
            while clock() < until {
                self.nap();
            }
            let lost = self.losses(None) - before;
            self.say(&format!("  round {round}: {fault}: {lost}"));
            if !self.is_void(round, lost, &mut tries) {
                samples.push(lost);
                round += 1;
            }
        }
        Ok(counted(fault, samples))
    }

    /// How often elements have left the pool, over all registrars but one; whoever came back counts twice.
    fn losses(&self, except: Option<u8>) -> u32 {
        let observers = self.observers.iter().filter(|(n, _)| Some(**n) != except);
        let losses = observers.map(|(_, observer)| observer.seen()).map(|s| s.losses + s.version);
        u32::try_from(losses.sum::<u64>()).unwrap_or(u32::MAX)
    }

    fn report(&mut self, round: u32, what: &str, times: &[Duration]) {
        let times: Vec<String> =
            times.iter().map(|time| format!("{:.2} s", time.as_secs_f64())).collect();
        self.say(&format!("  round {round}: {what} {}", times.join(", ")));
    }
}

fn registrar(n: u8) -> String {
    format!("registrar-ns-{n}")
}

fn sidecar(n: u8) -> String {
    format!("echo-{n}")
}

fn element(n: u8) -> u32 {
    IDS + u32::from(n)
}

fn elements() -> impl Iterator<Item = u32> {
    (1..=SIDECARS).map(element)
}

/// Whether all registrars have the same elements with the same homes.
fn equal(seen: &[Seen]) -> bool {
    seen.windows(2).all(|pair| pair[0].homes == pair[1].homes)
}

fn timed(fault: &str, bound: Duration, samples: Vec<Duration>) -> Row {
    Row { fault: fault.to_owned(), effect: Effect::Time { bound, samples } }
}

fn counted(fault: &str, samples: Vec<u32>) -> Row {
    Row { fault: fault.to_owned(), effect: Effect::Count { bound: 0, samples } }
}
