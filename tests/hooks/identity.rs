//! Hook, shell command and session are one agent: nobody stands in their own way.

use crate::client::{Outcome, fed, payload};
use crate::util::{Done, FLOCKD, Ground, until};
use serde_json::{Value, json};
use std::process::Stdio;

/// The variable in which a program names its session to its commands.
const SESSIONS: [(&str, &str); 3] =
    [("claude-code", "CLAUDE_CODE_SESSION_ID"), ("codex", "CODEX_SESSION_ID"), ("openclaw", "FLOCKD_OPENCLAW_SESSION")];

/// A command in a shell of the agent.
fn shell(ground: &Ground, variable: &str, session: &str, script: &str) -> Done {
    let mut command = ground.environment(std::process::Command::new("sh"), "", &["-c", script]);
    command.env(variable, session).env("FLOCKD", crate::util::FLOCKD);
    Done::of(command)
}

#[test]
fn what_a_hook_took_is_held_already_for_the_commands_of_its_agent() {
    for (client, variable) in SESSIONS {
        let ground = Ground::new();
        assert_eq!(ground.hook(client, "", "before_edit", "5e55"), Outcome::Runs, "{client}");
        let lock = shell(&ground, variable, "5e55", "$FLOCKD lock -n data.json --json").gives(0);
        assert_eq!(lock.json()["already_held"], true, "{client}: {lock:?}");
        shell(&ground, variable, "5e55", "echo 3 | $FLOCKD write data.json -n && $FLOCKD check data.json").gives(0);
        shell(&ground, variable, "0dd5", "$FLOCKD lock -n data.json").gives(1).says(&["5e55"]);
        shell(&ground, variable, "5e55", "$FLOCKD run -n data.json -- true").gives(0);
    }
}

#[test]
fn what_its_commands_took_is_no_obstacle_to_an_agents_edits() {
    for (client, variable) in SESSIONS {
        let ground = Ground::new();
        shell(&ground, variable, "5e55", "$FLOCKD lock -n data.json").gives(0);
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "5e55"), Outcome::Runs, "{client}");
        shell(&ground, variable, "5e55", "$FLOCKD unlock data.json && $FLOCKD lock -n ./").gives(0);
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "5e55"), Outcome::Runs, "{client}");
        assert_eq!(ground.held().len(), 1, "{client}: the directory covers the file");
        ground.hook(client, "--wait 0", "before_edit", "0dd5").refused();
    }
}

/// A command in a shell of this thread of a session of Codex.
fn in_thread(ground: &Ground, session: Option<&str>, thread: &str, script: &str) -> Done {
    let mut command = ground.environment(std::process::Command::new("sh"), "", &["-c", script]);
    command.env("CODEX_THREAD_ID", thread).envs(session.map(|session| ("CODEX_SESSION_ID", session)));
    command.env("FLOCKD", FLOCKD);
    Done::of(command)
}

#[test]
fn a_sub_agent_of_codex_is_the_thread_that_its_commands_are_told_of() {
    let ground = Ground::new();
    let lock = "$FLOCKD lock -n data.json --json";
    assert_eq!(ground.hook("codex", "", "before_edit_of_subagent", "5e55"), Outcome::Runs);
    let held = in_thread(&ground, Some("5e55"), "a1b2c3", lock).gives(0).json();
    assert_eq!((&held["agent"], &held["already_held"]), (&json!("codex-5e55/a1b2c3"), &json!(true)));
    in_thread(&ground, Some("5e55"), "5e55", "$FLOCKD check data.json").gives(1).says(&["codex-5e55/a1b2c3"]);
    in_thread(&ground, Some("5e55"), "a1b2c3", "$FLOCKD unlock data.json").gives(0);

    // The other way round, and the parent's are in no sub-agent's way.
    in_thread(&ground, Some("5e55"), "5e55", lock).gives(0);
    in_thread(&ground, Some("5e55"), "a1b2c3", lock).gives(0);
    assert_eq!(ground.hook("codex", "--wait 0", "before_edit_of_subagent", "5e55"), Outcome::Runs);
    let held = ["codex-5e55", "codex-5e55/a1b2c3"].map(|agent| (agent.to_owned(), "data.json".to_owned()));
    assert_eq!(ground.held(), held);
}

