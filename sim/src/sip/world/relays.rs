//! Media relays as proxies see them: what they answer, and who has which of their ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dialtone_handlespace::Element;
use dialtone_ng::message::{Command, Datagram, Outcome, ReplyEncoder, Request};
use dialtone_pool_user::{Freshness, Member, View};
use dialtone_wire::{PeId, Policy, PolicyType, ServerId, Transport};

use super::process::Input_;
use super::{Event, World};

pub(crate) const RELAYS: usize = 2;

/// An offer that nobody has answered is forgotten after this time.
const UNANSWERED: Duration = Duration::from_secs(60);

/// For how long after a fault a call may still feel it: its dialog's next exchange may find another relay.
const AFTERMATH: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
struct Call {
    offered_at: Duration,
    answered: bool,
}

#[derive(Debug)]
pub(crate) struct Relay {
    pub(super) alive: bool,
    pub(super) frozen: bool,
    /// Nothing reaches it and nothing comes from it.
    pub(super) cut: bool,
    pub(super) visible: bool,
    pub(super) life: u32,
    backlog: Vec<(usize, Bytes)>,
    cookies: BTreeMap<Vec<u8>, Vec<u8>>,
    calls: BTreeMap<String, Call>,
    /// Calls that were ended, not forgotten.
    ended: BTreeSet<String>,
    /// For which call a port is, and who is told it: `to` or `of` whoever has made the offer.
    ports: Vec<(String, String)>,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self {
            alive: true,
            frozen: false,
            cut: false,
            visible: true,
            life: 0,
            backlog: Vec::new(),
            cookies: BTreeMap::new(),
            calls: BTreeMap::new(),
            ended: BTreeSet::new(),
            ports: Vec::new(),
        }
    }

    fn is_well(&self) -> bool {
        self.alive && !self.frozen && !self.cut
    }

    fn port(&mut self, call: &str, whose: String) -> u16 {
        let port = (call.to_owned(), whose);
        let known = self.ports.iter().position(|other| *other == port);
        let number = known.unwrap_or_else(|| {
            self.ports.push(port);
            self.ports.len() - 1
        });
        10_000 + number as u16
    }
}

pub(super) fn relay_address(relay: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 9, 81 + relay as u8], 2223))
}

/// Where media goes, as it stands in descriptions.
pub(crate) fn media_address(relay: usize) -> String {
    format!("203.0.113.{}", 1 + relay)
}

pub(crate) fn relay_name(relay: usize) -> String {
    format!("relay{relay}")
}

impl World {
    /// The pool of the relays as this process sees it. Each prefers another one, so that two proxies hardly ever come to
    /// the same by chance.
    pub(super) fn relay_view(&self, process: usize) -> Arc<View> {
        let there: Vec<usize> =
            (0..self.relays.len()).filter(|relay| self.relays[*relay].visible).collect();
        let pe_id = |relay: usize| PeId(200 + relay as u32);
        let member = |relay: &usize| {
            Member::from(Element {
                pe_id: pe_id(*relay),
                home: ServerId(1),
                life: 30,
                encaps_port: None,
                transport: Transport::udp(relay_address(*relay)),
                policy: Policy::LeastUsed { load: 0 },
                asap_transport: None,
            })
        };
        let first = if there.is_empty() { 0 } else { process % there.len() };
        let order = there[first..].iter().chain(&there[..first]).map(|relay| pe_id(*relay));
        Arc::new(View {
            version: self.version,
            policy: PolicyType::LEAST_USED,
            members: there.iter().map(member).collect(),
            order: order.collect(),
            complete: true,
            freshness: Freshness::Fresh,
            ..View::unknown(dialtone_sip_proxy::RELAYS.parse().expect("a handle"))
        })
    }

    /// A proxy has sent a datagram to a relay.
    pub(super) fn tell_relay(&mut self, process: usize, to: SocketAddr, bytes: Bytes) {
        let relay = (0..self.relays.len()).find(|relay| relay_address(*relay) == to);
        let Some(relay) = relay else {
            return self.wrong("stray", format!("a datagram to {to}"));
        };
        for at in self.relay_arrivals() {
            self.push(at, Event::ToRelay { relay, process, bytes: bytes.clone() });
        }
    }

    /// Where phones' datagrams get lost, these do as well.
    fn relay_arrivals(&mut self) -> Vec<Duration> {
        let at = self.now + Duration::from_micros(self.rng.u64(150..400));
        match self.rng.f64() {
            luck if luck < self.loss => Vec::new(),
            luck if luck < self.loss * 1.4 => vec![at, at + Duration::from_millis(1)],
            _ => vec![at],
        }
    }

    pub(super) fn at_relay(&mut self, relay: usize, process: usize, bytes: Bytes) {
        let there = &mut self.relays[relay];
        if there.cut {
            return;
        }
        if !there.alive {
            // The system of a process that is gone answers with ICMP.
            let life = self.procs[process].life;
            let at = self.now + Duration::from_micros(200);
            return self.push(at, Event::FromRelay { relay, process, life, bytes: None });
        }
        if there.frozen {
            there.backlog.push((process, bytes));
            return;
        }
        let answer = self.relay_answers(relay, &bytes);
        let life = self.procs[process].life;
        for at in self.relay_arrivals() {
            let bytes = Some(answer.clone());
            self.push(at, Event::FromRelay { relay, process, life, bytes });
        }
    }

    pub(super) fn hear_relay(
        &mut self,
        relay: usize,
        process: usize,
        life: u32,
        bytes: Option<Bytes>,
    ) {
        if self.procs[process].life == life && !self.relays[relay].cut {
            self.give(process, Input_::Relay { from: relay_address(relay), bytes });
        }
    }

