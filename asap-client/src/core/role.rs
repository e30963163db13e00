//! What a role (pool element, pool user, or a tuple of both) is to the client that carries it.

use std::net::SocketAddr;
use std::time::Instant;

use dialtone_transport::model::{AssocId, Remote};
use dialtone_wire::asap::Message;
use dialtone_wire::{Compat, ServerId};

/// The home registrar and the association with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    pub assoc: AssocId,
    pub remote: Remote,
    /// Known once the registrar has named itself in a keep-alive.
    pub server_id: Option<ServerId>,
    /// When this registrar became the home.
    pub since: Instant,
}

impl Home {
    /// Where the home registrar is reached.
    pub fn addr(&self) -> SocketAddr {
        self.remote.addr
    }
}

/// Why the home changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeChange {
    /// The hunt found one (RFC 5352 section 3.6).
    Found,
    /// A registrar claimed this process by a keep-alive with H=1 (RFC 5352 section 3.4).
    Adopted,
    /// The association ended or was given up; a hunt is under way.
    Lost,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub assoc: AssocId,
    /// It came over the home association.
    pub is_home: bool,
    /// It came from where the home registrar is, over whichever association: there are two with one registrar when both
    /// have dialled.
    pub is_home_registrar: bool,
}

/// A protocol role on top of the one home association.
///
/// The client calls the handlers with a [`Context`]; what a role wants done it asks the context for, what its user
/// should know it queues for [`Role::poll`].
pub trait Role {
    type Command;
    type Event;

    fn handle_command(&mut self, cx: &mut Context<'_>, command: Self::Command);

    /// Takes a message; `false` when it does not belong to this role.
    fn handle_message(&mut self, cx: &mut Context<'_>, from: Sender, message: &Message<'_>)
    -> bool;

    /// The home changed; [`Context::home`] shows the new state. Requests under way with the former home are void.
    fn handle_home(&mut self, cx: &mut Context<'_>, change: HomeChange);

    /// Does what is due at `cx.now()`; afterwards [`Role::next_deadline`] lies later than that.
    fn handle_timeout(&mut self, cx: &mut Context<'_>);

    fn next_deadline(&self) -> Option<Instant>;

    /// The next event for the user of this role.
    fn poll(&mut self) -> Option<Self::Event>;
}

/// What a role asked the client for.
#[derive(Debug)]
pub(super) enum Action {
    Send { assoc: AssocId, payload: Vec<u8> },
    Hunt,
    AbandonHome,
    Adopt { assoc: AssocId, server_id: ServerId },
}

/// The client as a role sees it during one call.
#[derive(Debug)]
pub struct Context<'a> {
    pub(super) now: Instant,
    pub(super) compat: Compat,
    pub(super) rng: &'a mut fastrand::Rng,
    pub(super) home: Option<Home>,
    pub(super) guarded: bool,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Context<'_> {
    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn rng(&mut self) -> &mut fastrand::Rng {
        self.rng
    }

    pub fn home(&self) -> Option<Home> {
        self.home
    }

    /// The home was found so recently that a claim by another registrar is older news than our registration.
    pub fn home_is_recent(&self) -> bool {
        self.guarded
    }

    /// Sends to the home registrar; `false` when there is none or the message cannot be encoded.
    pub fn send(&mut self, message: &Message<'_>) -> bool {
        match self.home {
            Some(home) => self.send_on(home.assoc, message),
            None => false,
        }
    }

    /// Sends over a particular association, for answers; `false` when the message cannot be encoded.
    pub fn send_on(&mut self, assoc: AssocId, message: &Message<'_>) -> bool {
        match message.encode_with(self.compat) {
            Ok(payload) => {
                self.actions.push(Action::Send { assoc, payload });
                true
            }
            Err(error) => {
                tracing::debug!(%error, "message not sent");
                false
            }
        }
    }

    /// Starts a server hunt beside the home association: the first other registrar that answers becomes the home,
    /// unless the present one speaks up before.
    pub fn hunt(&mut self) {
        self.actions.push(Action::Hunt);
    }

    /// Gives up the home association and hunts for another one.
    pub fn abandon_home(&mut self) {
        self.actions.push(Action::AbandonHome);
    }

    /// Makes the registrar at the other end of `assoc` the home (RFC 5352 section 3.4, KA2.4).
    pub fn adopt(&mut self, assoc: AssocId, server_id: ServerId) {
        self.actions.push(Action::Adopt { assoc, server_id });
    }
}

/// One of two: commands and events of a tuple of roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

impl<A: Role, B: Role> Role for (A, B) {
    type Command = Either<A::Command, B::Command>;
    type Event = Either<A::Event, B::Event>;

    fn handle_command(&mut self, cx: &mut Context<'_>, command: Self::Command) {
        match command {
            Either::First(command) => self.0.handle_command(cx, command),
            Either::Second(command) => self.1.handle_command(cx, command),
        }
    }

    fn handle_message(
        &mut self,
        cx: &mut Context<'_>,
        from: Sender,
        message: &Message<'_>,
    ) -> bool {
        let first = self.0.handle_message(cx, from, message);
        let second = self.1.handle_message(cx, from, message);
        first || second
    }

    fn handle_home(&mut self, cx: &mut Context<'_>, change: HomeChange) {
        self.0.handle_home(cx, change);
        self.1.handle_home(cx, change);
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.0.handle_timeout(cx);
        self.1.handle_timeout(cx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.0.next_deadline(), self.1.next_deadline()].into_iter().flatten().min()
    }

    fn poll(&mut self) -> Option<Self::Event> {
        self.0.poll().map(Either::First).or_else(|| self.1.poll().map(Either::Second))
    }
}
