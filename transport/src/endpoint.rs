//! The handle that drivers hold.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::EndpointConfig;
use crate::counters::{Counters, Live, add};
use crate::model::{Link, NetCommand, NetEvent, Protocol};
use crate::session::SessionSocket;
use crate::stack::Stack;
use crate::tcp::{Door, Settings, Tcp};
use crate::thread::{Clock, Command, Control, Stop, Worker};
use crate::udp::{self, Udp};

/// One UDP port with its SCTP associations, and ASAP over TCP beside it; or, in secure mode, connections by TLS.
///
/// Dropping it aborts what is up; [`Endpoint::close`] can end it in order.
#[derive(Debug)]
pub struct Endpoint {
    udp: SocketAddr,
    tcp_addr: Option<SocketAddr>,
    tls_addrs: [Option<SocketAddr>; 2],
    asap_port: Option<u16>,
    enrp_port: Option<u16>,
    sessions: Option<SessionSocket>,
    shutdown: Duration,
    counters: Arc<Live>,
    /// The SCTP thread; none in secure mode.
    control: Option<Arc<Control>>,
    tcp: Arc<Tcp>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Binds the sockets and starts the SCTP thread. Events come from the receiver until the endpoint is closed.
    ///
    /// # Errors
    /// A socket could not be bound, or the thread could not be started.
    pub async fn bind(config: EndpointConfig) -> io::Result<(Self, mpsc::Receiver<NetEvent>)> {
        if let Some(port) = config.sessions.and_then(|sessions| sessions.port)
            && (config.asap_port == Some(port) || config.enrp_port == Some(port) || port == 0)
        {
            let text = format!("SCTP port {port} cannot be that of sessions");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if config.secure.is_some() && config.sessions.is_some() {
            let text = "sessions need SCTP, which there is not in secure mode";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let socket = if config.secure.is_none() { Some(udp::bind(config.udp)?) } else { None };
        let udp_addr = match &socket {
            Some(socket) => socket.local_addr()?,
            None => config.udp,
        };
        let listener = bind(config.tcp).await?;
        let tcp_addr = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let secure = config.secure.clone();
        let asap_tls = bind(secure.as_ref().and_then(|secure| secure.asap)).await?;
        let enrp_tls = bind(secure.as_ref().and_then(|secure| secure.enrp)).await?;
        let tls_addrs = [
            asap_tls.as_ref().map(TcpListener::local_addr).transpose()?,
            enrp_tls.as_ref().map(TcpListener::local_addr).transpose()?,
        ];

        let (events, receiver) = mpsc::channel(config.event_queue.max(1));
        let counters = Arc::new(Live::default());
        let accepted = Arc::new(AtomicU64::new(0));
        let settings = Settings {
            local: tcp_addr.unwrap_or(udp_addr),
            max_connections: config.max_connections,
            send_buffer: config.send_buffer,
            enrp_send_buffer: config.enrp_send_buffer,
            shutdown: config.timers.shutdown,
            secure,
        };
        let tcp = Tcp::new(events.clone(), Arc::clone(&counters), Arc::clone(&accepted), settings)?;
        for (listener, door) in [
            (listener, Door::Plain),
            (asap_tls, Door::Tls(Protocol::Asap)),
            (enrp_tls, Door::Tls(Protocol::Enrp)),
        ] {
            listener.into_iter().for_each(|listener| tcp.listen(listener, door));
        }
        tcp.watch_certificates();

        let (asap_port, enrp_port, shutdown) =
            (config.asap_port, config.enrp_port, config.timers.shutdown);
        let (mut control, mut sessions, mut thread) = (None, None, None);
        if let Some(socket) = socket {
            let (commands, inlet) = Control::new(config.command_queue, Arc::clone(&counters))?;
            let limits = config.sessions;
            let queue = limits.map_or(1, |limits| limits.event_queue.max(1));
            let (session_sender, session_events) = mpsc::channel(queue);
            let shared = (Arc::clone(&commands), Arc::clone(&counters));
            // dcsctp's sockets cannot be sent between threads: the stack comes to life on its own.
            thread = Some(std::thread::Builder::new().name("sctp".into()).spawn(move || {
                let (control, counters) = shared;
                let (clock, udp) = (Clock::new(), Udp::new(socket));
                match Stack::new(config, clock.now(), Arc::clone(&counters), accepted) {
                    Ok(stack) => {
                        let sessions = session_sender;
                        Worker { udp, stack, control, inlet, events, sessions, counters, clock }
                            .run()
                    }
                    Err(_) => tracing::error!("no randomness from the operating system: no SCTP"),
                }
            })?);
            sessions = limits.map(|limits| SessionSocket {
                events: session_events,
                control: Arc::clone(&commands),
                local: udp_addr,
                port: limits.port,
            });
            control = Some(commands);
        }
        let endpoint = Self {
            udp: udp_addr,
            tcp_addr,
            tls_addrs,
            asap_port,
            enrp_port,
            sessions,
            shutdown,
            counters,
            control,
            tcp,
            thread,
        };
        Ok((endpoint, receiver))
    }

    /// Hands a command over; never blocks. Messages are accepted once the association is `Up`.
    ///
    /// A command that finds its queue full ends its association instead ([`crate::DownCause::Local`]), since a gap
    /// in a reliable stream would be worse. Dialling TCP needs the context of a tokio runtime.
    pub fn execute(&self, command: NetCommand) {
        match command {
            NetCommand::Connect { assoc, protocol, remote } if remote.link == Link::Tcp => {
                self.tcp.connect(assoc, protocol, remote);
            }
            NetCommand::Connect { .. } => self.sctp(command),
            NetCommand::Send { assoc, mut payload } => {
                if !self.tcp.send(assoc, &mut payload) {
                    self.sctp(NetCommand::Send { assoc, payload });
                }
            }
            NetCommand::Abort { assoc } => {
                if !self.tcp.end(assoc, false) {
                    self.sctp(command);
                }
            }
            NetCommand::Shutdown { assoc } => {
                if !self.tcp.end(assoc, true) {
                    self.sctp(command);
                }
            }
        }
    }

    fn sctp(&self, command: NetCommand) {
        match (&self.control, command) {
            (Some(control), command) => control.execute(Command::Net(command)),
            // In secure mode nothing is dialled without TLS.
            (None, NetCommand::Connect { assoc, .. }) => self.tcp.refuse(assoc),
            (None, _) => {}
        }
    }

    /// The associations of users with elements, if [`EndpointConfig::sessions`] asked for them; once.
    pub fn take_sessions(&mut self) -> Option<SessionSocket> {
        self.sessions.take()
    }

    /// The UDP address that carries SCTP, with the port that was bound. In secure mode the address that is dialled from.
    pub fn local_addr(&self) -> SocketAddr {
        self.udp
    }

    /// The address on which ASAP over TCP is accepted.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp_addr
    }

    /// The address on which a protocol is accepted over TLS.
    pub fn tls_addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        match protocol {
            Protocol::Asap => self.tls_addrs[0],
            Protocol::Enrp => self.tls_addrs[1],
        }
    }

