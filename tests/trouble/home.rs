//! A home that is deleted, replaced or linked away under a running daemon: it ends, touches nothing more, and the next
//! command starts anew.

use crate::util::{Ending, Ground, a_try, exclusive, signal, take, until};
use flockd::client::{ClientError, Connection, Custodian};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// What somebody does to the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// `rm -rf`.
    Unlinked,
    /// Moved away.
    Moved,
    /// Moved away, an empty one in its place.
    Replaced,
    /// Moved away, a copy in its place.
    Copied,
    /// Moved away, a link to it in its place.
    Linked,
    /// Only the lock file is deleted.
    LockFileDeleted,
}

const DEEDS: [Deed; 6] =
    [Deed::Unlinked, Deed::Moved, Deed::Replaced, Deed::Copied, Deed::Linked, Deed::LockFileDeleted];

impl Deed {
    /// Does it; where the old home is afterwards, if it still is.
    fn commit(self, ground: &Ground) -> Option<PathBuf> {
        let (home, away) = (&ground.home, ground.home.with_file_name("away"));
        match self {
            Deed::Unlinked => {
                fs::remove_dir_all(home).unwrap();
                return None;
            }
            Deed::LockFileDeleted => {
                fs::remove_file(home.join("daemon.lock")).unwrap();
                return Some(home.clone());
            }
            Deed::Moved | Deed::Replaced | Deed::Copied | Deed::Linked => fs::rename(home, &away).unwrap(),
        }
        match self {
            Deed::Replaced => fs::DirBuilder::new().mode(0o700).create(home).unwrap(),
            Deed::Copied => {
                fs::DirBuilder::new().mode(0o700).create(home).unwrap();
                for entry in fs::read_dir(&away).unwrap().map(Result::unwrap) {
                    if entry.file_type().unwrap().is_file() {
                        fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
                    }
                }
            }
            Deed::Linked => symlink(&away, home).unwrap(),
            _ => {}
        }
        Some(away)
    }
}

/// All files of a directory but the logs of daemons, and what is in them.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file() && !path.file_name().unwrap().to_str().unwrap().contains("daemon"));
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// A daemon with some history: a lock on a lease, a lock of a session, and who holds it.
fn lived_in() -> (Ground, Connection, String, u64) {
    let ground = Ground::new();
    ground.flockd("a", "lock x").gives(0);
    let keeper = ground.client("keeper", Some(Custodian::Library));
    let (id, fence) = take(&keeper, exclusive("y", 60_000));
    (ground, keeper, id, fence)
}

/// Each deed on a home of its own, all at once: they mostly wait for daemons to look.
fn for_each_deed(run: impl Fn(Deed) + Sync) {
    std::thread::scope(|scope| {
        for deed in DEEDS {
            let run = &run;
            scope.spawn(move || run(deed));
        }
    });
}

#[test]
fn a_daemon_whose_home_is_lost_ends_and_says_so() {
    for_each_deed(|deed| {
        let (ground, keeper, id, fence) = lived_in();
        let daemon = Ending::of(ground.daemon_pid());
        // It is to write into what it has, and this process could not tell where that is later.
        let log = fs::File::open(ground.home.join("daemon.log")).unwrap();
        let old = deed.commit(&ground);
        daemon.wait();
        let said = std::io::read_to_string(log).unwrap();
        assert!(said.contains("ended: the home of the daemon was moved, removed or replaced"), "{deed:?}: {said}");
        if deed == Deed::Linked {
            ground.flockd("b", "lock -n x").gives(5).says(&["is a symbolic link"]);
            return;
        }
        // Where the journal is still in its place, its locks are; else everybody begins anew.
        let is_kept = matches!(deed, Deed::LockFileDeleted | Deed::Copied);
        ground.flockd("b", "lock -n x").gives(i32::from(is_kept));
        let lock = ground.flockd("b", "lock -n z --json").gives(0).json();
        if is_kept {
            assert!(lock["fence"].as_u64().unwrap() > fence, "{deed:?}: {lock} after {fence}");
            keeper.unlock(&id).unwrap();
        } else {
            let lost = keeper.unlock(&id).unwrap_err();
            assert!(matches!(&lost, ClientError::Refused(_) | ClientError::SessionLost(_)), "{deed:?}: {lost:?}");
        }
        if let Some(old) = old.filter(|old| *old != ground.home) {
            // What is in the old place is whole: put back, it is served.
            ground.stop_daemon();
            fs::rename(&ground.home, ground.home.with_file_name("second")).unwrap();
            fs::rename(&old, &ground.home).unwrap();
            ground.flockd("b", "lock -n x").gives(1).says(&["a holds"]);
        }
    });
}

