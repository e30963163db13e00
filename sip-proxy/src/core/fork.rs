//! Forwarding: branches, their answers, CANCEL, Timer C, other flows of a phone (RFC 3261 sections 16.6 to 16.10,
//! RFC 5626 section 5.3).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use dialtone_location::{Record, Request};
use dialtone_sip::transaction::{ClientId, ServerId};
use dialtone_sip::{Edit, HeaderName, Message, ResponseBuilder};
use dialtone_sip_pool::hops::RequestId;
use dialtone_sip_pool::token::DialogCookie;
use dialtone_sip_pool::uri::pool_uri;

use crate::POOL;
use crate::core::context::{Branch, Cancel, Context, Outcome, State};
use crate::core::hop::{self, Binding, Hop};
use crate::core::{Proxy, Timer, Waiting};

impl Proxy {
    /// Works on a context, then drops it if nobody needs it any more.
    pub(super) fn with_context(
        &mut self,
        now: Instant,
        server: ServerId,
        work: impl FnOnce(&mut Self, &mut Context),
    ) {
        let Some(mut context) = self.contexts.remove(&server) else { return };
        work(self, &mut context);
        if context.is_over() {
            for (index, branch) in context.branches.iter_mut().enumerate() {
                self.set_timer(branch, server, index, None);
            }
        } else {
            self.contexts.insert(server, context);
        }
        let _ = now;
    }

    /// Forwards a request that follows its Route, without any lookup.
    pub(super) fn forward(&mut self, now: Instant, mut context: Context, hop: Hop) {
        let server = context.server;
        context.hop = Some(hop);
        self.contexts.insert(server, Box::new(context));
        self.with_context(now, server, |proxy, context| proxy.settle(now, context));
    }

    /// The database answered a lookup, or did not in time (then `records` is empty).
    pub(super) fn found(&mut self, now: Instant, server: ServerId, records: &[Record]) {
        self.with_context(now, server, |proxy, context| {
            if context.answered {
                return;
            }
            let mut found: Vec<Binding> = records.iter().map(Binding::from).collect();
            if context.branches.is_empty() {
                context.plan(found);
                if context.queue.is_empty() && !context.cancelled {
                    // Who has ever been seen is away; of others nothing is known.
                    let known = context.aor.as_ref().is_some_and(|aor| proxy.replica.is_known(aor));
                    let code = if known { 480 } else { 404 };
                    context.branches.push(Branch::done(None, Outcome::Code(code)));
                }
            } else {
                found.sort_by_key(|binding| std::cmp::Reverse(binding.changed_at));
                for index in 0..context.branches.len() {
                    proxy.resume(now, context, index, &found);
                }
            }
            proxy.settle(now, context);
        });
    }

    /// Gives a branch whose flow is gone what the database knows of its phone.
    fn resume(&mut self, now: Instant, context: &mut Context, index: usize, found: &[Binding]) {
        let branch = &context.branches[index];
        if !matches!(branch.state, State::Looking) {
            return;
        }
        let instance = branch.binding.as_ref().map_or("", |binding| &*binding.instance);
        let fresh = found
            .iter()
            .find(|binding| {
                (instance.is_empty() || *binding.instance == *instance) && !context.knows(binding)
            })
            .cloned();
        let outcome = if fresh.is_some() { Outcome::Replaced } else { Outcome::Code(480) };
        context.branches[index].state = State::Done(outcome);
        if let Some(binding) = fresh {
            self.start(now, context, Some(binding), None, None);
        }
    }

    /// Moves a request on: the next group when all branches are done, and in the end the best answer.
    pub(super) fn settle(&mut self, now: Instant, context: &mut Context) {
        while !context.answered && context.is_done() {
            // Whoever sent it and is lost has it sent on by somebody else: nothing more is started on its behalf here.
            let over = context.cancelled || context.gone || context.has_global_failure();
            if over || !context.has_targets() {
                self.answer_best(now, context);
            } else if !self.is_media_ready(now, context) {
                return;
            } else if let Some(hop) = context.hop.take() {
                self.start(now, context, None, Some(hop), None);
            } else if let Some(group) = context.queue.pop() {
                self.start_group(now, context, group);
            }
        }
    }

