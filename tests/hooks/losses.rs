//! What an agent lost is told until its model can have read it, and keeps it once from writing what others may have
//! changed.

use crate::client::{CLIENTS, Outcome, agent, payload};
use crate::util::Ground;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;

/// Has another agent break all that is held.
fn break_all(ground: &Ground) {
    for lock in ground.status().locks {
        ground.flockd("bo", &format!("break {} --reason hanging", lock.lock_id)).gives(0);
    }
}

/// A hook of Claude Code before or after this call of a tool.
fn claude(ground: &Ground, event: &str, tool: &str, input: Value) -> Outcome {
    let mut call: Value = serde_json::from_str(&payload("claude-code", "before_edit", &ground.work, "ada")).unwrap();
    call["hook_event_name"] = event.into();
    call["tool_name"] = tool.into();
    call["tool_input"] = input;
    Outcome::of("claude-code", &ground.hook_says("claude-code", "", &call.to_string()))
}

/// The client is gone, or has closed the pipe, before the hook answers.
#[test]
fn a_loss_that_nobody_could_read_is_told_again() {
    for client in CLIENTS {
        let ground = Ground::new();
        for name in ["turn_start", "before_edit"] {
            assert_eq!(ground.hook(client, "", "before_edit", "ada"), Outcome::Runs);
            break_all(&ground);
            let mut hook = ground.hook_started(client, "");
            (hook.stdout, hook.stderr) = (None, None);
            let input = payload(client, name, &ground.work, "ada");
            hook.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            hook.wait().unwrap();
            let told = ground.hook(client, "", "turn_start", "ada").told();
            assert!(told.contains("your lock on data.json ended at "), "{client} {name}: {told}");
            assert_eq!(ground.hook(client, "", "turn_start", "ada"), Outcome::Runs, "{client} {name}: it is told once");
        }
    }
}

#[test]
fn what_only_the_person_was_shown_is_told_to_the_model_when_a_turn_begins() {
    for client in CLIENTS {
        let ground = Ground::new();
        ground.flockd(&agent(client, "ada"), "lock data.json").gives(0);
        break_all(&ground);
        // It only looks, so that nothing is refused.
        let beside = ground.hook(client, "--mode warn", "before_edit", "ada");
        let is_read = matches!(client, "claude-code" | "codex");
        assert!(beside.told().contains("your lock on data.json ended at "), "{client}");
        match ground.hook(client, "", "turn_start", "ada") {
            Outcome::Runs => assert!(is_read, "{client}: the model was told nothing"),
            outcome => {
                assert!(!is_read, "{client}: it is told twice");
                assert!(outcome.told().contains("your lock on data.json ended at "), "{client}");
            }
        }
        assert_eq!(ground.hook(client, "", "turn_start", "ada"), Outcome::Runs, "{client}: it is told once");
    }
}

#[test]
fn what_is_lost_by_whatever_name_keeps_its_agent_once_from_writing_what_it_meant() {
    let ground = Ground::new();
    fs::create_dir(ground.work.join("dir")).unwrap();
    fs::write(ground.work.join("dir/file"), "1").unwrap();
    let whole = |name: &str| ground.work.join(name);
    let cases = [
        ("glob:*.rs", "Write", json!({ "file_path": whole("a.rs") })),
        ("glob:**/*", "Write", json!({ "file_path": whole("dir/new") })),
        ("dir/file", "Bash", json!({ "command": "rm -rf dir" })),
        ("dir", "Edit", json!({ "file_path": whole("dir/file") })),
        ("glob:dir/*", "Bash", json!({ "command": "rm -r dir" })),
    ];
    for (lost, tool, input) in cases {
        ground.flockd("claude-ada", &format!("lock {lost}")).gives(0);
        break_all(&ground);
        let why = claude(&ground, "PreToolUse", tool, input.clone()).refused();
        assert!(why.contains("nothing was written") && why.contains("hanging"), "{lost}: {why}");
        assert_eq!(claude(&ground, "PreToolUse", tool, input), Outcome::Runs, "{lost}: it is refused once");
        ground.flockd("claude-ada", "unlock --all").gives(0);
    }
    ground.flockd("claude-ada", "lock glob:*.md").gives(0);
    break_all(&ground);
    let other = json!({ "file_path": whole("b.rs") });
    assert_eq!(claude(&ground, "PreToolUse", "Write", other), Outcome::Runs, "that is no file of it");
}

#[test]
fn what_is_lost_while_a_tool_runs_is_told_after_it() {
    let ground = Ground::new();
    let input = json!({ "file_path": ground.work.join("data.json") });
    assert_eq!(claude(&ground, "PreToolUse", "Write", input.clone()), Outcome::Runs);
    break_all(&ground);
    let told = claude(&ground, "PostToolUse", "Write", input.clone()).told();
    assert!(told.contains("your lock on data.json ended at "), "{told}");
    assert_eq!(claude(&ground, "PreToolUse", "Write", input), Outcome::Runs, "it is told once");
}
