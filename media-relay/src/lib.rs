//! A media relay: takes part in calls that a proxy controls by the protocol NG, and forwards their media.
//!
//! - [`plane`] forwards packets; [`record`] writes them to files.

pub mod plane;
pub mod record;
