//! The first users of a system that somebody tries out: made once, with random passwords that stay in a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use dialtone_daemon::data_dir::write_atomically;
use dialtone_location::cli::{Session, StoreArgs};

use super::{Error, all, credential, put};

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// None that look alike; as many as divide 256.
const LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// A user and the password, if that is still the one in the file.
pub type Starter = (String, Option<String>);

/// The users of a realm. If there are none, those of the file are made, and the file with them if need be: with lines
/// `user,password`, readable by its owner only.
///
/// # Errors
/// The store's, and what is wrong with the file.
pub fn users(store: &StoreArgs, realm: &str, path: &Path) -> Result<Vec<Starter>, Error> {
    let problem = |error: io::Error| Error::Input(format!("{}: {error}", path.display()));
    if !path.exists() {
        let made: io::Result<String> =
            NAMES.iter().map(|name| Ok(format!("{name},{}\n", password()?))).collect();
        made.and_then(|text| write_atomically(path, text.as_bytes(), 0o600)).map_err(problem)?;
    }
    let text = fs::read_to_string(path).map_err(problem)?;
    let passwords: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(',')).collect();
    let mut session = Session::open(store)?;
    let of_realm = |session: &mut Session| {
        all(session).map(|mut users| {
            users.retain(|user| *user.realm == *realm);
            users
        })
    };
    let mut there = of_realm(&mut session)?;
    if there.is_empty() {
        let new = passwords.iter().map(|(user, password)| credential(user, realm, password));
        put(&mut session, new.collect())?;
        there = of_realm(&mut session)?;
    }
    let starter = there.into_iter().map(|user| {
        let password = passwords.get(&*user.user).filter(|password| {
            let new = credential(&user.user, realm, password);
            (new.ha1_md5, new.ha1_sha256) == (user.ha1_md5, user.ha1_sha256)
        });
        (user.user.to_string(), password.map(|password| (*password).to_owned()))
    });
    Ok(starter.collect())
}

/// 60 random bits, to be read and typed by people.
fn password() -> io::Result<String> {
    let mut bytes = [0; 12];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let letters: Vec<char> =
        bytes.iter().map(|byte| char::from(LETTERS[*byte as usize % 32])).collect();
    Ok(letters.chunks(4).map(String::from_iter).collect::<Vec<_>>().join("-"))
}
