//! Read-only JSON of a registrar's state; `docs/registrar-admin.md` describes every field.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use dialtone_handlespace::Handle;
use dialtone_wire::{ParameterType, Policy, PolicyType, TransportUse};
use serde::Serialize;

use crate::core::{AddressSnapshot, Counters, ElementSnapshot, PeerSnapshot, PoolSnapshot};
use crate::driver::View;

/// What the routes need.
#[derive(Clone, Debug)]
pub struct AdminState {
    pub name: String,
    /// Where peers reach it: the UDP address that carries SCTP, or that of ENRP over TLS.
    pub address: SocketAddr,
    pub view: View,
}

/// The routes `/status`, `/peers`, `/pools` and `/pools/{handle}`.
pub fn routes(state: AdminState) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/peers", get(peers))
        .route("/pools", get(pools))
        .route("/pools/{handle}", get(pool))
        .with_state(state)
}

#[derive(Serialize)]
struct StatusJson {
    name: String,
    server_id: String,
    address: String,
    in_service: bool,
    uptime_seconds: u64,
    checksum: String,
    pools: usize,
    elements: usize,
    owned_elements: usize,
    clients: usize,
    subscriptions: usize,
    pool_conflicts: u64,
    counters: Counters,
    peers: Vec<PeerJson>,
}

#[derive(Serialize)]
struct PeerJson {
    server_id: String,
    address: Option<String>,
    status: &'static str,
    last_heard_ms: u64,
    checksum_theirs: Option<String>,
    checksum_ours: String,
    elements: usize,
    resyncing: bool,
}

#[derive(Serialize)]
struct PeersJson {
    server_id: String,
    peers: Vec<PeerJson>,
}

#[derive(Serialize)]
struct PoolsJson {
    server_id: String,
    pools: Vec<PoolJson>,
}

#[derive(Serialize)]
struct PoolJson {
    handle: String,
    policy: String,
    transport: &'static str,
    control: bool,
    subscribers: usize,
    elements: Vec<ElementJson>,
}

#[derive(Serialize)]
struct ElementJson {
    id: String,
    home: String,
    address: String,
    policy: serde_json::Value,
    life_seconds: i32,
    asap_address: Option<String>,
    asap_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unanswered: Option<u8>,
    reports: u32,
}

async fn status(State(state): State<AdminState>) -> Json<StatusJson> {
    let snapshot = state.view.snapshots.borrow().clone();
    Json(StatusJson {
        name: state.name,
        server_id: id(snapshot.id.0),
        address: state.address.to_string(),
        in_service: snapshot.in_service,
        uptime_seconds: snapshot.uptime.as_secs(),
        checksum: checksum(snapshot.checksum),
        pools: snapshot.pools,
        elements: snapshot.elements,
        owned_elements: snapshot.owned,
        clients: snapshot.clients,
        subscriptions: snapshot.subscriptions,
        pool_conflicts: snapshot.conflicts,
        counters: snapshot.counters,
        peers: snapshot.peers.iter().map(peer_json).collect(),
    })
}

async fn peers(State(state): State<AdminState>) -> Json<PeersJson> {
    let snapshot = state.view.snapshots.borrow().clone();
    Json(PeersJson {
        server_id: id(snapshot.id.0),
        peers: snapshot.peers.iter().map(peer_json).collect(),
    })
}

async fn pools(State(state): State<AdminState>) -> Json<PoolsJson> {
    let server_id = id(state.view.snapshots.borrow().id.0);
    Json(PoolsJson { server_id, pools: state.view.pools().await.iter().map(pool_json).collect() })
}

async fn pool(
    State(state): State<AdminState>,
    Path(handle): Path<String>,
) -> Result<Json<PoolJson>, (StatusCode, Json<serde_json::Value>)> {
    for name in names(&handle) {
        if let Some(pool) = state.view.pool(name).await {
            return Ok(Json(pool_json(&pool)));
        }
    }
    let text = serde_json::json!({ "error": "unknown pool handle", "handle": handle });
    Err((StatusCode::NOT_FOUND, Json(text)))
}

/// The handles that are shown as this text: hexadecimal digits can be themselves, too.
fn names(text: &str) -> impl Iterator<Item = Handle> {
    let digits = text.strip_prefix("0x").unwrap_or_default().as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let decoded = bytes.collect::<Option<Vec<u8>>>().unwrap_or_default();
    let names = [Handle::new(text), Handle::new(decoded)];
    names.into_iter().flatten().filter(move |name| name.to_string() == text)
}

fn id(id: u32) -> String {
    format!("{id:#010x}")
}

fn checksum(value: u16) -> String {
    format!("{value:#06x}")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn peer_json(peer: &PeerSnapshot) -> PeerJson {
    PeerJson {
        server_id: id(peer.id.0),
        address: peer.addr.map(|addr| addr.to_string()),
        status: peer.status,
        last_heard_ms: millis(peer.last_heard),
        checksum_theirs: peer.theirs.map(checksum),
        checksum_ours: checksum(peer.ours),
        elements: peer.owned,
        resyncing: peer.resyncing,
    }
}

fn pool_json(pool: &PoolSnapshot) -> PoolJson {
    PoolJson {
        handle: pool.handle.to_string(),
        policy: policy_name(pool.policy),
        transport: match pool.transport {
            ParameterType::DCCP_TRANSPORT => "dccp",
            ParameterType::OPAQUE_TRANSPORT => "opaque",
            ParameterType::SCTP_TRANSPORT => "sctp",
            ParameterType::TCP_TRANSPORT => "tcp",
            ParameterType::UDP_TRANSPORT => "udp",
            ParameterType::UDP_LITE_TRANSPORT => "udp-lite",
            _ => "unknown",
        },
        control: pool.transport_use == TransportUse::DATA_PLUS_CONTROL,
        subscribers: pool.subscribers,
        elements: pool.elements.iter().map(element_json).collect(),
    }
}

fn element_json(element: &ElementSnapshot) -> ElementJson {
    ElementJson {
        id: id(element.pe_id.0),
        home: id(element.home.0),
        address: match &element.transport {
            AddressSnapshot::Socket(addr) => addr.to_string(),
            // Opaque bytes are shown as handles are: as text, or else as hexadecimal digits.
            AddressSnapshot::Opaque(data) => {
                Handle::new(data).map(|text| text.to_string()).unwrap_or_default()
            }
        },
        policy: policy_values(&element.policy),
        life_seconds: element.life,
        asap_address: element.asap.map(|(addr, _)| addr.to_string()),
        asap_port: element.asap.map(|(_, port)| port),
        unanswered: element.unanswered,
        reports: element.reports,
    }
}

fn policy_name(policy: PolicyType) -> String {
    policy.name().map_or_else(|| policy.to_string(), |name| name.replace(' ', "-"))
}

fn policy_values(policy: &Policy<'_>) -> serde_json::Value {
    match policy {
        Policy::LeastUsedDegradation { load, degradation }
        | Policy::PriorityLeastUsed { load, degradation } => {
            serde_json::json!({ "load": load, "degradation": degradation })
        }
        Policy::LeastUsed { load } | Policy::RandomizedLeastUsed { load } => {
            serde_json::json!({ "load": load })
        }
        Policy::Priority { priority } => serde_json::json!({ "priority": priority }),
        Policy::WeightedRandom { weight } | Policy::WeightedRoundRobin { weight } => {
            serde_json::json!({ "weight": weight })
        }
        Policy::Other { .. } | Policy::Random | Policy::RoundRobin => serde_json::json!({}),
    }
}
