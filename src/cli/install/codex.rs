//! Codex: hooks in `hooks.json`, the server in `config.toml`, whose comments and order stay.

use super::place::{Change, Places};
use super::{Client, Name, SERVER, Wish, another_server, claude_code, is_our_server, json};
use serde_json::Value as Json;
use std::path::PathBuf;
use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

pub(super) const CLIENT: Client = Client {
    name: Name::Codex,
    word: WORD,
    changes,
    hooks,
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
    let wanted = claude_code::groups(wish, WORD, WRITERS, &MOMENTS);
    Ok(vec![
        Change::of(dir(places).join("hooks.json"), |text| {
            json::edit(text, |it| {
                json::hooks(it, WORD, &wanted);
                Ok(())
            })
        })?,
        Change::of(dir(places).join("config.toml"), |text| server(text, wish))?,
    ])
}

/// `[mcp_servers.flockd]`, which names the variables that are to reach it: the rest of the environment does not.
fn server(text: Option<&str>, wish: &Wish) -> Result<Option<String>, String> {
    let mut file: DocumentMut =
        text.unwrap_or_default().parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    let is_wanted = wish.wanted && wish.server;
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

fn hooks(places: &Places) -> Vec<String> {
    json::commands_of(&std::fs::read_to_string(dir(places).join("hooks.json")).unwrap_or_default(), "PreToolUse", WORD)
}

fn entry(places: &Places) -> Json {
    let text = std::fs::read_to_string(dir(places).join("config.toml")).unwrap_or_default();
    let file: DocumentMut = text.parse().unwrap_or_default();
    let entry = file.get(SERVERS).and_then(|servers| servers.get(SERVER));
    entry.map_or(Json::Null, as_json)
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
