//! SIGTERM and SIGINT: the first asks everything to stop in order, the second ends the process at once.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. The second exits at once with 128 + its number.
pub fn shutdown_token() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 128 + 15),
                _ = interrupt.recv() => ("SIGINT", 128 + 2),
            }
        };
        let (name, _) = next().await;
        tracing::info!(signal = name, "stopping; once more ends at once");
        cancelled.cancel();
        let (name, code) = next().await;
        tracing::warn!(signal = name, "ending at once");
        std::process::exit(code);
    });
    Ok(token)
}

/// Awaits `work` for `limit` at most; a log line says how it went. `None` when time ran out.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Option<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => {
            tracing::debug!(what, "done in time");
            Some(result)
        }
        Err(_) => {
            tracing::warn!(
                what,
                limit_ms = limit.as_millis() as u64,
                "not done in time, going on without"
            );
            None
        }
    }
}
