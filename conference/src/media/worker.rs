//! One thread: its rooms, their sockets, every 5 ms.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::core::{CallId, MediaCommand, MediaEvent, MediaSession, RoomId};
use crate::media::line::{Asking, Line, Whose};
use crate::media::ports::{Pair, Ports, connect};
use crate::media::record::Recorder;
use crate::media::{Counters, LineStats, Published};
use crate::mix::room::Seat;
use crate::mix::rtcp::is_rtcp;
use crate::mix::rtp::HEADER;
use crate::mix::{Frames, Received, Room, RoomEvent, RoomSettings, Sink, UNITS, WIDE};

/// A worker wakes so often; each room is mixed at every fourth time.
const BEAT: Duration = Duration::from_millis(5);
const PHASES: u64 = 4;
/// Beats that are made up for when the worker was late; more are left out.
const MAX_LATE: u64 = 12;
const PUBLISH_EVERY: u64 = 200;
/// Sockets of the epoll that are asked in one beat, and datagrams taken from each.
const READY: usize = 256;
const STRAYS: usize = 8;
/// Lines that get a connected socket in one beat, so that many who come at once make nobody's sound late: each takes as
/// long as five packets. The others wait.
const TUNES: usize = 64;
/// Longest datagram of any interest.
const MAX_DATAGRAM: usize = 2048;
/// Samples of a recording handed over at a time: a second.
const PIECE: usize = 50 * WIDE;
/// From 1900, where NTP begins, to 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

/// What a worker is told.
pub(super) enum Order {
    Command(MediaCommand),
    End,
    /// To see what becomes of a thread that has a fault.
    #[cfg(test)]
    Panic,
}

/// The way to a worker.
#[derive(Clone, Debug)]
pub(super) struct Orders(Sender<Order>);

impl Orders {
    /// It is taken within a beat.
    pub(super) fn give(&self, order: Order) {
        // A worker that has ended needs no orders.
        let _ = self.0.send(order);
    }
}

/// A participant with its sockets; its index is its token.
struct Station {
    call: CallId,
    hall: usize,
    /// None until something was agreed upon.
    seat: Option<Seat>,
    /// Takes whatever comes to the port, but for what `connected` gets.
    rtp: UdpSocket,
    rtcp: UdpSocket,
    /// At the same port, for the address that the line has found: the system looks up a way for each packet that is not
    /// sent over a connected socket, which is most of what a packet costs beside its delivery.
    connected: Option<UdpSocket>,
    /// Whether `connected` was empty since it is there. What comes to a socket before it is connected may be anybody's.
    is_clean: bool,
    /// What `connected` is for, or would be if the system had let us.
    tuned: Option<SocketAddr>,
    line: Line,
    asking: Asking,
}

impl Station {
    /// Follows the line to another address, if so many may still do so.
    fn tune(&mut self, token: usize, epoll: &Epoll, left: &mut usize) {
        let found = self.line.found();
        if self.tuned == found || *left == 0 {
            return;
        }
        *left -= 1;
        (self.tuned, self.is_clean) = (found, false);
        if self.connected.take().is_some() {
            // It knows the socket.
            let _ = epoll.delete(&self.rtp);
        }
        let Some(peer) = found else { return };
        let connected = connect(&self.rtp, peer).and_then(|socket| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, key(token, false));
            epoll.add(&self.rtp, event)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.connected = Some(socket),
            Err(error) => tracing::debug!(%error, %peer, "a line stays unconnected"),
        }
    }

    /// What has come to the line.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match (&self.connected, self.tuned) {
            // The system need not say from where.
            (Some(socket), Some(peer)) if self.is_clean => {
                socket.recv(buffer).map(|length| (length, peer))
            }
            (Some(socket), _) => socket.recv_from(buffer),
            (None, _) => self.rtp.recv_from(buffer),
        }
    }

    /// A datagram that came to the RTP socket. Whether it is this participant's sound, and as much as a tick needs.
    fn take(
        &mut self,
        hall: &mut Hall,
        datagram: &[u8],
        from: SocketAddr,
        tick: u64,
        clock: &Clock,
        counters: &mut Counters,
    ) -> bool {
        let Some(seat) = self.seat else { return false };
        if self.line.mux && is_rtcp(datagram) {
            self.report(hall, datagram, from, clock, counters);
            return false;
        }
        let ssrc = match datagram {
            [first, _, _, _, _, _, _, _, s0, s1, s2, s3, ..] if first >> 6 == 2 => {
                u32::from_be_bytes([*s0, *s1, *s2, *s3])
            }
            _ => {
                counters.invalid += 1;
                return false;
            }
        };
        match self.line.takes(from, ssrc, tick) {
            Whose::Ours => {}
            Whose::OursInstead => hall.room.forget_sound(seat),
            Whose::Stranger => return false,
        }
        let received = hall.room.handle_rtp(seat, datagram, clock.units);
        counters.invalid += u64::from(received.is_none());
        received == Some(Received::Sound) && datagram.len() >= HEADER + UNITS
    }

    /// A datagram that may be RTCP.
    fn report(
        &mut self,
        hall: &mut Hall,
        datagram: &[u8],
        from: SocketAddr,
        clock: &Clock,
        counters: &mut Counters,
    ) {
        let Some(seat) = self.seat else { return };
        if self.line.takes_rtcp(from) && !hall.room.handle_rtcp(seat, datagram, clock.ntp) {
            counters.invalid += 1;
        }
    }
}

