//! Many transactions: matches messages to them, one ordered map of deadlines for all.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::transaction::client::earlier;
use crate::transaction::{
    ClientAction, ClientInvite, ClientKey, ClientRequest, ServerAction, ServerInvite, ServerKey,
    ServerRequest, Timers,
};
use crate::{
    BuildError, HeaderName, Message, Method, ParseError, ResponseBuilder, Via, cancel_for,
};

/// Where messages come from and go to: a UDP address, a connection, whatever the user's transports call it.
pub trait Destination: Copy + Ord + Debug {
    /// Whether it delivers once and in order, so that nothing is retransmitted.
    fn is_reliable(&self) -> bool;

    /// Where answers to a request go that came from here with this topmost Via. For UDP, the Via may ask for another
    /// port ([`Via::reply_addr`]).
    fn reply_to(self, via: &Via<'_>) -> Self {
        let _ = via;
        self
    }

    /// The address that the layer's own 100 notes as `received` and `rport`; `None` to note nothing.
    fn source_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// When the layer answers 100 to a request by itself: after this time without an answer from above. Default:
    /// 200 ms for INVITE (RFC 3261 section 17.2.1), never for others.
    fn trying_after(&self, invite: bool) -> Option<Duration> {
        invite.then_some(Duration::from_millis(200))
    }
}

/// Names a client transaction of one layer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Names a server transaction of one layer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u64);

/// What the layer wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<D> {
    /// Send these bytes.
    Send { to: D, bytes: Bytes },
    /// A new request, to be answered by [`Layer::respond`]. Never ACK. For CANCEL, `cancels` is the INVITE's
    /// transaction, if it is there.
    Request { id: ServerId, request: Message, source: D, cancels: Option<ServerId> },
    /// An ACK for a 2xx, or for no transaction known here; `invite` if that transaction is still there (RFC 6026).
    Ack { request: Message, source: D, invite: Option<ServerId> },
    /// A response for a client transaction.
    Response { id: ClientId, response: Message },
    /// A response that belongs to no transaction.
    StrayResponse { response: Message, source: D },
    /// No final response came in time, or the transport failed ([`Layer::handle_transport_error`]).
    ClientTimeout { id: ClientId },
    /// The final response to an INVITE was never acknowledged.
    ServerTimeout { id: ServerId },
    /// The transaction is gone; its id means nothing any more.
    ClientTerminated { id: ClientId },
    /// The transaction is gone; its id means nothing any more.
    ServerTerminated { id: ServerId },
}

/// Counters of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Client transactions alive.
    pub clients: usize,
    /// Server transactions alive.
    pub servers: usize,
    /// Messages dropped because a transaction could not be told.
    pub unmatched: u64,
}

/// Transactions of one SIP element. Client and server transactions are not tied to each other.
#[derive(Debug)]
pub struct Layer<D> {
    timers: Timers,
    clients: HashMap<ClientId, Client<D>>,
    servers: HashMap<ServerId, Server<D>>,
    /// Looked up only: iteration order never reaches an output.
    client_keys: HashMap<ClientKey, ClientId>,
    server_keys: HashMap<ServerKey, ServerId>,
    /// What ends when a connection ends.
    by_connection: BTreeSet<(D, Tx)>,
    deadlines: BTreeSet<(Instant, Tx)>,
    next_id: u64,
    unmatched: u64,
    outputs: VecDeque<Output<D>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tx {
    Client(ClientId),
    Server(ServerId),
}

#[derive(Debug)]
struct Client<D> {
    machine: ClientMachine,
    key: ClientKey,
    to: D,
    scheduled: Option<Instant>,
}

#[derive(Debug)]
enum ClientMachine {
    Invite(ClientInvite),
    Request(ClientRequest),
}

#[derive(Debug)]
struct Server<D> {
    machine: ServerMachine,
    key: ServerKey,
    source: D,
    reply_to: D,
    /// The request and when it gets a 100 from us; gone after the first answer.
    trying: Option<(Instant, Message)>,
    scheduled: Option<Instant>,
}

#[derive(Debug)]
enum ServerMachine {
    Invite(ServerInvite),
    Request(ServerRequest),
}

impl<D: Destination> Layer<D> {
    pub fn new(timers: Timers) -> Self {
        Self {
            timers,
            clients: HashMap::new(),
            servers: HashMap::new(),
            client_keys: HashMap::new(),
            server_keys: HashMap::new(),
            by_connection: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
            unmatched: 0,
            outputs: VecDeque::new(),
        }
    }

