//! Codex: hooks in `hooks.json`, the server in `config.toml`, whose comments and order stay.

use super::place::{self, Change, Places};
use super::{Client, Hooks, Name, SERVER, Wish, another_server, claude_code, is_our_server, json};
use serde_json::Value as Json;
use std::path::PathBuf;
use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

pub(super) const CLIENT: Client = Client {
    name: Name::Codex,
    word: WORD,
    changes,
    hooks,
    off,
    server: entry,
    note: "it runs hooks only that you trust: say so when it asks, or with /hooks",
};
const WORD: &str = "codex";
const SERVERS: &str = "mcp_servers";

const WRITERS: &str = "apply_patch|Bash|Edit|Write";
const MOMENTS: [&str; 5] = ["SessionStart", "UserPromptSubmit", "Stop", "SubagentStop", "SessionEnd"];

fn dir(places: &Places) -> PathBuf {
    match &places.project {
        Some(project) => project.join(".codex"),
        None => places.named("CODEX_HOME", ".codex"),
    }
}

fn changes(places: &Places, wish: &Wish) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    if wish.hooks {
        let wanted = claude_code::groups(wish, WORD, &[("PreToolUse", WRITERS)], &MOMENTS);
        changes.push(Change::of(dir(places).join("hooks.json"), |text| {
            json::edit(text, |it| json::hooks(it, WORD, &wanted))
        })?);
    }
    if wish.server {
        changes.push(Change::of(dir(places).join("config.toml"), |text| server(text, wish))?);
    }
    Ok(changes)
}

/// The configuration, or on which line it cannot be read and why.
fn read(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
        format!("{line}{}; change it by hand", error.message().replace('\n', ", "))
    })
}

/// `[mcp_servers.flockd]`, which names the variables that are to reach it: the rest of the environment does not.
fn server(text: Option<&str>, wish: &Wish) -> Result<Option<String>, String> {
    let mut file = read(text.unwrap_or_default())?;
    let is_wanted = wish.wanted;
    if !is_wanted && !file.contains_key(SERVERS) {
        return Ok(text.map(str::to_owned));
    }
    let servers = file.entry(SERVERS).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let is_headed = servers.as_table().is_none_or(|table| !table.is_implicit());
    let servers = servers.as_table_like_mut().ok_or("mcp_servers is no table; change it by hand")?;
    let there = servers.get(SERVER);
    let is_ours = there.and_then(Item::as_table_like).is_some_and(|there| {
        let args = there.get("args").and_then(Item::as_array).into_iter().flatten();
        is_our_server(there.get("command").and_then(Item::as_str), args.filter_map(Value::as_str))
    });
    if !is_wanted {
        if !is_ours {
            return Ok(text.map(str::to_owned));
        }
        servers.remove(SERVER);
        // One that has a line of its own is somebody's.
        if servers.is_empty() && !is_headed {
            file.remove(SERVERS);
        }
        return Ok(Some(file.to_string()));
    }
    if there.is_some() && !is_ours {
        return Err(another_server(SERVERS));
    }
    let entry = servers.entry(SERVER).or_insert_with(|| Item::Table(Table::new()));
    let entry = entry.as_table_like_mut().expect("it is ours, or made just now");
    let words = |words: &[&str]| words.iter().copied().collect::<Array>();
    // What somebody has changed in the entry or added to it stays.
    if entry.get("command").and_then(Item::as_str) != Some(&*wish.program()) {
        entry.insert("command", value(wish.program()));
    }
    for (key, usual) in [("args", &["mcp"][..]), ("env_vars", &["FLOCKD_AGENT", "FLOCKD_HOME", "XDG_STATE_HOME"])] {
        entry.entry(key).or_insert_with(|| value(words(usual)));
    }
    Ok(Some(file.to_string()))
}

fn hooks(places: &Places) -> Result<Hooks, String> {
    let wanted = claude_code::groups(&Wish::usual(), WORD, &[("PreToolUse", WRITERS)], &MOMENTS);
    json::found(&dir(places).join("hooks.json"), WORD, &wanted)
}

fn off(places: &Places) -> Vec<String> {
    let Ok(file) = config(places) else { return Vec::new() };
    let is_off = |key: &&str| file.get("features").and_then(|it| it.get(key)?.as_bool()) == Some(false);
    // The second is what it was called first.
    let off = ["hooks", "codex_hooks"].into_iter().filter(is_off);
    off.map(|key| format!("features.{key} is false in {}", dir(places).join("config.toml").display())).collect()
}

/// `config.toml`; empty if it cannot be understood and does not speak of us.
fn config(places: &Places) -> Result<DocumentMut, String> {
    let path = dir(places).join("config.toml");
    let text = place::text(&path)?.unwrap_or_default();
    match read(&text) {
        Err(why) if text.contains(SERVER) => Err(format!("{}: {why}", path.display())),
        read => Ok(read.unwrap_or_default()),
    }
}

fn entry(places: &Places) -> Result<Json, String> {
    let file = config(places)?;
    let entry = file.get(SERVERS).and_then(|servers| servers.get(SERVER));
    Ok(entry.map_or(Json::Null, as_json))
}

/// As much of it as an entry is read for.
fn as_json(item: &Item) -> Json {
    if let Some(table) = item.as_table_like() {
        return table.iter().map(|(key, item)| (key.to_owned(), as_json(item))).collect();
    }
    match item.as_value() {
        Some(Value::Array(items)) => items.iter().map(|item| as_json(&Item::Value(item.clone()))).collect(),
        Some(Value::Boolean(is)) => (*is.value()).into(),
        _ => item.as_str().map_or(Json::Null, Json::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_order_of_the_configuration_stay() {
        let wish = |wanted| Wish { wanted, program: "/opt/flockd".into(), mode: None, hooks: true, server: true };
        let before = "# mine\nmodel = \"x\" # this one\n\n[mcp_servers.other]\ncommand = 'o'\n\n[tui]\ntheme = 1\n";
        let after = server(Some(before), &wish(true)).unwrap().unwrap();
        assert!(
            after.starts_with("# mine\nmodel = \"x\" # this one\n\n[mcp_servers.other]\ncommand = 'o'\n"),
            "{after}"
        );
        assert!(after.contains("[mcp_servers.flockd]\ncommand = \"/opt/flockd\"\nargs = [\"mcp\"]\n"), "{after}");
        assert_eq!(server(Some(&after), &wish(true)).unwrap().unwrap(), after, "a second call changes nothing");
        assert_eq!(server(Some(&after), &wish(false)).unwrap().unwrap(), before);
        assert_eq!(server(None, &wish(false)).unwrap(), None);
        let alone = server(None, &wish(true)).unwrap().unwrap();
        assert!(alone.starts_with("[mcp_servers.flockd]\n"), "{alone}");
        assert_eq!(server(Some(&alone), &wish(false)).unwrap().unwrap(), "", "nothing but ours was in it");
        let headed = "[mcp_servers] # mine\n";
        let after = server(Some(headed), &wish(true)).unwrap().unwrap();
        assert_eq!(server(Some(&after), &wish(false)).unwrap().unwrap(), headed);
    }
}
