//! A cable that can be pulled: rules in the network namespace of this process that drop what comes from or goes to an
//! address.

use std::{
    ffi::OsString,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Tells a process that it has a network of its own.
const INSIDE: &str = "DIALTONE_OWN_NETWORK";

/// Starts this program again in a network of its own, where nobody else feels a cut; returns only if that is not
/// possible, and why. `None`: it runs there already.
pub(super) fn enter() -> Option<String> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let namespace = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.arg("--net");
        command
    };
    let tried = namespace()
        .args(["sh", "-c", "ip link set lo up && nft list ruleset"])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => return Some(error.to_string()),
    }
    let binary = match std::env::current_exe() {
        Ok(binary) => binary,
        Err(error) => return Some(error.to_string()),
    };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = namespace()
        .args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(binary)
        .args(arguments)
        .env(INSIDE, "1")
        .exec();
    Some(error.to_string())
}

/// Cuts a host off: from all others, and from those who use the same address to talk to its server.
pub(super) fn cut(server: SocketAddr) -> io::Result<()> {
    let (host, port) = (server.ip(), server.port());
    let family = if matches!(host, IpAddr::V4(_)) { "ip" } else { "ip6" };
    // Dropped on arrival: a sender whose packets are dropped is told.
    nft(&format!(
        "table inet dialtone_cut {{\n chain arriving {{\n  type filter hook input priority 0; policy accept;\n\
         \x20 {family} saddr {host} {family} daddr != {host} drop\n\
         \x20 {family} daddr {host} {family} saddr != {host} drop\n\
         \x20 {family} daddr {host} tcp dport {{ {port}, 4567, 4568 }} drop\n\
         \x20 {family} saddr {host} tcp sport {{ {port}, 4567, 4568 }} drop\n }}\n}}\n"
    ))
}

/// Mends what was cut.
pub(super) fn mend() -> io::Result<()> {
    nft("delete table inet dialtone_cut\n")
}

fn nft(rules: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}
