//! Scenarios of failing hops in virtual time.

use super::*;

struct World {
    hops: Hops,
    start: Instant,
    now: Instant,
    /// Connections that are up, and whether the other end answers pings.
    up: BTreeMap<ConnId, bool>,
    accepts: bool,
    log: Vec<(u64, String)>,
    writes: Vec<(ConnId, Bytes)>,
}

fn address(element: u32) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, element as u8], 5060))
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn new(elements: &[u32]) -> Self {
        let start = Instant::now();
        let mut world = Self {
            hops: Hops::new(Settings::default(), 1, fastrand::Rng::with_seed(1)),
            start,
            now: start,
            up: BTreeMap::new(),
            accepts: true,
            log: Vec::new(),
            writes: Vec::new(),
        };
        let members: Vec<_> =
            elements.iter().map(|e| Member { element: *e, address: address(*e) }).collect();
        world.hops.set_members(start, &members);
        world.drain();
        world
    }

    fn drain(&mut self) {
        while let Some(output) = self.hops.poll() {
            let at = (self.now - self.start).as_millis() as u64;
            match output {
                Output::Dial { conn, .. } if self.accepts => {
                    self.up.insert(conn, true);
                    self.hops.connected(self.now, conn);
                }
                Output::Dial { conn, .. } => self.hops.closed(self.now, conn),
                Output::Write { conn, data } if data == PING => {
                    if self.up.get(&conn).copied().unwrap_or(false) {
                        self.hops.received(self.now, conn);
                    }
                }
                Output::Write { conn, data } => self.writes.push((conn, data)),
                Output::Close { conn } => {
                    self.up.remove(&conn);
                }
                Output::Failed { request, element, cause } => {
                    self.log.push((at, format!("failed {} at {element}: {cause:?}", request.0)));
                }
                Output::Suspect { element, cause } => {
                    self.log.push((at, format!("suspect {element}: {cause:?}")))
                }
                Output::Usable { element } => self.log.push((at, format!("usable {element}"))),
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(deadline) = self.hops.next_deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline >= self.now, "a deadline in the past");
            self.now = deadline;
            self.hops.handle_timeout(deadline);
            self.drain();
        }
        self.now = end;
    }

    fn conn(&self, element: u32) -> ConnId {
        *self.up.keys().find(|conn| self.hops.element_of(**conn) == Some(element)).unwrap()
    }

    fn send(&mut self, order: &[u32], request: u64) -> Result<u32, NoElement> {
        let sent =
            self.hops.send_any(self.now, order, RequestId(request), Bytes::from_static(b"request"));
        self.drain();
        sent
    }

    fn log(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.log)
    }
}

#[test]
fn a_reset_fails_the_requests_at_once_and_the_element_is_back_when_it_answers() {
    let mut world = World::new(&[1, 2]);
    world.run(1_000);
    assert_eq!(world.log(), [(0, "usable 1".into()), (0, "usable 2".into())]);
    assert_eq!(world.send(&[2, 1], 7), Ok(2));
    world.run(10);
    let conn = world.conn(2);
    world.up.remove(&conn);
    world.accepts = false;
    world.hops.closed(world.now, conn);
    world.drain();
    assert_eq!(
        world.log(),
        [(1_010, "suspect 2: Reset".into()), (1_010, "failed 7 at 2: Reset".into())]
    );
    assert_eq!(world.send(&[2, 1], 7), Ok(1), "the suspect is skipped");
    world.hops.finished(RequestId(7));
    world.run(500);
    assert_eq!(world.log(), []);
    world.accepts = true;
    world.run(1_000);
    assert!(matches!(world.log().as_slice(), [(at, text)] if *at < 2_510 && text == "usable 2"));
    assert_eq!(world.send(&[2, 1], 8), Ok(2));
}

#[test]
fn a_freeze_is_noticed_250_ms_after_the_request_and_ends_with_the_first_byte() {
    let mut world = World::new(&[1, 2]);
    world.run(100);
    world.log();
    let conn = world.conn(1);
    world.up.insert(conn, false);
    assert_eq!(world.send(&[1, 2], 7), Ok(1));
    world.run(249);
    assert_eq!(world.log(), []);
    // Whoever is connected to from now on is the kernel of a stopped process.
    world.run(0);
    let before = world.hops.outstanding();
    assert_eq!(before, 1);
    world.now += Duration::from_millis(1);
    world.hops.handle_timeout(world.now);
    let mut seen = Vec::new();
    let mut redialled = None;
    while let Some(output) = world.hops.poll() {
        match output {
            Output::Dial { conn, .. } => redialled = Some(conn),
            other => seen.push(other),
        }
    }
    assert_eq!(
        seen,
        [
            Output::Suspect { element: 1, cause: Cause::Silent },
            Output::Close { conn },
            Output::Failed { request: RequestId(7), element: 1, cause: Cause::Silent },
        ]
    );
    assert_eq!(redialled, None, "the dial comes with the timer");
    world.hops.handle_timeout(world.now);
    while let Some(output) = world.hops.poll() {
        if let Output::Dial { conn, .. } = output {
            redialled = Some(conn);
        }
    }
    let redialled = redialled.unwrap();
    world.up.insert(redialled, false);
    world.hops.connected(world.now, redialled);
    world.drain();
    world.run(5_000);
    assert!(!world.hops.is_usable(1));
    assert_eq!(world.send(&[1, 2], 8), Ok(2));
    world.hops.received(world.now, redialled);
    world.drain();
    assert_eq!(world.log().pop(), Some((5_350, "usable 1".into())));
}

