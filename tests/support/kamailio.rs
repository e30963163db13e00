//! Kamailio (Debian's) as a registrar and proxy of its own, whose calls go through a media relay.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dialtone::launcher::{Pid, Signal, wait_for};

/// How long it may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Where Debian keeps its modules.
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules/";

/// Whether there is a Kamailio with the module for relays.
pub(crate) fn is_installed() -> bool {
    let found = Path::new(MODULES).join("rtpengine.so").exists();
    if !found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "kamailio not installed");
        println!("skipped: kamailio not installed");
    }
    found
}

/// A running Kamailio for the domain `dialtone.test`.
#[derive(Debug)]
pub(crate) struct Kamailio {
    process: Child,
    /// Where phones reach it, by UDP.
    pub(crate) sip: SocketAddr,
    folder: PathBuf,
}

impl Kamailio {
    /// Starts it and waits until it answers. `flags` are what it asks of the relay that speaks NG at `relay`, in each
    /// offer and answer.
    pub(crate) fn start(folder: &Path, address: IpAddr, relay: SocketAddr, flags: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let sip = SocketAddr::new(address, 5060);
        let config = configuration(sip, relay, flags);
        fs::write(folder.join("kamailio.cfg"), config).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let process = Command::new("kamailio")
            .args(["-DD", "-E", "-m", "64", "-M", "8", "-f"])
            .arg(folder.join("kamailio.cfg"))
            .arg("-Y")
            .arg(folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let kamailio = Self { process, sip, folder: folder.to_owned() };
        let answers = wait_for(LIMIT, || kamailio.answers().then_some(()));
        assert!(answers.is_some(), "Kamailio does not answer");
        kamailio
    }

    fn answers(&self) -> bool {
        let socket = UdpSocket::bind((self.sip.ip(), 0)).unwrap();
        let (local, sip) = (socket.local_addr().unwrap(), self.sip);
        let request = format!(
            "OPTIONS sip:{sip} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{:x}\r\nMax-Forwards: 70\r\n\
             From: <sip:test@{local}>;tag=t\r\nTo: <sip:{sip}>\r\nCall-ID: {:x}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
            fastrand::u64(..),
            fastrand::u64(..),
        );
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0; 2_048];
        socket.send_to(request.as_bytes(), sip).is_ok() && socket.recv(&mut answer).is_ok()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // Its main process ends the others; killed, it would leave them behind.
        let _ = nix::sys::signal::kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        if wait_for(LIMIT, || self.process.try_wait().ok().flatten()).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- Kamailio at {} ---\n{}", self.sip, self.log());
        }
    }
}

/// Bindings in memory, stays in the route of every call, asks for a relay in every offer and answer. What the relay says
/// of a call comes with the answer to BYE: X-Totals, as `query` answered before it, and X-MOS, as `delete` did.
fn configuration(sip: SocketAddr, relay: SocketAddr, flags: &str) -> String {
    let modules = [
        "kex",
        "corex",
        "tm",
        "tmx",
        "sl",
        "rr",
        "pv",
        "maxfwd",
        "usrloc",
        "registrar",
        "textops",
        "siputils",
        "sanity",
        "xlog",
        "rtpengine",
    ];
    let modules: String =
        modules.iter().map(|name| format!("loadmodule \"{name}.so\"\n")).collect();
    format!(
        r#"#!KAMAILIO
debug=2
log_stderror=yes
fork=yes
children=2
disable_tcp=yes
auto_aliases=no
alias="dialtone.test"
dns=no
rev_dns=no
listen=udp:{sip}
mpath="{MODULES}"
{modules}
modparam("rr", "append_fromtag", 1)
modparam("usrloc", "db_mode", 0)
modparam("rtpengine", "rtpengine_sock", "udp:{relay}")
modparam("rtpengine", "mos_average_pv", "$avp(mos)")
modparam("rtpengine", "mos_average_samples_pv", "$avp(samples)")

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (is_method("OPTIONS")) {{ sl_send_reply("200", "OK"); exit; }}
    if (is_method("CANCEL")) {{
        if (t_check_trans()) {{ rtpengine_delete(); t_relay(); }}
        exit;
    }}
    if (has_totag()) {{
        if (!loose_route()) {{
            if (is_method("ACK") && t_check_trans()) {{ t_relay(); }}
            exit;
        }}
        if (is_method("INVITE|ACK|UPDATE") && has_body("application/sdp")) {{ route(MEDIA); }}
        if (is_method("INVITE|UPDATE")) {{ t_on_reply("MEDIA"); }}
        if (is_method("BYE")) {{
            $avp(totals) = $rtpstat;
            rtpengine_delete();
            t_on_reply("END");
        }}
        t_relay();
        exit;
    }}
    if (!is_method("ACK")) {{ if (t_precheck_trans()) {{ t_check_trans(); exit; }} t_check_trans(); }}
    if (is_method("REGISTER")) {{ save("location"); exit; }}
    remove_hf("Route");
    if (is_method("INVITE")) {{ record_route(); }}
    if (!lookup("location")) {{ sl_send_reply("404", "Not Found"); exit; }}
    if (is_method("INVITE")) {{
        if (has_body("application/sdp")) {{ route(MEDIA); }}
        t_on_reply("MEDIA");
        t_on_failure("FAILED");
    }}
    t_relay();
    exit;
}}

route[MEDIA] {{
    if (!rtpengine_manage("{flags}")) {{
        xlog("L_ERR", "no media for $ci\n");
    }}
}}

onreply_route[MEDIA] {{
    if (has_body("application/sdp")) {{ route(MEDIA); }}
}}

onreply_route[END] {{
    append_hf("X-Totals: $avp(totals)\r\n");
    append_hf("X-MOS: $avp(mos) of $avp(samples)\r\n");
}}

failure_route[FAILED] {{
    rtpengine_delete();
}}
"#,
    )
}
