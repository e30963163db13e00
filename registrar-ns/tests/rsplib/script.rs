//! One participant's part in a capture.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dialtone_wire::{ASAP_PPID, ENRP_PPID, ServerId};

use crate::pcap::{Seen, What, read};

/// Group and port in which rsplib's registrars find each other.
pub(crate) const ENRP_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 0, 0, 51), 9901);

/// The participants of both captures.
pub(crate) const fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

/// Where something was said, seen from whoever has the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On the association of our SCTP port with this address and SCTP port.
    Association { own: u16, peer: SocketAddrV4 },
    /// In the multicast group of registrars.
    Group,
}

impl Place {
    /// Where a registrar's ASAP is at one end.
    pub(crate) fn is_asap(self) -> bool {
        matches!(self, Self::Association { own, peer } if own == 3863 || peer.port() == 3863)
    }
}

/// What happens to whoever has the part.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The other side dials.
    Dialled,
    Message(Vec<u8>),
    Shutdown,
    Abort,
}

/// Something that whoever had the part in the capture said.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Duration,
    pub(crate) place: Place,
    pub(crate) payload: Vec<u8>,
}

/// A part: everything that concerns one participant's ASAP and ENRP.
pub(crate) struct Part {
    pub(crate) own: Ipv4Addr,
    /// What the others do, when and where.
    pub(crate) steps: Vec<(Duration, Place, Step)>,
    /// What rsplib said in this part.
    pub(crate) lines: Vec<Line>,
    all: Vec<Seen>,
}

impl Part {
    pub(crate) fn new(capture: &[u8], own: Ipv4Addr) -> Self {
        let all: Vec<Seen> = read(capture);
        let (mut steps, mut lines) = (Vec::new(), Vec::new());
        for seen in all.iter().filter(|seen| is_rserpool(seen)) {
            let mine = *seen.from.ip() == own;
            let place = match (&seen.what, mine) {
                (What::Datagram(_), _) => Place::Group,
                (_, true) => Place::Association { own: seen.from.port(), peer: seen.to },
                (_, false) if *seen.to.ip() == own => {
                    Place::Association { own: seen.to.port(), peer: seen.from }
                }
                _ => continue,
            };
            let step = match seen.what.clone() {
                What::Datagram(payload) | What::Message { payload, again: false, .. } => {
                    if mine {
                        lines.push(Line { at: seen.at, place, payload });
                        continue;
                    }
                    Step::Message(payload)
                }
                What::Igmp => continue,
                What::Init => Step::Dialled,
                What::Shutdown => Step::Shutdown,
                What::Abort => Step::Abort,
                What::Message { again: true, .. } => continue,
            };
            if !mine {
                steps.push((seen.at, place, step));
            }
        }
        Self { own, steps, lines, all }
    }

    /// When this participant started: the first sign of it.
    pub(crate) fn start(&self) -> Duration {
        self.all
            .iter()
            .find(|seen| *seen.from.ip() == self.own)
            .map_or(Duration::ZERO, |seen| seen.at)
    }

    /// The last sign of life of somebody with this SCTP port; of the whole host when it is a registrar's.
    pub(crate) fn last_sign(&self, of: SocketAddrV4) -> Duration {
        let registrar = [ENRP_GROUP.port(), 3863].contains(&of.port());
        let signs = self
            .all
            .iter()
            .filter(|seen| if registrar { seen.from.ip() == of.ip() } else { seen.from == of });
        signs.map(|seen| seen.at).max().unwrap_or_default()
    }

    /// The server identifier of a registrar.
    pub(crate) fn id_of(&self, registrar: Ipv4Addr) -> ServerId {
        let mut said = self.said(registrar);
        let (_, payload) = said.next().expect("registrars say that they are there");
        ServerId(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
    }

    /// What this registrar last said of a kind up to `at`, to anybody.
    pub(crate) fn last_said(&self, by: Ipv4Addr, at: Duration, kind: u8) -> Option<&[u8]> {
        let said = self.said(by).take_while(|(time, _)| *time <= at);
        said.filter(|(_, payload)| payload[0] == kind).last().map(|(_, payload)| payload)
    }

    fn said(&self, by: Ipv4Addr) -> impl Iterator<Item = (Duration, &[u8])> {
        let enrp = SocketAddrV4::new(by, ENRP_GROUP.port());
        self.all.iter().filter(move |seen| seen.from == enrp).filter_map(|seen| match &seen.what {
            What::Message { payload, .. } | What::Datagram(payload) => {
                Some((seen.at, &payload[..]))
            }
            _ => None,
        })
    }
}

/// ASAP between registrars and others, or ENRP; neither the sessions of users with elements nor server announcements.
fn is_rserpool(seen: &Seen) -> bool {
    let with_registrar = |port| [seen.from.port(), seen.to.port()].contains(&port);
    match seen.what {
        What::Datagram(_) => seen.to == ENRP_GROUP,
        What::Message { ppid, .. } => {
            [ASAP_PPID, ENRP_PPID].contains(&ppid) && (with_registrar(3863) || with_registrar(9901))
        }
        What::Init | What::Shutdown | What::Abort => with_registrar(3863) || with_registrar(9901),
        What::Igmp => false,
    }
}