    fn start_group(&mut self, now: Instant, context: &mut Context, group: Vec<Binding>) {
        // RFC 5393 section 5.3.3: the breadth is shared by the branches, none gets less than one.
        let Some(share) =
            context.breadth.checked_div(group.len() as u32).filter(|share| *share > 0)
        else {
            context.branches.push(Branch::done(None, Outcome::Code(440)));
            context.queue.clear();
            return;
        };
        let share = Some(share).filter(|_| group.len() > 1);
        for binding in group {
            self.start(now, context, Some(binding), None, share);
        }
    }

    /// Starts one branch, towards a binding or along the Route.
    fn start(
        &mut self,
        now: Instant,
        context: &mut Context,
        binding: Option<Binding>,
        hop: Option<Hop>,
        share: Option<u32>,
    ) {
        let hop = hop.or_else(|| {
            let binding = binding.as_ref()?;
            hop::of_binding(&binding.path, &binding.received, &binding.contact, &self.keys)
        });
        let Some(hop) = hop else {
            context.branches.push(Branch::done(binding, Outcome::Code(480)));
            return;
        };
        let bytes = self.forwarded(context, binding.as_ref(), hop, share);
        let sent = Message::parse(bytes)
            .ok()
            .and_then(|message| Some((self.layer.send_request(now, &message, hop).ok()?, message)));
        let Some((client, message)) = sent else {
            context.branches.push(Branch::done(binding, Outcome::Code(500)));
            return;
        };
        self.stats.forwarded += 1;
        let index = context.branches.len();
        self.clients.insert(client, (context.server, index));
        let element = matches!(hop, Hop::Element(_) | Hop::Focus(_));
        let focus = if let Hop::Focus(element) = hop { Some(element) } else { None };
        if element {
            self.sending.push_back((client, message.bytes().clone()));
        }
        let mut branch = Branch {
            binding,
            state: State::Running,
            client: Some(client),
            element,
            focus,
            provisional: false,
            cancel: Cancel::No,
            timer: None,
            held: VecDeque::new(),
            question: None,
        };
        if context.invite {
            let deadline = now + self.settings.timer_c;
            self.set_timer(&mut branch, context.server, index, Some(deadline));
        }
        context.branches.push(branch);
    }

    /// The request as a branch sends it (RFC 3261 section 16.6).
    fn forwarded(
        &mut self,
        context: &Context,
        binding: Option<&Binding>,
        hop: Hop,
        share: Option<u32>,
    ) -> Bytes {
        let request = &context.request;
        let branch = format!("z9hG4bK{:016x}.{:016x}", self.rng.u64(..), context.loop_hash);
        let mut edit = Edit::new(request);
        if let Some(binding) = binding {
            // Step 2; header parameters of a contact have no place in a Request-URI.
            edit.set_request_uri(binding.contact.split('?').next().unwrap_or_default().to_owned());
        }
        if let Some(route) = self.record_route(context, hop) {
            edit.add_before(HeaderName::RecordRoute, "Record-Route", route);
        }
        self.edit_forwarded(&mut edit, request, context.source, hop, &branch);
        edit.remove_values(HeaderName::Route, context.own_routes);
        if let Some(auth) = &self.auth {
            auth.strip(&mut edit, request);
        }
        if let Some(binding) = binding.filter(|binding| !binding.path.is_empty()) {
            // RFC 3327 section 5.3: the path is the route to this contact.
            edit.add_after(HeaderName::Via, "Route", binding.path.to_string());
        }
        if let Some(share) =
            share.or(request.header(HeaderName::MaxBreadth).map(|_| context.breadth))
        {
            edit.set_header(HeaderName::MaxBreadth, share.to_string());
        }
        edit.finish()
    }

