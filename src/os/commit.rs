//! Putting a prepared file in the place of another: all that must hold before, the one step, and that it stays so.
//!
//! The target is seen old or new by everybody, never between. All is looked at by descriptor, below the directory that
//! the path was resolved to; what is not as it must be is refused by name, and nothing is changed then.

use super::leases;
use super::paths::identity_of;
use crate::model::{CommitAnswer, Fault, Placed, Prepared, Unchanged};
use crate::planted::{Bug, planted};
use crate::scope::{FileId, Target};
use fs4::TryLockError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How the names of files begin that clients of flockd prepare.
pub const PREFIX: &[u8] = b".flockd-";
/// How they end.
pub const SUFFIX: &[u8] = b".tmp";
/// Bytes hashed at a time.
const CHUNK: usize = 64 * 1024;

// ── What can be called off ──────────────────────────────────────────────────────────────────────────────────────────

/// Whether a replacement may still be called off. Shared by the thread that does it and whoever waits for it.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

const OPEN: u8 = 0;
const CALLED_OFF: u8 = 1;
const PASSED: u8 = 2;

impl Gate {
    /// Calls it off; false if it was begun already, and nothing can be said until the file system has answered.
    pub fn call_off(&self) -> bool {
        match self.0.compare_exchange(OPEN, CALLED_OFF, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(before) => before == CALLED_OFF,
        }
    }

    fn pass(&self) -> Result<(), Fault> {
        match self.0.compare_exchange(OPEN, PASSED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ok(()),
            Err(_) => Err(called_off()),
        }
    }

    fn is_open(&self) -> Result<(), Fault> {
        if self.0.load(Ordering::SeqCst) == OPEN { Ok(()) } else { Err(called_off()) }
    }
}

fn called_off() -> Fault {
    unavailable("the file system took too long; nothing was written")
}

// ── The work ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A file to be put in place.
#[derive(Debug)]
pub struct Task {
    /// Where: canonical, with the identities that its path had.
    pub target: Target,
    /// What.
    pub prepared: Arc<Prepared>,
    /// Whether the new file is to be flocked before it is in place.
    pub flock: bool,
    /// The flock on the file that is there now, kept until the new one is in place.
    pub held: Option<Arc<File>>,
    /// Whether it may still be called off.
    pub gate: Arc<Gate>,
}

/// What came of a [`Task`].
#[derive(Debug)]
pub struct Outcome {
    /// For the table.
    pub answer: CommitAnswer,
    /// The new file, flocked, if it was to be.
    pub flocked: Option<(Arc<File>, FileId)>,
}

/// The two directory entries of a task, and the directory that holds them.
struct Entries<'a> {
    dir: File,
    /// Of the prepared file.
    from: &'a [u8],
    /// Of the target.
    to: &'a [u8],
}

/// Puts a prepared file in place. Takes as long as the file system does.
pub fn put_in_place(task: &Task) -> Outcome {
    match attempt(task) {
        Ok(outcome) => outcome,
        Err(fault) => Outcome { answer: CommitAnswer::Refused(fault), flocked: None },
    }
}

fn attempt(task: &Task) -> Result<Outcome, Fault> {
    task.gate.is_open()?;
    let entries = entries(task)?;
    let Some(new) = open_prepared(&entries, &task.prepared)? else {
        return in_place_already(&entries, &task.prepared);
    };
    is_fit(&entries, &new)?;
    let old = look_at_target(&entries)?;
    is_as_expected(&entries, task, old.is_some())?;
    if let Some(old) = &old {
        keep_what_is_kept(&entries, old, &new)?;
    }
    let wants_flock = task.flock || task.held.is_some();
    let is_flocked = wants_flock && flock(&entries, &new)?;
    // Whatever its maker has done: what is not on the disk must not take the place of what is.
    rustix::fs::fsync(&new).map_err(|errno| failed("syncing the prepared file", errno))?;
    let bytes = u64::try_from(stat(&new)?.st_size).unwrap_or(0);
    let id = identity(&new)?;
    task.gate.pass()?;
    replace(&entries, task)?;
    let placed = Placed { bytes, file: Some(id), flocked: is_flocked, again: false };
    let answer = match rustix::fs::fsync(&entries.dir) {
        Ok(()) => CommitAnswer::InPlace(placed),
        Err(errno) => CommitAnswer::NotDurable(placed, errno.to_string()),
    };
    Ok(Outcome { answer, flocked: is_flocked.then(|| (Arc::new(new), id)) })
}

