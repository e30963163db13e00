//! Dialtone as a whole: the launcher that starts daemons on one machine, localnet and the measurements of faults that
//! stand on it.

pub mod faults;
pub mod launcher;
pub mod localnet;