    /// Step 4: stays in the way of dialogs that have a relay, and of phones that use this proxy without a gateway. These
    /// need an address; gateways know how to find another proxy. Conference servers need one as well, whatever the other
    /// side is given (RFC 5658).
    fn record_route(&self, context: &Context, hop: Hop) -> Option<String> {
        let request = &context.request;
        if !request.to().is_ok_and(|to| to.tag().is_none()) {
            return None;
        }
        let relayed =
            context.session.as_ref().and_then(|session| session.cookie(self.settings.element));
        let focus = matches!(hop, Hop::Focus(_));
        let cookie = match relayed {
            Some(cookie) => cookie,
            None if self.settings.record_route || focus => {
                DialogCookie { preferred: self.settings.element, ..DialogCookie::default() }
            }
            None => return None,
        };
        let caller = request.from().ok().and_then(|from| from.tag()).unwrap_or("");
        let flags = if focus { cookie.flags | DialogCookie::CONFERENCE } else { cookie.flags };
        let cookie = DialogCookie { flags, ..cookie };
        let cookie = cookie.sign(&self.keys, request.call_id().unwrap_or(""), caller);
        if focus {
            let near = match context.source {
                Hop::Udp { .. } => self.by_address(&cookie, self.settings.edge_udp, ""),
                Hop::Tcp(_) => self.by_address(&cookie, self.settings.edge_tcp, ";transport=tcp"),
                Hop::Core(_) | Hop::Element(_) | Hop::Focus(_) => {
                    format!("<{}>", pool_uri(POOL, &cookie))
                }
            };
            return Some(format!("{}, {near}", self.by_address(&cookie, None, ";transport=tcp")));
        }
        if relayed.is_some() && context.source.is_core() && hop.is_core() {
            return Some(format!("<{}>", pool_uri(POOL, &cookie)));
        }
        let (address, transport) = match hop {
            Hop::Udp { .. } => (self.settings.edge_udp, ""),
            Hop::Tcp(_) | Hop::Core(_) | Hop::Element(_) | Hop::Focus(_) => {
                (self.settings.edge_tcp, ";transport=tcp")
            }
        };
        Some(self.by_address(&cookie, address, transport))
    }

    /// A route through this proxy by an address: the given one, or that of its core listener.
    fn by_address(&self, cookie: &str, address: Option<SocketAddr>, transport: &str) -> String {
        let address = address.unwrap_or(self.settings.core_address);
        format!("<sip:{cookie}@{address}{transport};lr>")
    }

    /// A response to one of our requests (RFC 3261 section 16.7).
    pub(super) fn response(&mut self, now: Instant, client: ClientId, response: Message) {
        let Some(&(server, index)) = self.clients.get(&client) else { return };
        let code = response.status().unwrap_or(500);
        self.with_context(now, server, |proxy, context| {
            if context.branches[index].element {
                match code {
                    100..200 => proxy.hop_answered(client),
                    _ => proxy.hop_finished(client),
                }
            }
            if code >= 300 {
                proxy.note_relay(now, context, &response);
            }
            match code {
                0..200 => proxy.provisional(now, context, index, code, response),
                // Every 2xx to an INVITE goes up, also one that comes again or late (step 5, RFC 6026 section 7.3).
                200..300 if context.invite || !context.answered => {
                    proxy.finish_branch(context, index, Outcome::Code(code));
                    context.answered = true;
                    proxy.pass(now, context, index, response);
                    proxy.cancel_branches(now, context);
                }
                _ if matches!(context.branches[index].state, State::Done(_)) => {}
                // RFC 5626 section 5.3: the flow is gone, the phone may have another one.
                430 => proxy.other_flow(now, context, index),
                600.. => {
                    proxy.finish_branch(context, index, Outcome::Response(Box::new(response)));
                    proxy.cancel_branches(now, context);
                }
                _ => proxy.finish_branch(context, index, Outcome::Response(Box::new(response))),
            }
            proxy.settle(now, context);
        });
    }

