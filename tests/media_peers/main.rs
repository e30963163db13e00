//! Media relays and who else speaks NG: rtpengine beside ours and compared with it, Kamailio as a user.

mod answers;
mod calls;
mod descriptions;
mod pool;
mod sidecar;

#[path = "../support/kamailio.rs"]
mod kamailio;
#[path = "../support/rtp.rs"]
mod rtp;
#[path = "../support/rtpengine.rs"]
mod rtpengine;
#[path = "../support/sip.rs"]
#[expect(dead_code, reason = "its calls carry no media")]
mod sip;
