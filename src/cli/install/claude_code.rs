//! Claude Code: hooks in `settings.json`, the server in `.claude.json`, or in a project in `.claude/settings.json` and
//! `.mcp.json`.

use super::place::{Change, Places};
use super::{Client, Hooks, Name, Wish, json};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) const CLIENT: Client = Client {
    name: Name::ClaudeCode,
    word: WORD,
    changes,
    hooks,
    off,
    server,
    note: "what runs takes it up when it is started anew",
};
const WORD: &str = "claude-code";

/// The tools that write, and ours, which sub-agents call as well. Names alone: a pattern would be looked for within
/// the names of other tools.
const TOOLS: &str = "Write|Edit|MultiEdit|NotebookEdit|Bash|Monitor|\
                     mcp__flockd__lock_file|mcp__flockd__lock_files|mcp__flockd__unlock_file|mcp__flockd__renew_lock|\
                     mcp__flockd__check_lock_status|mcp__flockd__lock_stats|mcp__flockd__write_file";
/// Those that run a command, whose end is noted, and the one that stops sub-agents.
const AFTER: &str = "Bash|Monitor|TaskStop";
const CALLS: [(&str, &str); 3] =
    [("PreToolUse", TOOLS), ("PostToolUse", AFTER), ("PostToolUseFailure", "Bash|Monitor")];
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

/// Groups of hooks in the form that Codex has taken over: for calls of these tools, and for moments.
pub(super) fn groups(
    wish: &Wish,
    word: &str,
    calls: &[(&'static str, &str)],
    moments: &[&'static str],
) -> Vec<(&'static str, Value)> {
    if !wish.wanted {
        return Vec::new();
    }
    let hook = json!([{"type": "command", "command": wish.hook(word), "timeout": crate::limits::HOOK_TIMEOUT / 1_000}]);
    let calls = calls.iter().map(|(event, tools)| (*event, json!({"matcher": tools, "hooks": hook})));
    calls.chain(moments.iter().map(|moment| (*moment, json!({"hooks": hook})))).collect()
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    if wish.hooks {
        let wanted = groups(wish, WORD, &CALLS, &MOMENTS);
        changes.push(Change::of(settings(places), |text| json::edit(text, |it| json::hooks(it, WORD, &wanted)))?);
    }
    if wish.server {
        let server = json!({"type": "stdio", "command": wish.program(), "args": ["mcp"], "env": {}});
        let server = wish.wanted.then_some(server);
        changes
            .push(Change::of(servers(places), |text| json::edit(text, |it| json::server(it, "mcpServers", server)))?);
    }
    Ok(changes)
}

fn hooks(places: &Places) -> Result<Hooks, String> {
    json::found(&settings(places), WORD, &groups(&Wish::usual(), WORD, &CALLS, &MOMENTS))
}

fn off(places: &Places) -> Vec<String> {
    let local = places.project.as_ref().map(|project| project.join(".claude/settings.local.json"));
    let files = std::iter::once(settings(places)).chain(local);
    let off = files.filter(|file| json::of(file).is_ok_and(|settings| settings["disableAllHooks"] == true));
    off.map(|file| format!("disableAllHooks is true in {}", file.display())).collect()
}

fn server(places: &Places) -> Result<Value, String> {
    json::server_of(&servers(places), &["mcpServers"])
}
