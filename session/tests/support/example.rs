//! The counter, a program of its own. Tests of the whole system have it here as well.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Libraries that the example is made of: with an older one it is not the code that is tested.
const LIBRARIES: [&str; 8] = [
    "asap_client",
    "handlespace",
    "keys",
    "pool_element",
    "pool_user",
    "session",
    "transport",
    "wire",
];

/// The example, made of `source`. `cargo test --workspace` has built it beside this test, `cargo test --test NAME` has
/// not.
pub(crate) fn counter(source: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/NAME-…
    let folder = test.ancestors().nth(2).unwrap();
    let example = folder.join("examples/counter");
    let made = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let libraries = test.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let own = libraries.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let library = name.strip_suffix(".rlib").and_then(|name| name.strip_prefix("libdialtone_"));
        library
            .and_then(|name| name.rsplit_once('-'))
            .is_some_and(|(name, _)| LIBRARIES.contains(&name))
    });
    let newest = own.chain([source.to_owned()]).filter_map(|path| made(&path)).max();
    if made(&example) >= newest {
        return example;
    }
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "dialtone-session"])
        .args(["--example", "counter", "--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap())
        .status();
    assert!(built.unwrap().success());
    example
}