#[test]
fn between_the_deed_and_its_end_a_daemon_grants_nothing_and_touches_nothing() {
    for_each_deed(|deed| {
        let (ground, keeper, _, _) = lived_in();
        // On the connection that there is: a new one would find another daemon, or none.
        let pid = ground.daemon_pid();
        let daemon = Ending::of(pid);
        deed.commit(&ground);
        let before = if ground.home.is_dir() { content(&ground.home) } else { BTreeMap::new() };
        match keeper.lock(a_try(exclusive("z", 0))) {
            Err(ClientError::Refused(error)) => {
                let says = ["moved, removed or replaced", "is not known"];
                assert!(says.iter().any(|says| error.message.contains(says)), "{deed:?}: {error:?}");
            }
            // It had ended already, and another one answered, or none was to be had.
            Ok(_) => assert_ne!(ground.daemon_pid(), pid, "{deed:?}"),
            Err(_) => {}
        }
        // Ended on purpose it is as careful as ended by itself.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::TERM);
        daemon.wait();
        if matches!(deed, Deed::Replaced | Deed::Copied) && !ground.home.join("sock").exists() {
            assert_eq!(content(&ground.home), before, "{deed:?}");
        }
        if deed != Deed::Linked {
            ground.flockd("b", "lock -n new").gives(0);
            ground.stop_daemon();
            ground.flockd("c", "lock -n new").gives(1);
        }
    });
}

/// Asleep at the deed, it wakes up to a home that another one serves.
#[test]
fn a_daemon_that_is_asleep_when_its_home_is_taken_leaves_it_to_the_next_one() {
    let cases = [Deed::Replaced, Deed::LockFileDeleted].map(|deed| [(deed, false), (deed, true)]).concat();
    for (deed, is_told_to_end) in cases {
        let (ground, keeper, _, _) = lived_in();
        // It would come back to the new one, which would write that down.
        drop(keeper);
        until("its session has ended", || (ground.daemon_status().sessions == 0).then_some(()));
        let old = ground.daemon_pid();
        let ending = Ending::of(old);
        signal(old, Signal::STOP);
        deed.commit(&ground);
        // Else its socket, where it is still there, would lead everybody to the sleeping one.
        let _ = fs::remove_file(ground.home.join("sock"));
        let fence = ground.flockd("b", "lock new --json").gives(0).json()["fence"].as_u64().unwrap();
        let new = ground.daemon_pid();
        assert_ne!(new, old);
        let before = content(&ground.home);
        if is_told_to_end {
            signal(old, Signal::TERM);
        }
        signal(old, Signal::CONT);
        ending.wait();
        let after = content(&ground.home);
        let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
        let touched: Vec<&PathBuf> = before.keys().chain(after.keys()).filter(differs).collect();
        assert!(touched.is_empty(), "{deed:?}, told to end: {is_told_to_end}: it touched {touched:?}");
        assert_eq!(ground.daemon_pid(), new, "the new one serves on");
        ground.kill_daemon();
        assert!(ground.status().locks.iter().any(|lock| lock.fence == fence), "{deed:?}");
    }
}

#[test]
fn a_journal_file_that_is_replaced_under_the_daemon_stops_grants_with_its_name() {
    let (ground, keeper, id, _) = lived_in();
    let segment = until("there is a log", || {
        let names = fs::read_dir(&ground.home).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log.")).max()
    });
    let bytes = fs::read(&segment).unwrap();
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    let refused = keeper.lock(a_try(exclusive("z", 0))).unwrap_err().to_string();
    assert!(refused.contains(segment.to_str().unwrap()) && refused.contains("replaced"), "{refused}");
    keeper.unlock(&id).unwrap();
    assert!(ground.daemon_status().trouble.unwrap().contains("replaced"));
    ground.flockd("b", "lock -n x").gives(5).says(&["nothing is granted until"]);
}
