//! `dialtone location`: moves what a location database holds to another one.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _, stdin, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use dialtone_daemon::exit;
use dialtone_location::{
    Error,
    cli::{Session, StoreAddress, StoreArgs},
    transfer::{self, Counts, Imported},
};

use crate::launcher::clock;

/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// Move bindings, claims and users from one location database to another
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Write all that a database holds to the standard output, as JSON lines
    ///
    /// It has the hashes of passwords in it: keep it secret.
    Export {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Take in what was exported; what is newer stays, so it may be repeated
    Import {
        /// `-` is the standard input
        file: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Carries the command out.
pub fn run(args: Args) -> ExitCode {
    let result = match args.command {
        Command::Export { store } => export(&store),
        Command::Import { file, store } => import(&file, &store),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dialtone location: {error}");
            ExitCode::from(match error {
                Error::Options { .. } | Error::Line { .. } => exit::CONFIG,
                _ => exit::UNAVAILABLE,
            })
        }
    }
}

fn export(store: &StoreArgs) -> Result<(), Error> {
    if let StoreAddress::Sqlite(path) = &store.store {
        // Opening would make it.
        File::open(path).map_err(|source| Error::Io { path: path.clone(), source })?;
    }
    let mut session = Session::open(store)?;
    let mut shown = Shown::new();
    let show = |counts: &Counts| format!("{} bindings", counts.bindings);
    let mut out = BufWriter::new(stdout().lock());
    let counts = transfer::export(&mut session, &mut out, &mut |counts| {
        shown.now_and_then(|| show(counts))
    })?;
    let Counts { bindings, claims, credentials } = counts;
    eprintln!("exported {bindings} bindings, {claims} claims, {credentials} users");
    Ok(())
}

fn import(file: &Path, store: &StoreArgs) -> Result<(), Error> {
    let mut session = Session::open(store)?;
    let mut shown = Shown::new();
    let show = |done: &Imported| format!("{} records", done.read.total());
    let mut progress = |done: &Imported| shown.now_and_then(|| show(done));
    let done = if file == Path::new("-") {
        let name = Path::new("standard input");
        transfer::import(&mut session, name, &mut stdin().lock(), &mut progress)?
    } else {
        let open =
            File::open(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
        transfer::import(&mut session, file, &mut BufReader::new(open), &mut progress)?
    };
    let Counts { bindings, claims, credentials } = done.read;
    eprintln!(
        "read {bindings} bindings, {claims} claims, {credentials} users; wrote {}, the others were there already",
        done.written
    );
    Ok(())
}

/// When progress was shown last.
struct Shown(Instant);

impl Shown {
    fn new() -> Self {
        Self(clock())
    }

    fn now_and_then(&mut self, text: impl FnOnce() -> String) {
        let now = clock();
        if now.saturating_duration_since(self.0) >= SHOWN_EVERY {
            self.0 = now;
            let _ = writeln!(std::io::stderr(), "{} so far", text());
        }
    }
}