#[test]
fn slow_but_alive_is_no_failure() {
    let mut world = World::new(&[1, 2]);
    assert_eq!(world.send(&[1], 7), Ok(1));
    // Pongs only, then an answer to something else now and then, for a minute.
    world.run(30_000);
    let conn = world.conn(1);
    world.up.insert(conn, false);
    for _ in 0..300 {
        world.hops.received(world.now, conn);
        world.run(100);
    }
    assert_eq!(world.hops.outstanding(), 1);
    assert_eq!(world.log(), [(0, "usable 1".into()), (0, "usable 2".into())]);
}

#[test]
fn a_request_that_rings_is_watched_too() {
    let mut world = World::new(&[1]);
    assert_eq!(world.send(&[1], 7), Ok(1));
    world.hops.provisional(RequestId(7));
    world.run(10_000);
    world.log();
    let conn = world.conn(1);
    world.up.insert(conn, false);
    world.accepts = false;
    world.run(301);
    assert!(world.log().iter().any(|(at, text)| *at <= 10_300 && text == "failed 7 at 1: Silent"));
}

#[test]
fn without_requests_a_slow_answer_to_a_ping_is_waited_for() {
    let mut world = World::new(&[1]);
    world.run(500);
    let conn = world.conn(1);
    world.up.insert(conn, false);
    world.run(1_400);
    assert_eq!(world.log(), [(0, "usable 1".into())]);
    // A request makes the same silence count, from now on.
    assert_eq!(world.send(&[1], 7), Ok(1));
    world.run(199);
    assert_eq!(world.log(), []);
    world.accepts = false;
    world.run(1);
    assert_eq!(world.log()[0], (2_100, "suspect 1: Silent".into()));
}

#[test]
fn a_request_for_one_element_survives_one_reset_but_not_two() {
    let mut world = World::new(&[1]);
    world.run(10);
    world.hops.send_to(world.now, 1, RequestId(9), Bytes::from_static(b"bye")).unwrap();
    world.drain();
    for (round, failed) in [(0, false), (1, true)] {
        let conn = world.conn(1);
        world.up.remove(&conn);
        world.log();
        world.hops.closed(world.now, conn);
        world.drain();
        assert_eq!(
            world.log().iter().any(|(_, text)| text.starts_with("failed 9")),
            failed,
            "round {round}"
        );
        assert_eq!(world.writes.len(), 2);
    }
}

#[test]
fn nothing_is_concluded_from_timers_that_fire_late() {
    let mut world = World::new(&[1]);
    world.run(10);
    let conn = world.conn(1);
    world.up.insert(conn, false);
    world.send(&[1], 7).unwrap();
    world.log();
    world.run(50);
    // Our own process stood still for a second; the answer waits in the socket.
    world.now += Duration::from_secs(1);
    world.hops.handle_timeout(world.now);
    world.drain();
    assert_eq!(world.log(), []);
    world.hops.received(world.now, conn);
    world.run(40);
    assert_eq!(world.log(), []);
}

#[test]
fn an_element_that_leaves_finishes_what_it_has() {
    let mut world = World::new(&[1, 2]);
    world.run(10);
    world.send(&[1], 7).unwrap();
    world.hops.set_members(world.now, &[Member { element: 2, address: address(2) }]);
    assert_eq!(world.send(&[1, 2], 8), Ok(2));
    world.run(5_000);
    assert_eq!(world.hops.outstanding(), 2);
    let conn = world.conn(1);
    world.log();
    world.hops.closed(world.now, conn);
    world.drain();
    assert_eq!(world.log(), [(5_010, "failed 7 at 1: Reset".into())]);
    world.run(60_000);
    assert_eq!(world.log(), []);
}

