//! What is refused: unreadable journals, never a fresh start; command lines that make no sense; missing names.

use crate::util::{Done, FLOCKD, Ground, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

const REMEDY: &str = "`flockd daemon start --fresh` sets the remains aside and starts without those locks";

/// A home that holds a lock, without a daemon; and the fence of the lock.
fn lived_in() -> (Ground, u64) {
    let ground = Ground::new();
    let fence = ground.flockd("a", "lock x --json").gives(0).json()["fence"].as_u64().unwrap();
    ground.stop_daemon();
    (ground, fence)
}

/// Asserts that nothing starts, that everybody is told why, and that the damaged file is left as it is.
#[track_caller]
fn is_refused(ground: &Ground, file: &Path, says: &str) {
    let before = fs::read(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    for (agent, ask) in
        [("", "daemon start"), ("", "daemon run"), ("b", "lock -n x"), ("", "ls"), ("b", "run y -- true")]
    {
        ground.flockd(agent, ask).gives(5).says(&[name, says]);
    }
    let told = ground.flockd("b", "lock -n x --json").gives(5).json();
    assert_eq!(told["error"]["code"], "unavailable");
    assert!(told["error"]["message"].as_str().unwrap().contains(says), "{told}");
    assert!(ground.daemon_log().contains("not started:"), "{}", ground.daemon_log());
    assert_eq!(fs::read(file).unwrap(), before, "{name} was changed");
    until("what was not started is gone", || ground.processes().is_empty().then_some(()));
}

/// Sets the journal aside: fences go on growing, and what was there is kept.
#[track_caller]
fn is_replaced(ground: &Ground, file: &Path, last_fence: u64) {
    let damaged = fs::read(file).unwrap();
    ground.flockd("", "daemon start --fresh").gives(0);
    assert!(ground.daemon_log().contains("the old journal was set aside"), "{}", ground.daemon_log());
    let lock = ground.flockd("b", "lock -n x --json").gives(0).json();
    assert!(lock["fence"].as_u64().unwrap() > last_fence, "{lock}, after {last_fence}");
    let aside = fs::read_dir(&ground.home).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("aside-"));
    let kept: Vec<PathBuf> = aside.map(|dir| dir.join(file.file_name().unwrap())).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(&kept[0]).unwrap(), damaged);
    ground.stop_daemon();
    ground.flockd("c", "lock -n x").gives(1);
}

#[test]
fn a_truncated_journal_is_refused_until_it_is_set_aside() {
    let (ground, fence) = lived_in();
    let journal = ground.home.join("journal.redb");
    let whole = fs::read(&journal).unwrap();
    for length in [100, whole.len() / 2, whole.len() - 1] {
        fs::write(&journal, &whole[..length]).unwrap();
        is_refused(&ground, &journal, REMEDY);
    }
    is_replaced(&ground, &journal, fence);
}

#[test]
fn an_emptied_journal_is_refused_until_it_is_set_aside() {
    let (ground, fence) = lived_in();
    let journal = ground.home.join("journal.redb");
    fs::write(&journal, "").unwrap();
    is_refused(&ground, &journal, "it is empty");
    is_replaced(&ground, &journal, fence);
}

#[test]
fn a_journal_of_random_bytes_is_refused_until_it_is_set_aside() {
    let (ground, fence) = lived_in();
    let journal = ground.home.join("journal.redb");
    let mut random = 7u64;
    let noise = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    });
    let length = fs::metadata(&journal).unwrap().len() as usize;
    fs::write(&journal, noise.take(length).collect::<Vec<u8>>()).unwrap();
    is_refused(&ground, &journal, "does not belong here");
    is_replaced(&ground, &journal, fence);
}

