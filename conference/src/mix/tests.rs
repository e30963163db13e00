//! Rooms, heard by their tones.

use crate::mix::codec::{Codec, Decoder, Encoder};
use crate::mix::member::MemberSettings;
use crate::mix::room::{Frames, Room, RoomEvent, RoomSettings, Seat, Sink};
use crate::mix::rtcp;
use crate::mix::rtp::Packet;
use crate::mix::testing::level;
use crate::mix::{UNITS, WIDE};

/// What a room has sent, by token.
#[derive(Default)]
struct Sent {
    rtp: Vec<(usize, Vec<u8>)>,
    rtcp: Vec<(usize, Vec<u8>)>,
    mixed: Vec<i16>,
}

impl Sink for Sent {
    fn rtp(&mut self, token: usize, packet: &[u8]) {
        self.rtp.push((token, packet.to_vec()));
    }

    fn rtcp(&mut self, token: usize, packet: &[u8]) {
        self.rtcp.push((token, packet.to_vec()));
    }

    fn mixed(&mut self, frame: &[i16; WIDE]) {
        self.mixed.extend_from_slice(frame);
    }
}

/// Somebody who says one tone, and remembers what was heard.
struct Phone {
    seat: Seat,
    codec: Codec,
    encoder: Encoder,
    decoder: Decoder,
    /// 0: says nothing.
    frequency: f32,
    amplitude: f32,
    frames: usize,
    sequence: u16,
    heard: Vec<i16>,
}

impl Phone {
    fn rate(&self) -> f32 {
        if self.codec.is_wide() { 16e3 } else { 8e3 }
    }

    fn payload(&mut self) -> [u8; UNITS] {
        let samples = self.codec.samples();
        let step = std::f64::consts::TAU * f64::from(self.frequency) / f64::from(self.rate());
        let first = self.frames * samples;
        let sample =
            |index: usize| (f64::from(self.amplitude) * (step * index as f64).sin()) as i16;
        let sound: Vec<i16> = (first..first + samples).map(sample).collect();
        let mut units = [0; UNITS];
        self.encoder.encode(&sound, &mut units);
        units
    }

    fn packet(&mut self) -> Vec<u8> {
        let payload = self.payload();
        let packet = Packet {
            marker: false,
            payload_type: self.codec.payload_type(),
            sequence: self.sequence,
            timestamp: 4_000_000_000_u32.wrapping_add(self.frames as u32 * 160),
            ssrc: 77,
            payload: &payload,
        };
        (self.frames, self.sequence) = (self.frames + 1, self.sequence.wrapping_add(1));
        packet.to_bytes()
    }

    fn press(&mut self, room: &mut Room, keys: &str) {
        for key in keys.bytes() {
            let event = b"0123456789*#".iter().position(|known| *known == key).expect("a key");
            for duration in [160_u16, 320, 320, 320] {
                let [d0, d1] = duration.to_be_bytes();
                let packet = Packet {
                    marker: false,
                    payload_type: 101,
                    sequence: self.sequence,
                    timestamp: self.frames as u32 * 160,
                    ssrc: 77,
                    payload: &[event as u8, 0, d0, d1],
                };
                self.sequence = self.sequence.wrapping_add(1);
                room.handle_rtp(self.seat, &packet.to_bytes(), self.frames as u32 * 160);
            }
            self.frames += 1;
        }
    }

    /// How loud a frequency was lately.
    fn hears(&self, frequency: f32) -> f32 {
        let seconds = self.rate() as usize / 2;
        let from = self.heard.len().saturating_sub(seconds);
        level(&self.heard[from..], frequency, self.rate())
    }
}

fn settings(codec: Codec) -> MemberSettings {
    MemberSettings {
        codecs: vec![(codec.payload_type(), codec)],
        events: Some(101),
        hears: true,
        speaks: true,
        ssrc: 5,
        sequence: 65_530,
        timestamp: u32::MAX - 1000,
    }
}

fn quiet() -> RoomSettings {
    RoomSettings { tones: false, ..RoomSettings::default() }
}

