//! The life of calls: answers that come again, deletion, silence, statistics, recordings.

use dialtone_ng::report::{CallReport, Workload};

use super::*;
use crate::core::{Reason, Sample};
use crate::plane::FarEnd;

/// A call between Alice and Bob.
fn call() -> Lab {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    lab.answer(&audio("192.0.2.2", 5000));
    lab
}

fn delete() -> Request<'static> {
    about(Command::Delete)
}

const S: Duration = Duration::from_secs(1);

#[test]
fn a_request_that_comes_again_is_answered_as_before_and_done_once() {
    let mut lab = Lab::new();
    let alice = audio("192.0.2.1", 4000);
    let datagram = offer(&alice).encode(b"1_1");
    lab.datagram(PROXY, &datagram);
    let other = SocketAddr::from(([10, 0, 0, 2], 5000));
    lab.datagram(other, &datagram);
    let [(first, answer), (second, again)] = &lab.sent[..] else { panic!("{:?}", lab.sent) };
    assert_eq!((*first, *second, answer), (PROXY, other, again));
    assert_eq!((lab.pairs.len(), lab.relay.stats().offers, lab.relay.stats().repeated), (1, 1, 1));
    // One that is being worked at is answered to both when it is done.
    lab.sent.clear();
    lab.plane_works = false;
    let datagram = delete().encode(b"1_2");
    lab.datagram(PROXY, &datagram);
    lab.datagram(other, &datagram);
    assert_eq!((lab.sent.len(), lab.relay.calls()), (0, 0));
    lab.thaw();
    let [(first, answer), (second, again)] = &lab.sent[..] else { panic!("{:?}", lab.sent) };
    assert_eq!((*first, *second, answer), (PROXY, other, again));
    assert_eq!(lab.relay.stats().deletes, 1);
    // Ten seconds later it is a new request.
    lab.pass(10 * S);
    lab.sent.clear();
    lab.datagram(PROXY, &datagram);
    assert_eq!((lab.sent.len(), lab.relay.stats().deletes), (1, 2));
    lab.check();
}

#[test]
fn deletion_ends_a_call_and_tells_what_it_was_like() {
    let mut lab = call();
    let end = EndStats {
        packets: 50,
        bytes: 8_600,
        lost: 1,
        ssrc: Some(7),
        payload_type: Some(0),
        jitter: Some(Duration::from_millis(3)),
        round_trip: Some(Duration::from_millis(20)),
        latched: true,
        peer: at("192.0.2.1:4000"),
        last_packet: Some(lab.now),
        rtcp_packets: 2,
        rtcp_bytes: 160,
        ..EndStats::default()
    };
    let far = FarEnd { fraction_lost: 5, lost: 2, jitter: Some(Duration::from_millis(9)) };
    let other = EndStats { ssrc: None, packets: 0, far: Some(far), ..end.clone() };
    lab.stats.insert(lab.pair_id().0, [end, other]);
    lab.pass(90 * S);
    let got = lab.ask(&Request { from_tag: Some(b"alice"), to_tag: Some(b"bob"), ..delete() });
    let report = CallReport::read(&got.reply().dict).expect("a report");
    assert_eq!(report.created, 1_700_000_000);
    assert_eq!(report.last_signal, 1_700_000_090);
    assert_eq!((report.rtp.packets, report.rtp.bytes, report.rtcp.packets), (50, 17_200, 4));
    let [ssrc] = &report.ssrcs[..] else { panic!("{:?}", report.ssrcs) };
    assert_eq!((ssrc.ssrc, ssrc.cumulative_loss), (7, 2));
    assert_eq!((ssrc.average.jitter, ssrc.average.round_trip, ssrc.average.loss), (9, 40_000, 4));
    assert!((36..=42).contains(&ssrc.average.mos), "{}", ssrc.average.mos);
    let [alice, bob] = &report.tags[..] else { panic!("{:?}", report.tags) };
    assert_eq!((alice.tag, bob.tag), (&b"alice"[..], &b"bob"[..]));
    assert_eq!(
        (&alice.subscriptions[..], &bob.subscribers[..]),
        (&[&b"bob"[..]][..], &[&b"alice"[..]][..])
    );
    let media = &alice.medias[0];
    assert_eq!((media.index, media.kind, media.codec), (1, &b"audio"[..], Some(&b"PCMU/8000"[..])));
    assert_eq!(media.protocol, Some(&b"RTP/AVP"[..]));
    assert_eq!((media.streams.len(), media.streams[0].counters.packets), (2, 50));
    assert_eq!(media.streams[0].endpoint, at("192.0.2.1:4000"));
    assert!(media.streams[0].flags.contains(&&b"confirmed"[..]));
    assert_eq!(media.streams[1].local.map(|local| local.port() % 2), Some(1));

    let [ended] = &lab.ended[..] else { panic!("{:?}", lab.ended) };
    assert_eq!((ended.reason, ended.duration, ended.packets), (Reason::Deleted, 90 * S, 54));
    assert_eq!(ended.ends[0].lost, 1);
    assert!(ended.ends[0].mos.is_some() && ended.ends[1].mos.is_none());
    assert_eq!((lab.relay.stats().deleted, lab.relay.stats().one_way_streams), (1, 1));
    lab.check();
}

