//! A test authority and the certificates that it issues: `dialtone cert`, `dialtone localnet --secure` and tests.
//!
//! Keys are ECDSA on P-256. A certificate that is issued for a registrar may answer and dial (extended key usages
//! serverAuth and clientAuth), any other may dial only, so that an element cannot pass for a registrar.

mod authority;
pub mod cli;
mod error;
mod request;

pub use authority::{Authority, Issued, Paths};
pub use error::Error;
pub use request::Request;
