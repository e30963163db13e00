//! What a phone sends and receives by: a socket of its own, or a connection that it has dialled.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::phone::{PhoneConfig, Transport};
use crate::text::Text;

const MAX_STREAM_BUFFER: usize = 1 << 20;

#[derive(Debug)]
pub(crate) enum Socket {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, buffer: Vec<u8> },
}

impl Socket {
    pub(crate) async fn open(config: &PhoneConfig) -> io::Result<(Self, SocketAddr)> {
        let local = SocketAddr::new(config.source, 0);
        match config.transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(local).await?;
                let local = socket.local_addr()?;
                Ok((Self::Udp(socket), local))
            }
            Transport::Tcp => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(local)?;
                let stream = socket.connect(config.gateway).await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?;
                Ok((Self::Tcp { stream, buffer: Vec::new() }, local))
            }
        }
    }

    pub(crate) async fn send(&mut self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send_to(bytes, to).await.map(drop),
            Self::Tcp { stream, .. } => stream.write_all(bytes).await,
        }
    }

    /// The next message, whole. Cancel-safe: what was read of a stream stays in the buffer.
    pub(crate) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                let mut bytes = vec![0; 65_535];
                let (length, _) = socket.recv_from(&mut bytes).await?;
                bytes.truncate(length);
                Ok(bytes)
            }
            Self::Tcp { stream, buffer } => loop {
                if let Some(message) = cut(buffer) {
                    return Ok(message);
                }
                if buffer.len() > MAX_STREAM_BUFFER {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the gateway sends no message ends",
                    ));
                }
                if stream.read_buf(buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            },
        }
    }
}

/// Cuts the first whole message off a stream.
fn cut(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buffer.drain(..blank);
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let length = Text::parse(&buffer[..head])
        .and_then(|text| text.get("content-length")?.parse::<usize>().ok())
        .unwrap_or_default();
    (buffer.len() >= head + length).then(|| buffer.drain(..head + length).collect())
}