#[test]
fn what_is_not_there_cannot_be_deleted() {
    const WARNING: &[u8] = b"Call-ID not found or tags didn't match";
    let mut lab = call();
    let unknown = Request { call_id: Some(b"nobody"), ..delete() };
    let got = lab.ask(&unknown);
    assert_eq!((got.reply().outcome, got.reply().warning()), (Outcome::Ok, Some(WARNING)));
    let mut fatal = unknown.clone();
    fatal.flags.fatal = true;
    assert_eq!(lab.ask(&fatal).error().as_bytes(), WARNING);
    for (from, to) in [("carol", None), ("alice", Some("carol")), ("carol", Some("bob"))] {
        let request =
            Request { from_tag: Some(from.as_bytes()), to_tag: to.map(str::as_bytes), ..delete() };
        assert_eq!(lab.ask(&request).reply().warning(), Some(WARNING), "{from} {to:?}");
    }
    assert_eq!(lab.ask(&Request { call_id: None, ..delete() }).error(), "No call-id in message");
    assert_eq!(lab.relay.calls(), 1);
    // A branch that nobody answered: whoever it was for, by the tag of the failure.
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    let failed = Request { from_tag: Some(b"alice"), to_tag: Some(b"busy"), ..delete() };
    assert_eq!(lab.ask(&failed).reply().warning(), None);
    assert_eq!(lab.relay.calls(), 0);
    lab.check();
}

#[test]
fn a_delayed_deletion_leaves_the_call_for_that_long() {
    let mut lab = call();
    let later = Request { delete_delay: Some(5), from_tag: Some(b"bob"), ..delete() };
    assert!(CallReport::read(&lab.ask(&later).reply().dict).is_some());
    assert_eq!(lab.relay.calls(), 1);
    lab.pass(4 * S);
    assert_eq!(lab.relay.calls(), 1);
    lab.pass(S);
    assert_eq!((lab.relay.calls(), lab.pairs.len()), (0, 0));
    lab.check();
    // Somebody wants it all the same.
    let mut lab = call();
    lab.ask(&later);
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4000)) });
    lab.pass(60 * S);
    assert_eq!(lab.relay.calls(), 1);
    // By configuration, unless the request says otherwise.
    let mut lab = Lab::with(Settings { delete_delay: 30 * S, ..settings() });
    lab.offer(&audio("192.0.2.1", 4000));
    lab.ask(&delete());
    assert_eq!(lab.relay.calls(), 1);
    lab.ask(&Request { delete_delay: Some(0), ..delete() });
    assert_eq!(lab.relay.calls(), 0);
}

#[test]
fn offers_without_an_answer_end() {
    let mut lab = Lab::new();
    for n in 0..1_000 {
        let id = format!("call-{n}");
        let alice = audio("192.0.2.1", 4000);
        lab.ask(&Request { call_id: Some(id.as_bytes()), ..offer(&alice) }).sdp();
    }
    assert_eq!((lab.relay.calls(), lab.pairs.len(), lab.taken()), (1_000, 1_000, (2_000, 2_000)));
    lab.pass(239 * S);
    assert_eq!(lab.relay.calls(), 1_000);
    lab.pass(S);
    assert_eq!((lab.relay.calls(), lab.pairs.len(), lab.taken()), (0, 0, (0, 0)));
    assert_eq!((lab.relay.stats().unanswered, lab.relay.kept_answers()), (1_000, 0));
    assert!(lab.ended.iter().all(|ended| ended.reason == Reason::Unanswered));
    assert_eq!(lab.relay.next_deadline(), None);
    lab.check();
}

