//! Tracing: one line per event on standard error, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets tracing up for the process; `level` is for who has not set `RUST_LOG`. A second call changes nothing.
pub fn init(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A line that cannot be written (the disk is full) would be complained about on standard error, and the
        // complaint that cannot be written either would be a panic.
        .log_internal_errors(false)
        .try_init();
}
