//! `flockd install` and `flockd doctor`: what they do to people's settings, and whether what is installed works.
#![cfg(feature = "cli")]

mod doctor;
mod settings;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use util::{Done, Ground};

/// Settings of a person who has a hook of their own.
const CLAUDE_HOOKS: &str = r#"{
  "theme": "dark",
  "hooks": {
    "Stop": [
      {
        "hooks": [
          {
            "type": "command",
            "command": "say done"
          }
        ]
      }
    ]
  }
}
"#;

/// The same with a server, in an order that is nobody's alphabet, and without a line end.
const CLAUDE_SERVERS: &str = r#"{
  "zeta": 1.5,
  "mcpServers": {
    "other": {
      "command": "o"
    }
  },
  "alpha": []
}"#;

/// The clients, with their settings below the home of a person who has some already.
const SETTINGS: [(&str, &[(&str, &str)]); 4] = [
    ("claude-code", &[(".claude/settings.json", CLAUDE_HOOKS), (".claude.json", CLAUDE_SERVERS)]),
    ("codex", &[(".codex/config.toml", "# mine\nmodel = \"x\"\n\n[mcp_servers.other]\ncommand = 'o'\n")]),
    ("gemini", &[(".gemini/settings.json", "{\n\t\"ui\": {\n\t\t\"theme\": \"light\"\n\t}\n}\n")]),
    (
        "openclaw",
        &[(
            ".openclaw/openclaw.json",
            "{\n  \"plugins\": {\n    \"allow\": [\n      \"other\"\n    ]\n  },\n  \"agents\": {}\n}\n",
        )],
    ),
];

struct Person {
    ground: Ground,
    home: PathBuf,
}

impl Person {
    fn new(settings: &[(&str, &str)]) -> Person {
        let ground = Ground::new();
        let home = ground.work.join("person");
        fs::create_dir(&home).unwrap();
        for (path, text) in settings {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), text).unwrap();
        }
        Person { ground, home }
    }

    fn flockd(&self, args: &str) -> Done {
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = self.ground.command("", &args);
        command.env("HOME", &self.home);
        for name in ["CLAUDE_CONFIG_DIR", "CODEX_HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_CONFIG_PATH"] {
            command.env_remove(name);
        }
        Done::of(command)
    }

    /// The files that hold anything. One that was made for us stays, empty: nobody knows later whose it was.
    fn filled(&self) -> Vec<(PathBuf, String)> {
        let is_filled = |(_, text): &(PathBuf, String)| !["", "{}"].contains(&text.trim());
        self.files().into_iter().filter(is_filled).collect()
    }

    /// All files below the home, with what is in them.
    fn files(&self) -> Vec<(PathBuf, String)> {
        fn look(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => look(&path, found),
                    false => found.push((path.clone(), fs::read_to_string(&path).unwrap())),
                }
            }
        }
        let mut found = Vec::new();
        look(&self.home, &mut found);
        found.sort();
        found
    }

    fn findings(&self, args: &str) -> Vec<Value> {
        match self.flockd(args).json() {
            Value::Array(findings) => findings,
            other => panic!("{other}"),
        }
    }
}

/// What was found, in few words.
fn states(findings: &[Value]) -> Vec<String> {
    findings.iter().map(|finding| format!("{} {}", finding["what"], finding["state"]).replace('"', "")).collect()
}

fn works(what: &[&str]) -> Vec<String> {
    what.iter().map(|what| format!("{what} works")).collect()
}

#[test]
fn what_is_installed_works_and_leaves_nothing_when_it_goes() {
    for (client, settings) in SETTINGS {
        let person = Person::new(settings);
        let before = person.files();
        person.flockd(&format!("install --client {client}")).gives(0);
        let installed = person.files();
        assert_ne!(before, installed);
        let again = person.flockd(&format!("install --client {client}")).gives(0).out;
        assert!(again.lines().all(|line| line.starts_with("unchanged ")), "{client}: {again}");
        assert_eq!(person.files(), installed, "{client}");

        let findings = person.findings("doctor --json");
        assert_eq!(states(&findings), works(&["daemon", &format!("{client} hook"), &format!("{client} mcp")]));
        assert!(person.ground.status().locks.is_empty(), "{client}: what was tried leaves no locks");
        person.flockd(&format!("install --client {client} --check")).gives(0);

        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.filled(), before, "{client}");
    }
}