#[test]
fn a_silent_call_ends() {
    let mut lab = call();
    let pair = lab.pair_id();
    lab.event(Event::Silent { pair });
    assert_eq!((lab.relay.calls(), lab.ended[0].reason), (0, Reason::Silent));
    assert_eq!(lab.relay.stats().silent, 1);
    lab.check();
    // A phone that rings longer than that.
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    let pair = lab.pair_id();
    lab.event(Event::Silent { pair });
    assert_eq!(lab.relay.calls(), 1);
}

#[test]
fn a_call_on_hold_may_be_silent_for_longer() {
    let mut lab = call();
    let hold = |direction: &str| audio("192.0.2.1", 4000) + direction + "\r\n";
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&hold("a=sendonly")) });
    lab.answer(&(audio("192.0.2.2", 5000) + "a=recvonly\r\n"));
    let pair = lab.pair_id();
    lab.event(Event::Silent { pair });
    lab.pass(3_539 * S);
    assert_eq!(lab.relay.calls(), 1);
    lab.pass(S);
    assert_eq!((lab.relay.calls(), lab.ended[0].reason), (0, Reason::SilentOnHold));
    // Music has come meanwhile.
    let mut lab = call();
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&hold("a=sendonly")) });
    lab.answer(&(audio("192.0.2.2", 5000) + "a=recvonly\r\n"));
    let pair = lab.pair_id();
    lab.event(Event::Silent { pair });
    let heard = EndStats { last_packet: Some(lab.now + 3_539 * S), ..EndStats::default() };
    lab.stats.insert(pair.0, [heard, EndStats::default()]);
    lab.pass(3_540 * S);
    assert_eq!(lab.relay.calls(), 1);
    // Off hold it is an ordinary call again.
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4000)) });
    lab.answer(&audio("192.0.2.2", 5000));
    lab.event(Event::Silent { pair });
    assert_eq!(lab.relay.calls(), 0);
}

#[test]
fn calls_end_that_have_nothing_left_to_fall_silent() {
    // Text only, which is not relayed; nobody says when it is over.
    let mut lab = Lab::new();
    let text = |address: &str| audio(address, 0) + "m=message 9 TCP/MSRP *\r\n";
    lab.offer(&text("192.0.2.1"));
    lab.answer(&text("192.0.2.2"));
    assert!(lab.pairs.is_empty());
    lab.pass(3_599 * S);
    assert_eq!(lab.relay.calls(), 1);
    lab.pass(S);
    assert_eq!((lab.relay.calls(), lab.ended[0].reason), (0, Reason::SilentOnHold));
    lab.check();
    // It has become a call with audio meanwhile.
    let mut lab = Lab::new();
    lab.offer(&text("192.0.2.1"));
    lab.answer(&text("192.0.2.2"));
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4000)) });
    lab.answer(&audio("192.0.2.2", 5000));
    lab.pass(4_000 * S);
    assert_eq!(lab.relay.calls(), 1);
    // Two branches: one is silent, the one that was heard goes.
    let branches = || {
        let mut lab = Lab::new();
        let alice = audio("192.0.2.1", 4000);
        for branch in [&b"z9hG4bK1"[..], b"z9hG4bK2"] {
            lab.ask(&Request { via_branch: Some(branch), ..offer(&alice) });
        }
        let pair = PairId(*lab.pairs.keys().next_back().expect("two"));
        lab.event(Event::Silent { pair });
        lab
    };
    let gone = |lab: &mut Lab| {
        let tag = Some(&b"alice"[..]);
        let branch = Some(&b"z9hG4bK1"[..]);
        lab.ask(&Request { from_tag: tag, via_branch: branch, ..about(Command::Delete) });
        assert_eq!((lab.relay.calls(), lab.pairs.len()), (1, 1));
    };
    let bob = audio("192.0.2.2", 5000);
    let by = |tag: &'static [u8], branch: &'static [u8]| Request {
        to_tag: Some(tag),
        via_branch: Some(branch),
        ..answer(&bob)
    };
    let mut lab = branches();
    lab.ask(&by(b"bob", b"z9hG4bK1"));
    gone(&mut lab);
    lab.pass(240 * S);
    assert_eq!((lab.relay.calls(), lab.ended[1].reason), (0, Reason::Unanswered));
    lab.check();
    let mut lab = branches();
    lab.ask(&by(b"carol", b"z9hG4bK2"));
    lab.ask(&by(b"bob", b"z9hG4bK1"));
    let pair = PairId(*lab.pairs.keys().next_back().expect("two"));
    lab.event(Event::Silent { pair });
    gone(&mut lab);
    lab.pass(60 * S);
    assert_eq!((lab.relay.calls(), lab.ended[1].reason), (0, Reason::Silent));
    lab.check();
}

