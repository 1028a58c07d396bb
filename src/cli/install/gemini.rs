//! Gemini CLI: hooks and server in one `settings.json`.

use super::place::{Change, Places};
use super::{Client, Name, Wish, json};
use crate::limits;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) const CLIENT: Client = Client {
    name: Name::Gemini,
    word: WORD,
    changes,
    hooks,
    server,
    note: "what runs takes it up when it is started anew",
};
const WORD: &str = "gemini";

/// The tools that write; a regular expression over their names.
const WRITERS: &str = "write_file|replace|run_shell_command";
const MOMENTS: [&str; 4] = ["SessionStart", "BeforeAgent", "AfterAgent", "SessionEnd"];

fn settings(places: &Places) -> PathBuf {
    places.project.as_ref().unwrap_or(&places.home).join(".gemini/settings.json")
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    let hook = json!([
        {"name": "flockd", "type": "command", "command": wish.hook(WORD), "timeout": limits::HOOK_TIMEOUT}
    ]);
    let mut wanted: Vec<(&str, Value)> = Vec::new();
    if wish.wanted && wish.hooks {
        wanted.push(("BeforeTool", json!({"matcher": WRITERS, "hooks": hook})));
        wanted.extend(MOMENTS.map(|moment| (moment, json!({"hooks": hook}))));
    }
    let server = (wish.wanted && wish.server).then(|| json!({"command": wish.program(), "args": ["mcp"]}));
    Ok(vec![Change::of(settings(places), |text| {
        json::edit(text, |it| {
            json::hooks(it, WORD, &wanted);
            json::server(it, "mcpServers", server)
        })
    })?])
}

fn hooks(places: &Places) -> Vec<String> {
    json::commands_of(&std::fs::read_to_string(settings(places)).unwrap_or_default(), "BeforeTool", WORD)
}

fn server(places: &Places) -> Value {
    json::server_of(&settings(places), &["mcpServers"])
}
