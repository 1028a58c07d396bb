//! Foreign programs are kept out by our locks, and theirs keep ours waiting.

use crate::programs::{BOTH, How, Program, programs};
use crate::util::{Ground, StopAtEnd, exclusive, scaled, shared, take, until};
use flockd::wire::{Held, KeptBy, LockBody};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A ground with a file and a directory, and the names of both.
fn ground() -> (Ground, [(&'static str, PathBuf); 2]) {
    let ground = Ground::new();
    let (file, dir) = (ground.work.join("file"), ground.work.join("dir"));
    fs::write(&file, "content").unwrap();
    fs::create_dir(&dir).unwrap();
    (ground, [("file", file), ("dir", dir)])
}

#[test]
fn foreign_programs_are_kept_out_of_files_and_directories_as_the_mode_says() {
    let (ground, targets) = ground();
    let programs = programs();
    for (name, path) in &targets {
        for ours in BOTH {
            let lock = ground.flockd("a", &format!("lock {name} {} --json", ours.flag())).gives(0).json();
            assert_eq!(lock["os_lock"], true, "{lock}");
            for program in &programs {
                for theirs in BOTH {
                    let gets = program.gets(path, theirs);
                    assert_eq!(gets, ours.fits(theirs), "{program:?}, {theirs:?} beside our {ours:?} on {name}");
                }
            }
            ground.flockd("a", &format!("unlock {name}")).gives(0);
            for program in &programs {
                assert!(program.gets(path, How::Exclusive), "{program:?}: the unlocked {name} is free");
            }
        }
    }
}

#[test]
fn a_foreign_holder_refuses_a_try_and_is_named_by_pid_and_command() {
    let (ground, targets) = ground();
    for program in programs() {
        for (name, path) in &targets {
            for (theirs, ours) in BOTH.into_iter().flat_map(|theirs| BOTH.map(|ours| (theirs, ours))) {
                let foreigner = program.hold(path, theirs);
                let args = format!("lock -n {name} {} --json", ours.flag());
                if theirs.fits(ours) {
                    ground.flockd("a", &args).gives(0);
                    ground.flockd("a", &format!("unlock {name}")).gives(0);
                } else {
                    let refused = ground.flockd("a", &args).gives(1).json();
                    let by = &refused["holders"][0];
                    assert_eq!(by["pid"], foreigner.pid(), "{program:?}: {refused}");
                    assert_eq!(by["agent"], format!("({})", foreigner.command()));
                    assert_eq!((&by["kept_by"], &by["lock_id"]), (&"flock".into(), &"flock".into()));
                    let mode = if theirs == How::Shared { "shared" } else { "exclusive" };
                    assert_eq!(by["mode"], mode);
                    let told = ground.flockd("a", &format!("lock -n {name} {}", ours.flag())).gives(1);
                    told.says(&["by flock(2), not through flockd", &format!("pid {}", foreigner.pid())]);
                }
                foreigner.let_go();
            }
            ground.flockd("a", &format!("lock -n {name}")).gives(0);
            ground.flockd("a", &format!("unlock {name}")).gives(0);
        }
    }
}

#[test]
fn whoever_waits_for_a_foreign_program_is_granted_when_it_lets_go_or_dies() {
    let (ground, targets) = ground();
    for program in programs() {
        for (name, path) in &targets {
            for is_killed in [false, true] {
                if is_killed && program != Program::Python {
                    // What flock(1) started keeps the file, and this process goes on.
                    continue;
                }
                let foreigner = program.hold(path, How::Exclusive);
                let mut waiting = ground.queue("a", name);
                let waiter = until("the foreigner is known", || {
                    ground.status().waiters.into_iter().find(|waiter| !waiter.holders.is_empty())
                });
                assert_eq!(waiter.holders[0].pid, Some(foreigner.pid()));
                assert_eq!(waiter.holders[0].kept_by, KeptBy::Flock);
                // Nobody passes it: a second one of ours waits behind the first.
                ground.flockd("b", &format!("lock -n {name}")).gives(1);
                if is_killed {
                    foreigner.kill()
                } else {
                    foreigner.let_go()
                }
                waiting.granted();
                assert!(ground.status().locks.iter().all(|lock| lock.os_lock && lock.agent == "a"));
                assert!(!program.gets(path, How::Shared));
                assert_eq!(waiting.end(), Some(0));
                until("it is free", || ground.status().locks.is_empty().then_some(()));
            }
        }
    }
}

#[test]
fn a_foreign_program_that_waits_gets_the_file_when_ours_ends() {
    let (ground, targets) = ground();
    for program in programs().into_iter().filter(|program| *program != Program::Rust) {
        for (name, path) in &targets {
            for theirs in BOTH {
                let held = ground.hold("a", name);
                let mut foreigner = program.ask(path, theirs);
                foreigner.until_waiting();
                assert_eq!(held.end(), Some(0));
                foreigner.granted();
                ground.flockd("b", &format!("lock -n {name}")).gives(1);
                foreigner.let_go();
            }
        }
    }
    // Rust's own, which waits in a thread of this process.
    let path = &targets[0].1;
    let held = ground.hold("a", "file");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| drop(Program::Rust.hold(path, How::Exclusive)));
        Program::Rust.until_this_process_waits();
        assert_eq!(held.end(), Some(0));
        waiting.join().unwrap();
    });
}

