//! One table of what the handlespace is meant to do and what it does on this machine:
//! `cargo run --release -p dialtone-handlespace --example figures [WORD]`

#[path = "../benches/workload/mod.rs"]
mod workload;

use dialtone_handlespace::{Element, Handle, Handlespace};
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

/// Million operations a second: the median of several runs, each of at least so many operations.
fn rate(operations: usize, runs: usize, mut run: impl FnMut() -> std::time::Duration) -> f64 {
    let mut rates: Vec<f64> =
        (0..runs).map(|_| operations as f64 / 1e6 / run().as_secs_f64()).collect();
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
    let handle = handle();
    allocated(elements(count, name, &mut fastrand::Rng::with_seed(1)), |_| handle.clone())
}

fn bytes_of_pools(count: u32) -> f64 {
    let handle = |number: u32| format!("pool-{number:05}").parse().expect("short");
    allocated(elements(count, "RR", &mut fastrand::Rng::with_seed(1)), handle)
}

/// Bytes that an element takes when these are registered, each with the handle that its number has.
fn allocated(elements: Vec<Element>, handle: impl Fn(u32) -> Handle) -> f64 {
    let mut space = Handlespace::new();
    let before = ALLOCATED.load(Relaxed);
    for (element, number) in elements.iter().zip(0..) {
        space.register(&handle(number), element.clone()).expect("all fit");
    }
    (ALLOCATED.load(Relaxed) - before) as f64 / elements.len() as f64
}

/// A table; only lines with the word of the command line, if there is one.
struct Table {
    only: Option<String>,
}

impl Table {
    fn head(&self, what: &str, target: &str) {
        println!("\n| {what:<58} | {target:>7} | {:>7} |", "reached");
        println!("|{}|{}:|{}:|", "-".repeat(60), "-".repeat(8), "-".repeat(8));
    }

    fn line(&self, what: &str, target: Option<f64>, measure: impl FnOnce() -> f64) {
        if self.only.as_ref().is_none_or(|only| what.contains(only)) {
            let target = target.map_or_else(|| "-".into(), |target| format!("{target:.2}"));
            println!("| {what:<58} | {target:>7} | {:>7.2} |", measure());
        }
    }
}

fn main() {
    let table = Table { only: std::env::args().nth(1) };
    table.head("million a second, processor time of one thread", "target");
    let sizes = [
        (100, [("RR", Some(3.0)), ("LU", None)], Some(8.4)),
        (10_000, [("RR", Some(2.0)), ("LU", Some(1.6))], Some(6.2)),
        (1_000_000, [("RR", Some(0.42)), ("LU", Some(0.32))], Some(0.94)),
    ];
    for (count, registered, again) in sizes {
        let pool = format!("{count} elements in one pool");
        for (name, target) in registered {
            let what = format!("registrations, {pool}, {name}");
            table.line(&what, target, || registrations(count, name));
        }
        let what = format!("re-registrations, {pool}, RR");
        table.line(&what, again, || reregistrations(count, "RR"));
        let what = format!("re-registrations, {pool}, LU, another load");
        table.line(&what, None, || reregistrations(count, "LU"));
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
        let what = format!("resolutions, 3 of 10000 elements, {name}");
        table.line(&what, target, || resolutions(10_000, name));
    }
    table.head("bytes an element, all indexes", "at most");
    for count in [10_000, 1_000_000, 1_100_000] {
        for name in ["RR", "LU", "WRAND"] {
            let what = format!("{count} elements in one pool, {name}");
            table.line(&what, Some(264.0), || bytes(count, name));
        }
    }
    let what = "100000 pools of one element, RR";
    table.line(what, None, || bytes_of_pools(100_000));
}
