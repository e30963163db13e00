//! What forwarding costs: streams over loopback through a plane in this process, and the processor time of its workers.
//!
//! `plane_bench [calls] [packets per second] [seconds] [workers] [tick in microseconds]`

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dialtone_media_relay::plane::{
    Command, EndSettings, Event, Kind, PairId, Plane, PlaneConfig, Ports, PortsConfig,
};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt,
};
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;

const BATCH: usize = 64;
const PACKET: usize = 172;
/// Sockets that all phones share.
const SOCKETS: usize = 8;

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

/// The clock that the kernel stamps arriving packets with, in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What all threads have used.
fn processor() -> Duration {
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock");
    used.into()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn main() {
    let arguments: Vec<u64> =
        std::env::args().skip(1).map(|argument| argument.parse().expect("a number")).collect();
    let argument = |index: usize, default| arguments.get(index).copied().unwrap_or(default);
    let (calls, rate) = (argument(0, 500), argument(1, 50_000));
    let (seconds, workers, tick) = (argument(2, 5), argument(3, 1), argument(4, 1_000));

    let before = resident();
    let config = PlaneConfig { workers: workers as usize, rate_limit: 100_000, pin: false };
    let (plane, mut events) = Plane::start(&config).expect("a plane");
    let config = PortsConfig { range: 10_000..=60_000, ..PortsConfig::default() };
    let address = "127.94.1.1".parse().expect("an address");
    let mut ports = Ports::new(address, config, &mut fastrand::Rng::new());
    let phones: Vec<UdpSocket> = (0..SOCKETS)
        .map(|n| {
            let socket = UdpSocket::bind((format!("127.94.2.{}", n + 1), 4_000)).expect("a phone");
            SockRef::from(&socket).set_recv_buffer_size(8 << 20).expect("a buffer");
            socket.set_nonblocking(true).expect("a socket");
            setsockopt(&socket, ReceiveTimestampns, &true).expect("timestamps");
            socket
        })
        .collect();
    let (started, used) = (now(), processor());
    let mut relay: Vec<SockaddrIn> = Vec::new();
    for n in 0..calls {
        let sockets = [(); 2].map(|()| ports.open(now(), true).expect("a port"));
        let settings = [0, 1].map(|side| {
            let phone = &phones[(2 * n + side) as usize % SOCKETS];
            EndSettings { rtp: phone.local_addr().ok(), ..EndSettings::default() }
        });
        for socket in &sockets {
            match socket.rtp.local_addr() {
                Ok(SocketAddr::V4(address)) => relay.push(address.into()),
                other => panic!("{other:?}"),
            }
        }
        let (pair, kind) = (PairId(n), Kind::Rtp);
        let silence = Duration::from_secs(600);
        plane.execute(Command::Open { pair, kind, sockets, settings, silence });
    }
    plane.execute(Command::Query { pair: PairId(calls - 1), tag: 0 });
    assert!(matches!(events.blocking_recv(), Some(Event::Queried { .. })));
    let (took, used) = (started.elapsed(), processor() - used);
    let memory = (resident() - before) * 1_024 / calls;
    println!(
        "{calls} calls opened: {:.1} µs each, {:.1} µs of processor, {memory} bytes resident each",
        took.as_secs_f64() * 1e6 / calls as f64,
        used.as_secs_f64() * 1e6 / calls as f64,
    );

    let mut generator = Generator::new(phones, relay);
    generator.run(rate, Duration::from_secs(1), tick);
    std::thread::sleep(Duration::from_millis(300));
    generator.receive();
    let (start, before) = (now(), plane.totals());
    generator.reset();
    generator.run(rate, Duration::from_secs(seconds), tick);
    let took = start.elapsed().as_secs_f64();
    // The worker says once in a while how busy it was.
    std::thread::sleep(Duration::from_millis(300));
    generator.receive();
    let after = plane.totals();
    let packets = after.packets_out - before.packets_out;
    let busy = (after.busy - before.busy).as_secs_f64();
    let latencies = &mut generator.latencies;
    latencies.sort_unstable();
    let percentile = |p: f64| latencies[((latencies.len() - 1) as f64 * p) as usize];
    println!(
        "{:.0} packets/s: {:.0} packets per core-second, {:.0} % of a core; sent {}, lost {}; latency p50 {} µs, p99 {} µs",
        packets as f64 / took,
        packets as f64 / busy,
        busy / took * 100.0,
        generator.sent,
        generator.sent - generator.received,
        percentile(0.5),
        percentile(0.99),
    );
}

/// When the kernel got a packet.
fn arrival(message: RecvMsg<'_, '_, SockaddrStorage>) -> Option<u64> {
    match message.cmsgs().ok()?.next()? {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
        }
        _ => None,
    }
}

