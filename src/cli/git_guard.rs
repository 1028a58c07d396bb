//! `flockd git-guard`: git's own hooks, so that nobody commits or pushes a file that another agent is in the middle of.

use super::{Common, Exit, Failure, print};
use crate::client::{Connection, unexpected};
use crate::hooks::{Broken, Enforcement, Settings};
use crate::limits;
use crate::model::Agent;
use crate::wire::{self, Body, Held, Mode, Op, Request};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The hooks that are guarded.
const HOOKS: [&str; 3] = ["pre-commit", "pre-merge-commit", "pre-push"];
/// Stands in every hook that is ours.
const MARK: &str = "# flockd git-guard";
/// What a hook that was there before is called now; ours runs it first.
const BEFORE: &str = "before-flockd";
/// Files asked about at once: few enough that neither side waits for the other to read.
const ASKED_AT_ONCE: usize = 256;
/// Files that are named; the rest is a count.
const NAMED: usize = 10;

#[derive(Debug, Args)]
pub(super) struct GitGuardArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put the guard into this repository's hooks; those that are there run first
    #[command(after_long_help = "\
It goes where git looks for hooks (core.hooksPath, or the directory that all worktrees share), and says if other \
repositories or files of the project are concerned. A hook that is there is kept beside it and runs first. Agents and \
their sub-agents are not refused by each other's locks, claw-1/w1 by those of claw-1/w2 are. `git commit --no-verify` \
passes the guard, `git merge` and `git push` with it as well.

Examples:
  flockd git-guard install
  git commit -m work            refused while another agent holds a file of it")]
    Install,
    /// Take it out again, and put back what was there
    #[command(after_long_help = "\
Examples:
  flockd git-guard uninstall")]
    Uninstall,
    /// Refuse if another agent holds a staged file exclusively
    #[command(after_long_help = "\
Examples:
  flockd git-guard pre-commit && echo nobody minds")]
    PreCommit,
    /// The same of a merge, which git commits without `pre-commit`
    #[command(after_long_help = "\
Examples:
  git merge --no-commit topic && flockd git-guard pre-merge-commit && git commit")]
    PreMergeCommit,
    /// Refuse if another agent holds a file of what is pushed exclusively; git says on stdin what that is
    #[command(after_long_help = "\
Examples:
  echo \"HEAD $(git rev-parse HEAD) x $(git rev-parse origin/main)\" | flockd git-guard pre-push origin url")]
    PrePush {
        /// The remote's name
        #[arg(value_name = "REMOTE")]
        remote: Option<OsString>,

        /// Its URL
        #[arg(value_name = "URL")]
        url: Option<OsString>,
    },
}

pub(super) fn git_guard(common: &Common, args: &GitGuardArgs) -> Result<Exit, Failure> {
    match &args.verb {
        Verb::Install => install(common),
        Verb::Uninstall => uninstall(common),
        Verb::PreCommit => {
            let is_merge = git(["rev-parse", "--quiet", "--verify", "MERGE_HEAD"]).is_ok();
            judge(common, if is_merge { &END_OF_MERGE } else { &COMMIT }, &staged()?)
        }
        Verb::PreMergeCommit => judge(common, &MERGE, &staged()?),
        Verb::PrePush { remote, url: _ } => {
            let mut refs = String::new();
            let read = std::io::stdin().read_to_string(&mut refs);
            read.map_err(|error| Failure::new(Exit::Unavailable, format!("git's word on stdin: {error}")))?;
            judge(common, &PUSH, &pushed(&refs, remote.as_ref())?)
        }
    }
}

/// What git is about to do: its command, what is not done if it is refused, and what to do then.
struct Deed {
    command: &'static str,
    done: &'static str,
    way: &'static str,
}

const COMMIT: Deed = Deed {
    command: "commit",
    done: "committed",
    way: "wait with `flockd wait FILE`, or leave it out with `git restore --staged FILE`",
};
/// A file that is left out of a merge is as good as merged: what the other side did to it is gone.
const MERGE: Deed = Deed {
    command: "merge",
    done: "merged",
    way: "wait with `flockd wait FILE`, then `git commit` ends the merge; or call it off with `git merge --abort`",
};
const END_OF_MERGE: Deed = Deed { command: "commit", ..MERGE };
const PUSH: Deed = Deed {
    command: "push",
    done: "pushed",
    way: "wait with `flockd wait FILE` and push again, or push the commits before with `git push REMOTE COMMIT:BRANCH`",
};

