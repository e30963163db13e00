//! Whom an end listens to, step by step.

use std::net::SocketAddr;
use std::time::Duration;

use super::{address, start};
use crate::plane::end::{Channel, End};
use crate::plane::{EndSettings, Latch, Reopen, SOFT, Source};

/// What happens to an end, and what is expected then.
enum Step {
    /// A packet from there at the RTP port: whether it is taken, and where media goes afterwards.
    Rtp(&'static str, bool, Option<&'static str>),
    /// The same at the RTCP port.
    Rtcp(&'static str, bool, Option<&'static str>),
    /// Time passes.
    Wait(Duration),
    /// New settings, and where media goes then.
    Change(EndSettings, Reopen, Option<&'static str>),
}
use Step::{Change, Rtcp, Rtp, Wait};

const SIGNALLED: &str = "192.0.2.1:4000";
const RTCP: &str = "192.0.2.1:4001";
const MAPPED: &str = "198.51.100.7:61000";
const SAME_HOST: &str = "192.0.2.1:5000";
const HINTED: &str = "203.0.113.9:7000";
const STRANGER: &str = "198.51.100.66:666";

fn signalled() -> EndSettings {
    EndSettings {
        rtp: Some(address(SIGNALLED)),
        rtcp: Some(address(RTCP)),
        ..EndSettings::default()
    }
}

fn hinted() -> EndSettings {
    EndSettings { hint: Some(address(HINTED).ip()), ..signalled() }
}

fn run(name: &str, settings: EndSettings, steps: &[Step]) {
    let mut now = start();
    let mut end = End::new(settings);
    for (index, step) in steps.iter().enumerate() {
        let (channel, expected) = match step {
            Rtp(source, taken, peer) => {
                let got = end.accept(now, Channel::Rtp, address(source));
                assert_eq!(got, *taken, "{name}, step {index}");
                (Channel::Rtp, peer)
            }
            Rtcp(source, taken, peer) => {
                let got = end.accept(now, Channel::Rtcp, address(source));
                assert_eq!(got, *taken, "{name}, step {index}");
                (Channel::Rtcp, peer)
            }
            Wait(time) => {
                now += *time;
                continue;
            }
            Change(settings, reopen, peer) => {
                end.change(now, settings.clone(), *reopen);
                (Channel::Rtp, peer)
            }
        };
        let peer: Option<SocketAddr> = expected.map(address);
        assert_eq!(end.target(channel).1, peer, "{name}, step {index}");
    }
}

#[test]
fn once() {
    run("before anything came", signalled(), &[Change(signalled(), Reopen::No, Some(SIGNALLED))]);
    run(
        "the first source stays",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Rtp(STRANGER, false, Some(MAPPED)),
            Rtp(MAPPED, true, Some(MAPPED)),
        ],
    );
    run(
        "the signalled address wins over a stranger that came first",
        signalled(),
        &[
            Rtp(STRANGER, true, Some(STRANGER)),
            Rtp(SIGNALLED, true, Some(SIGNALLED)),
            Rtp(STRANGER, false, Some(SIGNALLED)),
        ],
    );
    run(
        "the signalled host wins over a stranger, the very address over the host",
        signalled(),
        &[
            Rtp(STRANGER, true, Some(STRANGER)),
            Rtp(SAME_HOST, true, Some(SAME_HOST)),
            Rtp(STRANGER, false, Some(SAME_HOST)),
            Rtp("192.0.2.1:5002", false, Some(SAME_HOST)),
            Rtp(SIGNALLED, true, Some(SIGNALLED)),
            Rtp(SAME_HOST, false, Some(SIGNALLED)),
        ],
    );
    run(
        "where signalling came from wins over a stranger",
        hinted(),
        &[
            Rtp(STRANGER, true, Some(STRANGER)),
            Rtp(HINTED, true, Some(HINTED)),
            Rtp(STRANGER, false, Some(HINTED)),
            Rtp(SAME_HOST, false, Some(HINTED)),
        ],
    );
    run(
        "two strangers: the first",
        EndSettings::default(),
        &[Rtp(MAPPED, true, Some(MAPPED)), Rtp(STRANGER, false, Some(MAPPED))],
    );
}

#[test]
fn rtcp_has_a_latch_of_its_own() {
    run(
        "RTCP",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Rtcp("198.51.100.7:61001", true, Some("198.51.100.7:61001")),
            Rtcp(STRANGER, false, Some("198.51.100.7:61001")),
            Rtp(MAPPED, true, Some(MAPPED)),
        ],
    );
    run(
        "a stranger's RTCP gives way to the host that sends RTP",
        signalled(),
        &[
            Rtcp(STRANGER, true, Some(STRANGER)),
            Rtp(MAPPED, true, Some(MAPPED)),
            Rtcp("198.51.100.7:61001", true, Some("198.51.100.7:61001")),
        ],
    );
    run(
        "the host of a latched stranger is no recommendation for RTP",
        signalled(),
        &[Rtp(MAPPED, true, Some(MAPPED)), Rtp("198.51.100.7:61002", false, Some(MAPPED))],
    );
}

