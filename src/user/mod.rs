//! `dialtone user`: who may register and call, kept in the location database of the proxies.
//!
//! Only hashes are stored. Passwords come from a terminal, from the standard input or from a file, never from the
//! command line, which others can read.

mod files;
mod secret;
pub mod starter;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use dialtone_daemon::exit;
use dialtone_location::{
    Answer, Credential, CredentialChange, CredentialCounts, NewCredential, Request,
    cli::{Session, StoreAddress, StoreArgs},
};
use dialtone_sip::digest::{Algorithm, Hash};

/// Users per transaction: others want to write, too.
const GROUP: usize = 1_000;

/// Longest user name and password, bytes.
const MAX_USER: usize = 256;
const MAX_PASSWORD: usize = 1_024;

/// Add, list and remove the users that proxies with `[auth] required = true` let in
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Add a user, or give one another password
    ///
    /// The password is asked for on a terminal; otherwise it is the first line of the standard input.
    Add {
        /// The part of the address before the @
        #[arg(value_parser = parse_user)]
        user: String,
        /// Take the password from the first line of this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Show all users: name, realm, and which hashes are stored; says which hashes some of a realm lack
    List {
        /// As a JSON array of objects
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a user; phones that are registered stay so until their registration ends
    Remove {
        /// The part of the address before the @
        #[arg(value_parser = parse_user)]
        user: String,
        #[command(flatten)]
        place: Place,
    },
    /// Add many users, and replace those that are there
    ///
    /// A line is `user,password` or, as htdigest writes it, `user:realm:hash` with a hash of 32 hexadecimal
    /// digits (MD5) or 64 (SHA-256); a user may have a line for either hash. Empty lines, lines that begin with
    /// `#` and a first line `user,password` are skipped. Nothing is stored when a line is wrong.
    ///
    /// A hash of one kind serves phones of that kind: while a user has an MD5 hash only, proxies offer SHA-256
    /// to nobody in the realm. A line with the password makes both.
    #[command(verbatim_doc_comment)]
    Import {
        /// `-` is the standard input
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// Where users are.
#[derive(Clone, Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    store: StoreArgs,
    /// As the proxies have it, usually the domain [default: that of the users who are there]
    #[arg(long, value_parser = parse_realm)]
    realm: Option<String>,
}

impl Place {
    /// Opens the store. A file that is not there is a name mistyped: proxies and sidecars make it, this does not.
    fn open(&self) -> Result<Session, Error> {
        if let StoreAddress::Sqlite(path) = &self.store.store
            && !path.exists()
        {
            return Err(Error::Input(format!("{}: there is no such database", path.display())));
        }
        Ok(Session::open(&self.store)?)
    }
}

fn parse_user(text: &str) -> Result<String, String> {
    let problem = if text.is_empty() {
        "a user needs a name"
    } else if text.len() > MAX_USER {
        "the name is too long"
    } else if text.contains('@') {
        "only the part before the @"
    } else if text.contains([':', ',']) {
        "a name has no colon and no comma"
    } else if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        "a name has no spaces"
    } else {
        return Ok(text.to_owned());
    };
    Err(problem.to_owned())
}

fn parse_realm(text: &str) -> Result<String, String> {
    let is_plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\' | ':');
    if text.is_empty() || text.len() > 200 || !text.chars().all(is_plain) {
        return Err("it is empty, too long, or has quotes or colons in it".to_owned());
    }
    Ok(text.to_owned())
}

fn check_password(password: &str) -> Result<(), String> {
    if password.is_empty() {
        Err("the password is empty".to_owned())
    } else if password.len() > MAX_PASSWORD {
        Err(format!("the password is longer than {MAX_PASSWORD} bytes"))
    } else if password.contains(char::is_control) {
        Err("the password has control characters in it".to_owned())
    } else {
        Ok(())
    }
}

/// What cannot be done, with the code to exit with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wrong option, file or password.
    #[error("{0}")]
    Input(String),
    #[error("there is no user {user} in realm {realm}")]
    Nobody { user: String, realm: String },
    #[error(transparent)]
    Store(#[from] dialtone_location::Error),
    /// Standard output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// Carries a command out.
pub fn run(args: Args) -> ExitCode {
    let result = match args.command {
        Command::Add { user, password_file, place } => add(&user, password_file.as_deref(), &place),
        Command::List { json, place } => list(json, &place),
        Command::Remove { user, place } => remove(&user, &place),
        Command::Import { file, place } => import(&file, &place),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            match error {
                Error::Input(_) => ExitCode::from(exit::CONFIG),
                Error::Nobody { .. } => ExitCode::FAILURE,
                Error::Store(_) => ExitCode::from(exit::UNAVAILABLE),
                Error::Output(_) => ExitCode::from(exit::CANT_CREATE),
            }
        }
    }
}

fn add(user: &str, password_file: Option<&Path>, place: &Place) -> Result<(), Error> {
    // First what can be wrong without anybody having typed.
    let mut session = place.open()?;
    let realm = realm(place, &mut session)?;
    let password = match password_file {
        Some(path) => secret::from_file(path),
        None => secret::ask(&format!("Password of {user}: ")),
    };
    let password = password.map_err(Error::Input)?;
    check_password(&password).map_err(Error::Input)?;
    let (_, replaced) = put(&mut session, vec![credential(user, &realm, &password)])?;
    println!("user {user} {} in realm {realm}", if replaced == 0 { "added" } else { "replaced" });
    Ok(())
}

fn list(json: bool, place: &Place) -> Result<(), Error> {
    let mut session = place.open()?;
    let mut users = all(&mut session)?;
    users.retain(|user| place.realm.as_ref().is_none_or(|realm| *user.realm == **realm));
    let mut out = std::io::stdout().lock();
    if json {
        let users: Vec<_> = users
            .iter()
            .map(|user| serde_json::json!({ "user": user.user, "realm": user.realm, "algorithms": algorithms(user) }))
            .collect();
        serde_json::to_writer_pretty(&mut out, &users).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    let width = |title: &str, texts: &mut dyn Iterator<Item = &str>| {
        texts.map(|text| text.chars().count()).chain([title.len()]).max().unwrap_or_default()
    };
    let name = width("USER", &mut users.iter().map(|user| &*user.user));
    let realm = width("REALM", &mut users.iter().map(|user| &*user.realm));
    writeln!(out, "{:name$}  {:realm$}  HASHES", "USER", "REALM")?;
    for user in &users {
        writeln!(
            out,
            "{:name$}  {:realm$}  {}",
            user.user,
            user.realm,
            algorithms(user).join(" ")
        )?;
    }
    out.flush()?;
    lacking(&users).iter().for_each(|warning| eprintln!("{warning}"));
    Ok(())
}

fn remove(user: &str, place: &Place) -> Result<(), Error> {
    let mut session = place.open()?;
    let realm = realm(place, &mut session)?;
    let change = CredentialChange::Remove { user: user.into(), realm: realm.as_str().into() };
    match session.call(Request::Credentials(change))? {
        Answer::Credentials(outcomes) if outcomes.iter().any(|outcome| outcome.existed) => {
            println!("user {user} removed from realm {realm}");
            Ok(())
        }
        Answer::Credentials(_) => Err(Error::Nobody { user: user.to_owned(), realm }),
        other => Err(unexpected(&other)),
    }
}

fn import(file: &Path, place: &Place) -> Result<(), Error> {
    let (name, text) = files::read(file).map_err(Error::Input)?;
    let lines = files::parse(&name, &text, place.realm.as_deref()).map_err(Error::Input)?;
    let mut session = place.open()?;
    let users = lines.finish(|| realm(place, &mut session))?;
    let realms: BTreeSet<Box<str>> = users.iter().map(|user| user.realm.clone()).collect();
    let has_md5 = users.iter().filter(|user| user.ha1_md5.is_some()).count();
    let has_sha256 = users.iter().filter(|user| user.ha1_sha256.is_some()).count();
    let (added, replaced) = put(&mut session, users)?;
    println!(
        "{added} users added, {replaced} replaced; {has_sha256} with a SHA-256 hash, {has_md5} with an MD5 hash"
    );
    let mut there = all(&mut session)?;
    there.retain(|user| realms.contains(&user.realm));
    lacking(&there).iter().for_each(|warning| eprintln!("{warning}"));
    Ok(())
}

/// What follows for phones from users who have one kind of hash only, by realm.
fn lacking(users: &[Credential]) -> Vec<String> {
    let mut realms: BTreeMap<&str, CredentialCounts> = BTreeMap::new();
    for user in users {
        let counts = realms.entry(&user.realm).or_default();
        counts.add(user.ha1_md5.is_some(), user.ha1_sha256.is_some());
    }
    let warning = |(realm, counts): (&str, CredentialCounts)| {
        let CredentialCounts { users, md5_only, sha256_only } = counts;
        let one_kind = |few: usize, has: &str, lacks: &str| {
            format!(
                "warning: {few} of {users} users of realm {realm} have no {lacks} hash: proxies offer {has} only, to all; \
                 a phone that knows no {has} is kept out"
            )
        };
        match (md5_only, sha256_only) {
            (0, 0) => None,
            (few, 0) => Some(one_kind(few, "MD5", "SHA-256")),
            (0, few) => Some(one_kind(few, "SHA-256", "MD5")),
            _ => Some(format!(
                "warning: of {users} users of realm {realm} {md5_only} have no SHA-256 hash and {sha256_only} no MD5 hash: \
                 proxies offer both, and refuse them if their phones choose the other one"
            )),
        }
    };
    realms.into_iter().filter_map(warning).collect()
}

fn credential(user: &str, realm: &str, password: &str) -> NewCredential {
    let mut new =
        NewCredential { user: user.into(), realm: realm.into(), ha1_md5: None, ha1_sha256: None };
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        set(&mut new, Hash::of_user(algorithm, user, realm, password));
    }
    new
}

/// Gives a user this hash; `false` if there is one already.
fn set(new: &mut NewCredential, hash: Hash) -> bool {
    match hash {
        Hash::Md5(hash) => new.ha1_md5.replace(hash).is_none(),
        Hash::Sha256(hash) => new.ha1_sha256.replace(hash).is_none(),
    }
}

/// How many were added, and how many replaced.
fn put(session: &mut Session, mut users: Vec<NewCredential>) -> Result<(usize, usize), Error> {
    let (mut added, mut replaced) = (0, 0);
    while !users.is_empty() {
        let rest = users.split_off(users.len().min(GROUP));
        let change = CredentialChange::Put(std::mem::replace(&mut users, rest));
        let outcomes = match session.call(Request::Credentials(change))? {
            Answer::Credentials(outcomes) => outcomes,
            other => return Err(unexpected(&other)),
        };
        let existed = outcomes.iter().filter(|outcome| outcome.existed).count();
        replaced += existed;
        added += outcomes.len() - existed;
    }
    Ok((added, replaced))
}

fn all(session: &mut Session) -> Result<Vec<Credential>, Error> {
    let mut users: Vec<Credential> = Vec::new();
    loop {
        let after = users.last().map(|last| (last.user.clone(), last.realm.clone()));
        match session.call(Request::ListCredentials { after, limit: GROUP })? {
            Answer::CredentialList(page) if page.is_empty() => return Ok(users),
            Answer::CredentialList(page) => users.extend(page),
            other => return Err(unexpected(&other)),
        }
    }
}

/// The realm that was given, or the only one that there is.
fn realm(place: &Place, session: &mut Session) -> Result<String, Error> {
    if let Some(realm) = &place.realm {
        return Ok(realm.clone());
    }
    let realms: BTreeSet<Box<str>> = all(session)?.into_iter().map(|user| user.realm).collect();
    match realms.iter().collect::<Vec<_>>().as_slice() {
        [only] => Ok(only.to_string()),
        [] => Err(Error::Input(
            "there are no users yet: name their realm by --realm, the first of `domains` in sip-proxy.toml".to_owned(),
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|name| &***name).collect();
            Err(Error::Input(format!("name one realm by --realm: {}", names.join(", "))))
        }
    }
}

fn algorithms(user: &Credential) -> Vec<&'static str> {
    let sha256 = user.ha1_sha256.map(|_| Algorithm::Sha256);
    let md5 = user.ha1_md5.map(|_| Algorithm::Md5);
    sha256.into_iter().chain(md5).map(Algorithm::as_str).collect()
}

fn unexpected(answer: &Answer) -> Error {
    dialtone_location::Error::Failed(format!("unexpected answer {answer:?}")).into()
}
