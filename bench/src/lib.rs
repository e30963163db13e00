//! Load and benchmarks: phones that register and call at a given rate, and what they saw.
//!
//! [`cli`] is `dialtone load`; tests drive [`load::Load`] directly while they kill servers.

pub mod board;
pub mod cli;
pub mod load;
pub mod phone;
mod socket;
pub mod stats;
mod text;
