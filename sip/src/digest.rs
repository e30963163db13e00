//! Digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760): challenges, what answers them, and the hashes, for
//! servers and for clients.
//!
//! Algorithms are MD5 and SHA-256, quality of protection is `auth`. `auth-int`, the `-sess` algorithms and hashed user
//! names are never offered and not understood. An answer without `qop`, as RFC 2069 had it, can be read and verified:
//! whether to accept it is the server's decision.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use md5::{Digest as _, Md5};
use ring::digest::{SHA256, digest};

use crate::params::unquote;
use crate::syntax::{is_lws, is_token, quoted_end, trim};

/// Longest header value that is read, bytes.
const MAX_VALUE: usize = 4096;
/// Parameters that are read; more are no credentials.
const MAX_PARAMS: usize = 32;
/// Longest user name, realm, nonce, cnonce and opaque, bytes.
const MAX_PARAM: usize = 512;

/// Why a challenge or an authorization cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    #[error("malformed: no list of parameters")]
    Malformed,
    #[error("parameter {0} is missing")]
    Missing(&'static str),
    #[error("parameter {0} occurs more than once")]
    Repeated(&'static str),
    #[error("another scheme than Digest")]
    Scheme,
    #[error("too long")]
    TooLong,
    /// Something of RFC 7616 that is not offered.
    #[error("parameter {0} has a value that is not supported")]
    Unsupported(&'static str),
}

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// Reads a name, whatever its case.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(name))
    }

    /// The hash of these parts with colons between them.
    fn hash(self, parts: &[&[u8]]) -> Hash {
        let joined = parts.join(&b':');
        match self {
            Self::Md5 => Hash::Md5(Md5::digest(&joined).into()),
            Self::Sha256 => {
                let mut bytes = [0; 32];
                bytes.copy_from_slice(digest(&SHA256, &joined).as_ref());
                Hash::Sha256(bytes)
            }
        }
    }
}

/// A hash value; as HA1, `H(user:realm:password)`, it is as good as the password and therefore not shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.algorithm().as_str())
    }
}

impl Hash {
    /// HA1 of a user (RFC 7616 section 3.4.2).
    pub fn of_user(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Self {
        algorithm.hash(&[user.as_bytes(), realm.as_bytes(), password.as_bytes()])
    }

    /// Reads 32 or 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 32 && digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        match digits.len() {
            32 => Some(Self::Md5(*bytes.first_chunk()?)),
            _ => Some(Self::Sha256(bytes)),
        }
    }

    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Md5(_) => Algorithm::Md5,
            Self::Sha256(_) => Algorithm::Sha256,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }

    /// Lower case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.as_bytes() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The response to a challenge by whoever knows this HA1 (RFC 7616 sections 3.4.1 and 3.4.3; without `protection`
    /// RFC 2069 section 2.1.2). `nc` is text because its digits go into the hash as they are written.
    fn response(
        &self,
        method: &str,
        uri: &str,
        nonce: &str,
        protection: Option<(&str, &str)>,
    ) -> Self {
        let algorithm = self.algorithm();
        let ha1 = self.to_hex();
        let ha2 = algorithm.hash(&[method.as_bytes(), uri.as_bytes()]).to_hex();
        let (ha1, nonce, ha2) = (ha1.as_bytes(), nonce.as_bytes(), ha2.as_bytes());
        match protection {
            Some((nc, cnonce)) => {
                algorithm.hash(&[ha1, nonce, nc.as_bytes(), cnonce.as_bytes(), b"auth", ha2])
            }
            None => algorithm.hash(&[ha1, nonce, ha2]),
        }
    }

    /// Compares in a time that says nothing about where the difference is.
    fn is(&self, other: &Self) -> bool {
        let (one, two) = (self.as_bytes(), other.as_bytes());
        let difference =
            one.iter().zip(two).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        one.len() == two.len() && difference == 0
    }
}

/// The value of WWW-Authenticate or Proxy-Authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    pub realm: Cow<'a, str>,
    pub nonce: Cow<'a, str>,
    pub opaque: Option<Cow<'a, str>>,
    /// The nonce was too old, the password may have been right.
    pub stale: bool,
    pub algorithm: Algorithm,
    /// Whether `qop=auth` is offered; without any `qop` the answer is that of RFC 2069.
    pub qop: bool,
}

