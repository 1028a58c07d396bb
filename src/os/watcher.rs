//! Files watched for writes: the directories that they are in, by inotify, and what was seen of them.
//!
//! A hint, never the truth. What is seen is late, a store through a mapping is not seen at all, and neither is what
//! happens before the watch stands. Only local file systems are watched: of others the kernel sees what this machine
//! does and no more, and to ask them may hang.
//!
//! Directories are watched, not files: a file that is replaced takes its watch with it, and a thousand files of one
//! directory cost one watch. Watches are set by a file thread, since that walks a path, and one at a time.
//!
//! What was seen waits in a map and not in a channel: a file that is written a thousand times is one entry, so that
//! there are never more than files and nothing has to be thrown away.

use crate::limits;
use crate::model::{Moment, Wrote};
use crate::os::files::{FilePool, Visit};
use crate::os::mounts;
use crate::planted::{Bug, planted};
use notify::event::{ModifyKind, RenameMode};
use notify::{Config, ErrorKind, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The watched files of a daemon.
pub struct Watcher {
    shared: Arc<Shared>,
    pool: FilePool<Job>,
    /// Every directory with a file that is to be watched, and those that were of late.
    dirs: HashMap<Box<[u8]>, Dir>,
    /// How many of them have a watch.
    watched: usize,
    /// Directories with a watch that nobody needs, oldest first.
    idle: VecDeque<Box<[u8]>>,
}

#[derive(Default)]
struct Dir {
    /// How often its files are to be watched.
    files: usize,
    is_watched: bool,
}

/// What the loop, the thread that sets watches and the thread that reads events share. Nothing is done under its lock
/// that could wait.
struct Shared {
    state: Mutex<State>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    files: HashMap<Box<[u8]>, File>,
    /// Directories whose watch stands.
    dirs: HashSet<Box<[u8]>>,
    /// Directories that were to have one and have none: they are not there, or moved away.
    without: HashSet<Box<[u8]>>,
    /// Files that were written to, in order, each with what happened first.
    seen: Vec<(Box<[u8]>, Wrote)>,
    troubles: BTreeMap<Trouble, Noted>,
}

/// How often there was a trouble since that was last told, and when that was.
#[derive(Clone, Copy, Default)]
struct Noted {
    times: u64,
    told: Option<Moment>,
}

impl Noted {
    /// When there is something to tell; none if there is nothing.
    fn due(self) -> Option<Moment> {
        let at = self.told.map_or(Moment(0), |told| told.after(limits::WATCH_TROUBLE_WITHIN));
        (self.times > 0 && !(planted(Bug::TroubleToldOnce) && self.told.is_some())).then_some(at)
    }
}

#[derive(Default)]
struct File {
    /// How often it is to be watched.
    times: usize,
    is_seen: bool,
}

/// Why not all is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    TooMany,
    Busy,
    Refused,
    Lost,
}

impl Trouble {
    fn text(self) -> String {
        match self {
            Trouble::TooMany => format!(
                "files of more than {} directories are locked by readers: writes around the locks in further ones are \
                 not told",
                limits::WATCHED_DIRS_MAX
            ),
            Trouble::Busy => "the thread that watches directories does not keep up, so that some writes around the \
                              locks are not told; a directory left out is tried again with the next lock in it"
                .to_owned(),
            Trouble::Refused => "the system lets no more directories be watched, so that some writes around the locks \
                                 are not told; fs.inotify.max_user_watches and max_user_instances say how many may be"
                .to_owned(),
            Trouble::Lost => "more happened to watched files than the system keeps, so that some writes around the \
                              locks were not told"
                .to_owned(),
        }
    }
}

enum Job {
    Watch(Box<[u8]>),
    Forget(Box<[u8]>),
}

