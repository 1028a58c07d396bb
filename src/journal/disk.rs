//! What the journal needs of a disk, as a seam, and the real one: a private directory.
//!
//! The seam exists so that a simulator can supply files that lose power, fill up or fail at a chosen call. It is kept
//! to what the journal uses; every name is a plain file name inside the home.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory that the journal owns.
///
/// Durable means here: there after a power cut. What is not said to be durable only outlives the process.
pub trait Disk: Send + Sync {
    /// The home's path, for sentences.
    fn home(&self) -> String;

    /// The names of all files and directories in the home, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file, which must not exist, and opens it. Its name need not be durable.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file this content, durably and in one step: whoever looks, also after a power cut, sees the old file
    /// or the new one.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Renames a file in one step, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. It may come back after a power cut.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Moves files into a new directory inside the home, durably.
    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()>;

    /// Changes nothing any more, whoever still has a file open: it belongs to somebody else by now.
    fn give_up(&self) {}
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset`; an error if the file ends before.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, with one system call unless the disk takes less than all.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file at least `offset + len` long, with zeros, and keeps room for them.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;

    /// Whether the name under which the file was opened still leads to it.
    fn in_place(&self) -> io::Result<bool>;
}

/// Begins the names of files that a replacement has not finished; after a crash whoever owns the home removes them.
pub(super) const UNFINISHED: &str = ".journal-";

/// A real directory, mode 0700, files 0600, no symlink followed.
///
/// It is the directory that was opened, not whatever has its name later: somebody may replace the home of a daemon that
/// runs, and start another daemon there, whose files this one must not touch.
#[derive(Clone, Debug)]
pub struct DirDisk {
    dir: PathBuf,
    /// The same by its descriptor.
    at: PathBuf,
    /// Held open for `at`.
    _opened: Arc<OwnedFd>,
    given_up: Arc<AtomicBool>,
}

impl DirDisk {
    /// Takes a directory, creating it if it is not there. Touches nothing in it: somebody else may be its owner.
    ///
    /// # Errors
    /// The directory cannot be made or read, belongs to somebody else, or others may write in it.
    pub fn open(dir: &Path) -> io::Result<DirDisk> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
        let at = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        let home = fs::metadata(&at)?;
        let denied = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if home.uid() != rustix::process::geteuid().as_raw() {
            return denied("the directory belongs to another user");
        }
        if home.mode() & 0o022 != 0 {
            return denied("other users may write in the directory: chmod 700 it");
        }
        Ok(DirDisk { dir: dir.to_owned(), at, _opened: Arc::new(opened), given_up: Arc::default() })
    }

    fn check_ours(&self) -> io::Result<()> {
        check_ours(&self.given_up)
    }

    fn path(&self, name: &str) -> PathBuf {
        debug_assert!(!name.is_empty() && !name.contains('/'), "{name} is no plain file name");
        self.at.join(name)
    }

    fn sync_dir(dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Opens a regular file and nothing else. O_NONBLOCK keeps a pipe of that name from stopping us for ever.
    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<OpenedFile> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = options.mode(0o600).custom_flags(flags.bits().cast_signed()).open(self.path(name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
        }
        let (path, identity) = (self.dir.join(name), (metadata.dev(), metadata.ino()));
        Ok(OpenedFile { file, path, identity, given_up: self.given_up.clone() })
    }
}

impl Disk for DirDisk {
    fn home(&self) -> String {
        self.dir.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.at)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.open_with(name, OpenOptions::new().read(true))?.file, &mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_with(name, OpenOptions::new().read(true).write(true))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.check_ours()?;
        Ok(Arc::new(self.open_with(name, OpenOptions::new().read(true).write(true).create_new(true))?))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.check_ours()?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.at)?;
        // Not through its wrapper, whose errors name a path that says nothing to a reader.
        file.as_file_mut().write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(self.path(name)).map_err(|error| error.error)?;
        Self::sync_dir(&self.at)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_ours()?;
        fs::rename(self.path(from), self.path(to))?;
        Self::sync_dir(&self.at)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_ours()?;
        fs::remove_file(self.path(name))
    }

    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()> {
        self.check_ours()?;
        let into = self.path(into);
        DirBuilder::new().mode(0o700).create(&into)?;
        for name in names {
            fs::rename(self.path(name), into.join(name))?;
        }
        Self::sync_dir(&into)?;
        Self::sync_dir(&self.at)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }
}

fn check_ours(given_up: &AtomicBool) -> io::Result<()> {
    if given_up.load(Ordering::SeqCst) {
        return Err(io::Error::other("the home is not this daemon's any more"));
    }
    Ok(())
}

struct OpenedFile {
    file: File,
    /// Its name as everybody else sees it.
    path: PathBuf,
    identity: (u64, u64),
    given_up: Arc<AtomicBool>,
}

impl DiskFile for OpenedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_ours(&self.given_up)?;
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        check_ours(&self.given_up)?;
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        check_ours(&self.given_up)?;
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn in_place(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == self.identity),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn disk() -> (tempfile::TempDir, DirDisk) {
        let home = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(&home.path().join("a/home")).unwrap();
        (home, disk)
    }

    #[test]
    fn the_home_and_its_files_are_private() {
        let (_home, disk) = disk();
        disk.replace("replaced", b"x").unwrap();
        disk.create("created").unwrap();
        assert_eq!(fs::metadata(&disk.dir).unwrap().mode() & 0o777, 0o700);
        for name in ["replaced", "created"] {
            assert_eq!(fs::metadata(disk.path(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_home_that_others_may_write_in_is_refused() {
        let (_home, disk) = disk();
        fs::set_permissions(&disk.dir, fs::Permissions::from_mode(0o770)).unwrap();
        let error = DirDisk::open(&disk.dir).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn symlinks_pipes_and_directories_are_no_journal_files() {
        let (_home, disk) = disk();
        disk.replace("real", b"x").unwrap();
        symlink(disk.path("real"), disk.path("link")).unwrap();
        fs::create_dir(disk.path("dir")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, disk.path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for name in ["link", "dir", "pipe"] {
            assert!(disk.open(name).is_err(), "{name}");
            assert!(disk.read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_disk_is_the_directory_that_was_opened_and_not_what_has_its_name_later() {
        let (home, disk) = disk();
        disk.replace("old", b"ours").unwrap();
        let file = disk.open("old").unwrap();
        fs::rename(&disk.dir, home.path().join("away")).unwrap();
        fs::create_dir(&disk.dir).unwrap();
        fs::write(disk.dir.join("old"), "theirs").unwrap();
        assert_eq!((disk.read("old").unwrap(), disk.list().unwrap()), (b"ours".to_vec(), vec!["old".to_owned()]));
        disk.replace("new", b"x").unwrap();
        disk.rename("old", "renamed").unwrap();
        disk.remove("renamed").unwrap();
        disk.set_aside(&["new".to_owned()], "aside").unwrap();
        assert!(!file.in_place().unwrap(), "and whoever looks is told");
        assert_eq!(fs::read(disk.dir.join("old")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(&disk.dir).unwrap().count(), 1);
    }

    #[test]
    fn a_disk_that_was_given_up_changes_nothing_any_more() {
        let (_home, disk) = disk();
        disk.replace("old", b"ours").unwrap();
        let file = disk.open("old").unwrap();
        disk.clone().give_up();
        let tried = [
            file.write_at(0, b"x"),
            file.set_len(0),
            file.allocate(0, 100),
            disk.create("new").map(drop),
            disk.replace("old", b"x"),
            disk.rename("old", "new"),
            disk.remove("old"),
            disk.set_aside(&["old".to_owned()], "aside"),
        ];
        assert!(tried.iter().all(Result::is_err), "{tried:?}");
        assert_eq!((disk.list().unwrap(), disk.read("old").unwrap()), (vec!["old".to_owned()], b"ours".to_vec()));
    }

    #[test]
    fn a_file_is_in_place_until_its_name_leads_elsewhere() {
        let (_home, disk) = disk();
        let file = disk.create("log").unwrap();
        assert!(file.in_place().unwrap());
        disk.replace("log", b"another").unwrap();
        assert!(!file.in_place().unwrap());
        disk.remove("log").unwrap();
        assert!(!file.in_place().unwrap());
    }
}
