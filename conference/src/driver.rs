//! The task that owns the focus and connects it to sockets and media threads.
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | driver (one) | the focus, maps of connections, the handle of the media threads | asked to, or a media thread died; after everybody was hung up or 5 s |
//! | of [`dialtone_sip::transport`] | sockets and connections | their handles are dropped |
//! | threads of [`crate::media`] | rooms | the driver ends |
//!
//! When a media thread has died, everybody is hung up and the driver ends: rooms begin anew at other servers, or at this one
//! when it has been started again.
//!
//! Everything comes in through channels whose receiving is cancel safe. A process that stood still for more than
//! `FROZEN` closes what proxies had dialled, unread: they have long sent elsewhere what waits in it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::transport::{ConnId, Flow, TcpTransport, TransportEvent, UdpTransport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, RoomsView};
use crate::core::{Focus, Hop, MediaEvent, Output};
use crate::media::Media;

/// A pause of the driver longer than this means that the process was stopped.
const FROZEN: Duration = Duration::from_secs(2);
/// Events taken in one go.
const BATCH: usize = 256;
/// How long hanging up may take when the process stops.
const DRAIN: Duration = Duration::from_secs(5);
const METRICS_EVERY: Duration = Duration::from_secs(1);

/// What the driver is made of.
#[derive(Debug)]
pub struct Parts {
    pub focus: Focus,
    pub tcp: TcpTransport,
    /// The address to dial from.
    pub address: IpAddr,
    pub udp: Option<UdpTransport>,
    pub transport_events: mpsc::Receiver<TransportEvent>,
    pub media: Media,
    pub media_events: mpsc::Receiver<MediaEvent>,
    /// Who wants to know what is going on.
    pub questions: mpsc::Receiver<oneshot::Sender<RoomsView>>,
    /// Told once a second.
    pub load: watch::Sender<f64>,
}

struct Driver {
    focus: Focus,
    tcp: TcpTransport,
    address: IpAddr,
    udp: Option<UdpTransport>,
    media: Media,
    /// Connections that we dialled, by both names, and those that others did.
    dialled: HashMap<SocketAddr, ConnId>,
    peers: HashMap<ConnId, SocketAddr>,
    accepted: HashMap<ConnId, SocketAddr>,
}

/// Runs a server until `drain` is cancelled and everybody was hung up.
pub async fn run(parts: Parts, drain: CancellationToken) {
    let Parts { focus, tcp, address, udp, mut transport_events, media, .. } = parts;
    let (mut media_events, mut questions) = (parts.media_events, parts.questions);
    let mut driver = Driver {
        focus,
        tcp,
        address,
        udp,
        media,
        dialled: HashMap::new(),
        peers: HashMap::new(),
        accepted: HashMap::new(),
    };
    let mut from_network = Vec::with_capacity(BATCH);
    let mut from_media = Vec::with_capacity(BATCH);
    let mut metrics_at = clock();
    let mut draining_until = None;
    loop {
        let before = clock();
        if before >= metrics_at {
            crate::metrics::export(&driver.focus, &driver.media.counters(), &driver.tcp.counters());
            parts.load.send_replace(driver.focus.load());
            if !drain.is_cancelled() && !driver.media.is_whole() {
                tracing::error!("a media thread died; this server ends");
                drain.cancel();
            }
            metrics_at = before + METRICS_EVERY;
        }
        if drain.is_cancelled() {
            let until = *draining_until.get_or_insert_with(|| {
                driver.focus.drain(before);
                driver.carry_out();
                before + DRAIN
            });
            if before >= until || driver.focus.is_empty() {
                tracing::info!(participants = driver.focus.participants(), "stopped");
                return;
            }
        }
        let deadline = driver.focus.next_deadline().map_or(metrics_at, |at| at.min(metrics_at));
        tokio::select! {
            biased;
            _ = media_events.recv_many(&mut from_media, BATCH) => {}
            count = transport_events.recv_many(&mut from_network, BATCH) => {
                if count == 0 {
                    tracing::error!("the transport ended");
                    return;
                }
            }
            Some(question) = questions.recv() => {
                // Who asked may have gone.
                let _ = question.send(admin::view(clock(), &driver.focus, &driver.media.lines()));
            }
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = drain.cancelled(), if draining_until.is_none() => {}
        }
        let now = clock();
        if now.saturating_duration_since(before.max(deadline)) > FROZEN {
            driver.thaw(now);
        }
        for event in from_media.drain(..) {
            driver.focus.handle_media(now, event);
            driver.carry_out();
        }
        for event in from_network.drain(..) {
            driver.transport_event(now, event);
            driver.carry_out();
        }
        if driver.focus.next_deadline().is_some_and(|deadline| deadline <= now) {
            driver.focus.handle_timeout(now);
            driver.carry_out();
        }
    }
}

