//! What a registrar knows, read from its admin JSON (`docs/registrar-admin.md`).

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde::Deserialize;

/// How long a registrar may take to answer.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Largest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;

/// Pools by handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// The answering registrar's identifier.
    pub server_id: String,
    pub pools: BTreeMap<String, Vec<Element>>,
}

/// An element of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Element {
    /// `0x` and 8 hex digits, as all identifiers here.
    pub id: String,
    /// The registrar that is its home.
    pub home: String,
    /// `IP:PORT`, or the text of an Opaque transport.
    pub address: String,
}

impl Pools {
    /// The elements of a pool.
    pub fn elements(&self, pool: &str) -> &[Element] {
        self.pools.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pools in which somebody serves at this address.
    pub fn pools_of(&self, address: &str) -> Vec<&str> {
        let serves = |element: &Element| element.address == address;
        self.pools
            .iter()
            .filter(|(_, elements)| elements.iter().any(serves))
            .map(|(pool, _)| pool.as_str())
            .collect()
    }

    /// How many elements have this registrar as their home.
    pub fn homed(&self, server_id: &str) -> usize {
        self.pools.values().flatten().filter(|element| element.home == server_id).count()
    }
}

/// What a registrar says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    pub server_id: String,
    pub in_service: bool,
    /// In the whole handlespace.
    pub elements: usize,
    pub counters: Counters,
    pub peers: Vec<Peer>,
}

/// Totals since the registrar's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// Sent to elements.
    pub keep_alives: u64,
    /// Elements that were the registrar's and are gone.
    pub removals: u64,
    /// Of elements that somebody could not reach.
    pub reports: u64,
}

/// Another registrar, as one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Peer {
    pub server_id: String,
    pub status: String,
    /// What the peer says that it owns; `None` before it said so.
    pub checksum_theirs: Option<String>,
    /// The same as this registrar knows it.
    pub checksum_ours: String,
}

#[derive(Deserialize)]
struct Answer {
    server_id: String,
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    handle: String,
    elements: Vec<Element>,
}

/// Asks the admin server at `address`; `None` if it does not answer as it should, soon.
pub(crate) fn fetch(address: &str) -> Option<Pools> {
    let body = get(address.parse().ok()?, "/pools").ok()?;
    let Answer { server_id, pools } = serde_json::from_slice(&body).ok()?;
    Some(Pools {
        server_id,
        pools: pools.into_iter().map(|pool| (pool.handle, pool.elements)).collect(),
    })
}

/// As [`fetch`], the loads that the elements of a pool report, by address.
pub(crate) fn fetch_loads(address: &str, pool: &str) -> Option<BTreeMap<String, u32>> {
    #[derive(Deserialize)]
    struct Answer {
        pools: Vec<Pool>,
    }
    #[derive(Deserialize)]
    struct Pool {
        handle: String,
        elements: Vec<Element>,
    }
    #[derive(Deserialize)]
    struct Element {
        address: String,
        policy: Policy,
    }
    #[derive(Deserialize)]
    struct Policy {
        load: Option<u32>,
    }
    let body = get(address.parse().ok()?, "/pools").ok()?;
    let answer: Answer = serde_json::from_slice(&body).ok()?;
    let elements = answer.pools.into_iter().filter(|found| found.handle == pool);
    let elements = elements.flat_map(|pool| pool.elements);
    Some(elements.filter_map(|element| Some((element.address, element.policy.load?))).collect())
}

/// As [`fetch`], what the registrar says of itself.
pub(crate) fn fetch_status(address: &str) -> Option<Status> {
    serde_json::from_slice(&get(address.parse().ok()?, "/status").ok()?).ok()
}

/// The body of an answer with status 200, asked for as HTTP/1.0 so that it comes in one piece.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let wrong = || std::io::Error::other("not an answer with status 200");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(wrong)?;
    let is_ok = answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200");
    if is_ok { Ok(answer.split_off(end + 4)) } else { Err(wrong()) }
}
