//! What tests of this tree are made of: wire bytes, registrars in virtual time, daemons on loopback.

pub(crate) mod bytes;
pub(crate) mod clients;
pub(crate) mod daemons;
pub(crate) mod peers;
pub(crate) mod registrars;
