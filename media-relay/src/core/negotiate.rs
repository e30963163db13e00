//! Offers and answers: what they say about the ends of pairs, and what the other party is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use dialtone_ng::message::{AddressFamily, Flags, Ice, ReplyEncoder, Request, RtcpMux};
use dialtone_sip::sdp::{MediaLine, Sdp, Section};

use super::call::{
    Call, Due, End, Leg, MAX_LEGS, Media, Mux, Offered, Pair, Party, Tags, Withdrawn, interned,
};
use super::rewrite::{Plan, rewrite};
use super::settings::{Limits, Settings};
use super::{Answer, Asked, CallKey, Output, Owner, PortPool, Refusal, Relay, RtcpPort};
use crate::plane::{EndSettings, Kind, PairId, Reopen, Side};

/// Payload types whose clock rates are kept for a pair.
const MAX_CLOCKS: usize = 32;

/// What the parts of an exchange have in common.
struct Exchange<'a> {
    request: &'a Request<'a>,
    sdp: Sdp<'a>,
    is_answer: bool,
    /// Who has sent the description.
    sender: Side,
    /// Another party stands on the sender's side now.
    replaced: bool,
}

/// What a media description says.
struct Described<'a> {
    line: MediaLine<'a>,
    kind: Option<Kind>,
    rtp: Option<SocketAddr>,
    rtcp: Option<SocketAddr>,
    receives: bool,
    mux: bool,
    clocks: Vec<(u8, u32)>,
}

/// A pair that an offer needs, before it is in the plane.
struct Opened<S> {
    media: usize,
    pair: Pair,
    sockets: [S; 2],
}

impl<P: PortPool> Relay<P> {
    pub(super) fn offer(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Request<'_>,
        asked: &Asked,
    ) -> Answer {
        let Essentials { sdp, call_id, from_tag } = self.demand(request)?;
        let tags = Tags {
            from: from_tag,
            to: request.to_tag.filter(|tag| !tag.is_empty()),
            branch: request.via_branch.filter(|branch| !branch.is_empty()),
        };
        let known = self.by_id.get(call_id).copied();
        let Some(key) = known else {
            self.admit()?;
            let mut call = Call::new(call_id, now);
            let leg = new_leg(now, tags, request.label);
            self.last_key += 1;
            let key = CallKey(self.last_key);
            call.legs.push(leg);
            self.calls.insert(key, call);
            self.by_id.insert(call_id.into(), key);
            self.stats.calls += 1;
            let exchange =
                Exchange { request, sdp, is_answer: false, sender: Side::Offerer, replaced: false };
            let answer = self.exchange(now, from, key, 0, exchange, asked);
            if answer.is_err() {
                self.stats.calls -= 1;
                self.calls.remove(&key);
                self.by_id.remove(call_id);
            } else {
                self.set_deadline(key, Some((now + self.settings.offer_timeout, Due::Unanswered)));
            }
            return answer;
        };
        let Some(call) = self.calls.get_mut(&key) else {
            return Err(Refusal::Error("Unknown call-id"));
        };
        call.last_signal = now;
        let (leg, sender) = match call.leg_of_offer(tags) {
            Some(found) => found,
            None if call.legs.len() >= MAX_LEGS => {
                return Err(Refusal::Error("Too many branches"));
            }
            None => {
                call.legs.push(new_leg(now, tags, request.label));
                (call.legs.len() - 1, Side::Offerer)
            }
        };
        let is_new = call.legs[leg].medias.is_empty();
        if call.legs[leg].branch.is_none() {
            call.legs[leg].branch = tags.branch.map(Into::into);
        }
        let replaced = call.legs[leg].note(now, sender, tags.from, request.label);
        let answered = call.is_answered();
        let deleted = matches!(call.deadline, Some((_, Due::Deleted)));
        let exchange = Exchange { request, sdp, is_answer: false, sender, replaced };
        let answer = self.exchange(now, from, key, leg, exchange, asked);
        if answer.is_err() && is_new {
            if let Some(call) = self.calls.get_mut(&key) {
                call.legs.remove(leg);
            }
        } else if answer.is_ok() && (!answered || deleted) {
            let due = (now + self.settings.offer_timeout, Due::Unanswered);
            self.set_deadline(key, (!answered).then_some(due));
        }
        answer
    }

