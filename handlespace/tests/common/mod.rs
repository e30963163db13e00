//! Elements for tests.

use dialtone_handlespace::{Element, PeId, Policy, ServerId, Transport};

pub(crate) fn element(pe_id: u32, home: u32, policy: Policy<'static>) -> Element {
    Element {
        pe_id: PeId(pe_id),
        home: ServerId(home),
        life: 300,
        encaps_port: None,
        transport: Transport::tcp(([192, 0, 2, 1], 5060).into()),
        policy,
        asap_transport: None,
    }
}
