//! The file threads: a few threads that may hang on a dead mount so that the loop never does.
//!
//! A mount that waits for a server may hang for ever, and whoever asks there again hangs as well. So each such mount is
//! given a few threads and no more: jobs say where they go before they go there ([`Visit::enter`]), and those for which
//! there is no thread are put aside. Other mounts have theirs, and local disks, which hang on nobody, all the rest.
//! Threads alone, however many, would not do: every retry takes one for ever.

use crate::limits;
use crate::os::mounts::Mount;
use crate::os::paths::{self, Look, PathError};
use crate::scope::Target;
use crossbeam_channel::Sender;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A bounded number of threads behind a bounded queue, all for one kind of job.
///
/// Threads start when there is a job that none is free for, and stay. A job that hangs costs its thread and nobody
/// else's. Dropping the pool ends idle threads and waits for none: a hung mount must not hang the exit.
pub struct FilePool<J> {
    shared: Arc<Shared<J>>,
    most: usize,
    room: usize,
}

/// What a job comes to: nothing, or the job itself, if it is to be done when its mount has a thread for it.
pub type Later<J> = Option<J>;

struct Shared<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
    #[expect(clippy::type_complexity, reason = "it is named once")]
    work: Box<dyn Fn(J, &mut Visit<'_, J>) -> Later<J> + Send + Sync>,
}

struct State<J> {
    ready: VecDeque<J>,
    gates: HashMap<Mount, Gate<J>>,
    started: usize,
    /// Threads that wait for a job.
    idle: usize,
    is_closed: bool,
}

/// Who is inside a mount, and who waits for that.
struct Gate<J> {
    threads: usize,
    aside: VecDeque<J>,
}

/// All threads have their hands full and the queue is full as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all file threads are busy, perhaps on a mount that does not answer; ask again later")
    }
}

impl std::error::Error for Busy {}

/// A mount has no thread for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    /// The job may be put aside: hand it back.
    Aside,
    /// So many are put aside that the mount does not answer.
    Full,
}

/// Where a job is.
pub struct Visit<'a, J> {
    shared: &'a Shared<J>,
    inside: Option<Mount>,
    /// Where there was no thread for it.
    wanted: Option<Mount>,
}

impl<J: Send + 'static> FilePool<J> {
    /// A pool of at most `threads` threads that do `work`, with room for `queue` jobs that wait.
    pub fn new(
        threads: usize,
        queue: usize,
        work: impl Fn(J, &mut Visit<'_, J>) -> Later<J> + Send + Sync + 'static,
    ) -> FilePool<J> {
        assert!(threads > 0, "a pool without threads finishes nothing");
        let (ready, gates) = (VecDeque::new(), HashMap::new());
        let state = Mutex::new(State { ready, gates, started: 0, idle: 0, is_closed: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), work: Box::new(work) });
        FilePool { shared, most: threads, room: queue }
    }

    /// Hands a job over without waiting.
    ///
    /// # Errors
    ///
    /// [`Busy`] and the job when the queue is full, or no thread could be started at all.
    pub fn submit(&mut self, job: J) -> Result<(), (Busy, J)> {
        let mut state = self.shared.lock();
        if state.ready.len() >= self.room {
            return Err((Busy, job));
        }
        let wants_thread = state.ready.len() >= state.idle && state.started < self.most;
        if wants_thread && self.start_thread(state.started + 1).is_ok() {
            state.started += 1;
        }
        if state.started == 0 {
            return Err((Busy, job));
        }
        state.ready.push_back(job);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn start_thread(&self, number: usize) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(format!("flockd-file-{number}")).spawn(move || shared.work_off())?;
        Ok(())
    }
}