#[test]
fn never() {
    let settings = EndSettings { latch: Latch::Never, ..signalled() };
    run(
        "strict",
        settings.clone(),
        &[
            Rtp(STRANGER, false, Some(SIGNALLED)),
            Rtp(SIGNALLED, true, Some(SIGNALLED)),
            Rtp(SAME_HOST, false, Some(SIGNALLED)),
            Rtcp(RTCP, true, Some(RTCP)),
            Rtcp(SIGNALLED, false, Some(RTCP)),
        ],
    );
    run(
        "asymmetric",
        EndSettings { source: Source::Any, ..settings },
        &[Rtp(STRANGER, true, Some(SIGNALLED)), Rtp(SIGNALLED, true, Some(SIGNALLED))],
    );
    run(
        "nobody signalled",
        EndSettings { latch: Latch::Never, ..EndSettings::default() },
        &[Rtp(STRANGER, false, None)],
    );
}

#[test]
fn any_source_is_heard_and_does_not_move_anything() {
    run(
        "any",
        EndSettings { source: Source::Any, ..signalled() },
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Rtp(STRANGER, true, Some(MAPPED)),
            Rtp(SIGNALLED, true, Some(SIGNALLED)),
            Rtp(MAPPED, true, Some(SIGNALLED)),
        ],
    );
}

#[test]
fn signalling_opens_the_latch_again() {
    let moved = EndSettings { rtp: Some(address("192.0.2.1:4444")), ..signalled() };
    let held = EndSettings { rtp: None, ..signalled() };
    run(
        "another address",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(moved, Reopen::IfMoved, Some("192.0.2.1:4444")),
            Rtp("198.51.100.7:61002", true, Some("198.51.100.7:61002")),
            Rtp(MAPPED, false, Some("198.51.100.7:61002")),
        ],
    );
    run(
        "another host of the signalling",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(hinted(), Reopen::IfMoved, Some(SIGNALLED)),
            Rtp(HINTED, true, Some(HINTED)),
        ],
    );
    run(
        "another party with the same address",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(signalled(), Reopen::Fully, Some(SIGNALLED)),
            Rtp(STRANGER, true, Some(STRANGER)),
        ],
    );
    run(
        "hold and resume",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(held, Reopen::IfMoved, None),
            Change(signalled(), Reopen::IfMoved, Some(SIGNALLED)),
            Rtp(MAPPED, true, Some(MAPPED)),
        ],
    );
    run(
        "no new description",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(hinted(), Reopen::No, Some(MAPPED)),
            Wait(2 * SOFT),
            Rtp(STRANGER, false, Some(MAPPED)),
        ],
    );
}

#[test]
fn a_refresh_gives_way_to_another_source_after_silence_only() {
    run(
        "the phone goes on",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(signalled(), Reopen::IfMoved, Some(MAPPED)),
            Rtp(STRANGER, false, Some(MAPPED)),
            Rtp(MAPPED, true, Some(MAPPED)),
            Wait(2 * SOFT),
            Rtp(STRANGER, false, Some(MAPPED)),
        ],
    );
    run(
        "the phone has moved",
        signalled(),
        &[
            Rtp(MAPPED, true, Some(MAPPED)),
            Change(signalled(), Reopen::IfMoved, Some(MAPPED)),
            Wait(SOFT - Duration::from_millis(1)),
            Rtp(HINTED, false, Some(MAPPED)),
            Wait(Duration::from_millis(1)),
            Rtp(HINTED, true, Some(HINTED)),
            Rtp(MAPPED, false, Some(HINTED)),
        ],
    );
}

#[test]
fn one_port_for_both() {
    let settings = EndSettings { mux: true, ..signalled() };
    let mut end = End::new(settings);
    assert_eq!(end.target(Channel::Rtcp), (Channel::Rtp, Some(address(SIGNALLED))));
    assert!(end.accept(start(), Channel::Rtp, address(MAPPED)));
    assert_eq!(end.target(Channel::Rtcp), (Channel::Rtp, Some(address(MAPPED))));
    assert_eq!(end.target(Channel::Rtp), (Channel::Rtp, Some(address(MAPPED))));
}

#[test]
fn scopes_of_link_local_addresses_are_not_signalled() {
    let settings = EndSettings { rtp: Some(address("[fe80::1]:4000")), ..EndSettings::default() };
    let mut end = End::new(settings);
    let now = start();
    assert!(end.accept(now, Channel::Rtp, address("[fe80::2%3]:4000")));
    assert!(end.accept(now, Channel::Rtp, address("[fe80::1%3]:4000")));
    assert_eq!(end.target(Channel::Rtp).1, Some(address("[fe80::1%3]:4000")));
}