/// A room, and who stands in it.
struct Hall {
    id: RoomId,
    room: Room,
    phase: u64,
    /// Their tokens.
    stations: Vec<usize>,
    /// What was mixed and is to be written.
    recording: Option<Vec<i16>>,
}

pub(super) struct Worker {
    ports: Arc<Ports>,
    orders: Receiver<Order>,
    events: mpsc::Sender<MediaEvent>,
    /// Events that found no room in the channel: a few for each call at most.
    waiting: VecDeque<MediaEvent>,
    recorder: Option<Recorder>,
    published: Arc<Mutex<Published>>,
    /// Of sockets to which little comes: for RTCP, and for RTP from elsewhere. All others are read when it is their room's
    /// turn.
    epoll: Epoll,
    stations: Vec<Option<Station>>,
    free: Vec<usize>,
    calls: HashMap<CallId, usize>,
    halls: Vec<Option<Hall>>,
    by_room: HashMap<RoomId, usize>,
    /// Of the room that is mixed.
    frames: Frames,
    beat: u64,
    /// Left of [`TUNES`] in this beat.
    tunes: usize,
    counters: Counters,
}

impl Worker {
    pub(super) fn new(
        ports: Arc<Ports>,
        events: mpsc::Sender<MediaEvent>,
        recorder: Option<Recorder>,
        published: Arc<Mutex<Published>>,
    ) -> io::Result<(Self, Orders)> {
        let (sender, orders) = channel();
        let worker = Self {
            ports,
            orders,
            events,
            waiting: VecDeque::new(),
            recorder,
            published,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            stations: Vec::new(),
            free: Vec::new(),
            calls: HashMap::new(),
            halls: Vec::new(),
            by_room: HashMap::new(),
            frames: Frames::new(),
            beat: 0,
            tunes: TUNES,
            counters: Counters::default(),
        };
        Ok((worker, Orders(sender)))
    }

    /// Until it is told to end, or nobody is there who could.
    pub(super) fn run(mut self) {
        let mut due = now();
        loop {
            let is_idle = self.calls.is_empty() && self.waiting.is_empty();
            if is_idle {
                self.publish();
            }
            match self.take_orders(is_idle) {
                Some(waited) if waited => due = now(),
                Some(_) => {}
                None => return,
            }
            let clock = Clock::read();
            self.take_strays(&clock);
            self.mix(&clock);
            self.flush();
            (self.beat, self.tunes) = (self.beat + 1, TUNES);
            if self.beat.is_multiple_of(PUBLISH_EVERY) {
                self.publish();
            }
            due += BEAT;
            let left = due.saturating_duration_since(now());
            if left.is_zero() {
                self.counters.late += 1;
                let behind = now().saturating_duration_since(due);
                let beats = (behind.as_micros() / BEAT.as_micros()) as u64;
                if beats > MAX_LATE {
                    self.counters.left_out += beats;
                    due = now();
                }
            } else {
                std::thread::sleep(left);
            }
        }
    }