#[test]
fn where_there_was_nothing_nothing_is_left() {
    for (client, _) in SETTINGS {
        let person = Person::new(&[]);
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.files(), [], "{client}: nothing is taken out of nothing");
        person.flockd(&format!("install --client {client}")).gives(0);
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.filled(), [], "{client}");
    }
}

#[test]
fn what_is_not_ours_is_taken_out_by_nobody() {
    for (client, path, text) in [
        ("claude-code", ".claude/settings.json", "{\"hooks\": {}}"),
        ("claude-code", ".claude/settings.json", "{\"hooks\": {\"Stop\": [], \"Pre\": [ {\"hooks\": []}]}}"),
        ("claude-code", ".claude.json", "{\"mcpServers\":{}, \"x\":1}"),
        ("claude-code", ".claude.json", "{\"mcpServers\":{\"flockd\":{\"command\":\"x\"}}}"),
        ("codex", ".codex/hooks.json", "{\"hooks\": {}}"),
        ("codex", ".codex/config.toml", "[mcp_servers] # none\n"),
        ("codex", ".codex/config.toml", "[mcp_servers]\nflockd = {command=\"x\"}\n"),
        ("gemini", ".gemini/settings.json", "{\"hooks\": {}, \"mcpServers\": {}}"),
        ("gemini", ".gemini/settings.json", "{\"mcpServers\":{\"flockd\":{\"url\":\"https://flockd.example/mcp\"}}}"),
        ("openclaw", ".openclaw/openclaw.json", "{\"plugins\": {}, \"mcp\": {}}"),
        ("openclaw", ".openclaw/openclaw.json", "{\"mcp\":{\"servers\":{}},\"plugins\":{\"entries\":{}}}"),
        ("openclaw", ".openclaw/openclaw.json", "{\"mcp\":{\"servers\":{\"flockd\":{\"command\":\"x\"}}}}"),
    ] {
        let person = Person::new(&[(path, text)]);
        let before = person.files();
        let out = person.flockd(&format!("install --client {client} --uninstall")).gives(0).out;
        assert!(out.lines().all(|line| line.starts_with("unchanged ")), "{client}: {text}: {out}");
        assert_eq!(person.files(), before, "{client}");
    }
}

#[test]
fn an_empty_file_of_settings_outlives_what_is_put_in() {
    for (client, path, text) in [
        ("claude-code", ".claude/settings.json", "{}"),
        ("claude-code", ".claude.json", "{}\n"),
        ("codex", ".codex/hooks.json", "{}"),
        ("codex", ".codex/config.toml", ""),
        ("gemini", ".gemini/settings.json", "{}"),
        ("openclaw", ".openclaw/openclaw.json", "{}\n"),
    ] {
        let person = Person::new(&[(path, text)]);
        person.flockd(&format!("install --client {client}")).gives(0);
        assert_ne!(fs::read_to_string(person.home.join(path)).unwrap(), text, "{client}");
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(fs::read_to_string(person.home.join(path)).unwrap(), text, "{client}: {path}");
    }
}

#[test]
fn another_server_of_our_name_is_neither_overwritten_nor_taken_out() {
    for (client, path, key, text) in [
        ("claude-code", ".claude.json", "mcpServers", "{\"mcpServers\":{\"flockd\":{\"command\":\"x\"}}}"),
        ("codex", ".codex/config.toml", "mcp_servers", "[mcp_servers]\nflockd = {command=\"x\"}\n"),
        ("gemini", ".gemini/settings.json", "mcpServers", "{\"mcpServers\":{\"flockd\":{\"command\":\"x\"}}}"),
        ("openclaw", ".openclaw/openclaw.json", "servers", "{\"mcp\":{\"servers\":{\"flockd\":{\"command\":\"x\"}}}}"),
    ] {
        let person = Person::new(&[(path, text)]);
        let before = person.files();
        let refused = person.flockd(&format!("install --client {client}")).gives(5);
        refused.says(&[path, &format!("{key}.flockd"), "--no-mcp"]);
        assert_eq!(person.files(), before, "{client}: and nothing else is written");
        person.flockd(&format!("install --client {client} --no-mcp")).gives(0);
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.filled().len(), 1, "{client}");
        let left = fs::read_to_string(person.home.join(path)).unwrap();
        assert!(left.contains("flockd") && left.contains("\"x\""), "{client}: {left}");
    }
}