/// Opens the directory of the target: the very one that its path was resolved through.
fn entries(task: &Task) -> Result<Entries<'_>, Fault> {
    let path = task.target.scope.path().ok_or_else(|| invalid("only a file can be written"))?;
    let slash = path.iter().rposition(|&byte| byte == b'/').expect("canonical paths are absolute");
    let (parent, to) = (&path[..slash.max(1)], &path[slash + 1..]);
    let shown = String::from_utf8_lossy(parent);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat2(rustix::fs::CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let dir = File::from(dir.map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => invalid(&format!("the directory `{shown}` does not exist; make it first")),
        Errno::ACCESS | Errno::PERM => Fault::Denied(format!(
            "the daemon may not read the directory `{shown}`, so it could not sync it; nothing was written"
        )),
        errno => failed("opening the directory of the file", errno),
    })?);
    let below = task.target.scope.components().count();
    if task.target.ids.get(below.wrapping_sub(1)) != Some(&identity(&dir)?) {
        return Err(unavailable(&format!("the directory `{shown}` was moved or replaced meanwhile; ask again")));
    }
    if *task.prepared.name == *to {
        return Err(invalid("the prepared file is the file itself; prepare the new content under another name"));
    }
    Ok(Entries { dir, from: &task.prepared.name, to })
}

