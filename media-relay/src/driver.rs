//! The task that owns the core and connects it to the control socket, the plane and the recorder.
//!
//! # Tasks and threads
//! | what | owns | ends when |
//! |---|---|---|
//! | driver (one task) | the core, the control socket, recordings | asked to, after all calls have ended or the time for that is over; or a worker died |
//! | workers of the [`Plane`] | sockets and statistics of pairs | the plane is dropped |
//! | thread of the [`Recorder`] | files | the recorder is dropped |
//!
//! Datagrams are read without waiting as long as there are some, so that a burst costs one wake-up. Receiving from the
//! socket and from the plane's channel is cancel safe.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::{AuditLog, Audited};
use crate::core::{CallKey, Output, Reason, Relay, RtcpPort, Sample, Summary};
use crate::metrics::{Figures, export};
use crate::plane::{Command, Event, PairId, Plane, RtcpSocket, Totals};
use crate::record::{Formats, Recorder, Recording};
use crate::sockets::SocketPool;

/// Datagrams read before others get their turn.
const BATCH: usize = 64;
/// How often rates are measured, metrics exported and the pool told of the load.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long the plane may take to close what is open in the end.
const CLOSING: Duration = Duration::from_secs(1);

/// What a driver works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) relay: Relay<SocketPool>,
    pub(crate) socket: UdpSocket,
    pub(crate) plane: Plane,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pub(crate) workers: usize,
    /// How long a pair may be without a packet.
    pub(crate) silence: Duration,
    pub(crate) recorder: Option<(Recorder, Formats, AuditLog)>,
    /// The load, from 0 to 1.
    pub(crate) load: watch::Sender<f64>,
}

/// Runs a relay until `drain` is cancelled and its calls have ended, but not longer than `limit` after that.
pub(crate) async fn run(parts: Parts, drain: CancellationToken, limit: Duration) {
    let Parts { relay, socket, plane, mut events, workers, silence, recorder, load } = parts;
    let now = clock();
    let mut driver = Driver {
        relay,
        plane,
        workers: workers as f64,
        silence,
        recorder,
        recordings: HashMap::new(),
        load,
        sampled: (now, Totals::default()),
    };
    let mut buffer = vec![0; dialtone_ng::MAX_DATAGRAM + 1].into_boxed_slice();
    let mut sample_at = now + SAMPLE_EVERY;
    let mut end_at = None;
    let mut closed = false;
    loop {
        let now = clock();
        if now >= sample_at {
            driver.sample(now);
            sample_at = now + SAMPLE_EVERY;
            if !driver.plane.is_whole() {
                // Its calls hear nothing any more. Started anew, this relay is good for others.
                tracing::error!("a media worker died; this relay ends");
                break;
            }
        }
        if drain.is_cancelled() {
            let until = *end_at.get_or_insert_with(|| {
                driver.relay.drain();
                now + limit
            });
            if driver.relay.calls() > 0 && now >= until && !closed {
                tracing::warn!(calls = driver.relay.calls(), "ending calls that still run");
                driver.relay.end_all();
                driver.drain(&socket);
                (closed, end_at) = (true, Some(now + CLOSING));
            }
            let over = end_at.is_some_and(|until| now >= until);
            if driver.relay.calls() == 0 && (driver.relay.pairs() == 0 || (closed && over)) {
                break;
            }
        }
        let mut deadline = driver.relay.next_deadline().map_or(sample_at, |at| at.min(sample_at));
        if let Some(at) = end_at {
            deadline = deadline.min(at.max(now + Duration::from_millis(5)));
        }
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(event) => driver.relay.handle_event(clock(), event),
                None => {
                    tracing::error!("the data path ended");
                    break;
                }
            },
            ready = socket.readable() => {
                if let Err(error) = ready {
                    tracing::error!(%error, "the control socket failed");
                    break;
                }
                driver.receive(&socket, &mut buffer);
            }
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = drain.cancelled(), if end_at.is_none() => {}
        }
        let now = clock();
        if driver.relay.next_deadline().is_some_and(|at| at <= now) {
            driver.relay.handle_timeout(now);
        }
        driver.drain(&socket);
    }
    driver.sample(clock());
}

struct Driver {
    relay: Relay<SocketPool>,
    plane: Plane,
    workers: f64,
    silence: Duration,
    recorder: Option<(Recorder, Formats, AuditLog)>,
    recordings: HashMap<CallKey, Running>,
    load: watch::Sender<f64>,
    /// When the plane's totals were looked at last, and what they were.
    sampled: (Instant, Totals),
}

/// A recording of a call.
struct Running {
    recording: Recording,
    /// Pairs, each at the number of its stream.
    streams: Vec<PairId>,
}