    fn provisional(
        &mut self,
        now: Instant,
        context: &mut Context,
        index: usize,
        code: u16,
        response: Message,
    ) {
        let branch = &mut context.branches[index];
        if !matches!(branch.state, State::Running) {
            return;
        }
        branch.provisional = true;
        if branch.cancel == Cancel::Wanted {
            self.cancel_branch(now, context, index);
            return;
        }
        if code == 100 {
            return;
        }
        // Step 2: 101 to 199 reset timer C.
        if context.invite {
            let deadline = now + self.settings.timer_c;
            self.set_timer(&mut context.branches[index], context.server, index, Some(deadline));
        }
        if !context.answered {
            self.pass(now, context, index, response);
        }
    }

    /// Forwards a response: our Via goes, everything else stays (step 9).
    pub(super) fn pass_up(&mut self, now: Instant, context: &Context, response: &Message) {
        let code = response.status().unwrap_or(500);
        let mut edit = Edit::new(response);
        edit.pop_via();
        if !matches!(context.source, Hop::Udp { .. }) {
            edit.ensure_content_length();
        }
        self.stats.responses += 1;
        self.layer.respond(now, context.server, code, edit.finish());
    }

    /// Step 6 and 7.
    fn answer_best(&mut self, now: Instant, context: &mut Context) {
        context.answered = true;
        self.release(now, context);
        let best = match context.best() {
            Some(Outcome::Response(response)) => Ok(response),
            Some(outcome @ Outcome::Code(_)) => Err(outcome.code()),
            _ if context.cancelled => Err(487),
            _ => Err(408),
        };
        match best {
            // "A proxy which receives a 503 (Service Unavailable) response SHOULD NOT forward it": its Retry-After
            // speaks of the phone, not of us.
            Ok(response) if response.status() == Some(503) && context.room.is_none() => {
                self.conclude(now, context, 500);
            }
            // It speaks of the room's only server.
            Err(503) if context.room.is_some() => {
                self.unavailable(now, context.server, &context.request, context.source);
            }
            Ok(response) => {
                let code = response.status().unwrap_or(500);
                let mut edit = Edit::new(response);
                edit.pop_via();
                if !matches!(context.source, Hop::Udp { .. }) {
                    edit.ensure_content_length();
                }
                if matches!(code, 401 | 407) {
                    add_challenges(&mut edit, response, context);
                }
                let bytes = edit.finish();
                self.stats.responses += 1;
                self.layer.respond(now, context.server, code, bytes);
            }
            Err(503) => self.conclude(now, context, 500),
            Err(430) => self.conclude(now, context, 480),
            Err(code) => self.conclude(now, context, code),
        }
    }

    fn conclude(&mut self, now: Instant, context: &Context, code: u16) {
        let response = ResponseBuilder::new(&context.request, code);
        self.reply(now, context.server, &context.request, context.source, code, response);
    }

    pub(super) fn finish_branch(&mut self, context: &mut Context, index: usize, outcome: Outcome) {
        let server = context.server;
        let branch = &mut context.branches[index];
        if outcome.code() >= 300 {
            // What it said before is of no interest any more.
            branch.held.clear();
            branch.question = None;
        }
        branch.state = State::Done(outcome);
        self.set_timer(branch, server, index, None);
    }

    /// A CANCEL came for this INVITE (section 16.10).
    pub(super) fn cancelled(&mut self, now: Instant, server: ServerId) {
        self.with_context(now, server, |proxy, context| {
            if !context.answered {
                proxy.start_repeated(now, context);
                context.cancelled = true;
                proxy.cancel_branches(now, context);
                proxy.settle(now, context);
            }
        });
    }

    /// Cancels what still runs, and starts nothing more.
    fn cancel_branches(&mut self, now: Instant, context: &mut Context) {
        context.queue.clear();
        context.spare.clear();
        for index in 0..context.branches.len() {
            match context.branches[index].state {
                State::Running if context.invite => self.cancel_branch(now, context, index),
                State::Looking => self.finish_branch(context, index, Outcome::Code(487)),
                // Other requests are not cancelled (RFC 4320): their answers are dropped.
                State::Running | State::Done(_) => {}
            }
        }
        if context.branches.is_empty() && context.cancelled {
            context.branches.push(Branch::done(None, Outcome::Code(487)));
        }
    }

