//! The registrar: ASAP server (RFC 5352) and ENRP peer (RFC 5353).

pub mod core;