#[test]
fn what_a_person_adds_to_our_server_stays() {
    let added = "\"args\":[\"--agent\",\"claw\",\"mcp\"],\"env\":{\"FLOCKD_AGENT\":\"claw-1\"}";
    let toml = "args=['--agent','claw','mcp'],env={FLOCKD_AGENT='claw-1'}";
    let server = format!("{{\"flockd\":{{\"command\":\"flockd\",{added}}}}}");
    for (client, path, text) in [
        ("claude-code", ".claude.json", format!("{{\"mcpServers\":{server}}}")),
        ("codex", ".codex/config.toml", format!("[mcp_servers]\nflockd = {{command='flockd',{toml}}}\n")),
        ("gemini", ".gemini/settings.json", format!("{{\"mcpServers\":{server}}}")),
        ("openclaw", ".openclaw/openclaw.json", format!("{{\"mcp\":{{\"servers\":{server}}}}}")),
    ] {
        let person = Person::new(&[(path, &text)]);
        person.flockd(&format!("install --client {client}")).gives(0);
        let after = fs::read_to_string(person.home.join(path)).unwrap();
        for word in ["--agent", "claw-1", util::FLOCKD] {
            assert!(after.contains(word), "{client}: {word}: {after}");
        }
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert!(person.files().iter().all(|(_, text)| !text.contains("flockd")), "{client}");
    }
}

#[test]
fn a_dry_run_shows_what_would_change_and_changes_nothing() {
    for (client, settings) in SETTINGS {
        let person = Person::new(settings);
        let before = person.files();
        let shown = person.flockd(&format!("install --client {client} --dry-run")).gives(0).out;
        assert!(shown.contains("would write") && shown.contains(util::FLOCKD), "{client}: {shown}");
        assert_eq!(person.files(), before, "{client}");
    }
}

#[test]
fn hooks_without_the_server_and_the_server_without_hooks() {
    for (client, settings) in SETTINGS {
        let person = Person::new(settings);
        let has = |word: &str| person.files().iter().any(|(_, text)| text.contains(word));
        person.flockd(&format!("install --client {client} --no-mcp --mode check")).gives(0);
        assert!(has("check") && !has("\"mcp\"]"), "{client}");
        person.flockd(&format!("install --client {client} --uninstall --no-mcp")).gives(0);
        assert!(!has("hook --client") && !has("allowConversationAccess"), "{client}");
        person.flockd(&format!("install --client {client} --no-hooks")).gives(0);
        let found = person.flockd("doctor").gives(0).out;
        assert!(found.contains(&format!("{client} hook ")) && found.contains("not installed"), "{client}: {found}");
        let findings = person.findings("doctor --json");
        let expected = [format!("{client} hook absent"), format!("{client} mcp works")];
        assert_eq!(states(&findings)[1..], expected, "{findings:?}");
        person.flockd(&format!("install --client {client} --uninstall --no-hooks")).gives(0);
        person.flockd(&format!("install --client {client} --no-mcp")).gives(0);
        person.flockd("doctor").gives(0);
        let findings = person.findings("doctor --json");
        let expected = [format!("{client} hook works"), format!("{client} mcp absent")];
        assert_eq!(states(&findings)[1..], expected, "{findings:?}");
    }
}

#[test]
fn where_nothing_is_installed_doctor_says_so_and_fails() {
    let person = Person::new(&[]);
    let done = person.flockd("doctor").gives(1);
    assert!(done.out.contains("`flockd install --client claude-code,codex,gemini,openclaw`"), "{done:?}");
    let done = person.flockd("install --client codex --check").gives(1);
    assert!(done.out.contains("`flockd install --client codex`"), "{done:?}");
    person.flockd("install --client gemini").gives(0);
    person.flockd("doctor").gives(0);
    person.flockd("install --client codex --check").gives(1);
}