/// Its hooks are told where the thread writes, and that says whose it is; of its end they are not told.
#[test]
fn a_review_of_codex_is_the_thread_that_its_commands_are_told_of_until_its_session_goes_on() {
    let ground = Ground::new();
    let transcript = |thread: &str, parent: Option<&str>| {
        let meta =
            json!({"session_id": "5e55", "id": thread, "parent_thread_id": parent, "instructions": "x".repeat(9_000)});
        let path = ground.work.join(format!("rollout-{thread}.jsonl"));
        std::fs::write(&path, format!("{}\n{{}}\n", json!({"type": "session_meta", "payload": meta}))).unwrap();
        path
    };
    let edits = |transcript: Option<&std::path::Path>| {
        let text = payload("codex", "before_edit", &ground.work, "5e55");
        let mut input: Value = serde_json::from_str(&text).unwrap();
        input["transcript_path"] = transcript.map(|path| path.to_str().unwrap()).into();
        Outcome::of("codex", &ground.hook_says("codex", "--wait 0", &input.to_string()))
    };
    let review = transcript("7e57", Some("5e55"));
    assert_eq!(edits(Some(&review)), Outcome::Runs);
    let held = in_thread(&ground, Some("5e55"), "7e57", "$FLOCKD lock -n data.json --json").gives(0).json();
    assert_eq!((&held["agent"], &held["already_held"]), (&json!("codex-5e55/7e57"), &json!(true)));
    // Another thread has another name, and the first goes on when the review is over.
    in_thread(&ground, Some("5e55"), "f00d", "$FLOCKD lock -n data.json").gives(1);
    assert_eq!(ground.hook("codex", "", "turn_start", "5e55"), Outcome::Runs);
    assert_eq!(ground.held(), []);
    assert_eq!(edits(Some(&review)), Outcome::Runs);
    assert_eq!(ground.hook("codex", "", "turn_end", "5e55"), Outcome::Runs);
    assert_eq!(ground.held(), []);
    // A sub-agent's edits do not end with that.
    assert_eq!(ground.hook("codex", "", "before_edit_of_subagent", "5e55"), Outcome::Runs);
    assert_eq!(ground.hook("codex", "", "turn_start", "5e55"), Outcome::Runs);
    assert_eq!(ground.held(), [("codex-5e55/a1b2c3".to_owned(), "data.json".to_owned())]);
    ground.hook("codex", "", "subagent_end", "5e55");
    // The session's own, however it is called, another session's, and what is no transcript.
    let (own, other) = (transcript("5e55", None), transcript("beef", None));
    for path in [None, Some(own.as_path()), Some(&other), Some(&ground.work), Some(std::path::Path::new("/none/x"))] {
        assert_eq!(edits(path), Outcome::Runs);
        assert_eq!(ground.held(), [("codex-5e55".to_owned(), "data.json".to_owned())], "{path:?}");
        ground.hook("codex", "", "turn_end", "5e55");
    }
}

