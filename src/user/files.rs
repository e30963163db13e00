//! Files of users: `user,password`, or the lines of htdigest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::Path,
};

use dialtone_location::NewCredential;
use dialtone_sip::digest::Hash;

use super::{Error, check_password, credential, parse_realm, parse_user, set};

/// A file and what it is called in errors.
pub(super) fn read(path: &Path) -> Result<(String, String), String> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut bytes);
        ("standard input".to_owned(), read.map(|_| bytes))
    } else {
        (path.display().to_string(), fs::read(path))
    };
    let bytes = bytes.map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{name}:{line}: not UTF-8")
    })?;
    Ok((name, text))
}

/// The lines of a file that is right.
#[derive(Debug, Default)]
pub(super) struct Lines {
    file: String,
    /// With the number of the line.
    passwords: Vec<(usize, String, String)>,
    hashed: Vec<NewCredential>,
}

impl Lines {
    /// The users. `realm` is asked for if there are passwords, which do not say where they are good for.
    pub(super) fn finish(
        self,
        realm: impl FnOnce() -> Result<String, Error>,
    ) -> Result<Vec<NewCredential>, Error> {
        let mut users = self.hashed;
        if !self.passwords.is_empty() {
            let realm = realm()?;
            let hashed = users.iter().filter(|user| *user.realm == *realm);
            let hashed: BTreeSet<Box<str>> = hashed.map(|user| user.user.clone()).collect();
            for (line, user, password) in &self.passwords {
                if hashed.contains(&**user) {
                    let problem = format!("{}:{line}: user {user} has a line already", self.file);
                    return Err(Error::Input(problem));
                }
                users.push(credential(user, &realm, password));
            }
        }
        Ok(users)
    }
}

/// Reads all lines, or says which one is wrong. `realm`: the only one that htdigest lines may be for.
pub(super) fn parse(name: &str, text: &str, realm: Option<&str>) -> Result<Lines, String> {
    let mut lines = Lines { file: name.to_owned(), ..Lines::default() };
    let mut passwords: BTreeMap<&str, usize> = BTreeMap::new();
    // Where a user's first line is, and the place in the list.
    let mut hashed: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |problem: String| format!("{name}:{number}: {problem}");
        let is_title = number == 1 && line.trim().eq_ignore_ascii_case("user,password");
        if line.trim().is_empty() || line.starts_with('#') || is_title {
            continue;
        }
        let Some(at) = line.find([',', ':']) else {
            return Err(wrong("neither user,password nor user:realm:hash".to_owned()));
        };
        let (user, rest) = (&line[..at], &line[at + 1..]);
        let again = |first: &usize| wrong(format!("user {user} is in line {first} already"));
        parse_user(user).map_err(|problem| wrong(format!("user {user:?}: {problem}")))?;
        if line[at..].starts_with(',') {
            let password = unquoted(rest).map_err(wrong)?;
            check_password(&password).map_err(wrong)?;
            if let Some(first) = passwords.insert(user, number) {
                return Err(again(&first));
            }
            lines.passwords.push((number, user.to_owned(), password));
            continue;
        }
        let Some((of, hash)) = rest.split_once(':') else {
            return Err(wrong("user:realm:hash has two colons".to_owned()));
        };
        parse_realm(of).map_err(|problem| wrong(format!("realm {of:?}: {problem}")))?;
        if realm.is_some_and(|realm| realm != of) {
            return Err(wrong(format!("realm {of}, but --realm is another one")));
        }
        let hash = Hash::from_hex(hash.trim_end()).ok_or_else(|| {
            wrong("the hash is neither 32 (MD5) nor 64 (SHA-256) hexadecimal digits".to_owned())
        })?;
        let count = lines.hashed.len();
        let (first, place) = *hashed.entry((user, of)).or_insert((number, count));
        if place == count {
            lines.hashed.push(NewCredential {
                user: user.into(),
                realm: of.into(),
                ha1_md5: None,
                ha1_sha256: None,
            });
        }
        if !set(&mut lines.hashed[place], hash) {
            return Err(again(&first));
        }
    }
    Ok(lines)
}

/// A CSV field, which may have quotes around it (RFC 4180).
fn unquoted(field: &str) -> Result<String, String> {
    let Some(inner) = field.strip_prefix('"') else { return Ok(field.to_owned()) };
    let inner = inner.trim_end().strip_suffix('"').ok_or("the quotes do not end")?;
    if inner.replace("\"\"", "").contains('"') {
        return Err("quotes inside quotes must be doubled".to_owned());
    }
    Ok(inner.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<Vec<NewCredential>, String> {
        let lines = parse("f.csv", text, None)?;
        lines.finish(|| Ok("r.test".to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        let md5 = "0123456789abcdef0123456789ABCDEF";
        let text = format!(
            "user,password\n# comment\n\nalice,pa,ss:word \nbob,\"qu\"\"oted, \"\r\n\
             carol:r.test:{md5}\ndave:other:{md5}\ncarol:r.test:{md5}{md5}\n"
        );
        let users = users(&text).expect("right");
        let of = |user: &str| users.iter().find(|new| &*new.user == user).expect(user);
        assert_eq!(of("alice"), &credential("alice", "r.test", "pa,ss:word "));
        assert_eq!(of("bob"), &credential("bob", "r.test", "qu\"oted, "));
        let carol = of("carol");
        assert!(carol.ha1_md5.is_some() && carol.ha1_sha256.is_some_and(|hash| hash[0] == 1));
        assert_eq!((&*of("dave").realm, of("dave").ha1_sha256), ("other", None));
        assert_eq!(users.len(), 4);
    }

    #[test]
    fn errors_name_file_and_line() {
        let hash = "0".repeat(32);
        for (text, error) in [
            ("alice".to_owned(), "f.csv:1: neither user,password nor user:realm:hash"),
            ("\n\nalice,".to_owned(), "f.csv:3: the password is empty"),
            ("a,b\na,c".to_owned(), "f.csv:2: user a is in line 1 already"),
            (format!("a:r:{hash}\na:r:{hash}"), "f.csv:2: user a is in line 1 already"),
            ("a:r".to_owned(), "f.csv:1: user:realm:hash has two colons"),
            (
                "a:r:x".to_owned(),
                "f.csv:1: the hash is neither 32 (MD5) nor 64 (SHA-256) hexadecimal digits",
            ),
            ("a@r,b".to_owned(), "f.csv:1: user \"a@r\": only the part before the @"),
            (",b".to_owned(), "f.csv:1: user \"\": a user needs a name"),
            ("a,\"b".to_owned(), "f.csv:1: the quotes do not end"),
            ("a,\"b\"c\"".to_owned(), "f.csv:1: quotes inside quotes must be doubled"),
            ("a,b\u{7}".to_owned(), "f.csv:1: the password has control characters in it"),
            (format!("a:r.test:{hash}\na,b"), "f.csv:2: user a has a line already"),
        ] {
            assert_eq!(users(&text).expect_err(&text), error, "{text:?}");
        }
        let of_another = parse("f.csv", &format!("a:r:{hash}"), Some("s")).expect_err("refused");
        assert_eq!(of_another, "f.csv:1: realm r, but --realm is another one");
    }
}
