//! One index, many agents.

use crate::Ground;
use crate::util::{Done, scaled};
use std::path::Path;

#[test]
fn eight_agents_commit_at_once_and_every_commit_is_there() {
    let (agents, commits) = (8, scaled(3));
    let ground = Ground::repository();
    std::thread::scope(|scope| {
        for agent in 0..agents {
            let ground = &ground;
            scope.spawn(move || {
                for number in 0..commits {
                    let file = format!("{agent}-{number}");
                    std::fs::write(ground.work.join(&file), &file).unwrap();
                    let name = format!("claw-{agent}");
                    for args in [&["git", "add", &file][..], &["git", "commit", "-q", "-m", &file, "--", &file]] {
                        Done::of(ground.with_git(&name, args)).gives(0);
                    }
                }
            });
        }
    });
    let log = ground.git("", "log --format=%s --name-only").gives(0).out;
    for agent in 0..agents {
        for number in 0..commits {
            let file = format!("{agent}-{number}");
            assert_eq!(log.lines().filter(|line| *line == file).count(), 2, "the commit and its file: {file}\n{log}");
        }
    }
    assert_eq!(ground.git("", "status --porcelain").gives(0).out, "");
    assert!(ground.status().locks.is_empty());
}

#[test]
fn the_index_is_held_under_a_name_that_every_worktree_has_for_itself() {
    let ground = Ground::repository();
    ground.git("", "worktree add -q ../linked").gives(0);
    let dir = ground.git("", "rev-parse --absolute-git-dir").gives(0).out;
    let _held = ground.hold("bo", &format!("@git-index:{}", dir.trim_end()));
    let status = Done::of(ground.with_git("ada", &["git", "--wait", "0", "add", "."]));
    status.gives(1).says(&["git-index", "bo holds"]);
    Done::of(ground.with_git("ada", &["git", "log", "-1"])).gives(0);
    Done::of(ground.with_git("ada", &["git", "-C", "../linked", "commit", "-q", "--allow-empty", "-m", "x"])).gives(0);
}

#[test]
fn gits_own_status_is_passed_on_and_what_git_starts_waits_for_nothing() {
    let ground = Ground::repository();
    Done::of(ground.with_git("ada", &["git", "commit", "-m", "nothing is staged"])).gives(1);
    Done::of(ground.with_git("ada", &["git", "no-such-command"])).gives(1);
    Done::of(ground.with_git("ada", &["git", "-C", "/", "init", "--bogus"])).gives(129);
    let hook = ground.work.join(".git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\nexec {} git add hooked\n", crate::util::FLOCKD)).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(ground.work.join("hooked"), "x").unwrap();
    Done::of(ground.with_git("ada", &["git", "commit", "-q", "--allow-empty", "-m", "hooked"])).gives(0);
    assert!(ground.git_in(Path::new(""), "", &["ls-files"]).gives(0).out.contains("hooked"));
}
