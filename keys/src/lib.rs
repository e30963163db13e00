//! The key file and the keys derived from it.
//!
//! A key file holds up to two generations of a one-byte key id and 32 random bytes, newest first, one
//! `<id> <64 hex digits>` per line. The newest signs, all are accepted, so that keys can be changed while tokens live.
//! Each purpose has a key of its own, derived by HKDF (RFC 5869) with the purpose's label.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom;
use ring::{hkdf, hmac};

/// What can go wrong with keys. No state has changed when one of these is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file cannot be read or written.
    #[error("key file {path}: {source}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The key file does not hold what it should.
    #[error("key file {path}: {reason}")]
    KeyFormat {
        /// The file.
        path: PathBuf,
        /// What would be right.
        reason: &'static str,
    },
    /// A token is not one of ours: wrong format, unknown key or wrong MAC.
    #[error("token refused")]
    Refused,
    /// The operating system has no random numbers.
    #[error("no random numbers from the operating system")]
    NoRandomness,
}

/// Length of the truncated HMAC-SHA256 that ends every token, in bytes.
pub const MAC_LEN: usize = 10;

/// Format version that starts every token.
pub const FORMAT: u8 = 1;

/// Longest token accepted, in bytes of its text; longer ones are refused unread.
const MAX_TEXT: usize = 256;

/// What a derived key is for. A token made for one purpose is refused for every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Cookies in pool URIs.
    DialogCookie,
    /// Nonces of digest authentication.
    DigestNonce,
    /// Flow tokens in Record-Route and Path.
    FlowToken,
    /// Leg ids in Via branches.
    Leg,
    /// Cookies of SCTP handshakes.
    SctpCookie,
    /// Session cookies of ASAP.
    SessionCookie,
}

const PURPOSES: [Purpose; 6] = [
    Purpose::DialogCookie,
    Purpose::DigestNonce,
    Purpose::FlowToken,
    Purpose::Leg,
    Purpose::SctpCookie,
    Purpose::SessionCookie,
];

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::DialogCookie => b"dialtone dialog cookie",
            Self::DigestNonce => b"dialtone digest nonce",
            Self::FlowToken => b"dialtone flow token",
            Self::Leg => b"dialtone leg id",
            Self::SctpCookie => b"dialtone sctp cookie",
            Self::SessionCookie => b"dialtone session cookie",
        }
    }
}

/// One generation of key material.
#[derive(Clone, PartialEq, Eq)]
pub struct Generation {
    /// Names the generation inside tokens.
    pub id: u8,
    /// 32 random bytes.
    pub secret: [u8; 32],
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Derived {
    id: u8,
    keys: Vec<hmac::Key>,
}

/// The keys of all purposes, one or two generations. Cheap enough to clone for each core.
#[derive(Clone)]
pub struct Keys {
    generations: Vec<Derived>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.generations.iter().map(|g| g.id)).finish()
    }
}