impl<'a> Challenge<'a> {
    /// Parses one value.
    ///
    /// # Errors
    /// Also for a challenge that cannot be answered: another algorithm, or no `auth` among several kinds of protection.
    pub fn parse(value: &'a str) -> Result<Self, DigestError> {
        let mut fields = Fields::read(value)?;
        let qop = match fields.take("qop")? {
            Some(list) if list.split(',').any(|one| trim(one).eq_ignore_ascii_case("auth")) => true,
            Some(_) => return Err(DigestError::Unsupported("qop")),
            None => false,
        };
        Ok(Self {
            realm: fields.need("realm")?,
            nonce: fields.need("nonce")?,
            opaque: fields.take("opaque")?,
            stale: fields.take("stale")?.is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            algorithm: fields.algorithm()?,
            qop,
        })
    }

    /// The value of (Proxy-)Authorization that answers it. `nc` counts the answers with this nonce from 1, `cnonce` is
    /// a fresh random token.
    pub fn answer(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
        nc: u32,
        cnonce: &str,
    ) -> String {
        let nc = format!("{nc:08x}");
        let protection = self.qop.then_some((&*nc, cnonce));
        let ha1 = Hash::of_user(self.algorithm, user, &self.realm, password);
        let response = ha1.response(method, uri, &self.nonce, protection).to_hex();
        let mut value = format!(
            "Digest username={}, realm={}, nonce=\"{}\", uri=\"{uri}\", response=\"{response}\", algorithm={}",
            quote(user),
            quote(&self.realm),
            self.nonce,
            self.algorithm.as_str()
        );
        // Writing to a string cannot fail.
        if self.qop {
            let _ = write!(value, ", qop=auth, nc={nc}, cnonce=\"{cnonce}\"");
        }
        if let Some(opaque) = &self.opaque {
            let _ = write!(value, ", opaque={}", quote(opaque));
        }
        value
    }
}

impl fmt::Display for Challenge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest realm={}, nonce=\"{}\"", quote(&self.realm), self.nonce)?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", quote(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        write!(f, ", algorithm={}", self.algorithm.as_str())?;
        if self.qop {
            // RFC 7616 section 3.3 has quotes here and none around algorithm and stale.
            f.write_str(", qop=\"auth\"")?;
        }
        Ok(())
    }
}

/// The value of Authorization or Proxy-Authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization<'a> {
    pub username: Cow<'a, str>,
    pub realm: Cow<'a, str>,
    pub nonce: Cow<'a, str>,
    pub uri: Cow<'a, str>,
    response: Hash,
    /// Count and client's nonce when `qop=auth`; `None` for an answer after RFC 2069.
    pub protection: Option<Protection<'a>>,
    pub opaque: Option<Cow<'a, str>>,
}

/// What `qop=auth` brings with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection<'a> {
    pub nc: u32,
    nc_text: Cow<'a, str>,
    pub cnonce: Cow<'a, str>,
}

