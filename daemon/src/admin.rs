//! The admin HTTP server: `/healthz` (the process lives), `/readyz` (it is in service), `/metrics` (Prometheus text),
//! `/version`, and whatever the daemon adds. Read-only, without authentication: bind it to a trusted address.
//!
//! Slow or silent peers cost little: connections are limited in number, and one that completed no request for a while
//! is closed.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use axum::{Json, Router, http::StatusCode, routing::get, serve::Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

use crate::{Context, metrics};

/// Connections served at a time; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may go without a byte of response written.
const IDLE: Duration = Duration::from_secs(15);

/// How long requests under way at shutdown may take.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves `routes` and the base routes on `listener` until shutdown.
pub async fn serve(listener: TcpListener, routes: Router, context: Context) {
    let Context { role, ready, shutdown } = context;
    let version = Json(serde_json::json!({ "role": role, "version": env!("CARGO_PKG_VERSION") }));
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.is_in_service() {
                    (StatusCode::OK, "in service\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not in service\n")
                }
            }),
        )
        .route("/metrics", get(|| async { metrics::render() }))
        .route("/version", get(|| async { version }))
        .merge(routes);
    let listener = Limited { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    let server =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(%error, "the admin server ended");
        },
        () = async { shutdown.cancelled().await; sleep(DRAIN).await } => {}
    }
}

/// Accepts a limited number of connections at a time.
struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        loop {
            let permit = self.permits.clone().acquire_owned().await;
            match (self.listener.accept().await, permit) {
                (Ok((stream, address)), Ok(permit)) => {
                    let deadline = Box::pin(sleep(IDLE));
                    return (LimitedStream { stream, deadline, _permit: permit }, address);
                }
                // Out of descriptors, or reset before it was accepted: the next attempt may fare better.
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing was written to it for [`IDLE`], however busily it is read from.
struct LimitedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl LimitedStream {
    fn overdue<T>(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<T>> {
        self.deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.overdue(cx),
        }
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Ready(result) => {
                self.deadline = Box::pin(sleep(IDLE));
                Poll::Ready(result)
            }
            Poll::Pending => self.overdue(cx),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
