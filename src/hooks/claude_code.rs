//! Claude Code: what its hooks say on stdin, and how they are answered.
//!
//! A status of 2 stops the tool, and the model reads stderr; any other status lets it run. JSON on stdout may carry
//! text for the model or the person, and other arguments for the tool, which are taken without a decision as well. It
//! never says `allow`: that would answer the person's own permission prompt.

use super::event::{Answer, Event, Phase, Shell, Verdict, path, text};
use super::{patch, shell};
use serde_json::{Map, Value};

/// The status that stops a tool, here and in the clients that took the form over.
const STOP: u8 = 2;

/// How the names of our server's tools begin.
const OUR_TOOLS: &str = "mcp__flockd__";

/// The tool that ends what goes on in the background, sub-agents too.
const STOP_TASK: &str = "TaskStop";

/// The tools that run a command.
const SHELLS: &[&str] = &["Bash", "Monitor"];

pub(super) fn read(input: &Value) -> Option<Event> {
    let mut event = Event::read(input, phase)?;
    event.has_moved = matches!(text(input, "source"), Some("clear" | "resume" | "fork"));
    let given = input.get("tool_input").unwrap_or(&Value::Null);
    let tool = text(input, "tool_name").unwrap_or_default();
    // Server and shell know the session, and not who in it calls.
    event.unnamed = Some(given).filter(|_| event.subagent.is_some() && tool.starts_with(OUR_TOOLS)).cloned();
    let id = text(input, "tool_use_id").map(str::to_owned);
    let command = text(given, "command").filter(|_| SHELLS.contains(&tool));
    event.command = command.map(|command| Shell { text: command.to_owned(), id });
    // Whoever is stopped so is not told of otherwise.
    if tool == STOP_TASK && event.phase == Phase::AfterTool {
        event.phase = Phase::SubagentEnd;
        event.subagent = text(given, "task_id").filter(|id| !id.is_empty()).map(str::to_owned);
    }
    event.targets = match tool {
        "Write" | "Edit" | "MultiEdit" => path(given, "file_path"),
        "NotebookEdit" => path(given, "notebook_path"),
        tool if SHELLS.contains(&tool) => {
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
        "SubagentStart" => Phase::SubagentStart,
        "SubagentStop" => Phase::SubagentEnd,
        "SessionEnd" => Phase::SessionEnd,
        _ => Phase::Other,
    }
}

pub(super) fn answer(verdict: &Verdict, event: Option<&Event>) -> Answer {
    let (verdict, instead) = verdict.parts();
    let (context, to_person) = match (verdict, event) {
        (Verdict::Deny(why), _) => return Answer { err: format!("{why}\n"), status: STOP, ..Answer::default() },
        (Verdict::Tell(what), Some(event)) if takes_context(event) => (Some(what), None),
        (Verdict::Tell(what) | Verdict::Warn(what), _) => (None, Some(what)),
        _ => (None, None),
    };
    let mut out = Map::new();
    if let (Some(event), true) = (event, context.is_some() || instead.is_some()) {
        let mut own = Map::from_iter([("hookEventName".to_owned(), event.name.as_str().into())]);
        own.extend(context.map(|what| ("additionalContext".to_owned(), what.as_str().into())));
        own.extend(instead.map(|arguments| ("updatedInput".to_owned(), arguments.clone())));
        out.insert("hookSpecificOutput".to_owned(), own.into());
    }
    out.extend(to_person.map(|what| ("systemMessage".to_owned(), what.as_str().into())));
    let out = if out.is_empty() { String::new() } else { Value::from(out).to_string() + "\n" };
    Answer { out, ..Answer::default() }
}

/// Whether the model is told of what comes with this event.
pub(super) fn takes_context(event: &Event) -> bool {
    use Phase::{AfterTool, BeforeTool, SessionStart, SubagentStart, TurnStart};
    matches!(event.phase, BeforeTool | AfterTool | SessionStart | SubagentStart | TurnStart)
}