struct Generator {
    phones: Vec<UdpSocket>,
    relay: Vec<SockaddrIn>,
    next: usize,
    sequences: Vec<u16>,
    epoch: Instant,
    sent: u64,
    received: u64,
    latencies: Vec<u32>,
    outgoing: MultiHeaders<SockaddrIn>,
    incoming: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; PACKET]>,
}

impl Generator {
    fn new(phones: Vec<UdpSocket>, relay: Vec<SockaddrIn>) -> Self {
        Self {
            phones,
            sequences: vec![0; relay.len()],
            relay,
            next: 0,
            epoch: now(),
            sent: 0,
            received: 0,
            latencies: Vec::new(),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            incoming: MultiHeaders::preallocate(
                BATCH,
                Some(nix::cmsg_space!(nix::sys::time::TimeSpec)),
            ),
            buffers: vec![[0; PACKET]; BATCH],
        }
    }

    fn reset(&mut self) {
        (self.sent, self.received) = (0, 0);
        self.latencies.clear();
    }

    fn micros(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    fn run(&mut self, rate: u64, time: Duration, tick: u64) {
        let start = self.micros();
        let mut sent = 0;
        loop {
            let elapsed = self.micros() - start;
            if elapsed >= time.as_micros() as u64 {
                return;
            }
            let due = elapsed / tick * tick * rate / 1_000_000;
            while sent < due {
                let count = (due - sent).min((BATCH / SOCKETS) as u64 * SOCKETS as u64) as usize;
                self.send(count);
                sent += count as u64;
            }
            self.receive();
            let next = (self.micros() - start) / tick * tick + tick;
            let left = (start + next).saturating_sub(self.micros());
            std::thread::sleep(Duration::from_micros(left));
        }
    }

    /// Sends that many packets, of streams in turn. Those of one phone's socket leave together.
    fn send(&mut self, count: usize) {
        for phone in 0..SOCKETS {
            let stamp = wall();
            let mut targets = Vec::with_capacity(count / SOCKETS + 1);
            for index in 0..count {
                let stream = (self.next + index) % self.relay.len();
                if stream % SOCKETS != phone {
                    continue;
                }
                let sequence = &mut self.sequences[stream];
                *sequence = sequence.wrapping_add(1);
                let bytes = &mut self.buffers[targets.len()];
                bytes[0] = 0x80;
                bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
                bytes[4..8].copy_from_slice(&(u32::from(*sequence) * 160).to_be_bytes());
                bytes[8..12].copy_from_slice(&(stream as u32 + 1).to_be_bytes());
                bytes[12..20].copy_from_slice(&stamp.to_le_bytes());
                targets.push(Some(self.relay[stream]));
            }
            let slices: Vec<_> =
                self.buffers[..targets.len()].iter().map(|bytes| [IoSlice::new(bytes)]).collect();
            let (fd, flags) = (self.phones[phone].as_raw_fd(), MsgFlags::empty());
            let sent = sendmmsg(fd, &mut self.outgoing, slices.iter(), &targets, [], flags);
            self.sent += sent.map_or(0, |sent| sent.count()) as u64;
        }
        self.next = (self.next + count) % self.relay.len();
    }

    fn receive(&mut self) {
        for phone in &self.phones {
            loop {
                let arrivals: Vec<u64> = {
                    let mut slices: Vec<_> =
                        self.buffers.iter_mut().map(|bytes| [IoSliceMut::new(bytes)]).collect();
                    let (fd, flags) = (phone.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
                    let incoming = &mut self.incoming;
                    let Ok(messages) = recvmmsg(fd, incoming, slices.iter_mut(), flags, None)
                    else {
                        break;
                    };
                    messages.filter_map(arrival).collect()
                };
                let count = arrivals.len();
                for (bytes, arrival) in self.buffers[..count].iter().zip(arrivals) {
                    let stamp = bytes[12..20].try_into().map_or(0, u64::from_le_bytes);
                    self.latencies.push((arrival.saturating_sub(stamp) / 1_000) as u32);
                }
                self.received += count as u64;
                if count < BATCH {
                    break;
                }
            }
        }
    }
}
