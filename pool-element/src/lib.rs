//! Pool elements (RFC 5352 sections 3.1, 3.2, 3.4): registration, its refresh and its end, answers to keep-alives.
//!
//! - [`Elements`] is the protocol core, a role of [`dialtone_asap_client::core::Client`]: any number of elements over
//!   one association with one home registrar.
//! - [`PoolElement`] is what a server holds: [`PoolElement::register`] gives a [`Registration`] whose state can be
//!   watched, whose policy values can be updated, and which de-registers.
//! - [`pe_id`] keeps element identifiers over restarts.
//! - [`daemon`] is what daemons have in common that are one element each.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dialtone_asap_client::{Agent, AgentConfig, registrar_sctp};
//! use dialtone_pool_element::{ElementConfig, Elements, ElementsConfig};
//!
//! let ip = "127.0.0.1".parse()?;
//! let config = AgentConfig::telephony(ip, vec![registrar_sctp(ip)]);
//! let agent = Agent::start(config, Elements::new(ElementsConfig::telephony())).await?;
//! let element = ElementConfig::tcp("sip-proxy".parse()?, dialtone_wire::PeId(17), "127.0.0.1:5070".parse()?);
//! let mut registration = agent.handle().register(element)?;
//! registration.registered().await?;
//! // … serve …
//! registration.deregister().await;
//! agent.stop().await;
//! # Ok(())
//! # }
//! ```

mod config;
pub mod core;
pub mod daemon;
mod error;
pub mod pe_id;
mod registration;

pub use crate::core::{Command, ElementKey, Elements, State, StateChange};
pub use config::{ElementConfig, ElementsConfig};
pub use error::RegisterError;
pub use registration::{PoolElement, Registration};
