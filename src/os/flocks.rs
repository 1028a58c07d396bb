//! The flocks that keep programs out which know nothing but flock(2): one on each file, shared by all our locks there.
//!
//! The table has excluded our own from each other before it asks, so here they share one descriptor: what one lock
//! lets go passes to the next without a gap. What the file system could make wait is left to a file thread: on a mount
//! that waits for a server that is also the close, which ends a flock, and a flock made exclusive.

use crate::model::{Foreigner, LockId, Mode, OsAnswer, Wall};
use crate::os::mounts::{self, Mount};
use crate::scope::{FileId, Target};
use fs4::TryLockError;
use rustix::fs::{FileType, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

/// Descriptors of one process that are looked through for the file that it is said to hold.
const FDS_LOOKED_AT: usize = 1_024;

/// All flocks of a daemon.
#[derive(Debug, Default)]
pub struct Flocks {
    files: HashMap<FileId, Held>,
    of_lock: HashMap<LockId, FileId>,
    /// Locks whose file a file thread is opening.
    opening: HashSet<LockId>,
    /// Files that nobody needs, for a file thread to close.
    closing: Vec<Closing>,
    /// How many descriptors of a file are still to be closed. Until then it is flocked.
    unclosed: HashMap<FileId, usize>,
}

#[derive(Debug)]
struct Held {
    file: Arc<File>,
    /// Where it is mounted, if that may wait for a server.
    mount: Option<Mount>,
    mode: Mode,
    users: BTreeMap<LockId, Mode>,
}

/// A file to be opened and flocked by a file thread.
#[derive(Debug)]
pub struct Opening {
    /// For which lock.
    pub lock: LockId,
    /// Canonical path.
    pub path: Box<[u8]>,
    /// How.
    pub mode: Mode,
    /// When, for messages.
    pub now: Wall,
    /// The file, if it is flocked already and only the mode changes.
    held: Option<Arc<File>>,
}

impl Opening {
    /// Whether the file is flocked already and only the mode changes.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

/// A file on a mount that may wait for a server, to be closed by a file thread.
#[derive(Debug)]
pub struct Closing {
    /// The mount.
    pub mount: Mount,
    /// Which file.
    pub id: FileId,
    /// Closed with the last of its owners.
    _file: Arc<File>,
}

/// What came of an [`Opening`].
#[derive(Debug)]
pub struct Opened {
    /// For which lock.
    pub lock: LockId,
    /// How it was asked for.
    pub mode: Mode,
    /// The flocked file, or the answer that there is none.
    pub result: Result<(Arc<File>, FileId), OsAnswer>,
    /// Its mount, if that may wait for a server.
    pub mount: Option<Mount>,
}

impl Flocks {
    /// Tries to flock the file of a target for a lock. None if a file thread has to: see [`Flocks::opening`].
    pub fn want(&mut self, lock: LockId, target: &Target, mode: Mode, now: Wall) -> Option<OsAnswer> {
        let Some((path, id)) = target.scope.path().zip(target.own_id()) else { return Some(OsAnswer::Unable) };
        if let Some(held) = self.files.get_mut(&id) {
            if held.mode.is_weaker_than(mode) && held.mount.is_some() {
                return None;
            }
            let answer = held.share(lock, mode, now);
            if answer == OsAnswer::Held {
                self.of_lock.insert(lock, id);
            }
            return Some(answer);
        }
        if !mounts::is_local_device(id.device) {
            return None;
        }
        match open(path, ResolveFlags::CACHED | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN | Errno::NOSYS | Errno::PERM) => None,
            // It was replaced since its path was looked up, and ours have the new one already.
            Ok((_, id)) if self.files.get(&id).is_some_and(|held| held.mount.is_none()) => {
                let answer = self.files.get_mut(&id).expect("it was found just now").share(lock, mode, now);
                if answer == OsAnswer::Held {
                    self.of_lock.insert(lock, id);
                }
                Some(answer)
            }
            result => Some(self.opened(Opened { lock, mode, result: flock(result, mode, now), mount: None })),
        }
    }

    /// Notes that a file thread opens the file of a lock, and gives what it needs to know.
    pub fn opening(&mut self, lock: LockId, target: &Target, mode: Mode, now: Wall) -> Opening {
        self.opening.insert(lock);
        let held = target.own_id().and_then(|id| self.files.get(&id)).map(|held| held.file.clone());
        Opening { lock, path: target.scope.path().unwrap_or_default().into(), mode, now, held }
    }

    /// Takes over what a file thread has opened. None if the lock is not wanted any more.
    pub fn finish(&mut self, opened: Opened) -> Option<OsAnswer> {
        if self.opening.remove(&opened.lock) {
            return Some(self.opened(opened));
        }
        if let Ok((file, id)) = opened.result {
            self.close(file, id, opened.mount);
        }
        None
    }

    fn opened(&mut self, opened: Opened) -> OsAnswer {
        let Opened { lock, mode, result, mount } = opened;
        let (file, id) = match result {
            Err(answer) => return answer,
            Ok(found) => found,
        };
        match self.files.entry(id) {
            Entry::Vacant(place) => {
                place.insert(Held { file, mount, mode, users: BTreeMap::from([(lock, mode)]) });
            }
            Entry::Occupied(mut held) => {
                let held = held.get_mut();
                let used = held.users.entry(lock).or_insert(mode);
                *used = stronger(*used, mode);
                if Arc::ptr_eq(&held.file, &file) {
                    held.mode = stronger(held.mode, mode);
                }
                // Else another lock of ours came by the same file meanwhile: its descriptor is kept, ours is one flock
                // more on the way out.
                self.close(file, id, mount);
            }
        }
        self.of_lock.insert(lock, id);
        OsAnswer::Held
    }

    /// The flocked file that a target is, if it is flocked.
    pub fn held(&self, target: &Target) -> Option<(FileId, Arc<File>)> {
        let id = target.own_id()?;
        self.files.get(&id).map(|held| (id, held.file.clone()))
    }

    /// A file was replaced by another that is flocked as well, exclusively: all who shared the flock of the old one
    /// have that of the new one from now on, and so has `lock` if there is one.
    pub fn replaced(
        &mut self,
        old: Option<FileId>,
        (file, id): (Arc<File>, FileId),
        mount: Option<Mount>,
        lock: Option<LockId>,
    ) {
        let mut users = BTreeMap::new();
        if let Some((old, held)) = old.and_then(|old| Some((old, self.files.remove(&old)?))) {
            self.close(held.file, old, held.mount);
            users = held.users;
        }
        users.extend(lock.map(|lock| (lock, Mode::Exclusive)));
        if users.is_empty() {
            return self.close(file, id, mount);
        }
        for user in users.keys() {
            if let Some(before) = self.of_lock.insert(*user, id).filter(|before| *before != id && Some(*before) != old)
            {
                self.leave(*user, before);
            }
        }
        let before = self.files.insert(id, Held { file, mount, mode: Mode::Exclusive, users });
        assert!(before.is_none(), "a file that was only just made is nobody's yet");
    }

    /// A lock does not want its flock any longer.
    pub fn release(&mut self, lock: LockId) {
        self.opening.remove(&lock);
        if let Some(id) = self.of_lock.remove(&lock) {
            self.leave(lock, id);
        }
    }

    /// A lock leaves a file that it shares the flock of.
    fn leave(&mut self, lock: LockId, id: FileId) {
        let held = self.files.get_mut(&id).expect("both maps have it");
        held.users.remove(&lock);
        if held.users.is_empty() {
            // Closing the only descriptor ends the flock.
            let held = self.files.remove(&id).expect("it was found just now");
            self.close(held.file, id, held.mount);
        } else {
            held.relax();
        }
    }

    /// The flock that was taken for `from` is that of `to` from now on, whose own is not wanted any longer.
    pub fn pass(&mut self, from: LockId, to: LockId) {
        self.opening.remove(&to);
        let id = self.of_lock.remove(&from).expect("only a flock that is held is passed on");
        if self.of_lock.get(&to) != Some(&id) {
            self.release(to);
        }
        let users = &mut self.files.get_mut(&id).expect("both maps have it").users;
        let mode = users.remove(&from).expect("both maps have it");
        users.insert(to, mode);
        self.of_lock.insert(to, id);
    }

    /// A lock wants a shared flock from now on, in the place of an exclusive one.
    pub fn share(&mut self, lock: LockId) {
        let held = self.of_lock.get(&lock).and_then(|id| self.files.get_mut(id));
        if let Some(held) = held {
            held.users.insert(lock, Mode::Shared);
            held.relax();
        }
    }

    fn close(&mut self, file: Arc<File>, id: FileId, mount: Option<Mount>) {
        match mount {
            None => drop(file),
            Some(mount) => {
                *self.unclosed.entry(id).or_insert(0) += 1;
                self.closing.push(Closing { mount, id, _file: file });
            }
        }
    }

    /// Whether the file of a target is still being closed, so that its next flock has to wait for that.
    pub fn is_closing(&self, target: &Target) -> bool {
        target.own_id().is_some_and(|id| self.unclosed.contains_key(&id))
    }

    /// Notes that a file thread has closed a file; true if it was the last descriptor that was to be closed.
    pub fn closed(&mut self, id: FileId) -> bool {
        let left = self.unclosed.get_mut(&id).expect("each close is counted before it is done");
        *left -= 1;
        *left == 0 && self.unclosed.remove(&id).is_some()
    }

    /// Whether a lock waits for its file to be opened.
    pub fn is_opening(&self, lock: LockId) -> bool {
        self.opening.contains(&lock)
    }

    /// What file threads are to close.
    pub fn take_closing(&mut self) -> Vec<Closing> {
        std::mem::take(&mut self.closing)
    }

    /// Lets go of everything; what file threads are to close.
    pub fn close_all(&mut self) -> Vec<Closing> {
        for (id, held) in std::mem::take(&mut self.files) {
            self.close(held.file, id, held.mount);
        }
        self.of_lock.clear();
        self.take_closing()
    }

    /// How many files are flocked.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Held {
    /// One lock of ours more on a file that is flocked already, in a stronger mode if need be.
    fn share(&mut self, lock: LockId, mode: Mode, now: Wall) -> OsAnswer {
        if self.mode.is_weaker_than(mode) {
            // The kernel lets go of the shared flock before it tries the exclusive one, so a failure leaves none. The
            // locks that still share it are on their way out, or get it back.
            match make_exclusive(&self.file, now) {
                Ok(()) => self.mode = mode,
                Err(answer) => return answer,
            }
        }
        self.users.insert(lock, mode);
        OsAnswer::Held
    }

    /// Lets foreign readers in again where all of ours share. On a mount that may wait for a server it stays exclusive:
    /// that keeps foreign readers out for longer than need be, and the loop from waiting.
    fn relax(&mut self) {
        let wants_exclusive = self.users.values().any(|mode| *mode == Mode::Exclusive);
        if self.mode == Mode::Shared || wants_exclusive || self.mount.is_some() {
            return;
        }
        // It fails only for file systems that lost the flock anyway.
        if fs4::FileExt::try_lock_shared(&*self.file).is_ok() {
            self.mode = Mode::Shared;
        }
    }
}

/// Makes a shared flock exclusive.
fn make_exclusive(file: &File, now: Wall) -> Result<(), OsAnswer> {
    fs4::FileExt::try_lock(file).map_err(|error| {
        let by = answer_to(&error, file, Mode::Exclusive, now);
        // If a foreigner came in between, those who share it are not protected from it; nobody of ours is harmed.
        let _ = fs4::FileExt::try_lock_shared(file);
        by
    })
}

/// Opens and flocks as a file thread does: for as long as the file system takes.
pub fn open_and_flock(opening: Opening) -> Opened {
    let Opening { lock, path, mode, now, held } = opening;
    let result = match held {
        None => flock(open(&path, ResolveFlags::NO_SYMLINKS), mode, now),
        Some(file) => match id_of(&file) {
            Err(_) => Err(OsAnswer::Unable),
            Ok(id) => make_exclusive(&file, now).map(|()| (file, id)),
        },
    };
    Opened { lock, mode, result, mount: mounts::last_remote_mount(&path) }
}

/// Opens a regular file or a directory for nothing but its flock. Anything else could do things when it is opened.
fn open(path: &[u8], how: ResolveFlags) -> Result<(File, FileId), Errno> {
    let path_only = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::empty();
    let found = rustix::fs::openat2(rustix::fs::CWD, path, path_only, mode, how)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::openat2(rustix::fs::CWD, path, flags, mode, how)?);
    let id = id_of(&file)?;
    Ok((file, id))
}

