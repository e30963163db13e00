//! Monitoring of elements (RFC 5352 sections 3.4 and 3.5): keep-alives, evidence, removal.

use std::time::{Duration, Instant};

use dialtone_transport::{AssocId, DownCause, Link, NetCommand, Protocol, Remote};
use dialtone_wire::asap::Message;
use dialtone_wire::{Compat, ServerId};

use super::budget::Source;
use super::output::{Event, Removal};
use super::{Assoc, Key, Registrar, Timer};

/// A dialled association without elements and subscriptions is kept for so many heartbeats.
const IDLE_HEARTBEATS: u8 = 60;
/// Moments in the period of keep-alives at which they are due.
const STEPS: u32 = 100;

/// How we watch one element: idle between keep-alives, or with `probing` of them unanswered.
///
/// ```text
///          period over / evidence / report            timeout, probing < limit
///   idle ───────────────────────────────► probing(1) ───────────────────────► probing(n) ──timeout──► removed
///    ▲                                        │                                   │
///    └──────────── ACK, registration ─────────┴───────────────────────────────────┘
/// ```
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Where keep-alives go; being dialled perhaps.
    pub(super) assoc: Option<AssocId>,
    /// Keep-alives without an answer.
    pub(super) probing: u8,
    /// Something says that the process is gone: short waits.
    evidence: bool,
    /// Ask the element to make us its home (H=1).
    pub(super) adopt: bool,
    /// When it last registered here.
    pub(super) registered: Option<Instant>,
    /// Where that came from, as long as it counts there.
    pub(super) source: Option<Source>,
    /// Whose element it was when we took over.
    pub(super) taken_from: Option<ServerId>,
    /// Whose table names it as well: that counts if the element does not answer us.
    pub(super) claimed_by: Option<ServerId>,
    last_probe: Option<Instant>,
    /// The next keep-alive is sent as soon as the limit allows.
    wanted: bool,
    /// Unreachability reports, and when that count was true.
    reports: u32,
    reports_at: Option<Instant>,
    /// Whose they are.
    reporters: Vec<(Source, u32)>,
    /// A report was counted, and the element has not answered since.
    reported: bool,
}

impl Watch {
    /// The reports that still count.
    pub(super) fn reports(&self) -> u32 {
        self.reports
    }
}

impl Registrar {
    /// The element proved to live: it registered or answered.
    pub(super) fn element_alive(&mut self, now: Instant, key: &Key) {
        let at = self.next_keep_alive(now);
        let owned = self.owns(key);
        let Some(watch) = self.watches.get_mut(key) else { return };
        watch.probing = 0;
        watch.wanted = false;
        watch.evidence = false;
        watch.adopt = false;
        watch.reported = false;
        watch.claimed_by = None;
        let at = if owned { at } else { now + self.config.timers.report_halving };
        self.timers.set(Timer::Probe(key.clone()), at);
    }

