//! The sidecar at work: the checker's findings open and close the gate, the registration follows it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use dialtone_asap_client::{Agent, AgentConfig, Registrar, source_towards};
use dialtone_daemon::{Context, DataDir, Error, admin, bind};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{
    ElementConfig, Elements, ElementsConfig, PoolElement, Registration, State, pe_id,
};
use dialtone_pool_user::{Users, UsersConfig};

use dialtone_wire::{PeId, Policy};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};

use crate::{
    check::{self, Check},
    child::Server,
    cli::Args,
    galera::node::{self, Action, Node, Reached},
    gate::{Finding, Gate, MAX_AGE},
    mysql::{Cluster, Mysql},
    ng::{Ng, report_load},
    options::{CheckKind, Service, is_local},
};

/// How often the sidecar looks whether it has been running at all.
const TICK: Duration = Duration::from_millis(50);

/// A tick so late means that the sidecar did not run.
const PAUSED: Duration = Duration::from_millis(100);

/// How long the end may wait for the registrar to confirm a de-registration.
const DEREGISTER: Duration = Duration::from_secs(1);

/// How long a node that waits for others may take to end.
const WAITING_NODE: Duration = Duration::from_secs(1);

/// Where the element stands.
enum Membership {
    Out,
    In(Registration, watch::Receiver<State>),
    /// The registrar is asked to let it go; it may not be registered again before that has been settled.
    Leaving(JoinHandle<bool>),
}

/// Runs the sidecar; `code` receives the exit code of a command that ended by itself.
pub(crate) async fn serve(args: Args, context: Context, code: Arc<AtomicU8>) -> Result<(), Error> {
    let (Some(pool), Some(service)) = (args.pool, args.transport) else {
        return Err(Error::Usage("--pool and --transport are needed".to_owned()));
    };
    let handle = Handle::new(pool.as_bytes())
        .map_err(|error| Error::Usage(format!("--pool {pool}: {error}")))?;
    if let Service::Sqlite(path) = &service {
        dialtone_location::sqlite::create(path)
            .map_err(|error| Error::Unavailable(error.to_string()))?;
    }
    let cluster = Cluster { data: args.galera.clone(), reached: Reached::default() };
    let check = choose_check(args.check.clone(), &service, &cluster)?;
    let relay = ng_address(args.check.as_ref(), &service);
    if args.capacity.is_some() && relay.is_none() {
        return Err(Error::Usage(
            "--capacity needs --check ng: nothing else tells how many calls there are".to_owned(),
        ));
    }
    let local = local_address(args.address, &service, &args.registrar)?;
    let data_dir = args.data_dir.map(|path| DataDir::open(&path, "--data-dir")).transpose()?;
    let pe_id = match (args.pe_id, &data_dir) {
        (Some(id), _) => PeId(id),
        (None, Some(folder)) => {
            pe_id::load_or_create(folder.path(), &handle).map_err(Error::other)?
        }
        (None, None) => pe_id::random().map_err(Error::other)?,
    };
    let galera = args.galera.map(|data| -> Result<_, Error> {
        let (Some(keep), Service::Tcp(address)) = (&data_dir, &service) else {
            return Err(Error::Usage("--galera needs --data-dir and a tcp transport".to_owned()));
        };
        Ok(node::Config {
            data,
            keep: keep.path().to_owned(),
            command: args.command.clone(),
            pool: handle.clone(),
            pe_id,
            address: *address,
            group_port: args.galera_port,
            bootstrap: args.bootstrap,
            force: args.force,
            resume: args.resume,
        })
    });
    let galera = galera.transpose()?;
    let mut element = ElementConfig::new(handle, pe_id, service.transport().map_err(Error::other)?);
    element.policy = match args.capacity {
        Some(_) => Policy::LeastUsed { load: 0 },
        None => args.policy,
    };
    element.lifetime = args.lifetime;

    let admin = match args.admin {
        Some(address) => Some(bind::tcp(address, "--admin").await?),
        None => None,
    };
    let secured = AgentConfig::telephony(local, args.registrar).secured(args.tls.config().as_ref());
    let agent = Agent::start(
        secured.map_err(|error| Error::Usage(error.to_string()))?,
        (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony())),
    )
    .await
    .map_err(|error| Error::Unavailable(error.to_string()))?;
    let mut addresses = vec![("asap", agent.local_addr().to_string())];
    if let Some(address) = service.address() {
        let name = match args.check {
            Some(CheckKind::Galera(_) | CheckKind::Mysql(_)) => "mysql",
            Some(CheckKind::Ng(_)) => "ng",
            _ => "server",
        };
        addresses.push((name, address.to_string()));
    }
    if let Some(listener) = admin {
        addresses.push(("admin", bind::local_addr(&listener)?.to_string()));
        tokio::spawn(admin::serve(listener, axum::Router::new(), context.clone()));
    }
    let (elements, user) = agent.handle();
    let mut node = galera
        .map(|config| Node::new(config, elements.clone(), &user, Reached::clone(&cluster.reached)))
        .transpose()?;
    // Last, so that nothing that is wrong above starts a server for nothing.
    let server = match &mut node {
        None if args.command.is_empty() => None,
        None => {
            let start = Server::start(&args.command);
            Some(start.map_err(|error| {
                Error::Unavailable(format!("cannot start the command: {error}"))
            })?)
        }
        // There may be nobody to join for long.
        Some(node) => tokio::select! {
            server = node.start(None) => Some(server?),
            () = context.shutdown.cancelled() => None,
        },
    };

    let loads = args.capacity.zip(relay).map(|(capacity, relay)| {
        let (loads_in, loads) = watch::channel(0);
        tokio::spawn(report_load(relay, capacity, loads_in));
        loads
    });

    let mut sidecar = Sidecar {
        gate: Gate::default(),
        membership: Membership::Out,
        pool: elements,
        element,
        loads,
        server,
        node,
        context,
        name: args.name.unwrap_or(pool),
        addresses,
    };
    let ended = sidecar.run(check, args.check_interval).await;
    sidecar.context.ready.out_of_service();
    sidecar.leave_for_good().await;
    match (sidecar.server.take(), &ended) {
        (Some(server), Ok(None)) => server.stop(sidecar.grace(args.stop_grace)).await,
        (_, Ok(Some(status))) => {
            tracing::warn!(status, "the command has ended");
            code.store(*status, Ordering::Relaxed);
        }
        _ => {}
    }
    let _ = timeout(DEREGISTER, agent.stop()).await;
    ended.map(drop)
}