fn id_of(file: &File) -> Result<FileId, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::TYPE;
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(file, c"", flags, wanted)?;
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    // Replaced in between by something that must not be opened: what was done is done, but it goes no further.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Err(Errno::INVAL);
    }
    Ok(super::paths::identity_of(&stat))
}

fn stronger(a: Mode, b: Mode) -> Mode {
    if a.is_weaker_than(b) { b } else { a }
}

fn flock(opened: Result<(File, FileId), Errno>, mode: Mode, now: Wall) -> Result<(Arc<File>, FileId), OsAnswer> {
    let (file, id) = opened.map_err(|_| OsAnswer::Unable)?;
    let taken = match mode {
        Mode::Shared => fs4::FileExt::try_lock_shared(&file),
        Mode::Exclusive => fs4::FileExt::try_lock(&file),
        Mode::Advisory => unreachable!("an advisory lock wants no flock"),
    };
    match taken {
        Ok(()) => Ok((Arc::new(file), id)),
        Err(error) => Err(answer_to(&error, &file, mode, now)),
    }
}

fn answer_to(error: &TryLockError, file: &File, wanted: Mode, now: Wall) -> OsAnswer {
    match error {
        TryLockError::WouldBlock => OsAnswer::Busy(foreigner(file, wanted, now)),
        TryLockError::Error(_) => OsAnswer::Unable,
    }
}

