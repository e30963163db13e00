//! A client of relays without IO: it mints cookies, sends again, gives up in time, and tells who was answered.
//!
//! After each input drain [`Client::poll`]; call [`Client::handle_timeout`] at [`Client::next_deadline`].

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    MAX_DATAGRAM,
    message::{Datagram, Reply, Request},
};

/// One attempt: one request to one relay. Never used twice by one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long an answer is waited for, from the first datagram on.
    pub attempt: Duration,
    /// After this time without an answer the same datagram is sent again, and after each further such time, as long as
    /// an answer to it could come within `attempt`. A relay answers a repeated cookie without doing its work again.
    pub resend: Duration,
    /// Most requests under way at a time.
    pub outstanding: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attempt: Duration::from_millis(100),
            resend: Duration::from_millis(40),
            outstanding: 16_384,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Send {
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// The relay has answered; `body` is what [`Reply::decode`] reads, and it was read once already.
    Answered {
        id: RequestId,
        from: SocketAddr,
        body: Vec<u8>,
    },
    /// The relay has not answered in time, or nobody is there. It may have done what was asked all the same.
    Expired {
        id: RequestId,
        to: SocketAddr,
    },
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub requests: u64,
    pub resent: u64,
    pub answered: u64,
    pub expired: u64,
    /// Not sent, because too many were under way, or too long for a datagram.
    pub refused: u64,
    /// Answers to our cookies that came after the end of the attempt, or a second time.
    pub late: u64,
    /// Answers to our cookies from an address that had not been asked.
    pub strangers: u64,
    /// Datagrams with no cookie of ours, and answers that cannot be read.
    pub malformed: u64,
}

