//! Which agent of a session acts in a shell command, where the program around tells its shells of the session alone:
//! what its hooks have noted, held against the processes above.

use super::agent;
use crate::clock;
use crate::limits;
use crate::model::{Agent, Invalid};
use crate::os::commands::{Certainty, Chain, Command, Commands, EXEC, Notes, Origin, Shell};
use crate::os::home::Home;
use crate::os::process::{self, Ancestor};
use std::collections::BTreeMap;

/// Programs that run the text behind `-c`.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash", "busybox"];

/// By which a shell runs a text in it.
const EVAL: &str = "eval";

/// Who really acts where the environment names this agent: a sub-agent of it, if this runs in its thread or in a
/// command that it was noted to run. Its program may have told all its shells the same. What somebody has said by
/// `$FLOCKD_AGENT` for a command, where its program was not given that, is meant as it is. Where several may be meant,
/// and whoever asks `waits`, more may be known within [`limits::COMMAND_ENDS_WITHIN`].
///
/// # Errors
/// When several agents may be meant, or the notes cannot be read: a guess would take one for the other.
pub(crate) fn acting(home: &Home, named: Agent, is_said: bool, waits: bool) -> Result<Agent, Invalid> {
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
    if agents.len() > 1 && waits && chain.may_be_noted() {
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

/// The sessions of processes that an agent's command has left or goes on in, where that is not noted yet: their first
/// process is gone or has left the program, or it is the command's own shell.
pub(crate) fn left_by(
    program: &str,
    session: &str,
    agent: &Agent,
    command: &Command,
    notes: &Notes,
) -> BTreeMap<u32, Certainty> {
    let (Some(name), Some(since)) = (agent::session_variable(program), notes.since(agent, command)) else {
        return BTreeMap::new();
    };
    let (all, others, now) = (process::all(), first_shells(), clock::boot_ticks());
    let certainty = |member: &process::Member| {
        let leader = all.iter().find(|leader| leader.process.pid == member.session);
        let is_noted = notes.whose(member.session, leader.map(|leader| leader.process.start)).is_some();
        let may_be = match leader {
            Some(leader) if leader.process.start < since => None,
            Some(leader) => has_left(leader, &all, command),
            None => Some(false),
        };
        let is_known = may_be.filter(|_| !is_noted)?;
        (process::variable_of(member.process, name).as_deref() == Some(session)).then_some(())?;
        let certainty = || notes.certainty(agent, member.session, member.process.start, now, &others);
        Some(if is_known { Certainty::Known } else { certainty() })
    };
    let begun = all.iter().filter(|member| member.session != 0 && member.process.start >= since);
    begun.filter_map(|member| Some((member.session, certainty(member)?))).collect()
}

/// Whether the first process of a session is the shell of this command (true) or below its program no more (false);
/// what else is below that is of a command that still runs.
fn has_left(leader: &process::Member, all: &[process::Member], command: &Command) -> Option<bool> {
    let is_agent = agent::is_program_of_one();
    let parent = |pid: &u32| all.iter().find(|member| member.process.pid == *pid).map(|member| member.parent);
    let mut above = std::iter::successors(Some(leader.parent), parent).take(process::ANCESTORS_MAX);
    if !above.any(|pid| process::ancestor(pid).is_some_and(|above| is_agent(&above))) {
        return Some(false);
    }
    let shell = process::ancestor(leader.process.pid)?;
    Shell::new(shell.process, shell.session, &told(&shell.args)).may_run(command).then_some(true)
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
