//! `dialtone figures name-service`: how many resolutions a second one registrar answers, what each costs, and how much
//! memory an element needs.
//!
//! A task on the runtime keeps all elements registered from one endpoint; a second endpoint asks.

use std::{
    collections::BTreeMap, fmt::Write as _, net::SocketAddr, path::Path, process::ExitCode,
    time::Duration,
};

use clap::value_parser;
use dialtone_transport::{
    ASAP_PORT, AssocId, ENCAPSULATION_PORT, Endpoint, EndpointConfig, Link, NetCommand, NetEvent,
    Protocol, Remote,
};
use dialtone_wire::{PeId, Policy, PoolElement, PoolHandle, ServerId, Transport, asap::Message};
use serde::Serialize;
use tokio::{
    sync::{mpsc::Receiver, watch},
    task::JoinHandle,
};

use super::{
    Conditions, Error, median, print,
    usage::{cpu_seconds, memory},
};
use crate::launcher::{Launcher, Layout, clock};

/// Pools that are resolved: ASAP has no transaction identifier, so that each handle has one request outstanding.
const POOLS: u32 = 64;
/// Elements in each of them.
const SERVERS: u32 = 3;
/// Elements in each pool that is there for its memory.
const MEMBERS: u32 = 20;
/// Registrations that wait for their answers at a time.
const REGISTERING: u32 = 64;
/// How long a registrar may take to answer anything.
const ANSWER: Duration = Duration::from_secs(5);

/// Resolutions per second of one registrar, and memory per element
///
/// A registrar runs as a process in a loopback slice of its own and has 64 pools of 3 elements. They are resolved over
/// TCP and over SCTP on one connection: one at a time, then 64 at a time, one for each pool. Figures are medians over
/// the runs. The asking side shares the cores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = value_parser!(u32).range(1..=3600))]
    duration: u32,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Elements that are added to see what memory they need
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=50_000))]
    elements: u32,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of each run.
    pub duration: Duration,
    pub runs: u32,
    pub elements: u32,
}

/// Resolutions in one way.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub link: &'static str,
    /// Requests under way at a time.
    pub outstanding: u32,
    pub per_second: f64,
    /// CPU time of the registrar for each, microseconds.
    pub cpu_us: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    pub rows: Vec<Row>,
    /// Memory of the registrar for each element, and how many there were.
    pub bytes_per_element: f64,
    pub elements: u32,
    /// Registrations per second meanwhile.
    pub registrations_per_second: f64,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        duration: Duration::from_secs(args.duration.into()),
        runs: args.runs,
        elements: args.elements,
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, plan, |line| eprintln!("{line}")));
    print(measured, args.json, table)
}

/// Measures `plan` with a registrar of `binary`; says what it is doing.
///
/// # Errors
/// When the registrar does not come into service or stops answering.
pub fn measure(
    binary: &Path,
    plan: Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let layout = Layout { registrars: 1, registrars_unlimited: true, ..Layout::default() };
    let mut launcher = Launcher::for_test(binary, layout)?;
    let pid = launcher.start_registrar(1)?.pid();
    let slice = launcher.slice();
    let registrar = slice.host(1);
    progress(&format!("a registrar is at {registrar}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let sctp = Remote {
            link: Link::Sctp,
            addr: SocketAddr::new(registrar, ENCAPSULATION_PORT),
            sctp_port: ASAP_PORT,
        };
        let tcp =
            Remote { link: Link::Tcp, addr: SocketAddr::new(registrar, ASAP_PORT), sctp_port: 0 };
        let mut elements = Elements::connect(SocketAddr::new(slice.host(201), 0), sctp).await?;
        elements.register(POOLS * SERVERS).await?;

        let asking = EndpointConfig::element(SocketAddr::new(slice.host(202), 0));
        let (endpoint, events) = Endpoint::bind(asking).await?;
        let mut user = User { endpoint, events, dialled: 0 };
        let mut rows = Vec::new();
        for (link, remote) in [("TCP", tcp), ("SCTP", sctp)] {
            let assoc = user.connect(remote).await?;
            for outstanding in [1, POOLS] {
                progress(&format!(
                    "{link}, {outstanding} outstanding: {} times {} s",
                    plan.runs,
                    plan.duration.as_secs()
                ));
                let mut runs = Vec::new();
                for _ in 0..plan.runs {
                    let before = cpu_seconds(pid)?;
                    let (count, time) = user.resolve(assoc, outstanding, plan.duration).await?;
                    let cpu = cpu_seconds(pid)? - before;
                    let count = f64::from(count.max(1));
                    runs.push((count / time.as_secs_f64(), 1e6 * cpu / count));
                }
                rows.push(Row {
                    link,
                    outstanding,
                    per_second: median(runs.iter().map(|run| run.0)),
                    cpu_us: median(runs.iter().map(|run| run.1)),
                });
            }
        }
        user.endpoint.close(true).await;

        progress(&format!("registering {} elements", plan.elements));
        let (before, from) = (memory(pid)?, clock());
        elements.register(plan.elements).await?;
        let time = clock().saturating_duration_since(from);
        let bytes = memory(pid)?.saturating_sub(before);
        Ok(Figures {
            conditions: conditions.end(),
            rows,
            bytes_per_element: bytes as f64 / f64::from(plan.elements),
            elements: plan.elements,
            registrations_per_second: f64::from(plan.elements) / time.as_secs_f64(),
        })
    })
}

