//! Which agent of a session acts in a shell command, where the program around tells its shells of the session alone:
//! what its hooks have noted, held against the processes above.

use super::agent;
use crate::limits;
use crate::model::{Agent, Invalid};
use crate::os::commands::{Chain, Command, Commands, EXEC, Notes, Origin, Shell};
use crate::os::home::Home;
use crate::os::process::{self, Ancestor};
use std::collections::BTreeSet;

/// Programs that run the text behind `-c`.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash", "busybox"];

/// By which a shell runs a text in it.
const EVAL: &str = "eval";

/// Who really acts where the environment names this agent: a sub-agent of it, if this runs in its thread or in a
/// command that it was noted to run. Its program may have told all its shells the same. What somebody has said by
/// `$FLOCKD_AGENT` for a command, where its program was not given that, is meant as it is.
///
/// # Errors
/// When several agents may be meant, or the notes cannot be read: a guess would take one for the other.
pub(crate) fn acting(home: &Home, named: Agent, is_said: bool) -> Result<Agent, Invalid> {
    if is_said && let Some(agent) = agent::in_own_thread(&named) {
        return Ok(agent);
    }
    let say = "say who acts, by --agent NAME or by FLOCKD_AGENT=NAME before the command";
    let cannot = |error| Invalid(format!("{error}; {say}"));
    let commands = Commands::of(home, &named).map_err(cannot)?;
    let notes = commands.read().map_err(cannot)?;
    let Some(notes) = notes.filter(|notes| notes.is_given() || !is_said) else { return Ok(named) };
    let Some(chain) = chain() else { return Ok(named) };
    let mut agents = notes.run_by(&chain, first_shells);
    if agents.len() > 1 && chain.origin == Origin::Left {
        // What its command has left is noted when that is over, which is about now.
        let is_told = |notes: &Notes| notes.run_by(&chain, first_shells).len() < 2;
        let notes = commands.read_until(limits::COMMAND_ENDS_WITHIN, is_told).map_err(cannot)?;
        agents = notes.map(|notes| notes.run_by(&chain, first_shells)).unwrap_or_default();
    }
    match agents.len() {
        0 => Ok(named),
        1 => Ok(agents.first().expect("there is one").clone()),
        _ => {
            let all: Vec<&str> = agents.iter().map(Agent::as_str).collect();
            let text = format!("this may be part of a command of any of {}: {say}", all.join(", "));
            Err(Invalid(text))
        }
    }
}

/// The sessions of processes that a command of this session of a program, begun then, has left or goes on in: their
/// first process is gone or has left the program, or it is the command's own shell.
pub(crate) fn left_by(program: &str, session: &str, since: u64, command: &Command) -> BTreeSet<u32> {
    let Some(name) = agent::session_variable(program) else { return BTreeSet::new() };
    let all = process::all();
    let is_its = |member: &&process::Member| {
        let leader = all.iter().find(|leader| leader.process.pid == member.session);
        let may_be = leader.is_none_or(|leader| leader.process.start >= since && is_left(leader, command));
        may_be && process::variable_of(member.process, name).as_deref() == Some(session)
    };
    let begun = all.iter().filter(|member| member.session != 0 && member.process.start >= since);
    begun.filter(is_its).map(|member| member.session).collect()
}

/// Whether the first process of a session runs this command, or has left its program.
fn is_left(leader: &process::Member, command: &Command) -> bool {
    let is_agent = agent::is_program_of_one();
    let is_below = process::ancestor(leader.parent).is_some_and(|above| is_agent(&above));
    match process::ancestor(leader.process.pid) {
        Some(shell) if is_below => Shell::new(shell.process, shell.session, &told(&shell.args)).may_run(command),
        _ => !is_below,
    }
}

/// This process and those above it, as far as the nearest agent program. None where nothing says that this has to do
/// with one that names its session.
fn chain() -> Option<Chain> {
    let mut found: Vec<Ancestor> = process::own().into_iter().chain(process::ancestors()).collect();
    if let Some(place) = found.iter().position(agent::is_program_of_one()) {
        found.truncate(place);
        return Some(chain_of(&found, false));
    }
    agent::is_in_session().then(|| {
        // The first shell of a command begins a session of processes, and may live though it is no parent any more.
        let leader = found.first().and_then(|own| process::ancestor(own.session));
        found.extend(leader);
        chain_of(&found, true)
    })
}