    /// A message that came; it should have passed [`Message::check`].
    ///
    /// # Errors
    /// [`ParseError`] when Via or CSeq does not tell a transaction; it is dropped and counted.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
        source: D,
    ) -> Result<(), ParseError> {
        let result = if message.is_request() {
            self.handle_request(now, message, source)
        } else {
            self.handle_response(now, message, source)
        };
        if result.is_err() {
            self.unmatched += 1;
        }
        result
    }

    fn handle_response(
        &mut self,
        now: Instant,
        response: Message,
        source: D,
    ) -> Result<(), ParseError> {
        let key = ClientKey::of(&response)?;
        let Some(&id) = self.client_keys.get(&key) else {
            self.outputs.push_back(Output::StrayResponse { response, source });
            return Ok(());
        };
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        match &mut client.machine {
            ClientMachine::Invite(machine) => machine.handle_response(now, &response)?,
            ClientMachine::Request(machine) => machine.handle_response(now, &response)?,
        }
        self.drain_client(id, Some(response));
        Ok(())
    }

    fn handle_request(
        &mut self,
        now: Instant,
        request: Message,
        source: D,
    ) -> Result<(), ParseError> {
        let key = ServerKey::of(&request)?;
        let method = request.method().ok_or(ParseError::StartLine)?;
        let known = self.server_keys.get(&key).copied();
        if method == Method::Ack {
            match known.and_then(|id| Some((id, self.servers.get_mut(&id)?))) {
                Some((id, server)) => {
                    if let ServerMachine::Invite(machine) = &mut server.machine {
                        machine.handle_ack(now);
                    }
                    self.drain_server(id, Some((request, source)));
                }
                None => self.outputs.push_back(Output::Ack { request, source, invite: None }),
            }
            return Ok(());
        }
        if let Some((id, server)) = known.and_then(|id| Some((id, self.servers.get_mut(&id)?))) {
            match &mut server.machine {
                ServerMachine::Invite(machine) => machine.handle_request(),
                ServerMachine::Request(machine) => machine.handle_request(),
            }
            self.drain_server(id, None);
            return Ok(());
        }
        let cancels = match method {
            Method::Cancel => self.server_keys.get(&ServerKey::cancelled_by(&request)?).copied(),
            _ => None,
        };
        let reliable = source.is_reliable();
        let reply_to = source.reply_to(&request.top_via()?);
        let id = ServerId(self.serial());
        let invite = method == Method::Invite;
        let machine = if invite {
            ServerMachine::Invite(ServerInvite::new(reliable, self.timers))
        } else {
            ServerMachine::Request(ServerRequest::new(reliable, self.timers))
        };
        let trying = source.trying_after(invite).map(|after| (now + after, request.clone()));
        self.server_keys.insert(key.clone(), id);
        self.servers.insert(id, Server { machine, key, source, reply_to, trying, scheduled: None });
        if reliable {
            self.by_connection.insert((source, Tx::Server(id)));
        }
        self.outputs.push_back(Output::Request { id, request, source, cancels });
        self.drain_server(id, None);
        Ok(())
    }

    /// Sends a request in a client transaction of its own; its topmost Via must have a fresh branch (for CANCEL: the
    /// INVITE's). An ACK for a 2xx is no transaction: send it directly.
    ///
    /// # Errors
    /// [`ParseError`] when the request has no branch or CSeq, or a transaction with this branch exists.
    pub fn send_request(
        &mut self,
        now: Instant,
        request: &Message,
        to: D,
    ) -> Result<ClientId, ParseError> {
        let key = ClientKey::of(request)?;
        if self.client_keys.contains_key(&key) {
            return Err(ParseError::Repeated(HeaderName::Via));
        }
        let reliable = to.is_reliable();
        let bytes = request.bytes().clone();
        let machine = if request.method() == Some(Method::Invite) {
            ClientMachine::Invite(ClientInvite::new(now, bytes, reliable, self.timers))
        } else {
            ClientMachine::Request(ClientRequest::new(now, bytes, reliable, self.timers))
        };
        let id = ClientId(self.serial());
        self.client_keys.insert(key.clone(), id);
        self.clients.insert(id, Client { machine, key, to, scheduled: None });
        if reliable {
            self.by_connection.insert((to, Tx::Client(id)));
        }
        self.drain_client(id, None);
        Ok(id)
    }

