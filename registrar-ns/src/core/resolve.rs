//! Handle resolution, subscriptions and pushes (RFC 5352 section 3.3; G21-G23).
//!
//! Elements are encoded once; an answer is put together from those pieces in the order that the policy selects.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use dialtone_handlespace::{Element, Handle};
use dialtone_transport::AssocId;
use dialtone_wire::asap::{Message, Resolution};
use dialtone_wire::{CauseCode, Compat, ParameterType, PeId, Policy, PolicyType, PoolHandle};

use super::{Key, Registrar, Timer};

/// The length field of a message ends here.
const MAX_MESSAGE: usize = 0xffff;

/// rsplib discards an answer with more elements.
const RSPLIB_MAX_ITEMS: usize = 128;

/// Who is told of a pool's changes.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    pub(super) ids: BTreeSet<AssocId>,
    /// When they were told of the last one.
    pub(super) pushed: Option<Instant>,
}

/// Encoded elements by pool.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<Handle, Pieces>);

#[derive(Debug)]
struct Pieces {
    /// The overall policy that the head names: a conflict may replace a pool's (G17).
    policy: PolicyType,
    /// Message header, pool handle and overall policy; flags and length are filled in per answer.
    head: Vec<u8>,
    /// Pool Element parameters with the padding after them.
    elements: BTreeMap<PeId, Vec<u8>>,
}

impl Answers {
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(pieces) = self.0.get_mut(&key.0) {
            pieces.elements.remove(&key.1);
        }
    }

    pub(super) fn forget_pool(&mut self, handle: &Handle) {
        self.0.remove(handle);
    }
}

/// Encodes an answer with one element and cuts it into head and element.
fn pieces(
    handle: &[u8],
    policy: PolicyType,
    element: &Element,
    compat: Compat,
) -> Option<(Vec<u8>, Vec<u8>)> {
    // RFC 5352 section 2.2.6: an absent policy means round robin.
    let overall = (policy != PolicyType::ROUND_ROBIN).then(|| Policy::of_pool(policy));
    let mut element = element.to_wire();
    if compat == Compat::Rsplib {
        // G27: among registrars only.
        element.asap_transport = None;
    }
    let message = Message::HandleResolutionResponse {
        accepted: false,
        handle: PoolHandle(handle),
        outcome: Ok(Resolution { policy: overall, elements: vec![element] }),
    };
    let mut head = message.encode_with(compat).ok()?;
    let mut at = 4;
    loop {
        let (kind, length) = tlv(&head, at)?;
        if kind == ParameterType::POOL_ELEMENT {
            let element = head.split_off(at);
            return Some((head, element));
        }
        at += length.next_multiple_of(4);
    }
}

fn tlv(bytes: &[u8], at: usize) -> Option<(ParameterType, usize)> {
    let &[t0, t1, l0, l1] = bytes.get(at..at + 4)? else { return None };
    Some((ParameterType(u16::from_be_bytes([t0, t1])), usize::from(u16::from_be_bytes([l0, l1]))))
}

impl Registrar {
    pub(super) fn resolution(
        &mut self,
        id: AssocId,
        handle: PoolHandle<'_>,
        subscribe: bool,
        items: Option<u32>,
    ) {
        self.counters.resolutions += 1;
        let limits = &self.config.limits;
        let wanted = match items {
            None | Some(0) => limits.default_items,
            Some(items) => usize::try_from(items).unwrap_or(usize::MAX),
        };
        let wanted = wanted.min(limits.max_items).min(match self.config.compat {
            Compat::Rfc => usize::MAX,
            Compat::Rsplib => RSPLIB_MAX_ITEMS,
        });
        match self.answer(handle.0, wanted) {
            Ok(mut answer) => {
                if subscribe && self.subscribe(id, handle, wanted) {
                    set_accepted(&mut answer);
                }
                self.charge(id, answer.len());
                self.send(id, answer);
            }
            // RFC 5352 section 2.2.5: a negative answer makes no subscription.
            Err(code) => {
                self.counters.resolutions_negative += 1;
                self.negative(id, handle, code);
            }
        }
    }

    pub(super) fn negative(&mut self, id: AssocId, handle: PoolHandle<'_>, code: CauseCode) {
        let message = Message::HandleResolutionResponse {
            accepted: false,
            handle,
            outcome: Err(code.into()),
        };
        self.send_asap(id, &message);
    }

