//! Subcommand dispatch: one binary, a subcommand per daemon and tool. Called by a link that is named like a
//! subcommand, it is that one; without arguments it is `localnet`.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
use dialtone_daemon::exit;

/// Keeps SIP service up while its servers die
///
/// Without a command: localnet, the whole system on this machine.
/// Called by a link named like a command (registrar-ns, sip-proxy, …), it is that command.
#[derive(Debug, Parser)]
#[command(name = "dialtone", version, propagate_version = true, verbatim_doc_comment)]
#[command(override_usage = "dialtone [COMMAND] [OPTIONS]")]
#[command(
    after_help = "Run `dialtone COMMAND --help` for its options. RUST_LOG=debug tells more, RUST_LOG=warn less."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Localnet(dialtone::localnet::Args),
    Faults(dialtone::faults::Args),
    Figures(dialtone::figures::Args),
    RegistrarNs(dialtone_registrar_ns::cli::Args),
    SipProxy(dialtone_sip_proxy::cli::Args),
    SipGateway(dialtone_sip_gateway::cli::Args),
    MediaRelay(dialtone_media_relay::cli::Args),
    Conference(dialtone_conference::cli::Args),
    Cert(dialtone_cert::cli::Args),
    PoolElement(Box<dialtone_sidecar::cli::Args>),
    PoolUser(dialtone_pool_user::cli::Args),
    GaleraArbitrator(Box<dialtone_sidecar::galera::arbitrator::Args>),
    GaleraRecover(dialtone_sidecar::galera::recover::Args),
    Load(Box<dialtone_bench::cli::Args>),
    Location(dialtone::location::Args),
    User(dialtone::user::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(with_command(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked_for =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) };
        }
    };
    match cli.command {
        Command::Localnet(args) => dialtone::localnet::run(args),
        Command::Faults(args) => dialtone::faults::run(args),
        Command::Figures(args) => dialtone::figures::run(args),
        Command::RegistrarNs(args) => dialtone_registrar_ns::cli::run(args),
        Command::SipProxy(args) => dialtone_sip_proxy::cli::run(args),
        Command::SipGateway(args) => dialtone_sip_gateway::cli::run(args),
        Command::MediaRelay(args) => dialtone_media_relay::cli::run(args),
        Command::Cert(args) => dialtone_cert::cli::run(args),
        Command::Conference(args) => dialtone_conference::cli::run(args),
        Command::PoolElement(args) => dialtone_sidecar::cli::run(*args),
        Command::PoolUser(args) => dialtone_pool_user::cli::run(args),
        Command::GaleraArbitrator(args) => dialtone_sidecar::galera::arbitrator::run(*args),
        Command::GaleraRecover(args) => dialtone_sidecar::galera::recover::run(args),
        Command::Load(args) => dialtone_bench::cli::run(*args),
        Command::Location(args) => dialtone::location::run(args),
        Command::User(args) => dialtone::user::run(args),
    }
}

/// The arguments with the subcommand that the name of the program, or their absence, stands for.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let commands = <Command as Subcommand>::augment_subcommands(clap::Command::new("dialtone"));
    let name = arguments
        .first()
        .and_then(|program| Path::new(program).file_name())
        .and_then(|name| name.to_str());
    if let Some(name) = name
        && commands.find_subcommand(name).is_some()
    {
        let name = OsString::from(name);
        arguments[0] = "dialtone".into();
        arguments.insert(1, name);
    } else if arguments.len() <= 1 {
        arguments = vec!["dialtone".into(), "localnet".into()];
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Vec<String> {
        let arguments = with_command(arguments.iter().map(OsString::from).collect());
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn the_name_of_a_link_is_the_command() {
        assert_eq!(parsed(&["target/release/dialtone"]), ["dialtone", "localnet"]);
        assert_eq!(parsed(&["dialtone", "pool-user"]), ["dialtone", "pool-user"]);
        assert_eq!(
            parsed(&["/usr/sbin/pool-user", "--config", "x"]),
            ["dialtone", "pool-user", "--config", "x"]
        );
        assert_eq!(parsed(&["registrar-ns"]), ["dialtone", "registrar-ns"]);
        assert_eq!(parsed(&["dialtone", "--version"]), ["dialtone", "--version"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
