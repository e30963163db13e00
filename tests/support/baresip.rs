//! baresip, a real phone: without a sound card it plays a file and records what it hears.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use dialtone::launcher::wait_for;
use serde_json::{Value, json};

use crate::{
    netns::{Host, missing},
    tone,
};

/// How long the phone may take for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// The phone's control port.
const CONTROL: u16 = 4444;

/// Whether there is a baresip.
pub(crate) fn is_installed() -> bool {
    let found = Command::new("baresip").arg("-h").stdin(Stdio::null()).output().is_ok();
    if !found {
        missing("baresip", "not installed");
    }
    found
}

/// Who the phone is.
#[derive(Debug)]
pub(crate) struct Account<'a> {
    pub(crate) user: &'a str,
    /// What it answers with when it is asked for a password.
    pub(crate) password: &'a str,
    pub(crate) gateway: SocketAddr,
    /// `udp` or `tcp`.
    pub(crate) transport: &'a str,
    /// What it plays to others, if anything.
    pub(crate) tone: Option<&'a Path>,
}

/// A running phone. Answers every call.
#[derive(Debug)]
pub(crate) struct Baresip {
    process: Child,
    /// What it has heard is in `heard`.
    folder: PathBuf,
    control: TcpStream,
    /// Everything that it said on its control connection.
    said: Arc<Mutex<Vec<Value>>>,
}

impl Baresip {
    /// Starts it on a host and waits until it is registered; `folder` is its own.
    pub(crate) fn start(folder: &Path, host: &Host, account: &Account<'_>) -> Self {
        let Account { user, password, gateway, transport, tone } = account;
        fs::create_dir_all(folder.join("heard")).unwrap();
        let (address, path) = (host.address, folder.display());
        let source = match tone {
            Some(tone) => format!("aufile,{}", tone.display()),
            None => "aubridge,silence".to_owned(),
        };
        let modules = ["g711", "aufile", "sndfile", "aubridge", "uuid"];
        let modules: String = modules.iter().map(|name| format!("module {name}.so\n")).collect();
        let config = format!(
            "poll_method epoll\nsip_listen {address}:5060\naudio_path /usr/share/baresip\n\
             audio_source {source}\naudio_player aubridge,null\naudio_alert aubridge,alert\n\
             ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\naudio_buffer 20-160\n\
             module_path {}\n{modules}module_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
             snd_path {path}/heard\nctrl_tcp_listen {address}:{CONTROL}\n",
            modules_folder(),
        );
        fs::write(folder.join("config"), config).unwrap();
        let account = format!(
            "<sip:{user}@dialtone.test;transport={transport}>;auth_user={user};auth_pass={password};\
             outbound=\"sip:{gateway};transport={transport}\";regint=3600;answermode=auto;\
             audio_codecs=PCMU/8000/1;ptime=20\n"
        );
        fs::write(folder.join("accounts"), account).unwrap();
        fs::write(folder.join("contacts"), "").unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut process = host
            .command("baresip")
            .arg("-f")
            .arg(folder)
            .arg("-4")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let connect = || host.enter(|| TcpStream::connect((address, CONTROL)).ok());
        let Some(control) = wait_for(LIMIT, connect) else {
            let _ = process.kill();
            panic!("{user} has no control port:\n{}", log_of(folder));
        };
        let said = Arc::<Mutex<Vec<Value>>>::default();
        let (stream, into) = (control.try_clone().unwrap(), Arc::clone(&said));
        thread::spawn(move || while_it_speaks(stream, &into));
        let mut phone = Self { process, folder: folder.to_owned(), control, said };
        let registered = wait_for(LIMIT, || {
            let registrations = phone.command("reginfo", "");
            registrations.contains("OK").then_some(())
        });
        assert!(registered.is_some(), "{user} is not registered: {}", phone.command("reginfo", ""));
        phone
    }

    /// Gives a command; its answer.
    pub(crate) fn command(&mut self, command: &str, parameters: &str) -> String {
        let token = fastrand::u64(..).to_string();
        let text = json!({ "command": command, "params": parameters, "token": token }).to_string();
        self.control.write_all(format!("{}:{text},", text.len()).as_bytes()).unwrap();
        let answer = self.await_word(|word| word["token"] == *token);
        answer["data"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for an event of a call.
    pub(crate) fn await_event(&self, kind: &str) -> Value {
        self.await_word(|word| word["type"] == *kind)
    }

    /// What it has heard since it was started, or has forgotten. baresip 1.0 stops recording when a call is put on hold.
    pub(crate) fn heard(&self) -> Vec<i16> {
        self.recordings().iter().flat_map(|recording| tone::read(recording)).collect()
    }

    /// After a call: as if there had been none.
    pub(crate) fn forget(&self) {
        self.said.lock().unwrap().clear();
        for recording in self.recordings() {
            fs::remove_file(recording).unwrap();
        }
    }

    fn recordings(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.join("heard")).unwrap().flatten();
        let mut recordings: Vec<PathBuf> = files.map(|file| file.path()).collect();
        recordings.retain(|path| path.to_string_lossy().ends_with("-dec.wav"));
        recordings.sort();
        recordings
    }

    fn await_word(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = || self.said.lock().unwrap().iter().find(|word| is_it(word)).cloned();
        wait_for(LIMIT, find).unwrap_or_else(|| panic!("{:#?}", self.said.lock().unwrap()))
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.folder.display(), log_of(&self.folder));
        }
    }
}

/// Without what it repeats ten times a second.
fn log_of(folder: &Path) -> String {
    let log = fs::read(folder.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.split_inclusive(['\r', '\n']).filter(|line| !line.contains("(bit/s)")).collect()
}

/// Debian has them by architecture or not, by release.
fn modules_folder() -> String {
    let plain = Path::new("/usr/lib/baresip/modules");
    let by_architecture = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    by_architecture
        .map(|entry| entry.path().join("baresip/modules"))
        .find(|path| path.is_dir() && path != plain)
        .unwrap_or_else(|| plain.to_owned())
        .display()
        .to_string()
}

/// Reads netstrings with JSON inside.
fn while_it_speaks(mut stream: TcpStream, said: &Mutex<Vec<Value>>) {
    let mut next = || -> io::Result<Value> {
        let mut length = 0;
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte)?;
            match byte[0] {
                b'0'..=b'9' => length = 10 * length + usize::from(byte[0] - b'0'),
                _ => break,
            }
        }
        let mut text = vec![0; length + 1];
        stream.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text[..length])?)
    };
    while let Ok(word) = next() {
        said.lock().unwrap().push(word);
    }
}
