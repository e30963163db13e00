//! The audit log: a line of JSON for each recording that begins or ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::Recording;

#[derive(Debug)]
pub(crate) struct AuditLog {
    file: File,
}

/// What has happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audited<'a> {
    /// Into these files.
    Start {
        files: &'a [PathBuf],
    },
    Stop,
}

impl AuditLog {
    /// Goes on at the end of the file, or makes it, for its owner only.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }

    /// Writes a line. A recording must not begin without it.
    pub(crate) fn note(
        &mut self,
        wall: SystemTime,
        recording: &Recording,
        what: Audited<'_>,
    ) -> io::Result<()> {
        let seconds = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let by = recording.by.map(|by| by.to_string());
        let mut line = serde_json::json!({
            "time": seconds,
            "call_id": text(&recording.call_id),
            "tags": recording.tags.iter().map(|tag| text(tag)).collect::<Vec<_>>(),
            "by": by.as_deref().unwrap_or("end of the call"),
        });
        match what {
            Audited::Start { files } => {
                line["event"] = "start".into();
                line["files"] = files.iter().map(|file| file.display().to_string()).collect();
                if let Some(name) = &recording.name {
                    line["name"] = text(name).into();
                }
            }
            Audited::Stop => line["event"] = "stop".into(),
        }
        // One write, so that lines of several processes stay whole.
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::core::CallKey;

    #[test]
    fn lines_say_when_who_what_and_where() {
        let folder = std::env::temp_dir().join(format!("dialtone-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("audit.log");
        let mut recording = Recording {
            call: CallKey(1),
            call_id: b"call\n\"x".as_slice().into(),
            tags: vec![b"alice".as_slice().into()],
            by: "10.0.0.1:5000".parse().ok(),
            name: None,
        };
        let wall = UNIX_EPOCH + Duration::from_millis(1_500);
        for _ in 0..2 {
            let mut log = AuditLog::open(&path).expect("a log");
            let files = [PathBuf::from("/x/call.pcap")];
            log.note(wall, &recording, Audited::Start { files: &files }).expect("written");
        }
        recording.by = None;
        let mut log = AuditLog::open(&path).expect("a log");
        log.note(wall, &recording, Audited::Stop).expect("written");
        let text = std::fs::read_to_string(&path).expect("the log");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            serde_json::json!({
                "time": 1.5, "event": "start", "by": "10.0.0.1:5000", "call_id": "call\\n\\\"x",
                "tags": ["alice"], "files": ["/x/call.pcap"],
            })
        );
        assert_eq!(
            (&lines[2]["event"], &lines[2]["by"]),
            (&"stop".into(), &"end of the call".into())
        );
        let mode = std::fs::metadata(&path).expect("the log").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
