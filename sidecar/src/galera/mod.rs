//! MariaDB nodes of a Galera cluster as pool elements, and the arbitrator beside them.
//!
//! - `disk`, [`peers`], [`standstill`], [`vote`], [`beginnings`]: what a node knows and what follows from it; without
//!   IO but for the files.
//! - `board`: what a node tells the others.
//! - `node`: how a node is started, and started anew.
//! - `arbitrator`: `dialtone galera-arbitrator`.
//! - `recover`: `dialtone galera-recover`.
//!
//! No list of nodes is configured: a node finds the others in the pool. A cluster is begun by an explicit order only.

pub mod arbitrator;
pub mod beginnings;
mod board;
pub mod disk;
pub mod node;
pub mod peers;
pub mod recover;
pub mod standstill;
pub mod vote;

use std::{net::SocketAddr, time::Duration};

use dialtone_handlespace::Handle;
use dialtone_pool_user::View;
use dialtone_wire::{PeId, Transport};

/// The port of Galera's group communication.
const GROUP_PORT: u16 = 4567;

/// How often files and pools are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long a registrar may take to answer before the remembered members have to do.
const REGISTRAR: Duration = Duration::from_secs(3);

/// The pool in which nodes that are not in service tell how far they came.
pub fn waiting_pool(pool: &Handle) -> Option<Handle> {
    beside(pool, b"-waiting")
}

/// The pool in which nodes tell where the history of their cluster was cut.
fn begun_pool(pool: &Handle) -> Option<Handle> {
    beside(pool, b"-begun")
}

fn beside(pool: &Handle, end: &[u8]) -> Option<Handle> {
    let mut name = pool.as_bytes().to_vec();
    name.extend_from_slice(end);
    Handle::new(&name).ok()
}

/// Where the members of a pool stand, but for one.
fn addresses(view: &View, but: Option<PeId>) -> Vec<SocketAddr> {
    let others = view.members.iter().filter(|member| Some(member.pe_id) != but);
    others.filter_map(|member| member.addr()).collect()
}

/// `gcomm://` with the hosts of these addresses.
fn group_address(addresses: &[SocketAddr], port: u16) -> String {
    let hosts = addresses.iter().map(|address| {
        let host = if address.is_ipv6() {
            format!("[{}]", address.ip())
        } else {
            address.ip().to_string()
        };
        if port == GROUP_PORT { host } else { format!("{host}:{port}") }
    });
    format!("gcomm://{}", hosts.collect::<Vec<_>>().join(","))
}

/// What the nodes that are not in service say of themselves.
fn notices(view: &View) -> std::collections::BTreeMap<PeId, standstill::Notice> {
    let notice = |(id, text): (PeId, &str)| Some((id, text.parse().ok()?));
    texts(view).filter_map(notice).collect()
}

/// What others than this node say of where the history of the cluster was cut.
fn begun(view: &View, but: PeId) -> Vec<beginnings::Beginning> {
    let mut all = Vec::new();
    for (_, text) in texts(view).filter(|(id, _)| *id != but) {
        for beginning in beginnings::parse(text) {
            if !all.contains(&beginning) {
                all.push(beginning);
            }
        }
    }
    all
}

fn texts(view: &View) -> impl Iterator<Item = (PeId, &str)> {
    view.members.iter().filter_map(|member| match &member.transport {
        Transport::Opaque(text) => Some((member.pe_id, std::str::from_utf8(text).ok()?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_addresses() {
        let addresses = ["127.0.0.1:3306", "[::1]:3306"].map(|text| text.parse().unwrap());
        assert_eq!(group_address(&addresses, 4567), "gcomm://127.0.0.1,[::1]");
        assert_eq!(group_address(&addresses[..1], 4568), "gcomm://127.0.0.1:4568");
        assert_eq!(group_address(&[], 4567), "gcomm://");
    }
}
