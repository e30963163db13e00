//! Lists from a registrar's admin interface (`docs/registrar-admin.md`): ASAP resolves known handles only.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

use super::{Failure, SOFTWARE, UNAVAILABLE, columns};

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
        self.print("pools", |body| {
            let header =
                ["POOL", "POLICY", "TRANSPORT", "SUBSCRIBERS", "ELEMENT", "ADDRESS", "HOME"];
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
        })
    }

    pub(super) fn peers(&self) -> Result<(), Failure> {
        self.print("peers", |body| {
            let header =
                ["REGISTRAR", "ADDRESS", "STATUS", "HEARD", "ELEMENTS", "CHECKSUM", "OURS"];
            let mut rows = vec![header.map(String::from).to_vec()];
            for peer in list(body, "peers") {
                let heard = peer["last_heard_ms"]
                    .as_u64()
                    .map_or_else(|| "-".into(), |ms| format!("{ms} ms ago"));
                let [id, address, status] =
                    ["server_id", "address", "status"].map(|name| cell(&peer[name]));
                let [elements, theirs, ours] =
                    ["elements", "checksum_theirs", "checksum_ours"].map(|name| cell(&peer[name]));
                rows.push(vec![id, address, status, heard, elements, theirs, ours]);
            }
            rows
        })
    }

    fn print(
        &self,
        what: &str,
        rows: impl FnOnce(&Value) -> Vec<Vec<String>>,
    ) -> Result<(), Failure> {
        let body = self.get(what)?;
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{body}")?;
        } else {
            out.write_all(columns(&rows(&body)).as_bytes())?;
        }
        Ok(())
    }

    fn get(&self, what: &str) -> Result<Value, Failure> {
        let url = format!("{}/{what}", self.admin.trim_end_matches('/'));
        let config =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(3))).build();
        let mut response = ureq::Agent::new_with_config(config)
            .get(&url)
            .call()
            .map_err(|error| Failure::new(UNAVAILABLE, format!("{url}: {error}")))?;
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| Failure::new(UNAVAILABLE, format!("{url}: {error}")))?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(SOFTWARE, format!("{url}: not JSON: {error}")))
    }
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
