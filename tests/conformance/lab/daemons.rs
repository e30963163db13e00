//! Registrar daemons on loopback, and endpoints that say bytes to them over real sockets.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone::launcher::{Launcher, Layout};
use dialtone_transport::{
    AssocId, Endpoint, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use tokio::sync::mpsc::Receiver;

use super::bytes::Message;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Registrar daemons `registrar-ns-1` and up, in service.
pub(crate) fn registrars(count: u8) -> Launcher {
    let layout = Layout { registrars: count, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    let names: Vec<String> = (1..=count).map(|n| launcher.spawn_registrar(n).unwrap()).collect();
    for name in &names {
        launcher.wait_ready(name).unwrap();
    }
    launcher
}

/// Somebody at an address of its own with one association or connection.
pub(crate) struct Line {
    endpoint: Endpoint,
    events: Receiver<NetEvent>,
    assoc: AssocId,
    heard: VecDeque<Message>,
}

impl Line {
    /// Connects `own` with a registrar's well-known port.
    pub(crate) async fn open(
        own: IpAddr,
        registrar: IpAddr,
        link: Link,
        protocol: Protocol,
    ) -> Self {
        let (endpoint, mut events) =
            Endpoint::bind(EndpointConfig::element(SocketAddr::new(own, 0))).await.unwrap();
        let assoc = AssocId::dialled(0);
        let remote = match (link, protocol) {
            (Link::Tcp, _) => Remote { link, addr: SocketAddr::new(registrar, 3863), sctp_port: 0 },
            (_, Protocol::Asap) => {
                Remote { link, addr: SocketAddr::new(registrar, 9899), sctp_port: 3863 }
            }
            (_, Protocol::Enrp) => {
                Remote { link, addr: SocketAddr::new(registrar, 9899), sctp_port: 9901 }
            }
        };
        endpoint.execute(NetCommand::Connect { assoc, protocol, remote });
        let up = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
        assert!(matches!(up, Some(NetEvent::Up { .. })), "{up:?}");
        Self { endpoint, events, assoc, heard: VecDeque::new() }
    }

    pub(crate) fn say(&self, payload: Vec<u8>) {
        self.endpoint.execute(NetCommand::Send { assoc: self.assoc, payload });
    }

    /// The next message of a kind; others that come before are kept.
    pub(crate) async fn hear(&mut self, kind: u8) -> Message {
        if let Some(at) = self.heard.iter().position(|message| message.kind == kind) {
            return self.heard.remove(at).unwrap();
        }
        let wanted = async {
            loop {
                match self.events.recv().await.expect("the endpoint runs") {
                    NetEvent::Message { payload, .. } => {
                        let message = Message::read(&payload);
                        if message.kind == kind {
                            return message;
                        }
                        self.heard.push_back(message);
                    }
                    NetEvent::Down { cause, .. } => panic!("the association ended: {cause:?}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, wanted)
            .await
            .unwrap_or_else(|_| panic!("no message {kind:#04x}"))
    }

    pub(crate) async fn close(self) {
        self.endpoint.close(true).await;
    }
}
