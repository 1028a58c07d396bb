//! What `flockd doctor` finds where something of what was installed has been taken away, mistyped or switched off.

use super::{Person, SETTINGS, util};
use crate::util::FLOCKD;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A person with this client, installed with these flags.
fn installed(client: &str, flags: &str) -> Person {
    let person = Person::new(&[]);
    person.flockd(&format!("install --client {client} {flags}")).gives(0);
    person
}

impl Person {
    /// Changes what is in a file below the home.
    fn change(&self, path: &str, change: impl FnOnce(&str) -> String) {
        let path = self.home.join(path);
        let before = fs::read_to_string(&path).unwrap();
        let after = change(&before);
        assert_ne!(before, after);
        fs::write(path, after).unwrap();
    }

    /// Asserts that doctor fails and says all of these.
    #[track_caller]
    fn is_broken(&self, client: &str, says: &[&str]) {
        let done = self.flockd("doctor").gives(1);
        let lines: Vec<&str> = done.out.lines().filter(|line| line.contains(" broken ")).collect();
        assert!(lines.iter().any(|line| line.starts_with(client)), "{done:?}");
        for says in says {
            assert!(lines.iter().any(|line| line.contains(says)), "{says}: {done:?}");
        }
        assert!(!done.out.contains(&format!("{client} hook   works")), "{done:?}");
    }

    /// Installs again, and asserts that this mends it.
    #[track_caller]
    fn is_mended(&self, client: &str) {
        self.flockd(&format!("install --client {client}")).gives(0);
        self.flockd("doctor").gives(0);
    }
}

#[test]
fn a_plugin_that_is_not_as_it_was_installed_is_no_guard() {
    let person = installed("openclaw", "");
    let plugin = person.home.join(".openclaw/extensions/flockd");
    fs::remove_file(plugin.join("index.js")).unwrap();
    person.is_broken("openclaw hook", &["incomplete: extensions/flockd/index.js is missing", "`flockd install"]);
    person.is_mended("openclaw");
    person.change(".openclaw/extensions/flockd/index.js", |text| format!("{text}\n"));
    person.is_broken("openclaw hook", &["index.js is outdated or changed"]);
    person.is_mended("openclaw");
    fs::write(plugin.join("index.js"), "export default {}\n").unwrap();
    person.is_broken("openclaw hook", &["index.js is another's"]);
    fs::write(plugin.join("openclaw.plugin.json"), "{}\n").unwrap();
    person.is_broken("openclaw hook", &["openclaw.plugin.json is another's"]);
    fs::remove_dir_all(&plugin).unwrap();
    person.is_broken("openclaw hook", &["openclaw.plugin.json is missing"]);
    person.is_mended("openclaw");
    person.change(".openclaw/openclaw.json", |_| "{}".to_owned());
    person.is_broken("openclaw hook", &["plugins.entries.flockd is missing in"]);
    person.is_mended("openclaw");
    person.change(".openclaw/openclaw.json", |text| text.replace("\"allowConversationAccess\": true", ""));
    person.is_broken("openclaw hook", &["allowConversationAccess is not true"]);
    person.is_mended("openclaw");
    person.change(".openclaw/openclaw.json", |text| text.replacen("\"entries\"", "\"allow\": [], \"entries\"", 1));
    person.is_broken("openclaw hook", &["plugins.allow is without flockd"]);
    person.is_mended("openclaw");
}

