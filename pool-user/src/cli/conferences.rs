//! The conferences that go on: a registrar says which servers there are, each server which rooms it mixes.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};

use super::admin::{cell, get, list};
use super::{Failure, UNKNOWN_POOL, columns};

/// Whom to ask, and how to print what they say.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// A registrar's admin interface
    #[arg(
        long,
        value_name = "URL",
        env = "DIALTONE_ADMIN",
        default_value = "http://127.0.0.1:9090"
    )]
    admin: String,
    /// The pool of the conference servers
    #[arg(long, value_name = "HANDLE", default_value = "conference")]
    pool: String,
    /// Where servers have their admin interfaces, at the addresses that the pool has
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    port: u16,
    /// A server's own admin interface; may be repeated. No registrar is asked then
    #[arg(long = "server", value_name = "URL")]
    servers: Vec<String>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Ask {
    pub(super) fn print(&self) -> Result<(), Failure> {
        let mut elements = self.elements()?;
        thread::scope(|scope| {
            let ask = |element: &mut Value| {
                let admin = cell(&element["admin"]);
                match get(&admin, "rooms") {
                    Ok(Value::Object(said)) => said.into_iter().for_each(|(name, value)| {
                        element[name] = value;
                    }),
                    Ok(_) => element["error"] = format!("{admin}/rooms: no list of rooms").into(),
                    Err(failure) => element["error"] = failure.text.into(),
                }
            };
            elements.iter_mut().for_each(|element| drop(scope.spawn(move || ask(element))));
        });
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json!({ "pool": self.pool, "elements": elements }))?;
        } else {
            out.write_all(columns(&rows(&elements)).as_bytes())?;
            for line in remarks(&elements) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }

    /// The servers: identifier and address in the pool if a registrar was asked, and where to ask them.
    fn elements(&self) -> Result<Vec<Value>, Failure> {
        if !self.servers.is_empty() {
            return Ok(self.servers.iter().map(|server| json!({ "admin": server })).collect());
        }
        let pools = get(&self.admin, "pools")?;
        let pool = list(&pools, "pools").iter().find(|pool| pool["handle"] == self.pool.as_str());
        let pool = pool.ok_or_else(|| {
            let text = format!("{}: no registrar knows a pool of this name", self.pool);
            Failure::new(UNKNOWN_POOL, text)
        })?;
        let element = |element: &Value| {
            let address = element["address"].as_str().unwrap_or_default();
            let admin = address.parse().map(|address: SocketAddr| {
                format!("http://{}", SocketAddr::new(address.ip(), self.port))
            });
            json!({
                "id": element["id"],
                "address": address,
                // What is no address, such as a name, is asked for as it stands, and fails with a reason.
                "admin": admin.unwrap_or_else(|_| format!("http://{address}")),
            })
        };
        Ok(list(pool, "elements").iter().map(element).collect())
    }
}

/// A line for each participant; rooms by name, each named once for each server that mixes it.
fn rows(elements: &[Value]) -> Vec<Vec<String>> {
    let header = ["ROOM", "OWNER", "ADDRESS", "AGE", "PARTICIPANT", "SINCE", "CODEC", "STATE"];
    let mut rooms: Vec<(&Value, &Value)> = elements
        .iter()
        .flat_map(|element| list(element, "rooms").iter().map(move |room| (room, element)))
        .collect();
    rooms.sort_by_key(|(room, element)| (cell(&room["name"]), cell(&element["id"])));
    let mut rows = vec![header.map(String::from).to_vec()];
    for (room, element) in rooms {
        let head = [
            cell(&room["name"]),
            cell(&element["id"]),
            cell(element.get("address").unwrap_or(&element["admin"])),
            seconds(&room["age_s"]),
        ];
        let participants = list(room, "participants");
        for (n, participant) in participants.iter().enumerate() {
            let mut row = if n == 0 { head.to_vec() } else { vec![String::new(); head.len()] };
            row.push(cell(&participant["uri"]));
            row.push(seconds(&participant["age_s"]));
            row.push(cell(&participant["codec"]));
            row.push(state(participant));
            rows.push(row);
        }
        if participants.is_empty() {
            rows.push(head.to_vec());
        }
    }
    rows
}

fn seconds(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |seconds| format!("{seconds} s"))
}

fn state(participant: &Value) -> String {
    let is = |name: &str| participant[name] == true;
    let states = [
        (participant["is_inside"] == false, "types the number"),
        (is("on_hold"), "on hold"),
        (is("muted"), "muted"),
        (is("speaking"), "speaks"),
    ];
    let said = states.iter().filter(|(is_so, _)| *is_so).map(|(_, what)| *what);
    let said = said.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "-".into() } else { said }
}

/// What a table of rooms does not show: servers without rooms, those that say nothing, and rooms that two of them have.
fn remarks(elements: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for element in elements {
        let name = match (element.get("id"), element.get("address")) {
            (Some(id), Some(address)) => format!("{} at {}", cell(id), cell(address)),
            _ => cell(&element["admin"]),
        };
        if let Some(error) = element["error"].as_str() {
            lines.push(format!("{name} does not say what it mixes: {error}"));
        } else if list(element, "rooms").is_empty() {
            lines.push(format!("{name} mixes nothing"));
        }
    }
    let mut names: Vec<String> = elements
        .iter()
        .flat_map(|element| list(element, "rooms"))
        .map(|room| cell(&room["name"]))
        .collect();
    names.sort_unstable();
    let mut twice: Vec<&String> =
        names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    twice.dedup();
    lines.extend(twice.iter().map(|name| {
        format!("{name} is at more than one server: those of the former owner hear only each other")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements() -> Vec<Value> {
        let bob = json!({ "uri": "sip:bob@a.test", "age_s": 1, "is_inside": true, "on_hold": true, "muted": true });
        let alice = json!({
            "uri": "sip:alice@a.test", "age_s": 9, "is_inside": true, "on_hold": false, "muted": false,
            "codec": "PCMU", "speaking": true,
        });
        let room = |name: &str, participants: Value| json!({ "name": name, "age_s": 9, "participants": participants });
        vec![
            json!({ "id": "0x00000001", "address": "127.0.0.1:5060", "admin": "http://127.0.0.1:9090", "rooms": [
                room("daily", json!([alice, bob])), room("empty", json!([])),
            ]}),
            json!({ "id": "0x00000002", "address": "127.0.0.2:5060", "admin": "http://127.0.0.2:9090", "rooms": [] }),
            json!({ "id": "0x00000003", "address": "127.0.0.3:5060", "admin": "http://127.0.0.3:9090", "error": "refused" }),
        ]
    }

    #[test]
    fn a_line_for_each_participant() {
        assert_eq!(
            columns(&rows(&elements())),
            "ROOM   OWNER       ADDRESS         AGE  PARTICIPANT       SINCE  CODEC  STATE\n\
             daily  0x00000001  127.0.0.1:5060  9 s  sip:alice@a.test  9 s    PCMU   speaks\n\
             \x20                                       sip:bob@a.test    1 s    -      on hold, muted\n\
             empty  0x00000001  127.0.0.1:5060  9 s\n"
        );
    }

    #[test]
    fn what_the_table_does_not_show_is_said() {
        let mut all = elements();
        assert_eq!(
            remarks(&all),
            [
                "0x00000002 at 127.0.0.2:5060 mixes nothing",
                "0x00000003 at 127.0.0.3:5060 does not say what it mixes: refused",
            ]
        );
        all[1]["rooms"] = all[0]["rooms"].clone();
        let split = remarks(&all).into_iter().filter(|line| line.contains("more than one server"));
        assert_eq!(split.count(), 2);
    }
}
