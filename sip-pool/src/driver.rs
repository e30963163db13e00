//! The tokio side of the core network.
