//! Codex: Claude Code's form with tools of its own. Its shell is called `Bash` here whatever it is called elsewhere,
//! and a patch comes as a tool's input or as a heredoc in a shell command.
//!
//! A review runs in a thread of its own, which its tools and commands are told of and its hooks are not: they have no
//! `agent_id` then. Where the thread writes its transcript is what they are told, and that begins with who it is.

use super::event::{Answer, Event, Verdict, path, text};
use super::{claude_code, patch, shell};
use crate::limits;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

pub(super) fn read(input: &Value) -> Option<Event> {
    let mut event = Event::read(input, claude_code::phase)?;
    if event.subagent.is_none()
        && let Some(thread) = text(input, "transcript_path").and_then(|path| review(Path::new(path), &event.session))
    {
        event.subagent = Some(thread);
        event.ends_untold = true;
    }
    let given = input.get("tool_input").unwrap_or(&Value::Null);
    event.targets = match text(input, "tool_name").unwrap_or_default() {
        "apply_patch" => ["command", "input", "patch"].iter().flat_map(|key| patch_in(given, key)).collect(),
        "Bash" | "shell" | "exec_command" => {
            let command = command(given);
            let mut targets = shell::targets(&command);
            targets.extend(patch::targets(&command));
            targets
        }
        "Write" | "Edit" => path(given, "file_path"),
        _ => Vec::new(),
    };
    Some(event)
}

/// The thread of this session whose transcript that is, if it is one below the first.
fn review(transcript: &Path, session: &str) -> Option<String> {
    // Most are the session's own, and need not be read.
    if session.is_empty() || transcript.file_stem()?.to_str()?.ends_with(session) {
        return None;
    }
    let mut line = String::new();
    BufReader::new(File::open(transcript).ok()?.take(limits::CODEX_META_MAX)).read_line(&mut line).ok()?;
    let meta: Value = serde_json::from_str(&line).ok()?;
    let meta = meta.get("payload").filter(|meta| text(meta, "session_id") == Some(session))?;
    text(meta, "parent_thread_id")?;
    text(meta, "id").filter(|thread| *thread != session).map(str::to_owned)
}

fn patch_in(given: &Value, key: &str) -> Vec<PathBuf> {
    text(given, key).map(patch::targets).unwrap_or_default()
}

/// A command as a line, or as words of which the last is a script (`bash -lc SCRIPT`).
fn command(given: &Value) -> String {
    let command = given.get("command").or_else(|| given.get("cmd"));
    match command {
        Some(Value::String(line)) => line.clone(),
        Some(Value::Array(words)) => words.last().and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

pub(super) fn answer(verdict: &Verdict, event: Option<&Event>) -> Answer {
    claude_code::answer(verdict, event)
}
