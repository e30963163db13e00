//! What a participant costs: rooms on real sockets over loopback, every mix verified by its tones.
//!
//! `cargo run --release -p dialtone-conference --example participants -- [PARTICIPANTS[xROOM] …]`, by default
//! `500x10 1000x10 2000x10 3000x10 500x500`. The server is a process of its own with one mixing thread; what is counted
//! is its processor time, in which loopback also delivers what it sends.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dialtone_conference::core::{CallId, MediaCommand, MediaEvent, MediaSession, RoomId};
use dialtone_conference::media::{Media, MediaConfig};
use dialtone_conference::mix::codec::{Decoder, Encoder};
use dialtone_conference::mix::room::Seat;
use dialtone_conference::mix::rtp::{HEADER, Packet};
use dialtone_conference::mix::{self, Codec, MemberSettings, RoomSettings, Sink, UNITS};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use tokio::sync::mpsc;

/// Those who speak in each room, each with a tone of his own; the others send silence.
const SPEAKERS: usize = 10;
const AMPLITUDE: f32 = 2000.0;
const SETTLE: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(10);
const FRAME: Duration = Duration::from_millis(20);
/// Samples that are looked at: one second.
const HEARD: usize = 8000;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Anyhow<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, participants, room, loads] = &arguments[..]
        && mode == "serve"
    {
        return serve(participants.parse()?, room.parse()?, loads);
    }
    for codec in [Codec::Pcmu, Codec::G722] {
        mixing_alone(codec);
    }
    let runs = if arguments.is_empty() {
        ["500x10", "1000x10", "2000x10", "3000x10", "500x500"].map(str::to_owned).to_vec()
    } else {
        arguments
    };
    for run in &runs {
        let (participants, room) = run.split_once('x').unwrap_or((run, "10"));
        measure(participants.parse()?, room.parse()?)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement lives by the clock")]
fn now() -> Instant {
    Instant::now()
}

fn frequency(speaker: usize) -> f32 {
    300.0 + 310.0 * speaker as f32
}

/// The server: reads where each room's phones are, opens all calls, says where they are served, and waits to be ended.
fn serve(participants: usize, room: usize, loads: &str) -> Anyhow<()> {
    let config = MediaConfig {
        address: "127.0.0.1".parse::<IpAddr>()?,
        ports: 10_000..=60_000,
        workers: 1,
        recordings: None,
    };
    let before = memory("/proc/self/status")?;
    let (sender, mut events) = mpsc::channel(1024);
    let mut media = Media::start(&config, &sender)?;
    let loads: Vec<SocketAddr> = loads.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let settings = RoomSettings { tones: false, ..RoomSettings::default() };
    let mut out = io::stdout().lock();
    for index in 0..participants {
        let call = CallId(index as u64);
        media.command(MediaCommand::Open {
            call,
            room: RoomId((index / room) as u64),
            name: "room".into(),
            settings: Box::new(settings.clone()),
        });
        let rtp = loop {
            match events.blocking_recv() {
                Some(MediaEvent::Opened { rtp, .. }) => break rtp,
                Some(MediaEvent::Entered { .. }) => {}
                other => return Err(format!("{other:?}").into()),
            }
        };
        let member = member(Codec::Pcmu, index);
        let rtp_of_phone = loads.get(index / room).copied();
        let session = MediaSession { rtp: rtp_of_phone, rtcp: None, mux: false, member };
        media.command(MediaCommand::Set { call, session: Box::new(session) });
        writeln!(out, "{rtp}")?;
    }
    out.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let counters = media.counters();
    let used = memory("/proc/self/status")?.saturating_sub(before);
    writeln!(out, "{} {} {used}", counters.late, counters.left_out)?;
    Ok(())
}

/// Resident memory, KiB.
fn memory(path: &str) -> Anyhow<u64> {
    let status = std::fs::read_to_string(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?.parse()?)
}

/// Ends its server.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// User and system time so far, in seconds.
    fn times(&self) -> Anyhow<(f64, f64)> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().map(|ticks| ticks / 100.0);
        Ok((ticks(11)?, ticks(12)?))
    }
}

/// Softirq time of the whole machine so far, in seconds.
fn softirq() -> Anyhow<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().ok_or("no stat")?;
    Ok(first.split_whitespace().nth(7).ok_or("no softirq")?.parse::<f64>()? / 100.0)
}

/// The phones of one room behind one socket: the server's port says who is meant.
struct Room {
    socket: UdpSocket,
    phones: Vec<SocketAddr>,
    first_port: u16,
    sequence: u16,
    received: u64,
    /// What each has heard lately.
    heard: Vec<Vec<u8>>,
}

