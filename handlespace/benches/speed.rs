//! What the handlespace costs, in processor time of one thread: `cargo bench -p dialtone-handlespace`. The example
//! `figures` prints a table of targets, with the memory.

mod workload;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use dialtone_handlespace::Handlespace;
use std::time::Duration;
use workload::{POLICIES, cpu_time, elements, handle, register, resolve};

/// Resolutions are measured in bundles: a look at the clock costs more than one of them.
const BUNDLE: usize = 1000;

struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, begin: Duration) -> Duration {
        cpu_time() - begin
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut rng = fastrand::Rng::with_seed(1);
    let handle = handle();
    for count in [100, 10_000, 1_000_000] {
        let mut group = criterion.benchmark_group("registrations");
        group.throughput(Throughput::Elements(count.into()));
        for name in ["RR", "LU"] {
            let mut new = || (Handlespace::new(), elements(count, name, &mut rng));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter_batched(
                    &mut new,
                    |(mut space, elements)| {
                        register(&mut space, &handle, elements);
                        space
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
        let mut group = criterion.benchmark_group("re-registrations");
        group.throughput(Throughput::Elements(count.into()));
        for name in ["RR", "LU"] {
            let mut space = Handlespace::new();
            register(&mut space, &handle, elements(count, name, &mut rng));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter_batched(
                    || elements(count, name, &mut rng),
                    |elements| register(&mut space, &handle, elements),
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("resolutions of 3 of 10000");
    group.throughput(Throughput::Elements(BUNDLE as u64));
    for name in POLICIES {
        let mut space = Handlespace::new();
        register(&mut space, &handle, elements(10_000, name, &mut rng));
        group.bench_function(name, |bencher| {
            bencher.iter(|| resolve(&mut space, &handle, BUNDLE, &mut rng));
        });
    }
    group.finish();
    criterion.final_summary();
}
