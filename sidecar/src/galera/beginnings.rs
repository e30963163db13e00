//! Where the history of a cluster was cut: the nodes that went on did so at a number, and another node may be past it.
//!
//! Galera does not see that. The uuid stays the same, and as soon as the others have passed its number, such a node gets
//! what it seems to lack and keeps what nobody else has. So whoever begins a cluster from its data notes where, and all
//! that join it note it too and tell it to those who come later.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use dialtone_daemon::data_dir::write_atomically;

use super::disk::Position;

/// How many are kept and told; the last ones.
const MAX: usize = 16;

/// A cluster was begun from this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    pub position: Position,
    /// Tells it from another one at the same position.
    pub id: u64,
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.position, self.id)
    }
}

impl FromStr for Beginning {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, id) = text.split_once('/').ok_or(())?;
        Ok(Self { position: position.parse()?, id: u64::from_str_radix(id, 16).map_err(|_| ())? })
    }
}

/// Reads what a node tells; what is not understood is left out.
pub fn parse(text: &str) -> Vec<Beginning> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).take(MAX).collect()
}

/// Those that this node has gone through, in a file, the last one last.
#[derive(Debug)]
pub struct Beginnings {
    path: PathBuf,
    known: Vec<Beginning>,
}

impl Beginnings {
    pub fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join("beginnings");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        Ok(Self { path, known: parse(&text) })
    }

    /// What others are told; nothing if there is nothing to tell.
    pub fn encode(&self) -> Option<String> {
        let all: Vec<String> = self.known.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    /// The first one in `told` after which this node, at `position`, cannot have been with the others: it is past it
    /// and did not go through it.
    pub fn missed<'a>(&self, position: &Position, told: &'a [Beginning]) -> Option<&'a Beginning> {
        let known = |beginning: &&Beginning| self.known.contains(beginning);
        let mut others = told.iter().filter(|told| told.position.cluster == position.cluster);
        // More may have been than are told.
        if told.len() >= MAX && !told.iter().any(|told| known(&told)) {
            return others.next();
        }
        others.find(|told| !known(told) && position.seqno > told.position.seqno)
    }

    /// Notes them; on the disk when this returns.
    pub fn learn(&mut self, told: &[Beginning]) -> io::Result<()> {
        let new = told.iter().filter(|told| !self.known.contains(told));
        let mut known: Vec<Beginning> = self.known.iter().chain(new).cloned().collect();
        if known.len() == self.known.len() {
            return Ok(());
        }
        known.drain(..known.len().saturating_sub(MAX));
        let text: String = known.iter().map(|known| format!("{known}\n")).collect();
        write_atomically(&self.path, text.as_bytes(), 0o644)?;
        self.known = known;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_past_a_beginning_that_it_did_not_go_through_needs_everything() {
        let folder = std::env::temp_dir().join(format!("dialtone-begun-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let at = |seqno| Position { cluster: "070459c0-e50e-11f1-acc8-27d9eeb9924a".into(), seqno };
        let begun = |seqno, id| Beginning { position: at(seqno), id };
        let mut node = Beginnings::load(&folder).unwrap();
        assert_eq!(node.encode(), None);
        let first = [begun(10, 1)];
        assert_eq!(node.missed(&at(10), &first), None);
        assert_eq!(node.missed(&at(11), &first), Some(&first[0]));
        let elsewhere =
            Position { cluster: "170459c0-e50e-11f1-acc8-27d9eeb9924a".into(), seqno: 99 };
        assert_eq!(node.missed(&elsewhere, &first), None);
        node.learn(&first).unwrap();
        assert_eq!(node.missed(&at(99), &first), None);
        // Away when the others went on once more.
        let both = [begun(10, 1), begun(50, 2)];
        assert_eq!(node.missed(&at(50), &both), None);
        assert_eq!(node.missed(&at(51), &both), Some(&both[1]));
        // At the same number, but not the same.
        assert!(node.missed(&at(11), &[begun(10, 3)]).is_some());
        let node = Beginnings::load(&folder).unwrap();
        assert_eq!(parse(&node.encode().unwrap()), first);
        let many: Vec<Beginning> = (0..16).map(|n| begun(100 + n, 100 + n as u64)).collect();
        assert!(node.missed(&at(5), &many).is_some());
        let mut node = node;
        node.learn(&many).unwrap();
        assert_eq!(parse(&node.encode().unwrap()), many);
        fs::remove_dir_all(&folder).unwrap();
    }
}
