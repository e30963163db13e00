//! A sidecar puts rtpengine into the pool of media relays: while it answers, and with its load.

use std::{path::Path, time::Duration};

use dialtone::launcher::{Exclusive, Launcher, Layout, Sidecar, Signal, wait_for};
use dialtone_ng::message::{Command, Request};

use crate::rtpengine::{self, NgUser, Rtpengine};

const REGISTRAR: &str = "registrar-ns-1";
const POOL: &str = "media-relay";

/// Calls that the relay is said to carry.
const CAPACITY: u32 = 8;

/// What is promised is a second for evidence, two for silence, and a second for a load; asserted at three times that:
/// other programs run at the same time.
const LIMIT: Duration = Duration::from_secs(6);

/// A registrar, an rtpengine, and the sidecar `rtpengine` that has put it into the pool.
fn start(options: &[&str]) -> (Launcher, Rtpengine) {
    let layout = Layout { registrars: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let relay = launch(&launcher);
    let sidecar = Sidecar {
        name: "rtpengine".to_owned(),
        pool: POOL.to_owned(),
        transport: format!("udp:{}", relay.ng),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        command: Vec::new(),
    };
    launcher.start_sidecar(&sidecar).unwrap();
    assert_eq!(launcher.addresses("rtpengine").unwrap()["ng"], relay.ng.to_string());
    (launcher, relay)
}

fn launch(launcher: &Launcher) -> Rtpengine {
    let folder: &Path = &launcher.folder().join("rtpengine");
    Rtpengine::start(folder, launcher.slice().host(80), &(30_000..=30_999))
}

fn await_elements(launcher: &mut Launcher, count: usize) {
    let found = wait_for(LIMIT, || {
        let pools = launcher.pools(REGISTRAR)?;
        (pools.elements(POOL).len() == count).then_some(())
    });
    assert!(found.is_some(), "not {count} relays: {:?}", launcher.pools(REGISTRAR));
}

fn await_load(launcher: &mut Launcher, relay: &Rtpengine, load: u32) {
    let address = relay.ng.to_string();
    let loads = |launcher: &mut Launcher| launcher.loads(REGISTRAR, POOL);
    let found = wait_for(LIMIT, || (loads(launcher)?.get(&address) == Some(&load)).then_some(()));
    assert!(found.is_some(), "{address} has not load {load}: {:?}", loads(launcher));
}

#[test]
fn a_relay_is_in_the_pool_while_it_answers() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (mut launcher, relay) = start(&["--check=ng"]);
    await_elements(&mut launcher, 1);
    relay.signal(Signal::SIGSTOP);
    await_elements(&mut launcher, 0);
    relay.signal(Signal::SIGCONT);
    await_elements(&mut launcher, 1);
    drop(relay);
    await_elements(&mut launcher, 0);
    let _relay = launch(&launcher);
    await_elements(&mut launcher, 1);
}

#[test]
fn a_relay_reports_its_load() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let capacity = format!("--capacity={CAPACITY}");
    let (mut launcher, relay) = start(&["--check=ng", &capacity]);
    await_load(&mut launcher, &relay, 0);
    let user = NgUser::new(relay.ng);
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";
    let calls: Vec<String> = (0..CAPACITY + 2).map(|n| format!("call-{n}")).collect();
    let request = |command: Command<'static>, call: &str| {
        let request = Request {
            call_id: Some(call.as_bytes()),
            from_tag: Some(b"a"),
            sdp: (command == Command::Offer).then_some(sdp.as_bytes()),
            ..Request::new(command)
        };
        let answer = user.ask(&request);
        let answer = dialtone_ng::message::Reply::decode(&answer).unwrap();
        assert_eq!(answer.outcome, dialtone_ng::message::Outcome::Ok, "{answer:?}");
    };
    let half = CAPACITY as usize / 2;
    calls[..half].iter().for_each(|call| request(Command::Offer, call));
    await_load(&mut launcher, &relay, u32::MAX / 2);
    calls[half..].iter().for_each(|call| request(Command::Offer, call));
    await_load(&mut launcher, &relay, u32::MAX);
    calls.iter().for_each(|call| request(Command::Delete, call));
    await_load(&mut launcher, &relay, 0);
}
