//! The data directory: whose it is, who holds it, and what happens to damage found in it.
//!
//! ```text
//! <dir>/lock           held by the process that uses the directory
//!       format         "bequest-storage format=2 crc=..."; written last when the directory is created
//!       rocksdb/       the database
//!       condemned      reason; written when damage is met while running, so that the next open moves rocksdb/ aside
//!       damaged-<n>/   a database that was moved aside, with its reason; never deleted by the program
//! ```
//!
//! Damage is moved within the directory, not beside it: the directory may be a mount point, or its parent not ours to
//! write to, and the lock stays where it is.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::StorageError;

const FORMAT: u32 = 2;
const LOCK_FILE: &str = "lock";
const FORMAT_FILE: &str = "format";
const DATABASE: &str = "rocksdb";
const CONDEMNED_FILE: &str = "condemned";
const DAMAGED_PREFIX: &str = "damaged-";

/// A locked data directory of a format this version reads.
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
    new: bool,
}

/// A database that was moved aside.
pub(crate) struct Moved {
    pub(crate) to: PathBuf,
    pub(crate) reason: String,
}

impl Directory {
    /// Locks `path`, creating it if need be; returns also what was moved aside because it cannot be used.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Moved>), StorageError> {
        fs::create_dir_all(path).map_err(|error| io_error("create the data directory", path, error))?;
        let marker = read_if_there(&path.join(FORMAT_FILE))?;
        if marker.is_none() {
            // Look before the lock file is made: a foreign directory is left exactly as it was.
            refuse_foreign(path)?;
        }
        let mut directory = Self { path: path.to_owned(), lock: take_lock(path)?, new: false };
        let found = marker.as_deref().map(parse_marker);
        if let Some(Marker::Format(found)) = found {
            if found > FORMAT {
                return Err(StorageError::UnsupportedFormat { found, max: FORMAT });
            }
        }
        let condemned = read_if_there(&path.join(CONDEMNED_FILE))?;
        let current = directory.database().join("CURRENT");
        let reason = match (found, condemned) {
            (None, _) => Some("its creation was interrupted, or its format file is missing".to_owned()),
            (Some(Marker::Damaged), _) => Some("its format file is damaged".to_owned()),
            (_, Some(reason)) => Some(String::from_utf8_lossy(&reason).into_owned()),
            (Some(Marker::Format(found)), _) if found < FORMAT => {
                Some(format!("it is in format {found}, which this version does not read any more"))
            }
            // RocksDB would create an empty database over the remains, and remove them as obsolete.
            _ if !exists(&current)? => Some("its file CURRENT is missing".to_owned()),
            _ => None,
        };
        let moved = match reason {
            Some(reason) => directory.move_aside(&reason)?,
            None => None,
        };
        Ok((directory, moved))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database lies.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Whether the database has yet to be created; [`Directory::adopt`] follows.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    /// Declares the database created: from now on the directory is ours, and what is missing in it is damage.
    pub(crate) fn adopt(&mut self) -> Result<(), StorageError> {
        let body = format!("bequest-storage format={FORMAT}");
        let text = format!("{body} crc={:08x}\n", crc32c::crc32c(body.as_bytes()));
        write_durably(&self.path, FORMAT_FILE, text.as_bytes())
            .map_err(|error| io_error("write the format file", &self.path.join(FORMAT_FILE), error))?;
        self.new = false;
        Ok(())
    }

    /// Moves the database aside, if there is one, so that a new one can be created.
    pub(crate) fn move_aside(&mut self, reason: &str) -> Result<Option<Moved>, StorageError> {
        self.new = true;
        // Without the format file an interrupted move is finished by the next open.
        remove_if_there(&self.path.join(FORMAT_FILE))?;
        let database = self.database();
        let moved = if exists(&database)? {
            let to = self.free_name()?;
            fs::rename(&database, &to).map_err(|error| io_error("move damaged data aside", &database, error))?;
            tracing::error!(to = %to.display(), reason, "local data is damaged and was moved aside");
            // The reason beside the files is for whoever looks at them later; nothing depends on it.
            let _ = fs::write(to.join("reason"), format!("{reason}\n"));
            Some(Moved { to, reason: reason.to_owned() })
        } else {
            None
        };
        remove_if_there(&self.path.join(CONDEMNED_FILE))?;
        sync_directory(&self.path).map_err(|error| io_error("sync the data directory", &self.path, error))?;
        Ok(moved)
    }

    /// Has the next open move the database aside. Best effort: the disk has just failed.
    pub(crate) fn condemn(&self, reason: &str) {
        if let Err(error) = write_durably(&self.path, CONDEMNED_FILE, reason.as_bytes()) {
            tracing::error!(%error, reason, "cannot mark the local data as damaged");
        }
    }

    /// Fails if the name of the directory no longer leads to the files in use.
    pub(crate) fn check_in_place(&self) -> Result<(), StorageError> {
        let vanished = || StorageError::Vanished { dir: self.path.clone() };
        let held = self.lock.metadata().map_err(|_| vanished())?;
        let named = fs::metadata(self.path.join(LOCK_FILE)).map_err(|_| vanished())?;
        if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
            Ok(())
        } else {
            Err(vanished())
        }
    }

    fn free_name(&self) -> Result<PathBuf, StorageError> {
        for number in 1..u32::MAX {
            let name = self.path.join(format!("{DAMAGED_PREFIX}{number}"));
            if !exists(&name)? {
                return Ok(name);
            }
        }
        Err(io_error("find a free name", &self.path, ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that was just started still has a copy of it.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}

enum Marker {
    Format(u32),
    Damaged,
}

fn parse_marker(bytes: &[u8]) -> Marker {
    let parse = || {
        let (body, crc) = std::str::from_utf8(bytes).ok()?.trim_end().rsplit_once(" crc=")?;
        let whole = u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(body.as_bytes());
        let format = body.strip_prefix("bequest-storage format=")?.parse().ok()?;
        whole.then_some(Marker::Format(format))
    };
    parse().unwrap_or(Marker::Damaged)
}

fn refuse_foreign(path: &Path) -> Result<(), StorageError> {
    let list = |error| io_error("list the data directory", path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(list)? {
        names.push(entry.map_err(list)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let ours = |name: &str| {
        // A file system of its own has lost+found.
        matches!(name, LOCK_FILE | DATABASE | CONDEMNED_FILE | "lost+found")
            || name.starts_with(DAMAGED_PREFIX)
            || name == temporary(FORMAT_FILE)
            || name == temporary(CONDEMNED_FILE)
    };
    match names.into_iter().find(|name| !ours(name)) {
        Some(found) => Err(StorageError::ForeignDirectory { dir: path.to_owned(), found }),
        None => Ok(()),
    }
}

fn take_lock(path: &Path) -> Result<File, StorageError> {
    let name = path.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| io_error("open the lock file", &name, error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StorageError::InUse { dir: path.to_owned() }),
        Err(error) => Err(io_error("lock the data directory", &name, error.into())),
    }
}

fn temporary(name: &str) -> String {
    format!("{name}.new")
}

/// Replaces `dir/name` by `bytes`: after a crash there is the old content or the new one.
fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(temporary(name));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path, error)),
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> Result<bool, StorageError> {
    path.try_exists().map_err(|error| io_error("look at", path, error))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> StorageError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StorageError::DiskFull { dir: path.to_owned(), cause: source.to_string() }
        }
        _ => StorageError::Io { what, path: path.to_owned(), source },
    }
}