    /// The SCTP port of a protocol: to be told to registrars in ASAP transports.
    pub fn sctp_port(&self, protocol: Protocol) -> Option<u16> {
        match protocol {
            Protocol::Asap => self.asap_port,
            Protocol::Enrp => self.enrp_port,
        }
    }

    /// What has been counted since the endpoint was bound.
    pub fn counters(&self) -> Counters {
        self.counters.snapshot()
    }

    /// Ends everything: in order (bounded by [`crate::SctpTimers::shutdown`]) or by aborts. `Down` events still
    /// arrive while the consumer takes them, then the receiver ends.
    pub async fn close(self, graceful: bool) {
        self.stop(if graceful { Stop::Graceful } else { Stop::Abort });
        self.tcp.end_all(graceful);
        let ended = async {
            while !self.tcp.is_empty()
                || self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(self.shutdown + Duration::from_secs(1), ended).await.is_err() {
            tracing::warn!("endpoint did not end in order");
        }
        // The rest is in Drop: what is still up gets aborted.
    }

    /// Disappears without a word to any SCTP peer, as a killed process does. For tests of failure detection.
    pub fn vanish(self) {
        self.stop(Stop::Vanish);
    }

    fn stop(&self, stop: Stop) {
        self.control.iter().for_each(|control| control.stop(stop));
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            add(&self.counters.faults);
            tracing::error!("SCTP thread panicked");
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop(Stop::Drop);
        self.tcp.end_all(false);
        // The thread never waits for anyone once it is to abort.
        self.join();
    }
}

async fn bind(addr: Option<SocketAddr>) -> io::Result<Option<TcpListener>> {
    match addr {
        Some(addr) => TcpListener::bind(addr).await.map(Some),
        None => Ok(None),
    }
}