    /// Takes what was ordered; waits for it if there is nothing else to do. Whether it waited; `None`: the end.
    fn take_orders(&mut self, waits: bool) -> Option<bool> {
        if waits {
            match self.orders.recv() {
                Ok(Order::Command(command)) => self.obey(command),
                Ok(Order::End) | Err(_) => return None,
                #[cfg(test)]
                Ok(Order::Panic) => panic!("as it was told to"),
            }
        }
        loop {
            match self.orders.try_recv() {
                Ok(Order::Command(command)) => self.obey(command),
                Err(TryRecvError::Empty) => return Some(waits),
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return None,
                #[cfg(test)]
                Ok(Order::Panic) => panic!("as it was told to"),
            }
        }
    }

    fn obey(&mut self, command: MediaCommand) {
        match command {
            MediaCommand::Open { call, room, name, settings } => {
                let event = match self.open(call, room, &name, *settings) {
                    Ok(rtp) => MediaEvent::Opened { call, rtp },
                    Err(error) => {
                        tracing::warn!(%error, "no sockets for another participant");
                        MediaEvent::Failed { call }
                    }
                };
                self.tell(event);
            }
            MediaCommand::Set { call, session } => self.set(call, &session),
            MediaCommand::Close { call } => self.close(call),
        }
    }

    fn open(
        &mut self,
        call: CallId,
        room: RoomId,
        name: &str,
        settings: RoomSettings,
    ) -> io::Result<SocketAddr> {
        let Pair { rtp, rtcp, address } = self.ports.take()?;
        let token = self.free.last().copied().unwrap_or(self.stations.len());
        self.epoll.add(&rtcp, EpollEvent::new(EpollFlags::EPOLLIN, key(token, true)))?;
        let hall = self.hall(room, name, settings);
        let station = Station {
            call,
            hall,
            seat: None,
            rtp,
            rtcp,
            connected: None,
            is_clean: false,
            tuned: None,
            line: Line::default(),
            asking: Asking::default(),
        };
        if self.free.pop().is_some() {
            self.stations[token] = Some(station);
        } else {
            self.stations.push(Some(station));
        }
        self.calls.insert(call, token);
        if let Some(hall) = &mut self.halls[hall] {
            hall.stations.push(token);
        }
        Ok(address)
    }

    /// The index of a room, which begins if it is not there.
    fn hall(&mut self, id: RoomId, name: &str, settings: RoomSettings) -> usize {
        if let Some(index) = self.by_room.get(&id) {
            return *index;
        }
        let recorder = self.recorder.as_ref().filter(|_| settings.records);
        let begun = recorder.is_some_and(|recorder| recorder.begin(id, name, wall().as_secs()));
        let recording = begun.then(|| Vec::with_capacity(PIECE));
        let settings = RoomSettings { records: recording.is_some(), ..settings };
        let room = Room::new(settings);
        let index = self.halls.iter().position(Option::is_none).unwrap_or_else(|| {
            self.halls.push(None);
            self.halls.len() - 1
        });
        // By its place, which nobody else has: so each time has as many rooms, whatever numbers they have.
        let phase = index as u64 % PHASES;
        self.halls[index] = Some(Hall { id, room, phase, stations: Vec::new(), recording });
        self.by_room.insert(id, index);
        index
    }

    fn set(&mut self, call: CallId, session: &MediaSession) {
        let Some(token) = self.calls.get(&call).copied() else { return };
        let Some(station) = &mut self.stations[token] else { return };
        let Some(hall) = &mut self.halls[station.hall] else { return };
        station.line.set(session.rtp, session.rtcp, session.mux);
        station.asking = Asking::default();
        match station.seat {
            Some(seat) => hall.room.change(seat, &session.member),
            None => station.seat = Some(hall.room.join(token, &session.member)),
        }
        let index = station.hall;
        self.room_events(index);
    }

    fn close(&mut self, call: CallId) {
        let Some(token) = self.calls.remove(&call) else { return };
        let Some((index, seat)) = self.stations[token].as_ref().map(|s| (s.hall, s.seat)) else {
            return;
        };
        if let Some(hall) = &mut self.halls[index] {
            if let Some(seat) = seat {
                let mut out =
                    Out { stations: &self.stations, counters: &mut self.counters, recording: None };
                hall.room.leave(seat, Clock::read().ntp, &mut out);
            }
            hall.stations.retain(|other| *other != token);
            if hall.stations.is_empty() {
                self.by_room.remove(&hall.id);
                if let (Some(recorder), Some(rest)) = (&self.recorder, hall.recording.take()) {
                    recorder.piece(hall.id, rest);
                    recorder.end(hall.id);
                }
                self.halls[index] = None;
            }
        }
        if let Some(station) = self.stations[token].take() {
            self.counters.strangers += station.line.strangers;
        }
        self.free.push(token);
    }