impl Deed {
    /// A strict workspace's refusal, with the way past it.
    fn refused(&self, mut failure: Failure) -> Failure {
        let Deed { command, done, .. } = self;
        let way =
            format!("the workspace is strict, so nothing is {done}; `git {command} --no-verify` passes the guard");
        failure.message = format!("{}; {way}", failure.message);
        failure
    }
}

// ── Judging ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The files of the commits that a push would send: of each line LOCAL-REF LOCAL-ID REMOTE-REF REMOTE-ID.
fn pushed(refs: &str, remote: Option<&OsString>) -> Result<Vec<PathBuf>, Failure> {
    let is_nothing = |id: &str| id.bytes().all(|byte| byte == b'0');
    let mut found = Vec::new();
    for line in refs.lines() {
        let [_, local, _, there] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        if is_nothing(local) {
            continue;
        }
        let mut args: Vec<OsString> =
            ["log", "--format=", "--name-only", "-z", "--no-renames", local, "--not"].map(OsString::from).into();
        let mut remotes = OsString::from("--remotes=");
        remotes.push(remote.map_or("*".as_ref(), OsString::as_os_str));
        args.push(remotes);
        // One that was never fetched is not known here, and cannot be left out.
        if !is_nothing(there) && git(["cat-file", "-e", there]).is_ok() {
            args.push(there.into());
        }
        found.extend(names(git(args)?));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What the commit would change. Renames are two files, and what is taken away is somebody's file as well.
fn staged() -> Result<Vec<PathBuf>, Failure> {
    Ok(names(git(["diff", "--cached", "--name-only", "-z", "--no-renames", "--diff-filter=ACMRD"])?))
}

/// Names as git prints them with `-z`, relative to the top of the worktree.
fn names(listed: Vec<u8>) -> Vec<PathBuf> {
    let names = listed.split(|&byte| byte == 0).map(|name| name.strip_prefix(b"\n").unwrap_or(name));
    names.filter(|name| !name.is_empty()).map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect()
}

#[derive(Serialize)]
struct Judged {
    allowed: bool,
    held: Vec<Held>,
}

fn judge(common: &Common, deed: &Deed, files: &[PathBuf]) -> Result<Exit, Failure> {
    let top = path_of(git(["rev-parse", "--show-toplevel"])?);
    let settings = match Settings::of(&top) {
        Ok(settings) => settings,
        Err(Broken { why, strict: true }) => return Err(deed.refused(Failure::new(Exit::Usage, why))),
        Err(Broken { why, strict: false }) => {
            not_guarded(&why);
            return told(common, Vec::new(), Exit::Yes);
        }
    };
    if settings.enforcement == Enforcement::Off || files.is_empty() {
        return told(common, Vec::new(), Exit::Yes);
    }
    let asked = common.connect_to_read().and_then(|client| {
        let own = common.agent_or_above()?;
        held_by_others(&client, own.as_ref(), &top, files)
    });
    let held = match asked {
        Ok(held) => held,
        Err(failure) if settings.strict => return Err(deed.refused(failure)),
        Err(failure) => {
            not_guarded(&failure.message);
            Vec::new()
        }
    };
    let is_warning = settings.enforcement == Enforcement::Warn;
    if !held.is_empty() && !common.json {
        let not = if is_warning { "" } else { "not " };
        let are = if held.len() == 1 { "1 file is".to_owned() } else { format!("{} files are", held.len()) };
        print::err(&format!("flockd: {not}{}: {are} another agent's just now\n", deed.done));
        for lock in held.iter().take(NAMED) {
            print::err(&format!("  {}\n", print::holder_line(lock)));
        }
        if !is_warning {
            print::err(&format!("  {}\n", deed.way));
        }
    }
    let exit = if held.is_empty() || is_warning { Exit::Yes } else { Exit::No };
    told(common, held, exit)
}

/// What is missing or broken keeps nobody from their own work.
fn not_guarded(why: &str) {
    print::err(&format!("flockd: not guarded: {why}\n"));
}

fn told(common: &Common, held: Vec<Held>, exit: Exit) -> Result<Exit, Failure> {
    if common.json {
        print::json(&Judged { allowed: exit == Exit::Yes, held });
    }
    Ok(exit)
}

/// The exclusive locks of other agents on these files, each once. Whether one is another's is the daemon's to say; but
/// agent and sub-agents share one worktree and one index, and git runs in the name of either.
fn held_by_others(
    client: &Connection,
    own: Option<&Agent>,
    top: &Path,
    files: &[PathBuf],
) -> Result<Vec<Held>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let mut found: Vec<Held> = Vec::new();
    for some in files.chunks(ASKED_AT_ONCE) {
        let about = |file: &PathBuf| Request {
            scope: Some(wire::escape(top.join(file).as_os_str().as_bytes())),
            wait_ms: Some(0),
            ..Request::new(Op::Wait)
        };
        let asked: Vec<u64> = some.iter().map(|file| client.begin(about(file))).collect::<Result<_, _>>()?;
        for id in asked {
            let within = Duration::from_millis(limits::GIT_GUARD_WITHIN);
            let holders = match client.finish(id, Some(within))?.map(|answer| answer.ok) {
                Some(Some(Body::Wait(body))) => body.holders,
                Some(other) => return Err(unexpected(other.as_ref()).into()),
                None => {
                    let text = "the daemon does not answer; `flockd daemon status` tells more";
                    return Err(Failure::new(Exit::Unavailable, text));
                }
            };
            let is_anothers = |lock: &Held| !own.is_some_and(|own| are_of_one_line(own, &lock.agent));
            for lock in holders.into_iter().filter(|lock| lock.mode == Mode::Exclusive && is_anothers(lock)) {
                if found.iter().all(|other| other.lock_id != lock.lock_id) {
                    found.push(lock);
                }
            }
        }
    }
    Ok(found)
}

/// Whether one of the two is the other, or a sub-agent below it.
fn are_of_one_line(own: &Agent, name: &str) -> bool {
    Agent::new(name).is_ok_and(|other| *own == other || own.is_above(&other) || other.is_above(own))
}

/// What git prints, or why it does not.
fn git<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Vec<u8>, Failure> {
    let done = Command::new("git").args(args).stdin(Stdio::null()).output();
    let done = done.map_err(|error| Failure::new(Exit::Unavailable, format!("git cannot be run: {error}")))?;
    match done.status.success() {
        true => Ok(done.stdout),
        false => Err(Failure::new(Exit::Unavailable, format!("git: {}", String::from_utf8_lossy(&done.stderr).trim()))),
    }
}

fn path_of(mut printed: Vec<u8>) -> PathBuf {
    if printed.last() == Some(&b'\n') {
        printed.pop();
    }
    PathBuf::from(OsString::from_vec(printed))
}

// ── Installing ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// What became of one hook.
#[derive(Serialize)]
struct Hook {
    path: String,
    /// `installed`, `unchanged`, `removed` or `absent`.
    done: &'static str,
    /// The hook that was there before and is run first, or is back.
    before: Option<String>,
}

/// A hook of ours: what was there before decides first, and a flockd that is gone guards nothing and stops nobody.
fn script(hook: &str, program: &Path) -> String {
    let program = program.to_string_lossy().replace('\'', r"'\''");
    format!(
        r#"#!/bin/sh
{MARK}: refuses files that another agent holds; `flockd git-guard uninstall` takes it out.
flockd='{program}'
before="$(dirname "$0")/{hook}.{BEFORE}"
refs=
if [ {hook} = pre-push ]; then refs="$(cat)"; fi
if [ -x "$before" ]; then printf '%s\n' "$refs" | "$before" "$@" || exit $?; fi
if [ ! -x "$flockd" ]; then
    echo "flockd: $flockd is gone, so nothing is guarded; \`flockd git-guard install\` mends it" >&2
    exit 0
fi
printf '%s\n' "$refs" | "$flockd" git-guard {hook} "$@"
"#
    )
}

fn hooks_dir() -> Result<PathBuf, Failure> {
    // With core.hooksPath and linked worktrees git knows best where it looks.
    let dir = path_of(git(["rev-parse", "--path-format=absolute", "--git-path", "hooks"])?);
    if dir.exists() && !dir.is_dir() {
        let text = "is where git looks for hooks (core.hooksPath), and no directory, so it runs none here";
        let text = format!("{} {text}; name another one", dir.display());
        return Err(Failure::new(Exit::Unavailable, text));
    }
    Ok(dir)
}

/// Whose hooks these are besides, as sentences: somebody who guards one repository may not expect it.
fn also_meant(dir: &Path) -> Vec<String> {
    let mut said = Vec::new();
    let shown = dir.display();
    let is_named = |scope: &str| git(["config", scope, "--get", "core.hooksPath"]).is_ok();
    if !dir.exists() && git(["config", "--get", "core.hooksPath"]).is_ok() {
        said.push(format!("{shown} is made: core.hooksPath names it, and it was not there"));
    }
    let is_ours_alone = is_named("--local") || is_named("--worktree");
    if !is_ours_alone && (is_named("--global") || is_named("--system")) {
        said.push(format!("core.hooksPath is {shown} for all repositories, so all of them are guarded"));
    }
    let tracked = git(["ls-files".as_ref(), "-z".as_ref(), "--".as_ref(), dir.as_os_str()]);
    if tracked.is_ok_and(|files| !files.is_empty()) {
        let text = "its hooks are files of the project, so git shows the change, and who commits it hands it on";
        said.push(format!("{shown} is under version control: {text}"));
    }
    said
}

/// For `flockd doctor`: whether the guard of the repository around works; none if there is none.
pub(super) fn looked_at() -> Option<Result<String, String>> {
    let dir = hooks_dir().ok()?;
    let there = HOOKS.map(|hook| (hook, fs::read_to_string(dir.join(hook)).unwrap_or_default()));
    let program = there.iter().find_map(|(_, text)| {
        let line =
            text.lines().skip_while(|line| !line.contains(MARK)).find_map(|line| line.strip_prefix("flockd="))?;
        Some(PathBuf::from(line.trim_matches('\'').replace(r"'\''", "'")))
    })?;
    let is_run =
        |path: &Path| path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    if !is_run(&program) {
        let text = "is gone, so nothing is guarded; `flockd git-guard install` mends it";
        return Some(Err(format!("{} {text}", program.display())));
    }
    let lacks = there.iter().filter_map(|(hook, text)| match text {
        _ if !text.contains(MARK) => Some(format!("{hook} is missing or another's")),
        _ if *text != script(hook, &program) => Some(format!("{hook} is outdated or changed")),
        _ => (!is_run(&dir.join(hook))).then(|| format!("{hook} is not executable")),
    });
    let lacks: Vec<String> = lacks.collect();
    Some(match lacks.is_empty() {
        true => Ok(format!("{} are guarded, by {}", HOOKS.join(", "), dir.display())),
        false => Err(format!("incomplete: {}; `flockd git-guard install` mends it", lacks.join("; "))),
    })
}

fn install(common: &Common) -> Result<Exit, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let dir = hooks_dir()?;
    also_meant(&dir).iter().for_each(|said| print::err(&format!("flockd: {said}\n")));
    fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
    let each = HOOKS.map(|hook| {
        let (path, before) = (dir.join(hook), dir.join(format!("{hook}.{BEFORE}")));
        let wanted = script(hook, &program);
        let there = is_ours(&path)?;
        if there == Some(false) {
            if before.symlink_metadata().is_ok() {
                let text = format!("{} is in the way: an earlier hook was put aside there; move it", before.display());
                return Err(Failure::new(Exit::No, text));
            }
            fs::rename(&path, &before).map_err(|error| failed(&path, &error))?;
        }
        let is_same = there == Some(true) && fs::read_to_string(&path).is_ok_and(|text| text == wanted);
        if !is_same {
            fs::write(&path, wanted).map_err(|error| failed(&path, &error))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(|error| failed(&path, &error))?;
        }
        let before = before.exists().then(|| before.display().to_string());
        Ok(Hook { path: path.display().to_string(), done: if is_same { "unchanged" } else { "installed" }, before })
    });
    tell(common, each)
}

