//! Records that no broker would take: a file in the state directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde_json::json;

use crate::error::Error;
use crate::kafka::producer::Receipt;

/// `rejected.ndjson`: one JSON object for each record, with its bytes and the reason.
#[derive(Debug)]
pub struct RejectedFile {
    path: PathBuf,
}

impl RejectedFile {
    /// Names the file.
    pub fn new(folder: &Path) -> RejectedFile {
        RejectedFile { path: folder.join("rejected.ndjson") }
    }

    /// Makes the folder, and sees that files can be made in it, before a record depends on it.
    ///
    /// Errors: [`Error::State`].
    pub fn prepare(&self) -> Result<(), Error> {
        let folder = self.path.parent().expect("named inside a folder");
        let failed = |attempt| move |source| Error::State { attempt, path: folder.into(), source };
        fs::create_dir_all(folder).map_err(failed("make"))?;
        let writable = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK);
        writable.map_err(io::Error::from).map_err(failed("write into"))
    }

    /// Appends the rejected records of a receipt; when this returns they survive a power cut.
    ///
    /// Errors: [`Error::State`]: the ground must then not be settled, so the walk stops and the
    /// records are read again.
    pub fn append(&self, receipt: &Receipt) -> Result<(), Error> {
        if receipt.rejects.is_empty() {
            return Ok(());
        }
        log::error!(
            "{} records that the broker cannot take, kept in {}: topic={} partition={}: {}",
            receipt.rejects.len(),
            self.path.display(),
            receipt.topic,
            receipt.partition,
            receipt.rejects[0].reason
        );
        self.write(receipt).map_err(|source| Error::State {
            attempt: "append a rejected record to",
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self, receipt: &Receipt) -> io::Result<()> {
        let mut lines = Vec::new();
        for reject in &receipt.rejects {
            let headers: serde_json::Map<_, _> =
                reject.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
            let line = json!({
                "topic": &*receipt.topic,
                "partition": receipt.partition,
                "reason": reject.reason,
                "code": reject.code,
                "timestamp_ms": reject.timestamp_ms,
                "key": reject.key.as_deref().map(text),
                "headers": headers,
                "value": text(&reject.value),
            });
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        let mut file = self.open()?;
        let len = file.metadata()?.len();
        let written = file.write_all(&lines).and_then(|()| file.sync_all());
        if len == 0 {
            // It is new: its name must survive a power cut as well.
            File::open(self.path.parent().expect("named inside a folder"))?.sync_all()?;
        }
        if written.is_err() {
            // Half a line would spoil the next one; that it stays is no reason for another error.
            let _ = file.set_len(len);
        }
        written
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }
}

/// Text as it is; other bytes as an array of numbers, so that nothing of them is lost.
fn text(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.into(),
    }
}