    /// Takes what has come to the sockets of the epoll.
    fn take_strays(&mut self, clock: &Clock) {
        let mut ready = [EpollEvent::empty(); READY];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        let mut buffer = [0; MAX_DATAGRAM];
        let tick = self.beat / PHASES;
        for event in &ready[..count] {
            let (token, is_rtcp) = ((event.data() >> 1) as usize, event.data() & 1 != 0);
            let Some(Some(station)) = self.stations.get_mut(token) else { continue };
            let Some(hall) = &mut self.halls[station.hall] else { continue };
            for _ in 0..STRAYS {
                let socket = if is_rtcp { &station.rtcp } else { &station.rtp };
                // Errors are those of packets that we have sent, or say that nothing is there.
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
                self.counters.received += 1;
                let datagram = &buffer[..length];
                if is_rtcp {
                    station.report(hall, datagram, from, clock, &mut self.counters);
                } else {
                    station.take(hall, datagram, from, tick, clock, &mut self.counters);
                }
            }
        }
    }

    /// Takes what has come to the lines of a room.
    fn listen(&mut self, index: usize, clock: &Clock) {
        let Some(hall) = &mut self.halls[index] else { return };
        let mut buffer = [0; MAX_DATAGRAM];
        let tick = self.beat / PHASES;
        for place in 0..hall.stations.len() {
            let token = hall.stations[place];
            let Some(station) = &mut self.stations[token] else { continue };
            loop {
                let goes_on = match station.receive(&mut buffer) {
                    Ok((length, from)) => {
                        self.counters.received += 1;
                        let datagram = &buffer[..length];
                        let counters = &mut self.counters;
                        let is_frame = station.take(hall, datagram, from, tick, clock, counters);
                        station.asking.goes_on(is_frame)
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        station.asking.end();
                        station.is_clean = station.connected.is_some();
                        // Not before: what is left in a socket that is not read here any more would come late.
                        station.tune(token, &self.epoll, &mut self.tunes);
                        false
                    }
                    // One of a packet that we have sent.
                    Err(_) => station.asking.goes_on(false),
                };
                if !goes_on {
                    break;
                }
            }
        }
    }

    /// Hears and mixes the rooms whose turn it is.
    fn mix(&mut self, clock: &Clock) {
        for index in 0..self.halls.len() {
            let Some(hall) = &self.halls[index] else { continue };
            if self.beat % PHASES != hall.phase {
                continue;
            }
            self.listen(index, clock);
            let Some(hall) = &mut self.halls[index] else { continue };
            let recording = hall.recording.as_mut();
            let mut out = Out { stations: &self.stations, counters: &mut self.counters, recording };
            hall.room.tick(clock.ntp, &mut self.frames, &mut out);
            if let (Some(recorder), Some(samples)) = (&self.recorder, &mut hall.recording)
                && samples.len() >= PIECE
            {
                recorder.piece(hall.id, std::mem::replace(samples, Vec::with_capacity(PIECE)));
            }
            self.room_events(index);
        }
    }

    fn room_events(&mut self, index: usize) {
        while let Some(event) = self.halls[index].as_mut().and_then(|hall| hall.room.poll()) {
            let (RoomEvent::Entered { token }
            | RoomEvent::Lost { token }
            | RoomEvent::Muted { token, .. }
            | RoomEvent::Refused { token }) = event;
            let Some(Some(Station { call, .. })) = self.stations.get(token) else { continue };
            let call = *call;
            self.tell(match event {
                RoomEvent::Entered { .. } => MediaEvent::Entered { call },
                RoomEvent::Lost { .. } => MediaEvent::Lost { call },
                RoomEvent::Muted { muted, .. } => MediaEvent::Muted { call, muted },
                RoomEvent::Refused { .. } => MediaEvent::Refused { call },
            });
        }
    }

