//! Routing rules with virtual time.