/// Nearest first.
fn chain_of(found: &[Ancestor], is_left: bool) -> Chain {
    let mut texts: Vec<Vec<String>> = found.iter().rev().map(|process| told(&process.args)).collect();
    let origin = match texts.first_mut() {
        _ if is_left => Origin::Left,
        Some(texts) if texts.is_empty() => {
            texts.push(EXEC.to_owned());
            Origin::Below
        }
        // It has more to say than what is all of it.
        Some(texts) if texts.len() > 1 => Origin::Command,
        _ => Origin::Below,
    };
    let shells = found.iter().rev().zip(&texts);
    Chain { shells: shells.map(|(it, texts)| Shell::new(it.process, it.session, texts)).collect(), origin }
}

/// The first shells of all commands that run now.
fn first_shells() -> Vec<Shell> {
    let leaders = process::all().into_iter().filter(|member| member.process.pid == member.session);
    let leaders = leaders.filter_map(|leader| process::ancestor(leader.process.pid));
    let told = leaders.map(|leader| (leader.process, leader.session, told(&leader.args)));
    told.filter(|(.., texts)| !texts.is_empty()).map(|(it, session, texts)| Shell::new(it, session, &texts)).collect()
}

/// What a shell was told to run by `-c`: all of it, and of what is around that in the program's own words the parts
/// that are to be evaluated.
fn told(args: &[String]) -> Vec<String> {
    let is_c = |arg: &&String| arg.starts_with('-') && !arg.starts_with("--") && arg.ends_with('c');
    if !args.first().is_some_and(|name| SHELLS.contains(&agent::base_name(name).trim_start_matches('-'))) {
        return Vec::new();
    }
    let Some(text) = args.iter().skip_while(|arg| !is_c(arg)).find(|arg| !arg.starts_with('-')) else {
        return Vec::new();
    };
    let evaluated = |text: &str| -> Vec<String> {
        let words = shlex::split(text).unwrap_or_default();
        words.windows(2).filter(|pair| pair[0] == EVAL).map(|pair| pair[1].clone()).collect()
    };
    let mut texts = vec![text.clone()];
    texts.extend(evaluated(text));
    // What a person has put before it may be no words.
    if let Some(place) = text.rfind(&format!(" {EVAL} '")) {
        texts.extend(evaluated(&text[place..]));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Process;

    fn texts(args: &[&str]) -> Vec<String> {
        told(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_shell_was_told_its_text_and_what_is_evaluated_in_that() {
        let around = "source s 2>/dev/null || true && eval 'it'\"'\"'s \"x\"; a' < /dev/null && pwd -P >| /tmp/c";
        assert_eq!(texts(&["/bin/bash", "-c", around])[1], "it's \"x\"; a");
        assert_eq!(texts(&["-zsh", "-l", "-c", "make", "x"]), ["make"]);
        let odd = format!("cat <<E\nit's\nE\neval \"$(direnv)\"\n{around}");
        assert!(texts(&["sh", "-lc", &odd]).contains(&"it's \"x\"; a".to_owned()));
        for args in
            [&["flockd", "run", "x", "--", "sh", "-c", "make"][..], &["bash", "script"], &["python3", "-c", "x"], &[]]
        {
            assert_eq!(texts(args), [""; 0], "{args:?}");
        }
    }

    fn process(pid: u32, session: u32, args: &[&str]) -> Ancestor {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ancestor { process: Process { pid, start: u64::from(pid) }, session, title: String::new(), args }
    }

    #[test]
    fn the_outermost_process_says_how_it_is_known_to_be_of_a_command() {
        let (own, shell) =
            (process(9, 5, &["flockd", "lock"]), process(5, 5, &["bash", "-c", "x && eval 'make' && pwd"]));
        let origin = |found: &[Ancestor], is_left| chain_of(found, is_left).origin;
        assert_eq!(origin(&[own.clone(), shell.clone()], false), Origin::Command);
        assert_eq!(origin(&[own.clone(), process(5, 5, &["sh", "-c", "make"])], false), Origin::Below);
        assert_eq!(origin(&[own.clone(), shell], true), Origin::Left);
        let exec = chain_of(std::slice::from_ref(&own), false);
        assert_eq!((exec.origin, exec.shells.len()), (Origin::Below, 1));
        assert!(exec.shells[0].may_run(&Command::new(&["x", EXEC], None)), "it is in the place of its shell");
    }
}
