//! Requests of the core, delivered to phones once, however often they are sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::transaction::{ClientId, ServerId};
use dialtone_sip::{Edit, HeaderName, Message, Method, ResponseBuilder};
use dialtone_sip_pool::delivery::{Arrival, Key};
use dialtone_sip_pool::leg::LegId;
use dialtone_sip_pool::token::{EdgeTransport, FlowToken, Use};

use super::edge::{is_in_dialog, makes_dialog};
use super::{Gateway, Peer};

/// Attempts to reach the same phone whose requesters are answered; older ones belong to servers long dead.
const ASKERS: usize = 8;

/// RFC 3261 section 9.1: how long a cancelled INVITE may take to be answered.
const CANCELLED: Duration = Duration::from_secs(32);

/// Who waits for the answer of a delivery.
#[derive(Clone, Debug)]
struct Asker {
    server: ServerId,
    /// The Via lines of its request. The phone never sees them.
    vias: Bytes,
}

#[derive(Debug)]
pub(super) struct Delivery {
    key: Key,
    /// As it came from the core, the latest attempt.
    request: Message,
    askers: Vec<Asker>,
    cancel_wanted: bool,
    pub(super) answered: bool,
}

impl Gateway {
    pub(super) fn core_request(&mut self, now: Instant, id: ServerId, request: Message) {
        let method = request.method().unwrap_or(Method::Other(""));
        let top = request.routes().next().and_then(Result::ok);
        let Some(route) = top else {
            // Health checks ask the core listener itself; nothing else has business here without a token.
            let code = if method == Method::Options { 200 } else { 403 };
            self.answer(now, id, &request, code);
            return;
        };
        let user = route.uri.sip().and_then(|uri| uri.user).unwrap_or("");
        let token = FlowToken::verify(&self.keys, user.as_bytes())
            .ok()
            .filter(|token| token.use_ == Use::Path || is_in_dialog(&request));
        let Some(token) = token else {
            self.counters.refused += 1;
            self.answer(now, id, &request, 403);
            return;
        };
        if request.max_forwards() == Ok(Some(0)) {
            self.answer(now, id, &request, 483);
            return;
        }
        let Some(peer) = self.flows.peer_of(&token.flow) else {
            // RFC 5626 section 5.3: the flow is gone.
            self.counters.flow_gone += 1;
            self.answer(now, id, &request, 430);
            return;
        };
        let branches = request.vias().filter_map(|via| via.ok()?.branch()).map(str::as_bytes);
        // A request that some other element began has no leg id; then every copy is a request of its own.
        let (leg, attempt) = LegId::in_stack(&self.keys, branches)
            .unwrap_or_else(|| (LegId::mint(&mut self.rng), 0));
        let key = Key {
            leg,
            flow: token.flow,
            method: method.as_str().as_bytes().into(),
            uri: request.request_uri_str().unwrap_or("").as_bytes().into(),
        };
        let asker = Asker { server: id, vias: via_lines(&request) };
        if method == Method::Invite {
            self.answer(now, id, &request, 100);
        }
        match self.table.arrive(&key, id, attempt) {
            Arrival::Answered(answer) => {
                self.counters.reattached += 1;
                let code = answer.status().unwrap_or(500);
                self.layer.respond(now, id, code, over(&asker.vias, &answer));
                self.attach(&key, asker, request);
            }
            Arrival::Attached { latest, .. } => {
                self.counters.reattached += 1;
                if let Some(latest) = latest {
                    let code = latest.status().unwrap_or(500);
                    self.layer.respond(now, id, code, over(&asker.vias, &latest));
                }
                self.attach(&key, asker, request);
            }
            Arrival::Late => {
                self.counters.reattached += 1;
                self.attach_late(&key, asker);
            }
            Arrival::Full => {
                self.counters.over_bounds += 1;
                self.answer_with(now, id, &request, 503, &[("Retry-After", "5".to_owned())]);
            }
            Arrival::New => self.deliver(now, key, asker, request, peer),
        }
    }

    fn attach(&mut self, key: &Key, asker: Asker, request: Message) {
        let Some(client) = self.delivery_of_key.get(key) else { return };
        let Some(delivery) = self.deliveries.get_mut(client) else { return };
        self.delivery_of_server.insert(asker.server, *client);
        delivery.askers.push(asker);
        if delivery.askers.len() > ASKERS {
            let oldest = delivery.askers.remove(0);
            self.delivery_of_server.remove(&oldest.server);
        }
        delivery.request = request;
    }

    /// Lets the sender of an attempt that was given up have the final answer. What rings is its successor's.
    fn attach_late(&mut self, key: &Key, asker: Asker) {
        let Some(client) = self.delivery_of_key.get(key) else { return };
        let Some(delivery) = self.deliveries.get_mut(client) else { return };
        if delivery.askers.len() < ASKERS {
            self.delivery_of_server.insert(asker.server, *client);
            delivery.askers.insert(0, asker);
        }
    }