/// Opens the prepared file through a description of our own; none if there is nothing of that name.
fn open_prepared(entries: &Entries<'_>, prepared: &Prepared) -> Result<Option<File>, Fault> {
    let name = shown(entries.from);
    let other = || invalid(&format!("{name} is not the file that was prepared; prepare it anew"));
    let found = match rustix::fs::openat(&entries.dir, entries.from, looking(), Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        found => found.map_err(|errno| failed("opening the prepared file", errno))?,
    };
    let kind = stat(&found)?;
    if FileType::from_raw_mode(kind.st_mode) != FileType::RegularFile {
        return Err(invalid(&format!("{name} is no regular file; only such a one can be put in place")));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let new = rustix::fs::openat(&entries.dir, entries.from, flags, Mode::empty())
        .map_err(|errno| failed("opening the prepared file", errno))?;
    let is_it = |stat: &Stat| stat.st_dev == prepared.device && stat.st_ino == prepared.inode;
    if is_it(&kind) && is_it(&stat(&new)?) { Ok(Some(File::from(new))) } else { Err(other()) }
}

/// Whether a file may be put in the place of another: nobody else's, under no other name, and not being written.
fn is_fit(entries: &Entries<'_>, new: &File) -> Result<(), Fault> {
    let (stat, name) = (stat(new)?, shown(entries.from));
    if stat.st_nlink != 1 {
        return Err(invalid(&format!("{name} has {} names; a file is put in place under one only", stat.st_nlink)));
    }
    if stat.st_uid != super::own_uid() {
        return Err(Fault::Denied(format!("{name} belongs to user {}, not to the daemon's", stat.st_uid)));
    }
    match is_still_written(new) {
        Ok(is_open) if !is_open || planted(Bug::OpenFilePutInPlace) => Ok(()),
        Ok(_) => Err(Fault::Denied(format!(
            "{name} is still open for writing; close it, in child processes as well, and ask again"
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Err(Fault::Denied(format!(
            "this file system has no leases, so nobody can tell whether {name} is still being written; write the file \
             under the lock yourself"
        ))),
        Err(error) => Err(unavailable(&format!("whether {name} is still open for writing cannot be told: {error}"))),
    }
}

/// Whether somebody has the file open for writing. One who was just starting a program may have closed it already and
/// still share the descriptor with a child that has not become that program yet: that passes within milliseconds.
fn is_still_written(new: &File) -> std::io::Result<bool> {
    for pause in [1, 2, 4, 8, 16, 32] {
        if !leases::is_open_for_writing(new)? {
            return Ok(false);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded back-off: nothing tells that a child closed a descriptor"
        )]
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
    leases::is_open_for_writing(new)
}

/// What stands at the place of the target, if anything does; only a plain file may.
fn look_at_target(entries: &Entries<'_>) -> Result<Option<Stat>, Fault> {
    let old = match rustix::fs::statat(&entries.dir, entries.to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        old => old.map_err(|errno| failed("looking at the file", errno))?,
    };
    let name = shown(entries.to);
    match FileType::from_raw_mode(old.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(invalid(&format!("{name} is a directory; name a file"))),
        FileType::Symlink => {
            return Err(unavailable(&format!("{name} has become a symbolic link meanwhile; ask again")));
        }
        kind => {
            return Err(invalid(&format!("{name} is {}; only a regular file is replaced", kind_in_words(kind))));
        }
    }
    if old.st_nlink != 1 {
        return Err(invalid(&format!(
            "{name} has {} names (hard links), and replacing one would part it from the others; remove the others, or \
             write it under the lock yourself",
            old.st_nlink
        )));
    }
    if old.st_uid != super::own_uid() {
        return Err(Fault::Denied(format!(
            "{name} belongs to user {}, which a new file in its place could not; write it under the lock yourself",
            old.st_uid
        )));
    }
    Ok(Some(old))
}

fn kind_in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no regular file",
    }
}

/// Whether the target is what the client has read.
fn is_as_expected(entries: &Entries<'_>, task: &Task, is_there: bool) -> Result<(), Fault> {
    let Some(expected) = task.prepared.unchanged else { return Ok(()) };
    let found = if is_there { Some(hash_of(entries, &task.gate)?) } else { None };
    let is_so = match expected {
        Unchanged::Absent => found.is_none(),
        Unchanged::Hash(hash) => found == Some(hash),
    };
    if is_so || planted(Bug::StaleOverwrite) { Ok(()) } else { Err(Fault::Changed(found)) }
}

/// The BLAKE3 hash of what is in the place of the target.
fn hash_of(entries: &Entries<'_>, gate: &Gate) -> Result<[u8; 32], Fault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(&entries.dir, entries.to, flags, Mode::empty())
        .map_err(|errno| failed("reading the file to compare it", errno))?;
    let (mut file, mut hasher, mut chunk) = (File::from(file), blake3::Hasher::new(), vec![0; CHUNK]);
    loop {
        gate.is_open()?;
        match file.read(&mut chunk) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(read) => drop(hasher.update(&chunk[..read])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unavailable(&format!("reading the file to compare it failed: {error}"))),
        }
    }
}

/// Gives the new file group, access list, attributes of users and mode of the old one. Its owner is ours already. What
/// the system gives files by their place, such as security labels, it gives the new one as well.
fn keep_what_is_kept(entries: &Entries<'_>, old: &Stat, new: &File) -> Result<(), Fault> {
    let fresh = stat(new)?;
    if fresh.st_gid != old.st_gid {
        rustix::fs::fchown(new, None, Some(Gid::from_raw(old.st_gid))).map_err(|errno| {
            let name = shown(entries.to);
            Fault::Denied(format!("{name} belongs to group {}, which a new file cannot be given: {errno}", old.st_gid))
        })?;
    }
    let old_file = rustix::fs::openat(&entries.dir, entries.to, looking(), Mode::empty())
        .map_err(|errno| failed("looking at the file", errno))?;
    copy_attributes(&old_file, new).map_err(|errno| {
        let name = shown(entries.to);
        Fault::Denied(format!("{name} has attributes or an access list that a new file cannot be given: {errno}"))
    })?;
    let mode = Mode::from_raw_mode(old.st_mode & 0o7777);
    if stat(new)?.st_mode & 0o7777 != old.st_mode & 0o7777 {
        rustix::fs::fchmod(new, mode).map_err(|errno| failed("giving the new file its mode", errno))?;
    }
    Ok(())
}

/// Makes the attributes of users and the access list of one file those of another.
fn copy_attributes(old: &OwnedFd, new: &File) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // A descriptor that only names a file tells no attributes; its name in /proc does.
    let old = format!("/proc/self/fd/{}", old.as_raw_fd());
    let list = |get: &dyn Fn(&mut [u8]) -> Result<usize, Errno>| -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 64 * 1024];
        match get(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(buffer)
            }
            // A file system without attributes has none.
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    };
    let has = list(&|buffer| rustix::fs::listxattr(&*old, buffer))?;
    let has_new = list(&|buffer| rustix::fs::flistxattr(new, buffer))?;
    for name in kept(&has) {
        let value = list(&|buffer| rustix::fs::getxattr(&*old, name, buffer))?;
        rustix::fs::fsetxattr(new, name, &value, XattrFlags::empty())?;
    }
    for name in kept(&has_new).filter(|name| !kept(&has).any(|other| other == *name)) {
        rustix::fs::fremovexattr(new, name)?;
    }
    Ok(())
}