impl<J> Drop for FilePool<J> {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // Nothing that can panic runs under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_off(&self) {
        while let Some(job) = self.next_job() {
            let mut visit = Visit { shared: self, inside: None, wanted: None };
            // A job that panics costs its own answer, not the thread; the panic has printed itself.
            let later = catch_unwind(AssertUnwindSafe(|| (self.work)(job, &mut visit))).unwrap_or(None);
            let Visit { inside, wanted, .. } = visit;
            let mut state = self.lock();
            self.leave(&mut state, inside);
            match later.zip(wanted) {
                Some((job, mount)) if state.is_crowded(&mount) => {
                    state.gates.get_mut(&mount).expect("threads are inside").aside.push_back(job);
                }
                // There is room by now.
                Some((job, _)) => self.again(&mut state, job),
                None => {}
            }
        }
    }

    fn next_job(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// A thread has left a mount: the next one has its place.
    fn leave(&self, state: &mut State<J>, mount: Option<Mount>) {
        let Some(mount) = mount else { return };
        let gate = state.gates.get_mut(&mount).expect("this thread is inside");
        gate.threads -= 1;
        let next = gate.aside.pop_front();
        if gate.threads == 0 && gate.aside.is_empty() {
            state.gates.remove(&mount);
        }
        if let Some(job) = next {
            self.again(state, job);
        }
    }

    /// What was put aside goes before what has come since.
    fn again(&self, state: &mut State<J>, job: J) {
        state.ready.push_front(job);
        self.changed.notify_one();
    }
}

impl<J> State<J> {
    fn is_crowded(&self, mount: &Mount) -> bool {
        self.gates.get(mount).is_some_and(|gate| gate.threads >= limits::FILE_THREADS_A_MOUNT)
    }
}

impl<J> Visit<'_, J> {
    /// Says that the job goes to a mount that may hang, and has left the one before.
    ///
    /// # Errors
    /// [`Crowded`]: it must not go there now.
    pub fn enter(&mut self, mount: &Mount) -> Result<(), Crowded> {
        if self.inside.as_ref() == Some(mount) {
            return Ok(());
        }
        let mut state = self.shared.lock();
        if state.is_crowded(mount) {
            self.wanted = Some(mount.clone());
            let aside = state.gates[mount].aside.len();
            return Err(if aside < limits::FILE_ASIDE { Crowded::Aside } else { Crowded::Full });
        }
        self.shared.leave(&mut state, self.inside.take());
        state.gates.entry(mount.clone()).or_insert(Gate { threads: 0, aside: VecDeque::new() }).threads += 1;
        self.inside = Some(mount.clone());
        Ok(())
    }
}

/// A path that memory alone could not resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// What the answer is recognised by.
    pub token: u64,
    /// Where it was typed.
    pub cwd: Box<[u8]>,
    /// What was typed.
    pub raw: Box<[u8]>,
}

/// The answer to a [`Lookup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// That of the look-up.
    pub token: u64,
    /// What is meant; never [`PathError::WouldBlock`].
    pub result: Result<Target, PathError>,
}

/// A pool that looks up paths: each answer is sent to `answers`, then `wake` is called.
///
/// A full channel holds up file threads only. Once the receiver is gone, answers are dropped.
pub fn lookups(
    threads: usize,
    queue: usize,
    answers: Sender<Looked>,
    wake: impl Fn() + Send + Sync + 'static,
) -> FilePool<Lookup> {
    FilePool::new(threads, queue, move |lookup: Lookup, visit| {
        let mut crowded = None;
        let result = paths::target_by_way_of(&lookup.cwd, &lookup.raw, Look::Thorough, &mut |mount| {
            crowded = visit.enter(mount).err();
            crowded.map_or(Ok(()), |_| Err(no_answer(mount)))
        });
        if crowded == Some(Crowded::Aside) {
            return Some(lookup);
        }
        if answers.send(Looked { token: lookup.token, result }).is_ok() {
            wake();
        }
        None
    })
}

