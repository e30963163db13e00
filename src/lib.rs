//! Dialtone as a whole: the launcher that starts daemons on one machine, and localnet, which stands on it.

pub mod launcher;
pub mod localnet;
