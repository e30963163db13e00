//! Phones on real sockets.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::*;
use crate::core::MediaSession;
use crate::mix::codec::{Decoder, Encoder};
use crate::mix::rtp::Packet;
use crate::mix::testing::{level, tone};
use crate::mix::{Codec, MemberSettings, RoomSettings, UNITS, WIDE, rtcp};

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    media: Media,
    events: mpsc::Receiver<MediaEvent>,
}

#[expect(clippy::disallowed_methods, reason = "tests on sockets live by the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits for what must come.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Server {
    fn start(recordings: Option<PathBuf>) -> Self {
        // A slice of loopback of its own, so that ports are free.
        let address = IpAddr::from([127, 77, fastrand::u8(1..), fastrand::u8(1..255)]);
        let config = MediaConfig { address, ports: 20_000..=29_999, workers: 2, recordings };
        let (sender, events) = mpsc::channel(8);
        Self { media: Media::start(&config, &sender).expect("started"), events }
    }

    fn event(&mut self) -> MediaEvent {
        until("an event", || self.events.try_recv().ok())
    }

    fn join(&mut self, call: u64, room: u64, frequency: f32, settings: RoomSettings) -> Phone {
        let call = CallId(call);
        let open = MediaCommand::Open {
            call,
            room: RoomId(room),
            name: "room".into(),
            settings: Box::new(settings),
        };
        self.media.command(open);
        let MediaEvent::Opened { call: opened, rtp } = self.event() else { panic!("not opened") };
        assert_eq!(opened, call);
        let phone = Phone::new(call, rtp, frequency);
        let rtp = phone.rtp.local_addr().expect("address");
        self.agree(&phone, rtp, true);
        assert_eq!(self.event(), MediaEvent::Entered { call });
        phone
    }

    fn agree(&mut self, phone: &Phone, rtp: SocketAddr, hears: bool) {
        let member = MemberSettings {
            codecs: vec![(0, Codec::Pcmu)],
            events: Some(101),
            hears,
            speaks: true,
            ssrc: 9,
            sequence: 1,
            timestamp: 1,
        };
        let rtcp = phone.rtcp.local_addr().ok();
        let session = MediaSession { rtp: Some(rtp), rtcp, mux: false, member };
        let session = Box::new(session);
        self.media.command(MediaCommand::Set { call: phone.call, session });
    }
}

/// Says one tone, and keeps the last second of what it hears.
pub(crate) struct Phone {
    call: CallId,
    pub(crate) rtp: UdpSocket,
    pub(crate) rtcp: UdpSocket,
    pub(crate) server: SocketAddr,
    encoder: Encoder,
    decoder: Decoder,
    frequency: f32,
    frames: u32,
    heard: Vec<i16>,
    reports: usize,
}

impl Phone {
    pub(crate) fn new(call: CallId, server: SocketAddr, frequency: f32) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.set_nonblocking(true).expect("non-blocking");
            socket
        };
        Self {
            call,
            rtp: socket(),
            rtcp: socket(),
            server,
            encoder: Encoder::new(Codec::Pcmu),
            decoder: Decoder::new(Codec::Pcmu),
            frequency,
            frames: 0,
            heard: Vec::new(),
            reports: 0,
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        let sound = tone(self.frequency, 8e3, 4000.0, (self.frames as usize % 50 + 1) * 160);
        let mut payload = [0; UNITS];
        // All tones here are whole numbers of Hz, so they begin anew every second.
        self.encoder.encode(&sound[sound.len() - 160..], &mut payload);
        let packet = Packet {
            marker: false,
            payload_type: 0,
            sequence: self.frames as u16,
            timestamp: self.frames * 160,
            ssrc: 1,
            payload: &payload,
        };
        self.frames += 1;
        packet.to_bytes()
    }

    fn listen(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.rtp.recv_from(&mut buffer) {
            assert_eq!(from, self.server);
            let packet = Packet::parse(&buffer[..length]).expect("RTP");
            let mut samples = [0; WIDE];
            let count = self.decoder.decode(packet.payload, &mut samples);
            self.heard.extend_from_slice(&samples[..count]);
        }
        let surplus = self.heard.len().saturating_sub(8000);
        self.heard.drain(..surplus);
        while self.rtcp.recv(&mut buffer).is_ok() {
            self.reports += 1;
        }
    }

    pub(crate) fn hears(&self, frequency: f32) -> bool {
        self.heard.len() == 8000 && level(&self.heard, frequency, 8e3) > 3000.0
    }
}

