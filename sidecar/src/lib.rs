//! `dialtone pool-element`: puts a server that was not written for RSerPool into a pool.
//!
//! - [`check`]: is the server healthy? Checks are a trait; more kinds can be added.
//! - [`gate`]: from the checks' results, may the element be registered? A core without IO.
//! - [`child`]: the server as a child process that neither outlives the sidecar nor leaves its own children behind.
//! - [`galera`]: nodes of a MariaDB cluster: whom they join, how they come back, the arbitrator.
//! - [`mysql`]: is a MariaDB server, or a node of a cluster, healthy?
//! - [`ng`]: does a media relay answer, and how much has it to do?
//! - [`options`]: the words of the command line.
//! - [`cli`]: the program.
//!
//! # Tasks
//! | task | owns | ends when |
//! |---|---|---|
//! | main (the thread that started the process) | the gate, the registration, the child | shutdown, or the child exits |
//! | checker | the check | main drops its receiver |
//! | load reporter, if there is a capacity | how to ask for the load | main drops its receiver |
//! | agent (in `asap-client`) | the association with the registrar | main stops it |

pub mod check;
pub mod child;
pub mod cli;
pub mod galera;
pub mod gate;
pub mod mysql;
pub mod ng;
pub mod options;
mod run;