#[test]
fn a_name_that_codex_is_given_is_the_one_above_its_sub_agents() {
    let ground = Ground::new();
    let program = ground.work.join("codex");
    std::fs::write(&program, "#!/bin/sh\n\"$@\"\nexit $?\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let input = payload("codex", "before_edit_of_subagent", &ground.work, "5e55");
    let mut hook = ground.hook_command("codex", "");
    hook.env("FLOCKD_AGENT", "ada");
    assert_eq!(Outcome::of("codex", &fed(hook, &input)), Outcome::Runs);
    let runs = |thread: &str, script: &str| {
        let mut command = ground.environment(std::process::Command::new(&program), "ada", &["bash", "-c", script]);
        command.env("CODEX_SESSION_ID", "5e55").env("CODEX_THREAD_ID", thread).env("FLOCKD", FLOCKD);
        command.env("FLOCKD_AGENT_PROGRAMS", "codex");
        Done::of(command)
    };
    let held = runs("a1b2c3", "$FLOCKD lock -n data.json --json").gives(0).json();
    assert_eq!((&held["agent"], &held["already_held"]), (&json!("ada/a1b2c3"), &json!(true)));
    assert_eq!(runs("5e55", "$FLOCKD lock -n x --json").gives(0).json()["agent"], "ada");
    let named = runs("a1b2c3", "$FLOCKD run --agent cy z -- $FLOCKD lock y --json").gives(0).json();
    assert_eq!(named["agent"], "cy", "what is named for a command is no name above threads");
}

#[test]
fn a_codex_that_names_its_thread_alone_is_one_agent() {
    let ground = Ground::new();
    assert_eq!(ground.hook("codex", "", "before_edit", "5e55"), Outcome::Runs);
    let lock = in_thread(&ground, None, "5e55", "$FLOCKD lock -n data.json --json").gives(0);
    assert_eq!(lock.json()["already_held"], true, "{lock:?}");
}

#[test]
fn a_name_that_is_given_counts_for_hook_and_command_alike() {
    let ground = Ground::new();
    let input = crate::client::payload("claude-code", "before_edit_of_subagent", &ground.work, "5e55");
    let mut command = ground.hook_command("claude-code", "");
    command.env("FLOCKD_AGENT", "ada");
    assert_eq!(Outcome::of("claude-code", &fed(command, &input)), Outcome::Runs);
    assert_eq!(ground.held()[0].0, "ada/a1b2c3");
    let flag = ground.hook_says("claude-code", "--agent cy --wait 0", &input);
    Outcome::of("claude-code", &flag).refused();
}

/// What the hook of Claude Code says before this tool of a sub-agent, or of the agent itself.
fn says(ground: &Ground, flags: &str, subagent: Option<&str>, tool: &str, given: &Value) -> Done {
    let text = payload("claude-code", "before_edit_of_subagent", &ground.work, "5e55");
    let mut input: Value = serde_json::from_str(&text).unwrap();
    input["agent_id"] = subagent.into();
    input["tool_name"] = tool.into();
    input["tool_input"] = given.clone();
    ground.hook_says("claude-code", flags, &input.to_string())
}

#[test]
fn a_tool_of_ours_is_called_in_the_name_of_the_sub_agent_that_calls_it() {
    let ground = Ground::new();
    let given = json!({"path": "data.json", "wait_seconds": 0});
    let done = says(&ground, "", Some("a1"), "mcp__flockd__lock_file", &given).gives(0);
    let named = json!({"path": "data.json", "wait_seconds": 0, "agent": "claude-5e55/a1"});
    let output = json!({"hookEventName": "PreToolUse", "updatedInput": named});
    assert_eq!(done.json(), json!({"hookSpecificOutput": output}), "and no decision, which is the person's");
    assert_eq!(says(&ground, "", None, "mcp__flockd__lock_file", &given).gives(0).out, "", "the server knows itself");
    assert_eq!(says(&ground, "", Some("a1"), "mcp__other__lock_file", &given).gives(0).out, "");
    let odd = says(&ground, "", Some("a/1"), "mcp__flockd__unlock_file", &json!({})).gives(0).json();
    assert_eq!(odd["hookSpecificOutput"]["updatedInput"], json!({"agent": "claude-5e55/a%2F1"}));
    assert_eq!(ground.held(), [], "nothing is taken for it");
}

#[test]
fn a_name_below_its_own_is_left_to_the_sub_agent_that_says_it() {
    let ground = Ground::new();
    for (said, counts) in [("claude-5e55/a1/deep", None), ("claude-5e55/a1", None), ("bo", Some("claude-5e55/a1"))] {
        let given = json!({"path": "data.json", "agent": said});
        let done = says(&ground, "", Some("a1"), "mcp__flockd__lock_file", &given).gives(0);
        let named = counts.map(|_| done.json()["hookSpecificOutput"]["updatedInput"]["agent"].clone());
        assert_eq!(named, counts.map(Value::from), "{said}: {done:?}");
        assert!(counts.is_some() || done.out.is_empty(), "{done:?}");
    }
}

#[test]
fn an_agent_does_not_edit_what_its_sub_agent_holds_in_what_it_has() {
    for client in ["claude-code", "codex", "gemini", "openclaw"] {
        let ground = Ground::new();
        let agent = crate::client::agent(client, "5e55");
        assert_eq!(ground.hook(client, "", "before_edit", "5e55"), Outcome::Runs);
        ground.flockd(&agent, "lock ./").gives(0);
        ground.flockd(&format!("{agent}/a1"), "lock other.json").gives(0);
        let edits = || ground.hook(client, "--wait 0", "before_edit", "5e55");
        assert_eq!(edits(), Outcome::Runs, "{client}: what is held is beside it");
        ground.flockd(&format!("{agent}/a1"), "lock data.json").gives(0);
        let why = edits().refused();
        assert!(why.contains(&format!("data.json is held by your sub-agent {agent}/a1.")), "{client}: {why}");
        ground.flockd(&format!("{agent}/a1"), "unlock data.json").gives(0);
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "5e55"), Outcome::Runs);
    }
}

