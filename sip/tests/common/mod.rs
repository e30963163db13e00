//! Messages that several tests start from.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use dialtone_sip::Message;

/// An INVITE of about 1,200 bytes as a phone sends it, with things that must survive untouched.
pub(crate) const INVITE: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.10:5062;branch=z9hG4bK-524287-1---7d3f6c2b;rport\r\n\
Max-Forwards: 70\r\n\
Route: <sip:edge.example.com;lr>, \"a, b\" <sip:next.example.com;lr;x=1,2>\r\n\
Contact: <sip:alice@192.0.2.10:5062;transport=udp>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"\r\n\
To: \"Bob\" <sip:bob@example.com>\r\n\
From: \"Alice\"<sip:alice@example.com>;tag=5c1a0f3e\r\n\
Call-ID: 83fKX2mM3yQz0Yk1n2bT9g..\r\n\
CSeq: 1 INVITE\r\n\
X-Folded: one\r\n two,\r\n\tthree\r\n\
Session-Expires: 1800\r\n\
Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO, UPDATE\r\n\
Content-Type: application/sdp\r\n\
Supported: replaces, timer, outbound, path, gruu\r\n\
User-Agent: Example Phone 1.2.3 rev 104920 stamp 104921\r\n\
Allow-Events: hold, talk, conference\r\n\
P-Preferred-Identity: <sip:alice@example.com>\r\n\
Content-Length: 346\r\n\
\r\n\
v=0\r\n\
o=- 13349384231232 1 IN IP4 192.0.2.10\r\n\
s=Example Phone 1.2.3 stamp 104921\r\n\
c=IN IP4 192.0.2.10\r\n\
t=0 0\r\n\
m=audio 8000 RTP/AVP 9 8 120 0 84 3 101\r\n\
a=rtpmap:120 opus/48000/2\r\n\
a=fmtp:120 useinbandfec=1; usedtx=1; maxaveragebitrate=64000\r\n\
a=rtpmap:84 speex/16000\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=fmtp:101 0-15\r\n\
a=ptime:20\r\n\
a=sendrecv\r\n";

pub(crate) fn parse(text: &str) -> Message {
    Message::parse(text.to_owned().into_bytes().into())
        .unwrap_or_else(|partial| panic!("{partial}: {text}"))
}

/// The INVITE with its real length of body.
pub(crate) fn invite() -> String {
    let (head, body) = INVITE.split_once("\r\n\r\n").expect("two parts");
    let head = head.replace("Content-Length: 346", &format!("Content-Length: {}", body.len()));
    format!("{head}\r\n\r\n{body}")
}