#[test]
fn hooks_of_which_something_was_taken_away_are_incomplete() {
    for (client, path, moment, writers) in [
        ("claude-code", ".claude/settings.json", "Stop", "Write|Edit|MultiEdit|NotebookEdit|Bash"),
        ("codex", ".codex/hooks.json", "SessionEnd", "apply_patch|Bash|Edit|Write"),
        ("gemini", ".gemini/settings.json", "AfterAgent", "write_file|replace|run_shell_command"),
    ] {
        let person = installed(client, "");
        let text = fs::read_to_string(person.home.join(path)).unwrap();
        let (_, after) = text.split_once(writers).unwrap();
        // Tools of ours may follow.
        let writers = &format!("{writers}{}", after.split('"').next().unwrap());
        let matcher = format!("\"matcher\": \"{writers}\"");
        person.change(path, |text| text.replace(&matcher, "\"matcher\": \"Bash\""));
        person.is_broken(&format!("{client} hook"), &["incomplete: ", &format!("is for Bash and not for {writers}")]);
        person.is_mended(client);
        // Other commands in the group keep the matcher that they have.
        let other = "\"matcher\": \"Bash\", \"hooks\": [{\"type\": \"command\", \"command\": \"lint\"},";
        person.change(path, |text| {
            let (before, after) = text.split_once(&matcher).unwrap();
            format!("{before}{other}{}", after.split_once('[').unwrap().1)
        });
        person.is_broken(&format!("{client} hook"), &["is for Bash"]);
        person.is_mended(client);
        let text = fs::read_to_string(person.home.join(path)).unwrap();
        assert!(text.contains("lint") && text.contains("\"matcher\": \"Bash\"") && text.contains(writers), "{text}");
        // More is not less.
        person.change(path, |text| text.replace(&matcher, "\"matcher\": \"*\""));
        person.flockd("doctor").gives(0);
        person.is_mended(client);

        person.change(path, |text| text.replace(&format!("\"{moment}\""), "\"Other\""));
        person.is_broken(&format!("{client} hook"), &[&format!("there is none for {moment}")]);
        person.is_mended(client);
        person.change(path, |text| text.replacen("\"timeout\": 30", "\"timeout\": 5", 1).replace(": 5000", ": 5"));
        person.is_broken(&format!("{client} hook"), &["has a timeout of 5 and not 30"]);
        person.is_mended(client);
    }
}

#[test]
fn where_hooks_are_switched_off_nothing_is_guarded() {
    let with = |key: &'static str| move |text: &str| text.replacen('{', &format!("{{{key},"), 1);
    for (client, path, switch, says) in [
        ("claude-code", ".claude/settings.json", "\"disableAllHooks\": true", "disableAllHooks is true"),
        ("gemini", ".gemini/settings.json", "\"hooksConfig\": {\"enabled\": false}", "hooksConfig.enabled is false"),
        ("gemini", ".gemini/settings.json", "\"tools\": {\"enableHooks\": false}", "tools.enableHooks is false"),
        ("gemini", ".gemini/settings.json", "\"hooksConfig\": {\"disabled\": [\"flockd\"]}", "disabled has flockd"),
        ("openclaw", ".openclaw/openclaw.json", "\"plugins\": {\"enabled\": false}", "plugins.enabled is false"),
        ("openclaw", ".openclaw/openclaw.json", "\"plugins\": {\"deny\": [\"flockd\"]}", "plugins.deny has flockd"),
    ] {
        let person = Person::new(&[(path, &format!("{{{switch}}}"))]);
        person.flockd(&format!("install --client {client}")).gives(0).says(&["hooks are not called", says, path]);
        person.is_broken(&format!("{client} hook"), &["nothing is guarded", says, path]);
        let out = person.flockd("doctor").out;
        assert_eq!(out.matches(says).count(), 1, "{out}");
    }
    let person = installed("codex", "");
    person.change(".codex/config.toml", |text| format!("[features]\nhooks = false\n{text}"));
    person.is_broken("codex hook", &["nothing is guarded", "features.hooks is false"]);
    person.flockd("install --client codex").gives(0).says(&["features.hooks is false"]);

    let person = installed("claude-code", "");
    let project = person.ground.work.join(".claude");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("settings.local.json"), with("\"disableAllHooks\": true")("{\"x\": 1}")).unwrap();
    person.is_broken("claude-code hook", &["settings.local.json"]);
}

#[test]
fn a_mode_is_tried_for_what_it_does_and_told() {
    for (client, _) in SETTINGS {
        for (mode, says) in [
            ("auto", "an edit takes its lock for its session; one of what another holds is refused"),
            ("check", "mode check: an edit of what another agent holds is refused"),
            ("warn", "mode warn: an edit of what another agent holds is told, not refused"),
        ] {
            let person = installed(client, &format!("--mode {mode}"));
            let done = person.flockd("doctor").gives(0);
            assert!(done.out.contains(says), "{client}: {done:?}");
            assert!(person.ground.status().locks.is_empty(), "{client}");
        }
    }
    let person = installed("openclaw", "--mode warn");
    person.change(".openclaw/openclaw.json", |text| text.replace("\"warn\"", "\"wran\""));
    person.is_broken("openclaw hook", &["there is no mode wran"]);
}

