//! Who takes part, derived from the seed alone: most worlds are small, since they are fast and most faults need few
//! processes; some are as the design describes them, some run on datagrams, some have a pool whose elements do not agree
//! on its policy, in some registrars find each other by multicast; two in a thousand are large.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_pool_element::ElementConfig;
use dialtone_transport::Link;
use dialtone_wire::{PeId, Policy, PolicyType, Transport};

use crate::set::Set;

/// A world's people.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) registrars: usize,
    /// One process may be several elements.
    pub(crate) elements: Vec<Vec<ElementConfig>>,
    pub(crate) users: Vec<(Vec<Handle>, Link)>,
    pub(crate) pools: Vec<Handle>,
    /// Real SCTP stacks on a network that loses datagrams, and everybody on SCTP.
    pub(crate) datagrams: bool,
    /// The pool whose elements do not agree on its policy (G17).
    pub(crate) contested: Option<Handle>,
    /// Registrars are told of no other.
    pub(crate) multicast: bool,
}

/// Names of pools; which policy they have, the seed says.
const POOLS: [&str; 12] = [
    "sip-proxy",
    "sip-gateway",
    "location-db",
    "media-relay",
    "conference",
    "voicemail",
    "presence",
    "recorder",
    "billing",
    "echo",
    "transcoder",
    "sip-edge",
];

/// Every policy of RFC 5356.
const POLICIES: [PolicyType; 9] = [
    PolicyType::ROUND_ROBIN,
    PolicyType::WEIGHTED_ROUND_ROBIN,
    PolicyType::RANDOM,
    PolicyType::WEIGHTED_RANDOM,
    PolicyType::PRIORITY,
    PolicyType::LEAST_USED,
    PolicyType::LEAST_USED_DEGRADATION,
    PolicyType::PRIORITY_LEAST_USED,
    PolicyType::RANDOMIZED_LEAST_USED,
];

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x00e1_e3e7_5ca1_e000);
        // Two neighbours, of which one is orderly and one is not.
        let large = matches!(seed % 1000, 198 | 199);
        let design = !large && seed % 32 < 2;
        let datagrams = !large && seed % 32 == 5;
        let contested = !large && matches!(seed % 32, 6 | 7);
        let multicast = !large && matches!(seed % 32, 8 | 9);
        let registrars = match rng.u8(..16) {
            _ if large => rng.usize(5..=9),
            _ if design => 3,
            0..=3 => 2,
            4..=10 => 3,
            11..=13 => 4,
            14 => 5,
            _ => rng.usize(6..=9),
        };
        let (elements, users, pools) = match (large, design) {
            (true, _) => (rng.usize(60..=200), rng.usize(20..=200), POOLS.len()),
            (_, true) => (20, 10, 5),
            // At least two elements in each pool.
            _ if contested => (rng.usize(4..=8), rng.usize(1..=4), 2),
            _ => (rng.usize(3..=8), rng.usize(1..=4), rng.usize(2..=4)),
        };
        let processes = if elements > 8 { elements * 4 / 5 } else { elements };
        // A pool without elements is none.
        let pools: Vec<Handle> =
            POOLS[..pools.min(elements)].iter().filter_map(|name| name.parse().ok()).collect();
        let kinds: Vec<_> = pools.iter().map(|_| POLICIES[rng.usize(..POLICIES.len())]).collect();
        let mut scenario = Self {
            registrars,
            elements: vec![Vec::new(); processes],
            users: Vec::new(),
            pools: pools.clone(),
            datagrams,
            contested: contested.then(|| pools[0].clone()),
            multicast,
        };
        let rival = POLICIES.iter().position(|kind| *kind == kinds[0]).map_or(0, |at| at + 1);
        let rival = POLICIES[rival % POLICIES.len()];
        for index in 0..elements {
            // Elements of one process are in different pools, but in some large worlds.
            let (process, pool) = (index % processes, (index + index / processes) % pools.len());
            let transport = Transport::tcp(SocketAddr::new(element_ip(process), 5060));
            let pe_id = PeId(rng.u32(1..));
            let of_rival = contested && pool == 0 && index / pools.len() % 2 == 1;
            let policy = policy(if of_rival { rival } else { kinds[pool] }, &mut rng);
            let mut config =
                ElementConfig::new(pools[pool].clone(), pe_id, transport).with_policy(policy);
            // Some register again so seldom that it repairs nothing.
            if rng.bool() {
                config.lifetime = Duration::from_secs(600);
            }
            scenario.elements[process].push(config);
        }
        for index in 0..users {
            let mut watched = pools.clone();
            rng.shuffle(&mut watched);
            watched.truncate(3);
            let link = if index % 2 == 0 || datagrams { Link::Sctp } else { Link::Tcp };
            scenario.users.push((watched, link));
        }
        scenario
    }

    pub(crate) fn processes(&self) -> usize {
        self.registrars + self.elements.len() + self.users.len()
    }

    /// Indexes of the processes that are registrars.
    pub(crate) fn registrars(&self) -> std::ops::Range<usize> {
        0..self.registrars
    }

    pub(crate) fn element_processes(&self) -> std::ops::Range<usize> {
        self.registrars..self.registrars + self.elements.len()
    }

    /// The policy that an element process wants for the contested pool, if it is in that pool.
    pub(crate) fn rival_policy(&self, process: usize) -> Option<PolicyType> {
        let configs = &self.elements[process - self.registrars];
        let config = configs.iter().find(|config| Some(&config.handle) == self.contested.as_ref());
        config.map(|config| config.policy.number())
    }

    pub(crate) fn all(&self) -> Set {
        Set::of(0..self.processes())
    }
}

pub(crate) fn registrar_ip(index: usize) -> IpAddr {
    IpAddr::from([127, 0, 0, index as u8 + 1])
}

pub(crate) fn element_ip(index: usize) -> IpAddr {
    IpAddr::from([127, 0, 1, index as u8 + 1])
}

pub(crate) fn user_ip(index: usize) -> IpAddr {
    IpAddr::from([127, 0, 2, index as u8 + 1])
}

/// A policy of this kind with values of which everybody can serve.
pub(crate) fn policy(kind: PolicyType, rng: &mut fastrand::Rng) -> Policy<'static> {
    match Policy::of_pool(kind) {
        Policy::LeastUsed { .. } => Policy::LeastUsed { load: rng.u32(..) },
        Policy::LeastUsedDegradation { .. } => {
            Policy::LeastUsedDegradation { load: rng.u32(..), degradation: rng.u32(..) }
        }
        Policy::Priority { .. } => Policy::Priority { priority: rng.u32(..4) },
        Policy::PriorityLeastUsed { .. } => {
            Policy::PriorityLeastUsed { load: rng.u32(..), degradation: rng.u32(..) }
        }
        Policy::RandomizedLeastUsed { .. } => {
            Policy::RandomizedLeastUsed { load: rng.u32(..u32::MAX) }
        }
        Policy::WeightedRandom { .. } => Policy::WeightedRandom { weight: rng.u32(1..10) },
        Policy::WeightedRoundRobin { .. } => Policy::WeightedRoundRobin { weight: rng.u32(1..10) },
        other => other,
    }
}