/// All speak and listen, 20 ms at a time, until something is so.
pub(crate) fn talk(phones: &mut [Phone], what: &str, mut done: impl FnMut(&[Phone]) -> bool) {
    let (begin, mut frames) = (now(), 0_u32);
    until(what, || {
        while begin + frames * Duration::from_millis(20) <= now() {
            for phone in &mut *phones {
                let packet = phone.packet();
                let _ = phone.rtp.send_to(&packet, phone.server);
                phone.listen();
            }
            frames += 1;
        }
        done(phones).then_some(())
    });
}

fn quiet() -> RoomSettings {
    RoomSettings { tones: false, ..RoomSettings::default() }
}

#[test]
fn rooms_are_heard_and_do_not_mix() {
    let mut server = Server::start(None);
    let mut phones = vec![
        server.join(1, 1, 400.0, quiet()),
        server.join(2, 1, 900.0, quiet()),
        server.join(3, 1, 1500.0, quiet()),
        server.join(4, 2, 600.0, quiet()),
        server.join(5, 2, 2000.0, quiet()),
    ];
    let wanted: [&[f32]; 5] =
        [&[900.0, 1500.0], &[400.0, 1500.0], &[400.0, 900.0], &[2000.0], &[600.0]];
    talk(&mut phones, "everybody hears the others", |phones| {
        let hears =
            |(phone, wanted): (&Phone, &&[f32])| wanted.iter().all(|tone| phone.hears(*tone));
        phones.iter().zip(&wanted).all(hears)
    });
    for (phone, wanted) in phones.iter().zip(&wanted) {
        for tone in [400.0, 900.0, 1500.0, 600.0, 2000.0] {
            let loud = level(&phone.heard, tone, 8e3);
            assert!(wanted.contains(&tone) || loud < 200.0, "{tone}: {loud}");
        }
    }
    talk(&mut phones, "reports come", |phones| phones.iter().all(|phone| phone.reports > 0));
    talk(&mut phones, "statistics are published", |_| {
        let lines = server.media.lines();
        lines.len() == 5 && lines.iter().all(|line| line.member.reception.packets > 50)
    });
    let before = server.media.counters();
    assert_eq!((before.rooms, before.participants, before.invalid), (2, 5, 0));
    for call in [4, 5] {
        server.media.command(MediaCommand::Close { call: CallId(call) });
    }
    until("the other room ends", || (server.media.counters().rooms == 1).then_some(()));
}

#[test]
fn strangers_are_not_heard() {
    let mut server = Server::start(None);
    let mut phones = vec![server.join(1, 1, 400.0, quiet()), server.join(2, 1, 900.0, quiet())];
    talk(&mut phones, "it works", |phones| phones[0].hears(900.0) && phones[1].hears(400.0));
    let mut stranger = Phone::new(CallId(9), phones[0].server, 2500.0);
    let mut sent = 0;
    talk(&mut phones, "strangers are counted", |_| {
        let packet = stranger.packet();
        let _ = stranger.rtp.send_to(&packet, stranger.server);
        let _ = stranger.rtp.send_to(b"nonsense", stranger.server);
        sent += 1;
        let counters = server.media.counters();
        counters.strangers > 10 && counters.invalid > 10
    });
    assert!(level(&phones[1].heard, 2500.0, 8e3) < 200.0 && phones[1].hears(400.0));
    stranger.listen();
    assert!(stranger.heard.is_empty(), "and hear nothing");
    assert!(sent > 10);
}

#[test]
fn who_spoke_before_a_participant_is_not_heard_any_more() {
    let mut server = Server::start(None);
    let mut phones = vec![server.join(1, 1, 400.0, quiet()), server.join(2, 1, 900.0, quiet())];
    // All at once, so that the room has them before the participant says anything. It may play one or two.
    let mut stranger = Phone::new(CallId(9), phones[0].server, 2500.0);
    for _ in 0..50 {
        let packet = stranger.packet();
        stranger.rtp.send_to(&packet, stranger.server).expect("sent");
    }
    let mut strange = 0.0_f32;
    talk(&mut phones, "both are heard", |phones| {
        let heard = &phones[1].heard;
        strange = strange.max(level(heard, 2500.0, 8e3) * heard.len() as f32 / 8e3);
        phones[0].hears(900.0) && phones[1].hears(400.0)
    });
    assert!(strange < 4000.0 * 0.06, "three frames in a second, not {strange}");
}