fn join(room: &mut Room, token: usize, codec: Codec, frequency: f32) -> Phone {
    Phone {
        seat: room.join(token, &settings(codec)),
        codec,
        encoder: Encoder::new(codec),
        decoder: Decoder::new(codec),
        frequency,
        amplitude: 4000.0,
        frames: 0,
        sequence: 0,
        heard: Vec::new(),
    }
}

/// So many frames: everybody who has a tone sends, the room ticks, everybody hears.
fn run(room: &mut Room, phones: &mut [Phone], frames: usize, start: u32) -> Sent {
    let mut all = Sent::default();
    for frame in 0..frames as u32 {
        let now = start + frame;
        for phone in phones.iter_mut().filter(|phone| phone.frequency > 0.0) {
            let packet = phone.packet();
            assert!(room.handle_rtp(phone.seat, &packet, now * 160).is_some());
        }
        let mut sent = Sent::default();
        room.tick(u64::from(now) << 26, &mut Frames::new(), &mut sent);
        for (token, bytes) in &sent.rtp {
            let packet = Packet::parse(bytes).expect("RTP");
            let phone = &mut phones[*token];
            assert_eq!(packet.payload_type, phone.codec.payload_type());
            let mut samples = [0; WIDE];
            let count = phone.decoder.decode(packet.payload, &mut samples);
            phone.heard.extend_from_slice(&samples[..count]);
        }
        all.rtp.append(&mut sent.rtp);
        all.rtcp.append(&mut sent.rtcp);
        all.mixed.append(&mut sent.mixed);
    }
    all
}

#[test]
fn everybody_hears_the_others_and_not_himself() {
    let codecs = [Codec::Pcma, Codec::G722, Codec::Pcmu, Codec::G722, Codec::Pcmu];
    let tones = [400.0, 700.0, 1100.0, 1700.0, 2600.0];
    let mut room = Room::new(quiet());
    let mut phones: Vec<Phone> =
        (0..5).map(|index| join(&mut room, index, codecs[index], tones[index])).collect();
    // And one who says nothing, in each width.
    phones.push(join(&mut room, 5, Codec::Pcma, 0.0));
    phones.push(join(&mut room, 6, Codec::G722, 0.0));
    run(&mut room, &mut phones, 100, 0);
    for (index, phone) in phones.iter().enumerate() {
        for (other, frequency) in tones.iter().enumerate() {
            let loud = phone.hears(*frequency);
            if index == other {
                assert!(loud < 60.0, "{index} hears itself: {loud}");
            } else {
                assert!((3400.0..4600.0).contains(&loud), "{index} hears {other}: {loud}");
            }
        }
        assert!(phone.hears(3200.0) < 120.0, "{index} hears what nobody says");
    }
}

#[test]
fn many_who_come_at_once_are_not_told_one_by_one() {
    let mut room = Room::new(RoomSettings::default());
    let mut phones: Vec<Phone> =
        (0..30).map(|index| join(&mut room, index, Codec::Pcmu, 0.0)).collect();
    run(&mut room, &mut phones, 100, 0);
    let heard = &phones[7].heard;
    let loud = |samples: &[i16]| samples.iter().any(|sample| sample.unsigned_abs() > 1000);
    assert!(loud(&heard[..4000]) && !loud(&heard[5600..]), "less than 0.7 s");
}

#[test]
fn silent_listeners_share_what_is_encoded() {
    let mut room = Room::new(quiet());
    let mut phones: Vec<Phone> = (0..50)
        .map(|index| join(&mut room, index, Codec::Pcmu, if index < 2 { 500.0 } else { 0.0 }))
        .collect();
    let sent = run(&mut room, &mut phones, 60, 0);
    let last: Vec<&[u8]> =
        sent.rtp[sent.rtp.len() - 50..].iter().map(|(_, packet)| &packet[12..]).collect();
    assert!(last[2..].iter().all(|payload| *payload == last[2]));
    assert_ne!(last[0], last[2]);
    assert!(phones[30].hears(500.0) > 6000.0);
}

