//! All that a store holds as text, and back: how one moves from one backend to the other.
//!
//! ```text
//! {"dialtone-location":1}
//! {"binding":{"aor":"alice@dialtone.test","key":"csip:alice@192.0.2.1","contact":"sip:alice@192.0.2.1", ...}}
//! {"claim":{"name":"room","owner":17,"generation":4,"lease_until":1700000000000}}
//! {"credential":{"user":"alice","realm":"dialtone.test","ha1_md5":"...","ha1_sha256":"..."}}
//! {"end":{"bindings":1,"claims":1,"credentials":1}}
//! ```
//!
//! One record a line. Removed bindings that are remembered are among them, so that a late request brings nothing back
//! in the new database either. Hashes are as good as passwords: keep such a file as secret as the database.
//!
//! Importing merges: of two versions of a binding or a claim the newer one stays; a user who is there already stays as
//! he is. So an import that was broken off is simply repeated, and a second export takes what has changed since the
//! first.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::cli::Session;
use crate::credential::{Credential, CredentialChange, NewCredential};
use crate::error::Error;
use crate::record::{BindingKey, Record, Version, WriterId};
use crate::store::{Answer, Merge, Request, StoreEvent};

const FORMAT: u32 = 1;
/// Rows per request: others want to write, too.
const GROUP: usize = 500;
/// The longest line that is read.
const LINE: usize = 4 << 20;

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Removed ones that are remembered included.
    pub bindings: u64,
    pub claims: u64,
    pub credentials: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.bindings + self.claims + self.credentials
    }
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// In the file.
    pub read: Counts,
    /// Written; the others were not newer than what was there.
    pub written: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    #[serde(rename = "dialtone-location")]
    Header(u32),
    #[serde(rename = "binding")]
    Binding(Binding),
    #[serde(rename = "claim")]
    Claim(ClaimLine),
    #[serde(rename = "credential")]
    Credential(CredentialLine),
    #[serde(rename = "end")]
    End(Counts),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    aor: Box<str>,
    key: Box<str>,
    contact: Box<str>,
    params: Box<str>,
    q: u16,
    expires_at: u64,
    lifetime: u32,
    call_id: Box<str>,
    cseq: u32,
    user_agent: Box<str>,
    received: Box<str>,
    path: Box<str>,
    gateway: u32,
    flow_token: Box<str>,
    instance: Box<str>,
    reg_id: u32,
    changed_at: u64,
    deleted_at: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimLine {
    name: Box<str>,
    owner: u32,
    generation: u64,
    lease_until: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialLine {
    user: Box<str>,
    realm: Box<str>,
    ha1_md5: Option<String>,
    ha1_sha256: Option<String>,
}

/// Writes all that a store holds, which has just been opened. `progress` is told how much there is so far.
///
/// # Errors
/// The store cannot be read to its end, or the text cannot be written.
pub fn export(
    session: &mut Session,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(&Counts),
) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    put(out, &Line::Header(FORMAT))?;
    loop {
        match session.event()? {
            StoreEvent::Changes(records) => {
                counts.bindings += records.len() as u64;
                records
                    .into_iter()
                    .try_for_each(|record| put(out, &Line::Binding(record.into())))?;
            }
            StoreEvent::Credentials(credentials) => {
                for credential in credentials.iter().filter(|credential| !credential.removed) {
                    counts.credentials += 1;
                    put(out, &Line::Credential(credential.into()))?;
                }
            }
            StoreEvent::Loaded => break,
            StoreEvent::Behind(reason) => return Err(Error::Failed(reason.to_string())),
            StoreEvent::Answer { .. } | StoreEvent::Recovered | StoreEvent::Reloading => {}
        }
        progress(&counts);
    }
    let mut after = None;
    loop {
        let claims = match session.call(Request::ListClaims { after, limit: GROUP })? {
            Answer::ClaimList(claims) => claims,
            other => return Err(Error::Failed(format!("unexpected answer {other:?}"))),
        };
        let Some(last) = claims.last() else { break };
        after = Some(last.name.clone());
        counts.claims += claims.len() as u64;
        claims.into_iter().try_for_each(|claim| put(out, &Line::Claim(claim.into())))?;
        progress(&counts);
    }
    put(out, &Line::End(counts))?;
    out.flush().map_err(written)?;
    Ok(counts)
}

