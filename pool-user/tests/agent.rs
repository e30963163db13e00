//! The agent on real sockets: an element and a user in one process, against a registrar of a few lines.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_asap_client::{Agent, AgentConfig};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig, State};
use dialtone_pool_user::{Choice, Freshness, ResolveError, Users, UsersConfig};
use dialtone_transport::model::{AssocId, Link, NetCommand, NetEvent, Remote};
use dialtone_transport::{Endpoint, EndpointConfig};
use dialtone_wire::asap::{Message, Resolution};
use dialtone_wire::{Cause, CauseCode, OperationError, PeId, PoolElement, PoolHandle, ServerId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

/// Keeps what is registered, answers and pushes; sends what it hears of reports.
struct Registrar {
    sctp: Remote,
    tcp: Remote,
    reports: mpsc::UnboundedReceiver<(Vec<u8>, PeId)>,
    vanish: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Registrar {
    async fn start(ip: IpAddr) -> Self {
        let free = SocketAddr::new(ip, 0);
        let config = EndpointConfig::registrar(free, Some(free));
        let (endpoint, mut events) = Endpoint::bind(config).await.unwrap();
        let sctp_port = dialtone_transport::ASAP_PORT;
        let sctp = Remote { link: Link::Sctp, addr: endpoint.local_addr(), sctp_port };
        let tcp = Remote { link: Link::Tcp, addr: endpoint.tcp_addr().unwrap(), sctp_port: 0 };
        let (report, reports) = mpsc::unbounded_channel();
        let (vanish, mut vanished) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut pools = Pools::default();
            loop {
                tokio::select! {
                    _ = &mut vanished => return endpoint.vanish(),
                    event = events.recv() => {
                        let Some(NetEvent::Message { assoc, payload }) = event else { continue };
                        match Message::decode(&payload).unwrap().message {
                            Message::EndpointUnreachable { handle, pe_id } => {
                                let _ = report.send((handle.0.to_vec(), pe_id));
                            }
                            message => pools.answer(assoc, &message, &endpoint),
                        }
                    }
                }
            }
        });
        Self { sctp, tcp, reports, vanish, task }
    }

    async fn vanish(self) {
        let _ = self.vanish.send(());
        self.task.await.unwrap();
    }
}

#[derive(Default)]
struct Pools {
    pools: BTreeMap<Vec<u8>, BTreeMap<PeId, PoolElement<'static>>>,
    subscribers: Vec<(AssocId, Vec<u8>)>,
}

impl Pools {
    fn answer(&mut self, assoc: AssocId, message: &Message<'_>, endpoint: &Endpoint) {
        let send = |assoc, message: &Message<'_>| {
            endpoint.execute(NetCommand::Send { assoc, payload: message.encode().unwrap() });
        };
        match message {
            Message::Registration { handle, element } => {
                let pe_id = element.pe_id;
                let pool = self.pools.entry(handle.0.to_vec()).or_default();
                pool.insert(pe_id, element.clone().into_owned());
                let handle = *handle;
                send(
                    assoc,
                    &Message::RegistrationResponse { reject: false, handle, pe_id, error: None },
                );
                send(
                    assoc,
                    &Message::EndpointKeepAlive {
                        home: false,
                        server_id: ServerId(1),
                        handle,
                        pe_id: None,
                    },
                );
            }
            Message::Deregistration { handle, pe_id } => {
                self.pools.entry(handle.0.to_vec()).or_default().remove(pe_id);
                send(
                    assoc,
                    &Message::DeregistrationResponse {
                        handle: *handle,
                        pe_id: *pe_id,
                        error: None,
                    },
                );
            }
            Message::HandleResolution { subscribe, handle, .. } => {
                if *subscribe {
                    self.subscribers.push((assoc, handle.0.to_vec()));
                }
                return send(assoc, &self.resolution(handle.0, *subscribe));
            }
            _ => return,
        }
        for (assoc, handle) in &self.subscribers {
            send(*assoc, &self.resolution(handle, true));
        }
    }

    fn resolution<'a>(&self, handle: &'a [u8], accepted: bool) -> Message<'a> {
        let elements: Vec<_> =
            self.pools.get(handle).into_iter().flatten().map(|(_, e)| e.clone()).collect();
        let outcome = match elements.is_empty() {
            false => Ok(Resolution { policy: None, elements }),
            true => {
                Err(OperationError { causes: vec![Cause::plain(CauseCode::UNKNOWN_POOL_HANDLE)] })
            }
        };
        Message::HandleResolutionResponse { accepted, handle: PoolHandle(handle), outcome }
    }
}

fn roles() -> (Elements, Users) {
    let elements = ElementsConfig {
        deregister_limit: Duration::from_millis(300),
        ..ElementsConfig::telephony()
    };
    (Elements::new(elements), Users::new(UsersConfig::telephony()))
}