impl Keys {
    /// Derives the keys of all purposes; `newest` signs, `previous` is still accepted.
    #[must_use]
    pub fn new(newest: &Generation, previous: Option<&Generation>) -> Self {
        let derive = |generation: &Generation| {
            let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"dialtone").extract(&generation.secret);
            let key = |purpose: &Purpose| {
                let mut bytes = [0; 32];
                let label = [purpose.label()];
                // 32 bytes are below the limit of HKDF-SHA256 (255 * 32), the only reason for either call to fail.
                let okm = prk.expand(&label, hmac::HMAC_SHA256).expect("length in range");
                let okm: hkdf::Okm<'_, hmac::Algorithm> = okm;
                okm.fill(&mut bytes).expect("length as asked for");
                hmac::Key::new(hmac::HMAC_SHA256, &bytes)
            };
            Derived { id: generation.id, keys: PURPOSES.iter().map(key).collect() }
        };
        Self { generations: std::iter::once(newest).chain(previous).map(derive).collect() }
    }

    /// Creates the key file with one fresh generation, mode 0600. Fails when it exists.
    ///
    /// # Errors
    /// [`Error::KeyFile`] and [`Error::NoRandomness`].
    pub fn create(path: &Path) -> Result<Self, Error> {
        let newest = Generation { id: 1, secret: random()? };
        write_new(path, &render(std::slice::from_ref(&newest)))?;
        Ok(Self::new(&newest, None))
    }

    /// Reads the key file; call it again to reload.
    ///
    /// # Errors
    /// [`Error::KeyFile`] and [`Error::KeyFormat`], also when others than the owner may read the file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let generations = read(path)?;
        Ok(Self::new(&generations[0], generations.get(1)))
    }

    /// Reads the key file, and creates it when there is none.
    ///
    /// # Errors
    /// As [`Keys::load`] and [`Keys::create`].
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match Self::create(path) {
            Err(Error::KeyFile { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Self::load(path)
            }
            other => other,
        }
    }

    /// Puts a fresh generation in front and drops all but the one before it. The file is replaced atomically.
    ///
    /// # Errors
    /// As [`Keys::load`] and [`Keys::create`].
    pub fn rotate(path: &Path) -> Result<Self, Error> {
        let mut generations = read(path)?;
        generations
            .insert(0, Generation { id: generations[0].id.wrapping_add(1), secret: random()? });
        generations.truncate(2);
        let new = path.with_extension("new");
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        if new.exists() {
            std::fs::remove_file(&new).map_err(failed)?;
        }
        write_new(&new, &render(&generations))?;
        std::fs::rename(&new, path).map_err(failed)?;
        Ok(Self::new(&generations[0], generations.get(1)))
    }

    /// Signs `payload` with the newest key: format version, key id, payload and MAC, base64url without padding.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, payload: &[u8]) -> String {
        self.sign_bound(purpose, payload, &[])
    }

    /// As [`Keys::sign`], with a MAC over `bound` as well: the token is of use only where the same is known. All payloads
    /// of such a purpose must have one length, so that none can be taken for the beginning of `bound`.
    pub fn sign_bound(&self, purpose: Purpose, payload: &[u8], bound: &[u8]) -> String {
        let generation = &self.generations[0];
        let mut token = Vec::with_capacity(2 + payload.len() + MAC_LEN);
        token.extend_from_slice(&[FORMAT, generation.id]);
        token.extend_from_slice(payload);
        let mac = truncated(&generation.keys[purpose as usize], &[&token, bound]);
        token.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The payload of a token made by [`Keys::sign`] for the same purpose with one of the two generations.
    ///
    /// # Errors
    /// [`Error::Refused`], whatever is wrong; the MAC is compared in constant time.
    pub fn verify(&self, purpose: Purpose, token: &[u8]) -> Result<Vec<u8>, Error> {
        self.verify_bound(purpose, token, &[])
    }

    /// As [`Keys::verify`], for tokens of [`Keys::sign_bound`].
    pub fn verify_bound(
        &self,
        purpose: Purpose,
        token: &[u8],
        bound: &[u8],
    ) -> Result<Vec<u8>, Error> {
        if token.len() > MAX_TEXT {
            return Err(Error::Refused);
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Error::Refused)?;
        let signed =
            bytes.len().checked_sub(MAC_LEN).filter(|signed| *signed >= 2).ok_or(Error::Refused)?;
        let (content, mac) = bytes.split_at(signed);
        let generation =
            self.generation(content[1]).filter(|_| content[0] == FORMAT).ok_or(Error::Refused)?;
        if !equal(&truncated(&generation.keys[purpose as usize], &[content, bound]), mac) {
            return Err(Error::Refused);
        }
        bytes.truncate(signed);
        bytes.drain(..2);
        Ok(bytes)
    }

    /// The id of the key that signs.
    #[must_use]
    pub fn newest(&self) -> u8 {
        self.generations[0].id
    }

    /// MAC over `content` with the newest key, and that key's id: for formats that are no base64 token.
    pub fn mac(&self, purpose: Purpose, content: &[u8]) -> (u8, [u8; MAC_LEN]) {
        let generation = &self.generations[0];
        (generation.id, truncated(&generation.keys[purpose as usize], &[content]))
    }

    /// Whether `mac` is the MAC over `content` with the key of that id.
    pub fn check(&self, purpose: Purpose, id: u8, content: &[u8], mac: &[u8]) -> bool {
        self.generation(id).is_some_and(|generation| {
            equal(&truncated(&generation.keys[purpose as usize], &[content]), mac)
        })
    }

    fn generation(&self, id: u8) -> Option<&Derived> {
        self.generations.iter().find(|generation| generation.id == id)
    }
}

