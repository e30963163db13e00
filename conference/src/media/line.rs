//! One participant's line: where its packets come from, and where ours go. Decides without IO.

use std::net::{IpAddr, SocketAddr};

/// A stream that was silent for so many ticks may go on from another address: a NAT has forgotten it.
const MOVED: u64 = 100;

/// Whose an RTP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The line's, as before.
    Ours,
    /// The line's, which was another address's until now. What that one has sent is a stranger's, or out of date.
    OursInstead,
    Stranger,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Where the other side says that it is.
    said: Option<SocketAddr>,
    said_rtcp: Option<SocketAddr>,
    pub(super) mux: bool,
    /// Where its packets come from.
    found: Option<SocketAddr>,
    found_rtcp: Option<SocketAddr>,
    ssrc: u32,
    /// Tick of the last packet.
    heard: u64,
    /// Packets from elsewhere.
    pub(super) strangers: u64,
}

impl Line {
    /// What signalling says. Another address opens the line for whoever comes first.
    pub(super) fn set(&mut self, rtp: Option<SocketAddr>, rtcp: Option<SocketAddr>, mux: bool) {
        if self.said != rtp {
            (self.found, self.found_rtcp) = (None, None);
        }
        (self.said, self.said_rtcp, self.mux) = (rtp, rtcp, mux);
    }

    /// Whose an RTP packet from this address, with this source, is. The first one fixes the address, behind whatever
    /// NAT; the very one that was signalled, or one of the same host, may still take its place.
    pub(super) fn takes(&mut self, from: SocketAddr, ssrc: u32, tick: u64) -> Whose {
        let mut whose = Whose::Ours;
        if self.found != Some(from) {
            let is_better = self.found.is_none_or(|found| self.rank(from) > self.rank(found));
            let has_moved = self.ssrc == ssrc && tick.saturating_sub(self.heard) >= MOVED;
            if !is_better && !has_moved {
                self.strangers += 1;
                return Whose::Stranger;
            }
            if self.found.replace(from).is_some() {
                whose = Whose::OursInstead;
            }
            self.found_rtcp = None;
        }
        (self.ssrc, self.heard) = (ssrc, tick);
        whose
    }

    fn rank(&self, address: SocketAddr) -> u8 {
        let ip = self.said.map(|said| said.ip());
        u8::from(self.said == Some(address)) + u8::from(ip == Some(address.ip()))
    }

    /// Whether an RTCP packet from this address belongs to the line: one from the host that speaks, or that was
    /// signalled.
    pub(super) fn takes_rtcp(&mut self, from: SocketAddr) -> bool {
        let hosts: [Option<IpAddr>; 2] =
            [self.found.map(|found| found.ip()), self.said_rtcp.map(|said| said.ip())];
        if !hosts.contains(&Some(from.ip())) {
            self.strangers += 1;
            return false;
        }
        self.found_rtcp = Some(from);
        true
    }

    /// Where its packets come from.
    pub(super) fn found(&self) -> Option<SocketAddr> {
        self.found
    }

    /// Where RTP goes.
    pub(super) fn rtp(&self) -> Option<SocketAddr> {
        // Who is on hold by an address of zero hears nothing.
        self.said.and(self.found.or(self.said))
    }

    /// Where RTCP goes.
    pub(super) fn rtcp(&self) -> Option<SocketAddr> {
        if self.mux { self.rtp() } else { self.said_rtcp.and(self.found_rtcp.or(self.said_rtcp)) }
    }
}

/// Datagrams that are taken from a line at a turn. What is more waits in the socket's buffer, or is lost there.
const MOST: u8 = 32;
/// Turns at which a line is asked for one frame only, after one at which it had just that.
const BRIEF: u8 = 9;

/// How often a line's socket is asked at a turn. Most of the time there is one packet: so most of the time the line is not
/// asked whether there is another one. What came too early waits for some turns; it is not late then, as it takes the turn
/// that the packet before it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asking {
    /// Turns for which one frame is enough.
    brief: u8,
    /// At this turn.
    taken: u8,
}

impl Asking {
    /// A datagram came, which may be a frame: all that a turn needs. Whether the socket is asked once more.
    pub(super) fn goes_on(&mut self, is_frame: bool) -> bool {
        self.taken += 1;
        if is_frame && self.brief > 0 {
            (self.brief, self.taken) = (self.brief - 1, 0);
            return false;
        }
        if self.taken >= MOST {
            *self = Self::default();
            return false;
        }
        true
    }

