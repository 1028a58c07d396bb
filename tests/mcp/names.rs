//! In whose name the server asks: the same as whatever else the agent runs, and never another's.

use crate::client::{Client, ERAS, Era};
use crate::util::{Done, FLOCKD, Ground};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
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

/// A program like Claude Code: it started its server in one session, and is in another by and by.
struct Program<'a> {
    ground: &'a Ground,
    server: Client,
    says: File,
    hears: BufReader<File>,
}

impl Program<'_> {
    fn new<'a>(ground: &'a Ground, session: &str) -> Program<'a> {
        let program = ground.work.join("claude");
        let script = format!("#!/bin/sh\nsh < says > hears &\n{FLOCKD} mcp\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let pipes = ["says", "hears"].map(|name| ground.work.join(name));
        assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
        let mut command = ground.environment(Command::new(&program), "", &[]);
        command.env("FLOCKD_AGENT_PROGRAMS", "claude").env("CLAUDE_CODE_SESSION_ID", session);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let server = Client::greeting(command, Era::Newer);
        // Each is opened when the other end is.
        let says = OpenOptions::new().write(true).open(&pipes[0]).unwrap();
        let hears = BufReader::new(File::open(&pipes[1]).unwrap());
        Program { ground, server, says, hears }
    }

    /// What a command says that the program runs in this session.
    fn runs(&mut self, session: &str, command: &str) -> String {
        writeln!(self.says, "CLAUDE_CODE_SESSION_ID={session} {command}; echo; echo over").unwrap();
        let lines = self.hears.by_ref().lines().map(Result::unwrap);
        lines.take_while(|line| line != "over").filter(|line| !line.is_empty()).collect()
    }

    /// What its hook says about a recorded event in this session.
    fn tells(&mut self, session: &str, event: &str) -> String {
        let path = format!("{}/tests/hooks/payloads/claude-code/{event}.json", env!("CARGO_MANIFEST_DIR"));
        let input = fs::read_to_string(path).unwrap().replace("$SESSION", session).replace("startup", "clear");
        let input = input.replace("$CWD", self.ground.work.to_str().unwrap());
        fs::write(self.ground.work.join("event.json"), input).unwrap();
        self.runs(session, &format!("{FLOCKD} hook --client claude-code --wait 0 < event.json 2>&1"))
    }

    /// Who holds a file that its server is asked to lock.
    fn locks(&mut self, path: &str) -> Value {
        self.server.call("lock_file", json!({ "path": path, "wait_seconds": 0 })).0["agent"].take()
    }
}

#[test]
fn a_session_that_its_program_begins_later_is_its_agent_everywhere() {
    let ground = Ground::new();
    let mut program = Program::new(&ground, "0dd5");
    assert!(program.tells("0dd5", "session_start").contains("flockd lock PATH"));
    assert_eq!(program.locks("before.txt"), "claude-0dd5");
    // As with `/clear`.
    program.tells("0dd5", "session_end");
    program.tells("5e55", "session_start");
    assert_eq!(program.locks("data.json"), "claude-5e55");
    assert_eq!(program.tells("5e55", "before_edit"), "", "its own lock is in nobody's way");
    assert_eq!(program.runs("5e55", &format!("{FLOCKD} check data.json > hidden; echo $?")), "0");
    // Where the daemon was away, whoever speaks next says it again.
    ground.stop_daemon();
    assert_eq!(program.locks("data.json"), "claude-5e55");
    program.tells("7e57", "turn_start");
    assert_eq!(program.locks("after.txt"), "claude-7e57");
    assert_eq!(program.server.end().0, Some(0));
}

#[test]
fn the_first_to_start_a_daemon_after_a_new_session_knows_of_it() {
    let ground = Ground::new();
    let mut program = Program::new(&ground, "0dd5");
    program.tells("5e55", "session_start");
    assert_eq!(program.locks("data.json"), "claude-5e55");
    assert_eq!(program.tells("5e55", "before_edit_of_subagent"), "", "a sub-agent takes what its parent holds");
    program.tells("5e55", "turn_start");
    assert_eq!(program.locks("other.json"), "claude-5e55");
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

/// Codex names the thread in a session as well, and each sub-agent is a thread.
#[test]
fn a_thread_that_an_agent_names_with_each_call_is_the_sub_agent_that_its_hooks_and_commands_are() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "", Era::Older);
    let mut locks = |thread: &str, path: &str| {
        let meta = json!({ "x-codex-turn-metadata": { "session_id": "0dd5", "thread_id": thread, "turn_id": "1" } });
        let arguments = json!({ "path": path, "wait_seconds": 0 });
        let id = client.begin("tools/call", json!({ "name": "lock_file", "arguments": arguments, "_meta": meta }));
        client.called("lock_file", id).0
    };
    let shell = |thread: &str, args: &[&str]| {
        let mut command = ground.command("", args);
        command.env("CODEX_SESSION_ID", "0dd5").env("CODEX_THREAD_ID", thread);
        Done::of(command)
    };
    assert_eq!(locks("0dd5", "x")["agent"], "codex-0dd5");
    shell("0dd5", &["check", "x"]).gives(0);
    assert_eq!(locks("5e55", "y")["agent"], "codex-0dd5/5e55");
    shell("5e55", &["check", "y"]).gives(0);
    shell("0dd5", &["lock", "-n", "y"]).gives(1).says(&["codex-0dd5/5e55"]);
    assert_eq!(locks("7e57", "y")["acquired"], false, "a sibling");
    assert_eq!(locks("5e55", "x")["acquired"], true, "its parent's");
}

/// OpenClaw runs many sessions in one process, and our plugin says in each call which of them it is.
#[test]
fn below_openclaw_the_name_in_a_call_is_the_agent() {
    let ground = Ground::new();
    let program = ground.work.join("openclaw");
    fs::write(&program, format!("#!/bin/sh\n{FLOCKD} mcp \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let started = |args: &[&str]| {
        let mut command = ground.environment(Command::new(&program), "", args);
        command.env("FLOCKD_AGENT_PROGRAMS", "openclaw").stdin(Stdio::piped()).stdout(Stdio::piped());
        Client::greeting(command, Era::Older)
    };
    let mut client = started(&[]);
    for (session, path) in [("agent:main:s", "x"), ("agent:main:t", "y")] {
        let (held, _) = client.call("lock_file", json!({ "path": path, "agent": format!("openclaw-{session}") }));
        assert_eq!(held["agent"], format!("openclaw-{session}"));
        let mut shell = ground.command("", &["check", path]);
        shell.env("FLOCKD_OPENCLAW_SESSION", session);
        Done::of(shell).gives(0);
    }
    assert!(client.call("lock_file", json!({ "path": "z" })).0["agent"].as_str().unwrap().starts_with("openclaw-"));
    let mut client = started(&["--agent", "claw-1"]);
    let (code, text) = client.call_fails("lock_file", json!({ "path": "z", "agent": "openclaw-agent:main:s" }));
    assert!(code == "denied" && text.contains("take the name out of this server's settings"), "{text}");
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
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["held_by_others"], Value::Null);
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
