//! The protocol core: a [`Client`] that carries one or more [`Role`]s over one home association.

mod book;
mod client;
mod role;

pub use client::{Client, Counters, Output};
pub use role::{Context, Either, Home, HomeChange, Role, Sender};
