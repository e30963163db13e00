//! Section 6.1: where an element serves, and where its SCTP endpoint is bound.

use std::net::TcpListener;

use dialtone::launcher::{Exclusive, Sidecar};
use dialtone_transport::{Link, Protocol};

use crate::lab::bytes::*;
use crate::lab::daemons::{Line, registrars};

/// Proves.
#[tokio::test]
async fn the_endpoint_is_bound_to_the_address_of_the_service() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = registrars(1);
    let host = |launcher: &dialtone::launcher::Launcher, n| launcher.slice().host(n);
    for n in [61, 62] {
        let server = TcpListener::bind((host(&launcher, n), 7000)).unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || server.incoming().for_each(drop));
        let sidecar = Sidecar {
            name: format!("echo-{n}"),
            pool: "echo".to_owned(),
            transport: format!("tcp:{address}"),
            options: vec!["--check=tcp".to_owned(), format!("--pe-id={n}")],
            command: Vec::new(),
        };
        launcher.spawn_sidecar(&sidecar).unwrap();
        launcher.wait_ready(&sidecar.name).unwrap();
    }
    // The registrar writes the address that it sees at the other end of the association into the ASAP Transport.
    let mut user =
        Line::open(host(&launcher, 70), host(&launcher, 1), Link::Tcp, Protocol::Asap).await;
    user.say(resolution("echo", false));
    let answer = user.hear(HANDLE_RESOLUTION_RESPONSE).await;
    let elements = answer.find_all(POOL_ELEMENT);
    assert_eq!(elements.len(), 2);
    for element in elements {
        let parts = element.behind(12);
        let ip = host(&launcher, u8::try_from(element.word(0)).unwrap());
        assert_eq!((parts[0].kind, parts[0].behind(4)[0].bytes()), (TCP, address(ip)));
        let asap: Vec<_> = parts.iter().filter(|part| part.kind == SCTP).collect();
        assert_eq!((asap.len(), asap[0].behind(4).len()), (1, 1));
        assert_eq!(asap[0].behind(4)[0].bytes(), address(ip));
    }
    user.close().await;
    assert!(launcher.stop_all().is_empty(), "everybody ended in order");
}
