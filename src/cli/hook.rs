//! `flockd hook`, read by hand: to several clients a status of 2 means no, so a flag that is mistyped in somebody's
//! settings must not end in the usage error that every other command ends in.

use super::print;
use crate::hooks::{self, Answer, Call, Client, Mode};
use crate::limits;
use crate::model::Agent;
use crate::planted::{Bug, planted};
use clap::Args;
use std::ffi::OsString;
use std::process::ExitCode;

/// The flags, as `--help` shows them; [`call`] reads them.
#[derive(Debug, Args)]
pub(super) struct HookArgs {
    /// The program that calls: claude-code, codex, gemini, openclaw, or auto to tell by what it says
    #[arg(long, value_name = "NAME", default_value = "auto")]
    client: String,

    /// auto takes the lock before an edit and keeps it to the end of the turn, check only refuses what others hold,
    /// warn only tells
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: String,

    /// How long an edit waits for whoever holds the file
    #[arg(long, value_name = "DURATION", default_value = "25s")]
    wait: String,

    /// When the client stops to listen; it is answered a second before at the latest
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: String,
}

/// The arguments behind `hook`, if that is the command. Flags before it may be mistyped as well.
pub(super) fn is_called(args: &[OsString]) -> Option<Vec<String>> {
    let text = |arg: &OsString| arg.to_string_lossy().into_owned();
    let mut before = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next().map(text) {
        match arg.as_str() {
            "hook" => return Some(before.into_iter().chain(rest.map(text)).collect()),
            "--agent" => before.extend([arg, rest.next().map(text).unwrap_or_default()]),
            flag if flag.starts_with('-') => before.push(arg),
            _ => return None,
        }
    }
    None
}

/// Whether somebody wants to read about it instead.
pub(super) fn wants_help(args: &[String]) -> bool {
    args.iter().any(|arg| matches!(arg.as_str(), "-h" | "--help"))
}

/// Does the whole of it.
pub(super) fn hook(args: &[String]) -> ExitCode {
    let (Answer { out, err, status }, losses) = hooks::run(call(args), std::io::stdin());
    // Each is tried, whatever becomes of the other.
    let errs = err.is_empty() || print::err_arrives(&err);
    let outs = out.is_empty() || print::out_arrives(&out);
    if let Some(losses) = losses
        && ((errs && outs) || planted(Bug::SaidIsHeard))
    {
        losses.were_heard();
    }
    ExitCode::from(status)
}

/// Reads the flags. What makes no sense is left at its default and complained of.
fn call(args: &[String]) -> Call {
    let mut call = Call {
        client: None,
        mode: Mode::Auto,
        agent: None,
        timeout: limits::HOOK_TIMEOUT,
        wait: limits::WAIT_DEFAULT,
        complaint: None,
    };
    let mut agent = std::env::var("FLOCKD_AGENT").ok();
    let mut wrong = Vec::new();
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let (flag, mut value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if flag == "--json" {
            continue;
        }
        // What belongs to a flag that is mistyped is no mistake of its own.
        value = value.or_else(|| rest.next_if(|next| !next.starts_with('-')).cloned());
        let value = match (value.filter(|value| !value.is_empty()), FLAGS.contains(&flag)) {
            (Some(value), true) => value,
            (None, true) => {
                wrong.push(format!("{flag} needs a value"));
                continue;
            }
            (_, false) => {
                wrong.push(format!("it has no {flag}"));
                continue;
            }
        };
        let set = match flag {
            "--client" => client(&value).map(|named| call.client = named),
            "--mode" => Mode::named(&value)
                .map(|named| call.mode = named)
                .ok_or_else(|| format!("there is no mode {value}; there are auto, check, warn")),
            "--wait" => super::args::duration(&value)
                .map(|ms| call.wait = ms.min(limits::WAIT_MAX))
                .map_err(|why| format!("--wait: {why}")),
            "--timeout" => timeout(&value).map(|ms| call.timeout = ms).map_err(|why| format!("--timeout: {why}")),
            _ => {
                agent = Some(value);
                Ok(())
            }
        };
        wrong.extend(set.err());
    }
    match agent.filter(|name| !name.is_empty()).map(|name| Agent::new(&name)).transpose() {
        Ok(agent) => call.agent = agent,
        Err(error) => wrong.push(format!("{}; it counts as left out", error.0)),
    }
    call.complaint = (!wrong.is_empty()).then(|| format!("`flockd hook` was called wrongly: {}", wrong.join("; ")));
    call
}

/// Those that take a value.
const FLAGS: [&str; 5] = ["--client", "--mode", "--wait", "--timeout", "--agent"];

/// None for `auto`.
fn client(name: &str) -> Result<Option<&'static Client>, String> {
    match Client::named(name) {
        None if name != "auto" => {
            let known = Client::names().collect::<Vec<_>>().join(", ");
            Err(format!("there is no client {name}; there are {known} and auto"))
        }
        named => Ok(named),
    }
}

/// A time in which a hook can do something before it has to answer.
fn timeout(value: &str) -> Result<u64, String> {
    match super::args::duration(value)? {
        ms if ms <= limits::HOOK_MARGIN => {
            Err(format!("{value} is too short, since a hook answers a second before: give it more than 1s"))
        }
        ms => Ok(ms.min(limits::WAIT_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_is_found_behind_whatever_flags() {
        let called = |text: &str| is_called(&words(text).into_iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(called("hook --client codex"), Some(words("--client codex")));
        assert_eq!(called("--agent hook --jsn hook --x"), Some(words("--agent hook --jsn --x")));
        assert_eq!(called("lock hook"), None);
        assert_eq!(called("--agent hook lock f"), None);
    }

    #[test]
    fn what_is_mistyped_is_complained_of_and_the_rest_counts() {
        let call = call(&words("--clint codex --mode=check --wait 3 --timeout 10s"));
        assert_eq!((call.mode, call.wait, call.timeout), (Mode::Check, 3_000, 10_000));
        assert!(call.client.is_none());
        let all = call.complaint.unwrap();
        assert_eq!(all, "`flockd hook` was called wrongly: it has no --clint");
    }

    #[test]
    fn all_that_is_wrong_is_complained_of_once() {
        let complaint = |text: &str| super::call(&words(text)).complaint.unwrap();
        let begin = "`flockd hook` was called wrongly: ";
        assert_eq!(complaint("--wat 0 --mod=check x"), format!("{begin}it has no --wat; it has no --mod; it has no x"));
        let several = complaint("--mode chek --agent --client gemin --wait foo");
        let said = ["no mode chek", "--agent needs a value", "no client gemin", "--wait: "];
        assert!(said.iter().all(|it| several.contains(it)), "{several}");
        assert!(complaint("--agent=a//b").contains("counts as left out"));
    }
}
