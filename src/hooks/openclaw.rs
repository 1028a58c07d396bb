//! OpenClaw: it has no hooks that are commands, so our plugin (`integrations/openclaw/plugin`) calls this one with what
//! it was given, under the names that OpenClaw has for it, and hands the answer back.

use super::event::{Answer, Event, Phase, Verdict, path, text};
use super::{patch, shell};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) fn read(input: &Value) -> Option<Event> {
    let name = text(input, "openclaw_event")?;
    let given = input.get("params").unwrap_or(&Value::Null);
    let mut cwd = text(input, "cwd").map(PathBuf::from).unwrap_or_default();
    let targets = match text(input, "toolName").unwrap_or_default() {
        "write" | "edit" => path(given, "path"),
        "apply_patch" => patch::targets(text(given, "input").unwrap_or_default()),
        "exec" => {
            cwd = cwd.join(text(given, "workdir").unwrap_or_default());
            let command = text(given, "command").unwrap_or_default();
            let mut targets = shell::targets(command);
            targets.extend(patch::targets(command));
            targets
        }
        _ => Vec::new(),
    };
    // A sub-agent has a session of its own there, so its name is its own.
    let session = text(input, "sessionKey").unwrap_or_default().to_owned();
    Some(Event { phase: phase(name), name: name.to_owned(), session, has_moved: false, subagent: None, cwd, targets })
}

fn phase(name: &str) -> Phase {
    match name {
        "before_tool_call" => Phase::BeforeTool,
        "after_tool_call" => Phase::AfterTool,
        "session_start" => Phase::SessionStart,
        "before_prompt_build" => Phase::TurnStart,
        "agent_end" => Phase::TurnEnd,
        "session_end" => Phase::SessionEnd,
        _ => Phase::Other,
    }
}

/// Whether the model is told of what comes with this event: the plugin puts it before the prompt. What it keeps until
/// then may be lost with the gateway.
pub(super) fn takes_context(event: &Event) -> bool {
    matches!(event.phase, Phase::SessionStart | Phase::TurnStart)
}

/// `{"block":true,"reason":…}`, `{"tell":…}` or `{"warn":…}`; nothing where there is nothing to say.
pub(super) fn answer(verdict: &Verdict, _event: Option<&Event>) -> Answer {
    let out = match verdict {
        Verdict::Silence => return Answer::default(),
        Verdict::Deny(why) => json!({"block": true, "reason": why}),
        Verdict::Tell(what) => json!({"tell": what}),
        Verdict::Warn(what) => json!({"warn": what}),
    };
    Answer { out: out.to_string() + "\n", ..Answer::default() }
}