#[test]
fn many_loud_voices_are_turned_down() {
    let mut room = Room::new(quiet());
    let mut phones: Vec<Phone> = (0..8)
        .map(|index| join(&mut room, index, Codec::Pcma, 300.0 + 350.0 * index as f32))
        .collect();
    phones.iter_mut().for_each(|phone| phone.amplitude = 25_000.0);
    run(&mut room, &mut phones, 150, 0);
    for (index, phone) in phones.iter().enumerate() {
        for other in 0..8 {
            let loud = phone.hears(300.0 + 350.0 * other as f32);
            assert_eq!(loud > 2000.0, index != other, "{index} hears {other}: {loud}");
        }
        assert!(phone.hears(475.0) < 500.0, "{index}: {}", phone.hears(475.0));
    }
}

#[test]
fn two_rooms_do_not_mix() {
    let (mut one, mut other) = (Room::new(quiet()), Room::new(quiet()));
    let mut here = [join(&mut one, 0, Codec::Pcma, 500.0), join(&mut one, 1, Codec::Pcma, 900.0)];
    let mut there =
        [join(&mut other, 0, Codec::Pcma, 1300.0), join(&mut other, 1, Codec::Pcma, 1900.0)];
    run(&mut one, &mut here, 60, 0);
    run(&mut other, &mut there, 60, 0);
    assert!(here[0].hears(900.0) > 3000.0 && here[0].hears(1900.0) < 100.0);
    assert!(there[1].hears(1300.0) > 3000.0 && there[1].hears(500.0) < 100.0);
}

#[test]
fn coming_going_and_being_alone_are_heard() {
    let mut room = Room::new(RoomSettings::default());
    let mut phones = vec![join(&mut room, 0, Codec::Pcma, 0.0)];
    assert_eq!(room.poll(), Some(RoomEvent::Entered { token: 0 }));
    run(&mut room, &mut phones, 25, 0);
    assert!(phones[0].hears(425.0) > 300.0, "alone: {}", phones[0].hears(425.0));
    run(&mut room, &mut phones, 240, 25);
    assert!(phones[0].hears(425.0) > 300.0, "still alone: {}", phones[0].hears(425.0));
    phones.push(join(&mut room, 1, Codec::G722, 0.0));
    run(&mut room, &mut phones, 25, 300);
    for phone in &phones {
        assert!(phone.hears(660.0) > 250.0 && phone.hears(880.0) > 1000.0);
    }
    run(&mut room, &mut phones, 300, 400);
    assert!(phones[0].hears(425.0) < 50.0, "not alone");
    let mut sent = Sent::default();
    room.leave(phones[1].seat, 0, &mut sent);
    phones.pop();
    assert!(
        rtcp::parse(&sent.rtcp[0].1)
            .expect("RTCP")
            .any(|item| matches!(item, rtcp::Item::Goodbye(5)))
    );
    run(&mut room, &mut phones, 25, 800);
    assert!(phones[0].hears(660.0) > 1000.0 && phones[0].hears(880.0) > 250.0);
    assert_eq!(room.len(), 1);
}

#[test]
fn keys_mute_and_count() {
    let mut room = Room::new(quiet());
    let mut phones: Vec<Phone> = (0..3)
        .map(|index| join(&mut room, index, Codec::Pcma, 500.0 + 400.0 * index as f32))
        .collect();
    run(&mut room, &mut phones, 50, 0);
    while room.poll().is_some() {}
    phones[0].press(&mut room, "*6");
    assert_eq!(room.poll(), Some(RoomEvent::Muted { token: 0, muted: true }));
    run(&mut room, &mut phones, 50, 100);
    assert!(phones[1].hears(500.0) < 100.0 && phones[1].hears(1300.0) > 3000.0);
    assert!(phones[0].hears(900.0) > 3000.0, "who is muted hears");
    phones[0].press(&mut room, "*6");
    run(&mut room, &mut phones, 50, 200);
    assert!(phones[1].hears(500.0) > 3000.0);
    // Three beeps of 150 ms.
    let before = phones[2].heard.len();
    phones[2].press(&mut room, "*#");
    run(&mut room, &mut phones, 60, 300);
    let beeps: Vec<bool> = phones[2].heard[before..]
        .chunks_exact(400)
        .map(|chunk| level(chunk, 1000.0, 8e3) > 1500.0)
        .collect();
    let count = beeps.windows(2).filter(|pair| !pair[0] && pair[1]).count() + usize::from(beeps[0]);
    assert_eq!(count, 3, "{beeps:?}");
}

