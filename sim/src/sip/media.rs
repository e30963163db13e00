//! Where phones send media: to each other's ports at one relay, in one call of it.

use std::time::Duration;

use dialtone_sip::{HeaderName, Message};

use super::phone::Phone;
use super::world::World;

/// A session description with one audio stream.
pub(crate) fn description(ip: &str, port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    )
}

/// Address and port in the description of a message, if it has one.
pub(crate) fn address_in(message: &Message) -> Option<String> {
    let text = std::str::from_utf8(message.body()).ok()?;
    let ip = text.split_once("c=IN IP4 ")?.1.split("\r\n").next()?;
    let port = text.split_once("m=audio ")?.1.split(' ').next()?;
    Some(format!("{ip}:{port}"))
}

pub(crate) fn values(message: &Message, name: HeaderName) -> Vec<String> {
    message.values(name).flatten().map(|value| value.text.to_owned()).collect()
}

/// The URI of the first Contact.
pub(crate) fn target(message: &Message) -> String {
    let contact = message.contacts().next().and_then(Result::ok);
    contact.and_then(|contact| Some(contact.addr()?.uri.as_str().to_owned())).unwrap_or_default()
}

impl Phone {
    pub(super) fn sdp(&self) -> String {
        description(&self.local.ip().to_string(), self.local.port() + 1000)
    }

    pub(super) fn note_media(&mut self, call: &str, message: &Message) {
        if let Some(address) = address_in(message) {
            self.remote_media.insert(call.to_owned(), address);
        }
    }
}

impl World {
    /// Looks at an established call between two phones when all is over: where they were told to send, and whether relays
    /// know that it has ended.
    pub(crate) fn check_media(&mut self, call: &str, phones: [usize; 2]) {
        if self.relays.is_empty() || phones.iter().any(|phone| self.phones[*phone].lost) {
            return;
        }
        let told = phones.map(|phone| self.phones[phone].remote_media.get(call).cloned());
        let [Some(one), Some(other)] = told else { return };
        let began = self.phones[phones[0]].began(call).unwrap_or_default();
        let trouble = self.had_relay_trouble(began, began + Duration::from_secs(30));
        if trouble {
            return;
        }
        let fault = match (self.port_of(&one), self.port_of(&other)) {
            (Some((relay, its, whose)), Some((second, other_call, others))) => {
                let opposite = whose
                    .split_once(' ')
                    .zip(others.split_once(' '))
                    .is_some_and(|((one, tag), (other, same))| one != other && tag == same);
                (relay != second || its != call || other_call != call || !opposite)
                    .then(|| format!("{one} ({its} {whose}) and {other} ({other_call} {others})"))
            }
            _ => Some(format!("{one} and {other}, which are no relay's")),
        };
        if let Some(fault) = fault {
            self.wrong("media", format!("{call} has {fault}"));
        }
    }

    /// When all calls are over, no relay may have one that was answered and not ended.
    pub(crate) fn check_relays(&mut self) {
        let trouble = self.had_relay_trouble(Duration::ZERO, self.now);
        let left = self.calls_of_relays();
        for (relay, call) in left.into_iter().filter(|_| !trouble) {
            let deleted =
                if self.is_ended_at_relay(&call) { "ended elsewhere" } else { "never ended" };
            self.wrong("media", format!("relay{relay} still has {call}, {deleted}"));
        }
    }
}