#[test]
fn a_phone_behind_a_nat_is_found() {
    let mut server = Server::start(None);
    let mut phones = vec![server.join(1, 1, 400.0, quiet()), server.join(2, 1, 900.0, quiet())];
    // What it says of itself leads nowhere.
    server.agree(&phones[0], "127.0.0.254:9".parse().expect("address"), true);
    talk(&mut phones, "it is found", |phones| phones[0].hears(900.0));
    server.agree(&phones[0], "127.0.0.254:9".parse().expect("address"), false);
    let mut silent_since = now();
    let mut count = usize::MAX;
    talk(&mut phones, "on hold it hears nothing", |phones| {
        let heard: usize = phones[0].heard.iter().filter(|sample| **sample != 0).count();
        if heard != count {
            (silent_since, count) = (now(), heard);
        }
        now() - silent_since > Duration::from_millis(300)
    });
}

#[test]
fn a_phone_that_moves_is_followed() {
    let mut server = Server::start(None);
    let mut phones = vec![server.join(1, 1, 400.0, quiet()), server.join(2, 1, 900.0, quiet())];
    let both = |phones: &[Phone]| phones[0].hears(900.0) && phones[1].hears(400.0);
    talk(&mut phones, "it works", both);
    for is_said in [false, true] {
        // Others have the port that it had.
        let mut before = Phone::new(CallId(9), phones[0].server, 2500.0);
        std::mem::swap(&mut before.rtp, &mut phones[0].rtp);
        if is_said {
            server.agree(&phones[0], phones[0].rtp.local_addr().expect("address"), true);
        }
        phones.iter_mut().for_each(|phone| phone.heard.clear());
        talk(&mut phones, "it is found at its new port", both);
        if !is_said {
            // What comes from where it says that it is would count more.
            continue;
        }
        before.listen();
        before.heard.clear();
        talk(&mut phones, "a second passes", |phones| {
            let packet = before.packet();
            let _ = before.rtp.send_to(&packet, before.server);
            before.frames > 100 && both(phones)
        });
        before.listen();
        assert!(before.heard.is_empty(), "nobody is heard at the old one");
        assert!(level(&phones[1].heard, 2500.0, 8e3) < 200.0);
    }
}

#[test]
fn recordings_are_files() {
    let folder = std::env::temp_dir().join(format!("conference-{}", fastrand::u64(..)));
    let mut server = Server::start(Some(folder.clone()));
    let records = || RoomSettings { records: true, ..quiet() };
    let mut phones = vec![server.join(1, 1, 400.0, records()), server.join(2, 1, 900.0, records())];
    talk(&mut phones, "it works", |phones| phones[0].hears(900.0) && phones[1].hears(400.0));
    for call in [1, 2] {
        server.media.command(MediaCommand::Close { call: CallId(call) });
    }
    drop(server);
    let file = std::fs::read_dir(&folder).expect("a folder").flatten().next().expect("a file");
    let bytes = std::fs::read(file.path()).expect("a file");
    let samples: Vec<i16> =
        bytes[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let last = &samples[samples.len() - 8000..];
    for frequency in [400.0, 900.0] {
        assert!(level(last, frequency, 16e3) > 2500.0, "{}", level(last, frequency, 16e3));
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn silence_is_noticed_and_goodbye_said() {
    let mut server = Server::start(None);
    let mut phone = server.join(1, 1, 400.0, RoomSettings { timeout_ticks: 10, ..quiet() });
    assert_eq!(server.event(), MediaEvent::Lost { call: CallId(1) });
    server.media.command(MediaCommand::Close { call: CallId(1) });
    let mut buffer = [0; 2048];
    until("goodbye", || {
        let length = phone.rtcp.recv(&mut buffer).ok()?;
        let mut items = rtcp::parse(&buffer[..length])?;
        items.any(|item| matches!(item, rtcp::Item::Goodbye(9))).then_some(())
    });
    phone.listen();
    // Its number can be used again.
    server.join(2, 1, 400.0, quiet());
}