    /// When an element that lives is asked again: after a period spread by ±50 % (RFC 5352 section 3.4), at the last whole
    /// hundredth of it. Keep-alives of many elements fall together so, and share packets and the work of waking up.
    fn next_keep_alive(&mut self, now: Instant) -> Instant {
        let mean = self.config.timers.keep_alive;
        let at = now + self.spread(mean);
        let step = (mean / STEPS).as_nanos().max(1);
        let beyond = at.saturating_duration_since(self.started).as_nanos() % step;
        let whole = at - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0));
        if whole < now + mean / 2 { at } else { whole }
    }

    /// Sends the element's keep-alives over this association from now on.
    pub(super) fn attach(&mut self, key: &Key, id: AssocId) {
        let watch = self.watches.entry(key.clone()).or_default();
        let old = watch.assoc.replace(id);
        if let Some(old) = old.filter(|old| *old != id).and_then(|old| self.assocs.get_mut(&old)) {
            old.elements.remove(key);
        }
        if let Some(assoc) = self.assocs.get_mut(&id) {
            assoc.elements.insert(key.clone());
        }
    }

    /// Stops watching: the element is gone or somebody else's.
    pub(super) fn unwatch(&mut self, key: &Key) -> Option<AssocId> {
        self.timers.cancel(&Timer::Probe(key.clone()));
        self.timers.cancel(&Timer::Life(key.clone()));
        let watch = self.watches.remove(key)?;
        self.uncount_element(watch.source);
        let id = watch.assoc?;
        self.assocs.get_mut(&id)?.elements.remove(key);
        Some(id)
    }

    /// The element is somebody else's, by an update. If it has registered here since that can have been sent, updates may
    /// have crossed, and the other registrar has given the element up to us in turn. The element decides: asked with H=1,
    /// it registers again, with us if we are its home, and with its home if that is new.
    pub(super) fn gave_up(&mut self, now: Instant, key: &Key) {
        let registered = self.watches.get(key).and_then(|watch| watch.registered);
        let assoc = self.unwatch(key);
        // No update is longer on its way than its sender can be silent.
        if registered.is_some_and(|at| now < at + self.config.timers.last_heard) {
            if let Some(id) = assoc {
                self.attach(key, id);
            }
            self.watches.entry(key.clone()).or_default().adopt = true;
            self.probe(now, key);
        }
    }

    /// Asks whether the element lives, unless that is being asked already.
    pub(super) fn probe(&mut self, now: Instant, key: &Key) {
        let min = self.config.timers.keep_alive_min;
        let Some(watch) = self.watches.get_mut(key).filter(|watch| watch.probing == 0) else {
            return;
        };
        // RFC 5355 section 2.14: keep-alives per element MUST be limited. What was answered a moment ago says nothing
        // about now: it is asked as soon as that is allowed.
        match watch.last_probe.map(|last| last + min).filter(|allowed| now < *allowed) {
            None => self.send_probe(now, key),
            Some(allowed) => {
                watch.wanted = true;
                self.timers.set_earlier(Timer::Probe(key.clone()), allowed);
            }
        }
    }

    pub(super) fn probe_due(&mut self, now: Instant, key: &Key) {
        let probes = self.config.timers.keep_alive_probes;
        let owned = self.owns(key);
        let Some(watch) = self.watches.get(key) else { return };
        if watch.probing == 0 && !owned && !watch.wanted {
            self.unwatch(key);
        } else if watch.probing < probes {
            self.send_probe(now, key);
        } else {
            let reason = if watch.evidence { Removal::Unreachable } else { Removal::KeepAlive };
            self.element_failed(now, key, reason);
        }
    }

    fn send_probe(&mut self, now: Instant, key: &Key) {
        let t = &self.config.timers;
        let Some(watch) = self.watches.get_mut(key) else { return };
        watch.probing += 1;
        watch.wanted = false;
        watch.last_probe = Some(now);
        let wait = match (watch.evidence, watch.probing >= t.keep_alive_probes) {
            (true, _) => t.keep_alive_evidence,
            (false, true) => t.keep_alive_last_timeout,
            (false, false) => t.keep_alive_timeout,
        };
        self.timers.set(Timer::Probe(key.clone()), now + wait);
        match watch.assoc.and_then(|id| Some((id, self.assocs.get(&id)?))) {
            Some((id, assoc)) if assoc.up => self.keep_alive(id, key),
            // It leaves when the dial succeeds.
            Some(_) => {}
            None => self.reach(key),
        }
    }

    /// Finds or dials an association with the element's ASAP transport, for a keep-alive.
    fn reach(&mut self, key: &Key) {
        let Some(remote) = self.space.get(key.0.as_bytes(), key.1).and_then(super::asap::remote_of)
        else {
            return;
        };
        let usable = |id: &AssocId| {
            self.assocs.get(id).is_some_and(|assoc| !assoc.closing && !assoc.draining)
        };
        match self.by_remote.get(&remote).copied().filter(usable) {
            Some(id) => {
                self.attach(key, id);
                if self.assocs.get(&id).is_some_and(|assoc| assoc.up) {
                    self.keep_alive(id, key);
                }
            }
            None => {
                let id = self.dial(Protocol::Asap, remote);
                self.by_remote.insert(remote, id);
                self.attach(key, id);
            }
        }
    }

    fn keep_alive(&mut self, id: AssocId, key: &Key) {
        let home = self.watches.get(key).is_some_and(|watch| watch.adopt);
        // G10: rsplib wants to know which element is meant.
        let pe_id = (self.config.compat == Compat::Rsplib).then_some(key.1);
        let message =
            Message::EndpointKeepAlive { home, server_id: self.id, handle: key.0.to_wire(), pe_id };
        self.counters.keep_alives += 1;
        self.send_asap(id, &message);
    }

    /// RFC 5352 section 3.4: an answer counts when it comes from where the element is. `false`: it counts for nothing.
    pub(super) fn keep_alive_ack(&mut self, now: Instant, id: AssocId, key: &Key) -> bool {
        let Some(watch) = self.watches.get(key) else { return false };
        let counts = watch.assoc == Some(id) || self.is_endpoint_of(id, key);
        if counts {
            self.element_alive(now, key);
        }
        counts
    }

    pub(super) fn element_up(&mut self, now: Instant, id: AssocId) {
        if !self.in_service() {
            // Service begins after the handlespace was downloaded: whoever comes earlier hunts on.
            return self.abort(id);
        }
        let Some(assoc) = self.assocs.get(&id) else { return };
        if assoc.remote.link == Link::Sctp {
            let waiting: Vec<_> = assoc.elements.iter().cloned().collect();
            self.by_remote.insert(assoc.remote, id);
            for key in waiting {
                if self.watches.get(&key).is_some_and(|watch| watch.probing > 0) {
                    self.keep_alive(id, &key);
                } else {
                    self.probe(now, &key);
                }
            }
        }
    }

    /// Ends what we dialled to ask an element that is nobody's business here any more. Whose home we are looks for
    /// another then, which is not for us to start: if it was refused, it would ask there with the same policy.
    pub(super) fn end_idle(&mut self) {
        let mut idle = Vec::new();
        for (id, assoc) in &mut self.assocs {
            if assoc.protocol == Protocol::Asap && assoc.dialled && assoc.up && !assoc.draining {
                let used =
                    assoc.is_home || !assoc.elements.is_empty() || !assoc.subscriptions.is_empty();
                assoc.idle = if used { 0 } else { assoc.idle + 1 };
                if assoc.idle > IDLE_HEARTBEATS {
                    assoc.draining = true;
                    idle.push(*id);
                }
            }
        }
        for id in idle {
            self.net(NetCommand::Shutdown { assoc: id });
        }
    }

    pub(super) fn element_down(
        &mut self,
        now: Instant,
        id: AssocId,
        assoc: Assoc,
        cause: DownCause,
    ) {
        if self.by_remote.get(&assoc.remote) == Some(&id) {
            self.by_remote.remove(&assoc.remote);
        }
        for handle in assoc.subscriptions.keys() {
            self.unsubscribe(handle, id);
        }
        for key in &assoc.elements {
            let Some(watch) = self.watches.get_mut(key).filter(|watch| watch.assoc == Some(id))
            else {
                continue;
            };
            watch.assoc = None;
            let probing = watch.probing > 0;
            match cause {
                // A dial that is refused says that the element is not there any more.
                DownCause::Aborted | DownCause::Unreachable if !assoc.up => {
                    self.element_failed(now, key, Removal::Unreachable);
                }
                // Nobody answered: the keep-alive's own timer goes on and dials again.
                _ if probing => {}
                DownCause::TimedOut | DownCause::Unreachable => self.probe(now, key),
                // An element that lives registers again by itself; dial only if it does not.
                DownCause::Aborted | DownCause::Closed => {
                    let soon = self.config.timers.keep_alive_evidence;
                    self.timers.set_earlier(Timer::Probe(key.clone()), now + soon);
                }
                DownCause::Local => {
                    let later = self.config.timers.keep_alive_timeout;
                    self.timers.set_earlier(Timer::Probe(key.clone()), now + later);
                }
            }
        }
    }

    /// The network says that the process is gone. Once is a reason to ask at once; the same answer to that question
    /// decides.
    pub(super) fn suspect_element(&mut self, now: Instant, key: &Key) {
        let evidence_wait = self.config.timers.keep_alive_evidence;
        let Some(watch) = self.watches.get_mut(key) else { return };
        if watch.evidence && watch.probing > 0 {
            return self.element_failed(now, key, Removal::Unreachable);
        }
        watch.evidence = true;
        if watch.probing == 0 {
            self.send_probe(now, key);
        } else {
            watch.last_probe = Some(now);
            let assoc = watch.assoc;
            self.timers.set_earlier(Timer::Probe(key.clone()), now + evidence_wait);
            if let Some(id) = assoc {
                self.keep_alive(id, key);
            }
        }
    }

    /// RFC 5352 section 3.5: somebody could not reach the element. Asked for at once; counted; too many remove it.
    ///
    /// DEVIATION(A-106): reports from one address alone make the registrar ask and do not remove an element that answers,
    /// since who reports is not authenticated (RFC 5355 section 2.13).
    pub(super) fn element_reported(&mut self, now: Instant, key: &Key, source: Source) {
        let (halving, min) = (self.config.timers.report_halving, self.config.timers.keep_alive_min);
        let max = self.config.max_bad_pe_reports;
        if self.space.get(key.0.as_bytes(), key.1).is_none() {
            return;
        }
        let watch = self.watches.entry(key.clone()).or_default();
        let elapsed = watch.reports_at.map_or(halving, |at| now.saturating_duration_since(at));
        // Many users report one failure: that is one report, until the element has denied it. Otherwise ten users
        // could remove an element that got no CPU for a second.
        if watch.reports > 0 && (elapsed < min || watch.reported) {
            return;
        }
        if elapsed >= halving {
            watch.reporters.clear();
        }
        let said = match watch.reporters.iter_mut().find(|(who, _)| *who == source) {
            Some((_, said)) => {
                *said += 1;
                *said
            }
            None => {
                watch.reporters.push((source, 1));
                1
            }
        };
        // Who is not believed any more does not stand before others, either.
        if said > max.max(1) {
            return self.probe(now, key);
        }
        watch.reported = true;
        let halvings = elapsed.as_nanos() / halving.as_nanos().max(1);
        watch.reports =
            watch.reports.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0) + 1;
        watch.reports_at = Some(now);
        if watch.reports > max {
            self.element_failed(now, key, Removal::Reports);
        } else {
            self.probe(now, key);
        }
    }

    /// The element is gone. If it is ours it leaves every handlespace; if not, its home is told (G32).
    fn element_failed(&mut self, now: Instant, key: &Key, reason: Removal) {
        if self.owns(key) {
            let watch = self.watches.get(key);
            let claimant = watch.and_then(|watch| watch.claimed_by);
            let assoc = watch.and_then(|watch| watch.assoc);
            self.remove_owned(key, reason);
            if let Some(peer) = claimant {
                self.recheck(now, peer, Vec::new());
            }
            // A removed element that lives finds out by this and registers again.
            if let Some(id) = assoc {
                self.abort(id);
            }
        } else {
            // DEVIATION(G32): nothing is removed here, so that audits stay equal; a deletion sent to the home alone
            // makes it ask the element itself.
            self.report_to_home(key);
            self.unwatch(key);
        }
    }

    pub(super) fn life_ended(&mut self, key: &Key) {
        if !self.owns(key) {
            return;
        }
        let assoc = self.watches.get(key).and_then(|watch| watch.assoc);
        self.remove_owned(key, Removal::Expired);
        // RFC 5352 section 2.2.4: the response comes unasked when the registration life ends.
        if let Some(id) = assoc {
            self.deregistration_response(id, key, None);
        }
    }

    /// Removes an own element everywhere.
    pub(super) fn remove_owned(&mut self, key: &Key, reason: Removal) {
        self.unwatch(key);
        if let Some(element) = self.remove_entry(key) {
            self.announce_removal(&key.0, &element);
        }
        self.event(Event::Removed { pool: key.0.clone(), pe: key.1, reason });
    }

    pub(super) fn owns(&self, key: &Key) -> bool {
        self.space.get(key.0.as_bytes(), key.1).is_some_and(|element| element.home == self.id)
    }

    /// The association leads to where the element's ASAP transport says it is.
    pub(super) fn is_endpoint_of(&self, id: AssocId, key: &Key) -> bool {
        let remote = self.assocs.get(&id).map(|assoc| assoc.remote);
        let element: Option<Remote> =
            self.space.get(key.0.as_bytes(), key.1).and_then(super::asap::remote_of);
        remote.is_some() && remote == element
    }
}
