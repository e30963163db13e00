//! Bugs planted on purpose: each is caught within the stated number of seeds, by an invariant that is meant for it.

use dialtone_sim::{Bugs, search};

fn caught(bugs: Bugs, seeds: u64) -> String {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let failed = search(0..seeds, threads, bugs, false, |_| ());
    let failed = failed.unwrap_or_else(|| panic!("{bugs:?} is not noticed in {seeds} seeds"));
    let violation = failed.violations.first().expect("a failed run has a violation");
    println!("{bugs:?}: seed {}: {violation}", failed.seed);
    violation.invariant.to_owned()
}

/// Registrars with different histories never agree on a checksum.
#[test]
fn a_checksum_folded_before_subtraction() {
    caught(Bugs { folded_subtraction: true, ..Bugs::default() }, 20);
}

/// What was missed while the association was down stays missed, since checksums do not cover attributes.
#[test]
fn no_resync_after_an_association_returned() {
    caught(Bugs { no_resync_on_return: true, ..Bugs::default() }, 100);
}

/// TAKEOVER_SERVER moves only what the dead registrar owned.
#[test]
fn a_takeover_that_moves_everything() {
    caught(Bugs { takeover_moves_all: true, ..Bugs::default() }, 20);
}
