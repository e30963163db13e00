//! Sessions on real sockets: agents, a registrar, elements and users in one process.

mod support;

use std::time::Duration;

use dialtone_asap_client::Agent;
use dialtone_handlespace::Handle;
use dialtone_keys::{Generation, Keys};
use dialtone_pool_element::{ElementConfig, Elements, Registration};
use dialtone_pool_user::{PoolUser, Users};
use dialtone_session::element::Event;
use dialtone_session::user::{Event as UserEvent, Reason};
use dialtone_session::{
    Client, Cookies, Own, SendOptions, Service, Session, SessionError, UserConfig,
};
use dialtone_transport::AssocId;
use dialtone_wire::{PeId, Policy};
use support::{LIMIT, NameService, members};
use tokio::time::timeout;

fn pool(name: &str) -> Handle {
    name.parse().unwrap()
}

/// An element with its agent.
struct Server {
    agent: Agent<(Elements, Users)>,
    service: Service<String>,
    registration: Registration,
}

impl Server {
    async fn start(names: &NameService, host: u8, name: &str) -> Self {
        let mut agent = names.element(host).await;
        let (elements, users) = agent.handle();
        let socket = agent.take_sessions().unwrap();
        let transport = socket.transport().unwrap();
        let pe_id = PeId(host.into());
        let own = Own::new(pool(name), pe_id, transport.clone(), Policy::RoundRobin);
        let keys = Keys::new(&Generation { id: 1, secret: [7; 32] }, None);
        let cookies = Cookies::new(keys, pool(name), Duration::from_secs(60));
        let service = Service::start(socket, users, own, cookies, UserConfig::default()).unwrap();
        let element = ElementConfig::new(pool(name), pe_id, transport);
        let mut registration = elements.register(element).unwrap();
        timeout(LIMIT, registration.registered()).await.unwrap().unwrap();
        Self { agent, service, registration }
    }

    async fn next(&mut self) -> Event<String> {
        timeout(LIMIT, self.service.next()).await.expect("no event").expect("the service ended")
    }

    async fn opened(&mut self) -> AssocId {
        match self.next().await {
            Event::Opened { session, .. } => session,
            event => panic!("{event:?}"),
        }
    }

    async fn received(&mut self) -> (AssocId, Vec<u8>) {
        match self.next().await {
            Event::Received { session, payload, .. } => (session, payload),
            event => panic!("{event:?}"),
        }
    }

    /// As a server should end: out of the pool first.
    async fn stop(self) {
        assert!(self.registration.deregister().await);
        self.service.stop().await;
        self.agent.stop().await;
    }
}

async fn client(names: &NameService, host: u8) -> (Agent<Users>, Client, PoolUser) {
    let mut agent = names.user(host).await;
    let socket = agent.take_sessions().unwrap();
    let pools = agent.handle();
    let client = Client::start(socket, pools.clone(), UserConfig::default()).unwrap();
    (agent, client, pools)
}

async fn event(session: &mut Session) -> UserEvent {
    timeout(LIMIT, session.next()).await.expect("no event").expect("the session ended")
}

async fn connected(session: &mut Session) -> PeId {
    match event(session).await {
        UserEvent::Connected { element } => element,
        event => panic!("{event:?}"),
    }
}

/// A server that stops in order: its user goes on with the next one, which knows what the first one knew.
#[tokio::test]
async fn a_server_that_leaves_hands_its_users_over() {
    handed_over(NameService::start(2).await).await;
}

#[tokio::test]
async fn a_server_that_leaves_hands_its_users_over_ipv6() {
    let Some(names) = NameService::over_ipv6().await else { return };
    handed_over(names).await;
}

async fn handed_over(names: NameService) {
    let mut servers =
        vec![Server::start(&names, 11, "echo").await, Server::start(&names, 12, "echo").await];
    let (agent, client, pools) = client(&names, 21).await;
    members(&pools, &pool("echo"), 2).await;
    for member in pools.resolve(&pool("echo")).await.unwrap().members.iter() {
        let address = names.net.address(member.pe_id.0 as u8);
        assert_eq!(member.transport.socket_addr().map(|at| at.ip()), Some(address));
    }
    let mut session = client.open(&pool("echo")).await.unwrap();
    let first = connected(&mut session).await;
    let at = usize::from(first == PeId(12));
    let mut server = servers.remove(at);
    let there = server.opened().await;
    server.service.save(there, &"alice".to_owned()).await.unwrap();
    server.service.send(there, b"welcome".to_vec()).await.unwrap();
    let welcome = UserEvent::Received { element: first, ppid: 0, payload: b"welcome".to_vec() };
    assert_eq!(event(&mut session).await, welcome);
    server.stop().await;

    let mut next = servers.remove(0);
    let UserEvent::FailedOver { from, to, cookie: true } = event(&mut session).await else {
        panic!("no fail-over")
    };
    assert_eq!((from, to.0), (first, 23 - first.0));
    session.send(b"go on".to_vec(), SendOptions::DEFAULT).await.unwrap();
    let here = next.opened().await;
    assert_eq!(next.next().await, Event::Resumed { session: here, state: "alice".to_owned() });
    assert_eq!(next.received().await, (here, b"go on".to_vec()));
    assert_eq!(next.service.counters().element.resumed, 1);
    // The session ends with its handle.
    drop(session);
    assert!(matches!(next.next().await, Event::Closed { session, .. } if session == here));
    next.stop().await;
    agent.stop().await;
    names.stop().await;
}