impl<'a> Authorization<'a> {
    /// Parses one value. Quotes are taken where RFC 7616 has them and where phones write them.
    ///
    /// # Errors
    /// What is wrong with it; [`DigestError::Scheme`] for Basic, Bearer and the like.
    pub fn parse(value: &'a str) -> Result<Self, DigestError> {
        let mut fields = Fields::read(value)?;
        let algorithm = fields.algorithm()?;
        if fields.take("userhash")?.is_some_and(|hashed| hashed.eq_ignore_ascii_case("true")) {
            return Err(DigestError::Unsupported("userhash"));
        }
        let response = Hash::from_hex(&fields.need("response")?)
            .filter(|response| response.algorithm() == algorithm)
            .ok_or(DigestError::Unsupported("response"))?;
        let protection = match fields.take("qop")? {
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                let nc_text = fields.need("nc")?;
                // Exactly eight digits (RFC 7616 section 3.4); counting begins with one.
                let is_right = nc_text.len() == 8 && nc_text.bytes().all(|b| b.is_ascii_hexdigit());
                let nc = u32::from_str_radix(&nc_text, 16).ok().filter(|nc| is_right && *nc > 0);
                let nc = nc.ok_or(DigestError::Unsupported("nc"))?;
                Some(Protection { nc, nc_text, cnonce: fields.need("cnonce")? })
            }
            Some(_) => return Err(DigestError::Unsupported("qop")),
            None => None,
        };
        Ok(Self {
            username: fields.need("username")?,
            realm: fields.need("realm")?,
            nonce: fields.need("nonce")?,
            uri: fields.need("uri")?,
            response,
            protection,
            opaque: fields.take("opaque")?,
        })
    }

    /// The realm alone, of a value that need not be right otherwise.
    pub fn realm_of(value: &'a str) -> Option<Cow<'a, str>> {
        Fields::read(value).ok()?.take("realm").ok().flatten()
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.response.algorithm()
    }

    /// Whether the sender of this request knows `ha1`; compared in constant time.
    pub fn verify(&self, ha1: &Hash, method: &str) -> bool {
        let protection =
            self.protection.as_ref().map(|protection| (&*protection.nc_text, &*protection.cnonce));
        ha1.response(method, &self.uri, &self.nonce, protection).is(&self.response)
    }
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Parameters of a value, as written.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    /// `Digest`, white space, then `name=value` with commas between; values are tokens or quoted strings. Commas too
    /// many are let pass, as RFC 7230 section 7 has it for lists.
    fn read(value: &'a str) -> Result<Self, DigestError> {
        let value = trim(value);
        if value.len() > MAX_VALUE {
            return Err(DigestError::TooLong);
        }
        let end = value.bytes().position(is_lws).ok_or(DigestError::Malformed)?;
        if !value[..end].eq_ignore_ascii_case("Digest") {
            return Err(DigestError::Scheme);
        }
        let mut fields = Vec::with_capacity(12);
        let mut rest = trim(&value[end..]);
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix(',') {
                rest = trim(behind);
                continue;
            }
            let (name, behind) = rest.split_once('=').ok_or(DigestError::Malformed)?;
            let (name, behind) = (trim(name), trim(behind));
            let end = if behind.starts_with('"') {
                quoted_end(behind.as_bytes(), 0).ok_or(DigestError::Malformed)?
            } else {
                behind.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(behind.len())
            };
            // An escape may be the last thing there is.
            let text = behind.get(..end).ok_or(DigestError::Malformed)?;
            // RFC 7616 section 3.4 has quotes around nonce and uri; some leave them away, and uri is no token.
            if !is_token(name) || text.is_empty() || (!text.starts_with('"') && text.contains('"'))
            {
                return Err(DigestError::Malformed);
            }
            if fields.len() == MAX_PARAMS {
                return Err(DigestError::TooLong);
            }
            fields.push((name, text));
            rest = trim(&behind[end..]);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(DigestError::Malformed);
            }
        }
        Ok(Self(fields))
    }

    fn take(&mut self, name: &'static str) -> Result<Option<Cow<'a, str>>, DigestError> {
        let mut found = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, text)| *text);
        if found.next().is_some() {
            return Err(DigestError::Repeated(name));
        }
        let limit = if name == "uri" { MAX_VALUE } else { MAX_PARAM };
        match value {
            Some(text) if text.len() > limit => Err(DigestError::TooLong),
            Some(text) if text.bytes().any(|byte| byte.is_ascii_control()) => {
                Err(DigestError::Malformed)
            }
            Some(text) => Ok(Some(unquote(text))),
            None => Ok(None),
        }
    }

    fn need(&mut self, name: &'static str) -> Result<Cow<'a, str>, DigestError> {
        self.take(name)?.ok_or(DigestError::Missing(name))
    }

    /// RFC 7616 section 3.3: "if not present, it is assumed to be MD5".
    fn algorithm(&mut self) -> Result<Algorithm, DigestError> {
        match self.take("algorithm")? {
            Some(name) => Algorithm::parse(&name).ok_or(DigestError::Unsupported("algorithm")),
            None => Ok(Algorithm::Md5),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    #[test]
    fn the_example_of_rfc_7616() {
        // Section 3.9.1.
        let responses = [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ];
        for (algorithm, response) in responses {
            let text = format!(
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
                 algorithm={}, nonce=\"{NONCE}\", nc=00000001, cnonce=\"{CNONCE}\", qop=auth, \
                 response=\"{response}\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"",
                algorithm.as_str()
            );
            let authorization = Authorization::parse(&text).expect("the example");
            let ha1 =
                |password| Hash::of_user(algorithm, "Mufasa", "http-auth@example.org", password);
            assert!(authorization.verify(&ha1("Circle of Life"), "GET"));
            assert!(!authorization.verify(&ha1("Circle of life"), "GET"));
            assert!(!authorization.verify(&ha1("Circle of Life"), "POST"));
            let challenge = Challenge {
                realm: "http-auth@example.org".into(),
                nonce: NONCE.into(),
                opaque: None,
                stale: false,
                algorithm,
                qop: true,
            };
            let answer =
                challenge.answer("Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, CNONCE);
            assert!(answer.contains(response), "{answer}");
        }
    }

    #[test]
    fn the_example_of_rfc_2617_and_one_without_qop() {
        // RFC 2617 section 3.5.
        let text = "Digest username=\"Mufasa\",realm=\"testrealm@host.com\",\
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\",uri=\"/dir/index.html\",qop=auth,nc=00000001,\
             cnonce=\"0a4f113b\",response=\"6629fae49393a05397450978507c4ef1\",opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let ha1 = Hash::of_user(Algorithm::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
        assert_eq!(ha1.to_hex(), "939e7578ed9e3c518a452acee763bce9");
        let parsed = Authorization::parse(text).expect("the example");
        assert!(parsed.verify(&ha1, "GET"));
        assert_eq!(parsed.protection.map(|protection| protection.nc), Some(1));
        let old = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\", \
             response=\"670fd8c2df070c60b045671b8b24ff02\"";
        let old = Authorization::parse(old).expect("RFC 2069");
        assert!(old.protection.is_none() && old.verify(&ha1, "GET"));
    }

    #[test]
    fn challenges_are_written_as_the_rfc_has_them() {
        let challenge = Challenge {
            realm: "dialtone.test".into(),
            nonce: "abc".into(),
            opaque: None,
            stale: true,
            algorithm: Algorithm::Sha256,
            qop: true,
        };
        assert_eq!(
            challenge.to_string(),
            "Digest realm=\"dialtone.test\", nonce=\"abc\", stale=true, algorithm=SHA-256, qop=\"auth\""
        );
        assert_eq!(Challenge::parse(&challenge.to_string()), Ok(challenge));
        let other = "Digest realm=\"a, b\", nonce=\"n\", qop=\"auth-int, auth\"";
        let other = Challenge::parse(other).expect("a list");
        assert!(other.qop && other.realm == "a, b" && other.algorithm == Algorithm::Md5);
        for (text, error) in [
            ("Digest realm=\"a\", nonce=\"n\", qop=\"auth-int\"", DigestError::Unsupported("qop")),
            ("Digest realm=a, nonce=n, algorithm=MD5-sess", DigestError::Unsupported("algorithm")),
            ("Digest realm=\"a\"", DigestError::Missing("nonce")),
            ("Basic realm=\"a\"", DigestError::Scheme),
        ] {
            assert_eq!(Challenge::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let right = "Digest username=\"a\", realm=\"r\", nonce=\"n\", uri=\"sip:r\", \
             response=\"00000000000000000000000000000000\", qop=\"auth\", nc=0000000a, cnonce=c";
        let parsed = Authorization::parse(right).expect("right");
        assert_eq!(parsed.protection.as_ref().map(|protection| protection.nc), Some(10));
        let long = format!("realm=\"{}\"", "r".repeat(513));
        for (from, to, error) in [
            ("Digest ", "Digest", DigestError::Scheme),
            ("Digest ", "Digest nonce=\"m\", ", DigestError::Repeated("nonce")),
            ("realm=\"r\", ", "", DigestError::Missing("realm")),
            ("realm=\"r\"", &long, DigestError::TooLong),
            ("realm=\"r\"", "realm=\"r", DigestError::Malformed),
            ("realm=\"r\"", "realm=\"r\u{1}\"", DigestError::Malformed),
            ("realm=\"r\"", "realm", DigestError::Malformed),
            ("realm=\"r\"", "realm=", DigestError::Malformed),
            ("realm=\"r\"", "realm=\"r\" x", DigestError::Malformed),
            ("0000\"", "000\"", DigestError::Unsupported("response")),
            ("0000\"", "000g\"", DigestError::Unsupported("response")),
            ("qop=\"auth\"", "qop=auth-int", DigestError::Unsupported("qop")),
            ("nc=0000000a, ", "", DigestError::Missing("nc")),
            ("nc=0000000a", "nc=00000000", DigestError::Unsupported("nc")),
            ("nc=0000000a", "nc=a", DigestError::Unsupported("nc")),
            ("nc=0000000a", "nc=+000000a", DigestError::Unsupported("nc")),
            (", cnonce=c", "", DigestError::Missing("cnonce")),
            ("Digest ", "Digest algorithm=SHA-256, ", DigestError::Unsupported("response")),
            ("Digest ", "Digest userhash=true, ", DigestError::Unsupported("userhash")),
        ] {
            let text = right.replacen(from, to, 1);
            assert_eq!(Authorization::parse(&text), Err(error), "{text}");
        }
        let many = format!("Digest {}", "a=b,".repeat(33));
        assert_eq!(Authorization::parse(&many), Err(DigestError::TooLong));
        let long = format!("Digest a={}", "b".repeat(5000));
        assert_eq!(Authorization::parse(&long), Err(DigestError::TooLong));
        assert_eq!(Authorization::parse("Digest x=\"\\"), Err(DigestError::Malformed));
    }

    #[test]
    fn hexadecimal_digits() {
        let hash = Hash::from_hex("00ff10AB00000000000000000000000f").expect("32 digits");
        assert_eq!(hash.to_hex(), "00ff10ab00000000000000000000000f");
        assert_eq!(hash.algorithm(), Algorithm::Md5);
        assert_eq!(
            Hash::from_hex(&"a".repeat(64)).map(|hash| hash.algorithm()),
            Some(Algorithm::Sha256)
        );
        for wrong in ["", "0", &"a".repeat(33), &"+a".repeat(16), &"\u{e4}".repeat(16)] {
            assert_eq!(Hash::from_hex(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_answer_fits_its_challenge_and_no_other(
            realm in "[ -~]{1,30}", nonce in "[A-Za-z0-9_-]{1,40}", user in "[ -~\u{e4}]{1,20}", password in "\\PC{0,20}",
            nc in 1_u32.., sha in any::<bool>(), qop in any::<bool>(), opaque in proptest::option::of("[ -~]{0,20}"),
        ) {
            let algorithm = if sha { Algorithm::Sha256 } else { Algorithm::Md5 };
            let opaque = opaque.map(Cow::Owned);
            let challenge =
                Challenge { realm: realm.clone().into(), nonce: nonce.into(), opaque, stale: false, algorithm, qop };
            let text = challenge.to_string();
            let read = Challenge::parse(&text).expect("own challenge");
            prop_assert_eq!(&read, &challenge);
            let answer = read.answer(&user, &password, "REGISTER", "sip:dialtone.test", nc, "0123");
            let parsed = Authorization::parse(&answer).expect("own answer");
            prop_assert_eq!(&*parsed.username, &*user);
            prop_assert_eq!(&parsed.opaque, &challenge.opaque);
            prop_assert_eq!(parsed.protection.as_ref().map(|p| p.nc), qop.then_some(nc));
            let ha1 = |password: &str| Hash::of_user(algorithm, &user, &realm, password);
            prop_assert!(parsed.verify(&ha1(&password), "REGISTER"));
            let wrong = password.clone() + "x";
            prop_assert!(!parsed.verify(&ha1(&wrong), "REGISTER"));
            prop_assert!(!parsed.verify(&ha1(&password), "INVITE"));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(Digest )?(\\PC|[\",=\\\\ \r\n\t]|realm=|nonce=\"|nc=|qop=auth){0,60}") {
            let _ = Challenge::parse(&text);
            let _ = Authorization::parse(&text);
            let _ = Authorization::realm_of(&text);
        }
    }
}