/// The attributes that belong to the content of a file and not to its place, of a list as the kernel gives it.
fn kept(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = list.split(|&byte| byte == 0);
    names.filter(|name| name.starts_with(b"user.") || *name == b"system.posix_acl_access")
}

/// Flocks the new file, so that whoever knows only flock(2) is kept out of it from its first moment; false where that
/// cannot be had.
fn flock(entries: &Entries<'_>, new: &File) -> Result<bool, Fault> {
    match fs4::FileExt::try_lock(new) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => {
            Err(Fault::Denied(format!("a program has flocked {}; nothing was written", shown(entries.from))))
        }
        Err(TryLockError::Error(_)) => Ok(false),
    }
}

/// The one step.
fn replace(entries: &Entries<'_>, task: &Task) -> Result<(), Fault> {
    let (dir, from, to) = (&entries.dir, entries.from, entries.to);
    let done = match task.prepared.unchanged {
        Some(Unchanged::Absent) => match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // The file system does not know how; it was looked at just now.
            Err(Errno::INVAL) => rustix::fs::renameat(dir, from, dir, to),
            done => done,
        },
        _ => rustix::fs::renameat(dir, from, dir, to),
    };
    // A server whose answer was lost says no to the second try of what it has done.
    let is_done = || found_in_place(entries, &task.prepared).is_some();
    done.or_else(|errno| if is_done() { Ok(()) } else { Err(errno) }).map_err(|errno| match errno {
        Errno::NOENT => invalid("the prepared file was removed before it could be put in place; nothing was written"),
        Errno::EXIST => Fault::Changed(hash_of(entries, &Gate::default()).ok()),
        Errno::BUSY => invalid(&format!("{} is a mount point; nothing was written", shown(to))),
        errno => failed("putting the file in place", errno),
    })
}

/// The prepared file is not there any more: was it put in place by an earlier try?
fn in_place_already(entries: &Entries<'_>, prepared: &Prepared) -> Result<Outcome, Fault> {
    let Some(found) = found_in_place(entries, prepared) else {
        let name = shown(entries.from);
        return Err(invalid(&format!("there is no {name} beside the file; was it removed, or made somewhere else?")));
    };
    let bytes = u64::try_from(found.st_size).unwrap_or(0);
    let placed = Placed { bytes, file: identity_in_place(entries, prepared), flocked: false, again: true };
    let answer = match rustix::fs::fsync(&entries.dir) {
        Ok(()) => CommitAnswer::InPlace(placed),
        Err(errno) => CommitAnswer::NotDurable(placed, errno.to_string()),
    };
    Ok(Outcome { answer, flocked: None })
}