fn measure(participants: usize, size: usize) -> Anyhow<()> {
    let mut rooms = Vec::new();
    for _ in 0..participants.div_ceil(size) {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        // A room of 500 sends all at once; only root gets more than the system's limit.
        if setsockopt(&socket, RcvBufForce, &(4 << 20)).is_err() {
            let _ = setsockopt(&socket, RcvBuf, &(4 << 20));
        }
        socket.set_nonblocking(true)?;
        rooms.push(Room {
            socket,
            phones: Vec::new(),
            first_port: 0,
            sequence: 0,
            received: 0,
            heard: Vec::new(),
        });
    }
    let loads: Result<Vec<String>, io::Error> =
        rooms.iter().map(|room| Ok(room.socket.local_addr()?.to_string())).collect();
    let mut server = Server(
        Command::new(std::env::current_exe()?)
            .args(["serve", &participants.to_string(), &size.to_string(), &loads?.join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut lines = BufReader::new(server.0.stdout.take().ok_or("no output")?).lines();
    for index in 0..participants {
        let phone: SocketAddr = lines.next().ok_or("the server ended")??.parse()?;
        let room = &mut rooms[index / size];
        room.phones.push(phone);
        room.heard.push(Vec::new());
        room.first_port = room.phones[0].port();
    }

    // A second of each tone, in frames.
    let tones: Vec<Vec<[u8; UNITS]>> =
        (0..SPEAKERS).map(|speaker| spoken(Codec::Pcmu, frequency(speaker))).collect();
    let silence = [0xff; UNITS];
    let begin = now();
    let (mut frame, mut measured) = (0_u32, None);
    let mut packet = [0; HEADER + UNITS];
    let result = loop {
        for (index, room) in rooms.iter_mut().enumerate() {
            // Rooms are spread over the frame.
            let due = begin + FRAME * frame + FRAME * (index as u32 % 20) / 20;
            if let Some(left) = due.checked_duration_since(now()).filter(|_| index % 8 == 0) {
                std::thread::sleep(left);
            }
            room.listen();
            for (speaker, phone) in room.phones.iter().enumerate() {
                let header = Packet {
                    marker: false,
                    payload_type: 0,
                    sequence: room.sequence,
                    timestamp: frame * UNITS as u32,
                    ssrc: speaker as u32,
                    payload: &[],
                };
                packet[..HEADER].copy_from_slice(&header.header());
                let payload =
                    tones.get(speaker).map_or(&silence, |tone| &tone[frame as usize % 50]);
                packet[HEADER..].copy_from_slice(payload);
                room.socket.send_to(&packet, phone)?;
            }
            room.sequence = room.sequence.wrapping_add(1);
        }
        frame += 1;
        let passed = now() - begin;
        match measured {
            None if passed >= SETTLE => {
                let received: u64 = rooms.iter().map(|room| room.received).sum();
                measured = Some((now(), server.times()?, softirq()?, received));
            }
            Some((since, times, interrupts, received)) if passed >= SETTLE + MEASURE => {
                let (user, system) = server.times()?;
                let now_received: u64 = rooms.iter().map(|room| room.received).sum();
                break (
                    (now() - since).as_secs_f64(),
                    user - times.0,
                    system - times.1,
                    softirq()? - interrupts,
                    now_received - received,
                );
            }
            _ => {}
        }
    };
    server.0.stdin.take().ok_or("no input")?.write_all(b"\n")?;
    let last = lines.next().ok_or("the server ended")??;
    let (late, rest) = last.split_once(' ').ok_or("no counters")?;
    let (left_out, memory) = rest.split_once(' ').ok_or("no counters")?;

    let wrong: usize = rooms.iter().map(Room::wrong).sum();
    let (seconds, user, system, interrupts, received) = result;
    let cpu = user + system;
    let expected = participants as f64 * seconds * 50.0;
    println!(
        "table: {participants} participants in rooms of {size}, G.711, one thread: {cpu:.2} s of processor time in \
         {seconds:.1} s (user {user:.2}, system {system:.2}; softirq of the whole machine {interrupts:.2}), {:.2} ms a \
         participant-second, {:.0} participants a core; {:.2} % of packets heard, {wrong} wrong mixes; {late} of {:.0} \
         beats late, {left_out} left out; {:.1} KiB a participant",
        // What was not handled, because either side had too little of the processor, must not count.
        1000.0 * cpu / (received as f64 / 50.0),
        received as f64 / 50.0 / cpu,
        100.0 * received as f64 / expected,
        (SETTLE.as_secs_f64() + seconds) * 200.0,
        memory.parse::<f64>()? / participants as f64,
    );
    if wrong > 0 {
        return Err("not everybody hears the others and not himself".into());
    }
    Ok(())
}

/// What a participant-frame costs without sockets: 100 rooms of 10, all of whom speak.
fn mixing_alone(codec: Codec) {
    struct Nowhere(u64);
    impl Sink for Nowhere {
        fn rtp(&mut self, _: usize, packet: &[u8]) {
            self.0 += packet.len() as u64;
        }

        fn rtcp(&mut self, _: usize, _: &[u8]) {}
    }
    const ROOMS: usize = 100;
    const FRAMES: u32 = 500;
    let settings = RoomSettings { tones: false, ..RoomSettings::default() };
    let mut rooms: Vec<(mix::Room, Vec<Seat>)> = (0..ROOMS)
        .map(|_| {
            let mut room = mix::Room::new(settings.clone());
            let seats =
                (0..SPEAKERS).map(|token| room.join(token, &member(codec, token))).collect();
            (room, seats)
        })
        .collect();
    let tones: Vec<Vec<[u8; UNITS]>> =
        (0..SPEAKERS).map(|speaker| spoken(codec, frequency(speaker))).collect();
    let (mut taking, mut mixing, mut out) = (Duration::ZERO, Duration::ZERO, Nowhere(0));
    for frame in 0..FRAMES {
        let payload = |speaker: usize| &tones[speaker][frame as usize % 50];
        let packets: Vec<Vec<u8>> = (0..SPEAKERS)
            .map(|speaker| {
                let packet = Packet {
                    marker: false,
                    payload_type: codec.payload_type(),
                    sequence: frame as u16,
                    timestamp: frame * UNITS as u32,
                    ssrc: speaker as u32,
                    payload: payload(speaker),
                };
                packet.to_bytes()
            })
            .collect();
        let begin = now();
        for (room, seats) in &mut rooms {
            for (seat, packet) in seats.iter().zip(&packets) {
                room.handle_rtp(*seat, packet, frame * UNITS as u32);
            }
        }
        let taken = now();
        for (room, _) in &mut rooms {
            room.tick(u64::from(frame) << 26, &mut out);
        }
        (taking, mixing) = (taking + (taken - begin), mixing + (now() - taken));
    }
    let frames = f64::from(FRAMES) * (ROOMS * SPEAKERS) as f64;
    println!(
        "table: without sockets, rooms of {SPEAKERS} who all speak, {}: {:.0} ns to take a packet, {:.0} ns to play, \
         mix and encode a frame",
        codec.name(),
        taking.as_nanos() as f64 / frames,
        mixing.as_nanos() as f64 / frames,
    );
    assert!(out.0 > 0);
}

fn member(codec: Codec, index: usize) -> MemberSettings {
    MemberSettings {
        codecs: vec![(codec.payload_type(), codec)],
        events: Some(101),
        hears: true,
        speaks: true,
        ssrc: index as u32,
        sequence: 0,
        timestamp: 0,
    }
}

/// One second of a tone.
fn spoken(codec: Codec, frequency: f32) -> Vec<[u8; UNITS]> {
    let samples = codec.samples();
    let step = f64::from(frequency) * std::f64::consts::TAU / (samples * 50) as f64;
    let sample = |index: usize| (f64::from(AMPLITUDE) * (step * index as f64).sin()) as i16;
    let sound: Vec<i16> = (0..50 * samples).map(sample).collect();
    let mut encoder = Encoder::new(codec);
    let frames = sound.chunks(samples).map(|frame| {
        let mut units = [0; UNITS];
        encoder.encode(frame, &mut units);
        units
    });
    frames.collect()
}

impl Room {
    /// Takes what has come.
    fn listen(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let Some(packet) = Packet::parse(&buffer[..length]) else { continue };
            // Ports are given in turn, two for each.
            let index = usize::from(from.port().wrapping_sub(self.first_port) / 2);
            let index = if self.phones.get(index) == Some(&from) {
                Some(index)
            } else {
                self.phones.iter().position(|phone| *phone == from)
            };
            let Some(index) = index else { continue };
            self.received += 1;
            let heard = &mut self.heard[index];
            if heard.len() >= 2 * HEARD {
                heard.drain(..HEARD);
            }
            heard.extend_from_slice(packet.payload);
        }
    }

    /// Phones that did not hear exactly the others.
    fn wrong(&self) -> usize {
        let speakers = SPEAKERS.min(self.phones.len());
        let is_wrong = |(index, heard): &(usize, &Vec<u8>)| {
            let Some(last) = heard.len().checked_sub(HEARD) else { return true };
            let mut samples = vec![0; HEARD];
            Decoder::new(Codec::Pcmu).decode(&heard[last..], &mut samples);
            (0..speakers).any(|speaker| {
                let loud = level(&samples, frequency(speaker));
                let right = if speaker == *index { 0.0..200.0 } else { 1500.0..2500.0 };
                !right.contains(&loud)
            })
        };
        self.heard.iter().enumerate().filter(is_wrong).count()
    }
}

/// The amplitude of a frequency (Goertzel).
fn level(samples: &[i16], frequency: f32) -> f64 {
    let omega = std::f64::consts::TAU * f64::from(frequency) / 8000.0;
    let factor = 2.0 * omega.cos();
    let (mut one, mut two) = (0.0, 0.0);
    for sample in samples {
        (one, two) = (f64::from(*sample) + factor * one - two, one);
    }
    2.0 * (one * one + two * two - factor * one * two).max(0.0).sqrt() / samples.len() as f64
}
