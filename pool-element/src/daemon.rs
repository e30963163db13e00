//! The frame of a daemon that is one element of a pool: in the pool once it can serve, out of it before it ends.

use std::net::IpAddr;
use std::time::Duration;

use dialtone_asap_client::{Agent, AgentConfig, AgentError, Facade, TlsConfig, parse_registrar};
use dialtone_daemon::{CancellationToken, Context, Error};
use dialtone_wire::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::ElementConfig;
use crate::registration::PoolElement;

/// How long the users of a pool take to hear that an element has left, at most; a registrar tells them at once.
const HEARD: Duration = Duration::from_millis(200);

/// Starts the agent of a daemon, with the keys `registrars` and `tls` of its configuration. `None`: it has no registrars.
///
/// # Errors
/// Certificates that cannot be used, or an address that cannot be bound.
pub async fn start_agent<R: Facade>(
    registrars: &[String],
    address: IpAddr,
    tls: Option<&TlsConfig>,
    roles: R,
) -> Result<Option<Agent<R>>, Error> {
    if registrars.is_empty() {
        return Ok(None);
    }
    let registrars = registrars.iter().map(|text| parse_registrar(text));
    let registrars = registrars.collect::<Result<Vec<_>, _>>().map_err(Error::other)?;
    let config = AgentConfig::telephony(address, registrars)
        .secured(tls)
        .map_err(|error| Error::Usage(error.to_string()))?;
    let agent = Agent::start(config, roles).await;
    agent.map(Some).map_err(|error| Error::Unavailable(error.to_string()))
}

/// Least used (RFC 5356 section 5.1), with a load from 0 to 1.
pub fn least_used(load: f64) -> Policy<'static> {
    Policy::LeastUsed { load: (load * f64::from(u32::MAX)) as u32 }
}

/// A server whose task runs.
#[derive(Debug)]
pub struct Server<'a> {
    pub context: &'a Context,
    /// What the ready file says.
    pub name: &'a str,
    pub addresses: Vec<(&'static str, String)>,
    /// What it is in its pool; `None`: it is in none.
    pub element: Option<(PoolElement, ElementConfig)>,
    /// Its load from 0 to 1 for [`least_used`], if that is its policy.
    pub load: Option<watch::Receiver<f64>>,
    pub task: JoinHandle<()>,
    /// Has the task finish what is under way, and end.
    pub drain: CancellationToken,
}

impl Server<'_> {
    /// Enters the pool when it `can_serve`, stays until the process is asked to stop, leaves the pool, and drains when
    /// the pool's users have heard of that.
    ///
    /// # Errors
    /// The pool does not take it, the ready file cannot be written, or the task has ended by itself.
    pub async fn run(self, can_serve: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { context, name, addresses, element, mut load, mut task, drain } = self;
        let mut registration = None;
        let mut ended = None;
        let enter = async {
            can_serve.await;
            if let Some((pool, element)) = element {
                let registration =
                    registration.insert(pool.register(element).map_err(Error::other)?);
                registration.registered().await.map_err(Error::other)?;
            }
            context.ready.in_service(name, addresses).map_err(Error::from)
        };
        tokio::select! {
            entered = enter => entered?,
            () = context.shutdown.cancelled() => {}
            result = &mut task => ended = Some(result),
        }
        while ended.is_none() {
            tokio::select! {
                () = context.shutdown.cancelled() => break,
                result = &mut task => ended = Some(result),
                load = changed(&mut load) => match registration.as_ref().map(|it| it.update_policy(least_used(load))) {
                    // The next one will be told.
                    None | Some(Ok(()) | Err(AgentError::Busy)) => {}
                    Some(Err(error)) => return Err(Error::other(error)),
                },
            }
        }
        // Out of the pool first, then what is under way is ended: whoever loses it comes back at once, and must not be
        // sent here.
        context.ready.out_of_service();
        if let Some(registration) = registration {
            registration.deregister().await;
            if ended.is_none() {
                ended = tokio::time::timeout(HEARD, &mut task).await.ok();
            }
        }
        drain.cancel();
        let asked = ended.is_none();
        match ended {
            Some(result) => result,
            None => task.await,
        }
        .map_err(Error::other)?;
        if asked {
            Ok(())
        } else {
            Err(Error::Unavailable("a part of the server ended by itself".to_owned()))
        }
    }
}

/// The next load. Cancel safe.
async fn changed(load: &mut Option<watch::Receiver<f64>>) -> f64 {
    if let Some(load) = load
        && load.changed().await.is_ok()
    {
        return *load.borrow_and_update();
    }
    std::future::pending().await
}