#[test]
fn a_number_opens_the_room() {
    let mut room = Room::new(RoomSettings { pin: Some("4711".into()), pin_ticks: 500, ..quiet() });
    let mut phones: Vec<Phone> = (0..4)
        .map(|index| join(&mut room, index, Codec::Pcmu, 500.0 + 400.0 * index as f32))
        .collect();
    run(&mut room, &mut phones, 50, 0);
    assert_eq!(room.poll(), None);
    phones[0].press(&mut room, "4711");
    phones[1].press(&mut room, "11*4711#");
    phones[2].press(&mut room, "111122223333444455556666");
    run(&mut room, &mut phones, 80, 100);
    let events: Vec<RoomEvent> = std::iter::from_fn(|| room.poll()).collect();
    assert_eq!(
        events,
        [
            RoomEvent::Entered { token: 0 },
            RoomEvent::Entered { token: 1 },
            RoomEvent::Refused { token: 2 }
        ]
    );
    assert!(phones[0].hears(900.0) > 3000.0 && phones[0].hears(1300.0) < 100.0, "inside");
    assert!(phones[3].hears(500.0) < 100.0 && phones[3].hears(900.0) < 100.0, "outside");
    run(&mut room, &mut phones, 400, 300);
    let events: Vec<RoomEvent> = std::iter::from_fn(|| room.poll()).collect();
    assert_eq!(events, [RoomEvent::Refused { token: 2 }, RoomEvent::Refused { token: 3 }]);
}

#[test]
fn silence_is_told_once_and_not_while_on_hold() {
    let mut room = Room::new(RoomSettings { timeout_ticks: 100, ..quiet() });
    let mut phones: Vec<Phone> =
        (0..2).map(|index| join(&mut room, index, Codec::Pcmu, 500.0)).collect();
    while room.poll().is_some() {}
    room.change(
        phones[1].seat,
        &MemberSettings { hears: false, speaks: false, ..settings(Codec::Pcmu) },
    );
    run(&mut room, &mut phones, 50, 0);
    assert!(phones[1].heard.is_empty(), "on hold");
    assert!(phones[0].hears(500.0) < 100.0, "its music is not for us");
    phones.iter_mut().for_each(|phone| phone.frequency = 0.0);
    run(&mut room, &mut phones, 300, 50);
    let events: Vec<RoomEvent> = std::iter::from_fn(|| room.poll()).collect();
    assert_eq!(events, [RoomEvent::Lost { token: 0 }]);
}

#[test]
fn reports_tell_loss_and_round_trip() {
    let mut room = Room::new(quiet());
    let mut phones = vec![join(&mut room, 0, Codec::Pcmu, 500.0)];
    let sent = run(&mut room, &mut phones, 600, 0);
    assert_eq!(sent.rtcp.len(), 3);
    let report = &sent.rtcp[1].1;
    let Some(rtcp::Item::Report(report)) = rtcp::parse(report).expect("RTCP").next() else {
        panic!("no report")
    };
    let info = report.sender.expect("a sender");
    assert_eq!((report.ssrc, info.octets), (5, info.packets * 160));
    assert_eq!(report.blocks().next().map(|block| (block.ssrc, block.lost)), Some((77, 0)));
    // The other side answers 100 ms later, having waited for 60 ms.
    let second = 1 << 16;
    let block = rtcp::Block {
        ssrc: 5,
        fraction_lost: 64,
        last_report: (info.ntp >> 16) as u32,
        delay: second * 6 / 100,
        ..rtcp::Block::default()
    };
    let mut answer = Vec::new();
    rtcp::write(&mut answer, 77, None, Some(&block), "x", false);
    assert!(room.handle_rtcp(phones[0].seat, &answer, info.ntp + (1 << 32) / 10));
    let stats = room.stats().next().expect("a member");
    assert_eq!((stats.round_trip_ms, stats.remote_lost), (Some(39), 0.25));
    assert!(!room.handle_rtcp(phones[0].seat, b"nonsense", 0));
}

