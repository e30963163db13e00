//! The audio of a phone made of text: it plays a tone in 20 ms packets of G.711 μ-law and records what it hears.

use std::{
    f64::consts::TAU,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use crate::tone;

/// Samples per second, and in 20 ms.
pub(crate) const RATE: usize = 8_000;
const SAMPLES: usize = 160;

/// The largest sample of what is played; three of them together are not too loud.
const AMPLITUDE: f64 = 4_000.0;

/// Payload types as offered.
pub(crate) const MU_LAW: u8 = 0;
pub(crate) const EVENTS: u8 = 101;

/// RTP at an even port; nobody reads the RTCP at the next one.
#[derive(Debug)]
pub(crate) struct Line {
    rtp: UdpSocket,
    _rtcp: UdpSocket,
    /// What it plays.
    pub(crate) hertz: u32,
    /// Where it sends, and who may send to it.
    pub(crate) to: Option<SocketAddr>,
    /// The same in the call before: what was on its way may still come.
    before: Option<SocketAddr>,
    /// Packets from elsewhere. Phones ignore them.
    pub(crate) strays: usize,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    heard: Vec<i16>,
}

impl Line {
    pub(crate) fn new(address: IpAddr, hertz: u32) -> Self {
        let pair = std::iter::repeat_with(|| {
            let port = fastrand::u16(5_000..15_000) * 2;
            let rtp = UdpSocket::bind((address, port)).ok()?;
            Some((rtp, UdpSocket::bind((address, port + 1)).ok()?))
        });
        let (rtp, rtcp) = pair.take(100).flatten().next().expect("two free ports");
        rtp.set_nonblocking(true).unwrap();
        Self {
            rtp,
            _rtcp: rtcp,
            hertz,
            to: None,
            before: None,
            strays: 0,
            ssrc: fastrand::u32(..),
            sequence: fastrand::u16(..),
            timestamp: fastrand::u32(..),
            heard: Vec::new(),
        }
    }

    /// Says the same as another line does, as far as one can who has only listened.
    pub(crate) fn imitate(&mut self, other: &Self) {
        (self.ssrc, self.sequence, self.timestamp) = (other.ssrc, other.sequence, other.timestamp);
        self.to = other.to;
    }

    /// A new call, or a new description in it.
    pub(crate) fn connect(&mut self, to: SocketAddr) {
        if self.to != Some(to) {
            self.before = self.to.replace(to);
        }
    }

    /// An offer, with further attributes.
    pub(crate) fn sdp(&self, attributes: &str) -> String {
        let local = self.rtp.local_addr().unwrap();
        let (ip, port) = (local.ip(), local.port());
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP {MU_LAW} {EVENTS}\r\na=rtpmap:{MU_LAW} PCMU/8000\r\n\
             a=rtpmap:{EVENTS} telephone-event/8000\r\na=fmtp:{EVENTS} 0-15\r\n{attributes}"
        )
    }

    /// The next 20 ms of the tone.
    pub(crate) fn play(&mut self) {
        let first = self.timestamp;
        let sample = |n: u32| {
            let phase = TAU * f64::from(self.hertz) * f64::from(first.wrapping_add(n) % 8_000);
            to_mu_law((AMPLITUDE * (phase / RATE as f64).sin()) as i16)
        };
        let payload: Vec<u8> = (0..SAMPLES as u32).map(sample).collect();
        self.send(MU_LAW, false, &payload);
        self.timestamp = self.timestamp.wrapping_add(SAMPLES as u32);
    }

    /// The next packet, of any payload type.
    pub(crate) fn send(&mut self, payload_type: u8, marker: bool, payload: &[u8]) {
        let mut packet = vec![0x80, u8::from(marker) << 7 | payload_type];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.send_raw(&packet);
    }

    /// A packet between two others.
    pub(crate) fn send_aside(&mut self, payload_type: u8, payload: &[u8]) {
        let sequence = self.sequence;
        self.send(payload_type, false, payload);
        self.sequence = sequence;
    }

    pub(crate) fn send_raw(&self, packet: &[u8]) {
        // Where nobody listens any more, the kernel says so at the next packet.
        let _ = self.rtp.send_to(packet, self.to.expect("a call"));
    }

    /// A key, pressed for 20 ms: begin and end (RFC 4733).
    pub(crate) fn press(&mut self, event: u8) {
        for (marker, end) in [(true, 0), (false, 0x80), (false, 0x80), (false, 0x80)] {
            self.send(EVENTS, marker, &[event, end | 10, 0, SAMPLES as u8]);
        }
        self.timestamp = self.timestamp.wrapping_add(SAMPLES as u32);
    }

    /// Takes what has come from where it sends.
    pub(crate) fn listen(&mut self) {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = self.rtp.recv_from(&mut buffer) {
            if Some(from) != self.to {
                self.strays += usize::from(Some(from) != self.before);
            } else if length > 12 && buffer[0] == 0x80 && buffer[1] & 0x7f == MU_LAW {
                self.heard.extend(buffer[12..length].iter().map(|byte| tone::from_mu_law(*byte)));
            }
        }
    }

    /// What was heard since the last time.
    pub(crate) fn take_heard(&mut self) -> Vec<i16> {
        std::mem::take(&mut self.heard)
    }
}

fn to_mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (u32::from(sample.unsigned_abs())).min(32_635) + 0x84;
    // The bias makes this at least 7.
    let exponent = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    !(sign | (exponent << 4 | mantissa) as u8)
}

/// The amplitude of a frequency in what was heard.
pub(crate) fn level(samples: &[i16], hertz: u32) -> f64 {
    let samples: Vec<f64> = samples.iter().map(|sample| f64::from(*sample)).collect();
    2.0 * tone::power(&samples, hertz).max(0.0).sqrt() / samples.len().max(1) as f64
}

#[test]
fn what_a_line_plays_can_be_heard() {
    let mut line = Line::new([127, 0, 0, 1].into(), 790);
    line.to = Some(line.rtp.local_addr().unwrap());
    (0..50).for_each(|_| line.play());
    line.listen();
    let heard = line.take_heard();
    assert_eq!(heard.len(), RATE);
    assert!((level(&heard, 790) - AMPLITUDE).abs() < 100.0, "{}", level(&heard, 790));
    assert!(level(&heard, 510) < 50.0, "{}", level(&heard, 510));
}
