//! A conference server of another maker in the pool: SIPp over TCP stands for it, and a sidecar for its knowledge of
//! RSerPool. It has to know nothing of pools: requests inside its calls go along the Record-Route that it was given.

#[path = "support/sip.rs"]
#[expect(dead_code, reason = "a phone calls no other phone")]
mod sip;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use dialtone::launcher::{Exclusive, Launcher, Layout, Sidecar, Signal, wait_for};
use sip::{Dialog, Phone, Sip, uri};

const REGISTRAR: &str = "registrar-ns-1";
const POOL: &str = "conference";
const LIMIT: Duration = Duration::from_secs(10);

fn is_installed() -> bool {
    let sipp = Command::new("sipp").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if sipp.is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "sipp not installed");
        println!("skipped: sipp not installed");
    }
    sipp.is_ok()
}

/// One of everything, and the stand-in for a conference server.
fn start() -> (Launcher, SocketAddr) {
    let layout = Layout { registrars: 1, conferences: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let stand_in = stand_in(&mut launcher);
    for name in [launcher.spawn_location_db(), launcher.spawn_gateway(1)] {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    // After the pools that it uses: who finds an empty one looks again later.
    launcher.start_proxy(1).unwrap();
    await_elements(&mut launcher, 1);
    (launcher, stand_in)
}

/// The stand-in, started and checked by its sidecar.
fn stand_in(launcher: &mut Launcher) -> SocketAddr {
    let own = SocketAddr::new(launcher.slice().host(90), 5060);
    let scenario = format!("{}/tests/sipp/conference.xml", env!("CARGO_MANIFEST_DIR"));
    let folder = launcher.folder().join("run");
    let sipp = [
        "sh".to_owned(),
        "-c".to_owned(),
        // SIPp writes where it stands. It answers the sidecar's OPTIONS by itself.
        format!(
            "cd {} && exec sipp -sf {scenario} -t t1 -i {} -p {} -mp 6000 -aa -nostdin -trace_err -error_file sipp.log",
            folder.display(),
            own.ip(),
            own.port(),
        ),
    ];
    let sidecar = Sidecar {
        name: "stand-in".to_owned(),
        pool: POOL.to_owned(),
        transport: format!("tcp:{own}"),
        options: ["--check=sip", "--policy=lu:50%"].map(str::to_owned).to_vec(),
        command: sipp.map(Into::into).to_vec(),
    };
    launcher.start_sidecar(&sidecar).unwrap();
    own
}

fn await_elements(launcher: &mut Launcher, count: usize) {
    let found = wait_for(LIMIT, || {
        let pools = launcher.pools(REGISTRAR)?;
        (pools.elements(POOL).len() == count).then_some(())
    });
    assert!(found.is_some(), "not {count}: {:?}", launcher.pools(REGISTRAR));
}

/// A registered phone.
fn phone(launcher: &mut Launcher, user: &str, host: u8) -> Phone {
    let gateway = launcher.addresses("sip-gateway-1").unwrap()["sip-udp"].parse().unwrap();
    let own: IpAddr = launcher.slice().host(host);
    let mut phone = Phone::new(user, UdpSocket::bind((own, 0)).unwrap(), gateway);
    phone.register();
    phone
}

/// Calls a room; the answer, acknowledged.
fn enter(phone: &mut Phone, room: &str) -> (Dialog, Sip) {
    let ip = phone.local.ip();
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    );
    let headers = format!("{}Content-Type: application/sdp\r\n", phone.contact());
    let uri = format!("sip:conf-{room}@dialtone.test");
    let invite = phone.request("INVITE", &uri, &headers, &sdp);
    let answer = phone.ask(&invite);
    assert_eq!(answer.status(), 200, "{}", answer.start());
    let dialog = Dialog::new(&answer);
    let ack = dialog.request(phone, "ACK", &dialog.routes);
    phone.send(&ack);
    (dialog, answer)
}

#[test]
fn any_sip_server_can_stand_in_the_pool() {
    if !is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (mut launcher, own) = start();
    let mut alice = phone(&mut launcher, "alice", 201);
    let mut bob = phone(&mut launcher, "bob", 202);

    // It hangs up by itself.
    let (dialog, answer) = enter(&mut alice, "board");
    assert!(uri(answer.value("Contact")).contains(&own.to_string()), "{}", answer.value("Contact"));
    let bye = alice.expect("a BYE of the server", |message| message.is("BYE"));
    assert_eq!(bye.value("Call-ID"), dialog.call_id);
    alice.answer(&bye, "200 OK", "", "");

    // A participant hangs up.
    let (dialog, _) = enter(&mut bob, "board");
    let bye = dialog.request(&mut bob, "BYE", &dialog.routes);
    assert_eq!(bob.ask(&bye).status(), 200);

    // Ours beside it: the room stays where it is.
    launcher.start_conference(1).unwrap();
    await_elements(&mut launcher, 2);
    let (dialog, answer) = enter(&mut bob, "board");
    assert!(uri(answer.value("Contact")).contains(&own.to_string()), "{}", answer.value("Contact"));
    let bye = dialog.request(&mut bob, "BYE", &dialog.routes);
    assert_eq!(bob.ask(&bye).status(), 200);
    let listed = conferences(&launcher);
    assert!(listed.contains(&format!("at {own} does not say what it mixes")), "{listed}");

    // It dies, and the room is ours.
    launcher.kill_tree("stand-in", Signal::SIGKILL).unwrap();
    let (_, answer) = enter(&mut alice, "board");
    let ours = launcher.addresses("conference-1").unwrap()["sip-core"].clone();
    assert!(uri(answer.value("Contact")).contains("conf-board@"), "{}", answer.value("Contact"));
    await_elements(&mut launcher, 1);
    let listed = conferences(&launcher);
    let line = listed.lines().find(|line| line.starts_with("board ")).unwrap_or_default();
    assert!(line.contains(&ours) && line.contains("sip:alice@dialtone.test"), "{listed}");
}

/// What `dialtone pool-user conferences` says.
fn conferences(launcher: &Launcher) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dialtone"))
        .args(["pool-user", "conferences", "--admin"])
        .arg(format!("http://{}:9090", launcher.slice().host(1)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}
