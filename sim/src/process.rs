//! One simulated process: a core and what the world around it does with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_asap_client::core::{Client, Home, Output as ClientOutput};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, Elements, StateChange};
use dialtone_pool_user::{Event as UserEvent, Selector, Users, View};
use dialtone_registrar_ns::core::{Event as RegistrarEvent, Output as RegistrarOutput, Registrar};
use dialtone_transport::{Link, NetCommand, NetEvent};
use dialtone_wire::{PeId, ServerId};

/// What runs in a process.
#[derive(Debug)]
pub(crate) enum Core {
    Registrar(Box<Registrar>),
    Element(Box<Client<Elements>>),
    User(Box<Client<Users>>),
}

/// An output of any core.
#[derive(Debug)]
pub(crate) enum Said {
    Net(NetCommand),
    /// For the group of registrars.
    Presence(Vec<u8>),
    Registrar(RegistrarEvent),
    Element(StateChange),
    View(Arc<View>),
    Resolved(u64, bool),
    Home(Option<Home>),
}

impl Said {
    /// For the trace's hash: a kind and a number that tells outputs of this kind apart.
    pub(crate) fn fingerprint(&self) -> (u8, u64) {
        match self {
            Self::Net(_) => (5, 0),
            Self::Presence(payload) => (14, payload.len() as u64),
            Self::Registrar(event) => (8, hash(&std::mem::discriminant(event))),
            Self::Element(change) => (9, hash(&std::mem::discriminant(&change.state))),
            Self::View(view) => (10, view.version << 16 | view.members.len() as u64),
            Self::Resolved(id, ok) => (11, id << 1 | u64::from(*ok)),
            Self::Home(home) => (12, u64::from(home.is_some())),
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Net(command) => format!("{command:?}"),
            Self::Presence(payload) => format!("to the group: {} bytes", payload.len()),
            Self::Registrar(event) => format!("{event:?}"),
            Self::Element(change) => format!("{} {:?}", change.key.handle, change.state),
            Self::View(view) => format!(
                "view {} v{} {:?} {:?}",
                view.handle,
                view.version,
                view.members.iter().map(|member| member.pe_id.0).collect::<Vec<_>>(),
                view.freshness,
            ),
            Self::Home(home) => format!("home {:?}", home.map(|home| home.remote.addr.ip())),
            Self::Resolved(id, ok) => format!("question {id} answered: {ok}"),
        }
    }
}

/// The same in every run of one build.
fn hash(what: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Core {
    /// The core's own books of associations, for bounds.
    pub(crate) fn associations(&self) -> usize {
        match self {
            Self::Registrar(core) => core.associations(),
            Self::Element(core) => core.associations(),
            Self::User(core) => core.associations(),
        }
    }

    pub(crate) fn handle_net(&mut self, now: Instant, event: NetEvent) {
        match self {
            Self::Registrar(core) => core.handle_net(now, event),
            Self::Element(core) => core.handle_net(now, event),
            Self::User(core) => core.handle_net(now, event),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Registrar(core) => core.handle_timeout(now),
            Self::Element(core) => core.handle_timeout(now),
            Self::User(core) => core.handle_timeout(now),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Registrar(core) => core.next_deadline(),
            Self::Element(core) => core.next_deadline(),
            Self::User(core) => core.next_deadline(),
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Said> {
        Some(match self {
            Self::Registrar(core) => match core.poll()? {
                RegistrarOutput::Net(command) => Said::Net(command),
                RegistrarOutput::Event(event) => Said::Registrar(event),
                RegistrarOutput::Presence(payload) => Said::Presence(payload),
            },
            Self::Element(core) => match core.poll()? {
                ClientOutput::Net(command) => Said::Net(command),
                ClientOutput::Event(change) => Said::Element(change),
                ClientOutput::Home(home) => Said::Home(home),
            },
            Self::User(core) => match core.poll()? {
                ClientOutput::Net(command) => Said::Net(command),
                ClientOutput::Event(UserEvent::View(view)) => Said::View(view),
                ClientOutput::Event(UserEvent::Resolved { id, outcome }) => {
                    Said::Resolved(id, outcome.is_ok())
                }
                ClientOutput::Home(home) => Said::Home(home),
            },
        })
    }
}

/// What a process is made for, over all its lives.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Registrar,
    /// One process may be several elements.
    Element(Vec<ElementConfig>),
    User {
        pools: Vec<Handle>,
        link: Link,
    },
}

/// Something that is so since a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Running {
        since: Duration,
    },
    /// SIGSTOP, or no CPU.
    Frozen {
        since: Duration,
        /// For a second only.
        starved: bool,
    },
    /// Killed or left. `evidence`: its host says so to whoever sends.
    Dead {
        since: Duration,
        evidence: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
    /// UDP address of its SCTP; the port may differ in the next life.
    pub(crate) addr: SocketAddr,
    pub(crate) core: Option<Core>,
    pub(crate) life: Life,
    /// Which life this is.
    pub(crate) boot: u32,
    pub(crate) held: Vec<NetEvent>,
    /// Associations that its endpoint accepted in this life.
    pub(crate) accepted: u64,
    /// Deadline of the wake-up under way, and its number.
    pub(crate) armed: Option<Duration>,
    pub(crate) alarm: u64,
    /// Timeouts and messages in the present second, for the check against busy loops.
    pub(crate) second: (u64, u32),
    /// Messages sent in the present second.
    pub(crate) sent: (u64, u32),
    /// Users: how they choose.
    pub(crate) selectors: BTreeMap<Handle, Selector>,
    /// Elements: asked to leave the pool.
    pub(crate) leaving: bool,
    /// Elements: in the pool, as far as they know, since then.
    pub(crate) registered: Option<Duration>,
    /// When the first report about it was sent in its present trouble.
    pub(crate) reported: Option<Duration>,
    /// When a report about it was sent last, and last before the present episode.
    pub(crate) blamed: [Option<Duration>; 2],
    /// Elements: when a registrar last removed one that lives, as it must.
    pub(crate) removed: Option<Duration>,
    /// Registrars: identifier of this life, or of the last one.
    pub(crate) server_id: Option<ServerId>,
}

impl Process {
    pub(crate) fn registrar(&self) -> Option<&Registrar> {
        match &self.core {
            Some(Core::Registrar(core)) => Some(core),
            _ => None,
        }
    }

    pub(crate) fn user(&self) -> Option<&Client<Users>> {
        match &self.core {
            Some(Core::User(core)) => Some(core),
            _ => None,
        }
    }

    pub(crate) fn element(&self) -> Option<&Client<Elements>> {
        match &self.core {
            Some(Core::Element(core)) => Some(core),
            _ => None,
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.life, Life::Frozen { .. })
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.life, Life::Running { .. })
    }

    pub(crate) fn host_is_up(&self) -> bool {
        !matches!(self.life, Life::Dead { evidence: false, .. })
    }

    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Handle, PeId)> {
        let configs = match &self.purpose {
            Purpose::Element(configs) => configs.as_slice(),
            _ => &[],
        };
        configs.iter().map(|config| (&config.handle, config.pe_id))
    }
}