impl Watcher {
    /// Nothing is watched yet; `wake` is called when something was seen.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Watcher {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Box::new(wake) });
        let pool = pool(limits::FILE_QUEUE, shared.clone());
        Watcher { shared, pool, dirs: HashMap::new(), watched: 0, idle: VecDeque::new() }
    }

    /// Watches a file (canonical) once more. It may be missing; its directory must be there to be watched.
    pub fn watch(&mut self, file: &[u8]) {
        let dir = dir_of(file);
        let has_lost_watch = {
            let mut state = self.shared.lock();
            state.files.entry(file.into()).or_default().times += 1;
            state.without.remove(dir)
        };
        let entry = self.dirs.entry(dir.into()).or_default();
        entry.files += 1;
        let (is_first, is_watched) = (entry.files == 1, entry.is_watched);
        if is_first && is_watched {
            self.idle.retain(|idle| &**idle != dir);
        }
        if !is_watched || has_lost_watch {
            self.set_watch(dir, is_watched);
        }
    }

    fn set_watch(&mut self, dir: &[u8], is_counted: bool) {
        if !is_counted && self.watched >= limits::WATCHED_DIRS_MAX && !self.forget_oldest() {
            return self.shared.lock().note(Trouble::TooMany);
        }
        let is_given = self.pool.submit(Job::Watch(dir.into())).is_ok();
        if !is_given {
            self.shared.lock().note(Trouble::Busy);
        }
        self.dirs.get_mut(dir).expect("a file of it was just counted").is_watched = is_given;
        self.watched = self.watched + usize::from(is_given) - usize::from(is_counted);
    }

    /// Watches a file once less.
    pub fn unwatch(&mut self, file: &[u8]) {
        let dir = dir_of(file);
        {
            let mut state = self.shared.lock();
            let known = state.files.get_mut(file).expect("only what is watched is given up");
            known.times -= 1;
            if known.times == 0 {
                state.files.remove(file);
            }
        }
        let entry = self.dirs.get_mut(dir).expect("a file of it is watched");
        entry.files -= 1;
        if entry.files > 0 {
            return;
        }
        if !entry.is_watched {
            self.dirs.remove(dir);
            return;
        }
        self.idle.push_back(dir.into());
        if self.idle.len() > limits::WATCHED_IDLE_MAX {
            self.forget_oldest();
        }
    }

    /// Ends the watch that nobody has needed for longest; false if there is none.
    fn forget_oldest(&mut self) -> bool {
        let Some(dir) = self.idle.pop_front() else { return false };
        if self.pool.submit(Job::Forget(dir.clone())).is_err() {
            self.idle.push_front(dir);
            return false;
        }
        self.dirs.remove(&dir);
        self.watched -= 1;
        true
    }

    /// The files that were written to since this was asked last, in order, each once and with what happened first.
    pub fn take(&mut self) -> Vec<(Box<[u8]>, Wrote)> {
        let mut state = self.shared.lock();
        let seen = std::mem::take(&mut state.seen);
        for (file, _) in &seen {
            if let Some(file) = state.files.get_mut(file) {
                file.is_seen = false;
            }
        }
        seen
    }

    /// Why not all is seen, for people: each reason at once, and while it goes on now and then, with how often.
    pub fn take_troubles(&mut self, now: Moment) -> Vec<String> {
        let mut state = self.shared.lock();
        let due = state.troubles.iter_mut().filter(|(_, noted)| noted.due().is_some_and(|due| due <= now));
        let tell = |(trouble, noted): (&Trouble, &mut Noted)| {
            let times = std::mem::take(&mut noted.times);
            noted.told = Some(now);
            if times == 1 { trouble.text() } else { format!("{} ({times} times)", trouble.text()) }
        };
        due.map(tell).collect()
    }

    /// When there is something to tell of troubles.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.shared.lock().troubles.values().filter_map(|noted| noted.due()).min()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, trouble: Trouble) {
        self.lock().note(trouble);
        (self.wake)();
    }

    /// Takes up what the kernel tells.
    fn heard(&self, event: &Event) {
        if event.need_rescan() {
            return self.trouble(Trouble::Lost);
        }
        let how = match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_) => Wrote::Written,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Wrote::Replaced,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Wrote::Deleted,
            // Of the daemon's own doings there are only such: it opens and closes.
            _ => return,
        };
        let is_first = event.paths.iter().fold(false, |is_first, path| {
            let is_new = self.lock().saw(path.as_os_str().as_bytes(), how);
            is_first || is_new
        });
        if is_first {
            (self.wake)();
        }
    }
}

impl State {
    fn note(&mut self, trouble: Trouble) {
        self.troubles.entry(trouble).or_default().times += 1;
    }

    /// Notes what happened to a path; true if that is the first that is to be taken.
    fn saw(&mut self, path: &[u8], how: Wrote) -> bool {
        if how == Wrote::Deleted && self.dirs.remove(path) {
            // What is told of its files from now on has names that are no longer theirs.
            self.without.insert(path.into());
        }
        let State { files, dirs, seen, .. } = self;
        let is_elsewhere = !dirs.contains(dir_of(path));
        let Some(file) = files.get_mut(path).filter(|file| !file.is_seen && !is_elsewhere) else { return false };
        file.is_seen = !planted(Bug::SeenAgainAndAgain);
        seen.push((path.into(), how));
        seen.len() == 1
    }
}

/// One thread: what is asked for a directory is done in order.
fn pool(room: usize, shared: Arc<Shared>) -> FilePool<Job> {
    let inotify = Mutex::new(None);
    let work = move |job: Job, _: &mut Visit<'_, Job>| {
        // Only the one thread of this pool takes this lock.
        let mut inotify = inotify.lock().unwrap_or_else(PoisonError::into_inner);
        do_job(job, &mut inotify, &shared);
        None
    };
    FilePool::new(1, room, work)
}