    fn relay_answers(&mut self, relay: usize, datagram: &[u8]) -> Bytes {
        let now = self.now;
        let Datagram { cookie, body } = Datagram::split(datagram).expect("a cookie");
        let request = Request::decode(body).expect("sound NG");
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let (call, from) = (text(request.call_id), text(request.from_tag));
        let asked = format!("{} {call}", String::from_utf8_lossy(request.command.as_bytes()));
        self.note(&relay_name(relay), 10, asked.as_bytes(), || asked.clone());
        let ip = media_address(relay);
        let there = &mut self.relays[relay];
        if let Some(same) = there.cookies.get(cookie) {
            return same.clone().into();
        }
        there.calls.retain(|_, call| call.answered || now < call.offered_at + UNANSWERED);
        let mut encoder = ReplyEncoder::new(cookie);
        let whose = match request.command {
            Command::Offer => {
                let known = there.calls.entry(call.clone()).or_default();
                known.offered_at = now;
                there.ended.remove(&call);
                Some(format!("to {from}"))
            }
            Command::Answer => there.calls.get_mut(&call).map(|known| {
                known.answered = true;
                format!("of {from}")
            }),
            _ => {
                if there.calls.remove(&call).is_some() {
                    there.ended.insert(call.clone());
                }
                None
            }
        };
        let outcome = match (whose, request.command) {
            (Some(whose), _) => {
                let port = there.port(&call, whose);
                encoder.dict().bytes("sdp", super::super::media::description(&ip, port));
                Outcome::Ok
            }
            (None, Command::Answer) => Outcome::Error(b"Unknown call-id"),
            (None, _) => Outcome::Ok,
        };
        let answer = encoder.finish(outcome).expect("a short answer");
        there.cookies.insert(cookie.to_vec(), answer.clone());
        answer.into()
    }

    pub(super) fn kill_relay(&mut self, relay: usize, restart: Option<Duration>) {
        if !self.relays[relay].alive {
            return;
        }
        self.note(&relay_name(relay), 6, &[], || format!("killed, restart {restart:?}"));
        self.relay_fault(restart.map_or(Duration::MAX, |after| after));
        let life = self.relays[relay].life + 1;
        // What phones were told stays true of them.
        let ports = std::mem::take(&mut self.relays[relay].ports);
        let visible = self.relays[relay].visible;
        self.relays[relay] = Relay { alive: false, life, ports, visible, ..Relay::new() };
        self.push(self.now + Duration::from_secs(1), Event::RelayVisible { relay, life });
        if let Some(after) = restart {
            self.push(self.now + after, Event::RelayBack { relay, life });
        }
    }

    pub(super) fn stop_relay(&mut self, relay: usize, lasts: Duration, cut: bool) {
        if !self.relays[relay].is_well() {
            return;
        }
        let what = if cut { "cut off" } else { "stopped" };
        self.note(&relay_name(relay), 8, &[], || format!("{what} for {lasts:?}"));
        self.relay_fault(lasts);
        let there = &mut self.relays[relay];
        (there.frozen, there.cut) = (!cut, cut);
        let life = there.life;
        self.push(self.now + Duration::from_millis(2500), Event::RelayVisible { relay, life });
        self.push(self.now + lasts, Event::RelayBack { relay, life });
    }

    pub(super) fn relay_back(&mut self, relay: usize, life: u32) {
        if self.relays[relay].life != life {
            return;
        }
        self.note(&relay_name(relay), 9, &[], || "is back".to_owned());
        let there = &mut self.relays[relay];
        (there.alive, there.frozen, there.cut) = (true, false, false);
        for (process, bytes) in std::mem::take(&mut there.backlog) {
            self.at_relay(relay, process, bytes);
        }
        self.push(self.now + Duration::from_millis(300), Event::RelayVisible { relay, life });
    }

    pub(super) fn relay_seen(&mut self, relay: usize, life: u32) {
        let there = &mut self.relays[relay];
        let visible = there.is_well();
        if there.life == life && there.visible != visible {
            there.visible = visible;
            self.pools();
        }
    }

    fn relay_fault(&mut self, lasts: Duration) {
        self.relay_faults
            .push((self.now, self.now.saturating_add(lasts).saturating_add(AFTERMATH)));
    }

    /// Whether a relay was in trouble at some time in between.
    pub(crate) fn had_relay_trouble(&self, from: Duration, to: Duration) -> bool {
        self.relay_faults.iter().any(|(began, ended)| *began <= to && from <= *ended)
    }

    /// The relay, call and side that a media address belongs to, if it is a relay's.
    pub(crate) fn port_of(&self, address: &str) -> Option<(usize, &str, &str)> {
        let (ip, port) = address.rsplit_once(':')?;
        let relay = (0..self.relays.len()).find(|relay| media_address(*relay) == ip)?;
        let number = port.parse::<usize>().ok()?.checked_sub(10_000)?;
        self.relays[relay].ports.get(number).map(|(call, whose)| (relay, &**call, &**whose))
    }

    /// Calls that relays still have although they were answered: nobody has told them of the end.
    pub(crate) fn calls_of_relays(&self) -> Vec<(usize, String)> {
        let calls = self.relays.iter().enumerate().flat_map(|(number, relay)| {
            let answered = relay.calls.iter().filter(|(_, call)| call.answered);
            answered.map(move |(call, _)| (number, call.clone()))
        });
        calls.collect()
    }

    /// Whether some relay was told of the end of a call.
    pub(crate) fn is_ended_at_relay(&self, call: &str) -> bool {
        self.relays.iter().any(|relay| relay.ended.contains(call))
    }
}
