//! Sockets, with errors that name the address, the configuration key and what to do.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    #[error(
        "address in use: {address} ({protocol}, key {key}): another process listens there; \
         stop it (`ss -lpn` names it) or choose another port"
    )]
    AddressInUse { address: SocketAddr, protocol: &'static str, key: String },
    #[error(
        "not an address of this machine: {address} ({protocol}, key {key}); `ip address` lists them"
    )]
    NotLocal { address: SocketAddr, protocol: &'static str, key: String },
    #[error(
        "no right to bind {address} ({protocol}, key {key}): ports below 1024 need CAP_NET_BIND_SERVICE"
    )]
    NotPermitted { address: SocketAddr, protocol: &'static str, key: String },
    #[error("cannot bind {address} ({protocol}, key {key}): {source}")]
    Other { address: SocketAddr, protocol: &'static str, key: String, source: io::Error },
}

impl BindError {
    /// Names what a system call answered. `protocol` is `TCP`, `UDP` …, `key` the configuration key of `address`.
    pub fn new(address: SocketAddr, protocol: &'static str, key: &str, source: io::Error) -> Self {
        let key = key.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { address, protocol, key },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { address, protocol, key },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address, protocol, key },
            _ => Self::Other { address, protocol, key, source },
        }
    }
}

/// Listens for TCP connections; `key` is the configuration key that `address` came from.
pub async fn tcp(address: SocketAddr, key: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::new(address, "TCP", key, source))
}

/// Binds a UDP socket; `key` is the configuration key that `address` came from.
pub async fn udp(address: SocketAddr, key: &str) -> Result<UdpSocket, BindError> {
    UdpSocket::bind(address).await.map_err(|source| BindError::new(address, "UDP", key, source))
}

/// The address a listener was bound to, with the port that the system chose for port 0.
pub fn local_addr(listener: &TcpListener) -> Result<SocketAddr, crate::Error> {
    listener.local_addr().map_err(crate::Error::other)
}
