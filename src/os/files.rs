//! The file threads: a few threads that may hang on a dead mount so that the loop never does.

use crate::os::paths::{self, Look, PathError};
use crate::scope::Target;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A bounded number of threads behind a bounded queue, all for one kind of job.
///
/// Threads start when there is a job that none is free for, and stay. A job that hangs costs its thread and nobody
/// else's. Dropping the pool ends idle threads and waits for none: a hung mount must not hang the exit.
pub struct FilePool<J> {
    queue: Sender<J>,
    work: Arc<dyn Fn(J) + Send + Sync>,
    /// Threads that run.
    started: usize,
    most: usize,
    /// Jobs taken and not finished, hung ones among them.
    unfinished: Arc<AtomicUsize>,
    receiver: Receiver<J>,
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

impl<J: Send + 'static> FilePool<J> {
    /// A pool of at most `threads` threads that do `work`, with room for `queue` jobs that wait.
    pub fn new(threads: usize, queue: usize, work: impl Fn(J) + Send + Sync + 'static) -> FilePool<J> {
        assert!(threads > 0, "a pool without threads finishes nothing");
        let (sender, receiver) = bounded(queue);
        FilePool {
            queue: sender,
            work: Arc::new(work),
            started: 0,
            most: threads,
            unfinished: Arc::default(),
            receiver,
        }
    }

    /// Hands a job over without waiting.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue is full, or no thread could be started at all; the job is dropped.
    pub fn submit(&mut self, job: J) -> Result<(), Busy> {
        let unfinished = self.unfinished.fetch_add(1, Ordering::Relaxed) + 1;
        let wants_thread = unfinished > self.started && self.started < self.most;
        if wants_thread && self.start_thread().is_ok() {
            self.started += 1;
        }
        let taken = if self.started == 0 { Err(Busy) } else { self.enqueue(job) };
        if taken.is_err() {
            self.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn enqueue(&self, job: J) -> Result<(), Busy> {
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Busy,
            TrySendError::Disconnected(_) => unreachable!("the pool itself keeps a receiver"),
        })
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let (jobs, work, unfinished) = (self.receiver.clone(), Arc::clone(&self.work), Arc::clone(&self.unfinished));
        let name = format!("flockd-file-{}", self.started + 1);
        thread::Builder::new().name(name).spawn(move || {
            for job in jobs {
                // A job that panics costs its own answer, not the thread; the panic has printed itself.
                let _ = catch_unwind(AssertUnwindSafe(|| work(job)));
                unfinished.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
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
    FilePool::new(threads, queue, move |lookup: Lookup| {
        let result = paths::target(&lookup.cwd, &lookup.raw, Look::Thorough);
        if answers.send(Looked { token: lookup.token, result }).is_ok() {
            wake();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
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
        Panic,
    }

    fn pool(threads: usize, queue: usize) -> (FilePool<Do>, Receiver<(u32, String)>) {
        let (say, said) = unbounded();
        let work = move |job| match job {
            Do::Say(number) => {
                let name = thread::current().name().unwrap_or_default().to_owned();
                let _ = say.send((number, name));
            }
            Do::HangUntil(released) => drop(released.recv()),
            Do::Panic => panic!("as this test wants it"),
        };
        (FilePool::new(threads, queue, work), said)
    }

    #[test]
    fn a_hung_job_costs_its_own_thread_only() {
        let (mut pool, said) = pool(3, 8);
        let (release, hang) = bounded(0);
        for _ in 0..2 {
            pool.submit(Do::HangUntil(hang.clone())).unwrap();
        }
        for number in 0..20 {
            pool.submit(Do::Say(number)).unwrap();
            assert_eq!(got(&said).0, number);
        }
        drop(release);
    }

    #[test]
    fn a_full_queue_says_busy_and_loses_nothing_it_took() {
        let (mut pool, said) = pool(2, 3);
        let (release, hang) = bounded::<()>(0);
        for _ in 0..2 {
            pool.submit(Do::HangUntil(hang.clone())).unwrap();
        }
        let taken: Vec<u32> = (0..100).filter(|&number| pool.submit(Do::Say(number)).is_ok()).collect();
        assert!((1..=3).contains(&taken.len()), "{taken:?}");
        assert_eq!(pool.submit(Do::Say(1000)), Err(Busy));
        drop(release);
        let mut numbers: Vec<u32> = taken.iter().map(|_| got(&said).0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, taken);
    }

    #[test]
    fn threads_start_when_they_are_needed_and_no_more_than_allowed() {
        let (mut pool, said) = pool(2, 8);
        assert_eq!(pool.started, 0);
        pool.submit(Do::Say(1)).unwrap();
        assert_eq!(got(&said), (1, "flockd-file-1".into()));
        let (release, hang) = bounded::<()>(0);
        for _ in 0..5 {
            pool.submit(Do::HangUntil(hang.clone())).unwrap();
        }
        assert_eq!(pool.started, 2);
        drop(release);
    }

    #[test]
    fn a_job_that_panics_costs_only_its_own_answer() {
        let (mut pool, said) = pool(1, 8);
        pool.submit(Do::Panic).unwrap();
        pool.submit(Do::Say(7)).unwrap();
        assert_eq!(got(&said).0, 7);
    }

    #[test]
    fn dropping_the_pool_waits_for_no_hung_job_and_finishes_what_it_took() {
        let (mut pool, said) = pool(1, 8);
        let (release, hang) = bounded::<()>(0);
        pool.submit(Do::HangUntil(hang)).unwrap();
        pool.submit(Do::Say(3)).unwrap();
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
        pool.submit(Lookup { token: 9, cwd: (*b"/").into(), raw: (*b"proc/../dev/null").into() }).unwrap();
        got(&wakes);
        let looked = answers.try_recv().expect("sent before the wake");
        assert_eq!((looked.token, looked.result), (9, paths::target(b"/", b"/dev/null", Look::Thorough)));
        pool.submit(Lookup { token: 10, cwd: (*b"/").into(), raw: (*b"").into() }).unwrap();
        got(&wakes);
        assert!(matches!(answers.try_recv(), Ok(Looked { token: 10, result: Err(PathError::Invalid(_)) })));
    }

    #[test]
    fn answers_that_nobody_waits_for_are_dropped_without_a_wake() {
        let (answer, answers) = bounded(1);
        drop(answers);
        let (wake, wakes) = unbounded();
        let mut pool = lookups(1, 4, answer, move || wake.send(()).unwrap());
        pool.submit(Lookup { token: 1, cwd: (*b"/").into(), raw: (*b"x").into() }).unwrap();
        drop(pool);
        assert!(wakes.recv_timeout(GUARD).is_err_and(|error| error.is_disconnected()));
    }
}