#[test]
fn hooks_that_are_mistyped_are_broken_and_go_if_they_are_ours_for_certain() {
    for (client, path, right, wrong, says) in [
        ("claude-code", ".claude/settings.json", "--client claude-code", "--client claude-coed", "claude-coed"),
        ("codex", ".codex/hooks.json", "--client codex", "--client codexx", "codexx"),
        ("gemini", ".gemini/settings.json", "--client gemini", "--client codex", "is for the client codex"),
    ] {
        let person = installed(client, "--no-mcp");
        let before = person.files();
        let mistype = || person.change(path, |text| text.replace(right, wrong));
        mistype();
        person.is_broken(&format!("{client} hook"), &[says]);
        person.is_mended(client);
        person.flockd(&format!("install --client {client} --uninstall --no-hooks")).gives(0);
        let filled = person.filled();
        assert_eq!(filled, before, "{client}: they are replaced");
        mistype();
        person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        assert_eq!(person.filled(), [], "{client}");

        // A program of another name is nobody knows whose.
        let person = installed(client, "--no-mcp");
        let stray = format!("/nowhere/flokd hook --client {client}");
        person.change(path, |text| text.replace(&format!("{} hook --client {client}", util::FLOCKD), &stray));
        person.is_broken(&format!("{client} hook"), &["no such program", "by hand"]);
        let done = person.flockd(&format!("install --client {client}")).gives(0);
        done.says(&[&stray, "stays", "by hand"]);
        person.is_broken(&format!("{client} hook"), &["by hand"]);
        let done = person.flockd(&format!("install --client {client} --uninstall")).gives(0);
        done.says(&[&stray, "stays", "by hand"]);
        let left = fs::read_to_string(person.home.join(path)).unwrap();
        assert!(left.contains(&stray) && !left.contains(util::FLOCKD), "{left}");
    }
}

#[test]
fn a_hook_that_somebody_calls_in_their_own_way_works() {
    for command in [format!("{} hook", util::FLOCKD), format!("env X=1 {} hook --client auto", util::FLOCKD)] {
        let person = installed("claude-code", "");
        let ours = format!("{} hook --client claude-code", util::FLOCKD);
        person.change(".claude/settings.json", |text| text.replace(&ours, &command));
        let done = person.flockd("doctor").gives(0);
        assert!(done.out.contains("claude-code hook   works"), "{done:?}");
    }
}

#[test]
fn what_is_incomplete_is_put_right_in_its_place_and_mode() {
    let person = installed("claude-code", "");
    person.flockd("install --client claude-code --project --mode check").gives(0);
    let path = person.ground.work.join(".claude/settings.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"Stop\"", "\"Other\"")).unwrap();
    let again = "flockd install --client claude-code --project --mode check";
    let lack = format!("/.claude/settings.json; `{again}` would put it right");
    person.is_broken("claude-code hook", &["there is none for Stop in /", &lack]);
    person.flockd(again.strip_prefix("flockd ").unwrap()).gives(0);
    person.flockd("doctor").gives(0);
}

#[test]
fn settings_that_cannot_be_read_are_not_called_empty() {
    for (client, path) in [
        ("claude-code", ".claude/settings.json"),
        ("claude-code", ".claude.json"),
        ("codex", ".codex/hooks.json"),
        ("codex", ".codex/config.toml"),
        ("gemini", ".gemini/settings.json"),
        ("openclaw", ".openclaw/openclaw.json"),
    ] {
        let other = if client == "gemini" { "codex" } else { "gemini" };
        let person = installed(&format!("{client},{other}"), "");
        let note = if path.ends_with("toml") { "[[note" } else { "// a note" };
        person.change(path, |text| format!("{note}\n{text}"));
        person.is_broken(&format!("{client} settings"), &[path, "nobody knows"]);
        // Where nothing speaks of us, nothing of ours is there.
        person.change(path, |_| format!("{note}\n{{}}\n"));
        let done = person.flockd("doctor");
        assert!(!done.out.contains(&format!("{client} settings")), "{done:?}");
    }
}

