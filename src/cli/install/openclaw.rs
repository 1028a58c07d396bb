//! OpenClaw: a plugin that asks before tools run, a skill, and the server in `openclaw.json`. Plugin and skill are
//! files of ours, which this program carries.

use super::place::{self, Change, Places};
use super::{Client, Hooks, Name, Wish, json, quoted};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

pub(super) const CLIENT: Client = Client {
    name: Name::Openclaw,
    word: "openclaw",
    changes,
    hooks,
    off,
    server,
    note: "restart the gateway if it does not reload",
};

/// A file that goes into the state directory.
struct File {
    name: &'static str,
    content: &'static str,
    /// What stands in it in each version of this program, and in nobody else's of that name.
    mark: &'static str,
}

const FILES: [File; 4] = [
    File {
        name: "extensions/flockd/package.json",
        content: include_str!("../../../integrations/openclaw/plugin/package.json"),
        mark: "\"flockd-openclaw\"",
    },
    MANIFEST,
    File {
        name: "extensions/flockd/index.js",
        content: include_str!("../../../integrations/openclaw/plugin/index.js"),
        mark: "`flockd hook`",
    },
    File {
        name: "skills/flockd/SKILL.md",
        content: include_str!("../../../integrations/openclaw/skill/flockd/SKILL.md"),
        mark: "compatibility: Needs the flockd program",
    },
];
/// It says whose plugin it is that is called as ours.
const MANIFEST: File = File {
    name: "extensions/flockd/openclaw.plugin.json",
    content: include_str!("../../../integrations/openclaw/plugin/openclaw.plugin.json"),
    mark: "File locks between agents",
};
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
    for File { name, content, mark } in FILES {
        // The skill is about both, so it goes with the last of them.
        let is_meant = if name.starts_with(PLUGIN) { wish.hooks } else { wish.wanted || wish.hooks && wish.server };
        if !is_meant {
            continue;
        }
        let mut is_ours = true;
        let mut change = Change::of(state(places).join(name), |text| {
            is_ours = text.is_none_or(|text| text.contains(mark));
            match (wish.wanted, is_ours) {
                (true, true) => Ok(Some(content.to_owned())),
                (true, false) => Err("`flockd install` has not written this; move it away".to_owned()),
                (false, true) => Ok(None),
                (false, false) => Ok(text.map(str::to_owned)),
            }
        })?;
        if !is_ours {
            change.remark = Some(format!("{} stays: `flockd install` has not written it", change.path.display()));
        }
        changes.push(change);
    }
    let is_installed = is_installed(places);
    let server = wish.wanted.then(|| json!({"command": wish.program(), "args": ["mcp"]}));
    changes.push(Change::of(config(places), |text| {
        json::edit(text, |it| {
            if wish.hooks {
                plugin(it, wish, is_installed)?;
            }
            if !wish.server || server.is_none() && !it.get("mcp").is_some_and(Value::is_object) {
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

/// Whether the plugin that is there under our name is ours; none if none is there.
fn is_installed(places: &Places) -> Option<bool> {
    let manifest = std::fs::read_to_string(state(places).join(MANIFEST.name)).ok()?;
    Some(manifest.contains(MANIFEST.mark))
}

/// `plugins.entries.flockd`, and its place in the list of allowed ones if there is such a list. What somebody has added
/// to it stays as long as it does, and whoever has switched it off wants it off. It goes if the plugin that is
/// installed is ours, or where none is, if it names our program.
fn plugin(settings: &mut Map<String, Value>, wish: &Wish, is_installed: Option<bool>) -> Result<(), String> {
    let is_wanted = wish.wanted;
    let there = settings.get("plugins").and_then(|plugins| plugins.get("entries")?.get("flockd"));
    if !is_wanted && !is_installed.unwrap_or_else(|| there.is_some_and(names_ours)) {
        return Ok(());
    }
    if !is_wanted && !settings.get("plugins").is_some_and(Value::is_object) {
        return Ok(());
    }
    let no_object = |key: &str| format!("{key} is no object; change it by hand");
    let plugins = json::below(settings, "plugins").ok_or_else(|| no_object("plugins"))?;
    let before = plugins.len();
    if is_wanted {
        let entries = json::below(plugins, "entries").ok_or_else(|| no_object("plugins.entries"))?;
        let entry = json::below(entries, "flockd").ok_or_else(|| no_object("plugins.entries.flockd"))?;
        if entry.get("enabled") != Some(&false.into()) {
            entry.insert("enabled".to_owned(), true.into());
        }
        // Begin and end of a turn are told only to those who may hear conversations.
        let hooks = json::below(entry, "hooks").ok_or_else(|| no_object("plugins.entries.flockd.hooks"))?;
        hooks.insert("allowConversationAccess".to_owned(), true.into());
        let own = json::below(entry, "config").ok_or_else(|| no_object("plugins.entries.flockd.config"))?;
        own.insert("command".to_owned(), wish.program().into());
        match &wish.mode {
            Some(mode) => drop(own.insert("mode".to_owned(), mode.as_str().into())),
            None => drop(own.shift_remove("mode")),
        }
    } else {
        take_out(plugins);
    }
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
    Ok(())
}

/// Whether the entry of a plugin names our program.
fn names_ours(entry: &Value) -> bool {
    let program = entry["config"]["command"].as_str().and_then(|program| Path::new(program).file_name());
    program.is_some_and(|program| program.to_string_lossy().contains("flockd"))
}

/// The entry of our plugin goes; what is switched off stays so, with all that we did not put in.
fn take_out(plugins: &mut Map<String, Value>) {
    let entry = plugins.get_mut("entries").and_then(|entries| entries.get_mut("flockd")?.as_object_mut());
    let Some(entry) = entry.filter(|entry| entry.get("enabled") == Some(&false.into())) else {
        return json::entry(plugins, "entries", "flockd", None);
    };
    for (key, ours) in [("config", &["command", "mode"][..]), ("hooks", &["allowConversationAccess"])] {
        let Some(there) = entry.get_mut(key).and_then(Value::as_object_mut) else { continue };
        let before = there.len();
        there.retain(|name, _| !ours.contains(&&**name));
        if there.len() < before {
            json::tidy(entry, key);
        }
    }
}

/// What the plugin calls, if it or its entry is there.
fn hooks(places: &Places) -> Result<Hooks, String> {
    let settings = json::of(&config(places))?;
    let entry = &settings["plugins"]["entries"]["flockd"];
    let own = &entry["config"];
    let program = own["command"].as_str().unwrap_or("flockd");
    let mut found = Hooks::default();
    let mut is_there = names_ours(entry);
    for File { name, content, mark } in FILES {
        let is_plugin = name.starts_with(PLUGIN);
        let (is_ours, lack) = match place::text(&state(places).join(name)) {
            Ok(Some(text)) if text == content => (true, None),
            Ok(Some(text)) if text.contains(mark) => (true, Some("is outdated or changed")),
            // Whoever wants no skill, or another one, is guarded all the same.
            _ if !is_plugin => (false, None),
            Ok(None) => (false, Some("is missing")),
            Ok(Some(_)) | Err(_) => (false, Some("is another's")),
        };
        is_there |= is_plugin && is_ours;
        found.lacks.extend(lack.map(|lack| format!("{name} {lack}")));
    }
    if !is_there {
        return Ok(Hooks::default());
    }
    if entry.is_null() {
        found.lacks.push(format!("plugins.entries.flockd is missing in {}", config(places).display()));
        return Ok(found);
    }
    let wanted = [
        (entry["enabled"] == true, "enabled is not true"),
        (entry["hooks"]["allowConversationAccess"] == true, "hooks.allowConversationAccess is not true"),
    ];
    let missing = wanted.iter().filter(|(is_there, _)| !is_there).map(|(_, lack)| lack);
    found.lacks.extend(missing.map(|lack| format!("plugins.entries.flockd.{lack}")));
    let allowed = settings["plugins"]["allow"].as_array();
    if allowed.is_some_and(|allowed| allowed.iter().all(|id| id != "flockd")) {
        found.lacks.push("plugins.allow is without flockd".to_owned());
    }
    found.is_off = entry["enabled"] == false;
    let mode = own["mode"].as_str().map_or_else(String::new, |mode| format!(" --mode {mode}"));
    found.commands.push(format!("{} hook --client openclaw{mode}", quoted(Path::new(program))));
    Ok(found)
}

fn off(places: &Places) -> Vec<String> {
    let file = config(places);
    let Ok(settings) = json::of(&file) else { return Vec::new() };
    let plugins = &settings["plugins"];
    let denied = plugins["deny"].as_array().into_iter().flatten().any(|id| id == "flockd");
    let off = [
        (plugins["enabled"] == false, "plugins.enabled is false"),
        (denied, "plugins.deny has flockd"),
        (plugins["entries"]["flockd"]["enabled"] == false, "plugins.entries.flockd.enabled is false"),
    ];
    let off = off.into_iter().filter(|(is_so, _)| *is_so);
    off.map(|(_, what)| format!("{what} in {}", file.display())).collect()
}

fn server(places: &Places) -> Result<Value, String> {
    json::server_of(&config(places), &["mcp", "servers"])
}
