//! Lists from a registrar's admin interface (`docs/registrar-admin.md`): ASAP resolves known handles only.

use std::io::{self, Write};
use std::time::Duration;

use dialtone_daemon::exit;
use serde_json::Value;

use super::{Failure, columns};

/// Where the admin interface is and how to print what it says.
#[derive(Debug, clap::Args)]
pub(super) struct Admin {
    /// The registrar's admin interface
    #[arg(
        long,
        value_name = "URL",
        env = "DIALTONE_ADMIN",
        default_value = "http://127.0.0.1:9090"
    )]
    admin: String,
    /// The registrar's JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Admin {
    pub(super) fn pools(&self) -> Result<(), Failure> {
        self.print("pools", pool_rows)
    }

    pub(super) fn peers(&self) -> Result<(), Failure> {
        self.print("peers", peer_rows)
    }

    fn print(&self, what: &str, rows: fn(&Value) -> Vec<Vec<String>>) -> Result<(), Failure> {
        let body = get(&self.admin, what)?;
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{body}")?;
        } else {
            out.write_all(columns(&rows(&body)).as_bytes())?;
        }
        Ok(())
    }
}

/// What an admin interface says about something.
pub(super) fn get(admin: &str, what: &str) -> Result<Value, Failure> {
    let url = format!("{}/{what}", admin.trim_end_matches('/'));
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(3))).build();
    let mut response = ureq::Agent::new_with_config(config)
        .get(&url)
        .call()
        .map_err(|error| Failure::new(exit::UNAVAILABLE, format!("{url}: {error}")))?;
    let text = response
        .body_mut()
        .read_to_string()
        .map_err(|error| Failure::new(exit::UNAVAILABLE, format!("{url}: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(exit::SOFTWARE, format!("{url}: not JSON: {error}")))
}

fn pool_rows(body: &Value) -> Vec<Vec<String>> {
    let header = ["POOL", "POLICY", "TRANSPORT", "SUBSCRIBERS", "ELEMENT", "ADDRESS", "HOME"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for pool in list(body, "pools") {
        let pool_cells =
            ["handle", "policy", "transport", "subscribers"].map(|name| cell(&pool[name]));
        let elements = list(pool, "elements");
        for (n, element) in elements.iter().enumerate() {
            // A pool is named once, its elements follow below.
            let mut row = if n == 0 { pool_cells.to_vec() } else { vec![String::new(); 4] };
            row.extend(["id", "address", "home"].map(|name| cell(&element[name])));
            rows.push(row);
        }
        if elements.is_empty() {
            rows.push(pool_cells.to_vec());
        }
    }
    rows
}

fn peer_rows(body: &Value) -> Vec<Vec<String>> {
    let header = ["REGISTRAR", "ADDRESS", "STATUS", "HEARD", "ELEMENTS", "CHECKSUM", "OURS"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for peer in list(body, "peers") {
        let heard =
            peer["last_heard_ms"].as_u64().map_or_else(|| "-".into(), |ms| format!("{ms} ms ago"));
        let [id, address, status] =
            ["server_id", "address", "status"].map(|name| cell(&peer[name]));
        let [elements, theirs, ours] =
            ["elements", "checksum_theirs", "checksum_ours"].map(|name| cell(&peer[name]));
        rows.push(vec![id, address, status, heard, elements, theirs, ours]);
    }
    rows
}

pub(super) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_from_what_a_registrar_says() {
        let element = |id: &str| json!({ "id": id, "home": "0x0000000a", "address": "127.0.0.1:5070", "reports": 0 });
        let pools = json!({ "server_id": "0x0000000a", "pools": [{
            "handle": "sip-proxy", "policy": "round-robin", "transport": "tcp", "subscribers": 2,
            "elements": [element("0x00000001"), element("0x00000002")],
        }]});
        assert_eq!(
            columns(&pool_rows(&pools)),
            "POOL       POLICY       TRANSPORT  SUBSCRIBERS  ELEMENT     ADDRESS         HOME\n\
             sip-proxy  round-robin  tcp        2            0x00000001  127.0.0.1:5070  0x0000000a\n\
             \x20                                               0x00000002  127.0.0.1:5070  0x0000000a\n"
        );
        let peers = json!({ "server_id": "0x0000000a", "peers": [{
            "server_id": "0x0000000b", "address": null, "status": "active", "last_heard_ms": 7,
            "checksum_theirs": "0x9343", "checksum_ours": "0x9343", "elements": 3, "resyncing": false,
        }]});
        assert_eq!(
            columns(&peer_rows(&peers)),
            "REGISTRAR   ADDRESS  STATUS  HEARD     ELEMENTS  CHECKSUM  OURS\n\
             0x0000000b  -        active  7 ms ago  3         0x9343    0x9343\n"
        );
        // Fields that another version leaves out cost a cell, not the table.
        assert_eq!(peer_rows(&json!({ "peers": [{}] }))[1].len(), 7);
        assert_eq!(pool_rows(&json!([])).len(), 1);
    }
}
