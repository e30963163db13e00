//! Dialtone as a whole: the launcher that starts daemons on one machine, localnet and the measurements of faults and of
//! costs that stand on it, and the users.

pub mod faults;
pub mod figures;
pub mod launcher;
pub mod localnet;
pub mod user;
