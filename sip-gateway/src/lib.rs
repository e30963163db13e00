//! The SIP gateway: translates between phones, which know nothing of pools, and the pools of the core.
//!
//! - [`core`] is the protocol core without IO.

pub mod core;
