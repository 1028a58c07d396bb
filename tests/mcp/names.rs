//! In whose name the server asks: the same as whatever else the agent runs, and never another's.

use crate::client::{Client, ERAS, Era};
use crate::util::{Done, FLOCKD, Ground};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn server_and_shell_commands_of_one_agent_are_one() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        client.call("lock_file", json!({ "path": "x" }));
        ground.flockd("a", "check x").gives(0);
        assert!(ground.flockd("a", "lock -n x --json").gives(0).json()["already_held"] == true);
        ground.flockd("b", "lock -n x").gives(1);
        ground.flockd("a", "unlock x").gives(0);
        ground.flockd("a", "lock y").gives(0);
        assert_eq!(client.call("check_lock_status", json!({ "path": "y" })).0["may_write"], true);
        client.call("unlock_file", json!({ "path": "y" }));
    }
}

/// An agent program that starts its server, and a command when that has ended.
#[test]
fn below_an_agent_program_server_and_commands_have_its_name() {
    let ground = Ground::new();
    let program = ground.work.join("claw-prog");
    fs::write(&program, format!("#!/bin/sh\n{FLOCKD} mcp\n{FLOCKD} unlock x && echo released >&2\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = ground.environment(Command::new(&program), "", &[]);
    command.env("FLOCKD_AGENT_PROGRAMS", "claw-prog");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(ground.work.join("said")).unwrap());
    let mut client = Client::greeting(command, Era::Older);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    assert!(held["agent"].as_str().unwrap().starts_with("claw-prog-"), "{held}");
    assert_eq!(client.end().0, Some(0));
    assert_eq!(fs::read_to_string(ground.work.join("said")).unwrap(), "released\n");
}

#[test]
fn an_agent_that_names_its_session_with_each_call_is_that_session() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "", Era::Older);
    for (session, path) in [("0dd5", "x"), ("5e55", "y")] {
        let meta = json!({ "sessionId": session, "x-codex-turn-metadata": { "session_id": session, "turn_id": "1" } });
        let id =
            client.begin("tools/call", json!({ "name": "lock_file", "arguments": { "path": path }, "_meta": meta }));
        let (held, _) = client.called("lock_file", id);
        assert_eq!(held["agent"], format!("codex-{session}"));
        let mut shell = ground.command("", &["check", path]);
        shell.env("CODEX_SESSION_ID", session);
        Done::of(shell).gives(0);
    }
}

#[test]
fn a_call_may_speak_for_those_below_the_agent_and_for_nobody_else() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x", "agent": "a/tests" }));
    assert_eq!(held["agent"], "a/tests");
    ground.flockd("a/tests", "check x").gives(0);
    ground.flockd("b", "lock y").gives(0);
    for other in ["b", "ab", "b/a"] {
        let (code, text) = client.call_fails("unlock_file", json!({ "path": "y", "agent": other }));
        assert_eq!(code, "denied", "{text}");
        assert!(text.contains("you are a"), "{text}");
    }
    ground.flockd("b", "check y").gives(0);
}

#[test]
fn where_nobody_can_be_told_a_lock_is_refused_and_looking_is_not() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    let mut client = Client::new(&ground, "", Era::Newer);
    let (code, text) = client.call_fails("lock_file", json!({ "path": "y" }));
    assert_eq!(code, "invalid");
    assert!(text.contains("--agent") && text.contains("FLOCKD_AGENT"), "{text}");
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["held_by_others"], serde_json::Value::Null);
    assert_eq!(client.call("check_lock_status", json!({})).0["locks"][0]["agent"], "b");
    let (held, _) = client.call("lock_file", json!({ "path": "y", "agent": "main/7" }));
    assert_eq!(held["agent"], "main/7", "whoever serves many says for whom");
}

#[test]
fn relative_paths_begin_in_the_workspace_that_is_given() {
    let ground = Ground::new();
    fs::create_dir(ground.work.join("site")).unwrap();
    let mut command = ground.command("a", &["mcp", "--workspace", "site"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Client::greeting(command, Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    assert_eq!((&held["path"], &held["file_id"]), (&json!(ground.work.join("site/x")), &json!("x")));
    let (written, _) = client.call("write_file", json!({ "path": "x", "content": "here" }));
    assert_eq!(written["written"], true);
    assert_eq!(fs::read_to_string(ground.work.join("site/x")).unwrap(), "here");
    ground.flockd("a", "mcp --workspace missing").gives(2).says(&["missing"]);
}