impl Program {
    fn until_this_process_waits(self) {
        let pid = std::process::id().to_string();
        until("this process waits for a flock", || {
            let table = fs::read_to_string("/proc/locks").unwrap();
            let waits = |line: &str| line.contains("-> FLOCK") && line.split_ascii_whitespace().any(|word| word == pid);
            table.lines().any(waits).then_some(())
        });
    }
}

/// Tries for the whole file again and again while ours pass it on; how often it got in.
fn intrude(path: &Path, stop: &AtomicBool, tries: &AtomicU64) -> u64 {
    let mut got_in = 0;
    while !stop.load(Ordering::Relaxed) {
        got_in += u64::from(File::open(path).unwrap().try_lock().is_ok());
        tries.fetch_add(1, Ordering::Relaxed);
    }
    got_in
}

#[test]
fn what_one_of_ours_lets_go_passes_to_the_next_without_a_gap() {
    let (ground, targets) = ground();
    for (name, path) in &targets {
        let clients = [ground.client("one", None), ground.client("two", None)];
        let (stop, tries) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut holder, _) = take(&clients[1], exclusive(name, 60_000));
        let got_in: u64 = std::thread::scope(|scope| {
            let stopped = StopAtEnd(&stop);
            let intruders = [0; 2].map(|_| scope.spawn(|| intrude(path, &stop, &tries)));
            // From writer to writer, and at last to a reader.
            let turns = scaled(100) as usize;
            for turn in 0..turns {
                let (last, next) = (&clients[(turn + 1) % 2], &clients[turn % 2]);
                let ask = if turn + 1 == turns { shared(name, 60_000) } else { exclusive(name, 60_000) };
                let waiting = next.begin(ask).unwrap();
                until("the next one waits", || (ground.status().waiters.len() == 1).then_some(()));
                let so_far = tries.load(Ordering::Relaxed);
                last.unlock(&holder).unwrap();
                holder = granted(next.finish(waiting, None).unwrap().unwrap());
                until("the intruders try", || (tries.load(Ordering::Relaxed) > so_far + 2).then_some(()));
            }
            drop(stopped);
            intruders.into_iter().map(|intruder| intruder.join().unwrap()).sum()
        });
        assert_eq!(got_in, 0, "so often somebody came in between");
    }
}

