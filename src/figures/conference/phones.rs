//! Everybody's phone: a thread that sends each a packet every 20 ms, and keeps what each has heard last.
//!
//! The phones of a room share a socket: which port of the server's a packet comes from says whose it is. Rooms are spread
//! over the 20 ms, so that the server is not asked for everything at once.

use std::{
    f64::consts::TAU,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dialtone_conference::mix::{
    Codec, UNITS,
    codec::{Decoder, Encoder},
    rtp::{HEADER, Packet},
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt},
};

use super::{
    super::{
        Error,
        usage::{pin_thread, thread_seconds},
    },
    Size,
};
use crate::launcher::clock;

/// Tones of those who speak, in each room: multiples of 50 Hz, which a packet has whole periods of, and none the multiple
/// of another, as what is distorted is. Everybody else sends silence.
pub(super) const TONES: [u32; 10] = [350, 550, 650, 850, 950, 1150, 1450, 1550, 1850, 2050];

/// Of a tone. Ten of them are below full scale.
const AMPLITUDE: f64 = 2000.0;

/// What of a tone must be there, and what may be of one that must not. Between them is what was lost on the way.
const LOUD: f64 = 0.7 * AMPLITUDE;
const QUIET: f64 = 0.1 * AMPLITUDE;

const FRAME: Duration = Duration::from_millis(20);
/// Rooms are spread over so many times in each of them.
const SLOTS: usize = 20;
/// Packets sent or received at a time.
const BATCH: usize = 64;
/// In G.711 µ-law.
const SILENCE: u8 = 0xff;
/// What is listened to at the end: a second.
const KEPT: usize = 50;
/// A room of 500 sends and hears all at once.
const BUFFER: usize = 4 << 20;
const RATE: f64 = 8000.0;

/// The sockets of so many rooms.
pub(super) fn sockets(address: IpAddr, size: Size) -> io::Result<Vec<UdpSocket>> {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let socket = |_| {
        let socket = UdpSocket::bind((address, 0))?;
        // Only root gets more than the system's limit.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    (0..size.participants.div_ceil(size.room)).map(socket).collect()
}

/// What has come and gone so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) sent: u64,
    pub(super) packets: u64,
    /// CPU seconds of the thread.
    pub(super) share_seconds: f64,
    /// By how much a packet was sent too late at most.
    pub(super) late: Duration,
}

enum Question {
    Heard(Sender<Heard>),
    Stop(Sender<u32>),
}

/// The thread.
pub(super) struct Phones {
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<()>>,
    tid: u32,
}

impl Phones {
    /// `lines` are where the server takes each one's packets.
    pub(super) fn start(
        rooms: Vec<UdpSocket>,
        lines: &[SocketAddr],
        size: Size,
        core: Option<usize>,
    ) -> io::Result<Self> {
        let of_room = lines.chunks(size.room as usize);
        let rooms = rooms.into_iter().zip(of_room).map(|(socket, lines)| Room::new(socket, lines));
        let mut hall = Hall::new(rooms.collect());
        let (questions_in, questions) = channel();
        let (tid_in, tid) = channel();
        let thread = std::thread::Builder::new().name("phones".to_owned()).spawn(move || {
            if let Some(core) = core {
                pin_thread(core);
            }
            let _ = tid_in.send(nix::unistd::gettid().as_raw().cast_unsigned());
            hall.run(&questions);
        })?;
        let tid = tid.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(Self { questions: Some(questions_in), thread: Some(thread), tid })
    }

    pub(super) fn heard(&self) -> Result<Heard, Error> {
        let (answer_in, answer) = channel();
        self.ask(Question::Heard(answer_in));
        let heard = answer.recv().map_err(|_| Error::NoAnswer)?;
        Ok(Heard { share_seconds: thread_seconds(self.tid)?, ..heard })
    }

    /// How many did not hear exactly the others in the last second.
    pub(super) fn stop(self) -> u32 {
        let (answer_in, answer) = channel();
        self.ask(Question::Stop(answer_in));
        // A thread that has panicked says so, and has verified nobody.
        answer.recv().unwrap_or(u32::MAX)
    }

    fn ask(&self, question: Question) {
        if let Some(questions) = &self.questions {
            let _ = questions.send(question);
        }
    }
}

impl Drop for Phones {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All rooms.
struct Hall {
    rooms: Vec<Room>,
    sent: u64,
    late: Duration,
}

impl Hall {
    fn new(rooms: Vec<Room>) -> Self {
        Self { rooms, sent: 0, late: Duration::ZERO }
    }

