//! The data path on loopback sockets.

mod common;

use std::time::Duration;

use common::{Bed, PAIR, PATIENCE, Phone, RTCP, eventually, now, rtp};
use dialtone_media_relay::plane::Side::{Answerer, Offerer};
use dialtone_media_relay::plane::{
    Command, EndSettings, Event, Kind, Latch, PairId, Reopen, RtcpSocket,
};

fn to(phone: &Phone, rtcp: &Phone) -> EndSettings {
    EndSettings { rtp: Some(phone.address()), rtcp: Some(rtcp.address()), ..EndSettings::default() }
}

/// Sends from `from` through the relay, and checks what arrives at `to`, and from which of the relay's ports.
fn passes(
    from: &Phone,
    relay: std::net::SocketAddr,
    to: &Phone,
    by: std::net::SocketAddr,
    bytes: &[u8],
) {
    from.send(relay, bytes);
    assert_eq!(to.receive(), (bytes.to_vec(), by));
}

/// RTP and RTCP, both ways, between two phones whose relay stands at these addresses.
fn talk(relay: [&str; 2], phones: [&str; 2]) {
    let mut bed = Bed::new(relay);
    let [a, b] = phones.map(Phone::new);
    let [a_rtcp, b_rtcp] = phones.map(Phone::new);
    bed.open(Kind::Rtp, [to(&a, &a_rtcp), to(&b, &b_rtcp)]);
    for sequence in 0..50 {
        passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(sequence));
        passes(&b, bed.rtp(Answerer), &a, bed.rtp(Offerer), &rtp(sequence));
    }
    passes(&a_rtcp, bed.rtcp(Offerer), &b_rtcp, bed.rtcp(Answerer), &RTCP);
    passes(&b_rtcp, bed.rtcp(Answerer), &a_rtcp, bed.rtcp(Offerer), &RTCP);
    let stats = bed.stats();
    for (end, phone, rtcp) in [(&stats.ends[0], &a, &a_rtcp), (&stats.ends[1], &b, &b_rtcp)] {
        assert_eq!((end.packets, end.rtcp_packets, end.sent), (50, 1, 51));
        assert_eq!((end.bytes, end.sent_bytes), (50 * 172, 50 * 172 + 8));
        assert_eq!((end.peer, end.rtcp_peer), (Some(phone.address()), Some(rtcp.address())));
        assert_eq!((end.lost, end.out_of_order, end.duplicates), (0, 0, 0));
        assert_eq!((end.ssrc, end.payload_type, end.latched), (Some(1), Some(0), true));
    }
    eventually("totals", || bed.plane.totals().packets_out == 102);
    let totals = bed.plane.totals();
    assert_eq!((totals.pairs, totals.packets_in, totals.bytes_in), (1, 102, 100 * 172 + 16));
}

#[test]
fn between_ipv4_phones() {
    talk(["127.93.2.1", "127.93.2.2"], ["127.93.2.3", "127.93.2.4"]);
}

#[test]
fn between_ipv4_and_ipv6() {
    talk(["127.93.3.1", "::1"], ["127.93.3.3", "::1"]);
}

#[test]
fn nat_early_media_and_strangers() {
    let mut bed = Bed::new(["127.93.4.1", "127.93.4.2"]);
    let [a, b, stranger] = ["127.93.4.3", "127.93.4.4", "127.93.4.5"].map(Phone::new);
    // Behind a NAT: what A signals is not where its packets come from.
    let nat = EndSettings { rtp: "127.93.4.99:9".parse().ok(), ..EndSettings::default() };
    bed.open(Kind::Rtp, [nat, EndSettings { rtp: Some(b.address()), ..EndSettings::default() }]);
    passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(1));
    passes(&b, bed.rtp(Answerer), &a, bed.rtp(Offerer), &rtp(1));
    for n in 0..100 {
        stranger.send(bed.rtp(Offerer), &rtp(n));
        stranger.send(bed.rtp(Answerer), &rtp(n));
    }
    eventually("strangers are counted", || bed.plane.totals().strangers == 200);
    passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(2));
    passes(&b, bed.rtp(Answerer), &a, bed.rtp(Offerer), &rtp(2));
    assert!(a.is_idle() && b.is_idle() && stranger.is_idle());
    let stats = bed.stats();
    assert_eq!(stats.ends.map(|end| (end.packets, end.strangers)), [(2, 100), (2, 100)]);
}

