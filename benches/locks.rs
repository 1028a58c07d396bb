//! What locks cost beside their floors, by real processes: pairs, crowds, hand-over, death, start, commands, memory.
//!
//! `cargo bench --bench locks` measures everything, `-- socket` the groups with that word in their name. `--quick`
//! takes a few seconds and shows only that everything can be measured, `--json` prints an array of figures. What the
//! figures mean stands in docs/PERFORMANCE.md.

mod support;

use flockd::clock::monotonic_ns;
use flockd::{Client, EventFilter};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use support::figures::{Round, Side, Target, Unit, run};
use support::places::{FLOCKD, Ground, Pinned, Running, Worker, bare, daemon};
use support::workers::{ROLE, pause, play};

/// Processes of a crowd, and the locks that they choose from where there are many.
const CROWD: usize = 8;
const MANY: usize = 64;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    rounds: usize,
    /// Pairs of a process in a round.
    pairs: usize,
    /// The same where each waits for the disk.
    synced: usize,
    /// How long a crowd runs, in milliseconds.
    crowd: usize,
    /// Single events in a round: hand-overs, deaths, commands.
    events: usize,
    starts: usize,
    leases: usize,
}

const FULL: Extent =
    Extent { rounds: 5, pairs: 3_000, synced: 500, crowd: 1_000, events: 30, starts: 5, leases: 10_000 };
const QUICK: Extent = Extent { rounds: 1, pairs: 20, synced: 5, crowd: 50, events: 2, starts: 1, leases: 50 };

/// What the command line asks for.
struct Wishes {
    extent: Extent,
    words: Vec<String>,
    json: Option<Vec<Value>>,
}

impl Wishes {
    fn run(&mut self, title: &str, unit: Unit, sides: Vec<Side<'_>>) {
        run(title, unit, self.extent.rounds, sides, self.json.as_mut());
    }
}

