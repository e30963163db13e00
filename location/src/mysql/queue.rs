//! What waits to be written: bounded, in order, looked at by both sides.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::store::{Change, Request, SubmitError, Ticket};

/// Text of requests that one transaction takes, bytes.
const GROUP_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) ticket: Ticket,
    pub(crate) request: Request,
    pub(crate) since: Instant,
}

impl Entry {
    pub(crate) fn is_old(&self, now: Instant, patience: Duration) -> bool {
        now.saturating_duration_since(self.since) > patience
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    capacity: usize,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Entry>,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { inner: Mutex::default(), capacity, filled: Notify::new() }
    }

    pub(crate) fn put(&self, entry: Entry) -> Result<(), SubmitError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(SubmitError::Closed);
        }
        if inner.waiting.len() >= self.capacity {
            return Err(SubmitError::Full);
        }
        inner.waiting.push_back(entry);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// No more is taken in; what waits still comes out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for something; `None` when it is closed and empty.
    pub(crate) async fn next_group(&self, limit: usize) -> Option<Vec<Entry>> {
        loop {
            {
                let mut inner = self.lock();
                if !inner.waiting.is_empty() {
                    return Some(take_group(&mut inner.waiting, limit));
                }
                if inner.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The first ones if they are saves, at least so many; without waiting.
    pub(crate) fn take_saves(&self, limit: usize, at_least: usize) -> Option<Vec<Entry>> {
        let mut inner = self.lock();
        let is_save = |entry: &&Entry| matches!(entry.request, Request::Save(_));
        let saves = inner.waiting.iter().take(limit).take_while(is_save).count();
        (saves >= at_least.max(1)).then(|| take_group(&mut inner.waiting, saves))
    }

    /// Gives back what was taken last, in its order.
    pub(crate) fn put_back(&self, entries: Vec<Entry>) {
        let mut inner = self.lock();
        for entry in entries.into_iter().rev() {
            inner.waiting.push_front(entry);
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// Takes out what has waited for longer than `patience`.
    pub(crate) fn take_old(&self, now: Instant, patience: Duration) -> Vec<Entry> {
        let mut inner = self.lock();
        let old = inner.waiting.partition_point(|entry| entry.is_old(now, patience));
        inner.waiting.drain(..old).collect()
    }

    pub(crate) fn take_all(&self) -> Vec<Entry> {
        self.lock().waiting.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first ones, as many as belong into one transaction; at least one.
fn take_group(waiting: &mut VecDeque<Entry>, limit: usize) -> Vec<Entry> {
    let (mut count, mut bytes) = (0, 0);
    for Entry { request, .. } in waiting.iter().take(limit.max(1)) {
        bytes += size(request);
        let alone = matches!(request, Request::Expire { .. });
        if count > 0 && (alone || bytes > GROUP_BYTES) {
            break;
        }
        count += 1;
        if alone {
            break;
        }
    }
    waiting.drain(..count).collect()
}

/// About how much text a request has.
fn size(request: &Request) -> usize {
    match request {
        Request::Save(save) => {
            let bindings = match &save.change {
                Change::Bindings(list) => list.as_slice(),
                Change::RemoveAll => &[],
            };
            let of = |new: &crate::NewBinding| {
                new.key.as_str().len()
                    + new.contact.len()
                    + new.params.len()
                    + new.user_agent.len()
                    + new.received.len()
                    + new.path.len()
                    + new.flow_token.len()
                    + new.instance.len()
                    + save.aor.len()
                    + save.call_id.len()
                    + 200
            };
            bindings.iter().map(of).sum()
        }
        Request::Merge(merge) => {
            let of = |record: &crate::Record| {
                record.aor.len() * 2 + record.contact.len() * 2 + record.path.len() + 1_000
            };
            merge.bindings.iter().map(of).sum()
        }
        Request::Credentials(crate::CredentialChange::Put(list)) => {
            list.iter().map(|new| new.user.len() + new.realm.len() + 150).sum()
        }
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(queue: &Queue, now: Instant, requests: &[Request]) {
        for (index, request) in requests.iter().enumerate() {
            let entry =
                Entry { ticket: Ticket(index as u64), request: request.clone(), since: now };
            queue.put(entry).expect("room");
        }
    }

    #[test]
    fn forgetting_is_a_group_of_its_own() {
        #[expect(clippy::disallowed_methods, reason = "any time will do")]
        let now = Instant::now();
        let queue = Queue::new(6);
        let read = Request::ReadClaim { name: "a".into() };
        let expire = Request::Expire { now_ms: 1 };
        entries(
            &queue,
            now,
            &[read.clone(), read.clone(), expire, read.clone(), read.clone(), read.clone()],
        );
        let full = Entry { ticket: Ticket(9), request: read, since: now };
        assert_eq!(queue.put(full), Err(SubmitError::Full));
        let take = || take_group(&mut queue.lock().waiting, 2).len();
        assert_eq!([take(), take(), take(), take()], [2, 1, 2, 1]);
    }
}