#[test]
fn a_phone_moves_by_signalling() {
    let mut bed = Bed::new(["127.93.5.1", "127.93.5.2"]);
    let [a, b, elsewhere] = ["127.93.5.3", "127.93.5.4", "127.93.5.5"].map(Phone::new);
    bed.open(Kind::Rtp, [to(&a, &a), to(&b, &b)]);
    passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(1));
    let change = Command::Change {
        pair: PAIR,
        side: Offerer,
        settings: to(&elsewhere, &elsewhere),
        reopen: Reopen::IfMoved,
        rtcp: RtcpSocket::Keep,
    };
    bed.plane.execute(change);
    // Media follows at once, before a packet has come from there.
    bed.stats();
    passes(&b, bed.rtp(Answerer), &elsewhere, bed.rtp(Offerer), &rtp(1));
    passes(&elsewhere, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(2));
    a.send(bed.rtp(Offerer), &rtp(3));
    eventually("the old place is a stranger", || bed.plane.totals().strangers == 1);
}

/// Whoever has seen the answer to a request may send at once.
#[test]
fn a_command_holds_for_every_packet_that_comes_after_it() {
    let mut bed = Bed::new(["127.93.13.1", "127.93.13.2"]);
    let [a, b, elsewhere] = ["127.93.13.3", "127.93.13.4", "127.93.13.5"].map(Phone::new);
    bed.open(Kind::Rtp, [to(&a, &a), to(&b, &b)]);
    for sequence in 0..500 {
        let phone = if sequence % 2 == 0 { &elsewhere } else { &b };
        bed.plane.execute(Command::Change {
            pair: PAIR,
            side: Answerer,
            settings: to(phone, phone),
            reopen: Reopen::IfMoved,
            rtcp: RtcpSocket::Keep,
        });
        passes(&a, bed.rtp(Offerer), phone, bed.rtp(Answerer), &rtp(sequence));
    }
}

#[test]
fn rtcp_moves_to_the_rtp_port_and_back() {
    let mut bed = Bed::new(["127.93.6.1", "127.93.6.2"]);
    let [a, b] = ["127.93.6.3", "127.93.6.4"].map(Phone::new);
    let [a_rtcp, b_rtcp] = ["127.93.6.3", "127.93.6.4"].map(Phone::new);
    let settings = [to(&a, &a_rtcp), to(&b, &b_rtcp)];
    bed.open(Kind::Rtp, settings.clone());
    let shared = EndSettings { mux: true, ..settings[0].clone() };
    let change = |settings, rtcp| Command::Change {
        pair: PAIR,
        side: Offerer,
        settings,
        reopen: Reopen::IfMoved,
        rtcp,
    };
    bed.plane.execute(change(shared, RtcpSocket::Close));
    bed.stats();
    passes(&b_rtcp, bed.rtcp(Answerer), &a, bed.rtp(Offerer), &RTCP);
    passes(&a, bed.rtp(Offerer), &b_rtcp, bed.rtcp(Answerer), &RTCP);
    // The port is free for being bound again.
    let socket = bed.ports[0].open_rtcp(bed.rtp(Offerer).port()).unwrap();
    bed.plane.execute(change(settings[0].clone(), RtcpSocket::Replace(socket)));
    bed.stats();
    passes(&b_rtcp, bed.rtcp(Answerer), &a_rtcp, bed.rtcp(Offerer), &RTCP);
    passes(&a_rtcp, bed.rtcp(Offerer), &b_rtcp, bed.rtcp(Answerer), &RTCP);
}