type Group = (&'static str, fn(&mut Wishes));

const GROUPS: &[Group] = &[
    ("table", table),
    ("process", in_process),
    ("socket-one-cpu", |wishes| {
        let _pinned = Pinned::to_one();
        socket(wishes, "over the socket, all on one CPU", ONE_CPU);
    }),
    ("socket-free", |wishes| socket(wishes, "over the socket, where the scheduler likes", FREE)),
    ("crowd-one-lock", |wishes| crowd(wishes, "8 processes on one lock", 1, &ONE_LOCK)),
    ("crowd-64-locks", |wishes| crowd(wishes, "8 processes on 64 locks", MANY, &MANY_LOCKS)),
    ("hand-over", hand_over),
    ("kill", kill),
    ("start", start),
    ("command", commands),
    ("hook", hooks),
    ("write", write),
    ("memory", memory),
    ("subscribers", subscribers),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((ROLE, role)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return match play(role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{role:?}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let mut wishes = Wishes {
        extent: if has("--quick") { QUICK } else { FULL },
        words: arguments.iter().filter(|argument| !argument.starts_with('-')).cloned().collect(),
        json: has("--json").then(Vec::new),
    };
    for (name, group) in GROUPS {
        if wishes.words.is_empty() || wishes.words.iter().any(|word| name.contains(word.as_str())) {
            group(&mut wishes);
        }
    }
    if let Some(figures) = wishes.json {
        println!("{}", Value::from(figures));
    }
    ExitCode::SUCCESS
}

// ── Pairs of one process ────────────────────────────────────────────────────────────────────────────────────────────

const NONE: Target = Target { p50: None, p99: None, longest: None, ratio: None, rate: None, share: None };

fn pairs(worker: &mut Worker, count: usize) -> Round {
    worker.ask(&format!("pairs {count}")).into()
}

/// A worker on the locks of a daemon: `scopes` begins their names, `@l` of no files, `f` of files.
fn client(ground: &Ground, home: &str, scopes: &str, count: usize, ttl: usize, answered: bool) -> Worker {
    worker("flockd", ground, home, scopes, count, ttl, answered)
}

fn worker(kind: &str, ground: &Ground, home: &str, scopes: &str, count: usize, ttl: usize, answered: bool) -> Worker {
    let work = ground.work();
    let work = work.to_str().expect("a path that we chose");
    let (count, ttl) = (count.to_string(), ttl.to_string());
    let answered = if answered { "answered" } else { "unanswered" };
    Worker::start(&[kind, &ground.word(home), work, scopes, &count, &ttl, answered])
}

fn flock(ground: &Ground, count: usize) -> Worker {
    let work = ground.work();
    Worker::start(&["flock", work.to_str().expect("a path that we chose"), &count.to_string()])
}

fn table(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let (mut kept, mut table) = (flock(&ground, 1), Worker::start(&["table"]));
    let count = wishes.extent.pairs;
    let target = Target { p50: Some(0.5), ..NONE };
    let sides = vec![
        Side::floor("flock pair", || pairs(&mut kept, count)),
        Side::ours("the table alone", "flock pair", target, || pairs(&mut table, count)),
    ];
    wishes.run("lock and unlock, the table alone", Unit::Time, sides);
}

fn in_process(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let mut kept = flock(&ground, 1);
    let mut append = Worker::start(&["append", &ground.word("append.log")]);
    let mut at_once = worker("embedded", &ground, "home-0", "f", 1, 0, true);
    let mut unanswered = worker("embedded", &ground, "home-1", "f", 1, 0, false);
    let mut leased = worker("embedded", &ground, "home-2", "f", 1, 60, true);
    let Extent { pairs: count, synced, .. } = wishes.extent;
    let target = Target { p50: Some(2.0), p99: Some(5.0), ratio: Some(2.2), rate: Some(400_000.0), ..NONE };
    let sides = vec![
        Side::floor("flock pair", || pairs(&mut kept, count)),
        Side::floor("append and fdatasync", || pairs(&mut append, synced)),
        Side::ours("ttl 0", "flock pair", target, || pairs(&mut at_once, count)),
        Side::ours("ttl 0, release unanswered", "flock pair", NONE, || pairs(&mut unanswered, count)),
        Side::ours("ttl 60", "append and fdatasync", NONE, || pairs(&mut leased, synced)),
    ];
    wishes.run("lock and unlock in the process of the coordinator", Unit::Time, sides);
}

/// What is to be reached over the socket: with all answered, with releases unanswered, and synced.
struct SocketTargets {
    answered: Target,
    unanswered: Target,
    synced: Target,
}

const ONE_CPU: SocketTargets = SocketTargets {
    answered: Target { p50: Some(32.0), ratio: Some(1.6), ..NONE },
    unanswered: Target { p50: Some(25.0), ..NONE },
    synced: Target { ratio: Some(2.3), ..NONE },
};

const FREE: SocketTargets = SocketTargets {
    answered: Target { p50: Some(120.0), p99: Some(300.0), ratio: Some(1.25), rate: Some(8_500.0), ..NONE },
    unanswered: Target { p50: Some(80.0), ..NONE },
    synced: Target { p50: Some(250.0), p99: Some(600.0), ratio: Some(2.3), rate: Some(4_000.0), ..NONE },
};

fn socket(wishes: &mut Wishes, title: &str, targets: SocketTargets) {
    let ground = Ground::new(1);
    let _daemon = daemon(&ground.path("home"));
    let (_bare, echo) = bare(&ground, "written");
    let mut kept = flock(&ground, 1);
    let mut append = Worker::start(&["append", &ground.word("append.log")]);
    let mut echo_pairs = Worker::start(&["echo", &echo, "answered"]);
    let mut echo_unanswered = Worker::start(&["echo", &echo, "unanswered"]);
    let mut file = client(&ground, "home", "f", 1, 0, true);
    let mut file_unanswered = client(&ground, "home", "f", 1, 0, false);
    let mut name = client(&ground, "home", "@l", 1, 0, true);
    let mut name_unanswered = client(&ground, "home", "@l", 1, 0, false);
    let mut leased = client(&ground, "home", "f", 1, 60, true);
    let Extent { pairs: count, synced, .. } = wishes.extent;
    let sides = vec![
        Side::floor("flock pair", || pairs(&mut kept, count)),
        Side::floor("append and fdatasync", || pairs(&mut append, synced)),
        Side::floor("bare daemon", || pairs(&mut echo_pairs, count)),
        Side::floor("bare daemon, unanswered", || pairs(&mut echo_unanswered, count)),
        Side::ours("a name, ttl 0", "bare daemon", targets.answered, || pairs(&mut name, count)),
        Side::ours("a file, ttl 0", "bare daemon", targets.answered, || pairs(&mut file, count)),
        Side::ours("a name, unanswered", "bare daemon, unanswered", targets.unanswered, || {
            pairs(&mut name_unanswered, count)
        }),
        Side::ours("a file, unanswered", "bare daemon, unanswered", targets.unanswered, || {
            pairs(&mut file_unanswered, count)
        }),
        Side::ours("a file, ttl 60", "append and fdatasync", targets.synced, || pairs(&mut leased, synced)),
    ];
    wishes.run(&format!("lock and unlock {title}"), Unit::Time, sides);
}

// ── Writes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a file that is replaced.
const CONTENT: usize = 4096;

/// Replaces a file as a careful program does: a new one beside it, synced, renamed, and the directory synced.
fn replace(path: &Path) {
    let beside = path.with_extension("new");
    let mut new = std::fs::File::create(&beside).expect("the directory is ours");
    std::io::Write::write_all(&mut new, &[7; CONTENT]).expect("there is room");
    new.sync_all().expect("the disk works");
    std::fs::rename(&beside, path).expect("both are in one directory");
    let dir = std::fs::File::open(path.parent().expect("it lies in a directory")).expect("it is there");
    dir.sync_all().expect("the disk works");
}

fn times(count: usize, mut event: impl FnMut()) -> Round {
    let one = |_| {
        let begun = monotonic_ns();
        event();
        monotonic_ns() - begun
    };
    (0..count).map(one).collect::<Vec<u64>>().into()
}

fn write(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let _daemon = daemon(&ground.path("home"));
    let client = Client::builder().home(ground.path("home")).start_nothing().connect().expect("it serves");
    let (holder, other) = (client.agent("holder").expect("a name"), client.agent("other").expect("a name"));
    let file = |name: &str| ground.work().join(name);
    let guard = holder.lock(file("held")).acquire().expect("nobody else wants it");
    let count = wishes.extent.synced / 5;
    let sides = vec![
        Side::floor("write, fsync, rename, fsync", || times(count, || replace(&file("bare")))),
        Side::ours("under a lock", "write, fsync, rename, fsync", NONE, || {
            times(count, || drop(guard.write([7; CONTENT]).expect("it is held")))
        }),
        Side::ours("and one for the moment", "write, fsync, rename, fsync", NONE, || {
            times(count, || drop(other.write(file("free"), [7; CONTENT]).expect("nobody else wants it")))
        }),
    ];
    wishes.run("a file of 4 KiB replaced durably", Unit::Time, sides);
}

// ── Crowds ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What is to be reached by a crowd: with all answered, with releases unanswered, and synced.
struct CrowdTargets {
    answered: Target,
    unanswered: Target,
    synced: Target,
}

const ONE_LOCK: CrowdTargets = CrowdTargets {
    answered: Target { rate: Some(20_000.0), share: Some(0.9), ..NONE },
    unanswered: NONE,
    synced: Target { rate: Some(3_500.0), share: Some(0.95), ..NONE },
};

const MANY_LOCKS: CrowdTargets = CrowdTargets {
    answered: Target { rate: Some(35_000.0), ..NONE },
    unanswered: Target { rate: Some(50_000.0), ..NONE },
    synced: Target { rate: Some(10_000.0), ..NONE },
};

fn together(workers: &mut [Worker], ms: usize, locks: usize) -> Round {
    for (number, worker) in workers.iter_mut().enumerate() {
        worker.tell(&format!("crowd {ms} {locks} {}", number + 1));
    }
    let counts: Vec<f64> = workers.iter_mut().map(|worker| worker.hear()[0] as f64).collect();
    let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = counts.iter().copied().fold(0.0, f64::max);
    Round { values: vec![counts.iter().sum::<f64>() * 1_000.0 / ms as f64], share: Some(least / most) }
}

fn crowd(wishes: &mut Wishes, title: &str, locks: usize, targets: &CrowdTargets) {
    let ground = Ground::new(locks);
    let _daemon = daemon(&ground.path("home"));
    let (_bare, echo) = bare(&ground, "written");
    let (_synced, synced_echo) = bare(&ground, "synced");
    let many = |worker: &dyn Fn() -> Worker| (0..CROWD).map(|_| worker()).collect::<Vec<_>>();
    let mut kept = many(&|| flock(&ground, locks));
    let mut echo_pairs = many(&|| Worker::start(&["echo", &echo, "answered"]));
    let mut echo_unanswered = many(&|| Worker::start(&["echo", &echo, "unanswered"]));
    let mut echo_synced = many(&|| Worker::start(&["echo", &synced_echo, "answered"]));
    let mut files = many(&|| client(&ground, "home", "f", locks, 0, true));
    let mut unanswered = many(&|| client(&ground, "home", "f", locks, 0, false));
    let mut leased = many(&|| client(&ground, "home", "f", locks, 60, true));
    let ms = wishes.extent.crowd;
    let sides = vec![
        Side::floor("flock pair", || together(&mut kept, ms, locks)),
        Side::floor("bare daemon", || together(&mut echo_pairs, ms, locks)),
        Side::floor("bare daemon, unanswered", || together(&mut echo_unanswered, ms, locks)),
        Side::floor("bare daemon, synced", || together(&mut echo_synced, ms, locks)),
        Side::ours("files, ttl 0", "bare daemon", targets.answered, || together(&mut files, ms, locks)),
        Side::ours("files, unanswered", "bare daemon, unanswered", targets.unanswered, || {
            together(&mut unanswered, ms, locks)
        }),
        Side::ours("files, ttl 60", "bare daemon, synced", targets.synced, || together(&mut leased, ms, locks)),
    ];
    wishes.run(title, Unit::Rate, sides);
}

// ── One after another ───────────────────────────────────────────────────────────────────────────────────────────────

/// How long everybody sleeps before an event, in milliseconds: 20 to 60, never twice the same in a row.
fn idle(number: usize) -> usize {
    20 + number * 17 % 41
}

/// From the release by one process, which was idle, to the grant to another, which slept.
fn hand_overs(pair: &mut [Worker; 2], count: usize) -> Round {
    let [holder, waiter] = pair;
    let mut times = Vec::new();
    for number in 0..count {
        holder.ask_one("lock 0");
        waiter.tell("lock 0");
        let released = holder.ask_one(&format!("unlock 0 {}", idle(number)));
        times.push(waiter.hear()[0] - released);
        waiter.ask_one("unlock 0 0");
    }
    times.into()
}

fn hand_over(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let _daemon = daemon(&ground.path("home"));
    let (_bare, echo) = bare(&ground, "written");
    let (_synced, synced_echo) = bare(&ground, "synced");
    let mut kept = [flock(&ground, 1), flock(&ground, 1)];
    let two = |start: &dyn Fn() -> Worker| [start(), start()];
    let mut echoes = two(&|| Worker::start(&["echo", &echo, "answered"]));
    let mut echoes_synced = two(&|| Worker::start(&["echo", &synced_echo, "answered"]));
    let mut at_once = two(&|| client(&ground, "home", "f", 1, 0, true));
    let mut leased = two(&|| client(&ground, "home", "f", 1, 60, true));
    let count = wishes.extent.events;
    let quick = Target { p50: Some(150.0), p99: Some(600.0), ratio: Some(1.3), ..NONE };
    let synced = Target { p50: Some(800.0), p99: Some(2_500.0), ratio: Some(1.3), ..NONE };
    let sides = vec![
        Side::floor("flock", || hand_overs(&mut kept, count)),
        Side::floor("bare daemon", || hand_overs(&mut echoes, count)),
        Side::floor("bare daemon, synced", || hand_overs(&mut echoes_synced, count)),
        Side::ours("a file, ttl 0", "bare daemon", quick, || hand_overs(&mut at_once, count)),
        Side::ours("a file, ttl 60", "bare daemon, synced", synced, || hand_overs(&mut leased, count)),
    ];
    wishes.run("from a release to the grant to a process that waits", Unit::Time, sides);
}

/// From SIGKILL of a holder, made anew each time, to the grant to a process that waits.
fn deaths(holder: &dyn Fn() -> Worker, waiter: &mut Worker, count: usize) -> Round {
    let mut times = Vec::new();
    for number in 0..count {
        let mut holder = holder();
        holder.ask_one("lock 0");
        waiter.tell("lock 0");
        pause(idle(number) as u64);
        let killed = holder.process.kill();
        times.push(waiter.hear()[0] - killed);
        waiter.ask_one("unlock 0 0");
    }
    times.into()
}

fn kill(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let _daemon = daemon(&ground.path("home"));
    let (_bare, echo) = bare(&ground, "written");
    let (_synced, synced_echo) = bare(&ground, "synced");
    let at_flock = || flock(&ground, 1);
    let at_echo = || Worker::start(&["echo", &echo, "answered"]);
    let at_synced = || Worker::start(&["echo", &synced_echo, "answered"]);
    let at_daemon = || client(&ground, "home", "f", 1, 0, true);
    let mut waiters = [at_flock(), at_echo(), at_synced(), at_daemon(), client(&ground, "home", "f", 1, 60, true)];
    let [by_flock, by_echo, by_synced, by_daemon, leased] = &mut waiters;
    let count = wishes.extent.events;
    let quick = Target { p50: Some(700.0), longest: Some(3_000.0), ratio: Some(1.4), ..NONE };
    let synced = Target { p50: Some(1_600.0), longest: Some(5_000.0), ..NONE };
    let sides = vec![
        Side::floor("flock", || deaths(&at_flock, by_flock, count)),
        Side::floor("bare daemon", || deaths(&at_echo, by_echo, count)),
        Side::floor("bare daemon, synced", || deaths(&at_synced, by_synced, count)),
        Side::ours("a file, next ttl 0", "bare daemon", quick, || deaths(&at_daemon, by_daemon, count)),
        Side::ours("a file, next ttl 60", "bare daemon, synced", synced, || deaths(&at_daemon, leased, count)),
    ];
    wishes.run("from SIGKILL of the holder to the next grant", Unit::Time, sides);
}

// ── Whole processes ─────────────────────────────────────────────────────────────────────────────────────────────────

/// Runs a command to its end and tells how long that took.
fn timed(command: &mut Command) -> u64 {
    let begun = monotonic_ns();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = monotonic_ns() - begun;
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn flockd(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(FLOCKD);
    command.args(words).env("FLOCKD_HOME", home).env("FLOCKD_AGENT", "bench");
    command
}

/// A home whose daemon has ended and left so many leases: killed, so that they are in the log, or stopped, so that
/// they are in the store.
fn home_with_leases(ground: &Ground, name: &str, leases: usize, is_killed: bool) {
    let home = ground.path(name);
    let mut running = daemon(&home);
    let client = Client::builder().home(&home).start_nothing().connect().expect("it runs");
    // Many at once share a sync.
    std::thread::scope(|threads| {
        for part in 0..CROWD {
            let (client, work) = (&client, ground.work());
            threads.spawn(move || {
                let session = client.agent(format!("claw-{part}")).expect("a session");
                let workspace = session.workspace(work).expect("a directory");
                for number in (part..leases).step_by(CROWD) {
                    let request = workspace.lock(format!("f{number}")).ttl(std::time::Duration::from_secs(86_400));
                    request.acquire().expect("nobody else wants it").keep().expect("it has a ttl");
                }
            });
        }
    });
    assert_eq!(client.status().expect("it runs").locks.len(), leases);
    drop(client);
    match is_killed {
        true => drop(running.kill()),
        false => drop(timed(&mut flockd(&home, &["daemon", "stop"]))),
    }
}

/// From the start of the command to its end, when the daemon answers; each time on a fresh copy of the home.
fn starts(ground: &Ground, template: &str, count: usize) -> Round {
    let home = ground.path("started");
    let mut times = Vec::new();
    for _ in 0..count {
        std::fs::create_dir(&home).expect("it was removed");
        std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("our own");
        for file in std::fs::read_dir(ground.path(template)).expect("a home").map(|file| file.expect("readable")) {
            if file.file_type().expect("readable").is_file() {
                std::fs::copy(file.path(), home.join(file.file_name())).expect("room");
            }
        }
        rustix::fs::sync();
        times.push(timed(&mut flockd(&home, &["daemon", "start"])));
        timed(&mut flockd(&home, &["daemon", "stop"]));
        std::fs::remove_dir_all(&home).expect("our own");
    }
    times.into()
}

fn start(wishes: &mut Wishes) {
    let (leases, count) = (wishes.extent.leases, wishes.extent.starts);
    let ground = Ground::new(leases);
    home_with_leases(&ground, "empty", 0, false);
    home_with_leases(&ground, "stopped", leases, false);
    home_with_leases(&ground, "killed", leases, true);
    let stopped = format!("{leases} leases, after a stop");
    let killed = format!("{leases} leases, after kill -9");
    let sides = vec![
        Side::floor("no leases", || starts(&ground, "empty", count)),
        Side::ours(&stopped, "no leases", NONE, || starts(&ground, "stopped", count)),
        Side::ours(&killed, "no leases", NONE, || starts(&ground, "killed", count)),
    ];
    wishes.run("flockd daemon start, until the daemon answers", Unit::Time, sides);
}

fn commands(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let home = ground.path("home");
    let _daemon = daemon(&home);
    let file = ground.word("w/f0");
    let count = wishes.extent.events;
    let repeated = |once: &dyn Fn() -> u64| Round::from((0..count).map(|_| once()).collect::<Vec<_>>());
    let lock = || timed(&mut flockd(&home, &["lock", &file]));
    let unlock = || timed(&mut flockd(&home, &["unlock", &file]));
    let then = |first: &dyn Fn() -> u64, second: &dyn Fn() -> u64| {
        let took = first();
        second();
        took
    };
    let after = |first: &dyn Fn() -> u64, second: &dyn Fn() -> u64| {
        first();
        second()
    };
    let sides = vec![
        Side::floor("true", || repeated(&|| timed(&mut Command::new("true")))),
        Side::floor("flock FILE true", || repeated(&|| timed(Command::new("flock").args([&file, "true"])))),
        Side::ours("flockd run FILE -- true", "flock FILE true", NONE, || {
            repeated(&|| timed(&mut flockd(&home, &["run", &file, "--", "true"])))
        }),
        Side::ours("flockd lock FILE", "flock FILE true", NONE, || repeated(&|| then(&lock, &unlock))),
        Side::ours("flockd unlock FILE", "flock FILE true", NONE, || repeated(&|| after(&lock, &unlock))),
        Side::ours("flockd ls", "true", NONE, || repeated(&|| timed(&mut flockd(&home, &["ls"])))),
    ];
    wishes.run("a command as a whole process", Unit::Time, sides);
}

fn hooks(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let home = ground.path("home");
    let _daemon = daemon(&home);
    let recorded = |payload: &str| {
        let input = payload.replace("$CWD", &ground.word("w")).replace("$SESSION", "ada");
        input.replace("$HOME", "/home/ada").replace("data.json", "f0")
    };
    let edit = recorded(include_str!("../tests/hooks/payloads/claude-code/before_edit.json"));
    let shell = recorded(include_str!("../tests/hooks/payloads/claude-code/before_shell.json"));
    let read = shell.replace("echo 2 > f0", "cat f0 | sort");
    assert_ne!(read, shell, "the recorded command writes the file");
    let end = recorded(include_str!("../tests/hooks/payloads/claude-code/turn_end.json"));
    let call_in = |mode: &str, input: &str| {
        let mut hook = flockd(&home, &["hook", "--client", "claude-code", "--mode", mode]);
        hook.stdin(Stdio::piped()).stdout(Stdio::null());
        let begun = monotonic_ns();
        let mut running = hook.spawn().expect("the program that is measured");
        running.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads its input");
        assert!(running.wait().expect("our own process").success(), "a hook lets its agent's own edit pass");
        monotonic_ns() - begun
    };
    let call = |input: &str| call_in("auto", input);
    let count = wishes.extent.events;
    let repeated = |once: &dyn Fn() -> u64| Round::from((0..count).map(|_| once()).collect::<Vec<_>>());
    // The whole call stays below what a person or a model would notice between two edits.
    let target = Target { p50: Some(5_000.0), ..NONE };
    let first = || {
        let took = call(&edit);
        call(&end);
        took
    };
    let last = || {
        call(&edit);
        call(&end)
    };
    let sides = vec![
        Side::floor("true", || repeated(&|| timed(&mut Command::new("true")))),
        Side::ours("before an edit, the lock taken", "true", target, || repeated(&first)),
        Side::ours("before an edit, held already", "true", target, || repeated(&|| call(&edit))),
        Side::ours("before an edit, only checked", "true", target, || repeated(&|| call_in("check", &edit))),
        Side::ours("before a command that writes nothing", "true", target, || repeated(&|| call(&read))),
        Side::ours("at the end of a turn", "true", target, || repeated(&last)),
    ];
    wishes.run("a hook as a whole process", Unit::Time, sides);
}

/// What a process has in memory, in KiB: with its share of what others have, too, or only what is its own.
fn memory_of(process: &Running, line: &str) -> Round {
    let path = format!("/proc/{}/smaps_rollup", process.pid());
    let text = std::fs::read_to_string(path).expect("our own process");
    let sum = text.lines().filter(|found| found.starts_with(line));
    let kib = sum.filter_map(|found| found.split_whitespace().nth(1)?.parse::<f64>().ok()).sum();
    Round { values: vec![kib], share: None }
}

fn memory(wishes: &mut Wishes) {
    let leases = wishes.extent.leases / 10;
    let ground = Ground::new(leases);
    let (echo, _) = bare(&ground, "written");
    home_with_leases(&ground, "full", leases, false);
    let (idle, full) = (daemon(&ground.path("home")), daemon(&ground.path("full")));
    let own = format!("{leases} leases, its own");
    let sides = vec![
        Side::floor("bare daemon", || memory_of(&echo, "Rss:")),
        Side::floor("bare daemon, its own", || memory_of(&echo, "Private_")),
        Side::ours("idle daemon", "bare daemon", NONE, || memory_of(&idle, "Rss:")),
        Side::ours("idle daemon, its own", "bare daemon, its own", NONE, || memory_of(&idle, "Private_")),
        Side::ours(&own, "bare daemon, its own", NONE, || memory_of(&full, "Private_")),
    ];
    wishes.run("memory of an idle daemon", Unit::Memory, sides);
}

// ── Subscribers ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// What those who are told what happens cost those who lock: one that reads, and one that does not.
fn subscribers(wishes: &mut Wishes) {
    let ground = Ground::new(1);
    let homes = ["home-0", "home-1", "home-2"];
    let _daemons = homes.map(|home| daemon(&ground.path(home)));
    let (_bare, echo) = bare(&ground, "written");
    let subscribe = |home: &str| {
        let client = Client::builder().home(ground.path(home)).start_nothing().connect().expect("the daemon runs");
        client.subscribe(EventFilter::new()).expect("all events may be subscribed to")
    };
    let _stalled = subscribe(homes[1]);
    let read = subscribe(homes[2]);
    // Ends with the process.
    std::thread::spawn(move || read.iter().count());
    let mut echo_pairs = Worker::start(&["echo", &echo, "answered"]);
    let mut workers = homes.map(|home| client(&ground, home, "@l", 1, 0, true));
    let [alone, stalled, read] = &mut workers;
    let count = wishes.extent.pairs;
    // As many as fill channel and socket: from then on it does not read.
    pairs(stalled, count.max(3_000));
    let sides = vec![
        Side::floor("bare daemon", || pairs(&mut echo_pairs, count)),
        Side::ours("no subscriber", "bare daemon", NONE, || pairs(alone, count)),
        Side::ours("one that does not read", "bare daemon", NONE, || pairs(stalled, count)),
        Side::ours("one that reads", "bare daemon", NONE, || pairs(read, count)),
    ];
    wishes.run("lock and unlock over the socket beside a subscriber", Unit::Time, sides);
}
