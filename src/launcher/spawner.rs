//! One thread that starts all child processes and lives as long as this process: the kernel's parent death signal
//! fires when the *thread* that started a child ends, so no other thread may.

use std::{
    io,
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
};

type Job = (Command, Sender<io::Result<Child>>);

static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();

/// Starts `command` from the spawner's thread.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let jobs = SPAWNER.get_or_init(|| {
        let (jobs_in, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        jobs_in
    });
    let (answer_in, answer) = channel();
    jobs.send((command, answer_in)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    answer.recv().map_err(|_| io::ErrorKind::BrokenPipe)?
}
