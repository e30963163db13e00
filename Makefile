# The gate is `make verify`; CI calls it as it stands.
.PHONY: verify format lint test doc audit conformance

verify: format lint test doc

format:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --quiet -- --deny warnings

test:
	@scripts/test

doc:
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --quiet

# Licences, bans and sources of every dependency. Once: cargo install --locked cargo-deny
audit:
	cargo deny --all-features check licenses bans sources

# Writes docs/conformance.md anew, from what tests say that they show. The table is a program of its own for this: it needs
# nothing that would have to be built.
conformance:
	@mkdir -p target
	@CARGO_MANIFEST_DIR=$(CURDIR) rustc --edition 2024 --test tests/conformance/table.rs -o target/conformance-table
	@UPDATE_CONFORMANCE=1 target/conformance-table --quiet
