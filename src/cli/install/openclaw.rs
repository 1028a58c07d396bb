//! OpenClaw: a plugin that asks before tools run, a skill, and the server in `openclaw.json`. Plugin and skill are
//! files of ours, which this program carries.

use super::place::{Change, Places};
use super::{Client, Name, Wish, json, quoted};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

pub(super) const CLIENT: Client = Client {
    name: Name::Openclaw,
    word: "openclaw",
    changes,
    hooks,
    note: "restart the gateway if it does not reload",
};

/// The files that go into the state directory, and what is in them.
const FILES: [(&str, &str); 4] = [
    ("extensions/flockd/package.json", include_str!("../../../integrations/openclaw/plugin/package.json")),
    (
        "extensions/flockd/openclaw.plugin.json",
        include_str!("../../../integrations/openclaw/plugin/openclaw.plugin.json"),
    ),
    ("extensions/flockd/index.js", include_str!("../../../integrations/openclaw/plugin/index.js")),
    ("skills/flockd/SKILL.md", include_str!("../../../integrations/openclaw/skill/flockd/SKILL.md")),
];
/// Where those that begin so belong to the hooks.
const PLUGIN: &str = "extensions/";

fn state(places: &Places) -> PathBuf {
    places.named("OPENCLAW_STATE_DIR", ".openclaw")
}

fn config(places: &Places) -> PathBuf {
    match std::env::var_os("OPENCLAW_CONFIG_PATH").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => state(places).join("openclaw.json"),
    }
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    if places.project.is_some() {
        return Err("it has no settings of projects; leave --project out".to_owned());
    }
    let mut changes = Vec::new();
    for (name, content) in FILES {
        let wanted = wish.wanted && (wish.hooks || !name.starts_with(PLUGIN));
        changes.push(Change::of(state(places).join(name), |_| Ok(wanted.then(|| content.to_owned())))?);
    }
    let server = (wish.wanted && wish.server).then(|| json!({"command": wish.program(), "args": ["mcp"]}));
    changes.push(Change::of(config(places), |text| {
        json::edit(text, |it| {
            plugin(it, wish);
            if server.is_none() && !it.get("mcp").is_some_and(Value::is_object) {
                return Ok(());
            }
            let mcp = json::below(it, "mcp").ok_or("mcp is no object; change it by hand")?;
            let before = mcp.len();
            json::server(mcp, "servers", server)?;
            if mcp.len() < before {
                json::tidy(it, "mcp");
            }
            Ok(())
        })
    })?);
    Ok(changes)
}

/// `plugins.entries.flockd`, and its place in the list of allowed ones if there is such a list.
fn plugin(settings: &mut Map<String, Value>, wish: &Wish) {
    let is_wanted = wish.wanted && wish.hooks;
    if !is_wanted && !settings.contains_key("plugins") {
        return;
    }
    let Some(plugins) = json::below(settings, "plugins") else { return };
    let before = plugins.len();
    let mut own = json!({"command": wish.program()});
    if let Some(mode) = &wish.mode {
        own["mode"] = mode.as_str().into();
    }
    // The end of a turn is told only to those who may hear conversations.
    let entry = json!({"enabled": true, "hooks": {"allowConversationAccess": true}, "config": own});
    json::entry(plugins, "entries", "flockd", is_wanted.then_some(entry));
    if let Some(allowed) = plugins.get_mut("allow").and_then(Value::as_array_mut) {
        let is_there = allowed.iter().any(|id| id == "flockd");
        match is_wanted {
            true if !is_there => allowed.push("flockd".into()),
            false => allowed.retain(|id| id != "flockd"),
            true => {}
        }
    }
    if plugins.len() < before {
        json::tidy(settings, "plugins");
    }
}

/// What the plugin calls.
fn hooks(places: &Places) -> Vec<String> {
    let text = std::fs::read_to_string(config(places)).unwrap_or_default();
    let settings: Value = serde_json::from_str(&text).unwrap_or_default();
    let entry = &settings["plugins"]["entries"]["flockd"];
    let is_there = state(places).join(FILES[2].0).exists() && entry["enabled"] == true;
    let program = entry["config"]["command"].as_str().unwrap_or("flockd");
    let command = format!("{} hook --client openclaw", quoted(Path::new(program)));
    is_there.then_some(command).into_iter().collect()
}
