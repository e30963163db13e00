//! Subcommand dispatch: one binary, a subcommand per daemon and tool.
fn main() {}
