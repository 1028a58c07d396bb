//! Requests that are withdrawn at random moments, by message, by hanging up and by `kill -9`: nothing of them stays.

use crate::raw::{Raw, hello, served};
use crate::util::{FLOCKD, Ground, kill_9, scaled, until};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const THREADS: u64 = 4;
/// What they fight for: two files, which are flocked as well, and a name.
const SCOPES: [&str; 3] = ["a", "b", "@c"];

/// xorshift64: repeatable, and different in each thread.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Some moment: from at once to a few round trips later.
    fn linger(&mut self) {
        for _ in 0..self.below(4) * self.below(2_000) {
            std::hint::spin_loop();
        }
    }
}

#[derive(Default)]
struct Counts {
    cancels: AtomicU64,
    in_time: AtomicU64,
    retried: AtomicU64,
    killed: AtomicU64,
    kept: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One client that asks, changes its mind and looks whether that was heeded.
struct Fickle<'a> {
    ground: &'a Ground,
    agent: String,
    random: Random,
    requests: u64,
    /// Who is inside, by scope: only acknowledged holders count.
    inside: &'a [AtomicBool; 3],
    counts: &'a Counts,
}

impl Fickle<'_> {
    fn lock(&mut self, scope: usize, id: u64, name: &str) -> Value {
        json!({"id": id, "op": "lock", "scope": SCOPES[scope], "request_id": name, "ttl_ms": 600_000})
    }

    fn name(&mut self) -> String {
        self.requests += 1;
        format!("{}-{}", self.agent, self.requests)
    }

    /// It was granted: nobody else is inside, and it is released.
    fn enjoy(&mut self, raw: &mut Raw, scope: usize, granted: &Value) {
        let lock = &granted["ok"]["lock"];
        assert_eq!(lock["acquired"], true, "{granted}");
        assert!(!self.inside[scope].swap(true, Ordering::SeqCst), "two are inside: {granted}");
        self.random.linger();
        self.inside[scope].store(false, Ordering::SeqCst);
        let released = raw.ask(json!({"id": 90, "op": "unlock", "lock_id": lock["lock_id"]}));
        assert_eq!(released["ok"]["released"].as_array().map(Vec::len), Some(1), "{released}");
    }

    /// The same request once more, to its end.
    fn retry(&mut self, raw: &mut Raw, scope: usize, name: &str) {
        count(&self.counts.retried);
        let granted = raw.ask(self.lock(scope, 80, name));
        self.enjoy(raw, scope, &granted);
    }

    /// Withdraws by message. Whichever was first, both are answered, and the answer is true.
    fn by_message(&mut self, scope: usize, session: Option<Value>) {
        let mut raw = Raw::connect(self.ground);
        raw.ask(hello(self.ground, &self.agent, session));
        let name = self.name();
        raw.send(&self.lock(scope, 1, &name));
        self.random.linger();
        raw.send(&json!({"id": 2, "op": "cancel", "of": 1}));
        // A grant that is synced first may come behind the word that it was too late to withdraw it.
        let (one, other) = (raw.read(), raw.read());
        let (first, second) = if one["id"] == 1 { (one, other) } else { (other, one) };
        assert_eq!((&first["id"], &second["id"]), (&json!(1), &json!(2)), "{first} {second}");
        count(&self.counts.cancels);
        match second["ok"]["cancelled"].as_bool() {
            Some(true) => {
                assert_eq!(first["ok"]["cancelled"], true, "{first}");
                count(&self.counts.in_time);
            }
            Some(false) => self.enjoy(&mut raw, scope, &first),
            None => panic!("{second}"),
        }
        // One that was granted and released is remembered, and no retry takes it anew.
        if self.random.below(2) == 0 && second["ok"]["cancelled"] == true {
            self.retry(&mut raw, scope, &name);
        } else if self.random.below(2) == 0 && second["ok"]["cancelled"] == false {
            let lost = raw.ask(self.lock(scope, 80, &name));
            assert_eq!(lost["error"]["code"], "lost", "{lost}");
            count(&self.counts.retried);
        }
    }

    /// Hangs up. What it got without reading of it is its own, and released by name.
    fn by_hanging_up(&mut self, scope: usize) {
        let name = self.name();
        let mut raw = Raw::greeted(self.ground, &self.agent);
        raw.send(&self.lock(scope, 1, &name));
        self.random.linger();
        drop(raw);
        count(&self.counts.cancels);
        let mut raw = Raw::greeted(self.ground, &self.agent);
        match self.random.below(2) {
            0 => self.retry(&mut raw, scope, &name),
            _ => self.leave(&mut raw),
        }
    }

    fn leave(&mut self, raw: &mut Raw) {
        let released = raw.ask(json!({"id": 91, "op": "unlock", "all": true}));
        assert!(released["ok"]["released"].is_array(), "{released}");
    }

    /// A process of its own is killed.
    fn by_kill(&mut self, scope: usize) {
        let name = self.name();
        let arguments = ["lock", SCOPES[scope], "--wait", "forever", "--ttl", "10m", "--request-id", &name];
        let mut command = self.ground.environment(Command::new(FLOCKD), &self.agent, &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        for _ in 0..self.random.below(20) * 200_000 {
            std::hint::spin_loop();
        }
        kill_9(child.id());
        child.wait().unwrap();
        count(&self.counts.cancels);
        count(&self.counts.killed);
        let mut raw = Raw::greeted(self.ground, &self.agent);
        match self.random.below(2) {
            0 => self.retry(&mut raw, scope, &name),
            _ => self.leave(&mut raw),
        }
    }

    /// Waits in vain for a moment, and gives the place up that is kept, or comes back for it.
    fn by_ticket(&mut self, scope: usize) {
        let name = self.name();
        let mut raw = Raw::greeted(self.ground, &self.agent);
        let mut request = self.lock(scope, 1, &name);
        request["wait_ms"] = json!(1);
        let answer = raw.ask(request);
        count(&self.counts.cancels);
        if answer["ok"]["lock"]["acquired"] == true {
            return self.enjoy(&mut raw, scope, &answer);
        }
        assert_eq!(answer["ok"]["lock"]["code"], "timeout", "{answer}");
        let ticket = &answer["ok"]["lock"]["ticket"];
        assert!(ticket.is_string(), "{answer}");
        count(&self.counts.kept);
        if self.random.below(2) == 0 {
            return self.retry(&mut raw, scope, &name);
        }
        let given_up = raw.ask(json!({"id": 2, "op": "cancel", "ticket": ticket}));
        assert_eq!(given_up["ok"]["cancelled"], true, "{given_up}");
    }

    fn change_its_mind(&mut self) {
        let scope = self.random.below(3) as usize;
        match self.random.below(100) {
            0 => self.by_kill(scope),
            1..40 => self.by_hanging_up(scope),
            40..50 => self.by_ticket(scope),
            50..75 => self.by_message(scope, Some(json!("library"))),
            _ => self.by_message(scope, None),
        }
    }
}