fn choose_check(
    kind: Option<CheckKind>,
    service: &Service,
    cluster: &Cluster,
) -> Result<Box<dyn Check>, Error> {
    let missing = || {
        Error::Usage("--check sip needs a transport with an address; use tcp:… or udp:…".to_owned())
    };
    Ok(match (kind, service) {
        (Some(CheckKind::Galera(client)), Service::Tcp(address)) => {
            Box::new(Mysql::new(*address, &client, Some(cluster.clone())))
        }
        (Some(CheckKind::Mysql(client)), Service::Tcp(address)) => {
            Box::new(Mysql::new(*address, &client, None))
        }
        (Some(CheckKind::Galera(_) | CheckKind::Mysql(_)), _) => {
            return Err(Error::Usage(
                "--check mysql and --check galera need a transport tcp:HOST:PORT".to_owned(),
            ));
        }
        (Some(CheckKind::Sip), service) => {
            let address = service.address().ok_or_else(missing)?;
            Box::new(check::Sip { address, tcp: matches!(service, Service::Tcp(_)) })
        }
        (Some(kind @ CheckKind::Ng(_)), service) => {
            let address = ng_address(Some(&kind), service).ok_or_else(|| {
                Error::Usage(
                    "--check ng needs a transport udp:HOST:PORT, or ng:HOST:PORT".to_owned(),
                )
            })?;
            Box::new(Ng { address })
        }
        (Some(CheckKind::Sqlite(path)), _) => Box::new(check::Sqlite::new(path)),
        (Some(CheckKind::Tcp), Service::Udp(address) | Service::Tcp(address))
        | (None, Service::Tcp(address)) => Box::new(check::Tcp { address: *address }),
        (None, Service::Sqlite(path)) => Box::new(check::Sqlite::new(path.clone())),
        (Some(CheckKind::Tcp), Service::Sqlite(_)) => {
            return Err(Error::Usage(
                "--check tcp needs a transport with an address; use tcp:…".to_owned(),
            ));
        }
        (None, Service::Udp(_)) => {
            return Err(Error::Usage(
                "nothing tells the health of a udp transport by default; choose --check sip, --check ng or --check tcp".to_owned(),
            ));
        }
    })
}

/// Where the relay speaks NG, if it is one.
fn ng_address(check: Option<&CheckKind>, service: &Service) -> Option<SocketAddr> {
    match (check, service) {
        (Some(CheckKind::Ng(Some(address))), _)
        | (Some(CheckKind::Ng(None)), Service::Udp(address)) => Some(*address),
        _ => None,
    }
}

