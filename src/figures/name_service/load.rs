//! Many elements on many associations: kept alive, registered, taken over by a registrar that starts.

use std::{path::PathBuf, time::Duration};

use dialtone_transport::Link;
use serde::Serialize;

use super::{
    super::{
        Error,
        usage::{memory, run_seconds, softirq_thread_seconds},
    },
    Plan,
    elements::{Elements, Registered, Spread, Wanted},
    local, name, remote, start,
    user::User,
};
use crate::launcher::{Launcher, Status, clock};

/// The period of keep-alives where there are to be none, and how long anything may take that takes its time.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The period of keep-alives where there are.
const PERIOD: Duration = Duration::from_secs(1);
/// How long elements are kept alive before that is measured, and how long that takes, in periods.
const WARM_UP: u32 = 2;
const MEASURED: u32 = 5;
/// Registrations at the beginning and at the end whose waits are compared.
const COMPARED: usize = 10_000;
/// What a registrar may take to start.
const START: Duration = Duration::from_secs(300);
/// How often it is asked whether it has everything.
const LOOK: Duration = Duration::from_millis(20);
/// Pools that are resolved at the new registrar.
const RESOLVED: u32 = 1000;

/// Elements that are kept alive.
#[derive(Clone, Debug, Serialize)]
pub struct KeptAlive {
    pub elements: u32,
    pub associations: u32,
    /// Keep-alives of all elements together.
    pub per_second: f64,
    /// CPU time of the registrar, packets that the kernel delivers included: cores, and microseconds for each.
    pub cores: f64,
    pub cpu_us: f64,
    /// Elements that were given up: there should be none.
    pub removed: u64,
}

/// Many elements without keep-alives.
#[derive(Clone, Debug, Serialize)]
pub struct Many {
    pub elements: u32,
    pub associations: u32,
    /// One registration is under way on each association.
    pub registrations_per_second: f64,
    pub cpu_us: f64,
    /// How many registrations `first` and `last` are.
    pub compared: usize,
    pub first: Waits,
    pub last: Waits,
    /// The longest of all.
    pub longest_ms: f64,
    /// Memory of the registrar for each element.
    pub bytes_per_element: f64,
    pub taken_over: TakenOver,
}

/// How long registrations waited for their answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Waits {
    pub median_ms: f64,
    pub p99_ms: f64,
}

/// A second registrar.
#[derive(Clone, Debug, Serialize)]
pub struct TakenOver {
    /// From the start of its process until it was in service and had all elements.
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub mentor_cpu_seconds: f64,
    pub bytes_per_element: f64,
    /// Pools that were resolved at it then, and the elements in its answers.
    pub resolved: u32,
    pub answered: usize,
}

/// One element of each pool is on each association: keep-alives name the pool only.
fn spread(plan: Plan) -> Spread {
    Spread { pools: "many", associations: plan.associations, members: plan.associations }
}

pub(super) async fn keep_alive(
    binary: &PathBuf,
    plan: Plan,
    progress: &mut impl FnMut(&str),
) -> Result<KeptAlive, Error> {
    let Plan { kept_alive: elements, associations, .. } = plan;
    let mut launcher = start(binary, 1, Some(PERIOD))?;
    let registrar = name(1);
    let pid = launcher.process(&registrar)?.pid();
    progress(&format!(
        "{elements} elements on {associations} associations are kept alive for {:?}",
        PERIOD * (WARM_UP + MEASURED)
    ));
    let all =
        Elements::connect(local(&launcher, 1), remote(&launcher, 1, Link::Sctp), spread(plan))
            .await?;
    all.register(Wanted { elements, duration: HOUR, outstanding: 1 }).await?;
    tokio::time::sleep(PERIOD * WARM_UP).await;

    let before = status(&mut launcher, &registrar).await?.counters;
    let (from, cpu, softirq) = (clock(), run_seconds(pid)?, softirq_thread_seconds());
    tokio::time::sleep(PERIOD * MEASURED).await;
    let time = clock().saturating_duration_since(from).as_secs_f64();
    let cpu = run_seconds(pid)? - cpu + softirq_thread_seconds() - softirq;
    let after = status(&mut launcher, &registrar).await?.counters;
    let asked = (after.keep_alives - before.keep_alives) as f64;
    Ok(KeptAlive {
        elements,
        associations,
        per_second: asked / time,
        cores: cpu / time,
        cpu_us: 1e6 * cpu / asked.max(1.0),
        removed: after.removals,
    })
}