fn do_job(job: Job, inotify: &mut Option<INotifyWatcher>, shared: &Arc<Shared>) {
    match job {
        Job::Watch(dir) => {
            if mounts::last_remote_mount(&dir).is_some() {
                return;
            }
            let done = begin(inotify, shared).and_then(|inotify| {
                // One that moved away has kept its watch, by which its files would be told under names not theirs.
                if !planted(Bug::MovedWatchKept) {
                    let _ = inotify.unwatch(path(&dir));
                }
                // Before the first event: those of directories that are not known are passed over.
                shared.lock().dirs.insert(dir.clone());
                inotify.watch(path(&dir), RecursiveMode::NonRecursive)
            });
            if let Err(error) = done {
                let mut state = shared.lock();
                state.dirs.remove(&dir);
                state.without.insert(dir);
                drop(state);
                let is_missing = match &error.kind {
                    ErrorKind::PathNotFound => true,
                    ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
                    _ => false,
                };
                if !is_missing {
                    shared.trouble(Trouble::Refused);
                }
            }
        }
        Job::Forget(dir) => {
            let mut state = shared.lock();
            state.dirs.remove(&dir);
            state.without.remove(&dir);
            drop(state);
            // A directory that is gone has taken its watch along.
            let _ = inotify.as_mut().map(|inotify| inotify.unwatch(path(&dir)));
        }
    }
}

/// The one inotify instance, made when something is to be watched first: the system has few for each user.
fn begin<'a>(inotify: &'a mut Option<INotifyWatcher>, shared: &Arc<Shared>) -> notify::Result<&'a mut INotifyWatcher> {
    if let Some(inotify) = inotify {
        return Ok(inotify);
    }
    let shared = shared.clone();
    let hear = move |event: notify::Result<Event>| match event {
        Ok(event) => shared.heard(&event),
        Err(_) => shared.trouble(Trouble::Lost),
    };
    Ok(inotify.insert(INotifyWatcher::new(hear, Config::default())?))
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The directory that a file is in.
fn dir_of(file: &[u8]) -> &[u8] {
    match file.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => &file[..at],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::Flag;

    fn state() -> State {
        let mut state = State::default();
        state.dirs.insert(b"/w"[..].into());
        for file in [&b"/w/a"[..], b"/w/b", b"/v/c"] {
            state.files.insert(file.into(), File { times: 1, is_seen: false });
        }
        state
    }

    #[test]
    fn a_file_is_seen_once_until_that_is_taken() {
        let mut state = state();
        assert!(state.saw(b"/w/a", Wrote::Written), "the first wakes");
        assert!(!state.saw(b"/w/a", Wrote::Deleted) && !state.saw(b"/w/b", Wrote::Replaced));
        let seen: Vec<(&[u8], Wrote)> = state.seen.iter().map(|(path, how)| (&**path, *how)).collect();
        assert_eq!(seen, [(&b"/w/a"[..], Wrote::Written), (b"/w/b", Wrote::Replaced)]);
    }

    #[test]
    fn what_nobody_holds_and_what_is_under_no_watch_is_passed_over() {
        let mut state = state();
        assert!(!state.saw(b"/w/x", Wrote::Written) && !state.saw(b"/v/c", Wrote::Written));
        assert_eq!(state.seen, []);
    }

    #[test]
    fn a_directory_that_moves_away_is_watched_no_longer_under_its_name() {
        let mut state = state();
        assert!(!state.saw(b"/w", Wrote::Deleted) && !state.saw(b"/w/a", Wrote::Written));
        assert!(state.without.contains(&b"/w"[..]), "to be watched anew when the next file there is locked");
        assert_eq!(state.seen, []);
    }

    #[test]
    fn what_is_lost_is_told_once_a_burst_and_counted() {
        let mut watcher = Watcher::new(|| {});
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        let told = |watcher: &mut Watcher, now: u64| watcher.take_troubles(Moment(now)).join("|");
        assert_eq!((told(&mut watcher, 1), watcher.next_deadline()), (String::new(), None));
        watcher.shared.heard(&overflow);
        assert_eq!(told(&mut watcher, 1), Trouble::Lost.text());
        (0..3).for_each(|_| watcher.shared.heard(&overflow));
        let due = 1 + limits::WATCH_TROUBLE_WITHIN;
        assert_eq!((told(&mut watcher, due - 1), watcher.next_deadline()), (String::new(), Some(Moment(due))));
        assert_eq!(told(&mut watcher, due), format!("{} (3 times)", Trouble::Lost.text()));
        assert_eq!((told(&mut watcher, 2 * due), watcher.next_deadline()), (String::new(), None));
        watcher.shared.heard(&overflow);
        assert_eq!(told(&mut watcher, 2 * due), Trouble::Lost.text(), "the next burst");
    }

    #[test]
    fn a_directory_left_out_by_a_full_queue_is_told_and_tried_again() {
        let mut watcher = Watcher::new(|| {});
        watcher.pool = pool(0, watcher.shared.clone());
        watcher.watch(b"/w/a");
        assert_eq!(watcher.take_troubles(Moment(0)), [Trouble::Busy.text()]);
        assert_eq!((watcher.watched, watcher.dirs[&b"/w"[..]].is_watched), (0, false));
        watcher.pool = pool(1, watcher.shared.clone());
        watcher.watch(b"/w/b");
        assert_eq!((watcher.watched, watcher.dirs[&b"/w"[..]].is_watched), (1, true));
    }

    #[test]
    fn the_directory_of_a_file_at_the_top_is_the_root() {
        assert_eq!(dir_of(b"/a/b"), b"/a");
        assert_eq!(dir_of(b"/a"), b"/");
    }
}
