//! Whose a room is: one server's, whoever calls first; another one's when that is dead, frozen or stopped; and nobody
//! else's because servers come.

use std::time::Duration;

use dialtone::launcher::{Exclusive, Layout, Life, Signal, wait_for};

use crate::{
    guest::hear,
    sip::Dialog,
    system::{LIMIT, System, await_pool},
};

/// How long a call may take that finds the server of its room dead or frozen. Asserted is three times as much, for
/// machines that do other things as well.
const BOUND: Duration = Duration::from_secs(1);

const TRIALS: usize = 50;

#[test]
fn rooms_move_when_their_server_is_lost_and_only_then() {
    let _turn = Exclusive::wait().unwrap();
    let mut system = System::start(Layout { conferences: 3, ..Layout::default() });
    for (signal, room) in [(Signal::SIGKILL, "dead"), (Signal::SIGSTOP, "frozen")] {
        let tones = [("alice", 1, 510), ("bob", 2, 790)];
        let mut before = tones.map(|(user, n, hertz)| system.guest(user, n, hertz));
        let mut after = [("carol", 2, 1130), ("dave", 1, 1370)]
            .map(|(user, n, hertz)| system.guest(user, n, hertz));
        for guest in &mut before {
            guest.join(room);
        }
        hear(&mut before, &[], |_| {});
        let owner = system.await_seat(room, 2);
        let name = format!("conference-{owner}");

        system.launcher.kill(&name, signal).unwrap();
        let took = after[0].join(room);
        println!(
            "table: the server of a room gets {signal}: the next call takes {} ms (bound {} ms)",
            took.as_millis(),
            BOUND.as_millis()
        );
        assert!(took < 3 * BOUND, "{took:?}");
        let next = after[1].join(room);
        println!("table: and the one after it {} ms", next.as_millis());
        let heir = system.await_seat(room, 2);
        assert_ne!(heir, owner);
        hear(&mut after, &[510, 790], |_| {});

        // Whoever comes back has no claim any more.
        await_pool(&mut system.launcher, "conference", 2);
        if signal == Signal::SIGKILL {
            system.launcher.restart(&name).unwrap();
        } else {
            system.launcher.kill(&name, Signal::SIGCONT).unwrap();
        }
        await_pool(&mut system.launcher, "conference", 3);
        let [alice, bob] = &mut before;
        for guest in [&mut *alice, bob] {
            let ended = guest.hang_up();
            // A proxy that has not yet heard from the frozen one again speaks for it.
            assert!(ended == 481 || (signal == Signal::SIGSTOP && ended == 200), "{ended}");
        }
        alice.join(room);
        // The frozen one may have found a call that had come meanwhile: it waits for an ACK that will not come.
        let joined = wait_for(LIMIT, || system.seats(room).contains(&(heir, 3)).then_some(()));
        assert!(joined.is_some(), "{:?}", system.seats(room));
        let [carol, dave] = after;
        let mut all = [carol, dave, before.into_iter().next().unwrap()];
        hear(&mut all, &[], |_| {});
        for guest in &mut all {
            assert_eq!(guest.hang_up(), 200);
        }
    }
}

#[test]
fn a_server_that_stops_hangs_up_and_its_rooms_begin_elsewhere() {
    let mut system = System::start(Layout { conferences: 2, ..Layout::default() });
    let mut guests =
        [("alice", 1, 510), ("bob", 2, 790)].map(|(user, n, hertz)| system.guest(user, n, hertz));
    for guest in &mut guests {
        guest.join("moved");
    }
    let owner = system.await_seat("moved", 2);
    let name = format!("conference-{owner}");
    system.launcher.kill(&name, Signal::SIGTERM).unwrap();
    for guest in &mut guests {
        guest.is_hung_up();
        guest.join("moved");
    }
    assert_ne!(system.await_seat("moved", 2), owner);
    hear(&mut guests, &[], |_| {});
    let ended = wait_for(LIMIT, || match system.launcher.process(&name).unwrap().life() {
        Life::Ended(ended) => Some(ended.to_string()),
        _ => None,
    });
    assert_eq!(ended.as_deref(), Some("exit code 0"));

    // And when there is none left.
    system.launcher.kill(&format!("conference-{}", 3 - owner), Signal::SIGKILL).unwrap();
    let mut late = system.guest("carol", 1, 1_130);
    let invite = late.invitation("moved", &late.line.sdp(""));
    late.phone.send(&invite);
    let answer = late.answered(&invite);
    assert_eq!(answer.status(), 503, "{}", answer.start());
    assert!(answer.value("Retry-After").parse::<u32>().is_ok_and(|seconds| seconds > 0));
}

#[test]
fn first_calls_at_once_never_split_a_room() {
    let mut system = System::start(Layout { conferences: 3, ..Layout::default() });
    let mut callers = [system.guest("alice", 1, 510), system.guest("bob", 2, 790)];
    let mut dialogs = [Vec::new(), Vec::new()];
    for trial in 0..TRIALS {
        // Nobody hears anything here: there is no need for audio.
        let invites = callers.each_mut().map(|caller| {
            let sdp = caller.line.sdp("a=inactive\r\n");
            caller.invitation(&format!("race-{trial}"), &sdp)
        });
        for turn in 0..2 {
            let first = (trial + turn) % 2;
            callers[first].phone.send(&invites[first]);
        }
        for ((caller, invite), dialogs) in callers.iter_mut().zip(&invites).zip(&mut dialogs) {
            let answer = caller.answered(invite);
            assert_eq!(answer.status(), 200, "{}", answer.start());
            dialogs.push(Dialog::new(&answer));
        }
    }
    let mut shares = [0; 3];
    for trial in 0..TRIALS {
        let owner = system.await_seat(&format!("race-{trial}"), 2);
        shares[usize::from(owner) - 1] += 1;
    }
    println!(
        "table: {TRIALS} rooms, each called by two at once: none is split; {shares:?} a server"
    );
    let told = wait_for(LIMIT, || {
        let requests = system.counted("request");
        (requests.iter().sum::<u64>() == 2 * TRIALS as u64).then_some(requests)
    });
    let requests = told.unwrap_or_else(|| panic!("{:?}", system.counted("request")));
    assert!(requests.iter().all(|count| *count > 0), "one proxy had all: {requests:?}");
    let claimed = system.counted("claimed");
    assert_eq!(claimed.iter().sum::<u64>(), TRIALS as u64, "{claimed:?}");

    for (caller, dialogs) in callers.iter_mut().zip(dialogs) {
        for dialog in dialogs {
            caller.dialog = Some(dialog);
            caller.leave();
        }
    }
    let empty = wait_for(LIMIT, || {
        (1..=3).all(|n| system.rooms(n).is_some_and(|rooms| rooms.rooms.is_empty())).then_some(())
    });
    assert!(empty.is_some(), "somebody is left");
}
