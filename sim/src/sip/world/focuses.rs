//! Conference servers: their real core, with sound that is there at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dialtone_conference::core::{Focus, Hop, MediaCommand, MediaEvent, Settings};
use dialtone_handlespace::Element;
use dialtone_pool_user::{Freshness, Member, View};
use dialtone_sip_pool::hops::ConnId;
use dialtone_wire::{PeId, Policy, PolicyType, ServerId, Transport};

use super::process::Core;
use super::relays::RELAYS;
use super::{Inflight, PROCESSES, World, core_address};

pub(crate) const FOCUSES: usize = 3;
/// Conference servers are processes, numbered after the relays, which are none.
pub(crate) const FIRST_FOCUS: usize = PROCESSES + RELAYS;

/// Of the connections that they dial.
const PREFIX: u64 = 3 << 56;

pub(super) fn core(address: SocketAddr, rng: fastrand::Rng) -> Core {
    let settings = Settings { domain: "dialtone.test".into(), ..Settings::new(address) };
    Core::Focus(Box::new(Focus::new(settings, rng)))
}

impl World {
    /// The pool of the conference servers.
    pub(super) fn focus_view(&self) -> Arc<View> {
        let there = (FIRST_FOCUS..self.procs.len()).filter(|process| self.procs[*process].visible);
        let member = |process: usize| {
            Member::from(Element {
                pe_id: PeId(100 + process as u32),
                home: ServerId(1),
                life: 30,
                encaps_port: None,
                transport: Transport::tcp(core_address(process)),
                policy: Policy::LeastUsed { load: 0 },
                asap_transport: None,
            })
        };
        let members: Arc<[Member]> = there.map(member).collect();
        Arc::new(View {
            version: self.version,
            policy: PolicyType::LEAST_USED,
            order: members.iter().map(|member| member.pe_id).collect(),
            members,
            complete: true,
            freshness: Freshness::Fresh,
            ..View::unknown(dialtone_sip_proxy::CONFERENCES.parse().expect("a handle"))
        })
    }

    /// What a server calls a connection of its own.
    pub(super) fn focus_hop(&mut self, process: usize, conn: ConnId, closed: bool) -> Option<Hop> {
        if conn.is_accepted() {
            return Some(Hop::Accepted(conn.0));
        }
        let known = |((owner, _), other): &(&(usize, SocketAddr), &ConnId)| {
            *owner == process && **other == conn
        };
        let address = self.focus_conns.iter().find(known).map(|((_, address), _)| *address)?;
        if closed {
            self.focus_conns.remove(&(process, address));
        }
        Some(Hop::Tcp(address))
    }

    /// The connection of a server with this address.
    pub(super) fn focus_conn(&mut self, process: usize, address: SocketAddr) -> ConnId {
        if let Some(conn) = self.focus_conns.get(&(process, address)) {
            return *conn;
        }
        let conn = ConnId(PREFIX | self.next_link);
        self.focus_conns.insert((process, address), conn);
        self.dial(process, conn, address);
        conn
    }

    pub(super) fn focus_media(&mut self, process: usize, command: &MediaCommand) {
        let now = self.base + self.now;
        let Core::Focus(focus) = &mut self.procs[process].core else { return };
        match command {
            MediaCommand::Open { call, .. } => {
                let rtp = SocketAddr::new(core_address(process).ip(), 4000);
                focus.handle_media(now, MediaEvent::Opened { call: *call, rtp });
            }
            MediaCommand::Set { call, .. } => {
                focus.handle_media(now, MediaEvent::Entered { call: *call });
            }
            MediaCommand::Close { .. } => {}
        }
    }

    /// As the daemon does when it is asked to stop; it is started again later.
    pub(super) fn drain_focus(&mut self, process: usize) {
        if !self.procs[process].alive || self.procs[process].frozen.is_some() {
            return;
        }
        self.procs[process].visible = false;
        self.pools();
        let now = self.base + self.now;
        if let Core::Focus(focus) = &mut self.procs[process].core {
            focus.drain(now);
        }
        self.give(process, super::Input_::View);
        let inflight = Inflight::Arrives;
        let restart = Some(Duration::from_secs(1));
        self.at(self.now + Duration::from_secs(1), super::Act::Kill { process, inflight, restart });
    }

    /// The server that a call is at, by its address.
    pub(crate) fn focus_at(&self, target: &str) -> Option<usize> {
        (FIRST_FOCUS..self.procs.len())
            .find(|process| target.contains(&format!("@{};", core_address(*process))))
    }
}
