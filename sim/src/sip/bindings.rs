//! Phones that bind and remove several contacts, one request after the other, and remember what they were told.

use std::time::Duration;

use dialtone_sip::{HeaderName, Message, Method};

use super::phone::{Effect, Phone, Token};

/// Contacts of one phone.
pub(crate) const CONTACTS: usize = 3;
const DOMAIN: &str = "dialtone.test";
/// A proxy gives up after 4 s; the one that is asked in place of another that died may do the same.
const PATIENCE: Duration = Duration::from_millis(13_000);

/// What a REGISTER asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(usize),
    Remove(usize),
    RemoveAll,
}

impl Change {
    /// Whether a contact is bound afterwards; `None` if this is not about it.
    fn binds(self, contact: usize) -> Option<bool> {
        match self {
            Self::Add(number) => (number == contact).then_some(true),
            Self::Remove(number) => (number == contact).then_some(false),
            Self::RemoveAll => Some(false),
        }
    }
}

/// A request and what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    cseq: u32,
    pub(crate) change: Change,
    /// The final answer.
    code: Option<u16>,
}

impl Phone {
    pub(crate) fn nth_contact(&self, number: usize) -> String {
        let transport = if self.tcp { ";transport=tcp" } else { "" };
        format!("sip:{}-{number}@{}{transport}", self.user, self.local)
    }

    /// Asks for a change of its bindings, at once or when it knows what became of the former one.
    pub(crate) fn change_bindings(&mut self, now: Duration, change: Change) {
        if self.is_registering() {
            return self.wanted.push_back(change);
        }
        let (contact, expires) = match change {
            Change::Add(number) => (format!("<{}>", self.nth_contact(number)), "3600"),
            Change::Remove(number) => (format!("<{}>", self.nth_contact(number)), "0"),
            Change::RemoveAll => ("*".to_owned(), "0"),
        };
        if let Some(cseq) = self.send_register(now, &contact, expires) {
            self.asked.push(Asked { cseq, change, code: None });
        }
    }

    /// Sends a REGISTER, unless one is under way (RFC 3261 section 10.2); its CSeq.
    pub(crate) fn send_register(
        &mut self,
        now: Duration,
        contact: &str,
        expires: &str,
    ) -> Option<u32> {
        if self.is_registering() {
            return None;
        }
        self.register_cseq += 1;
        let cseq = self.register_cseq;
        let aor = format!("<sip:{}@{DOMAIN}>", self.user);
        let (branch, builder) = self.start(Method::Register, &format!("sip:{DOMAIN}"));
        let bytes = builder
            .header("From", &format!("{aor};tag=r{}", self.name))
            .header("To", &aor)
            .header("Call-ID", &format!("register-{}", self.name))
            .header("CSeq", &format!("{cseq} REGISTER"))
            .header("Contact", contact)
            .header("Expires", expires)
            .build();
        self.send_request(now, &format!("register{cseq}"), branch, bytes);
        Some(cseq)
    }

    /// The final answer to a REGISTER.
    pub(crate) fn registered(
        &mut self,
        now: Duration,
        took: Duration,
        cseq: u32,
        code: u16,
        answer: &Message,
    ) {
        let retry_after = answer.header_str(HeaderName::RetryAfter);
        if !(code == 200 || code == 503 && retry_after.is_some()) {
            self.wrong(format!("REGISTER {cseq} is answered {code}, Retry-After {retry_after:?}"));
        }
        if took > PATIENCE {
            self.wrong(format!("REGISTER {cseq} is answered {code} after {took:?}"));
        }
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.cseq == cseq) else { return };
        asked.code = Some(code);
        let change = asked.change;
        if code == 200 {
            let told: Vec<String> = answer
                .values(HeaderName::Contact)
                .flatten()
                .map(|value| value.text.to_owned())
                .collect();
            let told: Vec<&str> = told
                .iter()
                .map(|text| text.trim_start_matches('<').split('>').next().unwrap_or_default())
                .collect();
            if let Some(fault) = self.differs(change, &told) {
                self.wrong(format!("the answer to REGISTER {cseq}: {fault}"));
            }
        }
        if let Some(change) = self.wanted.pop_front() {
            self.effects.push(Effect::Timer {
                at: now + Duration::from_millis(1),
                token: Token::Change(change),
            });
        }
    }

    /// How these contacts differ from what a change that was just carried out leaves.
    pub(crate) fn differs(&self, change: Change, contacts: &[&str]) -> Option<String> {
        (0..CONTACTS).find_map(|number| {
            let binds = change.binds(number)?;
            let bound = contacts.contains(&&*self.nth_contact(number));
            let not = if binds { "not " } else { "" };
            (bound != binds)
                .then(|| format!("{} {number} is {not}bound after {change:?}", self.name))
        })
    }

    /// How the bindings that are there when all is quiet differ from what the phone was told: the last change that was
    /// acknowledged counts, or one after it whose outcome it does not know. None before it may.
    pub(crate) fn misled(&self, contacts: &[String]) -> Vec<String> {
        let faults = (0..CONTACTS).filter_map(|number| {
            let about: Vec<(bool, bool)> = self
                .asked
                .iter()
                .filter_map(|asked| Some((asked.change.binds(number)?, asked.code == Some(200))))
                .collect();
            let from = about.iter().rposition(|(_, acknowledged)| *acknowledged);
            let mut possible: Vec<bool> =
                about[from.unwrap_or(0)..].iter().map(|(binds, _)| *binds).collect();
            if from.is_none() {
                possible.push(false);
            }
            let bound = contacts.contains(&self.nth_contact(number));
            let is = if bound { "bound" } else { "not bound" };
            (!possible.contains(&bound)).then(|| format!("{} {number} is {is}", self.name))
        });
        faults.collect()
    }
}
