//! The relays that are compared: ours, as part of a system, and rtpengine in user space. Each is started anew for every
//! round, so that none begins with the other's remains.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
};

use dialtone_ng::NG_PORT;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use serde::Serialize;

use super::super::Error;
use crate::launcher::{self, Launcher};

/// Where rtpengine is, in the slice.
const RTPENGINE_HOST: u8 = 90;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Dialtone,
    Rtpengine,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dialtone => "dialtone",
            Self::Rtpengine => "rtpengine",
        }
    }
}

/// The version of the rtpengine that is installed; `None` if none is.
pub(super) fn rtpengine_version() -> Option<String> {
    let output = Command::new("rtpengine").arg("--version").output().ok()?;
    // Some versions write it to standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(text.trim().trim_start_matches("Version:").trim().to_owned())
}

/// A relay that runs, until this is dropped.
pub(super) struct Relay<'l> {
    pub(super) pid: u32,
    pub(super) ng: SocketAddr,
    /// Where its media ports are.
    pub(super) media: IpAddr,
    running: Running<'l>,
}

enum Running<'l> {
    Ours(&'l mut Launcher, String),
    Theirs(Child),
}

impl<'l> Relay<'l> {
    pub(super) fn start(
        kind: Kind,
        launcher: &'l mut Launcher,
        threads: u32,
    ) -> Result<Self, Error> {
        match kind {
            Kind::Dialtone => {
                let name = launcher.start_media_relay(1)?.name().to_owned();
                let pid = launcher.process(&name)?.pid();
                let ng = launcher.addresses(&name)?.remove("ng");
                let ng = ng.and_then(|ng| ng.parse().ok()).ok_or(Error::NoAnswer)?;
                let (media, _) = launcher.media_ports(1);
                Ok(Self { pid, ng, media, running: Running::Ours(launcher, name) })
            }
            Kind::Rtpengine => {
                let own = launcher.slice().host(RTPENGINE_HOST);
                let log = launcher.folder().join("run/rtpengine.log");
                let child = rtpengine(own, threads, &log).map_err(|source| {
                    launcher::Error::Start { name: "rtpengine".into(), source }
                })?;
                let ng = SocketAddr::new(own, NG_PORT);
                Ok(Self { pid: child.id(), ng, media: own, running: Running::Theirs(child) })
            }
        }
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Ours(launcher, name) => {
                let _ = launcher.kill(name, Signal::SIGKILL);
            }
            Running::Theirs(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// As Debian has it, but in user space only, and without a configuration file.
fn rtpengine(own: IpAddr, threads: u32, log: &std::path::Path) -> std::io::Result<Child> {
    // Four descriptors a call.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let log = File::create(log)?;
    // It is to die with this process, even when that is killed.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "rtpengine", "--table=-1", "--config-file=none"])
        .arg(format!("--interface={own}"))
        .arg(format!("--listen-ng={own}:{NG_PORT}"))
        .args(["--port-min=30000", "--port-max=60000"])
        .arg(format!("--num-threads={threads}"))
        .args(["--foreground", "--log-stderr", "--log-level=3", "--tos=0"])
        .args(["--timeout=600", "--silent-timeout=3600"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
