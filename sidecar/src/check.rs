//! Checks of a server's health. Each is asked again and again, one after the other, and is dropped when its time is up.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    task::JoinHandle,
    time::sleep,
};

use crate::gate::Finding;

/// One way to find out whether a server serves. Dropping the future gives the attempt up.
pub trait Check: fmt::Debug + Send {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>>;
}

/// A failed system call as a finding: who refuses or resets has been heard.
pub(crate) fn judge(what: &str, error: &io::Error) -> Finding {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Finding::Silent,
        _ => Finding::Failed(format!("{what}: {error}")),
    }
}

/// Connects from the server's own address, as the registration does.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(address.ip(), 0))?;
    socket.connect(address).await
}

/// The server accepts TCP connections. The kernel completes handshakes for a process that is frozen, so the
/// connection must also leave the listener's queue.
#[derive(Debug)]
pub struct Tcp {
    pub address: SocketAddr,
}

impl Check for Tcp {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            let connection = match connect(self.address).await {
                Ok(connection) => connection,
                Err(error) => return judge(&format!("connecting to {}", self.address), &error),
            };
            let mut longest = 0;
            let mut pause = Duration::from_millis(1);
            let finding = loop {
                match backlog(self.address) {
                    // Another process may have a listener that cannot be seen from here; then connecting must do.
                    None | Some(0) => break Finding::Healthy,
                    Some(waiting) if waiting < longest => break Finding::Healthy,
                    Some(waiting) => longest = waiting,
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            };
            drop(connection);
            finding
        })
    }
}

/// The length of a line of `/proc/net/tcp`. Listeners stand first, and to go on beyond them costs the kernel a walk
/// through its whole table of connections: the table is read by the line.
const LINE: usize = 150;

/// How many connections wait to be accepted by the listener at `address`; `None` if it cannot be seen.
fn backlog(address: SocketAddr) -> Option<u32> {
    // A listener of IPv6 gets what none of IPv4 takes.
    let tables: &[&str] =
        if address.is_ipv4() { &["/proc/net/tcp", "/proc/net/tcp6"] } else { &["/proc/net/tcp6"] };
    tables
        .iter()
        .filter_map(|table| File::open(table).ok())
        .find_map(|table| waiting_in(BufReader::with_capacity(LINE, table), address))
}

/// As [`backlog`], from a table in the format of `/proc/net/tcp`, where listeners stand first.
fn waiting_in(table: impl BufRead, address: SocketAddr) -> Option<u32> {
    const LISTEN: &str = "0A";
    let mut waiting = None;
    for line in table.lines().skip(1).map_while(Result::ok) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(_), Some(state), Some(queues)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            break;
        };
        if state != LISTEN {
            break;
        }
        let Some((ip, port)) = local.split_once(':') else { break };
        let Some(ip) = hex_ip(ip) else { break };
        if u16::from_str_radix(port, 16) == Ok(address.port())
            && (ip == address.ip() || ip.is_unspecified())
        {
            let queue = queues
                .split_once(':')
                .and_then(|(_, receive)| u32::from_str_radix(receive, 16).ok())?;
            waiting = Some(waiting.unwrap_or(0) + queue);
        }
    }
    waiting
}

/// An address as the kernel prints it: words of 32 bits in the machine's byte order.
fn hex_ip(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    for start in (0..text.len()).step_by(8) {
        octets.extend(u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?.to_ne_bytes());
    }
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

/// The SIP server answers OPTIONS (RFC 3261 section 11) with any final answer.
#[derive(Debug)]
pub struct Sip {
    pub address: SocketAddr,
    pub tcp: bool,
}

/// Largest answer that is read.
const MAX_ANSWER: usize = 65_536;

impl Check for Sip {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            let answered =
                if self.tcp { over_tcp(self.address).await } else { over_udp(self.address).await };
            match answered {
                Ok(()) => Finding::Healthy,
                Err(error) => judge(&format!("OPTIONS to {}", self.address), &error),
            }
        })
    }
}

async fn over_udp(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await?;
    socket.connect(address).await?;
    let tag = fastrand::u64(..);
    socket.send(options(address, socket.local_addr()?, "UDP", tag).as_bytes()).await?;
    let mut answer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut answer).await?;
        if is_final_answer(&answer[..length], tag) {
            return Ok(());
        }
    }
}

async fn over_tcp(address: SocketAddr) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let tag = fastrand::u64(..);
    stream.write_all(options(address, stream.local_addr()?, "TCP", tag).as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Each head is looked at by itself; OPTIONS is answered without a body that could pass for a head.
        let mut heads = received.as_slice();
        while let Some(end) = heads.windows(4).position(|window| window == b"\r\n\r\n") {
            if is_final_answer(&heads[..end + 4], tag) {
                return Ok(());
            }
            heads = &heads[end + 4..];
        }
        if received.len() > MAX_ANSWER {
            return Err(io::Error::other("no final answer in 64 KiB"));
        }
    }
}

fn options(to: SocketAddr, from: SocketAddr, transport: &str, tag: u64) -> String {
    let scheme = if transport == "TCP" { ";transport=tcp" } else { "" };
    format!(
        "OPTIONS sip:{to}{scheme} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {from};rport;branch=z9hG4bK{tag:016x}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:pool-element@{from}>;tag={tag:016x}\r\n\
         To: <sip:{to}>\r\n\
         Call-ID: {tag:016x}@{host}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:pool-element@{from}{scheme}>\r\n\
         Accept: application/sdp\r\n\
         Content-Length: 0\r\n\r\n",
        host = from.ip(),
    )
}