impl Driver {
    fn receive(&mut self, socket: &UdpSocket, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match socket.try_recv_from(buffer) {
                Ok((length, from)) => {
                    self.relay.handle_datagram(clock(), from, &buffer[..length]);
                    self.drain(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error for an answer that was sent: nobody is there any more.
                Err(error) => tracing::debug!(%error, "control socket"),
            }
        }
    }

    fn drain(&mut self, socket: &UdpSocket) {
        while let Some(output) = self.relay.poll() {
            let command = match output {
                Output::Change { pair, side, settings, reopen, rtcp } => {
                    let rtcp = match rtcp {
                        RtcpPort::Close => RtcpSocket::Close,
                        RtcpPort::Keep => RtcpSocket::Keep,
                        RtcpPort::Open(socket) => RtcpSocket::Replace(socket),
                    };
                    Command::Change { pair, side, settings, reopen, rtcp }
                }
                Output::Close { pair } => Command::Close { pair },
                Output::Ended(summary) => {
                    self.ended(&summary);
                    continue;
                }
                Output::Kind { pair, kind } => Command::Kind { pair, kind },
                Output::Open { pair, kind, sockets, settings } => {
                    Command::Open { pair, kind, sockets, settings, silence: self.silence }
                }
                Output::Query { pair, tag } => Command::Query { pair, tag },
                Output::RecordPair { call, pair, kind, .. } => {
                    let Some(running) = self.recordings.get_mut(&call) else { continue };
                    let known = running.streams.iter().position(|known| *known == pair);
                    let stream = known.unwrap_or_else(|| {
                        running.streams.push(pair);
                        running.streams.len() - 1
                    });
                    Command::Record { pair, tap: running.recording.tap(stream as u16, kind) }
                }
                Output::Send { to, bytes } => {
                    send(socket, to, &bytes);
                    continue;
                }
                Output::StartRecording(recording) => {
                    self.start_recording(&recording);
                    continue;
                }
                Output::StopRecording { recording, pairs } => {
                    self.stop_recording(&recording, pairs);
                    continue;
                }
            };
            self.plane.execute(command);
        }
    }

    fn start_recording(&mut self, wanted: &crate::core::Recording) {
        let Some((recorder, formats, audit)) = &mut self.recorder else { return };
        let call_id = wanted.call_id.escape_ascii();
        let (now, wall) = (clock(), wall_clock());
        let recording = match recorder.begin(now, wall, &wanted.call_id, *formats) {
            Ok(recording) => recording,
            Err(error) => {
                tracing::error!(%call_id, %error, "a call is not recorded");
                return self.relay.recording_failed(wanted.call);
            }
        };
        let files: Vec<PathBuf> = recording.pcap().into_iter().chain(recording.wav(0)).collect();
        // What is not noted is not done.
        if let Err(error) = audit.note(wall, wanted, Audited::Start { files: &files }) {
            tracing::error!(%call_id, %error, "a call is not recorded: the audit log cannot be written");
            return self.relay.recording_failed(wanted.call);
        }
        self.recordings.insert(wanted.call, Running { recording, streams: Vec::new() });
    }

    fn stop_recording(&mut self, ended: &crate::core::Recording, pairs: Vec<PairId>) {
        let Some(running) = self.recordings.remove(&ended.call) else { return };
        for pair in pairs {
            self.plane.execute(Command::StopRecording { pair });
        }
        drop(running);
        let Some((_, _, audit)) = &mut self.recorder else { return };
        if let Err(error) = audit.note(wall_clock(), ended, Audited::Stop) {
            let call_id = ended.call_id.escape_ascii();
            tracing::error!(%call_id, %error, "the audit log cannot be written");
        }
    }

    fn ended(&self, summary: &Summary) {
        let call_id = summary.call_id.escape_ascii();
        let seconds = summary.duration.as_secs();
        let Summary { packets, bytes, .. } = summary;
        let reason = summary.reason.name();
        let streams: Vec<String> = summary.ends.iter().map(ToString::to_string).collect();
        let streams = streams.join("; ");
        match summary.reason {
            Reason::Deleted => {
                tracing::info!(%call_id, reason, seconds, packets, bytes, %streams, "call ended");
            }
            Reason::Drained | Reason::Silent | Reason::SilentOnHold | Reason::Unanswered => {
                tracing::warn!(%call_id, reason, seconds, packets, bytes, %streams, "call ended");
            }
        }
    }

    fn sample(&mut self, now: Instant) {
        let totals = self.plane.totals();
        let (before, former) = std::mem::replace(&mut self.sampled, (now, totals));
        let elapsed = now.saturating_duration_since(before).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / elapsed) as u64;
        let errors = |totals: &Totals| {
            totals.strangers + totals.unexpected + totals.over_rate + totals.send_errors
        };
        let bytes = |totals: &Totals| totals.bytes_in + totals.bytes_out;
        let busy = totals.busy.saturating_sub(former.busy).as_secs_f64();
        let sample = Sample {
            packets: rate(totals.packets_in, former.packets_in),
            bytes: rate(bytes(&totals), bytes(&former)),
            errors: rate(errors(&totals), errors(&former)),
            load: busy / elapsed / self.workers,
            ports: self.relay.ports_mut().use_share(now),
            total_packets: totals.packets_in,
            total_bytes: totals.bytes_in,
            total_errors: errors(&totals),
        };
        self.relay.set_sample(sample);
        let load = self.relay.load();
        self.load.send_replace(load);
        export(&Figures {
            stats: self.relay.stats(),
            totals,
            sample,
            load,
            calls: self.relay.calls(),
            kept_answers: self.relay.kept_answers(),
            ports: self.relay.ports_mut().count(now),
            ignored: self.relay.ignored(),
            recorder: self.recorder.as_ref().map(|(recorder, _, _)| recorder.totals()),
        });
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.try_send_to(bytes, to) {
        // Whoever has asked asks again.
        tracing::debug!(%to, %error, "answer not sent");
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver is where the core gets its time from")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the driver is where files get their time from")]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Now, on both clocks; microseconds since 1970.
pub(crate) fn epoch() -> (Instant, u64) {
    let wall = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    (clock(), wall.as_micros() as u64)
}
