//! The launcher that localnet and the multi-process tests share.
