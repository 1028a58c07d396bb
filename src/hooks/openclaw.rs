//! OpenClaw: it has no hooks that are commands, so our plugin (`integrations/openclaw/plugin`) calls this one with what
//! it was given, under the names that OpenClaw has for it, and hands the answer back.

use super::event::{Answer, Event, Phase, Verdict, path, text};
use super::{patch, shell};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// How the names of our server's tools begin.
const OUR_TOOLS: &str = "flockd__";

pub(super) fn read(input: &Value) -> Option<Event> {
    let name = text(input, "openclaw_event")?;
    let given = input.get("params").unwrap_or(&Value::Null);
    let mut cwd = text(input, "cwd").map(PathBuf::from).unwrap_or_default();
    let tool = text(input, "toolName").unwrap_or_default();
    // One server serves all sessions of a gateway and is told none.
    let unnamed = tool.starts_with(OUR_TOOLS).then(|| given.clone());
    let targets = match tool {
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
    let (phase, name) = (phase(name), name.to_owned());
    Some(Event {
        phase,
        name,
        session,
        has_moved: false,
        subagent: None,
        ends_untold: false,
        cwd,
        targets,
        unnamed,
        command: None,
    })
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

/// `{"block":true,"reason":…}`, `{"tell":…}` or `{"warn":…}`, and `"params":{…}` for other arguments; nothing where
/// there is nothing to say.
pub(super) fn answer(verdict: &Verdict, _event: Option<&Event>) -> Answer {
    let (verdict, instead) = verdict.parts();
    let mut out = match verdict {
        Verdict::Silence | Verdict::Instead(..) => json!({}),
        Verdict::Deny(why) => json!({"block": true, "reason": why}),
        Verdict::Tell(what) => json!({"tell": what}),
        Verdict::Warn(what) => json!({"warn": what}),
    };
    if let Some(params) = instead {
        out["params"] = params.clone();
    }
    let is_empty = out.as_object().is_none_or(Map::is_empty);
    Answer { out: if is_empty { String::new() } else { out.to_string() + "\n" }, ..Answer::default() }
}