// ── Who ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Who holds a flock on this file, as far as `/proc` knows.
///
/// The kernel's table names the process that took the flock. It may have died and left the file to a child, or its
/// number may be another's by now: so it is believed only if the process has that flock through a descriptor.
fn foreigner(file: &File, wanted: Mode, seen: Wall) -> Foreigner {
    // Who is in the way of a reader writes; of a writer it could be either, and the table says which.
    let unknown = Foreigner { pid: None, command: None, mode: Mode::Exclusive, seen };
    let (Ok(stat), Ok(table)) = (rustix::fs::fstat(file), std::fs::read("/proc/locks")) else { return unknown };
    let (device, inode) = (stat.st_dev, stat.st_ino);
    let name = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let lines = table.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let found = lines.filter_map(|line| entry(line, &name)).find(|(mode, _)| mode.excludes(wanted));
    let Some((mode, pid)) = found else { return unknown };
    let has_it = holds(pid, &name);
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().filter(|_| has_it);
    Foreigner { pid: has_it.then_some(pid), command: command.map(|name| name.trim_end().into()), mode, seen }
}

/// Reads `7: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF`: mode and process, if it is a flock held on this file.
fn entry(line: &str, file: &str) -> Option<(Mode, u32)> {
    let mut words = line.split_ascii_whitespace();
    let _number = words.next()?;
    // `->` stands before one that waits.
    if words.next()? != "FLOCK" {
        return None;
    }
    let _advisory = words.next()?;
    let mode = match words.next()? {
        "WRITE" => Mode::Exclusive,
        "READ" => Mode::Shared,
        _ => return None,
    };
    let pid = words.next()?.parse().ok()?;
    (words.next()? == file).then_some((mode, pid))
}

