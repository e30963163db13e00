//! The life of a process: options, configuration, runtime, signals, exit code.

use std::{ffi::CString, path::PathBuf, process::ExitCode, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    Checked, Error, Ready, config, logging, memory, metrics,
    parent::die_with_parent,
    signals::{shutdown_token, within},
};

const GRACE: Duration = Duration::from_secs(10);

/// Options of every daemon that reads a configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DaemonArgs {
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read and check the configuration, then exit: 0 if it is right, 64 if not
    #[arg(long)]
    pub check_config: bool,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Options of every long-running process.
#[derive(Clone, Debug, clap::Args)]
pub struct ProcessArgs {
    /// Write this JSON file when in service: name, role, pid and addresses
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// End at once when the process that started this one ends (PID: only if that is the parent)
    #[arg(long, value_name = "PID", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub die_with_parent: Option<u32>,
    /// How long the process may take to stop in order before it is ended.
    #[arg(skip = GRACE)]
    pub grace: Duration,
}

impl Default for ProcessArgs {
    fn default() -> Self {
        Self { ready_file: None, die_with_parent: None, grace: GRACE }
    }
}

/// What the process gives to the daemon that runs in it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Context {
    pub role: &'static str,
    pub ready: Ready,
    /// Cancelled when the process is asked to stop.
    pub shutdown: CancellationToken,
}

/// Runs a daemon: loads and checks its configuration, sets tracing and metrics up, runs `serve` on a runtime of its
/// own until it returns. After SIGTERM or SIGINT (`context.shutdown`) it has 10 s for that.
pub fn run<C, F>(
    role: &'static str,
    args: &DaemonArgs,
    serve: impl FnOnce(C, Context) -> F,
) -> ExitCode
where
    C: DeserializeOwned + Checked,
    F: Future<Output = Result<(), Error>>,
{
    let config = match &args.config {
        Some(path) => config::load(path).map_err(Error::from),
        None => Err(Error::Usage(format!("{role}: no configuration; name one with --config FILE"))),
    };
    match config {
        Err(error) => fail(&error),
        Ok(_) if args.check_config => {
            println!(
                "{}: the configuration is right",
                args.config.as_deref().unwrap_or("".as_ref()).display()
            );
            ExitCode::SUCCESS
        }
        Ok(config) => run_process(role, &args.process, |context| serve(config, context)),
    }
}

/// As [`run`], for a process that is configured by its command line alone.
pub fn run_process<F>(
    role: &'static str,
    args: &ProcessArgs,
    serve: impl FnOnce(Context) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), Error>>,
{
    if let Some(parent) = args.die_with_parent
        && !die_with_parent((parent != 0).then_some(parent))
    {
        return fail(&Error::Unavailable(format!(
            "{role}: the process that started this one has ended already"
        )));
    }
    // What `ps` and `top` call this process: one binary is many daemons.
    if let Ok(name) = CString::new(role) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    raise_descriptor_limit();
    logging::init("info");
    metrics::init();
    // One thread: whoever receives, decides and sends is woken without the kernel, and what arrives together is answered
    // together. The system call that wakes another thread costs more than most messages do. What blocks (database, SCTP
    // stack) has threads of its own; a machine with more cores runs more processes, which are pool elements anyway.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::other(error)),
    };
    let result = runtime.block_on(async {
        let shutdown = shutdown_token().map_err(Error::other)?;
        tokio::spawn(async {
            let mut every = tokio::time::interval(Duration::from_secs(5));
            loop {
                every.tick().await;
                metrics::upkeep();
                memory::give_back();
            }
        });
        let context = Context {
            role,
            ready: Ready::new(role, args.ready_file.clone()),
            shutdown: shutdown.clone(),
        };
        let mut serve = std::pin::pin!(serve(context));
        tokio::select! {
            result = &mut serve => return result,
            () = shutdown.cancelled() => {}
        }
        within(args.grace, "stopping in order", serve).await.unwrap_or_else(|| {
            Err(Error::Unavailable(format!(
                "{role}: did not stop within {} s",
                args.grace.as_secs()
            )))
        })
    });
    // Blocking tasks that still run must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Connections are bounded by configuration: the soft limit, often 1,024, must not be what bounds them, since then the
/// connections of strangers would take the descriptors of pool elements.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // What cannot be had is no reason not to serve.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(error.exit_code())
}
