//! What an operation of the table costs, as a ratio to the same operation beside ten locks: the floor.
//!
//! The sizes take turns, so that a slow moment of the machine hits all of them; each figure is a median.

use flockd::model::*;
use flockd::table::LockTable;
use std::sync::Arc;
use std::time::Instant;

#[path = "support/asks.rs"]
mod asks;
use asks::{NOW, ask, pattern, target};

/// How often each case is measured.
const ROUNDS: usize = 60;
/// Operations timed together: one alone is too short for the clock.
const BATCH: u64 = 200;

/// Whether it is only to be shown that everything can be measured.
fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

/// The most locks in a table.
fn most() -> usize {
    if is_quick() { 2_000 } else { 100_000 }
}

/// A table and who to ask it as.
struct Bench {
    table: LockTable,
    calls: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { table: LockTable::new(1, 1), calls: 0 }
    }

    fn caller(&mut self) -> Caller {
        self.calls += 1;
        Caller { conn: 1, id: self.calls }
    }

    /// Answers whether the request was answered at once with a grant.
    fn lock(&mut self, ask: &Arc<Ask>, wait: Wait) -> bool {
        let caller = self.caller();
        let step = self.table.apply(NOW, Command::Lock { caller, ask: ask.clone(), wait });
        step.replies.iter().any(|said| matches!(said.answer.reply, Reply::Granted(_)))
    }

    fn unlock(&mut self, ask: &Arc<Ask>) {
        let which = Which::Scope(ask.target.clone());
        let caller = Some(self.caller());
        let step = self.table.apply(NOW, Command::Unlock { caller, who: ask.who.clone(), which, leaves_loan: false });
        assert!(matches!(step.replies[0].answer.reply, Reply::Released(_)));
    }

    /// Locks elsewhere, a hundred in each directory.
    fn with_locks(count: usize, holder: impl Fn(usize) -> String) -> Bench {
        let mut bench = Bench::new();
        for n in 0..count {
            let path = format!("/home/repo/dir{}/file{n}", n / 100);
            assert!(bench.lock(&ask(&holder(n), target(&path, false)), Wait::Try));
        }
        bench
    }

    /// Nanoseconds of one lock and unlock of `ask`.
    fn pair(&mut self, ask: &Arc<Ask>) -> f64 {
        let begin = Instant::now();
        for _ in 0..BATCH {
            assert!(self.lock(ask, Wait::Try));
            self.unlock(ask);
        }
        begin.elapsed().as_nanos() as f64 / BATCH as f64
    }

    /// Nanoseconds of one hand-over: a release that serves the next of the queue, who joins again at its end.
    fn hand_over(&mut self, queue: &[Arc<Ask>]) -> f64 {
        let begin = Instant::now();
        let turns = BATCH as usize;
        for n in 0..turns {
            let holder = &queue[n % queue.len()];
            self.unlock(holder);
            assert!(!self.lock(holder, Wait::Forever));
        }
        // The queue is brought back to where it began, outside of what is timed.
        let spent = begin.elapsed().as_nanos() as f64 / turns as f64;
        for n in turns..turns.div_ceil(queue.len()) * queue.len() {
            let holder = &queue[n % queue.len()];
            self.unlock(holder);
            self.lock(holder, Wait::Forever);
        }
        spent
    }

    /// Nanoseconds of one request that is refused, for a deadlock or because it is held.
    fn refusal(&mut self, ask: &Arc<Ask>, wait: Wait) -> f64 {
        let begin = Instant::now();
        for _ in 0..BATCH {
            assert!(!self.lock(ask, wait));
        }
        assert_eq!(self.table.waiters() > 0, self.table.waiters() == 50 || wait == Wait::Try);
        begin.elapsed().as_nanos() as f64 / BATCH as f64
    }
}

type Measure = Box<dyn FnMut() -> f64>;

/// One line of a table: its name and what measures it.
struct Row(String, Measure);

fn elsewhere(title: &str, mine: Arc<Ask>, holder: fn(usize) -> String) -> (String, Vec<Row>) {
    let rows = [10, 1_000, most()].map(|count| {
        let mut bench = Bench::with_locks(count, holder);
        // Somebody waits somewhere: while nobody does, an answer looks for nobody behind the agent's own locks.
        assert!(!bench.lock(&ask("patient", target("/home/repo/dir0/file0", false)), Wait::Forever));
        let mine = mine.clone();
        Row(format!("{count} locks"), Box::new(move || bench.pair(&mine)) as Measure)
    });
    (title.to_owned(), rows.into())
}

