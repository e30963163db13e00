//! Who follows a conference.

use super::*;
use crate::core::RoomOptions;

fn subscribe(caller: &Caller, sequence: u32, to_tag: &str, more: &str) -> String {
    let more = format!("Event: conference\r\nAccept: application/conference-info+xml\r\n{more}");
    caller.request("SUBSCRIBE", sequence, to_tag, &more, "")
}

/// The request that a follower gets.
fn notified(lab: &mut Lab) -> (Hop, Message) {
    let mut sent = lab.take();
    sent.retain(|(_, message)| is(message, Method::Notify));
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0)
}

#[test]
fn followers_see_who_is_there() {
    let mut lab = Lab::new();
    let watcher = Caller::new("watcher", "conf-a");
    assert_eq!(lab.say(subscribe(&watcher, 1, "", "")).status(), 404, "nobody is there");
    let alice = lab.join(&Caller::new("alice", "conf-a"));
    lab.say(subscribe(&watcher, 2, "", "Expires: 600\r\n"));
    let sent = lab.take();
    let [(_, answer), (hop, notify)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((answer.status(), header(answer, HeaderName::Expires)), (Some(200), "600"));
    assert_eq!(header(notify, HeaderName::Event), "conference");
    assert_eq!(header(notify, HeaderName::SubscriptionState), "active;expires=600");
    assert_eq!(header(notify, HeaderName::ContentType), "application/conference-info+xml");
    let document = body(notify);
    for part in [
        "entity=\"sip:conf-a@dialtone.test\" state=\"full\" version=\"1\"",
        "<user-count>1</user-count>",
        "<user entity=\"sip:alice@dialtone.test\" state=\"full\"><display-text>alice &lt;&amp;&gt;</display-text>",
        "<status>connected</status>",
    ] {
        assert!(document.contains(part), "{part}: {document}");
    }
    let (hop, notify) = (*hop, notify.clone());
    // What happens before the answer comes is told afterwards, at once.
    let bob = lab.join(&Caller::new("bob", "conf-a"));
    lab.pass(Duration::from_millis(10));
    assert!(lab.take().is_empty());
    lab.answer(hop, &notify, 200);
    let (hop, notify) = notified(&mut lab);
    assert!(
        body(&notify).contains("<user-count>2</user-count>")
            && body(&notify).contains("version=\"2\"")
    );
    lab.answer(hop, &notify, 200);
    // Many changes are one notification.
    for muted in [true, false, true] {
        lab.tell(MediaEvent::Muted { call: alice, muted });
    }
    lab.pass(Duration::from_secs(2));
    let (hop, notify) = notified(&mut lab);
    assert!(body(&notify).contains("muted-via-focus"));
    lab.answer(hop, &notify, 200);
    // When the last one goes, so does the conference.
    lab.tell(MediaEvent::Lost { call: alice });
    lab.tell(MediaEvent::Lost { call: bob });
    let sent = lab.take();
    let last = sent.iter().rev().find(|(_, message)| is(message, Method::Notify));
    let (_, last) = last.expect("a last one");
    let state = header(last, HeaderName::SubscriptionState);
    assert_eq!(state, "terminated;reason=noresource");
    assert!(body(last).contains("<active>false</active>"));
    for (hop, request) in sent.iter().filter(|(_, message)| message.is_request()) {
        lab.answer(*hop, request, 200);
    }
    lab.is_clean();
}

#[test]
fn a_participant_may_follow_within_its_call() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    let answer = lab.say(alice.invite(OFFER)).response();
    lab.say(alice.ack(&answer, ""));
    lab.join(&Caller::new("bob", "conf-a"));
    lab.say(subscribe(&alice, 2, &tag(&answer), ""));
    let (hop, notify) = notified(&mut lab);
    assert_eq!(notify.call_id(), Ok("calice"));
    lab.answer(hop, &notify, 200);
    // It leaves the conference, and still follows it.
    assert_eq!(lab.say(alice.bye(&answer, 3)).status(), 200);
    lab.pass(Duration::from_secs(2));
    let (hop, notify) = notified(&mut lab);
    assert!(body(&notify).contains("<user-count>1</user-count>"));
    // 481: it does not any more.
    lab.answer(hop, &notify, 481);
    assert_eq!(lab.focus.rooms().next().expect("a room").subscriptions, 0);
}