    fn deliver(&mut self, now: Instant, key: Key, asker: Asker, request: Message, peer: Peer) {
        let bytes = self.for_phone(&request, peer, true);
        let sent = Message::parse(bytes)
            .ok()
            .and_then(|sent| self.layer.send_request(now, &sent, peer).ok());
        let Some(client) = sent else {
            self.table.forget(&key);
            self.answer(now, asker.server, &request, 400);
            return;
        };
        self.counters.delivered += 1;
        self.delivery_of_key.insert(key.clone(), client);
        self.delivery_of_server.insert(asker.server, client);
        let delivery =
            Delivery { key, request, askers: vec![asker], cancel_wanted: false, answered: false };
        self.deliveries.insert(client, delivery);
    }

    /// A request as the phone sees it. The Vias of the core stay here: that keeps the message small and the topology ours.
    fn for_phone(&mut self, request: &Message, peer: Peer, may_record: bool) -> Bytes {
        let mut edit = Edit::new(request);
        let branch = format!("z9hG4bK{:016x}", self.rng.u64(..));
        if let Some(listener) = self.flows.listener(peer) {
            let transport = if listener.transport == EdgeTransport::Udp { "UDP" } else { "TCP" };
            let sent_by = dialtone_sip::host_port(listener.advertised);
            edit.add_before(
                HeaderName::Via,
                "Via",
                format!("SIP/2.0/{transport} {sent_by};rport;branch={branch}"),
            );
        }
        edit.remove_headers(HeaderName::Via);
        edit.remove_values(HeaderName::Route, 1);
        edit.remove_headers(HeaderName::Path);
        let records =
            may_record && !is_in_dialog(request) && request.method().is_some_and(makes_dialog);
        if records && let Some(value) = self.flows.route_value(&self.keys, peer, Use::Dialog) {
            edit.add_before(HeaderName::RecordRoute, "Record-Route", value);
        }
        let max_forwards =
            request.max_forwards().ok().flatten().map_or(70, |hops| hops.saturating_sub(1));
        edit.set_max_forwards(max_forwards);
        edit.ensure_content_length();
        edit.finish()
    }

    /// RFC 3261 section 9.2. Only the requester that has the delivery now may cancel it: a proxy that was given up
    /// may not end what its successor goes on with.
    pub(super) fn core_cancel(
        &mut self,
        now: Instant,
        id: ServerId,
        cancel: &Message,
        cancels: Option<ServerId>,
    ) {
        let code = if cancels.is_some() { 200 } else { 481 };
        self.answer(now, id, cancel, code);
        let Some((server, client)) =
            cancels.and_then(|id| Some((id, *self.delivery_of_server.get(&id)?)))
        else {
            return;
        };
        let current = self
            .deliveries
            .get(&client)
            .is_some_and(|delivery| self.table.requester(&delivery.key) == Some(&server));
        if current {
            self.cancel_delivery(now, client);
        }
    }

    fn cancel_delivery(&mut self, now: Instant, client: ClientId) {
        let Some(delivery) = self.deliveries.get_mut(&client).filter(|delivery| !delivery.answered)
        else {
            return;
        };
        if delivery.key.method.as_ref() != b"INVITE" {
            return;
        }
        // Without a provisional answer the CANCEL waits for one (RFC 3261 section 9.1).
        let sent = matches!(self.layer.cancel(now, client), Ok(Some(_)));
        delivery.cancel_wanted = !sent;
        if sent {
            self.cancel_deadlines.insert((now + CANCELLED, client));
        }
    }

    /// Nobody has asked again for a delivery whose requester is lost.
    pub(super) fn orphaned(&mut self, now: Instant, key: &Key) {
        if let Some(client) = self.delivery_of_key.get(key).copied() {
            self.counters.orphaned += 1;
            self.cancel_delivery(now, client);
        }
    }

    pub(super) fn core_ack(&mut self, now: Instant, ack: &Message) {
        let token = ack.routes().next().and_then(|route| {
            FlowToken::verify(&self.keys, route.ok()?.uri.sip()?.user?.as_bytes()).ok()
        });
        let Some(peer) = token.and_then(|token| self.flows.peer_of(&token.flow)) else {
            // Also the ACK for an answer of our own, whose transaction is over.
            self.counters.stray += 1;
            return;
        };
        if ack.max_forwards() == Ok(Some(0)) {
            return;
        }
        let bytes = self.for_phone(ack, peer, false);
        self.send(now, peer, bytes);
    }