fn depths() -> (String, Vec<Row>) {
    let rows = [4, 8, 16, 32].map(|depth| {
        let mut bench = Bench::with_locks(most(), |n| format!("other{}", n % 50));
        let mine = ask("me", target(&format!("/home/repo{}/main.rs", "/d".repeat(depth - 3)), false));
        Row(format!("{depth} levels"), Box::new(move || bench.pair(&mine)) as Measure)
    });
    (format!("lock and unlock a file by its depth, beside {} locks", most()), rows.into())
}

fn queues() -> (String, Vec<Row>) {
    let rows = [1, 10, 1_000].map(|waiters: usize| {
        let mut bench = Bench::new();
        let place = target("/home/repo/src/main.rs", false);
        let queue: Vec<_> = (0..=waiters).map(|n| ask(&format!("agent{n}"), place.clone())).collect();
        for (n, ask) in queue.iter().enumerate() {
            assert_eq!(bench.lock(ask, Wait::Forever), n == 0);
        }
        Row(format!("{waiters} waiting"), Box::new(move || bench.hand_over(&queue)) as Measure)
    });
    ("hand-over to the next in the queue".to_owned(), rows.into())
}

/// Fifty agents in a row, each waits for the one before; the first asks for what the last holds.
fn deadlocks() -> (String, Vec<Row>) {
    let rows = [("a try, held", Wait::Try), ("a wait, cycle of 51", Wait::Forever)].map(|(name, wait)| {
        let mut bench = Bench::new();
        let asks = |n: usize, of: usize| ask(&format!("agent{n}"), target(&format!("/home/repo/src/f{of}"), false));
        for n in 0..=50 {
            assert!(bench.lock(&asks(n, n), Wait::Try));
        }
        for n in 1..=50 {
            assert!(!bench.lock(&asks(n, n - 1), Wait::Forever));
        }
        let closing = asks(0, 50);
        Row(name.to_owned(), Box::new(move || bench.refusal(&closing, wait)) as Measure)
    });
    ("refusal among 50 who wait in a row".to_owned(), rows.into())
}

/// A file beside patterns elsewhere, and beside ones of its own directory that do not match it.
fn patterns() -> (String, Vec<Row>) {
    let rows = [(1, "src"), (1_000, "lib"), (1_000, "src")].map(|(count, place)| {
        let mut bench = Bench::new();
        for n in 0..count {
            let pattern = pattern(&format!("/home/repo/{place}"), &format!("**/{n}.rs"));
            assert!(bench.lock(&ask(&format!("other{}", n % 50), pattern), Wait::Try));
        }
        let mine = ask("me", target("/home/repo/src/main.rs", false));
        Row(format!("{count} below {place}/"), Box::new(move || bench.pair(&mine)) as Measure)
    });
    ("lock and unlock src/main.rs beside others' patterns".to_owned(), rows.into())
}

/// A pattern beside patterns with the same fixed part: each pair is walked through.
fn pattern_pairs() -> (String, Vec<Row>) {
    let rows = [1, 10, 100].map(|count| {
        let mut bench = Bench::new();
        for n in 0..count {
            let held = pattern("/home/repo", &format!("src/d{n}/**/*.rs"));
            assert!(bench.lock(&ask(&format!("other{}", n % 50), held), Wait::Try));
        }
        let mine = ask("me", pattern("/home/repo", "**/*.md"));
        Row(format!("{count} there"), Box::new(move || bench.pair(&mine)) as Measure)
    });
    ("lock and unlock a pattern beside others' patterns".to_owned(), rows.into())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn run((title, mut rows): (String, Vec<Row>), rounds: usize) {
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        for (row, times) in rows.iter_mut().zip(&mut times) {
            times.push(row.1());
        }
    }
    println!("{title}");
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    for (row, time) in rows.iter().zip(&medians) {
        println!("  {:<22}{:>9.0} ns {:>7.2} x", row.0, time, time / medians[0]);
    }
}

fn main() {
    let rounds = if is_quick() { 1 } else { ROUNDS };
    let others = |n: usize| format!("other{}", n % 50);
    let own = |_: usize| "me".to_owned();
    let file = || ask("me", target("/home/repo/src/main.rs", false));
    let tree = || ask("me", target("/home/repo/src/deep", true));
    run(elsewhere("lock and unlock a file beside others' locks", file(), others), rounds);
    run(elsewhere("lock and unlock a file beside my own locks", file(), own), rounds);
    run(elsewhere("lock and unlock a subtree beside others' locks", tree(), others), rounds);
    run(elsewhere("lock and unlock a subtree beside my own locks", tree(), own), rounds);
    run(depths(), rounds);
    run(queues(), rounds);
    run(deadlocks(), rounds);
    run(patterns(), rounds);
    run(pattern_pairs(), rounds);
}
