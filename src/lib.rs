//! Dialtone as a whole: the launcher that starts daemons on one machine, localnet and the measurements of faults and of
//! costs that stand on it, the users, and moving from one location database to another.

pub mod faults;
pub mod figures;
pub mod launcher;
pub mod localnet;
pub mod location;
pub mod user;