/// Threads and descriptors of the daemon.
fn resources(ground: &Ground) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", ground.daemon_pid())).unwrap().count();
    (count("task"), count("fd"))
}

fn many(ground: &Ground, each: u64, counts: &Counts) {
    let inside = [const { AtomicBool::new(false) }; 3];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let inside = &inside;
            scope.spawn(move || {
                let (agent, random) = (format!("fickle-{thread}"), Random(thread + 1 + each));
                let mut fickle = Fickle { ground, agent, random, requests: each * 1_000_000, inside, counts };
                for _ in 0..each {
                    fickle.change_its_mind();
                }
            });
        }
    });
}

/// Nobody holds, nobody waits, nobody is connected; what the daemon has open then.
fn at_rest(ground: &Ground) -> (usize, usize) {
    until("all have gone", || {
        let daemon = ground.daemon_status();
        ((daemon.locks, daemon.waiters, daemon.sessions, daemon.connections) == (0, 0, 0, 1)).then_some(())
    });
    // The connection that asked is closed when nothing more changes for a while.
    let (mut last, mut same) = (resources(ground), 0);
    until("its connection is closed", || {
        let now = resources(ground);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == 30).then_some(now)
    })
}

/// What the daemon has open, by name.
fn open_files(ground: &Ground) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", ground.daemon_pid())).unwrap().flatten();
    let link = |entry: fs::DirEntry| fs::read_link(entry.path()).ok().map(|link| link.display().to_string());
    entries.filter_map(link).collect()
}

#[test]
fn ten_thousand_requests_withdrawn_at_random_moments_leave_nothing_behind() {
    let ground = served();
    for scope in ["a", "b"] {
        fs::write(ground.work.join(scope), "").unwrap();
    }
    let counts = Counts::default();
    // What it makes once and keeps, it has made then.
    many(&ground, 100, &counts);
    let before = at_rest(&ground);
    let open_before = open_files(&ground);
    let each = scaled(10_000).div_ceil(THREADS);
    many(&ground, each, &counts);
    let after = at_rest(&ground);
    let [cancels, in_time, retried, killed, kept] =
        [&counts.cancels, &counts.in_time, &counts.retried, &counts.killed, &counts.kept]
            .map(|counter| counter.load(Ordering::Relaxed));
    eprintln!(
        "{cancels} withdrawn, {in_time} of them by message and in time, {killed} by kill -9, {kept} places kept, \
         {retried} asked again; threads and descriptors {before:?} before and {after:?} after"
    );
    let open = open_files(&ground);
    assert_eq!(before, after, "threads and descriptors of the daemon: {open_before:?} before, {open:?} after");
    assert!(cancels >= THREADS * (each + 100));
    assert!(each < 1_000 || [in_time, retried, killed, kept].iter().all(|count| *count > 0));
    assert!(ground.status().locks.is_empty() && ground.status().waiters.is_empty());
}
