//! Bad input for rooms: what cannot be mixed, strangers, floods, and more rooms than there is room for.

use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use dialtone::launcher::{Exclusive, Layout, wait_for};

use crate::{
    guest::{Guest, acknowledge, clock, hear},
    line::{Line, MU_LAW},
    sip::Phone,
    system::{LIMIT, System},
};

/// The tone of those whom nobody may hear.
const STRANGE: u32 = 1_650;

/// Keys pressed in one flood, and in each 20 ms of it.
const KEYS: usize = 10_000;
const KEYS_AT_ONCE: usize = 200;

const STAR: u8 = 10;

/// A time after which no key comes any more.
const REST: Duration = Duration::from_secs(1);

/// Random rooms, by how many at a time, from so many addresses.
const ROOMS: usize = 10_000;
const WINDOW: usize = 64;
const SOURCES: u8 = 4;

/// How much more memory a process may need after all these rooms, in kB.
const MEMORY: u64 = 50_000;

#[test]
fn odd_calls_are_refused_and_odd_packets_are_not_heard() {
    let mut system = System::start(Layout { conferences: 2, ..Layout::default() });
    let mut guests = [("alice", 1, 510), ("bob", 2, 790), ("carol", 1, 1_130)]
        .map(|(user, n, hertz)| system.guest(user, n, hertz));
    refused(&mut guests[0]);
    let stranger = Line::new(system.launcher.slice().host(230), STRANGE);
    strangers(&mut system, &mut guests, stranger);
    wrong_payload(&mut system, &mut guests);
    keys(&mut system, &mut guests);
    for guest in &mut guests {
        guest.leave();
    }
}

/// Calls that nobody can take.
fn refused(guest: &mut Guest) {
    let good = guest.line.sdp("");
    let other = |formats: &str| good.replace("0 101\r\n", &format!("{formats}\r\n"));
    let long = "a".repeat(10_000);
    let escaped = "%61".repeat(4_000);
    for (what, room, sdp, status) in [
        ("no common codec", "odd", other("18 4"), 488),
        ("telephone events only", "odd", other("101"), 488),
        ("no audio", "odd", good.replace("m=audio", "m=video"), 488),
        ("audio over SRTP", "odd", good.replace("RTP/AVP", "RTP/SAVP"), 488),
        ("no SDP at all", "odd", "hello\r\n".to_owned(), 400),
        ("10 kB of name", &*long, good.clone(), 414),
        ("12 kB of escapes", &*escaped, good.clone(), 414),
        ("no name", "", good.clone(), 404),
        ("control characters", "a%00b%0d%0a", good.clone(), 404),
    ] {
        let invite = guest.invitation(room, &sdp);
        guest.phone.send(&invite);
        let answer = guest.answered(&invite);
        assert_eq!(answer.status(), status, "{what}: {}", answer.start());
        if status == 488 {
            assert!(answer.value("Warning").starts_with("305 "), "{what}");
        }
    }
    let invite = guest.invitation("odd", &good).replace("application/sdp", "text/plain");
    guest.phone.send(&invite);
    let answer = guest.answered(&invite);
    assert_eq!((answer.status(), answer.value("Accept")), (415, "application/sdp"));
}

/// Somebody else sends to the ports of a participant, before he does so himself and while he does.
fn strangers(system: &mut System, guests: &mut [Guest], mut stranger: Line) {
    for guest in &mut *guests {
        guest.join("strangers");
    }
    let owner = system.await_seat("strangers", guests.len());
    stranger.imitate(&guests[0].line);
    (0..50).for_each(|_| stranger.play());
    let mut random = vec![0; 1_400];
    hear(guests, &[STRANGE], |guests| {
        for _ in 0..5 {
            // As close to the real thing as can be.
            stranger.imitate(&guests[0].line);
            stranger.play();
            fastrand::fill(&mut random);
            stranger.send_raw(&random[..fastrand::usize(..random.len())]);
        }
    });
    let seen = system.await_participant(owner, &guests[0], |seen| seen.packets_of_strangers > 100);
    println!(
        "table: {} packets of strangers dropped, nobody heard them",
        seen.packets_of_strangers
    );
}

/// A participant sends what was not agreed upon, beside what was.
fn wrong_payload(system: &mut System, guests: &mut [Guest]) {
    let owner = system.await_seat("strangers", guests.len());
    let mut random = vec![0; 1_400];
    hear(guests, &[STRANGE], |guests| {
        for payload_type in [8, 18, 96, 127] {
            fastrand::fill(&mut random);
            let length = fastrand::usize(..random.len());
            guests[0].line.send_aside(payload_type, &random[..length]);
        }
        // No RTP at all, or hardly.
        for odd in
            [&b""[..], &[0x80], &[0x80, MU_LAW, 0, 1], &[0xbf; 13], &[0x00; 172], &[0xff; 172]]
        {
            guests[0].line.send_raw(odd);
        }
    });
    let seen = system.await_participant(owner, &guests[0], |seen| seen.wrong_payload > 100);
    println!("table: {} packets of wrong payload types dropped", seen.wrong_payload);
}