    /// Sends the CANCEL of an INVITE in a transaction of its own. RFC 3261 section 9.1: only after a provisional
    /// response; `None` when none came yet, the INVITE is over, or the id is unknown.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn cancel(
        &mut self,
        now: Instant,
        invite: ClientId,
    ) -> Result<Option<ClientId>, BuildError> {
        let Some(Client { machine: ClientMachine::Invite(machine), to, .. }) =
            self.clients.get(&invite)
        else {
            return Ok(None);
        };
        if !machine.is_cancellable() {
            return Ok(None);
        }
        let to = *to;
        let parse = |bytes: Bytes| Message::parse(bytes).map_err(|_| BuildError::NotRequest);
        let cancel = parse(cancel_for(&parse(machine.request().clone())?)?)?;
        // A second CANCEL for the same INVITE is none.
        Ok(self.send_request(now, &cancel, to).ok())
    }

    /// Answers a request. Returns whether the transaction was there and accepted it.
    pub fn respond(&mut self, now: Instant, id: ServerId, code: u16, response: Bytes) -> bool {
        let Some(server) = self.servers.get_mut(&id) else { return false };
        let accepted = match &mut server.machine {
            ServerMachine::Invite(machine) => machine.respond(now, code, response),
            ServerMachine::Request(machine) => machine.respond(now, code, response),
        };
        server.trying = None;
        self.drain_server(id, None);
        accepted
    }

    /// Forgets a client transaction without further output.
    pub fn forget_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.client_keys.remove(&client.key);
            self.by_connection.remove(&(client.to, Tx::Client(id)));
            if let Some(at) = client.scheduled {
                self.deadlines.remove(&(at, Tx::Client(id)));
            }
        }
    }

    /// Forgets a server transaction without further output, as for a request that is never answered.
    pub fn forget_server(&mut self, id: ServerId) {
        if let Some(server) = self.servers.remove(&id) {
            self.server_keys.remove(&server.key);
            self.by_connection.remove(&(server.source, Tx::Server(id)));
            if let Some(at) = server.scheduled {
                self.deadlines.remove(&(at, Tx::Server(id)));
            }
        }
    }

    /// A connection is gone: client transactions towards it end ([`Output::ClientTimeout`] if no final response had
    /// come), server transactions from it terminate. For unreliable destinations nothing happens: timers decide.
    pub fn handle_transport_error(&mut self, now: Instant, to: D) {
        let _ = now;
        let range = (to, Tx::Client(ClientId(0)))..=(to, Tx::Server(ServerId(u64::MAX)));
        let ended: Vec<Tx> = self.by_connection.range(range).map(|(_, tx)| *tx).collect();
        for tx in ended {
            match tx {
                Tx::Client(id) => {
                    if let Some(client) = self.clients.get_mut(&id) {
                        match &mut client.machine {
                            ClientMachine::Invite(machine) => machine.handle_transport_error(),
                            ClientMachine::Request(machine) => machine.handle_transport_error(),
                        }
                        self.drain_client(id, None);
                    }
                }
                Tx::Server(id) => {
                    self.forget_server(id);
                    self.outputs.push_back(Output::ServerTerminated { id });
                }
            }
        }
    }

    /// The request that a datagram sent to `to` was part of, when an ICMP error brought its beginning back and nothing was
    /// heard of the other end yet. Its branch, which only the way to there has seen, is the proof.
    pub fn returned(&self, to: D, bytes: Bytes) -> Option<ClientId> {
        // Routers return the beginning only.
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(partial) => *partial.message?,
        };
        let via = message.top_via().ok()?;
        let key = ClientKey::new(via.branch()?, message.method()?);
        let id = *self.client_keys.get(&key)?;
        let client = self.clients.get(&id).filter(|client| client.to == to)?;
        let unheard = match &client.machine {
            ClientMachine::Invite(machine) => machine.is_unheard(),
            ClientMachine::Request(machine) => machine.is_unheard(),
        };
        unheard.then_some(id)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, tx)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            match tx {
                Tx::Client(id) => {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.scheduled = None;
                        match &mut client.machine {
                            ClientMachine::Invite(machine) => machine.handle_timeout(now),
                            ClientMachine::Request(machine) => machine.handle_timeout(now),
                        }
                        self.drain_client(id, None);
                    }
                }
                Tx::Server(id) => {
                    if let Some(server) = self.servers.get_mut(&id) {
                        server.scheduled = None;
                        server.handle_timeout(now);
                        self.drain_server(id, None);
                    }
                }
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn poll(&mut self) -> Option<Output<D>> {
        self.outputs.pop_front()
    }

    pub fn stats(&self) -> LayerStats {
        LayerStats {
            clients: self.clients.len(),
            servers: self.servers.len(),
            unmatched: self.unmatched,
        }
    }

    fn serial(&mut self) -> u64 {
        let serial = self.next_id;
        self.next_id += 1;
        serial
    }

    /// Turns the actions of a client transaction into outputs; `response` is what [`ClientAction::Deliver`] means.
    fn drain_client(&mut self, id: ClientId, mut response: Option<Message>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut over = false;
        loop {
            let action = match &mut client.machine {
                ClientMachine::Invite(machine) => machine.poll(),
                ClientMachine::Request(machine) => machine.poll(),
            };
            match action {
                Some(ClientAction::Send(bytes)) => {
                    self.outputs.push_back(Output::Send { to: client.to, bytes })
                }
                Some(ClientAction::Deliver) => {
                    self.outputs
                        .extend(response.take().map(|response| Output::Response { id, response }));
                }
                Some(ClientAction::Timeout) => self.outputs.push_back(Output::ClientTimeout { id }),
                Some(ClientAction::Terminated) => over = true,
                None => break,
            }
        }
        if over {
            self.forget_client(id);
            self.outputs.push_back(Output::ClientTerminated { id });
            return;
        }
        let next = match &client.machine {
            ClientMachine::Invite(machine) => machine.next_deadline(),
            ClientMachine::Request(machine) => machine.next_deadline(),
        };
        reschedule(&mut self.deadlines, &mut client.scheduled, next, Tx::Client(id));
    }

    /// Turns the actions of a server transaction into outputs; `ack` is what [`ServerAction::DeliverAck`] means.
    fn drain_server(&mut self, id: ServerId, mut ack: Option<(Message, D)>) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let mut over = false;
        loop {
            let action = match &mut server.machine {
                ServerMachine::Invite(machine) => machine.poll(),
                ServerMachine::Request(machine) => machine.poll(),
            };
            match action {
                Some(ServerAction::Send(bytes)) => {
                    self.outputs.push_back(Output::Send { to: server.reply_to, bytes })
                }
                Some(ServerAction::DeliverAck) => {
                    let ack = ack.take().map(|(request, source)| Output::Ack {
                        request,
                        source,
                        invite: Some(id),
                    });
                    self.outputs.extend(ack);
                }
                Some(ServerAction::Timeout) => self.outputs.push_back(Output::ServerTimeout { id }),
                Some(ServerAction::Terminated) => over = true,
                None => break,
            }
        }
        if over {
            self.forget_server(id);
            self.outputs.push_back(Output::ServerTerminated { id });
            return;
        }
        let machine = match &server.machine {
            ServerMachine::Invite(machine) => machine.next_deadline(),
            ServerMachine::Request(machine) => machine.next_deadline(),
        };
        let next = earlier(machine, server.trying.as_ref().map(|(at, _)| *at));
        reschedule(&mut self.deadlines, &mut server.scheduled, next, Tx::Server(id));
    }
}

impl<D: Destination> Server<D> {
    fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, request)) = self.trying.take_if(|(at, _)| *at <= now)
            && let Ok(trying) = trying(&request, self.source.source_addr())
        {
            match &mut self.machine {
                ServerMachine::Invite(machine) => machine.respond(now, 100, trying),
                ServerMachine::Request(machine) => machine.respond(now, 100, trying),
            };
        }
        match &mut self.machine {
            ServerMachine::Invite(machine) => machine.handle_timeout(now),
            ServerMachine::Request(machine) => machine.handle_timeout(now),
        }
    }
}

fn trying(request: &Message, source: Option<SocketAddr>) -> Result<Bytes, BuildError> {
    let builder = ResponseBuilder::new(request, 100);
    match source {
        Some(source) => builder.source(source).build(),
        None => builder.build(),
    }
}

fn reschedule(
    deadlines: &mut BTreeSet<(Instant, Tx)>,
    scheduled: &mut Option<Instant>,
    next: Option<Instant>,
    tx: Tx,
) {
    if *scheduled != next {
        if let Some(at) = *scheduled {
            deadlines.remove(&(at, tx));
        }
        deadlines.extend(next.map(|at| (at, tx)));
        *scheduled = next;
    }
}