/// Takes in what [`export`] wrote; `name` stands in errors. What stands before a wrong line is taken in.
///
/// # Errors
/// [`Error::Line`] for a line that is wrong, or missing; the store refuses.
pub fn import(
    session: &mut Session,
    name: &Path,
    input: &mut dyn BufRead,
    progress: &mut dyn FnMut(&Imported),
) -> Result<Imported, Error> {
    let mut known = BTreeSet::new();
    add_users(session, &mut known)?;
    let mut import = Import {
        known,
        session,
        merge: Merge::default(),
        users: Vec::new(),
        done: Imported::default(),
    };
    let mut number = 0;
    let mut ended = None;
    let mut line = Vec::new();
    loop {
        number += 1;
        let wrong = |problem: String| Error::Line { path: name.to_owned(), line: number, problem };
        line.clear();
        let read = std::io::Read::take(&mut *input, LINE as u64).read_until(b'\n', &mut line);
        if read.map_err(|source| Error::Io { path: name.to_owned(), source })? == 0 {
            break;
        }
        if line.len() == LINE {
            return Err(wrong(format!("it is longer than {LINE} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        match (parsed, number) {
            (Line::Header(FORMAT), 1) => {}
            (Line::Header(version), 1) => {
                return Err(wrong(format!("format {version}; this program knows {FORMAT}")));
            }
            (_, 1) => return Err(wrong("this is no export of a location database".to_owned())),
            _ if ended.is_some() => return Err(wrong("there is more behind the end".to_owned())),
            (Line::Header(_), _) => return Err(wrong("a second header".to_owned())),
            (Line::Binding(binding), _) => import.merge.bindings.push(binding.into()),
            (Line::Claim(claim), _) => import.merge.claims.push(claim.into()),
            (Line::Credential(credential), _) => {
                let new =
                    credential.try_into().map_err(|problem: &str| wrong(problem.to_owned()))?;
                import.users.push(new);
            }
            (Line::End(counts), _) => ended = Some(counts),
        }
        if import.waiting() >= GROUP {
            import.flush()?;
            progress(&import.done);
        }
    }
    import.flush()?;
    progress(&import.done);
    let done = import.done;
    let wrong = |problem: String| Error::Line { path: name.to_owned(), line: number, problem };
    match ended {
        Some(counts) if counts == done.read => Ok(done),
        Some(counts) => Err(wrong(format!(
            "it says that there are {} records, but there were {}",
            counts.total(),
            done.read.total()
        ))),
        None => Err(wrong("the end is missing: it was cut off".to_owned())),
    }
}

struct Import<'a> {
    session: &'a mut Session,
    merge: Merge,
    users: Vec<NewCredential>,
    /// Who is there already.
    known: BTreeSet<(Box<str>, Box<str>)>,
    done: Imported,
}

impl Import<'_> {
    fn waiting(&self) -> usize {
        self.merge.bindings.len() + self.merge.claims.len() + self.users.len()
    }

    fn flush(&mut self) -> Result<(), Error> {
        let merge = std::mem::take(&mut self.merge);
        self.done.read.bindings += merge.bindings.len() as u64;
        self.done.read.claims += merge.claims.len() as u64;
        if !merge.bindings.is_empty() || !merge.claims.is_empty() {
            match self.session.call(Request::Merge(Box::new(merge)))? {
                Answer::Merged(taken) => self.done.written += taken as u64,
                other => return Err(Error::Failed(format!("unexpected answer {other:?}"))),
            }
        }
        let mut users = std::mem::take(&mut self.users);
        self.done.read.credentials += users.len() as u64;
        users.retain(|new| self.known.insert((new.user.clone(), new.realm.clone())));
        if !users.is_empty() {
            self.done.written += users.len() as u64;
            self.session.call(Request::Credentials(CredentialChange::Put(users)))?;
        }
        Ok(())
    }
}

fn add_users(
    session: &mut Session,
    users: &mut BTreeSet<(Box<str>, Box<str>)>,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        match session.call(Request::ListCredentials { after, limit: GROUP })? {
            Answer::CredentialList(page) => {
                let Some(last) = page.last() else { return Ok(()) };
                after = Some((last.user.clone(), last.realm.clone()));
                users.extend(page.into_iter().map(|user| (user.user, user.realm)));
            }
            other => return Err(Error::Failed(format!("unexpected answer {other:?}"))),
        }
    }
}

