//! What a node's data folder says: how far it came (`grastate.dat`) and in which company (`gvwstate.dat`).

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The uuid of a node that belongs to no cluster.
const NO_CLUSTER: &str = "00000000-0000-0000-0000-000000000000";

/// A place in the history of a cluster: its uuid and the number of the last transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub cluster: String,
    pub seqno: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cluster, self.seqno)
    }
}

impl FromStr for Position {
    type Err = ();

    /// Reads `uuid:seqno`; a position of no cluster, or none in it, is an error.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (cluster, seqno) = text.trim().split_once(':').ok_or(())?;
        // A GTID of the domain may follow after a comma.
        let seqno: i64 = seqno.split(',').next().unwrap_or(seqno).parse().map_err(|_| ())?;
        let is_uuid = cluster.len() == NO_CLUSTER.len()
            && cluster.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_uuid && cluster != NO_CLUSTER && seqno >= 0 {
            Ok(Self { cluster: cluster.to_owned(), seqno })
        } else {
            Err(())
        }
    }
}

/// The last primary component that a node was in. Its text form is `ID MEMBER,MEMBER`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// The representative's uuid and a number, which no other component of this cluster has.
    pub id: String,
    /// Uuids of nodes and arbitrators.
    pub members: BTreeSet<String>,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<&str> = self.members.iter().map(String::as_str).collect();
        write!(f, "{} {}", self.id, members.join(","))
    }
}

impl Component {
    /// Whether a component of this size is a majority of this one.
    pub fn has_majority(&self, size: usize) -> bool {
        2 * size > self.members.len()
    }

    /// From the two words of the text form.
    pub fn from_words(id: &str, members: &str) -> Self {
        Self { id: id.to_owned(), members: members.split(',').map(str::to_owned).collect() }
    }

    /// Reads the format of `gvwstate.dat`.
    fn parse(text: &str) -> Option<Self> {
        let (mut id, mut members) = (None, BTreeSet::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                // Type 3 is a primary component.
                (Some("view_id:"), Some("3")) => {
                    id = Some(format!("{}/{}", words.next()?, words.next()?));
                }
                (Some("member:"), Some(member)) => {
                    members.insert(member.to_owned());
                }
                _ => {}
            }
        }
        Some(Self { id: id?, members }).filter(|component| !component.members.is_empty())
    }
}

/// A data folder of MariaDB, as it stands while the server does not run.
#[derive(Clone, Debug)]
pub struct DataFolder {
    path: PathBuf,
}

/// What `grastate.dat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// `None`: no cluster yet, or what is there was copied half only.
    pub cluster: Option<String>,
    /// Known only after the server ended in order.
    pub position: Option<Position>,
    /// It left its cluster last, so nobody else can know more.
    pub safe_to_bootstrap: bool,
}

impl DataFolder {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None`: the node has never been in a cluster.
    pub fn saved(&self) -> Option<Saved> {
        let text = fs::read_to_string(self.path.join("grastate.dat")).ok()?;
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        let cluster = value("uuid").filter(|uuid| !uuid.is_empty() && *uuid != NO_CLUSTER);
        let position = match (cluster, value("seqno")) {
            (Some(cluster), Some(seqno)) => format!("{cluster}:{seqno}").parse().ok(),
            _ => None,
        };
        Some(Saved {
            cluster: cluster.map(str::to_owned),
            position,
            safe_to_bootstrap: value("safe_to_bootstrap") == Some("1"),
        })
    }

    /// The last primary component; `None` after the server ended in order.
    pub fn component(&self) -> Option<Component> {
        Component::parse(&fs::read_to_string(self.path.join("gvwstate.dat")).ok()?)
    }

    /// Lets the server begin a cluster from what is here: Galera wants to read that it may, and must not look for the
    /// others of its last component.
    pub fn allow_bootstrap(&self) -> io::Result<()> {
        let path = self.path.join("grastate.dat");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let text = text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1");
                self.replace(&path, &text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let component = self.path.join("gvwstate.dat");
        match fs::rename(&component, component.with_extension("dat.old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl DataFolder {
    /// Lets the server take over everything from the others, whatever is here.
    pub fn forget(&self) -> io::Result<()> {
        for name in ["grastate.dat", "gvwstate.dat"] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.path)?.sync_all()
    }

    /// The file is the old one or the new one whenever this process or the machine ends, and belongs to the server.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let former = fs::metadata(path)?;
        let new = path.with_extension("dat.new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(former.mode() & 0o777)
            .open(&new)?;
        chown(&new, Some(former.uid()), Some(former.gid()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "070459c0-e50e-11f1-acc8-27d9eeb9924a";

    #[test]
    fn positions() {
        let position: Position = format!("{CLUSTER}:19").parse().unwrap();
        assert_eq!((position.cluster.as_str(), position.seqno), (CLUSTER, 19));
        assert_eq!(format!("{CLUSTER}:19,0-1-7").parse(), Ok(position.clone()));
        assert_eq!(position.to_string(), format!("{CLUSTER}:19"));
        for wrong in [format!("{CLUSTER}:-1"), format!("{NO_CLUSTER}:5"), "x:1".into(), "".into()] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_folder_says() {
        let path = std::env::temp_dir().join(format!("dialtone-galera-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = DataFolder::new(path.clone());
        assert!(folder.saved().is_none() && folder.component().is_none());
        folder.allow_bootstrap().unwrap();
        fs::write(
            path.join("grastate.dat"),
            format!("# GALERA saved state\nversion: 2.1\nuuid:    {CLUSTER}\nseqno:   -1\nsafe_to_bootstrap: 0\n"),
        )
        .unwrap();
        fs::write(
            path.join("gvwstate.dat"),
            format!("my_uuid: b\n#vwbeg\nview_id: 3 {CLUSTER} 15\nbootstrap: 0\nmember: a 0\nmember: b 0\n#vwend\n"),
        )
        .unwrap();
        let saved = folder.saved().unwrap();
        assert_eq!(saved.cluster.as_deref(), Some(CLUSTER));
        assert!(saved.position.is_none() && !saved.safe_to_bootstrap);
        let component = folder.component().unwrap();
        assert_eq!(component.id, format!("{CLUSTER}/15"));
        assert_eq!(component.members.len(), 2);
        folder.allow_bootstrap().unwrap();
        assert!(folder.saved().unwrap().safe_to_bootstrap && folder.component().is_none());
        folder.forget().unwrap();
        folder.forget().unwrap();
        assert!(folder.saved().is_none());
        fs::remove_dir_all(&path).unwrap();
    }
}
