//! What mixing costs without sockets: rooms of ten who all speak.

use std::time::Duration;

use dialtone_conference::mix::{
    Codec, Frames, MemberSettings, Room, RoomSettings, Sink, UNITS,
    room::Seat,
    rtp::{HEADER, Packet},
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::phones::{TONES, tone};

const ROOMS: usize = 100;

/// Nanoseconds for 20 ms of one participant.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mixing {
    pub codec: &'static str,
    /// To take a packet.
    pub taken_ns: f64,
    /// To decode, mix and encode it.
    pub mixed_ns: f64,
}

/// Packets that are sent nowhere.
struct Nowhere(u64);

impl Sink for Nowhere {
    fn rtp(&mut self, _: usize, packet: &[u8]) {
        self.0 += packet.len() as u64;
    }

    fn rtcp(&mut self, _: usize, _: &[u8]) {}
}

/// Over so many frames.
pub(super) fn measure(codec: Codec, frames: u32) -> Mixing {
    let settings = RoomSettings { tones: false, ..RoomSettings::default() };
    let mut rooms: Vec<(Room, Vec<Seat>)> = (0..ROOMS)
        .map(|_| {
            let mut room = Room::new(settings.clone());
            let seats = (0..TONES.len()).map(|token| room.join(token, &member(codec, token)));
            let seats = seats.collect();
            (room, seats)
        })
        .collect();
    let tones: Vec<[u8; UNITS]> = TONES.iter().map(|hertz| tone(codec, *hertz)).collect();
    let (mut taken, mut mixed) = (Duration::ZERO, Duration::ZERO);
    let (mut lent, mut out) = (Frames::new(), Nowhere(0));
    for frame in 0..frames {
        let packets: Vec<Vec<u8>> = tones.iter().map(|tone| packet(codec, frame, tone)).collect();
        let begun = cpu_time();
        for (room, seats) in &mut rooms {
            for (seat, packet) in seats.iter().zip(&packets) {
                room.handle_rtp(*seat, packet, frame * UNITS as u32);
            }
        }
        let between = cpu_time();
        for (room, _) in &mut rooms {
            room.tick(u64::from(frame) << 26, &mut lent, &mut out);
        }
        taken += between - begun;
        mixed += cpu_time() - between;
    }
    debug_assert!(out.0 > u64::from(frames) * (HEADER + UNITS) as u64);
    let each =
        |time: Duration| time.as_nanos() as f64 / f64::from(frames) / (ROOMS * TONES.len()) as f64;
    Mixing { codec: codec.name(), taken_ns: each(taken), mixed_ns: each(mixed) }
}

/// Of this thread: other work on the machine does not count.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn packet(codec: Codec, frame: u32, payload: &[u8]) -> Vec<u8> {
    let packet = Packet {
        marker: false,
        payload_type: codec.payload_type(),
        sequence: frame as u16,
        timestamp: frame * UNITS as u32,
        ssrc: 1,
        payload,
    };
    packet.to_bytes()
}

fn member(codec: Codec, token: usize) -> MemberSettings {
    MemberSettings {
        codecs: vec![(codec.payload_type(), codec)],
        events: None,
        hears: true,
        speaks: true,
        ssrc: token as u32,
        sequence: 0,
        timestamp: 0,
    }
}
