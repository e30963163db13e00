//! Credentials: what a user must know to authenticate (digest HA1 values, never passwords), their changes, and the copy
//! in memory that requests are checked against.

use std::collections::HashMap;
use std::fmt;

/// What is stored of one user in one realm.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As the user part of an address-of-record, unescaped.
    pub user: Box<str>,
    pub realm: Box<str>,
    /// `MD5(user:realm:password)`.
    pub ha1_md5: Option<[u8; 16]>,
    /// `SHA-256(user:realm:password)`.
    pub ha1_sha256: Option<[u8; 32]>,
    /// Orders all changes of credentials of one database; every change has its own.
    pub revision: u64,
    /// The user was removed; what is left tells those who follow.
    pub removed: bool,
}

/// The hashes are as good as passwords: no log has them.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .field("realm", &self.realm)
            .field("md5", &self.ha1_md5.is_some())
            .field("sha256", &self.ha1_sha256.is_some())
            .field("revision", &self.revision)
            .field("removed", &self.removed)
            .finish()
    }
}

/// What a user is to know from now on.
#[derive(Clone, PartialEq, Eq)]
pub struct NewCredential {
    pub user: Box<str>,
    pub realm: Box<str>,
    pub ha1_md5: Option<[u8; 16]>,
    pub ha1_sha256: Option<[u8; 32]>,
}

impl fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCredential")
            .field("user", &self.user)
            .field("realm", &self.realm)
            .field("md5", &self.ha1_md5.is_some())
            .field("sha256", &self.ha1_sha256.is_some())
            .finish()
    }
}

/// A change of credentials, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialChange {
    /// Adds these, and replaces those that are there: a hash that is not given goes. Of several for one user the last
    /// one counts.
    Put(Vec<NewCredential>),
    /// Removes a user; one who is not there is no error.
    Remove { user: Box<str>, realm: Box<str> },
}

/// What became of one user of a [`CredentialChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialOutcome {
    /// Whether there was such a user before.
    pub existed: bool,
    /// What is stored now; `None` when there was nothing to remove.
    pub credential: Option<Credential>,
}

/// The hashes of one user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    pub ha1_md5: Option<[u8; 16]>,
    pub ha1_sha256: Option<[u8; 32]>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("md5", &self.ha1_md5.is_some())
            .field("sha256", &self.ha1_sha256.is_some())
            .finish()
    }
}

/// Users of one realm, removed ones not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CredentialCounts {
    pub users: usize,
    /// Of these, those who have an MD5 hash only.
    pub md5_only: usize,
    /// Of these, those who have a SHA-256 hash only.
    pub sha256_only: usize,
}

impl CredentialCounts {
    /// Counts one user more.
    pub fn add(&mut self, has_md5: bool, has_sha256: bool) {
        self.users += 1;
        self.md5_only += usize::from(has_md5 && !has_sha256);
        self.sha256_only += usize::from(has_sha256 && !has_md5);
    }

    fn remove(&mut self, secrets: &Secrets) {
        let (has_md5, has_sha256) = (secrets.ha1_md5.is_some(), secrets.ha1_sha256.is_some());
        self.users -= 1;
        self.md5_only -= usize::from(has_md5 && !has_sha256);
        self.sha256_only -= usize::from(has_sha256 && !has_md5);
    }
}

/// Copy of all credentials in memory. Changes may come in any order and more than once; the highest revision of each
/// user wins.
#[derive(Debug, Default)]
pub struct Credentials {
    /// A database has one, or a few.
    realms: Vec<Realm>,
}

#[derive(Debug)]
struct Realm {
    name: Box<str>,
    users: HashMap<Box<str>, Entry>,
    counts: CredentialCounts,
}

#[derive(Debug)]
struct Entry {
    revision: u64,
    /// `None` for a user who was removed.
    secrets: Option<Secrets>,
}

