//! Load and benchmarks: phones that register and call at a given rate, and what they saw and heard.
//!
//! [`cli`] is `dialtone load`; tests drive [`load::Load`] directly while they kill servers. [`media`] sends and verifies
//! audio, for calls of these phones or by itself.

pub mod board;
pub mod cli;
mod compose;
pub mod load;
pub mod media;
pub mod phone;
pub mod sdp;
mod socket;
pub mod stats;
mod text;
