//! A TCP relay in front of a server that cuts or holds back one transaction at a chosen byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How transactions of the store begin.
const MARK: &[u8] = b"BEGIN NOT ATOMIC";

/// What happens to the next transaction, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// So many bytes of it arrive, then the connection ends.
    Cut(usize),
    /// All of it arrives; so many bytes of the answer come back, then the connection ends.
    Deaf(usize),
    /// Nothing arrives before the gate is told to let it through; the connection stays.
    Hold,
}

/// The relay; it ends with the test's process.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    trap: Arc<Mutex<Option<Trap>>>,
    /// Lets go what is held.
    release: Sender<()>,
    /// What the server answered to what was held.
    pub(crate) late: Receiver<Vec<u8>>,
}

impl Gate {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let trap = Arc::new(Mutex::new(None));
        let (release, released) = channel();
        let (answered, late) = channel();
        let released = Arc::new(Mutex::new(released));
        let armed = trap.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let relay = Relay {
                    client,
                    server,
                    trap: armed.clone(),
                    released: released.clone(),
                    answered: answered.clone(),
                    held: Arc::default(),
                };
                std::thread::spawn(move || relay.run());
            }
        });
        Self { address, trap, release, late }
    }

    pub(crate) fn arm(&self, trap: Trap) {
        *self.trap.lock().expect("lock") = Some(trap);
    }

    /// Whether the trap has caught something.
    pub(crate) fn has_snapped(&self) -> bool {
        self.trap.lock().expect("lock").is_none()
    }

    pub(crate) fn release(&self) {
        self.release.send(()).expect("somebody waits");
    }
}

struct Relay {
    client: TcpStream,
    server: TcpStream,
    trap: Arc<Mutex<Option<Trap>>>,
    released: Arc<Mutex<Receiver<()>>>,
    answered: Sender<Vec<u8>>,
    /// Whether the server's answer belongs to what was held.
    held: Arc<AtomicBool>,
}

impl Relay {
    fn run(mut self) {
        // Bytes that may still go back to the client, if that is limited.
        let allowed = Arc::new(Mutex::new(None::<usize>));
        let mut back =
            (self.server.try_clone().expect("clone"), self.client.try_clone().expect("clone"));
        let (limit, held, answered) = (allowed.clone(), self.held.clone(), self.answered.clone());
        let pump = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = back.0.read(&mut buffer) {
                if held.load(Ordering::Relaxed) {
                    let _ = answered.send(buffer[..count].to_vec());
                    break;
                }
                let mut limit = limit.lock().expect("lock");
                let count = limit.map_or(count, |limit| limit.min(count));
                if back.1.write_all(&buffer[..count]).is_err() {
                    break;
                }
                if let Some(limit) = limit.as_mut() {
                    *limit -= count;
                    if *limit == 0 {
                        break;
                    }
                }
            }
            let _ = (back.1.shutdown(Shutdown::Both), back.0.shutdown(Shutdown::Both));
        });
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = self.client.read(&mut buffer) {
            let bytes = &buffer[..count];
            let marked = bytes.windows(MARK.len()).any(|window| window == MARK);
            let trap = if marked { self.trap.lock().expect("lock").take() } else { None };
            let passed = match trap {
                None => self.server.write_all(bytes).is_ok(),
                Some(Trap::Cut(after)) => {
                    let _ = self.server.write_all(&bytes[..after.min(count)]);
                    false
                }
                Some(Trap::Deaf(after)) => {
                    *allowed.lock().expect("lock") = Some(after);
                    self.server.write_all(bytes).is_ok()
                }
                Some(Trap::Hold) => {
                    self.hold(bytes);
                    let _ = pump.join();
                    return;
                }
            };
            if !passed {
                break;
            }
        }
        let _ = (self.server.shutdown(Shutdown::Both), self.client.shutdown(Shutdown::Both));
    }

    /// The client gives up in the end, the server gets the packet all the same.
    fn hold(&mut self, bytes: &[u8]) {
        let released = self.released.lock().expect("lock");
        if released.recv_timeout(Duration::from_secs(30)).is_err() {
            return;
        }
        self.held.store(true, Ordering::Relaxed);
        let _ = self.server.write_all(bytes);
    }
}
