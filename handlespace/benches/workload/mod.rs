//! What is measured: a pool of typical elements, registered, registered again, resolved. One processor's time counts,
//! not the time that passes.

use dialtone_handlespace::{
    Element, Handle, Handlespace, PeId, Policy, SctpTransport, ServerId, Transport, TransportUse,
};
use nix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

/// The time that this thread has run on a processor.
pub(crate) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

/// The policies of RFC 5356.
pub(crate) const POLICIES: [&str; 9] =
    ["RR", "WRR", "RAND", "WRAND", "PRIO", "LU", "LUD", "PLU", "RLU"];

/// A policy by its name, with random values; those that are called equal have the same for all elements.
pub(crate) fn policy(name: &str, rng: &mut fastrand::Rng) -> Policy<'static> {
    let degradation = rng.u32(..1 << 26);
    match name {
        "RR" => Policy::RoundRobin,
        "WRR" => Policy::WeightedRoundRobin { weight: rng.u32(1..100) },
        "RAND" => Policy::Random,
        "WRAND" => Policy::WeightedRandom { weight: rng.u32(1..100) },
        "PRIO" => Policy::Priority { priority: rng.u32(..) },
        "LU" => Policy::LeastUsed { load: rng.u32(..) },
        "LU, equal" => Policy::LeastUsed { load: 1 },
        "LUD" => Policy::LeastUsedDegradation { load: rng.u32(..), degradation },
        "LUD, equal" => Policy::LeastUsedDegradation { load: 1, degradation: 1 },
        "PLU" => Policy::PriorityLeastUsed { load: rng.u32(..), degradation },
        "RLU" => Policy::RandomizedLeastUsed { load: rng.u32(..) },
        _ => unreachable!("no policy of RFC 5356: {name}"),
    }
}

/// A handle of 10 bytes.
pub(crate) fn handle() -> Handle {
    "echo-pools".parse().expect("short")
}

/// `count` elements with random identifiers and policy values, each with one user transport and one ASAP transport.
pub(crate) fn elements(count: u32, name: &str, rng: &mut fastrand::Rng) -> Vec<Element> {
    // An odd factor leaves all identifiers different.
    let pe_ids = (1..=count).map(|number| number.wrapping_mul(0x9e37_79b1));
    let element = |pe_id: u32, policy| {
        let addr = IpAddr::from(pe_id.to_be_bytes());
        Element {
            pe_id: PeId(pe_id),
            home: ServerId(0x1234_5678),
            life: 300,
            encaps_port: Some(9899),
            transport: Transport::tcp((addr, 7).into()),
            policy,
            asap_transport: Some(SctpTransport {
                port: 3863,
                use_: TransportUse::DATA_ONLY,
                addrs: addr.into(),
            }),
        }
    };
    let mut elements: Vec<Element> =
        pe_ids.map(|pe_id| element(pe_id, policy(name, rng))).collect();
    rng.shuffle(&mut elements);
    elements
}

/// Registers all of them.
pub(crate) fn register(space: &mut Handlespace, handle: &Handle, elements: Vec<Element>) {
    for element in elements {
        space.register(handle, element).expect("all fit");
    }
}

/// Resolves the pool `count` times.
pub(crate) fn resolve(
    space: &mut Handlespace,
    handle: &Handle,
    count: usize,
    rng: &mut fastrand::Rng,
) {
    for _ in 0..count {
        let selection = space.select(handle.as_bytes(), 3, rng).expect("a pool");
        assert_eq!(selection.len(), 3);
        black_box(selection.iter().map(|element| element.pe_id.0).fold(0, u32::wrapping_add));
    }
}