/// The address of the association: RFC 5352 section 3.1 has an element register from where it serves.
fn local_address(
    chosen: Option<IpAddr>,
    service: &Service,
    registrars: &[Registrar],
) -> Result<IpAddr, Error> {
    let registrar = registrars.iter().find_map(|registrar| registrar.remote());
    let address = match (chosen, service.address(), registrar) {
        (Some(chosen), Some(service), _) if chosen != service.ip() => {
            let service = service.ip();
            return Err(Error::Usage(format!(
                "--address {chosen}: the server is at {service}, and elements register from where they serve; leave it out"
            )));
        }
        (Some(chosen), _, _) => chosen,
        (None, Some(service), _) => service.ip(),
        (None, None, Some(registrar)) => routed_to(registrar.addr)?,
        (None, None, None) => return Err(no_address()),
    };
    if is_local(address) {
        Ok(address)
    } else {
        Err(Error::Usage(format!("--address {address} is not an address of this machine")))
    }
}

/// Neither an address of its own nor a registrar's was given.
pub(crate) fn no_address() -> Error {
    Error::Usage("--registrar ADDRESS is needed, or --address: multicast is heard on it".to_owned())
}

pub(crate) fn routed_to(peer: SocketAddr) -> Result<IpAddr, Error> {
    source_towards(peer)
        .map_err(|error| Error::Unavailable(format!("no route to the registrar {peer}: {error}")))
}

struct Sidecar {
    gate: Gate,
    membership: Membership,
    pool: PoolElement,
    element: ElementConfig,
    /// What the server has to do, if that is to be reported.
    loads: Option<watch::Receiver<u32>>,
    server: Option<Server>,
    /// What starts the server anew, if that is a node of a cluster.
    node: Option<Node>,
    context: Context,
    name: String,
    addresses: Vec<(&'static str, String)>,
}

impl Sidecar {
    /// Until shutdown, or until the command has ended with the code returned.
    async fn run(&mut self, check: Box<dyn Check>, pause: Duration) -> Result<Option<u8>, Error> {
        let (findings_in, mut findings) = mpsc::channel(1);
        let checker = tokio::spawn(run_checks(check, pause, findings_in));
        let _checker = AbortOnDrop(checker);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = clock();
        loop {
            self.follow_gate()?;
            let deadline = self.gate.next_deadline();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let mut found = None;
            tokio::select! {
                () = self.context.shutdown.cancelled() => return Ok(None),
                code = exited(&mut self.server) => return Ok(Some(code)),
                next = findings.recv() => found = next,
                changed = settled(&mut self.membership) => self.note(changed)?,
                load = changed(&mut self.loads) => self.report(load),
                () = due => {}
                _ = tick.tick() => {}
            }
            // Before anything is judged: whether this process was running meanwhile.
            let now = clock();
            let gap = now.duration_since(last).saturating_sub(TICK);
            last = now;
            if gap >= PAUSED {
                tracing::info!(ms = gap.as_millis() as u64, "did not run for a while");
                self.gate.handle_pause(now, gap);
            } else {
                self.gate.handle_lateness(gap);
            }
            if let Some((started, finding)) = found {
                let finding = match &self.server {
                    Some(server) if server.is_stopped() => {
                        Finding::Failed("the command is stopped".to_owned())
                    }
                    _ if self.node.as_ref().is_some_and(Node::is_bound) => Finding::Failed(
                        "too few nodes of the last component have come to the one that goes on"
                            .to_owned(),
                    ),
                    _ => finding,
                };
                let closed = self.gate.handle_finding(started, finding);
                self.closed(closed);
            }
            let closed = self.gate.handle_timeout(now);
            self.closed(closed);
            let in_service = self.gate.is_open();
            if let Some(action) = self.node.as_mut().and_then(|node| node.look(now, in_service)) {
                let shutdown = self.context.shutdown.clone();
                tokio::select! {
                    done = self.start_anew(action) => done?,
                    () = shutdown.cancelled() => return Ok(None),
                }
                // Whatever was found before is not about this server, and time has passed.
                while findings.try_recv().is_ok() {}
                last = clock();
            }
        }
    }

    /// Tells the pool, now or when the element is registered.
    fn report(&mut self, load: u32) {
        self.element.policy = Policy::LeastUsed { load };
        if let Membership::In(registration, _) = &self.membership
            && let Err(error) = registration.update_policy(self.element.policy.clone())
        {
            tracing::warn!(%error, "the load was not reported");
        }
    }

