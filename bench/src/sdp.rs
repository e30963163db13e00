//! Session descriptions as a plain phone writes and reads them.

use std::net::{IpAddr, SocketAddr};

/// Wants G.711 at this address: an offer, and an answer to one.
pub fn offer(audio: SocketAddr) -> String {
    let (ip, port) = (audio.ip(), audio.port());
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\no=- 3905 3905 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 8 101\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n"
    )
}

/// The address of the first audio stream: its port, with its own `c=` line or else the session's. `None` if there is no
/// such stream, or it was refused or put on hold.
pub fn audio(sdp: &str) -> Option<SocketAddr> {
    let connection = |line: &str| -> Option<IpAddr> {
        let rest = line.strip_prefix("c=IN IP")?;
        let address = rest.strip_prefix("4 ").or_else(|| rest.strip_prefix("6 "))?;
        address.trim().parse().ok()
    };
    let (session, media) = sdp.split_once("\nm=audio ")?;
    // Streams of other kinds before it have lines of their own.
    let session = session.split("\nm=").next()?;
    let port = media.split(' ').next()?.parse().ok().filter(|port| *port != 0)?;
    let own = media.split("\nm=").next()?;
    let address = own.lines().chain(session.lines()).find_map(connection)?;
    (!address.is_unspecified()).then_some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_where_audio_goes() {
        let own = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 4000));
        assert_eq!(audio(&offer(own)), Some(own));
        let head = "v=0\r\no=- 1 1 IN IP4 9.9.9.9\r\ns=-\r\n";
        for (sdp, address) in [
            ("c=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n", Some("10.0.0.1:4000")),
            ("t=0 0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP6 ::1\r\n", Some("[::1]:4000")),
            (
                "c=IN IP4 10.0.0.1\nm=video 2 RTP/AVP 9\nc=IN IP4 10.0.0.2\nm=audio 6 RTP/AVP 0\nm=text 8 x 1\nc=IN IP4 10.0.0.3\n",
                Some("10.0.0.1:6"),
            ),
            ("c=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\n", None),
            ("c=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n", None),
            ("c=IN IP4 10.0.0.1\r\nt=0 0\r\n", None),
        ] {
            let found = audio(&format!("{head}{sdp}"));
            assert_eq!(found.map(|address| address.to_string()).as_deref(), address, "{sdp}");
        }
    }
}
