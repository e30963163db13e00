//! A guest: a phone made of text that calls rooms.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    line::{Line, RATE, level},
    rtp::audio,
    sip::{Dialog, Phone, Sip},
};

/// Frames that are judged together: a second.
const FRAMES: u32 = 50;
const FRAME: Duration = Duration::from_millis(20);

/// Seconds that it may take until everybody hears the others.
const PATIENCE: usize = 15;

/// In a second of sound: a tone that is there, and one that is not.
const LOUD: f64 = 2_000.0;
const QUIET: f64 = 500.0;

/// A phone and its audio.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) phone: Phone,
    pub(crate) line: Line,
    /// Where it is.
    pub(crate) room: String,
    pub(crate) dialog: Option<Dialog>,
}

impl Guest {
    /// Registered at a gateway.
    pub(crate) fn new(user: &str, address: IpAddr, gateway: SocketAddr, hertz: u32) -> Self {
        let mut phone = Phone::new(user, UdpSocket::bind((address, 0)).unwrap(), gateway);
        phone.register();
        Self { phone, line: Line::new(address, hertz), room: String::new(), dialog: None }
    }

    /// Calls a room and is let in; how long that took.
    pub(crate) fn join(&mut self, room: &str) -> Duration {
        let invite = self.invitation(room, &self.line.sdp(""));
        let began = clock();
        self.phone.send(&invite);
        let answer = self.answered(&invite);
        let took = began.elapsed();
        assert_eq!(answer.status(), 200, "{} calls {room}: {}", self.phone.user, answer.start());
        self.seated(room, &answer);
        took
    }

    /// An INVITE for a room.
    pub(crate) fn invitation(&mut self, room: &str, sdp: &str) -> String {
        let headers = format!("{}Content-Type: application/sdp\r\n", self.phone.contact());
        self.phone.request("INVITE", &format!("sip:conf-{room}@dialtone.test"), &headers, sdp)
    }

    /// The final answer to an INVITE; it is acknowledged.
    pub(crate) fn answered(&mut self, invite: &str) -> Sip {
        let is_ours =
            |answer: &Sip| answer.status() >= 200 && invite.contains(answer.value("Call-ID"));
        let answer = self.phone.expect("a final answer", is_ours);
        acknowledge(&mut self.phone, invite, &answer);
        answer
    }

    /// It is in a room by this answer.
    pub(crate) fn seated(&mut self, room: &str, answer: &Sip) {
        room.clone_into(&mut self.room);
        self.line.connect(audio(answer.body()));
        self.dialog = Some(Dialog::new(answer));
        assert!(answer.value("Contact").contains(";isfocus"), "{}", answer.value("Contact"));
    }

    /// A new offer in the call.
    pub(crate) fn offer(&mut self, attributes: &str) {
        let dialog = self.dialog.clone().expect("a call");
        let again = dialog.request(&mut self.phone, "INVITE", &dialog.routes);
        let (head, _) = again.split_once("Content-Length: 0").unwrap();
        let sdp = self.line.sdp(attributes);
        let again = format!(
            "{head}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        let answer = self.phone.ask(&again);
        assert_eq!(answer.status(), 200, "{}", answer.start());
        let transaction = Dialog { cseq: Dialog::new(&answer).cseq, ..dialog };
        let ack = transaction.request(&mut self.phone, "ACK", &transaction.routes);
        self.phone.send(&ack);
        self.line.connect(audio(answer.body()));
    }

    /// Leaves in order; nobody else has sent anything meanwhile.
    pub(crate) fn leave(&mut self) {
        assert_eq!(self.hang_up(), 200, "{} hangs up", self.phone.user);
        assert_eq!(self.line.strays, 0, "packets for {}", self.phone.user);
    }

    /// Leaves; the status of the answer.
    pub(crate) fn hang_up(&mut self) -> u16 {
        let dialog = self.dialog.take().expect("a call");
        let bye = dialog.request(&mut self.phone, "BYE", &dialog.routes);
        self.phone.ask(&bye).status()
    }

    /// The server hangs up.
    pub(crate) fn is_hung_up(&mut self) {
        let bye = self.phone.expect("a BYE", |message| message.is("BYE"));
        let dialog = self.dialog.take().expect("a call");
        assert_eq!(bye.value("Call-ID"), dialog.call_id);
        self.phone.answer(&bye, "200 OK", "", "");
    }
}

/// The ACK of a final answer to an INVITE of this phone.
pub(crate) fn acknowledge(phone: &mut Phone, invite: &str, answer: &Sip) {
    if answer.status() < 300 {
        let dialog = Dialog::new(answer);
        let ack = dialog.request(phone, "ACK", &dialog.routes);
        return phone.send(&ack);
    }
    // RFC 3261 section 17.1.1.3: as the INVITE, with the tag of the answer.
    let (first, rest) = invite.split_once("\r\n").unwrap();
    let uri = first.split(' ').nth(1).unwrap();
    let of_invite = |name: &str| {
        let line = rest.split("\r\n").find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {invite}")).to_owned()
    };
    let [via, from, call_id, cseq] = ["Via:", "From:", "Call-ID:", "CSeq:"].map(of_invite);
    phone.send(&format!(
        "ACK {uri} SIP/2.0\r\n{via}\r\nMax-Forwards: 70\r\n{from}\r\nTo: {}\r\n{call_id}\r\n{}\r\nContent-Length: 0\r\n\r\n",
        answer.value("To"),
        cseq.replace("INVITE", "ACK"),
    ));
}

/// All play their tones until everybody has heard all others of his room, and nothing else of what is played, for a
/// second. `disturb` is called every 20 ms; nobody may hear the tones of `strangers`.
pub(crate) fn hear(guests: &mut [Guest], strangers: &[u32], mut disturb: impl FnMut(&mut [Guest])) {
    for guest in &mut *guests {
        guest.line.listen();
        guest.line.take_heard();
    }
    let mut last = String::new();
    for second in 0..PATIENCE {
        let begin = clock();
        for frame in 1..=FRAMES {
            for guest in &mut *guests {
                guest.line.play();
                guest.line.listen();
            }
            disturb(guests);
            sleep((begin + FRAME * frame).saturating_duration_since(clock()));
        }
        let heard: Vec<Vec<i16>> = guests.iter_mut().map(|guest| guest.line.take_heard()).collect();
        let mut missing = Vec::new();
        for (guest, heard) in guests.iter().zip(&heard) {
            for other in &*guests {
                let level = level(heard, other.line.hertz);
                let is_other = other.line.hertz != guest.line.hertz && other.room == guest.room;
                let names = [&guest.phone.user, &other.phone.user];
                if is_other && (level < LOUD || heard.len() < RATE * 9 / 10) {
                    missing.push((names, level, heard.len()));
                }
                assert!(is_other || level < QUIET, "{names:?} in second {second}: {level:.0}");
            }
            for hertz in strangers {
                let level = level(heard, *hertz);
                assert!(level < QUIET, "{} hears {hertz} Hz: {level:.0}", guest.phone.user);
            }
        }
        if missing.is_empty() {
            return;
        }
        last = format!("{missing:?}");
    }
    panic!("who does not hear whom: {last}");
}

#[expect(clippy::disallowed_methods, reason = "phones live in real time")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}
