//! What became of each process, and what there is to tell about it. Pure: fed with what was seen, and when.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::launcher::{Ended, Life, Pools, Role};

/// What was seen of one process.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) pid: u32,
    pub(super) life: Life,
    /// It has been in service since its last start.
    pub(super) ready: bool,
    pub(super) addresses: BTreeMap<String, String>,
}

/// How a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Dead(Ended),
    Frozen,
    InService,
    /// It runs, but its pool does not have it.
    OutOfPool,
    Starting,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dead(ended) => write!(f, "dead ({ended})"),
            Self::Frozen => f.write_str("frozen"),
            Self::InService => f.write_str("in service"),
            Self::OutOfPool => f.write_str("not in its pool"),
            Self::Starting => f.write_str("starting"),
        }
    }
}

/// One process as the table shows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) seen: Seen,
    pub(super) state: State,
    /// Its pools; for a registrar, how many elements it is home of.
    pub(super) pools: String,
    in_pool: bool,
    /// Since when it has been dead or frozen.
    down_since: Option<Instant>,
    /// For a registrar: its identifier in the pools, and how many elements it was home of.
    server_id: Option<String>,
    homed: usize,
}

/// All processes, as last seen.
#[derive(Debug, Default)]
pub(super) struct Watch {
    rows: Vec<Row>,
    /// Events are told once everything was in service.
    settled: bool,
}

impl Watch {
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether everything is in service.
    pub(super) fn all_in_service(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.state == State::InService)
    }

    /// Who is not in service, and why.
    pub(super) fn missing(&self) -> String {
        let missing: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.state != State::InService)
            .map(|row| format!("{} is {}", row.seen.name, row.state))
            .collect();
        missing.join(", ")
    }

    /// From now on changes are told.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Takes what was seen at `now`: the processes, and what each registrar that answers says. Returns what there is
    /// to tell.
    pub(super) fn update(
        &mut self,
        now: Instant,
        seen: Vec<Seen>,
        views: &BTreeMap<String, Pools>,
    ) -> Vec<String> {
        let view = best_view(&seen, views);
        let former = std::mem::take(&mut self.rows);
        for process in seen {
            let before = former.iter().find(|row| row.seen.name == process.name);
            self.rows.push(row(now, process, before, view, views));
        }
        if !self.settled {
            return Vec::new();
        }
        let changes = self.rows.iter().filter_map(|row| {
            former
                .iter()
                .find(|before| before.seen.name == row.seen.name)
                .map(|before| (before, row))
        });
        let mut events = Vec::new();
        for (before, row) in changes {
            self.tell_state(before, row, &mut events);
            self.tell_pool(now, before, row, &mut events);
            self.tell_takeover(now, before, row, view, &mut events);
        }
        events
    }

    fn tell_state(&self, before: &Row, row: &Row, events: &mut Vec<String>) {
        let Seen { name, pid, .. } = &row.seen;
        let is_down = |state: State| matches!(state, State::Dead(_) | State::Frozen);
        if before.seen.pid != *pid {
            events.push(format!("{name} was started again, pid {pid}"));
        }
        if before.state == row.state {
            return;
        }
        match row.state {
            State::Dead(ended) => {
                events.push(format!("{name} (pid {pid}) died ({ended}); {}", self.others(row)))
            }
            State::Frozen => {
                events.push(format!("{name} (pid {pid}) is frozen; {}", self.others(row)))
            }
            State::InService if is_down(before.state) || before.state == State::Starting => {
                events.push(format!("{name} is in service again"));
            }
            State::OutOfPool if before.state == State::Frozen => {
                events.push(format!("{name} runs again"))
            }
            State::InService | State::OutOfPool | State::Starting => {}
        }
    }

    /// Who else does what `row` did.
    fn others(&self, row: &Row) -> String {
        let others: Vec<&str> = self
            .rows
            .iter()
            .filter(|other| other.seen.role == row.seen.role && other.seen.name != row.seen.name)
            .filter(|other| other.state == State::InService)
            .map(|other| other.seen.name.as_str())
            .collect();
        match (others.as_slice(), row.seen.role) {
            ([], Role::LocationDb) if is_file(&row.seen) => "proxies keep the open file".to_owned(),
            ([], Role::LocationDb) => {
                "calls go on from the proxies' memory, but nobody can register".to_owned()
            }
            ([], Role::Conference) => "nobody can call a conference".to_owned(),
            ([], Role::GaleraArbitrator) => {
                "the nodes go on, but must not lose each other".to_owned()
            }
            ([], Role::MediaRelay) => "in new calls phones send media to each other".to_owned(),
            ([], _) => "nobody is left to do its work".to_owned(),
            ([one], _) => format!("{one} carries on"),
            (several, _) => format!("{} carry on", several.join(", ")),
        }
    }

    fn tell_pool(&self, now: Instant, before: &Row, row: &Row, events: &mut Vec<String>) {
        let name = &row.seen.name;
        if row.seen.role == Role::RegistrarNs || before.in_pool == row.in_pool {
            return;
        }
        match (row.in_pool, row.down_since) {
            (false, Some(since)) => {
                events.push(format!(
                    "{name} was taken out of its pool after {}",
                    seconds(now, since)
                ));
            }
            (false, None) if row.state == State::OutOfPool => {
                events.push(format!("{name} has left its pool; {}", self.others(row)));
            }
            (true, None) if before.state == State::OutOfPool => {
                events.push(format!("{name} is back in its pool"))
            }
            _ => {}
        }
    }

    fn tell_takeover(
        &self,
        now: Instant,
        before: &Row,
        row: &Row,
        view: Option<&Pools>,
        events: &mut Vec<String>,
    ) {
        let (Some(since), Some(view)) = (row.down_since, view) else { return };
        if row.seen.role != Role::RegistrarNs || before.homed == 0 || row.homed > 0 {
            return;
        }
        let successors: Vec<String> = self
            .rows
            .iter()
            .filter(|other| {
                other.seen.role == Role::RegistrarNs && other.seen.name != row.seen.name
            })
            .filter_map(|other| {
                let homed = view.homed(other.server_id.as_deref()?);
                (homed > 0).then(|| format!("{} ({homed})", other.seen.name))
            })
            .collect();
        let homes = if successors.is_empty() {
            "no registrar".to_owned()
        } else {
            successors.join(" and ")
        };
        let name = &row.seen.name;
        events.push(format!(
            "the elements of {name} are with {homes} now, after {}",
            seconds(now, since)
        ));
    }
}