    pub(super) fn answer(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Request<'_>,
        asked: &Asked,
    ) -> Answer {
        let Essentials { sdp, from_tag, .. } = self.demand(request)?;
        let to = request.to_tag.filter(|tag| !tag.is_empty());
        let to = to.ok_or(Refusal::Error("No to-tag in message"))?;
        let (_, key) = self.find(request.call_id)?;
        let Some(call) = self.calls.get_mut(&key) else {
            return Err(Refusal::Error("Unknown call-id"));
        };
        let branch = request.via_branch.filter(|branch| !branch.is_empty());
        let tags = Tags { from: from_tag, to: Some(to), branch };
        // Some swap the tags of an answer.
        let (leg, sender, by) = match call.leg_of_answer(from_tag, to, tags) {
            Some((leg, sender)) => (leg, sender, to),
            None => match call.leg_of_answer(to, from_tag, tags) {
                Some((leg, sender)) => (leg, sender, from_tag),
                None => return Err(Refusal::Error("Invalid dialogue association")),
            },
        };
        call.last_signal = now;
        let replaced = call.legs[leg].note(now, sender, by, request.label);
        let exchange = Exchange { request, sdp, is_answer: true, sender, replaced };
        let answer = self.exchange(now, from, key, leg, exchange, asked);
        if answer.is_ok() {
            let mut deadline = None;
            if let Some(call) = self.calls.get_mut(&key) {
                call.legs[leg].answered = true;
                if call.pairs().all(|pair| pair.silent) {
                    // Nothing will fall silent, should its end never be told.
                    deadline = Some((now + self.settings.hold_timeout, Due::Quiet));
                }
            }
            self.set_deadline(key, deadline);
        }
        answer
    }

