//! Bugs planted on purpose: each is caught within a thousand seeds, by an invariant that is meant for it.

use dialtone_sim::{Plant, search};

#[test]
fn every_planted_bug_is_caught() {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    for plant in Plant::ALL {
        let failed = search(0..1000, threads, Some(plant), false, |_| ());
        let failed = failed.unwrap_or_else(|| panic!("{plant:?} is not noticed"));
        let violation = failed.violations.first().expect("a failed run has a violation");
        println!("{plant:?}: seed {}: {violation}", failed.seed);
    }
}