pub(super) async fn many(
    binary: &PathBuf,
    plan: Plan,
    progress: &mut impl FnMut(&str),
) -> Result<Many, Error> {
    let Plan { elements, associations, .. } = plan;
    let mut launcher = start(binary, 2, Some(HOUR))?;
    let pid = launcher.process(&name(1))?.pid();
    progress(&format!("{elements} elements register on {associations} associations"));
    let all =
        Elements::connect(local(&launcher, 1), remote(&launcher, 1, Link::Sctp), spread(plan))
            .await?;
    let (empty, idle) = (memory(pid)?, run_seconds(pid)?);
    let registered = all.register(Wanted { elements, duration: HOUR, outstanding: 1 }).await?;
    let cpu = run_seconds(pid)? - idle;
    let bytes = memory(pid)?.saturating_sub(empty);
    let Registered { waits, time } = registered;
    let compared = COMPARED.min(waits.len() / 2);
    let longest = waits.iter().max().copied().unwrap_or_default();
    let taken_over = take_over(&mut launcher, plan, progress).await?;
    Ok(Many {
        elements,
        associations,
        registrations_per_second: f64::from(elements) / time.as_secs_f64(),
        cpu_us: 1e6 * cpu / f64::from(elements),
        compared,
        first: Waits::of(&waits[..compared]),
        last: Waits::of(&waits[waits.len() - compared..]),
        longest_ms: 1e3 * longest.as_secs_f64(),
        bytes_per_element: bytes as f64 / f64::from(elements),
        taken_over,
    })
}

async fn take_over(
    launcher: &mut Launcher,
    plan: Plan,
    progress: &mut impl FnMut(&str),
) -> Result<TakenOver, Error> {
    let (elements, spread) = (plan.elements, spread(plan));
    progress(&format!("a second registrar starts and takes {elements} elements over"));
    let mentor = launcher.process(&name(1))?.pid();
    let mentor_before = run_seconds(mentor)?;
    let from = clock();
    let registrar = launcher.spawn_registrar(2)?;
    let pid = launcher.process(&registrar)?.pid();
    loop {
        let status = launcher.status(&registrar);
        if status.is_some_and(|status| status.in_service && status.elements >= elements as usize) {
            break;
        }
        if clock().saturating_duration_since(from) > START {
            return Err(Error::Service(format!("{registrar} has not got all elements")));
        }
        tokio::time::sleep(LOOK).await;
    }
    let seconds = clock().saturating_duration_since(from).as_secs_f64();
    let cpu_seconds = run_seconds(pid)?;
    let mentor_cpu_seconds = run_seconds(mentor)? - mentor_before;
    let bytes = memory(pid)?;

    // Evenly from all of them, the first and the last included.
    let pools = elements.div_ceil(spread.members);
    let resolved = RESOLVED.min(pools);
    let mut user = User::bind(local(launcher, 2)).await?;
    let assoc = user.connect(remote(launcher, 2, Link::Tcp)).await?;
    let mut answered = 0;
    for n in 0..resolved {
        let pool = u64::from(pools - 1) * u64::from(n) / u64::from(resolved.max(2) - 1);
        let pool = std::iter::once(spread.name(pool as u32));
        answered += user.resolve(assoc, pool, Duration::ZERO).await?.elements;
    }
    user.close().await;
    Ok(TakenOver {
        seconds,
        cpu_seconds,
        mentor_cpu_seconds,
        bytes_per_element: bytes as f64 / f64::from(elements),
        resolved,
        answered,
    })
}

/// A registrar that is busy may answer late.
async fn status(launcher: &mut Launcher, registrar: &str) -> Result<Status, Error> {
    let from = clock();
    while clock().saturating_duration_since(from) < super::ANSWER {
        if let Some(status) = launcher.status(registrar) {
            return Ok(status);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::NoAnswer)
}

impl Waits {
    fn of(waits: &[Duration]) -> Self {
        let mut waits = waits.to_vec();
        waits.sort_unstable();
        let at = |share: usize| {
            let wait = waits.get(waits.len() * share / 100).copied().unwrap_or_default();
            1e3 * wait.as_secs_f64()
        };
        Self { median_ms: at(50), p99_ms: at(99) }
    }
}