    /// A phone has answered.
    pub(super) fn phone_response(&mut self, now: Instant, id: ClientId, response: Message) {
        let Some(code) = response.status() else { return };
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        if delivery.cancel_wanted && code < 200 {
            self.cancel_delivery(now, id);
        }
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        if code == 100 {
            return;
        }
        if code < 200 {
            self.table.provisional(&delivery.key, response.clone());
            if let Some(asker) = delivery.askers.last() {
                self.layer.respond(now, asker.server, code, over(&asker.vias, &response));
            }
            return;
        }
        // A 2xx that the phone repeats says nothing new, and may come after BYE.
        let repeated = std::mem::replace(&mut delivery.answered, true);
        let request = delivery.request.clone();
        self.table.finished(now, &delivery.key, response.clone());
        // All get the final answer: a proxy that was given up too early must not go on looking for somebody who answers.
        for asker in &delivery.askers {
            self.layer.respond(now, asker.server, code, over(&asker.vias, &response));
        }
        let notable = matches!(request.method(), Some(Method::Invite | Method::Bye));
        if code < 300 && notable && !repeated {
            self.note_dialog(now, &request, &response, false);
        }
    }

    /// No final answer came from the phone, or its connection is gone.
    pub(super) fn phone_silent(&mut self, now: Instant, id: ClientId) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let gone = self.flows.peer_of(&delivery.key.flow).is_none();
        self.give_up(now, id, if gone { 430 } else { 408 });
    }

    /// RFC 3261 section 18.4: host and port unreachable are a failure in sending. Nobody is where the phone was: its flow has
    /// failed, and the proxy goes on with the next one instead of waiting for 32 s.
    pub(super) fn returned(&mut self, now: Instant, phone: Peer, bytes: Bytes) {
        let Some(id) = self.layer.returned(phone, bytes) else {
            self.counters.stray += 1;
            return;
        };
        if self.deliveries.get(&id).is_some_and(|delivery| !delivery.answered) {
            self.counters.unreachable += 1;
            self.give_up(now, id, 430);
            self.layer.forget_client(id);
            self.delivery_over(id);
        }
    }

    /// RFC 3261 section 9.1: a cancelled INVITE without an answer after 64*T1 is over.
    pub(super) fn cancelled_in_vain(&mut self, now: Instant, id: ClientId) {
        if self.deliveries.get(&id).is_some_and(|delivery| !delivery.answered) {
            self.give_up(now, id, 487);
            self.layer.forget_client(id);
            self.delivery_over(id);
        }
    }

    /// Answers in place of the phone.
    fn give_up(&mut self, now: Instant, id: ClientId, code: u16) {
        let Some(delivery) = self.deliveries.get_mut(&id).filter(|delivery| !delivery.answered)
        else {
            return;
        };
        delivery.answered = true;
        let invite = delivery.key.method.as_ref() == b"INVITE";
        let tag = format!("{:016x}", self.rng.u64(..));
        let answer = ResponseBuilder::new(&delivery.request, code).to_tag(tag).build();
        let answer = answer.ok().and_then(|bytes| Message::parse(bytes).ok());
        let askers = delivery.askers.clone();
        if code == 430 {
            self.counters.flow_gone += 1;
            self.table.forget(&delivery.key);
            self.delivery_of_key.remove(&delivery.key);
        } else if let Some(answer) = &answer {
            self.table.finished(now, &delivery.key, answer.clone());
        }
        for asker in askers {
            match &answer {
                Some(answer) if invite || code != 408 => {
                    self.layer.respond(now, asker.server, code, over(&asker.vias, answer));
                }
                // RFC 4320 section 4.2: no 408 to a non-INVITE request.
                _ => {
                    self.layer.forget_server(asker.server);
                    self.delivery_of_server.remove(&asker.server);
                }
            }
        }
    }

    /// The client transaction of a delivery is over.
    pub(super) fn delivery_over(&mut self, id: ClientId) {
        let Some(delivery) = self.deliveries.remove(&id) else { return };
        if !delivery.answered {
            self.table.forget(&delivery.key);
        }
        if self.delivery_of_key.get(&delivery.key) == Some(&id) {
            self.delivery_of_key.remove(&delivery.key);
        }
        for asker in delivery.askers {
            self.delivery_of_server.remove(&asker.server);
        }
    }

    /// The server transaction of a requester is gone.
    pub(super) fn asker_lost(&mut self, now: Instant, server: ServerId) {
        let Some(client) = self.delivery_of_server.remove(&server) else { return };
        let Some(delivery) = self.deliveries.get_mut(&client) else { return };
        delivery.askers.retain(|asker| asker.server != server);
        self.table.lost(now, &delivery.key, &server);
    }
}

/// All Via lines of a request, as they stand.
fn via_lines(request: &Message) -> Bytes {
    let lines: Vec<&[u8]> =
        request.headers_named(HeaderName::Via).map(|header| header.raw()).collect();
    lines.concat().into()
}

/// A phone's answer with the Via lines of the one who asked instead of ours.
fn over(vias: &[u8], answer: &Message) -> Bytes {
    let mut edit = Edit::new(answer);
    let mut lines = answer.headers_named(HeaderName::Via);
    if let Some(first) = lines.next() {
        edit.replace(first.line_span(), vias.to_vec());
    }
    for line in lines {
        edit.remove_line(&line);
    }
    edit.ensure_content_length();
    edit.finish()
}
