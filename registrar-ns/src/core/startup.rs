//! Start-up (RFC 5353 section 3.2): a mentor gives the list of peers and the handlespace, or service begins alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_handlespace::Handlespace;
use dialtone_transport::AssocId;
use dialtone_wire::enrp::Body;
use dialtone_wire::{ServerId, ServerInformation};

use super::output::Event;
use super::peers::Origin;
use super::{Config, Key, Registrar, Timer};

/// Where a registrar stands.
#[derive(Debug)]
pub(super) enum Stage {
    Starting(Starting),
    Running,
}

#[derive(Debug)]
pub(super) struct Starting {
    since: Instant,
    alone_at: Option<Instant>,
    step: Step,
    /// Mentors that failed in this round.
    tried: BTreeSet<SocketAddr>,
    /// Peers that said that they are starting themselves.
    starting_too: BTreeSet<ServerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Looking,
    List { mentor: AssocId },
    Table { mentor: AssocId },
}

/// Registrars that start together see each other's refusals first; before this none of them goes ahead.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) fn empty_space(config: &Config) -> Handlespace {
    let mut space = Handlespace::new();
    if config.bugs.folded_subtraction {
        space.plant_folded_subtraction();
    }
    space
}

impl Starting {
    pub(super) fn new(now: Instant, config: &Config) -> Self {
        Self {
            since: now,
            alone_at: config.alone_after.map(|after| now + after),
            step: Step::Looking,
            tried: BTreeSet::new(),
            starting_too: BTreeSet::new(),
        }
    }
}

impl Registrar {
    pub(super) fn start(&mut self, now: Instant) {
        for addr in
            self.config.peers.iter().chain(&self.config.mentors).copied().collect::<BTreeSet<_>>()
        {
            self.add_contact(now, addr, None, Origin::Configured);
        }
        let jitter = self.spread(self.config.timers.heartbeat);
        self.timers.set(Timer::Heartbeat, now + jitter);
        self.timers.set(Timer::Startup, now);
    }

    /// An association came up while we look for a mentor.
    pub(super) fn startup_due_soon(&mut self, now: Instant) {
        if matches!(&self.stage, Stage::Starting(starting) if starting.step == Step::Looking) {
            self.timers.set(Timer::Startup, now);
        }
    }

    /// The mentor's association ended.
    pub(super) fn startup_lost(&mut self, now: Instant, id: AssocId) {
        if let Stage::Starting(Starting {
            step: Step::List { mentor } | Step::Table { mentor },
            ..
        }) = &self.stage
            && *mentor == id
        {
            self.mentor_failed(now);
        }
    }

    pub(super) fn startup_due(&mut self, now: Instant) {
        let Stage::Starting(starting) = &self.stage else { return };
        match starting.step {
            Step::Looking => self.look_for_mentor(now),
            // RFC 5353 sections 3.2.2.2 and 3.2.3: expiry gives the mentor up.
            Step::List { .. } | Step::Table { .. } => self.mentor_failed(now),
        }
    }

    fn look_for_mentor(&mut self, now: Instant) {
        let Stage::Starting(starting) = &self.stage else { return };
        let up = |addr: &SocketAddr| {
            let contact = self.contacts.get(addr)?;
            contact
                .assocs
                .iter()
                .find(|id| self.assocs.get(id).is_some_and(|a| a.up && !a.closing))
                .copied()
        };
        let configured = self.config.mentors.iter().filter(|addr| self.contacts.contains_key(addr));
        // RFC 5351 section 3.1: who was found by multicast will do as well.
        let found = self
            .contacts
            .keys()
            .filter(|addr| self.config.multicast && !self.config.mentors.contains(addr));
        let mentors = configured.chain(found);
        let next = mentors.clone().filter(|addr| !starting.tried.contains(addr)).find_map(up);
        if let Some(mentor) = next {
            return self.ask(now, Step::List { mentor }, Body::ListRequest, mentor);
        }
        // RFC 5353 section 3.2.2.1: no mentor configured means alone.
        let nobody = mentors.clone().next().is_none() && !self.config.multicast;
        let waited = starting.alone_at.is_some_and(|at| now >= at);
        // All that answer are starting too, and all others refused us twice: the largest identifier goes ahead, the
        // others find their mentor in it.
        let settled = now >= starting.since + SETTLE
            && !starting.starting_too.is_empty()
            && starting.starting_too.iter().all(|peer| *peer < self.id)
            && mentors.clone().all(|addr| {
                self.contacts.get(addr).is_some_and(|contact| match contact.peer {
                    Some(peer) => starting.starting_too.contains(&peer),
                    None => contact.failures >= 2,
                })
            });
        if nobody || waited || settled {
            return self.enter_service(now, None);
        }
        let retry = self.config.timers.retry;
        self.show_presence();
        if let Stage::Starting(starting) = &mut self.stage {
            starting.tried.clear();
            let at = starting.alone_at.map_or(now + retry, |alone| alone.min(now + retry));
            self.timers.set(Timer::Startup, at);
        }
    }