fn no_answer(mount: &Mount) -> PathError {
    let shown = String::from_utf8_lossy(mount);
    PathError::Io(format!(
        "the file system at `{shown}` does not answer, and many wait for it already; nothing was locked"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, bounded, unbounded};
    use std::time::Duration;

    /// Long enough for any machine; a test that reaches it hangs.
    const GUARD: Duration = Duration::from_secs(60);

    fn got<T>(receiver: &Receiver<T>) -> T {
        receiver.recv_timeout(GUARD).expect("it comes, or the pool hangs")
    }

    /// What a job of these tests does.
    enum Do {
        Say(u32),
        HangUntil(Receiver<()>),
        /// The same inside a mount.
        HangIn(&'static [u8], Receiver<()>),
        /// Says it inside a mount.
        SayIn(&'static [u8], u32),
        Panic,
    }

    fn pool(threads: usize, queue: usize) -> (FilePool<Do>, Receiver<(u32, String)>) {
        let (say, said) = unbounded();
        let work = move |job, visit: &mut Visit<'_, Do>| {
            let name = || thread::current().name().unwrap_or_default().to_owned();
            match job {
                Do::Say(number) => drop(say.send((number, name()))),
                Do::HangUntil(released) => drop(released.recv()),
                Do::HangIn(mount, _) | Do::SayIn(mount, _) if visit.enter(&mount.into()) == Err(Crowded::Aside) => {
                    return Some(job);
                }
                Do::HangIn(_, released) => drop(released.recv()),
                // Whoever was turned away says so by another name.
                Do::SayIn(_, number) if visit.inside.is_none() => drop(say.send((number, "turned away".to_owned()))),
                Do::SayIn(_, number) => drop(say.send((number, name()))),
                Do::Panic => panic!("as this test wants it"),
            }
            None
        };
        (FilePool::new(threads, queue, work), said)
    }

    fn give<J: Send + 'static>(pool: &mut FilePool<J>, job: J) {
        assert!(pool.submit(job).is_ok(), "there is room");
    }

    /// Waits until a mount has all the threads that it gets.
    fn until_full(pool: &FilePool<Do>, mount: &[u8]) {
        let began = std::time::Instant::now();
        while !pool.shared.lock().is_crowded(&mount.into()) {
            assert!(began.elapsed() < GUARD, "the threads never came");
            thread::yield_now();
        }
    }

    #[test]
    fn a_hung_job_costs_its_own_thread_only() {
        let (mut pool, said) = pool(3, 8);
        let (release, hang) = bounded(0);
        for _ in 0..2 {
            give(&mut pool, Do::HangUntil(hang.clone()));
        }
        for number in 0..20 {
            give(&mut pool, Do::Say(number));
            assert_eq!(got(&said).0, number);
        }
        drop(release);
    }

    /// Far more hung jobs than there are threads: the other mount and those on none are served all the same.
    #[test]
    fn a_hung_mount_takes_its_own_threads_and_no_more() {
        let (mut pool, said) = pool(limits::FILE_THREADS, limits::FILE_QUEUE);
        let (release, hang) = bounded::<()>(0);
        for _ in 0..limits::FILE_THREADS + limits::FILE_ASIDE / 4 {
            give(&mut pool, Do::HangIn(b"/hung", hang.clone()));
        }
        until_full(&pool, b"/hung");
        for number in 0..200 {
            give(&mut pool, Do::Say(number));
            assert_eq!(got(&said).0, number);
            give(&mut pool, Do::SayIn(b"/healthy", number));
            assert_eq!(got(&said).0, number);
        }
        // Those behind the hung ones come when it answers again, in the order in which they came.
        give(&mut pool, Do::SayIn(b"/hung", 7));
        give(&mut pool, Do::Say(8));
        assert_eq!(got(&said).0, 8);
        drop(release);
        assert_eq!(got(&said).0, 7);
    }

    #[test]
    fn who_goes_from_mount_to_mount_leaves_the_first() {
        let (entered, wait_entered) = unbounded();
        let (release, hang) = bounded::<()>(0);
        let (say, said) = unbounded();
        // True goes by way of the healthy mount to the hung one, false to the healthy one only.
        let mut pool = FilePool::new(limits::FILE_THREADS, 64, move |goes_on: bool, visit| {
            if visit.enter(&b"/healthy"[..].into()).is_err() {
                return Some(goes_on);
            }
            if !goes_on {
                say.send(()).unwrap();
                return None;
            }
            if visit.enter(&b"/hung"[..].into()).is_err() {
                return Some(goes_on);
            }
            entered.send(()).unwrap();
            let _ = hang.recv();
            None
        });
        for _ in 0..2 * limits::FILE_THREADS_A_MOUNT {
            give(&mut pool, true);
        }
        (0..limits::FILE_THREADS_A_MOUNT).for_each(|_| got(&wait_entered));
        for _ in 0..20 {
            give(&mut pool, false);
            got(&said);
        }
        drop(release);
        (0..limits::FILE_THREADS_A_MOUNT).for_each(|_| got(&wait_entered));
    }

    #[test]
    fn who_comes_when_many_wait_for_a_mount_is_told_that_it_does_not_answer() {
        let (mut pool, said) = pool(limits::FILE_THREADS, limits::FILE_QUEUE);
        let (release, hang) = bounded::<()>(0);
        for _ in 0..limits::FILE_THREADS_A_MOUNT {
            give(&mut pool, Do::HangIn(b"/hung", hang.clone()));
        }
        until_full(&pool, b"/hung");
        for number in 0..limits::FILE_ASIDE as u32 + 40 {
            give(&mut pool, Do::SayIn(b"/hung", number));
        }
        // Threads on their way between mount and side lane may be as many as there are.
        for _ in 0..8 {
            assert_eq!(got(&said).1, "turned away");
        }
        drop(release);
    }

    #[test]
    fn a_full_queue_says_busy_and_loses_nothing_it_took() {
        let (mut pool, said) = pool(2, 3);
        let (release, hang) = bounded::<()>(0);
        for _ in 0..2 {
            give(&mut pool, Do::HangUntil(hang.clone()));
        }
        let taken: Vec<u32> = (0..100).filter(|&number| pool.submit(Do::Say(number)).is_ok()).collect();
        assert!((1..=3).contains(&taken.len()), "{taken:?}");
        assert!(matches!(pool.submit(Do::Say(1000)), Err((Busy, Do::Say(1000)))));
        drop(release);
        let mut numbers: Vec<u32> = taken.iter().map(|_| got(&said).0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, taken);
    }

    #[test]
    fn threads_start_when_they_are_needed_and_no_more_than_allowed() {
        let (mut pool, said) = pool(2, 8);
        assert_eq!(pool.shared.lock().started, 0);
        give(&mut pool, Do::Say(1));
        assert_eq!(got(&said), (1, "flockd-file-1".into()));
        let (release, hang) = bounded::<()>(0);
        for _ in 0..5 {
            give(&mut pool, Do::HangUntil(hang.clone()));
        }
        assert_eq!(pool.shared.lock().started, 2);
        drop(release);
    }

    #[test]
    fn a_job_that_panics_costs_only_its_own_answer() {
        let (mut pool, said) = pool(1, 8);
        give(&mut pool, Do::Panic);
        give(&mut pool, Do::Say(7));
        assert_eq!(got(&said).0, 7);
    }

    #[test]
    fn dropping_the_pool_waits_for_no_hung_job_and_finishes_what_it_took() {
        let (mut pool, said) = pool(1, 8);
        let (release, hang) = bounded::<()>(0);
        give(&mut pool, Do::HangUntil(hang));
        give(&mut pool, Do::Say(3));
        drop(pool);
        drop(release);
        assert_eq!(got(&said).0, 3);
        // The thread ends with its queue, and its end of the channel with it.
        assert!(said.recv_timeout(GUARD).is_err_and(|error| error.is_disconnected()));
    }

    #[test]
    fn a_looked_up_path_comes_back_under_its_token_after_a_wake() {
        let (answer, answers) = bounded(4);
        let (wake, wakes) = unbounded();
        let mut pool = lookups(2, 4, answer, move || wake.send(()).unwrap());
        give(&mut pool, Lookup { token: 9, cwd: (*b"/").into(), raw: (*b"proc/../dev/null").into() });
        got(&wakes);
        let looked = answers.try_recv().expect("sent before the wake");
        assert_eq!((looked.token, looked.result), (9, paths::target(b"/", b"/dev/null", Look::Thorough)));
        give(&mut pool, Lookup { token: 10, cwd: (*b"/").into(), raw: (*b"").into() });
        got(&wakes);
        assert!(matches!(answers.try_recv(), Ok(Looked { token: 10, result: Err(PathError::Invalid(_)) })));
    }

    #[test]
    fn answers_that_nobody_waits_for_are_dropped_without_a_wake() {
        let (answer, answers) = bounded(1);
        drop(answers);
        let (wake, wakes) = unbounded();
        let mut pool = lookups(1, 4, answer, move || wake.send(()).unwrap());
        give(&mut pool, Lookup { token: 1, cwd: (*b"/").into(), raw: (*b"x").into() });
        drop(pool);
        assert!(wakes.recv_timeout(GUARD).is_err_and(|error| error.is_disconnected()));
    }
}
