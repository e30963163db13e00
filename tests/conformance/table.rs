//! `docs/conformance.md`: made from the tests' `Proves` lines, the rows and the deviations; a test fails when it is stale.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const ROWS: &str = include_str!("rows.txt");
const DEVIATIONS: &str = include_str!("deviations.txt");
const PAGE: &str = "docs/conformance.md";
/// Has the page written anew; `make conformance` sets it.
const UPDATE: &str = "UPDATE_CONFORMANCE";
const MAX_DEVIATIONS: usize = 30;

/// The parts of the checklist and how many rows each has.
const PARTS: &[(char, &str, usize)] = &[
    ('A', "RFC 5352: ASAP", 158),
    ('E', "RFC 5353: ENRP", 104),
    ('P', "RFC 5354: common parameters", 37),
    ('L', "RFC 5356: policies", 37),
    ('S', "Security: RFC 5352 section 9.2, RFC 5353 section 6.2, RFC 5355", 34),
];

#[derive(Debug)]
struct Row<'a> {
    id: &'a str,
    section: &'a str,
    level: &'a str,
    who: &'a str,
    requirement: &'a str,
}

impl Row<'_> {
    fn is_must(&self) -> bool {
        self.level.starts_with("MUST") || self.level == "SHALL"
    }
}

#[derive(Debug)]
struct Deviation<'a> {
    ground: &'a str,
    reason: &'a str,
    /// A test shows the row; the reason says where it does not hold.
    partly: bool,
}

/// A test that shows a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    /// From the root of the repository.
    file: String,
    name: String,
}

type Proofs = BTreeMap<String, Vec<Test>>;

/// The fields of the lines that are no comments.
fn records<const N: usize>(text: &str) -> Result<Vec<[&str; N]>, String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
            <[&str; N]>::try_from(fields).map_err(|_| format!("not {N} fields: {line}"))
        })
        .collect()
}

fn rows() -> Result<Vec<Row<'static>>, String> {
    let rows: Vec<Row<'_>> = records(ROWS)?
        .into_iter()
        .map(|[id, section, level, who, requirement]| Row { id, section, level, who, requirement })
        .collect();
    let wanted = PARTS
        .iter()
        .flat_map(|(part, _, count)| (1..=*count).map(move |n| format!("{part}-{n:03}")));
    if !rows.iter().map(|row| row.id.to_owned()).eq(wanted) {
        return Err("rows.txt: a row is missing, twice there, or out of order".to_owned());
    }
    Ok(rows)
}

