//! The registrar of the name service: ASAP server (RFC 5352) and ENRP peer (RFC 5353).
//!
//! [`core`] is the protocol without IO, [`driver`] the one task that owns it together with a transport endpoint,
//! [`admin`] shows its snapshots as JSON, [`cli`] is the daemon `registrar-ns`.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | driver | the core and the endpoint | at shutdown, after the endpoint was closed in order |
//! | announcements | its multicast socket; only when configured | at shutdown |
//! | admin server | its listener; reads snapshots from a watch channel | at shutdown |

pub mod admin;
mod announce;
pub mod cli;
pub mod core;
pub mod driver;
pub mod fuzz;
mod metrics;
mod settings;
mod tls;

pub use settings::{Settings, TimerSettings};
pub use tls::TlsSettings;