/// A participant presses all keys at once; the others hear each other meanwhile, and him afterwards.
fn keys(system: &mut System, guests: &mut [Guest]) {
    let owner = system.await_seat("strangers", guests.len());
    let (one, others) = guests.split_first_mut().unwrap();
    let mut pressed = 0;
    hear(others, &[one.line.hertz], |_| {
        for _ in 0..KEYS_AT_ONCE {
            // Half of them mute and unmute, the others are anything.
            let key = match pressed % 4 {
                0 => STAR,
                1 => 6,
                _ => fastrand::u8(..),
            };
            one.line.press(key);
            pressed += 1;
        }
    });
    while pressed < KEYS {
        one.line.press(fastrand::u8(..));
        pressed += 1;
    }
    println!("table: {pressed} keys pressed by one, nobody else noticed");
    // Once more in peace, when all that has arrived.
    one.line.listen();
    let mut seen = (clock(), false);
    let settled = wait_for(LIMIT, || {
        let muted = system.await_participant(owner, one, |_| true).muted;
        if muted != seen.1 {
            seen = (clock(), muted);
        }
        (seen.0.elapsed() > REST).then_some(())
    });
    assert!(settled.is_some(), "keys are still being pressed");
    for muted in if seen.1 { &[false][..] } else { &[true, false] } {
        one.line.press(STAR);
        one.line.press(6);
        system.await_participant(owner, one, |seen| seen.muted == *muted);
    }
    hear(guests, &[], |_| {});
}

#[test]
fn ten_thousand_random_rooms_are_answered_and_bounded() {
    let _turn = Exclusive::wait().unwrap();
    let mut system = System::start(Layout { conferences: 2, ..Layout::default() });
    let processes: Vec<String> =
        system.launcher.processes().iter().map(|process| process.name().to_owned()).collect();
    let mut guests = [system.guest("alice", 1, 510), system.guest("bob", 2, 790)];
    for guest in &mut guests {
        guest.join("peace");
    }
    hear(&mut guests, &[], |_| {});
    let before: Vec<u64> = processes.iter().map(|name| system.memory(name)).collect();
    let gateways = [1, 2].map(|n| {
        let addresses = system.launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
        addresses["sip-udp"].parse::<SocketAddr>().unwrap()
    });
    let floods: Vec<_> = (0..SOURCES)
        .map(|n| {
            let address = system.launcher.slice().host(230 + n);
            let socket = UdpSocket::bind((address, 0)).unwrap();
            let phone = Phone::new(&format!("flood{n}"), socket, gateways[usize::from(n % 2)]);
            thread::spawn(move || flood(phone, ROOMS / usize::from(SOURCES)))
        })
        .collect();
    let began = clock();
    let mut answers = BTreeMap::<u16, usize>::new();
    for flood in floods {
        for (status, count) in flood.join().unwrap() {
            *answers.entry(status).or_default() += count;
        }
    }
    println!("table: {ROOMS} random rooms in {:.1?}: {answers:?}", began.elapsed());
    assert_eq!(answers.values().sum::<usize>(), ROOMS, "not all were answered");
    assert!(answers.keys().all(|status| [200, 503].contains(status)), "{answers:?}");
    assert!(answers.contains_key(&200) && answers.contains_key(&503), "{answers:?}");
    for (name, before) in processes.iter().zip(before) {
        let more = system.memory(name).saturating_sub(before);
        println!("table: {name} had {before} kB before and has {more} kB more");
        assert!(more < MEMORY, "{name}: {more} kB more");
    }
    let claimed = system.counted("claimed");
    println!("table: names claimed by the proxies: {claimed:?}");
    // Nobody else has noticed, and the room that was there can be joined.
    let mut carol = system.guest("carol", 2, 1_130);
    carol.join("peace");
    let [alice, bob] = guests;
    let mut guests = [alice, bob, carol];
    hear(&mut guests, &[], |_| {});
    for guest in &mut guests {
        guest.leave();
    }
}

/// Calls so many rooms that nobody has heard of; the answers. Stays in those that let it in, without a sound.
fn flood(mut phone: Phone, count: usize) -> BTreeMap<u16, usize> {
    let mut answers = BTreeMap::new();
    let mut waiting = HashMap::<String, String>::new();
    let address = phone.local;
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\na=inactive\r\n",
        ip = address.ip()
    );
    let headers = format!("{}Content-Type: application/sdp\r\n", phone.contact());
    let mut sent = 0;
    let deadline = clock() + Duration::from_secs(120);
    while (sent < count || !waiting.is_empty()) && clock() < deadline {
        while sent < count && waiting.len() < WINDOW {
            let uri = format!("sip:conf-{:016x}@dialtone.test", fastrand::u64(..));
            let invite = phone.request("INVITE", &uri, &headers, &sdp);
            phone.send(&invite);
            let call_id = invite.split_once("Call-ID: ").unwrap().1.split_once("\r\n").unwrap().0;
            waiting.insert(call_id.to_owned(), invite);
            sent += 1;
        }
        let Some(answer) = phone.receive(Duration::from_secs(1)) else {
            // Sockets have buffers that are full sometimes.
            waiting.values().for_each(|invite| phone.send(invite));
            continue;
        };
        if answer.status() >= 200
            && let Some(invite) = waiting.remove(answer.value("Call-ID"))
        {
            acknowledge(&mut phone, &invite, &answer);
            assert!(answer.status() != 503 || !answer.lines("Retry-After").is_empty());
            *answers.entry(answer.status()).or_default() += 1;
        }
    }
    answers
}
