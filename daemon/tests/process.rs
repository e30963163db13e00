//! What daemons share, as seen from outside: sockets, folders, readiness, the admin server.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use dialtone_daemon::{CancellationToken, Context, DataDir, Ready, admin, bind, ready::ReadyFile};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A folder of a test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("dialtone-daemon-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = bind::tcp("127.0.0.1:0".parse().unwrap(), "admin").await.unwrap();
    let address = first.local_addr().unwrap();
    let error = bind::tcp(address, "edge.address").await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!(
            "address in use: {address} (TCP, key edge.address): another process"
        )),
        "{error}"
    );
    let error = bind::udp("192.0.2.77:5060".parse().unwrap(), "edge.address")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not an address of this machine: 192.0.2.77:5060 (UDP, key edge.address)"),
        "{error}"
    );
}

#[test]
fn a_data_folder_belongs_to_one_process() {
    let folder = Folder::new("data");
    let path = folder.0.join("a/b");
    let first = DataDir::open(&path, "data-dir").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let error = DataDir::open(&path, "data-dir").unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(first.path(), path);
    drop(first);
    DataDir::open(&path, "data-dir").unwrap();
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new("file");
    let file = folder.0.join("file");
    std::fs::write(&file, "").unwrap();
    let error = DataDir::open(&file.join("sub"), "data-dir").unwrap_err().to_string();
    assert!(error.contains("file/sub (key data-dir)"), "{error}");
    let error = DataDir::open("/proc/1".as_ref(), "data-dir").unwrap_err().to_string();
    assert!(error.contains("the data folder /proc/1 (key data-dir) cannot be written"), "{error}");
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_admin_server_and_the_ready_file_tell_the_state() {
    let folder = Folder::new("admin");
    let file = folder.0.join("ready.json");
    std::fs::write(&file, "of an earlier run").unwrap();
    dialtone_daemon::metrics::init();
    let shutdown = CancellationToken::new();
    let context =
        Context { role: "sip-proxy", ready: Ready::new("sip-proxy", Some(file.clone())), shutdown };
    assert!(!file.exists());
    let listener = bind::tcp("127.0.0.1:0".parse().unwrap(), "admin").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new().route("/more", axum::routing::get(|| async { "more" }));
    let server = tokio::spawn(admin::serve(listener, routes, context.clone()));

    assert!(get(address, "/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    assert!(get(address, "/more").await.unwrap().ends_with("more"));
    assert!(get(address, "/version").await.unwrap().contains(r#""role":"sip-proxy""#));
    assert!(get(address, "/metrics").await.unwrap().contains("dialtone_build_info{"));

    context.ready.in_service("sip-proxy-1", [("admin", address.to_string())]).unwrap();
    assert!(get(address, "/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    let ready: ReadyFile = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        (ready.name.as_str(), ready.role.as_str(), ready.pid),
        ("sip-proxy-1", "sip-proxy", std::process::id())
    );
    assert_eq!(ready.addresses["admin"], address.to_string());

    // A silent connection does not keep the server from stopping.
    let _silent = TcpStream::connect(address).await.unwrap();
    context.shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(5), server).await.unwrap().unwrap();
}
