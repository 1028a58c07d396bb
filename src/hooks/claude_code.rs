//! Claude Code: what its hooks say on stdin, and how they are answered.
//!
//! A status of 2 stops the tool, and the model reads stderr; any other status lets it run. JSON on stdout may carry
//! text for the model or the person. It never says `allow`: that would answer the person's own permission prompt.

use super::event::{Answer, Event, Phase, Verdict, path, text};
use super::{patch, shell};
use serde_json::{Value, json};

/// The status that stops a tool, here and in the clients that took the form over.
const STOP: u8 = 2;

pub(super) fn read(input: &Value) -> Option<Event> {
    let mut event = Event::read(input, phase)?;
    event.has_moved = matches!(text(input, "source"), Some("clear" | "resume" | "fork"));
    let given = input.get("tool_input").unwrap_or(&Value::Null);
    event.targets = match text(input, "tool_name").unwrap_or_default() {
        "Write" | "Edit" | "MultiEdit" => path(given, "file_path"),
        "NotebookEdit" => path(given, "notebook_path"),
        "Bash" => {
            let command = text(given, "command").unwrap_or_default();
            let mut targets = shell::targets(command);
            targets.extend(patch::targets(command));
            targets
        }
        _ => Vec::new(),
    };
    Some(event)
}

pub(super) fn phase(name: &str) -> Phase {
    match name {
        "PreToolUse" => Phase::BeforeTool,
        "PostToolUse" | "PostToolUseFailure" => Phase::AfterTool,
        "SessionStart" => Phase::SessionStart,
        "UserPromptSubmit" => Phase::TurnStart,
        // A turn that failed has ended as well; a person's Ctrl-C is told by Codex alone.
        "Stop" | "StopFailure" | "Interrupt" => Phase::TurnEnd,
        "SubagentStop" => Phase::SubagentEnd,
        "SessionEnd" => Phase::SessionEnd,
        _ => Phase::Other,
    }
}

pub(super) fn answer(verdict: &Verdict, event: Option<&Event>) -> Answer {
    match (verdict, event) {
        (Verdict::Silence, _) => Answer::default(),
        (Verdict::Deny(why), _) => Answer { err: format!("{why}\n"), status: STOP, ..Answer::default() },
        (Verdict::Tell(what), Some(event)) if takes_context(event) => {
            let output = json!({"hookEventName": event.name, "additionalContext": what});
            Answer { out: json!({"hookSpecificOutput": output}).to_string() + "\n", ..Answer::default() }
        }
        (Verdict::Tell(what) | Verdict::Warn(what), _) => {
            Answer { out: json!({"systemMessage": what}).to_string() + "\n", ..Answer::default() }
        }
    }
}

/// Whether the model is told of what comes with this event.
pub(super) fn takes_context(event: &Event) -> bool {
    matches!(event.phase, Phase::BeforeTool | Phase::AfterTool | Phase::SessionStart | Phase::TurnStart)
}
