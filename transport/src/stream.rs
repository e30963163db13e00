//! What carries bytes: TCP, or TLS on it.

use tokio::io::{self, AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp;
use tokio_rustls::TlsStream;

pub(crate) trait Stream: Send {
    type Read<'a>: AsyncRead + Send + Unpin
    where
        Self: 'a;
    type Write<'a>: AsyncWrite + Send + Unpin
    where
        Self: 'a;

    /// What was written may still wait here until it is flushed.
    const BUFFERS: bool;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>);

    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    type Read<'a> = tcp::ReadHalf<'a>;
    type Write<'a> = tcp::WriteHalf<'a>;

    const BUFFERS: bool = false;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        self.split()
    }

    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    type Read<'a> = io::ReadHalf<&'a mut Self>;
    type Write<'a> = io::WriteHalf<&'a mut Self>;

    const BUFFERS: bool = true;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        io::split(self)
    }

    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}
