//! Whose agent calls, where nobody says so: the agent program above this process, and the session that it names.
//!
//! A name must be the same for all calls of one agent and never that of two, so a guess that could be shared is none.
//! A program's session variable is believed below that program itself, and where no agent program is seen above: what a
//! program starts inherits the variable, other agents included, and those have their own processes to be known by.

use crate::clock;
use crate::limits;
use crate::model::{Agent, Process, base32};
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

/// The program whose sub-agents are threads of its session, and the variable in which it names the thread to what that
/// runs. A hook has the same word as the sub-agent's. A session's first thread has its own word; versions that name
/// nothing but threads call each a session to hooks.
const THREADS: (&str, &str) = ("codex", "CODEX_THREAD_ID");

/// A process of this program with this word among its arguments serves many agents: only the variable tells which.
const SERVES_MANY: (&str, &str) = ("openclaw", "gateway");

/// Programs whose first argument that is no flag is the program that people mean.
const INTERPRETERS: &[&str] = &["node", "nodejs", "bun", "deno", "python", "python3"];

/// Names the agent, whatever else says who it is.
const NAME: &str = "FLOCKD_AGENT";

/// Names the programs to be taken for agents, separated by blanks, instead of those known here. Empty means none.
const LIST: &str = "FLOCKD_AGENT_PROGRAMS";

/// The agent that this process works for, if that can be told for certain.
pub(crate) fn surrounding() -> Option<Agent> {
    let boot = clock::boot_id().ok()?;
    named_by(&process::ancestors(), variable, boot)
}