    fn run(&mut self, questions: &Receiver<Question>) {
        // The system gives sleepers up to 50 µs more, unless it is asked not to.
        let _ = nix::sys::prctl::set_timerslack(1);
        let mut batch = Batch::new();
        let mut due = clock();
        for turn in 0_u32.. {
            match questions.try_recv() {
                Ok(Question::Heard(answer)) => {
                    let packets = self.rooms.iter().map(|room| room.heard).sum();
                    let (at, sent, late) = (clock(), self.sent, self.late);
                    let _ = answer.send(Heard { at, sent, packets, share_seconds: 0.0, late });
                    self.late = Duration::ZERO;
                }
                Ok(Question::Stop(answer)) => {
                    let _ = answer.send(self.rooms.iter().map(Room::wrong).sum());
                    return;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            let slot = turn as usize % SLOTS;
            for room in self.rooms.iter_mut().skip(slot).step_by(SLOTS) {
                room.listen(&mut batch);
                self.sent += room.speak(&mut batch);
            }
            due += FRAME / SLOTS as u32;
            match due.checked_duration_since(clock()) {
                Some(left) => std::thread::sleep(left),
                // Nothing is left out: a phone has a clock of its own.
                None => self.late = self.late.max(clock() - due),
            }
        }
    }
}

/// What packets are sent and received with, many at a time.
struct Batch {
    buffers: Box<[[u8; HEADER + UNITS + 1]; BATCH]>,
    /// Each for one purpose only: sending leaves pointers to addresses in them.
    sent: MultiHeaders<SockaddrStorage>,
    received: MultiHeaders<SockaddrStorage>,
}

impl Batch {
    fn new() -> Self {
        let headers = || MultiHeaders::preallocate(BATCH, None);
        let buffers = Box::new([[0; HEADER + UNITS + 1]; BATCH]);
        Self { buffers, sent: headers(), received: headers() }
    }
}

/// One packet of a tone; all are alike.
pub(super) fn tone(codec: Codec, hertz: u32) -> [u8; UNITS] {
    let samples = codec.samples();
    let step = TAU * f64::from(hertz) / (50 * samples) as f64;
    let sample = |index: usize| (AMPLITUDE * (step * index as f64).sin()) as i16;
    let frame: Vec<i16> = (0..samples).map(sample).collect();
    let mut units = [0; UNITS];
    Encoder::new(codec).encode(&frame, &mut units);
    units
}

/// The phones of one room.
struct Room {
    socket: UdpSocket,
    phones: Vec<Phone>,
    /// Where the server takes each one's packets, and the last of these.
    lines: Vec<Option<SockaddrStorage>>,
    packets: Vec<[u8; HEADER + UNITS]>,
    /// The phones' indices by the server's ports, in the order of these.
    ports: Vec<(u16, usize)>,
    sequence: u16,
    timestamp: u32,
    heard: u64,
}

/// What it has heard last, the oldest being overwritten next.
#[derive(Default)]
struct Phone {
    kept: Vec<[u8; UNITS]>,
    next: usize,
}

impl Phone {
    fn keep(&mut self, payload: [u8; UNITS]) {
        match self.kept.get_mut(self.next) {
            Some(oldest) => *oldest = payload,
            None => self.kept.push(payload),
        }
        self.next = (self.next + 1) % KEPT;
    }
}

impl Room {
    fn new(socket: UdpSocket, lines: &[SocketAddr]) -> Self {
        let mut ports: Vec<(u16, usize)> =
            lines.iter().enumerate().map(|(index, line)| (line.port(), index)).collect();
        ports.sort_unstable();
        let packet = |index: usize| {
            let mut packet = [SILENCE; HEADER + UNITS];
            if let Some(hertz) = TONES.get(index) {
                packet[HEADER..].copy_from_slice(&tone(Codec::Pcmu, *hertz));
            }
            packet
        };
        Self {
            socket,
            phones: lines.iter().map(|_| Phone::default()).collect(),
            lines: lines.iter().map(|line| Some(SockaddrStorage::from(*line))).collect(),
            packets: (0..lines.len()).map(packet).collect(),
            ports,
            sequence: 0,
            timestamp: 0,
            heard: 0,
        }
    }

    /// Everybody sends a packet; how many could.
    fn speak(&mut self, batch: &mut Batch) -> u64 {
        for (index, packet) in self.packets.iter_mut().enumerate() {
            let header = Packet {
                marker: false,
                payload_type: Codec::Pcmu.payload_type(),
                sequence: self.sequence,
                timestamp: self.timestamp,
                ssrc: index as u32,
                payload: &[],
            };
            packet[..HEADER].copy_from_slice(&header.header());
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(UNITS as u32);
        let fd = self.socket.as_raw_fd();
        let mut sent = 0;
        for (packets, lines) in self.packets.chunks(BATCH).zip(self.lines.chunks(BATCH)) {
            let slices: Vec<[IoSlice<'_>; 1]> =
                packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            // What cannot be sent is missing at the other end.
            let results = sendmmsg(fd, &mut batch.sent, &slices, lines, [], flags);
            sent += results.map_or(0, |results| results.count() as u64);
        }
        sent
    }

    /// Takes what has come.
    fn listen(&mut self, batch: &mut Batch) {
        let Self { socket, phones, ports, heard, .. } = self;
        loop {
            let mut slices = batch.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
            let fd = socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let received = recvmmsg(fd, &mut batch.received, slices.iter_mut(), flags, None);
            let Ok(messages) = received else { return };
            let mut taken = 0;
            for message in messages {
                taken += 1;
                let Some(from) = message.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in)
                else {
                    continue;
                };
                let Ok(at) = ports.binary_search_by_key(&from.port(), |(port, _)| *port) else {
                    continue;
                };
                let bytes = message.iovs().next().unwrap_or_default();
                let packet = Packet::parse(bytes);
                let payload = packet.and_then(|packet| packet.payload.try_into().ok());
                let Some(payload) = payload else { continue };
                *heard += 1;
                phones[ports[at].1].keep(payload);
            }
            if taken < BATCH {
                return;
            }
        }
    }

    /// Phones that did not hear exactly the others.
    fn wrong(&self) -> u32 {
        let speakers = &TONES[..TONES.len().min(self.phones.len())];
        let is_wrong = |(index, phone): &(usize, &Phone)| {
            phone.kept.len() < KEPT
                || speakers.iter().enumerate().any(|(speaker, hertz)| {
                    let level = level(&phone.kept, *hertz);
                    if speaker == *index { level > QUIET } else { level < LOUD }
                })
        };
        self.phones.iter().enumerate().filter(is_wrong).count() as u32
    }
}

/// The mean amplitude of a frequency in packets, each for itself: so it does not matter what was left out between them.
fn level(packets: &[[u8; UNITS]], hertz: u32) -> f64 {
    let omega = TAU * f64::from(hertz) / RATE;
    let factor = 2.0 * omega.cos();
    let amplitude = |units: &[u8; UNITS]| {
        let mut samples = [0; UNITS];
        Decoder::new(Codec::Pcmu).decode(units, &mut samples);
        // Goertzel's filter.
        let (mut one, mut two) = (0.0, 0.0);
        for sample in samples {
            (one, two) = (f64::from(sample) + factor * one - two, one);
        }
        2.0 * (one * one + two * two - factor * one * two).max(0.0).sqrt() / UNITS as f64
    };
    packets.iter().map(amplitude).sum::<f64>() / packets.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_knows_whom_it_hears() {
        let mixed = |speakers: &[usize]| {
            let mut sum = [0; UNITS];
            for speaker in speakers {
                let mut samples = [0; UNITS];
                Decoder::new(Codec::Pcmu).decode(&tone(Codec::Pcmu, TONES[*speaker]), &mut samples);
                sum.iter_mut()
                    .zip(samples)
                    .for_each(|(sum, sample): (&mut i16, i16)| *sum += sample);
            }
            let mut units = [0; UNITS];
            Encoder::new(Codec::Pcmu).encode(&sum, &mut units);
            units
        };
        let line: SocketAddr = "127.0.0.1:2000".parse().unwrap();
        let wrong = |mixes: [&[usize]; 3]| {
            let mut room = Room::new(UdpSocket::bind("127.0.0.1:0").unwrap(), &[line; 3]);
            for (phone, speakers) in room.phones.iter_mut().zip(mixes) {
                phone.kept = vec![mixed(speakers); KEPT];
            }
            room.wrong()
        };
        assert_eq!(wrong([&[1, 2], &[0, 2], &[0, 1]]), 0);
        assert_eq!(wrong([&[1, 2], &[0], &[0, 1]]), 1, "one is not heard");
        assert_eq!(wrong([&[0, 1, 2], &[0, 2], &[1]]), 2, "one hears itself, one is not heard");
        assert_eq!(wrong([&[], &[], &[]]), 3);
        // Ten at once are below full scale.
        let all: Vec<usize> = (0..TONES.len()).collect();
        let heard = vec![mixed(&all); KEPT];
        assert!(TONES.iter().all(|hertz| level(&heard, *hertz) > LOUD));
        assert!(level(&heard, 750) < QUIET);
    }
}
