//! The home: the private directory with one daemon's socket, locks, journal and log.

use crate::limits;
use crate::model::Invalid;
use crate::os::process;
use crate::scope::FileId;
use fs4::TryLockError;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

const SOCKET: &str = "sock";
const DAEMON_LOCK: &str = "daemon.lock";
const START_LOCK: &str = "start.lock";
const DAEMON_LOG: &str = "daemon.log";
#[cfg(feature = "cli")]
const COMMANDS: &str = "commands";

/// Longest path of a socket that its address holds, without the terminating zero.
const ADDRESS_MAX: usize = 107;
/// How often a lock file may be replaced under the hands of who takes it, before that is called an error.
const REPLACED_MAX: usize = 16;

/// The directory of one daemon's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its absolute path.
    pub dir: PathBuf,
}

impl Home {
    /// The home of this environment: `$FLOCKD_HOME`, else `$XDG_STATE_HOME/flockd`, else `~/.local/state/flockd`.
    /// Empty variables count as unset.
    ///
    /// # Errors
    ///
    /// When the variable that decides is no absolute path, or none is set. A relative one is refused, not skipped:
    /// two agents in two directories must not end up with two daemons.
    pub fn from_env() -> Result<Home, Invalid> {
        Home::from_vars(|name| std::env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Home, Invalid> {
        for (name, below) in [("FLOCKD_HOME", ""), ("XDG_STATE_HOME", "flockd"), ("HOME", ".local/state/flockd")] {
            let Some(value) = var(name).filter(|value| !value.is_empty()) else { continue };
            let dir = Path::new(&value);
            if !dir.is_absolute() {
                let text = format!("${name} is {value:?}, which is no absolute path: set it to one, or unset it");
                return Err(Invalid(text));
            }
            return Ok(Home::at(&dir.join(below)));
        }
        Err(Invalid("no place for the daemon's state: none of $FLOCKD_HOME, $XDG_STATE_HOME, $HOME is set".into()))
    }

    /// A home in the given place.
    pub fn at(dir: &Path) -> Home {
        // Through its components, since `link/` would be followed where `link` is refused.
        Home { dir: dir.components().collect() }
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// What the one daemon of the home holds.
    pub fn daemon_lock(&self) -> PathBuf {
        self.dir.join(DAEMON_LOCK)
    }

    /// What a client holds while it starts a daemon.
    pub fn start_lock(&self) -> PathBuf {
        self.dir.join(START_LOCK)
    }

    /// What the daemon has to say.
    pub fn daemon_log(&self) -> PathBuf {
        self.dir.join(DAEMON_LOG)
    }

    /// Where hooks note which agent runs which command.
    #[cfg(feature = "cli")]
    pub fn commands(&self) -> PathBuf {
        self.dir.join(COMMANDS)
    }

    /// Creates the home if it is missing, parents too, and makes sure that it is private.
    ///
    /// # Errors
    ///
    /// A sentence, when it cannot be created, is a link or no directory, belongs to another user, or is open to
    /// others: then it may have been tampered with, so it is refused and not repaired in silence.
    pub fn ensure(&self) -> io::Result<()> {
        match self.open() {
            Err(error) if error.kind() == ErrorKind::NotFound => self.create().map(drop),
            found => found.map(drop),
        }
    }

    /// Makes sure that it is there and private.
    ///
    /// # Errors
    /// As of [`Home::ensure`], and where it is missing.
    #[cfg(feature = "cli")]
    pub(crate) fn check(&self) -> io::Result<()> {
        self.open().map(drop)
    }

    fn create(&self) -> io::Result<OwnedFd> {
        let failed = |error: io::Error| told(error, format!("cannot create the home {}", self.dir.display()));
        if let Some(parent) = self.dir.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
        }
        match rustix::fs::mkdir(&self.dir, Mode::RWXU) {
            // A strict umask may have taken away even the owner's rights.
            Ok(()) => rustix::fs::chmod(&self.dir, Mode::RWXU).map_err(|errno| failed(errno.into()))?,
            // Another process was faster; what it made is checked like any other.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        self.open()
    }

    /// Opens the home as a place to name files in, after making sure that it is ours alone.
    fn open(&self) -> io::Result<OwnedFd> {
        let shown = self.dir.display();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.dir, flags, Mode::empty())
            .map_err(|errno| told(errno.into(), format!("cannot open the home {shown}")))?;
        let stat = rustix::fs::fstat(&fd)?;
        let refused = |text: String| Err(io::Error::new(ErrorKind::PermissionDenied, text));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => {
                return refused(format!("the home {shown} is a symbolic link: set $FLOCKD_HOME to what it leads to"));
            }
            _ => return refused(format!("the home {shown} is no directory: move it away, or set $FLOCKD_HOME")),
        }
        let us = rustix::process::geteuid().as_raw();
        if stat.st_uid != us {
            let owner = stat.st_uid;
            return refused(format!("the home {shown} belongs to user {owner}, not to {us}: set $FLOCKD_HOME"));
        }
        let mode = stat.st_mode & 0o777;
        if mode != 0o700 {
            let text = format!("the home {shown} has mode {mode:03o}; it must be its owner's alone: chmod 700 {shown}");
            return refused(text);
        }
        Ok(fd)
    }

    /// Calls `with` with an address of the socket that fits, however long the path of the home is.
    fn with_address<T>(&self, dir: &OwnedFd, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let direct = self.socket();
        if direct.as_os_str().as_bytes().len() <= ADDRESS_MAX {
            return with(&direct);
        }
        with(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
    }
}

/// An error with the words that say what was being done.
fn told(error: io::Error, what: String) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

// ── Socket ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Listens on the socket of the home, in place of what a dead daemon left there.
///
/// The lock is asked for because only its holder may take the name away: anybody else could hide a living daemon.
///
/// # Errors
///
/// When the home is not private any more, something that is no socket has its name, or the system refuses.
pub fn bind(lock: &DaemonLock) -> io::Result<UnixListener> {
    let home = &lock.home;
    let dir = home.open()?;
    match rustix::fs::statat(&dir, SOCKET, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            rustix::fs::unlinkat(&dir, SOCKET, AtFlags::empty())?;
        }
        Ok(_) => {
            let text = format!("{} is no socket: move it away", home.socket().display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let failed = |error| told(error, format!("cannot listen on {}", home.socket().display()));
    let listener = home.with_address(&dir, |address| UnixListener::bind(address)).map_err(failed)?;
    rustix::fs::chmodat(&dir, SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    Ok(listener)
}

/// Connects to the daemon of the home.
///
/// # Errors
///
/// `NotFound` or `ConnectionRefused` when no daemon listens; `PermissionDenied` with a sentence when the home is not
/// private, or whoever listens is another user.
pub fn connect(home: &Home) -> io::Result<UnixStream> {
    let dir = home.open()?;
    let stream = home.with_address(&dir, |address| UnixStream::connect(address))?;
    let (theirs, ours) = (process::peer_uid(&stream)?, rustix::process::geteuid().as_raw());
    if theirs != ours {
        let text = format!("{} is served by user {theirs}, not by {ours}", home.socket().display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(stream)
}

// ── Locks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The right to serve a home: an exclusive flock on a file that is never deleted. Given back on drop, or by death.
#[derive(Debug)]
pub struct DaemonLock {
    home: Home,
    /// Which directory the home is.
    dir: FileId,
    /// Which file in it is held.
    id: FileId,
    /// Held open for the flock on it.
    _file: File,
}

/// Why the right to serve a home was not got.
#[derive(Debug)]
pub enum NotTaken {
    /// Another daemon has it; its process number, if it could be read.
    Held {
        /// Number that the holder wrote into the file.
        pid: Option<u32>,
    },
    /// It could not be found out, or the home is unfit.
    Failed(io::Error),
}

impl std::fmt::Display for NotTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotTaken::Held { pid: Some(pid) } => write!(f, "the home is served by process {pid}"),
            NotTaken::Held { pid: None } => f.write_str("the home is served by another process"),
            NotTaken::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotTaken {}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> NotTaken {
        NotTaken::Failed(error)
    }
}

impl DaemonLock {
    /// Takes the right to serve the home, which must exist, without waiting.
    ///
    /// # Errors
    ///
    /// See [`NotTaken`]. A file system that gives an exclusive flock twice is refused: on it two daemons would serve
    /// one home.
    pub fn take(home: &Home) -> Result<DaemonLock, NotTaken> {
        let dir = home.open()?;
        for _ in 0..REPLACED_MAX {
            let mut file = open_lock_file(home, &dir, DAEMON_LOCK)?;
            match fs4::FileExt::try_lock(&file) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(NotTaken::Held { pid: written_pid(&mut file) }),
                Err(TryLockError::Error(error)) => return Err(cannot_lock(home, error).into()),
            }
            let id = id_of(&rustix::fs::fstat(&file).map_err(io::Error::from)?);
            let second = open_lock_file(home, &dir, DAEMON_LOCK)?;
            if id_of(&rustix::fs::fstat(&second).map_err(io::Error::from)?) != id {
                // Deleted or replaced between open and flock: what is held guards nothing.
                continue;
            }
            refuse_if_lockable(home, &second)?;
            write_pid(&mut file)
                .map_err(|error| told(error, format!("cannot write {}", home.daemon_lock().display())))?;
            let dir = id_of(&rustix::fs::fstat(&dir).map_err(io::Error::from)?);
            return Ok(DaemonLock { home: home.clone(), dir, id, _file: file });
        }
        let text = format!("{} is being replaced again and again", home.daemon_lock().display());
        Err(io::Error::other(text).into())
    }

    /// Whether the home is still the directory it was, and the lock file in it the one that is held. If not, the home
    /// was tampered with, and another daemon may have started on it. Cheap enough to be asked before each append.
    pub fn still_ours(&self) -> bool {
        self.is_in_place().unwrap_or(false)
    }

    /// The same, where it can be found out.
    ///
    /// # Errors
    /// The system does not say: nothing is proved then.
    pub fn is_in_place(&self) -> io::Result<bool> {
        let is = |path: &Path, id: FileId| match rustix::fs::lstat(path) {
            Ok(stat) => Ok(id_of(&stat) == id),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(io::Error::from(errno)),
        };
        Ok(is(&self.home.dir, self.dir)? && is(&self.home.daemon_lock(), self.id)?)
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

/// The right to start a daemon in a home, so that many clients start one. Given back on drop.
#[derive(Debug)]
pub struct StartLock {
    /// Held open for the flock on it.
    _file: File,
}

impl StartLock {
    /// Waits for the right to start a daemon, in the order the kernel gives it, for as long as
    /// [`limits::START_WITHIN`].
    ///
    /// flock cannot be told how long to wait, and signals are not a library's to use: so a thread waits, and if it is
    /// not waited for any more, it gives the lock back the moment it gets it.
    ///
    /// # Errors
    ///
    /// `TimedOut` with a sentence when others hold it all the time; whatever the system says.
    pub fn take(home: &Home) -> io::Result<StartLock> {
        StartLock::take_within(home, Duration::from_millis(limits::START_WITHIN))
    }

    fn take_within(home: &Home, bound: Duration) -> io::Result<StartLock> {
        let dir = home.open()?;
        let file = open_lock_file(home, &dir, START_LOCK)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => return Ok(StartLock { _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(cannot_lock(home, error)),
        }
        let (give, got) = sync_channel(1);
        std::thread::Builder::new().name("flockd-start".into()).spawn(move || {
            let locked = lock_through_signals(&file).map(|()| StartLock { _file: file });
            // Nobody there to take it: the lock ends with the message.
            let _ = give.send(locked);
        })?;
        match got.recv_timeout(bound) {
            Ok(locked) => locked.map_err(|error| cannot_lock(home, error)),
            Err(RecvTimeoutError::Timeout) => {
                let file = home.start_lock();
                let text =
                    format!("another process is starting the daemon and does not finish; see who holds {file:?}");
                Err(io::Error::new(ErrorKind::TimedOut, text))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the thread that waits for the start lock died"))
            }
        }
    }
}

fn lock_through_signals(file: &File) -> io::Result<()> {
    loop {
        match fs4::FileExt::lock(file) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn cannot_lock(home: &Home, error: io::Error) -> io::Error {
    let shown = home.dir.display();
    told(error, format!("the file system of the home {shown} does not lock files; set $FLOCKD_HOME to a local one"))
}

/// Opens a lock file of the home, creating it if it is missing.
fn open_lock_file(home: &Home, dir: &OwnedFd, name: &str) -> io::Result<File> {
    let shown = home.dir.join(name);
    // Without NONBLOCK a pipe in its place could be waited for.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => fd,
        Err(Errno::LOOP) => return Err(unfit(&shown)),
        Err(errno) => return Err(told(errno.into(), format!("cannot open {}", shown.display()))),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !ours {
        return Err(unfit(&shown));
    }
    if stat.st_mode & 0o777 != 0o600 {
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    }
    Ok(File::from(fd))
}

fn unfit(path: &Path) -> io::Error {
    let text = format!("{} is no regular file of this user: move it away", path.display());
    io::Error::new(ErrorKind::PermissionDenied, text)
}

/// An exclusive flock is held on this file through another descriptor: to get a second one proves that they mean
/// nothing here.
fn refuse_if_lockable(home: &Home, second: &File) -> io::Result<()> {
    match fs4::FileExt::try_lock(second) {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(cannot_lock(home, error)),
        Ok(()) => {
            let shown = home.dir.display();
            let text = format!(
                "the file system of the home {shown} gives one exclusive lock to two holders, so two daemons could \
                 serve it; set $FLOCKD_HOME to a local one"
            );
            Err(io::Error::new(ErrorKind::Unsupported, text))
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    // Emptied first: a reader may find no number, but never a mixture of two.
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn written_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

fn id_of(stat: &Stat) -> FileId {
    FileId { device: stat.st_dev, inode: stat.st_ino, birth: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn fresh_home(place: &tempfile::TempDir) -> Home {
        let home = Home::at(&place.path().join("home"));
        home.ensure().unwrap();
        home
    }

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn held_by(taken: Result<DaemonLock, NotTaken>) -> Option<u32> {
        match taken {
            Err(NotTaken::Held { pid }) => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a lock that was just given back. Another test's child may hold a copy of it from its fork to its exec.
    fn taken_again(home: &Home) -> DaemonLock {
        loop {
            match DaemonLock::take(home) {
                Err(NotTaken::Held { .. }) => std::thread::yield_now(),
                taken => return taken.unwrap(),
            }
        }
    }

    fn from(vars: &[(&str, &str)]) -> Result<Home, Invalid> {
        Home::from_vars(|name| vars.iter().find(|var| var.0 == name).map(|var| var.1.into()))
    }

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let all = [("FLOCKD_HOME", "/f/"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(from(&all).unwrap().dir, Path::new("/f"));
        assert_eq!(from(&all[1..]).unwrap().dir, Path::new("/x/flockd"));
        assert_eq!(from(&all[2..]).unwrap().dir, Path::new("/h/.local/state/flockd"));
        assert_eq!(from(&[("FLOCKD_HOME", ""), ("XDG_STATE_HOME", ""), ("HOME", "/h")]), from(&all[2..]));
        assert_eq!(from(&all).unwrap().socket(), Path::new("/f/sock"));
    }

    #[test]
    fn a_relative_home_is_refused_by_the_name_of_its_variable_and_not_skipped() {
        for name in ["FLOCKD_HOME", "XDG_STATE_HOME", "HOME"] {
            let mut vars = vec![(name, "relative/dir")];
            if name != "HOME" {
                vars.push(("HOME", "/h"));
            }
            let error = from(&vars).unwrap_err().0;
            assert!(error.contains(name) && error.contains("absolute"), "{error}");
        }
        assert!(from(&[]).unwrap_err().0.contains("$HOME"));
    }

    #[test]
    fn a_missing_home_is_made_private_with_its_parents() {
        let place = place();
        let home = Home::at(&place.path().join("a/b/home"));
        assert_eq!(connect(&home).unwrap_err().kind(), ErrorKind::NotFound);
        home.ensure().unwrap();
        for dir in ["a", "a/b", "a/b/home"] {
            assert_eq!(mode_of(&place.path().join(dir)), 0o700);
        }
        home.ensure().unwrap();
    }

    #[test]
    fn a_home_that_others_could_touch_is_refused_and_left_as_it_is() {
        let place = place();
        let home = fresh_home(&place);
        for mode in [0o755, 0o770, 0o701, 0o704, 0o500] {
            fs::set_permissions(&home.dir, fs::Permissions::from_mode(mode)).unwrap();
            let error = home.ensure().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("chmod 700"), "{error}");
            assert_eq!(mode_of(&home.dir), mode);
            assert!(DaemonLock::take(&home).is_err() && connect(&home).is_err());
        }
    }

    #[test]
    fn a_link_or_a_file_is_no_home() {
        let place = place();
        let real = fresh_home(&place);
        symlink(&real.dir, place.path().join("link")).unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        for (name, word) in [("link", "symbolic link"), ("link/", "symbolic link"), ("file", "no directory")] {
            let error = Home::at(&place.path().join(name)).ensure().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        symlink("nowhere", place.path().join("dangling")).unwrap();
        assert!(Home::at(&place.path().join("dangling")).ensure().is_err());
    }

    #[test]
    fn a_home_of_another_user_is_refused() {
        let place = place();
        let home = fresh_home(&place);
        let other = rustix::process::geteuid().as_raw() + 1;
        if std::os::unix::fs::chown(&home.dir, Some(other), None).is_err() {
            // Only root can give a directory away.
            return;
        }
        let error = home.ensure().unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to user {other}")), "{error}");
    }

    #[test]
    fn a_home_is_served_once_and_the_refusal_names_the_holder() {
        let place = place();
        let home = fresh_home(&place);
        let lock = DaemonLock::take(&home).unwrap();
        assert!(lock.still_ours());
        assert_eq!(held_by(DaemonLock::take(&home)), Some(std::process::id()));
        assert_eq!(mode_of(&home.daemon_lock()), 0o600);
        drop(lock);
        assert!(home.daemon_lock().exists());
        assert!(taken_again(&home).still_ours());
    }

    #[test]
    fn a_lock_file_held_by_a_stranger_is_held_by_nobody_known() {
        let place = place();
        let home = fresh_home(&place);
        for (text, pid) in [("", None), ("junk\n", None), ("12", None), ("12\n", Some(12)), ("99999999999\n", None)] {
            fs::write(home.daemon_lock(), text).unwrap();
            let file = File::open(home.daemon_lock()).unwrap();
            fs4::FileExt::lock(&file).unwrap();
            assert_eq!(held_by(DaemonLock::take(&home)), pid, "{text:?}");
        }
    }

    #[test]
    fn a_lock_file_that_was_deleted_or_replaced_or_whose_home_is_gone_is_not_ours_any_more() {
        let place = place();
        let home = fresh_home(&place);
        let lock = DaemonLock::take(&home).unwrap();
        fs::remove_file(home.daemon_lock()).unwrap();
        assert!(!lock.still_ours());
        let usurper = DaemonLock::take(&home).unwrap();
        assert!(!lock.still_ours() && usurper.still_ours());
        let elsewhere = place.path().join("elsewhere");
        fs::rename(&home.dir, &elsewhere).unwrap();
        assert!(!usurper.still_ours());
        // A link leads to the very file, and the home that clients see is none.
        symlink(&elsewhere, &home.dir).unwrap();
        assert!(!usurper.still_ours());
        fs::remove_file(&home.dir).unwrap();
        fresh_home(&place);
        assert!(!usurper.still_ours());
    }

    #[test]
    fn what_is_no_regular_file_is_no_lock_file() {
        let place = place();
        let home = fresh_home(&place);
        fs::write(place.path().join("other"), "precious").unwrap();
        let in_its_place: [&dyn Fn(&Path); 3] = [
            &|path| symlink(place.path().join("other"), path).unwrap(),
            &|path| fs::create_dir(path).unwrap(),
            &|path| drop(UnixListener::bind(path).unwrap()),
        ];
        for put in in_its_place {
            put(&home.daemon_lock());
            assert!(matches!(DaemonLock::take(&home), Err(NotTaken::Failed(_))));
            fs::rename(home.daemon_lock(), place.path().join("away")).unwrap();
            let _ = fs::remove_file(place.path().join("away"));
            let _ = fs::remove_dir(place.path().join("away"));
        }
        assert_eq!(fs::read(place.path().join("other")).unwrap(), b"precious");
    }

    #[test]
    fn a_file_system_that_locks_twice_is_refused() {
        let place = place();
        let home = fresh_home(&place);
        // An unlocked file is what such a file system makes of a locked one.
        let second = File::create(home.daemon_lock()).unwrap();
        let error = refuse_if_lockable(&home, &second).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("$FLOCKD_HOME"));
    }

    /// The descriptors are closed on exec, so no program that the daemon starts keeps its home locked.
    #[test]
    fn a_program_started_meanwhile_does_not_keep_the_lock() {
        let place = place();
        let home = fresh_home(&place);
        let lock = DaemonLock::take(&home).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        drop(lock);
        assert!(taken_again(&home).still_ours());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_client_connects_to_the_daemon_of_its_home_however_long_the_path_is() {
        let place = place();
        for depth in [0, 1, 20] {
            let home = Home::at(&place.path().join("long-directory-name/".repeat(depth)).join("home"));
            home.ensure().unwrap();
            assert_eq!(depth == 20, home.socket().as_os_str().len() > 300);
            let lock = DaemonLock::take(&home).unwrap();
            let listener = bind(&lock).unwrap();
            assert_eq!(mode_of(&home.socket()), 0o600);
            let mut near = connect(&home).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            near.write_all(b"x").unwrap();
            far.read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn a_stale_socket_refuses_and_is_replaced_and_nothing_else_is() {
        let place = place();
        let home = fresh_home(&place);
        let lock = DaemonLock::take(&home).unwrap();
        drop(bind(&lock).unwrap());
        let refused = loop {
            // Another test's child may listen with a copy from its fork to its exec.
            match connect(&home) {
                Ok(_) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let listener = bind(&lock).unwrap();
        assert!(connect(&home).is_ok());
        drop(listener);
        fs::remove_file(home.socket()).unwrap();
        fs::write(home.socket(), "precious").unwrap();
        assert_eq!(bind(&lock).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(home.socket()).unwrap(), b"precious");
    }

    #[test]
    fn one_starts_the_daemon_and_the_others_wait_their_turn() {
        let place = place();
        let home = fresh_home(&place);
        let first = StartLock::take(&home).unwrap();
        let late = StartLock::take_within(&home, Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let home = home.clone();
                std::thread::spawn(move || StartLock::take(&home).map(drop))
            })
            .collect();
        drop(first);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        // The thread of the one that gave up has given the lock back, or will.
        assert!(StartLock::take(&home).is_ok());
    }
}