    fn demand<'a>(&mut self, request: &Request<'a>) -> Result<Essentials<'a>, Refusal> {
        let sdp = request.sdp.ok_or(Refusal::Error("No SDP body in message"))?;
        let call_id = request.call_id.filter(|id| !id.is_empty());
        let call_id = call_id.ok_or(Refusal::Error("No call-id in message"))?;
        let from_tag = request.from_tag.filter(|tag| !tag.is_empty());
        let from_tag = from_tag.ok_or(Refusal::Error("No from-tag in message"))?;
        let sdp = Sdp::parse(sdp).map_err(|error| {
            tracing::debug!(%error, "session description not understood");
            Refusal::Error("Failed to parse SDP")
        })?;
        let by_source = request.flags.trust_address == Some(false);
        let complete = sdp.medias().all(|media| {
            let is_off = media.media_line().is_none_or(|line| line.port == 0);
            is_off
                || sdp.connection_of(media).is_some()
                || (by_source && request.received_from.is_some())
        });
        if !complete {
            return Err(Refusal::Error("Incomplete SDP specification"));
        }
        self.count_ignored(request, &sdp);
        Ok(Essentials { sdp, call_id, from_tag })
    }

    /// What is understood and has no effect here.
    fn count_ignored(&mut self, request: &Request<'_>, sdp: &Sdp<'_>) {
        let Flags { loop_protect, .. } = request.flags;
        let replace = request.replace;
        let other_ice = request.ice.is_some_and(|ice| !matches!(ice, Ice::Remove | Ice::Default));
        let protocol = request.transport_protocol.is_some_and(|wanted| {
            sdp.medias().filter_map(Section::media_line).any(|line| line.proto != wanted)
        });
        for (given, name) in [
            (loop_protect, "flags/loop-protect"),
            (other_ice, "ICE"),
            (protocol, "transport-protocol"),
            (replace.session_name, "replace/session-name"),
            (replace.sdp_version, "replace/SDP-version"),
            (replace.username, "replace/username"),
            (replace.zero_address, "replace/zero-address"),
            (request.set_label.is_some(), "set-label"),
            (request.tos.is_some(), "TOS"),
            (request.metadata.is_some(), "metadata"),
        ] {
            if given {
                self.ignored.count(name);
            }
        }
    }

    /// Whether there is room for one call more.
    fn admit(&mut self) -> Result<(), Refusal> {
        let Limits { sessions, bandwidth, load } = self.settings.limits;
        let limit = if self.draining {
            Some("Relay is being stopped")
        } else if self.calls.len() >= sessions {
            Some("Parallel session limit reached")
        } else if load.is_some_and(|limit| self.sample.load > limit) {
            Some("Load limit exceeded")
        } else if bandwidth.is_some_and(|limit| self.sample.bytes > limit) {
            Some("Bandwidth limit exceeded")
        } else {
            None
        };
        match limit {
            None => Ok(()),
            Some(limit) => {
                self.stats.refused += 1;
                Err(Refusal::LoadLimit(limit))
            }
        }
    }

    /// Does what a description says, and writes the one that the other party gets.
    fn exchange(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key: CallKey,
        leg: usize,
        exchange: Exchange<'_>,
        asked: &Asked,
    ) -> Answer {
        // Taken out, so that ports and outputs can be reached meanwhile.
        let Some(mut call) = self.calls.remove(&key) else {
            return Err(Refusal::Error("Unknown call-id"));
        };
        let plans = self.carry_out(now, key, &mut call, leg, &exchange);
        self.calls.insert(key, call);
        let plans = plans?;
        let request = exchange.request;
        match request.record_call {
            Some(true) if self.settings.recording => {
                self.start_recording(key, from, request.output_destination);
            }
            Some(true) => self.ignored.count("record-call"),
            Some(false) => self.stop_recording(key, Some(from)),
            None => {}
        }
        let sdp = rewrite(&exchange.sdp, &plans, request.replace);
        let mut reply = ReplyEncoder::with_capacity(&asked.cookie, sdp.len() + 48);
        reply.dict().bytes("sdp", &sdp);
        Ok(reply)
    }

    fn carry_out(
        &mut self,
        now: Instant,
        key: CallKey,
        call: &mut Call,
        leg: usize,
        exchange: &Exchange<'_>,
    ) -> Result<Vec<Plan>, Refusal> {
        let is_recorded = call.recorded_for.is_some();
        let leg = &mut call.legs[leg];
        let medias: Vec<Described<'_>> =
            exchange.sdp.medias().filter_map(|media| describe(exchange, media)).collect();
        let mut opened = Vec::new();
        if !exchange.is_answer {
            // First what can fail.
            opened = self.open_pairs(now, leg, exchange, &medias)?;
            leg.medias.reserve_exact(medias.len().saturating_sub(leg.medias.len()));
            leg.medias.resize_with(leg.medias.len().max(medias.len()), Media::absent);
        }
        let mut plans = Vec::with_capacity(medias.len());
        for (index, described) in medias.iter().enumerate() {
            let Some(media) = leg.medias.get_mut(index) else {
                // An answer about what nobody has offered.
                plans.push(if described.line.port == 0 { Plan::Keep } else { Plan::Reject });
                continue;
            };
            media.kind = interned(described.line.kind);
            media.proto = interned(described.line.proto);
            let before = media.pair.as_ref().map(|pair| pair.kind);
            let fresh = opened.iter().position(|opened| opened.media == index);
            plans.push(match fresh {
                Some(fresh) => {
                    let Opened { pair, sockets, .. } = opened.swap_remove(fresh);
                    self.begin(key, media, pair, sockets, exchange)
                }
                None => self.go_on(key, media, described, exchange),
            });
            if is_recorded
                && let Some(Pair { id, kind, .. }) = media.pair
                && before != Some(kind)
            {
                let record = Output::RecordPair { call: key, pair: id, kind, media: index };
                self.outputs.push_back(record);
            }
        }
        Ok(plans)
    }

    /// Takes ports for what an offer has new.
    fn open_pairs(
        &mut self,
        now: Instant,
        leg: &Leg,
        exchange: &Exchange<'_>,
        medias: &[Described<'_>],
    ) -> Result<Vec<Opened<P::Sockets>>, Refusal> {
        let mut opened: Vec<Opened<P::Sockets>> = Vec::new();
        for (media, described) in medias.iter().enumerate() {
            let is_known = leg.medias.get(media).is_some_and(|media| media.pair.is_some());
            let Some(kind) = described.kind.filter(|_| !is_known) else { continue };
            let mut pair = self.new_pair(kind, leg, exchange, described);
            apply(&mut pair, exchange, described);
            match self.open_ends(now, &mut pair) {
                Ok(sockets) => opened.push(Opened { media, pair, sockets }),
                Err(error) => {
                    tracing::warn!(%error, "no ports for an offer");
                    self.stats.no_ports += 1;
                    for Opened { pair, sockets, .. } in opened {
                        drop(sockets);
                        for end in &pair.ends {
                            self.ports.give_back(now, end.address, end.port);
                        }
                    }
                    return Err(Refusal::Error("Ran out of ports"));
                }
            }
        }
        Ok(opened)
    }

    /// A new pair, without ports.
    fn new_pair(
        &mut self,
        kind: Kind,
        leg: &Leg,
        exchange: &Exchange<'_>,
        described: &Described<'_>,
    ) -> Pair {
        let request = exchange.request;
        let sender = exchange.sender;
        // What was chosen for the leg before stays.
        let former = leg.pairs().next();
        let mut interface = |position: usize, side: Side| {
            if let Some(pair) = former {
                return pair.ends[side as usize].interface;
            }
            let name = request.direction[position];
            let index = name.and_then(|name| {
                let interfaces = &self.settings.interfaces;
                let found = interfaces.iter().position(|one| one.name.as_bytes() == name);
                if found.is_none() {
                    self.ignored.count("direction");
                }
                found
            });
            index.unwrap_or_default() as u8
        };
        let from = interface(0, sender);
        let to = interface(1, sender.other());
        let v6_from = described.rtp.is_some_and(|address| address.is_ipv6());
        let v6_to = match (request.address_family, former) {
            (Some(family), _) => family == AddressFamily::V6,
            (None, Some(pair)) => pair.ends[sender.other() as usize].address.is_ipv6(),
            (None, None) => v6_from,
        };
        let end = |interface: u8, v6: bool| {
            let local = self.settings.interfaces.get(usize::from(interface));
            let local = local.and_then(|interface| interface.local(v6));
            End {
                interface,
                address: local.map_or(Ipv4Addr::LOCALHOST.into(), |local| local.bind),
                port: 0,
                rtcp_open: false,
                rtp: None,
                rtcp: None,
                hint: None,
                receives: true,
                withdrawn: Withdrawn::default(),
                asymmetric: false,
                strict: false,
                mux: Mux::default(),
            }
        };
        let mut ends = [end(from, v6_from), end(to, v6_to)];
        ends[0].receives = described.receives;
        if sender == Side::Answerer {
            ends.reverse();
        }
        self.last_pair += 1;
        Pair { id: PairId(self.last_pair), kind, ends, clocks: Box::default(), silent: false }
    }

    fn open_ends(&mut self, now: Instant, pair: &mut Pair) -> Result<[P::Sockets; 2], String> {
        let needs = [Side::Offerer, Side::Answerer].map(|side| needs_rtcp(pair, side));
        let [offerer, answerer] = &mut pair.ends;
        let mut open = |end: &mut End, rtcp: bool| {
            let (port, sockets) = self.ports.open(now, end.address, rtcp)?;
            (end.port, end.rtcp_open) = (port, rtcp);
            Ok::<_, String>(sockets)
        };
        let first = open(offerer, needs[0])?;
        match open(answerer, needs[1]) {
            Ok(second) => Ok([first, second]),
            Err(error) => {
                drop(first);
                self.ports.give_back(now, offerer.address, offerer.port);
                Err(error)
            }
        }
    }

    /// Hands a new pair to the plane.
    fn begin(
        &mut self,
        key: CallKey,
        media: &mut Media,
        pair: Pair,
        sockets: [P::Sockets; 2],
        exchange: &Exchange<'_>,
    ) -> Plan {
        let strict = self.settings.strict_source;
        self.outputs.push_back(Output::Open {
            pair: pair.id,
            kind: pair.kind,
            sockets,
            settings: [Side::Offerer, Side::Answerer].map(|side| pair.settings(side, strict)),
        });
        self.pairs.insert(pair.id, Owner::Call(key));
        media.offered = Offered::As(pair.kind);
        let pair = media.pair.insert(pair);
        plan(&self.settings, pair, exchange)
    }

    /// A media description that is known, or one that is not relayed.
    fn go_on(
        &mut self,
        key: CallKey,
        media: &mut Media,
        described: &Described<'_>,
        exchange: &Exchange<'_>,
    ) -> Plan {
        let is_off = described.line.port == 0;
        if media.pair.is_none() {
            // Whatever an answer says about what was not offered, or is not relayed.
            let refused = exchange.is_answer && described.kind.is_some() && !is_off;
            return if refused { Plan::Reject } else { Plan::Keep };
        }
        let Some(kind) = described.kind else {
            if exchange.is_answer {
                if let Some(pair) = media.pair.take() {
                    self.close_one(key, &pair);
                }
            } else {
                media.offered = Offered::Off;
            }
            return Plan::Keep;
        };
        if exchange.is_answer {
            if media.offered == Offered::Off {
                if let Some(pair) = media.pair.take() {
                    self.close_one(key, &pair);
                }
                return Plan::Reject;
            }
        } else {
            media.offered = Offered::As(kind);
        }
        let Some(pair) = media.pair.as_mut() else { return Plan::Keep };
        let strict = self.settings.strict_source;
        let sender = exchange.sender;
        let receiver = sender.other();
        let before = pair.settings(receiver, strict);
        let place = |settings: &EndSettings| (settings.rtp, settings.rtcp);
        apply(pair, exchange, described);
        pair.silent = false;
        if exchange.is_answer && pair.kind != kind {
            pair.kind = kind;
            self.outputs.push_back(Output::Kind { pair: pair.id, kind });
        }
        let reopen = if exchange.replaced { Reopen::Fully } else { Reopen::IfMoved };
        for side in [sender, receiver] {
            let rtcp = fit_rtcp(&mut self.ports, pair, side);
            let settings = pair.settings(side, strict);
            let reopen = if side == sender {
                reopen
            } else if place(&settings) != place(&before) {
                // Its offer has taken the address away, and is accepted now.
                Reopen::IfMoved
            } else {
                Reopen::No
            };
            if side == sender || settings != before || !matches!(rtcp, RtcpPort::Keep) {
                let id = pair.id;
                self.outputs.push_back(Output::Change { pair: id, side, settings, reopen, rtcp });
            }
        }
        plan(&self.settings, pair, exchange)
    }
}

