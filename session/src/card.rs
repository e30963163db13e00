//! Business cards: who else can serve (RFC 5352 section 3.9).

use dialtone_handlespace::{Element, Handle, rendezvous};
use dialtone_pool_user::View;
use dialtone_wire::asap::Message;
use dialtone_wire::{PeId, Policy, ServerId, Transport};

/// Elements on a card beside its sender; more would not be tried before the pool has changed.
const MAX_ORDER: usize = 16;

/// The element that this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub handle: Handle,
    /// As it registers.
    pub element: Element,
}

impl Own {
    /// An element with these properties.
    pub fn new(
        handle: Handle,
        pe_id: PeId,
        transport: Transport<'static>,
        policy: Policy<'static>,
    ) -> Self {
        let element = Element {
            pe_id,
            home: ServerId::NONE,
            life: -1,
            encaps_port: None,
            transport,
            policy,
            asap_transport: None,
        };
        Self { handle, element }
    }

    /// The card for one user: this element, then those that are to follow it, in an order that differs from user to
    /// user, so that the users of an element that fails spread over all others.
    ///
    /// A card names at least one element. With its sender on it there is one also when there are no others.
    pub(crate) fn card(&self, view: Option<&View>, user: &[u8]) -> Option<Vec<u8>> {
        let members = view.map_or(&[][..], |view| &view.members[..]);
        let others = members
            .iter()
            .filter(|member| member.pe_id != self.element.pe_id)
            .filter(|member| view.is_some_and(|view| view.names(member.pe_id)));
        let weighted = others.map(|member| rendezvous::Member {
            pe_id: member.pe_id,
            weight: member.policy.weight().unwrap_or(1),
        });
        let order = rendezvous::order(user, weighted);
        let follow = order.iter().filter_map(|pe_id| view?.member(*pe_id)).take(MAX_ORDER);
        // The registrar knows more of this element than itself: the port of its encapsulation.
        let registered = view.and_then(|view| view.member(self.element.pe_id));
        let own = registered.map_or_else(|| self.element.to_wire(), |member| member.to_wire());
        let elements = [own].into_iter().chain(follow.map(|member| member.to_wire())).collect();
        Message::BusinessCard { handle: self.handle.to_wire(), elements }.encode().ok()
    }
}

/// What a card said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub handle: Handle,
    /// Elements in the order in which they should be tried.
    pub order: Vec<PeId>,
}

impl Card {
    /// The longest order that is kept.
    const MAX: usize = 256;

    /// `None`: the message is no card.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let Message::BusinessCard { handle, elements } = message else { return None };
        let order = elements.iter().take(Self::MAX).map(|element| element.pe_id).collect();
        Some(Self { handle: Handle::try_from(*handle).ok()?, order })
    }
}
