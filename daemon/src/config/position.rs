//! Where keys stand in a TOML document, and serde's errors in words an operator can act on.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A parsed document that still knows its positions.
pub(super) struct Document<'a> {
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, toml::de::Error> {
        DeTable::parse(text).map(|root| Self { root })
    }

    /// The offset at which `key` stands; for a key that is absent, that of its nearest section that is present.
    pub(super) fn offset_of(&self, key: &str) -> usize {
        let mut offset = 0;
        let mut table = Some(self.root.get_ref());
        for part in key.split('.') {
            let (name, indices) = part.split_once('[').unwrap_or((part, ""));
            let Some((found, mut value)) = table.and_then(|table| table.get_key_value(name)) else {
                break;
            };
            offset = found.span().start;
            for index in indices
                .split('[')
                .filter_map(|index| index.trim_end_matches(']').parse::<usize>().ok())
            {
                let Some(element) = value.get_ref().as_array().and_then(|array| array.get(index))
                else {
                    break;
                };
                offset = element.span().start;
                value = element;
            }
            table = value.get_ref().as_table();
        }
        offset
    }

    /// Position, key and explanation of an error that serde found.
    pub(super) fn explain(&self, error: &toml::de::Error) -> (usize, String, String) {
        let offset = error.span().map_or(0, |span| span.start);
        let mut path = String::new();
        path_at_table(self.root.get_ref(), offset, &mut path);
        let message = error.message();
        let mut quoted = message.split('`').skip(1).step_by(2);
        if message.starts_with("unknown field") {
            let unknown = quoted.next().unwrap_or_default();
            if path.rsplit('.').next() != Some(unknown) {
                push_key(&mut path, unknown);
            }
            return (offset, path, unknown_key(unknown, &quoted.collect::<Vec<_>>()));
        }
        if message.starts_with("missing field") {
            let missing = quoted.next().unwrap_or_default();
            // The error spans the section that lacks the key; a first section may start where the file does.
            if error.span() == Some(self.root.span()) {
                path.clear();
            }
            let section =
                if path.is_empty() { "the file".to_owned() } else { format!("section {path}") };
            push_key(&mut path, missing);
            return (offset, path, format!("is missing; {section} needs it"));
        }
        if let Some((what, right)) = message.rsplit_once(", expected ") {
            return (offset, path, format!("{what}; use {}", in_words(right)));
        }
        if let Some((_, right)) = ADVICE.iter().find(|(serde, _)| message.contains(serde)) {
            return (offset, path, format!("{}; {right}", message.replace('\n', ", ")));
        }
        (offset, path, message.replace('\n', ", "))
    }
}

/// What would be right where serde only says what is wrong.
const ADVICE: [(&str, &str); 4] = [
    ("invalid IP address syntax", "use an address such as 127.0.0.1 or ::1"),
    ("invalid IPv4 address syntax", "use an address such as 127.0.0.1"),
    ("invalid IPv6 address syntax", "use an address such as ::1"),
    ("invalid socket address syntax", "use ADDRESS:PORT such as 127.0.0.1:5060 or [::1]:5060"),
];

/// serde's name of an expected type, as an operator would say it.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "an integer from 0 to 255",
        "u16" => "an integer from 0 to 65535",
        "u32" => "an integer from 0 to 4294967295",
        "u64" | "usize" => "an integer from 0",
        "i32" | "i64" | "isize" => "an integer",
        "a boolean" => "true or false",
        "a sequence" => "an array: [ … ]",
        "a string" => "a string in quotes",
        other if other.starts_with("a nonzero") => "a positive integer",
        other if other.starts_with("struct ") => "a section of its own: [name]",
        other => other,
    }
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Appends the path of the innermost key whose name or value contains `offset`.
fn path_at_table(table: &DeTable<'_>, offset: usize, path: &mut String) {
    let hit = table.iter().find(|(key, value)| {
        key.span().contains(&offset)
            || value.span().contains(&offset)
            || holds(value.get_ref(), offset)
    });
    if let Some((key, value)) = hit {
        push_key(path, key.get_ref());
        if !key.span().contains(&offset) {
            path_at_value(value.get_ref(), offset, path);
        }
    }
}

fn path_at_value(value: &DeValue<'_>, offset: usize, path: &mut String) {
    match value {
        DeValue::Table(table) => path_at_table(table, offset, path),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                if element.span().contains(&offset) || holds(element.get_ref(), offset) {
                    path.push_str(&format!("[{index}]"));
                    path_at_value(element.get_ref(), offset, path);
                    return;
                }
            }
        }
        _ => {}
    }
}

/// Whether a key or value below `value` contains `offset`: the span of a `[section]` is its header line only.
fn holds(value: &DeValue<'_>, offset: usize) -> bool {
    match value {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            key.span().contains(&offset)
                || value.span().contains(&offset)
                || holds(value.get_ref(), offset)
        }),
        DeValue::Array(array) => array
            .iter()
            .any(|element| element.span().contains(&offset) || holds(element.get_ref(), offset)),
        _ => false,
    }
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    let mut near: Vec<(usize, &str)> =
        known.iter().map(|key| (distance(unknown, key), *key)).collect();
    near.sort_unstable();
    match near.as_slice() {
        [] => "is not known; this section has no keys".to_owned(),
        [(best, key), ..] if *best <= 2 => format!("is not known; did you mean {key}?"),
        near => {
            let keys: Vec<&str> = near.iter().take(5).map(|(_, key)| *key).collect();
            let more = if near.len() > keys.len() { ", …" } else { "" };
            format!("is not known; known here: {}{more}", keys.join(", "))
        }
    }
}

/// Edit distance (Levenshtein) without regard to `-` against `_`.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| text.to_lowercase().replace('-', "_").chars().collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Line and column, both from 1, of a byte offset.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
