//! Codex: hooks in `hooks.json`, the server in `config.toml`, whose comments and order stay.

use super::place::{Change, Places};
use super::{Client, Name, Wish, claude_code, json};
use std::path::PathBuf;
use toml_edit::{Array, DocumentMut, Item, Table, value};

pub(super) const CLIENT: Client = Client {
    name: Name::Codex,
    word: WORD,
    changes,
    hooks,
    note: "it runs hooks only that you trust: say so when it asks, or with /hooks",
};
const WORD: &str = "codex";

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
        Change::of(dir(places).join("hooks.json"), |text| json::edit(text, |it| json::hooks(it, WORD, &wanted)))?,
        Change::of(dir(places).join("config.toml"), |text| server(text, wish))?,
    ])
}

/// `[mcp_servers.flockd]`, which names the variables that are to reach it: the rest of the environment does not.
fn server(text: Option<&str>, wish: &Wish) -> Result<Option<String>, String> {
    let mut file: DocumentMut =
        text.unwrap_or_default().parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    let is_wanted = wish.wanted && wish.server;
    if !is_wanted && !file.contains_key("mcp_servers") {
        return Ok(text.map(str::to_owned));
    }
    let servers = file.entry("mcp_servers").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let servers = servers.as_table_like_mut().ok_or("mcp_servers is no table; change it by hand")?;
    if !is_wanted {
        servers.remove("flockd");
        if servers.is_empty() {
            file.remove("mcp_servers");
        }
        let rest = file.to_string();
        return Ok(Some(rest).filter(|rest| !rest.trim().is_empty()));
    }
    // What somebody has added to the entry stays.
    let entry = servers.entry("flockd").or_insert_with(|| Item::Table(Table::new()));
    let entry = entry.as_table_like_mut().ok_or("mcp_servers.flockd is no table; change it by hand")?;
    let words = |words: &[&str]| words.iter().copied().collect::<Array>();
    let wanted = [
        ("command", value(wish.program())),
        ("args", value(words(&["mcp"]))),
        ("env_vars", value(words(&["FLOCKD_AGENT", "FLOCKD_HOME", "XDG_STATE_HOME"]))),
    ];
    for (key, wanted) in wanted {
        let is_there = entry.get(key).is_some_and(|there| there.to_string().trim() == wanted.to_string().trim());
        if !is_there {
            entry.insert(key, wanted);
        }
    }
    Ok(Some(file.to_string()))
}

fn hooks(places: &Places) -> Vec<String> {
    json::commands_of(&std::fs::read_to_string(dir(places).join("hooks.json")).unwrap_or_default(), "PreToolUse", WORD)
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
        assert_eq!(server(Some(&alone), &wish(false)).unwrap(), None, "nothing but ours was in it");
    }
}
