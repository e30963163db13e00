//! What a relay refuses when there is too much, and what it says about its load.

use super::*;
use crate::core::{Limits, Sample};

fn limited(limits: Limits) -> Lab {
    Lab::with(Settings { limits, ..settings() })
}

const NONE: Limits = Limits { sessions: 1_000, bandwidth: None, load: None };

/// An offer for a new call by somebody who can be told of limits.
fn try_one(lab: &mut Lab, id: &str) -> Got {
    let alice = audio("192.0.2.1", 4000);
    let request =
        Request { call_id: Some(id.as_bytes()), supports_load_limit: true, ..offer(&alice) };
    lab.ask(&request)
}

#[track_caller]
fn assert_limited(got: &Got, message: &str) {
    assert_eq!(got.reply().outcome, Outcome::LoadLimit(message.as_bytes()), "{}", got.text());
}

#[test]
fn sessions_are_limited() {
    let mut lab = limited(Limits { sessions: 2, ..NONE });
    assert_eq!(lab.relay.load(), 0.0);
    try_one(&mut lab, "1").sdp();
    assert_eq!(lab.relay.load(), 0.5);
    try_one(&mut lab, "2").sdp();
    assert_limited(&try_one(&mut lab, "3"), "Parallel session limit reached");
    let alice = audio("192.0.2.1", 4000);
    let old = Request { call_id: Some(b"4"), ..offer(&alice) };
    assert_eq!(lab.ask(&old).error(), "Parallel session limit reached");
    assert_eq!((lab.relay.load(), lab.relay.stats().refused), (1.0, 2));
    // Those that there are go on.
    try_one(&mut lab, "1").sdp();
    lab.ask(&Request { call_id: Some(b"1"), ..about(Command::Delete) });
    try_one(&mut lab, "3").sdp();
    lab.check();
}

#[test]
fn bandwidth_and_processor_time_are_limited() {
    let mut lab = limited(Limits { bandwidth: Some(10_000), load: Some(0.8), ..NONE });
    lab.relay.set_sample(Sample { bytes: 10_001, ..Sample::default() });
    assert_limited(&try_one(&mut lab, "1"), "Bandwidth limit exceeded");
    assert_eq!(lab.relay.load(), 1.0);
    lab.relay.set_sample(Sample { bytes: 5_000, load: 0.81, ..Sample::default() });
    assert_limited(&try_one(&mut lab, "1"), "Load limit exceeded");
    lab.relay.set_sample(Sample { bytes: 5_000, load: 0.2, ..Sample::default() });
    try_one(&mut lab, "1").sdp();
    assert_eq!(lab.relay.load(), 0.5);
    // Who has no ports left is not to look idle.
    lab.relay.set_sample(Sample { ports: 1.0, ..Sample::default() });
    assert_eq!(lab.relay.load(), 1.0);
}

#[test]
fn a_relay_that_stops_takes_no_new_calls() {
    let mut lab = limited(NONE);
    try_one(&mut lab, "call").sdp();
    lab.relay.drain();
    assert_limited(&try_one(&mut lab, "2"), "Relay is being stopped");
    lab.answer(&audio("192.0.2.2", 5000));
    lab.relay.end_all();
    lab.drain();
    assert_eq!((lab.relay.calls(), lab.pairs.len(), lab.relay.stats().drained), (0, 0, 1));
    lab.check();
}

#[test]
fn ports_that_run_out_cost_the_new_call_only() {
    let mut lab = limited(NONE);
    lab.relay.ports.limit = Some(5);
    try_one(&mut lab, "1").sdp();
    try_one(&mut lab, "2").sdp();
    assert_eq!(try_one(&mut lab, "3").error(), "Ran out of ports");
    assert_eq!((lab.relay.calls(), lab.taken().0, lab.relay.stats().no_ports), (2, 4, 1));
    // A second stream for a call that runs: it goes on with the first.
    let two = audio("192.0.2.1", 4000) + "m=video 4002 RTP/AVP 96\r\n";
    let more = Request { call_id: Some(b"1"), ..offer(&two) };
    assert_eq!(lab.ask(&more).error(), "Ran out of ports");
    assert_eq!((lab.relay.calls(), lab.pairs.len()), (2, 2));
    lab.check();
    // A branch of its own.
    let alice = audio("192.0.2.1", 4000);
    let branch = |name: &'static str| Request {
        call_id: Some(b"1"),
        via_branch: Some(name.as_bytes()),
        ..offer(&alice)
    };
    lab.ask(&branch("z9hG4bK1")).sdp();
    assert_eq!(lab.ask(&branch("z9hG4bK2")).error(), "Ran out of ports");
    lab.ask(&Request { call_id: Some(b"2"), ..about(Command::Delete) });
    lab.ask(&branch("z9hG4bK2")).sdp();
    lab.check();
}

#[test]
fn branches_and_parties_of_a_call_are_limited() {
    let mut lab = limited(NONE);
    let alice = audio("192.0.2.1", 4000);
    let mut last = None;
    for n in 0..20 {
        let branch = format!("z9hG4bK{n}");
        last = Some(lab.ask(&Request { via_branch: Some(branch.as_bytes()), ..offer(&alice) }));
    }
    assert_eq!(last.expect("one").error(), "Too many branches");
    assert_eq!(lab.pairs.len(), 16);
    let mut lab = limited(NONE);
    lab.offer(&alice);
    for n in 0..100 {
        let tag = format!("tag-{n}");
        lab.ask(&Request { to_tag: Some(tag.as_bytes()), ..answer(&alice) }).sdp();
    }
    assert_eq!(lab.pairs.len(), 1);
    lab.check();
}
