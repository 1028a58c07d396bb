//! Claude Code: hooks in `settings.json`, the server in `.claude.json`, or in a project in `.claude/settings.json` and
//! `.mcp.json`.

use super::place::{Change, Places};
use super::{Client, Name, Wish, json};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) const CLIENT: Client = Client {
    name: Name::ClaudeCode,
    word: WORD,
    changes,
    hooks,
    server,
    note: "what runs takes it up when it is started anew",
};
const WORD: &str = "claude-code";

/// The tools that write, and ours, which sub-agents call as well: a pattern over their names, which would be found
/// within names if it had no ends.
const TOOLS: &str = "^(Write|Edit|MultiEdit|NotebookEdit|Bash|mcp__flockd__.*)$";
/// What else concerns locks.
const MOMENTS: [&str; 6] = ["SessionStart", "UserPromptSubmit", "Stop", "SubagentStart", "SubagentStop", "SessionEnd"];

fn settings(places: &Places) -> PathBuf {
    match &places.project {
        Some(project) => project.join(".claude/settings.json"),
        None => places.named("CLAUDE_CONFIG_DIR", ".claude").join("settings.json"),
    }
}

fn servers(places: &Places) -> PathBuf {
    match &places.project {
        Some(project) => project.join(".mcp.json"),
        None => places.named("CLAUDE_CONFIG_DIR", "").join(".claude.json"),
    }
}

/// A group of hooks in the form that Codex has taken over.
pub(super) fn groups(wish: &Wish, word: &str, writers: &str, moments: &[&'static str]) -> Vec<(&'static str, Value)> {
    if !wish.wanted || !wish.hooks {
        return Vec::new();
    }
    let hook = json!([{"type": "command", "command": wish.hook(word), "timeout": crate::limits::HOOK_TIMEOUT / 1_000}]);
    let moments = moments.iter().map(|moment| (*moment, json!({"hooks": hook})));
    std::iter::once(("PreToolUse", json!({"matcher": writers, "hooks": hook}))).chain(moments).collect()
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    let wanted = groups(wish, WORD, TOOLS, &MOMENTS);
    let server = json!({"type": "stdio", "command": wish.program(), "args": ["mcp"], "env": {}});
    let server = (wish.wanted && wish.server).then_some(server);
    Ok(vec![
        Change::of(settings(places), |text| {
            json::edit(text, |it| {
                json::hooks(it, WORD, &wanted);
                Ok(())
            })
        })?,
        Change::of(servers(places), |text| json::edit(text, |it| json::server(it, "mcpServers", server)))?,
    ])
}

fn hooks(places: &Places) -> Vec<String> {
    json::commands_of(&std::fs::read_to_string(settings(places)).unwrap_or_default(), "PreToolUse", WORD)
}

fn server(places: &Places) -> Value {
    json::server_of(&servers(places), &["mcpServers"])
}
