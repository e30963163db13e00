//! A network of a test's own: the test program runs its test once more as the first process of new network, mount and
//! process namespaces. When that process ends, however it ends, the kernel ends everything that it started and removes
//! all its interfaces; nothing has a name outside.

use std::{
    env,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// Names the test that runs inside.
const INSIDE: &str = "DIALTONE_TEST_NETWORK";

/// Where the test's servers are: on the bridge between all [`Network::host`]s.
pub(crate) const SERVERS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A peer is missing: the test counts as skipped, except in CI.
pub(crate) fn missing(peer: &str, why: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{peer} {why}");
    println!("skipped: {peer} {why}");
}

/// Runs `body` in a network of its own; `test` is the name of the calling test.
pub(crate) fn within(test: &str, body: impl FnOnce(&Network)) {
    if env::var(INSIDE).as_deref() == Ok(test) {
        // Whoever waits for us has the other end; nobody else needs us.
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(1);
        });
        // The test's name stands on this line already.
        println!();
        return body(&Network::new());
    }
    let namespaces = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]);
        command
    };
    // What the test needs of the system, before it begins.
    for (peer, script) in [
        ("iproute2", "ip -V"),
        ("network namespaces", "mount -t tmpfs none /run && ip netns add x"),
    ] {
        let tried = namespaces().args(["sh", "-c", script]).stdin(Stdio::null()).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            let why = if peer == "iproute2" { "not installed" } else { "not allowed here" };
            return missing(peer, why);
        }
    }
    let folder = env::temp_dir().join(format!("dialtone-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut child = namespaces()
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        // Process numbers begin at 1 inside: a place where they do not meet those of others.
        .env("TMPDIR", &folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ends_with_us = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let _ = fs::remove_dir_all(&folder);
    for text in [output.stdout, output.stderr] {
        for line in String::from_utf8_lossy(&text).lines() {
            let is_for_all = line.starts_with("skipped: ") || line.starts_with("table: ");
            println!("{}{line}", if is_for_all { "" } else { "| " });
        }
    }
    assert!(output.status.success(), "{test} failed in its network: {}", output.status);
}

/// A bridge that the test's own process is on.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    fn new() -> Self {
        // `ip netns` keeps its names there; ours are nobody else's business.
        run("mount -t tmpfs none /run");
        run("ip link set lo up");
        run("ip link add bridge type bridge");
        run(&format!("ip address add {SERVERS}/24 dev bridge"));
        run("ip link set bridge up");
        Self(())
    }

    /// A host of this name and address on the bridge; others reach nothing but each other and the servers.
    pub(crate) fn host(&self, name: &str, address: Ipv4Addr) -> Host {
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add to-{name} type veth peer name eth0 netns {name}"));
        run(&format!("ip link set to-{name} master bridge up"));
        run(&format!("ip -n {name} address add {address}/24 dev eth0"));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} link set eth0 up"));
        Host { name: name.to_owned(), address }
    }
}

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

impl Host {
    /// A command that runs there.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// Calls `f` there; sockets that it makes stay there.
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let inside = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

/// Runs a command line; it must succeed.
pub(crate) fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
