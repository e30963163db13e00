//! ACKs of phones for 2xx answers. Nothing answers them, so the hop is watched for a while: one that a proxy took to its
//! grave goes once more, by another proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dialtone_sip::{Edit, Message};
use dialtone_sip_pool::hops::RequestId;
use dialtone_sip_pool::leg::LegId;

use super::legs::{Beyond, Way, common_edits};
use super::{Gateway, Peer};

/// A proxy may wait for media relays before it sends an ACK on; after that it takes a moment to see that it is gone.
const WATCHED: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Watched {
    leg: LegId,
    attempt: u32,
    ack: Message,
    preferred: Option<u32>,
    beyond: Option<Beyond>,
    keep_routes: Option<usize>,
    tried: Vec<u32>,
    until: Instant,
}

/// ACKs that proxies have and may still lose.
#[derive(Debug, Default)]
pub(super) struct Acks {
    watched: BTreeMap<RequestId, Watched>,
    deadlines: BTreeSet<(Instant, RequestId)>,
}

impl Acks {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    fn insert(&mut self, request: RequestId, watched: Watched) {
        self.deadlines.insert((watched.until, request));
        self.watched.insert(request, watched);
    }

    fn remove(&mut self, request: RequestId) -> Option<Watched> {
        let watched = self.watched.remove(&request)?;
        self.deadlines.remove(&(watched.until, request));
        Some(watched)
    }

    fn pop_due(&mut self, now: Instant) -> Option<RequestId> {
        let (_, request) = *self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        self.remove(request).map(|_| request)
    }
}

impl Gateway {
    /// Sends the ACK for a 2xx on its way.
    pub(super) fn forward_ack(
        &mut self,
        now: Instant,
        ack: &Message,
        way: &Way,
        keep_routes: Option<usize>,
    ) {
        let leg = LegId::mint(&mut self.rng);
        let (preferred, beyond) = match *way {
            Way::Loop => {
                let bytes = self.ack_for_hop(leg, 1, ack, keep_routes);
                if let Ok(message) = Message::parse(bytes) {
                    self.incoming(now, message, Peer::Loop);
                }
                return;
            }
            Way::Gateway(element) => {
                let bytes = self.ack_for_hop(leg, 1, ack, keep_routes);
                if self.gateways.send_only(now, element, bytes).is_err() {
                    self.counters.stray += 1;
                }
                return;
            }
            Way::PreferredProxy { element, beyond } => (Some(element), beyond),
            Way::Proxy => (None, None),
        };
        let watched = Watched {
            leg,
            attempt: 0,
            ack: ack.clone(),
            preferred,
            beyond,
            keep_routes,
            tried: Vec::new(),
            until: now + WATCHED,
        };
        self.send_watched(now, watched);
    }

    fn send_watched(&mut self, now: Instant, mut watched: Watched) {
        let members = self.selector.view().members.iter().map(|member| member.pe_id.0);
        let order: Vec<u32> = watched
            .preferred
            .into_iter()
            .chain(members)
            .filter(|element| !watched.tried.contains(element))
            .collect();
        watched.attempt += 1;
        let Watched { leg, attempt, ref ack, keep_routes, .. } = watched;
        let bytes = self.ack_for_hop(leg, attempt, ack, keep_routes);
        let request = self.next_request();
        let Ok(element) = self.proxies.send_any(now, &order, request, bytes) else {
            match watched.beyond.filter(|_| watched.ack.body().is_empty()) {
                Some(beyond) => {
                    let keep_routes = watched.keep_routes.map(|from| from + 1);
                    self.forward_ack(now, &watched.ack, &beyond.into(), keep_routes);
                }
                None => self.counters.stray += 1,
            }
            return;
        };
        // No answer is owed: silence is what counts.
        self.proxies.provisional(request);
        watched.tried.push(element);
        if self.acks.len() < self.settings.bounds.legs {
            self.acks.insert(request, watched);
        } else {
            self.proxies.finished(request);
        }
    }

    /// The hop of an ACK has failed. Returns whether it was one's.
    pub(super) fn ack_failed(&mut self, now: Instant, request: RequestId) -> bool {
        let Some(watched) = self.acks.remove(request) else { return false };
        if now < watched.until {
            self.counters.failed_over += 1;
            self.send_watched(now, watched);
        }
        true
    }

    pub(super) fn acks_due(&mut self, now: Instant) {
        while let Some(request) = self.acks.pop_due(now) {
            self.proxies.finished(request);
        }
    }

    fn ack_for_hop(
        &self,
        leg: LegId,
        attempt: u32,
        ack: &Message,
        keep_routes: Option<usize>,
    ) -> bytes::Bytes {
        let branch = leg.branch(&self.keys, attempt);
        let core = dialtone_sip::host_port(self.settings.core);
        let mut edit = Edit::new(ack);
        edit.push_via(format!("SIP/2.0/TCP {core};branch={branch}"));
        common_edits(&mut edit, ack, keep_routes);
        edit.finish()
    }
}
