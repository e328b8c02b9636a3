//! Secrets in files: passwords, tokens and keys.
//!
//! They are read when they are needed and not kept, so that a new one is taken up with the next
//! connection, and nothing that is logged can hold one. A file that anybody may read is refused, as
//! ssh does, for then the secret is none.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A secret is a line, or a key in PEM; whatever is longer is another file.
const BYTES_MAX: u64 = 64 * 1024;

/// Others than the owner and its group.
const OTHERS: u32 = 0o007;

/// Reads a secret, without the newline at its end. A bare name is one of systemd's credentials.
///
/// Errors: the file's, with its path; it may be read by anybody, or its owner is neither root nor
/// the user of this process; it is empty, not UTF-8 or longer than 64 KiB; there are no credentials.
/// Source: `LoadCredential=` in systemd.exec(5).
pub fn read(file: &Path) -> io::Result<String> {
    let path = locate(file)?;
    let in_file = |error: io::Error| {
        io::Error::new(error.kind(), format!("secret {}: {error}", path.display()))
    };
    read_at(&path).map_err(in_file)
}

/// Time between two looks at the files: a certificate and its key are not replaced at once, and are
/// taken for new only when they were the same for so long.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Tells when files of secrets were replaced.
#[derive(Debug)]
pub struct Watch {
    files: Vec<PathBuf>,
    taken_up: Vec<Option<Stamp>>,
    last: Vec<Option<Stamp>>,
    due: Instant,
}

/// Inode, last change in nanoseconds since 1970, and size.
type Stamp = (u64, i64, u64);

impl Watch {
    /// Begins with the files as they are.
    pub fn new(files: Vec<PathBuf>) -> Watch {
        let seen = stamps(&files);
        Watch { files, taken_up: seen.clone(), last: seen, due: Instant::now() + LOOK_INTERVAL }
    }

    /// Tells whether all of them are there and any is another than when that was last told.
    pub fn has_changed(&mut self, now: Instant) -> bool {
        if self.files.is_empty() || now < self.due {
            return false;
        }
        self.due = now + LOOK_INTERVAL;
        let seen = stamps(&self.files);
        let is_settled = seen == self.last && seen.iter().all(Option::is_some);
        self.last = seen;
        let has_changed = is_settled && self.last != self.taken_up;
        if has_changed {
            self.taken_up.clone_from(&self.last);
        }
        has_changed
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(locate(file).ok()?).ok()?;
        let changed_ns = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
        Some((metadata.ino(), changed_ns, metadata.len()))
    };
    files.iter().map(stamp).collect()
}

fn locate(file: &Path) -> io::Result<PathBuf> {
    if file.is_absolute() {
        return Ok(file.to_owned());
    }
    let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY") else {
        let problem = format!(
            "secret {:?}: there is no $CREDENTIALS_DIRECTORY; name it in LoadCredential= of the \
             unit, or give the path of a file",
            file.display()
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, problem));
    };
    Ok(Path::new(&folder).join(file))
}

fn read_at(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    if metadata.mode() & OTHERS != 0 {
        return Err(io::Error::other("anybody may read it: chmod o= it"));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "it belongs to user {owner}: chown it to root or to the user that runs this"
        )));
    }
    let mut secret = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut secret)?;
    if secret.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("it is longer than 64 KiB"));
    }
    secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
    if secret.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_one_only_while_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let check = |bytes: &[u8], mode: u32, expected: Result<&str, &str>| {
            fs::write(&path, bytes).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            match (read(&path), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret, expected),
                (Err(error), Err(part)) => {
                    let error = error.to_string();
                    assert!(error.contains(part), "{error}");
                    assert!(error.contains(&*path.display().to_string()), "{error}");
                }
                (read, _) => panic!("{read:?}, expected {expected:?}"),
            }
        };
        check(b"hush\r\n", 0o600, Ok("hush"));
        check(b" hu sh ", 0o640, Ok(" hu sh "));
        check(b"hush", 0o644, Err("anybody may read it"));
        check(b"hush", 0o602, Err("anybody may read it"));
        check(b"\n", 0o600, Err("it is empty"));
        check(b"h\xffsh", 0o600, Err("UTF-8"));
        check(&[b'x'; 65_537], 0o600, Err("longer than 64 KiB"));
        fs::remove_file(&path).expect("removed");
        assert!(read(&path).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn what_was_replaced_is_told_once_and_only_when_all_of_it_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ["certificate", "key"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| fs::write(file, "old").expect("written"));
        let mut watch = Watch::new(files.to_vec());
        let mut now = Instant::now();
        let mut look = || {
            now += LOOK_INTERVAL;
            watch.has_changed(now)
        };
        assert!(!look() && !look());
        fs::remove_file(&files[0]).expect("removed");
        assert!(!look() && !look());
        fs::write(&files[0], "new one").expect("written");
        assert!(!look(), "it may still be written");
        fs::write(&files[1], "new one").expect("written");
        assert!(!look() && look() && !look() && !look());
        assert!(!Watch::new(Vec::new()).has_changed(now + LOOK_INTERVAL));
    }

    #[test]
    fn a_bare_name_without_credentials_says_what_to_do() {
        let error = read(Path::new("kafka-password")).unwrap_err().to_string();
        assert!(error.contains("LoadCredential="), "{error}");
    }
}
