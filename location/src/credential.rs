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
    /// Those who were not removed.
    count: usize,
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
            self.realms.push(Realm { name: realm.clone(), users: HashMap::new(), count: 0 });
            self.realms.len() - 1
        });
        let (ha1_md5, ha1_sha256) = (*ha1_md5, *ha1_sha256);
        let secrets = (!removed).then_some(Secrets { ha1_md5, ha1_sha256 });
        let is_there = secrets.is_some();
        let entry = Entry { revision: *revision, secrets };
        let Realm { users, count, .. } = &mut self.realms[at];
        let was_there = match users.get_mut(user) {
            Some(old) if old.revision >= *revision => return false,
            Some(old) => std::mem::replace(old, entry).secrets.is_some(),
            None => {
                users.insert(user.clone(), entry);
                false
            }
        };
        *count = *count + usize::from(is_there) - usize::from(was_there);
        true
    }

    /// What a user must know.
    pub fn find(&self, user: &str, realm: &str) -> Option<&Secrets> {
        let realm = self.realms.iter().find(|known| *known.name == *realm)?;
        realm.users.get(user)?.secrets.as_ref()
    }

    /// Users of a realm, removed ones not counted.
    pub fn count(&self, realm: &str) -> usize {
        let of_realm = self.realms.iter().find(|known| *known.name == *realm);
        of_realm.map_or(0, |realm| realm.count)
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
    fn no_log_has_a_hash() {
        let text = format!("{:?}", credential("alice", 1, Some([0xab; 16])));
        assert!(text.contains("alice") && !text.contains("171") && !text.contains("ab"), "{text}");
    }
}
