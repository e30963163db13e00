//! Announcements by multicast (RFC 5352 section 3.6): how elements and users find this registrar.

use std::io;
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

/// T7-ENRPoutdate of the receivers.
const T7: Duration = Duration::from_secs(5);

/// Announces `asap` (SCTP) and `tcp`, in secure mode TLS, while in service, until `shutdown`.
pub(crate) async fn run(
    announcer: Announcer,
    asap: Option<SocketAddr>,
    tcp: Option<SocketAddr>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
) {
    let mut failing = false;
    loop {
        let snapshot = snapshots.borrow().clone();
        if snapshot.in_service {
            let message = announcement(&snapshot, asap, tcp);
            let sent = match message.encode() {
                Ok(payload) => announcer.send(&payload).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = &sent
                && !failing
            {
                tracing::warn!(%error, "announcement not sent; it is tried again");
            }
            failing = sent.is_err();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause(snapshot.peers.len())) => {}
        }
    }
}

/// RFC 5352 section 3.6: (N + 1) * T6 with N other registrars known.
/// DEVIATION(G9): at least thrice in T7, after which receivers forget.
fn pause(others: usize) -> Duration {
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    T6.saturating_mul(others.saturating_add(1)).min(T7 / 3)
}

fn announcement(
    snapshot: &Snapshot,
    asap: Option<SocketAddr>,
    tcp: Option<SocketAddr>,
) -> Message<'static> {
    let use_ = TransportUse::DATA_ONLY;
    let sctp = |addr: SocketAddr| SctpTransport { port: ASAP_PORT, use_, addrs: addr.ip().into() };
    let sctp = asap.map(|addr| Transport::Sctp(sctp(addr)));
    let transports = sctp.into_iter().chain(tcp.map(Transport::tcp)).collect();
    Message::ServerAnnounce { server_id: snapshot.id, transports }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use dialtone_wire::ServerId;

    use super::*;
    use crate::core::{Config, Registrar};

    #[expect(clippy::disallowed_methods, reason = "the core is told when it starts")]
    fn snapshot(address: IpAddr) -> Snapshot {
        let now = std::time::Instant::now();
        let rng = fastrand::Rng::with_seed(1);
        Registrar::new(now, Config::new(address), ServerId(7), rng).snapshot(now)
    }

    /// All addresses where ASAP is spoken, and nothing but SCTP and TCP.
    /// Proves A-021.
    #[test]
    fn announcements_name_sctp_and_tcp() {
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let (asap, tcp) = (SocketAddr::new(ip, 9899), SocketAddr::new(ip, 3863));
            let bytes = announcement(&snapshot(ip), Some(asap), Some(tcp)).encode().unwrap();
            let Message::ServerAnnounce { server_id, transports } =
                Message::decode(&bytes).unwrap().message
            else {
                panic!("{bytes:?}");
            };
            assert_eq!(server_id, ServerId(7));
            let sctp =
                SctpTransport { port: 3863, use_: TransportUse::DATA_ONLY, addrs: ip.into() };
            assert_eq!(transports, [Transport::Sctp(sctp), Transport::tcp(tcp)]);
        }
    }

    /// G9: with many registrars the period of the RFC would be longer than receivers remember.
    /// Proves A-157.
    #[test]
    fn the_period_grows_with_the_registrars_but_not_too_far() {
        assert_eq!((pause(0), T7), (Duration::from_secs(1), Duration::from_secs(5)));
        assert!(pause(1) > T6 && pause(usize::MAX) * 3 <= T7);
    }
}
