//! `dialtone load`: plays many phones against running gateways and prints what they saw.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use crate::load::{CallPlan, Load, LoadConfig, Report};
use crate::media::MediaConfig;
use crate::phone::Transport;

/// Play many SIP phones: register them, let them call each other, print what they saw and heard.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway at which callees register; given twice, the second is the callers' gateway.
    #[arg(long = "gateway", value_name = "IP:PORT", default_value = "127.0.0.1:5060")]
    gateways: Vec<SocketAddr>,
    /// The SIP domain of all users.
    #[arg(long, default_value = "dialtone.test")]
    domain: String,
    /// Phones that register and are called; each has a socket of its own.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
    /// Phones that call.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: u32,
    /// UDP, or TCP without a listening port.
    #[arg(long, value_enum, default_value = "udp")]
    transport: Transport,
    /// New calls per second; 0 places none.
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// Seconds for which calls are placed.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    duration: f64,
    /// Seconds that a call lasts once it was answered; one is drawn for each call.
    #[arg(long, value_delimiter = ',', default_value = "0.1,2", value_parser = seconds)]
    hold: Vec<f64>,
    /// Share of the callees that let it ring before they answer.
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    ring_share: f64,
    /// Seconds for which they let it ring.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    ring: f64,
    /// REGISTERs per second while the phones register.
    #[arg(long, default_value_t = 500.0, value_parser = positive_rate)]
    register_rate: f64,
    /// Seconds for which the phones go on registering before they call; 0 registers each once.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    register_duration: f64,
    /// Expiry of a registration in seconds.
    #[arg(long, default_value_t = 3600)]
    expires: u32,
    /// Address that the phones bind.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// Prefix of the user names.
    #[arg(long, default_value = "u")]
    prefix: String,
    /// Seed of callee, hold and ring choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Password of all users, should they be asked for one: a file whose first line it is.
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<std::path::PathBuf>,
    /// The same on the command line, where others can read it.
    #[arg(long)]
    password: Option<String>,
    /// Real audio in all calls: a tone both ways, and every packet verified.
    #[arg(long)]
    media: bool,
    /// UDP ports that all calls' audio shares.
    #[arg(long, value_name = "N", default_value_t = 16, requires = "media", value_parser = clap::value_parser!(u16).range(2..=4096))]
    media_ports: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn within(text: &str, range: std::ops::RangeInclusive<f64>, what: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("use {what} from {} to {}", range.start(), range.end()))
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.0..=100_000.0, "a rate per second")
}

fn positive_rate(text: &str) -> Result<f64, String> {
    within(text, 0.1..=100_000.0, "a rate per second")
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.0..=86_400.0, "seconds")
}

fn share(text: &str) -> Result<f64, String> {
    within(text, 0.0..=1.0, "a share")
}

/// Exit code 0 when nothing failed, 1 otherwise.
pub fn run(args: Args) -> ExitCode {
    let password = match args.password_file.as_ref().map(std::fs::read_to_string) {
        Some(Ok(text)) => text.lines().next().map(str::to_owned),
        Some(Err(error)) => {
            eprintln!("--password-file: {error}");
            return ExitCode::from(64);
        }
        None => args.password.clone(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(71);
        }
    };
    match runtime.block_on(play(&args, password)) {
        Ok(report) => {
            match serde_json::to_string_pretty(&report) {
                Ok(json) if args.json => println!("{json}"),
                _ => print!("{}", report.table()),
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!(
                "cannot open the phones (source {}, gateways {:?}): {error}",
                args.source, args.gateways
            );
            ExitCode::from(69)
        }
    }
}

async fn play(args: &Args, password: Option<String>) -> std::io::Result<Report> {
    let config = LoadConfig {
        domain: args.domain.clone(),
        source: args.source,
        transport: args.transport,
        callee_gateway: args.gateways[0],
        caller_gateway: args.gateways[args.gateways.len() - 1],
        callees: args.users as usize,
        callers: args.callers as usize,
        prefix: args.prefix.clone(),
        expires: args.expires,
        seed: args.seed,
        password,
    };
    eprintln!("registering {} phones at {}", config.callees, config.callee_gateway);
    let mut load = if args.media {
        let media = MediaConfig { ports: args.media_ports.into(), ..MediaConfig::new(args.source) };
        Load::open_with_media(config, &media).await?
    } else {
        Load::open(config).await?
    };
    let duration =
        (args.register_duration > 0.0).then(|| Duration::from_secs_f64(args.register_duration));
    load.register(args.register_rate, duration).await;
    if args.rate > 0.0 {
        eprintln!(
            "calling through {} at {}/s for {} s",
            args.gateways[args.gateways.len() - 1],
            args.rate,
            args.duration
        );
        let plan = CallPlan {
            rate: args.rate,
            duration: Duration::from_secs_f64(args.duration),
            holds: args.hold.iter().copied().map(Duration::from_secs_f64).collect(),
            ring_share: args.ring_share,
            ring: Duration::from_secs_f64(args.ring),
            reregister: 0.0,
        };
        load.call(&plan).await;
        load.settle().await;
    }
    eprintln!("reading the bindings back");
    load.verify(args.register_rate).await;
    Ok(load.report())
}
