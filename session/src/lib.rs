//! Sessions between pool users and pool elements (RFC 5352 sections 3.8, 3.9 and 6.5).
//!
//! A session is a user's relation with a pool: one SCTP association with one element at a time, and with the next one
//! when that fails. Data and control (cookies, business cards) share the association and are told apart by the payload
//! protocol identifier.
//!
//! - [`user::Users`] and [`element::Element`] are the protocol cores, without IO.
//! - [`Client`] and [`Service`] are the same for code that runs on a runtime.
//! - [`Cookies`] signs an application's state and opens what comes back.
//!
//! This crate stands beside `pool-user` and `pool-element` because both sides share the association, its channels and
//! the cards, and a process that is user and element has both on one UDP port. `docs/sessions.md` has a complete
//! example.

mod card;
mod client;
mod control;
pub mod cookie;
mod driver;
pub mod element;
mod options;
mod service;
mod state;
pub mod user;

pub use card::{Card, Own};
pub use client::{Client, Session, SessionError};
pub use cookie::{Cookies, Refusal, SealError};
pub use driver::Counters;
pub use options::SendOptions;
pub use service::{SaveError, Service};
pub use user::{SessionId, UserConfig};

/// The programs of the guide are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sessions.md")]
struct Guide;
