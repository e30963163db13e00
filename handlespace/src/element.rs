//! Owned pool elements.

use crate::conflict::PoolKind;
use dialtone_wire::{
    Cause, CauseCode, PeId, Policy, PoolElement, SctpTransport, ServerId, Transport, TransportUse,
};

/// A pool element as the handlespace keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    pub pe_id: PeId,
    /// The home registrar, which owns the element.
    pub home: ServerId,
    /// Registration life in seconds; -1 is infinite.
    pub life: i32,
    /// UDP port of the ASAP transport's encapsulation.
    pub encaps_port: Option<u16>,
    /// Where users reach the element.
    pub transport: Transport<'static>,
    pub policy: Policy<'static>,
    /// Where registrars reach the element.
    pub asap_transport: Option<SctpTransport>,
}

impl Element {
    /// As it stands in messages; borrows what would cost an allocation.
    pub fn to_wire(&self) -> PoolElement<'_> {
        PoolElement {
            pe_id: self.pe_id,
            home: self.home,
            life: self.life,
            transport: self.transport.borrow(),
            policy: self.policy.borrow(),
            asap_transport: self.asap_transport.clone(),
            encaps_port: self.encaps_port,
        }
    }

    /// What its pool has to agree on.
    pub const fn kind(&self) -> PoolKind {
        PoolKind {
            policy: self.policy.number(),
            transport: self.transport.kind(),
            use_: self.transport.transport_use(),
        }
    }

    /// Values that no registrar can accept, as causes for the answer (RFC 5354, section 3.12.4; RFC 5356, section 3):
    /// an invalid policy number, an unknown Transport Use, port 0, a PE identifier 0, a registration life of 0 or less than
    /// -1.
    pub fn invalid_values(&self) -> Vec<Cause<'static>> {
        let mut causes = Vec::new();
        let invalid = || Cause::plain(CauseCode::INVALID_VALUES);
        if !self.policy.number().is_valid() {
            causes.push(Cause::invalid_policy(&self.policy).unwrap_or_else(|_| invalid()));
        }
        let use_ = self.transport.transport_use();
        let known_use = matches!(use_, TransportUse::DATA_ONLY | TransportUse::DATA_PLUS_CONTROL);
        if !known_use || self.transport.port() == Some(0) {
            causes.push(Cause::invalid_transport(&self.transport).unwrap_or_else(|_| invalid()));
        }
        if self.pe_id == PeId(0) || self.life == 0 || self.life < -1 {
            causes.push(Cause::invalid_element(&self.to_wire()).unwrap_or_else(|_| invalid()));
        }
        causes
    }
}

impl From<PoolElement<'_>> for Element {
    fn from(element: PoolElement<'_>) -> Self {
        let PoolElement { pe_id, home, life, transport, policy, asap_transport, encaps_port } =
            element;
        Self {
            pe_id,
            home,
            life,
            encaps_port,
            transport: transport.into_owned(),
            policy: policy.into_owned(),
            asap_transport,
        }
    }
}