    fn ask(&mut self, now: Instant, step: Step, body: Body<'_>, mentor: AssocId) {
        if let Stage::Starting(starting) = &mut self.stage {
            starting.step = step;
        }
        self.timers.set(Timer::Startup, now + self.config.timers.no_response);
        self.send_enrp(mentor, ServerId::NONE, body);
    }

    /// On to a backup; what the failed one sent is not kept (RFC 5353 section 3.2.3).
    fn mentor_failed(&mut self, now: Instant) {
        let Stage::Starting(starting) = &mut self.stage else { return };
        if let Step::List { mentor } | Step::Table { mentor } = starting.step {
            let failed = self.contacts.iter().find(|(_, contact)| contact.assocs.contains(&mentor));
            starting.tried.extend(failed.map(|(addr, _)| *addr));
        }
        starting.step = Step::Looking;
        self.space = empty_space(&self.config);
        self.answers = Default::default();
        // RFC 5353 section 3.2.2.2: some time before the same mentor is asked again.
        self.timers.set(Timer::Startup, now + self.config.timers.retry);
    }

    /// RFC 5353 section 3.2.2.2: all peers that we know; none while we are starting ourselves.
    pub(super) fn list_request(&mut self, id: AssocId, sender: ServerId) {
        let reject = !self.in_service();
        let mut servers = Vec::new();
        if !reject {
            servers.push(self.server_information());
            for (peer, entry) in self.peers.iter().filter(|(peer, _)| **peer != sender) {
                let remote =
                    entry.assoc.and_then(|id| self.assocs.get(&id)).map(|assoc| assoc.remote);
                servers.extend(remote.map(|remote| ServerInformation {
                    server_id: *peer,
                    transport: dialtone_wire::SctpTransport {
                        port: if self.is_secure() {
                            self.config.enrp_port
                        } else {
                            remote.sctp_port
                        },
                        use_: dialtone_wire::TransportUse::DATA_ONLY,
                        addrs: remote.addr.ip().into(),
                    },
                }));
            }
        }
        self.send_enrp(id, sender, Body::ListResponse { reject, servers });
    }

    pub(super) fn list_response(
        &mut self,
        now: Instant,
        id: AssocId,
        sender: ServerId,
        reject: bool,
        servers: &[ServerInformation],
    ) {
        let Stage::Starting(starting) = &mut self.stage else { return };
        if starting.step != (Step::List { mentor: id }) {
            return;
        }
        if reject {
            starting.starting_too.insert(sender);
            return self.mentor_failed(now);
        }
        starting.starting_too.remove(&sender);
        self.mentor_answered(now);
        for server in servers {
            self.learn_server(now, server);
        }
        match (self.table_session(now, id), &mut self.stage) {
            (Some(over), Stage::Starting(starting)) => {
                starting.step = Step::Looking;
                self.timers.set(Timer::Startup, over);
            }
            _ => self.ask_table(now, id),
        }
    }

    /// Who has a mentor that answers is not alone, however long its table takes.
    fn mentor_answered(&mut self, now: Instant) {
        if let Stage::Starting(starting) = &mut self.stage {
            starting.alone_at = self.config.alone_after.map(|after| now + after);
        }
    }

    fn ask_table(&mut self, now: Instant, mentor: AssocId) {
        self.ask(
            now,
            Step::Table { mentor },
            Body::HandleTableRequest { own_children_only: false },
            mentor,
        );
    }

    /// Whether this response belongs to the start-up; if so it is dealt with.
    pub(super) fn startup_table(
        &mut self,
        now: Instant,
        id: AssocId,
        sender: ServerId,
        reject: bool,
        more: bool,
        pools: &[dialtone_wire::enrp::PoolEntry<'_>],
    ) -> bool {
        let Stage::Starting(starting) = &self.stage else { return false };
        if starting.step != (Step::Table { mentor: id }) {
            return true;
        }
        if reject {
            self.mentor_failed(now);
            return true;
        }
        self.mentor_answered(now);
        for entry in pools {
            for element in &entry.elements {
                self.import(now, sender, entry.handle, element, false);
            }
        }
        if more {
            self.ask_table(now, id);
        } else {
            self.enter_service(now, Some(sender));
        }
        true
    }

    fn enter_service(&mut self, now: Instant, mentor: Option<ServerId>) {
        self.stage = Stage::Running;
        self.timers.cancel(&Timer::Startup);
        self.event(Event::InService { mentor });
        // Elements of an earlier life with this identifier: nobody else watches them.
        let mine: Vec<Key> = self.keys_of(self.id);
        self.adopt(now, mine, None);
        // Who stands in the handlespace as a home and is never heard of is dead.
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.last_heard = entry.last_heard.max(now);
            }
            self.timers.set(Timer::Peer(peer), now + self.config.timers.last_heard);
            self.start_resync(now, peer);
        }
    }
}
