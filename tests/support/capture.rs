//! What reaches a host: its audio (G.711 μ-law in RTP) and who sends it, read from its network interface.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, Weak},
    thread,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::{netns::Host, tone};

/// How often is looked whether anybody still wants to know.
const LOOK_MS: i64 = 100;

/// RTP packets with audio: who has sent it, and its payload.
type Heard = Mutex<Vec<(SocketAddr, Vec<u8>)>>;

/// Takes note until it is dropped.
#[derive(Debug)]
pub(crate) struct Capture {
    heard: Arc<Heard>,
}

impl Capture {
    pub(crate) fn start(host: &Host) -> Self {
        let open = || -> nix::Result<OwnedFd> {
            let (family, kind) = (AddressFamily::Packet, SockType::Datagram);
            let fd = socket(family, kind, SockFlag::empty(), SockProtocol::EthAll)?;
            setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))?;
            Ok(fd)
        };
        let socket = host.enter(open).unwrap();
        let heard = Arc::default();
        let (into, address) = (Arc::downgrade(&heard), host.address);
        thread::spawn(move || listen(&socket, address, &into));
        Self { heard }
    }

    /// The samples so far, as they came.
    pub(crate) fn samples(&self) -> Vec<i16> {
        let heard = self.heard.lock().unwrap();
        heard.iter().flat_map(|(_, audio)| audio).map(|byte| tone::from_mu_law(*byte)).collect()
    }

    /// Packets so far.
    pub(crate) fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// Who has sent them.
    pub(crate) fn sources(&self) -> BTreeSet<SocketAddr> {
        self.heard.lock().unwrap().iter().map(|(source, _)| *source).collect()
    }

    /// As if nothing had come so far.
    pub(crate) fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }
}

fn listen(socket: &OwnedFd, address: Ipv4Addr, into: &Weak<Heard>) {
    let mut buffer = [0; 2_048];
    while let Some(heard) = into.upgrade() {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => heard.lock().unwrap().extend(audio(&buffer[..length], address)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The audio in an IPv4 packet, if it is some and for this address.
fn audio(packet: &[u8], address: Ipv4Addr) -> Option<(SocketAddr, Vec<u8>)> {
    let (&first, &protocol) = (packet.first()?, packet.get(9)?);
    let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let udp = packet.get(4 * usize::from(first & 0x0f)..)?;
    let (header, rtp) = udp.split_at_checked(8)?;
    let (fixed, payload) = rtp.split_at_checked(12)?;
    // Payload type 0, with or without a marker.
    let is_audio = protocol == 17 && fixed[0] == 0x80 && fixed[1] & 0x7f == 0;
    let source = SocketAddr::from((ip(12)?, u16::from_be_bytes([header[0], header[1]])));
    (is_audio && ip(16)? == address).then(|| (source, payload.to_vec()))
}
