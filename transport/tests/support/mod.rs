//! An endpoint as tests hold it: commands go in, and events are waited for.

use std::time::{Duration, Instant};

use dialtone_transport::{
    AssocId, DownCause, Endpoint, EndpointConfig, NetCommand, NetEvent, Protocol, Remote,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// How long something may take that is not measured.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) struct Peer {
    pub(crate) endpoint: Endpoint,
    pub(crate) events: Receiver<NetEvent>,
    dialled: u64,
}

impl Peer {
    pub(crate) async fn bind(config: EndpointConfig) -> Self {
        let (endpoint, events) = Endpoint::bind(config).await.unwrap();
        Self { endpoint, events, dialled: 0 }
    }

    /// Dials with ASAP.
    pub(crate) fn dial(&mut self, remote: Remote) -> AssocId {
        self.dial_with(Protocol::Asap, remote)
    }

    pub(crate) fn dial_with(&mut self, protocol: Protocol, remote: Remote) -> AssocId {
        self.dialled += 1;
        let assoc = AssocId::dialled(self.dialled);
        self.endpoint.execute(NetCommand::Connect { assoc, protocol, remote });
        assoc
    }

    pub(crate) fn send(&self, assoc: AssocId, payload: &[u8]) {
        self.endpoint.execute(NetCommand::Send { assoc, payload: payload.to_vec() });
    }

    pub(crate) async fn next(&mut self) -> NetEvent {
        timeout(LIMIT, self.events.recv()).await.expect("no event").expect("endpoint has ended")
    }

    pub(crate) async fn down(&mut self) -> (AssocId, DownCause) {
        match self.next().await {
            NetEvent::Down { assoc, cause } => (assoc, cause),
            event => panic!("{event:?}"),
        }
    }

    /// Waits for what its counters say.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Endpoint) -> bool) {
        let met = timeout(LIMIT, async {
            while !condition(&self.endpoint) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(met.await.is_ok(), "{what}: {:?}", self.endpoint.counters());
    }
}