#[tokio::test]
async fn element_and_user_share_an_agent_over_sctp() {
    let ip: IpAddr = "127.77.4.1".parse().unwrap();
    let mut registrar = Registrar::start(ip).await;
    let config = AgentConfig::telephony(ip, vec![registrar.sctp]);
    let agent = Agent::start(config, roles()).await.unwrap();
    let (elements, user) = agent.handle();
    let pool = Handle::new("sip-proxy").unwrap();

    let element = ElementConfig::tcp(pool.clone(), PeId(7), SocketAddr::new(ip, 5070));
    let mut registration = elements.register(element).unwrap();
    timeout(LIMIT, registration.registered()).await.unwrap().unwrap();
    assert_eq!(*registration.state().borrow(), State::Registered { home: registrar.sctp.addr });
    assert_eq!(agent.home().borrow().unwrap().remote, registrar.sctp);

    let mut views = user.watch(&pool).unwrap();
    let view = timeout(LIMIT, views.wait_for(|view| !view.members.is_empty()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(view.complete);
    assert_eq!(view.members[0].addr(), Some(SocketAddr::new(ip, 5070)));
    assert_eq!(user.resolve(&pool).await.unwrap().members.len(), 1);
    let unknown = Handle::new("nobody").unwrap();
    assert_eq!(user.resolve(&unknown).await.unwrap_err(), ResolveError::UnknownPool);

    let second = elements
        .register(ElementConfig::tcp(pool.clone(), PeId(8), SocketAddr::new(ip, 5071)))
        .unwrap();
    timeout(LIMIT, views.wait_for(|view| view.members.len() == 2)).await.unwrap().unwrap();
    user.report_unreachable(&pool, PeId(7));
    user.report_unreachable(&pool, PeId(7));
    let report = timeout(LIMIT, registrar.reports.recv()).await.unwrap().unwrap();
    assert_eq!(report, (pool.as_bytes().to_vec(), PeId(7)));
    for _ in 0..4 {
        assert_eq!(user.select(&pool, Choice::Policy, &[]).unwrap().pe_id, PeId(8));
    }

    assert!(timeout(LIMIT, second.deregister()).await.unwrap());
    timeout(LIMIT, views.wait_for(|view| view.members.len() == 1)).await.unwrap().unwrap();
    assert!(registrar.reports.try_recv().is_err(), "one failure, one report");

    // The registrar dies without a word: the view stays in use, the state says what it is.
    let mut state = registration.state();
    registrar.vanish().await;
    timeout(LIMIT, views.wait_for(|view| view.is_stale())).await.unwrap().unwrap();
    timeout(LIMIT, state.wait_for(|state| *state == State::Searching)).await.unwrap().unwrap();
    assert_eq!(user.select(&pool, Choice::Policy, &[]).unwrap().pe_id, PeId(7));
    assert!(!timeout(LIMIT, registration.deregister()).await.unwrap(), "nobody confirms");
    timeout(LIMIT, agent.stop()).await.unwrap();
    assert!(user.watch(&unknown).is_err());
    assert_eq!(user.resolve(&unknown).await.unwrap_err(), ResolveError::Agent);
}

#[tokio::test]
async fn a_user_needs_no_more_than_tcp() {
    let ip: IpAddr = "127.77.4.2".parse().unwrap();
    let registrar = Registrar::start(ip).await;
    let config = AgentConfig::telephony(ip, vec![registrar.tcp]);
    let agent = Agent::start(config, Users::new(UsersConfig::telephony())).await.unwrap();
    let user = agent.handle();
    let pool = Handle::new("sip-proxy").unwrap();
    assert_eq!(
        timeout(LIMIT, user.resolve(&pool)).await.unwrap().unwrap_err(),
        ResolveError::UnknownPool
    );
    let mut views = user.watch(&pool).unwrap();
    timeout(LIMIT, views.wait_for(|view| view.freshness == Freshness::Absent))
        .await
        .unwrap()
        .unwrap();
    agent.stop().await;
    registrar.vanish().await;
}

#[tokio::test]
async fn without_a_registrar_a_question_ends_in_time() {
    let ip: IpAddr = "127.77.4.3".parse().unwrap();
    let config = AgentConfig::telephony(ip, vec![dialtone_asap_client::registrar_sctp(ip)]);
    let users =
        UsersConfig { resolve_limit: Duration::from_millis(300), ..UsersConfig::telephony() };
    let agent = Agent::start(config, Users::new(users)).await.unwrap();
    let pool = Handle::new("sip-proxy").unwrap();
    let answer = timeout(LIMIT, agent.handle().resolve(&pool)).await.unwrap();
    assert_eq!(answer.unwrap_err(), ResolveError::NoRegistrar);

    // A question under way ends with the agent.
    let user = agent.handle();
    let mut views = user.watch(&pool).unwrap();
    let ((), answer) =
        timeout(LIMIT, async { tokio::join!(agent.stop(), user.resolve(&pool)) }).await.unwrap();
    assert_eq!(answer.unwrap_err(), ResolveError::Agent);
    while timeout(LIMIT, views.changed()).await.unwrap().is_ok() {}
}