/// Compares in a time that says nothing about where the difference is (ring's own function is deprecated).
fn equal(expected: &[u8; MAC_LEN], mac: &[u8]) -> bool {
    let difference = expected
        .iter()
        .zip(mac)
        .fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    mac.len() == MAC_LEN && difference == 0
}

fn truncated(key: &hmac::Key, parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let mut mac = [0; MAC_LEN];
    mac.copy_from_slice(&context.sign().as_ref()[..MAC_LEN]);
    mac
}

fn random() -> Result<[u8; 32], Error> {
    let mut secret = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut secret).map_err(|_| Error::NoRandomness)?;
    Ok(secret)
}

fn write_new(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |source| Error::KeyFile { path: path.to_owned(), source };
    // Written aside and linked into place, so that whoever starts at the same time never reads half a file.
    let aside = path.with_extension(format!("tmp{}", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        std::fs::hard_link(&aside, path)
    })();
    // Whatever happened, the name aside is of no use any more; that it cannot be removed harms nobody.
    let _ = std::fs::remove_file(&aside);
    written.map_err(failed)
}

fn read(path: &Path) -> Result<Vec<Generation>, Error> {
    let failed = |source| Error::KeyFile { path: path.to_owned(), source };
    let format = |reason| Error::KeyFormat { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(failed)?;
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().map_err(failed)?);
    if mode & 0o077 != 0 {
        return Err(format("only its owner may have access (chmod 600)"));
    }
    let mut text = String::new();
    Read::take(&mut file, 4096).read_to_string(&mut text).map_err(failed)?;
    let generations = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(parse_line)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            format("each line should be a key id from 0 to 255, a space and 64 hexadecimal digits")
        })?;
    match generations.as_slice() {
        [_] => Ok(generations),
        [newest, previous] if newest.id != previous.id => Ok(generations),
        _ => Err(format("there should be one or two generations with different key ids")),
    }
}

fn parse_line(line: &str) -> Option<Generation> {
    let (id, hex) = line.split_once(' ')?;
    let hex = hex.trim().as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut secret = [0; 32];
    for (byte, digits) in secret.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(Generation { id: id.parse().ok()?, secret })
}

fn render(generations: &[Generation]) -> String {
    let mut text =
        String::from("# Keys that sign tokens, newest first: <key id> <64 hexadecimal digits>\n");
    for generation in generations {
        text.push_str(&generation.id.to_string());
        text.push(' ');
        for byte in generation.secret {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("dialtone-keys-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_key_file_is_private_and_tokens_outlive_one_rotation() {
        let folder = scratch("rotate");
        let path = folder.join("keys");
        let first = Keys::load_or_create(&path).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let token = first.sign(Purpose::FlowToken, b"payload");

        let again = Keys::load_or_create(&path).unwrap();
        assert_eq!(again.verify(Purpose::FlowToken, token.as_bytes()).unwrap(), b"payload");
        assert!(again.verify(Purpose::DialogCookie, token.as_bytes()).is_err());

        Keys::rotate(&path).unwrap();
        assert!(Keys::load(&path).unwrap().verify(Purpose::FlowToken, token.as_bytes()).is_ok());
        let third = Keys::rotate(&path).unwrap();
        assert!(third.verify(Purpose::FlowToken, token.as_bytes()).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_is_damaged_is_refused() {
        let folder = scratch("refused");
        let path = folder.join("keys");
        Keys::create(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .unwrap();
        assert!(matches!(Keys::load(&path), Err(Error::KeyFormat { .. })));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        std::fs::write(&path, "1 abcd\n").unwrap();
        assert!(matches!(Keys::load(&path), Err(Error::KeyFormat { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
