//! `dialtone cert`.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::value_parser;
use dialtone_daemon::exit;

use crate::{Authority, Error, Request};

/// Make an authority and certificates for the secure mode of the name service
///
/// For tests and small installations; any other authority's certificates do as well.
/// Nothing is ever overwritten, and keys are readable by their owner only.
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Example:
  dialtone cert authority pki
  dialtone cert issue pki ns1.example.org --registrar --ip 192.0.2.1
  dialtone cert issue pki proxy-1.example.org")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: FOLDER/authority.pem for everybody, FOLDER/authority.key to be kept from all others
    Authority {
        folder: PathBuf,
        /// How long it is good
        #[arg(long, value_name = "DAYS", default_value_t = 3_650, value_parser = value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue a certificate: NAME.pem and its key NAME.key
    Issue {
        /// The folder of the authority
        folder: PathBuf,
        /// DNS name or URI: who this is to registrars, and what their access lists call it
        name: String,
        /// For a registrar, which others dial; without this it can pass for an element or a user only
        #[arg(long)]
        registrar: bool,
        /// An address that a registrar is dialled at; may be repeated
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        /// Another DNS name or URI; may be repeated
        #[arg(long, value_name = "NAME")]
        also: Vec<String>,
        /// How long it is good
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Write here instead of the folder of the authority
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
}

/// Carries a command out.
pub fn run(args: Args) -> ExitCode {
    match carry_out(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error {
                Error::Exists { .. } | Error::File { .. } => exit::CANT_CREATE,
                Error::Make(_) => exit::SOFTWARE,
                _ => exit::CONFIG,
            })
        }
    }
}

fn carry_out(command: Command) -> Result<(), Error> {
    match command {
        Command::Authority { folder, days } => {
            Authority::create(&folder, days)?;
            println!(
                "made an authority that is good for {days} days: {}",
                Authority::path(&folder).display()
            );
        }
        Command::Issue { folder, name, registrar, ip, also, days, out } => {
            let authority = Authority::open(&folder)?;
            let mut request = Request { ips: ip, registrar, ..Request::new(name.as_str(), days) };
            request.names.extend(also);
            let paths =
                authority.issue(&request)?.write(out.as_deref().unwrap_or(&folder), &name)?;
            println!("[tls]");
            let authority = Authority::path(&folder);
            for (key, path) in
                [("certificate", paths.certificate), ("key", paths.key), ("authority", authority)]
            {
                // A daemon may well run in another folder.
                let path = std::path::absolute(&path).unwrap_or(path);
                println!("{key} = {:?}", path.display().to_string());
            }
        }
    }
    Ok(())
}
