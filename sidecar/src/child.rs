//! The server as a child process.
//!
//! Between sidecar and server stands a *keeper*: this program once more, leader of a process group that the server
//! and its own children belong to. It holds one end of a pipe whose other end only the sidecar has. However the
//! sidecar ends, even by SIGKILL, the pipe closes and the keeper kills the whole group. Should the keeper itself be
//! killed, the kernel kills the server (PR_SET_PDEATHSIG), and the sidecar, if it lives, the rest of the group.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::{Pid, getpgrp, getpid, getppid},
};
use tokio::{
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// The option of `pool-element` that makes the process a keeper.
pub const KEEPER_OPTION: &str = "--keeper";

/// Exit code of a command that cannot be started, as shells have it.
const NOT_STARTED: u8 = 127;

/// How long a group may take to vanish after SIGKILL before nobody waits for it any more.
const REAP: Duration = Duration::from_secs(2);

/// The keeper of a running server. Dropping it kills the server and everything that the server started.
#[derive(Debug)]
pub struct Server {
    keeper: Child,
    group: Pid,
    _lifeline: Option<ChildStdin>,
}

impl Server {
    /// Starts `command` under a keeper. To be called from the thread that lives as long as the process.
    pub fn start(command: &[OsString]) -> io::Result<Self> {
        let mut keeper = Command::new("/proc/self/exe")
            .arg0("dialtone")
            .args(["pool-element", KEEPER_OPTION, "--"])
            .args(command)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = keeper
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| io::Error::other("no pid"))?;
        let lifeline = keeper.stdin.take();
        Ok(Self { keeper, group: Pid::from_raw(pid), _lifeline: lifeline })
    }

    /// Waits for the server to end; its exit code, or 128 and the signal that ended it. Cancel safe.
    pub async fn exited(&mut self) -> u8 {
        match self.keeper.wait().await {
            Ok(status) => code_of(status),
            Err(_) => NOT_STARTED,
        }
    }

    /// Whether the server is stopped (SIGSTOP, a debugger), so that it serves nobody whatever the kernel does for it.
    pub fn is_stopped(&self) -> bool {
        let keeper = self.group;
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))
            .unwrap_or_default();
        children.split_whitespace().any(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in parentheses may contain anything; the state follows the last one.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
        })
    }

    /// Asks the server to end (SIGTERM) and kills it when it has not after `grace`.
    pub async fn stop(mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        // Whoever is stopped hears nothing.
        self.signal(Signal::SIGCONT);
        match timeout(grace, self.keeper.wait()).await {
            Ok(_) => tracing::info!("the server has ended"),
            Err(_) => tracing::warn!(
                grace_ms = grace.as_millis() as u64,
                "the server does not end: killing it"
            ),
        }
        self.signal(Signal::SIGKILL);
        let _ = timeout(REAP, self.keeper.wait()).await;
    }

    fn signal(&self, signal: Signal) {
        match killpg(self.group, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(%signal, %error, "cannot signal the server"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The keeper's life: starts `command`, passes its exit code on, kills the group when the sidecar is gone.
pub fn keep(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(NOT_STARTED);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| {
        runtime.block_on(async {
            // Signals to the group are for the server; the keeper stays until the server has ended. Handlers are not
            // inherited, so the server gets the usual behaviour.
            let _handlers =
                [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
                    .map(signal);
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            die_with_keeper(&mut command);
            let mut child = command.spawn()?;
            std::thread::Builder::new().name("lifeline".to_owned()).spawn(|| {
                // Nothing is ever written: reading ends when the sidecar does.
                let _ = io::stdin().read(&mut [0]);
                let _ = killpg(getpgrp(), Signal::SIGKILL);
            })?;
            child.wait().await
        })
    });
    match result {
        Ok(status) => ExitCode::from(code_of(status)),
        Err(error) => {
            eprintln!("cannot start {}: {error}", program.to_string_lossy());
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// Has the kernel kill the server when the keeper ends.
#[expect(
    unsafe_code,
    reason = "only the new process can ask for its parent death signal, between fork and exec"
)]
fn die_with_keeper(command: &mut Command) {
    let keeper = getpid();
    // SAFETY: prctl and getppid are async-signal-safe system calls; nothing allocates or locks.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() == keeper { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
        });
    }
}
