//! What was sent and what arrived, and whether that was allowed.
//!
//! A line is one side of an association. The first message on it, each way, names the line that sent it; so sides
//! find each other without a look into the stack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{AssocId, DownCause, NetEvent};

const HELLO: usize = 12;

pub(super) struct Line {
    pub(super) host: usize,
    pub(super) id: AssocId,
    pub(super) up: bool,
    pub(super) down: Option<DownCause>,
    /// The process was killed.
    pub(super) lost: bool,
    /// This side has asked for the end; `Some(true)`: in order, whatever it asked for later.
    pub(super) asked: Option<bool>,
    /// Lengths of what was sent; the contents follow from line and index.
    pub(super) sent: Vec<usize>,
    pub(super) arrived: usize,
    pub(super) partner: Option<usize>,
    /// When something must have happened at the latest, and what: Up or Down after a dial, Down otherwise.
    pub(super) due: Option<(Instant, &'static str)>,
}

impl Line {
    pub(super) fn open(&self) -> bool {
        !self.lost && self.down.is_none()
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) lines: Vec<Line>,
    by_id: BTreeMap<(usize, u64, AssocId), usize>,
    pub(super) messages: u64,
    pub(super) ups: u64,
    pub(super) suspects: u64,
    pub(super) timed_out: u64,
}

pub(super) fn payload(line: usize, index: usize, size: usize) -> Vec<u8> {
    if index == 0 {
        let mut hello = b"line".to_vec();
        hello.extend((line as u64).to_be_bytes());
        return hello;
    }
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed((line as u64) << 32 | index as u64).fill(&mut bytes);
    bytes
}

impl Ledger {
    pub(super) fn open(&mut self, host: usize, life: u64, id: AssocId) -> usize {
        let line = self.lines.len();
        self.lines.push(Line {
            host,
            id,
            up: false,
            down: None,
            lost: false,
            asked: None,
            sent: Vec::new(),
            arrived: 0,
            partner: None,
            due: None,
        });
        assert!(self.by_id.insert((host, life, id), line).is_none(), "{id:?} was used before");
        line
    }

    /// Notes an event; the line when it has just come up.
    pub(super) fn event(&mut self, host: usize, life: u64, event: &NetEvent) -> Option<usize> {
        let (NetEvent::Up { assoc, .. }
        | NetEvent::Message { assoc, .. }
        | NetEvent::Suspect { assoc }
        | NetEvent::Moved { assoc, .. }
        | NetEvent::Down { assoc, .. }) = *event;
        let known = self.by_id.get(&(host, life, assoc)).copied();
        let accepted = known.is_none() && matches!(event, NetEvent::Up { .. });
        let index = if accepted {
            self.open(host, life, assoc)
        } else {
            known.unwrap_or_else(|| panic!("{event:?} of an unknown association"))
        };
        let line = &mut self.lines[index];
        assert!(line.down.is_none(), "line {index}: {event:?} after Down");
        match event {
            NetEvent::Up { .. } => {
                assert!(!line.up, "line {index} came up twice");
                line.up = true;
                if line.asked.is_none() {
                    line.due = None;
                }
                self.ups += 1;
                return Some(index);
            }
            NetEvent::Message { payload, .. } => {
                assert!(line.up, "line {index}: message before Up");
                self.message(index, payload);
            }
            NetEvent::Suspect { .. } => {
                assert!(line.up, "line {index}: suspected before Up");
                self.suspects += 1;
            }
            NetEvent::Moved { .. } => assert!(line.up, "line {index} moved before Up"),
            NetEvent::Down { cause, .. } => self.down(index, *cause),
        }
        None
    }

    fn message(&mut self, index: usize, bytes: &[u8]) {
        let arrived = self.lines[index].arrived;
        if arrived == 0 {
            let (magic, partner) = bytes.split_at_checked(4).expect("a hello");
            assert!(bytes.len() == HELLO && magic == b"line", "line {index}: not a hello");
            let partner = u64::from_be_bytes(*partner.first_chunk().unwrap()) as usize;
            if let Some(mine) = self.lines[index].partner {
                assert_eq!(mine, partner, "line {index} hears two lines");
            }
            let theirs = self.lines[partner].partner;
            assert!(theirs.is_none_or(|theirs| theirs == index), "line {partner} is heard by two");
            self.lines[index].partner = Some(partner);
            self.lines[partner].partner = Some(index);
        }
        let partner = self.lines[index].partner.expect("the first message has set it");
        let sent = &self.lines[partner].sent;
        let size = *sent.get(arrived).unwrap_or_else(|| panic!("line {index}: more than was sent"));
        assert!(
            bytes == payload(partner, arrived, size),
            "line {index}: message {arrived} of line {partner} is not what was sent ({size} bytes, {} arrived)",
            bytes.len()
        );
        self.lines[index].arrived += 1;
        self.messages += 1;
    }

    fn down(&mut self, index: usize, cause: DownCause) {
        let line = &mut self.lines[index];
        line.down = Some(cause);
        line.due = None;
        let partner = line.partner;
        match cause {
            DownCause::Local => assert!(line.asked.is_some(), "line {index} ended by itself"),
            DownCause::TimedOut => self.timed_out += 1,
            DownCause::Closed => {
                if let Some(partner) = partner {
                    let partner_line = &self.lines[partner];
                    assert_eq!(partner_line.asked, Some(true), "line {index} was not shut down");
                    let sent = partner_line.sent.len();
                    let arrived = self.lines[index].arrived;
                    assert_eq!(arrived, sent, "line {index}: shut down before all had arrived");
                }
            }
            DownCause::Aborted | DownCause::Unreachable => (),
        }
    }

    /// Sends are only noted here while the association is up and has not been told to end.
    pub(super) fn send(&mut self, index: usize, size: usize) -> Option<Vec<u8>> {
        let line = &mut self.lines[index];
        if !line.open() || !line.up || line.asked.is_some() {
            return None;
        }
        let size = if line.sent.is_empty() { HELLO } else { size };
        line.sent.push(size);
        Some(payload(index, line.sent.len() - 1, size))
    }

    pub(super) fn killed(&mut self, host: usize, due: Instant) {
        for index in 0..self.lines.len() {
            if self.lines[index].host != host || !self.lines[index].open() {
                continue;
            }
            self.lines[index].lost = true;
            self.lines[index].due = None;
            let Some(partner) = self.lines[index].partner else { continue };
            let partner = &mut self.lines[partner];
            if partner.open() && partner.due.is_none_or(|(other, _)| due < other) {
                partner.due = Some((due, "notices that its peer is dead"));
            }
        }
    }

    pub(super) fn postpone(&mut self, host: usize, by: Duration) {
        for line in self.lines.iter_mut().filter(|line| line.host == host) {
            if let Some((due, _)) = &mut line.due {
                *due += by;
            }
        }
    }

    pub(super) fn check_due(&self, now: Instant, frozen: impl Fn(usize) -> bool) {
        for (index, line) in self.lines.iter().enumerate() {
            if let Some((due, what)) = line.due
                && !frozen(line.host)
            {
                assert!(now < due, "line {index} {what}: too late");
            }
        }
    }

    pub(super) fn all_up(&self) -> Vec<usize> {
        (0..self.lines.len())
            .filter(|line| self.lines[*line].open() && self.lines[*line].up)
            .collect()
    }

    pub(super) fn check_up(&self, index: usize) {
        let line = &self.lines[index];
        assert!(
            line.up && line.open(),
            "line {index}: dialled over a healthy network: {:?}",
            line.down
        );
    }
}
