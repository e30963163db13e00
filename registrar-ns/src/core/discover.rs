//! Registrars that find each other by multicast: presences sent to a group (RFC 5351 section 3.1, as rsplib does it).
//!
//! Anybody on the network can send such a datagram, so it changes nothing but whom this registrar dials: few addresses
//! at a time, each only the one that the datagram came from, and forgotten when nobody is there. Who is a peer shows
//! over the association, and only what comes over that counts as a sign of life.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use dialtone_transport::ENCAPSULATION_PORT;
use dialtone_wire::ServerId;
use dialtone_wire::enrp::{Body, Message};

use super::Registrar;
use super::output::Output;
use super::peers::Origin;

impl Registrar {
    /// Takes a datagram that `from` sent to the group of ENRP.
    pub fn handle_presence(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        self.awake(now);
        if let Some(addr) = self.discovered(from.ip(), payload) {
            self.add_contact(now, addr, None, Origin::Heard);
        }
        self.flush(now);
    }

    /// Whom to dial for this datagram, if anybody.
    fn discovered(&mut self, from: IpAddr, payload: &[u8]) -> Option<SocketAddr> {
        let decoded = Message::decode_with(payload, self.config.compat);
        let Ok(Message { sender, body: Body::Presence { server, .. }, .. }) =
            decoded.map(|decoded| decoded.message)
        else {
            self.counters.dropped += 1;
            return None;
        };
        if sender == self.id || self.link(sender).is_some() {
            return None;
        }
        // The encapsulation port is not said: it is the usual one. Somebody else's address may be a victim's.
        let own = server.is_none_or(|server| server.transport.addrs.contains(&from));
        let dialable = match from {
            IpAddr::V4(_) => true,
            // Without its interface it leads nowhere.
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        if sender == ServerId::NONE || !own || !dialable {
            self.counters.dropped += 1;
            return None;
        }
        Some(SocketAddr::new(from, ENCAPSULATION_PORT))
    }

    /// Says to the group that this registrar is here.
    pub(super) fn show_presence(&mut self) {
        if self.config.multicast
            && let Some(payload) = self.enrp_payload(ServerId::NONE, self.presence(false))
        {
            self.out.push_back(Output::Presence(payload));
        }
    }
}
