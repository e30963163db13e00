//! Dying with the parent: a daemon started by a launcher never outlives it, not even when it was killed.

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};

/// Has the kernel kill this process (SIGKILL) when its parent ends: more exactly, when the parent's *thread* that
/// started it ends, so launchers start children from a thread that lives as long as they do.
/// `parent`, when given, is whom the launcher said to be; whoever finds another parent came too late and must exit,
/// which `false` says.
#[must_use]
pub fn die_with_parent(parent: Option<u32>) -> bool {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        tracing::warn!(%error, "cannot tie this process to its parent's life");
    }
    let now = getppid().as_raw();
    match parent {
        Some(parent) => u32::try_from(now) == Ok(parent),
        None => now != 1,
    }
}
