//! Whose agent calls, where nobody says so: the agent program above this process, and the session that it names.
//!
//! A name must be the same for all calls of one agent and never that of two, so a guess that could be shared is none.
//! A program's session variable is believed below that program itself, and where no agent program is seen above: what a
//! program starts inherits the variable, other agents included, and those have their own processes to be known by.

use crate::clock;
use crate::model::{Agent, base32};
use crate::os::process::{self, Ancestor};
use rustix::fd::OwnedFd;

/// Programs that are one agent a process, and the variable in which they name their session to what they run.
const PROGRAMS: &[(&str, Option<&str>)] = &[
    ("claude", Some("CLAUDE_CODE_SESSION_ID")),
    ("codex", Some("CODEX_SESSION_ID")),
    // Its hooks have a variable that its shell commands have not: the process is the same for both.
    ("gemini", None),
    ("qwen", Some("QWEN_CODE_SESSION_ID")),
    ("copilot", Some("COPILOT_AGENT_SESSION_ID")),
    ("opencode", None),
    // It names none itself; our plugin gives this one to the commands of each of its agents.
    ("openclaw", Some("FLOCKD_OPENCLAW_SESSION")),
];

/// A process of this program with this word among its arguments serves many agents: only the variable tells which.
const SERVES_MANY: (&str, &str) = ("openclaw", "gateway");

/// Programs whose first argument that is no flag is the program that people mean.
const INTERPRETERS: &[&str] = &["node", "nodejs", "bun", "deno", "python", "python3"];

/// Names the programs to be taken for agents, separated by blanks, instead of those known here. Empty means none.
const LIST: &str = "FLOCKD_AGENT_PROGRAMS";

/// The agent that this process works for, if that can be told for certain.
pub(crate) fn surrounding() -> Option<Agent> {
    let boot = clock::boot_id().ok()?;
    named_by(&process::ancestors(), variable, boot)
}

/// The agent that works in this session of a program, where somebody who knows says both: the name that the program's
/// commands have by its session variable. A program without such a variable is named by its process, as there.
pub(crate) fn in_session(program: &str, session: &str) -> Option<Agent> {
    let has_variable = PROGRAMS.iter().any(|(known, variable)| *known == program && variable.is_some());
    if has_variable {
        return by_session(program, session);
    }
    let is_its = |agent: &Agent| agent.as_str().strip_prefix(program).is_some_and(|rest| rest.starts_with('-'));
    surrounding().filter(is_its).or_else(|| by_session(program, session))
}

