//! What another agent is in the middle of is neither committed nor pushed.

use crate::Ground;
use crate::util::{Done, signal, until};
use flockd::wire::{Body, Op, Request};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

fn guarded() -> Ground {
    let ground = Ground::repository();
    install(&ground);
    ground
}

fn install(ground: &Ground) -> String {
    Done::of(ground.with_git("", &["git-guard", "install"])).gives(0).out
}

fn executable(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_commit_of_what_another_agent_holds_is_refused_and_names_it() {
    let ground = guarded();
    ground.staged("a.txt", "1");
    ground.staged("b.txt", "1");
    ground.flockd("bo", "lock b.txt").gives(0);
    let refused = ground.git("ada", "commit -q -m work").gives(1);
    refused.says(&["flockd: not committed", "bo holds", "b.txt", "flockd wait"]);
    ground.git("bo", "commit -q -m by-its-holder").gives(0);
    ground.git("ada", "rm -q b.txt").gives(0);
    ground.git("ada", "commit -q -m removal").gives(1).says(&["bo holds"]);
    ground.flockd("bo", "unlock b.txt").gives(0);
    ground.git("ada", "commit -q -m removal").gives(0);
}

#[test]
fn an_agent_and_its_sub_agents_are_no_others_to_each_other_and_siblings_are() {
    let ground = guarded();
    ground.staged("a.txt", "1");
    ground.flockd("ada/x", "lock a.txt").gives(0);
    ground.git("ada/y", "commit -q -m siblings").gives(1).says(&["ada/x holds"]);
    ground.git("adam", "commit -q -m alike").gives(1).says(&["ada/x holds"]);
    ground.git("ada", "commit -q -m parents").gives(0);
    ground.staged("a.txt", "2");
    ground.git("ada/x/1", "commit -q -m grandchilds").gives(0);
}

#[test]
fn a_merge_that_touches_what_another_agent_holds_is_refused() {
    let ground = Ground::repository();
    let hook = ground.work.join(".git/hooks/pre-merge-commit");
    executable(&hook, "echo ran >> ran");
    install(&ground);
    ground.git("", "checkout -q -b topic").gives(0);
    ground.staged("a.txt", "1");
    ground.git("", "commit -q -m theirs").gives(0);
    ground.git("", "checkout -q main").gives(0);
    ground.flockd("bo", "lock a.txt").gives(0);
    let merge = "merge -q --no-ff --no-edit topic";
    ground.git("ada", merge).gives(1).says(&["flockd: not merged", "bo holds", "a.txt"]);
    ground.git("ada", "merge --abort").gives(0);
    ground.flockd("bo", "unlock a.txt").gives(0);
    ground.git("ada", merge).gives(0);
    assert_eq!(fs::read_to_string(ground.work.join("ran")).unwrap(), "ran\nran\n", "what was there runs first");
    Done::of(ground.with_git("", &["git-guard", "uninstall"])).gives(0);
    assert_eq!(fs::read_to_string(&hook).unwrap(), "#!/bin/sh\necho ran >> ran\n");
}

#[test]
fn what_to_do_instead_is_said_for_each_command() {
    let ground = guarded();
    ground.git("", "init -q --bare ../there.git").gives(0);
    ground.staged("a.txt", "1");
    ground.git("", "commit -q -m base").gives(0);
    ground.git("", "checkout -q -b topic").gives(0);
    ground.staged("a.txt", "theirs");
    ground.git("", "commit -q -m theirs").gives(0);
    ground.git("", "checkout -q main").gives(0);
    ground.flockd("bo", "lock a.txt").gives(0);
    // What the other side did would be gone if the file were left out.
    let way = ["`git commit` ends the merge", "`git merge --abort`"];
    let refused = ground.git("ada", "merge -q --no-ff --no-edit topic").gives(1).says(&way);
    assert!(!refused.err.contains("restore"), "{refused:?}");
    let refused = ground.git("ada", "commit -q --no-edit").gives(1).says(&way);
    assert!(refused.err.contains("not merged") && !refused.err.contains("restore"), "{refused:?}");
    ground.git("ada", "merge --abort").gives(0);
    ground.staged("a.txt", "ours");
    ground.git("ada", "commit -q -m ours").gives(1).says(&["`git restore --staged FILE`"]);
    let refused = ground.git("ada", "push -q ../there.git main").gives(1).says(&["push again", "COMMIT:BRANCH"]);
    assert!(!refused.err.contains("restore"), "{refused:?}");
}

#[test]
fn what_is_only_read_elsewhere_or_not_part_of_the_commit_is_no_obstacle() {
    let ground = guarded();
    ground.staged("a.txt", "1");
    ground.flockd("bo", "lock other.txt").gives(0);
    ground.flockd("bo", "lock -s a.txt").gives(0);
    ground.git("ada", "commit -q -m work").gives(0);
    // A directory covers what lies in it.
    fs::create_dir(ground.work.join("sub")).unwrap();
    ground.flockd("bo", "lock sub").gives(0);
    ground.staged("sub/c.txt", "1");
    ground.git("ada", "commit -q -m work").gives(1).says(&["bo holds"]);
    ground.git("ada", "commit -q --no-verify -m passed-by").gives(0);
}

#[test]
fn what_was_committed_past_the_guard_is_not_pushed() {
    let ground = guarded();
    ground.git("", "init -q --bare ../there.git").gives(0);
    ground.git("", "remote add origin ../there.git").gives(0);
    ground.git("ada", "push -q origin main").gives(0);
    ground.staged("a.txt", "1");
    ground.flockd("bo", "lock a.txt").gives(0);
    ground.git("ada", "commit -q --no-verify -m work").gives(0);
    ground.git("ada", "push -q origin main").gives(1).says(&["flockd: not pushed", "bo holds"]);
    ground.git("ada", "push -q origin main:refs/heads/new").gives(1).says(&["bo holds"]);
    ground.flockd("bo", "unlock a.txt").gives(0);
    ground.git("ada", "push -q origin main").gives(0);
    ground.flockd("bo", "lock a.txt").gives(0);
    ground.git("ada", "push -q origin main:refs/heads/again").gives(0);
    ground.git("ada", "push -q origin :refs/heads/again").gives(0);
}

#[test]
fn a_hook_that_was_there_runs_first_and_comes_back() {
    let ground = Ground::repository();
    let hook = ground.work.join(".git/hooks/pre-commit");
    executable(&hook, "echo ran >> ran; test ! -e stop");
    let pushed = ground.work.join(".git/hooks/pre-push");
    executable(&pushed, "cat > told");
    assert!(install(&ground).contains("before-flockd"));
    let again = install(&ground);
    assert!(again.lines().all(|line| line.starts_with("unchanged")), "{again}");
    ground.staged("a.txt", "1");
    ground.git("ada", "commit -q -m one").gives(0);
    fs::write(ground.work.join("stop"), "").unwrap();
    ground.git("ada", "commit -q --allow-empty -m two").gives(1);
    assert_eq!(fs::read_to_string(ground.work.join("ran")).unwrap(), "ran\nran\n");
    ground.git("", "init -q --bare ../there.git").gives(0);
    ground.git("ada", "push -q ../there.git main").gives(0);
    assert!(
        fs::read_to_string(ground.work.join("told")).unwrap().contains("refs/heads/main"),
        "it has git's word, too"
    );

    Done::of(ground.with_git("", &["git-guard", "uninstall"])).gives(0);
    assert_eq!(fs::read_to_string(&hook).unwrap(), "#!/bin/sh\necho ran >> ran; test ! -e stop\n");
    assert!(!hook.with_file_name("pre-commit.before-flockd").exists());
    let nothing = Done::of(ground.with_git("", &["git-guard", "uninstall"])).gives(0).out;
    assert!(nothing.lines().all(|line| line.starts_with("absent")), "{nothing}");
}

#[test]
fn it_stands_where_git_looks_for_hooks() {
    let ground = Ground::repository();
    ground.git("", "config core.hooksPath my/hooks").gives(0);
    install(&ground);
    assert!(ground.work.join("my/hooks/pre-commit").exists());
    ground.staged("a.txt", "1");
    ground.flockd("bo", "lock a.txt").gives(0);
    ground.git("ada", "commit -q -m work").gives(1).says(&["bo holds"]);

    let ground = guarded();
    ground.git("", "worktree add -q ../linked").gives(0);
    let linked = ground.work.join("../linked");
    fs::write(linked.join("b.txt"), "1").unwrap();
    ground.git_in(&linked, "ada", &["add", "b.txt"]).gives(0);
    ground.flockd("bo", "lock ../linked/b.txt").gives(0);
    ground.git_in(&linked, "ada", &["commit", "-q", "-m", "x"]).gives(1).says(&["bo holds"]);
}

#[test]
fn what_is_guarded_besides_is_said() {
    let install = |ground: &Ground| Done::of(ground.with_git("", &["git-guard", "install"]));
    let ground = Ground::repository();
    assert_eq!(install(&ground).gives(0).err, "");

    let ground = Ground::repository();
    ground.git("", "config core.hooksPath my/hooks").gives(0);
    let first = install(&ground).gives(0).says(&["my/hooks is made", "core.hooksPath"]);
    assert!(!first.err.contains("all repositories"), "{first:?}");
    assert_eq!(install(&ground).gives(0).err, "", "it is there now");
    ground.git("", "add my/hooks").gives(0);
    install(&ground).gives(0).says(&["my/hooks is under version control"]);

    let ground = Ground::repository();
    let global = ground.work.join("../gitconfig");
    fs::write(&global, "[core]\n\thooksPath = /dev/null\n").unwrap();
    let everywhere = |verb: &str| {
        let mut command = ground.with_git("", &["git-guard", verb]);
        command.env("GIT_CONFIG_GLOBAL", &global);
        Done::of(command)
    };
    for verb in ["install", "uninstall"] {
        everywhere(verb).gives(5).says(&["/dev/null is where git looks for hooks", "core.hooksPath"]);
    }
    let dir = ground.work.join("../hooks");
    fs::write(&global, format!("[core]\n\thooksPath = {}\n", dir.display())).unwrap();
    everywhere("install").gives(0).says(&["for all repositories", "is made"]);
}

#[test]
fn doctor_looks_at_the_guard_of_the_repository_around() {
    let ground = Ground::repository();
    let doctor = || {
        let mut command = ground.with_git("", &["doctor"]);
        command.env("HOME", ground.work.join("nobody"));
        let out = Done::of(command).out;
        out.lines().find(|line| line.starts_with("git-guard ")).unwrap_or_default().to_owned()
    };
    assert_eq!(doctor(), "");
    install(&ground);
    assert!(doctor().contains("works   pre-commit, pre-merge-commit, pre-push are guarded"), "{}", doctor());
    let hook = ground.work.join(".git/hooks/pre-push");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(doctor().contains("broken  incomplete: pre-push is not executable"), "{}", doctor());
    fs::remove_file(&hook).unwrap();
    assert!(doctor().contains("broken  incomplete: pre-push is missing"), "{}", doctor());
    let hook = ground.work.join(".git/hooks/pre-commit");
    let text = fs::read_to_string(&hook).unwrap();
    fs::write(&hook, text.replace(crate::util::FLOCKD, "/nowhere/flockd")).unwrap();
    assert!(doctor().contains("broken  /nowhere/flockd is gone"), "{}", doctor());
    install(&ground);
    assert!(doctor().contains("works"), "{}", doctor());
}

#[test]
fn a_guard_that_cannot_ask_stops_nobody_unless_the_workspace_is_strict() {
    let ground = guarded();
    ground.staged("a.txt", "1");
    fs::write(&ground.home, "no home can be made here").unwrap();
    ground.git("ada", "commit -q -m work").gives(0).says(&["not guarded"]);
    ground.staged(".flockd.toml", "strict = true\n");
    assert_ne!(ground.git("ada", "commit -q -m work").code, Some(0));
    ground.staged(".flockd.toml", "enforcement = 'off'\n");
    ground.git("ada", "commit -q -m work").gives(0);

    let ground = guarded();
    ground.staged("a.txt", "1");
    ground.flockd("bo", "lock a.txt").gives(0);
    ground.staged(".flockd.toml", "enforcement = 'warn'\n");
    ground.git("ada", "commit -q -m work").gives(0).says(&["bo holds"]);
    // A program that was moved away guards nothing, and says so.
    let hook = ground.work.join(".git/hooks/pre-commit");
    let text = fs::read_to_string(&hook).unwrap().replace(crate::util::FLOCKD, "/nowhere/flockd");
    fs::write(&hook, text).unwrap();
    ground.git("ada", "commit -q --allow-empty -m work").gives(0).says(&["is gone"]);
}

#[test]
fn settings_that_cannot_be_read_stop_nobody_unless_they_want_to_be_strict() {
    let ground = guarded();
    for broken in ["[[", "enforcement = 'of'", "strict = false\nenforcement = 1", "strct = true"] {
        ground.staged(".flockd.toml", broken);
        ground.git("ada", "commit -q -m work").gives(0).says(&["not guarded", ".flockd.toml"]);
    }
    for broken in ["strict = 'yes'", "strict = true\nenforcement = 'of'", "strict = true\n[["] {
        ground.staged(".flockd.toml", broken);
        let refused = ground.git("ada", "commit -q -m work");
        assert_ne!(refused.code, Some(0), "{broken}");
        refused.says(&[".flockd.toml", "nothing is committed", "`git commit --no-verify`"]);
        ground.git("ada", "commit -q --no-verify -m work").gives(0);
    }
}

#[test]
fn a_daemon_that_stops_answering_is_not_waited_for() {
    let ground = guarded();
    fs::create_dir(ground.work.join("many")).unwrap();
    (0..8_000).for_each(|number| fs::write(ground.work.join(format!("many/{number}")), "").unwrap());
    ground.git("", "add many").gives(0);
    let own = ground.client("", None);
    let connections = || match own.call(Request::new(Op::Daemon)).unwrap().ok {
        Some(Body::Daemon(body)) => body.connections,
        other => panic!("{other:?}"),
    };
    let daemon = ground.daemon_pid();
    // The daemon is to stop while the guard asks; a guard that is done by then is followed by another.
    let was_met = (0..20).any(|_| {
        until("only this test is connected", || (connections() == 1).then_some(()));
        let mut guard = ground.with_git("ada", &["git-guard", "pre-commit"]).stderr(Stdio::piped()).spawn().unwrap();
        until("the guard is connected", || (connections() > 1 || guard.try_wait().unwrap().is_some()).then_some(()));
        signal(daemon, Signal::STOP);
        let status = until("the guard has an end", || guard.try_wait().unwrap());
        let err = std::io::read_to_string(guard.stderr.take().unwrap()).unwrap();
        assert_eq!(status.code(), Some(0), "{err}");
        let was_met = err.contains("not guarded: the daemon does not answer");
        if was_met {
            // Nor is one whose greeting is not answered.
            ground.git("ada", "commit -q -m work").gives(0).says(&["not guarded"]);
        }
        signal(daemon, Signal::CONT);
        was_met
    });
    assert!(was_met);
}
