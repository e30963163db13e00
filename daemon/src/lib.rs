//! What every `main()` of Dialtone shares, and nothing else: configuration loading, tracing, metrics, the admin HTTP
//! server with its base routes, signals, readiness, the life of the process.
//!
//! A daemon's `cli` module reads
//!
//! ```no_run
//! use dialtone_daemon::{Checked, Context, DaemonArgs, Error, Problems, admin, bind};
//! use std::{net::SocketAddr, process::ExitCode};
//!
//! #[derive(Debug, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     admin: SocketAddr,
//! }
//!
//! impl Checked for Config {}
//!
//! #[derive(Debug, clap::Args)]
//! pub struct Args {
//!     #[command(flatten)]
//!     daemon: DaemonArgs,
//! }
//!
//! pub fn run(args: Args) -> ExitCode {
//!     dialtone_daemon::run("sip-proxy", &args.daemon, serve)
//! }
//!
//! async fn serve(config: Config, context: Context) -> Result<(), Error> {
//!     let listener = bind::tcp(config.admin, "admin").await?;
//!     let addresses = [("admin", bind::local_addr(&listener)?.to_string())];
//!     let admin = tokio::spawn(admin::serve(listener, axum::Router::new(), context.clone()));
//!     context.ready.in_service("sip-proxy-1", addresses)?;
//!     context.shutdown.cancelled().await;
//!     // De-register first, then drain.
//!     context.ready.out_of_service();
//!     admin.await.map_err(Error::other)
//! }
//! ```

pub mod admin;
pub mod bind;
pub mod config;
pub mod data_dir;
mod error;
pub mod logging;
mod memory;
pub mod metrics;
pub mod parent;
pub mod ready;
mod run;
pub mod signals;

pub use config::{Checked, Problems};
pub use data_dir::DataDir;
pub use error::{Error, exit};
pub use ready::Ready;
pub use run::{Context, DaemonArgs, ProcessArgs, run, run_process};
pub use tokio_util::sync::CancellationToken;