#[test]
fn a_missing_journal_is_refused_until_it_is_set_aside() {
    let (ground, fence) = lived_in();
    let journal = ground.home.join("journal.redb");
    fs::rename(&journal, ground.work.join("elsewhere")).unwrap();
    for (agent, ask) in [("", "daemon start"), ("b", "lock -n x")] {
        ground.flockd(agent, ask).gives(5).says(&["journal.redb is missing", REMEDY]);
    }
    fs::rename(ground.work.join("elsewhere"), &journal).unwrap();
    ground.flockd("b", "lock -n x").gives(1);
    ground.stop_daemon();
    is_replaced(&ground, &journal, fence);
}

#[test]
fn files_of_a_newer_version_are_left_alone() {
    let (ground, _) = lived_in();
    let path = ground.home.join("fences");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&bytes[..12]);
    checksum.update(&bytes[16..]);
    bytes[12..16].copy_from_slice(&checksum.finalize().to_le_bytes());
    fs::write(&path, bytes).unwrap();
    is_refused(&ground, &path, "was written by a newer flockd (format 9); nothing was changed");
    // Its locks may be held: even `--fresh` does not overrule what it cannot read the fences of.
    ground.flockd("b", "lock -n x").gives(5);
}

/// Root may write everything, so the program runs as somebody else then.
#[test]
fn a_read_only_journal_is_refused_and_served_again_when_it_can_be_written() {
    const NOBODY: u32 = 65_534;
    let ground = Ground::new();
    let is_root = fs::metadata(&ground.work).unwrap().uid() == 0;
    let program = ground.work.join("flockd");
    // Not by this process: while it writes a program, whatever it starts meanwhile keeps that from being run.
    assert!(std::process::Command::new("cp").args([Path::new(FLOCKD), &program]).status().unwrap().success());
    if is_root {
        for dir in [ground.work.parent().unwrap(), &ground.work] {
            std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let flockd = |agent, args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        let mut command = ground.environment(std::process::Command::new(&program), agent, &args);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        Done::of(command)
    };
    flockd("a", "lock x").gives(0);
    flockd("", "daemon stop").gives(0);
    let journal = ground.home.join("journal.redb");
    let before = fs::read(&journal).unwrap();
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o400)).unwrap();
    for (agent, ask) in [("", "daemon start"), ("", "daemon run"), ("b", "lock -n x")] {
        flockd(agent, ask).gives(5).says(&["journal.redb", "must be writable for the user who runs flockd"]);
    }
    assert_eq!(fs::read(&journal).unwrap(), before);
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();
    flockd("b", "lock -n x").gives(1).says(&["a holds x"]);
}

#[test]
fn command_lines_that_make_no_sense_are_usage_errors() {
    let ground = Ground::new();
    let cases = [
        ("lock x --ttl 25h", "at most 24h"),
        ("lock x --ttl NaN", "not a number"),
        ("lock x --ttl=-1", "not negative"),
        ("lock x --ttl inf", "longer than anything lasts"),
        ("lock x --ttl tomorrow", "30s, 5m or 1h30m"),
        ("lock x --wait 25h", "at most 24h"),
        ("lock x --wait 1s -n", "cannot be used with"),
        ("lock x -n -w 1", "cannot be used with"),
        ("lock", "required"),
        ("unlock", "required"),
        ("unlock x --all", "cannot be used with"),
        ("unlock x --id lk_1", "cannot be used with"),
        ("renew --id lk_1 --all", "cannot be used with"),
        ("break lk_1", "--reason"),
        ("check x --fence minus", "invalid"),
        ("run x", "required"),
        ("daemon", "Usage"),
        ("fly", "unrecognized"),
    ];
    for (args, says) in cases {
        ground.flockd("a", args).gives(2).says(&[says]);
    }
    let usage = ground.flockd("a", "lock").gives(2).says(&["Usage: flockd lock <SCOPE>..."]);
    assert!(!usage.err.contains("--agent"), "it is set and need not be given: {usage:?}");
    assert!(!ground.home.exists(), "none of these needs a daemon");
}