#[test]
fn subscriptions_end() {
    let mut lab = Lab::new();
    lab.join(&Caller::new("alice", "conf-a"));
    let watcher = Caller::new("watcher", "conf-a");
    lab.say(subscribe(&watcher, 1, "", "Expires: 100\r\n"));
    let sent = lab.take();
    let to_tag = tag(&sent[0].1);
    lab.answer(sent[1].0, &sent[1].1, 200);
    // Refreshed, then given up by the follower.
    lab.say(subscribe(&watcher, 2, &to_tag, "Expires: 100\r\n"));
    let (hop, notify) = notified(&mut lab);
    lab.answer(hop, &notify, 200);
    lab.say(subscribe(&watcher, 3, &to_tag, "Expires: 0\r\n"));
    let (_, notify) = notified(&mut lab);
    assert_eq!(header(&notify, HeaderName::SubscriptionState), "terminated;reason=timeout");
    // Not refreshed.
    let other = Caller::new("other", "conf-a");
    lab.say(subscribe(&other, 1, "", "Expires: 100\r\n"));
    let (hop, notify) = notified(&mut lab);
    lab.answer(hop, &notify, 200);
    lab.pass(Duration::from_secs(101));
    let (_, notify) = notified(&mut lab);
    assert_eq!(header(&notify, HeaderName::SubscriptionState), "terminated;reason=timeout");
    // A follower that does not answer is none.
    let third = Caller::new("third", "conf-a");
    lab.say(subscribe(&third, 1, "", ""));
    lab.take();
    lab.pass(Duration::from_secs(40));
    assert_eq!(lab.focus.rooms().next().expect("a room").subscriptions, 0);
}

#[test]
fn other_events_and_too_many_followers_are_refused() {
    let mut lab = Lab::with(|settings| settings.max_subscriptions = 2);
    lab.join(&Caller::new("alice", "conf-a"));
    let mut status = |caller: &Caller, more: &str| {
        lab.say(caller.request("SUBSCRIBE", 1, "", more, "")).response()
    };
    let refusal = status(&Caller::new("a", "conf-a"), "Event: presence\r\n");
    assert_eq!(
        (refusal.status(), header(&refusal, HeaderName::AllowEvents)),
        (Some(489), "conference")
    );
    let refusal = status(&Caller::new("b", "conf-a"), "Event: conference;id=1\r\nExpires: 10\r\n");
    assert_eq!(
        (
            refusal.status(),
            refusal.other_header("Min-Expires").is_some()
                || refusal.header(HeaderName::MinExpires).is_some()
        ),
        (Some(423), true)
    );
    for (name, code) in [("c", 200), ("d", 200), ("e", 503)] {
        assert_eq!(
            status(&Caller::new(name, "conf-a"), "Event: conference\r\n").status(),
            Some(code)
        );
    }
}

#[test]
fn who_is_in_a_room_with_a_number_is_told_to_those_inside() {
    let mut lab = Lab::with(|settings| {
        let options = RoomOptions { pin: Some("4711".into()), ..RoomOptions::default() };
        settings.rooms.insert("secret".into(), options);
    });
    let alice = Caller::new("alice", "conf-secret");
    let answer = lab.say(alice.invite(OFFER)).response();
    lab.say(alice.ack(&answer, ""));
    let MediaCommand::Open { call, .. } = lab.media[0] else { panic!("{:?}", lab.media) };
    let watcher = Caller::new("watcher", "conf-secret");
    assert_eq!(lab.say(subscribe(&watcher, 1, "", "")).status(), 403);
    assert_eq!(lab.say(subscribe(&alice, 2, &tag(&answer), "")).status(), 403);
    lab.tell(MediaEvent::Entered { call });
    assert_eq!(lab.say(subscribe(&alice, 3, &tag(&answer), "")).status(), 200);
    assert_eq!(lab.say(subscribe(&watcher, 2, "", "")).status(), 403);
}

#[test]
fn followers_outlive_a_proxy() {
    let other = Hop::Accepted(2);
    let mut lab = Lab::new();
    lab.focus.handle_connected(2);
    let alice = lab.join(&Caller::new("alice", "conf-a"));
    lab.say(subscribe(&Caller::new("watcher", "conf-a"), 1, "", "Expires: 600\r\n"));
    let (hop, lost) = notified(&mut lab);
    assert_eq!(hop, PROXY);
    lab.focus.handle_closed(lab.now, PROXY);
    lab.drain();
    let (hop, notify) = notified(&mut lab);
    assert_eq!((hop, body(&notify), notify.cseq()), (other, body(&lost), lost.cseq()));
    lab.answer(hop, &notify, 200);
    lab.tell(MediaEvent::Muted { call: alice, muted: true });
    lab.pass(Duration::from_secs(2));
    let (hop, notify) = notified(&mut lab);
    assert_eq!(hop, other);
    assert!(body(&notify).contains("muted-via-focus"));
}
