//! The server that fault measurements put into pools.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use dialtone_daemon::exit;

/// Connections without traffic end after this.
const IDLE: Duration = Duration::from_secs(10);

/// A TCP server that sends back what it receives: something to put into a pool and to kill
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
}

/// Serves until it is killed.
pub(super) fn run(args: &Args) -> ExitCode {
    let listener = match TcpListener::bind(args.address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen at {}: {error}", args.address);
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    for stream in listener.incoming().flatten() {
        // Connections that find no thread are closed; their users see that.
        let _ = std::thread::Builder::new().spawn(move || echo(stream));
    }
    ExitCode::SUCCESS
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