fn granted(answer: flockd::wire::Answer) -> String {
    match answer.ok {
        Some(flockd::wire::Body::Lock(body)) => {
            assert!(body.acquired && body.os_lock, "{body:?}");
            body.lock_id.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lock_without_flock_leaves_the_file_to_the_programs_that_flock_it_themselves() {
    let (ground, targets) = ground();
    for (name, path) in &targets {
        let lock = ground.flockd("a", &format!("lock {name} --no-os-lock --json")).gives(0).json();
        assert_eq!(lock["os_lock"], false, "{lock}");
        for program in programs() {
            assert!(program.gets(path, How::Exclusive), "{program:?}");
            // Ours still exclude each other.
            let foreigner = program.hold(path, How::Exclusive);
            ground.flockd("b", &format!("lock -n {name} --no-os-lock")).gives(1).says(&["a holds"]);
            foreigner.let_go();
        }
        ground.flockd("a", &format!("unlock {name}")).gives(0);
        let with = |extra: &str| format!("run {extra} {name} -- {}", "flock -n PATH true");
        if programs().contains(&Program::Flock) {
            let args = |extra| with(extra).replace("PATH", path.to_str().unwrap());
            ground.flockd("a", &args("--no-os-lock")).gives(0);
            ground.flockd("a", &args("")).gives(1);
        }
    }
}

/// The only lock there is, once it is so.
fn the_lock(ground: &Ground, what: &str, is_so: impl Fn(&Held) -> bool) -> Held {
    until(what, || ground.status().locks.into_iter().find(|lock| is_so(lock)))
}

#[test]
fn after_a_restart_flocks_are_taken_again_and_a_foreign_program_that_came_in_is_listed() {
    let (ground, targets) = ground();
    for program in programs() {
        for (name, path) in &targets {
            let (_, fence) = take(&ground.client("a", None), exclusive(name, 600_000));
            ground.kill_daemon();
            // Nobody serves: the file is anybody's, as the manual says.
            let foreigner = program.hold(path, How::Exclusive);
            let contested = the_lock(&ground, "it is contested", |lock| lock.contested_by.is_some());
            assert_eq!(contested.contested_by, Some(format!("({})", foreigner.command())), "{program:?}");
            assert_eq!((contested.os_lock, contested.fence), (false, fence), "{contested:?}");
            let listed = ground.flockd("", "ls").gives(0);
            assert!(listed.out.contains("flocked by"), "{listed:?}");
            ground.flockd("b", &format!("lock -n {name}")).gives(1).says(&["a holds"]);
            foreigner.let_go();
            let held = the_lock(&ground, "its flock is back", |lock| lock.os_lock);
            assert_eq!((held.contested_by, held.fence), (None, fence));
            assert!(!program.gets(path, How::Shared), "{program:?} is kept out again");
            // Left alone meanwhile, it is there at once.
            ground.kill_daemon();
            assert!(the_lock(&ground, "it is back", |_| true).os_lock);
            assert!(!program.gets(path, How::Shared));
            ground.flockd("a", &format!("unlock {name}")).gives(0);
        }
    }
}

#[test]
fn those_who_wait_behind_a_foreign_program_are_served_in_the_order_of_arrival() {
    let (ground, targets) = ground();
    let (name, path) = &targets[0];
    let foreigner = Program::Rust.hold(path, How::Shared);
    let names = ["w1", "w2", "w3"];
    let mut waiting = Vec::new();
    for (number, agent) in names.iter().enumerate() {
        waiting.push(ground.queue(agent, name));
        ground.until_waiting(&names[..=number]);
    }
    // A reader would fit beside the foreign reader, but not before those who came first.
    ground.flockd("reader", &format!("lock -n -s {name}")).gives(1);
    foreigner.let_go();
    for (mut held, agent) in waiting.into_iter().zip(names) {
        held.granted();
        assert_eq!(ground.status().locks[0].agent, agent);
        assert_eq!(held.end(), Some(0));
    }
}

#[test]
fn who_gives_up_on_a_foreign_program_names_it_and_leaves_nothing_behind() {
    let (ground, targets) = ground();
    let (name, path) = &targets[0];
    for program in programs() {
        let foreigner = program.hold(path, How::Exclusive);
        let client = ground.client("a", None);
        let request = flockd::wire::Request { wait_ms: Some(100), ..exclusive(name, 60_000) };
        let LockBody { acquired: false, holders, .. } = client.lock(request).unwrap() else { panic!("it is held") };
        assert_eq!(holders[0].pid, Some(foreigner.pid()));
        // The place that is kept for it looks for the foreigner on.
        ground.flockd("a", &format!("unlock {name}")).gives(0);
        foreigner.let_go();
        assert!(ground.status().waiters.is_empty());
        assert!(program.gets(path, How::Exclusive), "no flock is left behind");
    }
}

#[test]
fn what_has_no_flock_is_granted_without_and_says_so() {
    let (ground, _) = ground();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, ground.work.join("pipe"), pipe, rustix::fs::Mode::RUSR, 0).unwrap();
    // A pipe without a writer would make its opener wait for ever.
    for name in ["not-there-yet", "not-there-yet/", "@port-3000", "/dev/null", "pipe"] {
        let lock = ground.flockd("a", &format!("lock {name} --json")).gives(0).json();
        assert_eq!(lock["os_lock"], false, "{lock}");
    }
}
