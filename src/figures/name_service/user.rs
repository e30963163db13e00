//! Who asks: one endpoint, and as many requests under way as there are pools.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use dialtone_transport::{AssocId, Endpoint, EndpointConfig, NetCommand, NetEvent, Remote};
use dialtone_wire::{PoolHandle, asap::Message};
use tokio::sync::mpsc::Receiver;

use super::{super::Error, ANSWER, elements::connect};
use crate::launcher::clock;

pub(super) struct User {
    endpoint: Endpoint,
    events: Receiver<NetEvent>,
    dialled: u64,
}

/// What was resolved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resolved {
    pub(super) count: u32,
    /// Elements in all answers together.
    pub(super) elements: usize,
    pub(super) time: Duration,
}

impl User {
    pub(super) async fn bind(local: SocketAddr) -> Result<Self, Error> {
        let (endpoint, events) = Endpoint::bind(EndpointConfig::element(local)).await?;
        Ok(Self { endpoint, events, dialled: 0 })
    }

    pub(super) async fn connect(&mut self, remote: Remote) -> Result<AssocId, Error> {
        let assoc = AssocId::dialled(self.dialled);
        self.dialled += 1;
        connect(&self.endpoint, &mut self.events, assoc, remote).await?;
        Ok(assoc)
    }

    /// Resolves pools for a while, each at least once, and all of them at the same time: ASAP has no transaction
    /// identifier, so that each handle has one request outstanding.
    pub(super) async fn resolve(
        &mut self,
        assoc: AssocId,
        pools: impl Iterator<Item = String>,
        duration: Duration,
    ) -> Result<Resolved, Error> {
        let requests: BTreeMap<Vec<u8>, Vec<u8>> = pools
            .filter_map(|pool| {
                let pool = pool.into_bytes();
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
        let mut resolved = Resolved::default();
        while waiting > 0 {
            let payload = self.message(assoc).await?;
            let Ok(decoded) = Message::decode(&payload) else { return Err(Error::NoAnswer) };
            let Message::HandleResolutionResponse { handle, outcome: Ok(answer), .. } =
                decoded.message
            else {
                return Err(Error::Service(format!("unexpected answer: {:?}", decoded.message)));
            };
            resolved.count += 1;
            resolved.elements += answer.elements.len();
            match requests.get(handle.0) {
                Some(request) if clock().saturating_duration_since(from) < duration => {
                    self.endpoint.execute(NetCommand::Send { assoc, payload: request.clone() });
                }
                _ => waiting -= 1,
            }
        }
        resolved.time = clock().saturating_duration_since(from);
        Ok(resolved)
    }

    /// The next message of an association.
    async fn message(&mut self, from: AssocId) -> Result<Vec<u8>, Error> {
        loop {
            match tokio::time::timeout(ANSWER, self.events.recv()).await {
                Ok(Some(NetEvent::Message { assoc, payload })) if assoc == from => {
                    return Ok(payload);
                }
                Ok(Some(NetEvent::Down { assoc, .. })) if assoc == from => {
                    return Err(Error::NoAnswer);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(Error::NoAnswer),
            }
        }
    }

    pub(super) async fn close(self) {
        self.endpoint.close(true).await;
    }
}
