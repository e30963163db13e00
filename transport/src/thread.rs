//! The thread that owns the UDP socket and every SCTP association behind it.
//!
//! One turn: send what is due, tell the consumer, wait, read a bounded number of datagrams, execute commands, run
//! timers. While the consumer lags behind by a full channel nothing is read, so memory stays bounded and peers see
//! that this process does not keep up.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use crate::counters::{Live, add};
use crate::model::{AssocId, NetCommand, NetEvent};
use crate::session::{SessionCommand, SessionEvent};
use crate::stack::Stack;
use crate::udp::Udp;

/// Batches of datagrams between two looks at commands and timers.
const BATCHES: usize = 16;
/// A turn that comes later than planned by more than this was frozen or starved.
///
/// Shorter than the shortest retransmission timeout: dcsctp counts a timer's next period from when it was due, so one
/// that comes a period late would expire twice at the same time, and cost two of the peer's few chances to answer.
pub(crate) const FROZEN: Duration = Duration::from_millis(150);
/// How long to wait for a consumer whose channel is full before looking again.
const LAGGING: Duration = Duration::from_millis(2);

/// What the thread is told to do, by either consumer.
#[derive(Debug)]
pub(crate) enum Command {
    Net(NetCommand),
    Session(SessionCommand),
}

/// What everybody else holds of the thread.
#[derive(Debug)]
pub(crate) struct Control {
    commands: SyncSender<Command>,
    wake: UnixStream,
    /// The thread has been woken and has not looked yet.
    woken: AtomicBool,
    stop: AtomicU8,
    /// Associations that lost a command; `true` when it was their dial.
    overflowed: Mutex<BTreeMap<AssocId, bool>>,
    counters: Arc<Live>,
}

/// The thread's end of [`Control`].
pub(crate) struct Inlet {
    commands: Receiver<Command>,
    woken: UnixStream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Graceful = 1,
    Abort = 2,
    /// As `Abort`, without waiting for the consumer.
    Drop = 3,
    Vanish = 4,
}

impl Control {
    pub(crate) fn new(queue: usize, counters: Arc<Live>) -> io::Result<(Arc<Self>, Inlet)> {
        let (commands, receiver) = sync_channel(queue);
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let inlet = Inlet { commands: receiver, woken };
        let control = Self {
            commands,
            wake,
            woken: AtomicBool::new(false),
            stop: AtomicU8::new(0),
            overflowed: Mutex::default(),
            counters,
        };
        Ok((Arc::new(control), inlet))
    }

    pub(crate) fn execute(&self, command: Command) {
        if let Err(TrySendError::Full(command)) = self.commands.try_send(command) {
            add(&self.counters.commands_overflowed);
            let (id, dial) = match command {
                Command::Net(NetCommand::Connect { assoc, .. }) => (assoc, true),
                Command::Net(
                    NetCommand::Send { assoc, .. }
                    | NetCommand::Abort { assoc }
                    | NetCommand::Shutdown { assoc },
                ) => (assoc, false),
                Command::Session(command) => {
                    (command.assoc(), matches!(command, SessionCommand::Connect { .. }))
                }
            };
            *self
                .overflowed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(id)
                .or_default() |= dial;
        }
        self.wake();
    }

    pub(crate) fn stop(&self, stop: Stop) {
        self.stop.fetch_max(stop as u8, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // Fails only when the pipe is full, and then the thread is awake anyway.
            let _ = (&self.wake).write(&[0]);
        }
    }

    fn stopping(&self) -> Option<Stop> {
        match self.stop.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Stop::Graceful),
            2 => Some(Stop::Abort),
            3 => Some(Stop::Drop),
            _ => Some(Stop::Vanish),
        }
    }
}

pub(crate) struct Worker {
    pub(crate) udp: Udp,
    pub(crate) stack: Stack,
    pub(crate) control: Arc<Control>,
    pub(crate) inlet: Inlet,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) sessions: mpsc::Sender<SessionEvent>,
    pub(crate) counters: Arc<Live>,
    pub(crate) clock: Clock,
}