/// The pool of element `n`, elements being numbered in the order of their registration.
fn pool_of(n: u32) -> String {
    match n.checked_sub(POOLS * SERVERS) {
        None => format!("pool-{}", n % POOLS),
        Some(n) => format!("memory-{}", n / MEMBERS),
    }
}

/// Who asks.
struct User {
    endpoint: Endpoint,
    events: Receiver<NetEvent>,
    dialled: u64,
}

impl User {
    async fn connect(&mut self, remote: Remote) -> Result<AssocId, Error> {
        let assoc = AssocId::dialled(self.dialled);
        self.dialled += 1;
        connect(&self.endpoint, &mut self.events, assoc, remote).await?;
        Ok(assoc)
    }

    /// Resolves for a while, `outstanding` at a time; how many there were, and how long it took.
    async fn resolve(
        &mut self,
        assoc: AssocId,
        outstanding: u32,
        duration: Duration,
    ) -> Result<(u32, Duration), Error> {
        let requests: BTreeMap<Vec<u8>, Vec<u8>> = (0..outstanding)
            .filter_map(|n| {
                let pool = pool_of(n).into_bytes();
                let handle = PoolHandle(&pool);
                let request = Message::HandleResolution { subscribe: false, handle, items: None };
                let request = request.encode().ok()?;
                Some((pool, request))
            })
            .collect();
        for payload in requests.values() {
            self.endpoint.execute(NetCommand::Send { assoc, payload: payload.clone() });
        }
        let from = clock();
        let mut waiting = requests.len();
        let mut count = 0;
        while waiting > 0 {
            let payload = message(&mut self.events, assoc).await?;
            let Ok(decoded) = Message::decode(&payload) else { return Err(Error::NoAnswer) };
            let Message::HandleResolutionResponse { handle, outcome: Ok(_), .. } = decoded.message
            else {
                return Err(Error::Service(format!("unexpected answer: {:?}", decoded.message)));
            };
            count += 1;
            match requests.get(handle.0) {
                Some(request) if clock().saturating_duration_since(from) < duration => {
                    self.endpoint.execute(NetCommand::Send { assoc, payload: request.clone() });
                }
                _ => waiting -= 1,
            }
        }
        Ok((count, clock().saturating_duration_since(from)))
    }
}

async fn connect(
    endpoint: &Endpoint,
    events: &mut Receiver<NetEvent>,
    assoc: AssocId,
    remote: Remote,
) -> Result<(), Error> {
    endpoint.execute(NetCommand::Connect { assoc, protocol: Protocol::Asap, remote });
    match tokio::time::timeout(ANSWER, events.recv()).await {
        Ok(Some(NetEvent::Up { .. })) => Ok(()),
        _ => Err(Error::NoAnswer),
    }
}

/// The next message of an association.
async fn message(events: &mut Receiver<NetEvent>, from: AssocId) -> Result<Vec<u8>, Error> {
    loop {
        match tokio::time::timeout(ANSWER, events.recv()).await {
            Ok(Some(NetEvent::Message { assoc, payload })) if assoc == from => return Ok(payload),
            Ok(Some(NetEvent::Down { assoc, .. })) if assoc == from => return Err(Error::NoAnswer),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err(Error::NoAnswer),
        }
    }
}

