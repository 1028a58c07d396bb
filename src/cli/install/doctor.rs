//! `flockd doctor`: whether what is installed works, by calling it as the client would. A hook with a wrong path ends
//! with 127, which clients take for a yes, and a server that does not start is missing without a word: nothing else
//! would tell.

use super::place::Places;
use super::{CLIENTS, Client, Common, Exit, Failure, SERVER, print, server};
use crate::os::home::Home;
use crate::wire::{Answer, Body, Op, Request};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What was looked at, and what is wrong with it.
#[derive(Serialize)]
struct Finding {
    what: String,
    /// `works`, `broken` or `absent`.
    state: &'static str,
    /// What it does, or what is wrong and what to do.
    said: String,
}

impl Finding {
    fn of(what: impl Into<String>, found: Result<String, String>) -> Finding {
        let (state, said) = match found {
            Ok(said) => ("works", said),
            Err(said) => ("broken", said),
        };
        Finding { what: what.into(), state, said }
    }
}

/// Looks at everything.
pub(in crate::cli) fn doctor(common: &Common) -> Result<Exit, Failure> {
    let places = Places::here(false).map_err(|why| Failure::new(Exit::Usage, why))?;
    of(common, &places, CLIENTS.iter().collect())
}

/// Looks at the daemon and these clients, in the user's settings and in the project's.
pub(super) fn of(common: &Common, places: &Places, clients: Vec<&Client>) -> Result<Exit, Failure> {
    let mut findings = vec![Finding::of("daemon", daemon(common))];
    let project = Places::here(true).ok().filter(|project| project.project.as_deref() != Some(&places.home));
    let places: Vec<&Places> = std::iter::once(places).chain(&project).collect();
    let words = clients.iter().map(|client| client.word).collect::<Vec<_>>().join(",");
    let installed: Vec<Vec<Finding>> = clients.iter().filter_map(|client| looked_at(client, &places)).collect();
    let is_anything = !installed.is_empty();
    findings.extend(installed.into_iter().flatten());
    if !is_anything {
        let said = format!("nothing is installed for any of them; `flockd install --client {words}`");
        findings.push(Finding { what: "coding agents".to_owned(), state: "absent", said });
    }
    let is_well = findings.iter().all(|finding| finding.state != "broken");
    if common.json {
        print::json(&findings);
    } else {
        for Finding { what, state, said } in &findings {
            print::out(&format!("{what:<18} {state:<7} {said}\n"));
        }
    }
    Ok(if is_well && is_anything { Exit::Yes } else { Exit::No })
}

/// Hooks and servers of one client, wherever they are; none if nothing of ours is there.
fn looked_at(client: &Client, places: &[&Places]) -> Option<Vec<Finding>> {
    let mut hooks: Vec<String> = places.iter().flat_map(|places| (client.hooks)(places)).collect();
    hooks.sort();
    hooks.dedup();
    let mut servers: Vec<Value> = places.iter().map(|places| (client.server)(places)).collect();
    servers.retain(|entry| !entry.is_null());
    servers.dedup();
    let (others, servers): (Vec<Value>, Vec<Value>) = servers.into_iter().partition(|entry| !server::is_meant(entry));
    if hooks.is_empty() && servers.is_empty() {
        return None;
    }
    let absent = |what: &str| Finding {
        what: format!("{} {what}", client.word),
        state: "absent",
        // Whoever gave --no-mcp or --no-hooks wanted it so.
        said: format!("not installed; `flockd install --client {}` would add it", client.word),
    };
    let mut findings: Vec<Finding> =
        hooks.iter().map(|hook| Finding::of(format!("{} hook", client.word), tried(client.word, hook))).collect();
    if findings.is_empty() {
        findings.push(absent("hook"));
    }
    match (servers.is_empty(), others.is_empty()) {
        (false, _) => findings.extend(servers.iter().map(|entry| match server::is_off(entry) {
            true => Finding { said: "switched off in its settings".to_owned(), ..absent("mcp") },
            false => Finding::of(format!("{} mcp", client.word), server::tried(entry)),
        })),
        (true, true) => findings.push(absent("mcp")),
        (true, false) => {
            let said = format!("not installed; the entry {SERVER} starts another program than `flockd mcp`");
            findings.push(Finding { said, ..absent("mcp") });
        }
    }
    Some(findings)
}