#[test]
fn what_is_mixed_can_be_recorded() {
    let mut room = Room::new(RoomSettings { records: true, ..quiet() });
    let mut phones =
        vec![join(&mut room, 0, Codec::Pcmu, 500.0), join(&mut room, 1, Codec::Pcma, 900.0)];
    let sent = run(&mut room, &mut phones, 60, 0);
    assert_eq!(sent.mixed.len(), 60 * WIDE);
    for frequency in [500.0, 900.0] {
        assert!(level(&sent.mixed[10 * WIDE..], frequency, 16e3) > 3400.0);
    }
}

const SPOKEN: [f32; 3] = [440.0, 1000.0, 2400.0];

/// What a network with 5 % loss and 60 ms of jitter did to packets.
#[derive(Default)]
struct Harm {
    packets: u32,
    lost: u32,
    overtaken: u32,
}

/// Three phones for so many frames over that network; `prepare` is called before each frame is spoken.
fn over_a_bad_network(
    codec: Codec,
    frames: u32,
    mut prepare: impl FnMut(u32, &mut [Phone]),
) -> (Room, Vec<Phone>, Harm) {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut room = Room::new(quiet());
    let mut phones: Vec<Phone> = SPOKEN
        .iter()
        .enumerate()
        .map(|(token, tone)| join(&mut room, token, codec, *tone))
        .collect();
    let mut harm = Harm::default();
    // When it arrives in ms, who sent it.
    let mut on_the_way: Vec<(u32, usize, Vec<u8>)> = Vec::new();
    for frame in 0..frames {
        prepare(frame, &mut phones);
        for (index, phone) in phones.iter_mut().enumerate() {
            let packet = phone.packet();
            harm.packets += 1;
            if rng.f32() < 0.05 {
                harm.lost += 1;
                continue;
            }
            let due = frame * 20 + rng.u32(..60);
            let is_before =
                |(other, from, _): &(u32, usize, Vec<u8>)| *from == index && *other > due;
            harm.overtaken += u32::from(on_the_way.iter().any(is_before));
            on_the_way.push((due, index, packet));
        }
        on_the_way.sort_by_key(|(due, ..)| *due);
        let arrived = on_the_way.partition_point(|(due, ..)| *due < frame * 20 + 20);
        for (due, index, packet) in on_the_way.drain(..arrived) {
            room.handle_rtp(phones[index].seat, &packet, due * 8);
        }
        let mut sent = Sent::default();
        room.tick(u64::from(frame) << 26, &mut Frames::new(), &mut sent);
        for (token, bytes) in &sent.rtp {
            let packet = Packet::parse(bytes).expect("RTP");
            let mut samples = [0; WIDE];
            let count = phones[*token].decoder.decode(packet.payload, &mut samples);
            phones[*token].heard.extend_from_slice(&samples[..count]);
        }
    }
    (room, phones, harm)
}

