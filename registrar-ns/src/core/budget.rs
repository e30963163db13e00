//! What others may cost this registrar (RFC 5355): accounts by where associations come from.
//!
//! Anybody who reaches the port can open associations, so what is limited is not one of them but all from one address
//! together. What goes beyond a limit is refused where the protocol has an answer for that, else dropped and counted;
//! who goes on in spite of it is hung up. Elements' answers to keep-alives and what configured peers say cost nothing: a
//! neighbour at the same address must not be able to get an element removed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use dialtone_transport::{AssocId, Protocol};
use dialtone_wire::AsapType;

use super::peers::Origin;
use super::{Registrar, Timer};

/// An answer costs one request more for each of so many bytes.
pub(super) const COST_BYTES: usize = 1024;

/// Whose requests were dropped as often in this time as it has requests a second is hung up; and for so long an account
/// is kept without associations, so that dialling again brings no new budget.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where associations come from: an IPv4 address, or the network that an IPv6 host takes its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn new(addr: IpAddr, ipv6_prefix: u8) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self(addr.into()),
            IpAddr::V6(addr) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix)).unwrap_or(0);
                Self(Ipv6Addr::from_bits(addr.to_bits() & kept).into())
            }
        }
    }
}

/// What one source holds, and what it may still ask for.
#[derive(Debug)]
pub(super) struct Account {
    assocs: BTreeSet<AssocId>,
    /// That registered from there, and are not gone yet.
    elements: usize,
    requests: Bucket,
    reports: Bucket,
    /// Requests dropped since then.
    excess: (u32, Instant),
}

