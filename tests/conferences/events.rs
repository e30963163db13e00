//! Who follows a room (RFC 4575) is told who comes, by a request of the conference server to a phone.

use std::time::Duration;

use dialtone::launcher::Layout;

use crate::{guest::Guest, sip::Dialog, system::System};

/// How soon: a room tells once a second.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn who_follows_a_room_is_told_who_comes() {
    let mut system = System::start(Layout { conferences: 2, ..Layout::default() });
    let mut guests = [system.guest("alice", 1, 510), system.guest("bob", 2, 790)];
    let mut follower = system.guest("carol", 2, 1_130);
    guests[0].join("board");

    let headers = format!(
        "{}Event: conference\r\nAccept: application/conference-info+xml\r\nExpires: 600\r\n",
        follower.phone.contact()
    );
    let uri = "sip:conf-board@dialtone.test";
    let subscribe = follower.phone.request("SUBSCRIBE", uri, &headers, "");
    let answer = follower.phone.ask(&subscribe);
    assert_eq!(answer.status(), 200, "{}", answer.start());
    let dialog = Dialog::new(&answer);
    let told = notified(&mut follower, "alice");
    assert!(!told.contains("sip:bob@"), "{told}");
    guests[1].join("board");
    notified(&mut follower, "bob");

    let end = dialog.request(&mut follower.phone, "SUBSCRIBE", &dialog.routes);
    let end =
        end.replace("Content-Length: 0", "Event: conference\r\nExpires: 0\r\nContent-Length: 0");
    assert_eq!(follower.phone.ask(&end).status(), 200);
    for guest in &mut guests {
        guest.leave();
    }
}

/// Waits until the follower is told of this user.
fn notified(follower: &mut Guest, user: &str) -> String {
    loop {
        let notify = follower.phone.receive(SOON);
        let notify = notify.unwrap_or_else(|| panic!("nobody tells of {user}"));
        if !notify.is("NOTIFY") {
            continue;
        }
        follower.phone.answer(&notify, "200 OK", "", "");
        let state = String::from_utf8(notify.body().to_vec()).unwrap();
        if state.contains(&format!("sip:{user}@")) {
            assert_eq!(notify.value("Event"), "conference");
            return state;
        }
    }
}
