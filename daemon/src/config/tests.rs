//! What operators read when a configuration is wrong.

use std::{net::SocketAddr, path::Path};

use serde::Deserialize;

use super::{Checked, Problems, parse};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    #[serde(default)]
    workers: u16,
    edge: Edge,
    #[serde(default)]
    registrars: Vec<Registrar>,
    #[serde(default)]
    hash: Hash,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Edge {
    address: SocketAddr,
    #[serde(default)]
    max_connections: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registrar {
    address: SocketAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hash {
    #[default]
    Policy,
    User,
}

impl Checked for Config {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("workers", self.workers, 0..=64);
        problems.section("edge", &self.edge);
        for (n, registrar) in self.registrars.iter().enumerate() {
            if registrar.address.port() == 0 {
                problems.add(
                    &format!("registrars[{n}].address"),
                    "port 0",
                    "name the registrar's port",
                );
            }
        }
        if matches!(self.hash, Hash::User) && self.name.is_empty() {
            problems.add("name", "is empty", "choose a name");
        }
    }
}

impl Checked for Edge {
    fn check(&self, problems: &mut Problems) {
        if self.address.port() == 0 {
            problems.add("address", "port 0", "name the port");
        }
        problems.in_range("max-connections", self.max_connections, 0..=100_000);
    }
}

#[test]
fn a_right_configuration_is_taken() {
    let text = "name = 'p'\nhash = 'user'\n[edge]\naddress = '127.0.0.1:5060'\n[[registrars]]\naddress = '127.0.0.2:3863'\n";
    let config: Config = parse(Path::new("d.toml"), text).unwrap();
    assert_eq!(config.registrars.len(), 1);
}

#[test]
fn errors_name_place_key_and_what_would_be_right() {
    let edge = "[edge]\naddress = '127.0.0.1:5060'\n";
    let table = [
        ("name = 'p\n".to_owned(), "d.toml:1:", "not TOML"),
        (format!("nmae = 'p'\n{edge}"), "d.toml:1:1: key nmae: ", "did you mean name?"),
        (format!("name = 'p'\nport = 1\n{edge}"), "d.toml:2:1: key port: ", "known here: "),
        (
            format!("name = 'p'\n{edge}max_connection = 5\n"),
            "d.toml:4:1: key edge.max_connection: ",
            "did you mean max-connections?",
        ),
        (edge.to_owned(), "d.toml:1:1: key name: ", "is missing; the file needs it"),
        (
            "name = 'p'\n[edge]\n".to_owned(),
            "d.toml:2:1: key edge.address: ",
            "is missing; section edge needs it",
        ),
        (
            "name = 'p'\n[edge]\naddress = 'here'\n".to_owned(),
            "d.toml:3:11: key edge.address: ",
            "use ADDRESS:PORT such as",
        ),
        (format!("name = 7\n{edge}"), "d.toml:1:8: key name: ", "use a string"),
        (
            format!("name = 'p'\nworkers = 70000\n{edge}"),
            "d.toml:2:11: key workers: ",
            "from 0 to 65535",
        ),
        (
            format!("name = 'p'\nhash = 'call'\n{edge}"),
            "d.toml:2:8: key hash: ",
            "`policy` or `user`",
        ),
        (
            format!(
                "name = 'p'\n{edge}[[registrars]]\naddress = '127.0.0.2:3863'\n[[registrars]]\nadress = ''\n"
            ),
            "d.toml:7:1: key registrars[1].adress: ",
            "did you mean address?",
        ),
        (
            format!("name = 'p'\nworkers = 65\n{edge}"),
            "d.toml:2:1: key workers: ",
            "65 is out of range; use 0 to 64",
        ),
        (
            format!("name = 'p'\n{edge}max-connections = 100001\n"),
            "d.toml:4:1: key edge.max-connections: ",
            "out of range",
        ),
        (
            format!("name = 'p'\n{edge}[[registrars]]\naddress = '127.0.0.2:0'\n"),
            "d.toml:5:1: key registrars[0].address: ",
            "port 0; name the registrar's port",
        ),
        ("edge = 1\nname = 'p'\n".to_owned(), "d.toml:1:8: key edge: ", "use a section"),
    ];
    for (text, place, advice) in table {
        let error = parse::<Config>(Path::new("d.toml"), &text).unwrap_err().to_string();
        assert!(error.starts_with(place), "{text}\ngave: {error}\nwanted: {place}");
        assert!(error.contains(advice), "{text}\ngave: {error}\nwanted: {advice}");
    }
}

#[test]
fn every_problem_of_a_check_is_told() {
    let text =
        "name = 'p'\nworkers = 65\nedge = { address = '127.0.0.1:1', max-connections = 100001 }\n";
    let error = parse::<Config>(Path::new("d.toml"), text).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.contains("d.toml:3:35: key edge.max-connections: "), "{error}");
}