#[test]
fn an_element_that_comes_back_to_the_pool_is_announced() {
    let mut world = World::new(&[1]);
    world.run(10);
    world.log();
    world.hops.set_members(world.now, &[]);
    assert!(!world.hops.is_usable(1));
    world.run(10);
    world.hops.set_members(world.now, &[Member { element: 1, address: address(1) }]);
    world.drain();
    assert_eq!(world.log(), [(20, "usable 1".into())]);
    assert!(world.hops.is_connected(1));
}

/// Proves A-100.
#[test]
fn an_element_to_which_nothing_was_sent_is_not_reported() {
    let elements = [1, 2].map(|element| Member { element, address: address(element) });
    let mut world = World::new(&[]);
    world.accepts = false;
    world.hops.set_members(world.now, &elements);
    world.drain();
    world.run(5_000);
    assert!(!world.hops.is_usable(1) && !world.hops.is_usable(2));
    assert_eq!(world.log(), [], "dialled in advance");
    // One of them accepts at last, and resets the connection when it is pinged.
    world.now = world.hops.next_deadline().unwrap();
    world.hops.handle_timeout(world.now);
    let Some(Output::Dial { conn, .. }) = world.hops.poll() else { panic!("no dial") };
    let element = world.hops.element_of(conn).unwrap();
    world.hops.connected(world.now, conn);
    world.hops.closed(world.now, conn);
    world.run(5_000);
    let log: Vec<String> = world.log().into_iter().map(|(_, text)| text).collect();
    assert_eq!(log, [format!("suspect {element}: Reset")]);

    // A request waits for the connection that is being made to it.
    let mut world = World::new(&[]);
    world.hops.set_members(world.now, &elements);
    assert_eq!(
        world.hops.send_any(world.now, &[2], RequestId(7), Bytes::from_static(b"request")),
        Ok(2)
    );
    world.accepts = false;
    world.drain();
    world.run(5_000);
    assert_eq!(
        world.log(),
        [(0, "suspect 2: Unreachable".into()), (0, "failed 7 at 2: Unreachable".into())]
    );
}

proptest::proptest! {
    /// Whatever happens in whatever order: deadlines lie ahead once they were served, every request is over at last,
    /// and nothing is said about connections that are closed.
    #[test]
    fn no_order_of_events_confuses_it(events in proptest::collection::vec((0..9u8, 0..4u32, 0..400u64), 1..200)) {
        let mut world = World::new(&[1, 2, 3]);
        let mut open = Vec::new();
        let mut closed = BTreeSet::new();
        let mut pending = BTreeSet::new();
        let mut next = 0;
        for (kind, number, millis) in events {
            world.now += Duration::from_millis(millis);
            let now = world.now;
            let conn = open.get(number as usize).copied();
            match (kind, conn) {
                (0, _) => {
                    next += 1;
                    if world.hops.send_any(now, &[number, 1, 2, 3], RequestId(next), Bytes::from_static(b"x")).is_ok() {
                        pending.insert(next);
                    }
                }
                (1, _) => {
                    next += 1;
                    if world.hops.send_to(now, number, RequestId(next), Bytes::from_static(b"x")).is_ok() {
                        pending.insert(next);
                    }
                }
                (2, _) => {
                    if let Some(first) = pending.pop_first() {
                        world.hops.finished(RequestId(first));
                    }
                }
                (3, _) => {
                    if let Some(first) = pending.first() {
                        world.hops.provisional(RequestId(*first));
                    }
                }
                (4, Some(conn)) => world.hops.connected(now, conn),
                (5, Some(conn)) => world.hops.received(now, conn),
                (6, Some(conn)) => {
                    closed.insert(conn);
                    world.hops.closed(now, conn);
                }
                (7, _) => {
                    let members: Vec<_> =
                        (1..=number).map(|element| Member { element, address: address(element) }).collect();
                    world.hops.set_members(now, &members);
                }
                _ => {}
            }
            let mut rounds = 0;
            loop {
                while let Some(output) = world.hops.poll() {
                    match output {
                        Output::Close { conn } => proptest::prop_assert!(closed.insert(conn), "closed twice"),
                        Output::Dial { conn, .. } => open.push(conn),
                        Output::Failed { request, .. } => {
                            proptest::prop_assert!(pending.remove(&request.0), "failed though it was over");
                        }
                        Output::Write { conn, .. } => {
                            proptest::prop_assert!(!closed.contains(&conn), "written to what is closed");
                        }
                        Output::Suspect { .. } | Output::Usable { .. } => {}
                    }
                }
                if world.hops.next_deadline().is_none_or(|deadline| deadline > now) {
                    break;
                }
                rounds += 1;
                proptest::prop_assert!(rounds < 10, "a deadline that does not go away");
                world.hops.handle_timeout(now);
            }
            open.retain(|conn| !closed.contains(conn));
            proptest::prop_assert_eq!(world.hops.outstanding(), pending.len());
        }
    }
}
