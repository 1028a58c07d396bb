//! `flockd git`: a git command while nobody else's touches the same index, so that agents that commit at once in one
//! repository take turns instead of failing on `index.lock`.

use super::args::{Patience, RunArgs};
use super::{Common, Exit, Failure, run};
use crate::limits;
use crate::model;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// The index that is held around this command: what git starts in turn does not wait for it.
const INDEX: &str = "FLOCKD_GIT_INDEX";

/// Commands that only read: they would hold the index for as long as somebody looks at a page.
const READERS: &[&str] = &[
    "blame",
    "cat-file",
    "diff",
    "grep",
    "help",
    "log",
    "ls-files",
    "ls-tree",
    "rev-list",
    "rev-parse",
    "shortlog",
    "show",
    "version",
];

/// Options of git itself that take the next word with them.
const VALUED: &[&str] = &["-C", "-c", "--git-dir", "--work-tree", "--namespace", "--super-prefix", "--config-env"];

#[derive(Debug, Args)]
pub(super) struct GitArgs {
    #[command(flatten)]
    patience: Patience,

    /// What git is to do, with its options
    #[arg(value_name = "ARGS", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(super) fn git(common: &Common, args: &GitArgs) -> Result<ExitCode, Failure> {
    let (options, verb) = split(&args.args);
    let scope = match verb.and_then(OsStr::to_str) {
        Some(verb) if !READERS.contains(&verb) => index_of(options)?,
        _ => None,
    };
    let held = std::env::var_os(INDEX);
    match scope {
        Some(scope) if held.as_deref() != Some(OsStr::new(&scope)) => {
            let words = std::iter::once(OsString::from("git")).chain(args.args.iter().cloned());
            let args = RunArgs {
                shared: false,
                patience: args.patience.or_wait(limits::WAIT_DEFAULT),
                conflict_exit_code: None,
                no_os_lock: false,
                note: verb.map(|verb| format!("git {}", verb.to_string_lossy())),
                glob: false,
                scopes: vec![scope.clone().into()],
                command: words.collect(),
                environment: vec![(INDEX, scope)],
            };
            run::run(common, &args)
        }
        // Nothing to wait for: git takes this process's place, and its status is ours.
        _ => Err(not_run(&Command::new("git").args(&args.args).exec())),
    }
}

fn not_run(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("git cannot be run: {error}"))
}

/// Git's own options, and the command behind them.
fn split(args: &[OsString]) -> (&[OsString], Option<&OsStr>) {
    let mut at = 0;
    while let Some(arg) = args.get(at).filter(|arg| arg.as_bytes().starts_with(b"-")) {
        at += if VALUED.iter().any(|valued| arg == valued) { 2 } else { 1 };
    }
    (&args[..at.min(args.len())], args.get(at).map(OsString::as_os_str))
}

/// The lock for the index that git would use; none outside of repositories.
fn index_of(options: &[OsString]) -> Result<Option<String>, Failure> {
    let mut asked = Command::new("git");
    // Each linked worktree has a directory, and with it an index, of its own.
    asked.args(options).args(["rev-parse", "--absolute-git-dir"]).stdin(Stdio::null()).stderr(Stdio::null());
    let told = asked.output().map_err(|error| not_run(&error))?;
    let mut dir = told.stdout;
    while dir.last() == Some(&b'\n') {
        dir.pop();
    }
    Ok((told.status.success() && !dir.is_empty()).then(|| scope(&OsString::from_vec(dir))))
}

/// `@git-index:DIR`, or the hash of a directory that no name can hold.
fn scope(dir: &OsStr) -> String {
    let name = dir.to_str().map(|dir| format!("git-index:{dir}")).filter(|name| model::resource(name).is_ok());
    let name = name.unwrap_or_else(|| format!("git-index:{}", blake3::hash(dir.as_bytes()).to_hex()));
    format!("@{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_behind_gits_own_options() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let verb = |text: &str| split(&words(text)).1.map(|verb| verb.to_str().unwrap().to_owned());
        assert_eq!(verb("commit -m x").as_deref(), Some("commit"));
        assert_eq!(verb("-C dir -c a=b --no-pager --git-dir=x add f").as_deref(), Some("add"));
        assert_eq!(verb("--version"), None);
        assert_eq!(split(&words("-C")).0.len(), 1);
    }

    #[test]
    fn every_directory_has_a_name_and_no_two_have_one() {
        assert_eq!(scope(OsStr::new("/w/.git")), "@git-index:/w/.git");
        let odd = ["/w x/.git", "/w y/.git", &format!("/{}", "a".repeat(300))].map(|dir| scope(OsStr::new(dir)));
        assert!(odd.iter().all(|name| model::resource(&name[1..]).is_ok()), "{odd:?}");
        assert!(odd[0] != odd[1] && odd[1] != odd[2]);
    }
}
