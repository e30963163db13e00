//! Scenarios on gateway cores in virtual time: gateways are real, proxies and phones are models.

mod calls;
mod dialogs;
mod failover;
mod hostile;
mod lab;
