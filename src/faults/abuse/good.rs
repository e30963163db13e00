//! Those who behave: phones that register and call, and a pool user that resolves. Their failures are failures.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use dialtone_asap_client::{Agent, AgentConfig, registrar_sctp};
use dialtone_bench::{
    load::{CallPlan, Load, LoadConfig, Report},
    phone::Transport,
};
use dialtone_pool_user::{PoolUser, Users, UsersConfig};

use super::{Error, PROXIES, Plan, REGISTRARS};
use crate::launcher::{Launcher, clock};

/// Registrations a second before the calls, and when they are read back.
const REGISTER_RATE: f64 = 100.0;

/// Between two resolutions.
const RESOLVE: Duration = Duration::from_millis(50);

/// Runs until it is stopped.
#[derive(Debug)]
pub struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What they saw.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Seen {
    pub phones: Report,
    pub resolutions: u64,
    pub resolutions_failed: u64,
    pub slowest_resolution_ms: u64,
}

impl Good {
    pub(super) fn start(launcher: &Launcher, plan: Plan) -> Result<Self, Error> {
        let edge = |n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n));
        let config = LoadConfig {
            domain: launcher.layout().domain.clone(),
            source: launcher.slice().host(200),
            transport: Transport::Udp,
            callee_gateway: edge(1),
            caller_gateway: edge(2),
            callees: plan.phones as usize,
            callers: 50,
            prefix: "u".to_owned(),
            expires: 3600,
            seed: plan.seed,
            password: None,
        };
        let calls = CallPlan {
            rate: plan.calls.into(),
            duration: Duration::MAX,
            holds: vec![Duration::from_millis(100), Duration::from_secs(2)],
            ring_share: 0.5,
            ring: Duration::from_secs(1),
            reregister: 5.0,
        };
        let registrars = (1..=REGISTRARS).map(|n| registrar_sctp(launcher.slice().host(n)));
        let agent = AgentConfig::telephony(launcher.slice().host(210), registrars);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut load, agent) = runtime.block_on(async {
            let load = Load::open(config).await?;
            load.register(REGISTER_RATE, None).await;
            // Each answer is a registrar's, none is remembered.
            let users = UsersConfig { stale_after: Duration::ZERO, ..UsersConfig::telephony() };
            let agent = Agent::start(agent, Users::new(users)).await.map_err(io::Error::other)?;
            io::Result::Ok((load, agent))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let resolved = Arc::new(Resolved::default());
            runtime.block_on(async {
                let resolving = tokio::spawn(resolve(agent.handle(), Arc::clone(&resolved)));
                load.call_while(&calls, || !over.load(Ordering::Relaxed)).await;
                load.settle().await;
                load.verify(REGISTER_RATE).await;
                resolving.abort();
                agent.stop().await;
            });
            Seen {
                phones: load.report(),
                resolutions: resolved.count.load(Ordering::Relaxed),
                resolutions_failed: resolved.failed.load(Ordering::Relaxed),
                slowest_resolution_ms: resolved.slowest_ms.load(Ordering::Relaxed),
            }
        });
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[derive(Debug, Default)]
struct Resolved {
    count: AtomicU64,
    failed: AtomicU64,
    slowest_ms: AtomicU64,
}

async fn resolve(user: PoolUser, resolved: Arc<Resolved>) {
    let Ok(handle) = "sip-proxy".parse() else { return };
    loop {
        let asked = clock();
        let answer = user.resolve(&handle).await;
        let complete = answer.is_ok_and(|view| view.members.len() == usize::from(PROXIES));
        resolved.count.fetch_add(1, Ordering::Relaxed);
        resolved.failed.fetch_add((!complete).into(), Ordering::Relaxed);
        let took = (clock() - asked).as_millis() as u64;
        resolved.slowest_ms.fetch_max(took, Ordering::Relaxed);
        tokio::time::sleep(RESOLVE).await;
    }
}
