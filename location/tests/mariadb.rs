//! The contract of stores on MariaDB, and what is special about a server.

mod common;

use common::contract::CONTRACT;
use common::mariadb::Server;

#[test]
fn the_contract_holds() {
    let Some(server) = Server::start("contract") else { return };
    for (name, test) in CONTRACT {
        println!("{name}");
        test(&server.database(name));
    }
}
