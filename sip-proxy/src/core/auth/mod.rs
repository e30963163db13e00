//! Who sent a request: digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760) against the credentials in memory.
//!
//! Nonces have no state: a signed moment and random bits, valid at every proxy that has the key file. What was used is
//! remembered by each proxy for itself ([`replay`]), and who guesses passwords is held back ([`limits`]), both in bounded
//! memory.

mod limits;
mod replay;

use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dialtone_location::{CredentialCounts, Credentials};
use dialtone_sip::digest::{Algorithm, Authorization, Challenge, Hash};
use dialtone_sip::{Edit, HeaderName, Message, SipUri, Uri};
use dialtone_sip_pool::keys::{Keys, Purpose};

use crate::core::settings::Names;

pub use limits::Limits;
use limits::{Guesses, Recent};
use replay::Replays;

/// Header lines that may hold the credentials for our realm.
const MAX_LINES: usize = 8;
/// Time of issue (6 bytes), random bits (4), and the network that it was given to (8): overheard, it is of no use
/// elsewhere, whichever proxy is asked.
const NONCE_LEN: usize = 18;

/// How users prove who they are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the hashes of all users were made with.
    pub realm: Box<str>,
    /// What is offered, the best first (RFC 8760 section 2.3), as far as all users have a hash of it. Some phones give up
    /// when they see one that they do not know, whatever else is offered.
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce is good for.
    pub nonce_life: Duration,
    /// Answers without `qop` are taken, as RFC 2069 had them: each nonce then is good for one request.
    pub without_qop: bool,
    pub limits: Limits,
}

impl Settings {
    pub fn new(realm: impl Into<Box<str>>) -> Self {
        Self {
            realm: realm.into(),
            algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
            nonce_life: Duration::from_secs(300),
            without_qop: false,
            limits: Limits::default(),
        }
    }
}

/// What authentication came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests without credentials, or with some that say nothing about a user.
    pub challenged: u64,
    /// Requests let pass, by algorithm.
    pub md5: u64,
    pub sha256: u64,
    /// Wrong passwords and unknown users.
    pub wrong: u64,
    /// Right for another user than the one that the request names.
    pub mismatched: u64,
    /// Answers to a nonce that had ended, or by an algorithm that is no longer offered.
    pub stale: u64,
    /// Nonce and count seen before, in another request.
    pub replayed: u64,
    /// Refused unread, because of too many wrong passwords.
    pub limited: u64,
}

/// Users whose phones may choose an algorithm that they have no hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    pub algorithm: Algorithm,
    pub users: usize,
    /// Whether it is offered all the same, since nothing is there that all have.
    pub offered: bool,
}

/// Whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// Ask for credentials; `stale`: those that came may have been right.
    Challenge {
        stale: bool,
    },
    /// 400: the credentials are for another request.
    Misdirected,
    /// 403: the credentials are those of somebody else.
    Mismatch,
    /// 403 with Retry-After, seconds.
    Limited(u64),
}

/// A request as far as it matters here.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) message: &'a Message,
    /// Authorization or Proxy-Authorization.
    pub(super) header: HeaderName,
    /// Address-of-record of the user that it says it comes from.
    pub(super) aor: Option<&'a str>,
    pub(super) names: &'a Names,
    /// The phone's address.
    pub(super) source: IpAddr,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Auth {
    settings: Settings,
    /// Makes hashes unpredictable.
    secret: u64,
    replays: Replays,
    guesses: Guesses,
    /// Where users have succeeded last.
    homes: Recent<u64, IpAddr>,
    pub(super) stats: Stats,
}

impl Auth {
    pub(super) fn new(now: Instant, settings: Settings, secret: u64) -> Self {
        // Issued by a proxy whose clock is ahead, a nonce lives longer.
        let memory = settings.nonce_life * 2;
        Self {
            replays: Replays::new(now, memory, settings.limits.remembered),
            guesses: Guesses::new(settings.limits),
            homes: Recent::new(settings.limits.remembered),
            settings,
            secret,
            stats: Stats::default(),
        }
    }

    pub(super) fn realm(&self) -> &str {
        &self.settings.realm
    }

    /// The algorithms to choose from, the best first. Phones take the best that they know, so one that somebody has no
    /// hash of is left out for all: what is offered says nothing about single users. If that leaves nothing, all are
    /// offered.
    fn offered(&self, credentials: &Credentials) -> impl Iterator<Item = Algorithm> {
        let counts = credentials.counts(&self.settings.realm);
        let has_all = move |algorithm: &Algorithm| lacking(&counts, *algorithm) == 0;
        let nothing_is_left = !self.settings.algorithms.iter().any(has_all);
        let algorithms = self.settings.algorithms.iter().copied();
        algorithms.filter(move |algorithm| nothing_is_left || has_all(algorithm))
    }