    fn cancel_branch(&mut self, now: Instant, context: &mut Context, index: usize) {
        let branch = &mut context.branches[index];
        let (Cancel::No | Cancel::Wanted, Some(client)) = (branch.cancel, branch.client) else {
            return;
        };
        branch.cancel = Cancel::Wanted;
        // RFC 3261 section 9.1: not before a provisional response.
        if branch.provisional && matches!(self.layer.cancel(now, client), Ok(Some(_))) {
            branch.cancel = Cancel::Sent;
            // "If there is no final response in 64*T1 seconds, the client SHOULD consider the transaction cancelled".
            let deadline = now + self.settings.timers.timeout();
            self.set_timer(branch, context.server, index, Some(deadline));
        }
    }

    /// Timer C, or no answer to a cancelled INVITE.
    pub(super) fn branch_timeout(&mut self, now: Instant, server: ServerId, index: usize) {
        self.with_context(now, server, |proxy, context| {
            let branch = &mut context.branches[index];
            branch.timer = None;
            if !matches!(branch.state, State::Running) {
                return;
            }
            // Section 16.8: with a provisional response CANCEL, then wait for what comes; else as if 408 had come.
            proxy.cancel_branch(now, context, index);
            if context.branches[index].timer.is_none() {
                if let Some(client) = context.branches[index].client.take() {
                    proxy.give_up(client);
                }
                let ended = context.cancelled || context.answered;
                proxy.finish_branch(context, index, Outcome::Code(if ended { 487 } else { 408 }));
            }
            proxy.settle(now, context);
        });
    }

    /// Drops a context with its transactions; nobody hears of it.
    pub(super) fn forget_context(&mut self, server: ServerId) {
        let Some(mut context) = self.contexts.remove(&server) else { return };
        for (index, branch) in context.branches.iter_mut().enumerate() {
            self.set_timer(branch, server, index, None);
            if let Some(client) = branch.client.take() {
                self.give_up(client);
            }
        }
        self.layer.forget_server(server);
    }

    fn give_up(&mut self, client: ClientId) {
        self.layer.forget_client(client);
        self.hop_finished(client);
        self.clients.remove(&client);
    }

    /// An element has answered, if only provisionally.
    fn hop_answered(&mut self, client: ClientId) {
        self.hops.provisional(RequestId(client.0));
        if let Some(conference) = &mut self.conference {
            conference.hops.provisional(RequestId(client.0));
        }
    }

    /// Nothing more is awaited from an element.
    fn hop_finished(&mut self, client: ClientId) {
        self.hops.finished(RequestId(client.0));
        if let Some(conference) = &mut self.conference {
            conference.hops.finished(RequestId(client.0));
        }
    }

    /// No final response came in time, or the connection to a phone is gone.
    pub(super) fn client_timeout(&mut self, now: Instant, client: ClientId) {
        let Some(&(server, index)) = self.clients.get(&client) else { return };
        self.with_context(now, server, |proxy, context| {
            if context.branches[index].element {
                proxy.hop_finished(client);
            }
            if matches!(context.branches[index].state, State::Running) {
                let code = if context.cancelled { 487 } else { 408 };
                proxy.finish_branch(context, index, Outcome::Code(code));
                proxy.settle(now, context);
            }
        });
    }

    pub(super) fn client_terminated(&mut self, client: ClientId) {
        let Some((server, index)) = self.clients.remove(&client) else { return };
        self.hop_finished(client);
        let Some(context) = self.contexts.get_mut(&server) else { return };
        context.branches[index].client = None;
        if context.is_over() {
            self.contexts.remove(&server);
        }
    }

