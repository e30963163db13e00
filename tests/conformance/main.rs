//! The requirements of RFC 5352, 5353, 5354, 5355 and 5356, row by row, against real cores and daemons: bytes in, bytes out.
//!
//! A test names the rows that it shows in the line directly above its attributes; `docs/conformance.md` is made from
//! these lines, of this tree and of all other tests of the repository. `README.md` says how to add one.

mod lab;
mod table;

mod rfc5352;
mod rfc5353;
mod rfc5354;
mod rfc5355;
mod rfc5356;

// Worlds that are shared with the tests of the crates which they belong to.
#[path = "../../asap-client/tests/common/mod.rs"]
mod client_world;
#[allow(dead_code, reason = "only a part of it is used here")]
#[path = "../../registrar-ns/tests/core/element.rs"]
mod element;
#[allow(dead_code, reason = "only a part of it is used here")]
#[path = "../../registrar-ns/tests/core/world.rs"]
mod world;
