//! Media of participants goes through relays, or to the conference server directly, as configured.

use dialtone::launcher::Layout;

use crate::{
    guest::hear,
    system::{LIMIT, System},
};

const ROOM: &str = "media";

#[test]
fn participants_speak_through_relays_or_directly() {
    for (relays, direct) in [(2, false), (2, true), (0, false)] {
        let mut system = System::start(Layout {
            relays,
            conferences: 1,
            direct_conferences: direct,
            ..Layout::default()
        });
        let mut guests = [
            system.guest("alice", 1, 510),
            system.guest("bob", 2, 790),
            system.guest("carol", 1, 1130),
        ];
        for guest in &mut guests {
            guest.join(ROOM);
        }
        hear(&mut guests, &[], |_| {});
        let (server, ports) = system.launcher.conference_ports(1);
        let of_relays = [1, 2].map(|n| system.launcher.media_ports(n));
        for guest in &guests {
            let to = guest.line.to.unwrap();
            let is_relay =
                of_relays.iter().any(|(ip, ports)| to.ip() == *ip && ports.contains(&to.port()));
            let is_server = to.ip() == server && ports.contains(&to.port());
            assert_eq!(
                (is_relay, is_server),
                (relays > 0 && !direct, relays == 0 || direct),
                "{to}"
            );
        }
        // Who is on hold is not heard, and hears nothing.
        guests[0].offer("a=inactive\r\n");
        hear(&mut guests[1..], &[], |_| {});
        guests[0].line.listen();
        guests[0].line.take_heard();
        hear(&mut guests[1..], &[510], |_| {});
        guests[0].line.listen();
        assert_eq!(guests[0].line.take_heard().len(), 0);
        guests[0].offer("");
        hear(&mut guests, &[], |_| {});
        for guest in &mut guests {
            guest.leave();
        }
        let gone = dialtone::launcher::wait_for(LIMIT, || {
            (system.rooms(1)?.participants == 0).then_some(())
        });
        assert!(gone.is_some(), "{:?}", system.rooms(1));
        assert_eq!(system.launcher.stop_all(), Vec::<String>::new());
    }
}
