//! One at a time on this machine: tests with many processes that are killed and frozen measure time, and would measure
//! each other.

use std::{
    env,
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
};

use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// Held while nobody else on this machine may be; given back when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Exclusive(#[expect(dead_code, reason = "the lock is what it is for")] Flock<File>);

impl Exclusive {
    /// Waits for its turn, however long that takes.
    pub fn wait() -> Result<Self, Error> {
        let path = env::temp_dir().join("dialtone-exclusive.lock");
        let failed = |source| Error::File { path: PathBuf::from(&path), source };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            // Another user's: a lock needs no right to write.
            .or_else(|_| File::open(&path))
            .map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Self)
            .map_err(|(_, errno)| failed(io::Error::from(errno)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn one_at_a_time() {
        let inside = Arc::new(AtomicUsize::new(0));
        let enter = |inside: Arc<AtomicUsize>| {
            move || {
                let _turn = Exclusive::wait().unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                std::thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(enter(Arc::clone(&inside)))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