fn put(out: &mut dyn Write, line: &Line) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, line).map_err(|error| written(error.into()))?;
    out.write_all(b"\n").map_err(written)
}

fn written(source: std::io::Error) -> Error {
    Error::Failed(format!("the export cannot be written: {source}"))
}

impl From<Record> for Binding {
    fn from(record: Record) -> Self {
        Self {
            key: record.key.as_str().into(),
            aor: record.aor,
            contact: record.contact,
            params: record.params,
            q: record.q,
            expires_at: record.expires_at,
            lifetime: record.lifetime,
            call_id: record.call_id,
            cseq: record.cseq,
            user_agent: record.user_agent,
            received: record.received,
            path: record.path,
            gateway: record.gateway,
            flow_token: record.flow_token,
            instance: record.instance,
            reg_id: record.reg_id,
            changed_at: record.changed_at,
            deleted_at: record.deleted_at,
        }
    }
}

impl From<Binding> for Record {
    fn from(binding: Binding) -> Self {
        Self {
            key: BindingKey::stored(&binding.key),
            // The store that takes it in gives it one.
            version: Version { writer: WriterId(0), sequence: 0 },
            aor: binding.aor,
            contact: binding.contact,
            params: binding.params,
            q: binding.q,
            expires_at: binding.expires_at,
            lifetime: binding.lifetime,
            call_id: binding.call_id,
            cseq: binding.cseq,
            user_agent: binding.user_agent,
            received: binding.received,
            path: binding.path,
            gateway: binding.gateway,
            flow_token: binding.flow_token,
            instance: binding.instance,
            reg_id: binding.reg_id,
            changed_at: binding.changed_at,
            deleted_at: binding.deleted_at,
        }
    }
}

impl From<Claim> for ClaimLine {
    fn from(Claim { name, owner, generation, lease_until }: Claim) -> Self {
        Self { name, owner, generation, lease_until }
    }
}

impl From<ClaimLine> for Claim {
    fn from(ClaimLine { name, owner, generation, lease_until }: ClaimLine) -> Self {
        Self { name, owner, generation, lease_until }
    }
}

impl From<&Credential> for CredentialLine {
    fn from(credential: &Credential) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            user: credential.user.clone(),
            realm: credential.realm.clone(),
            ha1_md5: credential.ha1_md5.as_ref().map(|hash| hex(hash)),
            ha1_sha256: credential.ha1_sha256.as_ref().map(|hash| hex(hash)),
        }
    }
}

impl TryFrom<CredentialLine> for NewCredential {
    type Error = &'static str;

    fn try_from(line: CredentialLine) -> Result<Self, &'static str> {
        fn hash<const N: usize>(text: Option<String>) -> Result<Option<[u8; N]>, &'static str> {
            let Some(text) = text else { return Ok(None) };
            let mut hash = [0; N];
            if text.len() != 2 * N || !text.is_ascii() {
                return Err("a hash has the wrong length");
            }
            for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
                *byte = u8::from_str_radix(&text[at..at + 2], 16)
                    .map_err(|_| "a hash is not hexadecimal")?;
            }
            Ok(Some(hash))
        }
        let CredentialLine { user, realm, ha1_md5, ha1_sha256 } = line;
        Ok(Self { user, realm, ha1_md5: hash(ha1_md5)?, ha1_sha256: hash(ha1_sha256)? })
    }
}
