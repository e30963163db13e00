//! A phone's media: a socket that sends numbered RTP packets and checks every one that it gets.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

/// How long a packet may be on its way.
const LIMIT: Duration = Duration::from_secs(5);

/// Samples in 20 ms of G.711.
const SAMPLES: usize = 160;

/// One side of an audio stream, RTP at an even port and RTCP at the next one.
#[derive(Debug)]
pub(crate) struct Media {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    ssrc: u32,
    /// Of the next packet.
    sequence: u16,
    /// Of its SDP.
    version: u32,
}

impl Media {
    pub(crate) fn new(address: IpAddr) -> Self {
        let pair = std::iter::repeat_with(|| {
            let port = fastrand::u16(5_000..15_000) * 2;
            let rtp = UdpSocket::bind((address, port)).ok()?;
            Some((rtp, UdpSocket::bind((address, port + 1)).ok()?))
        });
        let (rtp, rtcp) = pair.take(100).flatten().next().expect("two free ports");
        for socket in [&rtp, &rtcp] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        Self { rtp, rtcp, ssrc: fastrand::u32(..), sequence: fastrand::u16(..), version: 0 }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.rtp.local_addr().unwrap()
    }

    /// A new offer or answer of this side, with further attributes.
    pub(crate) fn sdp(&mut self, attributes: &str) -> String {
        self.version += 1;
        let (local, version) = (self.local(), self.version);
        let (ip, port) = (local.ip(), local.port());
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        format!(
            "v=0\r\no=- {} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n{attributes}",
            self.ssrc,
        )
    }

    /// Sends `count` packets to `to`; returns what the other side has to get.
    pub(crate) fn send(&mut self, to: SocketAddr, count: usize) -> Vec<Vec<u8>> {
        let packets: Vec<Vec<u8>> = (0..count).map(|_| self.packet()).collect();
        for packet in &packets {
            assert_eq!(self.rtp.send_to(packet, to).unwrap(), packet.len());
        }
        packets
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut packet = vec![0x80, 0x00];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * SAMPLES as u32).to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(SAMPLES));
        self.sequence = self.sequence.wrapping_add(1);
        packet
    }

    /// All these packets come, byte for byte and in order, from `from` and nobody else.
    pub(crate) fn expect(&self, packets: &[Vec<u8>], from: SocketAddr) {
        for (n, packet) in packets.iter().enumerate() {
            let mut buffer = [0; 2_048];
            let (length, source) = self.rtp.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("packet {n} of {} for {}: {error}", packets.len(), self.local())
            });
            assert_eq!(source, from, "who sends to {}", self.local());
            let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
            let (got, wanted) = (number(&buffer[..length.max(4)]), number(packet));
            assert_eq!(got, wanted, "packet {n} for {} from {source}", self.local());
            assert!(buffer[..length] == **packet, "packet {n} for {} was changed", self.local());
        }
    }

    /// Nothing has come that was not expected.
    pub(crate) fn expect_nothing(&self) {
        self.rtp.set_nonblocking(true).unwrap();
        let more = self.rtp.recv_from(&mut [0; 2_048]);
        self.rtp.set_nonblocking(false).unwrap();
        assert!(more.is_err(), "{} got {more:?} as well", self.local());
    }

    /// Sends a receiver report about `of`, RTCP as the RTP sent so far demands it.
    pub(crate) fn report(&self, to: SocketAddr, of: &Self) {
        let mut packet = vec![0x81, 201, 0, 7];
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(of.ssrc.to_be_bytes());
        // Nothing lost; highest sequence number, jitter of 2 ms, no sender report seen.
        packet.extend([0; 4]);
        packet.extend(u32::from(of.sequence.wrapping_sub(1)).to_be_bytes());
        packet.extend(16_u32.to_be_bytes());
        packet.extend([0; 8]);
        self.rtcp.send_to(&packet, to).unwrap();
    }

    /// An RTCP packet comes from `from`.
    pub(crate) fn expect_report(&self, from: SocketAddr) {
        let mut buffer = [0; 2_048];
        let (length, source) = self.rtcp.recv_from(&mut buffer).expect("a report");
        assert_eq!(source, from);
        assert!(length >= 8 && buffer[1] == 201, "{:?}", &buffer[..length]);
    }
}

/// Where an SDP wants audio; RTCP goes to the next port.
pub(crate) fn audio(sdp: &[u8]) -> SocketAddr {
    let text = std::str::from_utf8(sdp).unwrap();
    let line = |start: &'static str| text.lines().filter_map(move |line| line.strip_prefix(start));
    let port = line("m=audio ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    // The one of the media section if there is one.
    let ip = line("c=IN IP").next_back().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    match (ip, port) {
        (Some(ip), Some(port)) => SocketAddr::new(ip, port),
        _ => panic!("no audio in {text}"),
    }
}

/// The port after this one.
pub(crate) fn next(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}
