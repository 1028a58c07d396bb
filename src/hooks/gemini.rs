//! Gemini CLI: events and tools of its own names. It stops a tool where JSON on stdout says `deny`, and takes nothing
//! but JSON there.

use super::event::{Answer, Event, Phase, Verdict, path, text};
use super::shell;
use serde_json::{Value, json};

pub(super) fn read(input: &Value) -> Option<Event> {
    let mut event = Event::read(input, phase)?;
    let given = input.get("tool_input").unwrap_or(&Value::Null);
    event.targets = match text(input, "tool_name").unwrap_or_default() {
        "write_file" | "replace" => path(given, "file_path"),
        "run_shell_command" => {
            // The directory it runs in may be named beside it, relative to where the agent works.
            let beside = ["dir_path", "directory"].iter().find_map(|key| text(given, key));
            event.cwd = event.cwd.join(beside.unwrap_or_default());
            shell::targets(text(given, "command").unwrap_or_default())
        }
        _ => Vec::new(),
    };
    Some(event)
}

/// Whether an event of this name is one of Gemini's alone.
pub(super) fn is_its_own(name: &str) -> bool {
    matches!(name, "BeforeTool" | "AfterTool" | "BeforeAgent" | "AfterAgent")
}

fn phase(name: &str) -> Phase {
    match name {
        "BeforeTool" => Phase::BeforeTool,
        "AfterTool" => Phase::AfterTool,
        "SessionStart" => Phase::SessionStart,
        "BeforeAgent" => Phase::TurnStart,
        "AfterAgent" => Phase::TurnEnd,
        "SessionEnd" => Phase::SessionEnd,
        _ => Phase::Other,
    }
}

pub(super) fn answer(verdict: &Verdict, event: Option<&Event>) -> Answer {
    let (verdict, _) = verdict.parts();
    let out = match (verdict, event) {
        (Verdict::Silence | Verdict::Instead(..), _) => return Answer::default(),
        (Verdict::Deny(why), _) => json!({"decision": "deny", "reason": why}),
        (Verdict::Tell(what), Some(event)) if takes_context(event) => {
            json!({"hookSpecificOutput": {"hookEventName": event.name, "additionalContext": what}})
        }
        (Verdict::Tell(what) | Verdict::Warn(what), _) => json!({"systemMessage": what}),
    };
    Answer { out: out.to_string() + "\n", ..Answer::default() }
}

/// Whether the model is told of what comes with this event; before a tool only the person is.
pub(super) fn takes_context(event: &Event) -> bool {
    matches!(event.phase, Phase::AfterTool | Phase::SessionStart | Phase::TurnStart)
}