    /// An encoded answer for a pool.
    fn answer(&mut self, handle: &[u8], wanted: usize) -> Result<Vec<u8>, CauseCode> {
        let compat = self.config.compat;
        let policy = self.space.pool(handle).ok_or(CauseCode::UNKNOWN_POOL_HANDLE)?.kind().policy;
        let selected = self
            .space
            .select(handle, wanted, &mut self.rng)
            .ok_or(CauseCode::UNKNOWN_POOL_HANDLE)?;
        // RFC 5352 section 2.2.6: a positive answer names an element. All of them may say that they cannot serve.
        let mut order = selected.iter();
        let first = order.next().ok_or(CauseCode::LACK_OF_RESOURCES)?;
        if self.answers.0.get(handle).is_none_or(|pieces| pieces.policy != policy) {
            let pool = Handle::new(handle).map_err(|_| CauseCode::UNKNOWN_POOL_HANDLE)?;
            let (head, _) =
                pieces(handle, policy, first, compat).ok_or(CauseCode::LACK_OF_RESOURCES)?;
            self.answers.0.insert(pool, Pieces { policy, head, elements: BTreeMap::new() });
        }
        let cached = self.answers.0.get_mut(handle).ok_or(CauseCode::LACK_OF_RESOURCES)?;
        let mut answer = Vec::with_capacity(cached.head.len() + 96 * selected.len());
        answer.extend_from_slice(&cached.head);
        let mut padding = 0;
        for element in selected.iter() {
            let piece = match cached.elements.entry(element.pe_id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match pieces(handle, policy, element, compat) {
                    Some((_, piece)) => entry.insert(piece),
                    None => continue,
                },
            };
            if answer.len() + piece.len() > MAX_MESSAGE {
                break;
            }
            answer.extend_from_slice(piece);
            padding = tlv(piece, 0).map_or(0, |(_, length)| piece.len() - length.min(piece.len()));
        }
        // RFC 5354 section 3: the padding at the end does not count.
        let length =
            u16::try_from(answer.len() - padding).map_err(|_| CauseCode::LACK_OF_RESOURCES)?;
        answer[2..4].copy_from_slice(&length.to_be_bytes());
        Ok(answer)
    }

    fn subscribe(&mut self, id: AssocId, handle: PoolHandle<'_>, wanted: usize) -> bool {
        let max = self.config.limits.subscriptions;
        let Ok(handle) = self.space.handle(handle.0) else { return false };
        let Some(assoc) = self.assocs.get_mut(&id) else { return false };
        if let Some(known) = assoc.subscriptions.get_mut(&handle) {
            *known = wanted;
            return true;
        }
        if assoc.subscriptions.len() >= max || self.has_too_many_subscriptions(id) {
            self.counters.subscriptions_refused += 1;
            return false;
        }
        if let Some(assoc) = self.assocs.get_mut(&id) {
            assoc.subscriptions.insert(handle.clone(), wanted);
            self.subscribers.entry(handle).or_default().ids.insert(id);
            self.subscriptions += 1;
        }
        true
    }

    pub(super) fn unsubscribe(&mut self, handle: &Handle, id: AssocId) {
        if let Some(subscribers) = self.subscribers.get_mut(handle) {
            self.subscriptions -= usize::from(subscribers.ids.remove(&id));
            if subscribers.ids.is_empty() {
                self.subscribers.remove(handle);
                self.timers.cancel(&Timer::Push(handle.clone()));
            }
        }
    }

    /// Tells a pool's subscribers what it looks like now.
    pub(super) fn push(&mut self, now: Instant, handle: &Handle) {
        self.timers.cancel(&Timer::Push(handle.clone()));
        let Some(subscribers) = self.subscribers.get_mut(handle) else { return };
        subscribers.pushed = Some(now);
        let ids: Vec<_> = subscribers.ids.iter().copied().collect();
        let mut answers: BTreeMap<usize, Result<Vec<u8>, CauseCode>> = BTreeMap::new();
        for id in ids {
            let assoc = self.assocs.get(&id).filter(|assoc| !assoc.closing);
            let Some(wanted) = assoc.and_then(|assoc| assoc.subscriptions.get(handle)).copied()
            else {
                continue;
            };
            let answer = match answers.get(&wanted) {
                Some(answer) => answer.clone(),
                None => {
                    let answer = self.answer(handle.as_bytes(), wanted).map(|mut answer| {
                        set_accepted(&mut answer);
                        answer
                    });
                    answers.insert(wanted, answer.clone());
                    answer
                }
            };
            self.counters.pushes += 1;
            match answer {
                Ok(answer) => {
                    self.charge(id, answer.len());
                    self.send(id, answer);
                }
                Err(code) => {
                    self.negative(id, handle.to_wire(), code);
                    // RFC 5352 section 2.2.5: updates only while the pool exists.
                    if let Some(assoc) = self.assocs.get_mut(&id) {
                        assoc.subscriptions.remove(handle);
                    }
                    self.unsubscribe(handle, id);
                }
            }
        }
    }
}

/// Sets the A flag.
fn set_accepted(answer: &mut [u8]) {
    if let Some(flags) = answer.get_mut(1) {
        *flags |= 0x01;
    }
}