#[test]
fn a_server_that_does_not_start_or_speak_is_found_out() {
    let entry = |command: &str, args: &[&str]| serde_json::json!({"command": command, "args": args});
    for (client, path, key) in [
        ("claude-code", ".claude.json", "mcpServers"),
        ("codex", ".codex/config.toml", "mcp_servers"),
        ("gemini", ".gemini/settings.json", "mcpServers"),
        ("openclaw", ".openclaw/openclaw.json", "mcp"),
    ] {
        let look = |entry: Value, status: i32, says: &str| {
            let text = match client {
                "codex" => format!("[{key}.flockd]\ncommand = {}\nargs = {}\n", entry["command"], entry["args"]),
                "openclaw" => serde_json::json!({key: {"servers": {"flockd": entry}}}).to_string(),
                _ => serde_json::json!({key: {"flockd": entry}}).to_string(),
            };
            let done = Person::new(&[(path, &text)]).flockd("doctor").gives(status);
            assert!(done.out.contains(&format!("{client} mcp")) && done.out.contains(says), "{client}: {done:?}");
        };
        look(entry("/nowhere/flockd", &["mcp"]), 1, "there is no such program");
        look(entry("true", &["flockd", "mcp"]), 1, "ended without an answer");
        look(entry("sh", &["-c", "echo hello; cat", "flockd", "mcp"]), 1, "no JSON");
        look(entry("sh", &["-c", "echo wrong flag >&2; exit 2", "flockd", "mcp"]), 1, "wrong flag");
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let other = format!("read _; echo '{answer}'; read _; read _; echo '{}'; cat", answer.replace(":1,", ":2,"));
        look(entry("sh", &["-c", &other, "flockd", "mcp"]), 1, "it lists no tools");
        // Somebody's way to start ours is as good.
        look(entry("env", &["-u", "X", util::FLOCKD, "mcp"]), 0, "works");
        for args in [&["mcp", "--agent", "me"][..], &["--agent=me", "mcp"]] {
            look(entry(util::FLOCKD, args), 0, "it asks in the name of me for every session");
        }
    }
}