fn uninstall(common: &Common) -> Result<Exit, Failure> {
    let dir = hooks_dir()?;
    let each = HOOKS.map(|hook| {
        let (path, before) = (dir.join(hook), dir.join(format!("{hook}.{BEFORE}")));
        let shown = path.display().to_string();
        if is_ours(&path)? != Some(true) {
            return Ok(Hook { path: shown, done: "absent", before: None });
        }
        let was_there = before.symlink_metadata().is_ok();
        let undone = if was_there { fs::rename(&before, &path) } else { fs::remove_file(&path) };
        undone.map_err(|error| failed(&path, &error))?;
        Ok(Hook { before: was_there.then(|| shown.clone()), path: shown, done: "removed" })
    });
    tell(common, each)
}

/// Whether a hook is ours; none if there is none.
fn is_ours(path: &Path) -> Result<Option<bool>, Failure> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text.windows(MARK.len()).any(|window| window == MARK.as_bytes()))),
        // A link that leads nowhere is a hook that somebody has put there.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.symlink_metadata().is_ok().then_some(false)),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("{}: {error}", path.display()))
}

fn tell(common: &Common, hooks: [Result<Hook, Failure>; HOOKS.len()]) -> Result<Exit, Failure> {
    let hooks: Vec<Hook> = hooks.into_iter().collect::<Result<_, _>>()?;
    if common.json {
        print::json(&hooks);
        return Ok(Exit::Yes);
    }
    for hook in hooks {
        let before = match (hook.done, hook.before) {
            ("removed", Some(_)) => ", what was there before is back".to_owned(),
            (_, Some(before)) => format!(", after {before}"),
            (_, None) => String::new(),
        };
        print::out(&format!("{} {}{before}\n", hook.done, hook.path));
    }
    Ok(Exit::Yes)
}
