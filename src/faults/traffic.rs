//! A user that really uses the pool: selects, connects, sends, expects the echo, and reports whoever does not serve.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dialtone_asap_client::{Agent, AgentConfig, registrar_sctp};
use dialtone_handlespace::Handle;
use dialtone_pool_user::{Choice, PoolUser, Users, UsersConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    runtime::Runtime,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// Between two requests of one worker.
const PAUSE: Duration = Duration::from_millis(10);

/// How long an element may take to answer.
const ANSWER: Duration = Duration::from_millis(300);

const WORKERS: usize = 2;

/// Traffic until it is dropped.
#[derive(Debug)]
pub(super) struct Traffic {
    task: AbortHandle,
    served: Arc<AtomicU64>,
}

impl Traffic {
    /// Uses `pool` from the address `own`.
    pub(super) fn start(
        runtime: &Runtime,
        own: IpAddr,
        registrars: &[IpAddr],
        pool: &Handle,
    ) -> Self {
        let served = Arc::<AtomicU64>::default();
        let registrars: Vec<_> = registrars.iter().copied().map(registrar_sctp).collect();
        let config = AgentConfig::telephony(own, registrars);
        let (pool, counter) = (pool.clone(), Arc::clone(&served));
        let task = runtime.spawn(async move {
            let users = Users::new(UsersConfig::telephony());
            let Ok(agent) = Agent::start(config, users).await else { return };
            let mut workers = tokio::task::JoinSet::new();
            for _ in 0..WORKERS {
                workers.spawn(work(agent.handle(), own, pool.clone(), Arc::clone(&counter)));
            }
            workers.join_all().await;
        });
        Self { task: task.abort_handle(), served }
    }

    /// Requests that were answered.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(user: PoolUser, own: IpAddr, pool: Handle, served: Arc<AtomicU64>) {
    let mut failed = BTreeSet::new();
    loop {
        if let Ok(member) = user.select(&pool, Choice::Policy, &[])
            && let Some(address) = member.addr()
        {
            let answered = timeout(ANSWER, echo(own, address)).await;
            if matches!(answered, Ok(Ok(()))) {
                served.fetch_add(1, Ordering::Relaxed);
                if failed.remove(&member.pe_id) {
                    user.trust(&pool, member.pe_id);
                }
            } else {
                failed.insert(member.pe_id);
                user.report_unreachable(&pool, member.pe_id);
            }
        }
        sleep(PAUSE).await;
    }
}

async fn echo(own: IpAddr, address: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((own, 0).into())?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(b"dialtone").await?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await?;
    // The connection ends by RST, so that its port is free at once.
    stream.set_zero_linger()
}