#[test]
fn of_several_clients_all_whose_settings_cannot_be_changed_are_named_and_nothing_is_written() {
    let odd = [(".gemini/settings.json", "{\n// mine\n}"), (".openclaw/openclaw.json", "{\"plugins\": []}")];
    let person = Person::new(&odd);
    let done = person.flockd("install --client claude-code,gemini,openclaw").gives(5);
    done.says(&["gemini: ", "openclaw: ", "nothing was written, not for the other clients either"]);
    assert_eq!(person.files().len(), odd.len());
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_for_long() {
    let text =
        "{\"mcpServers\":{\"flockd\":{\"command\":\"sh\",\"args\":[\"-c\",\"cat >/dev/null\",\"flockd\",\"mcp\"]}}}";
    let done = Person::new(&[(".claude.json", text)]).flockd("doctor").gives(1);
    assert!(done.out.contains("no answer within 10 s"), "{done:?}");
}

#[test]
fn what_is_switched_off_or_anothers_is_not_called_broken() {
    let server = format!("{{\"command\":{:?},\"args\":[\"mcp\"],\"enabled\":false}}", util::FLOCKD);
    for (entry, flag, says) in
        [(server.as_str(), "", "switched off"), ("{\"command\":\"x\"}", "--no-mcp", "another program")]
    {
        let text = format!("{{\"mcp\":{{\"servers\":{{\"flockd\":{entry}}}}}}}");
        let person = Person::new(&[(".openclaw/openclaw.json", &text)]);
        person.flockd(&format!("install --client openclaw {flag}")).gives(0);
        let done = person.flockd("doctor").gives(0);
        assert!(done.out.contains("openclaw mcp       absent") && done.out.contains(says), "{done:?}");
    }
}

#[test]
fn where_one_client_refuses_nothing_is_written_for_any() {
    let person = Person::new(&[(".gemini/settings.json", "[]")]);
    let before = person.files();
    person.flockd("install --client claude-code,codex,gemini").gives(5).says(&["gemini: ", "settings.json"]);
    assert_eq!(person.files(), before);
}

#[test]
fn where_a_file_cannot_be_written_those_before_it_are_named() {
    let person = Person::new(&[]);
    fs::create_dir(person.home.join(".codex")).unwrap();
    std::os::unix::fs::symlink("/proc/nowhere/hooks.json", person.home.join(".codex/hooks.json")).unwrap();
    let done = person.flockd("install --client claude-code,codex,gemini").gives(5);
    assert!(done.err.contains("hooks.json"), "{done:?}");
    let written: Vec<&str> = done.out.lines().collect();
    assert_eq!(written.len(), 2, "{done:?}");
    assert!(written.iter().all(|line| line.starts_with("written ") && line.contains("/.claude")), "{done:?}");
}

/// The files of ours in OpenClaw's directory.
const OPENCLAW: [&str; 4] = [
    "extensions/flockd/package.json",
    "extensions/flockd/openclaw.plugin.json",
    "extensions/flockd/index.js",
    "skills/flockd/SKILL.md",
];

#[test]
fn files_that_others_wrote_in_our_places_stay() {
    let entry = "{\"plugins\":{\"allow\":[\"flockd\"],\"entries\":{\"flockd\":{\"enabled\":true}}}}";
    for file in OPENCLAW {
        let path = format!(".openclaw/{file}");
        let person = Person::new(&[(&path, "name: flockd\n"), (".openclaw/openclaw.json", entry)]);
        let before = person.files();
        person.flockd("install --client openclaw").gives(5).says(&[file, "move it away"]);
        assert_eq!(person.files(), before, "{file}");
        let done = person.flockd("install --client openclaw --uninstall").gives(0);
        assert!(done.err.contains(file) && done.err.contains("stays"), "{file}: {done:?}");
        assert_eq!(person.files(), before, "{file}");
    }
}

#[test]
fn files_of_an_earlier_version_are_replaced_and_removed() {
    let person = Person::new(&[]);
    person.flockd("install --client openclaw").gives(0);
    let installed = person.files();
    for uninstalls in [false, true] {
        for file in OPENCLAW {
            let path = person.home.join(".openclaw").join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text + "\n").unwrap();
        }
        let flag = if uninstalls { "--uninstall" } else { "" };
        person.flockd(&format!("install --client openclaw {flag}")).gives(0);
        assert_eq!(person.filled(), if uninstalls { Vec::new() } else { installed.clone() });
    }
}