/// Whether this is a final answer to the OPTIONS with `tag`. More of SIP is not needed to see that a server lives.
fn is_final_answer(message: &[u8], tag: u64) -> bool {
    let Some(status) = message.strip_prefix(b"SIP/2.0 ") else { return false };
    let is_final = matches!(status, [b'2'..=b'6', b'0'..=b'9', b'0'..=b'9', ..]);
    let branch = format!("z9hG4bK{tag:016x}");
    is_final
        && message
            .windows(branch.len())
            .any(|window| window.eq_ignore_ascii_case(branch.as_bytes()))
}

/// The database file can be opened and answers a query.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    /// A query that outlived its time; a disk that hangs must not collect threads.
    running: Option<JoinHandle<Result<(), dialtone_location::Error>>>,
}

impl Sqlite {
    pub fn new(path: PathBuf) -> Self {
        Self { path, running: None }
    }
}

impl Check for Sqlite {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            if let Some(former) = &mut self.running {
                let _ = former.await;
            }
            let path = self.path.clone();
            let query = self.running.insert(tokio::task::spawn_blocking(move || {
                dialtone_location::sqlite::check(&path)
            }));
            let result = query.await;
            self.running = None;
            match result {
                Ok(Ok(())) => Finding::Healthy,
                Ok(Err(error)) => Finding::Failed(error.to_string()),
                Err(error) => Finding::Failed(format!("the check ended by a panic: {error}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_queue_of_a_listener_is_found() {
        let local = u32::from_ne_bytes([127, 0, 0, 1]);
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue\n\
             0: {local:08X}:13C4 00000000:0000 0A 00000000:00000003 00:00000000\n\
             1: 00000000:13C4 00000000:0000 0A 00000000:00000002 00:00000000\n\
             2: 00000000:13C5 00000000:0000 0A 00000000:00000007 00:00000000\n\
             3: {local:08X}:13C6 {local:08X}:8000 01 00000000:00000009 00:00000000\n"
        );
        let waiting = |address: &str| waiting_in(Cursor::new(&table), address.parse().unwrap());
        assert_eq!(waiting("127.0.0.1:5060"), Some(5));
        assert_eq!(waiting("127.0.0.2:5060"), Some(2));
        assert_eq!(waiting("127.0.0.1:5061"), Some(7));
        assert_eq!(waiting("127.0.0.1:5062"), None);
    }

    #[test]
    fn final_answers_to_our_own_request_count() {
        let answer = |status: &str| {
            format!("SIP/2.0 {status}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK0000000000000007\r\n\r\n")
        };
        assert!(is_final_answer(answer("200 OK").as_bytes(), 7));
        assert!(is_final_answer(answer("405 Method Not Allowed").as_bytes(), 7));
        assert!(!is_final_answer(answer("100 Trying").as_bytes(), 7));
        assert!(!is_final_answer(answer("200 OK").as_bytes(), 8));
        assert!(!is_final_answer(b"OPTIONS sip:x SIP/2.0\r\n\r\n", 7));
    }

    #[tokio::test]
    async fn tcp_sees_who_accepts_who_only_listens_and_who_is_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut check = Tcp { address };
        let silent = tokio::time::timeout(Duration::from_millis(200), check.check()).await;
        assert!(silent.is_err(), "nobody accepts: {silent:?}");
        let accepting = tokio::spawn(async move {
            loop {
                let _ = listener.accept().await;
            }
        });
        assert_eq!(check.check().await, Finding::Healthy);
        accepting.abort();
        let _ = accepting.await;
        assert!(matches!(check.check().await, Finding::Failed(_)));
    }

    #[tokio::test]
    async fn sip_asks_over_udp_and_tcp() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let answer = |request: &[u8]| {
            let request = String::from_utf8(request.to_vec()).unwrap();
            let rest = request.split_once("\r\n").unwrap().1;
            format!("SIP/2.0 100 Trying\r\n{rest}SIP/2.0 404 Not Found\r\n{rest}")
        };
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            for part in answer(&buffer[..length]).split_inclusive("\r\n\r\n") {
                udp.send_to(part.as_bytes(), from).await.unwrap();
            }
        });
        assert_eq!(Sip { address, tcp: false }.check().await, Finding::Healthy);
        // The task has ended and closed the socket: ICMP tells.
        let refused =
            tokio::time::timeout(Duration::from_secs(5), Sip { address, tcp: false }.check()).await;
        assert!(matches!(refused, Ok(Finding::Failed(_))), "{refused:?}");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 2048];
            let length = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer(&buffer[..length]).as_bytes()).await.unwrap();
        });
        assert_eq!(Sip { address, tcp: true }.check().await, Finding::Healthy);
    }

    #[tokio::test]
    async fn sqlite_wants_a_location_database() {
        let folder = std::env::temp_dir().join(format!("dialtone-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("location.db");
        let mut check = Sqlite::new(path.clone());
        assert!(matches!(check.check().await, Finding::Failed(_)));
        dialtone_location::sqlite::create(&path).unwrap();
        assert_eq!(check.check().await, Finding::Healthy);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(check.check().await, Finding::Failed(_)));
    }
}
