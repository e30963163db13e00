//! Announcements by multicast (RFC 5352 section 3.6): how elements and users find this registrar.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dialtone_daemon::CancellationToken;
use dialtone_transport::ASAP_PORT;
use dialtone_transport::multicast::Announcer;
use dialtone_wire::asap::Message;
use dialtone_wire::{SctpTransport, Transport, TransportUse};
use tokio::sync::watch;

use crate::core::Snapshot;

/// T6-Serverannounce.
const T6: Duration = Duration::from_secs(1);

/// Announces `asap` (SCTP) and `tcp` while in service, until `shutdown`: one datagram every (N + 1) * T6 with N other
/// registrars known, but (G9) at least thrice in the 5 s of T7, after which receivers forget.
pub(crate) async fn run(
    announcer: Announcer,
    asap: SocketAddr,
    tcp: Option<SocketAddr>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
) {
    loop {
        let snapshot = snapshots.borrow().clone();
        if snapshot.in_service {
            let message = announcement(&snapshot, asap, tcp);
            match message.encode() {
                Ok(payload) => {
                    if let Err(error) = announcer.send(&payload).await {
                        tracing::debug!(%error, "announcement not sent");
                    }
                }
                Err(error) => tracing::debug!(%error, "announcement not encoded"),
            }
        }
        let others = u32::try_from(snapshot.peers.len()).unwrap_or(u32::MAX);
        let pause = T6.saturating_mul(others.saturating_add(1)).min(5 * T6 / 3);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn announcement(
    snapshot: &Snapshot,
    asap: SocketAddr,
    tcp: Option<SocketAddr>,
) -> Message<'static> {
    let sctp =
        SctpTransport { port: ASAP_PORT, use_: TransportUse::DATA_ONLY, addrs: asap.ip().into() };
    let mut transports = vec![Transport::Sctp(sctp)];
    transports.extend(tcp.map(Transport::tcp));
    Message::ServerAnnounce { server_id: snapshot.id, transports }
}