    /// The gateway that held the phone's flow does not answer: as good as 430. Or the conference server does not.
    pub(super) fn flow_failed(&mut self, now: Instant, client: ClientId) {
        let Some(&(server, index)) = self.clients.get(&client) else { return };
        self.give_up(client);
        self.with_context(now, server, |proxy, context| {
            context.branches[index].client = None;
            if matches!(context.branches[index].state, State::Running) {
                match context.branches[index].focus {
                    Some(element) => proxy.element_failed(now, context, index, element),
                    None => proxy.other_flow(now, context, index),
                }
                proxy.settle(now, context);
            }
        });
    }

    /// Tries another flow of the same phone, then what the database says now.
    fn other_flow(&mut self, now: Instant, context: &mut Context, index: usize) {
        self.stats.flow_failures += 1;
        let instance =
            context.branches[index].binding.as_ref().map(|binding| binding.instance.clone());
        let wanted = !context.cancelled && !context.answered && !context.gone;
        let (true, Some(instance), Some(aor)) = (wanted, instance, context.aor.clone()) else {
            let code = if context.cancelled { 487 } else { 480 };
            return self.finish_branch(context, index, Outcome::Code(code));
        };
        if let Some(binding) = context.take_spare(&instance) {
            self.finish_branch(context, index, Outcome::Replaced);
            return self.start(now, context, Some(binding), None, None);
        }
        self.finish_branch(context, index, Outcome::Code(480));
        // Once per request; branches that fail while it is under way wait for the same answer.
        let under_way = context.refreshed.is_some_and(|ticket| self.tickets.contains_key(&ticket));
        if context.refreshed.is_none() {
            let request = Request::Lookup { aor, now_ms: self.settings.wall(now) };
            let waiting = Waiting::Lookup { server: context.server };
            let patience = Some(self.settings.lookup_timeout);
            self.stats.lookups += 1;
            context.refreshed = Some(self.ask(now, request, waiting, patience));
        } else if !under_way {
            return;
        }
        context.branches[index].state = State::Looking;
    }

    /// The server transaction is gone: answered long ago, or the connection that it came over broke.
    pub(super) fn server_terminated(&mut self, now: Instant, server: ServerId) {
        let orphan_timeout = self.settings.orphan_timeout;
        self.with_context(now, server, |proxy, context| {
            context.gone = true;
            if !context.answered {
                // Whoever sent it may send it again through another proxy, and the phone's gateway attaches it to
                // the branch that runs: no CANCEL before that had its time.
                proxy.timers.insert((now + orphan_timeout, Timer::Orphan(server)));
            }
        });
    }

    pub(super) fn orphaned(&mut self, now: Instant, server: ServerId) {
        self.with_context(now, server, |proxy, context| {
            if !context.answered {
                context.answered = true;
                proxy.cancel_branches(now, context);
                for index in 0..context.branches.len() {
                    // What never answered cannot be cancelled and times out by itself.
                    if matches!(context.branches[index].state, State::Looking) {
                        proxy.finish_branch(context, index, Outcome::Code(487));
                    }
                }
            }
        });
    }

    fn set_timer(
        &mut self,
        branch: &mut Branch,
        server: ServerId,
        index: usize,
        at: Option<Instant>,
    ) {
        if let Some(old) = branch.timer.take() {
            self.timers.remove(&(old, Timer::Branch(server, index)));
        }
        branch.timer = at;
        self.timers.extend(at.map(|at| (at, Timer::Branch(server, index))));
    }
}

/// Step 7: "the proxy MUST collect any WWW-Authenticate and Proxy-Authenticate header field values from all other 401
/// and 407 responses".
fn add_challenges(edit: &mut Edit<'_>, best: &Message, context: &Context) {
    for outcome in context.outcomes() {
        let Outcome::Response(other) = outcome else { continue };
        if std::ptr::eq(&raw const **other, best) || !matches!(outcome.code(), 401 | 407) {
            continue;
        }
        for name in [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate] {
            for header in other.headers_named(name) {
                if let Ok(text) = header.text() {
                    edit.add_bottom(name.as_str(), text.to_owned());
                }
            }
        }
    }
}
