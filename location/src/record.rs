//! Bindings as they are stored.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long a removed or expired binding is remembered, milliseconds: longer than any retransmission of a request
/// that it has to refuse (RFC 3261, Timer F).
pub const TOMBSTONE_MS: u64 = 40_000;

/// Longest values of a [`Record`], bytes: what saves them keeps to these, and a store has room for them. Text is any
/// UTF-8, but without NUL.
pub mod limits {
    pub const AOR: usize = 512;
    pub const CALL_ID: usize = 255;
    pub const CONTACT: usize = 1_000;
    pub const FLOW_TOKEN: usize = 255;
    pub const INSTANCE: usize = 255;
    /// Of a [`super::BindingKey`].
    pub const KEY: usize = 1_024;
    pub const PARAMS: usize = 1_000;
    pub const PATH: usize = 2_000;
    pub const RECEIVED: usize = 64;
    pub const USER_AGENT: usize = 100;
}

/// Who has not read changes for so long may have missed a removal that is forgotten already.
pub(crate) const MISSED_AFTER: Duration = Duration::from_millis(TOMBSTONE_MS - 10_000);

/// Names one writing process; proxies use their pool element identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub u32);

/// Which writer wrote a record last, and the how-manieth record of that writer this was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub writer: WriterId,
    pub sequence: u64,
}

/// What a reader has seen of each writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(pub BTreeMap<WriterId, u64>);

impl Vector {
    /// The last sequence number seen of `writer`, 0 if none.
    pub fn get(&self, writer: WriterId) -> u64 {
        self.0.get(&writer).copied().unwrap_or(0)
    }

    /// Notes that everything of `writer` up to `sequence` was seen.
    pub fn advance(&mut self, writer: WriterId, sequence: u64) {
        let seen = self.0.entry(writer).or_default();
        *seen = (*seen).max(sequence);
    }
}

/// What identifies a binding within its address-of-record: the flow (RFC 5626 section 6) or the contact URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingKey(Box<str>);

impl BindingKey {
    /// `canonical` is the contact URI in a form in which equal URIs (RFC 3261 section 19.1.4) are equal strings.
    pub fn contact(canonical: &str) -> Self {
        Self(format!("c{canonical}").into())
    }

    /// A flow of a user agent instance.
    pub fn flow(instance: &str, reg_id: u32) -> Self {
        Self(format!("f{reg_id};{instance}").into())
    }

    /// The row that remembers a `Contact: *` removal; never a binding.
    pub(crate) fn everything() -> Self {
        Self("*".into())
    }

    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One binding, or what is remembered of a removed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Normalised address-of-record, `user@domain`.
    pub aor: Box<str>,
    pub key: BindingKey,
    /// Contact URI as the user agent sent it.
    pub contact: Box<str>,
    /// Contact parameters other than `q` and `expires`, as sent, each with its semicolon.
    pub params: Box<str>,
    /// Preference in thousandths, 0 to 1000.
    pub q: u16,
    /// Milliseconds since 1970.
    pub expires_at: u64,
    /// The life that was granted, seconds; 0 for a removal.
    pub lifetime: u32,
    pub call_id: Box<str>,
    pub cseq: u32,
    pub user_agent: Box<str>,
    /// Where the request came from if that is where the phone must be called, as `udp:192.0.2.1:5060`; else empty.
    pub received: Box<str>,
    /// The Path header values in order, comma separated; empty if none.
    pub path: Box<str>,
    /// Pool element identifier of the gateway that holds the flow, 0 if none.
    pub gateway: u32,
    pub flow_token: Box<str>,
    /// `+sip.instance` without quotes, empty if none.
    pub instance: Box<str>,
    /// 0 if none (RFC 5626 section 4.2.1: reg-id is at least 1).
    pub reg_id: u32,
    pub version: Version,
    /// Orders the versions of one record, whoever wrote them: milliseconds since 1970, and always above the former.
    pub changed_at: u64,
    /// Milliseconds since 1970 when it was removed.
    pub deleted_at: Option<u64>,
}

impl Record {
    /// Whether it is a usable binding at `now_ms`.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.deleted_at.is_none() && self.expires_at > now_ms
    }

    /// What its writer's clock said when it was written, as well as can be told.
    pub fn written_at(&self) -> u64 {
        let life_ms = u64::from(self.lifetime) * 1_000;
        self.deleted_at.unwrap_or_else(|| self.expires_at.saturating_sub(life_ms))
    }

    /// When the row may be forgotten.
    pub(crate) fn purge_at(&self) -> u64 {
        self.deleted_at.unwrap_or(self.expires_at) + TOMBSTONE_MS
    }
}
