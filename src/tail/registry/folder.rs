//! The state directory: held by one process, and written to so that a power cut does no harm.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::planted::{self, Bug};

/// Stands in the lock file once a registry was saved beside it: from then on a missing registry
/// is damage, and no first start.
const MARK: &[u8] = b"a registry was saved here\n";

/// 64 KiB a write.
const WRITE_BYTES: usize = 64 << 10;

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Kept open: the lock ends with the process, however it ends.
    lock: File,
    /// Which file `lock` is, for [`FolderWatch`].
    identity: Arc<AtomicU64>,
    is_marked: bool,
}

impl StateFolder {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// Errors: [`Error::Locked`] while another process works there; [`Error::State`].
    pub fn lock(path: &Path) -> Result<StateFolder, Error> {
        make(path).map_err(|source| state("make", path, source))?;
        let file = path.join("lock");
        let lock = open_lock(&file).map_err(|source| state("open", &file, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked { path: file }),
            Err(fs::TryLockError::Error(source)) => return Err(state("lock", &file, source)),
        }
        give_to_owner_of(path, &lock).map_err(|source| state("give away", &file, source))?;
        let inspected = is_marked(&lock).and_then(|mark| Ok((mark, lock.metadata()?)));
        let (is_marked, metadata) = inspected.map_err(|source| state("read", &file, source))?;
        let identity = Arc::new(AtomicU64::new(identity(&metadata)));
        Ok(StateFolder { path: path.into(), lock, identity, is_marked })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether a registry was ever saved here.
    pub fn had_registry(&self) -> bool {
        self.is_marked
    }

    /// Notes that a registry was saved here.
    ///
    /// Errors: the disk's; it is then noted with a later save.
    pub fn note_registry(&mut self) -> io::Result<()> {
        if !self.is_marked {
            self.lock.write_all_at(MARK, 0)?;
            self.lock.sync_all()?;
            self.is_marked = true;
        }
        Ok(())
    }

    /// Makes and locks the folder anew if it was deleted, or another was put in its place, and
    /// tells whether that was so: then nothing that was saved is there any more.
    ///
    /// Errors: the disk's, or that another process works in the new one.
    pub fn hold(&mut self) -> io::Result<bool> {
        if self.watch().is_in_place() {
            return Ok(false);
        }
        let held = StateFolder::lock(&self.path).map_err(|error| match error {
            Error::State { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        self.identity.store(held.identity.load(Ordering::Relaxed), Ordering::Relaxed);
        self.lock = held.lock;
        self.is_marked = held.is_marked;
        Ok(true)
    }

    /// Returns what tells another thread whether the folder is still in its place.
    pub fn watch(&self) -> FolderWatch {
        FolderWatch { lock: self.path.join("lock"), identity: Arc::clone(&self.identity) }
    }

    /// Writes a new file; when this returns, its bytes, though not its name, survive a power cut.
    ///
    /// Errors: the disk's; nothing of it is left, for a full disk needs the room.
    pub fn write_new<T>(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<T>,
    ) -> io::Result<T> {
        let path = self.path.join(name);
        remove_if_there(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = give_to_owner_of(&self.path, &file).and_then(|()| {
            let mut buffer = BufWriter::with_capacity(WRITE_BYTES, &file);
            let written = write(&mut buffer)?;
            buffer.flush()?;
            if !planted::is(Bug::NoFsync) {
                file.sync_all()?;
            }
            Ok(written)
        });
        // Whatever it says, the first error is the cause.
        written.inspect_err(|_| drop(remove_if_there(&path)))
    }

    /// Gives a file a further name; whatever had it before has not.
    pub fn link(&self, from: &str, to: &str) -> io::Result<()> {
        remove_if_there(&self.path.join(to))?;
        fs::hard_link(self.path.join(from), self.path.join(to))
    }

    /// Renames a file, in place of what had the name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Tells whether there is a file of this name.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        fs::exists(self.path.join(name))
    }

    /// When this returns, the names of all its files survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        let folder = File::open(&self.path)?;
        if planted::is(Bug::NoFolderFsync) { Ok(()) } else { folder.sync_all() }
    }
}

/// Tells whether the state directory is still the one that was locked.
#[derive(Debug, Clone)]
pub struct FolderWatch {
    lock: PathBuf,
    identity: Arc<AtomicU64>,
}

impl FolderWatch {
    /// Looks. A folder that cannot be looked at counts as being in its place.
    pub fn is_in_place(&self) -> bool {
        match fs::metadata(&self.lock) {
            Ok(metadata) => identity(&metadata) == self.identity.load(Ordering::Relaxed),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// Device and inode as one number: an inode that is held open is given to no other file.
fn identity(metadata: &Metadata) -> u64 {
    metadata.ino() ^ metadata.dev().rotate_left(32)
}

/// Makes the folder if it is not there; its name then survives a power cut.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Gives a file that root has made to the owner of its folder: after `sudo shipper checkpoint` the
/// service, which is somebody else, must still be able to read what lies there.
pub fn give_to_owner_of(folder: &Path, file: &File) -> io::Result<()> {
    let (folder, made) = (fs::metadata(folder)?, file.metadata()?);
    if made.uid() == 0 && folder.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_marked(lock: &File) -> io::Result<bool> {
    let mut bytes = Vec::new();
    lock.take(MARK.len() as u64).read_to_end(&mut bytes)?;
    Ok(bytes == MARK)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn state(attempt: &'static str, path: &Path, source: io::Error) -> Error {
    Error::State { attempt, path: path.into(), source }
}