#[test]
fn opaque_datagrams_of_any_size() {
    let mut bed = Bed::new(["127.93.7.1", "127.93.7.2"]);
    let [a, b] = ["127.93.7.3", "127.93.7.4"].map(Phone::new);
    let fixed = |phone| EndSettings { latch: Latch::Never, ..to(phone, phone) };
    bed.open(Kind::Opaque, [fixed(&a), fixed(&b)]);
    for length in [0, 1, 11, 1_472, 2_000] {
        passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &vec![0x5a; length]);
    }
}

#[test]
fn silence_is_reported_and_the_end_too() {
    let mut bed = Bed::new(["127.93.8.1", "127.93.8.2"]);
    let [a, b] = ["127.93.8.3", "127.93.8.4"].map(Phone::new);
    let silence = Duration::from_millis(50);
    let before = now();
    bed.open_for(Kind::Rtp, [to(&a, &a), to(&b, &b)], silence);
    assert!(matches!(bed.event(), Event::Silent { pair: PAIR }));
    assert!(before.elapsed() >= silence);
    // Packets make it worth saying again.
    passes(&a, bed.rtp(Offerer), &b, bed.rtp(Answerer), &rtp(1));
    assert!(matches!(bed.event(), Event::Silent { pair: PAIR }));
    bed.plane.execute(Command::Close { pair: PAIR });
    match bed.event() {
        Event::Closed { pair: PAIR, stats: Some(stats) } => assert_eq!(stats.ends[0].packets, 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(bed.plane.totals().pairs, 0);
    // The sockets are gone, and nothing is known of the pair.
    let _free = std::net::UdpSocket::bind(bed.rtp(Offerer)).unwrap();
    bed.plane.execute(Command::Close { pair: PAIR });
    assert!(matches!(bed.event(), Event::Closed { pair: PAIR, stats: None }));
    bed.plane.execute(Command::Query { pair: PairId(9), tag: 3 });
    assert!(matches!(bed.event(), Event::Queried { pair: PairId(9), tag: 3, stats: None }));
}

#[test]
fn a_peer_that_is_gone_does_not_disturb_the_other_way() {
    let mut bed = Bed::new(["127.93.9.1", "127.93.9.2"]);
    let [a, b] = ["127.93.9.3", "127.93.9.4"].map(Phone::new);
    let unreachable = EndSettings { rtp: "255.255.255.255:9".parse().ok(), ..to(&b, &b) };
    bed.open(Kind::Rtp, [to(&a, &a), unreachable]);
    // Broadcast is not permitted: the system refuses to send.
    a.send(bed.rtp(Offerer), &rtp(1));
    eventually("the error is counted", || bed.plane.totals().send_errors == 1);
    passes(&b, bed.rtp(Answerer), &a, bed.rtp(Offerer), &rtp(1));
    let stats = bed.stats();
    assert_eq!((stats.ends[1].send_errors, stats.ends[1].sent), (1, 0));
    // A port that nobody listens at: ICMP errors come back, and nothing stops.
    let gone = Phone::new("127.93.9.5");
    let settings = to(&gone, &gone);
    drop(gone);
    let change = Command::Change {
        pair: PAIR,
        side: Answerer,
        settings,
        reopen: Reopen::IfMoved,
        rtcp: RtcpSocket::Keep,
    };
    bed.plane.execute(change);
    bed.stats();
    for sequence in 0..100 {
        a.send(bed.rtp(Offerer), &rtp(sequence));
    }
    eventually("all were sent", || bed.plane.totals().packets_in == 102);
    passes(&b, bed.rtp(Answerer), &a, bed.rtp(Offerer), &rtp(2));
}

#[test]
fn dropping_the_plane_closes_everything() {
    let mut bed = Bed::new(["127.93.10.1", "127.93.10.2"]);
    bed.open(Kind::Rtp, [EndSettings::default(), EndSettings::default()]);
    let taken = bed.rtp(Offerer);
    assert!(std::net::UdpSocket::bind(taken).is_err());
    let Bed { plane, .. } = bed;
    let start = now();
    drop(plane);
    assert!(start.elapsed() < PATIENCE);
    let _free = std::net::UdpSocket::bind(taken).unwrap();
}
