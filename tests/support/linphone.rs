//! linphonec, a real phone of another make: plays a file and records what it hears, too.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use dialtone::launcher::wait_for;

use crate::{
    baresip::Account,
    netns::{Host, missing},
    tone,
};

/// How long the phone may take for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether there is a linphonec.
pub(crate) fn is_installed() -> bool {
    let found = Command::new("linphonec").arg("-v").stdin(Stdio::null()).output().is_ok();
    if !found {
        missing("linphonec", "not installed");
    }
    found
}

/// A running phone. Takes no calls.
#[derive(Debug)]
pub(crate) struct Linphone {
    process: Child,
    commands: ChildStdin,
    folder: PathBuf,
    user: String,
}

impl Linphone {
    /// Starts it on a host and waits until it is registered; `folder` is its own.
    pub(crate) fn start(folder: &Path, host: &Host, account: &Account<'_>) -> Self {
        let Account { user, password, gateway, transport, tone } = account;
        let address = host.address;
        // It does not start without these folders.
        for name in [".local/share/linphone", ".config/linphone"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        // Ports of -1 are off.
        let config = format!(
            "[sip]\nsip_port=5060\nsip_tcp_port=-1\nsip_tls_port=-1\nuse_ipv6=0\nbind_address={address}\n\
             default_proxy=0\nregister_only_when_network_is_up=0\nguess_hostname=0\n\
             contact=\"{user}\" <sip:{user}@{address}>\nmedia_encryption=none\n\
             [sound]\nuse_files=1\nlocal_ring=/dev/null\nremote_ring=\nechocancellation=0\n\
             [video]\nenabled=0\ncapture=0\ndisplay=0\nautomatically_initiate=0\n[lime]\nenabled=0\n\
             [misc]\nuuid=00000000-0000-4000-8000-000000000011\n\
             [proxy_0]\nreg_proxy=<sip:{gateway};transport={transport}>\n\
             reg_route=<sip:{gateway};transport={transport};lr>\nreg_identity=<sip:{user}@dialtone.test>\n\
             reg_expires=3600\nreg_sendregister=1\npublish=0\n\
             [auth_info_0]\nusername={user}\npasswd={password}\nrealm=dialtone.test\ndomain=dialtone.test\n\
             [audio_codec_0]\nmime=PCMU\nrate=8000\nenabled=1\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        let output = fs::File::create(folder.join("log")).unwrap();
        let mut process = host
            .command("linphonec")
            .arg("-c")
            .arg(folder.join("config"))
            .args(["-d", "0"])
            .env("HOME", folder)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let user = (*user).to_owned();
        let mut phone = Self { process, commands, folder: folder.to_owned(), user };
        phone.command("soundcard use files");
        if let Some(tone) = tone {
            phone.command(&format!("play {}", tone.display()));
        }
        phone.command(&format!("record {}", phone.recording().display()));
        let registered = wait_for(LIMIT, || {
            thread::sleep(Duration::from_millis(100));
            phone.command("status register");
            phone.has_said("registered, identity=").then_some(())
        });
        assert!(registered.is_some(), "{} is not registered", phone.user);
        phone
    }

    /// Gives a command.
    pub(crate) fn command(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// Waits until it has said this.
    pub(crate) fn await_word(&self, word: &str) {
        let found = wait_for(LIMIT, || self.has_said(word).then_some(()));
        assert!(found.is_some(), "{} does not say {word:?}", self.user);
    }

    fn has_said(&self, word: &str) -> bool {
        self.said().contains(word)
    }

    fn said(&self) -> String {
        let said = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// What it has heard in its only call.
    pub(crate) fn heard(&self) -> Vec<i16> {
        tone::read(&self.recording())
    }

    fn recording(&self) -> PathBuf {
        self.folder.join("heard.wav")
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.user, self.said());
        }
    }
}
