//! What the kernel says of a process's CPU time and memory, and of the machine.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};
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

    /// The cores of whoever is measured, and the one of who keeps it busy: its own if there is more than one.
    pub(super) fn shared_out(&self) -> (Vec<usize>, Option<usize>) {
        match self.cores {
            1 => (vec![0], None),
            cores => ((0..cores - 1).collect(), Some(cores - 1)),
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

/// The same as [`cpu_seconds`] of what runs now, to the nanosecond: threads that have ended are left out.
pub(super) fn run_seconds(pid: u32) -> io::Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Whoever ends meanwhile is left out.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += first_number(&text)?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The same of one thread of this process.
pub(super) fn thread_seconds(tid: u32) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat"))?;
    Ok(first_number(&text)? as f64 / 1e9)
}

/// The time of the kernel's threads that deliver packets when nobody's own time is used for it.
pub(super) fn softirq_thread_seconds() -> f64 {
    let threads = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with("ksoftirqd/").then_some(entry.path())
    });
    let nanoseconds = threads
        .filter_map(|path| first_number(&fs::read_to_string(path.join("schedstat")).ok()?).ok());
    nanoseconds.sum::<u64>() as f64 / 1e9
}

fn first_number(text: &str) -> io::Result<u64> {
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Keeps all threads that a process has now on these cores.
pub(super) fn pin(pid: u32, cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = thread?.file_name();
        if let Some(tid) = name.to_str().and_then(|tid| tid.parse().ok()) {
            // A thread that has ended needs no core.
            let _ = sched_setaffinity(Pid::from_raw(tid), &set);
        }
    }
    Ok(())
}

/// Keeps this thread on a core.
pub(super) fn pin_thread(core: usize) {
    let mut set = CpuSet::new();
    // Without it, what is measured is worth less, but it is measured.
    let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// Resident memory of a process in bytes, with what is mapped from files.
pub(super) fn resident(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    Ok(first_number(kilobytes.unwrap_or_default())? * 1024)
}

/// Open descriptors of a process.
pub(super) fn descriptors(pid: u32) -> io::Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Bytes that the buffers of all UDP sockets at this address have now, as `ss` of iproute2 says; `None` without it.
pub(super) fn udp_buffers(address: IpAddr) -> Option<u64> {
    let output = Command::new("ss").args(["-Huanm", "src", &address.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| {
        // Received, sent, set aside for either, options, backlog; limits and drops aside.
        let sizes = text
            .split("skmem:(")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .flat_map(|fields| fields.split(','))
            .filter_map(|field| {
                let digits = field.find(|c: char| c.is_ascii_digit())?;
                let (name, size) = field.split_at(digits);
                ["r", "t", "f", "o", "bl"].contains(&name).then(|| size.parse::<u64>().ok())?
            });
        sizes.sum()
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

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
        let (run, thread) = (run_seconds(pid).unwrap(), nix::unistd::gettid().as_raw());
        let own = thread_seconds(thread.cast_unsigned()).unwrap();
        assert!(run >= own && own > 0.0, "{run} {own}");
        assert!(resident(pid).unwrap() >= memory(pid).unwrap() / 2);
        let (before, file) = (descriptors(pid).unwrap(), File::open("/dev/null").unwrap());
        // Other tests open files meanwhile.
        assert!(before > 0 && file.metadata().is_ok());
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        if let Some(bytes) = udp_buffers([127, 0, 0, 1].into()) {
            assert!(bytes >= 1000, "{bytes}");
        }
        softirq_thread_seconds();
        assert!(Conditions::begin().end().cores > 0);
    }
}
