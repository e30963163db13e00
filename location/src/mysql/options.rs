//! The file that says who a client of the database is, in the form of my.cnf:
//!
//! ```text
//! [client]
//! user=dialtone
//! password="..."
//! database=dialtone
//! ```
//!
//! Only `[client]` is read. It holds a password, so nobody but its owner may be able to read it. Keys that are not
//! known here are refused, as long as they could mean that the connection is to be protected in a way that it is not.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Error;

/// The database that is used if the file names none.
const DEFAULT_DATABASE: &str = "dialtone";

/// User, password and database.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientFile {
    pub user: Box<str>,
    pub password: Box<str>,
    pub database: Box<str>,
}

impl fmt::Debug for ClientFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFile")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl ClientFile {
    /// Reads a file of mode 0600.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Options`] with line and key if it says something wrong, or if others
    /// than its owner may read it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let problem = format!("its mode is {mode:04o}: it holds a password, so use chmod 0600");
            return Err(Error::Options { path: path.to_owned(), line: 1, problem });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(io)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong = |line: usize, problem: String| Error::Options {
            path: path.to_owned(),
            line: line as u32,
            problem,
        };
        let (mut user, mut password, mut database) = (None, None, None);
        let mut section = "";
        let mut last = 1;
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()))
        {
            last = number;
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                section = name
                    .strip_suffix(']')
                    .ok_or_else(|| wrong(number, "a section ends with ]".to_owned()))?;
                continue;
            }
            if section != "client" {
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let key = key.trim();
            let value =
                value_of(value).map_err(|problem| wrong(number, format!("{key}: {problem}")))?;
            match key {
                "user" => user = Some(value),
                "password" => password = Some(value),
                "database" => database = Some(value),
                // Where to connect is said elsewhere.
                "host" | "port" | "socket" | "protocol" => {}
                _ => {
                    let problem = format!("{key}: unknown; user, password and database are known");
                    return Err(wrong(number, problem));
                }
            }
        }
        let user = user
            .filter(|user| !user.is_empty())
            .ok_or_else(|| wrong(last, "user: missing in the section [client]".to_owned()))?;
        let password = password
            .ok_or_else(|| wrong(last, "password: missing in the section [client]".to_owned()))?;
        let database = database.unwrap_or_else(|| DEFAULT_DATABASE.into());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if database.is_empty() || !database.chars().all(plain) {
            let problem = format!(
                "database: {database:?} is not usable; use letters, digits and underscores"
            );
            return Err(wrong(last, problem));
        }
        Ok(Self { user, password, database })
    }

    /// The file's form: what [`ClientFile::read`] takes back.
    pub fn to_text(&self) -> String {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "[client]\nuser=\"{}\"\npassword=\"{}\"\ndatabase={}\n",
            quoted(&self.user),
            quoted(&self.password),
            self.database
        )
    }
}

/// A value as my.cnf means it: in quotes, or up to a comment; with backslash escapes.
fn value_of(text: &str) -> Result<Box<str>, String> {
    let text = text.trim();
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars().skip(usize::from(quote.is_some()));
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some('b') => value.push('\u{8}'),
                Some('s') => value.push(' '),
                Some(other) => value.push(other),
                None => return Err("a backslash stands at its end".to_owned()),
            },
            _ if Some(c) == quote => return Ok(value.into()),
            '#' if quote.is_none() => break,
            _ => value.push(c),
        }
    }
    match quote {
        Some(quote) => Err(format!("the closing {quote} is missing")),
        None => Ok(value.trim_end().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientFile, String> {
        ClientFile::parse(Path::new("client.cnf"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_as_my_cnf_means_them() {
        let file = parse(
            "# who we are\n[mysqld]\nuser=mysql\nskip-grant\n[client]\nuser = dial # ours\n\
             password=\"a#b\\\"c\\\\ d\"\nport=3306\n",
        );
        let expected = ClientFile {
            user: "dial".into(),
            password: "a#b\"c\\ d".into(),
            database: "dialtone".into(),
        };
        assert_eq!(file.as_ref(), Ok(&expected));
        assert_eq!(parse(&expected.to_text()), Ok(expected.clone()));
        assert!(!format!("{expected:?}").contains("a#b"));
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        for (text, line, word) in [
            ("[client]\nuser=a\npassword=b\nssl-ca=/x\n", 4, "ssl-ca"),
            ("[client]\npassword=b\n", 2, "user"),
            ("[client]\nuser=a\n", 2, "password"),
            ("[client]\nuser=a\npassword='b\n", 3, "password"),
            ("[client]\nuser=a\npassword=b\ndatabase=a;b\n", 4, "database"),
            ("[client\nuser=a", 1, "]"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.starts_with(&format!("client.cnf:{line}: ")) && error.contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("dialtone-client-{}.cnf", std::process::id()));
        std::fs::write(&path, "[client]\nuser=a\npassword=b\n").expect("write");
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            ClientFile::read(&path)
        };
        let error = mode(0o640).expect_err("too open").to_string();
        assert!(error.contains("0600") && error.contains("0640"), "{error}");
        assert_eq!(&*mode(0o600).expect("private").user, "a");
        let _ = std::fs::remove_file(path);
    }
}
