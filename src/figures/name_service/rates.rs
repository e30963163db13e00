//! Resolutions and registrations a second, and CPU time for each.

use std::{path::PathBuf, time::Duration};

use dialtone_transport::Link;
use serde::Serialize;

use super::{
    super::{Error, median, usage::run_seconds},
    Plan,
    elements::{Elements, Spread, Wanted},
    load::HOUR,
    local, name, remote, start,
    user::User,
};

/// What is resolved.
const RESOLVED: Spread = Spread { pools: "resolved", associations: 1, members: 3 };
/// How many pools that are, and the most that is under way.
pub(super) const OUTSTANDING: u32 = 64;
/// What is registered.
const REGISTERED: Spread = Spread { pools: "registered", associations: 1, members: 64 };

/// A rate of one registrar.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Resolutions or registrations.
    pub what: &'static str,
    pub link: &'static str,
    /// Requests under way at a time.
    pub outstanding: u32,
    /// Medians over the runs.
    pub per_second: f64,
    /// CPU time of the registrar for each, microseconds.
    pub cpu_us: f64,
    /// What is promised at least.
    pub target: Option<f64>,
}

pub(super) async fn measure(
    binary: &PathBuf,
    plan: Plan,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Row>, Error> {
    let mut launcher = start(binary, 1, Some(HOUR))?;
    let pid = launcher.process(&name(1))?.pid();
    let sctp = remote(&launcher, 1, Link::Sctp);
    let elements = Elements::connect(local(&launcher, 1), sctp, RESOLVED).await?;
    let wanted = Wanted {
        elements: OUTSTANDING * RESOLVED.members,
        duration: super::ANSWER,
        outstanding: OUTSTANDING as usize,
    };
    elements.register(wanted).await?;

    let say = |what: &str, link: &str, outstanding: u32| {
        let Plan { runs, duration, .. } = plan;
        format!("{what}, {link}, {outstanding} outstanding: {runs} times {duration:?}")
    };
    let mut user = User::bind(local(&launcher, 2)).await?;
    let mut rows = Vec::new();
    for (name, link, target) in [("TCP", Link::Tcp, 100_000.0), ("SCTP", Link::Sctp, 25_000.0)] {
        let assoc = user.connect(remote(&launcher, 1, link)).await?;
        for outstanding in [1, OUTSTANDING] {
            progress(&say("resolutions", name, outstanding));
            let mut runs = Runs::default();
            for _ in 0..plan.runs {
                let before = run_seconds(pid)?;
                let pools = (0..outstanding).map(|n| RESOLVED.name(n));
                let resolved = user.resolve(assoc, pools, plan.duration).await?;
                runs.add(resolved.count, resolved.time, run_seconds(pid)? - before);
            }
            let target = (outstanding == OUTSTANDING).then_some(target);
            rows.push(runs.row("resolutions", name, outstanding, target));
        }
    }
    user.close().await;

    let elements = Elements::connect(local(&launcher, 3), sctp, REGISTERED).await?;
    for outstanding in [1, OUTSTANDING] {
        progress(&say("registrations", "SCTP", outstanding));
        let mut runs = Runs::default();
        for _ in 0..plan.runs {
            let before = run_seconds(pid)?;
            let wanted = Wanted {
                elements: u32::MAX / 2,
                duration: plan.duration,
                outstanding: outstanding as usize,
            };
            let registered = elements.register(wanted).await?;
            let count = registered.waits.len() as u32;
            runs.add(count, registered.time, run_seconds(pid)? - before);
        }
        let target = (outstanding == OUTSTANDING).then_some(20_000.0);
        rows.push(runs.row("registrations", "SCTP", outstanding, target));
    }
    Ok(rows)
}

/// Rate and microseconds for each, of each run.
#[derive(Default)]
struct Runs(Vec<(f64, f64)>);

impl Runs {
    fn add(&mut self, count: u32, time: Duration, cpu: f64) {
        let count = f64::from(count.max(1));
        self.0.push((count / time.as_secs_f64(), 1e6 * cpu / count));
    }

    fn row(
        &self,
        what: &'static str,
        link: &'static str,
        outstanding: u32,
        target: Option<f64>,
    ) -> Row {
        Row {
            what,
            link,
            outstanding,
            per_second: median(self.0.iter().map(|run| run.0)),
            cpu_us: median(self.0.iter().map(|run| run.1)),
            target,
        }
    }
}