/// What every offer and answer has.
struct Essentials<'a> {
    sdp: Sdp<'a>,
    call_id: &'a [u8],
    from_tag: &'a [u8],
}

fn new_leg(now: Instant, tags: Tags<'_>, label: Option<&[u8]>) -> Leg {
    let mut offerer = Party::new(now, tags.from);
    offerer.label = label.map(Into::into);
    let mut leg = Leg::new(offerer, tags.branch);
    if let Some(to) = tags.to {
        // The caller has sent no description: the callee offers, and knows whom.
        leg.note(now, Side::Answerer, to, None);
    }
    leg
}

/// What a media description says; `None` for a section that is none.
fn describe<'a>(exchange: &Exchange<'a>, media: Section<'_, 'a>) -> Option<Described<'a>> {
    let request = exchange.request;
    let sdp = &exchange.sdp;
    let line = media.media_line()?;
    let kind = kind_of(line.proto).filter(|_| line.port != 0);
    let connection = sdp.connection_of(media).and_then(|connection| connection.ip);
    let on_hold = connection.is_some_and(|ip| ip.is_unspecified());
    let signalled = match request.received_from {
        Some(source) if request.flags.trust_address == Some(false) && !on_hold => Some(source),
        _ => connection,
    };
    let at = |ip: Option<IpAddr>, port: Option<u16>| {
        let ip = ip.filter(|ip| is_host(*ip))?;
        Some(SocketAddr::new(ip, port.filter(|port| *port != 0)?))
    };
    let (rtcp_port, rtcp_ip) = match media.attribute("rtcp").and_then(|attribute| attribute.rtcp())
    {
        Some((port, ip)) if request.flags.trust_address != Some(false) => (Some(port), ip),
        Some((port, _)) => (Some(port), None),
        None => (line.port.checked_add(1), None),
    };
    let mux = media.attributes().any(|attribute| {
        matches!(attribute.name, b"rtcp-mux" | b"rtcp-mux-only")
            || attribute.rtcp().is_some_and(|(port, _)| port == line.port)
    });
    let clocks = if kind == Some(Kind::Rtp) || kind == Some(Kind::Srtp) {
        media.attributes().filter_map(|attribute| attribute.rtpmap()).take(MAX_CLOCKS).collect()
    } else {
        Vec::new()
    };
    Some(Described {
        rtp: at(signalled, Some(line.port)),
        rtcp: at(rtcp_ip.or(signalled), rtcp_port),
        receives: sdp.direction_of(media).receives() && !on_hold,
        mux: mux && kind.is_some_and(|kind| kind != Kind::Opaque),
        clocks,
        kind,
        line,
    })
}

