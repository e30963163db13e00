//! What everybody can see: each registrar's answer over ASAP, by a subscription of its own, and its admin JSON.
//!
//! A thread per registrar reads the admin JSON; the pool users live on a small runtime. Both write into [`Seen`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use dialtone_asap_client::{Agent, AgentConfig, registrar_sctp};
use dialtone_handlespace::Handle;
use dialtone_pool_user::{Freshness, Users, UsersConfig};
use tokio::{runtime::Runtime, task::AbortHandle};

use crate::launcher::pools;

/// How often a registrar's admin JSON is read; it renews it as often.
const LOOK: Duration = Duration::from_millis(50);

/// What one registrar says of the pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Over ASAP: whether the registrar answers, the elements, and how often membership has changed.
    pub(super) fresh: bool,
    pub(super) members: BTreeSet<u32>,
    pub(super) version: u64,
    /// In the admin JSON: the elements and their homes.
    pub(super) homes: BTreeMap<u32, String>,
    /// How often an element that stood in the admin JSON stood there no more.
    pub(super) losses: u64,
}

impl Seen {
    /// Whether the element is there, by either account.
    pub(super) fn anywhere(&self, element: u32) -> bool {
        self.members.contains(&element) || self.homes.contains_key(&element)
    }

    /// Whether the element is there, by both accounts.
    pub(super) fn everywhere(&self, element: u32) -> bool {
        self.fresh && self.members.contains(&element) && self.homes.contains_key(&element)
    }
}

/// Watches one registrar.
#[derive(Debug)]
pub(super) struct Observer {
    seen: Arc<Mutex<Seen>>,
    user: AbortHandle,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Observer {
    /// Watches `pool` at the registrar at `registrar` from the address `own`.
    pub(super) fn start(
        runtime: &Runtime,
        own: IpAddr,
        registrar: IpAddr,
        admin: String,
        pool: &Handle,
    ) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let stop = Arc::<AtomicBool>::default();
        let user = runtime
            .spawn(subscribe(own, registrar, pool.clone(), Arc::clone(&seen)))
            .abort_handle();
        let reader = {
            let (seen, stop, pool) = (Arc::clone(&seen), Arc::clone(&stop), pool.to_string());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(pools) = pools::fetch(&admin) {
                        let elements = pools.elements(&pool).iter();
                        let homes = elements
                            .filter_map(|element| {
                                Some((number(&element.id)?, element.home.clone()))
                            })
                            .collect();
                        let mut seen = lock(&seen);
                        let former = std::mem::replace(&mut seen.homes, homes);
                        let lost = former.keys().filter(|id| !seen.homes.contains_key(id)).count();
                        seen.losses += lost as u64;
                    }
                    std::thread::sleep(LOOK);
                }
            })
        };
        Self { seen, user, stop, reader: Some(reader) }
    }

    /// What the registrar says now.
    pub(super) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.user.abort();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It ends at the latest when its registrar has not answered for half a second.
            let _ = reader.join();
        }
    }
}

async fn subscribe(own: IpAddr, registrar: IpAddr, pool: Handle, seen: Arc<Mutex<Seen>>) {
    let config = AgentConfig::telephony(own, vec![registrar_sctp(registrar)]);
    let Ok(agent) = Agent::start(config, Users::new(UsersConfig::telephony())).await else {
        return;
    };
    let Ok(mut views) = agent.handle().watch(&pool) else { return };
    loop {
        {
            let view = views.borrow_and_update();
            let mut seen = lock(&seen);
            seen.fresh = view.freshness == Freshness::Fresh;
            seen.members = view.members.iter().map(|member| member.pe_id.0).collect();
            seen.version = view.version;
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Reads `0x` and hex digits.
fn number(id: &str) -> Option<u32> {
    u32::from_str_radix(id.strip_prefix("0x")?, 16).ok()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Nothing panics between two writes that belong together.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