impl Worker {
    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut obeyed = None;
        loop {
            let sessions_lag = !self.report_sessions();
            self.transmit();
            let lagging = !self.report();
            let stop = self.control.stopping();
            if stop != obeyed
                && let Some(stop) = stop
            {
                obeyed = Some(stop);
                if stop == Stop::Vanish {
                    return;
                }
                self.stack.end_all(self.clock.now(), stop == Stop::Graceful);
                // Out with it, and then see what is left.
                continue;
            }
            if stop.is_some() && self.stack.is_empty() && (!lagging || stop == Some(Stop::Drop)) {
                return;
            }
            let paused = lagging && stop.is_none();
            let (errors, readable) = self.wait(lagging || sessions_lag, paused);
            let now = self.clock.now();
            if paused {
                self.obey(now);
                continue;
            }
            if errors {
                self.read_errors(now);
            }
            if readable {
                self.read(now);
            }
            self.obey(now);
            self.stack.handle_timeout(now);
        }
    }

    /// `lagging`: a consumer's channel is full. `paused`: nothing is to be read until it is not.
    fn wait(&mut self, lagging: bool, paused: bool) -> (bool, bool) {
        let deadline = self.stack.next_deadline().filter(|_| !paused);
        let timer = deadline.map(|at| at.saturating_duration_since(self.clock.now()));
        let timeout = [timer, lagging.then_some(LAGGING)].into_iter().flatten().min();
        // Rounded up: waking a moment early would spin.
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let wanted = if paused {
            PollFlags::empty()
        } else if self.stack.transmits.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        };
        let mut fds = [
            PollFd::new(self.udp.as_fd(), wanted),
            PollFd::new(self.inlet.woken.as_fd(), PollFlags::POLLIN),
        ];
        // With errors pending and nothing wanted, poll would return at once, again and again.
        let fds = if paused { &mut fds[1..] } else { &mut fds[..] };
        let ready = poll(fds, timeout).unwrap_or(0);
        let udp = if paused {
            PollFlags::empty()
        } else {
            fds[0].revents().unwrap_or(PollFlags::empty())
        };
        if ready > 0 {
            let _ = self.inlet.woken.read(&mut [0; 64]);
        }
        self.clock.woke(deadline);
        (udp.contains(PollFlags::POLLERR), udp.intersects(PollFlags::POLLIN | PollFlags::POLLERR))
    }

    fn read(&mut self, now: Instant) {
        for _ in 0..BATCHES {
            let (stack, counters) = (&mut self.stack, &self.counters);
            let more = self.udp.receive(|from, bytes| {
                add(&counters.packets_in);
                stack.handle_datagram(now, from, bytes);
            });
            self.transmit();
            if !more {
                break;
            }
        }
    }

    fn read_errors(&mut self, now: Instant) {
        while let Some(error) = self.udp.receive_error() {
            if let Some(error) = error {
                self.stack.handle_unreachable(now, error.to, error.port, &error.returned);
            }
        }
    }

    fn obey(&mut self, now: Instant) {
        // Cleared first, so that a command which comes now wakes the next turn.
        self.control.woken.store(false, Ordering::SeqCst);
        while let Ok(command) = self.inlet.commands.try_recv() {
            match command {
                Command::Net(command) => self.stack.handle_command(now, command),
                Command::Session(command) => self.stack.handle_session_command(now, command),
            }
        }
        let overflowed = std::mem::take(
            &mut *self.control.overflowed.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for (id, dial) in overflowed {
            if dial {
                self.stack.refuse(id);
            } else {
                self.stack.abort(now, id);
            }
        }
        self.stack.flush(now);
    }

    fn transmit(&mut self) {
        let mut refused = 0;
        while !self.stack.transmits.is_empty() {
            match self.udp.send(self.stack.transmits.iter()) {
                Ok(0) => break,
                Ok(sent) => {
                    self.counters.packets_out.fetch_add(sent as u64, Ordering::Relaxed);
                    self.stack.transmits.drain(..sent);
                    refused = 0;
                }
                Err(Errno::EINTR) => (),
                // An ICMP error about an earlier datagram is reported here once, in place of sending this one.
                Err(error) => {
                    refused += 1;
                    if refused > 3 {
                        tracing::debug!(%error, "datagram not sent");
                        add(&self.counters.send_failures);
                        self.stack.transmits.pop_front();
                        refused = 0;
                    }
                }
            }
        }
    }

    /// Hands events to the consumer; `false` when its channel is full.
    fn report(&mut self) -> bool {
        while let Some(event) = self.stack.events.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => (),
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.stack.events.push_front(event);
                    return false;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => (),
            }
        }
        true
    }

    /// As [`Worker::report`], for sessions: what finds no room does not keep the others waiting.
    fn report_sessions(&mut self) -> bool {
        loop {
            while let Some(event) = self.stack.session_events.pop_front() {
                match self.sessions.try_send(event) {
                    Ok(()) => (),
                    Err(mpsc::error::TrySendError::Full(event)) => {
                        self.stack.session_events.push_front(event);
                        return false;
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => (),
                }
            }
            self.stack.resume_sessions(self.clock.now());
            if self.stack.session_events.is_empty() {
                return true;
            }
        }
    }
}

/// Time that stands still while this process is frozen: input that has waited is read before timers give peers up.
pub(crate) struct Clock {
    behind: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { behind: Duration::ZERO }
    }

    #[expect(clippy::disallowed_methods, reason = "the SCTP thread is a driver")]
    pub(crate) fn now(&self) -> Instant {
        Instant::now() - self.behind
    }

    /// Called after a wait that should have ended at `deadline`.
    fn woke(&mut self, deadline: Option<Instant>) {
        let late = deadline
            .map_or(Duration::ZERO, |deadline| self.now().saturating_duration_since(deadline));
        if late > FROZEN {
            tracing::warn!(late_ms = late.as_millis() as u64, "SCTP thread was held up");
            self.behind += late;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_frozen() {
        let mut clock = Clock::new();
        let before = clock.now();
        clock.woke(Some(before - Duration::from_secs(60)));
        assert!(clock.now() < before - Duration::from_secs(59));
        clock.woke(None);
        clock.woke(Some(clock.now()));
        assert!(clock.behind < Duration::from_secs(61));
        assert!(FROZEN < crate::SctpTimers::default().rto_min, "a timer could expire twice");
    }
}