#[test]
fn one_stream_that_is_heard_keeps_the_others() {
    let mut lab = Lab::new();
    let two = |address: &str| audio(address, 4000) + "m=video 4002 RTP/AVP 96\r\n";
    lab.offer(&two("192.0.2.1"));
    lab.answer(&two("192.0.2.2"));
    let pairs: Vec<PairId> = lab.pairs.keys().map(|pair| PairId(*pair)).collect();
    lab.event(Event::Silent { pair: pairs[1] });
    assert_eq!(lab.relay.calls(), 1);
    lab.pass(100 * S);
    // Audio falls silent, but video was heard again a moment ago.
    let heard = EndStats { last_packet: Some(lab.now - S), ..EndStats::default() };
    lab.stats.insert(pairs[1].0, [EndStats::default(), heard]);
    lab.event(Event::Silent { pair: pairs[0] });
    assert_eq!(lab.relay.calls(), 1);
    // Then it falls silent, too.
    lab.pass(60 * S);
    lab.event(Event::Silent { pair: pairs[1] });
    assert_eq!(lab.relay.calls(), 0);
    lab.check();
}

#[test]
fn queries_are_answered_when_the_plane_has_answered() {
    let mut lab = call();
    lab.plane_works = false;
    let query = about(Command::Query).encode(b"9_9");
    lab.sent.clear();
    lab.datagram(PROXY, &query);
    assert!(lab.sent.is_empty());
    // The call ends first.
    lab.datagram(PROXY, &delete().encode(b"9_10"));
    lab.thaw();
    assert_eq!(lab.sent.len(), 2);
    let texts: Vec<String> =
        lab.sent.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect();
    assert!(texts.iter().any(|text| text.contains("Unknown call-id")), "{texts:?}");
    lab.check();
    let mut lab = call();
    let by_tag = |tag: &'static [u8]| Request { from_tag: Some(tag), ..about(Command::Query) };
    let got = lab.ask(&by_tag(b"alice"));
    assert_eq!(CallReport::read(&got.reply().dict).expect("a report").tags.len(), 2);
    let got = lab.ask(&by_tag(b"carol"));
    assert_eq!(CallReport::read(&got.reply().dict).expect("a report").tags.len(), 0);
    let unknown = Request { call_id: Some(b"nobody"), ..about(Command::Query) };
    assert_eq!(lab.ask(&unknown).error(), "Unknown call-id");
}

#[test]
fn labels_and_branches_are_kept() {
    let mut lab = Lab::new();
    let alice = audio("192.0.2.1", 4000);
    lab.ask(&Request { via_branch: Some(b"z9hG4bK1"), ..offer(&alice) });
    lab.ask(&Request { label: Some(b"callee"), ..answer(&audio("192.0.2.2", 5000)) });
    lab.ask(&Request { to_tag: Some(b"bob"), label: Some(b"caller"), ..offer(&alice) });
    let got = lab.ask(&about(Command::Query));
    let report = CallReport::read(&got.reply().dict).expect("a report");
    let labels: Vec<_> = report.tags.iter().map(|tag| (tag.label, tag.via_branch)).collect();
    assert_eq!(
        labels,
        [(Some(&b"caller"[..]), None), (Some(&b"callee"[..]), Some(&b"z9hG4bK1"[..]))]
    );
}