impl Driver {
    fn transport_event(&mut self, now: Instant, event: TransportEvent) {
        match event {
            TransportEvent::Message { flow, bytes } => {
                let Some(hop) = self.hop(flow) else { return };
                self.focus.handle_message(now, hop, bytes);
            }
            TransportEvent::Connected { conn, peer, listener: Some(_), .. } => {
                self.accepted.insert(conn, peer);
                self.focus.handle_connected(conn.0);
            }
            TransportEvent::Closed { conn, cause } => {
                if self.accepted.remove(&conn).is_some() {
                    tracing::debug!(?conn, ?cause, "connection closed");
                    self.focus.handle_closed(now, Hop::Accepted(conn.0));
                } else if let Some(peer) = self.peers.remove(&conn) {
                    tracing::debug!(%peer, ?cause, "connection closed");
                    self.dialled.remove(&peer);
                    self.focus.handle_closed(now, Hop::Tcp(peer));
                }
            }
            TransportEvent::Connected { .. }
            | TransportEvent::Ping { .. }
            | TransportEvent::Pong { .. }
            | TransportEvent::Returned { .. } => {}
        }
    }

    /// Where something came from; `None` for a connection that was given up.
    fn hop(&self, flow: Flow) -> Option<Hop> {
        match flow {
            Flow::Udp { peer, .. } => Some(Hop::Udp(peer)),
            Flow::Tcp(conn) if self.accepted.contains_key(&conn) => Some(Hop::Accepted(conn.0)),
            Flow::Tcp(conn) => self.peers.get(&conn).map(|peer| Hop::Tcp(*peer)),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.focus.poll() {
            match output {
                Output::Media(command) => self.media.command(command),
                Output::Send { to, bytes } => self.send(to, bytes),
            }
        }
    }

    /// What cannot be sent is lost, as on any network: transactions notice.
    fn send(&mut self, to: Hop, bytes: Bytes) {
        match to {
            Hop::Accepted(conn) => _ = self.tcp.send(ConnId(conn), bytes),
            Hop::Tcp(peer) => {
                let conn = *self.dialled.entry(peer).or_insert_with(|| {
                    let conn = self.tcp.connect(Some(self.address), peer);
                    self.peers.insert(conn, peer);
                    conn
                });
                let _ = self.tcp.send(conn, bytes);
            }
            Hop::Udp(peer) => {
                if let Some(udp) = &self.udp
                    && let Err(error) = udp.send(peer, &bytes)
                {
                    tracing::debug!(%error, %peer, "sending over UDP");
                }
            }
        }
    }

    /// The process stood still.
    fn thaw(&mut self, now: Instant) {
        tracing::warn!("this process stood still; its connections with proxies are made anew");
        for (conn, _) in std::mem::take(&mut self.accepted) {
            self.tcp.close(conn, false);
            self.focus.handle_closed(now, Hop::Accepted(conn.0));
        }
        self.carry_out();
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver gives the core its time")]
fn clock() -> Instant {
    Instant::now()
}
