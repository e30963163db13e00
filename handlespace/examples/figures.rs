//! One table of what the handlespace is meant to do and what it does on this machine:
//! `cargo run --release -p dialtone-handlespace --example figures`

#[path = "../benches/workload/mod.rs"]
mod workload;

use dialtone_handlespace::Handlespace;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use workload::{POLICIES, cpu_time, elements, handle, register, resolve};

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all is done by the system's allocator.
#[expect(unsafe_code, reason = "an allocator that counts has no safe interface")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Operations a second: the median of several runs, each of at least so many operations.
fn rate(operations: usize, runs: usize, mut run: impl FnMut() -> std::time::Duration) -> f64 {
    let mut rates: Vec<f64> = (0..runs).map(|_| operations as f64 / run().as_secs_f64()).collect();
    rates.sort_by(f64::total_cmp);
    rates[runs / 2]
}

fn registrations(count: u32, name: &str) -> f64 {
    let rounds = (200_000 / count).max(1);
    let mut rng = fastrand::Rng::with_seed(1);
    rate(rounds as usize * count as usize, 5, || {
        let mut used = std::time::Duration::ZERO;
        for _ in 0..rounds {
            let elements = elements(count, name, &mut rng);
            let (mut space, handle) = (Handlespace::new(), handle());
            let begin = cpu_time();
            register(&mut space, &handle, elements);
            used += cpu_time() - begin;
        }
        used
    })
}

fn reregistrations(count: u32, name: &str) -> f64 {
    let rounds = (200_000 / count).max(1);
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut space, handle) = (Handlespace::new(), handle());
    register(&mut space, &handle, elements(count, name, &mut rng));
    rate(rounds as usize * count as usize, 5, || {
        let mut used = std::time::Duration::ZERO;
        for _ in 0..rounds {
            let elements = elements(count, name, &mut rng);
            let begin = cpu_time();
            register(&mut space, &handle, elements);
            used += cpu_time() - begin;
        }
        used
    })
}

fn resolutions(count: u32, name: &str) -> f64 {
    const TIMES: usize = 500_000;
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut space, handle) = (Handlespace::new(), handle());
    register(&mut space, &handle, elements(count, name, &mut rng));
    rate(TIMES, 5, || {
        let begin = cpu_time();
        resolve(&mut space, &handle, TIMES, &mut rng);
        cpu_time() - begin
    })
}

fn bytes(count: u32, name: &str) -> f64 {
    let mut rng = fastrand::Rng::with_seed(1);
    let elements = elements(count, name, &mut rng);
    let (mut space, handle) = (Handlespace::new(), handle());
    let before = ALLOCATED.load(Relaxed);
    let mut given = 0;
    for element in elements {
        // The list itself was counted before.
        given += 1;
        space.register(&handle, element).expect("all fit");
    }
    let list = given * size_of::<dialtone_handlespace::Element>();
    (ALLOCATED.load(Relaxed) + list - before) as f64 / f64::from(count)
}

fn line(what: &str, target: Option<f64>, reached: f64) {
    let target = target.map_or_else(|| "-".into(), |target| format!("{target:.2}"));
    println!("| {what:<58} | {target:>7} | {reached:>7.2} |");
}

fn main() {
    println!(
        "| {:<58} | {:>7} | {:>7} |",
        "million a second, processor time of one thread", "target", "reached"
    );
    println!("|{}|{}:|{}:|", "-".repeat(60), "-".repeat(8), "-".repeat(8));
    let sizes = [
        (100, [("RR", Some(3.0)), ("LU", None)], Some(8.4)),
        (10_000, [("RR", Some(2.0)), ("LU", Some(1.6))], Some(6.2)),
        (1_000_000, [("RR", Some(0.42)), ("LU", Some(0.32))], Some(0.94)),
    ];
    for (count, registered, again) in sizes {
        for (name, target) in registered {
            let reached = registrations(count, name) / 1e6;
            line(&format!("registrations, {count} elements in one pool, {name}"), target, reached);
        }
        let reached = reregistrations(count, "RR") / 1e6;
        line(&format!("re-registrations, {count} elements in one pool, RR"), again, reached);
        let reached = reregistrations(count, "LU") / 1e6;
        line(&format!("re-registrations with another load, {count} elements, LU"), None, reached);
    }
    let targets = [
        ("RR", 6.0),
        ("WRR", 6.8),
        ("RAND", 0.78),
        ("WRAND", 0.76),
        ("LU", 12.0),
        ("LUD", 5.4),
        ("PLU", 11.6),
    ];
    for name in POLICIES.into_iter().chain(["LU, equal", "LUD, equal"]) {
        let target = targets.iter().find(|(known, _)| *known == name).map(|(_, target)| *target);
        let reached = resolutions(10_000, name) / 1e6;
        line(&format!("resolutions, 3 of 10000 elements, {name}"), target, reached);
    }
    println!("\n| {:<58} | {:>7} | {:>7} |", "bytes an element, all indexes", "at most", "reached");
    println!("|{}|{}:|{}:|", "-".repeat(60), "-".repeat(8), "-".repeat(8));
    for count in [10_000, 1_000_000, 1_100_000] {
        for name in ["RR", "LU", "WRAND"] {
            line(&format!("{count} elements in one pool, {name}"), Some(264.0), bytes(count, name));
        }
    }
}
