//! Gemini CLI: hooks and server in one `settings.json`.

use super::place::{Change, Places};
use super::{Client, Hooks, Name, Wish, json};
use crate::limits;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) const CLIENT: Client = Client {
    name: Name::Gemini,
    word: WORD,
    changes,
    hooks,
    off,
    server,
    note: "what runs takes it up when it is started anew",
};
const WORD: &str = "gemini";

/// The tools that write; a regular expression over their names.
const WRITERS: &str = "write_file|replace|run_shell_command";
/// What our hooks are called there.
const HOOK: &str = "flockd";
const MOMENTS: [&str; 4] = ["SessionStart", "BeforeAgent", "AfterAgent", "SessionEnd"];

fn settings(places: &Places) -> PathBuf {
    places.project.as_ref().unwrap_or(&places.home).join(".gemini/settings.json")
}

fn groups(wish: &Wish) -> Vec<(&'static str, Value)> {
    if !wish.wanted {
        return Vec::new();
    }
    let hook = json!([
        {"name": HOOK, "type": "command", "command": wish.hook(WORD), "timeout": limits::HOOK_TIMEOUT}
    ]);
    let moments = MOMENTS.map(|moment| (moment, json!({"hooks": hook})));
    std::iter::once(("BeforeTool", json!({"matcher": WRITERS, "hooks": hook}))).chain(moments).collect()
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    let wanted = groups(wish);
    let server = wish.wanted.then(|| json!({"command": wish.program(), "args": ["mcp"]}));
    Ok(vec![Change::of(settings(places), |text| {
        json::edit(text, |it| {
            if wish.hooks {
                json::hooks(it, WORD, &wanted)?;
            }
            match wish.server {
                true => json::server(it, "mcpServers", server),
                false => Ok(()),
            }
        })
    })?])
}

fn hooks(places: &Places) -> Result<Hooks, String> {
    json::found(&settings(places), WORD, &groups(&Wish::usual()))
}

/// The switches of today, and those of versions that kept them in other places.
fn off(places: &Places) -> Vec<String> {
    let file = settings(places);
    let Ok(settings) = json::of(&file) else { return Vec::new() };
    let mut off = Vec::new();
    for [section, key] in [["hooksConfig", "enabled"], ["hooks", "enabled"], ["tools", "enableHooks"]] {
        if settings[section][key] == false {
            off.push(format!("{section}.{key} is false in {}", file.display()));
        }
    }
    for section in ["hooksConfig", "hooks"] {
        let mut names = settings[section]["disabled"].as_array().into_iter().flatten();
        if names.any(|name| name == HOOK) {
            off.push(format!("{section}.disabled has {HOOK} in {}", file.display()));
        }
    }
    off
}

fn server(places: &Places) -> Result<Value, String> {
    json::server_of(&settings(places), &["mcpServers"])
}