    /// Ends the server, which is not in service, and starts it with other options.
    async fn start_anew(&mut self, action: Action) -> Result<(), Error> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let component = match action {
            Action::Restart(reason) => {
                tracing::warn!(reason, "starting the server anew");
                None
            }
            Action::Resume(component) => {
                tracing::warn!(
                    component = component.id,
                    members = component.members.len(),
                    "no cluster is left, and a majority of the last one is here: going on from this node, which came farthest"
                );
                Some(component)
            }
        };
        // In order it would leave the component that it is to go on from.
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO).await;
        }
        self.server = Some(node.start(component.as_ref()).await?);
        Ok(())
    }

    /// How long the server may take to end: a node that only waits for others would not hear SIGTERM at all.
    fn grace(&self, grace: Duration) -> Duration {
        let waits = self.node.as_ref().is_some_and(|node| !node.has_served());
        if waits { grace.min(WAITING_NODE) } else { grace }
    }

    fn closed(&mut self, reason: Option<String>) {
        if let Some(reason) = reason {
            tracing::warn!(reason, "the check fails: leaving the pool");
            self.context.ready.out_of_service();
        }
    }

    /// Registers or de-registers as the gate says.
    fn follow_gate(&mut self) -> Result<(), Error> {
        self.membership = match std::mem::replace(&mut self.membership, Membership::Out) {
            Membership::Out if self.gate.is_open() => {
                let registration =
                    self.pool.register(self.element.clone()).map_err(Error::other)?;
                let state = registration.state();
                Membership::In(registration, state)
            }
            Membership::In(registration, _) if !self.gate.is_open() => {
                Membership::Leaving(tokio::spawn(registration.deregister()))
            }
            unchanged => unchanged,
        };
        Ok(())
    }

    fn note(&mut self, change: Settled) -> Result<(), Error> {
        match change {
            Settled::Left => self.membership = Membership::Out,
            Settled::State(State::Registered { .. }) => {
                self.context.ready.in_service(&self.name, self.addresses.clone())?;
            }
            Settled::State(State::Deregistered { .. }) => self.membership = Membership::Out,
            Settled::State(_) => self.context.ready.out_of_service(),
            Settled::AgentEnded => return Err(Error::other("the ASAP client has ended")),
        }
        Ok(())
    }

    /// Leaves the pool, as far as the registrar answers in time.
    async fn leave_for_good(&mut self) {
        let left = match std::mem::replace(&mut self.membership, Membership::Out) {
            Membership::Out => return,
            Membership::In(registration, _) => {
                timeout(DEREGISTER, registration.deregister()).await.unwrap_or(false)
            }
            Membership::Leaving(task) => matches!(timeout(DEREGISTER, task).await, Ok(Ok(true))),
        };
        if !left {
            tracing::warn!(
                "no registrar confirmed that the element left its pool; it will notice by itself"
            );
        }
    }
}

/// What happened to the membership.
enum Settled {
    AgentEnded,
    Left,
    State(State),
}

/// Cancel safe: a watch and a join handle.
async fn settled(membership: &mut Membership) -> Settled {
    match membership {
        Membership::Out => std::future::pending().await,
        Membership::In(_, state) => match state.changed().await {
            Ok(()) => Settled::State(state.borrow_and_update().clone()),
            Err(_) => Settled::AgentEnded,
        },
        Membership::Leaving(task) => {
            let _ = task.await;
            Settled::Left
        }
    }
}

/// Cancel safe: a watch.
async fn changed(loads: &mut Option<watch::Receiver<u32>>) -> u32 {
    if let Some(loads) = loads
        && loads.changed().await.is_ok()
    {
        return *loads.borrow_and_update();
    }
    std::future::pending().await
}

async fn exited(server: &mut Option<Server>) -> u8 {
    match server {
        Some(server) => server.exited().await,
        None => std::future::pending().await,
    }
}

/// One check after the other, each with a time limit that lets the next one still succeed before the last is too old.
async fn run_checks(
    mut check: Box<dyn Check>,
    pause: Duration,
    findings: mpsc::Sender<(Instant, Finding)>,
) {
    let limit = MAX_AGE.saturating_sub(pause + Duration::from_millis(10));
    loop {
        let started = clock();
        let finding = timeout(limit, check.check()).await.unwrap_or(Finding::Silent);
        if findings.send((started, finding)).await.is_err() {
            return;
        }
        sleep_until((started + pause).into()).await;
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
fn clock() -> Instant {
    Instant::now()
}