#[test]
fn what_a_sub_agent_took_by_itself_ends_with_it_and_it_hears_of_all_its_losses() {
    let ground = Ground::new();
    let sub = "claude-5e55/a1b2c3";
    for file in ["one", "two"] {
        ground.flockd(sub, &format!("lock {file}")).gives(0);
    }
    let id = ground.status().locks.iter().find(|lock| lock.file_id == "two").unwrap().lock_id.clone();
    Done::of(ground.command("boss", &["break", &id, "--reason", "urgent"])).gives(0);
    let told = ground.hook("claude-code", "", "before_edit_of_subagent", "5e55").told();
    assert!(told.contains("broken by boss: urgent"), "{told}");
    let mut run = ground.command(sub, &["run", "three", "--", "cat"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    until("it runs", || ground.held().iter().find(|(_, file)| file == "three").map(|_| ()));
    ground.flockd("claude-5e55", "lock four").gives(0);
    assert_eq!(ground.hook("claude-code", "", "subagent_end", "5e55"), Outcome::Runs);
    let held: Vec<String> = ground.held().into_iter().map(|(_, file)| file).collect();
    assert_eq!(held, ["four", "three"], "what a command has, and what is its parent's");
    drop(run.stdin.take());
    run.wait().unwrap();
}

#[test]
fn a_sub_agent_is_told_its_name_when_it_begins() {
    let ground = Ground::new();
    let begins = || ground.hook("claude-code", "", "subagent_start", "5e55");
    let told = begins().told();
    assert!(told.contains("you are claude-5e55/a1b2c3;") && !told.contains('\n'), "{told}");
    std::fs::write(ground.work.join(".flockd.toml"), "enforcement = 'off'").unwrap();
    assert_eq!(begins(), Outcome::Runs);
}

#[test]
fn sessions_whose_names_look_like_one_below_the_other_are_two_agents() {
    let ground = Ground::new();
    for other in ["proj/two", "proj two", "proj%2Ftwo", &"proj".repeat(100)] {
        assert_eq!(ground.hook("openclaw", "", "before_edit", "proj"), Outcome::Runs);
        ground.hook("openclaw", "--wait 0", "before_edit", other).refused();
        ground.hook("openclaw", "", "session_end", "proj");
        assert_eq!(ground.hook("openclaw", "", "before_edit", other), Outcome::Runs, "{other}");
        ground.hook("openclaw", "", "session_end", "proj");
        assert_eq!(ground.held().len(), 1, "{other}: the end of another session is not its own");
        shell(&ground, "FLOCKD_OPENCLAW_SESSION", other, "$FLOCKD check data.json && $FLOCKD unlock data.json")
            .gives(0);
    }
}