fn identity_in_place(entries: &Entries<'_>, prepared: &Prepared) -> Option<FileId> {
    let file = rustix::fs::openat(&entries.dir, entries.to, looking(), Mode::empty()).ok()?;
    let is_it = |id: &FileId| id.device == prepared.device && id.inode == prepared.inode;
    identity(&File::from(file)).ok().filter(is_it)
}

fn found_in_place(entries: &Entries<'_>, prepared: &Prepared) -> Option<Stat> {
    let found = rustix::fs::statat(&entries.dir, entries.to, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (found.st_dev == prepared.device && found.st_ino == prepared.inode).then_some(found)
}

// ── What killed clients leave behind ────────────────────────────────────────────────────────────────────────────────

/// Removes prepared files beside `target` whose makers are gone: those that nobody has open. A client keeps its own
/// open until it is in place, and the kernel closes it when the client dies, in whatever container that lives.
pub fn sweep(target: &Target) {
    let Some(path) = target.scope.path() else { return };
    let parent = &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0).max(1)];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat2(rustix::fs::CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) else {
        return;
    };
    let Ok(names) = rustix::fs::Dir::read_from(&dir) else { return };
    for name in names.flatten() {
        let name = name.file_name().to_bytes();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && is_left_over(&dir, name) {
            // Whoever comes too late finds it gone, which is as good.
            let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
        }
    }
}

fn is_left_over(dir: &OwnedFd, name: &[u8]) -> bool {
    let Ok(found) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let is_plain = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_nlink == 1;
    if !is_plain || found.st_uid != super::own_uid() {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty()) else { return false };
    // Where leases are not to be had nothing is removed.
    matches!(leases::is_open_elsewhere(&File::from(file)), Ok(false))
}

// ── Parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Names a file without opening it.
fn looking() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn stat(file: impl rustix::fd::AsFd) -> Result<Stat, Fault> {
    rustix::fs::fstat(file).map_err(|errno| failed("looking at a file", errno))
}

fn identity(file: &File) -> Result<FileId, Fault> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::TYPE;
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted);
    stat.map(|stat| identity_of(&stat)).map_err(|errno| failed("looking at a file", errno))
}

fn shown(name: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(name))
}

fn invalid(text: &str) -> Fault {
    Fault::Invalid(text.to_owned())
}

fn unavailable(text: &str) -> Fault {
    Fault::Unavailable(text.to_owned())
}

/// A call failed before anything was changed.
fn failed(what: &str, errno: Errno) -> Fault {
    let why = match errno {
        Errno::NOSPC | Errno::DQUOT => "the disk is full".to_owned(),
        Errno::ROFS => "the file system is read-only".to_owned(),
        Errno::ACCESS | Errno::PERM => {
            return Fault::Denied(format!("{what} failed: the daemon may not; nothing was written"));
        }
        errno => errno.to_string(),
    };
    Fault::Unavailable(format!("{what} failed: {why}; nothing was written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::paths::{self, Look};
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_that_is_still_open_for_writing_is_not_put_in_place_and_a_closed_one_is() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let (from, to) = (root.join(".flockd-1.tmp"), root.join("data"));
        let mut writer = File::create(&from).unwrap();
        writer.write_all(b"half").unwrap();
        let meta = writer.metadata().unwrap();
        let name = from.file_name().unwrap().as_bytes().into();
        let prepared = Arc::new(Prepared { name, device: meta.dev(), inode: meta.ino(), unchanged: None });
        let put = || {
            let target = paths::target(b"/", to.as_os_str().as_bytes(), Look::Thorough).unwrap();
            let gate = Arc::new(Gate::default());
            put_in_place(&Task { target, prepared: prepared.clone(), flock: false, held: None, gate }).answer
        };
        let refused = put();
        assert!(matches!(&refused, CommitAnswer::Refused(Fault::Denied(text)) if text.contains("open for writing")));
        assert!(from.exists() && !to.exists());
        drop(writer);
        assert!(matches!(put(), CommitAnswer::InPlace(_)));
        assert_eq!(std::fs::read(&to).unwrap(), b"half");
    }
}