/// A descriptor of the nearest agent process, whatever its agent is called; none if there is none, or it has ended.
pub(crate) fn process() -> Option<OwnedFd> {
    let above = process::ancestors();
    let programs = programs(variable(LIST).as_deref());
    let nearest = above
        .iter()
        .take_while(|process| !serves_many(process))
        .find_map(|process| programs.iter().any(|program| is_program(process, program)).then_some(process.process));
    process::open_process(nearest?).ok().flatten()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The programs to be taken for agents.
fn programs(list: Option<&str>) -> Vec<String> {
    match list {
        Some(list) => list.split_whitespace().map(str::to_owned).collect(),
        None => PROGRAMS.iter().map(|(program, _)| (*program).to_owned()).collect(),
    }
}

/// The name that these processes above, nearest first, and this environment make.
fn named_by(above: &[Ancestor], variable: impl Fn(&str) -> Option<String>, boot: u128) -> Option<Agent> {
    let programs = programs(variable(LIST).as_deref());
    let session_of = |program: &str| {
        let (_, name) = PROGRAMS.iter().find(|(known, _)| *known == program)?;
        by_session(program, &variable((*name)?)?)
    };
    for process in above {
        if serves_many(process) {
            return session_of(SERVES_MANY.0);
        }
        if let Some(program) = programs.iter().find(|program| is_program(process, program)) {
            return session_of(program).or_else(|| by_process(program, process, boot));
        }
    }
    // An agent whose process is not known as one: its session is, unless another could have handed it down.
    let mut sessions = PROGRAMS.iter().filter_map(|(program, _)| session_of(program));
    sessions.next().filter(|_| sessions.next().is_none())
}

fn by_session(program: &str, session: &str) -> Option<Agent> {
    if session.is_empty() { None } else { Agent::new(&format!("{program}-{session}")).ok() }
}

/// Number and start are one process's own within a boot; the boot's number keeps them apart from those of others.
fn by_process(program: &str, process: &Ancestor, boot: u128) -> Option<Agent> {
    let boot = (boot >> 64) as u64 ^ boot as u64;
    let unique = base32(process.process.start ^ boot);
    Agent::new(&format!("{program}-{}-{unique}", process.process.pid)).ok()
}

fn serves_many(process: &Ancestor) -> bool {
    let (program, word) = SERVES_MANY;
    // The kernel cuts titles after 15 bytes.
    let title: String = format!("{program}-{word}").chars().take(15).collect();
    process.title == title || is_program(process, program) && process.args.iter().any(|arg| arg == word)
}

/// Whether a process runs this program, by its title, its own name or, below an interpreter, that of its script.
fn is_program(process: &Ancestor, program: &str) -> bool {
    let named = |word: &str| base_name(word) == program;
    let first = process.args.first().map_or("", |arg| base_name(arg));
    let script = process.args.iter().skip(1).find(|arg| !arg.starts_with('-'));
    let is_interpreted = INTERPRETERS.contains(&first) || INTERPRETERS.contains(&process.title.as_str());
    process.title == program || first == program || is_interpreted && script.is_some_and(|script| named(stem(script)))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem(script: &str) -> &str {
    [".js", ".mjs", ".cjs", ".py"].iter().find_map(|end| script.strip_suffix(end)).unwrap_or(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Process;

    fn process(pid: u32, start: u64, title: &str, args: &str) -> Ancestor {
        let args = args.split_whitespace().map(str::to_owned).collect();
        Ancestor { process: Process { pid, start }, title: title.to_owned(), args }
    }

    fn name(above: &[Ancestor], variables: &[(&str, &str)]) -> Option<String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        named_by(above, variable, 1 << 64).map(|agent| agent.to_string())
    }

    fn shell() -> Ancestor {
        process(50, 500, "sh", "/bin/sh -c true")
    }

    #[test]
    fn the_nearest_agent_process_names_itself_by_number_and_start() {
        let (inner, outer) = (process(40, 400, "gemini", "gemini"), process(30, 300, "claude", "claude -p x"));
        let expected = format!("gemini-40-{}", base32(400 ^ 1));
        assert_eq!(name(&[shell(), inner.clone(), outer.clone()], &[]), Some(expected));
        assert_ne!(name(&[process(40, 401, "gemini", "")], &[]), name(&[inner], &[]), "its number was given away");
        assert_ne!(
            named_by(std::slice::from_ref(&outer), |_| None, 2),
            named_by(&[outer], |_| None, 3),
            "another boot"
        );
        assert_eq!(name(&[shell()], &[]), None);
    }

    #[test]
    fn a_script_is_known_below_its_interpreter_and_a_file_of_that_name_in_an_editor_is_not() {
        let script = |args: &str| name(&[process(7, 70, "node", args)], &[]).is_some();
        assert!(script("node --no-warnings /usr/local/bin/gemini"));
        assert!(script("/usr/bin/node /opt/codex/bin/codex.js exec"));
        assert!(!script("node /usr/lib/index.js gemini"));
        assert_eq!(name(&[process(7, 70, "vim", "vim claude")], &[]), None);
        assert!(name(&[process(7, 70, "MainThread", "claude")], &[]).is_some());
    }

    #[test]
    fn the_session_of_the_nearest_agent_counts_and_not_one_that_was_handed_down() {
        let session = [("CLAUDE_CODE_SESSION_ID", "5e55")];
        let (claude, codex) = (process(30, 300, "claude", "claude"), process(40, 400, "codex", "codex"));
        assert_eq!(name(&[shell(), claude.clone()], &session).as_deref(), Some("claude-5e55"));
        assert_eq!(name(&[shell()], &session).as_deref(), Some("claude-5e55"));
        let below = name(&[shell(), codex.clone(), claude], &session).expect("codex is there");
        assert!(below.starts_with("codex-40-"), "{below}");
        let both = [("CLAUDE_CODE_SESSION_ID", "5e55"), ("CODEX_SESSION_ID", "0dd5")];
        assert_eq!(name(&[shell(), codex], &both).as_deref(), Some("codex-0dd5"));
        assert_eq!(name(&[shell()], &both), None, "either could have started the other");
        assert_eq!(name(&[shell()], &[("CLAUDE_CODE_SESSION_ID", "")]), None);
        assert_eq!(name(&[shell()], &[("CLAUDE_CODE_SESSION_ID", "two words")]), None);
    }

    #[test]
    fn a_gateway_of_many_agents_names_none_of_them_itself() {
        let claude = process(30, 300, "claude", "claude");
        let one = process(40, 400, "openclaw", "openclaw agent --local");
        assert!(name(&[one, claude.clone()], &[]).is_some_and(|name| name.starts_with("openclaw-40-")));
        for gateway in [
            process(40, 400, "openclaw-gatewa", "openclaw-gateway"),
            process(40, 400, "node", "node /usr/bin/openclaw gateway run"),
        ] {
            let above = [shell(), gateway, claude.clone()];
            assert_eq!(name(&above, &[]), None);
            let session = [("FLOCKD_OPENCLAW_SESSION", "agent:main:s")];
            assert_eq!(name(&above, &session).as_deref(), Some("openclaw-agent:main:s"), "our plugin says which");
        }
    }

    #[test]
    fn the_list_of_programs_can_be_replaced_and_emptied() {
        let (mine, claude) = (process(30, 300, "my-agent", "my-agent"), process(20, 200, "claude", "claude"));
        let with = |list| name(&[shell(), mine.clone(), claude.clone()], &[(LIST, list)]);
        assert!(with("other my-agent").is_some_and(|name| name.starts_with("my-agent-30-")));
        assert!(with("claude").is_some_and(|name| name.starts_with("claude-20-")));
        assert_eq!(with(""), None);
    }
}