fn deviations(
    text: &'static str,
    rows: &[Row<'_>],
    proofs: &Proofs,
) -> Result<BTreeMap<&'static str, Deviation<'static>>, String> {
    let mut deviations = BTreeMap::new();
    for [id, ground, reason] in records(text)? {
        let wrong = |what: &str| Err(format!("deviations.txt: {id}: {what}"));
        let Some(row) = rows.iter().find(|row| row.id == id) else {
            return wrong("no such row");
        };
        let (partly, ground) = match ground.strip_prefix("except ") {
            Some(ground) => (true, ground),
            None => (false, ground),
        };
        let gap = ground.strip_prefix('G').is_some_and(|n| matches!(n.parse(), Ok(1..=38)));
        let known = matches!(ground, "security suite" | "platform" | "choice")
            || (partly && ground == "setting");
        if !gap && !known {
            return wrong("unknown ground");
        }
        if row.is_must() && ground == "choice" {
            return wrong("a MUST does not deviate by choice");
        }
        if reason.is_empty() {
            return wrong("no reason");
        }
        match proofs.get(id) {
            Some(tests) if !partly => return wrong(&format!("{tests:?} show it")),
            None if partly => return wrong("no test shows it anywhere"),
            _ => {}
        }
        if deviations.insert(id, Deviation { ground, reason, partly }).is_some() {
            return wrong("twice there");
        }
    }
    if deviations.len() > MAX_DEVIATIONS {
        return Err(format!("{} deviations, {MAX_DEVIATIONS} are allowed", deviations.len()));
    }
    Ok(deviations)
}

/// All Rust sources below a folder, without what Cargo builds.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The rows of a `/// Proves .` line; `None` for any other line.
fn proves(line: &str) -> Option<Result<Vec<String>, String>> {
    let list = line.trim_start().strip_prefix("/// Proves ")?;
    let parse = || {
        let list = list.strip_suffix('.').ok_or("no full stop")?;
        let known = |id: &str| rows().is_ok_and(|rows| rows.iter().any(|row| row.id == id));
        list.split(", ")
            .map(|id| if known(id) { Ok(id.to_owned()) } else { Err(format!("no row {id}")) })
            .collect()
    };
    Some(parse())
}

/// Adds what the tests of one source show.
fn scan(file: &str, text: &str, proofs: &mut Proofs) -> Result<(), String> {
    let mut ids: Vec<String> = Vec::new();
    let mut attributes = String::new();
    for (n, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(format!("{file}:{}: {what}", n + 1));
        match proves(line) {
            Some(Ok(more)) if attributes.is_empty() => {
                ids.extend(more);
                continue;
            }
            Some(Ok(_)) => return wrong("rows below attributes"),
            Some(Err(error)) => return wrong(&error),
            None if ids.is_empty() => continue,
            None => {}
        }
        let line = line.trim();
        // Attributes may take several lines.
        let open = !attributes.is_empty() && !attributes.ends_with(']');
        if open || line.starts_with("#[") {
            attributes.push_str(line);
            continue;
        }
        let function = line.split_once("fn ").map(|(_, rest)| rest);
        let name = function.and_then(|rest| rest.split(['(', '<']).next());
        let Some(name) = name.filter(|_| !line.starts_with("//")) else {
            return wrong("rows that do not stand directly above the attributes of a test");
        };
        if !attributes.contains("#[test]") && !attributes.contains("#[tokio::test") {
            return wrong("rows above something that is no test");
        }
        if attributes.contains("#[ignore") {
            return wrong("rows above a test that is not run");
        }
        let test = Test { file: file.to_owned(), name: name.to_owned() };
        for id in ids.drain(..) {
            let tests = proofs.entry(id).or_default();
            if !tests.contains(&test) {
                tests.push(test.clone());
            }
        }
        attributes.clear();
    }
    if ids.is_empty() { Ok(()) } else { Err(format!("{file}: rows above nothing")) }
}

fn proofs() -> Result<Proofs, String> {
    let mut files = Vec::new();
    sources(Path::new(ROOT), &mut files).map_err(|error| error.to_string())?;
    files.sort();
    let mut proofs = Proofs::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|error| format!("{path:?}: {error}"))?;
        let file = path.strip_prefix(ROOT).unwrap_or(&path).display().to_string();
        scan(&file, &text, &mut proofs)?;
    }
    Ok(proofs)
}

/// How many rows are shown by tests, how many of those not everywhere, how many deviate, and how many are open.
type Counts = [usize; 4];

fn page() -> Result<(String, Counts), String> {
    let (rows, proofs) = (rows()?, proofs()?);
    let deviations = deviations(DEVIATIONS, &rows, &proofs)?;
    let counts = |part: Option<char>| {
        let rows =
            || rows.iter().filter(move |row| part.is_none_or(|part| row.id.starts_with(part)));
        let shown = rows().filter(|row| proofs.contains_key(row.id)).count();
        let deviating = |partly: bool| {
            let of = |row: &&Row<'_>| deviations.get(row.id).is_some_and(|d| d.partly == partly);
            rows().filter(of).count()
        };
        let (partly, not) = (deviating(true), deviating(false));
        [shown, partly, not, rows().count() - shown - not]
    };
    let all = counts(None);
    let mut page = String::from(
        "# Conformance\n\n\
         Made from the tests by `make conformance`; not to be edited. [tests/conformance/README.md](../tests/conformance/README.md)\n\
         says where its lines come from.\n\n\
         Levels as in RFC 2119; in small letters: said without such a word. G-numbers name gaps and contradictions of the RFCs.\n\
         Where a row says SCTP, secure mode has TLS over TCP, as RFC 5352 section 9.2 and RFC 5353 section 6.2 allow (S-016).\n\n",
    );
    let mut line = |text: std::fmt::Arguments<'_>| page.write_fmt(text).map_err(|e| e.to_string());
    let [shown, partly, deviating, open] = all;
    line(format_args!(
        "**{} requirements: {shown} shown by tests ({partly} of them with an exception), {deviating} deviations, {open} open.**\n\n",
        rows.len()
    ))?;
    line(format_args!(
        "| part | rows | shown by tests | of these with an exception | deviations | open |\n|---|---|---|---|---|---|\n"
    ))?;
    for (part, title, count) in PARTS {
        let [shown, partly, deviating, open] = counts(Some(*part));
        line(format_args!(
            "| {part} {title} | {count} | {shown} | {partly} | {deviating} | {open} |\n"
        ))?;
    }
    for (part, title, _) in PARTS {
        line(format_args!(
            "\n## {part} {title}\n\n| row | section | requirement | level | test or deviation |\n|---|---|---|---|---|\n"
        ))?;
        for row in rows.iter().filter(|row| row.id.starts_with(*part)) {
            let Row { id, section, level, who, requirement } = row;
            let links = |tests: &[Test]| {
                let links = tests.iter().map(|t| format!("[`{}`](../{})", t.name, t.file));
                links.collect::<Vec<_>>().join(", ")
            };
            let status = match (proofs.get(*id), deviations.get(id)) {
                (Some(tests), None) => links(tests),
                (Some(tests), Some(Deviation { ground, reason, .. })) => {
                    format!("{}; exception ({ground}): {reason}", links(tests))
                }
                (None, Some(Deviation { ground, reason, .. })) => {
                    format!("deviation ({ground}): {reason}")
                }
                (None, None) => "open".to_owned(),
            };
            line(format_args!(
                "| {id} | {section} | {who}: {requirement} | {level} | {status} |\n"
            ))?;
        }
    }
    Ok((page, all))
}

