//! Media relays that speak NG: does one answer, and how much has it to do?

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use dialtone_ng::{
    MAX_DATAGRAM,
    message::{Command, Datagram, Outcome, Reply, Request},
    report::Workload,
};
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{sleep_until, timeout},
};

use crate::{
    check::{Check, judge},
    gate::Finding,
};

/// How often a relay is asked how much it has to do.
const PACE: Duration = Duration::from_secs(1);

/// The relay answers `ping`.
#[derive(Debug)]
pub struct Ng {
    pub address: SocketAddr,
}

impl Check for Ng {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            let answer = match ask(self.address, Command::Ping).await {
                Ok(answer) => answer,
                Err(error) => return judge(&format!("ping to {}", self.address), &error),
            };
            let address = self.address;
            match Reply::decode(&answer) {
                Ok(Reply { outcome: Outcome::Pong, .. }) => Finding::Healthy,
                Ok(Reply { outcome, .. }) => {
                    let (Outcome::Error(text) | Outcome::LoadLimit(text) | Outcome::Other(text)) =
                        outcome
                    else {
                        return Finding::Failed(format!("{address} answered ping without pong"));
                    };
                    Finding::Failed(format!("{address} answered ping by {}", text.escape_ascii()))
                }
                Err(error) => {
                    Finding::Failed(format!("{address} answered ping by what is {error}"))
                }
            }
        })
    }
}

/// Sends one command from the relay's own address, as the registration does, and waits for the answer.
async fn ask(address: SocketAddr, command: Command<'_>) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await?;
    socket.connect(address).await?;
    let cookie = format!("{:016x}", fastrand::u64(..));
    socket.send(&Request::new(command).encode(cookie.as_bytes())).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        match Datagram::split(&answer[..length]) {
            Some(datagram) if datagram.cookie == cookie.as_bytes() => {
                return Ok(datagram.body.to_vec());
            }
            _ => {}
        }
    }
}

/// Reports the load of the relay at `address`, which carries `capacity` calls, until nobody wants to know. A relay that
/// does not answer has the load that it had: whether it serves at all is for its check to find out.
pub(crate) async fn report_load(address: SocketAddr, capacity: u32, loads: watch::Sender<u32>) {
    while !loads.is_closed() {
        let asked = clock();
        let answer = timeout(PACE / 2, ask(address, Command::Statistics)).await;
        let workload = answer.ok().and_then(Result::ok).and_then(|answer| {
            let reply = Reply::decode(&answer).ok()?;
            Workload::read(&reply.dict)
        });
        match workload {
            Some(workload) => {
                let now = load(workload.sessions, capacity);
                loads.send_if_modified(|load| std::mem::replace(load, now) != now);
            }
            None => tracing::debug!(%address, "no statistics"),
        }
        sleep_until((asked + PACE).into()).await;
    }
}

/// `sessions` of `capacity` as a fraction of 0xffffffff (RFC 5356 section 4.3).
fn load(sessions: u64, capacity: u32) -> u32 {
    let capacity = u64::from(capacity).max(1);
    (u64::from(u32::MAX) * sessions.min(capacity) / capacity) as u32
}

#[expect(clippy::disallowed_methods, reason = "the driver owns the clock")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use dialtone_ng::message::ReplyEncoder;

    use super::*;

    /// Answers every request with what `answer` makes of it.
    async fn relay<F>(answer: F) -> (SocketAddr, tokio::task::JoinHandle<()>)
    where
        F: Fn(Command<'_>, ReplyEncoder) -> Vec<u8> + Send + 'static,
    {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let datagram = Datagram::split(&buffer[..length]).unwrap();
                let request = Request::decode(datagram.body).unwrap();
                let answer = answer(request.command, ReplyEncoder::new(datagram.cookie));
                socket.send_to(b"another-cookie d6:result4:ponge", from).await.unwrap();
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        (address, task)
    }

    async fn found(address: SocketAddr) -> Finding {
        let mut check = Ng { address };
        timeout(Duration::from_secs(5), check.check()).await.expect("an answer")
    }

    #[tokio::test]
    async fn who_answers_ping_is_healthy_and_who_is_gone_is_not() {
        let (address, task) = relay(|command, reply| {
            assert_eq!(command, Command::Ping);
            reply.finish(Outcome::Pong).unwrap()
        })
        .await;
        assert_eq!(found(address).await, Finding::Healthy);
        task.abort();
        let _ = task.await;
        assert!(matches!(found(address).await, Finding::Failed(_)), "ICMP tells");
    }

    #[tokio::test]
    async fn another_answer_is_evidence_and_silence_is_not() {
        let (address, _task) =
            relay(|_, reply| reply.finish(Outcome::Error(b"shutting down")).unwrap()).await;
        let Finding::Failed(reason) = found(address).await else { panic!("not failed") };
        assert!(reason.ends_with("answered ping by shutting down"), "{reason}");

        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut check = Ng { address: silent.local_addr().unwrap() };
        let found = timeout(Duration::from_millis(100), check.check()).await;
        assert!(found.is_err(), "nobody answers: {found:?}");
    }

    #[tokio::test]
    async fn the_load_is_reported() {
        let (address, _task) = relay(|command, mut reply| {
            assert_eq!(command, Command::Statistics);
            let workload = Workload { sessions: 25, ..Workload::default() };
            reply.dict().dict("statistics", |dict| workload.write(dict));
            reply.finish(Outcome::Ok).unwrap()
        })
        .await;
        let (loads_in, mut loads) = watch::channel(0);
        let reporter = tokio::spawn(report_load(address, 100, loads_in));
        let load = loads.wait_for(|load| *load > 0);
        let load = *timeout(Duration::from_secs(5), load).await.expect("a report").unwrap();
        assert_eq!(load, u32::MAX / 4);
        drop(loads);
        timeout(Duration::from_secs(5), reporter).await.expect("it ends").unwrap();
    }

    #[test]
    fn loads_are_fractions() {
        assert_eq!(load(0, 100), 0);
        assert_eq!(load(50, 100), u32::MAX / 2);
        assert_eq!(load(100, 100), u32::MAX);
        assert_eq!(load(u64::MAX, u32::MAX), u32::MAX);
    }
}
