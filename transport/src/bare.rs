//! The SCTP stack as a process has it, without thread, sockets or clock, for simulations: equal seeds give equal packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::EndpointConfig;
use crate::entropy::Entropy;
use crate::model::{NetCommand, NetEvent};
use crate::stack::Stack;
use crate::thread::FROZEN;

/// Takes packets, ICMP errors, commands and time; gives packets and events.
///
/// dcsctp draws from this thread's `fastrand` generator, which is seeded before every call.
pub struct BareStack {
    stack: Stack,
    random: fastrand::Rng,
    /// The stack's time stands still while its thread is frozen.
    behind: Duration,
}

impl BareStack {
    /// `None` when the machine has no key material.
    pub fn new(config: EndpointConfig, now: Instant, mut random: fastrand::Rng) -> Option<Self> {
        let entropy = Entropy::Seeded(random.fork());
        let stack = Stack::with_entropy(config, now, Arc::default(), Arc::default(), entropy);
        Some(Self { stack: stack.ok()?, random, behind: Duration::ZERO })
    }

    /// Commands of one call of a core; messages leave together.
    pub fn handle_commands(
        &mut self,
        now: Instant,
        commands: impl IntoIterator<Item = NetCommand>,
    ) {
        let now = self.begin(now);
        for command in commands {
            self.stack.handle_command(now, command);
        }
        self.stack.flush(now);
    }

    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let now = self.begin(now);
        self.stack.handle_datagram(now, from, bytes);
    }

    /// ICMP says that no port is open at `to`; `returned` is what it brought back.
    pub fn handle_unreachable(&mut self, now: Instant, to: SocketAddr, returned: &[u8]) {
        let now = self.begin(now);
        self.stack.handle_unreachable(now, to, true, returned);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.begin(now);
        self.stack.handle_timeout(now);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.stack.next_deadline().map(|at| at + self.behind)
    }

    /// The thread goes on after it could not run: what has arrived meanwhile is to be handed in before a timeout.
    pub fn thaw(&mut self, now: Instant) {
        let late =
            self.next_deadline().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > FROZEN {
            self.behind += late;
        }
    }

    pub fn poll_packet(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.stack.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<NetEvent> {
        self.stack.events.pop_front()
    }

    fn begin(&mut self, now: Instant) -> Instant {
        fastrand::seed(self.random.u64(..));
        now - self.behind
    }
}

impl std::fmt::Debug for BareStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareStack").field("behind", &self.behind).finish_non_exhaustive()
    }
}