    /// Algorithms that not all users have a hash of.
    pub(super) fn lacking(&self, credentials: &Credentials) -> Vec<Lacking> {
        let counts = credentials.counts(&self.settings.realm);
        let of_all = self.settings.algorithms.iter().map(|&algorithm| Lacking {
            algorithm,
            users: lacking(&counts, algorithm),
            offered: self.offered(credentials).any(|offered| offered == algorithm),
        });
        of_all.filter(|lacking| lacking.users > 0).collect()
    }

    /// The challenges of one answer, the best first.
    pub(super) fn challenges(
        &self,
        wall_ms: u64,
        random: u32,
        source: IpAddr,
        keys: &Keys,
        credentials: &Credentials,
        stale: bool,
    ) -> impl Iterator<Item = String> {
        let mut payload = [0; NONCE_LEN];
        payload[..6].copy_from_slice(&wall_ms.to_be_bytes()[2..]);
        payload[6..10].copy_from_slice(&random.to_be_bytes());
        payload[10..].copy_from_slice(&origin(source));
        let nonce = keys.sign(Purpose::DigestNonce, &payload);
        self.offered(credentials).map(move |algorithm| {
            let realm = (&*self.settings.realm).into();
            let nonce = (&*nonce).into();
            Challenge { realm, nonce, opaque: None, stale, algorithm, qop: true }.to_string()
        })
    }

    /// Judges a request. `is_home` says whether a user's phone is registered from an address.
    pub(super) fn check(
        &mut self,
        now: Instant,
        wall_ms: u64,
        asked: &Asked<'_>,
        keys: &Keys,
        credentials: &Credentials,
        is_home: impl Fn(&str, IpAddr) -> bool,
    ) -> Verdict {
        let lines = asked.message.headers_named(asked.header).take(MAX_LINES);
        let given = lines
            .filter_map(|line| Authorization::parse(line.text().ok()?).ok())
            .find(|given| *given.realm == *self.settings.realm && self.is_known(given));
        let Some(given) = given else {
            self.stats.challenged += 1;
            return Verdict::Challenge { stale: false };
        };
        // Who guesses learns nothing and costs nothing.
        let user = self.key(&*given.username);
        let source = limits::network(asked.source);
        let at_home = self.homes.get(&user) == Some(&source)
            || is_home(&format!("{}@{}", given.username, asked.names.domain()), asked.source);
        if let Some(wait) = self.guesses.blocked(now, user, source, at_home) {
            self.stats.limited += 1;
            // Rounded up, so that who waits so long is let in.
            return Verdict::Limited(wait.as_secs() + 1);
        }
        let Some((issued_ms, given_to)) = issued(keys, &given.nonce) else {
            self.stats.challenged += 1;
            return Verdict::Challenge { stale: false };
        };
        let life_ms = self.settings.nonce_life.as_millis() as u64;
        // A phone that has moved asks for its user no more than one whose nonce has ended.
        let is_fresh = given_to == origin(asked.source)
            && issued_ms.abs_diff(wall_ms) < life_ms
            && self.replays.remembers_since(wall_ms) <= issued_ms;
        if !is_fresh {
            self.stats.stale += 1;
            return Verdict::Challenge { stale: true };
        }
        // RFC 7616 section 3.4.6: "the authenticating server MUST assure that the resource designated by the 'uri'
        // parameter is the same as the resource specified in the Request-Line; if they are not, the server SHOULD return
        // a 400".
        let method = asked.message.method().map_or("", |method| method.as_str());
        if !is_same_resource(asked, &given.uri) {
            return Verdict::Misdirected;
        }
        // Asked before somebody came who has no hash of this one: the phone chooses anew, without its user.
        if !self.offered(credentials).any(|offered| offered == given.algorithm()) {
            self.stats.stale += 1;
            return Verdict::Challenge { stale: true };
        }
        // An unknown user costs as much as a known one.
        let user_known = credentials.find(&given.username, &self.settings.realm);
        let known = user_known.and_then(|secrets| match given.algorithm() {
            Algorithm::Md5 => secrets.ha1_md5.map(Hash::Md5),
            Algorithm::Sha256 => secrets.ha1_sha256.map(Hash::Sha256),
        });
        let nobody = match given.algorithm() {
            Algorithm::Md5 => Hash::Md5([0; 16]),
            Algorithm::Sha256 => Hash::Sha256([0; 32]),
        };
        let is_right = given.verify(known.as_ref().unwrap_or(&nobody), method);
        if !is_right || known.is_none() {
            self.stats.wrong += 1;
            // The password may be right, and the phone may know the other algorithm as well: that is no guess.
            if known.is_some() || user_known.is_none() {
                self.guesses.wrong(now, user, source, at_home);
            }
            return Verdict::Challenge { stale: false };
        }
        let (key, request) = (self.count_key(&given), self.fingerprint(asked));
        if !self.replays.is_first(now, wall_ms, issued_ms, key, request) {
            self.stats.replayed += 1;
            return Verdict::Challenge { stale: true };
        }
        self.homes.insert(user, source);
        let user =
            asked.aor.and_then(|aor| aor.strip_suffix(asked.names.domain())?.strip_suffix('@'));
        if user != Some(&*given.username) {
            self.stats.mismatched += 1;
            return Verdict::Mismatch;
        }
        match given.algorithm() {
            Algorithm::Md5 => self.stats.md5 += 1,
            Algorithm::Sha256 => self.stats.sha256 += 1,
        }
        Verdict::Passed
    }