/// The registrar that knows best: the first one that runs and answers.
fn best_view<'a>(seen: &[Seen], views: &'a BTreeMap<String, Pools>) -> Option<&'a Pools> {
    seen.iter()
        .filter(|process| process.role == Role::RegistrarNs && process.life == Life::Running)
        .find_map(|process| views.get(&process.name))
}

fn row(
    now: Instant,
    seen: Seen,
    before: Option<&Row>,
    view: Option<&Pools>,
    views: &BTreeMap<String, Pools>,
) -> Row {
    let is_registrar = seen.role == Role::RegistrarNs;
    let server_id = views
        .get(&seen.name)
        .filter(|_| is_registrar && seen.life == Life::Running)
        .map(|own| own.server_id.clone())
        .or_else(|| before.and_then(|before| before.server_id.clone()));
    let homed = match (view, &server_id) {
        (Some(view), Some(id)) => view.homed(id),
        _ => before.map_or(0, |before| before.homed),
    };
    let pools: Vec<&str> = match view {
        Some(_) if is_registrar => Vec::new(),
        // Its transport is a file, not an address.
        Some(view) if is_file(&seen) && !view.elements("location-db").is_empty() => {
            vec!["location-db"]
        }
        Some(view) => {
            let mut pools: Vec<&str> =
                seen.addresses.values().flat_map(|address| view.pools_of(address)).collect();
            pools.sort_unstable();
            pools.dedup();
            pools
        }
        None => Vec::new(),
    };
    // A registrar answers for itself; without any registrar the last word stands. An arbitrator is in no pool.
    let in_pool = match view {
        _ if is_registrar => views.contains_key(&seen.name),
        _ if seen.role == Role::GaleraArbitrator => true,
        Some(_) => !pools.is_empty(),
        None => before.is_some_and(|before| before.in_pool),
    };
    let state = match seen.life {
        Life::Ended(ended) => State::Dead(ended),
        Life::Frozen => State::Frozen,
        Life::Running if !seen.ready => State::Starting,
        Life::Running if in_pool => State::InService,
        // It says that it is in its pool, but registrars were asked a moment ago.
        Life::Running
            if before.is_none_or(|before| {
                before.state == State::Starting || before.seen.pid != seen.pid
            }) =>
        {
            State::Starting
        }
        Life::Running => State::OutOfPool,
    };
    let down_since = match state {
        State::Dead(_) | State::Frozen => before.and_then(|before| before.down_since).or(Some(now)),
        _ => None,
    };
    let pools = match (is_registrar, homed) {
        (true, 1) => "home of 1 element".to_owned(),
        (true, homed) => format!("home of {homed} elements"),
        (false, _) if pools.is_empty() => "-".to_owned(),
        (false, _) => pools.join(" "),
    };
    Row { seen, state, pools, in_pool, down_since, server_id, homed }
}

/// Whether it stands for a database file, and not for a server.
fn is_file(seen: &Seen) -> bool {
    seen.role == Role::LocationDb && !seen.addresses.contains_key("mysql")
}