    fn tell(&mut self, event: MediaEvent) {
        // Of somebody who plays with the keys only the last is of interest.
        if let (MediaEvent::Muted { call, .. }, Some(MediaEvent::Muted { call: last, muted })) =
            (event, self.waiting.back_mut())
            && call == *last
            && let MediaEvent::Muted { muted: now, .. } = event
        {
            *muted = now;
            return;
        }
        self.waiting.push_back(event);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.waiting.push_front(event);
                return;
            }
        }
    }

    fn publish(&mut self) {
        let halls = self.halls.iter().flatten();
        let lines = halls.flat_map(|hall| {
            hall.room.stats().filter_map(|member| {
                let station = self.stations.get(member.token)?.as_ref()?;
                let strangers = station.line.strangers;
                Some(LineStats { call: station.call, room: hall.id, member, strangers })
            })
        });
        let lines: Arc<[LineStats]> = lines.collect();
        let mut counters = self.counters;
        counters.strangers += lines.iter().map(|line| line.strangers).sum::<u64>();
        counters.rooms = self.by_room.len() as u64;
        counters.participants = self.calls.len() as u64;
        counters.unrecorded = self.recorder.as_ref().map_or(0, Recorder::dropped);
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        *published = Published { counters, lines };
    }
}

/// Sends what a room wants sent.
struct Out<'a> {
    stations: &'a [Option<Station>],
    counters: &'a mut Counters,
    recording: Option<&'a mut Vec<i16>>,
}

impl Out<'_> {
    fn count<T>(&mut self, sent: io::Result<T>) {
        match sent {
            Ok(_) => self.counters.sent += 1,
            Err(_) => self.counters.send_errors += 1,
        }
    }
}

impl Sink for Out<'_> {
    fn rtp(&mut self, token: usize, packet: &[u8]) {
        if let Some(Some(station)) = self.stations.get(token)
            && let Some(to) = station.line.rtp()
        {
            self.count(match &station.connected {
                Some(socket) if station.tuned == Some(to) => socket.send(packet),
                _ => station.rtp.send_to(packet, to),
            });
        }
    }

    fn rtcp(&mut self, token: usize, packet: &[u8]) {
        if let Some(Some(station)) = self.stations.get(token)
            && let Some(to) = station.line.rtcp()
        {
            let socket = if station.line.mux { &station.rtp } else { &station.rtcp };
            self.count(socket.send_to(packet, to));
        }
    }

    fn mixed(&mut self, frame: &[i16; WIDE]) {
        if let Some(recording) = &mut self.recording {
            recording.extend_from_slice(frame);
        }
    }
}

/// A socket's name in the epoll.
const fn key(token: usize, is_rtcp: bool) -> u64 {
    (token as u64) << 1 | is_rtcp as u64
}

/// What time it is in a beat.
struct Clock {
    ntp: u64,
    /// In units of 125 µs, from anywhere.
    units: u32,
}

impl Clock {
    fn read() -> Self {
        let wall = wall();
        let fraction = (u64::from(wall.subsec_nanos()) << 32) / 1_000_000_000;
        let ntp = (wall.as_secs() + NTP_OFFSET) << 32 | fraction;
        Self { ntp, units: (wall.as_micros() / 125) as u32 }
    }
}

#[expect(clippy::disallowed_methods, reason = "a worker lives by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Since 1970.
#[expect(clippy::disallowed_methods, reason = "reports carry the time of day")]
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sent_before_the_socket_was_connected_is_told_from_the_peer() {
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (here, peer, stranger) = (socket(), socket(), socket());
        let at = |socket: &UdpSocket| socket.local_addr().expect("address");
        here.set_nonblocking(true).expect("non-blocking");
        stranger.send_to(b"early", at(&here)).expect("sent");
        here.connect(at(&peer)).expect("connected");
        let mut station = Station {
            call: CallId(1),
            hall: 0,
            seat: None,
            rtp: socket(),
            rtcp: socket(),
            tuned: Some(at(&peer)),
            connected: Some(here),
            is_clean: false,
            line: Line::default(),
            asking: Asking::default(),
        };
        let mut buffer = [0; 16];
        assert_eq!(station.receive(&mut buffer).expect("a packet"), (5, at(&stranger)));
        let nothing = station.receive(&mut buffer).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
        station.is_clean = true;
        peer.send_to(b"now", station.connected.as_ref().map(at).expect("connected")).expect("sent");
        assert_eq!(station.receive(&mut buffer).expect("a packet"), (3, at(&peer)));
    }
}
