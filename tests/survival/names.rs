//! Whose lock it is where nobody says so: that of the agent program around, the same for all its calls, never that of
//! two.

use crate::util::{Done, FLOCKD, Ground};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A shell under the name of an agent program.
fn program(ground: &Ground, name: &str) -> PathBuf {
    let path = ground.work.join(name);
    fs::copy("/bin/sh", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs a script below an agent program; `flockd` is a word of it. The last command is no tail call of the shell.
fn below(ground: &Ground, program: &str, script: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let script = format!("flockd() {{ {FLOCKD} \"$@\"; }}; {script}; true");
    let mut command = ground.environment(Command::new(self::program(ground, program)), "", &["-c", &script]);
    command.env_remove("FLOCKD_AGENT_PROGRAMS").envs(variables.iter().copied());
    Done::of(command).gives(0).out.lines().map(str::to_owned).collect()
}

const TWICE: &str = "flockd run @a -- printenv FLOCKD_AGENT; sh -c '$F run @b -- printenv FLOCKD_AGENT; :'";

#[test]
fn all_calls_below_one_agent_process_have_its_name_and_those_below_another_have_not() {
    let ground = Ground::new();
    let names = below(&ground, "claude", TWICE, &[("F", FLOCKD)]);
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0], names[1], "through a shell in between as well");
    assert!(names[0].starts_with("claude-"), "{names:?}");
    let others = below(&ground, "claude", TWICE, &[("F", FLOCKD)]);
    assert_eq!(others[0], others[1]);
    assert_ne!(names[0], others[0]);
    let codex = below(&ground, "codex", TWICE, &[("F", FLOCKD)]);
    assert!(codex[0].starts_with("codex-") && codex[0] == codex[1], "{codex:?}");
}

#[test]
fn two_agents_exclude_each_other_and_one_finds_what_it_took_before() {
    let ground = Ground::new();
    let out = below(&ground, "claude", "flockd lock x --json; flockd lock x --json; flockd check x && echo yes", &[]);
    assert!(out[0].contains("\"already_held\":false") && out[1].contains("\"already_held\":true"), "{out:?}");
    assert_eq!(out[2], "yes");
    let out = below(&ground, "claude", "flockd lock -n x; echo $?; flockd check x; echo $?", &[]);
    assert_eq!(out, ["1", "1"]);
}

#[test]
fn a_session_that_the_agent_names_counts_before_its_process() {
    let ground = Ground::new();
    let session = [("CLAUDE_CODE_SESSION_ID", "0b5c3a52-1"), ("F", FLOCKD)];
    assert_eq!(below(&ground, "claude", TWICE, &session), ["claude-0b5c3a52-1", "claude-0b5c3a52-1"]);
    let handed_down = below(&ground, "gemini", TWICE, &session);
    assert!(handed_down[0].starts_with("gemini-"), "{handed_down:?}");
    let named = below(&ground, "claude", TWICE, &[("FLOCKD_AGENT", "ada"), ("F", FLOCKD)]);
    assert_eq!(named, ["ada", "ada"], "who says a name has it");
}

#[test]
fn two_live_agent_processes_of_one_name_are_warned_and_one_alone_is_not() {
    let ground = Ground::new();
    let ask = "flockd lock @x -n --json 2>&1 >/dev/null";
    let named = [("FLOCKD_AGENT", "ada"), ("F", FLOCKD)];
    // The outer agent has called before the inner one does; when that one has ended, it calls alone again.
    let inner = "codex -c \"$F lock @x -n --json 2>&1 >/dev/null; $F unlock @x; :\"";
    program(&ground, "codex");
    let out = below(&ground, "claude", &format!("{ask}; echo; ./{inner}; echo; {ask}"), &named);
    assert_eq!(out.len(), 3, "{out:?}");
    assert!(out[1].contains("another agent, process") && out[1].contains("calls itself ada"), "{out:?}");
    assert_eq!((out[0].as_str(), out[2].as_str()), ("", ""), "{out:?}");
}

#[test]
fn without_an_agent_around_nothing_is_guessed() {
    let ground = Ground::new();
    let none = [("FLOCKD_AGENT_PROGRAMS", "")];
    let out = below(&ground, "claude", "flockd lock x 2>&1; echo $?", &none);
    assert!(out[0].contains("--agent") && out[0].contains("FLOCKD_AGENT"), "{out:?}");
    assert_eq!(out[1], "2");
    let mine = below(&ground, "my-agent", TWICE, &[("FLOCKD_AGENT_PROGRAMS", "my-agent"), ("F", FLOCKD)]);
    assert!(mine[0].starts_with("my-agent-") && mine[0] == mine[1], "{mine:?}");
}