fn seconds(now: Instant, since: Instant) -> String {
    let passed: Duration = now.duration_since(since);
    format!("{:.1} s", passed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::{Element, clock};

    fn seen(name: &str, role: Role, life: Life) -> Seen {
        let addresses = [("sip-core".to_owned(), format!("{name}:5060"))].into();
        Seen { name: name.to_owned(), role, pid: 7, life, ready: true, addresses }
    }

    fn all(lives: [Life; 4]) -> Vec<Seen> {
        let names = [
            ("r1", Role::RegistrarNs),
            ("r2", Role::RegistrarNs),
            ("p1", Role::SipProxy),
            ("p2", Role::SipProxy),
        ];
        names.into_iter().zip(lives).map(|((name, role), life)| seen(name, role, life)).collect()
    }

    fn view(server_id: &str, elements: &[(&str, &str)]) -> Pools {
        let element = |(name, home): &(&str, &str)| Element {
            id: (*name).to_owned(),
            home: (*home).to_owned(),
            address: format!("{name}:5060"),
        };
        let elements = elements.iter().map(element).collect();
        Pools {
            server_id: server_id.to_owned(),
            pools: [("sip-proxy".to_owned(), elements)].into(),
        }
    }

    fn views(of: &[(&str, &str)], elements: &[(&str, &str)]) -> BTreeMap<String, Pools> {
        of.iter().map(|(name, id)| ((*name).to_owned(), view(id, elements))).collect()
    }

    const KILLED: Life = Life::Ended(Ended::Signal(9));
    const BOTH: &[(&str, &str)] = &[("r1", "0x1"), ("r2", "0x2")];

    fn settled(now: Instant) -> Watch {
        let mut watch = Watch::default();
        watch.update(now, all([Life::Running; 4]), &views(BOTH, &[("p1", "0x1"), ("p2", "0x2")]));
        assert!(watch.all_in_service(), "{}", watch.missing());
        watch.settle();
        watch
    }

    #[test]
    fn a_dead_proxy_is_named_and_who_carries_on() {
        let now = clock();
        let mut watch = settled(now);
        let lives = [Life::Running, Life::Running, KILLED, Life::Running];
        let events = watch.update(now, all(lives), &views(BOTH, &[("p1", "0x1"), ("p2", "0x2")]));
        assert_eq!(events, ["p1 (pid 7) died (SIGKILL); p2 carries on"]);
        let now = now + Duration::from_millis(700);
        let events = watch.update(now, all(lives), &views(BOTH, &[("p2", "0x2")]));
        assert_eq!(events, ["p1 was taken out of its pool after 0.7 s"]);
        assert_eq!(watch.missing(), "p1 is dead (SIGKILL)");
        assert!(watch.update(now, all(lives), &views(BOTH, &[("p2", "0x2")])).is_empty());

        let mut again = all([Life::Running; 4]);
        (again[2].pid, again[2].ready) = (8, false);
        assert_eq!(
            watch.update(now, again.clone(), &views(BOTH, &[("p2", "0x2")])),
            ["p1 was started again, pid 8"]
        );
        again[2].ready = true;
        assert!(watch.update(now, again.clone(), &views(BOTH, &[("p2", "0x2")])).is_empty());
        let events = watch.update(now, again, &views(BOTH, &[("p1", "0x1"), ("p2", "0x2")]));
        assert_eq!(events, ["p1 is in service again"]);
    }

    #[test]
    fn a_takeover_is_told() {
        let now = clock();
        let mut watch = settled(now);
        let lives = [KILLED, Life::Running, Life::Running, Life::Running];
        let only = &[("r2", "0x2")];
        let events = watch.update(now, all(lives), &views(only, &[("p1", "0x1"), ("p2", "0x2")]));
        assert_eq!(events, ["r1 (pid 7) died (SIGKILL); r2 carries on"]);
        let now = now + Duration::from_secs(2);
        let events = watch.update(now, all(lives), &views(only, &[("p1", "0x2"), ("p2", "0x2")]));
        assert_eq!(events, ["the elements of r1 are with r2 (2) now, after 2.0 s"]);
    }

    #[test]
    fn a_frozen_proxy_leaves_and_comes_back() {
        let now = clock();
        let mut watch = settled(now);
        let frozen = [Life::Running, Life::Running, Life::Running, Life::Frozen];
        let both = views(BOTH, &[("p1", "0x1"), ("p2", "0x2")]);
        let one = views(BOTH, &[("p1", "0x1")]);
        assert_eq!(watch.update(now, all(frozen), &both), ["p2 (pid 7) is frozen; p1 carries on"]);
        let now = now + Duration::from_secs(1);
        assert_eq!(
            watch.update(now, all(frozen), &one),
            ["p2 was taken out of its pool after 1.0 s"]
        );
        assert_eq!(watch.update(now, all([Life::Running; 4]), &one), ["p2 runs again"]);
        assert_eq!(watch.update(now, all([Life::Running; 4]), &both), ["p2 is back in its pool"]);
        assert!(watch.all_in_service());
    }
}
