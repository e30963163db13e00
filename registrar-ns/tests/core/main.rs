//! Scenarios for registrar cores on a virtual network. Names carry the identifiers of the conformance checklist
//! where one row is what a test shows.

mod element;
mod world;

mod chaos;
mod discovery;
mod floods;
mod monitoring;
mod noise;
mod registration;
mod security;
mod startup;
mod subscriptions;
mod takeover;
mod unknown;