/// The sub-agent that this thread of a session is; none for its first.
pub(crate) fn thread_below(agent: &Agent, session: Option<&str>, thread: Option<&str>) -> Option<Agent> {
    let is_word = |word: &&str| !word.is_empty();
    let thread = thread.filter(is_word).filter(|thread| session.filter(is_word).is_some_and(|it| it != *thread))?;
    below(agent, thread)
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

/// The agent that works in this thread of a session of a program that has threads: one below the session, but for its
/// first.
pub(crate) fn in_thread(program: &str, session: Option<&str>, thread: Option<&str>) -> Option<Agent> {
    let named = |word: &str| (!word.is_empty()).then(|| by_session(program, word)).flatten();
    let agent = session.and_then(named).or_else(|| thread.and_then(named))?;
    Some(thread_below(&agent, session, thread).unwrap_or(agent))
}

/// A descriptor of the nearest agent process, whatever its agent is called; none if there is none, or it has ended.
pub(crate) fn process() -> Option<OwnedFd> {
    let (_, process) = nearest()?;
    process::open_process(process).ok().flatten()
}

/// The program of the nearest agent process.
#[cfg(feature = "mcp")]
pub(crate) fn program() -> Option<String> {
    nearest().map(|(program, _)| program)
}

/// Whether a process is an agent program.
pub(super) fn is_program_of_one() -> impl Fn(&Ancestor) -> bool {
    let programs = programs(variable(LIST).as_deref());
    move |above| programs.iter().any(|program| is_program(above, program))
}

/// Whether this runs in a session that a program has named to it.
pub(super) fn is_in_session() -> bool {
    let is_named = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    PROGRAMS.iter().filter_map(|(_, name)| *name).any(is_named)
}

/// The sub-agent whose thread this is, where its program itself was given the agent's name. What was named for a
/// command in the thread is that command's.
pub(super) fn in_own_thread(named: &Agent) -> Option<Agent> {
    let (program, process) = nearest().filter(|(program, _)| program == THREADS.0)?;
    let is_the_programs = process::variable_of(process, NAME)? == named.as_str();
    let thread = variable(THREADS.1).filter(|_| is_the_programs)?;
    thread_below(named, session_variable(&program).and_then(variable).as_deref(), Some(&thread))
}

fn nearest() -> Option<(String, Process)> {
    let programs = programs(variable(LIST).as_deref());
    let runs = |above: &Ancestor| programs.iter().find(|program| is_program(above, program)).cloned();
    let above = process::ancestors();
    let mut above = above.iter().take_while(|above| !serves_many(above));
    above.find_map(|above| Some((runs(above)?, above.process)))
}

pub(super) fn session_variable(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(known, _)| *known == program)?.1
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
        let session = variable(session_variable(program)?);
        let thread = Some(THREADS).filter(|(threaded, _)| *threaded == program).and_then(|(_, name)| variable(name));
        in_thread(program, session.as_deref(), thread.as_deref())
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

/// The sub-agent that its program calls by this id.
pub(crate) fn below(agent: &Agent, id: &str) -> Option<Agent> {
    worded(&format!("{agent}/"), id)
}

fn by_session(program: &str, session: &str) -> Option<Agent> {
    worded(&format!("{program}-"), session)
}

/// A name of this begin for whatever somebody else calls it: never that of another word, and none below it. What no
/// name may have is escaped as in URLs, and instead of the end of what is too long stands a digest of all.
fn worded(begin: &str, word: &str) -> Option<Agent> {
    const HEX: usize = 32;
    if word.is_empty() {
        return None;
    }
    let escaped = |c: char| match c {
        '/' | '%' => true,
        c => c.is_control() || c.is_whitespace(),
    };
    let mut name = begin.to_owned();
    let mut bytes = [0; 4];
    for c in word.chars() {
        match escaped(c) {
            true => c.encode_utf8(&mut bytes).bytes().for_each(|byte| name += &format!("%{byte:02X}")),
            false => name.push(c),
        }
    }
    if name.len() > limits::AGENT_MAX {
        // No escape begins like that, so this is no shorter word's name either.
        let digest = format!("%~{}", &blake3::hash(word.as_bytes()).to_hex()[..HEX]);
        let room = limits::AGENT_MAX.checked_sub(digest.len()).filter(|room| *room >= begin.len())?;
        while name.len() > room {
            name.pop();
        }
        name += &digest;
    }
    Agent::new(&name).ok()
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

pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem(script: &str) -> &str {
    [".js", ".mjs", ".cjs", ".py"].iter().find_map(|end| script.strip_suffix(end)).unwrap_or(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, start: u64, title: &str, args: &str) -> Ancestor {
        let args = args.split_whitespace().map(str::to_owned).collect();
        Ancestor { process: Process { pid, start }, session: pid, title: title.to_owned(), args }
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
    }

    #[test]
    fn a_thread_of_a_session_is_one_below_it_but_for_the_first() {
        let codex = process(40, 400, "codex", "codex");
        let named = |session: &str, thread: &str| {
            name(&[shell(), codex.clone()], &[("CODEX_SESSION_ID", session), ("CODEX_THREAD_ID", thread)])
        };
        assert_eq!(named("0dd5", "0dd5").as_deref(), Some("codex-0dd5"));
        assert_eq!(named("0dd5", "").as_deref(), Some("codex-0dd5"));
        let hook = below(&in_session("codex", "0dd5").unwrap(), "5e55").unwrap();
        assert_eq!(named("0dd5", "5e55").as_deref(), Some(hook.as_str()), "as its hook says");
        assert_eq!(name(&[shell(), codex], &[("CODEX_THREAD_ID", "5e55")]).as_deref(), Some("codex-5e55"));
        let claude = [("CLAUDE_CODE_SESSION_ID", "0dd5"), ("CODEX_THREAD_ID", "5e55")];
        let above = [process(30, 300, "claude", "claude")];
        assert_eq!(name(&above, &claude).as_deref(), Some("claude-0dd5"), "the thread is another program's");
    }

    #[test]
    fn every_session_has_a_name_and_no_two_have_the_same_or_one_below_the_others() {
        let named = |session: &str| in_session("openclaw", session).map(|agent| agent.to_string());
        for plain in ["agent:main:s", "5e55-0dd5", "é~+@", &"x".repeat(limits::AGENT_MAX - "openclaw-".len())] {
            assert_eq!(named(plain), Some(format!("openclaw-{plain}")));
        }
        assert_eq!(named("a:proj/two").as_deref(), Some("openclaw-a:proj%2Ftwo"));
        assert_eq!(named("two words\u{a0}\n").as_deref(), Some("openclaw-two%20words%C2%A0%0A"));
        assert_eq!(named(""), None);
        let long = "é/".repeat(200);
        let odd =
            ["a/b", "a%2Fb", "a%252Fb", "a b", "/", "//", "%", &long, &long[..long.len() - 1], &named(&long).unwrap()];
        let names: std::collections::HashSet<String> = odd.iter().map(|session| named(session).unwrap()).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains('/') && name.len() <= limits::AGENT_MAX), "{names:?}");
        let shell = name(&[], &[("FLOCKD_OPENCLAW_SESSION", &long)]);
        assert_eq!(shell, named(&long), "hooks and commands say the same");

        let ada = Agent::new("ada").unwrap();
        assert_eq!(below(&ada, "a1").unwrap().as_str(), "ada/a1");
        assert_eq!(below(&ada, "a/1").unwrap().as_str(), "ada/a%2F1");
        assert!(ada.is_above(&below(&ada, &long).unwrap()));
        assert_eq!(below(&Agent::new(&"x".repeat(limits::AGENT_MAX)).unwrap(), "a1"), None, "there is no room");
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
