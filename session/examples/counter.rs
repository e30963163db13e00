//! A service that counts for each of its users, and a user of it. Elements may be killed at any time: no request is
//! counted twice, and none that was answered is forgotten.
//!
//! ```text
//! counter element REGISTRAR ADDRESS PE-ID KEYFILE [MILLISECONDS]
//! counter user REGISTRAR ADDRESS COUNT
//! ```
//!
//! The count lives in the cookie alone, together with the number of the last request that it contains. A user numbers
//! its requests, has one under way at a time, and sends it again when the session has failed over. So an element that
//! is shown a cookie knows whether it has seen that request: then only the answer was lost. For so many milliseconds it
//! hesitates between the cookie and the answer, so that tests can kill it just there.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use dialtone_asap_client::{Agent, AgentConfig, parse_registrar};
use dialtone_handlespace::Handle;
use dialtone_keys::Keys;
use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig};
use dialtone_pool_user::{Users, UsersConfig};
use dialtone_session::element::Event;
use dialtone_session::user::Event as UserEvent;
use dialtone_session::{Client, Cookies, Own, SendOptions, Service, Session, UserConfig};
use dialtone_transport::SessionLimits;
use dialtone_wire::{PeId, Policy};
use serde::{Deserialize, Serialize};

pub(crate) const POOL: &str = "counter";
const PORT: u16 = 5;

/// What one element tells the next one about a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Number of the last request that was counted.
    pub(crate) last: u64,
    pub(crate) count: u64,
}

/// Answer to a request: its number, and how far its user has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) request: u64,
    pub(crate) count: u64,
    /// The element that sent this had not counted the request itself: it was in the cookie.
    pub(crate) repeated: bool,
}

impl Answer {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17);
        bytes.extend_from_slice(&self.request.to_be_bytes());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes.push(u8::from(self.repeated));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (request, rest) = bytes.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let [repeated] = rest else { return None };
        let (request, count) = (u64::from_be_bytes(*request), u64::from_be_bytes(*count));
        Some(Self { request, count, repeated: *repeated == 1 })
    }
}

/// Serves until the process ends. `hesitate`: how long an answer waits after its cookie.
pub(crate) async fn element(
    registrar: &str,
    address: IpAddr,
    pe_id: PeId,
    keys: &Path,
    hesitate: Duration,
) -> Result<(), Box<dyn Error>> {
    let pool: Handle = POOL.parse()?;
    let mut config = AgentConfig::telephony(address, vec![parse_registrar(registrar)?]);
    config.endpoint.sessions = Some(SessionLimits::element(PORT));
    let roles = (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony()));
    let mut agent = Agent::start(config, roles).await?;
    let (elements, users) = agent.handle();

    let socket = agent.take_sessions().ok_or("no sessions")?;
    let transport = socket.transport().ok_or("no port for sessions")?;
    let own = Own::new(pool.clone(), pe_id, transport.clone(), Policy::RoundRobin);
    let cookies =
        Cookies::new(Keys::load_or_create(keys)?, pool.clone(), Duration::from_secs(3600));
    let mut service = Service::<State>::start(socket, users, own, cookies, UserConfig::default())?;
    let mut registration = elements.register(ElementConfig::new(pool, pe_id, transport))?;
    registration.registered().await?;

    let mut states = BTreeMap::new();
    while let Some(event) = service.next().await {
        match event {
            Event::Opened { session, .. } => {
                states.insert(session, State::default());
            }
            Event::Resumed { session, state } => {
                states.insert(session, state);
            }
            Event::Received { session, payload, .. } => {
                let request = payload.try_into().map(u64::from_be_bytes);
                let (Ok(request), Some(state)) = (request, states.get_mut(&session)) else {
                    continue;
                };
                let repeated = request == state.last;
                if request == state.last + 1 {
                    *state = State { last: request, count: state.count + 1 };
                    // Before the answer: who has seen that has this as well.
                    service.save(session, state).await?;
                    tokio::time::sleep(hesitate).await;
                } else if !repeated {
                    // A gap: the user has lost its cookie, or never had it.
                    service.close(session).await?;
                    continue;
                }
                let answer = Answer { request, count: state.count, repeated };
                service.send(session, answer.encode()).await?;
            }
            Event::Closed { session, .. } => {
                states.remove(&session);
            }
            Event::Refused { .. } | Event::Met { .. } => {}
        }
    }
    Ok(())
}

/// Has one more counted. `failed_over` is told of every change of the element.
pub(crate) async fn count(
    session: &mut Session,
    request: u64,
    mut failed_over: impl FnMut(PeId),
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let payload = request.to_be_bytes();
    session.send(payload, SendOptions::DEFAULT).await?;
    loop {
        match session.next().await.ok_or("the session has ended")? {
            UserEvent::Connected { element } => failed_over(element),
            UserEvent::FailedOver { to, .. } => {
                failed_over(to);
                // What the element before had read, but not answered, is known to nobody else.
                session.send(payload, SendOptions::DEFAULT).await?;
            }
            UserEvent::Received { payload, .. } => {
                let answer = Answer::decode(&payload).ok_or("no answer")?;
                // An older one was repeated.
                if answer.request == request {
                    return Ok(answer);
                }
            }
            UserEvent::Unsent { payload: back, reason, .. } => {
                if back == payload {
                    return Err(reason.into());
                }
            }
            UserEvent::Closed => return Err("the session was closed".into()),
        }
    }
}

/// Counts so far.
pub(crate) async fn user(
    registrar: &str,
    address: IpAddr,
    upto: u64,
) -> Result<(), Box<dyn Error>> {
    let mut config = AgentConfig::telephony(address, vec![parse_registrar(registrar)?]);
    config.endpoint.sessions = Some(SessionLimits::user());
    let mut agent = Agent::start(config, Users::new(UsersConfig::telephony())).await?;
    let socket = agent.take_sessions().ok_or("no sessions")?;
    let client = Client::start(socket, agent.handle(), UserConfig::default())?;
    let mut session = client.open(&POOL.parse()?).await?;
    for request in 1..=upto {
        let answer = count(&mut session, request, |element| println!("now at {element}")).await;
        println!("{}", answer.map_err(|error| error.to_string())?.count);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(session);
    agent.stop().await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["element", registrar, address, pe_id, keys, ref hesitate @ ..] if hesitate.len() < 2 => {
            let (address, pe_id) = (address.parse()?, PeId(pe_id.parse()?));
            let hesitate = hesitate.first().map_or(Ok(0), |millis| millis.parse())?;
            let hesitate = Duration::from_millis(hesitate);
            element(registrar, address, pe_id, Path::new(keys), hesitate).await
        }
        ["user", registrar, address, upto] => {
            user(registrar, address.parse()?, upto.parse()?).await
        }
        _ => Err(
            "usage: counter element REGISTRAR ADDRESS PE-ID KEYFILE [MILLISECONDS] | user REGISTRAR ADDRESS COUNT"
                .into(),
        ),
    }
}
