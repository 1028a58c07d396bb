//! Programs that settings name, run as clients run them: with an end, and nothing of them stays.

use crate::os::process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Most that is told of what a program said, in bytes: a reason stands at its beginning.
const SAID_MAX: u64 = 2_000;

/// A program that runs in a process group of its own, which is killed when this is dropped.
pub(super) struct Trial {
    pub(super) child: Child,
    said: File,
}

impl Trial {
    /// Starts it; what goes to stderr is kept, and what goes to stdout unless that is piped.
    pub(super) fn start(command: &mut Command, keeps_stdout: bool) -> io::Result<Trial> {
        let said = tempfile::tempfile()?;
        if keeps_stdout {
            command.stdout(said.try_clone()?);
        }
        let child = command.stderr(said.try_clone()?).process_group(0).spawn()?;
        Ok(Trial { child, said })
    }

    /// Waits for its end; none if that does not come within this time.
    pub(super) fn wait(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let pidfd = process::pidfd_of_child(self.child.id())?;
        let within = Timespec::try_from(within).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within)))? {
            0 => Ok(None),
            _ => self.child.wait().map(Some),
        }
    }

    /// What it has said, or the beginning of it.
    pub(super) fn said(&mut self) -> String {
        let mut text = Vec::new();
        // What cannot be read was not said.
        let _ = self.said.rewind().and_then(|()| (&self.said).take(SAID_MAX).read_to_end(&mut text));
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Ended already is as good. What it has started in its group ends with it.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Whether a program is this one: `flockd` of the `PATH`, or this very file. What the settings of a project start may
/// have come with a repository, so that it is looked at only if it is.
pub(super) fn is_this_program(program: &str) -> bool {
    if !program.contains('/') {
        return program == "flockd";
    }
    let file = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((file(program), file("/proc/self/exe")), (Ok(named), Ok(own)) if named == own)
}

/// Program and arguments of a shell command that is nothing but a plain call of some program's hook, which runs nothing
/// else. Quotes are understood around the whole program alone.
pub(super) fn hook_alone(command: &str) -> Option<(&str, &str)> {
    let is_plain = |sign: char| sign.is_ascii_alphanumeric() || " ./_-=,:%@+".contains(sign);
    let words = command.trim();
    let (program, args) = match words.strip_prefix('\'') {
        Some(quoted) => quoted.split_once("' ")?,
        None => words.split_once(' ')?,
    };
    let is_hook = args.split(' ').find(|word| !word.is_empty()) == Some("hook");
    let is_alone = !program.is_empty() && !program.contains('=') && (program.to_owned() + args).chars().all(is_plain);
    (is_hook && is_alone).then_some((program, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_call_of_a_hook_is_one() {
        for (command, alone) in [
            ("flockd hook --client codex", ("flockd", "hook --client codex")),
            ("/opt/bin/flockd hook --mode=check", ("/opt/bin/flockd", "hook --mode=check")),
            ("'/a dir/flockd' hook", ("/a dir/flockd", "hook")),
        ] {
            assert_eq!(hook_alone(command), Some(alone));
        }
        for command in [
            "touch x; flockd hook",
            "flockd hook $(touch x)",
            "X=1 flockd hook",
            "X=/flockd hook",
            "sh -c flockd",
            "flockd hook\ntouch x",
            "'flockd' 'hook' > x",
            "'flockd/flockd'hook --client codex",
            "./a''b/flockd hook",
            "flockd run a -- touch x -- hook",
            "flockd git --exec-path=x evil hook",
            "flockd",
            "",
        ] {
            assert_eq!(hook_alone(command), None, "{command}");
        }
        let own = std::env::current_exe().unwrap().display().to_string();
        assert!(is_this_program(&own) && is_this_program("flockd") && !is_this_program("/bin/sh"));
    }
}
