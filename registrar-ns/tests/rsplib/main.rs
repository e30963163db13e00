//! Dialtone beside rsplib, the reference implementation, which departs from the RFCs in some places: `Compat::Rsplib`.
//!
//! | file | what |
//! |---|---|
//! | `script` | one participant's part in a capture: what the others sent to it, what it sent itself |
//! | `replay` | a real core takes that part in virtual time: the others say what they said, at their times |
//! | `compare` | what the core said against what rsplib said in its place; [`compare::DIFFERENCES`] lists all that differs |
//! | `registrars` | the five parts of registrars in the captures |
//! | `clients` | the parts of elements and users |
//! | `daemon` | a part on sockets |
//! | `rules` | what no capture shows |

mod clients;
mod compare;
mod daemon;
mod registrars;
mod replay;
mod rules;
mod script;

#[path = "../../../wire/tests/pcap/mod.rs"]
mod pcap;