    /// Removes the credentials for our realm; what others asked for goes on (RFC 3261 section 22.3).
    pub(super) fn strip(&self, edit: &mut Edit<'_>, request: &Message) {
        for line in request.headers_named(HeaderName::ProxyAuthorization) {
            let realm = line.text().ok().and_then(Authorization::realm_of);
            if realm.is_some_and(|realm| *realm == *self.settings.realm) {
                edit.remove_line(&line);
            }
        }
    }

    fn is_known(&self, given: &Authorization<'_>) -> bool {
        self.settings.algorithms.contains(&given.algorithm())
            && (self.settings.without_qop || given.protection.is_some())
    }

    fn key(&self, value: impl std::hash::Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    }

    fn count_key(&self, given: &Authorization<'_>) -> u64 {
        let nc = given.protection.as_ref().map_or(1, |protection| protection.nc);
        self.key((&*given.nonce, nc))
    }

    /// Equal for a request that a gateway sends again after a proxy has failed; different for everything that somebody
    /// could make of it.
    fn fingerprint(&self, asked: &Asked<'_>) -> u64 {
        use HeaderName::{CSeq, CallId, Contact, Expires, From, ReferTo, To};
        let message = asked.message;
        let headers = [CallId, CSeq, From, To, Contact, Expires, ReferTo, asked.header];
        let values: Vec<&[u8]> = headers
            .into_iter()
            .flat_map(|name| message.headers_named(name).map(|header| header.value()))
            .collect();
        let start = message.request_uri_str().unwrap_or("");
        self.key((message.method().map(|method| method.as_str()), start, values, message.body()))
    }
}

/// How many users have another hash, but none of this algorithm.
fn lacking(counts: &CredentialCounts, algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::Md5 => counts.sha256_only,
        Algorithm::Sha256 => counts.md5_only,
    }
}

/// When a nonce of ours was issued, in milliseconds since 1970, and its [`origin`]; `None` if it is none.
fn issued(keys: &Keys, nonce: &str) -> Option<(u64, [u8; 8])> {
    let payload = keys.verify(Purpose::DigestNonce, nonce.as_bytes()).ok()?;
    let payload: [u8; NONCE_LEN] = payload.try_into().ok()?;
    let (mut moment, mut origin) = ([0; 8], [0; 8]);
    moment[2..].copy_from_slice(&payload[..6]);
    origin.copy_from_slice(&payload[10..]);
    Some((u64::from_be_bytes(moment), origin))
}

/// The network that a nonce was given to, in the form that the nonce carries.
fn origin(source: IpAddr) -> [u8; 8] {
    match limits::network(source) {
        // No network of version 6 begins like this.
        IpAddr::V4(v4) => (0xffff_u64 << 32 | u64::from(v4.to_bits())).to_be_bytes(),
        IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64).to_be_bytes(),
    }
}

/// Phones leave parameters away, some the port, and write any of our names; SIPp has the domain alone.
fn is_same_resource(asked: &Asked<'_>, uri: &str) -> bool {
    let Ok(Uri::Sip(wanted)) = asked.message.request_uri() else { return false };
    let Ok(given) = SipUri::parse(uri) else { return false };
    let host = |uri: &SipUri<'_>| uri.host.to_string().to_ascii_lowercase();
    let is_ours = |uri: &SipUri<'_>| asked.names.domain_of(uri).is_some();
    (host(&wanted) == host(&given) || (is_ours(&wanted) && is_ours(&given)))
        && (given.user.is_none() || wanted.user_unescaped() == given.user_unescaped())
}
