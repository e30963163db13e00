//! Pool users (RFC 5352 sections 3.3, 3.5): what a pool consists of, whom to ask, and telling registrars who is gone.
//!
//! - [`Users`] is the protocol core, a role of [`dialtone_asap_client::core::Client`]: it keeps a [`View`] of every
//!   watched pool true by subscription (S flag), and answers single questions.
//! - [`Selector`] picks elements from views, by the pool's policy or by key, and avoids suspects; pure, for cores.
//! - [`PoolUser`] is the same for code that runs on a runtime: [`PoolUser::watch`], [`PoolUser::resolve`],
//!   [`PoolUser::select`], [`PoolUser::report_unreachable`].
//! - [`cli`] is `dialtone pool-user`.
//!
//! A process that is also a pool element shares the agent, and with it the home registrar:
//! `Agent::start(config, (Elements::new(…), Users::new(…)))`; the handle is then `(PoolElement, PoolUser)`.

pub mod cli;
mod config;
pub mod core;
mod error;
mod pool_user;
mod select;
mod view;

pub use crate::core::{Command, Event, Users};
pub use config::UsersConfig;
pub use error::{ResolveError, SelectError};
pub use pool_user::PoolUser;
pub use select::{Choice, Selector};
pub use view::{Freshness, Member, View};
