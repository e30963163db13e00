//! Sets up calls at a relay, and takes them down: what a proxy does, many at a time.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use dialtone_bench::{
    media::{End, Media},
    sdp,
};
use dialtone_ng::{
    MAX_DATAGRAM,
    client::{Client, Config, Output, RequestId},
    message::{Command, Ice, Outcome, Reply, Request},
};

use super::super::Error;
use crate::launcher::{clock, wait_for};

/// Calls that are set up at a time.
const WINDOW: usize = 8;

/// A relay that is busy for so long has lost the request.
const ATTEMPT: Duration = Duration::from_secs(2);
const RESEND: Duration = Duration::from_millis(500);

/// How long a relay may take until it answers at all.
const START: Duration = Duration::from_secs(20);

/// A call at a relay: what the relay was told, and the ends that the phones of the call then have.
#[derive(Clone, Debug)]
pub(super) struct Call {
    id: String,
    pub(super) ends: [End; 2],
}

pub(super) struct Control {
    socket: UdpSocket,
    relay: SocketAddr,
    client: Client,
    /// Calls so far.
    serial: u64,
}

/// A call that is being set up.
struct Pending {
    id: String,
    /// Number and address of the port of either phone.
    ports: [(usize, SocketAddr); 2],
    /// Where the callee sends to, once the relay has said it.
    callee_remote: Option<SocketAddr>,
}

impl Control {
    /// Asks `relay` from the address `own`; returns when it answers.
    pub(super) fn connect(own: IpAddr, relay: SocketAddr) -> Result<Self, Error> {
        let socket = UdpSocket::bind((own, 0))?;
        let config = Config { attempt: ATTEMPT, resend: RESEND, outstanding: 4 * WINDOW };
        let client = Client::new(config, fastrand::u64(..));
        let control = Self { socket, relay, client, serial: 0 };
        let answers = wait_for(START, || {
            control.socket.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
            control.socket.send_to(&Request::new(Command::Ping).encode(b"ping"), relay).ok()?;
            let mut answer = [0; 64];
            control.socket.recv(&mut answer).ok()
        });
        match answers {
            Some(_) => Ok(control),
            None => Err(Error::Service(format!("the relay at {relay} does not answer"))),
        }
    }

    /// Sets up calls, each between two ports of `media`.
    pub(super) fn set_up(&mut self, media: &Media, count: usize) -> Result<Vec<Call>, Error> {
        let mut calls = Vec::with_capacity(count);
        let mut pending = HashMap::<RequestId, Pending>::new();
        let mut begun = 0;
        while calls.len() < count {
            while begun < count && pending.len() < WINDOW {
                begun += 1;
                self.serial += 1;
                let id = format!("figures-{}-{}", std::process::id(), self.serial);
                let call = Pending { id, ports: [media.port(), media.port()], callee_remote: None };
                let offer = sdp::offer(call.ports[0].1);
                let asked = self.ask(Command::Offer, &call.id, &offer)?;
                pending.insert(asked, call);
            }
            let (request, body) = self.answer()?;
            let Some(mut call) = pending.remove(&request) else { continue };
            let remote = self.told(&body)?;
            match call.callee_remote {
                None => {
                    call.callee_remote = Some(remote);
                    let answer = sdp::offer(call.ports[1].1);
                    let asked = self.ask(Command::Answer, &call.id, &answer)?;
                    pending.insert(asked, call);
                }
                Some(callee) => {
                    let [(a, _), (b, _)] = call.ports;
                    let ends = [End { port: a, remote }, End { port: b, remote: callee }];
                    calls.push(Call { id: call.id, ends });
                }
            }
        }
        Ok(calls)
    }

    /// Takes calls down.
    pub(super) fn delete(&mut self, calls: &[Call]) -> Result<(), Error> {
        let mut calls = calls.iter();
        let mut pending = 0;
        loop {
            while pending < WINDOW
                && let Some(call) = calls.next()
            {
                let mut request = Request::new(Command::Delete);
                request.call_id = Some(call.id.as_bytes());
                request.from_tag = Some(b"caller");
                request.delete_delay = Some(0);
                self.request(&request)?;
                pending += 1;
            }
            if pending == 0 {
                return Ok(());
            }
            self.answer()?;
            pending -= 1;
        }
    }

    /// As our proxy asks: addresses and ports replaced, nothing about ICE.
    fn ask(&mut self, command: Command<'_>, id: &str, sdp: &str) -> Result<RequestId, Error> {
        let mut request = Request::new(command);
        request.call_id = Some(id.as_bytes());
        request.from_tag = Some(b"caller");
        request.to_tag = (command == Command::Answer).then_some(b"callee");
        request.sdp = Some(sdp.as_bytes());
        request.ice = Some(Ice::Remove);
        request.replace.origin = true;
        request.replace.session_connection = true;
        request.flags.trust_address = Some(true);
        self.request(&request)
    }

    fn request(&mut self, request: &Request<'_>) -> Result<RequestId, Error> {
        let asked = self.client.request(clock(), self.relay, request);
        self.send()?;
        // No more than WINDOW are under way.
        asked.ok_or_else(|| Error::Service("too many requests are under way".to_owned()))
    }

    /// The next answer.
    fn answer(&mut self) -> Result<(RequestId, Vec<u8>), Error> {
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            if let Some(answered) = self.send()? {
                return Ok(answered);
            }
            let deadline = self.client.next_deadline().unwrap_or_else(|| clock() + ATTEMPT);
            let wait = deadline.saturating_duration_since(clock()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(wait))?;
            match self.socket.recv_from(&mut datagram) {
                Ok((length, from)) => {
                    self.client.handle_datagram(clock(), from, &datagram[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.client.handle_timeout(clock());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what is to be sent, up to the first answer.
    fn send(&mut self) -> Result<Option<(RequestId, Vec<u8>)>, Error> {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Send { to, datagram } => {
                    self.socket.send_to(&datagram, to)?;
                }
                Output::Answered { id, body, .. } => return Ok(Some((id, body))),
                Output::Expired { to, .. } => {
                    return Err(Error::Service(format!("the relay at {to} does not answer")));
                }
            }
        }
        Ok(None)
    }

    /// Where the SDP of an answer wants audio to be sent.
    fn told(&self, body: &[u8]) -> Result<SocketAddr, Error> {
        let refused = |why: &dyn std::fmt::Display| {
            Error::Service(format!("the relay at {} refuses a call: {why}", self.relay))
        };
        let reply = Reply::decode(body).map_err(|error| refused(&error))?;
        if reply.outcome != Outcome::Ok {
            return Err(refused(&format!("{:?}", reply.outcome)));
        }
        let sdp = reply.sdp().map(String::from_utf8_lossy);
        let remote = sdp.as_deref().and_then(sdp::audio);
        remote.ok_or_else(|| refused(&"no address in its answer"))
    }
}