/// What is left of speech: its tones, second by second.
#[test]
fn a_bad_network_leaves_speech_recognisable() {
    for codec in Codec::ALL {
        let (room, phones, harm) = over_a_bad_network(codec, 3000, |_, _| {});
        let (mut least, mut own) = (f32::MAX, 0.0_f32);
        for (index, phone) in phones.iter().enumerate() {
            let second = phone.rate() as usize;
            for heard in phone.heard[second..].chunks_exact(second) {
                for (other, frequency) in SPOKEN.into_iter().enumerate() {
                    let loud = level(heard, frequency, phone.rate());
                    if index == other {
                        own = own.max(loud);
                    } else {
                        least = least.min(loud);
                    }
                }
            }
        }
        let (mut made_up, mut late) = (0, 0);
        for stats in room.stats() {
            made_up += stats.reception.made_up;
            late += stats.reception.late;
        }
        let percent = |part: f64| 100.0 * part / f64::from(harm.packets);
        println!(
            "table: {}, {:.1} % lost, {:.1} % overtaken, 60 ms of jitter, 60 s: in every second each tone of 4000 is \
             heard with at least {least:.0}, one's own with at most {own:.0}; {:.1} % of frames made up, {late} packets late",
            codec.name(),
            percent(harm.lost.into()),
            percent(harm.overtaken.into()),
            percent(made_up as f64),
        );
        assert!(least > 2000.0, "{codec:?}: {least}");
        assert!(least > 8.0 * own, "{codec:?}: {least}, own {own}");
        assert!((3.0..12.0).contains(&percent(made_up as f64)), "{codec:?}: {made_up}");
    }
}

/// How late speech is: one phone speaks for a second, is silent for a second, and the others listen for when it begins.
#[test]
fn a_bad_network_delays_speech_by_less_than_150_ms() {
    for codec in Codec::ALL {
        let (_, phones, _) = over_a_bad_network(codec, 3000, |frame, phones| {
            phones[0].amplitude = if frame % 100 < 50 { 4000.0 } else { 0.0 };
        });
        let heard = &phones[1].heard;
        let rate = phones[1].rate();
        let step = (rate / 400.0) as usize;
        let mut delays = Vec::new();
        for begin in (100..2900_usize).step_by(100) {
            let at = (begin..begin + 25)
                .flat_map(|frame| (0..8).map(move |part| frame * 8 + part))
                .find(|index| level(&heard[index * step..][..4 * step], SPOKEN[0], rate) > 1500.0)
                .expect("it is heard");
            // A frame was spoken in the 20 ms before it was sent; what a tick makes is sent when its 20 ms are over. The
            // window is louder than that from its middle on.
            let spoken = (begin * 20) as f32 - 20.0;
            delays.push(at as f32 * 2.5 + 5.0 + 20.0 - spoken);
        }
        delays.sort_by(f32::total_cmp);
        let (middle, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        println!(
            "table: {}, 5 % lost, 60 ms of jitter: from the microphone to the mixed packet {middle:.0} ms in the middle of \
             {} words, {worst:.0} ms at worst",
            codec.name(),
            delays.len(),
        );
        assert!(worst < 150.0, "{codec:?}: {delays:?}");
        assert!(middle > 40.0, "{codec:?}: sooner than spoken: {delays:?}");
    }
}

#[test]
fn random_packets_break_nothing() {
    let mut rng = fastrand::Rng::with_seed(4733);
    let mut room = Room::new(RoomSettings { pin: Some("1".into()), ..RoomSettings::default() });
    let seats: Vec<Seat> =
        (0..6).map(|token| room.join(token, &settings(Codec::ALL[token % 3]))).collect();
    for step in 0..20_000_u32 {
        let seat = seats[rng.usize(..seats.len())];
        let mut bytes: Vec<u8> = (0..rng.usize(..400)).map(|_| rng.u8(..)).collect();
        if bytes.len() > 2 && rng.u8(..) < 240 {
            bytes[0] = 0x80 | bytes[0] & 0x3f & if rng.bool() { 0 } else { 0x3f };
            bytes[1] = [0, 8, 9, 101, 13, 18][rng.usize(..6)];
            if rng.bool() && bytes.len() > 12 {
                // Close to what is expected.
                bytes[2..12].fill(0);
                bytes[6] = step as u8;
            }
        }
        room.handle_rtp(seat, &bytes, rng.u32(..));
        room.handle_rtcp(seat, &bytes, rng.u64(..));
        if step % 8 == 0 {
            let mut sent = Sent::default();
            room.tick(rng.u64(..), &mut Frames::new(), &mut sent);
            assert_eq!(sent.rtp.len(), seats.len());
            while room.poll().is_some() {}
        }
    }
}
