//! Elements' and users' requests (RFC 5352 sections 3.1, 3.2, 3.5): registration, de-registration, reports.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_handlespace::Element;
use dialtone_transport::{AssocId, ENCAPSULATION_PORT, Link, Remote};
use dialtone_wire::asap::{self, Message};
use dialtone_wire::{
    Cause, CauseCode, OperationError, PeId, PoolElement, PoolHandle, SctpTransport, TransportUse,
};

use super::budget::COST_BYTES;
use super::output::{Event, Reject, Removal};
use super::{Key, Registrar, Timer};

/// Where the element's ASAP transport leads.
pub(super) fn remote_of(element: &Element) -> Option<Remote> {
    let asap = element.asap_transport.as_ref()?;
    let port = element.encaps_port.unwrap_or(ENCAPSULATION_PORT);
    Some(Remote {
        link: Link::Sctp,
        addr: SocketAddr::new(*asap.addrs.first()?, port),
        sctp_port: asap.port,
    })
}

/// The ASAP transport that a registrar fills in: where the association comes from.
fn asap_transport(remote: Remote) -> SctpTransport {
    SctpTransport {
        port: remote.sctp_port,
        use_: TransportUse::DATA_ONLY,
        addrs: remote.addr.ip().into(),
    }
}

type Refusal = (Reject, Vec<Cause<'static>>);

impl Registrar {
    pub(super) fn asap(&mut self, now: Instant, id: AssocId, payload: &[u8]) {
        let decoded = match Message::decode_with(payload, self.config.compat) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::debug!(%error, "ASAP message discarded");
                self.counters.dropped += 1;
                return self.complain(now, id, error.cause().map_or(&[], std::slice::from_ref));
            }
        };
        self.complain(now, id, &decoded.unrecognized);
        if !self.is_protected(id) {
            return self.unprotected(id, &decoded.message);
        }
        match decoded.message {
            Message::Registration { handle, element } => {
                self.registration(now, id, handle, element)
            }
            Message::Deregistration { handle, pe_id } => {
                self.deregistration(now, id, handle, pe_id)
            }
            Message::HandleResolution { subscribe, handle, items } => {
                self.resolution(id, handle, subscribe, items);
            }
            Message::EndpointKeepAliveAck { handle, pe_id } => {
                let key = self.space.handle(handle.0).map(|handle| (handle, pe_id));
                if !key.is_ok_and(|key| self.keep_alive_ack(now, id, &key)) {
                    self.spend(now, id);
                }
            }
            Message::EndpointUnreachable { handle, pe_id } => {
                self.unreachable(now, id, handle, pe_id)
            }
            // G36: an error is never answered and ends nothing.
            Message::Error(error) => tracing::debug!(?error, "ASAP error received"),
            Message::BusinessCard { .. }
            | Message::Cookie(_)
            | Message::CookieEcho(_)
            | Message::DeregistrationResponse { .. }
            | Message::EndpointKeepAlive { .. }
            | Message::HandleResolutionResponse { .. }
            | Message::RegistrationResponse { .. }
            | Message::ServerAnnounce { .. } => self.counters.dropped += 1,
        }
    }

    /// What was not understood is reported if its type asks for that (RFC 5352 section 2.2.14), and costs its sender one
    /// request more, and the answer.
    fn complain(&mut self, now: Instant, id: AssocId, causes: &[Cause<'_>]) {
        if let Some(reply) = asap::error_reply(causes)
            && self.spend(now, id)
        {
            self.charge(id, reply.len());
            self.send(id, reply);
        }
    }

    pub(super) fn send_asap(&mut self, id: AssocId, message: &Message<'_>) {
        match message.encode_with(self.config.compat) {
            Ok(payload) => self.send(id, payload),
            Err(error) => tracing::debug!(%error, "ASAP message not sent"),
        }
    }

    fn registration(
        &mut self,
        now: Instant,
        id: AssocId,
        handle: PoolHandle<'_>,
        element: PoolElement<'_>,
    ) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        assoc.is_home = true;
        let remote = assoc.remote;
        let pe_id = element.pe_id;
        let Ok(pool) = self.space.handle(handle.0) else {
            self.counters.rejects += 1;
            return self.registration_response(
                id,
                handle,
                pe_id,
                Some(CauseCode::INVALID_VALUES.into()),
            );
        };
        let key = (pool, pe_id);
        let element = Element::from(element);
        // RFC 5352 section 3.1: the answer is a MUST, whatever it says; a denial tells the peers nothing.
        if let Err((reason, causes)) = self.check(id, remote, &key, &element) {
            self.event(Event::Rejected { pool: key.0, pe: key.1, reason });
            return self.registration_response(id, handle, pe_id, Some(causes.into()));
        }
        let from = self.space.get(key.0.as_bytes(), key.1).map(|old| old.home);
        // RFC 5352 section 3.1, rules 3 and 4: all attributes are replaced (G35), the home is this registrar, and the
        // ASAP transport is where the message came from.
        // Nobody dials an element that came by TLS.
        let sctp = remote.link == Link::Sctp;
        let element = Element {
            home: self.id,
            asap_transport: sctp.then(|| asap_transport(remote)),
            encaps_port: sctp.then_some(remote.addr.port()),
            ..element
        };
        let life = element.life;
        self.put_entry(now, &key.0, element);
        self.note_owner(id, &key);
        self.attach(&key, id);
        let before = self.watches.get(&key).and_then(|watch| watch.source);
        let source = self.count_element(id, before);
        if let Some(watch) = self.watches.get_mut(&key) {
            watch.source = source;
            watch.registered = Some(now);
            watch.taken_from = None;
        }
        self.element_alive(now, &key);
        self.arm_life(now, &key, life);
        self.counters.registrations += 1;
        if from != Some(self.id) {
            self.event(Event::Registered { pool: key.0.clone(), pe: key.1, from });
        }
        self.registration_response(id, handle, pe_id, None);
        self.announce_add(&key);
    }

    /// G38: the home enforces the registration life.
    pub(super) fn arm_life(&mut self, now: Instant, key: &Key, life: i32) {
        let timer = Timer::Life(key.clone());
        match u64::try_from(life) {
            Ok(seconds) => self.timers.set(timer, now + Duration::from_secs(seconds)),
            Err(_) => self.timers.cancel(&timer),
        }
    }

    fn check(
        &self,
        id: AssocId,
        remote: Remote,
        key: &Key,
        element: &Element,
    ) -> Result<(), Refusal> {
        let plain = |reason, code: CauseCode| (reason, vec![Cause::plain(code)]);
        // RFC 5352 section 2.1: elements speak SCTP with registrars; section 9.2: or TLS over TCP.
        if remote.link != Link::Sctp && !self.is_secure() {
            return Err(plain(Reject::Security, CauseCode::SECURITY));
        }
        self.check_identity(id, key, element)?;
        let mut invalid = element.invalid_values();
        let nowhere = |addr: &IpAddr| addr.is_unspecified() || addr.is_multicast();
        if element.transport.addrs().iter().any(nowhere) {
            let cause = Cause::invalid_transport(&element.transport);
            invalid.push(cause.unwrap_or(Cause::plain(CauseCode::INVALID_VALUES)));
        }
        if !invalid.is_empty() {
            return Err((Reject::InvalidValues, invalid));
        }
        // RFC 5352 section 2.2.1: registered addresses are a subset of the association's. What the world sees of an
        // advertised pool stands before a NAT or a virtual address.
        let foreign = element.transport.addrs().iter().any(|addr| *addr != remote.addr.ip());
        if foreign && !self.config.advertised_pools.contains(&key.0) {
            return Err(plain(Reject::Security, CauseCode::SECURITY));
        }
        self.check_unique(id, remote, key)?;
        // RFC 5352 section 3.1, rules 2 and 3; G6: also when the element is alone in its pool.
        self.space.check(&key.0, element).map_err(|conflict| {
            let kind = element.kind();
            let reason = if kind.policy != conflict.pool.policy {
                Reject::Policy
            } else if kind.transport != conflict.pool.transport {
                Reject::Transport
            } else {
                Reject::TransportUse
            };
            (reason, conflict.causes)
        })?;
        let limits = &self.config.limits;
        let known = self.space.get(key.0.as_bytes(), key.1).is_some();
        let in_pool = self.space.pool(key.0.as_bytes()).map_or(0, |pool| pool.len());
        if key.0.as_bytes().len() + element.to_wire().max_len() > limits.entry_bytes {
            return Err(plain(Reject::Resources, CauseCode::LACK_OF_RESOURCES));
        }
        let source = self.source(id);
        let counted = self.watches.get(key).is_some_and(|watch| watch.source == source);
        if !counted && self.has_too_many_elements(source) {
            return Err(plain(Reject::Resources, CauseCode::LACK_OF_RESOURCES));
        }
        if !known && (self.space.len() >= limits.elements || in_pool >= limits.elements_per_pool) {
            return Err(plain(Reject::Resources, CauseCode::LACK_OF_RESOURCES));
        }
        Ok(())
    }

    /// G7: the same identifier from somewhere else, while the element that has it is connected, is another element.
    fn check_unique(&self, id: AssocId, remote: Remote, key: &Key) -> Result<(), Refusal> {
        let holder = self.watches.get(key).and_then(|watch| watch.assoc).filter(|old| *old != id);
        let connected =
            holder.and_then(|old| self.assocs.get(&old)).filter(|old| old.up && !old.closing);
        match connected {
            // In secure mode names decide.
            Some(_) if self.is_secure() => Ok(()),
            Some(old) if old.remote.addr.ip() != remote.addr.ip() && self.owns(key) => Err((
                Reject::NonUniqueIdentifier,
                vec![Cause::plain(CauseCode::NON_UNIQUE_PE_IDENTIFIER)],
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn registration_response(
        &mut self,
        id: AssocId,
        handle: PoolHandle<'_>,
        pe_id: PeId,
        error: Option<OperationError<'_>>,
    ) {
        self.send_asap(
            id,
            &Message::RegistrationResponse { reject: error.is_some(), handle, pe_id, error },
        );
    }

    pub(super) fn deregistration_response(
        &mut self,
        id: AssocId,
        key: &Key,
        error: Option<OperationError<'_>>,
    ) {
        let handle = key.0.to_wire();
        self.send_asap(id, &Message::DeregistrationResponse { handle, pe_id: key.1, error });
    }

    /// RFC 5352 section 3.2; section 2.2.2: an element de-registers nobody but itself.
    fn deregistration(&mut self, now: Instant, id: AssocId, handle: PoolHandle<'_>, pe_id: PeId) {
        let Ok(pool) = self.space.handle(handle.0) else {
            // An unknown element is as good as de-registered.
            let message = Message::DeregistrationResponse { handle, pe_id, error: None };
            return self.send_asap(id, &message);
        };
        let key = (pool, pe_id);
        let own = self.watches.get(&key).is_some_and(|watch| watch.assoc == Some(id));
        let error = match self.space.get(key.0.as_bytes(), key.1) {
            None => None,
            Some(_) if !own && !self.is_owner(id, &key) && !self.is_endpoint_of(id, &key) => {
                Some(CauseCode::SECURITY.into())
            }
            Some(element) => {
                if element.home != self.id {
                    // After a change of registrars the element de-registers at its new one, which takes it first, so
                    // that peers accept the deletion from it (G15).
                    let mine = Element { home: self.id, ..element.clone() };
                    self.put_entry(now, &key.0, mine);
                    self.announce_add(&key);
                }
                self.remove_owned(&key, Removal::Deregistered);
                self.counters.deregistrations += 1;
                None
            }
        };
        self.deregistration_response(id, &key, error);
    }

    fn unreachable(&mut self, now: Instant, id: AssocId, handle: PoolHandle<'_>, pe_id: PeId) {
        let Some(source) = self.source(id) else { return };
        if !self.admit_report(now, source) {
            return;
        }
        self.counters.reports += 1;
        if let Ok(handle) = self.space.handle(handle.0) {
            self.element_reported(now, &(handle, pe_id), source);
        }
    }

    /// The NAT binding of elements moved: whoever takes over must find them at the new port. Anybody can move from packet
    /// to packet, and the peers hear of each element, so they are not told more often than of loads.
    pub(super) fn tell_moved(&mut self, now: Instant, id: AssocId) {
        let Some(assoc) = self.assocs.get(&id).filter(|assoc| !assoc.elements.is_empty()) else {
            return;
        };
        let allowed = assoc.moved.map_or(now, |told| now.max(told + self.config.timers.push));
        self.timers.set_earlier(Timer::Moved(id), allowed);
    }

    pub(super) fn moved_due(&mut self, now: Instant, id: AssocId) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        assoc.moved = Some(now);
        let (remote, keys) = (assoc.remote, assoc.elements.clone());
        // As much as registering them again.
        self.charge(id, keys.len() * COST_BYTES);
        for key in keys {
            self.element_moved(now, &key, remote);
        }
    }

    fn element_moved(&mut self, now: Instant, key: &Key, remote: Remote) {
        if !self.owns(key) {
            return;
        }
        let Some(element) = self.space.get(key.0.as_bytes(), key.1) else { return };
        let moved = Element {
            asap_transport: Some(asap_transport(remote)),
            encaps_port: Some(remote.addr.port()),
            ..element.clone()
        };
        self.put_entry(now, &key.0, moved);
        self.announce_add(key);
    }
}