#[test]
fn what_a_person_adds_to_the_entry_of_our_plugin_stays() {
    let added = "\"hooks\":{\"allowPromptInjection\":false},\"config\":{\"mode\":\"warn\"},\"llm\":{}";
    let text = format!("{{\"plugins\":{{\"entries\":{{\"flockd\":{{{added}}}}}}}}}");
    let person = Person::new(&[(".openclaw/openclaw.json", &text)]);
    person.flockd("install --client openclaw --mode check").gives(0);
    let settings = |person: &Person| -> Value {
        let text = fs::read_to_string(person.home.join(".openclaw/openclaw.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["plugins"]["entries"]["flockd"].clone()
    };
    let expected = |mode: Option<&str>| {
        let mut entry = serde_json::json!({
            "enabled": true, "llm": {}, "config": {"command": util::FLOCKD},
            "hooks": {"allowConversationAccess": true, "allowPromptInjection": false},
        });
        if let Some(mode) = mode {
            entry["config"]["mode"] = mode.into();
        }
        entry
    };
    assert_eq!(settings(&person), expected(Some("check")));
    person.flockd("install --client openclaw").gives(0);
    assert_eq!(settings(&person), expected(None));
    person.flockd("install --client openclaw --uninstall").gives(0);
    assert_eq!(settings(&person), Value::Null);
}

#[test]
fn what_is_needed_for_one_name_everywhere_is_in_the_settings() {
    let person = Person::new(&[]);
    person.flockd("install --client claude-code,openclaw").gives(0);
    let settings =
        |path: &str| -> Value { serde_json::from_str(&fs::read_to_string(person.home.join(path)).unwrap()).unwrap() };
    let hooks = settings(".claude/settings.json")["hooks"].take();
    let matcher = hooks["PreToolUse"][0]["matcher"].as_str().unwrap();
    let tools: Vec<Value> = serde_json::from_str(include_str!("../mcp/tools.json")).unwrap();
    let ours = tools.iter().map(|tool| format!("mcp__flockd__{}", tool["name"].as_str().unwrap()));
    for tool in ours.chain(["Write".to_owned(), "Bash".to_owned()]) {
        assert!(matcher.split('|').any(|name| name == tool), "{tool}: {matcher}");
    }
    assert!(hooks["SubagentStart"][0]["hooks"][0]["command"].as_str().unwrap().contains("hook --client claude-code"));
    // Its servers see neither variable.
    let server = settings(".openclaw/openclaw.json")["mcp"]["servers"]["flockd"].take();
    assert_eq!(server["env"], serde_json::json!({"FLOCKD_HOME": person.ground.home.to_str().unwrap()}));
}

#[test]
fn a_hook_that_cannot_be_called_is_found_out() {
    let hook = |command: &str| {
        format!("{{\"hooks\":{{\"PreToolUse\":[{{\"hooks\":[{{\"type\":\"command\",\"command\":\"{command}\"}}]}}]}}}}")
    };
    for (command, says) in [
        ("/nowhere/flockd hook --client claude-code", "no such program"),
        ("false flockd hook --client claude-code", "nothing is guarded"),
        ("true flockd hook --client claude-code", "was let through"),
    ] {
        let person = Person::new(&[(".claude/settings.json", &hook(command))]);
        let done = person.flockd("doctor").gives(1);
        assert!(done.out.contains("claude-code hook   broken") && done.out.contains(says), "{done:?}");
        // Installed again, it works.
        person.flockd("install --client claude-code --no-mcp").gives(0);
        person.flockd("doctor").gives(0);
        assert_eq!(person.files().len(), 1);
        assert_eq!(person.files()[0].1.matches("hook --client").count(), 9, "the old one is gone");
    }
}

#[test]
fn settings_that_cannot_be_understood_are_left_alone() {
    for (client, path, text) in [
        ("claude-code", ".claude/settings.json", "{ // a comment\n}"),
        ("codex", ".codex/config.toml", "[["),
        ("codex", ".codex/config.toml", "mcp_servers = 1"),
        ("gemini", ".gemini/settings.json", "[]"),
        ("openclaw", ".openclaw/openclaw.json", "{ plugins: {} }"),
    ] {
        let person = Person::new(&[(path, text)]);
        let before = person.files();
        person.flockd(&format!("install --client {client}")).gives(5).says(&[path, client]);
        assert_eq!(person.files(), before, "{client}: and no other file of it is written");
    }
}

#[test]
fn a_link_stays_one_and_rights_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let person = Person::new(&[("dotfiles/gemini.json", "{}")]);
    let (real, link) = (person.home.join("dotfiles/gemini.json"), person.home.join(".gemini/settings.json"));
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("../dotfiles/gemini.json", &link).unwrap();
    person.flockd("install --client gemini").gives(0);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("hook --client gemini"));
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_project_has_settings_of_its_own() {
    for (client, files) in [
        ("claude-code", &[".claude/settings.json", ".mcp.json"][..]),
        ("codex", &[".codex/config.toml", ".codex/hooks.json"]),
        ("gemini", &[".gemini/settings.json"]),
    ] {
        let person = Person::new(&[]);
        person.flockd(&format!("install --client {client} --project")).gives(0);
        assert_eq!(person.files(), []);
        assert!(files.iter().all(|file| person.ground.work.join(file).exists()), "{client}");
        let findings = person.findings("doctor --json");
        let ours = findings.iter().find(|finding| finding["what"] == format!("{client} hook")).unwrap();
        assert_eq!(ours["state"], "works", "{client}");
    }
    Person::new(&[]).flockd("install --client openclaw --project").gives(5);
}
