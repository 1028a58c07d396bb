//! What `flockd install` makes of settings that are odd: it refuses them with a sentence, or keeps what is odd.

use super::{Person, util};
use std::fs;

#[test]
fn settings_whose_form_leaves_no_place_for_hooks_are_refused() {
    for (client, path, text, says) in [
        ("claude-code", ".claude/settings.json", "{\"hooks\": []}", "hooks is no object"),
        ("claude-code", ".claude/settings.json", "{\"hooks\":{\"PreToolUse\":{}}}", "hooks.PreToolUse is no list"),
        ("codex", ".codex/hooks.json", "{\"hooks\":{\"Stop\":1}}", "hooks.Stop is no list"),
        ("gemini", ".gemini/settings.json", "{\"hooks\":{\"BeforeTool\":\"x\"}}", "hooks.BeforeTool is no list"),
    ] {
        let person = Person::new(&[(path, text)]);
        let before = person.files();
        person.flockd(&format!("install --client {client}")).gives(5).says(&[path, says, "by hand"]);
        assert_eq!(person.files(), before, "{client}");
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.files(), before, "{client}: nothing of ours is in it");
    }
}

#[test]
fn values_of_others_are_written_as_they_were() {
    let text = r#"{
  "a": 12345678901234567890123,
  "b": [
    1.50,
    1e400,
    -0.1E-3
  ],
  "c": "\"7.0"
}
"#;
    for (client, path) in [
        ("claude-code", ".claude/settings.json"),
        ("codex", ".codex/hooks.json"),
        ("gemini", ".gemini/settings.json"),
        ("openclaw", ".openclaw/openclaw.json"),
    ] {
        let person = Person::new(&[(path, text)]);
        person.flockd(&format!("install --client {client}")).gives(0);
        let after = fs::read_to_string(person.home.join(path)).unwrap();
        let kept = text.strip_suffix("\n}\n").unwrap();
        assert!(after.starts_with(kept) && after.contains("flockd"), "{client}: {after}");
        let again = person.flockd(&format!("install --client {client}")).gives(0).out;
        assert!(again.lines().all(|line| line.starts_with("unchanged ")), "{client}: {again}");
        person.flockd("doctor").gives(0);
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(fs::read_to_string(person.home.join(path)).unwrap(), text, "{client}");

        let twice = "{\"x\": {\"key\": 1, \"key\": 2}}";
        let person = Person::new(&[(path, twice)]);
        let refused = person.flockd(&format!("install --client {client}")).gives(5);
        refused.says(&[path, "the key \"key\" is there twice", "by hand"]);
        assert_eq!(fs::read_to_string(person.home.join(path)).unwrap(), twice, "{client}");
    }
}

#[test]
fn what_cannot_be_changed_is_told_with_what_to_add_by_hand() {
    let person = Person::new(&[(".gemini/settings.json", "{ // a note\n}")]);
    let done = person.flockd("install --client gemini").gives(5);
    let (_, added) = done.err.split_once("by hand; this belongs into it: ").unwrap_or_else(|| panic!("{done:?}"));
    // With what it says, all is well.
    let person = Person::new(&[(".gemini/settings.json", added)]);
    person.flockd("doctor").gives(0);
    let again = person.flockd("install --client gemini").gives(0);
    assert!(again.out.starts_with("unchanged "), "{again:?}");

    let person = Person::new(&[(".codex/config.toml", "x = 1\n\n[[\n")]);
    person.flockd("install --client codex").gives(5).says(&["config.toml: line 3: ", "by hand"]);
    let person = Person::new(&[]);
    fs::write(person.home.join(".claude.json"), b"{\"x\": \"\xff\"}").unwrap();
    person.flockd("install --client claude-code").gives(5).says(&[".claude.json", "UTF-8", "by hand"]);
}

#[test]
fn a_plugin_that_somebody_has_switched_off_stays_so() {
    let path = ".openclaw/openclaw.json";
    let text = r#"{
  "plugins": {
    "entries": {
      "flockd": {
        "enabled": false
      }
    }
  }
}
"#;
    let person = Person::new(&[(path, text)]);
    person.flockd("install --client openclaw").gives(0).says(&["plugins.entries.flockd.enabled is false"]);
    let after = fs::read_to_string(person.home.join(path)).unwrap();
    assert!(after.contains("\"enabled\": false") && after.contains(util::FLOCKD), "{after}");
    let done = person.flockd("doctor").gives(0);
    assert!(done.out.contains("openclaw hook      absent  switched off"), "{done:?}");
    person.flockd("install --client openclaw --uninstall").gives(0);
    assert_eq!(person.files(), [(person.home.join(path), text.to_owned())]);
}

#[test]
fn what_is_left_out_stays_as_it_is() {
    for (client, _) in super::SETTINGS {
        let person = Person::new(&[]);
        let install = |flags: &str| person.flockd(&format!("install --client {client} {flags}")).gives(0);
        let has = |word: &str| person.filled().iter().any(|(_, text)| text.contains(word));
        let hook = if client == "openclaw" { "allowConversationAccess" } else { "hook --client" };
        let server = if client == "codex" { "[mcp_servers.flockd]" } else { "\"mcp\"\n" };
        install("");
        let all = person.files();
        for flags in ["--no-mcp", "--no-hooks"] {
            install(flags);
            assert_eq!(person.files(), all, "{client} {flags}");
        }
        install("--uninstall --no-mcp");
        assert!(!has(hook) && has(server), "{client}");
        install("");
        install("--uninstall --no-hooks");
        assert!(has(hook) && !has(server), "{client}");
        install("--uninstall");
        assert_eq!(person.filled(), [], "{client}");
    }
}

#[test]
fn a_call_that_changes_nothing_asks_for_nothing() {
    let person = Person::new(&[]);
    person.flockd("install --client claude-code,openclaw").gives(0).says(&["claude-code: ", "openclaw: "]);
    assert_eq!(person.flockd("install --client claude-code,openclaw").gives(0).err, "");
}

#[test]
fn directories_of_ours_go_and_those_of_others_stay() {
    let person = Person::new(&[(".openclaw/skills/other/SKILL.md", "x")]);
    person.flockd("install --client openclaw").gives(0);
    person.flockd("install --client openclaw --uninstall").gives(0);
    assert!(!person.home.join(".openclaw/extensions").exists());
    assert!(!person.home.join(".openclaw/skills/flockd").exists());
    assert!(person.home.join(".openclaw/skills/other").exists());
}