#[test]
fn the_page_is_made_from_the_tests() {
    let (page, [shown, partly, deviating, open]) = page().unwrap_or_else(|error| panic!("{error}"));
    println!(
        "table: conformance: {shown} rows shown by tests ({partly} with an exception), {deviating} deviations, {open} open"
    );
    let path = Path::new(ROOT).join(PAGE);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "{PAGE} is stale: run `make conformance` and commit what it writes");
}

#[test]
fn rows_are_read_from_above_the_attributes() {
    let scan = |text: &str| {
        let mut proofs = Proofs::new();
        scan("a.rs", text, &mut proofs).map(|()| {
            let of = |(id, tests): (String, Vec<Test>)| {
                (id, tests.into_iter().map(|t| t.name).collect())
            };
            proofs.into_iter().map(of).collect::<Vec<(String, Vec<String>)>>()
        })
    };
    let two = [
        "/// Text.",
        "/// Proves A-001, L-002.",
        "#[test]",
        "fn one() {}",
        "/// Proves A-001.",
        "/// Proves S-034.",
        "#[expect(",
        "    x,",
        ")]",
        "#[tokio::test]",
        "async fn two() {}",
    ];
    let two = two.join("\n");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let wanted =
        [("A-001", names(&["one", "two"])), ("L-002", names(&["one"])), ("S-034", names(&["two"]))];
    assert_eq!(scan(&two).unwrap(), wanted.map(|(id, names)| (id.to_owned(), names)));
    for (wrong, why) in [
        ("/// Proves A-001\n#[test]\nfn one() {}\n", "full stop"),
        ("/// Proves A-159.\n#[test]\nfn one() {}\n", "no row A-159"),
        ("/// Proves A-001.\n/// Text.\n#[test]\nfn one() {}\n", "directly above"),
        ("/// Proves A-001.\nfn one() {}\n", "no test"),
        ("/// Proves A-001.\n#[test]\n#[ignore]\nfn one() {}\n", "not run"),
        ("#[test]\n/// Proves A-001.\nfn one() {}\n", "no test"),
        ("/// Proves A-001.\n", "nothing"),
    ] {
        let error = scan(wrong).unwrap_err();
        assert!(error.starts_with("a.rs") && error.contains(why), "{wrong}: {error}");
    }
}

#[test]
fn deviations_have_grounds() {
    let rows = rows().unwrap();
    let none = Proofs::new();
    let fine = "# Text.\nS-002 | security suite | TLS 1.3 instead.\nA-043 | choice | A reason.\nA-094 | G10 | A reason.\n";
    assert_eq!(deviations(fine, &rows, &none).unwrap().len(), 3);
    for (wrong, why) in [
        ("A-999 | choice | A reason.\n", "no such row"),
        ("A-001 | choice | A reason.\n", "by choice"),
        ("A-001 | G39 | A reason.\n", "unknown ground"),
        ("A-043 | choice\n", "3 fields"),
        ("A-043 | choice | A reason.\nA-043 | choice | A reason.\n", "twice"),
    ] {
        let error = deviations(wrong, &rows, &none).unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
    let shown = Proofs::from([("A-043".to_owned(), Vec::new())]);
    assert!(deviations("A-043 | choice | A reason.\n", &rows, &shown).is_err());
    // What holds in part has to be shown where it does.
    for ground in ["setting", "G10", "choice"] {
        let text: &str = format!("A-043 | except {ground} | A reason.\n").leak();
        assert!(deviations(text, &rows, &shown).unwrap()["A-043"].partly);
        assert!(deviations(text, &rows, &none).unwrap_err().contains("no test shows it"));
    }
    assert!(deviations("A-043 | setting | A reason.\n", &rows, &none).is_err());
}