    /// Nothing more is there.
    pub(super) fn end(&mut self) {
        let brief = if self.taken == 1 { BRIEF } else { 0 };
        *self = Self { brief, taken: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::Whose::{Ours, OursInstead, Stranger};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn the_first_one_counts_unless_a_better_one_comes() {
        let said = address("192.0.2.1:4000");
        let mut line = Line::default();
        line.set(Some(said), Some(address("192.0.2.1:4001")), false);
        assert_eq!(line.rtp(), Some(said), "before anything has come");
        let (nat, stranger) = (address("198.51.100.1:999"), address("203.0.113.1:1"));
        assert_eq!([1, 2].map(|tick| line.takes(nat, 1, tick)), [Ours; 2]);
        assert_eq!(line.takes(stranger, 1, 3), Stranger, "even if it knows the source");
        assert_eq!(line.rtp(), Some(nat));
        // The same host by another port, then the very address.
        let host = address("192.0.2.1:7777");
        assert_eq!(
            [host, nat, host].map(|from| line.takes(from, 1, 4)),
            [OursInstead, Stranger, Ours]
        );
        assert_eq!(
            [said, host, said].map(|from| line.takes(from, 1, 5)),
            [OursInstead, Stranger, Ours]
        );
        assert_eq!((line.rtp(), line.strangers), (Some(said), 3));
    }

    #[test]
    fn a_stream_may_move_after_silence_and_others_may_not() {
        let mut line = Line::default();
        line.set(Some(address("10.0.0.1:4000")), None, true);
        let (before, after) = (address("198.51.100.1:999"), address("198.51.100.1:1000"));
        assert_eq!(line.takes(before, 7, 10), Ours);
        assert_eq!(line.takes(after, 7, 10 + MOVED - 1), Stranger);
        assert_eq!(line.takes(after, 8, 10 + 2 * MOVED), Stranger, "another source");
        assert_eq!(line.takes(after, 7, 10 + 2 * MOVED), OursInstead);
        assert_eq!((line.rtp(), line.rtcp()), (Some(after), Some(after)));
        // The same description again changes nothing, another one opens the line.
        line.set(Some(address("10.0.0.1:4000")), None, true);
        assert_eq!(line.takes(before, 7, 211), Stranger);
        line.set(Some(address("10.0.0.1:4002")), None, true);
        assert_eq!(line.takes(before, 7, 212), Ours);
        line.set(None, None, true);
        assert_eq!(line.rtp(), None, "on hold");
    }

    #[test]
    fn reports_come_from_the_host_that_speaks() {
        let mut line = Line::default();
        line.set(Some(address("10.0.0.1:4000")), Some(address("10.0.0.1:4001")), false);
        let rtp = address("198.51.100.1:999");
        assert!(!line.takes_rtcp(address("198.51.100.1:1000")));
        assert_eq!(line.takes(rtp, 7, 1), Ours);
        assert_eq!(line.rtcp(), Some(address("10.0.0.1:4001")));
        assert!(line.takes_rtcp(address("198.51.100.1:1000")));
        assert_eq!(line.rtcp(), Some(address("198.51.100.1:1000")));
        assert!(!line.takes_rtcp(address("203.0.113.1:1000")));
    }

    /// A sender whose packets come at these turns; `true` is a frame. Returns how many calls it took, and how many packets
    /// were waiting after each turn.
    fn ask(turns: &[&[bool]]) -> (usize, Vec<usize>) {
        let (mut asking, mut waiting) = (Asking::default(), std::collections::VecDeque::new());
        let mut calls = 0;
        let left = turns.iter().map(|come| {
            waiting.extend(*come);
            loop {
                calls += 1;
                match waiting.pop_front() {
                    None => asking.end(),
                    Some(is_frame) if asking.goes_on(is_frame) => continue,
                    Some(_) => {}
                }
                break waiting.len();
            }
        });
        let left = left.collect();
        (calls, left)
    }

    #[test]
    fn a_steady_line_is_asked_once_a_turn_and_no_packet_waits_for_long() {
        assert_eq!(ask(&[&[true][..]; 100]), (110, vec![0; 100]));
        // Two at a turn: nothing ever waits.
        assert_eq!(ask(&[&[true, true][..]; 100]).1, [0; 100]);
        // What is no frame, such as a key, a stranger's packet or 10 ms of sound, never ends a turn.
        assert_eq!(ask(&[&[false, true][..]; 100]).1, [0; 100]);
        assert_eq!(ask(&[&[false][..]; 100]).1, [0; 100]);
        // One more comes: it waits until the line is asked thoroughly, or was empty.
        let mut turns = vec![&[true][..]; 30];
        turns[13] = &[true, true];
        let (_, left) = ask(&turns);
        assert_eq!((left[..13].iter().max(), left[13], left[20]), (Some(&0), 1, 0), "{left:?}");
        turns[14] = &[];
        assert_eq!(ask(&turns).1[14..], [0; 16]);
        // A burst after a pause is taken at once.
        turns[20] = &[];
        turns[21] = &[true; 5];
        assert_eq!(ask(&turns).1[21], 0);
        // A flood is taken in pieces.
        let flood = [false; 100];
        assert_eq!(ask(&[&flood, &[], &[], &[]]).1, [68, 36, 4, 0]);
    }
}
