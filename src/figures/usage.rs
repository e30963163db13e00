//! What the kernel says of a process's CPU time and memory, and of the machine.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::launcher::clock;

/// On what was measured: figures mean nothing without it.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// How this program was compiled.
    pub build: &'static str,
    /// Of the last minute, when the measurement began and when it ended. Much more than our own processes explain means
    /// that somebody else worked, too.
    pub load_average: [f64; 2],
}

impl Conditions {
    /// Before the measurement.
    pub(super) fn begin() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, cpu)| cpu);
        let load = load_average();
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            load_average: [load, load],
        }
    }

    /// After it.
    pub(super) fn end(mut self) -> Self {
        self.load_average[1] = load_average();
        self
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, build, load_average: [before, after] } = self;
        write!(
            f,
            "{cores} cores {cpu}, Linux {kernel}, {build} build, load average {before} before and {after} after"
        )
    }
}

/// Where a database was.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub folder: PathBuf,
    /// As the kernel calls it.
    pub filesystem: String,
    pub device: String,
    /// Milliseconds for appending 4 kB and bringing them to the disk.
    pub fsync_ms: f64,
    pub fsync_p99_ms: f64,
}

/// How often fsync is measured.
const SYNCS: usize = 200;

impl Disk {
    /// Measures the disk that a folder is on.
    pub(super) fn measure(folder: &Path) -> io::Result<Self> {
        let folder = folder.canonicalize()?;
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?, words.next()?, words.next()?))
            })
            .filter(|(_, point, _)| folder.starts_with(point))
            // The last of several at the same place is the one that is seen.
            .max_by_key(|(_, point, _)| point.len());
        let (device, filesystem) =
            mount.map_or(("unknown", "unknown"), |(device, _, kind)| (device, kind));
        let path = folder.join(format!("dialtone-fsync-{}", std::process::id()));
        let times = sync_times(&path);
        let _ = fs::remove_file(&path);
        let mut times = times?;
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
        Ok(Self {
            filesystem: filesystem.to_owned(),
            device: device.to_owned(),
            fsync_ms: at(50),
            fsync_p99_ms: at(99),
            folder,
        })
    }
}

fn sync_times(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[7; 4096])?;
        let begun = clock();
        file.sync_data()?;
        times.push(clock().saturating_duration_since(begun));
    }
    Ok(times)
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { folder, filesystem, device, fsync_ms, fsync_p99_ms } = self;
        write!(
            f,
            "{} on {device} ({filesystem}), fsync of 4 kB {fsync_ms:.2} ms in the median, {fsync_p99_ms:.2} ms p99",
            folder.display()
        )
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// User and system time of a process since its start, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything; utime and stime are fields 14 and 15, the state is field 3.
    let ticks = stat.rsplit_once(") ").and_then(|(_, rest)| {
        let mut times = rest.split(' ').skip(11).map(str::parse::<u64>);
        Some(times.next()?.ok()? + times.next()?.ok()?)
    });
    let ticks = ticks.ok_or(io::ErrorKind::InvalidData)?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.filter(|rate| *rate > 0).unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}

/// Resident memory of a process in bytes, without what is mapped from files.
pub(super) fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024).ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap() > 10_000);
        // Work until it shows.
        let before = cpu_seconds(pid).unwrap();
        let mut sum = 0u64;
        while cpu_seconds(pid).unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(Conditions::begin().end().cores > 0);
    }
}