/// Whether a process has a flock on this file through one of its descriptors.
///
/// The kernel is asked about the descriptor, not the file behind it, which may lie on a mount that does not answer.
fn holds(pid: u32, file: &str) -> bool {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    fds.flatten().take(FDS_LOOKED_AT).any(|fd| {
        let Ok(told) = std::fs::read(fd.path()) else { return false };
        let told = String::from_utf8_lossy(&told);
        told.lines().filter_map(|line| line.strip_prefix("lock:")).any(|line| entry(line, file).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::paths::{self, Look};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    const NOW: Wall = Wall(7);

    fn target(path: &Path) -> Target {
        paths::target(b"/", path.as_os_str().as_bytes(), Look::Thorough).unwrap()
    }

    /// Whether a program that knows only flock(2) gets the file.
    fn foreign(path: &Path, mode: &str) -> bool {
        Command::new("flock").args(["-n", mode]).arg(path).arg("true").status().unwrap().success()
    }

    /// Wants it, through a file thread's way if the memory does not tell.
    fn want(flocks: &mut Flocks, lock: u64, path: &Path, mode: Mode) -> OsAnswer {
        let (lock, target) = (LockId(lock), target(path));
        flocks.want(lock, &target, mode, NOW).unwrap_or_else(|| {
            let opening = flocks.opening(lock, &target, mode, NOW);
            flocks.finish(open_and_flock(opening)).unwrap()
        })
    }

    #[test]
    fn readers_share_one_flock_and_the_last_one_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "").unwrap();
        let mut flocks = Flocks::default();
        assert_eq!(want(&mut flocks, 1, &path, Mode::Shared), OsAnswer::Held);
        assert_eq!(want(&mut flocks, 2, &path, Mode::Shared), OsAnswer::Held);
        assert_eq!(flocks.len(), 1);
        assert!(foreign(&path, "-s") && !foreign(&path, "-x"));
        flocks.release(LockId(1));
        assert!(!foreign(&path, "-x"));
        flocks.release(LockId(2));
        assert!(foreign(&path, "-x") && flocks.is_empty());
    }

    #[test]
    fn a_writers_flock_passes_on_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let mut flocks = Flocks::default();
        assert_eq!(want(&mut flocks, 1, dir.path(), Mode::Exclusive), OsAnswer::Held);
        assert!(!foreign(dir.path(), "-s"));
        // The next one is asked for before the last one is let go.
        assert_eq!(want(&mut flocks, 2, dir.path(), Mode::Shared), OsAnswer::Held);
        assert!(!foreign(dir.path(), "-s"));
        flocks.release(LockId(1));
        assert!(foreign(dir.path(), "-s") && !foreign(dir.path(), "-x"));
        assert_eq!(want(&mut flocks, 3, dir.path(), Mode::Exclusive), OsAnswer::Held);
        flocks.release(LockId(2));
        assert!(!foreign(dir.path(), "-s"));
        flocks.release(LockId(3));
        assert!(foreign(dir.path(), "-x"));
    }

    #[test]
    fn an_upgrade_takes_the_flock_under_another_name_and_a_downgrade_lets_foreign_readers_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut flocks = Flocks::default();
        assert_eq!(want(&mut flocks, 1, dir.path(), Mode::Shared), OsAnswer::Held);
        let mut reader = Command::new("flock");
        reader.args(["-s"]).arg(dir.path()).args(["sh", "-c", "echo held; cat"]);
        let mut reader = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 5];
        std::io::Read::read_exact(reader.stdout.as_mut().unwrap(), &mut word).unwrap();
        assert!(matches!(want(&mut flocks, 2, dir.path(), Mode::Exclusive), OsAnswer::Busy(_)));
        drop(reader.stdin.take());
        reader.wait().unwrap();
        assert!(!foreign(dir.path(), "-x"), "a refused upgrade is shared as before");
        assert_eq!(want(&mut flocks, 3, dir.path(), Mode::Exclusive), OsAnswer::Held);
        flocks.pass(LockId(3), LockId(1));
        assert!(!foreign(dir.path(), "-s"));
        flocks.release(LockId(3));
        assert!(!foreign(dir.path(), "-s"), "it goes by the name of the lock");
        flocks.share(LockId(1));
        assert!(foreign(dir.path(), "-s") && !foreign(dir.path(), "-x"));
        flocks.release(LockId(1));
        assert!(foreign(dir.path(), "-x") && flocks.is_empty());
    }

    #[test]
    fn a_foreign_holder_is_named_by_process_and_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "").unwrap();
        let mut child = Command::new("flock")
            .args(["-x"])
            .arg(&path)
            .args(["sh", "-c", "echo held; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        let mut flocks = Flocks::default();
        let OsAnswer::Busy(by) = want(&mut flocks, 1, &path, Mode::Shared) else { panic!("it is held") };
        assert_eq!((by.mode, by.seen), (Mode::Exclusive, NOW));
        assert_eq!((by.pid, by.command.as_deref()), (Some(child.id()), Some("flock")));
        assert!(flocks.is_empty());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(want(&mut flocks, 1, &path, Mode::Exclusive), OsAnswer::Held);
    }

    /// As if the file lay on a mount that waits for a server.
    fn remote(flocks: &mut Flocks, lock: u64, path: &Path, mode: Mode) -> OsAnswer {
        let opening = flocks.opening(LockId(lock), &target(path), mode, NOW);
        flocks.finish(Opened { mount: Some(b"/far"[..].into()), ..open_and_flock(opening) }).unwrap()
    }

    #[test]
    fn on_a_mount_that_may_hang_nothing_is_closed_or_made_exclusive_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut flocks = Flocks::default();
        assert_eq!(remote(&mut flocks, 1, dir.path(), Mode::Shared), OsAnswer::Held);
        assert_eq!(flocks.want(LockId(2), &target(dir.path()), Mode::Shared, NOW), Some(OsAnswer::Held));
        flocks.release(LockId(1));
        // A writer takes over from the last reader: by the same descriptor, in a thread.
        assert_eq!(flocks.want(LockId(3), &target(dir.path()), Mode::Exclusive, NOW), None);
        let opening = flocks.opening(LockId(3), &target(dir.path()), Mode::Exclusive, NOW);
        flocks.release(LockId(2));
        let first = flocks.take_closing();
        assert_eq!(first.len(), 1, "and the reader does not wait for it");
        let opened = Opened { mount: Some(b"/far"[..].into()), ..open_and_flock(opening) };
        assert_eq!(flocks.finish(opened), Some(OsAnswer::Held));
        drop(first);
        assert!(!foreign(dir.path(), "-s"));
        flocks.release(LockId(3));
        assert!(flocks.is_empty() && !foreign(dir.path(), "-s"), "it is closed by a thread only");
        drop(flocks.take_closing());
        assert!(foreign(dir.path(), "-x"));
        // What comes too late is closed by a thread, too.
        let opening = flocks.opening(LockId(4), &target(dir.path()), Mode::Exclusive, NOW);
        flocks.release(LockId(4));
        let opened = Opened { mount: Some(b"/far"[..].into()), ..open_and_flock(opening) };
        assert_eq!(flocks.finish(opened), None);
        assert_eq!(flocks.take_closing().len(), 1);
    }

    #[test]
    fn until_it_is_closed_a_file_that_was_let_go_is_known_to_be_flocked() {
        let dir = tempfile::tempdir().unwrap();
        let (mut flocks, target) = (Flocks::default(), target(dir.path()));
        remote(&mut flocks, 1, dir.path(), Mode::Exclusive);
        assert!(!flocks.is_closing(&target));
        flocks.release(LockId(1));
        assert!(flocks.is_closing(&target));
        let closing = flocks.take_closing().remove(0);
        assert!(flocks.closed(closing.id) && !flocks.is_closing(&target));
    }

    #[test]
    fn a_process_that_only_has_the_file_open_is_not_its_holder() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let name = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
        assert!(!holds(std::process::id(), &name));
        fs4::FileExt::try_lock(&file).unwrap();
        assert!(holds(std::process::id(), &name));
    }

    #[test]
    fn what_is_no_file_or_not_there_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let mut flocks = Flocks::default();
        assert_eq!(want(&mut flocks, 1, &fifo, Mode::Exclusive), OsAnswer::Unable);
        let gone = dir.path().join("gone");
        std::fs::write(&gone, "").unwrap();
        let target = target(&gone);
        std::fs::remove_file(&gone).unwrap();
        let opening = flocks.opening(LockId(1), &target, Mode::Exclusive, NOW);
        assert_eq!(flocks.finish(open_and_flock(opening)), Some(OsAnswer::Unable));
    }

    #[test]
    fn what_is_not_wanted_any_more_when_it_comes_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut flocks = Flocks::default();
        let opening = flocks.opening(LockId(1), &target(dir.path()), Mode::Exclusive, NOW);
        flocks.release(LockId(1));
        assert_eq!(flocks.finish(open_and_flock(opening)), None);
        assert!(foreign(dir.path(), "-x"));
    }

    #[test]
    fn only_held_flocks_on_the_very_file_are_read_from_the_kernels_table() {
        let file = "fe:00:131";
        assert_eq!(entry("1: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF", file), Some((Mode::Exclusive, 1234)));
        assert_eq!(entry("1: FLOCK  ADVISORY  READ  1234 fe:00:131 0 EOF", file), Some((Mode::Shared, 1234)));
        for line in [
            "1: -> FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF",
            "1: POSIX  ADVISORY  WRITE 1234 fe:00:131 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 1234 fe:00:1311 0 EOF",
            "",
        ] {
            assert_eq!(entry(line, file), None, "{line}");
        }
    }
}