#[test]
fn calls_are_listed_up_to_a_limit() {
    let mut lab = Lab::new();
    for n in 0..40 {
        let id = format!("call-{n}");
        lab.ask(&Request { call_id: Some(id.as_bytes()), ..offer(&audio("192.0.2.1", 4000)) });
    }
    let list = |limit: Option<i64>| Request { limit, ..Request::new(Command::List) };
    assert_eq!(lab.ask(&list(None)).reply().calls().count(), 32);
    assert_eq!(lab.ask(&list(Some(3))).reply().calls().count(), 3);
    assert_eq!(lab.ask(&list(Some(1_000))).reply().calls().count(), 40);
    assert_eq!(lab.ask(&list(Some(-1))).error(), "invalid limit, must be >= 0");
}

#[test]
fn statistics_tell_what_has_happened() {
    let mut lab = call();
    lab.relay.set_sample(Sample {
        packets: 100,
        bytes: 17_200,
        total_packets: 500,
        ..Sample::default()
    });
    lab.pass(7 * S);
    let got = lab.ask(&Request::new(Command::Statistics));
    let reply = got.reply();
    let workload = Workload::read(&reply.dict).expect("a workload");
    assert_eq!((workload.sessions, workload.packet_rate, workload.byte_rate), (1, 100, 17_200));
    let total = reply.dict.dict("statistics").and_then(|dict| dict.dict("totalstatistics"));
    let total = total.expect("totals");
    assert_eq!((total.integer("uptime"), total.integer("managedsessions")), (Some(7), Some(0)));
    assert_eq!(total.integer("relayedpackets"), Some(500));
    lab.ask(&delete());
    let got = lab.ask(&Request::new(Command::Statistics));
    let reply = got.reply();
    let total = reply.dict.dict("statistics").and_then(|dict| dict.dict("totalstatistics"));
    assert_eq!(total.and_then(|total| total.integer("regularterminatedsessions")), Some(1));
}

#[test]
fn recordings_are_asked_for_and_audited() {
    let mut lab = Lab::with(Settings { recording: true, ..settings() });
    lab.offer(&audio("192.0.2.1", 4000));
    assert!(lab.recordings.is_empty());
    let start = Request { output_destination: Some(b"name"), ..about(Command::StartRecording) };
    assert_eq!(lab.ask(&start).reply().outcome, Outcome::Ok);
    lab.ask(&start);
    let [(true, recording)] = &lab.recordings[..] else { panic!("{:?}", lab.recordings) };
    assert_eq!((&*recording.call_id, recording.by), (&b"call"[..], Some(PROXY)));
    assert_eq!(recording.name.as_deref(), Some(&b"name"[..]));
    assert_eq!(recording.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), [b"alice"]);
    // Media that comes later is recorded as well.
    lab.ask(&offer(&(audio("192.0.2.1", 4000) + "m=video 4002 RTP/AVP 96\r\n")));
    assert_eq!(lab.recorded.len(), 2);
    lab.ask(&about(Command::StopRecording));
    assert_eq!((lab.recorded.len(), lab.recordings.len()), (0, 2));
    assert_eq!(lab.recordings[1].1.by, Some(PROXY));
    // By an offer or answer, and to the end of the call.
    let mut request = answer("");
    let bob = audio("192.0.2.2", 5000);
    (request.sdp, request.record_call) = (Some(bob.as_bytes()), Some(true));
    lab.ask(&request);
    assert_eq!(lab.recordings.len(), 3);
    lab.ask(&delete());
    assert_eq!(
        (lab.recordings.len(), lab.recordings[3].0, lab.recordings[3].1.by),
        (4, false, None)
    );

    // One that does not begin leaves nothing to stop, and is tried again when it is asked for again.
    let mut lab = Lab::with(Settings { recording: true, ..settings() });
    lab.offer(&audio("192.0.2.1", 4000));
    lab.ask(&about(Command::StartRecording));
    lab.relay.recording_failed(lab.recordings[0].1.call);
    lab.ask(&about(Command::StopRecording));
    assert_eq!((lab.recordings.len(), lab.relay.stats().recordings_failed), (1, 1));
    lab.ask(&about(Command::StartRecording));
    assert_eq!(lab.recordings.len(), 2);

    let mut lab = call();
    assert_eq!(lab.ask(&about(Command::StartRecording)).error(), "Recording is not configured");
    let unknown = Request { call_id: Some(b"nobody"), ..about(Command::StartRecording) };
    assert_eq!(lab.ask(&unknown).error(), "Unknown call-id");
}
