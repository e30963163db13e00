//! Element identifiers that outlive the process: random at first start, then read from the data directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dialtone_handlespace::Handle;
use dialtone_wire::PeId;

/// The identifier of this machine's element in `pool`: `<data_dir>/pe-id/<pool>`, created when it is not there.
///
/// RFC 5352 section 3.1 R2.2: a good random number. Never 0.
///
/// # Errors
/// When the directory or file cannot be read or written, or the file holds something else
/// ([`io::ErrorKind::InvalidData`]). The message names the file.
pub fn load_or_create(data_dir: &Path, pool: &Handle) -> io::Result<PeId> {
    let path = path(data_dir, pool);
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).ok_or_else(|| {
            named(io::Error::new(io::ErrorKind::InvalidData, "expected 0x and 8 hex digits, not 0"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path).map_err(named),
        Err(error) => Err(named(error)),
    }
}

/// A random identifier, for elements that need not be the same after a restart.
///
/// # Errors
/// When the operating system's random source cannot be read.
pub fn random() -> io::Result<PeId> {
    let mut source = File::open("/dev/urandom")?;
    loop {
        let mut octets = [0; 4];
        source.read_exact(&mut octets)?;
        let id = u32::from_be_bytes(octets);
        if id != 0 {
            return Ok(PeId(id));
        }
    }
}

fn path(data_dir: &Path, pool: &Handle) -> PathBuf {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let bytes = pool.as_bytes();
    let name = if !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(plain) {
        String::from_utf8_lossy(bytes).into_owned()
    } else {
        // A dot keeps hexadecimal names apart from plain ones.
        let mut name = String::from("x.");
        name.extend(bytes.iter().map(|b| format!("{b:02x}")));
        name
    };
    data_dir.join("pe-id").join(name)
}

fn parse(text: &str) -> Option<PeId> {
    let digits = text.trim().strip_prefix("0x").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().filter(|id| *id != 0).map(PeId)
}

/// Written beside its place, synced and linked into it, so that no crash leaves half an identifier, and of two
/// processes that start at once both use the first one's.
fn create(path: &Path) -> io::Result<PeId> {
    let id = random()?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::create(&beside)?;
    writeln!(file, "{:#010x}", id.0)?;
    file.sync_all()?;
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    match linked {
        Ok(()) => Ok(id),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            parse(&fs::read_to_string(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn same_after_a_restart_and_different_per_pool() {
        let directory =
            Directory(std::env::temp_dir().join(format!("dialtone-pe-id-{}", std::process::id())));
        let proxy = Handle::new("sip-proxy").unwrap();
        let first = load_or_create(&directory.0, &proxy).unwrap();
        assert_ne!(first.0, 0);
        assert_eq!(load_or_create(&directory.0, &proxy).unwrap(), first);
        let odd = Handle::new("../\u{7f}/etc").unwrap();
        assert_ne!(load_or_create(&directory.0, &odd).unwrap(), first);
        assert_eq!(fs::read_dir(directory.0.join("pe-id")).unwrap().count(), 2);

        fs::write(directory.0.join("pe-id/sip-proxy"), "0x00000000\n").unwrap();
        let error = load_or_create(&directory.0, &proxy).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("pe-id/sip-proxy"), "{error}");
    }
}