/// All elements, on one endpoint: keep-alives are answered until it is dropped.
struct Elements {
    /// How many there are to be.
    wanted: watch::Sender<u32>,
    /// How many have been registered.
    registered: watch::Receiver<u32>,
    task: JoinHandle<()>,
}

impl Elements {
    async fn connect(local: SocketAddr, registrar: Remote) -> Result<Self, Error> {
        let config = EndpointConfig { command_queue: 65_536, ..EndpointConfig::element(local) };
        let (endpoint, mut events) = Endpoint::bind(config).await?;
        let assoc = AssocId::dialled(0);
        connect(&endpoint, &mut events, assoc, registrar).await?;
        let (wanted, want) = watch::channel(0);
        let (count, registered) = watch::channel(0);
        let task = tokio::spawn(serve(endpoint, events, assoc, want, count));
        Ok(Self { wanted, registered, task })
    }

    /// Registers so many more; all are when this returns.
    async fn register(&mut self, more: u32) -> Result<(), Error> {
        self.wanted.send_modify(|wanted| *wanted += more);
        let wanted = *self.wanted.borrow();
        while *self.registered.borrow_and_update() < wanted {
            match tokio::time::timeout(ANSWER, self.registered.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Error::NoAnswer),
            }
        }
        Ok(())
    }
}

impl Drop for Elements {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Registers as many elements as are wanted and answers their keep-alives; ends when one is refused.
async fn serve(
    endpoint: Endpoint,
    mut events: Receiver<NetEvent>,
    assoc: AssocId,
    mut want: watch::Receiver<u32>,
    count: watch::Sender<u32>,
) {
    let address = endpoint.local_addr();
    let send = |message: Message<'_>| {
        if let Ok(payload) = message.encode() {
            endpoint.execute(NetCommand::Send { assoc, payload });
        }
    };
    // Keep-alives name the pool only: all elements of the pool answer, which puts their own off.
    let mut pools = BTreeMap::<Vec<u8>, Vec<PeId>>::new();
    let mut sent: u32 = 0;
    loop {
        while sent < *want.borrow() && sent < *count.borrow() + REGISTERING {
            let pool = pool_of(sent).into_bytes();
            sent += 1;
            let pe_id = PeId(sent);
            send(Message::Registration {
                handle: PoolHandle(&pool),
                element: PoolElement {
                    pe_id,
                    home: ServerId::NONE,
                    life: 300,
                    transport: Transport::tcp(address),
                    policy: Policy::RoundRobin,
                    asap_transport: None,
                    encaps_port: None,
                },
            });
            pools.entry(pool).or_default().push(pe_id);
        }
        let event = tokio::select! {
            event = events.recv() => event,
            Ok(()) = want.changed() => continue,
        };
        let payload = match event {
            Some(NetEvent::Message { payload, .. }) => payload,
            Some(NetEvent::Down { .. }) | None => return,
            Some(_) => continue,
        };
        let Ok(decoded) = Message::decode(&payload) else { continue };
        match decoded.message {
            Message::EndpointKeepAlive { handle, .. } => {
                for &pe_id in pools.get(handle.0).into_iter().flatten() {
                    send(Message::EndpointKeepAliveAck { handle, pe_id });
                }
            }
            Message::RegistrationResponse { reject: false, .. } => count.send_modify(|n| *n += 1),
            Message::RegistrationResponse { .. } => return,
            _ => {}
        }
    }
}

fn table(figures: &Figures) -> String {
    let mut text = format!(
        "{}\none registrar, {POOLS} pools of {SERVERS} elements, one connection\n\n",
        figures.conditions
    );
    let _ = writeln!(
        text,
        "{:<8}{:>12}{:>14}{:>22}",
        "link", "outstanding", "resolutions/s", "registrar CPU us each"
    );
    for Row { link, outstanding, per_second, cpu_us } in &figures.rows {
        let _ = writeln!(text, "{link:<8}{outstanding:>12}{per_second:>14.0}{cpu_us:>22.1}");
    }
    let Figures { bytes_per_element, elements, registrations_per_second, .. } = figures;
    let _ = writeln!(
        text,
        "\n{bytes_per_element:.0} bytes of memory an element ({elements} elements, {MEMBERS} in a pool; {registrations_per_second:.0} registrations/s)"
    );
    text
}