#[test]
fn broken_settings_keep_everybody_from_taking_and_nobody_from_looking_and_giving_back() {
    let ground = Ground::new();
    let config = ground.work.join(".flockd.toml");
    let takes = ["lock -n y", "upgrade z", "run -n y -- true", "elect y -- true", "write y"];
    let gives = ["ls", "status x", "stats", "check x", "renew x", "wait -n y", "downgrade x", "unlock x"];
    for (text, says) in [
        ("\nenforcement = 'maybe'\n", ["line 2", "`enforcement`", "expected one of `off`, `warn`, `deny`"]),
        ("fast = 1\n", ["line 1", "unknown field `fast`", "expected one of `contention`"]),
        ("\n[contention]\nwithin = 'soon'\n", ["line 3", "contention.within", "no duration"]),
    ] {
        ground.flockd("a", "lock x").gives(0);
        ground.flockd("a", "lock -s z").gives(0);
        fs::write(&config, text).unwrap();
        let says = [says.as_slice(), &[".flockd.toml"]].concat();
        for args in takes {
            ground.flockd("a", args).gives(2).says(&says);
        }
        for args in gives {
            ground.flockd("a", args).gives(0).says(&says).says(&["none taken until that is mended"]);
        }
        let told = ground.flockd("a", "ls --json").gives(0).json();
        assert_eq!(told["locks"].as_array().unwrap().len(), 1, "only z is left");
        let id = told["locks"][0]["lock_id"].as_str().unwrap().to_owned();
        ground.flockd("b", &format!("break {id} --reason stuck")).gives(0).says(&says);
        fs::remove_file(&config).unwrap();
    }
    assert_eq!(ground.status().locks, []);
}

#[test]
fn what_only_the_daemon_can_refuse_is_a_usage_error_all_the_same() {
    let ground = Ground::new();
    ground.flockd("a", "lock x --ttl 0").gives(2).says(&["needs a ttl above 0"]);
    ground.flockd("a", "unlock --id nonsense").gives(2);
    for scope in ["", "@", &format!("{}/x", "n".repeat(256)), &"d/".repeat(3000)] {
        let done = Done::of(ground.command("a", &["lock", scope])).gives(2);
        assert!(done.err.starts_with("flockd: ") && done.err.lines().count() == 1, "{done:?}");
    }
    Done::of(ground.command("a", &["lock", "x", "--note", &"n".repeat(501)])).gives(2);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn without_a_name_nothing_is_taken_and_the_sentence_says_how_to_give_one() {
    let ground = Ground::new();
    for ask in ["lock x", "unlock x", "renew x", "check x", "break lk_1 --reason r"] {
        ground.flockd("", ask).gives(2).says(&["FLOCKD_AGENT", "--agent NAME"]);
    }
    assert_eq!(ground.flockd("", "lock x --json").gives(2).json()["error"]["code"], "invalid");
    for name in ["two words", &"n".repeat(129)] {
        Done::of(ground.command("", &["lock", "x", "--agent", name])).gives(2);
        Done::of(ground.command(name, &["lock", "x"])).gives(2);
    }
    for reading in ["ls", "status x", "wait x", "daemon start"] {
        ground.flockd("", reading).gives(0);
    }
    ground.flockd("", "lock x --agent by-flag").gives(0);
    ground.flockd("by-variable", "lock -n x --agent by-flag").gives(0);
}

#[test]
fn an_environment_that_makes_no_sense_is_named() {
    let ground = Ground::new();
    let with = |name: &str, value: &str| {
        let mut command = ground.command("a", &["lock", "x"]);
        command.env(name, value);
        Done::of(command)
    };
    with("FLOCKD_HOME", "relative/home").gives(2).says(&["FLOCKD_HOME", "no absolute path"]);
    with("FLOCKD_WORKSPACE", "missing").gives(2).says(&["FLOCKD_WORKSPACE"]);
    let mut gone = ground.environment(std::process::Command::new("sh"), "a", &[]);
    gone.args(["-c", &format!("mkdir gone && cd gone && rmdir ../gone && {FLOCKD} lock x")]);
    Done::of(gone).gives(2).says(&["working directory"]);
}
