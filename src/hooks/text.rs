//! What agents and people are told, in sentences that stay the same from case to case: a text that varies reads like an
//! instruction from nowhere, and a model's only guidance is what stands here.

use crate::model::Agent;
use crate::wire::render::duration;
use crate::wire::{Held, KeptBy, LockBody, Loss, Wanted};
use std::path::Path;

/// Longest piece of somebody else's words that is repeated.
const REPEATED_MAX: usize = 120;

/// What an agent is told when its session begins.
pub(super) const WELCOME: &str = "\
flockd: other agents may work on the same files. Your edits lock their files by themselves until the end of your turn; \
a refused edit names the holder. `flockd lock PATH` holds a file or a directory (`src/`) for longer, several at once \
with `flockd lock A B` or for one command with `flockd run A B -- COMMAND` (tool `lock_files`); `flockd unlock PATH` \
lets go, `flockd ls` shows who holds what.";

/// What a sub-agent is told when it begins.
pub(super) fn named(agent: &Agent) -> String {
    format!("flockd: here you are {agent}; your edits, tools and commands go by that name.")
}

/// Others hold what was to be written.
pub(super) fn held(path: &Path, name: &str, holders: &[Held], more: usize, retry_after_ms: Option<u64>) -> String {
    let name = shown(name);
    let path = quoted(path);
    let many = retry_after_ms.map(|ms| format!(" Many want it: try again in about {}.", duration(ms)));
    format!(
        "flockd: {name} is locked by {}. Nothing was written.{}\nWait with `flockd wait {path}`, read it again, then \
         repeat this; or do something else first.",
        who(holders, more),
        many.unwrap_or_default()
    )
}

/// A sub-agent holds it in what the agent itself has. To wait for the file would not help: it is the agent's own.
pub(super) fn held_below(name: &str, below: &Held) -> String {
    format!(
        "flockd: {} is held by your sub-agent {}. Nothing was written.\nIt must let go or end first: do something else \
         until then, or leave this to it.",
        shown(name),
        shown(&below.agent)
    )
}

/// The same where it only matters to say so.
pub(super) fn held_by_others(name: &str, holders: &[Held]) -> String {
    format!("flockd: {} is locked by {}. Nothing keeps you from writing it all the same.", shown(name), who(holders, 0))
}

/// To wait would never end.
pub(super) fn deadlock(body: &LockBody) -> String {
    let cycle: Vec<String> = body.cycle.iter().map(|step| shown(step)).collect();
    format!(
        "flockd: waiting for {} would never end: {}. Nothing was written.\nLet go of what you hold with `flockd unlock \
         PATH`, then repeat this.",
        shown(&body.file_id),
        cycle.join("; ")
    )
}

/// A lock of the agent's own ended without its doing.
pub(super) fn lost(loss: &Loss) -> String {
    format!("{}. Others may have written it since: read it again before you write.", ended(loss))
}

/// The same about what it was just going to write.
pub(super) fn lost_before_writing(loss: &Loss) -> String {
    format!(
        "{}. Others may have written it since, so nothing was written now.\nWhat you were to write is locked for you: \
         read it, then repeat this.",
        ended(loss)
    )
}

/// Somebody waits for a lock of the agent's.
pub(super) fn wanted(wanted: &Wanted) -> String {
    let path = quoted(Path::new(&wanted.path));
    format!(
        "flockd: {} waits for {}. Done with it? `flockd unlock {path}`",
        shown(&wanted.agent),
        shown(&wanted.file_id)
    )
}

/// The locks could not be asked for.
pub(super) fn unprotected(why: &str) -> String {
    format!("flockd: this went ahead without a lock: {}", shown_whole(why))
}

/// The same where nothing may go ahead without.
pub(super) fn refused_by_strictness(why: &str) -> String {
    format!(
        "flockd: no lock can be had: {}. This workspace is strict: nothing was written.\n`flockd doctor` tells more.",
        shown_whole(why)
    )
}

fn who(holders: &[Held], more: usize) -> String {
    let Some((first, rest)) = holders.split_first() else { return "somebody who came before you".to_owned() };
    let left = match (first.expires_in_ms, first.kept_by) {
        (Some(ms), _) => format!(", {} left", duration(ms)),
        (None, KeptBy::Flock) => ", by flock(2)".to_owned(),
        (None, _) => ", while it runs".to_owned(),
    };
    let since = first.since.split('.').next().unwrap_or_default();
    let note = first.note.as_deref().map_or_else(String::new, |note| format!(": {}", shown(note)));
    let others = rest.len() + more;
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    format!("{} ({} since {since}Z{left}{note}){others}", shown(&first.agent), first.mode)
}

fn ended(loss: &Loss) -> String {
    let at = loss.at.split('.').next().unwrap_or_default();
    let by = loss.by.as_deref().map_or_else(String::new, |by| format!(" by {}", shown(by)));
    let note = loss.note.as_deref().map_or_else(String::new, |note| format!(": {}", shown(note)));
    let reason = loss.reason.replace('_', " ");
    format!("flockd: your lock on {} ended at {at}Z ({reason}{by}{note})", shown(&loss.file_id))
}

/// Somebody else's words on one line: a name or a note may hold anything.
fn shown(text: &str) -> String {
    let mut cut: String = shown_whole(text).chars().take(REPEATED_MAX).collect();
    if cut.chars().count() == REPEATED_MAX {
        cut.push('…');
    }
    cut
}

fn shown_whole(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:,=".contains(c);
    match text.chars().all(is_plain) && !text.is_empty() {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_stay_on_one_line_and_short() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(shown(&"x".repeat(1_000)).chars().count(), REPEATED_MAX + 1);
        assert_eq!(quoted(Path::new("/a/b.rs")), "/a/b.rs");
        assert_eq!(quoted(Path::new("/a/it's $x")), r"'/a/it'\''s $x'");
    }
}
