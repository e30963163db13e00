//! What localnet shows: the table, what happened last, how to try it, how to break it.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
};

use super::watch::{Row, State};
use crate::launcher::Role;

/// How many of the last events stay on a terminal.
const EVENTS: usize = 8;

/// Beyond this the picture would not fit most terminals, so changes are printed line by line.
const MAX_ROWS: usize = 16;

/// The screen: redrawn in place on a terminal, one line per change elsewhere.
#[derive(Debug)]
pub(super) struct Screen {
    in_place: bool,
    /// Lines of the picture that stands on the terminal.
    drawn: usize,
    last: Vec<String>,
    events: VecDeque<String>,
}

impl Screen {
    pub(super) fn new(rows: usize) -> Self {
        let in_place = io::stdout().is_terminal() && rows <= MAX_ROWS;
        Self { in_place, drawn: 0, last: Vec::new(), events: VecDeque::new() }
    }

    /// Shows the rows and what has happened since. Output that cannot be written is nobody's concern.
    pub(super) fn show(&mut self, rows: &[Row], events: Vec<String>) {
        let mut out = io::stdout().lock();
        if !self.in_place {
            for event in events {
                let _ = writeln!(out, "{event}");
            }
            let lines: Vec<String> = rows.iter().map(summary).collect();
            let changed = lines.iter().filter(|line| !self.last.contains(line));
            // The whole table at first, then what is different.
            let shown =
                if self.last.is_empty() { render(rows) } else { changed.cloned().collect() };
            for line in shown {
                let _ = writeln!(out, "{line}");
            }
            let _ = out.flush();
            self.last = lines;
            return;
        }
        let lines = render(rows);
        if events.is_empty() && lines == self.last {
            return;
        }
        self.events.extend(events);
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
        let mut picture = String::new();
        if self.drawn > 0 {
            // Up to the first line of the picture, and clear everything below.
            picture.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        // Without wrapping each line is one line, however narrow the terminal.
        picture.push_str("\x1b[?7l");
        let breakable = how_to_break(rows);
        let mut count = 0;
        for line in lines.iter().chain(&breakable).chain(&self.events) {
            picture.push_str(line);
            picture.push('\n');
            count += 1;
        }
        picture.push_str("\x1b[?7h");
        let _ = out.write_all(picture.as_bytes());
        let _ = out.flush();
        self.drawn = count;
        self.last = lines;
    }

    /// Whether the picture shows how to break it, so that nobody else need.
    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }
}

/// What may change of a process, in a line of its own.
fn summary(row: &Row) -> String {
    format!("{} (pid {}): {}, pool {}", row.seen.name, row.seen.pid, row.state, row.pools)
}

/// The table, one line per process below a headline.
fn render(rows: &[Row]) -> Vec<String> {
    let cells = |row: &Row| {
        [
            row.seen.name.clone(),
            row.seen.role.name().to_owned(),
            row.seen.pid.to_string(),
            row.state.to_string(),
            row.pools.clone(),
            addresses(row),
        ]
    };
    let head = ["NAME", "ROLE", "PID", "STATE", "POOL", "ADDRESSES"].map(str::to_owned);
    let table: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| {
        table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    table
        .iter()
        .map(|row| {
            let mut line: String = row[..5]
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            line.push_str(&row[5]);
            line.trim_end().to_owned()
        })
        .collect()
}

/// Where phones go first, so that a narrow terminal shows it; what stands at one address is said together.
fn addresses(row: &Row) -> String {
    let mut found: Vec<_> = row.seen.addresses.iter().collect();
    found.sort_by_key(|(key, _)| match key.as_str() {
        "sip-tcp" | "sip-udp" => 0,
        "sip-core" => 1,
        _ => 2,
    });
    let mut grouped: Vec<(String, &String)> = Vec::new();
    for (key, value) in found {
        match grouped.iter_mut().find(|(_, known)| *known == value) {
            Some((keys, _)) => *keys += &format!(",{key}"),
            None => grouped.push((key.clone(), value)),
        }
    }
    grouped.iter().map(|(keys, value)| format!("{keys} {value}")).collect::<Vec<_>>().join("  ")
}

/// Commands with real pids.
pub(super) fn how_to_break(rows: &[Row]) -> Vec<String> {
    let alive =
        |role: Role| rows.iter().find(|row| row.seen.role == role && row.state == State::InService);
    let mut lines = vec![String::new()];
    let mut say = |command: &str, role: Role, effect: &str| {
        if let Some(row) = alive(role) {
            let command = format!("{command} {}", row.seen.pid);
            lines.push(format!("  {command:<18}  {}: {effect}", row.seen.name));
        }
    };
    say("kill -9", Role::SipProxy, "calls go on through the others");
    say("kill -STOP", Role::SipProxy, "frozen, not dead; kill -CONT brings it back");
    if rows.iter().any(|row| row.seen.addresses.contains_key("mysql")) {
        say("kill -9", Role::LocationDb, "registrations go on through the others");
    }
    let relays = rows.iter().filter(|row| row.seen.role == Role::MediaRelay);
    let new_ones = match relays.filter(|row| row.state == State::InService).count() {
        0 | 1 => "new ones go without",
        _ => "new ones use another",
    };
    say("kill -9", Role::MediaRelay, &format!("its calls lose their sound, {new_ones}"));
    say("kill -9", Role::Conference, "its rooms end; who calls again is in one of another server");
    say("kill -9", Role::RegistrarNs, "nobody notices, its elements move");
    say("kill -9", Role::SipGateway, "its phones have to find another one");
    lines
}