#[derive(Debug)]
struct Attempt {
    to: SocketAddr,
    datagram: Vec<u8>,
    expires: Instant,
    /// When it is sent again or given up, whichever is sooner.
    due: Instant,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Client {
    config: Config,
    /// What all cookies of this client start with.
    prefix: u64,
    next: u64,
    attempts: HashMap<RequestId, Attempt>,
    due: BTreeSet<(Instant, RequestId)>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Client {
    /// `seed` tells this client's cookies from those of all others that ask the same relays: 64 random bits.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            prefix: seed,
            next: 0,
            attempts: HashMap::new(),
            due: BTreeSet::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many requests are under way.
    pub fn outstanding(&self) -> usize {
        self.attempts.len()
    }

    /// Asks `to`; `None` if too many requests are under way, or no datagram holds this one: silence would be the
    /// relay's fault then.
    pub fn request(
        &mut self,
        now: Instant,
        to: SocketAddr,
        request: &Request<'_>,
    ) -> Option<RequestId> {
        if self.attempts.len() >= self.config.outstanding {
            self.counters.refused += 1;
            return None;
        }
        let id = RequestId(self.next);
        let datagram = request.encode(format!("{:016x}_{:x}", self.prefix, id.0).as_bytes());
        if datagram.len() > MAX_DATAGRAM {
            self.counters.refused += 1;
            return None;
        }
        self.next += 1;
        self.counters.requests += 1;
        let expires = now + self.config.attempt;
        let due = expires.min(now + self.config.resend);
        self.outputs.push_back(Output::Send { to, datagram: datagram.clone() });
        self.attempts.insert(id, Attempt { to, datagram, expires, due });
        self.due.insert((due, id));
        Some(id)
    }

    /// Forgets a request: its answer no longer matters.
    pub fn cancel(&mut self, id: RequestId) {
        self.take(id);
    }

    pub fn handle_datagram(&mut self, _now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Some((id, body)) = self.match_cookie(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(attempt) = self.attempts.get(&id) else {
            self.counters.late += 1;
            return;
        };
        if attempt.to != from {
            self.counters.strangers += 1;
            return;
        }
        if Reply::decode(body).is_err() {
            self.counters.malformed += 1;
            return;
        }
        self.take(id);
        self.counters.answered += 1;
        self.outputs.push_back(Output::Answered { id, from, body: body.to_vec() });
    }

    /// Nobody is at `to`: what was sent there is not waited for.
    pub fn handle_unreachable(&mut self, _now: Instant, to: SocketAddr) {
        let mut gone: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.to == to)
            .map(|(id, _)| *id)
            .collect();
        gone.sort_unstable();
        for id in gone {
            self.expire(id);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, id)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.expires > now)
            else {
                self.expire(id);
                continue;
            };
            attempt.due = attempt.expires.min(now + self.config.resend);
            self.due.insert((attempt.due, id));
            self.counters.resent += 1;
            let (to, datagram) = (attempt.to, attempt.datagram.clone());
            self.outputs.push_back(Output::Send { to, datagram });
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn match_cookie<'d>(&self, datagram: &'d [u8]) -> Option<(RequestId, &'d [u8])> {
        let datagram = Datagram::split(datagram)?;
        let (prefix, id) = std::str::from_utf8(datagram.cookie).ok()?.split_once('_')?;
        let id = u64::from_str_radix(id, 16).ok().filter(|id| *id < self.next)?;
        (u64::from_str_radix(prefix, 16) == Ok(self.prefix))
            .then_some((RequestId(id), datagram.body))
    }

    fn take(&mut self, id: RequestId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        self.due.remove(&(attempt.due, id));
        Some(attempt)
    }

    fn expire(&mut self, id: RequestId) {
        if let Some(attempt) = self.take(id) {
            self.counters.expired += 1;
            self.outputs.push_back(Output::Expired { id, to: attempt.to });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Command, Outcome, ReplyEncoder};

    const RELAY: &str = "127.0.0.1:2223";

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> (Client, Instant) {
        (Client::new(Config::default(), 0x0123_4567_89ab_cdef), Instant::now())
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn to(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn outputs(client: &mut Client) -> Vec<Output> {
        std::iter::from_fn(|| client.poll()).collect()
    }

    fn ping(client: &mut Client, now: Instant) -> (RequestId, Vec<u8>) {
        let id = client.request(now, to(RELAY), &Request::new(Command::Ping)).unwrap();
        let [Output::Send { to: relay, datagram }] = &outputs(client)[..] else {
            panic!("not sent")
        };
        assert_eq!(*relay, to(RELAY));
        (id, datagram.clone())
    }

    fn pong(request: &[u8]) -> Vec<u8> {
        let cookie = Datagram::split(request).unwrap().cookie;
        ReplyEncoder::new(cookie).finish(Outcome::Pong).unwrap()
    }

    #[test]
    fn an_answer_ends_an_attempt() {
        let (mut client, now) = start();
        let (id, datagram) = ping(&mut client, now);
        assert_eq!(datagram, b"0123456789abcdef_0 d7:command4:pinge");
        client.handle_datagram(now + ms(1), to(RELAY), &pong(&datagram));
        let answered = Output::Answered { id, from: to(RELAY), body: b"d6:result4:ponge".to_vec() };
        assert_eq!(outputs(&mut client), [answered]);
        assert_eq!((client.next_deadline(), client.outstanding()), (None, 0));
        // The answer to the copy that was sent again.
        client.handle_datagram(now + ms(2), to(RELAY), &pong(&datagram));
        assert_eq!(outputs(&mut client), []);
        assert_eq!(client.counters().late, 1);
    }

    #[test]
    fn silence_is_asked_again_and_then_given_up() {
        let (mut client, now) = start();
        let (id, datagram) = ping(&mut client, now);
        let again = Output::Send { to: to(RELAY), datagram: datagram.clone() };
        for at in [40, 80] {
            assert_eq!(client.next_deadline(), Some(now + ms(at)));
            client.handle_timeout(now + ms(at - 1));
            assert_eq!(outputs(&mut client), []);
            client.handle_timeout(now + ms(at));
            assert_eq!(outputs(&mut client), std::slice::from_ref(&again));
        }
        assert_eq!(client.next_deadline(), Some(now + ms(100)));
        client.handle_timeout(now + ms(100));
        assert_eq!(outputs(&mut client), [Output::Expired { id, to: to(RELAY) }]);
        assert_eq!((client.next_deadline(), client.outstanding()), (None, 0));
        client.handle_datagram(now + ms(101), to(RELAY), &pong(&datagram));
        assert_eq!(outputs(&mut client), []);
        let counted = *client.counters();
        let expected =
            Counters { requests: 1, resent: 2, expired: 1, late: 1, ..Counters::default() };
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_driver_that_was_late_gives_up_at_once() {
        let (mut client, now) = start();
        let (id, _) = ping(&mut client, now);
        client.handle_timeout(now + ms(500));
        assert_eq!(outputs(&mut client), [Output::Expired { id, to: to(RELAY) }]);
    }

    #[test]
    fn answers_of_others_do_not_count() {
        let (mut client, now) = start();
        let (_, datagram) = ping(&mut client, now);
        let mut expected = *client.counters();
        client.handle_datagram(now, to("127.0.0.1:2224"), &pong(&datagram));
        expected.strangers += 1;
        for bytes in [
            &b""[..],
            b"no-space",
            b" d6:result4:ponge",
            b"0123456789abcdef_1 d6:result4:ponge",
            b"0123456789abcdee_0 d6:result4:ponge",
            b"0123456789abcdef_0 ",
            b"0123456789abcdef_0 d6:result4:pong",
            b"0123456789abcdef_0 de",
        ] {
            client.handle_datagram(now, to(RELAY), bytes);
            expected.malformed += 1;
        }
        assert_eq!(outputs(&mut client), []);
        assert_eq!((*client.counters(), client.outstanding()), (expected, 1));
    }

    #[test]
    fn nobody_there_ends_what_was_sent_there() {
        let (mut client, now) = start();
        let (first, _) = ping(&mut client, now);
        let (second, _) = ping(&mut client, now);
        let other = client.request(now, to("127.0.0.2:2223"), &Request::new(Command::Ping));
        outputs(&mut client);
        client.handle_unreachable(now + ms(1), to(RELAY));
        let expired = [first, second].map(|id| Output::Expired { id, to: to(RELAY) });
        assert_eq!(outputs(&mut client), expired);
        assert_eq!(client.outstanding(), 1);
        client.cancel(other.unwrap());
        assert_eq!((client.next_deadline(), outputs(&mut client)), (None, vec![]));
    }

    #[test]
    fn what_fits_no_datagram_is_not_asked() {
        let (mut client, now) = start();
        let sdp = vec![b'x'; MAX_DATAGRAM];
        let mut offer = Request::new(Command::Offer);
        offer.sdp = Some(&sdp);
        assert_eq!(client.request(now, to(RELAY), &offer), None);
        offer.sdp = Some(&sdp[..MAX_DATAGRAM - 100]);
        assert!(client.request(now, to(RELAY), &offer).is_some());
        let Counters { requests, refused, .. } = *client.counters();
        assert_eq!((requests, refused, outputs(&mut client).len()), (1, 1, 1));
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let (_, now) = start();
        let config = Config { outstanding: 2, ..Config::default() };
        let mut client = Client::new(config, 1);
        let ask =
            |client: &mut Client| client.request(now, to(RELAY), &Request::new(Command::Ping));
        let (first, second) = (ask(&mut client), ask(&mut client));
        assert!(first.is_some() && second.is_some() && first != second);
        assert_eq!(ask(&mut client), None);
        client.handle_timeout(now + ms(100));
        assert!(ask(&mut client).is_some());
        assert_eq!(client.counters().refused, 1);
    }
}
