//! Secure mode (RFC 5352 section 9, RFC 5353 section 6, RFC 5355): who may do what.
//!
//! The transport has verified who the other side of an association is; here that name is asked for. Nothing is
//! created or changed for anybody else (RFC 5355 sections 2.1 to 2.5), and there is no third way: a handlespace is
//! secure or it is not (section 2.15).

use std::collections::{BTreeMap, BTreeSet};

use dialtone_handlespace::{Element, Handle};
use dialtone_transport::{AssocId, Identity};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::Body;
use dialtone_wire::{Cause, CauseCode, OperationError, ServerId};

use super::output::Reject;
use super::{Key, Registrar};

/// Names anybody who has a certificate.
const ANYBODY: &str = "*";

/// What secure mode grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub access: Access,
    /// Users who have proven nothing get answers to resolutions. Such an answer is worth nothing to who asks, and says
    /// to everybody what the pools are.
    pub plain_resolutions: bool,
}

/// Who may register in which pool: names of certificates, DNS names and URIs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    anywhere: BTreeSet<String>,
    pools: BTreeMap<Handle, BTreeSet<String>>,
}

impl Access {
    /// Lets `names` register in `pool`; `None`: in every pool. `*` among them is anybody who has a certificate.
    pub fn grant(&mut self, pool: Option<Handle>, names: impl IntoIterator<Item = String>) {
        // The case of DNS names means nothing, that of URIs does.
        let names = names
            .into_iter()
            .map(|name| if name.contains(':') { name } else { name.to_ascii_lowercase() });
        match pool {
            Some(pool) => self.pools.entry(pool).or_default().extend(names),
            None => self.anywhere.extend(names),
        }
    }

    fn allows(&self, pool: &Handle, identity: &Identity) -> bool {
        let has = |granted: &BTreeSet<String>| {
            granted.contains(ANYBODY) || identity.names().iter().any(|name| granted.contains(name))
        };
        has(&self.anywhere) || self.pools.get(pool).is_some_and(has)
    }
}

impl Registrar {
    pub(super) fn is_secure(&self) -> bool {
        self.config.security.is_some()
    }

    /// Who the other side of an association is.
    pub(super) fn identity(&self, id: AssocId) -> Option<&Identity> {
        self.assocs.get(&id)?.identity.as_ref()
    }

    /// Whether what comes over this association counts, as far as that does not depend on who it is.
    pub(super) fn is_protected(&self, id: AssocId) -> bool {
        !self.is_secure() || self.identity(id).is_some()
    }

    /// RFC 5352 section 9.3: what is not protected is rejected with cause 0xa.
    pub(super) fn unprotected(&mut self, id: AssocId, message: &Message<'_>) {
        if let Message::HandleResolution { handle, items, .. } = message
            && self.config.security.as_ref().is_some_and(|security| security.plain_resolutions)
        {
            return self.resolution(id, *handle, false, *items);
        }
        self.counters.unprotected += 1;
        let error: OperationError<'static> = CauseCode::SECURITY.into();
        match message {
            Message::Registration { handle, element } => {
                self.registration_response(id, *handle, element.pe_id, Some(error));
            }
            Message::Deregistration { handle, pe_id } => {
                let message = Message::DeregistrationResponse {
                    handle: *handle,
                    pe_id: *pe_id,
                    error: Some(error),
                };
                self.send_asap(id, &message);
            }
            Message::HandleResolution { handle, .. } => {
                self.negative(id, *handle, CauseCode::SECURITY)
            }
            _ => {}
        }
    }

    /// RFC 5353 section 6.3: the same from peers.
    pub(super) fn unprotected_peer(&mut self, id: AssocId, sender: ServerId) {
        self.counters.unprotected += 1;
        self.send_enrp(id, sender, Body::Error(CauseCode::SECURITY.into()));
        self.abort(id);
    }

    /// RFC 5355 sections 2.1 to 2.4: the element may register in this pool, and it registers itself.
    pub(super) fn check_identity(
        &self,
        id: AssocId,
        key: &Key,
        element: &Element,
    ) -> Result<(), (Reject, Vec<Cause<'static>>)> {
        let Some(security) = &self.config.security else { return Ok(()) };
        let refused = |reason, code| Err((reason, vec![Cause::plain(code)]));
        let identity = self.identity(id);
        let Some((identity, name)) =
            identity.and_then(|identity| Some((identity, identity.name()?)))
        else {
            return refused(Reject::Security, CauseCode::SECURITY);
        };
        if !security.access.allows(&key.0, identity) {
            tracing::debug!(pool = %key.0, name, "no access");
            return refused(Reject::Security, CauseCode::SECURITY);
        }
        // G7: the same identifier under another name is another element.
        let same = match (self.space.get(key.0.as_bytes(), key.1), self.owners.get(key)) {
            (None, _) => true,
            (Some(_), Some(owner)) => owner == name,
            // It registered with another registrar, which does not say under which name: it is known by where it is.
            (Some(known), None) => {
                let addrs = known.transport.addrs();
                let opaque = addrs.is_empty();
                addrs == element.transport.addrs()
                    && (!opaque || known.transport == element.transport)
            }
        };
        if same {
            Ok(())
        } else {
            refused(Reject::NonUniqueIdentifier, CauseCode::NON_UNIQUE_PE_IDENTIFIER)
        }
    }

    /// Remembers under which name an element has registered.
    pub(super) fn note_owner(&mut self, id: AssocId, key: &Key) {
        if let Some(name) = self.identity(id).and_then(Identity::name).map(str::to_owned) {
            self.owners.insert(key.clone(), name);
        }
    }

    /// The element itself: by the name that it has registered under, or else by where it is.
    pub(super) fn is_owner(&self, id: AssocId, key: &Key) -> bool {
        let Some((security, assoc)) = self.config.security.as_ref().zip(self.assocs.get(&id))
        else {
            return false;
        };
        let Some(identity) = &assoc.identity else { return false };
        let known = self.space.get(key.0.as_bytes(), key.1);
        match (self.owners.get(key), known) {
            (Some(owner), _) => identity.name() == Some(owner),
            (None, Some(known)) => {
                let addrs = known.transport.addrs();
                // Of an opaque transport nobody knows where it is.
                let here =
                    !addrs.is_empty() && addrs.iter().all(|addr| *addr == assoc.remote.addr.ip());
                here && security.access.allows(&key.0, identity)
            }
            (None, None) => false,
        }
    }
}
