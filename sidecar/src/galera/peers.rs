//! The other members of the pool, as last seen: kept in a file, so that a node finds them when the pool is empty.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use dialtone_daemon::data_dir::write_atomically;

/// More than a cluster ever has; who was not seen for the longest time makes room.
const MAX_PEERS: usize = 16;

/// A list of addresses in a file, one a line, the last seen first.
#[derive(Debug)]
pub struct Peers {
    path: PathBuf,
    known: Vec<SocketAddr>,
}

impl Peers {
    /// Reads the list, if there is one. Lines that are no addresses are left out.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join("peers");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        Ok(Self { path, known: text.lines().filter_map(|line| line.trim().parse().ok()).collect() })
    }

    pub fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// Adds who is there now. Who is not stays known: it may be back when all of these are gone.
    pub fn see(&mut self, present: &[SocketAddr]) -> io::Result<()> {
        let former = self.known.iter().filter(|address| !present.contains(address));
        let known: Vec<SocketAddr> =
            present.iter().chain(former).copied().take(MAX_PEERS).collect();
        if present.is_empty() || present.iter().all(|address| self.known.contains(address)) {
            return Ok(());
        }
        let text: String = known.iter().map(|address| format!("{address}\n")).collect();
        self.known = known;
        write_atomically(&self.path, text.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_seen_stays_known() {
        let folder = std::env::temp_dir().join(format!("dialtone-peers-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [a, b, c] = ["127.0.0.1:1", "127.0.0.2:2", "[::1]:3"].map(|a| a.parse().unwrap());
        let mut peers = Peers::load(&folder).unwrap();
        assert!(peers.known().is_empty());
        peers.see(&[a, b]).unwrap();
        peers.see(&[]).unwrap();
        assert_eq!(Peers::load(&folder).unwrap().known(), [a, b]);
        peers.see(&[c]).unwrap();
        assert_eq!(Peers::load(&folder).unwrap().known(), [c, a, b]);
        for n in 0..100 {
            peers.see(&[SocketAddr::new(a.ip(), 1000 + n)]).unwrap();
        }
        assert_eq!(peers.known().len(), MAX_PEERS);
        fs::remove_dir_all(&folder).unwrap();
    }
}