#[test]
fn what_a_project_starts_beside_this_program_is_not_run_to_look_at_it() {
    let person = Person::new(&[]);
    person.flockd("install --client claude-code --project").gives(0);
    person.flockd("doctor").gives(0).out.contains("untried").then(|| panic!("its own hooks are tried"));
    let work = &person.ground.work;
    for (file, marks) in [(".mcp.json", "mcp"), (".claude/settings.json", "hook")] {
        let text = fs::read_to_string(work.join(file)).unwrap();
        let mark = work.join(marks);
        let text = match marks {
            "mcp" => serde_json::json!({"mcpServers": {"flockd": {"command": "sh",
                "args": ["-c", format!("touch {}; exec flockd mcp", mark.display())]}}})
            .to_string(),
            _ => text.replace(FLOCKD, &format!("touch {}; {FLOCKD}", mark.display())),
        };
        fs::write(work.join(file), text).unwrap();
    }
    let out = person.flockd("doctor").out;
    for marks in ["mcp", "hook"] {
        assert!(!work.join(marks).exists(), "{marks} ran: {out}");
        assert!(out.lines().any(|line| line.contains("untried") && line.contains(marks)), "{out}");
    }
}

#[test]
fn whatever_a_project_calls_this_program_nothing_else_is_run() {
    let person = Person::new(&[]);
    person.flockd("install --client claude-code --project").gives(0);
    let work = &person.ground.work;
    let settings = fs::read_to_string(work.join(".claude/settings.json")).unwrap();
    let mark = work.join("mark");
    for evil in ["flockd/flockdhook", "ab/flockd", "hook", "sub/x/flockd"] {
        let path = work.join(evil);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for dir in ["bin", "x"] {
        fs::create_dir_all(work.join(dir)).unwrap();
        symlink("/proc/self/exe", work.join(dir).join("flockd")).unwrap();
    }
    let server = serde_json::json!({"mcpServers": {"flockd": {"command": "x/flockd", "args": ["mcp"], "cwd": "sub"}}});
    fs::write(work.join(".mcp.json"), server.to_string()).unwrap();
    for (program, state) in [
        ("'flockd/flockd'hook --client claude-code; : ", "untried"),
        ("./a''b/flockd", "untried"),
        ("bin/flockd", "works"),
        ("/proc/self/exe", "works"),
        ("/nowhere/flockd", "broken"),
    ] {
        fs::write(work.join(".claude/settings.json"), settings.replace(FLOCKD, program)).unwrap();
        let out = person.flockd("doctor").out;
        assert!(!mark.exists(), "{program}: {out}");
        assert!(out.lines().any(|line| line.starts_with("claude-code") && line.contains(state)), "{program}: {out}");
    }
}

#[test]
fn a_hook_that_hangs_and_a_server_that_leaves_something_behind_are_ended() {
    let person = installed("claude-code", "");
    person.change(".claude/settings.json", |text| text.replace(FLOCKD, "sleep 600;"));
    let left = person.home.join("left");
    let script = format!("sleep 600 & echo $! >{}; exec {FLOCKD} mcp", left.display());
    let server = serde_json::json!({"mcpServers": {"flockd": {"command": "sh", "args": ["-c", script]}}});
    fs::write(person.home.join(".claude.json"), server.to_string()).unwrap();
    let out = person.flockd("doctor").gives(1).out;
    assert!(out.contains("has not answered within 10 s") && out.contains("mcp    works"), "{out}");
    let pid: i32 = fs::read_to_string(left).unwrap().trim().parse().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
}

#[test]
fn a_workspace_that_wants_less_of_hooks_is_told_of() {
    let person = installed("codex", "");
    for (word, told) in [("off", "hooks do nothing here"), ("warn", "only warn")] {
        fs::write(person.ground.work.join(".flockd.toml"), format!("enforcement = \"{word}\"\n")).unwrap();
        let out = person.flockd("doctor").gives(0).out;
        assert!(out.lines().any(|line| line.starts_with("workspace") && line.contains(told)), "{out}");
    }
}
