//! Codex: Claude Code's form with tools of its own. Its shell is called `Bash` here whatever it is called elsewhere,
//! and a patch comes as a tool's input or as a heredoc in a shell command.

use super::event::{Answer, Event, Verdict, path, text};
use super::{claude_code, patch, shell};
use serde_json::Value;
use std::path::PathBuf;

pub(super) fn read(input: &Value) -> Option<Event> {
    let mut event = Event::read(input, claude_code::phase)?;
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