/// So many at once, and so many a second.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant, rate: u32) -> Self {
        Self { tokens: f64::from(rate), filled: now }
    }

    fn take(&mut self, now: Instant, rate: u32) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * f64::from(rate)).min(f64::from(rate));
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl Registrar {
    pub(super) fn source(&self, id: AssocId) -> Option<Source> {
        let assoc = self.assocs.get(&id)?;
        Some(Source::new(assoc.remote.addr.ip(), self.config.limits.ipv6_prefix))
    }

    /// Opens the account of an association that is up. `false`: its source has too many.
    pub(super) fn open_account(&mut self, now: Instant, id: AssocId) -> bool {
        let (Some(source), Some(assoc)) = (self.source(id), self.assocs.get(&id)) else {
            return false;
        };
        let limits = &self.config.limits;
        let account = self.accounts.entry(source).or_insert_with(|| Account {
            assocs: BTreeSet::new(),
            elements: 0,
            requests: Bucket::new(now, limits.requests_per_second),
            reports: Bucket::new(now, limits.reports_per_second),
            excess: (0, now),
        });
        let protocol = assoc.protocol;
        let same = account
            .assocs
            .iter()
            .filter(|other| self.assocs.get(other).is_some_and(|other| other.protocol == protocol));
        let most = match protocol {
            Protocol::Asap => limits.associations_per_address,
            Protocol::Enrp => limits.registrar_associations_per_address,
        };
        let full = !assoc.dialled && same.count() >= most;
        if full && !self.is_configured(id) {
            self.counters.associations_refused += 1;
            return false;
        }
        if let Some(account) = self.accounts.get_mut(&source) {
            account.assocs.insert(id);
        }
        true
    }

    /// The association, which came from this address, has ended.
    pub(super) fn close_account(&mut self, now: Instant, id: AssocId, addr: IpAddr) {
        let source = Source::new(addr, self.config.limits.ipv6_prefix);
        if let Some(account) = self.accounts.get_mut(&source)
            && account.assocs.remove(&id)
            && account.assocs.is_empty()
        {
            self.timers.set(Timer::Account(source), now + PATIENCE);
        }
    }

    /// The account is not needed any more, unless somebody has come back, or is not forgotten yet.
    pub(super) fn account_due(&mut self, now: Instant, source: Source) {
        let Some(account) = self.accounts.get(&source) else { return };
        if account.assocs.is_empty() && account.elements == 0 {
            self.accounts.remove(&source);
        } else if account.assocs.is_empty() {
            self.timers.set(Timer::Account(source), now + PATIENCE);
        }
    }

    /// An element has registered over this association; before, it was counted elsewhere, or not at all. It counts until
    /// it is out of the handlespace: ending associations makes no room for more.
    pub(super) fn count_element(&mut self, id: AssocId, before: Option<Source>) -> Option<Source> {
        let source = self.source(id);
        if source != before {
            self.uncount_element(before);
            if let Some(account) = source.and_then(|source| self.accounts.get_mut(&source)) {
                account.elements += 1;
            }
        }
        source
    }

    /// The element is gone, or somebody else's.
    pub(super) fn uncount_element(&mut self, source: Option<Source>) {
        if let Some(account) = source.and_then(|source| self.accounts.get_mut(&source)) {
            account.elements -= 1;
        }
    }

    /// Whether a message is to be looked at.
    pub(super) fn admit(&mut self, now: Instant, id: AssocId, payload: &[u8]) -> bool {
        let Some(assoc) = self.assocs.get(&id) else { return false };
        // Those of elements that are not watched over this association cost something as soon as they are read.
        let is_answer = payload.first() == Some(&AsapType::ENDPOINT_KEEP_ALIVE_ACK.0)
            && payload.len() <= COST_BYTES
            && assoc.protocol == Protocol::Asap
            && !assoc.elements.is_empty();
        is_answer || self.spend(now, id)
    }

    /// Takes one request from where this association comes from; `false` when there is none left.
    pub(super) fn spend(&mut self, now: Instant, id: AssocId) -> bool {
        if self.is_configured(id) {
            return true;
        }
        let rate = self.config.limits.requests_per_second;
        let Some(source) = self.source(id) else { return false };
        let Some(account) = self.accounts.get_mut(&source) else { return false };
        if account.requests.take(now, rate) {
            return true;
        }
        self.counters.requests_limited += 1;
        let (dropped, since) = &mut account.excess;
        if now.saturating_duration_since(*since) > PATIENCE {
            (*dropped, *since) = (0, now);
        }
        *dropped += 1;
        if *dropped > rate {
            *dropped = 0;
            self.counters.hung_up += 1;
            self.abort(id);
        }
        false
    }

    /// What was sent to it, on request or since it subscribed, in bytes. Nobody gets into debt for longer than a second:
    /// pools that change often would shut up who subscribed to them.
    pub(super) fn charge(&mut self, id: AssocId, bytes: usize) {
        // The elements at a registrar's address do not pay for the tables that it downloads.
        if self.is_configured(id) {
            return;
        }
        let most = -f64::from(self.config.limits.requests_per_second);
        let Some(source) = self.source(id) else { return };
        if let Some(account) = self.accounts.get_mut(&source) {
            let tokens = account.requests.tokens - (bytes / COST_BYTES) as f64;
            account.requests.tokens = tokens.max(most);
        }
    }

    /// RFC 5355 section 2.13: whether a report of unreachability is to be looked at.
    pub(super) fn admit_report(&mut self, now: Instant, source: Source) -> bool {
        let rate = self.config.limits.reports_per_second;
        let admitted = match self.accounts.get_mut(&source) {
            Some(account) => account.reports.take(now, rate),
            None => false,
        };
        if !admitted {
            self.counters.reports_limited += 1;
        }
        admitted
    }

    /// Whether another element from there would be one too many.
    pub(super) fn has_too_many_elements(&self, source: Option<Source>) -> bool {
        let account = source.and_then(|source| self.accounts.get(&source));
        account.is_none_or(|account| account.elements >= self.config.limits.elements_per_address)
    }

    /// Whether another subscription from there, or in all, would be one too many.
    pub(super) fn has_too_many_subscriptions(&self, id: AssocId) -> bool {
        let limits = &self.config.limits;
        self.subscriptions >= limits.all_subscriptions
            || self.subscriptions_beside(id) >= limits.subscriptions_per_address
    }

    /// Subscriptions of all associations from where this one comes from.
    fn subscriptions_beside(&self, id: AssocId) -> usize {
        let account = self.source(id).and_then(|source| self.accounts.get(&source));
        let ids = account.into_iter().flat_map(|account| &account.assocs);
        let assocs = ids.filter_map(|id| self.assocs.get(id));
        assocs.map(|assoc| assoc.subscriptions.len()).sum()
    }

    /// The other end is a registrar of the configuration, or has proven to be one.
    pub(super) fn is_configured(&self, id: AssocId) -> bool {
        let Some(assoc) = self.assocs.get(&id) else { return false };
        let contact = self.contacts.get(&assoc.remote.addr);
        assoc.protocol == Protocol::Enrp
            && (assoc.identity.is_some()
                || contact.is_some_and(|contact| contact.origin == Origin::Configured))
    }
}