/// What is relayed as what; `None`: not over UDP, so not at all.
fn kind_of(proto: &[u8]) -> Option<Kind> {
    let contains = |part: &[u8]| proto.windows(part.len()).any(|window| window == part);
    if proto.starts_with(b"TCP") || contains(b"MSRP") {
        None
    } else if contains(b"RTP/SAVP") {
        Some(Kind::Srtp)
    } else if proto.starts_with(b"RTP/AVP") {
        Some(Kind::Rtp)
    } else {
        Some(Kind::Opaque)
    }
}

/// Whether media may be sent there: nowhere in particular, or to everybody, is no party of a call.
const fn is_host(ip: IpAddr) -> bool {
    let broadcast = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// Notes in a pair what the sender's description says.
fn apply(pair: &mut Pair, exchange: &Exchange<'_>, described: &Described<'_>) {
    let request = exchange.request;
    let (sender, receiver) = both(pair, exchange.sender);
    // What an end cannot reach is as good as unknown.
    let v6 = sender.address.is_ipv6();
    let reachable = |address: Option<SocketAddr>| address.filter(|address| address.is_ipv6() == v6);
    let (rtp, rtcp) = (reachable(described.rtp), reachable(described.rtcp));
    sender.hint = request.received_from.filter(|ip| ip.is_ipv6() == v6);
    sender.asymmetric = request.flags.asymmetric && !request.flags.symmetric;
    sender.strict = request.flags.strict_source;
    if exchange.is_answer {
        (sender.rtp, sender.rtcp, sender.receives) = (rtp, rtcp, described.receives);
        sender.withdrawn = Withdrawn::default();
        receiver.withdraw();
        answer_mux(sender, receiver, described.mux);
    } else {
        // What is new counts at once, for early media.
        sender.withdrawn =
            Withdrawn { media: !described.receives, rtp: rtp.is_none(), rtcp: rtcp.is_none() };
        sender.rtp = rtp.or(sender.rtp);
        sender.rtcp = rtcp.or(sender.rtcp);
        sender.receives |= described.receives;
        offer_mux(sender, receiver, described.mux, request.rtcp_mux);
    }
    if pair.clocks.is_empty() {
        pair.clocks = described.clocks.clone().into_boxed_slice();
    } else if described.clocks.iter().any(|clock| !pair.clocks.contains(clock)) {
        let mut clocks = described.clocks.clone();
        let known = |clocks: &[(u8, u32)], kind: u8| clocks.iter().any(|(one, _)| *one == kind);
        for clock in &pair.clocks {
            if clocks.len() < MAX_CLOCKS && !known(&clocks, clock.0) {
                clocks.push(*clock);
            }
        }
        pair.clocks = clocks.into_boxed_slice();
    }
}

fn both(pair: &mut Pair, first: Side) -> (&mut End, &mut End) {
    let [offerer, answerer] = &mut pair.ends;
    match first {
        Side::Offerer => (offerer, answerer),
        Side::Answerer => (answerer, offerer),
    }
}

/// What is offered on, and what the answer will be: the other party's choice by default.
fn offer_mux(sender: &mut End, receiver: &mut End, offered: bool, wish: RtcpMux) {
    let in_use = receiver.mux.on && receiver.mux.settled;
    let was_settled = sender.mux.settled && sender.mux.on;
    sender.mux.on = offered;
    if !in_use {
        receiver.mux.on = offered;
    }
    if wish.offer || wish.require {
        receiver.mux.on = true;
    } else if wish.demux {
        receiver.mux.on = false;
    }
    // One that is in use goes on: its second port may be closed already.
    receiver.mux.settled = receiver.mux.on && (wish.require || in_use);
    receiver.mux.offered = receiver.mux.on;
    receiver.mux.decided = true;
    if sender.mux.on {
        if !receiver.mux.on {
            // It was not offered on, so the answer will not have it: it is accepted here, unless that is unwanted.
            sender.mux.on = !wish.reject;
        } else if wish.reject {
            sender.mux.on = false;
        } else {
            receiver.mux.decided = wish.accept;
        }
    }
    sender.mux.settled = sender.mux.on && (receiver.mux.decided || was_settled);
}

fn answer_mux(sender: &mut End, receiver: &mut End, accepted: bool) {
    // What was not offered cannot be accepted.
    sender.mux.on = accepted && sender.mux.offered;
    sender.mux.settled = sender.mux.on;
    if !sender.mux.decided {
        receiver.mux.on = sender.mux.on;
    }
    receiver.mux.settled = receiver.mux.on;
}

fn needs_rtcp(pair: &Pair, side: Side) -> bool {
    let mux = pair.ends[side as usize].mux;
    pair.kind != Kind::Opaque && !(mux.on && mux.settled)
}

/// Opens or closes the port for RTCP of an end, as it is needed.
fn fit_rtcp<P: PortPool>(ports: &mut P, pair: &mut Pair, side: Side) -> RtcpPort<P::Rtcp> {
    let needed = needs_rtcp(pair, side);
    let end = &mut pair.ends[side as usize];
    if needed == end.rtcp_open {
        return RtcpPort::Keep;
    }
    if !needed {
        end.rtcp_open = false;
        return RtcpPort::Close;
    }
    match ports.open_rtcp(end.address, end.port) {
        Ok(socket) => {
            end.rtcp_open = true;
            RtcpPort::Open(socket)
        }
        Err(error) => {
            // Media goes on, RTCP of this side does not.
            tracing::warn!(%error, "no port for RTCP");
            RtcpPort::Keep
        }
    }
}

/// What the receiver of a description is told about its end.
fn plan(settings: &Settings, pair: &Pair, exchange: &Exchange<'_>) -> Plan {
    let end = &pair.ends[exchange.sender.other() as usize];
    let interface = settings.interfaces.get(usize::from(end.interface));
    let local = interface.and_then(|interface| interface.local(end.address.is_ipv6()));
    let advertised = local.map_or(end.address, |local| local.advertised);
    Plan::Relay {
        ip: exchange.request.media_address.unwrap_or(advertised),
        port: end.port,
        rtcp_port: if end.mux.on && end.mux.settled { end.port } else { end.port + 1 },
        mux: (pair.kind != Kind::Opaque).then_some(end.mux.on),
    }
}
