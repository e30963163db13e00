//! Configuration files: TOML in, a checked structure out, and errors that say where, which key and what would be right.
//!
//! A configuration type derives `Deserialize` with `#[serde(deny_unknown_fields)]` and implements [`Checked`] for what
//! types cannot say (ranges, keys that exclude each other). Avoid `#[serde(flatten)]` and untagged enums: serde loses
//! positions there.

mod position;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use position::Document;
use serde::de::DeserializeOwned;

/// What a configuration type checks after its syntax and types were found right.
pub trait Checked {
    /// Adds what is wrong to `problems`; the default finds nothing.
    fn check(&self, problems: &mut Problems) {
        let _ = problems;
    }
}

/// Collects what [`Checked::check`] finds, by key.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: Vec<String>,
    found: Vec<(String, String)>,
}

impl Problems {
    /// Something is wrong at `key`: dotted, relative to the section in work, `[n]` for an array's element
    /// (`registrars[0]`). `what` says what is wrong, `right` what would be right.
    pub fn add(&mut self, key: &str, what: impl fmt::Display, right: impl fmt::Display) {
        let mut full = self.prefix.join(".");
        if !full.is_empty() && !key.is_empty() {
            full.push('.');
        }
        full.push_str(key);
        self.found.push((full, format!("{what}; {right}")));
    }

    /// Demands that `value` lies in `range`.
    pub fn in_range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let right = format!("use {} to {}", range.start(), range.end());
            self.add(key, format!("{value} is out of range"), right);
        }
    }

    /// Checks a nested section, so that its keys are reported with `key` in front.
    pub fn section(&mut self, key: &str, section: &impl Checked) {
        self.prefix.push(key.to_owned());
        section.check(self);
        self.prefix.pop();
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file's content is wrong; one line per problem: `path:line:column: key …: what; what would be right`.
    #[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid { problems: Vec<Problem> },
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
}

/// One thing wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Dotted; empty where no key is concerned (syntax).
    pub key: String,
    /// What is wrong; what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, key, text } = self;
        write!(f, "{}:{line}:{column}: ", path.display())?;
        if !key.is_empty() {
            write!(f, "key {key}: ")?;
        }
        f.write_str(text)
    }
}

/// Reads, parses and checks the file at `path`.
pub fn load<T: DeserializeOwned + Checked>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parses and checks `text`; `path` only names it in errors.
pub fn parse<T: DeserializeOwned + Checked>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let problem = |offset: usize, key: String, text_of: String| {
        let (line, column) = position::line_and_column(text, offset);
        Problem { path: path.to_owned(), line, column, key, text: text_of }
    };
    let document = Document::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let what = format!("not TOML: {}", error.message().replace('\n', ", "));
        ConfigError::Invalid { problems: vec![problem(offset, String::new(), what)] }
    })?;
    let config: T = toml::from_str(text).map_err(|error| {
        let (offset, key, what) = document.explain(&error);
        ConfigError::Invalid { problems: vec![problem(offset, key, what)] }
    })?;
    let mut problems = Problems::default();
    config.check(&mut problems);
    if problems.found.is_empty() {
        return Ok(config);
    }
    let problems = problems
        .found
        .into_iter()
        .map(|(key, what)| problem(document.offset_of(&key), key, what))
        .collect();
    Err(ConfigError::Invalid { problems })
}