fn daemon(common: &Common) -> Result<String, String> {
    let home = Home::from_env().map_err(|error| error.0)?;
    let client = common.connect(None, None).map_err(|failure| failure.message)?;
    match client.call(Request::new(Op::Daemon)).map_err(|error| error.to_string())? {
        Answer { ok: Some(Body::Daemon(daemon)), .. } => match daemon.trouble {
            Some(trouble) => Err(trouble),
            None => Ok(format!("process {}, version {}, {}", daemon.pid, daemon.version, home.dir.display())),
        },
        other => Err(format!("an answer of the wrong kind: {other:?}")),
    }
}

/// One agent's edit is let through, another's is refused, and the end of the turn frees it.
fn tried(word: &str, command: &str) -> Result<String, String> {
    let ground = tempfile::Builder::new().prefix("flockd-doctor").tempdir().map_err(|error| error.to_string())?;
    let calls = |event, session| fire(command, &sample(word, event, session, ground.path()));
    let pid = std::process::id();
    let (one, two) = (format!("doctor-{pid}-1"), format!("doctor-{pid}-2"));
    let first = calls(Moment::Edit, &one)?;
    let found = if first.is_refusal() {
        Err(format!("a free file was refused: {}", first.text))
    } else if !first.text.is_empty() {
        Err(first.text)
    } else {
        let second = calls(Moment::Edit, &two)?;
        match second.is_refusal() && second.text.contains(&one) {
            true => Ok("an edit of what another agent holds is refused, and names it"),
            // By its flags, or since the place is not under guard.
            false if command.contains("--mode warn") => Ok("an edit of what another agent holds is told"),
            false => Err(format!("an edit of what another agent holds was let through: {}", second.text)),
        }
    };
    for session in [&one, &two] {
        calls(Moment::End, session)?;
    }
    found.map(str::to_owned)
}

#[derive(Clone, Copy)]
enum Moment {
    Edit,
    End,
}

/// What the client would say.
fn sample(word: &str, moment: Moment, session: &str, dir: &Path) -> Value {
    let file = dir.join("sample").display().to_string();
    let cwd = dir.display().to_string();
    let event = |name: &str| json!({"session_id": session, "cwd": cwd, "hook_event_name": name});
    let with_tool = |name: &str, tool: &str, given: Value| {
        let mut event = event(name);
        event["tool_name"] = tool.into();
        event["tool_input"] = given;
        event
    };
    match (word, moment) {
        ("gemini", Moment::Edit) => with_tool("BeforeTool", "write_file", json!({"file_path": file, "content": ""})),
        ("gemini", Moment::End) => event("SessionEnd"),
        ("openclaw", moment) => json!({
            "openclaw_event": if matches!(moment, Moment::Edit) { "before_tool_call" } else { "session_end" },
            "sessionKey": session, "cwd": cwd, "toolName": "write", "params": {"path": file},
        }),
        ("codex", Moment::Edit) => {
            let patch = format!("*** Begin Patch\n*** Add File: {file}\n+x\n*** End Patch\n");
            with_tool("PreToolUse", "apply_patch", json!({"command": patch}))
        }
        (_, Moment::Edit) => with_tool("PreToolUse", "Write", json!({"file_path": file, "content": ""})),
        (_, Moment::End) => event("SessionEnd"),
    }
}

/// What came of a call.
struct Fired {
    status: i32,
    /// All that was said.
    text: String,
}

impl Fired {
    fn is_refusal(&self) -> bool {
        self.status == 2 || self.text.contains("\"deny\"") || self.text.contains("\"block\":true")
    }
}

/// Calls a command as clients do: by a shell, with the payload on stdin.
fn fire(command: &str, payload: &Value) -> Result<Fired, String> {
    // It tries whether another is refused, so it does not wait for long.
    let command = format!("{command} --wait 0");
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).env_remove("FLOCKD_AGENT").env_remove("FLOCKD_WORKSPACE");
    // Sessions of the samples are agents of their own, also where an agent runs this.
    shell.env("FLOCKD_AGENT_PROGRAMS", "");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = shell.spawn().map_err(|error| format!("sh: {error}"))?;
    let told = running.stdin.take().map(|mut stdin| stdin.write_all(payload.to_string().as_bytes()));
    let done = running.wait_with_output().map_err(|error| error.to_string())?;
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match (done.status.code(), told) {
        (Some(status @ (0 | 2)), _) => Ok(Fired { status, text }),
        (Some(127), _) => Err(format!("there is no such program, so nothing is guarded: {command}; install it again")),
        (status, _) => Err(format!("`{command}` ended with {status:?}, so nothing is guarded: {text}")),
    }
}