/// Two elements that are users of each other: each knows to which pool the other belongs.
///
/// Proves.
#[tokio::test]
async fn a_user_that_is_an_element_shows_its_card() {
    let names = NameService::start(3).await;
    let mut left = Server::start(&names, 11, "left").await;
    let mut right = Server::start(&names, 12, "right").await;
    let mut there = left.service.client().open(&pool("right")).await.unwrap();
    let mut back = right.service.client().open(&pool("left")).await.unwrap();
    assert_eq!(connected(&mut there).await, PeId(12));
    assert_eq!(connected(&mut back).await, PeId(11));
    for (server, of, element) in [(&mut left, "right", 12), (&mut right, "left", 11)] {
        let session = server.opened().await;
        let Event::Met { session: met, card } = server.next().await else { panic!("no card") };
        assert_eq!((met, card.handle, card.order), (session, pool(of), vec![PeId(element)]));
    }
    // RFC 5352 section 3.9: the pool is in the cache now, or will be when the registrar has answered.
    let (_, users) = right.agent.handle();
    assert_eq!(
        timeout(LIMIT, users.resolve(&pool("left"))).await.unwrap().unwrap().members.len(),
        1
    );
    // Each was sent one when it was dialled, too.
    let mut counters = left.service.counters();
    for _ in 0..1_000 {
        if counters.user.cards > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        counters = left.service.counters();
    }
    assert!(counters.user.cards > 0 && counters.element.cards == 1, "{counters:?}");
    drop((there, back));
    left.stop().await;
    right.stop().await;
    names.stop().await;
}

#[tokio::test]
async fn a_copy_for_all_and_for_oneself() {
    let names = NameService::start(4).await;
    let mut servers = Vec::new();
    for host in 11..14 {
        servers.push(Server::start(&names, host, "echo").await);
    }
    for server in &servers {
        members(&server.agent.handle().1, &pool("echo"), 3).await;
    }
    let mut session = servers[0].service.client().open(&pool("echo")).await.unwrap();
    connected(&mut session).await;
    session.send(b"others".to_vec(), SendOptions::TO_ALL).await.unwrap();
    let everybody = SendOptions::TO_ALL | SendOptions::TO_SELF;
    session.send(b"everybody".to_vec(), everybody).await.unwrap();
    for (at, server) in servers.iter_mut().enumerate() {
        let mut texts = Vec::new();
        while texts.last().is_none_or(|text| text != b"everybody") {
            if let Event::Received { payload, .. } = server.next().await {
                texts.push(payload);
            }
        }
        let expected: &[&[u8]] = if at == 0 { &[b"everybody"] } else { &[b"others", b"everybody"] };
        assert_eq!(texts, expected, "element {at}");
    }
    drop(session);
    for server in servers {
        server.stop().await;
    }
    names.stop().await;
}

/// One application that does not read makes its peer wait, on either side; nothing is lost, nobody else waits.
#[tokio::test]
async fn who_does_not_read_makes_the_other_wait() {
    const COUNT: u32 = 700;
    let names = NameService::start(5).await;
    let mut server = Server::start(&names, 11, "echo").await;
    let (agent, client, _) = client(&names, 21).await;
    let mut slow = client.open(&pool("echo")).await.unwrap();
    connected(&mut slow).await;
    let slow_there = server.opened().await;
    // The service does not read meanwhile.
    for n in 0..COUNT {
        let payload = vec![n as u8; 1_000];
        slow.send(payload, SendOptions::DEFAULT).await.unwrap();
    }
    for n in 0..COUNT {
        assert_eq!(server.received().await, (slow_there, vec![n as u8; 1_000]), "{n}");
    }
    // Now the user does not: what is sent to another session of the same process arrives.
    for n in 0..COUNT {
        server.service.send(slow_there, vec![n as u8; 1_000]).await.unwrap();
    }
    let mut quick = client.open(&pool("echo")).await.unwrap();
    connected(&mut quick).await;
    let quick_there = server.opened().await;
    server.service.send(quick_there, b"quick".to_vec()).await.unwrap();
    assert!(
        matches!(event(&mut quick).await, UserEvent::Received { payload, .. } if payload == b"quick")
    );
    for n in 0..COUNT {
        let UserEvent::Received { payload, .. } = event(&mut slow).await else { panic!("{n}") };
        assert_eq!(payload, vec![n as u8; 1_000], "{n}");
    }
    drop((slow, quick));
    server.stop().await;
    agent.stop().await;
    names.stop().await;
}

#[tokio::test]
async fn a_pool_that_nobody_knows_gives_everything_back() {
    let names = NameService::start(6).await;
    let mut agent = names.user(21).await;
    let config = UserConfig { limit: Duration::from_millis(700), ..UserConfig::default() };
    let socket = agent.take_sessions().unwrap();
    let client = Client::start(socket, agent.handle(), config).unwrap();
    let mut session = client.open(&pool("nobody")).await.unwrap();
    let number = session.send(b"hello".to_vec(), SendOptions::DEFAULT).await.unwrap();
    let unsent =
        UserEvent::Unsent { number, payload: b"hello".to_vec(), reason: Reason::NoElement };
    assert_eq!(event(&mut session).await, unsent);
    // The agent below ends: so do its sessions.
    agent.stop().await;
    assert_eq!(timeout(LIMIT, session.next()).await.unwrap(), None);

    let mut agent = names.user(22).await;
    let config = UserConfig { ppid: 11, ..UserConfig::default() };
    let socket = agent.take_sessions().unwrap();
    let error = Client::start(socket, agent.handle(), config).unwrap_err();
    assert_eq!(error, SessionError::ControlPpid);
    agent.stop().await;
    names.stop().await;
}