impl Credentials {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a credential in; says whether it was news.
    pub fn apply(&mut self, credential: &Credential) -> bool {
        let Credential { user, realm, ha1_md5, ha1_sha256, revision, removed } = credential;
        let at = self.realms.iter().position(|known| known.name == *realm).unwrap_or_else(|| {
            let (users, counts) = Default::default();
            self.realms.push(Realm { name: realm.clone(), users, counts });
            self.realms.len() - 1
        });
        let (ha1_md5, ha1_sha256) = (*ha1_md5, *ha1_sha256);
        let secrets = (!removed).then_some(Secrets { ha1_md5, ha1_sha256 });
        let entry = Entry { revision: *revision, secrets };
        let Realm { users, counts, .. } = &mut self.realms[at];
        let former = match users.get_mut(user) {
            Some(old) if old.revision >= *revision => return false,
            Some(old) => std::mem::replace(old, entry).secrets,
            None => {
                users.insert(user.clone(), entry);
                None
            }
        };
        former.iter().for_each(|former| counts.remove(former));
        if !removed {
            counts.add(ha1_md5.is_some(), ha1_sha256.is_some());
        }
        true
    }

    /// What a user must know.
    pub fn find(&self, user: &str, realm: &str) -> Option<&Secrets> {
        let realm = self.realms.iter().find(|known| *known.name == *realm)?;
        realm.users.get(user)?.secrets.as_ref()
    }

    /// Users of a realm, removed ones not counted.
    pub fn count(&self, realm: &str) -> usize {
        self.counts(realm).users
    }

    /// Users of a realm, by the hashes that they have.
    pub fn counts(&self, realm: &str) -> CredentialCounts {
        let of_realm = self.realms.iter().find(|known| *known.name == *realm);
        of_realm.map(|realm| realm.counts).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(user: &str, revision: u64, ha1_md5: Option<[u8; 16]>) -> Credential {
        Credential {
            user: user.into(),
            realm: "dialtone.test".into(),
            removed: ha1_md5.is_none(),
            ha1_md5,
            ha1_sha256: None,
            revision,
        }
    }

    #[test]
    fn the_highest_revision_wins_in_any_order() {
        let mut all = Credentials::new();
        let md5 = |all: &Credentials| all.find("alice", "dialtone.test").map(|found| found.ha1_md5);
        assert!(all.apply(&credential("alice", 5, Some([5; 16]))));
        assert!(!all.apply(&credential("alice", 4, Some([4; 16]))));
        assert!(!all.apply(&credential("alice", 5, Some([5; 16]))));
        assert_eq!((md5(&all), all.count("dialtone.test")), (Some(Some([5; 16])), 1));
        assert_eq!(all.find("alice", "other.test"), None);
        assert_eq!(all.find("Alice", "dialtone.test"), None);
        assert!(all.apply(&credential("alice", 7, None)));
        assert!(
            !all.apply(&credential("alice", 6, Some([6; 16]))),
            "a late change after a removal"
        );
        assert_eq!((md5(&all), all.count("dialtone.test")), (None, 0));
        assert!(all.apply(&credential("alice", 8, Some([8; 16]))));
        assert_eq!((all.count("dialtone.test"), all.count("other.test")), (1, 0));
    }

    #[test]
    fn users_are_counted_by_their_hashes() {
        let mut all = Credentials::new();
        let mut put = |user: &str, revision, md5: Option<u8>, sha256: Option<u8>| {
            all.apply(&Credential {
                user: user.into(),
                realm: "r".into(),
                ha1_md5: md5.map(|byte| [byte; 16]),
                ha1_sha256: sha256.map(|byte| [byte; 32]),
                revision,
                removed: md5.or(sha256).is_none(),
            });
            let counts = all.counts("r");
            (counts.users, counts.md5_only, counts.sha256_only)
        };
        assert_eq!(put("alice", 1, Some(1), Some(1)), (1, 0, 0));
        assert_eq!(put("bob", 2, Some(1), None), (2, 1, 0));
        assert_eq!(put("carol", 3, None, Some(1)), (3, 1, 1));
        assert_eq!(put("bob", 4, Some(2), Some(2)), (3, 0, 1));
        assert_eq!(put("alice", 5, Some(2), None), (3, 1, 1));
        assert_eq!(put("carol", 6, None, None), (2, 1, 0));
        assert_eq!(put("alice", 7, None, None), (1, 0, 0));
        assert_eq!(all.counts("other"), CredentialCounts::default());
    }

    #[test]
    fn no_log_has_a_hash() {
        let text = format!("{:?}", credential("alice", 1, Some([0xab; 16])));
        assert!(text.contains("alice") && !text.contains("171") && !text.contains("ab"), "{text}");
    }
}
