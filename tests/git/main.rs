//! `flockd git` and `flockd git-guard` with a real git: many agents in one repository.
#![cfg(feature = "cli")]

mod guard;
mod index;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;

use std::path::Path;
use std::process::Command;
use util::{Done, Ground};

/// A git that knows nothing of whose machine this is.
fn alone(mut command: Command) -> Command {
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for (name, value) in [("NAME", "Ada"), ("EMAIL", "ada@example.com")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").env_remove("GIT_WORK_TREE");
    command
}

impl Ground {
    /// `git` itself, in the name of this agent, in a directory below the ground's.
    fn git_in(&self, dir: &Path, agent: &str, args: &[&str]) -> Done {
        let mut command = alone(self.environment(Command::new("git"), agent, args));
        command.current_dir(self.work.join(dir)).env_remove("FLOCKD_WORKSPACE");
        Done::of(command)
    }

    fn git(&self, agent: &str, args: &str) -> Done {
        self.git_in(Path::new(""), agent, &args.split_whitespace().collect::<Vec<_>>())
    }

    /// The program, where it starts git.
    fn with_git(&self, agent: &str, args: &[&str]) -> Command {
        let mut command = alone(self.command(agent, args));
        command.env_remove("FLOCKD_WORKSPACE");
        command
    }

    /// A repository with one commit.
    fn repository() -> Ground {
        let ground = Ground::new();
        ground.git("", "init -q -b main").gives(0);
        ground.git("", "commit -q --allow-empty -m first").gives(0);
        ground
    }

    /// A file in the index.
    fn staged(&self, name: &str, text: &str) {
        std::fs::write(self.work.join(name), text).unwrap();
        self.git("", &format!("add {name}")).gives(0);
    }
}
